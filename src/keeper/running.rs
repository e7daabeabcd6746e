//! While etcd runs: its end, other orders, its readiness, and who the members are.

use std::time::{Duration, Instant};

use etcd_operator_etcd::error::EtcdError;
use etcd_operator_etcd::wal::Owner;
use tokio::task::JoinHandle;

use crate::ask::{self, Answer, Without};
use crate::child::{Ended, Etcd, Event, reap_orphans};
use crate::clock::now;
use crate::contract::{EtcdSettings, Order, Phase, Restart, Run, Unless};
use crate::disk;
use crate::first_start::{FirstStart, Verdict};
use crate::hand_over::Meanwhile;
use crate::identity;
use crate::last_words::{Output, data_fault, last_words};
use crate::lineage::{self, Record};
use crate::mark;
use crate::probe::Readiness;
use crate::ready;
use crate::render::{InitialCheck, Start, flags};
use crate::supervise::{Keeper, Next};
use crate::table::Reason;

/// How long etcd must have run for its end not to count as a failure to start.
const RAN_WELL: Duration = Duration::from_secs(60);
/// How long it holds that the other voters are a quorum: this keeper looks for the answer every [`crate::clock::Timing::order_poll`].
const ANSWER_HOLDS: Duration = Duration::from_millis(500);
/// First pause after a join that etcd gave up before it took part; it doubles.
const JOIN_AGAIN: Duration = Duration::from_millis(250);
/// How often that is tried for one keeper's life: each try leaves an (almost empty) directory in the archive.
const JOINS: u32 = 8;

/// A running etcd and what it was started with.
pub(crate) struct Running {
    pub etcd: Etcd,
    pub order: Order,
    pub owner: Owner,
    /// Its flags as for a start on data: what changes in them needs a restart.
    pub flags: Vec<String>,
    pub first: Option<FirstStart>,
    /// Where it writes to, if not where the keeper does.
    pub output: Option<Output>,
    /// Whether it was ever ready.
    pub was_ready: bool,
}

/// What an order means for the etcd that runs.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Keep,
    Stop(Reason),
    Drain(String),
}

