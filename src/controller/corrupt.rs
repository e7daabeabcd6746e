//! While etcd's alarm CORRUPT is raised it refuses every write: no intent, no order, no status and no Lease can be written, and a controller that
//! waited for one would wait for a human. What the planner then asks for (`plan/corrupt.rs`) goes to etcd alone, by whoever has it in sight: the
//! leader, and where its Lease cannot be renewed for that very reason, every replica.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use etcd_operator_etcd::client::{HashKv, Member, MemberStatus};
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{self as plan, Observed, Plan, Step, Stores};

use super::act::Outcome;
use super::etcd::{self, Reading};
use super::memory::Memory;
use super::observe::{View, observed};
use super::{Context, ControllerError, figures, members, pass, status};
use crate::clock;
use crate::telemetry::metrics;

/// What etcd, and the API with its words, answers to a write (`rpctypes.ErrCorrupt`).
const REFUSAL: &str = "etcdserver: corrupt cluster";
/// How long a comparison of the stores counts, ms. While the alarm is raised nobody writes who could be held up.
const COMPARED_MS: u64 = 60_000;
/// The same while writes pass, ms: each costs every member 0.9 s per GB, in which it takes none. One that came to nothing may have met a compaction.
const EQUAL_MS: u64 = 300_000;
const UNCLEAR_MS: u64 = 120_000;
const DIFFERENT_MS: u64 = 1_200_000;
/// How long after the alarm was taken back it is looked for every second, ms: etcd raises it anew each minute until a later compaction.
const RAISED_AGAIN_MS: u64 = 150_000;
/// How long a removal explains an alarm that names nobody, ms.
const EXPLAINS_MS: u64 = 300_000;
/// How soon to look again.
const AGAIN: Duration = Duration::from_secs(1);

/// A comparison of the stores.
pub(crate) struct Compared {
    at_ms: u64,
    /// Of these members.
    ids: Vec<u64>,
    /// Whether etcd's alarm was raised.
    is_alarmed: bool,
    stores: Stores,
}

/// Whether the API refused a write as etcd's alarm is raised.
pub(crate) fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.message.contains(REFUSAL))
}

/// Whom etcd accuses, by what its members say: those that are furthest, as one that is behind tells of what is over.
pub(crate) fn accused(reading: &Reading) -> Vec<plan::MemberId> {
    let known: Vec<&MemberStatus> =
        reading.members.iter().filter_map(|(_, s)| s.as_ref()).filter(|s| s.leader.is_some()).collect();
    let newest = known.iter().map(|s| s.applied_index).max();
    let of_newest = known.iter().filter(|s| Some(s.applied_index) == newest);
    let accused: BTreeSet<MemberId> = of_newest.flat_map(|s| s.accused()).collect();
    accused.into_iter().map(|id| plan::MemberId(id.0)).collect()
}

fn is_alarmed(reading: &Reading) -> bool {
    !accused(reading).is_empty()
}

/// What comparing the stores has shown, as long as it counts.
pub(crate) fn stores(view: &View, memory: &Memory) -> Stores {
    let Ok(reading) = &view.etcd else { return Stores::NotCompared };
    let is_alarmed = is_alarmed(reading);
    let lasts = |stores: &Stores| match stores {
        _ if is_alarmed => COMPARED_MS,
        Stores::Compared { other, .. } if other.is_empty() => EQUAL_MS,
        Stores::Compared { .. } => DIFFERENT_MS,
        Stores::Unclear { .. } | Stores::NotCompared => UNCLEAR_MS,
    };
    let is_of_now = |one: &&Compared| {
        let is_fresh = view.now_ms.saturating_sub(one.at_ms) < lasts(&one.stores);
        one.ids == reading.ids() && one.is_alarmed == is_alarmed && is_fresh
    };
    memory.stores.as_ref().filter(is_of_now).map_or(Stores::NotCompared, |one| one.stores.clone())
}

