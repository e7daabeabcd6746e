//! A learner that will not become a voter gives up its place (design D6, rule 2). It has no vote, so that its removal costs no tolerance
//! and is no answer to an error: the data is where it was. The seat is then given back (`seats.rs`), and goes to the node whose last eviction
//! is the longest ago: another one, or the same again under a new name and ID if there is none.

use crate::grow::{CAUGHT_UP_ENTRIES, listed};
use crate::{EtcdHealth, EtcdMember, KeeperView, Node, NodeName, Observed, Plan, Seat, Step, quorum};

/// The keeper's words (`keeper/table.rs`) for data that is gone: its ID must never run again, and a new one has nothing to lose.
pub const DATA_IS_GONE: [&str; 3] = ["DataLost", "StateLost", "LogBehind"];
/// The keeper's word for data that etcd does not run on, or that it found to differ from its peers': whose is wrong the other stores show.
pub const DATA_IS_CORRUPT: &str = "DataCorrupt";
/// Evictions of this many patiences ago say nothing about a node any more: an hour by default. Zones count again then.
const LATELY_PATIENCES: u64 = 12;

/// Removes a learner that has made no progress for too long, or whose data is gone. Only on a linearizable list that shows it as a
/// learner, and only if it was told this ID: before that there is nothing to be slow with.
pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let evicted = |seat: &Seat| {
        let member = listed(seat, members).filter(|m| m.is_learner && seat.ordered == Some(m.id))?;
        let goes = is_stalled(o, seat, member) || ((is_gone(seat) || is_corrupt(seat)) && !was_evicted_just_now(o, &seat.node));
        (goes && quorum::may_remove(members, member.id)).then(|| Step::Evict { node: seat.node.clone(), member: member.id })
    };
    o.seats.iter().find_map(evicted).map(Plan::Do)
}

fn is_stalled(o: &Observed, seat: &Seat, member: &EtcdMember) -> bool {
    let is_caught_up = match member.health {
        EtcdHealth::Healthy { lag: (now, _), .. } => now <= CAUGHT_UP_ENTRIES,
        EtcdHealth::Unhealthy | EtcdHealth::Unknown => false,
    };
    !is_caught_up && seat.no_progress_since_ms.is_some_and(|since| o.now_ms.saturating_sub(since) >= o.learner_patience_ms)
}

/// Whether etcd does not run on its data.
pub(crate) fn is_corrupt(seat: &Seat) -> bool {
    matches!(&seat.keeper, KeeperView::Refused { reason, .. } if reason == DATA_IS_CORRUPT)
}

/// There is nothing to wait for: the keeper never starts this ID again. Its other refusals may pass, and get the patience.
pub(crate) fn is_gone(seat: &Seat) -> bool {
    match &seat.keeper {
        KeeperView::Refused { reason, .. } => DATA_IS_GONE.contains(&reason.as_str()),
        KeeperView::NotPrepared { .. } | KeeperView::Waiting { .. } | KeeperView::Running | KeeperView::Stopped => false,
    }
}

/// A disk that loses its data again and again must not make members come and go all the time: once per patience is enough.
fn was_evicted_just_now(o: &Observed, node: &NodeName) -> bool {
    let last = o.nodes.iter().find(|n| n.name == *node).and_then(|n| n.evicted_ms);
    last.is_some_and(|at| o.now_ms.saturating_sub(at) < o.learner_patience_ms)
}

/// Evictions after which the wait for the next try no longer doubles: 64 patiences, some five hours by default.
const MOST_DOUBLINGS: u32 = 6;

/// Whether a node may have a seat again. The first time at once; then after 2, 4, 8 … patiences: each try is a copy of the data on its way, and
/// leaves a directory on the node's disk.
pub(crate) fn may_return(o: &Observed, node: &Node) -> bool {
    node.evicted_ms.is_none_or(|at| o.now_ms.saturating_sub(at) >= wait_ms(node.evictions, o.learner_patience_ms))
}

/// How long a node waits after so many evictions, ms.
#[must_use]
pub fn wait_ms(evictions: u32, patience_ms: u64) -> u64 {
    match evictions.saturating_sub(1).min(MOST_DOUBLINGS) {
        0 => 0,
        doublings => patience_ms.saturating_mul(1 << doublings),
    }
}

/// How well a node may take a seat, by its evictions: never or long ago is best, then the older the better.
pub(crate) fn lately(o: &Observed, node: &Node) -> Option<u64> {
    let limit = o.learner_patience_ms.saturating_mul(LATELY_PATIENCES);
    node.evicted_ms.filter(|at| o.now_ms.saturating_sub(*at) < limit)
}
