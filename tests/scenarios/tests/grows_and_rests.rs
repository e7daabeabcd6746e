//! After a pivot to one: grown to three under load, then at rest, then in the hands of the other controller.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_scenarios::{Stage, assert_clean, is_sampled};

const LIMIT: Duration = Duration::from_secs(180);
/// How long nothing may be written.
const AT_REST: Duration = Duration::from_secs(60);

#[test]
fn it_grows_rests_and_changes_hands() {
    if !is_sampled("it_grows_rests_and_changes_hands") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    stage.pivot(1);
    let kubectl = |args: &[&str]| stage.bed.kubectl(args).unwrap();
    let verdict = stage.under_witness(
        None,
        |_| {},
        || {
            kubectl(&["scale", "etcd/kube-etcd", "-n", "kube-system", "--replicas=3"]);
            stage.until("three members", LIMIT, || stage.members() == ["cp1-1", "cp2-1", "cp3-1"]);
            stage.wait_for("Ready", LIMIT);
        },
    );
    assert_clean(&verdict);

    let conditions = stage.cluster()["status"]["conditions"].clone();
    for (condition, wanted) in
        [("Available", "True"), ("Progressing", "False"), ("Degraded", "False"), ("PivotComplete", "True"), ("Ready", "True")]
    {
        let found = conditions.as_array().unwrap().iter().find(|c| c["type"] == condition).expect(condition);
        assert_eq!(found["status"], wanted, "{found}");
    }
    let events = kubectl(&["get", "events", "-n", "kube-system", "-o", "jsonpath={.items[*].reason}"]);
    for reason in ["AddLearner", "Promote", "MoveLeader", "RemoveBoot", "PivotComplete"] {
        assert!(events.split_whitespace().any(|r| r == reason), "no Event {reason}: {events}");
    }

    let versions = || {
        // In no order: `..` walks through maps, and the list itself has an empty one.
        let of = |what: &str| {
            let text = kubectl(&["get", what, "-n", "kube-system", "-o", "jsonpath={..resourceVersion}"]);
            text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        (of("etcd,etcdm"), of("cm/kube-etcd-endpoints"))
    };
    let before = versions();
    std::thread::sleep(AT_REST);
    assert_eq!(versions(), before, "something was written at rest");

    let lease = ["get", "lease", "etcd-operator", "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}"];
    let leader = kubectl(&lease);
    let node = kubectl(&["get", "pod", &leader, "-n", "kube-system", "-o", "jsonpath={.spec.nodeName}"]);
    let node = stage.bed.options().node(&node).unwrap();
    // Stopped, not killed: a killed one is started again by its kubelet under the same name.
    faults::signal(&node, Process::Controller, Signal::Pause).unwrap();
    stage.until("another controller leads", LIMIT, || kubectl(&lease) != leader);
    kubectl(&["patch", "etcd", "kube-etcd", "-n", "kube-system", "--type=merge", "-p", r#"{"spec":{"paused":true}}"#]);
    stage.until("it answers to a change", LIMIT, || {
        let cluster = stage.cluster();
        cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"]
    });
    faults::signal(&node, Process::Controller, Signal::Resume).unwrap();

    // An EtcdMember that somebody deletes is made again as it was (F31), and its agent follows.
    kubectl(&["patch", "etcd", "kube-etcd", "-n", "kube-system", "--type=merge", "-p", r#"{"spec":{"paused":false}}"#]);
    kubectl(&["delete", "etcdm", "kube-etcd-cp2", "-n", "kube-system"]);
    let member = [
        "get",
        "etcdm",
        "kube-etcd-cp2",
        "-n",
        "kube-system",
        "-o",
        "jsonpath={.spec.role} {.spec.seat.order.memberName} {.status.keeper.phase} {.status.problem}",
    ];
    stage.until("it is made again", LIMIT, || stage.bed.kubectl(&member).is_ok_and(|t| t.trim_end() == "Member cp2-1 Running"));
    stage.wait_for("Ready", LIMIT);
}
