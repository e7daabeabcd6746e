//! The membership over time, and I5, I7, I8.

use std::collections::BTreeSet;

use crate::clock::Micros;
use crate::history::{History, Member};
use crate::verdict::{Invariant, Violation};

/// A change between two lists this close together was seen as it happened: no step in between was missed.
const CLOSE: Micros = 400_000;

/// A member list and the time for which it is known to have held.
#[derive(Clone, Debug)]
pub struct Held {
    /// When it was first read.
    pub from: Micros,
    /// When it was asked for last and still held.
    pub until: Micros,
    /// The members.
    pub members: Vec<Member>,
}

impl Held {
    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.learner)
    }

    fn learners(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.learner)
    }

    fn has(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.id == id)
    }

    fn votes(&self, id: u64) -> bool {
        self.voters().any(|member| member.id == id)
    }
}

/// Puts the lists of all endpoints in one order.
///
/// A linearizable list was true at some moment between question and answer. A different list is newer for certain
/// only if it was asked for after the current one had been answered; one that overlaps may be older, and is left
/// out: if it is newer it comes again within one poll.
pub fn timeline(history: &History) -> Vec<Held> {
    let Some(cluster) = history.lists.iter().min_by_key(|sample| sample.at).map(|sample| sample.cluster) else {
        return Vec::new();
    };
    let mut samples: Vec<_> = history.lists.iter().filter(|sample| sample.cluster == cluster).collect();
    samples.sort_by_key(|sample| sample.at);
    let mut held: Vec<Held> = Vec::new();
    for sample in samples {
        let Some(members) = history.member_sets.get(sample.set) else { continue };
        match held.last_mut() {
            Some(current) if same(&current.members, members) => {
                current.until = current.until.max(sample.sent);
                // A name and URLs that came later say more than none.
                current.members.clone_from(members);
            }
            Some(current) if sample.sent < current.from => {}
            Some(_) | None => held.push(Held { from: sample.at, until: sample.at, members: members.clone() }),
        }
    }
    held
}

/// Same IDs in the same roles; names and URLs are published by members themselves and change nothing.
fn same(a: &[Member], b: &[Member]) -> bool {
    let roles = |members: &[Member]| members.iter().map(|member| (member.id, member.learner)).collect::<BTreeSet<_>>();
    roles(a) == roles(b)
}

/// Member ID of boot: who answers at boot's endpoint.
pub fn boot(history: &History) -> Option<u64> {
    let endpoint = history.boot_endpoint.as_deref()?.trim_end_matches('/');
    let index = history.endpoints.iter().position(|url| url == endpoint);
    let answered = history
        .statuses
        .iter()
        .filter(|sample| Some(sample.endpoint) == index)
        .find_map(|sample| sample.answer.as_ref())
        .map(|status| status.member);
    let listed = || {
        history
            .member_sets
            .iter()
            .flatten()
            .find(|member| member.client_urls.iter().any(|url| url.trim_end_matches('/') == endpoint))
            .map(|member| member.id)
    };
    answered.or_else(listed)
}

pub fn check(history: &History, timeline: &[Held], violations: &mut Vec<Violation>) {
    let boot = boot(history);
    let mut gone = BTreeSet::new();
    for (before, after) in timeline.iter().zip(timeline.iter().skip(1)) {
        check_step(before, after, violations);
        for member in &after.members {
            if gone.contains(&member.id) {
                let invariant = if Some(member.id) == boot { Invariant::I8 } else { Invariant::I7 };
                violations.push(Violation::new(
                    invariant,
                    after.from,
                    format!("member {} was removed and is listed again", name(member)),
                ));
            }
        }
        for member in before.members.iter().filter(|member| !after.has(member.id)) {
            gone.insert(member.id);
            if Some(member.id) == boot {
                check_boot_removal(history, before, after, member.id, violations);
            }
        }
    }
}

/// I5: one change in flight, learners first.
fn check_step(before: &Held, after: &Held, violations: &mut Vec<Violation>) {
    let mut broken = |what: String| violations.push(Violation::new(Invariant::I5, after.from, what));
    let seen_as_it_happened = after.from.saturating_sub(before.until) <= CLOSE;
    let added: Vec<&Member> = after.members.iter().filter(|member| !before.has(member.id)).collect();
    // Several learners at once are allowed while the only voter is the first one (design D7.2).
    let learners = after.learners().count();
    if !added.is_empty() && learners > 1 && before.voters().count() > 1 {
        broken(format!(
            "{learners} learners at once in a cluster of {} voters: {}",
            before.voters().count(),
            describe(&after.members)
        ));
    }
    if let Some(member) = added.iter().find(|member| !member.learner).filter(|_| seen_as_it_happened) {
        broken(format!("{} was added as a voter, not as a learner", name(member)));
    }
    for member in before.voters().filter(|member| after.has(member.id) && !after.votes(member.id)) {
        broken(format!("{} was a voter and is a learner", name(member)));
    }
    let removed: Vec<&str> = before.voters().filter(|member| !after.has(member.id)).map(name).collect();
    if removed.len() > 1 && seen_as_it_happened {
        broken(format!("{} voters were removed between two polls: {}", removed.len(), removed.join(", ")));
    }
}

/// I8: when boot goes, who remains can stand alone.
fn check_boot_removal(history: &History, before: &Held, after: &Held, boot: u64, violations: &mut Vec<Violation>) {
    let mut broken = |what: String| violations.push(Violation::new(Invariant::I8, after.from, what));
    let seen_as_it_happened = after.from.saturating_sub(before.until) <= CLOSE;
    let remaining: Vec<&Member> = before.voters().filter(|member| member.id != boot).collect();
    if seen_as_it_happened {
        if let Some(learner) = before.learners().next() {
            broken(format!("boot was removed while {} was a learner", name(learner)));
        }
        if remaining.is_empty() {
            broken("boot was removed while it was the only voter".into());
        }
    }
    let voters = after.voters().count();
    if history.size.is_some_and(|size| voters != size) {
        broken(format!("boot was removed with {voters} voters remaining, {} are wanted", history.size.unwrap_or_default()));
    }
    // Seen only after a time in which nobody could be asked: who answers then says nothing of that moment.
    for member in after.voters().filter(|_| seen_as_it_happened) {
        if !super::health::healthy(history, after, member.id, after.from) {
            broken(format!("boot was removed while {} did not answer", name(member)));
        }
    }
}

/// Name of a member, or its ID in hex while it has none.
pub fn label(member: &Member) -> String {
    if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() }
}

fn name(member: &Member) -> &str {
    if member.name.is_empty() { "a member without a name" } else { &member.name }
}

/// `cp1, cp2, [cp3]`: learners in brackets.
pub fn describe(members: &[Member]) -> String {
    let mut names: Vec<String> =
        members.iter().map(|member| if member.learner { format!("[{}]", label(member)) } else { label(member) }).collect();
    names.sort();
    names.join(", ")
}

/// What changed between two lists.
pub fn difference(before: &Held, after: &Held) -> String {
    let mut changes = Vec::new();
    for member in &after.members {
        if !before.has(member.id) {
            changes.push(format!("+{} {:x}", if member.learner { "learner" } else { "voter" }, member.id));
        } else if after.votes(member.id) && !before.votes(member.id) {
            changes.push(format!("promoted {}", label(member)));
        }
    }
    changes.extend(before.members.iter().filter(|member| !after.has(member.id)).map(|member| format!("-{}", label(member))));
    changes.join(", ")
}
