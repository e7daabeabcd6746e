//! Told stories: what must come out of each is known beforehand.
#![allow(clippy::panic, clippy::expect_used, reason = "a test ends by it")]

use etcd_operator_plan::{HoldReason, plan};
use etcd_operator_world::{AtSignal, BootHost, Edit, Event, Fault, Interrupt, Rest, Run, Setup, Sight, World};

const PASSES: usize = 6_000;

fn story(world: &World) -> String {
    let lines: Vec<String> = world.trace.story.iter().map(|(at, what)| format!("{at:>8} {what}")).collect();
    lines.join("\n")
}

fn assert_pivoted(run: &Run, size: usize) {
    let world = &run.world;
    let story = story(world);
    assert_eq!(world.trace.violations, [], "{story}");
    assert!(!world.boot_listed(), "{story}");
    assert_eq!(world.our_voters().len(), size, "{story}");
    assert_eq!(world.trace.boot_removals, 1, "{story}");
    assert!(world.boot.tombstone || world.boot.host == BootHost::Elsewhere, "{story}");
}

fn pass(run: &mut Run) {
    run.happen(&Event::Pass { who: 0, sight: Sight::default(), interrupt: Interrupt::None });
}

#[test]
fn the_pivot_completes_at_every_size_and_no_write_fails() {
    for (nodes, size) in [(1, 1), (2, 2), (3, 1), (3, 3), (5, 5), (5, 3)] {
        let mut run = Run::new(&Setup::of(nodes, size), plan);
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        assert_pivoted(&run, size as usize);
        let trace = &run.world.trace;
        assert_eq!(trace.failed, Vec::<u64>::new(), "size {size}: {}", story(&run.world));
        assert!(trace.longest_gap <= 500, "size {size}: {} ms\n{}", trace.longest_gap, story(&run.world));
        assert_eq!(trace.elections, 0, "leadership is moved, never lost\n{}", story(&run.world));
    }
}

