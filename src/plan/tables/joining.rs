//! From seats to voters.

use super::*;

#[test]
fn every_keeper_is_prepared_before_the_first_learner() {
    let mut o = seated(3);
    o.seats[2].keeper = KeeperView::NotPrepared { why: "no image".into() };
    waits(&o, WaitFor::MembersPrepared);
    o.seats[2].keeper = KeeperView::Refused { reason: "DiskMissing".into(), message: "mount /var/lib/etcd".into() };
    holds(&o, HoldReason::MemberRefused, "DiskMissing");
}

#[test]
fn a_learner_is_added_only_where_the_agent_answers() {
    let mut o = seated(3);
    o.nodes[1].agent = AgentView::Silent;
    waits(&o, WaitFor::Agents);
    // A member that is listed already needs no agent to be promoted.
    let mut o = joined(3, 2);
    list(&mut o, 3, learner(follower()));
    o.nodes[0].agent = AgentView::Silent;
    does(&o, Step::Promote { node: name(3), member: id(3) });
}

#[test]
fn learners_join_one_at_a_time_in_the_order_of_their_nodes() {
    for size in [2, 3, 5] {
        for voters in 0..size as usize {
            let o = joined(size, voters);
            does(&o, Step::AddLearner { node: name(voters + 1) });
        }
    }
}

#[test]
fn a_learner_is_told_its_id_then_starts_then_catches_up_then_is_promoted() {
    let mut o = joined(3, 1);
    list(&mut o, 2, learner(EtcdHealth::Unknown));
    o.seats[1].ordered = None;
    does(&o, Step::StartMember { node: name(2), member: id(2) });
    // An ID of an earlier life is no order for this one.
    o.seats[1].ordered = Some(MemberId(99));
    does(&o, Step::StartMember { node: name(2), member: id(2) });
    o.seats[1].ordered = Some(id(2));
    waits(&o, WaitFor::LearnerStarts);
    for behind in [lagging(101, Some(0)), lagging(0, Some(101)), lagging(0, None)] {
        member(&mut o, 2).health = behind;
        waits(&o, WaitFor::LearnerCatchesUp);
    }
    member(&mut o, 2).health = lagging(100, Some(100));
    does(&o, Step::Promote { node: name(2), member: id(2) });
}

#[test]
fn a_learner_whose_keeper_refuses_holds() {
    let mut o = joined(3, 1);
    list(&mut o, 2, learner(EtcdHealth::Unknown));
    o.seats[1].keeper = KeeperView::Refused { reason: "ArchiveFull".into(), message: "make room".into() };
    holds(&o, HoldReason::MemberRefused, "ArchiveFull");
}

#[test]
fn nothing_is_promoted_beside_an_unhealthy_voter_of_ours() {
    let mut o = joined(3, 2);
    list(&mut o, 3, learner(follower()));
    for health in [EtcdHealth::Unhealthy, EtcdHealth::Unknown] {
        member(&mut o, 1).health = health;
        waits(&o, WaitFor::VotersHealthy);
    }
}

#[test]
fn a_dead_boot_keeps_nobody_from_being_promoted_where_tolerance_allows_it() {
    let mut o = joined(3, 2);
    list(&mut o, 3, learner(follower()));
    members(&mut o)[0].health = EtcdHealth::Unknown;
    does(&o, Step::Promote { node: name(3), member: id(3) });
    // Boot and one more: the promotion of the second would make two healthy of three out of one of two. etcd would not answer here;
    // a list that was read just before boot died is judged by what it says.
    let mut o = joined(3, 0);
    list(&mut o, 1, learner(follower()));
    members(&mut o)[0].health = EtcdHealth::Unknown;
    holds(&o, HoldReason::ToleranceTooLow, "bring the unhealthy members back");
}

#[test]
fn foreign_members_are_reported_and_nothing_is_added_beside_them() {
    for mut o in [seated(3), joined(3, 2), ready(3)] {
        stranger(&mut o);
        holds(&o, HoldReason::UnknownMember, "https://10.9.9.9:2380");
    }
}

#[test]
fn at_size_1_the_learner_waits_for_the_clients_before_it_is_promoted() {
    let mut o = joined(1, 0);
    list(&mut o, 1, learner(follower()));
    does(&o, Step::CountClients);
    connected(&mut o);
    does(&o, Step::CheckGate);
    o.gate = Gate::Passed { at_ms: NOW };
    does(&o, Step::Promote { node: name(1), member: id(1) });
}

#[test]
fn after_the_pivot_the_cluster_grows_and_rests() {
    let mut o = removed(3);
    if let Boot::Member { tombstone, .. } = &mut o.boot {
        *tombstone = Tombstone::Set;
    }
    assert_eq!(plan(&o), Plan::Done);
    o.spec.size = 5;
    does(&o, Step::AssignSeats { nodes: vec![name(4), name(5)] });
    o.seats.extend([seat(4), seat(5)]);
    does(&o, Step::AddLearner { node: name(4) });
    o.seats.truncate(3);
    // A learner has no vote: it goes, so that nobody has to wait for a human because of it.
    o.spec.size = 3;
    o.seats.push(seat(4));
    list(&mut o, 4, learner(follower()));
    does(&o, Step::RemoveMember { node: name(4), member: id(4) });
}

#[test]
fn seats_beyond_the_size_that_have_no_member_yet_are_given_back() {
    let mut o = joined(5, 3);
    o.spec.size = 3;
    does(&o, Step::Unseat { node: name(5) });
    o.seats.pop();
    does(&o, Step::Unseat { node: name(4) });
    o.seats.pop();
    does(&o, Step::CountClients);
}
