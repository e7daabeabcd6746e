//! Gate, leader, drain, tombstone.

use super::*;

#[test]
fn the_gate_must_be_fresh_and_is_not_asked_for_all_the_time() {
    let mut o = ready(3);
    for (gate, answer) in [
        (Gate::NotChecked, Some(Step::CheckGate)),
        (Gate::Passed { at_ms: NOW - 5_001 }, Some(Step::CheckGate)),
        (Gate::Passed { at_ms: NOW - 5_000 }, Some(Step::MoveLeader { from: BOOT, to: id(1) })),
        (Gate::NotYet { at_ms: NOW - 1_000, why: "cp2 lags".into() }, Some(Step::CheckGate)),
        (Gate::NotYet { at_ms: NOW - 999, why: "cp2 lags".into() }, None),
    ] {
        o.gate = gate;
        match answer {
            Some(step) => does(&o, step),
            None => waits(&o, WaitFor::BootRemovalGate),
        }
    }
    o.gate = Gate::HashMismatch { what: "cp2 0xa, boot 0xb".into() };
    holds(&o, HoldReason::HashMismatch, "cp2 0xa");
}

#[test]
fn leadership_goes_to_the_voter_that_lags_least_on_two_samples() {
    let mut o = ready(3);
    member(&mut o, 1).health = lagging(90, Some(10));
    member(&mut o, 2).health = lagging(20, Some(20));
    member(&mut o, 3).health = lagging(0, None);
    does(&o, Step::MoveLeader { from: BOOT, to: id(2) });
    for n in 1..=3 {
        member(&mut o, n).health = lagging(0, None);
    }
    waits(&o, WaitFor::LearnerCatchesUp);
}

#[test]
fn boot_is_drained_once_ours_lead() {
    for size in [1, 2, 3, 5] {
        drains(&led_by_ours(size), 1);
    }
}

#[test]
fn a_boot_that_did_not_answer_may_lead_and_is_left_alone_until_ours_do() {
    for size in [1, 3] {
        let mut o = led_by_ours(size);
        members(&mut o)[0].health = EtcdHealth::Unknown;
        member(&mut o, 1).health = follower();
        waits(&o, WaitFor::VotersHealthy);
    }
}

#[test]
fn a_dead_boot_is_removed_too() {
    let mut o = led_by_ours(3);
    members(&mut o)[0].health = EtcdHealth::Unknown;
    drains(&o, 1);
    host(&mut o, BootHost::NotFound);
    does(&o, Step::RemoveBoot { boot: BOOT, how: Removal::Alive });
}

#[test]
fn where_boot_runs_decides_how_it_goes() {
    let mut o = led_by_ours(3);
    host(&mut o, BootHost::NotFound);
    holds(&o, HoldReason::BootProcessNotFound, "no etcd process");
    host(&mut o, BootHost::Elsewhere);
    o.clients = ClientCounts::Known { listening_since_ms: 0, remotes: Vec::new() };
    does(&o, Step::RemoveBoot { boot: BOOT, how: Removal::Alive });
}

#[test]
fn boot_stays_while_a_voter_of_ours_is_unhealthy() {
    for size in [2, 3, 5] {
        for health in [EtcdHealth::Unhealthy, EtcdHealth::Unknown] {
            let mut o = led_by_ours(size);
            member(&mut o, 2).health = health;
            waits(&o, WaitFor::VotersHealthy);
        }
    }
}

#[test]
fn an_order_that_nobody_carried_out_is_taken_back_before_anything_else() {
    let mut o = led_by_ours(3);
    o.spec.abort = true;
    drain(&mut o, BootDrain::Ordered { attempt: 1 });
    does(&o, Step::WithdrawBootDrain);
}

#[test]
fn a_signalled_boot_is_waited_for_and_nothing_is_begun_beside_it() {
    for mut o in [led_by_ours(1), led_by_ours(3)] {
        o.spec.size = 5;
        o.spec.hold_boot_removal = true;
        drain(&mut o, BootDrain::Signalled { attempt: 1 });
        waits(&o, WaitFor::BootDrain);
    }
}

#[test]
fn a_boot_that_came_back_is_tried_again_and_then_held() {
    for failed in [false, true] {
        let after = |attempt| if failed { BootDrain::Failed { attempt } } else { BootDrain::StartedAgain { attempt } };
        let mut o = led_by_ours(3);
        for attempt in [1, 2] {
            drain(&mut o, after(attempt));
            drains(&o, attempt + 1);
        }
        drain(&mut o, after(3));
        holds(&o, HoldReason::BootCameBack, "holdBootRemoval");
    }
}

#[test]
fn at_size_1_there_is_one_retry_and_then_our_voter_goes_and_it_is_held() {
    let mut o = led_by_ours(1);
    drain(&mut o, BootDrain::StartedAgain { attempt: 1 });
    drains(&o, 2);
    drain(&mut o, BootDrain::StartedAgain { attempt: 2 });
    does(&o, Step::MoveLeader { from: id(1), to: BOOT });
    members(&mut o)[0].health = leader();
    member(&mut o, 1).health = follower();
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
    members(&mut o).pop();
    holds(&o, HoldReason::BootCameBack, "agent's log");
    o.spec.hold_boot_removal = true;
    does(&o, Step::WithdrawBootDrain);
}

