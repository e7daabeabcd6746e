//! Each invariant has a red case: a recorded history that breaks it must be flagged, and by that name.
//!
//! The base is a clean pivot from boot to three members, written by hand. Each case breaks one thing in it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;

use etcd_operator_witness::check::judge;
use etcd_operator_witness::history::{
    Event, History, ListSample, Member, Object, Outcome, ReadBack, Relist, Status, StatusSample, Watch, Write,
};
use etcd_operator_witness::{Invariant, Verdict};

const SECOND: u64 = 1_000_000;
const POLL: u64 = 100_000;
const CLUSTER: u64 = 0xc1;
const BOOT: u64 = 0xb0;
/// The run lasts this long.
const END: u64 = 20 * SECOND;
/// When boot goes.
const REMOVAL: u64 = 16 * SECOND;

fn member(id: u64, learner: bool) -> Member {
    let name = if id == BOOT { "boot".to_string() } else { format!("cp{id}-1") };
    Member { id, name, learner, client_urls: vec![url(id)] }
}

fn url(id: u64) -> String {
    if id == BOOT { "https://10.0.0.1:12379".into() } else { format!("https://10.0.0.{id}:2379") }
}

fn voters(ids: &[u64]) -> Vec<Member> {
    ids.iter().map(|id| member(*id, false)).collect()
}

fn with_learner(ids: &[u64], learner: u64) -> Vec<Member> {
    let mut members = voters(ids);
    members.push(member(learner, true));
    members
}

/// Who is a member from when on.
fn phases() -> Vec<(u64, Vec<Member>)> {
    vec![
        (0, voters(&[BOOT])),
        (2 * SECOND, with_learner(&[BOOT], 1)),
        (4 * SECOND, voters(&[BOOT, 1])),
        (7 * SECOND, with_learner(&[BOOT, 1], 2)),
        (8 * SECOND, voters(&[BOOT, 1, 2])),
        (12 * SECOND, with_learner(&[BOOT, 1, 2], 3)),
        (13 * SECOND, voters(&[BOOT, 1, 2, 3])),
        (REMOVAL, voters(&[1, 2, 3])),
    ]
}

/// A clean pivot.
fn pivot() -> History {
    recorded(phases())
}

/// A run with these members over time, in which everybody who is listed answers, and nothing fails.
fn recorded(phases: Vec<(u64, Vec<Member>)>) -> History {
    let mut history = History {
        rate: 50,
        writing: Some((0, END)),
        boot_endpoint: Some(url(BOOT)),
        endpoints: [BOOT, 1, 2, 3].map(url).to_vec(),
        objects: vec![
            Object { resource: "configmaps".into(), name: "a".into() },
            Object { resource: "leases.coordination.k8s.io".into(), name: "a".into() },
        ],
        ..History::default()
    };
    history.watches =
        history.objects.iter().map(|object| Watch { resource: object.resource.clone(), from: 100, ..Watch::default() }).collect();

    for (value, due) in (0..END).step_by(20_000).enumerate() {
        let (object, rv) = (value % 2, 101 + value as u64);
        history.writes.push(Write { object, due, outcome: Outcome::Acked { at: due + 6_000, rv } });
        history.watches[object].events.push(Event { at: due + 8_000, object: Some(object), rv });
        history.read_back.insert(object, ReadBack::Found { value: Some(value), rv });
    }
    for at in (0..END).step_by(POLL as usize) {
        let (_, members) = phases.iter().rfind(|(from, _)| *from <= at).unwrap();
        let set = history.member_set(members.clone());
        let leader = if at < REMOVAL - SECOND { BOOT } else { 1 };
        for (endpoint, id) in [BOOT, 1, 2, 3].into_iter().enumerate() {
            let listed = members.iter().find(|member| member.id == id);
            let answer = listed.map(|member| status(member, leader, at));
            history.statuses.push(StatusSample { endpoint, at: at + 3_000, answer });
            if listed.is_some_and(|member| !member.learner) {
                history.lists.push(ListSample { endpoint, sent: at, at: at + 4_000, cluster: CLUSTER, set });
            }
        }
    }
    history
}

fn status(member: &Member, leader: u64, at: u64) -> Status {
    Status {
        cluster: CLUSTER,
        member: member.id,
        revision: 1_000 + i64::try_from(at / 20_000).unwrap(),
        leader,
        term: if leader == BOOT { 2 } else { 3 },
        index: 5_000 + at / 20_000,
        learner: member.learner,
        version: "3.6.16".into(),
        errors: Vec::new(),
    }
}

