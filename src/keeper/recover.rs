//! A recovery that a human orders on the node, where no controller can order anything ([`contract::Recovery`]). It begins a new life of the cluster: a new
//! cluster ID, a higher lineage. The old data stays where it is until the new is whole, then goes into the archive. A power cut in between changes nothing:
//! the file of the human is still there, and the state says how far it was.
//!
//! [`contract::Recovery`]: crate::contract::Recovery

use std::time::Duration;

use etcd_operator_etcd::wal::{self, DataDir, Owner};

use crate::binary::boot_id;
use crate::clock::{now, unix_millis};
use crate::contract::{Began, FORMAT, Identity, Order, Phase, Recovery, RecoveryState, RecoveryStep, Run, Source, State};
use crate::disk;
use crate::files::{Found, note, read, sync_dir};
use crate::identity;
use crate::look::Look;
use crate::rebuild::{Cut, DATA, MADE_ON_THE_WAY};
use crate::running::Running;
use crate::supervise::{Keeper, Next};
use crate::table::{Decision, IdentityFact, PeersFact, Reason};

/// How old an order may be when it is begun.
const BEGUN_WITHIN_MS: u64 = 600_000;
/// How soon it is asked again whether there is a quorum after all.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Sequence of the order that a recovered node gives itself: the controller's follow it.
const FIRST_SEQUENCE: u64 = 1;
/// That of a node that waits: any order of the controller's is newer.
const BEFORE_FIRST: u64 = 0;

impl Keeper {
    /// What a human has ordered, and is not done with.
    pub(crate) fn ordered_recovery(&mut self) -> Option<Recovery> {
        let path = self.paths.recovery_order();
        let why = match read::<Recovery>(&path) {
            Found::Missing => return None,
            Found::Whole(recovery) if recovery.format == FORMAT => {
                return Some(recovery).filter(|recovery| !self.store.state.consumed.contains(&recovery.id));
            }
            Found::Whole(recovery) => format!("has format {}; this keeper reads {FORMAT}", recovery.format),
            Found::Unusable(why) => why,
        };
        // As for an order: it counts as if it were not there.
        tracing::debug!(path = %path.display(), why, "the order to recover is not used");
        None
    }

    /// Carries it out, or goes on with it.
    pub(crate) async fn recover(&mut self, recovery: &Recovery, order: Option<&Order>, look: &Look) -> Next {
        if look.decision == Decision::Wait(Reason::DiskUnreadable) {
            // Nobody knows yet what lies here, nor who answers.
            self.publish(Phase::Waiting, Reason::DiskUnreadable, &look.detail);
            return Next::Idle(self.args.timing.decide_again);
        }
        let began = self.began(recovery);
        let is_new = matches!(began, None | Some(RecoveryStep::Waiting));
        let objection = self.objection(recovery, order, look).or_else(|| is_new.then(|| stale(recovery)).flatten());
        let Some(order) = order.cloned() else {
            self.not_recovered(recovery, &objection.unwrap_or_default());
            return Next::Decide;
        };
        let owner = identity::of_new_cluster(&order.etcd.peer_url, &recovery.id);
        // The old data is in the archive, and this is the way on; or there was none.
        let is_between = began == Some(RecoveryStep::Switching) && !self.is_old_there(&order, owner);
        match objection {
            Some(why) if !is_between => {
                self.not_recovered(recovery, &why);
                return Next::Decide;
            }
            // Two lives at once are worse than none here.
            Some(why) if look.members.is_some() => return self.stuck_between(&why),
            Some(why) => tracing::warn!(why, "the recovery goes on all the same: its data was whole before"),
            None => {}
        }
        // Also where it goes on after a power cut, in which all of them start.
        if !is_between && !self.is_quiet(recovery) {
            self.publish(Phase::Waiting, Reason::Recovering, "no quorum answers; it is waited for a little longer");
            return Next::Idle(ASK_AGAIN);
        }
        if recovery.from == Source::Retire {
            return self.begin_life(recovery, &order, None);
        }
        if began != Some(RecoveryStep::Switching) {
            self.note_recovery(recovery, RecoveryStep::Building, "");
            self.publish(Phase::Waiting, Reason::Recovering, "");
            match self.rebuild(recovery, &order, owner).await {
                Ok(()) => {}
                Err(Cut::Terminated) => return Next::Exit(self.terminated()),
                Err(Cut::Failed(why)) => {
                    self.not_recovered(recovery, &why);
                    return Next::Decide;
                }
            }
            self.note_recovery(recovery, RecoveryStep::Switching, "");
            // It took its time: who answers by now?
            return Next::Decide;
        }
        // On the disk before anything is moved.
        if !self.save("that the new data is whole") {
            return self.stuck("the state file cannot be written");
        }
        match self.switch(&order, owner) {
            Ok(()) => self.begin_life(recovery, &order, Some(owner)),
            Err(why) if self.is_old_there(&order, owner) => {
                self.not_recovered(recovery, &why);
                Next::Decide
            }
            Err(why) => self.stuck_between(&why),
        }
    }

