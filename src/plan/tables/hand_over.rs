//! Another keeper on each seat, after an upgrade of the operator.

use super::*;

/// After the pivot: all seats vote and run.
fn at_rest(size: u32) -> Observed {
    let mut o = removed(size);
    if let Boot::Member { tombstone, .. } = &mut o.boot {
        *tombstone = Tombstone::Set;
    }
    for seat in &mut o.seats {
        (seat.keeper, seat.binary) = (KeeperView::Running, KeeperBinary::Current);
    }
    assert_eq!(plan(&o), Plan::Done);
    o
}

/// The operator was upgraded.
fn upgraded(size: u32) -> Observed {
    let mut o = at_rest(size);
    o.seats.iter_mut().for_each(|s| s.binary = KeeperBinary::Outdated);
    o
}

#[test]
fn keepers_are_handed_over_one_after_the_other() {
    for size in [1, 3, 5] {
        let mut o = upgraded(size);
        for n in 1..=size as usize {
            does(&o, Step::HandOverKeeper { node: name(n) });
            for binary in [KeeperBinary::Ordered, KeeperBinary::HandingOver] {
                o.seats[n - 1].binary = binary;
                waits(&o, WaitFor::KeeperHandOver);
            }
            o.seats[n - 1].binary = KeeperBinary::Current;
        }
        assert_eq!(plan(&o), Plan::Done);
    }
}

#[test]
fn a_hand_over_that_was_refused_holds_and_no_other_follows() {
    let mut o = upgraded(3);
    o.seats[1].binary = KeeperBinary::Refused { message: "its self-check ended with exit code 1".into() };
    holds(&o, HoldReason::KeeperHandOverFailed, "cp2: its self-check ended with exit code 1");
    // It stands in the way of nothing.
    o.spec.size = 5;
    does(&o, Step::AssignSeats { nodes: vec![name(4), name(5)] });
    o.spec.size = 3;
    member(&mut o, 1).health = EtcdHealth::Unknown;
    waits(&o, WaitFor::VotersHealthy);
}

#[test]
fn nothing_is_handed_over_beside_anything_else() {
    let disturbed: [fn(&mut Observed); 9] = [
        |o| o.spec.paused = true,
        |o| o.spec.size = 4,
        |o| member(o, 2).health = EtcdHealth::Unknown,
        |o| member(o, 2).health = EtcdHealth::Unhealthy,
        |o| member(o, 3).is_learner = true,
        |o| o.seats[2].keeper = KeeperView::NotPrepared { why: "its agent reports a problem".into() },
        |o| o.seats[2].keeper = KeeperView::Stopped,
        |o| o.nodes[0].cordoned = true,
        |o| o.nodes[2].readiness = Readiness::NotReady,
    ];
    for (case, disturb) in disturbed.iter().enumerate() {
        let mut o = upgraded(3);
        disturb(&mut o);
        let is_other = !matches!(plan(&o), Plan::Do(Step::HandOverKeeper { .. }));
        assert!(is_other, "case {case}: {:?}", plan(&o));
    }
    // A node without a seat is nobody's concern.
    let mut o = upgraded(3);
    o.nodes[4].cordoned = true;
    does(&o, Step::HandOverKeeper { node: name(1) });
}

#[test]
fn an_order_that_has_not_begun_is_called_off_when_something_is_not_well() {
    let disturbed: [fn(&mut Observed); 5] = [
        |o| member(o, 2).health = EtcdHealth::Unknown,
        |o| member(o, 2).health = EtcdHealth::Unhealthy,
        |o| member(o, 3).is_learner = true,
        |o| o.nodes[2].cordoned = true,
        |o| o.nodes[1].readiness = Readiness::NotReady,
    ];
    for (case, disturb) in disturbed.iter().enumerate() {
        let mut o = upgraded(3);
        o.seats[0].binary = KeeperBinary::Ordered;
        disturb(&mut o);
        assert_eq!(plan(&o), Plan::Do(Step::CallOffHandOver { node: name(1) }), "case {case}");
        // One that has begun is not: it is over in a moment.
        o.seats[0].binary = KeeperBinary::HandingOver;
        assert_ne!(plan(&o), Plan::Do(Step::CallOffHandOver { node: name(1) }), "case {case}");
    }
    // Its own member may be down by the very hand-over, whose end is not known yet.
    let mut o = upgraded(3);
    o.seats[0].binary = KeeperBinary::Ordered;
    member(&mut o, 1).health = EtcdHealth::Unknown;
    assert_ne!(plan(&o), Plan::Do(Step::CallOffHandOver { node: name(1) }));
    // What its own agent has to say does not end it: it would be ordered again at once.
    let mut o = upgraded(3);
    o.seats[0].binary = KeeperBinary::Ordered;
    o.seats[0].keeper = KeeperView::NotPrepared { why: "its agent has no room for the binary".into() };
    assert_ne!(plan(&o), Plan::Do(Step::CallOffHandOver { node: name(1) }));
}

#[test]
fn never_during_a_pivot() {
    for mut o in [before_the_first_change(3, 3), seated(3), joined(3, 2), ready(3), led_by_ours(3), removed(3), ready(1)] {
        for seat in &mut o.seats {
            (seat.keeper, seat.binary) = (KeeperView::Running, KeeperBinary::Outdated);
        }
        let is_other = !matches!(plan(&o), Plan::Do(Step::HandOverKeeper { .. }));
        assert!(is_other, "{:?}", plan(&o));
    }
}

#[test]
fn a_keeper_of_which_nothing_is_known_is_left_alone() {
    let mut o = at_rest(3);
    o.seats[0].binary = KeeperBinary::Unknown;
    assert_eq!(plan(&o), Plan::Done);
    // Its neighbours are not: they say what they are.
    o.seats[1].binary = KeeperBinary::Outdated;
    does(&o, Step::HandOverKeeper { node: name(2) });
}
