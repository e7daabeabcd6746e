//! I1, failed writes, writes not sent, and the figures of the writes.

use std::collections::BTreeSet;

use crate::clock::Micros;
use crate::history::{History, Outcome, ReadBack};
use crate::verdict::{Failure, Invariant, Violation, Writes, millis, seconds};

/// Failures shown in the verdict; all are in the history.
const SHOWN: usize = 50;

pub fn check(history: &History, violations: &mut Vec<Violation>) -> Writes {
    let figures = figures(history);
    if let Some(first) = figures.failures.first() {
        let what = format!("{} of {} writes failed; the first: {}: {}", figures.failed, figures.sent, first.object, first.error);
        violations.push(Violation { invariant: Invariant::FailedWrite, at: first.due, what });
    }
    if figures.sent * 100 < figures.due * 95 {
        let what = format!(
            "only {} of {} due writes were sent: the witness did not get its turn on this machine",
            figures.sent, figures.due
        );
        violations.push(Violation::new(Invariant::TooFewWrites, history.writing.unwrap_or_default().1, what));
    }
    if figures.acked == 0 {
        violations.push(Violation::new(Invariant::Blind, 0, "no write was ever acknowledged".into()));
        return figures;
    }
    check_types(history, violations);
    for object in 0..history.objects.len() {
        check_object(history, object, violations);
    }
    check_all_read(history, violations);
    figures
}

/// I1: what was acknowledged and could not be read back is not proven.
fn check_all_read(history: &History, violations: &mut Vec<Violation>) {
    let acked: BTreeSet<usize> =
        history.writes.iter().filter(|write| matches!(write.outcome, Outcome::Acked { .. })).map(|write| write.object).collect();
    let unread: Vec<(usize, &str)> = acked
        .into_iter()
        .filter_map(|object| match history.read_back.get(&object) {
            Some(ReadBack::Unread { error }) => Some((object, error.as_str())),
            None => Some((object, "the run ended before")),
            Some(ReadBack::Found { .. } | ReadBack::Missing) => None,
        })
        .collect();
    if let Some((object, error)) = unread.first() {
        let what = format!(
            "{} objects could not be read back, so nothing is proven of them; the first: {}: {error}",
            unread.len(),
            label(history, *object)
        );
        violations.push(Violation::new(Invariant::I1, history.writing.unwrap_or_default().1, what));
    }
}

/// A type of which nothing was acknowledged was not watched: its channel may have been broken all the time.
fn check_types(history: &History, violations: &mut Vec<Violation>) {
    if history.writes.len() < history.objects.len() {
        return;
    }
    let types = |objects: &mut dyn Iterator<Item = usize>| -> BTreeSet<&str> {
        objects.filter_map(|object| history.objects.get(object)).map(|object| object.resource.as_str()).collect()
    };
    let acked = types(
        &mut history.writes.iter().filter(|write| matches!(write.outcome, Outcome::Acked { .. })).map(|write| write.object),
    );
    let silent: Vec<&str> = types(&mut (0..history.objects.len())).difference(&acked).copied().collect();
    if !silent.is_empty() {
        violations.push(Violation::new(Invariant::Blind, 0, format!("no write was acknowledged of {}", silent.join(", "))));
    }
}

/// I1 and I3 for one object.
fn check_object(history: &History, object: usize, violations: &mut Vec<Violation>) {
    let label = label(history, object);
    let end = history.writing.unwrap_or_default().1;
    let mut acked: Vec<(u64, usize, Micros)> = Vec::new();
    let mut unsure = BTreeSet::new();
    for (value, write) in history.writes.iter().enumerate().filter(|(_, write)| write.object == object) {
        match &write.outcome {
            Outcome::Acked { at, rv } => {
                // Two writes to one object may overlap; only one that was due after the ack of another must be newer.
                if let Some((newer, ..)) = acked.iter().find(|(before, _, acked_at)| *acked_at < write.due && before >= rv) {
                    violations.push(Violation::new(
                        Invariant::I3,
                        *at,
                        format!("{label}: a write was acknowledged at resource version {rv}, and one before it at {newer}"),
                    ));
                }
                acked.push((*rv, value, *at));
            }
            Outcome::Failed { .. } | Outcome::Pending => {
                unsure.insert(value);
            }
            Outcome::NotSent => {}
        }
    }
    let Some((rv, value, at)) = acked.iter().max().copied() else { return };
    let lost = match history.read_back.get(&object) {
        Some(ReadBack::Found { value: found, rv: found_rv }) => {
            if *found_rv < rv {
                Some(format!("acknowledged at resource version {rv}, read back at {found_rv}"))
            } else if *found == Some(value) || found.is_some_and(|found| unsure.contains(&found)) {
                // A write that was not acknowledged may have been applied after the last one that was.
                None
            } else {
                Some(format!("value {value} was acknowledged last, {found:?} is there"))
            }
        }
        Some(ReadBack::Missing) => Some(format!("value {value} was acknowledged, the object is gone")),
        // All of these are told at once below: an API that is gone would fill the verdict.
        Some(ReadBack::Unread { .. }) | None => None,
    };
    if let Some(what) = lost {
        violations.push(Violation::new(Invariant::I1, at.max(end), format!("{label}: {what}")));
    }
}

fn figures(history: &History) -> Writes {
    let (begin, end) = history.writing.unwrap_or_default();
    let mut latencies = Vec::new();
    let mut acks = vec![begin];
    let mut failures = Vec::new();
    let mut not_sent = 0;
    for write in &history.writes {
        match &write.outcome {
            Outcome::Acked { at, .. } => {
                latencies.push(at.saturating_sub(write.due));
                acks.push(*at);
            }
            Outcome::Failed { at, error } => failures.push((write, at.saturating_sub(write.due), error.clone())),
            // Whatever is in flight at the end has its deadline; one without an end is as good as failed.
            Outcome::Pending => {
                failures.push((write, end.saturating_sub(write.due), "no end was recorded: the journal may have failed".into()))
            }
            Outcome::NotSent => not_sent += 1,
        }
    }
    latencies.sort_unstable();
    acks.sort_unstable();
    if acks.last().is_some_and(|last| *last < end) {
        acks.push(end);
    }
    let (gap_at, gap) =
        acks.iter().zip(acks.iter().skip(1)).map(|(from, to)| (*from, to - from)).max_by_key(|(_, gap)| *gap).unwrap_or_default();
    let types: BTreeSet<&str> = history.objects.iter().map(|object| object.resource.as_str()).collect();
    Writes {
        rate: history.rate,
        types: types.len(),
        due: history.writes.len(),
        sent: history.writes.len() - not_sent,
        acked: latencies.len(),
        failed: failures.len(),
        p50_ms: percentile(&latencies, 50),
        p99_ms: percentile(&latencies, 99),
        max_ms: percentile(&latencies, 100),
        longest_gap_ms: millis(gap),
        longest_gap_at: seconds(gap_at),
        failures: failures
            .into_iter()
            .take(SHOWN)
            .map(|(write, after, error)| Failure {
                due: seconds(write.due),
                after_ms: millis(after),
                object: label(history, write.object),
                error,
            })
            .collect(),
    }
}

/// A percentile of sorted values, in milliseconds (nearest rank).
pub fn percentile(sorted: &[Micros], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    millis(sorted.get(rank - 1).copied().unwrap_or_default())
}

/// `configmaps/etcd-witness-0`.
pub fn label(history: &History, object: usize) -> String {
    history
        .objects
        .get(object)
        .map_or_else(|| format!("object {object}"), |object| format!("{}/{}", object.resource, object.name))
}
