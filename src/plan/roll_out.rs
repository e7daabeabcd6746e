//! What members run with was changed in the spec (etcd's settings, its image, the pod): they are restarted with it one at a time, the leader last (design D6,
//! rules 1 and 7). Each is down for a while, so that a quorum must be there without it; and the next one is not touched before the one before is back and well.

use crate::pivot::successor;
use crate::quorum::{is_healthy, may_be_down, voluntary};
use crate::{
    Downgrade, EtcdMember, FAST_LOOK_MS, HoldReason, KeeperBinary, KeeperView, MemberId, Observed, Plan, Preparation, Restart,
    RunsWith, SLOW_LOOK_MS, Seat, Step, WaitFor, grow, shrink, ways,
};

/// How long a member may take to be well with another pod, ms; then it gets back the one before. An image is pulled and proven by then.
const WELL_WITHIN_MS: u64 = 300_000;
/// How long the nodes may take to pull an image, and one of them to take a snapshot, ms, before a human is told. It goes on all the same.
const PREPARED_WITHIN_MS: u64 = 300_000;
/// How long an agent may take to bring an order to restart, ms. After that it is taken back: it would come at any time.
const BROUGHT_WITHIN_MS: u64 = 30_000;

/// The next restart, or what it waits for. `None` = all run with what is wanted, or something else comes first.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_outdated = |seat: &&Seat| seat.runs_with == RunsWith::Outdated;
    // Nor is it left where nothing follows: nobody could join for as long.
    let is_idle = o.roll_out_refused.is_some() || o.rolled_back.is_some();
    if o.downgrade == Downgrade::Unwanted || (o.downgrade == Downgrade::Wanted && is_idle) {
        return Some(cancel_downgrade(o));
    }
    if let (Some(_), Some(why)) = (o.seats.iter().find(is_outdated), &o.roll_out_refused) {
        return Some(Plan::hold(HoldReason::InvalidSpec, why.clone()));
    }
    // What does not run costs nothing: also the way back where a setting was no good.
    let is_ready = o.roll_out == Preparation::Ready && o.rolled_back.is_none();
    if let Some(seat) = o.seats.iter().filter(is_outdated).find(|seat| is_ready && is_at_rest(seat, members)) {
        return Some(apply(seat, Restart::WhileQuorum));
    }
    if let Some(wait) = under_way(o) {
        return Some(wait);
    }
    if let (Some(_), Some(what)) = (o.seats.iter().find(is_outdated), &o.rolled_back) {
        return Some(Plan::hold(HoldReason::RollOutFailed, what.clone()));
    }
    let is_busy = |seat: &Seat| seat.runs_with == RunsWith::Unknown || handed_over_first(seat);
    if o.seats.iter().any(is_busy) {
        return None;
    }
    if o.seats.iter().any(|seat| is_outdated(&seat))
        && let Some(plan) = prepare(o)
    {
        return Some(plan);
    }
    // One that is not well comes first: it may be for what it runs with.
    let outdated = o.seats.iter().filter(is_outdated).filter_map(|seat| Some((seat, grow::listed(seat, members)?)));
    let (seat, member) = outdated.min_by_key(|(seat, member)| (is_healthy(member), grow::leads(member), &seat.node))?;
    if members.iter().any(|m| m.id != member.id && !is_healthy(m)) {
        return None;
    }
    // It may have led until just now: a missed answer is no death, and only another leader proves that its restart ends no leadership.
    if shrink::missed_an_answer(o, seat, member) || !is_healthy(member) && !members.iter().any(grow::leads) {
        return Some(Plan::wait(WaitFor::VotersHealthy));
    }
    // What is ordered now is to happen now, and not when its agent is back one day.
    if !grow::answers(o, seat) {
        return Some(Plan::wait(WaitFor::Agents));
    }
    let seen = voluntary(o, members);
    let has_quorum = may_be_down(&seen, member.id);
    if !has_quorum && o.spec.overruled != Some(HoldReason::ToleranceTooLow) {
        return Some(Plan::hold(
            HoldReason::ToleranceTooLow,
            format!(
                "etcd on {} has to be restarted for what the spec says, and the others are no quorum meanwhile (a member whose node is cordoned or NotReady counts as down): bring the nodes back, or scale to 3 for it, or set the spec back{}",
                seat.node,
                shrink::overrule(HoldReason::ToleranceTooLow)
            ),
        ));
    }
    if has_quorum && let Some(plan) = api_servers(o, &seen, seat, member) {
        return Some(plan);
    }
    // Not where nobody would be restarted then. etcd does it once it knows the versions of all.
    if o.roll_out == Preparation::Unconverted {
        let is_known = members.iter().all(is_healthy);
        return Some(if is_known { Plan::Do(Step::EnableDowngrade) } else { Plan::wait(WaitFor::VotersHealthy) });
    }
    let others: Vec<&EtcdMember> = members.iter().filter(|m| m.id != member.id && !m.is_learner).collect();
    if grow::leads(member) && !others.is_empty() {
        return Some(match successor(&others) {
            Some(to) => Plan::Do(Step::MoveLeader { from: member.id, to }),
            None => Plan::wait(WaitFor::VotersHealthy),
        });
    }
    Some(apply(seat, if has_quorum { Restart::WhileQuorum } else { Restart::Overruled }))
}

