//! Other settings for etcd, on members that run.

use super::*;

/// After the pivot, all members run with what is not wanted any more; the first leads.
fn outdated(size: u32) -> Observed {
    let mut o = after_the_pivot(size);
    for seat in &mut o.seats {
        (seat.keeper, seat.runs_with) = (KeeperView::Running, RunsWith::Outdated);
    }
    o
}

fn applies(o: &Observed, n: usize) {
    does(o, Step::RollOut { node: name(n), restart: Restart::WhileQuorum });
}

fn applies_as_overruled(o: &Observed, n: usize) {
    does(o, Step::RollOut { node: name(n), restart: Restart::Overruled });
}

/// The restart of a seat is ordered.
fn order(o: &mut Observed, n: usize) {
    (o.seats[n - 1].runs_with, o.seats[n - 1].restart_ordered_ms) = (RunsWith::UnderWay, Some(NOW - 1_000));
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
            order(&mut o, n);
            waits(&o, WaitFor::MemberRestart);
            member(&mut o, n).health = EtcdHealth::Unknown;
            waits(&o, WaitFor::MemberRestart);
            o.seats[n - 1].runs_with = RunsWith::Current;
            waits(&o, WaitFor::VotersHealthy);
            member(&mut o, n).health = follower();
        }
        does(&o, Step::MoveLeader { from: id(1), to: id(2) });
        (member(&mut o, 1).health, member(&mut o, 2).health) = (follower(), leader());
        applies(&o, 1);
        o.seats[0].runs_with = RunsWith::Current;
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
        applies_as_overruled(&o, size as usize);
    }
    // Somebody is about to take another node down.
    let mut o = outdated(3);
    o.seats[2].is_leaving = true;
    holds(&o, HoldReason::ToleranceTooLow, "cp2");
    overrule(&mut o);
    applies_as_overruled(&o, 2);
    let mut o = outdated(5);
    o.seats[4].is_leaving = true;
    applies(&o, 2);
    // Overruled where there is nothing to overrule.
    overrule(&mut o);
    applies(&o, 2);
    o.spec.overruled = None;
    o.seats[3].is_leaving = true;
    holds(&o, HoldReason::ToleranceTooLow, "cp2");
}

#[test]
fn nothing_is_restarted_beside_anything_else() {
    let disturbed: [fn(&mut Observed); 4] = [
        |o| o.spec.paused = true,
        |o| (member(o, 3).health, o.seats[2].runs_with) = (EtcdHealth::Unknown, RunsWith::Current),
        |o| (member(o, 3).health, o.seats[2].runs_with) = (EtcdHealth::Unhealthy, RunsWith::Current),
        // A keeper that does not say what it runs with may be restarting.
        |o| o.seats[2].runs_with = RunsWith::Unknown,
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
        order(&mut o, 2);
        o
    };
    let off = Step::CallOffRollOut { node: name(2) };
    let mut o = ordered();
    member(&mut o, 3).health = EtcdHealth::Unknown;
    does(&o, off.clone());
    let mut o = ordered();
    o.seats[2].is_leaving = true;
    does(&o, off.clone());
    // Also where it would be no loss of the quorum.
    let mut five = outdated(5);
    order(&mut five, 2);
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
    order(&mut o, 1);
    overrule(&mut o);
    waits(&o, WaitFor::MemberRestart);
    o.spec.overruled = None;
    does(&o, Step::CallOffRollOut { node: name(1) });
}

#[test]
fn what_does_not_run_gets_them_at_once_and_so_does_the_way_back() {
    // The new settings were no good: it does not come up, and they were set back.
    let mut o = outdated(3);
    o.seats.iter_mut().for_each(|s| s.runs_with = RunsWith::Current);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    (o.seats[1].runs_with, o.seats[1].keeper) = (RunsWith::Outdated, KeeperView::Waiting { reason: "EtcdExited".into() });
    applies(&o, 2);
    // It runs, and is not well for what it runs with: the others are a quorum without it as it is.
    o.seats[1].keeper = KeeperView::Running;
    for since in [None, Some(NOW - 9_999)] {
        o.seats[1].down_since_ms = since;
        waits(&o, WaitFor::VotersHealthy);
    }
    o.seats[1].down_since_ms = Some(NOW - 10_000);
    applies(&o, 2);
    // It may have led until just now.
    member(&mut o, 1).health = follower();
    waits(&o, WaitFor::VotersHealthy);
    member(&mut o, 1).health = leader();
    // Nothing is known of a keeper whose agent has a problem.
    o.seats[1].keeper = KeeperView::NotPrepared { why: "NotRolledOut".into() };
    o.nodes[1].agent = AgentView::Silent;
    waits(&o, WaitFor::Agents);
    o.nodes[1].agent = AgentView::Fresh;
    // Its keeper's word is old: it answers.
    o.seats[1].keeper = KeeperView::Waiting { reason: "EtcdExited".into() };
    member(&mut o, 2).health = follower();
    o.seats.iter_mut().for_each(|s| s.up_since_ms = Some(NOW));
    waits(&o, WaitFor::ApiServersReconnect);
}

