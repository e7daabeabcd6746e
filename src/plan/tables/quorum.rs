//! The arithmetic under every membership step: votes, tolerance, and what may be promoted or removed.

use super::*;
use crate::quorum::{Tolerance, may_promote, may_remove, quorum_of};

/// `healthy` voters with the IDs from 1, then `down` voters.
fn voters(healthy: usize, down: usize) -> Vec<EtcdMember> {
    (1..=healthy + down)
        .map(|n| EtcdMember {
            id: id(n),
            name: format!("cp{n}-1"),
            peer_urls: vec![url(n)],
            is_learner: false,
            health: if n <= healthy { follower() } else { EtcdHealth::Unknown },
        })
        .collect()
}

/// The same and a learner, whose ID is `LEARNER`.
fn and_a_learner(mut members: Vec<EtcdMember>, health: EtcdHealth) -> Vec<EtcdMember> {
    members.push(EtcdMember { id: LEARNER, name: String::new(), peer_urls: vec![url(9)], is_learner: true, health });
    members
}

const LEARNER: MemberId = MemberId(0x99);

#[test]
fn a_quorum_is_more_than_half_of_the_voters() {
    let quorums: Vec<usize> = (1..=9).map(quorum_of).collect();
    assert_eq!(quorums, [1, 2, 2, 3, 3, 4, 4, 5, 5]);
}

#[test]
fn an_even_number_of_voters_tolerates_no_more_than_one_less() {
    let tolerances: Vec<i64> = (1..=9).map(|n| Tolerance::best(n).0).collect();
    assert_eq!(tolerances, [0, 0, 1, 1, 2, 2, 3, 3, 4]);
}

#[test]
fn the_tolerance_falls_by_one_with_each_voter_that_is_down_and_knows_no_learner() {
    for (healthy, down, tolerance) in [(1, 0, 0), (0, 1, -1), (2, 0, 0), (1, 1, -1), (3, 0, 1), (2, 1, 0), (1, 2, -1), (5, 0, 2)]
    {
        let members = voters(healthy, down);
        assert_eq!(Tolerance::of(&members), Tolerance(tolerance), "{healthy} of {}", healthy + down);
        for learner in [follower(), EtcdHealth::Unhealthy, EtcdHealth::Unknown] {
            assert_eq!(Tolerance::of(&and_a_learner(members.clone(), learner)), Tolerance(tolerance), "beside a learner");
        }
    }
}

#[test]
fn a_healthy_learner_may_be_promoted_where_a_quorum_of_healthy_voters_results() {
    for (healthy, down, allowed) in [
        (1, 0, true),
        (2, 0, true),
        (3, 0, true),
        // One of one is down: one of two would be healthy.
        (0, 1, false),
        // One of two is down: two of three would be healthy, which is why a third is worth having.
        (1, 1, true),
        (2, 1, true),
        (1, 2, false),
        (2, 2, true),
    ] {
        let members = and_a_learner(voters(healthy, down), follower());
        assert_eq!(may_promote(&members, LEARNER), allowed, "beside {healthy} healthy of {}", healthy + down);
    }
}

#[test]
fn a_learner_that_is_down_may_be_promoted_only_where_that_costs_no_tolerance() {
    for (healthy, allowed) in [
        // It would be the second of two, of which none may fail.
        (1, false),
        // The quorum of three is that of two.
        (2, true),
        // Four need three: none of the three could fail any more.
        (3, false),
        (4, true),
        // Six need four of the five: one may still fail.
        (5, true),
    ] {
        let members = and_a_learner(voters(healthy, 0), EtcdHealth::Unknown);
        assert_eq!(may_promote(&members, LEARNER), allowed, "beside {healthy}");
    }
}

#[test]
fn a_healthy_voter_may_be_removed_where_one_more_may_fail_afterwards_or_could_never() {
    for (healthy, down, allowed) in [
        // Nobody would be left.
        (1, 0, false),
        // One alone tolerates nothing, and two didn't either.
        (2, 0, true),
        // The pivot's last step: 4→3, 3→2, as many as the smaller set can ever tolerate.
        (3, 0, true),
        (4, 0, true),
        // With one down: the quorum falls along from four to three, but not from five to four.
        (3, 1, true),
        (4, 1, false),
        (5, 1, true),
        // A set that could not lose one before is not asked for more than that.
        (2, 1, false),
        (3, 2, false),
        (4, 2, true),
    ] {
        for members in [voters(healthy, down), and_a_learner(voters(healthy, down), follower())] {
            assert_eq!(may_remove(&members, id(1)), allowed, "{healthy} healthy of {}", healthy + down);
        }
    }
}

#[test]
fn a_voter_that_is_down_may_be_removed_while_the_others_have_a_quorum_of_their_own() {
    for (healthy, down, allowed) in [(1, 1, true), (2, 1, true), (3, 1, true), (2, 2, true), (1, 2, false), (0, 1, false)] {
        assert_eq!(may_remove(&voters(healthy, down), id(healthy + down)), allowed, "{healthy} healthy of {}", healthy + down);
    }
}
