//! Tolerance: healthy voters − quorum, which must never be negative.

use std::collections::BTreeMap;

use super::membership::{Held, describe};
use crate::clock::Micros;
use crate::history::{History, StatusSample};
use crate::verdict::{Invariant, Violation};

/// A member is healthy if it answered within this time and knew a leader.
const FRESH: Micros = 1_000_000;
/// How often the tolerance is worked out.
const TICK: Micros = 100_000;
/// A negative tolerance shorter than this is noise of the polling.
const NOISE: Micros = 300_000;

pub fn check(history: &History, timeline: &[Held], violations: &mut Vec<Violation>) -> Option<i64> {
    let end = history.statuses.iter().map(|sample| sample.at).max()?;
    let polls = Polls::new(history);
    // The tolerance at each tick, in stretches of the same sign.
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut at = timeline.first()?.from + FRESH;
    while at <= end {
        let kindest =
            possible(timeline, at).map(|held| (tolerance(&polls, held, at), held)).max_by_key(|(tolerance, _)| *tolerance);
        if let Some((tolerance, held)) = kindest {
            match stretches.last_mut().filter(|last| (last.lowest < 0) == (tolerance < 0)) {
                Some(last) => (last.until, last.lowest) = (at, last.lowest.min(tolerance)),
                None => stretches.push(Stretch { from: at, until: at, lowest: tolerance, members: describe(&held.members) }),
            }
        }
        at += TICK;
    }
    stretches.retain(|stretch| stretch.lowest >= 0 || stretch.until - stretch.from >= NOISE);
    for Stretch { from, until, lowest, members } in stretches.iter().filter(|stretch| stretch.lowest < 0) {
        let what = format!("tolerance was {lowest} for {} ms with members {members}", (until - from) / 1000);
        violations.push(Violation::new(Invariant::Tolerance, *from, what));
    }
    stretches.iter().map(|stretch| stretch.lowest).min()
}

/// A time in which the tolerance was negative throughout, or not at all.
struct Stretch {
    from: Micros,
    until: Micros,
    lowest: i64,
    members: String,
}

/// The lists that may have held at a moment: between the last read of one and the first of the next either may, and
/// the kinder one counts.
fn possible(timeline: &[Held], at: Micros) -> impl Iterator<Item = &Held> {
    let current = timeline.iter().rposition(|held| held.from <= at);
    let next = current.filter(|index| timeline.get(*index).is_some_and(|held| held.until < at)).map(|index| index + 1);
    [current, next].into_iter().flatten().filter_map(|index| timeline.get(index))
}

fn tolerance(polls: &Polls, held: &Held, at: Micros) -> i64 {
    let voters = held.voters().count();
    let healthy = held.voters().filter(|member| polls.healthy(held, member.id, at)).count();
    // Nine voters at most: the casts cannot fail.
    i64::try_from(healthy).unwrap_or(0) - i64::try_from(voters / 2 + 1).unwrap_or(0)
}

/// Whether a member was healthy at a moment.
pub fn healthy(history: &History, held: &Held, id: u64, at: Micros) -> bool {
    Polls::new(history).healthy(held, id, at)
}

/// The polls, by endpoint and in order of time.
struct Polls<'a> {
    by_endpoint: Vec<Vec<&'a StatusSample>>,
    endpoints: BTreeMap<&'a str, usize>,
}

impl<'a> Polls<'a> {
    fn new(history: &'a History) -> Self {
        let mut by_endpoint = vec![Vec::new(); history.endpoints.len()];
        for sample in &history.statuses {
            if let Some(samples) = by_endpoint.get_mut(sample.endpoint) {
                samples.push(sample);
            }
        }
        for samples in &mut by_endpoint {
            samples.sort_by_key(|sample| sample.at);
        }
        Polls { by_endpoint, endpoints: history.endpoints.iter().enumerate().map(|(index, url)| (url.as_str(), index)).collect() }
    }

    fn healthy(&self, held: &Held, id: u64, at: Micros) -> bool {
        for (index, samples) in self.by_endpoint.iter().enumerate() {
            let end = samples.partition_point(|sample| sample.at <= at);
            let begin = samples.partition_point(|sample| sample.at + FRESH <= at);
            let window = samples.get(begin..end).unwrap_or_default();
            if window.iter().filter_map(|sample| sample.answer.as_ref()).any(|status| status.member == id && status.leader != 0) {
                return true;
            }
            let last = samples.get(..end).unwrap_or_default().iter().rev().find_map(|sample| sample.answer.as_ref());
            let listed = held.members.iter().any(|member| {
                member.id == id
                    && member.client_urls.iter().any(|url| self.endpoints.get(url.trim_end_matches('/')) == Some(&index))
            });
            let belongs = listed || last.is_some_and(|status| status.member == id);
            // A window without any poll says that the witness stalled, not that the member did.
            if belongs && window.is_empty() && begin > 0 {
                return true;
            }
        }
        // Never polled under any address: a voter that has not started, or that nobody can reach.
        false
    }
}