/// The only kind of invariant that broke.
#[track_caller]
fn assert_breaks(history: &History, invariant: Invariant) -> Verdict {
    let verdict = judge(history, &[]);
    assert!(!verdict.clean, "{invariant:?} must be flagged, and nothing was:\n{verdict}");
    assert!(
        verdict.violations.iter().all(|violation| violation.invariant == invariant),
        "only {invariant:?} is broken here:\n{verdict}"
    );
    let again: History = serde_json::from_str(&serde_json::to_string(history).unwrap()).unwrap();
    assert_eq!(judge(&again, &[]).violations, verdict.violations, "the same history from disk is judged the same");
    let allowed = judge(history, &[invariant]);
    assert!(allowed.clean && allowed.broke(invariant), "what the run is told to expect is reported, and does not spoil it");
    verdict
}

fn acked_at(history: &History, seconds: u64) -> usize {
    history.writes.iter().position(|write| write.due >= seconds * SECOND).unwrap()
}

#[test]
fn a_clean_pivot_is_clean_and_its_figures_are_right() {
    let mut history = pivot();
    history.size = Some(3);
    let verdict = judge(&history, &[]);
    assert!(verdict.clean, "{verdict}");
    let writes = &verdict.writes;
    assert_eq!((writes.due, writes.sent, writes.acked, writes.failed), (1000, 1000, 1000, 0));
    assert_eq!((writes.p50_ms, writes.p99_ms, writes.longest_gap_ms), (6.0, 6.0, 20.0));
    assert_eq!(verdict.watches.longest_silence_ms, 2.0);
    let changes: Vec<&str> = verdict.etcd.membership.iter().map(|phase| phase.change.as_str()).collect();
    assert_eq!(
        changes,
        ["", "+learner 1", "promoted cp1-1", "+learner 2", "promoted cp2-1", "+learner 3", "promoted cp3-1", "-boot"]
    );
    assert_eq!(verdict.etcd.leaders.iter().map(|leader| leader.member.as_str()).collect::<Vec<_>>(), ["boot", "cp1-1"]);
    assert_eq!(verdict.etcd.lowest_tolerance, Some(0));
}

#[test]
fn one_to_two_to_one_is_clean() {
    let mut history = recorded(vec![
        (0, voters(&[BOOT])),
        (5 * SECOND, with_learner(&[BOOT], 1)),
        (REMOVAL - SECOND / 2, voters(&[BOOT, 1])),
        (REMOVAL, voters(&[1])),
    ]);
    history.size = Some(1);
    let verdict = judge(&history, &[]);
    assert!(verdict.clean, "{verdict}");
}

#[test]
fn several_learners_beside_boot_alone_are_clean() {
    let learners = |ids: &[u64]| ids.iter().map(|id| member(*id, true)).chain([member(BOOT, false)]).collect::<Vec<_>>();
    let mut promoted = voters(&[BOOT, 1]);
    promoted.extend([member(2, true), member(3, true)]);
    let mut two = voters(&[BOOT, 1, 2]);
    two.push(member(3, true));
    let history = recorded(vec![
        (0, voters(&[BOOT])),
        (2 * SECOND, learners(&[1, 2])),
        (3 * SECOND, learners(&[1, 2, 3])),
        (5 * SECOND, promoted),
        (6 * SECOND, two),
        (7 * SECOND, voters(&[BOOT, 1, 2, 3])),
        (REMOVAL, voters(&[1, 2, 3])),
    ]);
    let verdict = judge(&history, &[]);
    assert!(verdict.clean, "{verdict}");
}

#[test]
fn i1_an_object_that_went_back_in_time() {
    let mut history = pivot();
    history.read_back.insert(0, ReadBack::Found { value: Some(900), rv: 1001 });
    assert_breaks(&history, Invariant::I1);
}

#[test]
fn i1_an_object_that_is_gone() {
    let mut history = pivot();
    history.read_back.insert(1, ReadBack::Missing);
    assert_breaks(&history, Invariant::I1);
}

#[test]
fn i1_a_value_that_nobody_wrote_after_the_acknowledged_one() {
    let mut history = pivot();
    history.read_back.insert(0, ReadBack::Found { value: Some(10), rv: 5000 });
    assert_breaks(&history, Invariant::I1);
}

#[test]
fn i1_nothing_is_proven_by_an_object_that_cannot_be_read() {
    let mut history = pivot();
    history.read_back.insert(0, ReadBack::Unread { error: "connect: refused".into() });
    assert_breaks(&history, Invariant::I1);
    history.read_back.remove(&0);
    assert_breaks(&history, Invariant::I1);
}

