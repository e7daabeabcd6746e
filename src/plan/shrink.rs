//! Fewer members: scaling in, one at a time (design D6, rule 5), and back to boot alone (abort).

use std::cmp::Reverse;

use crate::quorum::{is_healthy, leaves_a_quorum, may_remove, voluntary};
use crate::{
    EtcdMember, FAST_LOOK_MS, HoldReason, NodeName, Observed, Plan, SLOW_LOOK_MS, Seat, Step, WaitFor, grow, heal, ways,
};

/// The annotation of an EtcdCluster that overrules a reason to hold a scaling in.
pub const OVERRULE: &str = "etcd.database.coreos.com/overrule";
/// A voter that has been unhealthy for less than this is looked at again before anything is decided, ms: a missed answer is no death, and who
/// is taken for dead leaves without a drain.
const DOWN_MS: u64 = 10_000;
/// How often a keeper may leave an order to stop unanswered before a human has to look.
const DRAINS: u32 = 3;

/// Scaling in, while there are more members than wanted: a learner first, as it has no vote; then a voter that is down, then one whose node is
/// leaving, then the last follower in the most crowded zone, the leader last.
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
    if ours.iter().any(|(s, m)| missed_an_answer(o, s, m)) {
        return Some(Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: FAST_LOOK_MS * 5 });
    }
    let zone = |node: &NodeName| o.nodes.iter().find(|n| n.name == *node).map(|n| n.zone.as_str());
    let zones: Vec<_> = ours.iter().map(|(seat, _)| zone(&seat.node)).collect();
    let crowd = |seat: &Seat| zones.iter().filter(|z| **z == zone(&seat.node)).count();
    ours.sort_by_key(|(s, m)| (is_healthy(m), !s.is_leaving, grow::leads(m), Reverse(crowd(s)), Reverse(&s.node)));
    let obstacles: Vec<Option<Plan>> = ours.iter().map(|(seat, m)| obstacle(o, members, &ours, seat, m)).collect();
    let chosen = obstacles.iter().position(Option::is_none);
    match chosen.and_then(|index| ours.get(index)) {
        Some((seat, leaves)) => Some(remove(members, seat, leaves)),
        None => obstacles.into_iter().next().flatten(),
    }
}

/// Whether a voter has been unhealthy for a moment only. Of one that its seat was not told nothing is known, nor is anything waited for.
pub(crate) fn missed_an_answer(o: &Observed, seat: &Seat, member: &EtcdMember) -> bool {
    let is_new = seat.down_since_ms.is_none_or(|at| o.now_ms.saturating_sub(at) < DOWN_MS);
    !is_healthy(member) && !member.is_learner && seat.ordered == Some(member.id) && is_new
}

/// A healthy voter whose keeper does not stop it.
fn not_stopped(seat: &Seat, member: &EtcdMember, way_back: &str) -> Option<Plan> {
    (is_healthy(member) && seat.drains_in_vain >= DRAINS).then(|| {
        Plan::hold(
            HoldReason::MemberNotStopped,
            format!(
                "the keeper on {} was told {DRAINS} times to stop {} and did not: do the agent and the kubelet run there? Bring them back, or {way_back}; a restart of the controller has it tried again",
                seat.node, member.id
            ),
        )
    })
}

/// The last step of a removal: nobody goes who leads, or may lead.
fn remove(members: &[EtcdMember], seat: &Seat, leaves: &EtcdMember) -> Plan {
    let stay: Vec<&EtcdMember> = members.iter().filter(|m| m.id != leaves.id && !m.is_learner).collect();
    if grow::leads(leaves) {
        return match crate::pivot::successor(&stay) {
            Some(to) => Plan::Do(Step::MoveLeader { from: leaves.id, to }),
            None => Plan::wait(WaitFor::VotersHealthy),
        };
    }
    // One that did not answer may still lead: only a leader among those that stay proves that its removal ends no leadership.
    if !stay.iter().any(|m| grow::leads(m)) {
        return Plan::wait(WaitFor::VotersHealthy);
    }
    Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: leaves.id })
}

/// The human's last word: it counts while it stands there.
pub(crate) fn overrule(reason: HoldReason) -> String {
    format!("; or overrule this once you know what it costs: annotation {OVERRULE}={reason}")
}

/// Why a voter cannot go.
fn obstacle(
    o: &Observed,
    members: &[EtcdMember],
    ours: &[(&Seat, &EtcdMember)],
    seat: &Seat,
    leaves: &EtcdMember,
) -> Option<Plan> {
    let now = ours.len();
    let seen = voluntary(o, members);
    // What is down already costs nothing by going; what lives must leave enough that nobody is about to take down.
    let is_safe = may_remove(members, leaves.id) && (!is_healthy(leaves) || may_remove(&seen, leaves.id));
    let is_overruled = |reason| o.spec.overruled == Some(reason);
    let is_safe = is_safe || is_overruled(HoldReason::ToleranceTooLow) && leaves_a_quorum(members, leaves.id);
    if !is_safe {
        let down = ours.iter().filter(|(s, m)| !is_healthy(m) || s.is_leaving).map(|(s, _)| s.node.to_string());
        return Some(Plan::hold(
            HoldReason::ToleranceTooLow,
            format!(
                "removing {} on {} would leave too few healthy voters (down, cordoned or NotReady: {}); bring these back, or set spec.size back to {now}{}",
                leaves.id,
                seat.node,
                down.collect::<Vec<_>>().join(", "),
                if leaves_a_quorum(members, leaves.id) { overrule(HoldReason::ToleranceTooLow) } else { String::new() }
            ),
        ));
    }
    let stays = ways::stays(&seen, leaves.id);
    // One on a machine that has been away for as long as it takes to replace it is lost with its member.
    let is_gone = seat.away_since_ms.is_some_and(|at| o.now_ms.saturating_sub(at) >= o.replace_after_ms);
    let needs = |a: &crate::ApiServer| a.lists.contains(&leaves.id) && !(is_gone && a.node == seat.node);
    let lost = o.api_servers.iter().find(|a| needs(a) && !a.lists.iter().any(&stays));
    if let Some(lost) = lost.filter(|_| !is_overruled(HoldReason::ApiServerWouldLoseEtcd)) {
        return Some(Plan::hold(
            HoldReason::ApiServerWouldLoseEtcd,
            format!(
                "the API server on {} lists {} on {} in --etcd-servers, and no healthy member that stays: list all members there and restart it, or set spec.size back to {now}{}",
                lost.node,
                leaves.id,
                seat.node,
                overrule(HoldReason::ApiServerWouldLoseEtcd)
            ),
        ));
    }
    // An API server that a member was away from tries it again within gRPC's longest backoff. Until then it may have no way but the one that leaves.
    if is_healthy(leaves) && !ours.iter().any(|(s, m)| m.id != leaves.id && is_healthy(m) && ways::is_known(o, s)) {
        return Some(Plan::Wait { what: WaitFor::ApiServersReconnect, look_again_ms: SLOW_LOOK_MS });
    }
    not_stopped(seat, leaves, &format!("set spec.size back to {now}"))
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
        if missed_an_answer(o, seat, member) {
            return Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: FAST_LOOK_MS * 5 };
        }
        if let Some(plan) = not_stopped(seat, member, "take selfHosted.abort away") {
            return plan;
        }
    }
    Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: member.id })
}
