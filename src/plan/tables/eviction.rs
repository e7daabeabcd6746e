//! Learners that make no progress, and learners whose data is gone.

use super::*;

/// Two voters and, on cp3, a learner that is behind and has made no progress for so long. All 5 nodes are free to take its place.
fn stalled(for_ms: u64) -> Observed {
    let mut o = joined(3, 2);
    list(&mut o, 3, learner(EtcdHealth::Unknown));
    o.seats[2].no_progress_since_ms = Some(NOW - for_ms);
    o
}

/// After the pivot: three voters, and a fourth seat's learner.
fn growing(for_ms: u64) -> Observed {
    let mut o = removed(3);
    if let Boot::Member { tombstone, .. } = &mut o.boot {
        *tombstone = Tombstone::Set;
    }
    o.spec.size = 4;
    o.seats.push(seat(4));
    list(&mut o, 4, learner(lagging(5_000, Some(5_000))));
    o.seats[3].no_progress_since_ms = Some(NOW - for_ms);
    o
}

fn evicts(o: &Observed, n: usize) {
    does(o, Step::Evict { node: name(n), member: id(n) });
}

fn refused(reason: &str) -> KeeperView {
    KeeperView::Refused { reason: reason.into(), message: "look at its disk".into() }
}

#[test]
fn a_learner_is_evicted_after_the_patience_and_not_a_moment_sooner() {
    waits(&stalled(PATIENCE - 1), WaitFor::LearnerStarts);
    evicts(&stalled(PATIENCE), 3);
    waits(&growing(PATIENCE - 1), WaitFor::LearnerCatchesUp);
    evicts(&growing(PATIENCE), 4);
    let mut o = stalled(PATIENCE);
    o.learner_patience_ms += 1;
    waits(&o, WaitFor::LearnerStarts);
    // Nobody has watched it yet.
    o.seats[2].no_progress_since_ms = None;
    waits(&o, WaitFor::LearnerStarts);
}

#[test]
fn in_a_pivot_to_1_the_learner_that_died_while_its_clients_were_waited_for_goes_too() {
    let mut o = ready(1);
    member(&mut o, 1).health = EtcdHealth::Unknown;
    o.seats[0].no_progress_since_ms = Some(NOW - PATIENCE);
    evicts(&o, 1);
}

#[test]
fn one_that_has_caught_up_is_never_stalled() {
    let mut o = stalled(3 * PATIENCE);
    member(&mut o, 3).health = lagging(100, Some(5_000));
    waits(&o, WaitFor::LearnerCatchesUp);
    member(&mut o, 3).health = lagging(101, Some(101));
    evicts(&o, 3);
}

#[test]
fn a_voter_is_never_evicted_whatever_is_said_of_it() {
    for health in [EtcdHealth::Unknown, EtcdHealth::Unhealthy, lagging(9_000, Some(9_000))] {
        let mut o = stalled(PATIENCE);
        for n in 1..=3 {
            member(&mut o, n).is_learner = false;
            member(&mut o, n).health = health;
            o.seats[n - 1].no_progress_since_ms = Some(NOW - 3 * PATIENCE);
            o.seats[n - 1].keeper = refused("DataLost");
        }
        assert!(!matches!(plan(&o), Plan::Do(Step::Evict { .. })), "{health:?}: {:?}", plan(&o));
    }
}

#[test]
fn a_learner_that_was_not_told_its_id_has_had_no_time_to_be_slow() {
    let mut o = stalled(PATIENCE);
    o.seats[2].ordered = Some(MemberId(99));
    does(&o, Step::StartMember { node: name(3), member: id(3) });
}

#[test]
fn nothing_is_evicted_without_a_quorum_or_a_linearizable_list() {
    let mut o = stalled(PATIENCE);
    for n in 1..=2 {
        member(&mut o, n).health = EtcdHealth::Unknown;
    }
    waits(&o, WaitFor::LearnerStarts);
    o.etcd = Etcd::Unknown { why: "no leader".into() };
    holds(&o, HoldReason::EtcdUnreachable, "no leader");
}

