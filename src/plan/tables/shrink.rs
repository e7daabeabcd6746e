//! Scaling in after the pivot.

use super::*;

/// `voters` of ours, the first leads, and the size is now `size`.
fn too_many(voters: u32, size: u32) -> Observed {
    let mut o = after_the_pivot(voters);
    o.spec.size = size;
    o
}

fn removes(o: &Observed, n: usize) {
    does(o, Step::RemoveMember { node: name(n), member: id(n) });
}

fn zones(o: &mut Observed, zones: &[&str]) {
    o.nodes.iter_mut().zip(zones).for_each(|(node, zone)| node.zone = (*zone).to_owned());
}

#[test]
fn the_last_follower_goes_and_the_leader_stays_down_to_one() {
    removes(&too_many(5, 3), 5);
    removes(&too_many(4, 3), 4);
    removes(&too_many(3, 1), 3);
    removes(&too_many(2, 1), 2);
    assert_eq!(plan(&too_many(1, 1)), Plan::Done);
}

#[test]
fn a_learner_goes_before_any_voter() {
    let mut o = too_many(3, 1);
    member(&mut o, 2).is_learner = true;
    removes(&o, 2);
}

#[test]
fn the_most_crowded_zone_gives_first_but_never_its_leader_before_a_follower() {
    let mut o = too_many(5, 3);
    zones(&mut o, &["a", "a", "b", "b", "b"]);
    removes(&o, 5);
    zones(&mut o, &["a", "b", "a", "c", "d"]);
    removes(&o, 3);
    let mut o = too_many(3, 1);
    zones(&mut o, &["a", "a", "b"]);
    removes(&o, 2);
}

/// Down for so long that it is no missed answer.
fn goes_down(o: &mut Observed, n: usize) {
    member(o, n).health = EtcdHealth::Unknown;
    o.seats[n - 1].down_since_ms = Some(NOW - 10_000);
}

fn is_leaving(o: &mut Observed, nodes: &[usize]) {
    nodes.iter().for_each(|n| o.seats[n - 1].is_leaving = true);
}

#[test]
fn a_member_that_is_down_goes_first_then_one_whose_node_is_about_to() {
    let mut o = too_many(5, 3);
    goes_down(&mut o, 2);
    removes(&o, 2);
    is_leaving(&mut o, &[5]);
    removes(&o, 2);
    let mut o = too_many(5, 3);
    is_leaving(&mut o, &[3]);
    removes(&o, 3);
    // What is down costs nothing by going, whoever else is leaving.
    let mut o = too_many(3, 2);
    goes_down(&mut o, 2);
    is_leaving(&mut o, &[3]);
    removes(&o, 2);
}

#[test]
fn a_missed_answer_is_looked_at_again() {
    let mut o = too_many(5, 3);
    goes_down(&mut o, 2);
    for since in [None, Some(NOW), Some(NOW - 9_999)] {
        o.seats[1].down_since_ms = since;
        assert_eq!(plan(&o), Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: 1_000 });
    }
}

#[test]
fn a_keeper_that_never_stops_its_member_is_named() {
    let mut o = too_many(3, 2);
    o.seats.iter_mut().for_each(|s| s.drains_in_vain = 2);
    removes(&o, 3);
    o.seats.iter_mut().for_each(|s| s.drains_in_vain = 3);
    holds(&o, HoldReason::MemberNotStopped, "keeper on cp3");
    // Another one goes instead.
    o.seats[1].drains_in_vain = 0;
    removes(&o, 2);
    // One that is down needs nobody to stop it.
    goes_down(&mut o, 3);
    removes(&o, 3);
}

#[test]
fn one_stays_that_the_api_servers_had_time_to_connect_to() {
    let mut o = too_many(3, 1);
    for (n, age) in [(1, 144_999), (2, 0), (3, 0)] {
        o.seats[n - 1].up_since_ms = Some(NOW - age);
    }
    assert_eq!(plan(&o), Plan::Wait { what: WaitFor::ApiServersReconnect, look_again_ms: 5_000 });
    o.seats[0].up_since_ms = Some(NOW - 145_000);
    removes(&o, 3);
    // The leader has come back lately: it leads no more, and goes.
    let mut o = too_many(2, 1);
    o.seats[0].up_since_ms = Some(NOW);
    does(&o, Step::MoveLeader { from: id(1), to: id(2) });
    // What is down nobody is connected to.
    goes_down(&mut o, 2);
    o.seats[1].up_since_ms = None;
    removes(&o, 2);
}

#[test]
fn a_voter_that_its_seat_was_not_told_is_not_waited_for() {
    let mut o = too_many(5, 3);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    o.seats[1].ordered = Some(MemberId(99));
    removes(&o, 2);
}

