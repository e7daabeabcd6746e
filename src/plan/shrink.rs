//! Fewer members: scaling in, one at a time (design D6, rule 5), and back to boot alone (abort).

use std::cmp::Reverse;

use crate::quorum::{is_healthy, may_remove, voluntary};
use crate::{EtcdMember, HoldReason, NodeName, Observed, Plan, Seat, Step, WaitFor, grow, heal};

/// Scaling in, while there are more members than wanted: a learner first, as it has no vote; then a voter that is down, then the last follower
/// in the most crowded zone, the leader last.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let mut ours: Vec<(&Seat, &EtcdMember)> = o.seats.iter().filter_map(|s| grow::listed(s, members).map(|m| (s, m))).collect();
    if ours.len() <= heal::wanted(o, members) {
        return None;
    }
    if let Some((seat, learner)) = ours.iter().find(|(_, m)| m.is_learner) {
        return Some(Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: learner.id }));
    }
    if let Some(plan) = grow::unknown_members(o, members) {
        return Some(plan);
    }
    let seen = voluntary(o, members);
    let is_up = |m: &EtcdMember| seen.iter().any(|s| s.id == m.id && is_healthy(s));
    let zone = |node: &NodeName| o.nodes.iter().find(|n| n.name == *node).map(|n| n.zone.as_str());
    let zones: Vec<_> = ours.iter().map(|(seat, _)| zone(&seat.node)).collect();
    let crowd = |seat: &Seat| zones.iter().filter(|z| **z == zone(&seat.node)).count();
    ours.sort_by_key(|(seat, m)| (is_up(m), grow::leads(m), Reverse(crowd(seat)), Reverse(&seat.node)));
    let (seat, leaves) = ours.first()?;
    let stay: Vec<&EtcdMember> = ours.iter().skip(1).map(|(_, m)| *m).filter(|m| is_up(m)).collect();
    if !may_remove(&seen, leaves.id) {
        let down: Vec<String> = ours.iter().filter(|(_, m)| !is_up(m)).map(|(s, _)| s.node.to_string()).collect();
        return Some(Plan::hold(
            HoldReason::ToleranceTooLow,
            format!(
                "removing {} on {} would leave too few healthy voters (down, cordoned or NotReady: {}); bring these back, or set spec.size back to {}",
                leaves.id,
                seat.node,
                down.join(", "),
                ours.len()
            ),
        ));
    }
    if let Some(plan) = would_lose_etcd(o, seat, leaves, &stay, ours.len()) {
        return Some(plan);
    }
    if grow::leads(leaves) {
        return Some(match crate::pivot::successor(&stay) {
            Some(to) => Plan::Do(Step::MoveLeader { from: leaves.id, to }),
            None => Plan::wait(WaitFor::VotersHealthy),
        });
    }
    // One that did not answer may still lead: only a leader among those that stay proves that its removal ends no leadership.
    if !stay.iter().any(|m| grow::leads(m)) {
        return Some(Plan::wait(WaitFor::VotersHealthy));
    }
    Some(Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: leaves.id }))
}

/// An API server that lists the member, and no healthy one of those that stay.
fn would_lose_etcd(o: &Observed, seat: &Seat, leaves: &EtcdMember, stay: &[&EtcdMember], now: usize) -> Option<Plan> {
    let loses = |lists: &[crate::MemberId]| lists.contains(&leaves.id) && !stay.iter().any(|m| lists.contains(&m.id));
    let lost = o.api_servers.iter().find(|a| loses(&a.lists))?;
    Some(Plan::hold(
        HoldReason::ApiServerWouldLoseEtcd,
        format!(
            "the API server on {} lists {} on {} in --etcd-servers, and no healthy member that stays: list all members there and restart it, or set spec.size back to {now}",
            lost.node, leaves.id, seat.node
        ),
    ))
}

/// Abort: learners first, then voters, the leader last, until only boot is listed; then the seats are given back.
pub(crate) fn back_to_boot(o: &Observed, members: &[EtcdMember]) -> Plan {
    let Some(boot) = o.boot.listed(members) else { return Plan::Done };
    if !is_healthy(boot) {
        return Plan::hold(
            HoldReason::ToleranceTooLow,
            "selfHosted.abort is set, but boot is not healthy: the data is safe with the new members; bring boot back or take abort away",
        );
    }
    let mut listed: Vec<(&Seat, &EtcdMember)> = o.seats.iter().filter_map(|s| grow::listed(s, members).map(|m| (s, m))).collect();
    listed.sort_by_key(|(_, m)| (!m.is_learner, grow::leads(m), is_healthy(m), m.id));
    let Some((seat, member)) = listed.first() else {
        return match o.seats.first() {
            Some(seat) => Plan::Do(Step::Unseat { node: seat.node.clone() }),
            None => Plan::Done,
        };
    };
    if !member.is_learner {
        // A member that did not answer may lead: voters go only once boot says that it does.
        if !grow::leads(boot) {
            let leader = members.iter().find(|m| grow::leads(m));
            return match (leader, crate::pivot::successor(&[boot])) {
                (Some(leader), Some(to)) => Plan::Do(Step::MoveLeader { from: leader.id, to }),
                (Some(_), None) | (None, _) => Plan::wait(WaitFor::VotersHealthy),
            };
        }
        if !may_remove(members, member.id) {
            return Plan::wait(WaitFor::VotersHealthy);
        }
    }
    Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: member.id })
}
