//! Voters that do not come back.

use super::*;

fn removes(o: &Observed, n: usize) {
    does(o, Step::RemoveMember { node: name(n), member: id(n) });
}

/// It is removed, and its seat given back.
fn goes(o: &mut Observed, n: usize) {
    removes(o, n);
    members(o).retain(|m| m.id != id(n));
    does(o, Step::Unseat { node: name(n) });
    o.seats.retain(|s| s.node != name(n));
}

/// Three voters, the first leads; the third is down, and its keeper says why.
fn refused(reason: &str) -> Observed {
    let mut o = after_the_pivot(3);
    member(&mut o, 3).health = EtcdHealth::Unknown;
    o.seats[2].keeper = KeeperView::Refused { reason: reason.into(), message: "gone".into() };
    o
}

/// Three voters of which the third has been away for the grace, with its node; `nodes` nodes.
fn away(nodes: usize) -> Observed {
    let mut o = after_the_pivot(3);
    o.nodes.truncate(nodes);
    goes_away(&mut o, 3);
    o
}

/// Its node has been away for the grace, and its member with it.
fn goes_away(o: &mut Observed, n: usize) {
    member(o, n).health = EtcdHealth::Unknown;
    let seat = o.seats.iter_mut().find(|s| s.node == name(n)).expect("seated");
    (seat.down_since_ms, seat.away_since_ms, seat.is_leaving) = (Some(NOW - GRACE), Some(NOW - GRACE), true);
    o.nodes[n - 1].readiness = Readiness::NotReady;
    o.nodes[n - 1].agent = AgentView::Silent;
}

/// The same of five voters.
fn away_of_five(nodes: usize) -> Observed {
    let mut o = after_the_pivot(5);
    o.nodes = (1..=nodes).map(node).collect();
    goes_away(&mut o, 3);
    o
}

/// What comparing the stores has shown.
fn stores(same: &[usize], other: &[usize]) -> crate::Stores {
    let ids = |of: &[usize]| of.iter().map(|n| id(*n)).collect();
    crate::Stores::Compared { same: ids(same), other: ids(other), down: ids(&[]) }
}

#[test]
fn a_voter_that_does_not_run_on_its_data_goes_once_the_others_are_seen_to_be_equal() {
    let mut o = refused(crate::DATA_IS_CORRUPT);
    does(&o, Step::CompareStores);
    o.stores = stores(&[1, 2], &[]);
    goes(&mut o.clone(), 3);
    // It may be the one that is right.
    for unequal in [stores(&[1], &[2]), stores(&[1], &[]), crate::Stores::Unclear { why: "no hash".into() }] {
        o.stores = unequal;
        holds(&o, HoldReason::HashMismatch, "cp3");
    }
    // Of five, one that is dead beside it is replaced meanwhile, and nobody is asked for hashes.
    let mut five = away_of_five(6);
    five.seats[1].keeper = KeeperView::Refused { reason: crate::DATA_IS_CORRUPT.into(), message: "x".into() };
    member(&mut five, 2).health = EtcdHealth::Unknown;
    five.stores = crate::Stores::NotCompared;
    does(&five, Step::AssignSeats { nodes: vec![name(6)] });
    five.nodes.pop();
    holds(&five, HoldReason::MemberDown, "cp3");
    // Nor while it runs again.
    o.stores = stores(&[1, 2], &[]);
    o.seats[2].keeper = KeeperView::Running;
    waits(&o, WaitFor::VotersHealthy);
    // What could not follow is not asked for: it costs the members time.
    let mut o = refused(crate::DATA_IS_CORRUPT);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    holds(&o, HoldReason::ToleranceTooLow, "cp3");
}

#[test]
fn a_voter_without_its_data_is_removed_at_once_and_its_node_gets_a_new_one() {
    for reason in ["DataLost", "StateLost", "LogBehind"] {
        let mut o = refused(reason);
        removes(&o, 3);
        members(&mut o).retain(|m| m.id != id(3));
        does(&o, Step::Unseat { node: name(3) });
        o.seats.pop();
        o.nodes.truncate(3);
        does(&o, Step::AssignSeats { nodes: vec![name(3)] });
    }
}

#[test]
fn what_may_pass_is_no_loss() {
    let mut o = refused("ArchiveFull");
    holds(&o, HoldReason::MemberRefused, "ArchiveFull");
    // It answers: the keeper's word is of before.
    o = refused("DataLost");
    member(&mut o, 3).health = follower();
    holds(&o, HoldReason::MemberRefused, "DataLost");
    // The word is of an earlier member of the seat.
    o = refused("DataLost");
    o.seats[2].ordered = Some(MemberId(99));
    does(&o, Step::StartMember { node: name(3), member: id(3) });
}

