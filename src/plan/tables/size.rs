//! A size that is changed in the middle of a pivot. Only one member of ours that takes over from boot alone is hurried; any other set of
//! members can wait, and is asked for everything.

use super::*;

/// Several of ours vote and one leads, boot is still listed, and the size is now 1.
fn lowered() -> [Observed; 2] {
    [2, 3].map(|size| {
        let mut o = led_by_ours(size);
        o.spec.size = 1;
        o
    })
}

#[test]
fn more_members_than_wanted_do_not_keep_boot() {
    // Scaling in is another matter, which is held after the pivot.
    for o in lowered() {
        drains(&o, 1);
    }
    let mut o = led_by_ours(5);
    o.spec.size = 3;
    drains(&o, 1);
}

#[test]
fn a_lowered_size_makes_no_old_gate_good_enough() {
    for mut o in lowered() {
        o.gate = Gate::Passed { at_ms: NOW - 5_001 };
        does(&o, Step::CheckGate);
    }
}

#[test]
fn a_lowered_size_does_not_get_past_hold() {
    for mut o in lowered() {
        o.spec.hold_boot_removal = true;
        holds(&o, HoldReason::HoldBootRemoval, "until it is false");
    }
}

#[test]
fn boot_is_signalled_three_times_before_a_lowered_size_holds_and_no_voter_goes() {
    for mut o in lowered() {
        drain(&mut o, BootDrain::StartedAgain { attempt: 2 });
        drains(&o, 3);
        drain(&mut o, BootDrain::StartedAgain { attempt: 3 });
        holds(&o, HoldReason::BootCameBack, "holdBootRemoval");
    }
}

#[test]
fn a_raised_size_gives_seats_though_boot_came_back_as_often_as_size_1_allows() {
    let mut o = led_by_ours(1);
    drain(&mut o, BootDrain::StartedAgain { attempt: 2 });
    o.spec.size = 3;
    does(&o, Step::AssignSeats { nodes: vec![name(2), name(3)] });
}
