//! Other settings for etcd, on members that run.

use super::*;

/// After the pivot, all members run with what is not wanted any more; the first leads.
fn outdated(size: u32) -> Observed {
    let mut o = after_the_pivot(size);
    for seat in &mut o.seats {
        (seat.keeper, seat.settings) = (KeeperView::Running, SettingsView::Outdated);
    }
    o
}

fn applies(o: &Observed, n: usize) {
    does(o, Step::ApplySettings { node: name(n) });
}

fn overrule(o: &mut Observed) {
    o.spec.overruled = Some(HoldReason::ToleranceTooLow);
}

#[test]
fn members_are_restarted_one_at_a_time_and_the_leader_last_and_as_a_follower() {
    for size in [3, 5] {
        let mut o = outdated(size);
        for n in 2..=size as usize {
            applies(&o, n);
            // Ordered, and not begun; then down; then back.
            o.seats[n - 1].settings = SettingsView::UnderWay;
            waits(&o, WaitFor::MemberRestart);
            member(&mut o, n).health = EtcdHealth::Unknown;
            waits(&o, WaitFor::MemberRestart);
            o.seats[n - 1].settings = SettingsView::Current;
            waits(&o, WaitFor::VotersHealthy);
            member(&mut o, n).health = follower();
        }
        does(&o, Step::MoveLeader { from: id(1), to: id(2) });
        (member(&mut o, 1).health, member(&mut o, 2).health) = (follower(), leader());
        applies(&o, 1);
        o.seats[0].settings = SettingsView::Current;
        assert_eq!(plan(&o), Plan::Done);
    }
}

#[test]
fn nobody_is_restarted_whom_the_quorum_needs() {
    for size in [1, 2] {
        let mut o = outdated(size);
        holds(&o, HoldReason::ToleranceTooLow, "etcd.database.coreos.com/overrule=ToleranceTooLow");
        overrule(&mut o);
        // Of one there is nobody to lead meanwhile.
        applies(&o, size as usize);
    }
    // Somebody is about to take another node down.
    let mut o = outdated(3);
    o.seats[2].is_leaving = true;
    holds(&o, HoldReason::ToleranceTooLow, "cp2");
    overrule(&mut o);
    applies(&o, 2);
    let mut o = outdated(5);
    o.seats[4].is_leaving = true;
    applies(&o, 2);
    o.seats[3].is_leaving = true;
    holds(&o, HoldReason::ToleranceTooLow, "cp2");
}

#[test]
fn nothing_is_restarted_beside_anything_else() {
    let disturbed: [fn(&mut Observed); 4] = [
        |o| o.spec.paused = true,
        |o| member(o, 3).health = EtcdHealth::Unknown,
        |o| member(o, 3).health = EtcdHealth::Unhealthy,
        // A keeper that does not say what it runs with may be restarting.
        |o| o.seats[2].settings = SettingsView::Unknown,
    ];
    for disturb in disturbed {
        for overruled in [None, Some(HoldReason::ToleranceTooLow)] {
            let mut o = outdated(3);
            o.spec.overruled = overruled;
            disturb(&mut o);
            assert!(!matches!(plan(&o), Plan::Do(_)), "{:?}", plan(&o));
        }
    }
    // What changes the membership comes first, and a learner to its end.
    let mut o = outdated(3);
    o.spec.size = 5;
    does(&o, Step::AssignSeats { nodes: vec![name(4), name(5)] });
    let mut o = outdated(3);
    o.spec.size = 1;
    does(&o, Step::RemoveMember { node: name(3), member: id(3) });
}

#[test]
fn only_an_agent_that_answers_gets_the_order() {
    let mut o = outdated(3);
    o.nodes[1].agent = AgentView::Silent;
    waits(&o, WaitFor::Agents);
}

