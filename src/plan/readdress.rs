//! A node that has got another address (F21): its member cannot listen at the old one, nor do its peers find it. While the others are a quorum etcd is told
//! the new URL first, and then its keeper: its data is as good as before, so it is not replaced. A learner is: etcd before 3.5.31 and 3.6.12 takes
//! one that is updated for a voter.

use crate::quorum::may_be_down;
use crate::{Address, EtcdHealth, EtcdMember, HoldReason, Observed, Plan, Seat, Step, Tolerance, grow};

/// How long a member must have been silent, ms: an address may be away for a moment, and what answers is left alone.
const DOWN_FOR_MS: u64 = 10_000;

/// Gives the member of such a node its new peer URL, one at a time; a hold where none of them can have its own.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let mut plans: Vec<Plan> = o.seats.iter().filter_map(|seat| one(o, members, seat)).collect();
    plans.sort_by_key(|plan| !matches!(plan, Plan::Do(_)));
    plans.into_iter().next()
}

fn one(o: &Observed, members: &[EtcdMember], seat: &Seat) -> Option<Plan> {
    let own = grow::listed(seat, members).filter(|m| !m.is_learner && seat.ordered == Some(m.id))?;
    let is_long = seat.down_since_ms.is_some_and(|since| o.now_ms.saturating_sub(since) >= DOWN_FOR_MS);
    match &seat.address {
        Address::Right => None,
        // It listens where its order says, or will: nothing is restarted for that.
        Address::Mislisted if Tolerance::of(members) >= Tolerance(0) => Some(step(seat, Some(own))),
        Address::Mislisted => None,
        Address::Moved { to } => {
            // One that answers and is unwell has other troubles.
            let is_away = own.health == EtcdHealth::Unknown && is_long && grow::answers(o, seat);
            (is_away && may_be_down(members, own.id))
                .then(|| taken(o, members, seat, to).unwrap_or_else(|| step(seat, Some(own))))
        }
    }
}

pub(crate) fn step(seat: &Seat, member: Option<&EtcdMember>) -> Plan {
    Plan::Do(Step::Readdress { node: seat.node.clone(), member: member.map(|m| m.id) })
}

/// What is said where the new URL is another member's, or is to be another seat's.
pub(crate) fn taken(o: &Observed, members: &[EtcdMember], seat: &Seat, to: &String) -> Option<Plan> {
    let own = grow::listed(seat, members).map(|m| m.id);
    let of_member = members.iter().find(|m| Some(m.id) != own && m.peer_urls.contains(to)).map(|m| m.id.to_string());
    let of_seat = || o.seats.iter().find(|s| s.node != seat.node && s.peer_url == *to).map(|s| format!("the seat of {}", s.node));
    let whose = of_member.or_else(of_seat)?;
    Some(Plan::hold(
        HoldReason::MemberDown,
        format!(
            "{} has another address now, and {to} is that of {whose}: give that one's node an address of its own, or lower spec.size",
            seat.node
        ),
    ))
}
