//! Keepers of the operator's own version, after an upgrade of the operator: one seat after the other, last of all concerns.
//!
//! A hand-over takes nothing down: etcd runs on under the new keeper (design D3, F35). If it goes wrong all the same, etcd on that node is
//! restarted. So it is a voluntary step (design D6, rule 7): only while nothing else is wrong or under way, and the next one only after the
//! one before has come to its end. At size 1 it is taken as well: there the keeper would otherwise stay what it was for ever.

use crate::quorum::is_healthy;
use crate::{EtcdMember, HoldReason, KeeperBinary, KeeperView, Observed, Plan, Readiness, SLOW_LOOK_MS, Seat, Step, WaitFor};

/// The next hand-over, or what it waits for, while every member is a healthy voter. `None` = all keepers are what they should be, or nobody can bring others now.
pub(crate) fn plan(o: &Observed) -> Option<Plan> {
    // What failed on one node is not tried on the next.
    if let Some((seat, message)) = o.seats.iter().find_map(|seat| refused(seat).map(|message| (seat, message))) {
        return Some(Plan::hold(
            HoldReason::KeeperHandOverFailed,
            format!(
                "the operator's keeper was refused on {}: {message}; the one before it runs; no other node is tried: install another build of the operator, or have it tried again (runbook KeeperHandOverFailed)",
                seat.node
            ),
        ));
    }
    if o.seats.iter().any(|seat| matches!(seat.binary, KeeperBinary::Ordered | KeeperBinary::HandingOver)) {
        return Some(Plan::Wait { what: WaitFor::KeeperHandOver, look_again_ms: SLOW_LOOK_MS / 10 });
    }
    if !o.seats.iter().all(|seat| is_calm(o, seat)) {
        return None;
    }
    let outdated = o.seats.iter().filter(|seat| seat.binary == KeeperBinary::Outdated).min_by_key(|seat| &seat.node)?;
    Some(Plan::Do(Step::HandOverKeeper { node: outdated.node.clone() }))
}

/// An order that has not been carried out is taken back once a member or a node is no longer well: its agent may come back with it at any time,
/// and if the new keeper then died, that would be one member too many. Its own member does not count: if that is not well, the hand-over may be why,
/// and the order must then stand until the keeper has said how it ended.
pub(crate) fn call_off(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let ordered = o.seats.iter().find(|seat| seat.binary == KeeperBinary::Ordered)?;
    let others = || members.iter().filter(|m| !m.peer_urls.contains(&ordered.peer_url));
    let is_well = others().all(|m| is_healthy(m) && !m.is_learner) && o.seats.iter().all(|seat| stays(o, seat));
    (!is_well).then(|| Plan::Do(Step::CallOffHandOver { node: ordered.node.clone() }))
}

fn refused(seat: &Seat) -> Option<&str> {
    match &seat.binary {
        KeeperBinary::Refused { message } => Some(message),
        KeeperBinary::Unknown
        | KeeperBinary::Current
        | KeeperBinary::Outdated
        | KeeperBinary::Ordered
        | KeeperBinary::HandingOver => None,
    }
}

/// Its etcd runs, on a node that nobody is about to take down.
fn is_calm(o: &Observed, seat: &Seat) -> bool {
    seat.keeper == KeeperView::Running && stays(o, seat)
}

fn stays(o: &Observed, seat: &Seat) -> bool {
    o.nodes.iter().any(|n| n.name == seat.node && n.readiness == Readiness::Ready && !n.cordoned)
}
