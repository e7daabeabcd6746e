//! Lost events, watches whose resource version goes back, and the figures of the watches.

use std::collections::BTreeMap;

use super::writes::{label, percentile};
use crate::clock::Micros;
use crate::history::{History, Outcome, Watch};
use crate::verdict::{Invariant, Violation, Watches, millis, seconds};

/// Ends shown in the verdict; all are in the history.
const SHOWN: usize = 50;

pub fn check(history: &History, violations: &mut Vec<Violation>) -> Watches {
    let mut lags: Vec<(Micros, Micros, String)> = Vec::new();
    let mut figures = Watches { open: history.watches.len(), ..Watches::default() };
    for watch in &history.watches {
        check_order(watch, violations);
        check_arrival(history, watch, &mut lags, violations);
        figures.events += watch.events.iter().filter(|event| event.object.is_some()).count();
        figures.broken += watch.ends.len();
        figures.gone += watch.gone;
        figures.refused += watch.refused;
        figures.ends.extend(watch.ends.iter().map(|(at, reason)| (seconds(*at), watch.resource.clone(), reason.clone())));
    }
    figures.ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    figures.ends.truncate(SHOWN);
    if let Some((lag, at, resource)) = lags.iter().max() {
        figures.longest_silence_ms = millis(*lag);
        figures.longest_silence_at = seconds(*at);
        figures.longest_silence_of.clone_from(resource);
    }
    let mut sorted: Vec<Micros> = lags.iter().map(|(lag, ..)| *lag).collect();
    sorted.sort_unstable();
    figures.p99_lag_ms = percentile(&sorted, 99);
    figures
}

/// I3: what a watch brings never goes back, across reconnects too, nor does a list made after a 410.
fn check_order(watch: &Watch, violations: &mut Vec<Violation>) {
    let mut steps: Vec<(Micros, u64, bool)> =
        watch.events.iter().map(|event| (event.at, event.rv, event.object.is_some())).collect();
    steps.extend(watch.relists.iter().map(|relist| (relist.at, relist.rv, false)));
    steps.sort_by_key(|(at, ..)| *at);
    let (mut last, mut last_was_object) = (watch.from, false);
    for (at, rv, object) in steps {
        // A bookmark or a list may repeat the last version; two events never share one.
        if rv < last || (rv == last && object && last_was_object) {
            violations.push(Violation::new(
                Invariant::I3,
                at,
                format!("the watch of {} went from resource version {last} to {rv}", watch.resource),
            ));
        }
        (last, last_was_object) = (rv.max(last), object);
    }
}

/// Each acknowledged write must have come as an event, or be covered by a list made after a 410.
fn check_arrival(history: &History, watch: &Watch, lags: &mut Vec<(Micros, Micros, String)>, violations: &mut Vec<Violation>) {
    let mut seen: BTreeMap<(usize, u64), Micros> = BTreeMap::new();
    for event in &watch.events {
        if let Some(object) = event.object {
            seen.entry((object, event.rv)).or_insert(event.at);
        }
    }
    for relist in &watch.relists {
        for (object, rv) in &relist.objects {
            seen.entry((*object, *rv)).or_insert(relist.at);
        }
    }
    let mut lost = Vec::new();
    for write in &history.writes {
        let Outcome::Acked { at, rv } = write.outcome else { continue };
        if history.objects.get(write.object).is_none_or(|object| object.resource != watch.resource) {
            continue;
        }
        let exact = seen.get(&(write.object, rv)).copied();
        let covering = || {
            watch
                .relists
                .iter()
                .find(|relist| relist.rv >= rv && relist.objects.get(&write.object).is_some_and(|there| *there >= rv))
                .map(|relist| relist.at)
        };
        match exact.or_else(covering) {
            Some(arrived) => lags.push((arrived.saturating_sub(at), at, watch.resource.clone())),
            None => lost.push((at, rv, write.object)),
        }
    }
    if let Some((at, rv, object)) = lost.first() {
        let what = format!(
            "{} acknowledged writes never came as an event of {}; the first: {} at resource version {rv}",
            lost.len(),
            watch.resource,
            label(history, *object)
        );
        violations.push(Violation::new(Invariant::LostEvent, *at, what));
    }
}
