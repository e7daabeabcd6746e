//! A recovery that a human orders on the node, where no controller can order anything ([`contract::Recovery`]). It begins a new life of the cluster: a new
//! cluster ID, a higher lineage. The old data stays where it is until the new is whole, then goes into the archive. A power cut in between changes nothing:
//! the file of the human is still there, and the state says how far it was.
//!
//! [`contract::Recovery`]: crate::contract::Recovery

use etcd_operator_etcd::wal::{self, DataDir, Owner};

use crate::contract::{FORMAT, Identity, Order, Phase, Recovery, RecoveryState, RecoveryStep, Run, Source};
use crate::disk::{self, ArchiveError};
use crate::files::{Found, note, read, sync_dir};
use crate::identity;
use crate::look::Look;
use crate::rebuild::Cut;
use crate::running::Running;
use crate::supervise::{Keeper, Next};
use crate::table::{DataFact, IdentityFact, PeersFact, Reason};

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
        let began = self.store.state.recovery.as_ref().filter(|began| began.id == recovery.id).map(|began| began.step);
        let order = match objection(recovery, order, look, self.known_lineage()) {
            Ok(order) => order.clone(),
            Err(why) if began != Some(RecoveryStep::Switching) => {
                self.not_recovered(recovery, &why);
                return Next::Decide;
            }
            // The old data may be in the archive already: back is no way any more.
            Err(why) => match order {
                Some(order) => {
                    tracing::warn!(why, "the recovery goes on all the same: its data was whole before");
                    order.clone()
                }
                None => return self.stuck(&why),
            },
        };
        if recovery.from == Source::Retire {
            return self.begin_life(recovery, &order, None);
        }
        let owner = identity::of_new_cluster(&order.etcd.peer_url, &recovery.id);
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
            if !self.save("that the new data is whole") {
                return self.stuck("the state file cannot be written");
            }
        }
        match self.switch(&order, owner) {
            Ok(()) => self.begin_life(recovery, &order, Some(owner)),
            // Nothing was moved yet.
            Err((why, Place::Old)) => {
                self.not_recovered(recovery, &why);
                Next::Decide
            }
            Err((why, Place::Between)) => self.stuck(&why),
        }
    }

    /// The highest life that this node has seen.
    fn known_lineage(&self) -> u64 {
        let state = &self.store.state;
        let lineages = [state.order_lineage, state.identity.as_ref().map_or(0, |own| own.lineage)];
        lineages.into_iter().max().unwrap_or(0)
    }

    /// Puts the new data in the place of the old.
    fn switch(&mut self, order: &Order, owner: Owner) -> Result<(), (String, Place)> {
        let (new, place) = (self.paths.recovery().join("data"), self.paths.member(&order.member_name));
        if wal::classify(&place).ok() == Some(DataDir::Intact(owner)) {
            return Ok(());
        }
        match wal::classify(&new) {
            Ok(DataDir::Intact(found)) if found == owner => {}
            Ok(found) => {
                let why = format!("{} is not what was made: {found:?}", new.display());
                return Err(match wal::classify(&place) {
                    Ok(DataDir::Empty) | Err(_) => {
                        let archive = self.paths.archive().display().to_string();
                        (
                            format!(
                                "{why}; what was here before is in {archive}: moved back to {}, it is as it was",
                                place.display()
                            ),
                            Place::Between,
                        )
                    }
                    Ok(DataDir::Intact(_) | DataDir::Damaged(_)) => (why, Place::Old),
                });
            }
            Err(error) => return Err((format!("{}: {error}", new.display()), Place::Between)),
        }
        if place.exists() {
            let to = disk::archive(&self.paths, &order.member_name, self.args.archive_limit).map_err(|error| {
                // Another process may end soon.
                let place = if matches!(error, ArchiveError::InUse(_)) { Place::Between } else { Place::Old };
                (format!("the old data cannot be moved into the archive: {error}"), place)
            })?;
            tracing::warn!(to = %to.display(), "the data from before the recovery was moved into the archive");
        }
        std::fs::rename(&new, &place)
            .and_then(|()| sync_dir(&self.paths.data))
            .map_err(|error| (format!("{}: {error}", place.display()), Place::Between))
    }

    /// From here on this node is of the new life: an order of the one before does not count any more.
    fn begin_life(&mut self, recovery: &Recovery, order: &Order, owner: Option<Owner>) -> Next {
        let before = self.store.state.clone();
        let state = &mut self.store.state;
        let old = identity::newest(order, state).map(|old| old.cluster.to_string()).or_else(|| order.cluster_id.clone());
        let new = Order {
            lineage: recovery.lineage,
            sequence: if owner.is_some() { FIRST_SEQUENCE } else { BEFORE_FIRST },
            cluster_id: owner.map(|owner| owner.cluster.to_string()),
            member_id: owner.map(|owner| owner.member.to_string()),
            run: if owner.is_some() { Run::Run } else { Run::Wait },
            ask: Vec::new(),
            permission: None,
            drain: None,
            archive: None,
            retire: false,
            restart: None,
            ..order.clone()
        };
        state.identity = owner.map(|owner| Identity {
            lineage: recovery.lineage,
            sequence: FIRST_SEQUENCE,
            cluster_id: owner.cluster.to_string(),
            member_id: owner.member.to_string(),
            member_name: order.member_name.clone(),
        });
        (state.order_lineage, state.order_sequence) = (new.lineage, new.sequence);
        state.last_order = Some(Box::new(new));
        (state.held, state.marked_as, state.drain, state.ended_by) = (None, None, None, None);
        if owner.is_some() {
            // They are all of the life before.
            state.known_endpoints = Vec::new();
        }
        note(&mut state.consumed, &recovery.id);
        state.recovery = Some(RecoveryState {
            id: recovery.id.clone(),
            lineage: recovery.lineage,
            step: RecoveryStep::Done,
            message: String::new(),
            supersedes: old.into_iter().collect(),
            is_recorded: owner.is_none(),
        });
        if !self.save("that the recovery is done") {
            // Nothing may start before that: at the next start it would be a stranger's data.
            self.store.state = before;
            return self.stuck("the state file cannot be written");
        }
        tracing::warn!(lineage = recovery.lineage, id = recovery.id, "recovered: a new life of the cluster begins");
        self.backoff.reset();
        self.clear_recovery();
        Next::Decide
    }

    /// It is over, and nothing was changed.
    pub(crate) fn not_recovered(&mut self, recovery: &Recovery, why: &str) {
        tracing::error!(why, id = recovery.id, "the recovery that was ordered is not carried out");
        note(&mut self.store.state.consumed, &recovery.id);
        self.note_recovery(recovery, RecoveryStep::Failed, why);
        self.save("that a recovery failed");
        self.clear_recovery();
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
        self.store.state.recovery = Some(RecoveryState {
            id: recovery.id.clone(),
            lineage: recovery.lineage,
            step,
            message: message.to_owned(),
            supersedes: Vec::new(),
            is_recorded: false,
        });
    }

    /// What was made on the way; the members' data is elsewhere.
    fn clear_recovery(&self) {
        match std::fs::remove_dir_all(self.paths.recovery()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.paths.recovery().display(), "what a recovery needed on the way cannot be removed");
            }
            _ => {}
        }
    }

    /// A recovery that the cluster does not know of yet.
    pub(crate) fn unrecorded(&self, running: &Running) -> Option<RecoveryState> {
        let recovery = self.store.state.recovery.as_ref()?;
        let is_open = recovery.step == RecoveryStep::Done && !recovery.is_recorded && running.order.lineage == recovery.lineage;
        is_open.then(|| recovery.clone())
    }

    /// Now it does.
    pub(crate) fn recorded(&mut self) {
        if let Some(recovery) = &mut self.store.state.recovery {
            recovery.is_recorded = true;
        }
        self.save("that the recovery is written down in the cluster");
    }
}