#[test]
fn settings_that_must_not_be_hold_up_nothing_but_themselves() {
    let mut o = outdated(3);
    o.roll_out_refused = Some("spec.etcd.quotaBackendBytes is 1".into());
    holds(&o, HoldReason::InvalidSpec, "quotaBackendBytes");
    o.seats[1].keeper = KeeperView::Refused { reason: "DataLost".into(), message: "gone".into() };
    member(&mut o, 2).health = EtcdHealth::Unknown;
    does(&o, Step::RemoveMember { node: name(2), member: id(2) });
    // The database grew; the spec did not change.
    let mut o = after_the_pivot(3);
    o.roll_out_refused = Some("spec.etcd.quotaBackendBytes is 1".into());
    assert_eq!(plan(&o), Plan::Done);
}

#[test]
fn a_member_that_is_about_to_be_restarted_counts_as_down() {
    let mut o = after_the_pivot(3);
    order(&mut o, 2);
    o.spec.size = 2;
    // Of the two that stay one would be down.
    assert!(!matches!(plan(&o), Plan::Do(Step::RemoveMember { node, .. }) if node == name(3)), "{:?}", plan(&o));
}

#[test]
fn an_order_that_its_agent_does_not_bring_is_taken_back() {
    let mut o = outdated(3);
    order(&mut o, 2);
    o.nodes[1].agent = AgentView::Silent;
    waits(&o, WaitFor::MemberRestart);
    o.seats[1].restart_ordered_ms = Some(NOW - 30_001);
    does(&o, Step::CallOffRollOut { node: name(2) });
    // It brought it, and its keeper waits for the others.
    o.nodes[1].agent = AgentView::Fresh;
    waits(&o, WaitFor::MemberRestart);
    // Taken back, and not heard of by its keeper yet.
    o.nodes[1].agent = AgentView::Silent;
    o.seats[1].restart_ordered_ms = None;
    waits(&o, WaitFor::MemberRestart);
}

#[test]
fn a_keeper_that_is_handed_over_comes_to_its_end_first() {
    for binary in [KeeperBinary::Ordered, KeeperBinary::HandingOver] {
        let mut o = outdated(3);
        o.seats[2].binary = binary;
        waits(&o, WaitFor::KeeperHandOver);
    }
    // It may take its etcd with it.
    let mut o = after_the_pivot(3);
    o.spec.size = 2;
    o.seats[0].binary = KeeperBinary::HandingOver;
    assert!(!matches!(plan(&o), Plan::Do(Step::RemoveMember { .. })), "{:?}", plan(&o));
}

#[test]
fn what_waits_for_a_human_holds_up_no_keeper_and_what_is_left_is_said() {
    let mut o = outdated(1);
    o.seats[0].binary = KeeperBinary::Outdated;
    does(&o, Step::HandOverKeeper { node: name(1) });
    let mut o = after_the_pivot(3);
    o.seats[1].runs_with = RunsWith::Unknown;
    waits(&o, WaitFor::MemberRestart);
}

#[test]
fn no_api_server_is_left_without_a_way_to_etcd() {
    let lists = |ids: &[usize]| ApiServer { node: name(9), lists: ids.iter().map(|n| id(*n)).collect() };
    let mut o = outdated(3);
    o.api_servers = vec![lists(&[1, 2, 3]), lists(&[2])];
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "cp9");
    o.spec.overruled = Some(HoldReason::ApiServerWouldLoseEtcd);
    applies(&o, 2);
    o.spec.overruled = None;
    // Of the two that it lists the other one came lately.
    o.api_servers = vec![lists(&[2, 3])];
    o.seats[2].up_since_ms = Some(NOW - 144_000);
    waits(&o, WaitFor::ApiServersReconnect);
    o.seats[2].up_since_ms = Some(NOW - 145_000);
    applies(&o, 2);
}

fn pending(since_ms: u64) -> Preparation {
    Preparation::Pending { missing: "cp3 has not run the image yet".into(), since_ms }
}