#[test]
fn hold_set_while_boot_keeps_coming_back_does_not_keep_two_voters_for_ever() {
    let mut o = led_by_ours(1);
    o.spec.hold_boot_removal = true;
    drain(&mut o, BootDrain::StartedAgain { attempt: 1 });
    drains(&o, 2);
    drain(&mut o, BootDrain::StartedAgain { attempt: 2 });
    does(&o, Step::MoveLeader { from: id(1), to: BOOT });
}

#[test]
fn hold_at_two_voters_that_passed_no_gate_goes_back_to_boot() {
    let mut o = joined(3, 1);
    o.spec.hold_boot_removal = true;
    o.spec.size = 1;
    does(&o, Step::Unseat { node: name(3) });
    o.seats.truncate(1);
    connected(&mut o);
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
}

#[test]
fn hold_stops_before_the_removal_and_at_size_1_before_the_promotion() {
    for size in [1, 2, 3, 5] {
        let mut o = ready(size);
        o.spec.hold_boot_removal = true;
        holds(&o, HoldReason::HoldBootRemoval, "until it is false");
    }
    // Nothing rests at two voters, of which none may fail: what was begun is ended.
    let mut o = led_by_ours(1);
    o.spec.hold_boot_removal = true;
    drains(&o, 1);
}

#[test]
fn skip_is_done_once_ours_are_there() {
    let mut o = ready(3);
    o.spec.skip_boot_removal = true;
    assert_eq!(plan(&o), Plan::Done);
    // At size 1 ours is a learner until then: it is made a voter, as boot stays.
    let mut o = ready(1);
    o.spec.skip_boot_removal = true;
    assert!(matches!(plan(&o), Plan::Do(Step::Promote { .. })), "{:?}", plan(&o));
    let mut o = joined(3, 2);
    o.spec.skip_boot_removal = true;
    does(&o, Step::AddLearner { node: name(3) });
}

#[test]
fn at_size_1_a_controller_that_finds_two_voters_and_no_gate_checks_it_first() {
    let mut o = led_by_ours(1);
    o.gate = Gate::NotChecked;
    does(&o, Step::CheckGate);
    // Passed with these members, at whatever time: with two voters nothing is waited for twice.
    o.gate = Gate::Passed { at_ms: NOW - 600_000 };
    drains(&o, 1);
}

#[test]
fn the_tombstone_follows_the_removal() {
    for size in [1, 3] {
        let mut o = removed(size);
        drain(&mut o, BootDrain::Signalled { attempt: 1 });
        for (state, answer) in [
            (Tombstone::None, Plan::Do(Step::TombstoneBoot)),
            (Tombstone::Pending, Plan::Wait { what: WaitFor::BootTombstone, look_again_ms: 500 }),
            (Tombstone::Set, Plan::Done),
            (Tombstone::Impossible, Plan::Done),
        ] {
            if let Boot::Member { tombstone, .. } = &mut o.boot {
                *tombstone = state;
            }
            assert_eq!(plan(&o), answer);
        }
    }
}

#[test]
fn after_the_pivot_a_member_that_is_down_or_refused_is_not_done() {
    let mut o = removed(3);
    if let Boot::Member { tombstone, .. } = &mut o.boot {
        *tombstone = Tombstone::Set;
    }
    assert_eq!(plan(&o), Plan::Done);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    waits(&o, WaitFor::VotersHealthy);
    o.seats[1].keeper = KeeperView::Refused { reason: "ArchiveFull".into(), message: "make room".into() };
    holds(&o, HoldReason::MemberRefused, "ArchiveFull");
}

#[test]
fn a_boot_that_its_command_stops_goes_like_a_pod() {
    for size in [1, 3] {
        let mut o = led_by_ours(size);
        host(&mut o, BootHost::Command);
        drains(&o, 1);
        drain(&mut o, BootDrain::StartedAgain { attempt: 1 });
        drains(&o, 2);
        drain(&mut o, BootDrain::Signalled { attempt: 2 });
        waits(&o, WaitFor::BootDrain);
        drain(&mut o, BootDrain::Ordered { attempt: 2 });
        does(&o, Step::WithdrawBootDrain);
    }
    let mut o = led_by_ours(3);
    host(&mut o, BootHost::Command);
    drain(&mut o, BootDrain::Failed { attempt: 3 });
    holds(&o, HoldReason::BootCameBack, "boot's command printed");
    // It need not answer to be killed.
    drain(&mut o, BootDrain::None);
    members(&mut o)[0].health = EtcdHealth::Unknown;
    drains(&o, 1);
}

#[test]
fn a_command_that_nobody_runs_is_held_at_once_and_nothing_rests_at_two_voters() {
    let mut o = led_by_ours(3);
    host(&mut o, BootHost::Command);
    drain(&mut o, BootDrain::Unanswered);
    holds(&o, HoldReason::BootCommandMissing, "--boot-command");
    let mut o = led_by_ours(1);
    host(&mut o, BootHost::Command);
    drain(&mut o, BootDrain::Unanswered);
    does(&o, Step::MoveLeader { from: id(1), to: BOOT });
    members(&mut o)[0].health = leader();
    member(&mut o, 1).health = follower();
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
    members(&mut o).pop();
    holds(&o, HoldReason::BootCommandMissing, "goes on as soon as");
    // Somebody runs it now: the next member of the seat has a new name.
    drain(&mut o, BootDrain::None);
    does(&o, Step::Unseat { node: name(1) });
    // A human holds: counting begins anew.
    drain(&mut o, BootDrain::Unanswered);
    o.spec.hold_boot_removal = true;
    does(&o, Step::WithdrawBootDrain);
}
