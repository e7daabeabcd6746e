//! What a keeper or a member says of itself, and what that means for the next step.

use super::*;

#[test]
fn any_prepared_keeper_may_be_added_also_one_that_ran_before() {
    // A keeper that was stopped by an abort is asked again when abort is taken away.
    for keeper in [KeeperView::Waiting { reason: "WaitToBeAdded".into() }, KeeperView::Running, KeeperView::Stopped] {
        let mut o = seated(3);
        o.seats[0].keeper = keeper;
        does(&o, Step::AddLearner { node: name(1) });
    }
}

#[test]
fn a_keepers_word_is_no_reason_to_hold_a_learner_back_unless_it_refuses() {
    // It comes by the API and may be older than what etcd says.
    for keeper in [
        KeeperView::NotPrepared { why: "no pod".into() },
        KeeperView::Waiting { reason: "NotAddedYet".into() },
        KeeperView::Running,
        KeeperView::Stopped,
    ] {
        let mut o = joined(3, 1);
        list(&mut o, 2, learner(follower()));
        o.seats[1].keeper = keeper;
        does(&o, Step::Promote { node: name(2), member: id(2) });
    }
}

#[test]
fn a_learner_that_answers_unwell_has_not_started() {
    for health in [EtcdHealth::Unknown, EtcdHealth::Unhealthy] {
        let mut o = joined(3, 1);
        list(&mut o, 2, learner(health));
        waits(&o, WaitFor::LearnerStarts);
    }
}

#[test]
fn no_learner_is_added_on_a_node_that_is_down_though_its_agent_answered_lately() {
    let mut o = seated(3);
    o.nodes[1].readiness = Readiness::NotReady;
    waits(&o, WaitFor::Agents);
    o.nodes.remove(1);
    waits(&o, WaitFor::Agents);
}