#[test]
fn a_loss_beside_another_that_the_quorum_needs_is_held() {
    let mut o = after_the_pivot(5);
    member(&mut o, 5).health = EtcdHealth::Unknown;
    o.seats[4].keeper = KeeperView::Refused { reason: "DataLost".into(), message: "gone".into() };
    removes(&o, 5);
    member(&mut o, 4).health = EtcdHealth::Unknown;
    removes(&o, 5);
    // A list that was read just before the third died.
    member(&mut o, 3).health = EtcdHealth::Unknown;
    holds(&o, HoldReason::ToleranceTooLow, "bring the other unhealthy members back");
}

#[test]
fn nothing_lost_is_removed_while_nobody_says_that_it_leads() {
    let mut o = refused("DataLost");
    member(&mut o, 1).health = follower();
    waits(&o, WaitFor::VotersHealthy);
}

#[test]
fn a_node_that_is_gone_is_replaced_by_another_the_dead_one_going_when_the_new_one_has_caught_up() {
    let mut o = away_of_five(6);
    does(&o, Step::AssignSeats { nodes: vec![name(6)] });
    o.seats.push(seat(6));
    does(&o, Step::AddLearner { node: name(6) });
    list(&mut o, 6, learner(EtcdHealth::Unknown));
    waits(&o, WaitFor::LearnerStarts);
    member(&mut o, 6).health = lagging(500, Some(500));
    waits(&o, WaitFor::LearnerCatchesUp);
    member(&mut o, 6).health = follower();
    goes(&mut o, 3);
    does(&o, Step::Promote { node: name(6), member: id(6) });
    member(&mut o, 6).is_learner = false;
    assert_eq!(plan(&o), Plan::Done);
}

#[test]
fn where_etcd_would_take_no_learner_beside_it_the_dead_one_goes_once_its_successor_is_prepared() {
    // Two of three are up: with a learner that counted as down, two of four would be.
    let mut o = away(4);
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    o.seats.push(seat(4));
    o.seats[3].keeper = KeeperView::NotPrepared { why: "no image".into() };
    waits(&o, WaitFor::MembersPrepared);
    o.seats[3].keeper = KeeperView::Waiting { reason: "OrderedToWait".into() };
    o.nodes[3].agent = AgentView::Silent;
    waits(&o, WaitFor::Agents);
    o.nodes[3].agent = AgentView::Fresh;
    goes(&mut o, 3);
    does(&o, Step::AddLearner { node: name(4) });
    // Before 3.5.30 and 3.6.11, beside any.
    let mut o = away_of_five(6);
    o.adds_beside_dead = false;
    does(&o, Step::AssignSeats { nodes: vec![name(6)] });
    o.seats.push(seat(6));
    removes(&o, 3);
    // Not where nobody would come in its place.
    holds(&away(3), HoldReason::MemberDown, "cp3");
}

#[test]
fn nothing_is_added_that_etcd_would_refuse() {
    // Somebody scales out in answer to a dead voter, before it is given up.
    let mut o = away(5);
    o.seats[2].down_since_ms = Some(NOW - 1_000);
    o.spec.size = 5;
    does(&o, Step::AssignSeats { nodes: vec![name(4), name(5)] });
    o.seats.extend([seat(4), seat(5)]);
    assert_eq!(plan(&o), Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: 1_000 });
    // Then it is.
    o.seats[2].down_since_ms = Some(NOW - GRACE);
    goes(&mut o, 3);
    does(&o, Step::AddLearner { node: name(4) });
    list(&mut o, 4, voter());
    does(&o, Step::AddLearner { node: name(5) });
    list(&mut o, 5, voter());
    holds(&o, HoldReason::NotEnoughNodes, "spec.size is 5, but only 4");
}

#[test]
fn a_learner_that_has_caught_up_is_promoted_though_there_are_too_few_nodes() {
    // Growing to five on five nodes, and one of the first three is lost.
    let mut o = away(5);
    o.spec.size = 5;
    o.seats.extend([seat(4), seat(5)]);
    list(&mut o, 4, learner(follower()));
    goes(&mut o, 3);
    does(&o, Step::Promote { node: name(4), member: id(4) });
}

#[test]
fn one_spare_node_for_two_lost_voters_is_used() {
    let mut o = away_of_five(6);
    goes_away(&mut o, 5);
    does(&o, Step::AssignSeats { nodes: vec![name(6)] });
    o.seats.push(seat(6));
    goes(&mut o, 3);
    does(&o, Step::AddLearner { node: name(6) });
    list(&mut o, 6, learner(follower()));
    goes(&mut o, 5);
    does(&o, Step::Promote { node: name(6), member: id(6) });
    member(&mut o, 6).is_learner = false;
    holds(&o, HoldReason::NotEnoughNodes, "spec.size is 5, but only 4");
}