    /// How far it is, if it was seen before.
    fn began(&self, recovery: &Recovery) -> Option<RecoveryStep> {
        self.store.state.recovery.as_ref().filter(|began| began.id == recovery.id).map(|began| began.step)
    }

    /// How long no quorum must have answered for it not to be an election.
    pub(crate) fn quiet_for(&self) -> Duration {
        let election = self.order.as_ref().map_or(0, |order| order.etcd.election_ms);
        self.args.timing.quiet.max(Duration::from_millis(u64::from(election)) * 3)
    }

    /// Whether no quorum has answered since the order was seen, for longer than an election takes.
    pub(crate) fn is_quiet(&mut self, recovery: &Recovery) -> bool {
        match &self.quiet {
            Some((id, since)) if *id == recovery.id => since.elapsed() >= self.quiet_for(),
            _ => {
                self.quiet = Some((recovery.id.clone(), now()));
                // Whoever ordered it sees that it was seen.
                if self.began(recovery).is_none() {
                    self.note_recovery(recovery, RecoveryStep::Waiting, "");
                    self.save("that a recovery is ordered");
                }
                false
            }
        }
    }

    /// The highest life that this node was of, or, for one that is begun here, has heard of.
    fn known_lineage(&self, from: &Source) -> u64 {
        let state = &self.store.state;
        let own = state.identity.as_ref().map_or(0, |own| own.lineage);
        let heard_of = state.ended_by.as_ref().filter(|_| *from != Source::Retire);
        state.order_lineage.max(own).max(heard_of.map_or(0, |record| record.lineage))
    }

    /// Whether the data from before is still in its place.
    fn is_old_there(&self, order: &Order, owner: Owner) -> bool {
        match wal::classify(&self.paths.member(&order.member_name)) {
            Ok(DataDir::Intact(found)) => found != owner,
            Ok(DataDir::Damaged(_)) => true,
            Ok(DataDir::Empty) | Err(_) => false,
        }
    }

    /// Puts the new data in the place of the old.
    fn switch(&mut self, order: &Order, owner: Owner) -> Result<(), String> {
        let (new, place) = (self.paths.recovery().join(DATA), self.paths.member(&order.member_name));
        if wal::classify(&place).ok() == Some(DataDir::Intact(owner)) {
            return Ok(());
        }
        match wal::classify(&new) {
            Ok(DataDir::Intact(found)) if found == owner => {}
            Ok(found) => return Err(format!("{} is not what was made: {found:?}", new.display())),
            Err(error) => return Err(format!("{}: {error}", new.display())),
        }
        if place.exists() {
            let to = disk::archive(&self.paths, &order.member_name, self.args.archive_limit)
                .map_err(|error| format!("the old data cannot be moved into the archive: {error}"))?;
            tracing::warn!(to = %to.display(), "the data from before the recovery was moved into the archive");
        }
        std::fs::rename(&new, &place)
            .and_then(|()| sync_dir(&self.paths.data))
            .map_err(|error| format!("{}: {error}", place.display()))
    }

