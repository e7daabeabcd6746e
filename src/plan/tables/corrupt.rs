//! Stores that differ, and etcd's alarm.

use super::*;
use crate::{NOBODY, Stores};

fn ids(of: &[usize]) -> Vec<MemberId> {
    of.iter().map(|n| id(*n)).collect()
}

fn compared(same: &[usize], other: &[usize], down: &[usize]) -> Stores {
    Stores::Compared { same: ids(same), other: ids(other), down: ids(down) }
}

/// `size` voters, the first leads; etcd accuses some, who are unhealthy by that.
fn alarmed(size: u32, accused: &[usize], stores: Stores) -> Observed {
    let mut o = after_the_pivot(size);
    o.nodes.truncate(size as usize);
    for n in accused {
        member(&mut o, *n).health = EtcdHealth::Unhealthy;
    }
    (o.accused, o.stores) = (ids(accused), stores);
    o
}

fn removes(n: usize) -> Step {
    Step::RemoveCorrupt { node: name(n), member: id(n) }
}

#[test]
fn the_stores_are_compared_before_anything_is_done() {
    does(&alarmed(3, &[3], Stores::NotCompared), Step::CompareStores);
    let o = alarmed(3, &[3], Stores::Unclear { why: "cp2 does not answer".into() });
    holds(&o, HoldReason::HashMismatch, "cp2 does not answer");
}

#[test]
fn who_differs_from_a_quorum_and_is_accused_is_removed_and_then_the_alarm_is_taken_back() {
    let mut o = alarmed(3, &[3], compared(&[1, 2], &[3], &[]));
    does(&o, removes(3));
    members(&mut o).retain(|m| m.id != id(3));
    does(&o, Step::DisarmCorrupt { member: id(3) });
    o.accused.clear();
    does(&o, Step::Unseat { node: name(3) });
}

#[test]
fn whoever_leads_hands_over_first() {
    let mut o = alarmed(3, &[1], compared(&[2, 3], &[1], &[]));
    does(&o, Step::MoveLeader { from: id(1), to: id(2) });
    // One that is down takes nothing over.
    member(&mut o, 2).health = EtcdHealth::Unknown;
    (o.accused, o.stores) = (ids(&[1]), compared(&[2, 3], &[1], &[]));
    holds(&o, HoldReason::ToleranceTooLow, "cp1");
    member(&mut o, 2).health = leader();
    does(&o, removes(1));
}

#[test]
fn nobody_is_removed_whom_etcd_does_not_accuse_or_the_stores_do_not_show() {
    // Two against one is no quorum of four, one against one none of two.
    holds(&alarmed(4, &[4], compared(&[1, 2], &[3, 4], &[])), HoldReason::HashMismatch, "no quorum");
    holds(&alarmed(2, &[2], compared(&[1], &[2], &[])), HoldReason::HashMismatch, "no quorum");
    holds(&alarmed(3, &[2], compared(&[1, 2], &[3], &[])), HoldReason::HashMismatch, "accuses somebody else");
    // Nor a member that the operator did not add.
    let mut o = alarmed(3, &[3], compared(&[1, 2], &[3], &[]));
    o.seats.pop();
    holds(&o, HoldReason::HashMismatch, "none of the operator's");
}

#[test]
fn where_etcd_cannot_tell_who_it_is_the_stores_do() {
    let mut o = alarmed(3, &[], compared(&[1, 2], &[3], &[]));
    o.accused = vec![NOBODY];
    does(&o, removes(3));
    o.stores = compared(&[2, 3], &[1], &[]);
    does(&o, Step::MoveLeader { from: id(1), to: id(2) });
    (member(&mut o, 1).health, member(&mut o, 2).health) = (follower(), leader());
    does(&o, removes(1));
    o.stores = compared(&[1], &[2], &[]);
    holds(&o, HoldReason::HashMismatch, "nobody in particular");
    // Beside one of five that is down: whoever goes counts for nothing, accused by name or not.
    for (accused, n) in [(NOBODY, 4), (id(4), 4)] {
        let mut o = alarmed(5, &[], compared(&[1, 2, 3], &[n], &[5]));
        member(&mut o, 5).health = EtcdHealth::Unknown;
        o.accused = vec![accused];
        does(&o, removes(n));
    }
}

#[test]
fn a_quorum_is_left_in_any_case() {
    let mut o = alarmed(3, &[3], compared(&[1, 2], &[3], &[]));
    member(&mut o, 2).health = EtcdHealth::Unknown;
    holds(&o, HoldReason::ToleranceTooLow, "cp3");
    // Of five, two that differ go one after the other.
    let mut o = alarmed(5, &[4, 5], compared(&[1, 2, 3], &[4, 5], &[]));
    does(&o, removes(4));
    members(&mut o).retain(|m| m.id != id(4));
    does(&o, Step::DisarmCorrupt { member: id(4) });
    (o.accused, o.stores) = (ids(&[5]), compared(&[1, 2, 3], &[5], &[]));
    does(&o, removes(5));
}

#[test]
fn a_learner_goes_whatever_the_tolerance() {
    let mut o = alarmed(3, &[3], compared(&[1, 2], &[3], &[]));
    member(&mut o, 3).is_learner = true;
    does(&o, removes(3));
}

#[test]
fn an_alarm_that_accuses_the_innocent_or_nobody_is_taken_back() {
    does(&alarmed(3, &[3], compared(&[1, 2, 3], &[], &[])), Step::DisarmCorrupt { member: id(3) });
    let mut o = alarmed(3, &[], compared(&[1, 2, 3], &[], &[]));
    (o.accused, o.stores) = (vec![NOBODY], compared(&[1, 2, 3], &[], &[]));
    does(&o, Step::DisarmCorrupt { member: NOBODY });
    (o.accused, o.stores) = (vec![NOBODY], compared(&[1, 2], &[], &[]));
    holds(&o, HoldReason::HashMismatch, "nobody can see");
    // One that serves nobody has nothing to show.
    o.stores = compared(&[1, 2], &[], &[3]);
    does(&o, Step::DisarmCorrupt { member: NOBODY });
}

#[test]
fn whom_etcd_names_and_who_does_not_answer_now_goes_too() {
    for stores in [compared(&[1, 2], &[], &[3]), compared(&[1, 2], &[], &[])] {
        let mut o = alarmed(3, &[3], stores);
        member(&mut o, 3).health = EtcdHealth::Unknown;
        does(&o, removes(3));
        // Not if somebody else differs.
        o.stores = compared(&[1], &[2], &[3]);
        holds(&o, HoldReason::HashMismatch, "no quorum");
    }
}

#[test]
fn it_waits_for_who_paused_it_and_is_a_humans_during_a_pivot() {
    let mut o = alarmed(3, &[3], compared(&[1, 2], &[3], &[]));
    o.spec.paused = true;
    waits(&o, WaitFor::Unpause);
    let mut o = joined(3, 3);
    (o.accused, o.stores) = (ids(&[3]), compared(&[1, 2], &[3], &[]));
    holds(&o, HoldReason::HashMismatch, "during a pivot");
}

#[test]
fn no_step_of_it_has_to_be_announced() {
    for step in [Step::CompareStores, removes(1), Step::DisarmCorrupt { member: id(1) }] {
        assert!(!step.is_disruptive(), "{step:?}");
    }
}