/// A pass while the alarm is raised; `None` = it is not, or something else comes first.
pub(crate) async fn pass(
    context: &Context,
    view: &View,
    memory: &mut Memory,
) -> Result<Option<(metrics::Outcome, Option<Duration>)>, ControllerError> {
    if !view.etcd.as_ref().is_ok_and(is_alarmed) {
        return Ok(None);
    }
    let seen = observed(view, memory, &context.args);
    let plan = plan::plan(&seen);
    let new = status::compute(context, view, memory, &seen, &plan);
    context.args.metrics.set_cluster(&view.name(), Some(figures::of(view, memory, &seen, &plan, &new)));
    let outcome = match &plan {
        Plan::Do(
            step @ (Step::CompareStores | Step::MoveLeader { .. } | Step::RemoveCorrupt { .. } | Step::DisarmCorrupt { .. }),
        ) => {
            take(context, view, memory, &seen, step).await?;
            metrics::Outcome::Step
        }
        // A pivot's; it goes as far as it can.
        Plan::Do(_) => return Ok(None),
        Plan::Hold { reason, next_step } => {
            tracing::warn!(%reason, "{next_step}");
            // Where the API stands on another etcd, or has just got its own back.
            if let Err(error) = status::write(context, view, new, &plan, memory).await {
                tracing::debug!(%error, "the status cannot be written");
            }
            metrics::Outcome::Holds
        }
        Plan::Wait { what: plan::WaitFor::VotersHealthy | plan::WaitFor::Unpause, .. } => metrics::Outcome::Waits,
        // A pivot's, too.
        Plan::Wait { .. } | Plan::Done => return Ok(None),
    };
    let pause = if outcome == metrics::Outcome::Step { AGAIN } else { Duration::from_millis(plan::SLOW_LOOK_MS) };
    Ok(Some((outcome, Some(pause))))
}

/// How soon to look again at a cluster that has settled, if that is soon: its alarm was taken back just now.
pub(crate) fn looks_again(view: &View, memory: &Memory) -> Option<Duration> {
    memory.disarmed_ms.filter(|at| view.now_ms.saturating_sub(*at) < RAISED_AGAIN_MS).map(|_| AGAIN)
}