#[test]
fn a_silent_agent_of_another_seat_keeps_nobody_from_being_evicted() {
    let mut o = joined(5, 2);
    list(&mut o, 3, learner(EtcdHealth::Unknown));
    o.seats[2].no_progress_since_ms = Some(NOW - PATIENCE);
    o.nodes[3].agent = AgentView::Silent;
    evicts(&o, 3);
}

#[test]
fn the_human_comes_first() {
    for set in [|s: &mut Spec| s.paused = true, |s: &mut Spec| s.size = 0] {
        let mut o = stalled(PATIENCE);
        set(&mut o.spec);
        assert!(!matches!(plan(&o), Plan::Do(_)), "{:?}", plan(&o));
    }
    let mut o = stalled(PATIENCE);
    o.spec.abort = true;
    does(&o, Step::RemoveMember { node: name(3), member: id(3) });
    // No longer wanted: it goes as such, and its node is not remembered as a bad one.
    let mut o = growing(PATIENCE);
    o.spec.size = 3;
    does(&o, Step::RemoveMember { node: name(4), member: id(4) });
}

/// As `stalled`, the learner removed.
fn evicted() -> Observed {
    let mut o = stalled(PATIENCE);
    members(&mut o).pop();
    o.nodes[2].evicted_ms = Some(NOW - 1_000);
    o
}

#[test]
fn the_seat_is_given_back_and_goes_to_another_node() {
    let mut o = evicted();
    does(&o, Step::Unseat { node: name(3) });
    o.seats.pop();
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    // Of nodes that were all evicted from, to the one where that is the longest ago.
    for (n, ago) in [(3, 30_000), (4, 20_000), (5, 40_000)] {
        o.nodes[n - 1].evicted_ms = Some(NOW - ago);
    }
    does(&o, Step::AssignSeats { nodes: vec![name(5)] });
}

#[test]
fn an_eviction_counts_more_than_zones_for_an_hour() {
    let mut o = evicted();
    o.now_ms += 20 * PATIENCE;
    o.seats.pop();
    for (node, zone) in o.nodes.iter_mut().zip(["a", "b", "c", "a", "b"]) {
        node.zone = zone.into();
    }
    o.nodes[2].evicted_ms = Some(o.now_ms - 12 * PATIENCE + 1);
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    o.nodes[2].evicted_ms = Some(o.now_ms - 12 * PATIENCE);
    does(&o, Step::AssignSeats { nodes: vec![name(3)] });
}

#[test]
fn a_node_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
    let mut o = evicted();
    o.seats.pop();
    o.nodes.truncate(3);
    let now = o.now_ms + 1_000 * PATIENCE;
    o.now_ms = now;
    for (evictions, patiences) in [(1, 0), (2, 2), (3, 4), (4, 8), (7, 64), (8, 64), (u32::MAX, 64)] {
        let node = &mut o.nodes[2];
        (node.evictions, node.evicted_ms) = (evictions, Some(now - patiences * PATIENCE));
        does(&o, Step::AssignSeats { nodes: vec![name(3)] });
        if patiences > 0 {
            o.nodes[2].evicted_ms = Some(now - patiences * PATIENCE + 1);
            holds(&o, HoldReason::NotEnoughNodes, "cp3: tried again later, after several evictions");
        }
    }
}

#[test]
fn the_same_node_is_the_last_resort_and_waits_its_turn() {
    let mut o = evicted();
    o.seats.pop();
    o.nodes.truncate(3);
    does(&o, Step::AssignSeats { nodes: vec![name(3)] });
    o.nodes[2].readiness = Readiness::NotReady;
    holds(&o, HoldReason::NotEnoughNodes, "add nodes");
}

#[test]
fn a_member_that_somebody_removed_gives_its_name_and_id_up() {
    let mut o = joined(3, 3);
    members(&mut o).pop();
    does(&o, Step::Unseat { node: name(3) });
    // It has not been told an ID: nothing is used up.
    o.seats[2].ordered = None;
    does(&o, Step::AddLearner { node: name(3) });
}

