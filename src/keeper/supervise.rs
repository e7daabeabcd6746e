//! The loop: load the order, look, decide, act; and again whenever something changes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::KeeperArgs;
use crate::binary::{Hashed, OWN};
use crate::child::{Event, Events, reap_orphans, version};
use crate::clock::now;
use crate::contract::{KEEPER_POD, Order, Paths, Phase};
use crate::disk::{self, ArchiveError};
use crate::files::{StateAtStart, Store, note};
use crate::hand_over::{Meanwhile, Pauses};
use crate::identity;
use crate::lineage::Record;
use crate::look::{Look, look};
use crate::order::{self, Stamp};
use crate::probe::Health;
use crate::render::{EtcdVersion, OLDEST};
use crate::running::Running;
use crate::table::{Decision, Disk, Reason};
use crate::take_over::{Arrival, Standing};

/// The keeper of one member.
pub struct Keeper {
    pub(crate) args: KeeperArgs,
    pub(crate) paths: Paths,
    pub(crate) store: Store,
    pub(crate) health: Arc<Health>,
    pub(crate) events: Events,
    pub(crate) order: Option<Order>,
    pub(crate) version: Option<EtcdVersion>,
    /// A member ID that the order already named when there was no state: it may have run here.
    pub(crate) suspect: Option<String>,
    pub(crate) backoff: Backoff,
    /// This binary, and the one that may be put in its place.
    pub(crate) own: Hashed,
    pub(crate) next: Hashed,
    pub(crate) pauses: Pauses,
    /// Until when this keeper, which another one has handed over to, must run before it is the one that the kubelet starts.
    pub(crate) prove_until: Option<Instant>,
    /// An etcd that ran already when this keeper began.
    adopted: Option<Running>,
    /// Since when no quorum has answered while a recovery, by its ID, was ordered.
    pub(crate) quiet: Option<(String, Instant)>,
    order_stamp: Stamp,
    said: Option<(Phase, Reason)>,
}

/// What comes after a step.
pub enum Next {
    /// Decide again, at once.
    Decide,
    /// Decide again when the order changes or the time is over.
    Idle(Duration),
    /// End the process.
    Exit(ExitCode),
}

/// Pause between starts of an etcd that ends by itself: 1, 2, 4 … seconds.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    joins: u32,
    until: Option<Instant>,
    /// How often in a row etcd said that it cannot run on its data.
    faults: u32,
    /// Until when it is not started beside a quorum for that.
    refused_until: Option<Instant>,
    /// Since when no quorum has answered meanwhile.
    unanswered: Option<Instant>,
}

/// How often etcd must say in a row that it cannot run on its data: once may be a read that failed.
const FAULTS: u32 = 2;
/// How long no quorum must answer before it is started all the same.
const NO_QUORUM: Duration = Duration::from_secs(30);
/// Pause after that: it is for others to say whose data is wrong.
const DATA_AGAIN: Duration = Duration::from_secs(600);

impl Backoff {
    /// etcd ended by itself.
    pub(crate) fn failed(&mut self, limit: Duration) -> Duration {
        let pause = Duration::from_secs(1 << self.failures.min(16)).min(limit);
        self.failures += 1;
        self.until = Some(now() + pause);
        pause
    }
    /// Whether what it said is that it cannot run on its data, and said often enough.
    pub(crate) fn is_fault(&mut self, said: bool) -> bool {
        self.faults = if said { self.faults + 1 } else { 0 };
        let is_fault = self.faults >= FAULTS;
        (self.refused_until, self.unanswered) = (is_fault.then(|| now() + DATA_AGAIN), None);
        is_fault
    }
    /// Whether the last one ended soon after its start, or gave up a join in this keeper's life.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0 || self.joins > 0
    }
    /// etcd gave up its first start, and may try again.
    pub(crate) fn pause_for_join(&mut self, pause: Duration) {
        self.joins += 1;
        self.until = Some(now() + pause);
    }
    /// How often it did.
    pub(crate) fn joins(&self) -> u32 {
        self.joins
    }
    /// The order changed, or etcd ran well.
    pub(crate) fn reset(&mut self) {
        (self.failures, self.until, self.faults, self.refused_until, self.unanswered) = (0, None, 0, None, None);
    }
    fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now())).filter(|left| !left.is_zero())
    }
    /// Whether data that etcd does not run on is left alone: beside a quorum, and while that elects a leader. Where there is none for long it is tried all
    /// the same: it may be all that is left.
    fn refuses(&mut self, reason: Reason) -> bool {
        if self.refused_until.is_none_or(|until| now() >= until) {
            return false;
        }
        if reason == Reason::Listed {
            self.unanswered = None;
            return true;
        }
        now() - *self.unanswered.get_or_insert_with(now) < NO_QUORUM
    }
}