impl Keeper {
    /// Stays with etcd until it has ended.
    pub(crate) async fn supervise_etcd(&mut self, mut running: Running) -> Next {
        let timing = self.args.timing.clone();
        let _readiness = ready::Watch::start(running.order.etcd.metrics_port, timing.ready_poll, self.health.clone());
        let mut members = Rounds::new(timing.members_poll);
        let mut restarts = Rounds::new(timing.decide_again);
        let mut asked_for = None;
        let (mut drains, mut to_drain) = (Rounds::new(timing.decide_again), None);
        // One that is found here may be older than a power cut: nobody may be there to remove this member while it is down.
        let found = self.order.as_ref().and_then(|order| order.drain.as_ref()).map(|drain| drain.id.clone());
        let (mut marks, mut applied) = (Rounds::new(timing.mark), None);
        let (mut records, mut quorum) = (Rounds::new(timing.decide_again), Rounds::new(timing.order_poll * 5));
        let (mut lives, mut alone_since) = (Rounds::new(timing.members_poll), None);
        let mut consider = true;
        // Adopted, it may have ended before this keeper listened for that.
        if let Some(ended) = running.etcd.reap() {
            return self.ended(running, ended);
        }
        loop {
            if consider {
                let wanted = match self.wanted(&running) {
                    Wanted::Keep => None,
                    Wanted::Stop(reason) => return self.stop(&running.etcd, reason).await,
                    Wanted::Drain(id) => Some(id),
                };
                if wanted != to_drain {
                    drains.begin_anew();
                    if self.store.state.message.starts_with(NOT_DRAINED) {
                        self.store.state.message.clear();
                        self.save("that no drain is waited for");
                    }
                    to_drain = wanted;
                }
            }
            if let Some(id) = &to_drain {
                // The order may be old, as after a power cut: the others must do without this member now.
                let without = if found.as_ref() == Some(id) { Without::Down } else { Without::Removed };
                match drains.poll(|| self.ask_others(&running, Some(without))).await {
                    Some((_, at)) if at.elapsed() > ANSWER_HOLDS => drains.begin_anew(),
                    Some((Ok(()), _)) => return self.drain(&running, id).await,
                    Some((Err(why), _)) => self.not_drained(&why),
                    None => {}
                }
            }
            match self.events.next(now() + timing.order_poll).await {
                Event::Terminate => return self.end(&running.etcd).await,
                Event::Child => {
                    if let Some(ended) = running.etcd.reap() {
                        return self.ended(running, ended);
                    }
                }
                Event::Time => {}
            }
            running.was_ready |= self.health.readiness() == Readiness::Ready;
            if let Some(output) = &mut running.output {
                output.pass_on();
            }
            let recovery = self.ordered_recovery();
            let is_quiet = recovery.as_ref().is_some_and(|recovery| self.is_quiet(recovery));
            if recovery.is_some() || alone_since.is_some() {
                // Answered in the name of a quorum, by the members of the cluster or by its only one.
                match quorum.poll(|| self.ask_members(&running)).await {
                    Some(Answer::Members(_)) => {
                        alone_since = None;
                        lives.begin_anew();
                        if let Some(recovery) = &recovery {
                            self.not_recovered(recovery, "a quorum of the cluster answers");
                        }
                    }
                    Some(Answer::Nothing(_)) if is_quiet => return self.stop(&running.etcd, Reason::Recovering).await,
                    Some(Answer::Nothing(_)) | None => {}
                }
            }
            if let Some(lineage) = self.unrecorded(&running) {
                match records.poll(|| self.leave_record(&running, lineage)).await {
                    Some(Ok(())) => self.recorded(),
                    Some(Err(error)) => tracing::debug!(%error, "the recovery is not written down in the cluster yet"),
                    None => {}
                }
            }
            consider = self.order_changed() && {
                let changed = self.load_order();
                self.save("the order");
                changed
            };
            if !consider {
                match self.hand_over(Some(&running)).await {
                    Meanwhile::Nothing => {}
                    Meanwhile::Terminated => return self.end(&running.etcd).await,
                    Meanwhile::Ended(ended) => return self.ended(running, ended),
                }
            }
            let ordered = if to_drain.is_none() { self.ordered_restart(&running) } else { None };
            if ordered.as_ref().map(|restart| &restart.id) != asked_for.as_ref() {
                // An answer to another question says nothing.
                restarts.begin_anew();
                asked_for = ordered.as_ref().map(|restart| restart.id.clone());
            }
            if let Some(restart) = ordered {
                match restarts.poll(|| self.ask_for_restart(&running, restart.unless)).await {
                    // Nor does one that lay about while something else was done here.
                    Some((_, at)) if at.elapsed() > ANSWER_HOLDS => restarts.begin_anew(),
                    Some((Ok(()), _)) => return self.stop(&running.etcd, Reason::SettingsChanged).await,
                    Some((Err(why), _)) => tracing::warn!(why, "etcd is not restarted with other settings yet"),
                    None => {}
                }
            }
            match marks.poll(|| self.leave_mark(&running, applied)).await {
                Some(Ok((index, is_left))) => {
                    if is_left && self.store.state.marked_as.as_ref() != Some(&running.order.etcd.peer_url) {
                        self.store.state.marked_as = Some(running.order.etcd.peer_url.clone());
                        self.save("under which URL its marks are");
                    }
                    // The first mark follows its first sample soon.
                    marks.due = marks.due.min(now() + if applied.is_none() { soon(timing.mark) } else { timing.mark });
                    applied = Some(index);
                }
                Some(Err(error)) => tracing::debug!(%error, "no mark was left"),
                None => {}
            }
            match members.poll(|| self.ask_members(&running)).await {
                Some(Answer::Members(answer)) => {
                    alone_since = None;
                    self.remember(&answer);
                    self.save("the members' endpoints");
                    if !answer.members.iter().any(|m| m.id == running.owner.member) {
                        tracing::warn!("the cluster does not list this member any more, and its etcd has not noticed");
                        return self.stop(&running.etcd, Reason::MemberRemoved).await;
                    }
                }
                Some(Answer::Nothing(_)) => {
                    alone_since.get_or_insert_with(now);
                }
                None => {}
            }
            // Without a quorum it serves nobody, and with another one of before it would: has the cluster been recovered elsewhere?
            if alone_since.is_some_and(|since| now() - since >= self.quiet_for())
                && let Some(Some(record)) = lives.poll(|| self.ask_life(&running)).await
                && matches!(self.ask_members(&running).await, Ok(Answer::Nothing(_)))
            {
                tracing::warn!(
                    lineage = record.lineage,
                    cluster = record.cluster_id,
                    "the cluster was recovered on another node"
                );
                self.ended_by(&record);
                return self.stop(&running.etcd, Reason::Superseded).await;
            }
        }
    }

    fn wanted(&self, running: &Running) -> Wanted {
        let Some(order) = &self.order else { return Wanted::Keep };
        // First, also if it is to stop afterwards: what is being removed ends gently.
        if let Some(drain) = order.drain.as_ref().filter(|d| !self.store.state.consumed.contains(&d.id)) {
            return Wanted::Drain(drain.id.clone());
        }
        match order.run {
            Run::Run => {}
            Run::Wait => return Wanted::Stop(Reason::OrderedToWait),
            Run::Stop => return Wanted::Stop(Reason::OrderedToStop),
        }
        if let Some(owner) = identity::newest(order, &self.store.state).filter(|owner| *owner != running.owner) {
            // A new member comes with a new name. An order that contradicts the data must not end a healthy etcd.
            tracing::error!(ordered = %owner.member, running = %running.owner.member, "the order names another member than the one that runs");
        }
        Wanted::Keep
    }