#[test]
fn a_leader_on_a_cordoned_node_leads_no_more_before_it_goes() {
    let mut o = too_many(3, 2);
    is_leaving(&mut o, &[1]);
    does(&o, Step::MoveLeader { from: id(1), to: id(2) });
    // Nobody has caught up.
    for n in [2, 3] {
        member(&mut o, n).health = lagging(101, Some(0));
    }
    waits(&o, WaitFor::VotersHealthy);
    member(&mut o, 3).health = leader();
    member(&mut o, 1).health = follower();
    removes(&o, 1);
}

#[test]
fn none_goes_while_none_of_those_that_stay_leads() {
    let mut o = too_many(3, 2);
    member(&mut o, 1).health = follower();
    waits(&o, WaitFor::VotersHealthy);
    // One that does not answer may lead.
    goes_down(&mut o, 1);
    waits(&o, WaitFor::VotersHealthy);
    member(&mut o, 2).health = leader();
    removes(&o, 1);
}

#[test]
fn too_few_would_be_left() {
    let mut o = too_many(5, 4);
    for n in [2, 3] {
        goes_down(&mut o, n);
    }
    removes(&o, 3);
    // Two of three are on nodes that somebody is about to take down.
    let mut o = too_many(3, 2);
    is_leaving(&mut o, &[1, 2]);
    holds(&o, HoldReason::ToleranceTooLow, "set spec.size back to 3");
    holds(&o, HoldReason::ToleranceTooLow, "NotReady: cp2, cp1);");
}

#[test]
fn an_api_server_keeps_a_member_that_it_lists() {
    let mut o = too_many(3, 2);
    o.api_servers = vec![ApiServer { node: name(1), lists: vec![id(1), id(2), id(3)] }];
    removes(&o, 3);
    o.api_servers = (1..=3).map(|n| ApiServer { node: name(n), lists: vec![id(n)] }).collect();
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "on cp3");
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "set spec.size back to 3");
    // One that lists none of ours loses nothing.
    o.api_servers[2].lists = Vec::new();
    removes(&o, 3);
    // Another one goes instead, where it can.
    let mut o = too_many(5, 4);
    o.api_servers = vec![ApiServer { node: name(5), lists: vec![id(5)] }];
    removes(&o, 4);
    // One that is down for a while comes back to its API server; with a machine that is gone both are.
    let mut o = too_many(3, 2);
    o.api_servers = (1..=3).map(|n| ApiServer { node: name(n), lists: vec![id(n)] }).collect();
    goes_down(&mut o, 3);
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "on cp3");
    o.seats[2].away_since_ms = Some(NOW - GRACE + 1);
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "on cp3");
    o.seats[2].away_since_ms = Some(NOW - GRACE);
    removes(&o, 3);
    o.api_servers[2].node = name(1);
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "on cp1 lists 0000000000000003");
    // What stays must not be leaving either.
    let mut o = too_many(4, 3);
    o.api_servers = vec![ApiServer { node: name(3), lists: vec![id(2), id(4)] }];
    removes(&o, 4);
    is_leaving(&mut o, &[2]);
    removes(&o, 2);
    o.api_servers.push(ApiServer { node: name(2), lists: vec![id(2)] });
    removes(&o, 3);
}

#[test]
fn a_human_overrules_what_costs_no_quorum() {
    let mut o = too_many(3, 2);
    is_leaving(&mut o, &[1, 2]);
    holds(&o, HoldReason::ToleranceTooLow, "etcd.database.coreos.com/overrule=ToleranceTooLow");
    o.spec.overruled = Some(HoldReason::ApiServerWouldLoseEtcd);
    holds(&o, HoldReason::ToleranceTooLow, "overrule");
    o.spec.overruled = Some(HoldReason::ToleranceTooLow);
    removes(&o, 2);
    let mut o = too_many(3, 2);
    o.api_servers = (1..=3).map(|n| ApiServer { node: name(n), lists: vec![id(n)] }).collect();
    holds(&o, HoldReason::ApiServerWouldLoseEtcd, "etcd.database.coreos.com/overrule=ApiServerWouldLoseEtcd");
    o.spec.overruled = Some(HoldReason::ApiServerWouldLoseEtcd);
    removes(&o, 3);
    // Two of five are down, and a list that was read just before a third one died: no word takes the quorum.
    let mut o = too_many(5, 4);
    [1, 2, 3].into_iter().for_each(|n| goes_down(&mut o, n));
    o.spec.overruled = Some(HoldReason::ToleranceTooLow);
    match plan(&o) {
        Plan::Hold { reason: HoldReason::ToleranceTooLow, next_step } => assert!(!next_step.contains("overrule"), "{next_step}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_removed_beside_a_foreign_member() {
    let mut o = too_many(3, 2);
    stranger(&mut o);
    holds(&o, HoldReason::UnknownMember, "https://10.9.9.9:2380");
}

#[test]
fn the_seat_of_a_removed_member_is_given_back() {
    let mut o = too_many(3, 2);
    members(&mut o).retain(|m| m.id != id(3));
    does(&o, Step::Unseat { node: name(3) });
    o.seats.pop();
    assert_eq!(plan(&o), Plan::Done);
}
