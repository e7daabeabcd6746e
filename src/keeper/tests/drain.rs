//! Drain, remove, kill: both ends, and a crash in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Bed, is_etcd};
use etcd_operator_keeper::contract::{DrainStep, OneShot, Phase};

fn drain(id: &str) -> Option<OneShot> {
    Some(OneShot { id: id.into() })
}

#[test]
fn a_member_that_is_removed_while_it_drains_is_killed_at_once() {
    let bed = Bed::with_boot();
    let mut node = bed.joined("cp1");
    let etcd = node.etcd_pid();
    // A watch keeps the drain, and with it the member's vote, alive.
    let watch = bed.watch(&node.client());
    node.change_order(|o| o.drain = drain("drain-1"));
    node.wait_phase(Phase::Draining, "Removing");
    bed.remove(&bed.boot().client, &node.member_id());
    let removed = Instant::now();
    let state = node.wait_phase(Phase::Stopped, "MemberRemoved");
    let took = removed.elapsed();
    eprintln!("gone {took:?} after the removal");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(!is_etcd(etcd, &node.paths.data));
    assert_eq!(state.drain.unwrap().step, DrainStep::Gone, "{}", node.log());
    assert!(state.removed.contains(&node.member_id()) && state.consumed.contains(&"drain-1".to_owned()));
    node.stays(Phase::Stopped, "MemberRemoved");
    drop(watch);
}

#[test]
fn a_voter_keeps_its_vote_while_it_drains_also_when_nobody_watches() {
    let bed = Bed::with_boot();
    let mut node = bed.joined("cp1");
    node.change_order(|o| o.drain = drain("drain-1"));
    node.wait_phase(Phase::Draining, "Removing");
    // Of two voters: without this one's vote nothing could be removed, and the drain would end in a start.
    bed.remove(&bed.boot().client, &node.member_id());
    let state = node.wait_phase(Phase::Stopped, "MemberRemoved");
    assert_eq!(state.drain.unwrap().step, DrainStep::Gone, "{}", node.log());
}

#[test]
fn a_drain_waits_until_the_others_can_do_without_this_member() {
    let mut bed = Bed::with_boot();
    let mut node = bed.joined("cp1");
    let mut other = bed.joined("cp2");
    let etcd = node.etcd_pid();
    other.power_off();
    // As if the order came late: boot alone is no quorum of the two that would be left.
    node.change_order(|o| o.drain = drain("drain-1"));
    common::wait_for("the refusal", || node.log(), || node.log().contains("etcd is not drained yet").then_some(()));
    std::thread::sleep(Duration::from_secs(3));
    assert!(is_etcd(etcd, &node.paths.data), "{}", node.log());
    assert_eq!(node.state().phase, Phase::Running);
    other.start_keeper();
    node.wait_phase(Phase::Draining, "Removing");
    bed.remove(&bed.boot().client, &node.member_id());
    node.wait_phase(Phase::Stopped, "MemberRemoved");
    bed.boot.as_mut().unwrap().end();
}

#[test]
fn a_drain_that_is_found_after_a_power_cut_needs_a_quorum_with_this_member_counted() {
    let bed = Bed::with_boot();
    let mut node = bed.joined("cp1");
    node.power_off();
    node.change_order(|o| o.drain = drain("drain-1"));
    node.start_keeper();
    // Of two voters the other one is well; but whoever ordered it may not be there to remove this one.
    node.wait_state("the refusal", |s| s.message.contains("not drained yet: 1 of the 1 other voters"));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(node.state().phase, Phase::Running);
    // Ordered anew.
    node.change_order(|o| o.drain = drain("drain-2"));
    node.wait_phase(Phase::Draining, "Removing");
    bed.remove(&bed.boot().client, &node.member_id());
    node.wait_phase(Phase::Stopped, "MemberRemoved");
}

#[test]
fn a_member_that_is_not_removed_is_started_again_and_not_drained_twice() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    let etcd = node.etcd_pid();
    node.change_order(|o| o.drain = drain("drain-1"));
    let start = Instant::now();
    node.wait_phase(Phase::Draining, "Removing");
    let state = node.wait_state("its return", |s| s.phase == Phase::Running);
    assert!(start.elapsed() > Duration::from_secs(9), "{:?}", start.elapsed());
    assert_eq!(state.drain.unwrap().step, DrainStep::StartedAgain);
    assert!(state.consumed.contains(&"drain-1".to_owned()) && state.etcd_pid != Some(etcd));
    // The same order again, by a new keeper: it was carried out.
    node.power_off();
    node.start_keeper();
    let state = node.wait_state("its return", |s| s.phase == Phase::Running);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(node.state().etcd_pid, state.etcd_pid);
    // Another one is another matter.
    node.change_order(|o| o.drain = drain("drain-2"));
    node.wait_phase(Phase::Draining, "Removing");
    bed.remove(&bed.boot().client, &node.member_id());
    node.wait_phase(Phase::Stopped, "MemberRemoved");
}

#[test]
fn no_answer_from_the_others_is_no_removal() {
    let mut bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.change_order(|o| o.drain = drain("drain-1"));
    node.wait_phase(Phase::Draining, "Removing");
    bed.boot.as_mut().unwrap().end();
    let state = node.wait_phase(Phase::Running, "ColdStart");
    assert_eq!(state.drain.unwrap().step, DrainStep::StartedAgain);
    assert!(state.removed.is_empty());
}

#[test]
fn a_keeper_that_finds_a_drain_open_decides_by_the_table() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.change_order(|o| o.drain = drain("drain-1"));
    node.wait_phase(Phase::Draining, "Removing");
    node.power_off();
    node.start_keeper();
    let state = node.wait_phase(Phase::Running, "Listed");
    assert_eq!(state.drain.unwrap().step, DrainStep::StartedAgain);

    node.change_order(|o| o.drain = drain("drain-2"));
    node.wait_phase(Phase::Draining, "Removing");
    node.power_off();
    bed.remove(&bed.boot().client, &node.member_id());
    node.start_keeper();
    let state = node.wait_phase(Phase::Stopped, "MemberRemoved");
    assert_eq!((state.drain.unwrap().step, state.etcd_starts), (DrainStep::Gone, 0));
    assert!(state.consumed.contains(&"drain-2".to_owned()));
}
