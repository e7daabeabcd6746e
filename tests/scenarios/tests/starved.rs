//! A new member that is cut off as it joins (F14, F15): it is given up, another node takes its place, and nobody else notices.

use std::time::Duration;

use etcd_operator_bed::faults::{self, Direction};
use etcd_operator_crash::plan::When;
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

#[test]
fn a_starved_learner_is_evicted_and_another_node_takes_its_place() {
    if !is_sampled("a_starved_learner_is_evicted_and_another_node_takes_its_place") {
        return;
    }
    let stage = Stage::with_crashing_operator_on(4);
    let kubectl = |args: &[&str]| stage.bed.kubectl(args).unwrap();
    // The shortest patience there is: nobody wants to wait 5 min for this.
    stage.set("ETCD_OPERATOR_LEARNER_PATIENCE", "60");

    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let first = stage.hold_next(When::After, "MemberPromote");
            let pivot = stage.begin_pivot(3);
            stage.until_held(first, "cp1's member is promoted");
            let second = stage.hold_next(When::Before, "MemberAdd");
            stage.faults().let_go(first).unwrap();
            stage.until_held(second, "cp2's is about to be added");
            // Its agent goes on by the load balancer; boot and the first member are out of reach.
            faults::partition(stage.bed.options(), "cp2", "cp1", Direction::Both).unwrap();
            stage.faults().let_go(second).unwrap();
            stage.end_pivot(pivot);
        },
    );
    assert_unharmed(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp3-1", "cp4-1"]);
    let events =
        kubectl(&["get", "events", "-n", "kube-system", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}"]);
    let eviction = events.lines().find(|l| l.starts_with("EvictLearner")).unwrap_or_else(|| panic!("no Event of it: {events}"));
    assert!(eviction.contains("cp2") && eviction.contains("port 2380"), "{eviction}");

    // The node that is back is not taken for a member, nor does it become one by itself.
    faults::heal(stage.bed.options()).unwrap();
    stage.wait_for("Ready", Duration::from_secs(120));
    assert_eq!(stage.members(), ["cp1-1", "cp3-1", "cp4-1"]);
}