#[test]
fn a_boot_on_no_node_is_removed_alive() {
    let mut run = Run::new(&Setup { boot: BootHost::Elsewhere, ..Setup::of(3, 3) }, plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    assert_pivoted(&run, 3);
    assert_eq!(run.world.trace.signals, 0);
}

#[test]
fn an_api_server_that_lists_only_boot_is_held_however_long() {
    let mut run = Run::new(&Setup { boot_only_servers: 1, ..Setup::of(3, 3) }, plan);
    let rest = run.settle(PASSES);
    assert!(matches!(rest, Rest::Hold(HoldReason::ApiServerOnBootMember, _)), "{rest:?}");
    run.advance(3_600_000);
    let rest = run.settle(PASSES);
    assert!(matches!(rest, Rest::Hold(HoldReason::ApiServerOnBootMember, _)), "{rest:?}");
    assert_eq!(run.world.trace.failed, Vec::<u64>::new());
}

#[test]
fn old_api_servers_are_waited_for_in_their_backoff() {
    let mut run = Run::new(&Setup { refused_before: 12, ..Setup::of(3, 3) }, plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    assert_pivoted(&run, 3);
    assert_eq!(run.world.trace.failed, Vec::<u64>::new(), "{}", story(&run.world));
}

#[test]
fn power_cut_of_all_nodes_between_signal_and_removal_comes_back_by_itself() {
    for size in [1, 3] {
        for what in [AtSignal::CrashAnd(Fault::PowerCutAll), AtSignal::And(Fault::PowerCutAll)] {
            let mut run = Run::new(&Setup::of(3, size), plan);
            run.happen(&Event::AtSignal(what));
            assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
            assert!(run.took("PowerCutAll") == 1, "{}", story(&run.world));
            assert_pivoted(&run, size as usize);
        }
    }
}

#[test]
fn a_controller_that_dies_after_the_signal_leaves_boot_to_its_kubelet_and_the_next_one_removes_it() {
    for size in [1, 3] {
        for what in [AtSignal::Crash, AtSignal::Pause(9_000), AtSignal::Pause(60_000)] {
            let mut run = Run::new(&Setup::of(3, size), plan);
            run.happen(&Event::AtSignal(what));
            assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
            assert_pivoted(&run, size as usize);
            assert_eq!(run.world.trace.signals, 2, "{}", story(&run.world));
            // With three voters of ours nobody misses boot meanwhile.
            assert!(size == 1 || run.world.trace.failed.is_empty(), "{}", story(&run.world));
        }
    }
}

#[test]
fn a_controller_that_dies_after_each_of_its_steps_is_replaced_and_the_pivot_completes() {
    for size in [1, 3] {
        for interrupt in [Interrupt::AnswerLost, Interrupt::CrashAfter, Interrupt::CrashBefore] {
            for nth in (0..40).step_by(2) {
                let mut run = Run::new(&Setup::of(3, size), plan);
                for _ in 0..nth {
                    pass(&mut run);
                }
                run.happen(&Event::Pass { who: 0, sight: Sight::default(), interrupt });
                assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
                assert_pivoted(&run, size as usize);
            }
        }
    }
}

#[test]
fn abort_goes_back_to_boot_alone_from_every_step_before_the_removal() {
    for size in [1, 3] {
        for nth in (0..60).step_by(2) {
            let mut run = Run::new(&Setup::of(3, size), plan);
            for _ in 0..nth {
                pass(&mut run);
            }
            run.happen(&Event::Edit(Edit::Abort));
            let rest = run.settle(PASSES);
            assert_eq!(rest, Rest::Done, "size {size}, after {nth}: {}", story(&run.world));
            assert_eq!(run.world.trace.violations, [], "{}", story(&run.world));
            if run.world.trace.boot_removals == 0 {
                assert_eq!(run.world.raft.config.len(), 1, "{}", story(&run.world));
                assert!(run.world.api.seats.is_empty(), "{}", story(&run.world));
            }
        }
    }
}

#[test]
fn hold_stops_before_the_removal_and_at_size_1_before_the_promotion() {
    for (size, voters) in [(1, 0), (3, 3)] {
        let mut run = Run::new(&Setup::of(3, size), plan);
        run.happen(&Event::Edit(Edit::Hold));
        let rest = run.settle(PASSES);
        assert!(matches!(rest, Rest::Hold(HoldReason::HoldBootRemoval, _)), "{rest:?}");
        assert_eq!(run.world.our_voters().len(), voters);
        run.happen(&Event::Edit(Edit::Hold));
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        assert_pivoted(&run, size as usize);
    }
}

#[test]
fn one_grows_to_three_and_to_five_after_the_pivot() {
    let mut run = Run::new(&Setup::of(5, 1), plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    for size in [3, 5] {
        run.happen(&Event::Edit(Edit::Size(size)));
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        assert_pivoted(&run, size as usize);
    }
    assert_eq!(run.world.trace.failed, Vec::<u64>::new());
}

#[test]
fn one_to_three_to_five_to_three_to_one_without_a_failed_write() {
    let mut run = Run::new(&Setup::of(5, 1), plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    for size in [3, 5, 3, 1] {
        run.happen(&Event::Edit(Edit::Size(size)));
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        assert_pivoted(&run, size as usize);
    }
    assert_eq!(run.world.trace.failed, Vec::<u64>::new(), "{}", story(&run.world));
    assert_eq!(run.world.trace.elections, 0, "{}", story(&run.world));
}

#[test]
fn a_size_that_is_edited_back_and_forth_is_never_followed_below_the_quorum() {
    let mut run = Run::new(&Setup::of(5, 3), plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    for size in [5, 1, 4, 2, 5, 3].repeat(4) {
        run.happen(&Event::Edit(Edit::Size(size)));
        for _ in 0..25 {
            pass(&mut run);
        }
    }
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    assert_pivoted(&run, 3);
    assert_eq!(run.world.trace.failed, Vec::<u64>::new(), "{}", story(&run.world));
}

#[test]
fn a_voter_whose_data_is_gone_is_replaced_on_its_node_whoever_led() {
    for size in [3, 5] {
        for node in 0..size as usize {
            let mut run = Run::new(&Setup::of(size as usize, size), plan);
            assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
            let before = run.world.member_on(node);
            run.happen(&Event::Fault(Fault::Wipe(node)));
            assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
            assert_pivoted(&run, size as usize);
            assert_ne!(run.world.member_on(node), before, "{}", story(&run.world));
        }
    }
}

#[test]
fn a_node_that_stays_away_is_replaced_by_another_and_its_member_stays_out_when_it_is_back() {
    for (nodes, size) in [(4, 3), (6, 5)] {
        let mut run = Run::new(&Setup::of(nodes, size), plan);
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        // The API server is on the first.
        let lost = run.world.member_on(1).expect("a member");
        run.happen(&Event::Fault(Fault::PowerCut(1)));
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        assert_pivoted(&run, size as usize);
        assert!(run.world.member_on(nodes - 1).is_some(), "{}", story(&run.world));
        run.happen(&Event::Fault(Fault::PowerOn(1)));
        assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
        assert!(!run.world.raft.runs(lost), "{}", story(&run.world));
        assert_eq!(run.world.member_on(1), None);
    }
}

#[test]
fn a_node_that_is_back_in_time_keeps_its_member() {
    let mut run = Run::new(&Setup::of(4, 3), plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    let member = run.world.member_on(1);
    run.happen(&Event::Fault(Fault::PowerCut(1)));
    for _ in 0..100 {
        pass(&mut run);
    }
    run.happen(&Event::Fault(Fault::PowerOn(1)));
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    assert_eq!(run.world.member_on(1), member, "{}", story(&run.world));
    assert_eq!(run.took("RemoveMember"), 0, "{}", story(&run.world));
}

#[test]
fn a_node_that_stays_away_and_has_no_successor_is_waited_for() {
    let mut run = Run::new(&Setup::of(3, 3), plan);
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    run.happen(&Event::Fault(Fault::PowerCut(2)));
    let rest = run.settle(PASSES);
    assert!(matches!(rest, Rest::Hold(HoldReason::MemberDown, _)), "{rest:?}\n{}", story(&run.world));
    run.happen(&Event::Fault(Fault::PowerOn(2)));
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    assert_eq!(run.took("RemoveMember"), 0, "{}", story(&run.world));
}

#[test]
fn a_seat_is_not_taken_away_by_a_controller_that_thought_so_before_another_one_filled_it() {
    let mut run = Run::new(&Setup::of(3, 3), plan);
    while run.world.api.seats.len() < 3 {
        pass(&mut run);
    }
    run.happen(&Event::Edit(Edit::Size(1)));
    run.happen(&Event::Think { who: 1, sight: Sight::default() });
    run.happen(&Event::Edit(Edit::Size(3)));
    while run.world.member_on(2).is_none() {
        pass(&mut run);
    }
    run.happen(&Event::Act { who: 1 });
    assert_eq!(run.took("B: Unseat"), 1, "{}", story(&run.world));
    assert_eq!(run.settle(PASSES), Rest::Done, "{}", story(&run.world));
    assert_pivoted(&run, 3);
}