impl Keeper {
    /// Loads the state and starts answering probes.
    ///
    /// # Errors
    /// When signal handlers or the probe's thread cannot be had.
    pub fn new(args: KeeperArgs) -> std::io::Result<Self> {
        let events = Events::listen()?;
        let paths = Paths { dir: args.dir.clone(), data: args.data.clone() };
        let health = Arc::new(Health::default());
        let (mut store, at_start) = Store::load(paths.state());
        let arrival = Arrival::look(&args, &paths, &mut store, at_start);
        store.state.pod = std::env::var(KEEPER_POD).ok();
        crate::probe::serve(args.probe_port, arrival.listening, Arc::clone(&health))?;
        let prove_until = match arrival.standing {
            Standing::Kept => None,
            Standing::New => Some(now() + args.timing.prove),
        };
        let next = Hashed::new(paths.keeper_next());
        let mut keeper = Self {
            args,
            paths,
            store,
            health,
            events,
            order: None,
            version: None,
            suspect: None,
            backoff: Backoff::default(),
            own: Hashed::new(OWN.into()),
            next,
            pauses: Pauses::default(),
            prove_until,
            adopted: None,
            quiet: None,
            order_stamp: None,
            said: None,
        };
        keeper.load_order();
        keeper.suspect(at_start);
        match arrival.adopted {
            Some(adopted) => keeper.adopted = Some(keeper.go_on(adopted)),
            // Whoever reads the state must not take the last keeper's words for this one's.
            None => keeper.publish(Phase::Deciding, Reason::KeeperStarted, ""),
        }
        Ok(keeper)
    }

    /// Without a state nobody knows whether the member that the order names ran here: written down as if it had, for good. (The
    /// controller adds a member only after it has seen the keeper's state.)
    fn suspect(&mut self, at_start: StateAtStart) {
        // Nor is anything permitted before: what is there already was used.
        if let (StateAtStart::Lost, Some(permission)) =
            (at_start, self.order.as_ref().and_then(|order| order.permission.as_ref()))
        {
            tracing::warn!(
                permission = permission.id,
                "there is no state, but the order holds a permission: it may have been used here"
            );
            let id = permission.id.clone();
            note(&mut self.store.state.consumed, &id);
        }
        let identity = self.order.as_ref().and_then(|order| identity::newest(order, &self.store.state));
        if let (StateAtStart::Lost, Some(owner)) = (at_start, identity) {
            let id = owner.member.to_string();
            tracing::warn!(member = id, "there is no state, but the order names a member: it may have run here");
            note(&mut self.store.state.ran_here, &id);
            self.suspect = Some(id);
        }
    }

    /// Runs until it is told to end.
    pub async fn run(&mut self) -> ExitCode {
        loop {
            let next = match self.adopted.take() {
                Some(running) => self.supervise_etcd(running).await,
                None => self.step().await,
            };
            let pause = match next {
                Next::Decide => continue,
                Next::Idle(pause) => pause,
                Next::Exit(code) => return code,
            };
            if self.idle(pause).await == Woken::Terminated {
                return self.terminated();
            }
        }
    }

    pub(crate) fn terminated(&mut self) -> ExitCode {
        self.leave_unproven();
        self.publish(Phase::Stopped, Reason::Terminated, "");
        ExitCode::SUCCESS
    }