/// Takes a conversion back. Not while an order to put an older etcd somewhere may still be carried out: the cluster's version goes up again within seconds,
/// and that one would not start.
fn cancel_downgrade(o: &Observed) -> Plan {
    under_way(o).unwrap_or(Plan::Do(Step::CancelDowngrade))
}

/// Before a member joins, a conversion is taken back; it is begun anew once all is well.
pub(crate) fn let_join(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let joins = |s: &Seat| grow::listed(s, members).is_none_or(|m| m.is_learner && !is_healthy(m));
    (o.downgrade != Downgrade::None && o.seats.iter().any(joins)).then(|| cancel_downgrade(o))
}

/// A member that was given another pod, has had its time and is not well gets back the one before. What this observer has not seen itself does not count: right
/// after a power cut all are down. Nor does silence alone: an etcd that runs, as its keeper says, may be cut off from here and no more.
pub(crate) fn take_back(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_over = |at: Option<u64>| at.is_some_and(|at| o.now_ms.saturating_sub(at) > WELL_WITHIN_MS);
    let has_failed = |seat: &&Seat| {
        let is_down = is_over(seat.down_since_ms) && !grow::listed(seat, members).is_some_and(is_healthy);
        let runs = seat.keeper == KeeperView::Running;
        seat.may_go_back && is_over(seat.replaced_ms) && is_down && !runs && grow::answers(o, seat)
    };
    o.seats.iter().find(has_failed).map(|seat| Plan::Do(Step::RollBack { node: seat.node.clone() }))
}

/// A keeper of another version may not know what it is to say: it is handed over first.
fn handed_over_first(seat: &Seat) -> bool {
    matches!(seat.binary, KeeperBinary::Outdated | KeeperBinary::Ordered | KeeperBinary::HandingOver)
}

/// What must be there before the first restart.
fn prepare(o: &Observed) -> Option<Plan> {
    let hold = |what: &str| {
        let next_step =
            format!("{what}; no member is restarted before that: mend it (runbook RollOutNotPrepared), or set the spec back");
        Some(Plan::hold(HoldReason::RollOutNotPrepared, next_step))
    };
    match &o.roll_out {
        // The last of it, below.
        Preparation::Ready | Preparation::Unconverted => None,
        Preparation::NotAsked => Some(Plan::Do(Step::PrepareRollOut)),
        Preparation::Failed { why } => hold(why),
        Preparation::Pending { missing, since_ms } if o.now_ms.saturating_sub(*since_ms) > PREPARED_WITHIN_MS => hold(missing),
        Preparation::Pending { .. } => Some(Plan::Wait { what: WaitFor::RollOutPrepared, look_again_ms: SLOW_LOOK_MS / 5 }),
    }
}

/// One that is ordered comes to its end first.
fn under_way(o: &Observed) -> Option<Plan> {
    let open = || o.seats.iter().filter(|seat| seat.runs_with == RunsWith::UnderWay);
    open().next()?;
    let since = |seat: &Seat| seat.replaced_ms.or(seat.restart_ordered_ms);
    if let Some(seat) = open().find(|seat| since(seat).is_some_and(|at| o.now_ms.saturating_sub(at) > 2 * WELL_WITHIN_MS)) {
        return Some(Plan::hold(
            HoldReason::RollOutFailed,
            format!(
                "etcd on {} was to be restarted more than 10 min ago and is not done with it: its agent or its kubelet has not carried that out, or it has not been well since, and what it had before cannot be put back or its keeper says that etcd runs: see spec.seat, status.pod and status.problemMessage of its EtcdMember, and the pod's events and log on that node; set what the spec says of the pod to something with which it comes up",
                seat.node
            ),
        ));
    }
    // One that an agent does not bring may take for ever.
    let is_new = |seat: &Seat| seat.restart_ordered_ms.is_some_and(|at| o.now_ms.saturating_sub(at) <= BROUGHT_WITHIN_MS);
    let look_again_ms = if open().any(is_new) { FAST_LOOK_MS } else { SLOW_LOOK_MS / 5 };
    Some(Plan::Wait { what: WaitFor::MemberRestart, look_again_ms })
}

