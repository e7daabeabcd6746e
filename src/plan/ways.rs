//! The ways that API servers have to etcd while a member is gone, for good or for a moment.

use crate::pivot::CLIENTS_LONGEST_BACKOFF_MS;
use crate::quorum::is_healthy;
use crate::{EtcdMember, MemberId, Observed, Seat};

/// Whether a member serves on without `gone`: `seen` is as a voluntary step has to take the members.
pub(crate) fn stays(seen: &[EtcdMember], gone: MemberId) -> impl Fn(&MemberId) -> bool {
    move |id| *id != gone && seen.iter().any(|m| m.id == *id && is_healthy(m) && !m.is_learner)
}

/// Whether every API server has tried a member since it came: one that it was away from it tries again within gRPC's longest backoff.
pub(crate) fn is_known(o: &Observed, seat: &Seat) -> bool {
    seat.up_since_ms.is_some_and(|at| o.now_ms.saturating_sub(at) >= CLIENTS_LONGEST_BACKOFF_MS)
}