#[test]
fn a_size_raised_beside_a_lost_voter_uses_what_there_is() {
    let mut o = away(4);
    o.spec.size = 4;
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    o.seats.push(seat(4));
    removes(&o, 3);
    members(&mut o).retain(|m| m.id != id(3));
    o.seats.remove(2);
    list(&mut o, 4, voter());
    holds(&o, HoldReason::NotEnoughNodes, "spec.size is 4, but only 3");
}

#[test]
fn a_node_that_was_deleted_is_gone_too() {
    let mut o = away(4);
    o.nodes.remove(2);
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    // But not while its member answers.
    member(&mut o, 3).health = follower();
    o.seats[2].down_since_ms = None;
    assert_eq!(plan(&o), Plan::Done);
}

#[test]
fn slow_paused_or_cut_off_is_not_dead() {
    // Not for long enough: the member, or its node, which may have been rebooted just now to repair what the member waits for.
    for (down, away_since) in [
        (Some(NOW - GRACE + 1), Some(NOW - GRACE)),
        (Some(NOW - GRACE), Some(NOW - GRACE + 1)),
        (None, Some(NOW - GRACE)),
        (Some(NOW - GRACE), None),
    ] {
        let mut o = away(4);
        (o.seats[2].down_since_ms, o.seats[2].away_since_ms) = (down, away_since);
        waits(&o, WaitFor::VotersHealthy);
        o.seats[2].keeper = KeeperView::Waiting { reason: "DiskMissing".into() };
        waits(&o, WaitFor::VotersHealthy);
    }
}

#[test]
fn one_that_comes_back_in_the_middle_makes_its_successor_superfluous() {
    let mut o = away(4);
    o.seats.push(seat(4));
    member(&mut o, 3).health = follower();
    o.seats[2].down_since_ms = None;
    does(&o, Step::Unseat { node: name(4) });
    list(&mut o, 4, learner(follower()));
    removes(&o, 4);
}

#[test]
fn where_no_node_can_take_over_it_is_waited_for_and_said() {
    let mut o = away(3);
    holds(&o, HoldReason::MemberDown, "cp3");
    o.nodes.push(node(4));
    o.nodes[3].cordoned = true;
    holds(&o, HoldReason::MemberDown, "add one");
    o.nodes[3].cordoned = false;
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    // The size is lowered instead.
    let mut o = away(3);
    o.spec.size = 1;
    removes(&o, 3);
}

#[test]
fn the_place_of_a_lost_voter_crowds_no_zone() {
    let mut o = away_of_five(7);
    for (node, zone) in o.nodes.iter_mut().zip(["a", "b", "c", "a", "b", "b", "c"]) {
        zone.clone_into(&mut node.zone);
    }
    does(&o, Step::AssignSeats { nodes: vec![name(7)] });
}

#[test]
fn of_more_voters_than_wanted_a_lost_one_goes_without_a_successor() {
    let mut o = away_of_five(6);
    o.spec.size = 4;
    removes(&o, 3);
    o = away_of_five(6);
    o.spec.size = 3;
    removes(&o, 3);
}

#[test]
fn a_successor_that_is_not_prepared_holds_up_no_other() {
    let mut o = away(5);
    o.spec.size = 5;
    o.seats.extend([seat(4), seat(5)]);
    o.seats[4].keeper = KeeperView::NotPrepared { why: "no image".into() };
    goes(&mut o, 3);
    does(&o, Step::AddLearner { node: name(4) });
    list(&mut o, 4, voter());
    waits(&o, WaitFor::MembersPrepared);
}

#[test]
fn a_lost_voter_is_replaced_in_a_pivot_too() {
    // Boot, cp1 and cp2 vote, cp3 has a seat, and cp2 is lost.
    let mut o = joined(3, 2);
    goes_away(&mut o, 2);
    removes(&o, 2);
    // With boot and three of ours etcd takes a learner; the dead one goes before its promotion.
    let mut o = joined(3, 3);
    goes_away(&mut o, 2);
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
    o.seats.push(seat(4));
    does(&o, Step::AddLearner { node: name(4) });
    list(&mut o, 4, learner(follower()));
    removes(&o, 2);
}

#[test]
fn whatever_the_keeper_of_a_lost_voter_said_last_it_is_replaced() {
    let mut o = away(4);
    o.seats[2].keeper = KeeperView::Refused { reason: "ArchiveFull".into(), message: "make room".into() };
    does(&o, Step::AssignSeats { nodes: vec![name(4)] });
}