    async fn step(&mut self) -> Next {
        self.load_order();
        let order = self.order.clone();
        // At once, as a cold start has no time to lose.
        let (image, look) = tokio::join!(
            prove_image(self.version, &self.args.etcd),
            look(&self.paths, &self.store.state, order.as_ref(), self.suspect.as_deref(), &self.args.timing),
        );
        match image {
            Ok(version) => {
                self.version = Some(version);
                self.store.state.etcd_version = Some(version.to_string());
            }
            Err(why) => {
                self.publish(Phase::Waiting, Reason::EtcdNotRunnable, &why);
                return Next::Idle(self.args.timing.decide_again);
            }
        }
        if let Some(members) = &look.members {
            self.remember(members);
        }
        // Saved with what is published below: who said so may not answer any more at the next start.
        if let Some(record) = &look.ended_by {
            self.ended_by(record);
        }
        if let Some(recovery) = self.ordered_recovery()
            && look.facts.disk == Disk::Right
        {
            return self.recover(&recovery, order.as_ref(), &look).await;
        }
        tracing::debug!(facts = ?look.facts, decision = ?look.decision, "decided");
        let again = Next::Idle(self.args.timing.decide_again);
        match (look.decision, order) {
            // Looked at again meanwhile: the others may be gone.
            (Decision::Start(reason), Some(_)) if self.backoff.refuses(reason) => again,
            (Decision::Start(_) | Decision::Join(_) | Decision::Bootstrap(_), Some(order)) => match self.backoff.left() {
                Some(left) => Next::Idle(left),
                None => self.start(&order, &look).await,
            },
            (Decision::Archive(reason), Some(order)) => self.archive(&order, &look, reason),
            (Decision::RecordRemoval(_), Some(_)) => self.record_removal(&look),
            (Decision::Wait(reason), _) => {
                self.publish(Phase::Waiting, reason, &look.detail);
                again
            }
            (Decision::Refuse(reason), _) => {
                // With its message, below, so that it is not started in the next moment in which the others do not answer.
                if look.held.is_some() {
                    self.store.state.held.clone_from(&look.held);
                }
                self.publish(Phase::Refused, reason, &look.detail);
                again
            }
            (Decision::Stop(reason), _) => {
                if reason == Reason::MemberRemoved {
                    self.nothing_left_to_drain();
                }
                self.publish(Phase::Stopped, reason, &look.detail);
                again
            }
            (Decision::AwaitDisk(reason), _) => self.await_disk(reason, &look.detail).await,
            // The table starts and archives by order only.
            (
                Decision::Start(reason)
                | Decision::Join(reason)
                | Decision::Bootstrap(reason)
                | Decision::Archive(reason)
                | Decision::RecordRemoval(reason),
                None,
            ) => {
                self.publish(Phase::Waiting, reason, "there is no order");
                again
            }
        }
    }

    /// Remembers who said that this cluster's life is over.
    pub(crate) fn ended_by(&mut self, record: &Record) {
        let state = &mut self.store.state;
        state.ended_by = Some(record.clone());
        for id in &record.supersedes {
            note(&mut state.ended, id);
        }
    }

    fn record_removal(&mut self, look: &Look) -> Next {
        if let Some(owner) = look.identity {
            tracing::warn!(member = %owner.member, "the cluster does not list this member any more: it never runs again");
            note(&mut self.store.state.removed, &owner.member.to_string());
        }
        // In memory it holds at once; on disk it is tried again with each change.
        self.save("that the member was removed");
        Next::Decide
    }

    fn archive(&mut self, order: &Order, look: &Look, reason: Reason) -> Next {
        self.publish(Phase::Stopped, reason, &look.detail);
        let (reason, why) = match disk::archive(&self.paths, &order.member_name, self.args.archive_limit) {
            Ok(to) => {
                tracing::warn!(to = %to.display(), ?reason, "data moved into the archive");
                if let (Reason::ArchivingRemoved | Reason::Retiring, Some(archive)) = (reason, &order.archive) {
                    note(&mut self.store.state.consumed, &archive.id);
                }
                self.save("that data was archived");
                return Next::Decide;
            }
            Err(error @ ArchiveError::Full { .. }) => (Reason::ArchiveFull, error.to_string()),
            Err(error @ ArchiveError::InUse(_)) => (Reason::DataInUse, error.to_string()),
            Err(error @ ArchiveError::Io { .. }) => (Reason::ArchiveFailed, error.to_string()),
        };
        self.publish(Phase::Refused, reason, &why);
        Next::Idle(self.args.timing.decide_again)
    }

