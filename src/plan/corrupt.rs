//! Stores that differ. While etcd's alarm CORRUPT is raised it refuses every write, those of the Kubernetes API among them, the operator's own
//! too: nothing here can be announced, recorded or ordered, and what is done must be right whoever does it, and how often. It is pinned to the
//! ID of a member, and taken only where comparing the stores has shown a quorum of equal ones, and another one there, and etcd accuses nobody else.
//! From the disarming on the API is back, and the seat of the member that went is filled anew as any other (`seats.rs`, `grow.rs`).

use crate::quorum::{is_healthy, may_remove, quorum_of};
use crate::{EtcdHealth, EtcdMember, HoldReason, MemberId, Observed, Plan, Step, grow};

/// Whom etcd accuses where it cannot tell whose store is wrong: always before 3.6, and from then on where a member was slow to tell its hash
/// (`server/etcdserver/corrupt.go`).
pub const NOBODY: MemberId = MemberId(0);

/// The members' stores, beside each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stores {
    /// Nobody has looked.
    NotCompared,
    /// They could not be compared.
    Unclear {
        /// Why not.
        why: String,
    },
    /// At one revision.
    Compared {
        /// The most members with equal ones.
        same: Vec<MemberId>,
        /// Those with others.
        other: Vec<MemberId>,
        /// Those that serve nobody: nobody listens at their address, or they have never started.
        down: Vec<MemberId>,
    },
}

/// The next step while the alarm is raised.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let accused = &o.accused;
    if accused.is_empty() {
        return None;
    }
    // The alarm outlives its member.
    let is_listed = |id: &MemberId| members.iter().any(|m| m.id == *id);
    if let Some(gone) = accused.iter().find(|id| **id != NOBODY && !is_listed(id)) {
        return disarm(*gone);
    }
    if o.boot.listed(members).is_some() {
        return held("this is not done by the operator during a pivot", members, accused);
    }
    let (same, other, down) = match &o.stores {
        Stores::NotCompared => return Some(Plan::Do(Step::CompareStores)),
        Stores::Unclear { why } => return held(why, members, accused),
        Stores::Compared { same, other, down } => (same, other, down),
    };
    let voters: Vec<&EtcdMember> = members.iter().filter(|m| !m.is_learner).collect();
    if voters.iter().filter(|m| same.contains(&m.id)).count() < quorum_of(voters.len()) {
        return held("no quorum of the members has equal stores, so nobody can say which one is right", members, accused);
    }
    // By etcd's own comparison with a quorum, or by ours. Whom that one names, and who does not answer now, may answer wrongly again: etcd does not
    // compare at every start, and not where it was compacted meanwhile.
    let is_named =
        |m: &&EtcdMember| accused.contains(&m.id) && (other.contains(&m.id) || (other.is_empty() && !same.contains(&m.id)));
    let is_other = |m: &&EtcdMember| accused.contains(&NOBODY) && other.contains(&m.id);
    if let Some(bad) = members.iter().find(|m| is_named(m) || is_other(m)) {
        return Some(remove(o, members, bad, same));
    }
    if !other.is_empty() {
        let others = list(other);
        return held(&format!("{others} differ from the others, and etcd accuses somebody else"), members, accused);
    }
    let is_settled = |id: &MemberId| same.contains(id) || down.contains(id);
    match accused.iter().find(|id| is_settled(id) || (**id == NOBODY && members.iter().all(|m| is_settled(&m.id)))) {
        Some(harmless) => disarm(*harmless),
        None => held("a member whose store nobody can see may be the wrong one", members, accused),
    }
}

fn remove(o: &Observed, members: &[EtcdMember], bad: &EtcdMember, same: &[MemberId]) -> Plan {
    let Some(seat) = o.seats.iter().find(|s| bad.peer_urls.contains(&s.peer_url)) else {
        return Plan::hold(HoldReason::HashMismatch, by_hand(&format!("{} is none of the operator's members", bad.id), bad.id));
    };
    // It has a vote, and none that anybody should count on.
    let mut seen = members.to_vec();
    seen.iter_mut().filter(|m| m.id == bad.id).for_each(|m| m.health = EtcdHealth::Unhealthy);
    if !bad.is_learner && !may_remove(&seen, bad.id) {
        return Plan::hold(
            HoldReason::ToleranceTooLow,
            format!(
                "the store of {} on {} differs from the others', and removing it would leave too few healthy voters; bring the other unhealthy members back first",
                bad.id, seat.node
            ),
        );
    }
    if !members.iter().any(|m| grow::leads(m) && m.id != bad.id) {
        let heir = members.iter().find(|m| !m.is_learner && is_healthy(m) && same.contains(&m.id));
        return match heir {
            Some(heir) => Plan::Do(Step::MoveLeader { from: bad.id, to: heir.id }),
            None => Plan::wait(crate::WaitFor::VotersHealthy),
        };
    }
    Plan::Do(Step::RemoveCorrupt { node: seat.node.clone(), member: bad.id })
}

fn disarm(member: MemberId) -> Option<Plan> {
    Some(Plan::Do(Step::DisarmCorrupt { member }))
}

fn held(why: &str, members: &[EtcdMember], accused: &[MemberId]) -> Option<Plan> {
    let who = accused.iter().find(|id| **id != NOBODY).or_else(|| members.first().map(|m| &m.id)).copied().unwrap_or(NOBODY);
    Some(Plan::hold(HoldReason::HashMismatch, by_hand(&format!("etcd accuses {}, and {why}", list(accused)), who)))
}

fn by_hand(why: &str, who: MemberId) -> String {
    format!(
        "etcd refuses every write, as it found that the members' stores differ (alarm CORRUPT): {why}; compare them (etcdctl endpoint hashkv --cluster), then etcdctl member remove {who}, or whichever is wrong, and etcdctl alarm disarm"
    )
}

fn list(ids: &[MemberId]) -> String {
    let name = |id: &MemberId| if *id == NOBODY { "nobody in particular".to_owned() } else { id.to_string() };
    ids.iter().map(name).collect::<Vec<_>>().join(", ")
}
