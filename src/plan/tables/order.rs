//! Who comes first where several could. The order must not hang on the order in which the API lists nodes and seats: two controllers, or
//! one that was restarted, go on with the same one.

use super::*;

#[test]
fn nodes_of_equally_crowded_zones_get_seats_by_name() {
    let mut o = before_the_first_change(5, 3);
    o.nodes.reverse();
    does(&o, Step::AssignSeats { nodes: vec![name(1), name(2), name(3)] });
}

#[test]
fn learners_join_by_the_name_of_their_node_however_the_seats_are_listed() {
    let mut o = joined(3, 1);
    o.seats.reverse();
    does(&o, Step::AddLearner { node: name(2) });
}

#[test]
fn a_member_that_is_listed_is_told_its_id_before_another_is_added() {
    let mut o = seated(3);
    list(&mut o, 3, voter());
    o.seats[2].ordered = None;
    does(&o, Step::StartMember { node: name(3), member: id(3) });
}

#[test]
fn a_learner_in_flight_comes_before_the_next_one() {
    let mut o = seated(3);
    list(&mut o, 3, learner(lagging(500, None)));
    waits(&o, WaitFor::LearnerCatchesUp);
    member(&mut o, 3).health = follower();
    does(&o, Step::Promote { node: name(3), member: id(3) });
}

#[test]
fn the_successor_is_judged_by_the_worse_of_its_two_samples() {
    for (first, second) in [((0, 90), (20, 20)), ((90, 0), (20, 20)), ((0, 21), (20, 0))] {
        let mut o = ready(2);
        member(&mut o, 1).health = lagging(first.0, Some(first.1));
        member(&mut o, 2).health = lagging(second.0, Some(second.1));
        does(&o, Step::MoveLeader { from: BOOT, to: id(2) });
    }
}

#[test]
fn abort_removes_what_is_down_then_by_id_and_last_who_may_still_lead() {
    let mut o = joined(3, 3);
    o.spec.abort = true;
    o.seats.reverse();
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
    member(&mut o, 2).health = EtcdHealth::Unhealthy;
    o.seats.iter_mut().for_each(|s| s.down_since_ms = Some(NOW - 10_000));
    does(&o, Step::RemoveMember { node: name(2), member: id(2) });
    // Two say that they lead: one of them answered before it heard of the other.
    member(&mut o, 2).health = follower();
    member(&mut o, 1).health = leader();
    does(&o, Step::RemoveMember { node: name(2), member: id(2) });
}