    /// The one wait that ends the container: a mount that comes later is not seen through the bind mount that the container has.
    async fn await_disk(&mut self, reason: Reason, detail: &str) -> Next {
        self.publish(Phase::Waiting, reason, detail);
        let until = now() + self.args.timing.disk_wait;
        loop {
            match self.events.next(until.min(now() + self.args.timing.decide_again)).await {
                Event::Terminate => return Next::Exit(self.terminated()),
                Event::Child => reap_orphans(),
                Event::Time => {}
            }
            let found = disk::FileSystem::of(&self.paths).ok().flatten();
            if found.is_some_and(|found| self.store.state.file_system.as_deref().is_none_or(|recorded| found.is(recorded))) {
                return Next::Decide;
            }
            if now() >= until {
                tracing::error!(detail, "the data disk is still missing: ending, so that the kubelet mounts it anew");
                return Next::Exit(ExitCode::FAILURE);
            }
        }
    }

    /// Waits for the time to pass or the order to change.
    async fn idle(&mut self, pause: Duration) -> Woken {
        let until = now() + pause;
        loop {
            match self.events.next(until.min(now() + self.args.timing.order_poll)).await {
                Event::Terminate => return Woken::Terminated,
                Event::Child => reap_orphans(),
                Event::Time => {}
            }
            if self.order_changed() {
                self.backoff.reset();
                return Woken::Order;
            }
            if now() >= until {
                return Woken::Time;
            }
            // Not while etcd waits to be started again: a self-check may take longer than that.
            if self.backoff.left().is_none() {
                match self.hand_over(None).await {
                    Meanwhile::Nothing => {}
                    Meanwhile::Terminated => return Woken::Terminated,
                    // There is none.
                    Meanwhile::Ended(_) => return Woken::Time,
                }
            }
        }
    }

    /// Whether the order file is another one than the one last loaded.
    pub(crate) fn order_changed(&self) -> bool {
        order::stamp(&self.paths.order()) != self.order_stamp
    }

    /// Loads the order and notes what came of it. Returns whether another order counts than before.
    pub(crate) fn load_order(&mut self) -> bool {
        let path: PathBuf = self.paths.order();
        // Before reading: a change in between is seen at the next look.
        self.order_stamp = order::stamp(&path);
        let loaded = order::load(&path, &self.store.state);
        let state = &mut self.store.state;
        if let (Some(why), true) = (&loaded.refused, loaded.refused != state.order_refused) {
            tracing::warn!(why, "the order file is not used");
        }
        state.order_refused = loaded.refused;
        let changed = loaded.order != self.order;
        if let (Some(order), None) = (&loaded.order, &state.order_refused) {
            if state.last_order.as_deref() != Some(order) {
                tracing::info!(lineage = order.lineage, sequence = order.sequence, run = ?order.run, "order accepted");
            }
            (state.order_lineage, state.order_sequence) = (order.lineage, order.sequence);
            state.last_order = Some(Box::new(order.clone()));
        }
        self.order = loaded.order;
        changed
    }

    /// Notes what the keeper does: for the state file, the probe and the log.
    pub(crate) fn publish(&mut self, phase: Phase, reason: Reason, detail: &str) {
        let message = match detail {
            "" => reason.message().to_owned(),
            detail => format!("{} ({detail})", reason.message()),
        };
        if self.said != Some((phase, reason)) {
            tracing::info!(?phase, ?reason, message, "keeper");
            self.said = Some((phase, reason));
        }
        self.health.set_text(format!("{phase:?} {reason}: {message}"));
        let state = &mut self.store.state;
        (state.phase, state.reason, state.message) = (phase, reason.to_string(), message);
        self.save("what the keeper does");
    }

    /// Saves the state where that is not a condition of going on. Returns whether it is on disk.
    pub(crate) fn save(&mut self, what: &'static str) -> bool {
        let result = self.store.save();
        if let Err(error) = &result {
            tracing::error!(%error, what, "the state file cannot be written");
        }
        result.is_ok()
    }
}

/// Runs `etcd --version` once. The image of a pod cannot change under it.
async fn prove_image(known: Option<EtcdVersion>, binary: &Path) -> Result<EtcdVersion, String> {
    let version = match known {
        Some(version) => version,
        None => version(binary).await?,
    };
    if version < OLDEST {
        return Err(format!("version {version} is older than {OLDEST}"));
    }
    Ok(version)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Terminated,
    Order,
    Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_anew_after_a_reset() {
        let mut backoff = Backoff::default();
        let limit = Duration::from_secs(30);
        let pauses: Vec<u64> = (0..7).map(|_| backoff.failed(limit).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert!(backoff.left().is_some());
        backoff.reset();
        assert!(backoff.left().is_none());
        assert_eq!(backoff.failed(limit).as_secs(), 1);
    }
}