#[test]
fn i3_an_etcd_whose_revision_goes_back() {
    let mut history = pivot();
    let sample = history.statuses.iter_mut().rfind(|sample| sample.endpoint == 1).unwrap();
    sample.answer.as_mut().unwrap().revision -= 500;
    assert_breaks(&history, Invariant::I3);
}

#[test]
fn i3_a_watch_whose_resource_version_goes_back() {
    let mut history = pivot();
    let last = *history.watches[0].events.last().unwrap();
    history.watches[0].events.push(Event { at: last.at + 1, object: None, rv: 150 });
    assert_breaks(&history, Invariant::I3);
}

#[test]
fn i3_a_list_after_a_410_that_is_older_than_what_was_seen() {
    let mut history = pivot();
    history.watches[0].relists.push(Relist { at: END, rv: 150, objects: BTreeMap::new() });
    assert_breaks(&history, Invariant::I3);
}

#[test]
fn i3_a_write_acknowledged_with_an_older_version_than_the_one_before() {
    let mut history = pivot();
    let write = acked_at(&history, 10);
    let at = history.writes[write].due + 6_000;
    history.writes[write].outcome = Outcome::Acked { at, rv: 102 };
    let verdict = judge(&history, &[]);
    assert!(verdict.broke(Invariant::I3), "{verdict}");
}

#[test]
fn i4_a_second_cluster() {
    let mut history = pivot();
    let mut sample = history.statuses.last().unwrap().clone();
    sample.answer.as_mut().unwrap().cluster = 0xbad;
    history.statuses.push(sample);
    assert_breaks(&history, Invariant::I4);
}

#[test]
fn i5_two_learners_beside_several_voters() {
    let mut phases = phases();
    let mut both = with_learner(&[BOOT, 1], 2);
    both.push(member(3, true));
    phases[4] = (8 * SECOND, both);
    phases[5] = (12 * SECOND, with_learner(&[BOOT, 1, 2], 3));
    assert_breaks(&recorded(phases), Invariant::I5);
}

#[test]
fn i5_a_voter_that_never_was_a_learner() {
    let mut phases = phases();
    phases.remove(5);
    assert_breaks(&recorded(phases), Invariant::I5);
}

#[test]
fn i5_two_voters_removed_at_once() {
    let mut phases = phases();
    phases.push((REMOVAL + 2 * SECOND, voters(&[1])));
    assert_breaks(&recorded(phases), Invariant::I5);
}

#[test]
fn tolerance_two_voters_and_one_of_them_silent() {
    let mut history = pivot();
    // The new member stops answering while boot and it are the only voters.
    for sample in
        history.statuses.iter_mut().filter(|sample| sample.endpoint == 1 && (4 * SECOND..6 * SECOND).contains(&sample.at))
    {
        sample.answer = None;
    }
    let verdict = assert_breaks(&history, Invariant::Tolerance);
    assert_eq!(verdict.etcd.lowest_tolerance, Some(-1));
}

#[test]
fn tolerance_voters_that_answer_and_know_no_leader() {
    let mut history = pivot();
    for sample in history.statuses.iter_mut().filter(|sample| (17 * SECOND..19 * SECOND).contains(&sample.at)) {
        if let Some(answer) = &mut sample.answer {
            answer.leader = 0;
        }
    }
    assert_breaks(&history, Invariant::Tolerance);
}

#[test]
fn tolerance_is_not_judged_while_the_witness_itself_stalled() {
    let mut history = pivot();
    history.statuses.retain(|sample| !(8 * SECOND..11 * SECOND).contains(&sample.at));
    let verdict = judge(&history, &[]);
    assert!(verdict.clean, "{verdict}");
}

#[test]
fn i7_a_removed_member_that_is_listed_again() {
    let mut phases = phases();
    phases.push((17 * SECOND, voters(&[1, 2])));
    phases.push((18 * SECOND, with_learner(&[1, 2], 3)));
    assert_breaks(&recorded(phases), Invariant::I7);
}

#[test]
fn i8_boot_comes_back() {
    let mut phases = phases();
    phases.push((18 * SECOND, with_learner(&[1, 2, 3], BOOT)));
    assert_breaks(&recorded(phases), Invariant::I8);
}

