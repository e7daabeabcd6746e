//! I4, I3 as etcd's own revisions show it, and the figures of etcd.

use std::collections::{BTreeMap, BTreeSet};

use super::membership::{self, Held};
use crate::clock::Micros;
use crate::history::History;
use crate::verdict::{Etcd, Invariant, Leader, Phase, Violation, millis, seconds};

pub fn check(history: &History, timeline: &[Held], violations: &mut Vec<Violation>) -> Etcd {
    if history.lists.is_empty() {
        violations.push(Violation::new(
            Invariant::Blind,
            0,
            "no etcd ever answered with a member list: look at the client certificate and the endpoints in bed.json".into(),
        ));
    }
    let clusters = check_cluster_ids(history, violations);
    check_revisions(history, violations);
    let mut membership = Vec::new();
    for (index, held) in timeline.iter().enumerate() {
        let change = index
            .checked_sub(1)
            .and_then(|before| timeline.get(before))
            .map(|before| membership::difference(before, held))
            .unwrap_or_default();
        membership.push(Phase { at: seconds(held.from), members: membership::describe(&held.members), change });
    }
    Etcd {
        cluster_ids: clusters.iter().map(|id| format!("{id:x}")).collect(),
        boot: membership::boot(history).map(|id| format!("{id:x}")),
        revision: history
            .statuses
            .iter()
            .filter_map(|sample| sample.answer.as_ref())
            .map(|status| status.revision)
            .max()
            .unwrap_or_default(),
        lowest_tolerance: None,
        longest_blind_ms: longest_blind(history),
        membership,
        leaders: leaders(history),
    }
}

fn longest_blind(history: &History) -> f64 {
    let mut answers: Vec<Micros> =
        history.statuses.iter().filter(|sample| sample.answer.is_some()).map(|sample| sample.at).collect();
    answers.sort_unstable();
    millis(answers.iter().zip(answers.iter().skip(1)).map(|(from, to)| to - from).max().unwrap_or_default())
}

/// I4. A restore that a human ordered makes a second one on purpose: such a run allows I4.
fn check_cluster_ids(history: &History, violations: &mut Vec<Violation>) -> Vec<u64> {
    let statuses =
        history.statuses.iter().filter_map(|sample| Some((sample.at, sample.endpoint, sample.answer.as_ref()?.cluster)));
    let lists = history.lists.iter().map(|sample| (sample.at, sample.endpoint, sample.cluster));
    let mut answers: Vec<(Micros, usize, u64)> = statuses.chain(lists).collect();
    answers.sort_unstable();
    let mut known: Vec<u64> = Vec::new();
    for (at, endpoint, cluster) in answers {
        if known.contains(&cluster) {
            continue;
        }
        if let Some(first) = known.first() {
            let url = history.endpoints.get(endpoint).map_or("an endpoint", String::as_str);
            violations.push(Violation::new(Invariant::I4, at, format!("{url} serves cluster {cluster:x}, not {first:x}")));
        }
        known.push(cluster);
    }
    known
}

/// I3: as long as one endpoint answers with one member ID, its revision never goes back.
fn check_revisions(history: &History, violations: &mut Vec<Violation>) {
    let mut samples: Vec<_> =
        history.statuses.iter().filter_map(|sample| Some((sample.at, sample.endpoint, sample.answer.as_ref()?))).collect();
    samples.sort_by_key(|(at, ..)| *at);
    let mut highest: BTreeMap<(usize, u64), i64> = BTreeMap::new();
    for (at, endpoint, status) in samples {
        let before = highest.entry((endpoint, status.member)).or_insert(status.revision);
        if status.revision < *before {
            violations.push(Violation::new(
                Invariant::I3,
                at,
                format!("member {:x} went from revision {before} to {}", status.member, status.revision),
            ));
        }
        *before = (*before).max(status.revision);
    }
}

/// Leaders, by term: the first report of each.
fn leaders(history: &History) -> Vec<Leader> {
    let mut samples: Vec<_> = history
        .statuses
        .iter()
        .filter_map(|sample| Some((sample.at, sample.answer.as_ref()?)))
        .filter(|(_, status)| status.leader != 0)
        .collect();
    samples.sort_by_key(|(at, ..)| *at);
    let name = |id: u64| {
        let named = history.member_sets.iter().flatten().find(|member| member.id == id && !member.name.is_empty());
        named.map_or_else(|| format!("{id:x}"), |member| member.name.clone())
    };
    let mut seen = BTreeSet::new();
    let mut leaders = Vec::new();
    for (at, status) in samples {
        // One leader per term; etcd reads the two one after the other, so an answer may pair a new leader with an old term.
        if seen.insert(status.term) {
            leaders.push(Leader { at: seconds(at), member: name(status.leader), term: status.term });
        }
    }
    leaders
}
