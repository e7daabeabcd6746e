//! Moving the leadership. While it moves, raft drops proposals: a write that comes in that time fails with a timeout. It takes two fsyncs
//! and some round trips, about 3 ms where nothing else is busy, so the moment is chosen with care (design D6, rule 9).

use std::time::Duration;

use etcd_operator_etcd::dial::Endpoint;
use etcd_operator_etcd::ids::MemberId;

use super::act::{Outcome, passing};
use super::memory::Memory;
use super::observe::View;
use super::{ControllerError, etcd};
use crate::clock::{self, Instant};

/// How long to look for a quiet moment.
const QUIET_WITHIN: Duration = Duration::from_secs(10);
/// A moment is quiet right after a proposal, when the last ones were this far apart: the next is then some time off.
const QUIET_GAP: Duration = Duration::from_millis(8);
/// How many gaps in a row must have been that long.
const QUIET_GAPS: u32 = 3;
/// No proposal for this long: nothing is written to this cluster.
const IDLE: Duration = Duration::from_millis(500);
/// Both members must answer this fast meanwhile: on a machine that is busy with something else the transfer takes longer.
const PROMPT: Duration = Duration::from_millis(4);

/// Moves the leadership; the call goes to the leader.
pub(crate) async fn transfer(view: &View, memory: &mut Memory, from: MemberId, to: MemberId) -> Result<Outcome, ControllerError> {
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?;
    let url = |id: MemberId| reading.members.iter().find(|(m, _)| m.id == id).and_then(|(m, _)| m.client_urls.first().cloned());
    let (Some(old), Some(new)) = (url(from), url(to)) else { return Ok(Outcome::NotYet) };
    let (old, new) = (etcd::client(memory, &old).await?, etcd::client(memory, &new).await?);
    let started = clock::instant();
    let moment = clock::within(QUIET_WITHIN, quiet_moment(old.as_ref(), new.as_ref())).await;
    if moment == Some(Moment::Silent) {
        // A successor that has just died would leave the cluster without a leader for an election.
        return Ok(Outcome::NotYet);
    }
    tracing::info!(quiet = moment.is_some(), ms = started.elapsed().as_millis(), "moving the leadership");
    passing("MoveLeader", old.move_leader(to).await)
}

/// Why the search for a moment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Now is one.
    Quiet,
    /// Leader or successor does not answer.
    Silent,
}

/// Returns at a quiet moment, or when one of the two no longer answers.
async fn quiet_moment(leader: &dyn Endpoint, successor: &dyn Endpoint) -> Moment {
    let mut last: Option<(u64, Instant)> = None;
    let mut long_gaps = 0;
    loop {
        let asked = clock::instant();
        let (Ok(status), Ok(_)) = tokio::join!(leader.status(Duration::from_secs(1)), successor.status(Duration::from_secs(1)))
        else {
            return Moment::Silent;
        };
        let now = clock::instant();
        if now - asked > PROMPT {
            long_gaps = 0;
        }
        match last {
            Some((index, at)) if index == status.raft_index => {
                if now - at >= IDLE && now - asked <= PROMPT {
                    return Moment::Quiet;
                }
                continue;
            }
            Some((index, at)) => {
                // Two at once are no gap.
                let is_long = status.raft_index == index + 1 && now - at >= QUIET_GAP;
                long_gaps = if is_long { long_gaps + 1 } else { 0 };
            }
            None => {}
        }
        last = Some((status.raft_index, now));
        if long_gaps >= QUIET_GAPS {
            return Moment::Quiet;
        }
    }
}