/// Keepers that do not say what their etcd runs with, and that nobody can replace: not all is as wanted.
pub(crate) fn left(o: &Observed) -> Option<Plan> {
    let is_left = o.seats.iter().any(|seat| matches!(seat.runs_with, RunsWith::Unknown | RunsWith::Outdated));
    is_left.then_some(Plan::Wait { what: WaitFor::MemberRestart, look_again_ms: SLOW_LOOK_MS })
}

fn apply(seat: &Seat, restart: Restart) -> Plan {
    Plan::Do(Step::RollOut { node: seat.node.clone(), restart })
}

/// Each API server that lists the member needs another way meanwhile: a healthy one that stays, and that it knows.
fn api_servers(o: &Observed, seen: &[EtcdMember], seat: &Seat, member: &EtcdMember) -> Option<Plan> {
    let stays = ways::stays(seen, member.id);
    let is_known = |id: &MemberId| o.seats.iter().any(|s| s.ordered == Some(*id) && ways::is_known(o, s));
    let listing = || o.api_servers.iter().filter(|a| a.lists.contains(&member.id));
    if let Some(lost) = listing().find(|a| !a.lists.iter().any(&stays))
        && o.spec.overruled != Some(HoldReason::ApiServerWouldLoseEtcd)
    {
        return Some(Plan::hold(
            HoldReason::ApiServerWouldLoseEtcd,
            format!(
                "the API server on {} lists {} on {} in --etcd-servers, and no healthy member that stays while it is restarted for what the spec says: list all members there, or set the spec back{}",
                lost.node,
                member.id,
                seat.node,
                shrink::overrule(HoldReason::ApiServerWouldLoseEtcd)
            ),
        ));
    }
    let has_way = |ids: &[MemberId]| ids.iter().any(|id| stays(id) && is_known(id));
    let all: Vec<MemberId> = seen.iter().map(|m| m.id).collect();
    let lacks_way = listing().any(|a| a.lists.iter().any(&stays) && !has_way(&a.lists));
    (is_healthy(member) && (lacks_way || !has_way(&all)))
        .then_some(Plan::Wait { what: WaitFor::ApiServersReconnect, look_again_ms: SLOW_LOOK_MS })
}

/// An order that has not been carried out is taken back once another member or a node is no longer well, or its agent does not bring it: it may come back
/// with it at any time, and that would then be one member too many.
pub(crate) fn call_off(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_overruled = o.spec.overruled == Some(HoldReason::ToleranceTooLow);
    let is_due = |seat: &&Seat| {
        let is_open = seat.runs_with == RunsWith::UnderWay && !says_that_it_rests(seat);
        let (Some(at), Some(own)) = (seat.restart_ordered_ms, grow::listed(seat, members)) else { return false };
        let mut others = members.iter().filter(|m| m.id != own.id);
        let is_well = others.all(is_healthy) && (is_overruled || may_be_down(&voluntary(o, members), own.id));
        let is_lost = o.now_ms.saturating_sub(at) > BROUGHT_WITHIN_MS && !grow::answers(o, seat);
        is_open && is_healthy(own) && (!is_well || is_lost)
    };
    o.seats.iter().find(is_due).map(|seat| Plan::Do(Step::CallOffRollOut { node: seat.node.clone() }))
}

/// Whether no etcd runs there that could be lost: its keeper says so, and nobody has heard of it.
fn is_at_rest(seat: &Seat, members: &[EtcdMember]) -> bool {
    says_that_it_rests(seat) && !grow::listed(seat, members).is_some_and(is_healthy)
}

fn says_that_it_rests(seat: &Seat) -> bool {
    match seat.keeper {
        KeeperView::Waiting { .. } | KeeperView::Refused { .. } | KeeperView::Stopped => true,
        KeeperView::NotPrepared { .. } | KeeperView::Running => false,
    }
}