#[test]
fn an_image_is_proven_on_all_nodes_before_the_first_restart() {
    let mut o = outdated(3);
    o.roll_out = Preparation::NotAsked;
    does(&o, Step::PrepareRollOut);
    o.roll_out = pending(NOW - 1_000);
    waits(&o, WaitFor::RollOutPrepared);
    o.roll_out = pending(NOW - 300_001);
    holds(&o, HoldReason::RollOutNotPrepared, "cp3 has not run the image yet");
    o.roll_out = Preparation::Failed { why: "the image holds etcd 3.4.0 on cp2".into() };
    holds(&o, HoldReason::RollOutNotPrepared, "3.4.0 on cp2");
    // A member that does not run would not come up with it either.
    (member(&mut o, 3).health, o.seats[2].keeper) = (EtcdHealth::Unknown, KeeperView::Waiting { reason: "EtcdExited".into() });
    holds(&o, HoldReason::RollOutNotPrepared, "3.4.0 on cp2");
    member(&mut o, 3).health = follower();
    o.roll_out = Preparation::Ready;
    applies(&o, 2);
    // Nothing of it holds up anything else.
    let mut o = after_the_pivot(3);
    o.roll_out = Preparation::NotAsked;
    assert_eq!(plan(&o), Plan::Done);
}

/// Member 2 was given another pod so long ago, and is not well.
fn replaced(ms: u64) -> Observed {
    let mut o = outdated(3);
    order(&mut o, 2);
    (o.seats[1].restart_ordered_ms, o.seats[1].replaced_ms, o.seats[1].may_go_back) = (None, Some(NOW - ms), true);
    (member(&mut o, 2).health, o.seats[1].down_since_ms) = (EtcdHealth::Unknown, Some(NOW - ms));
    o.seats[1].keeper = KeeperView::Waiting { reason: "EtcdExited".into() };
    o
}

#[test]
fn a_pod_with_which_a_member_does_not_come_up_is_taken_back_and_not_tried_on_the_next() {
    waits(&replaced(300_000), WaitFor::MemberRestart);
    let mut o = replaced(300_001);
    let back = Step::RollBack { node: name(2) };
    does(&o, back.clone());
    // Whoever waits for it to be well would wait for ever.
    o.spec.size = 5;
    does(&o, back.clone());
    o.spec.size = 3;
    // Its agent could come with it at any time.
    o.nodes[1].agent = AgentView::Silent;
    waits(&o, WaitFor::MemberRestart);
    o.nodes[1].agent = AgentView::Fresh;
    // Down for as long as it takes to come up after a power cut, or brought late.
    o.seats[1].down_since_ms = Some(NOW - 300_000);
    waits(&o, WaitFor::MemberRestart);
    o.seats[1].down_since_ms = Some(NOW - 300_001);
    // Its etcd runs, and only does not answer: who is cut off is not dead. A human is told if it stays so.
    o.seats[1].keeper = KeeperView::Running;
    waits(&o, WaitFor::MemberRestart);
    o.seats[1].replaced_ms = Some(NOW - 600_001);
    holds(&o, HoldReason::RollOutFailed, "etcd on cp2 was to be restarted");
    o.seats[1].replaced_ms = Some(NOW - 300_001);
    // The kubelet has not started its keeper: that says nothing, and its agent does.
    o.seats[1].keeper = KeeperView::NotPrepared { why: "its image holds etcd 3.6.16, not 3.7.3".into() };
    does(&o, back.clone());
    // It came up after all.
    member(&mut o, 2).health = follower();
    waits(&o, WaitFor::MemberRestart);
    // Taken back.
    let mut o = replaced(300_001);
    (o.seats[1].replaced_ms, o.rolled_back) = (None, Some("etcd on cp2 did not come up".into()));
    waits(&o, WaitFor::MemberRestart);
    (o.seats[1].runs_with, member(&mut o, 2).health) = (RunsWith::Outdated, follower());
    holds(&o, HoldReason::RollOutFailed, "etcd on cp2 did not come up");
    o.seats[1].keeper = KeeperView::Waiting { reason: "EtcdExited".into() };
    member(&mut o, 2).health = EtcdHealth::Unknown;
    holds(&o, HoldReason::RollOutFailed, "etcd on cp2 did not come up");
}

#[test]
fn a_human_is_told_of_a_pod_that_neither_comes_up_nor_can_be_taken_back() {
    let mut o = replaced(600_001);
    o.seats[1].may_go_back = false;
    holds(&o, HoldReason::RollOutFailed, "etcd on cp2 was to be restarted");
    o.seats[1].replaced_ms = Some(NOW - 600_000);
    waits(&o, WaitFor::MemberRestart);
}

