//! The controller and the agents die in their calls, again and again in one pivot: each kind of call, before and after it.

use std::time::Duration;

use etcd_operator_crash::plan::{Entry, Role, Then, When};
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

/// More than one of a kind where the next is a matter of its own: another member, another field.
const CONTROLLER: [&str; 18] = [
    "PUT leases/",
    "POST etcdmembers",
    "GET secrets/",
    "PUT etcdmembers/",
    "PUT etcdclusters/kube-etcd/status",
    "Status",
    "MemberAdd",
    "PUT etcdmembers/",
    "MemberPromote",
    "MemberAdd",
    "MemberPromote",
    "PATCH configmaps/",
    "MemberList",
    "WriteAndRead",
    "HashKV",
    "MoveLeader",
    "Watch",
    "MemberRemove",
];
const AGENT: [&str; 6] = ["PATCH etcdmembers/", "Snapshot", "WATCH etcdmembers", "signal TERM", "MemberList", "signal KILL"];

/// Where others died before it, boot has often ended by itself.
const MAY_BE_LEFT: &str = "signal KILL";

fn deaths(when: When) -> Vec<Entry> {
    let die = |role, call: &str| Entry { role, call: call.to_owned(), when, then: Then::Die };
    let controller = CONTROLLER.iter().map(|call| die(Role::Controller, call));
    controller.chain(AGENT.iter().map(|call| die(Role::Agent, call))).collect()
}

fn all_die(when: When) {
    let stage = Stage::with_crashing_operator();
    let faults = stage.faults();
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            faults.plan(&deaths(when)).unwrap();
            stage.pivot(3);
        },
    );
    for met in faults.met().unwrap() {
        println!("{:?} on {} died {:?} its call {}: {}", met.entry.role, met.node, met.entry.when, met.number, met.call);
    }
    let left: Vec<Entry> = faults.left().unwrap().into_iter().filter(|e| e.call != MAY_BE_LEFT).collect();
    assert_eq!(left, [], "these deaths did not come to pass");
    assert_unharmed(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    stage.wait_for("Ready", Duration::from_secs(60));
}

#[test]
fn before_each_kind_of_call() {
    if is_sampled("before_each_kind_of_call") {
        all_die(When::Before);
    }
}

#[test]
fn after_each_kind_of_call() {
    if is_sampled("after_each_kind_of_call") {
        all_die(When::After);
    }
}
