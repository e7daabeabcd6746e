//! Learners that get on, and learners that do not (design D6, rule 2): measured in bytes on their node's disk and in entries applied.

use std::time::Duration;

use etcd_operator_api::member::EtcdMember;
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{self as plan, NodeName, Observed, Progress, Sample, Seat};
use kube::ResourceExt;

use super::act::{self, Outcome};
use super::memory::Memory;
use super::observe::View;
use super::{Context, ControllerError, members, readdress, remove};
use crate::clock;

/// How long a learner makes no progress that etcd tells of before its agent is asked for the size of its data, ms. Most have caught up
/// by then, and nothing is written for them.
const ASK_AFTER_MS: u64 = 10_000;
/// How long a learner makes no progress before that is said, ms. Sooner it would be a write for each bit of progress.
const TOLD_AFTER_MS: u64 = 60_000;

/// For the second look at the members.
const LIST_WITHIN: Duration = Duration::from_secs(2);

/// The ID that a seat was told, if etcd lists it as a learner.
fn learner(view: &View, member: &EtcdMember) -> Option<MemberId> {
    let id: MemberId = member.spec.seat.as_ref()?.order.member_id.as_deref()?.parse().ok()?;
    let reading = view.etcd.as_ref().ok()?;
    reading.members.iter().any(|(m, _)| m.id == id && m.is_learner).then_some(id)
}

fn sample(view: &View, memory: &Memory, member: &EtcdMember, id: MemberId) -> Sample {
    let name = member.spec.seat.as_ref().map(|s| s.order.member_name.as_str());
    let data = member.status.as_ref().and_then(|s| s.data.as_ref()).filter(|d| Some(d.member.as_str()) == name);
    let status = view.status_of(id);
    Sample {
        size: data.and_then(|d| u64::try_from(d.mib).ok()),
        applied: status.map(|s| s.applied_index),
        lag: status.and_then(|_| memory.lags.get(&id.0)?.last()).map(|(_, lag)| *lag),
    }
}

/// Whether the agent there knows the question: one of an older version, which offers no keeper either, would let a long transfer look like none.
fn can_measure(member: &EtcdMember) -> bool {
    member.status.as_ref().is_some_and(|s| s.offers.is_some())
}

/// Notes how the learners get on. Without a linearizable list nothing is noted: a break in which they are not counted as slow.
pub(crate) fn note(view: &View, memory: &mut Memory, patience_ms: u64) {
    if view.etcd.is_err() {
        return;
    }
    let samples: Vec<(MemberId, Sample)> = view
        .seats()
        .into_iter()
        .filter(|m| can_measure(m))
        .filter_map(|m| learner(view, m).map(|id| (id, sample(view, memory, m, id))))
        .collect();
    memory.progress.retain(|known, _| samples.iter().any(|(id, _)| id.0 == *known));
    for (id, sample) in samples {
        memory
            .progress
            .entry(id.0)
            .and_modify(|p| p.note(view.now_ms, sample, patience_ms))
            .or_insert_with(|| Progress::begin(view.now_ms, sample));
    }
}

/// Asks for sizes where they are wanted, and only there; forgets the eviction of whoever votes now. Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View, memory: &mut Memory) -> Result<usize, ControllerError> {
    if view.etcd.is_err() {
        return Ok(0);
    }
    let mut written = 0;
    for member in view.seats() {
        let Some(seat) = &member.spec.seat else { continue };
        let learner = learner(view, member);
        let is_behind =
            learner.is_some_and(|id| sample(view, memory, member, id).lag.is_none_or(|lag| lag > plan::CAUGHT_UP_ENTRIES));
        let is_slow = learner.and_then(|id| memory.progress.get(&id.0)).is_some_and(|p| still_ms(view.now_ms, p) >= ASK_AFTER_MS);
        // Once asked it goes on: its answers are progress.
        let measure = is_behind && (is_slow || seat.measure_data);
        if let (true, false, Some(id)) = (measure, seat.measure_data, learner) {
            // What was not measured was not seen, as while the cluster was paused: the count begins with the question.
            memory.progress.insert(id.0, Progress::begin(view.now_ms, sample(view, memory, member, id)));
        }
        let votes = readdress::member_of(view, member).is_some_and(|(m, _)| !m.is_learner);
        let changed = members::change(context, member, |spec| {
            if let Some(seat) = &mut spec.seat {
                seat.measure_data = measure;
            }
            if votes {
                (spec.evicted, spec.evictions) = (None, 0);
            }
        })
        .await?;
        written += usize::from(changed.spec != member.spec);
    }
    Ok(written)
}