#[test]
fn api_servers_find_another_member_before_one_goes_down() {
    let mut o = outdated(3);
    for seat in &mut o.seats {
        seat.up_since_ms = Some(NOW - 144_000);
    }
    waits(&o, WaitFor::ApiServersReconnect);
    // It is not the one that goes.
    o.seats[1].up_since_ms = Some(0);
    waits(&o, WaitFor::ApiServersReconnect);
    o.seats[2].up_since_ms = Some(NOW - 145_000);
    applies(&o, 2);
}

#[test]
fn an_order_that_was_not_carried_out_is_taken_back_once_another_is_not_well() {
    let ordered = || {
        let mut o = outdated(3);
        o.seats[1].settings = SettingsView::UnderWay;
        o
    };
    let off = Step::CallOffSettings { node: name(2) };
    let mut o = ordered();
    member(&mut o, 3).health = EtcdHealth::Unknown;
    does(&o, off.clone());
    let mut o = ordered();
    o.seats[2].is_leaving = true;
    does(&o, off.clone());
    // Also where it would be no loss of the quorum.
    let mut five = outdated(5);
    five.seats[1].settings = SettingsView::UnderWay;
    member(&mut five, 3).health = EtcdHealth::Unknown;
    does(&five, off.clone());
    // It is down already: the way back is forward.
    member(&mut o, 2).health = EtcdHealth::Unknown;
    waits(&o, WaitFor::MemberRestart);
    let mut o = ordered();
    o.seats[1].keeper = KeeperView::Waiting { reason: "SettingsChanged".into() };
    o.seats[2].is_leaving = true;
    waits(&o, WaitFor::MemberRestart);
    // A human wanted it so.
    let mut o = outdated(1);
    o.seats[0].settings = SettingsView::UnderWay;
    overrule(&mut o);
    waits(&o, WaitFor::MemberRestart);
    o.spec.overruled = None;
    does(&o, Step::CallOffSettings { node: name(1) });
}

#[test]
fn what_does_not_run_gets_them_at_once_and_so_does_the_way_back() {
    // The new settings were no good: it does not come up, and they were set back.
    let mut o = outdated(3);
    o.seats.iter_mut().for_each(|s| s.settings = SettingsView::Current);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    (o.seats[1].settings, o.seats[1].keeper) = (SettingsView::Outdated, KeeperView::Waiting { reason: "EtcdExited".into() });
    applies(&o, 2);
    // Its keeper says that it runs, though nobody hears of it.
    o.seats[1].keeper = KeeperView::Running;
    waits(&o, WaitFor::VotersHealthy);
    // Its keeper's word is old: it answers.
    o.seats[1].keeper = KeeperView::Waiting { reason: "EtcdExited".into() };
    member(&mut o, 2).health = follower();
    o.seats.iter_mut().for_each(|s| s.up_since_ms = Some(NOW));
    waits(&o, WaitFor::ApiServersReconnect);
}

#[test]
fn settings_that_must_not_be_hold_up_nothing_but_themselves() {
    let mut o = outdated(3);
    o.settings_refused = Some("spec.etcd.quotaBackendBytes is 1".into());
    holds(&o, HoldReason::InvalidSpec, "quotaBackendBytes");
    o.seats[1].keeper = KeeperView::Refused { reason: "DataLost".into(), message: "gone".into() };
    member(&mut o, 2).health = EtcdHealth::Unknown;
    does(&o, Step::RemoveMember { node: name(2), member: id(2) });
    // The database grew; the spec did not change.
    let mut o = after_the_pivot(3);
    o.settings_refused = Some("spec.etcd.quotaBackendBytes is 1".into());
    assert_eq!(plan(&o), Plan::Done);
}

#[test]
fn a_member_that_is_about_to_be_restarted_counts_as_down() {
    let mut o = after_the_pivot(3);
    o.seats[1].settings = SettingsView::UnderWay;
    o.spec.size = 2;
    // Of the two that stay one would be down.
    assert!(!matches!(plan(&o), Plan::Do(Step::RemoveMember { node, .. }) if node == name(3)), "{:?}", plan(&o));
}
