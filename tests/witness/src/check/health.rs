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
    let mut lowest = None;
    let mut negative: Option<(Micros, Micros, i64, String)> = None;
    let mut flush = |negative: &mut Option<(Micros, Micros, i64, String)>| {
        if let Some((from, to, tolerance, members)) = negative.take().filter(|(from, to, ..)| to - from >= NOISE) {
            let what = format!("tolerance was {tolerance} for {} ms with members {members}", (to - from) / 1000);
            violations.push(Violation::new(Invariant::Tolerance, from, what));
            lowest = Some(lowest.map_or(tolerance, |known: i64| known.min(tolerance)));
        } else {
            lowest = lowest.or(Some(i64::MAX));
        }
    };
    let mut steady_lowest: Option<i64> = None;
    let mut at = timeline.first()?.from + FRESH;
    while at <= end {
        // Between the last read of one list and the first of the next either may hold: the kinder one counts.
        let candidates = timeline.iter().enumerate().filter(|(index, held)| {
            held.from <= at && timeline.get(index + 1).is_none_or(|next| at < next.from)
                || (held.from > at
                    && index
                        .checked_sub(1)
                        .and_then(|before| timeline.get(before))
                        .is_some_and(|before| before.until < at && before.from <= at))
        });
        let kindest =
            candidates.map(|(_, held)| (tolerance(&polls, held, at), held)).max_by_key(|(tolerance, _)| *tolerance);
        match kindest {
            Some((tolerance, held)) if tolerance < 0 => match &mut negative {
                Some((_, to, worst, _)) => (*to, *worst) = (at, (*worst).min(tolerance)),
                None => negative = Some((at, at, tolerance, describe(&held.members))),
            },
            Some((tolerance, _)) => {
                flush(&mut negative);
                steady_lowest = Some(steady_lowest.map_or(tolerance, |known| known.min(tolerance)));
            }
            None => {}
        }
        at += TICK;
    }
    flush(&mut negative);
    match (lowest.filter(|lowest| *lowest != i64::MAX), steady_lowest) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
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
        Polls {
            by_endpoint,
            endpoints: history.endpoints.iter().enumerate().map(|(index, url)| (url.as_str(), index)).collect(),
        }
    }

    fn healthy(&self, held: &Held, id: u64, at: Micros) -> bool {
        for (index, samples) in self.by_endpoint.iter().enumerate() {
            let end = samples.partition_point(|sample| sample.at <= at);
            let begin = samples.partition_point(|sample| sample.at + FRESH <= at);
            let window = samples.get(begin..end).unwrap_or_default();
            if window
                .iter()
                .filter_map(|sample| sample.answer.as_ref())
                .any(|status| status.member == id && status.leader != 0)
            {
                return true;
            }
            let last = samples.get(..end).unwrap_or_default().iter().rev().find_map(|sample| sample.answer.as_ref());
            let listed = held.members.iter().any(|member| {
                member.id == id
                    && member
                        .client_urls
                        .iter()
                        .any(|url| self.endpoints.get(url.trim_end_matches('/')) == Some(&index))
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
