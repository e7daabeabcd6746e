//! Fewer members: back to boot alone (abort), and a learner that is no longer wanted. Scaling in after the pivot is not built yet, and
//! says so.

use crate::quorum::is_healthy;
use crate::{EtcdMember, HoldReason, Observed, Plan, Seat, Step, WaitFor, grow};

/// Scaling in: held, not ignored. Only a learner goes, as it has no vote: the size was lowered again before it was promoted.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let ours: Vec<(&Seat, &EtcdMember)> = o.seats.iter().filter_map(|s| grow::listed(s, members).map(|m| (s, m))).collect();
    if ours.len() <= o.spec.size as usize {
        return None;
    }
    if let Some((seat, learner)) = ours.iter().find(|(_, m)| m.is_learner) {
        return Some(Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: learner.id }));
    }
    let ours = ours.len();
    Some(Plan::hold(
        HoldReason::ScaleDownUnsupported,
        format!(
            "etcd has {ours} members and spec.size is {}; this version only scales out: set spec.size back to {ours}",
            o.spec.size
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
        if !crate::quorum::may_remove(members, member.id) {
            return Plan::wait(WaitFor::VotersHealthy);
        }
    }
    Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: member.id })
}
