//! Settings of etcd that were changed in the spec: members are restarted with them one at a time, the leader last (design D6, rules 1 and 7). Each is down for
//! a while, so that a quorum must be there without it; and the next one is not touched before the one before is back and well.

use crate::pivot::{CLIENTS_LONGEST_BACKOFF_MS, successor};
use crate::quorum::{is_healthy, may_be_down, voluntary};
use crate::{
    EtcdMember, FAST_LOOK_MS, HoldReason, KeeperView, Observed, Plan, SLOW_LOOK_MS, Seat, SettingsView, Step, WaitFor, grow,
    shrink,
};

/// The next restart, or what it waits for. `None` = all run with what is wanted, or nothing is known of a keeper that is too old.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_outdated = |seat: &&Seat| seat.settings == SettingsView::Outdated;
    if let (Some(_), Some(why)) = (o.seats.iter().find(is_outdated), &o.settings_refused) {
        return Some(Plan::hold(HoldReason::InvalidSpec, why.clone()));
    }
    // What does not run costs nothing: also the way back where a setting was no good.
    if let Some(seat) = o.seats.iter().filter(is_outdated).find(|seat| is_at_rest(seat, members)) {
        return Some(Plan::Do(Step::ApplySettings { node: seat.node.clone() }));
    }
    if o.seats.iter().any(|seat| seat.settings == SettingsView::UnderWay) {
        return Some(Plan::Wait { what: WaitFor::MemberRestart, look_again_ms: FAST_LOOK_MS });
    }
    let outdated = o.seats.iter().filter(is_outdated).filter_map(|seat| Some((seat, grow::listed(seat, members)?)));
    let (seat, member) = outdated.min_by_key(|(seat, member)| (grow::leads(member), &seat.node))?;
    if !members.iter().all(is_healthy) || o.seats.iter().any(|seat| seat.settings == SettingsView::Unknown) {
        return None;
    }
    // What is ordered now is to happen now, and not when its agent is back one day.
    if !grow::answers(o, seat) {
        return Some(Plan::wait(WaitFor::Agents));
    }
    let is_overruled = o.spec.overruled == Some(HoldReason::ToleranceTooLow);
    if !may_be_down(&voluntary(o, members), member.id) && !is_overruled {
        return Some(Plan::hold(
            HoldReason::ToleranceTooLow,
            format!(
                "etcd on {} has to be restarted for what spec.etcd says, and the others are no quorum meanwhile (a member whose node is cordoned or NotReady counts as down): bring the nodes back, or scale to 3 for it, or set spec.etcd back{}",
                seat.node,
                shrink::overrule(HoldReason::ToleranceTooLow)
            ),
        ));
    }
    let others: Vec<&EtcdMember> = members.iter().filter(|m| m.id != member.id && !m.is_learner).collect();
    if grow::leads(member) && !others.is_empty() {
        return Some(match successor(&others) {
            Some(to) => Plan::Do(Step::MoveLeader { from: member.id, to }),
            None => Plan::wait(WaitFor::VotersHealthy),
        });
    }
    // An API server that another member was away from tries it again within gRPC's longest backoff: until then this one may be its only way.
    let is_known = |id| {
        let since = o.seats.iter().find(|s| s.ordered == Some(id)).and_then(|s| s.up_since_ms);
        since.is_some_and(|at| o.now_ms.saturating_sub(at) >= CLIENTS_LONGEST_BACKOFF_MS)
    };
    if !others.is_empty() && !others.iter().any(|m| is_known(m.id)) {
        return Some(Plan::Wait { what: WaitFor::ApiServersReconnect, look_again_ms: SLOW_LOOK_MS });
    }
    Some(Plan::Do(Step::ApplySettings { node: seat.node.clone() }))
}

/// An order that has not been carried out is taken back once another member or a node is no longer well: its agent may come back with it at any time, and
/// that would then be one member too many.
pub(crate) fn call_off(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_open = |seat: &&Seat| seat.settings == SettingsView::UnderWay && seat.keeper == KeeperView::Running;
    let seat = o.seats.iter().find(is_open)?;
    let own = grow::listed(seat, members).filter(|m| is_healthy(m))?;
    let is_overruled = o.spec.overruled == Some(HoldReason::ToleranceTooLow);
    let others = members.iter().filter(|m| m.id != own.id);
    let is_well = others.clone().all(is_healthy) && (is_overruled || may_be_down(&voluntary(o, members), own.id));
    (!is_well).then(|| Plan::Do(Step::CallOffSettings { node: seat.node.clone() }))
}

/// Whether no etcd runs there that could be lost: its keeper says so, and nobody has heard of it.
fn is_at_rest(seat: &Seat, members: &[EtcdMember]) -> bool {
    seat.keeper != KeeperView::Running && !grow::listed(seat, members).is_some_and(is_healthy)
}