fn still_ms(now_ms: u64, progress: &Progress) -> u64 {
    now_ms.saturating_sub(progress.since_ms())
}

/// When a learner of this node was evicted last, ms.
pub(crate) fn evicted_ms(member: &EtcdMember) -> Option<u64> {
    member.spec.evicted.as_deref().and_then(clock::parse_rfc3339)
}

/// Removes a learner that is given up. The node is remembered right before: who dies in between has only counted in vain.
pub(crate) async fn evict(
    context: &Context,
    view: &View,
    memory: &mut Memory,
    node: &NodeName,
    id: MemberId,
) -> Result<Outcome, ControllerError> {
    let Some(member) = view.member_of(&node.0) else { return Err(ControllerError::Object(format!("{node} has no EtcdMember"))) };
    if learner(view, member) != Some(id) {
        return Ok(Outcome::NotYet);
    }
    // MemberRemove does not ask whether it removes a learner: another controller may have promoted it since, or this one stood still.
    let now = act::any_voter(view, memory).await?.member_list(LIST_WITHIN).await?;
    let is_learner = now.members.iter().any(|m| m.id == id && m.is_learner);
    if !is_learner || view.is_stale() {
        return Ok(Outcome::NotYet);
    }
    let patience_ms = context.args.learner_patience_ms();
    // A removal that etcd does not take yet is tried again, and is no further write.
    if evicted_ms(member).is_none_or(|at| view.now_ms.saturating_sub(at) >= patience_ms) {
        let now = clock::rfc3339(view.now_ms);
        members::change(context, member, |spec| {
            spec.evicted = Some(now.clone());
            spec.evictions = spec.evictions.saturating_add(1);
        })
        .await?;
        // That took its time, in which another may have gone on from here.
        if view.is_stale() {
            return Ok(Outcome::NotYet);
        }
    }
    tracing::warn!(node = %node, member = %id, object = %member.name_any(), "the learner is evicted");
    remove::listed(view, memory, id).await
}

/// For the status and the Event.
pub(crate) fn why_evicted(seen: &Observed, node: &NodeName) -> String {
    let seat = seen.seats.iter().find(|s| s.node == *node);
    let why = match seat.map(|s| &s.keeper) {
        Some(plan::KeeperView::Refused { reason, .. }) => format!("its keeper says {reason}"),
        Some(_) | None => {
            // Since when, and not for how long: each other word is a write.
            let since = seat.and_then(|s| s.no_progress_since_ms).map(clock::rfc3339).unwrap_or_default();
            format!("no progress of it was seen since {since}")
        }
    };
    format!(
        "evicting the learner on {node}: {why}; another node takes its place, or the same again if there is none: see to its power, its disk and its way to port 2380 of the others"
    )
}

/// Since when a learner has stood still, once that is worth a word.
pub(crate) fn stands_still(seen: &Observed, seat: &Seat) -> String {
    match seat.no_progress_since_ms {
        Some(since) if seen.now_ms.saturating_sub(since) >= TOLD_AFTER_MS => format!(
            ", no progress was seen since {}: it is evicted at {}",
            clock::rfc3339(since),
            clock::rfc3339(since.saturating_add(seen.learner_patience_ms))
        ),
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use etcd_operator_keeper::table::Reason;

    #[test]
    fn the_words_for_data_that_is_gone_are_the_keepers() {
        let words: Vec<String> = Reason::ALL.iter().map(ToString::to_string).collect();
        for word in etcd_operator_plan::DATA_IS_GONE.into_iter().chain([etcd_operator_plan::DATA_IS_CORRUPT]) {
            assert!(words.contains(&word.to_owned()), "{word}");
        }
    }
}