#[test]
fn a_pod_that_runs_is_not_called_off_one_that_the_kubelet_has_not_replaced_is() {
    let mut o = outdated(3);
    order(&mut o, 2);
    member(&mut o, 3).health = EtcdHealth::Unknown;
    o.seats[1].replaced_ms = Some(NOW - 1_000);
    does(&o, Step::CallOffRollOut { node: name(2) });
    // That would be another restart.
    o.seats[1].restart_ordered_ms = None;
    waits(&o, WaitFor::MemberRestart);
}

#[test]
fn keepers_of_another_version_are_handed_over_before_anything_is_rolled_out() {
    let mut o = outdated(3);
    o.seats[2].binary = KeeperBinary::Outdated;
    does(&o, Step::HandOverKeeper { node: name(3) });
    o.seats[2].binary = KeeperBinary::Current;
    applies(&o, 2);
}

#[test]
fn data_that_the_wanted_etcd_cannot_read_is_converted_before_the_first_restart() {
    let mut o = outdated(3);
    o.roll_out = Preparation::Unconverted;
    does(&o, Step::EnableDowngrade);
    o.roll_out = Preparation::Pending { missing: "etcd has not converted the data of 2 yet".into(), since_ms: NOW };
    waits(&o, WaitFor::RollOutPrepared);
    o.roll_out = Preparation::Ready;
    applies(&o, 2);
    // Nor is one that is down given an etcd that could not read its data.
    o.roll_out = Preparation::Unconverted;
    (member(&mut o, 3).health, o.seats[2].down_since_ms) = (EtcdHealth::Unknown, Some(NOW - GRACE));
    o.seats[2].keeper = KeeperView::Waiting { reason: "EtcdExited".into() };
    waits(&o, WaitFor::VotersHealthy);
    // Where no restart may follow it would be for nothing.
    let mut o = outdated(1);
    o.roll_out = Preparation::Unconverted;
    holds(&o, HoldReason::ToleranceTooLow, "scale to 3");
    overrule(&mut o);
    does(&o, Step::EnableDowngrade);
}

#[test]
fn a_conversion_that_nobody_wants_any_more_is_taken_back_whoever_runs_what() {
    let mut o = outdated(3);
    o.downgrade = Downgrade::Unwanted;
    does(&o, Step::CancelDowngrade);
    member(&mut o, 3).health = EtcdHealth::Unknown;
    does(&o, Step::CancelDowngrade);
    // The older etcd that is on its way could not start then.
    (o.seats[1].runs_with, o.seats[1].replaced_ms) = (RunsWith::UnderWay, Some(NOW - 1_000));
    waits(&o, WaitFor::MemberRestart);
    let mut o = after_the_pivot(3);
    o.downgrade = Downgrade::Unwanted;
    does(&o, Step::CancelDowngrade);
    // Wanted, and nothing follows.
    o.downgrade = Downgrade::Wanted;
    assert_eq!(plan(&o), Plan::Done);
    o.roll_out_refused = Some("two at once".into());
    does(&o, Step::CancelDowngrade);
    let mut o = outdated(3);
    (o.downgrade, o.rolled_back) = (Downgrade::Wanted, Some("no good".into()));
    does(&o, Step::CancelDowngrade);
}

#[test]
fn while_data_is_converted_nobody_can_join_so_it_is_taken_back_before() {
    let mut o = outdated(3);
    (o.downgrade, o.roll_out) = (Downgrade::Wanted, Preparation::Ready);
    // Lost, removed, and to be replaced.
    members(&mut o).pop();
    (o.seats[2].ordered, o.seats[2].keeper) = (None, KeeperView::Waiting { reason: "NotAddedYet".into() });
    o.seats[2].runs_with = RunsWith::Current;
    does(&o, Step::CancelDowngrade);
    (o.seats[1].runs_with, o.seats[1].replaced_ms) = (RunsWith::UnderWay, Some(NOW - 1_000));
    waits(&o, WaitFor::MemberRestart);
    o.seats[1].runs_with = RunsWith::Outdated;
    o.downgrade = Downgrade::None;
    does(&o, Step::AddLearner { node: name(3) });
    // Nor can one that was added before.
    list(&mut o, 3, learner(EtcdHealth::Unknown));
    o.downgrade = Downgrade::Wanted;
    does(&o, Step::CancelDowngrade);
}