    /// From here on this node is of the new life: an order of the one before does not count any more.
    fn begin_life(&mut self, recovery: &Recovery, order: &Order, owner: Option<Owner>) -> Next {
        let before = self.store.state.clone();
        let state = &mut self.store.state;
        let identity = |owner: Owner, lineage, sequence| Identity {
            lineage,
            sequence,
            cluster_id: owner.cluster.to_string(),
            member_id: owner.member.to_string(),
            member_name: order.member_name.clone(),
        };
        let old = identity::newest(order, state);
        let known = old.map(|old| old.cluster.to_string()).or_else(|| order.cluster_id.clone());
        end(state, known.clone(), owner.is_some());
        let sequence = if owner.is_some() { FIRST_SEQUENCE } else { BEFORE_FIRST };
        let new = Order {
            lineage: recovery.lineage,
            sequence,
            // A node that was retired goes on knowing whom it must not be beside.
            cluster_id: owner.map(|owner| owner.cluster.to_string()).or(known),
            member_id: owner.map(|owner| owner.member.to_string()),
            run: if owner.is_some() { Run::Run } else { Run::Wait },
            ask: if owner.is_some() { Vec::new() } else { order.ask.clone() },
            permission: None,
            drain: None,
            archive: None,
            retire: false,
            restart: None,
            ..order.clone()
        };
        if owner.is_none() {
            state.retired = old.map(|old| identity(old, order.lineage, order.sequence));
        } else {
            state.retired = None;
            state.began = Some(Began { lineage: recovery.lineage, is_recorded: false });
            // They are all of the life before.
            state.known_endpoints = Vec::new();
        }
        state.identity = owner.map(|owner| identity(owner, recovery.lineage, sequence));
        (state.order_lineage, state.order_sequence) = (new.lineage, new.sequence);
        state.last_order = Some(Box::new(new));
        (state.held, state.marked_as, state.drain) = (None, None, None);
        note(&mut state.consumed, &recovery.id);
        self.note_recovery(recovery, RecoveryStep::Done, "");
        if !self.save("that the recovery is done") {
            // Nothing may start before that: at the next start it would be a stranger's data.
            self.store.state = before;
            return self.stuck("the state file cannot be written");
        }
        tracing::warn!(lineage = recovery.lineage, id = recovery.id, "recovered: a new life of the cluster begins");
        self.backoff.reset();
        self.clear_recovery(recovery);
        Next::Decide
    }

    /// It is over, and nothing was changed.
    pub(crate) fn not_recovered(&mut self, recovery: &Recovery, why: &str) {
        tracing::error!(why, id = recovery.id, "the recovery that was ordered is not carried out");
        note(&mut self.store.state.consumed, &recovery.id);
        self.note_recovery(recovery, RecoveryStep::Failed, why);
        self.save("that a recovery failed");
        self.clear_recovery(recovery);
    }

    /// There is no way back by itself.
    fn stuck_between(&mut self, why: &str) -> Next {
        self.stuck(&format!(
            "{why}. What was here before is in {}; once {} is removed, this is given up",
            self.paths.archive().display(),
            self.paths.recovery_order().display()
        ))
    }

    /// Tried again, as nothing else can be done here.
    fn stuck(&mut self, why: &str) -> Next {
        if let Some(recovery) = &mut self.store.state.recovery {
            why.clone_into(&mut recovery.message);
        }
        self.publish(Phase::Waiting, Reason::Recovering, why);
        Next::Idle(self.args.timing.decide_again)
    }

    /// Notes how far it is; saved with whatever is saved next.
    pub(crate) fn note_recovery(&mut self, recovery: &Recovery, step: RecoveryStep, message: &str) {
        self.store.state.recovery =
            Some(RecoveryState { id: recovery.id.clone(), lineage: recovery.lineage, step, message: message.to_owned() });
    }

