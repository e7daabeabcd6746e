//! Voters that do not come back are replaced (design D6, rule 4). Slow, paused or cut off is not dead: what proves a loss is a keeper that says
//! that the data is gone, or a node that has been away for as long as its member.
//!
//! On the same node its peer URL is taken: remove, add a learner, promote. On another one a successor is seated first, and proves its image,
//! certificate and disk. Then the set is kept as long as etcd allows it: add the learner, let it catch up, remove the dead, promote. Beside one of
//! three that is dead etcd takes no learner; there the dead goes first, which costs no tolerance. Each of these is done elsewhere (`seats.rs`,
//! `grow.rs`); here is only what is lost, and when it goes.

use crate::evict::{is_corrupt, is_gone};
use crate::quorum::{is_healthy, may_remove, takes_a_learner};
use crate::{EtcdMember, HoldReason, Observed, Plan, Seat, Step, Stores, WaitFor, grow};

/// Takes what is lost out of the set, where that comes first.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    if let Some(plan) = without_data(o, members) {
        return Some(plan);
    }
    if let Some(step @ Plan::Do(_)) = on_corrupt_data(o, members) {
        return Some(step);
    }
    let (seat, member) = lost(o, members)?;
    let is_in_the_way = !members.iter().any(|m| m.is_learner) && !takes_a_learner(o, members);
    let has_successor = o.seats.iter().any(|s| grow::listed(s, members).is_none() && grow::is_prepared(o, s));
    (is_in_the_way && has_successor).then(|| remove(members, seat, member))
}

/// Removes a voter whose keeper says that its data is gone: it never runs again.
fn without_data(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_lost = |(seat, m): &(&Seat, &EtcdMember)| !is_healthy(m) && seat.ordered == Some(m.id) && is_gone(seat);
    voters(o, members).find(is_lost).map(|(seat, member)| remove(members, seat, member))
}

/// A voter whose etcd does not run on its data, or found that it differs from its peers': it may be a peer's that is wrong. It goes where the
/// stores of all others are equal.
pub(crate) fn on_corrupt_data(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_lost = |(seat, m): &(&Seat, &EtcdMember)| !is_healthy(m) && seat.ordered == Some(m.id) && is_corrupt(seat);
    let (seat, member) = voters(o, members).find(is_lost)?;
    let removal = remove(members, seat, member);
    if !matches!(removal, Plan::Do(_)) {
        return Some(removal);
    }
    let held = |why: &str| {
        Some(Plan::hold(
            HoldReason::HashMismatch,
            format!(
                "etcd on {} does not run on its data, and {why}: it is not replaced, as its data may be the right one; compare the others (etcdctl endpoint hashkv --cluster), then etcdctl member remove {} or whichever is wrong",
                seat.node, member.id
            ),
        ))
    };
    let mut others = members.iter().filter(|m| !m.is_learner && m.id != member.id);
    match &o.stores {
        // It costs the members time, and nothing would come of it.
        _ if !others.all(is_healthy) => held("not all the others answer, so that their stores cannot be compared"),
        Stores::NotCompared => Some(Plan::Do(Step::CompareStores)),
        Stores::Unclear { why } => held(&format!("the others' stores cannot be compared: {why}")),
        Stores::Compared { same, other, .. } => {
            let mut others = members.iter().filter(|m| !m.is_learner && m.id != member.id);
            let are_equal = other.is_empty() && others.all(|m| same.contains(&m.id));
            if are_equal { Some(removal) } else { held("the stores of the others are not seen to be equal") }
        }
    }
}

fn voters<'a>(o: &'a Observed, members: &'a [EtcdMember]) -> impl Iterator<Item = (&'a Seat, &'a EtcdMember)> {
    o.seats.iter().filter_map(|s| Some((s, grow::listed(s, members).filter(|m| !m.is_learner)?)))
}

/// The lost voter that another node is to take over from: down for long enough, and its node away for as long. One at a time.
pub(crate) fn lost<'a>(o: &'a Observed, members: &'a [EtcdMember]) -> Option<(&'a Seat, &'a EtcdMember)> {
    let is_long = |since: Option<u64>| since.is_some_and(|at| o.now_ms.saturating_sub(at) >= o.replace_after_ms);
    let is_lost = |(seat, m): &(&Seat, &EtcdMember)| !is_healthy(m) && is_long(seat.down_since_ms) && is_long(seat.away_since_ms);
    voters(o, members).filter(is_lost).min_by_key(|(seat, _)| &seat.node)
}

/// How many seats there may be: one more than `size` while another node takes over from a lost voter. Of more voters than wanted it goes without
/// a successor.
pub(crate) fn wanted(o: &Observed, members: &[EtcdMember]) -> usize {
    let size = o.spec.size as usize;
    size + usize::from(voters(o, members).count() <= size && lost(o, members).is_some())
}

/// Before a learner is promoted, the lost one goes.
pub(crate) fn make_way(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    lost(o, members).map(|(seat, member)| remove(members, seat, member))
}

/// Nobody can take over: the set works on, with less tolerance.
pub(crate) fn no_node(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let (seat, member) = lost(o, members)?;
    Some(Plan::hold(
        HoldReason::MemberDown,
        format!(
            "{} on {} is down, and its node too, and no other node can take its place (ready, not cordoned, with the labels of spec.pod.nodeSelector and an address that no other member has, not even this one): bring the node back, add one, or lower spec.size",
            member.id, seat.node
        ),
    ))
}

fn remove(members: &[EtcdMember], seat: &Seat, member: &EtcdMember) -> Plan {
    if !may_remove(members, member.id) {
        return Plan::hold(
            HoldReason::ToleranceTooLow,
            format!(
                "{} on {} is lost, and removing it would leave too few healthy voters; bring the other unhealthy members back first",
                member.id, seat.node
            ),
        );
    }
    // It did not answer, and may have led until just now.
    if !members.iter().any(grow::leads) {
        return Plan::wait(WaitFor::VotersHealthy);
    }
    Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: member.id })
}