/// Where the data of the member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where it was.
    Old,
    /// It may be in the archive, and the new one beside its place.
    Between,
}

/// The order that is changed by the recovery; or why it is not carried out.
fn objection<'a>(recovery: &Recovery, order: Option<&'a Order>, look: &Look, known: u64) -> Result<&'a Order, String> {
    let Some(order) = order else {
        return Err("no order was ever accepted on this node: it has no member to recover, and no addresses to serve at".into());
    };
    if recovery.lineage <= known {
        return Err(format!(
            "it is of lineage {}, and this node is of {known} already: was it recovered before?",
            recovery.lineage
        ));
    }
    match look.facts.peers {
        PeersFact::NoAnswer => {}
        PeersFact::NotListed | PeersFact::Unstarted | PeersFact::Started => {
            return Err("a quorum of the cluster answers".into());
        }
        PeersFact::Superseded if recovery.from != Source::Retire => {
            return Err(format!("the cluster was recovered on another node already ({})", look.detail));
        }
        PeersFact::Superseded => {}
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if recovery.id.is_empty() || recovery.id.len() > 64 || !recovery.id.bytes().all(plain) {
        return Err("its id must be 1 to 64 letters, digits or dashes".into());
    }
    if let Source::Survivor { member, .. } = &recovery.from {
        if look.facts.identity == IdentityFact::Removed {
            return Err("the member of this node was removed from the cluster: its data is not the cluster's".into());
        }
        let own = look.identity.map(|own| own.member.to_string());
        if look.facts.data != DataFact::Mine || own.as_ref() != Some(member) {
            return Err(format!("the data here is not that of member {member}: {}", look.detail));
        }
    }
    Ok(order)
}
