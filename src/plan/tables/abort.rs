//! Abort: back to boot alone.

use super::*;

fn aborted(mut o: Observed) -> Observed {
    o.spec.abort = true;
    o
}

#[test]
fn learners_go_first_then_the_leader_moves_then_voters_go() {
    let mut o = aborted(joined(3, 2));
    list(&mut o, 3, learner(follower()));
    does(&o, Step::RemoveMember { node: name(3), member: id(3) });
    members(&mut o).pop();
    member(&mut o, 1).health = leader();
    members(&mut o)[0].health = follower();
    does(&o, Step::MoveLeader { from: id(1), to: BOOT });
    members(&mut o)[0].health = leader();
    member(&mut o, 1).health = follower();
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
}

#[test]
fn the_seats_are_given_back_last() {
    let mut o = aborted(seated(2));
    does(&o, Step::Unseat { node: name(1) });
    o.seats.clear();
    assert_eq!(plan(&o), Plan::Done);
}

#[test]
fn an_unhealthy_boot_is_nothing_to_go_back_to() {
    let mut o = aborted(joined(3, 3));
    members(&mut o)[0].health = EtcdHealth::Unhealthy;
    holds(&o, HoldReason::ToleranceTooLow, "take abort away");
}

#[test]
fn no_voter_is_removed_where_the_rest_would_be_too_few() {
    let mut o = aborted(joined(5, 4));
    member(&mut o, 1).health = EtcdHealth::Unhealthy;
    // It may have missed an answer, and who is down leaves without a drain.
    assert_eq!(plan(&o), Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: 1_000 });
    o.seats[0].down_since_ms = Some(NOW - 10_000);
    // The unhealthy one goes first: that costs nothing.
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
    member(&mut o, 2).health = EtcdHealth::Unhealthy;
    member(&mut o, 3).health = EtcdHealth::Unhealthy;
    waits(&o, WaitFor::VotersHealthy);
}

#[test]
fn abort_after_the_removal_changes_nothing() {
    does(&aborted(removed(3)), Step::TombstoneBoot);
}

#[test]
fn no_voter_is_removed_while_nobody_is_seen_to_lead_and_boot_must_have_caught_up_to_lead() {
    let mut o = aborted(joined(3, 2));
    members(&mut o)[0].health = follower();
    member(&mut o, 1).health = EtcdHealth::Unknown;
    waits(&o, WaitFor::VotersHealthy);
    member(&mut o, 1).health = leader();
    members(&mut o)[0].health = lagging(0, Some(500));
    waits(&o, WaitFor::VotersHealthy);
    members(&mut o)[0].health = follower();
    does(&o, Step::MoveLeader { from: id(1), to: BOOT });
}

#[test]
fn a_keeper_that_never_stops_its_member_is_named() {
    let mut o = aborted(joined(3, 2));
    o.seats[0].drains_in_vain = 3;
    holds(&o, HoldReason::MemberNotStopped, "take selfHosted.abort away");
    // One that is down needs nobody to stop it.
    member(&mut o, 1).health = EtcdHealth::Unknown;
    o.seats[0].down_since_ms = Some(NOW - 10_000);
    does(&o, Step::RemoveMember { node: name(1), member: id(1) });
}