    /// A restart that is ordered and not done with. Where etcd runs with what it is ordered for, it is.
    fn ordered_restart(&mut self, running: &Running) -> Option<Restart> {
        let restart = self.order.as_ref()?.restart.clone().filter(|restart| !self.store.state.consumed.contains(&restart.id))?;
        let (order, version) = (self.order.clone()?, self.version?);
        if flags(&order, &self.paths, version, &Start::Data(InitialCheck::Off)).ok()? != running.flags {
            return Some(restart);
        }
        self.restarted(&order);
        self.save("that there was nothing to restart etcd for");
        None
    }

    fn ask_for_restart(&self, running: &Running, unless: Unless) -> JoinHandle<(Result<(), String>, Instant)> {
        let without = match unless {
            Unless::Never => None,
            Unless::QuorumLost => Some(Without::Down),
        };
        self.ask_others(running, without)
    }

    fn not_drained(&mut self, why: &str) {
        tracing::warn!(why, "etcd is not drained yet");
        let message = format!("{NOT_DRAINED}: {why}");
        if self.store.state.message != message {
            self.store.state.message = message;
            self.save("why it is not drained");
        }
    }

    /// Whether the others can do without this member, and when that was known.
    fn ask_others(&self, running: &Running, without: Option<Without>) -> JoinHandle<(Result<(), String>, Instant)> {
        let others = ask::others(self.order.as_ref().unwrap_or(&running.order), &self.store.state);
        let (pki, owner, limit) = (self.paths.pki(), running.owner, self.args.timing.ask);
        tokio::spawn(async move {
            let answer = match without {
                None => Ok(()),
                Some(without) => ask::others_are_a_quorum(&pki, &others, owner, without, limit).await,
            };
            (answer, now())
        })
    }

    fn ask_members(&self, running: &Running) -> JoinHandle<Answer> {
        let mut endpoints = ask::others(&running.order, &self.store.state);
        endpoints.push(running.order.etcd.client_url.clone());
        let (pki, cluster, limit) = (self.paths.pki(), running.owner.cluster, self.args.timing.ask);
        tokio::spawn(async move { ask::ask(&pki, &endpoints, cluster, limit).await })
    }

    fn leave_mark(&self, running: &Running, before: Option<u64>) -> JoinHandle<Result<(u64, bool), EtcdError>> {
        let (pki, owner, limit) = (self.paths.pki(), running.owner, self.args.timing.ask);
        let EtcdSettings { client_url, peer_url, .. } = running.order.etcd.clone();
        tokio::spawn(async move { mark::leave(&pki, &client_url, owner, &peer_url, before, limit).await })
    }

    fn leave_record(&self, running: &Running, lineage: u64) -> JoinHandle<Result<(), EtcdError>> {
        let (pki, owner, limit) = (self.paths.pki(), running.owner, self.args.timing.ask);
        let (client_url, ended) = (running.order.etcd.client_url.clone(), self.store.state.ended.clone());
        tokio::spawn(async move { lineage::leave(&pki, &client_url, owner, lineage, &ended, limit).await })
    }

    fn ask_life(&self, running: &Running) -> JoinHandle<Option<Record>> {
        let others = ask::others(&running.order, &self.store.state);
        let (pki, cluster, limit) = (self.paths.pki(), running.owner.cluster, self.args.timing.ask);
        tokio::spawn(async move { lineage::that_ends(&pki, &others, cluster, limit).await })
    }

    /// The keeper was told to end: etcd goes first.
    async fn end(&mut self, etcd: &Etcd) -> Next {
        tracing::info!("told to end: etcd finishes its requests first");
        etcd.terminate();
        self.wait_for_end(etcd, None).await;
        self.store.state.etcd_pid = None;
        Next::Exit(self.terminated())
    }

    /// Ends etcd and decides again.
    async fn stop(&mut self, etcd: &Etcd, reason: Reason) -> Next {
        self.publish(Phase::Running, reason, "stopping etcd");
        etcd.terminate();
        let told = self.wait_for_end(etcd, Some(now() + self.args.timing.stop)).await;
        self.store.state.etcd_pid = None;
        self.backoff.reset();
        match told {
            Told::ToEnd => Next::Exit(self.terminated()),
            Told::Nothing => Next::Decide,
        }
    }