#[test]
fn i8_boot_goes_while_another_is_a_learner() {
    let mut phases = phases();
    phases.remove(6);
    phases[6] = (REMOVAL, with_learner(&[1, 2], 3));
    assert_breaks(&recorded(phases), Invariant::I8);
}

#[test]
fn i8_boot_goes_before_all_members_are_there() {
    let mut phases = phases();
    phases.drain(5..7);
    phases[5] = (REMOVAL, voters(&[1, 2]));
    let mut history = recorded(phases);
    history.size = Some(3);
    assert_breaks(&history, Invariant::I8);
}

#[test]
fn i8_boot_goes_while_one_who_remains_is_silent() {
    let mut history = pivot();
    for sample in history
        .statuses
        .iter_mut()
        .filter(|sample| sample.endpoint == 3 && sample.at > REMOVAL - 2 * SECOND && sample.at < REMOVAL + SECOND)
    {
        sample.answer = None;
    }
    assert_breaks(&history, Invariant::I8);
}

#[test]
fn a_watch_that_never_brings_an_acknowledged_write() {
    let mut history = pivot();
    let lost = history.watches[1].events.len() / 2;
    history.watches[1].events.remove(lost);
    assert_breaks(&history, Invariant::LostEvent);
}

#[test]
fn a_list_after_a_410_covers_what_the_watch_did_not_bring() {
    let mut history = pivot();
    let events = history.watches[0].events.split_off(200);
    let last = events.last().unwrap();
    history.watches[0].relists.push(Relist { at: last.at, rv: last.rv, objects: BTreeMap::from([(0, last.rv)]) });
    history.watches[0].gone = 1;
    let verdict = judge(&history, &[]);
    assert!(verdict.clean, "{verdict}");
    assert!(verdict.watches.longest_silence_ms > 10_000.0, "and the silence until it came is seen: {verdict}");
}

#[test]
fn a_failed_write() {
    let mut history = pivot();
    let write = acked_at(&history, 16);
    let due = history.writes[write].due;
    history.writes[write].outcome = Outcome::Failed { at: due + 3 * SECOND, error: "500: etcdserver: request timed out".into() };
    let verdict = assert_breaks(&history, Invariant::FailedWrite);
    assert_eq!((verdict.writes.failed, verdict.writes.failures[0].after_ms), (1, 3_000.0));
}

#[test]
fn a_write_that_never_ended() {
    let mut history = pivot();
    let write = acked_at(&history, 16);
    history.writes[write].outcome = Outcome::Pending;
    assert_breaks(&history, Invariant::FailedWrite);
}

#[test]
fn a_failed_write_that_was_applied_all_the_same_is_no_lost_write() {
    let mut history = pivot();
    let (value, write) = history.writes.iter_mut().enumerate().next_back().unwrap();
    let object = write.object;
    write.outcome = Outcome::Failed { at: END, error: "timeout".into() };
    history.read_back.insert(object, ReadBack::Found { value: Some(value), rv: 9_000 });
    assert_breaks(&history, Invariant::FailedWrite);
}

#[test]
fn too_few_of_the_due_writes_were_sent() {
    let mut history = pivot();
    // The last 6 % but one per object, so that what was acknowledged is still what is read back.
    let count = history.writes.len();
    for write in &mut history.writes[count - 70..count - 10] {
        write.outcome = Outcome::NotSent;
    }
    assert_breaks(&history, Invariant::TooFewWrites);
}

#[test]
fn a_run_that_saw_nothing_is_not_clean() {
    let mut history = pivot();
    history.lists.clear();
    assert_breaks(&history, Invariant::Blind);
    let mut history = pivot();
    history.writes.clear();
    assert_breaks(&history, Invariant::Blind);
    assert!(!judge(&History::default(), &[]).clean);
}

#[test]
fn a_type_of_which_nothing_was_acknowledged_is_not_clean() {
    let mut history = pivot();
    history.objects.push(Object { resource: "secrets".into(), name: "a".into() });
    assert_breaks(&history, Invariant::Blind);
}

#[test]
fn an_outage_shows_as_a_gap_even_when_no_write_fails() {
    let mut history = pivot();
    let (from, until) = (acked_at(&history, 16), acked_at(&history, 18));
    let arrived = history.writes[until].due;
    for write in &mut history.writes[from..until] {
        if let Outcome::Acked { at, .. } = &mut write.outcome {
            *at = arrived;
        }
    }
    let verdict = judge(&history, &[]);
    assert!(verdict.writes.longest_gap_ms > 1_900.0 && verdict.writes.max_ms > 1_900.0, "{verdict}");
}
