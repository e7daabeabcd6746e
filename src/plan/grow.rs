//! Adding members: one at a time, learner first (design D6, rules 2 and 3).

use crate::quorum::{is_healthy, may_promote, takes_a_learner};
use crate::{
    Address, AgentView, EtcdHealth, EtcdMember, FAST_LOOK_MS, HoldReason, KeeperView, MemberId, Observed, Plan, Seat, Step,
    WaitFor, heal, readdress, seats,
};

/// Entries that a learner may lag behind the leader's commit index and still count as caught up. At 2,000 writes/s this is 50 ms.
pub const CAUGHT_UP_ENTRIES: u64 = 100;

/// When a learner that has caught up may become a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promotion {
    /// At once.
    WhenCaughtUp,
    /// Not in this call: at size 1 the pivot promotes by itself, once the clients are there.
    ByThePivot,
}

/// The next step towards `size` members on our seats. `None` = every seat is a voter (or, with [`Promotion::ByThePivot`], a learner
/// that has caught up).
pub(crate) fn plan(o: &Observed, members: &[EtcdMember], promotion: Promotion) -> Option<Plan> {
    if let Some(plan) = unknown_members(o, members) {
        return Some(plan);
    }
    if let Some(plan) = seats::give_back(o, members) {
        return Some(plan);
    }
    // A learner in flight comes to its end before anything else is begun.
    let (learning, others): (Vec<&Seat>, Vec<&Seat>) =
        o.seats.iter().partition(|s| listed(s, members).is_some_and(|m| m.is_learner));
    if let Some(plan) = learning.into_iter().find_map(|seat| one(o, members, seat, promotion)) {
        return Some(plan);
    }
    if let Some(plan) = seats::assign(o, members) {
        return Some(plan);
    }
    // In a pivot every seat is proven before the first change of the lot; after it one that is not holds up no other.
    let may_join = |s: &Seat| listed(s, members).is_some() || is_prepared(o, s);
    let is_pivot = o.boot.listed(members).is_some();
    let goes_on = !is_pivot && others.iter().any(|s| listed(s, members).is_none() && may_join(s));
    if let Some(plan) = prepared(o, members).filter(|_| !goes_on) {
        return Some(plan);
    }
    let mut seats: Vec<&Seat> = others.into_iter().filter(|s| may_join(s)).collect();
    seats.sort_by_key(|s| (listed(s, members).is_none(), s.node.clone()));
    let mut plans: Vec<Plan> = seats.into_iter().filter_map(|seat| one(o, members, seat, promotion)).collect();
    // One that cannot join holds up no other.
    plans.sort_by_key(|plan| matches!(plan, Plan::Hold { .. }));
    plans.into_iter().next().or_else(|| seats::too_few(o))
}

/// The member of a seat, by its peer URL: names are empty until a member has started.
pub(crate) fn listed<'a>(seat: &Seat, members: &'a [EtcdMember]) -> Option<&'a EtcdMember> {
    members.iter().find(|m| seat.url_of.is_none() && m.peer_urls.contains(&seat.peer_url))
}

/// Whether a member says that it leads.
pub(crate) fn leads(member: &EtcdMember) -> bool {
    matches!(member.health, EtcdHealth::Healthy { is_leader: true, .. })
}

/// Foreign members are reported, never removed; nothing is added beside them, as nobody knows what they are for.
pub(crate) fn unknown_members(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let boot = o.boot.listed(members).map(|m| m.id);
    let foreign: Vec<String> = members
        .iter()
        .filter(|m| Some(m.id) != boot && !o.seats.iter().any(|s| m.peer_urls.contains(&s.peer_url)))
        .map(|m| format!("{} ({})", m.id, m.peer_urls.join(",")))
        .collect();
    if foreign.is_empty() {
        return None;
    }
    Some(Plan::hold(
        HoldReason::UnknownMember,
        format!(
            "etcd lists {} which the operator did not add; it is never removed by itself: remove it with `etcdctl member remove`, or find out who added it",
            foreign.join(", ")
        ),
    ))
}

/// What a seat lacks whose image, certificate and disk are not proven yet.
pub(crate) fn prepared(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    for seat in o.seats.iter().filter(|s| listed(s, members).is_none()) {
        if !answers(o, seat) {
            return Some(Plan::wait(WaitFor::Agents));
        }
        match &seat.keeper {
            KeeperView::NotPrepared { .. } => return Some(Plan::wait(WaitFor::MembersPrepared)),
            KeeperView::Refused { reason, message } => return Some(refused(seat, reason, message)),
            KeeperView::Waiting { .. } | KeeperView::Running | KeeperView::Stopped => {}
        }
    }
    None
}