    /// What was made on the way for this one; the members' data is elsewhere, and the next order's snapshot may be there already.
    fn clear_recovery(&self, recovery: &Recovery) {
        let work = self.paths.recovery();
        let of_it = [self.paths.snapshot_to_recover(&recovery.id)].into_iter();
        for path in of_it.chain(MADE_ON_THE_WAY.iter().map(|name| work.join(name))) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "what a recovery needed on the way cannot be removed");
                }
                _ => {}
            }
        }
        // As long as nothing else is in it.
        let _ = std::fs::remove_dir(work);
    }

    /// The lineage of a life that was begun here, and of which the cluster does not know yet.
    pub(crate) fn unrecorded(&self, running: &Running) -> Option<u64> {
        let began = self.store.state.began.as_ref()?;
        (!began.is_recorded && running.order.lineage == began.lineage).then_some(began.lineage)
    }

    /// Now it does.
    pub(crate) fn recorded(&mut self) {
        if let Some(began) = &mut self.store.state.began {
            began.is_recorded = true;
        }
        self.save("that the recovery is written down in the cluster");
    }

    /// Why a recovery is not carried out.
    fn objection(&self, recovery: &Recovery, order: Option<&Order>, look: &Look) -> Option<String> {
        let Some(order) = order else {
            return Some(
                "no order was ever accepted on this node: it has no member to recover, and no addresses to serve at".into(),
            );
        };
        let known = self.known_lineage(&recovery.from);
        if recovery.lineage <= known {
            return Some(format!(
                "it is of lineage {}, and this node knows of {known} already: was it recovered before?",
                recovery.lineage
            ));
        }
        if order.cluster_id.is_none() && look.identity.is_none() {
            return Some(
                "a member was planned on this node and never added: it does not know of which etcd cluster it is".into(),
            );
        }
        match look.facts.peers {
            PeersFact::NoAnswer => {}
            PeersFact::NotListed | PeersFact::Unstarted | PeersFact::Started => {
                return Some("a quorum of the cluster answers".into());
            }
            PeersFact::Superseded if recovery.from == Source::Retire => {}
            PeersFact::Superseded if recovery.other_is_lost && !look.is_said => {}
            PeersFact::Superseded => {
                return Some(format!("the cluster was recovered on another node already ({})", look.detail));
            }
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if recovery.id.is_empty() || recovery.id.len() > 64 || !recovery.id.bytes().all(plain) {
            return Some("its id must be 1 to 64 letters, digits or dashes".into());
        }
        let retired = retired(&self.store.state);
        match &recovery.from {
            Source::Snapshot => None,
            Source::Retire => retired.map(|_| "this node was retired already".into()),
            Source::Survivor { .. } if look.facts.identity == IdentityFact::Removed => {
                Some("the member of this node was removed from the cluster: its data is not the cluster's".into())
            }
            Source::Survivor { member, .. } => {
                let own = look.identity.or_else(|| identity::of(retired?));
                let found = wal::classify(&self.paths.member(&order.member_name));
                let is_own = own.is_some_and(|own| own.member.to_string() == *member && found.ok() == Some(DataDir::Intact(own)));
                (!is_own).then(|| format!("the data here is not that of member {member}: {}", look.detail))
            }
        }
    }
}

/// Whose data lies on a node that was retired, until an order of the new life comes.
#[must_use]
pub fn retired(state: &State) -> Option<&Identity> {
    let is_open = state.last_order.as_ref().is_some_and(|order| order.sequence == BEFORE_FIRST);
    state.retired.as_ref().filter(|_| is_open)
}

/// Remembers that this node's life is over, and, where another is begun here, the one that it has heard of; those before that were noted when it was.
fn end(state: &mut State, cluster: Option<String>, begins: bool) {
    let heard_of = if begins { state.ended_by.take() } else { None };
    for id in cluster.into_iter().chain(heard_of.map(|record| record.cluster_id)) {
        note(&mut state.ended, &id);
    }
}

/// Why it is not begun any more: whoever ordered it is gone.
fn stale(recovery: &Recovery) -> Option<String> {
    let age = u64::try_from(unix_millis()).unwrap_or(0).saturating_sub(recovery.ordered_ms);
    let is_stale = recovery.boot_id != boot_id() || age > BEGUN_WITHIN_MS;
    is_stale.then(|| "it was ordered on another day, or before this machine was started: look again, and order it anew".into())
}