    /// Waits until etcd has ended; kills it at `limit`.
    pub(crate) async fn wait_for_end(&mut self, etcd: &Etcd, limit: Option<Instant>) -> Told {
        let mut told = Told::Nothing;
        let mut limit = limit;
        loop {
            let far = now() + Duration::from_secs(3600);
            match self.events.next(limit.unwrap_or(far)).await {
                Event::Terminate => told = Told::ToEnd,
                Event::Child => {
                    if etcd.reap().is_some() {
                        return told;
                    }
                }
                Event::Time => {
                    if limit.take().is_some() {
                        tracing::warn!(pid = etcd.pid(), "etcd has not ended in time: killed");
                        etcd.kill();
                    }
                }
            }
        }
    }

    /// etcd ended by itself: never just started again, the table decides.
    fn ended(&mut self, mut running: Running, ended: Ended) -> Next {
        reap_orphans();
        self.store.state.etcd_pid = None;
        self.prove_anew();
        let ran = running.etcd.since.elapsed();
        let said = running.output.take().map(Output::ended).unwrap_or_default();
        // A large database takes its time until etcd has looked at it.
        let ran_well = ran >= RAN_WELL && running.was_ready;
        let fault = data_fault(&said);
        let is_fault = self.backoff.is_fault(fault.is_some());
        let words = last_words(&said).map(|words| format!(": {words}")).unwrap_or_default();
        let never = running.first.as_ref().map(FirstStart::verdict) == Some(Verdict::NeverHadLog);
        let is_forgotten = never && self.forget_first_start(&running);
        let pause = if is_forgotten {
            self.backoff.join_again()
        } else if ran_well {
            self.backoff.reset();
            Duration::ZERO
        } else {
            self.backoff.failed(self.args.timing.backoff)
        };
        tracing::error!(%ended, ran_ms = ran.as_millis(), pause_ms = pause.as_millis(), "etcd ended by itself");
        match fault.filter(|_| is_fault && !is_forgotten) {
            Some(fault) => self.publish(Phase::Refused, Reason::DataCorrupt, &format!("{fault}{words}")),
            None => self.publish(Phase::Waiting, Reason::EtcdExited, &format!("{ended} after {} s{words}", ran.as_secs())),
        }
        Next::Decide
    }

    /// etcd gave up before it had a log, so this member never took part in raft and may still join, or begin the cluster that it was permitted to. What
    /// etcd left is moved away first: if anything goes wrong in between, the ID counts as used.
    fn forget_first_start(&mut self, running: &Running) -> bool {
        if self.backoff.joins() >= JOINS {
            return false;
        }
        if let Err(error) = disk::archive(&self.paths, &running.order.member_name, self.args.archive_limit) {
            tracing::warn!(%error, "what etcd left of its first start cannot be moved away");
            return false;
        }
        let id = running.owner.member.to_string();
        let before = self.store.state.clone();
        let state = &mut self.store.state;
        state.ran_here.retain(|ran| *ran != id);
        // What was permitted did not come about.
        if let Some(permission) = running.order.permission.as_ref().filter(|p| state.consumed.contains(&p.id)) {
            state.consumed.retain(|consumed| *consumed != permission.id);
            state.identity = None;
        }
        if !self.save("that a first start came to nothing") {
            self.store.state = before;
            return false;
        }
        tracing::warn!(
            member = id,
            "etcd gave up its first start before it made a log: this member never took part and may join"
        );
        true
    }
}

/// Whether the keeper was told to end while it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    ToEnd,
}

impl crate::supervise::Backoff {
    fn join_again(&mut self) -> Duration {
        let pause = JOIN_AGAIN.saturating_mul(1 << self.joins().min(8));
        self.pause_for_join(pause);
        pause
    }
}

/// Something that is asked now and then, beside everything else.
/// Begin of what the state says while a drain waits.
const NOT_DRAINED: &str = "not drained yet";

struct Rounds<T> {
    every: Duration,
    due: Instant,
    asking: Option<JoinHandle<T>>,
}

impl<T> Rounds<T> {
    fn new(every: Duration) -> Self {
        // The first time soon: a new member publishes its endpoint, and learns those of the others, within seconds.
        Self { every, due: now() + soon(every), asking: None }
    }

    /// What is under way counts no more; the next round is due at once.
    fn begin_anew(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.due = now();
    }

    async fn poll(&mut self, ask: impl FnOnce() -> JoinHandle<T>) -> Option<T> {
        match self.asking.take() {
            Some(asking) if asking.is_finished() => asking.await.ok(),
            Some(asking) => {
                self.asking = Some(asking);
                None
            }
            None if now() >= self.due => {
                self.due = now() + self.every;
                self.asking = Some(ask());
                None
            }
            None => None,
        }
    }
}

impl<T> Drop for Rounds<T> {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

fn soon(every: Duration) -> Duration {
    every.min(Duration::from_secs(3))
}