/// What a silent agent said before may be long past: its node may be off.
pub(crate) fn answers(o: &Observed, seat: &Seat) -> bool {
    let answers = |n: &crate::Node| n.agent == AgentView::Fresh && n.readiness != crate::Readiness::NotReady;
    o.nodes.iter().any(|n| n.name == seat.node && answers(n))
}

/// Whether a learner could be added there now.
pub(crate) fn is_prepared(o: &Observed, seat: &Seat) -> bool {
    answers(o, seat) && !matches!(seat.keeper, KeeperView::NotPrepared { .. } | KeeperView::Refused { .. })
}

/// A member of ours whose keeper must not start it: only a human or a replacement helps.
pub(crate) fn refused_member(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let is_listed = |seat: &&Seat| listed(seat, members).is_some_and(|m| seat.ordered == Some(m.id));
    o.seats.iter().filter(is_listed).find_map(|seat| match &seat.keeper {
        KeeperView::Refused { reason, message } => Some(refused(seat, reason, message)),
        KeeperView::NotPrepared { .. } | KeeperView::Waiting { .. } | KeeperView::Running | KeeperView::Stopped => None,
    })
}

pub(crate) fn refused(seat: &Seat, reason: &str, message: &str) -> Plan {
    Plan::hold(HoldReason::MemberRefused, format!("the keeper on {} refuses to start etcd: {reason}: {message}", seat.node))
}

fn one(o: &Observed, members: &[EtcdMember], seat: &Seat, promotion: Promotion) -> Option<Plan> {
    let Some(member) = listed(seat, members) else {
        // One membership change in flight: a learner that waits to be promoted keeps the next one out.
        if members.iter().any(|m| m.is_learner) {
            return None;
        }
        if let Address::Moved { to } = &seat.address {
            return Some(readdress::taken(o, members, seat, to).unwrap_or_else(|| readdress::step(seat, None)));
        }
        // It would be told to run as that member.
        if let Some(other) = seat.url_of {
            return Some(Plan::hold(
                HoldReason::MemberDown,
                format!(
                    "the seat of {} is at {}, which etcd lists for {other} on another node: give each node an address of its own, or lower spec.size",
                    seat.node, seat.peer_url
                ),
            ));
        }
        // It would be refused, again and again.
        if !takes_a_learner(o, members) {
            return Some(Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: FAST_LOOK_MS * 5 });
        }
        return Some(Plan::Do(Step::AddLearner { node: seat.node.clone() }));
    };
    if seat.ordered != Some(member.id) {
        return Some(Plan::Do(Step::StartMember { node: seat.node.clone(), member: member.id }));
    }
    if !member.is_learner {
        return None;
    }
    match caught_up(seat, member) {
        Err(plan) => Some(plan),
        Ok(()) => match promotion {
            Promotion::WhenCaughtUp => Some(heal::make_way(o, members).unwrap_or_else(|| promote(o, members, seat, member.id))),
            Promotion::ByThePivot => None,
        },
    }
}

fn caught_up(seat: &Seat, member: &EtcdMember) -> Result<(), Plan> {
    match &seat.keeper {
        KeeperView::Refused { reason, message } => return Err(refused(seat, reason, message)),
        KeeperView::NotPrepared { .. } | KeeperView::Waiting { .. } | KeeperView::Running | KeeperView::Stopped => {}
    }
    match member.health {
        EtcdHealth::Unknown | EtcdHealth::Unhealthy => Err(Plan::wait(WaitFor::LearnerStarts)),
        EtcdHealth::Healthy { lag: (now, Some(before)), .. } if now <= CAUGHT_UP_ENTRIES && before <= CAUGHT_UP_ENTRIES => Ok(()),
        EtcdHealth::Healthy { .. } => Err(Plan::wait(WaitFor::LearnerCatchesUp)),
    }
}

/// Promotes if all voters that will remain are healthy, and the set may have one voter more.
pub(crate) fn promote(o: &Observed, members: &[EtcdMember], seat: &Seat, id: MemberId) -> Plan {
    let boot = o.boot.listed(members).map(|m| m.id);
    let remaining_healthy = members.iter().filter(|m| !m.is_learner && Some(m.id) != boot).all(is_healthy);
    if !remaining_healthy {
        return Plan::wait(WaitFor::VotersHealthy);
    }
    if !may_promote(members, id) {
        return Plan::hold(
            HoldReason::ToleranceTooLow,
            format!("promoting {id} on {} would leave too few healthy voters; bring the unhealthy members back first", seat.node),
        );
    }
    Plan::Do(Step::Promote { node: seat.node.clone(), member: id })
}