#[test]
fn a_learner_whose_data_is_gone_goes_at_once_but_not_again_and_again() {
    for mut o in [stalled(0), growing(0)] {
        let n = o.seats.len();
        for reason in crate::DATA_IS_GONE.into_iter().chain([crate::DATA_IS_CORRUPT]) {
            o.seats[n - 1].keeper = refused(reason);
            evicts(&o, n);
        }
        // A disk that loses it each time.
        o.nodes[n - 1].evicted_ms = Some(NOW - PATIENCE + 1);
        holds(&o, HoldReason::MemberRefused, crate::DATA_IS_CORRUPT);
        o.nodes[n - 1].evicted_ms = Some(NOW - PATIENCE);
        evicts(&o, n);
        // What may pass is given time.
        o.seats[n - 1].keeper = refused("DataInUse");
        holds(&o, HoldReason::MemberRefused, "DataInUse");
        o.seats[n - 1].no_progress_since_ms = Some(NOW - PATIENCE);
        evicts(&o, n);
    }
}

mod progress {
    use crate::{Progress, Sample};

    const PATIENCE: u64 = 40_000;

    fn size(n: u64) -> Sample {
        Sample { size: Some(n), ..Sample::default() }
    }

    /// Since when there was no progress after these samples, a second apart from 0 on.
    fn since(samples: &[Sample]) -> u64 {
        let mut progress = Progress::begin(0, samples[0]);
        for (at, sample) in (0..).step_by(1_000).zip(samples).skip(1) {
            progress.note(at, *sample, PATIENCE);
        }
        progress.since_ms()
    }

    #[test]
    fn growth_is_what_goes_beyond_the_most_that_was_seen() {
        assert_eq!(since(&[size(5), size(5), size(5)]), 0);
        assert_eq!(since(&[size(5), size(6), size(6)]), 1_000);
        // A snapshot that breaks off and begins again.
        assert_eq!(since(&[size(5), size(0), size(3), size(5)]), 0);
        let applied = |n| Sample { applied: Some(n), lag: Some(9_000), ..Sample::default() };
        assert_eq!(since(&[applied(5), applied(6), applied(6)]), 1_000);
    }

    #[test]
    fn what_is_not_known_is_neither_growth_nor_a_reset() {
        let unknown = Sample::default();
        assert_eq!(since(&[unknown, unknown, unknown]), 0);
        assert_eq!(since(&[size(5), unknown, size(5)]), 0);
        // The first word of its agent is news.
        assert_eq!(since(&[unknown, size(5), size(5)]), 1_000);
    }

    #[test]
    fn while_it_has_caught_up_the_count_does_not_begin() {
        let lag = |n| Sample { applied: Some(7), lag: Some(n), ..Sample::default() };
        assert_eq!(since(&[lag(0), lag(0), lag(100), lag(101), lag(101)]), 2_000);
    }

    #[test]
    fn after_a_time_in_which_nobody_looked_the_count_begins_anew() {
        let mut progress = Progress::begin(0, size(5));
        progress.note(PATIENCE / 4, size(5), PATIENCE);
        assert_eq!(progress.since_ms(), 0);
        progress.note(PATIENCE / 2 + 1, size(5), PATIENCE);
        assert_eq!(progress.since_ms(), PATIENCE / 2 + 1);
        assert_eq!(progress.most(), (Some(5), None));
        progress.note(PATIENCE / 2 + 2, Sample { size: Some(3), applied: Some(9), lag: None }, PATIENCE);
        assert_eq!(progress.most(), (Some(5), Some(9)), "what was there before and is no more was no growth");
        let mut progress = Progress::begin(PATIENCE / 2 + 1, size(5));
        // A clock that is set back evicts nobody.
        progress.note(1_000, size(5), PATIENCE);
        assert_eq!((progress.since_ms(), progress.seen_ms()), (PATIENCE / 2 + 1, 1_000));
    }
}