/// Nothing is announced: whoever else does the same does it to the same member.
async fn take(context: &Context, view: &View, memory: &mut Memory, seen: &Observed, step: &Step) -> Result<(), ControllerError> {
    if view.is_stale() || !pass::is_as_planned(view, memory).await {
        return Ok(());
    }
    tracing::warn!(cluster = %view.name(), step = ?step, accused = ?seen.accused, "step, while etcd refuses every write");
    // One that etcd has not taken, or not answered, explains nothing.
    if pass::act(context, view, memory, step).await? == Outcome::NotYet {
        return Ok(());
    }
    match step {
        Step::RemoveCorrupt { .. } => {
            memory.removed_ms = Some(view.now_ms);
            memory.untold.push(step.clone());
        }
        Step::DisarmCorrupt { .. } => {
            memory.disarmed_ms = Some(view.now_ms);
            // Now Events can be written again.
            for step in memory.untold.split_off(0).iter().chain([step]) {
                status::event(context, view, seen, step, None).await;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Compares the stores of all members that answer, at one revision, one after the other.
pub(crate) async fn compare(view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?.clone();
    let is_alarmed = is_alarmed(&reading);
    let stores = match hashes(memory, &reading, |m| !m.is_learner).await? {
        Err(why) => Stores::Unclear { why },
        Ok((revision, mut hashes)) => {
            for (learner, _) in reading.members.iter().filter(|(m, s)| m.is_learner && s.is_some()) {
                // It may not have got so far.
                hashes.extend(hash(memory, &reading, learner, revision).await?.ok().map(|hash| (learner.id, hash)));
            }
            match beside_each_other(&hashes, down(memory, &reading).await) {
                // What one has beyond the revision that all have nobody has compared; and no write comes that would explain it.
                Stores::Compared { same, .. } if is_alarmed && !have_one_revision(&reading, &same) => {
                    Stores::Unclear { why: "members with equal stores are at different revisions".into() }
                }
                stores => stores,
            }
        }
    };
    tracing::warn!(?stores, "the stores of the members were compared");
    memory.stores = Some(Compared { at_ms: clock::now_ms(), ids: reading.ids(), is_alarmed, stores });
    Ok(())
}

fn have_one_revision(reading: &Reading, among: &[plan::MemberId]) -> bool {
    let answering = reading.members.iter().filter_map(|(_, s)| s.as_ref()).filter(|s| !s.is_learner);
    let mut revisions = answering.filter(|s| among.contains(&plan::MemberId(s.member_id.0))).map(|s| s.revision);
    let first = revisions.next();
    revisions.all(|revision| Some(revision) == first)
}

/// Members that serve nobody: they do not answer, and nobody listens at their address, or they have none yet. Once this replica has removed who was
/// wrong, the others need not show that they are not.
async fn down(memory: &Memory, reading: &Reading) -> Vec<plan::MemberId> {
    let mut down = Vec::new();
    for (member, _) in reading.members.iter().filter(|(_, s)| s.is_none()) {
        let addresses: Vec<_> = member.client_urls.iter().map(|u| members::address(u).parse()).collect();
        let mut is_closed = true;
        for address in addresses {
            is_closed &= match address {
                Ok(address) => memory.dial.is_closed(address).await,
                Err(_) => false,
            };
        }
        let is_explained = memory.removed_ms.is_some_and(|at| clock::now_ms().saturating_sub(at) < EXPLAINS_MS);
        if is_closed || is_explained {
            down.push(plan::MemberId(member.id.0));
        }
    }
    down
}

fn beside_each_other(hashes: &[(MemberId, HashKv)], down: Vec<plan::MemberId>) -> Stores {
    let mut groups: BTreeMap<(u32, i64), Vec<plan::MemberId>> = BTreeMap::new();
    for (id, hash) in hashes {
        groups.entry((hash.hash, hash.compact_revision)).or_default().push(plan::MemberId(id.0));
    }
    let most = groups.iter().max_by_key(|(_, ids)| ids.len()).map(|(key, _)| *key);
    let Some((key, same)) = most.and_then(|key| Some((key, groups.remove(&key)?))) else {
        return Stores::Unclear { why: "no member answers".into() };
    };
    // Hashes of stores that are compacted differently say nothing about each other.
    if groups.keys().any(|(_, compacted)| *compacted != key.1) {
        return Stores::Unclear { why: "the members were compacted at different revisions".into() };
    }
    Stores::Compared { same, other: groups.into_values().flatten().collect(), down }
}

/// The hashes of members' stores, of those that answer, at the newest revision that all of them have, one after the other.
pub(crate) async fn hashes(
    memory: &mut Memory,
    reading: &Reading,
    among: impl Fn(&Member) -> bool,
) -> Result<Result<(i64, Vec<(MemberId, HashKv)>), String>, ControllerError> {
    let answering = || reading.members.iter().filter_map(|(m, s)| s.as_ref().map(|s| (m, s))).filter(|(m, _)| among(m));
    let Some(revision) = answering().map(|(_, s)| s.revision).min() else { return Ok(Err("no member answers".into())) };
    let mut hashes = Vec::new();
    for (member, _) in answering() {
        match hash(memory, reading, member, revision).await? {
            Ok(hash) => hashes.push((member.id, hash)),
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok((revision, hashes)))
}

async fn hash(
    memory: &mut Memory,
    reading: &Reading,
    member: &Member,
    revision: i64,
) -> Result<Result<HashKv, String>, ControllerError> {
    let id = member.id;
    let hash = match (member.is_learner, member.client_urls.first(), member.peer_urls.first(), memory.ca.as_ref()) {
        (false, Some(url), ..) => etcd::client(memory, url).await?.hash_kv(revision).await,
        // A learner tells clients no hash; its peers it does.
        (true, _, Some(url), Some((_, _, tls))) => memory.dial.peer_hash(url, tls, reading.cluster_id, revision).await,
        _ => return Ok(Err(format!("{id} has no address"))),
    };
    Ok(match hash {
        // Before 3.6 it does not say.
        Ok(hash) if hash.revision != 0 && hash.revision != revision => {
            Err(format!("{id} has told its hash at revision {}, not {revision}", hash.revision))
        }
        Ok(hash) => Ok(hash),
        Err(error) => Err(format!("no hash from {id}: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(id: u64, hash: u32, compact_revision: i64) -> (MemberId, HashKv) {
        (MemberId(id), HashKv { hash, revision: 9, compact_revision })
    }

    #[test]
    fn the_most_with_equal_stores_stand_against_the_others() {
        let ids = |of: &[u64]| of.iter().copied().map(plan::MemberId).collect::<Vec<_>>();
        let stores = beside_each_other(&[hash(1, 7, 5), hash(2, 8, 5), hash(3, 7, 5)], ids(&[4]));
        assert_eq!(stores, Stores::Compared { same: ids(&[1, 3]), other: ids(&[2]), down: ids(&[4]) });
        let compacting = beside_each_other(&[hash(1, 7, 5), hash(2, 8, 6), hash(3, 7, 5)], Vec::new());
        assert!(matches!(compacting, Stores::Unclear { .. }), "{compacting:?}");
        assert!(matches!(beside_each_other(&[], Vec::new()), Stores::Unclear { .. }));
    }

    #[test]
    fn what_the_api_says_of_the_alarm_is_told_from_other_refusals() {
        let error = |message: &str| {
            kube::Error::Api(Box::new(kube::core::Status { message: message.into(), code: 500, ..Default::default() }))
        };
        assert!(is_refusal(&error("rpc error: code = DataLoss desc = etcdserver: corrupt cluster")));
        assert!(!is_refusal(&error("etcdserver: mvcc: database space exceeded")));
    }
}
