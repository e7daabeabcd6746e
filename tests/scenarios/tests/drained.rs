//! `kubectl drain` of control nodes, one after the other and one too many (F24).

use std::time::Duration;

use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

const LIMIT: Duration = Duration::from_secs(180);

fn drain(stage: &Stage, node: &str, seconds: u32) -> Result<String, String> {
    let timeout = format!("--timeout={seconds}s");
    stage
        .bed
        .kubectl(&["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", &timeout])
        .map_err(|error| error.to_string())
}

/// All guards are there, each beside its member.
fn guarded(stage: &Stage, nodes: &[&str]) {
    let query = "jsonpath={range .items[*]}{.spec.nodeName}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
    let guards = ["get", "pods", "-n", "kube-system", "-l", "app.kubernetes.io/component=guard", "-o", query];
    stage.until(&format!("a ready guard on each of {nodes:?}"), LIMIT, || {
        let mut found: Vec<String> =
            stage.bed.kubectl(&guards).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        found.sort();
        found == nodes.iter().map(|node| format!("{node}=True")).collect::<Vec<_>>()
    });
}

#[test]
fn the_drain_of_one_node_too_many_is_held_back() {
    if !is_sampled("the_drain_of_one_node_too_many_is_held_back") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    guarded(&stage, &["cp1", "cp2", "cp3"]);
    let verdict = stage.under_witness(
        None,
        |_| {},
        || {
            // One of three may go, and its static pod stays where it is.
            drain(&stage, "cp2", 120).unwrap();
            let refused = drain(&stage, "cp3", 20).expect_err("the second node is held back");
            assert!(refused.contains("disruption budget"), "{refused}");
            assert_eq!(stage.members().len(), 3);
            stage.bed.kubectl(&["uncordon", "cp3"]).unwrap();
            stage.bed.kubectl(&["uncordon", "cp2"]).unwrap();
            guarded(&stage, &["cp1", "cp2", "cp3"]);
            // In turn.
            drain(&stage, "cp3", 120).unwrap();
            stage.bed.kubectl(&["uncordon", "cp3"]).unwrap();
            guarded(&stage, &["cp1", "cp2", "cp3"]);
        },
    );
    assert_unharmed(&verdict);

    // With one member down no other node may go; its own may.
    let node = stage.bed.options().node("cp3").unwrap();
    stage.bed.power_cut(std::slice::from_ref(&node)).unwrap();
    let unready = ["wait", "--for=condition=Ready=Unknown", "--timeout=120s", "node/cp3"];
    stage.bed.kubectl(&unready).unwrap();
    let budget = ["get", "pdb", "etcd-guard-kube-etcd", "-n", "kube-system", "-o", "jsonpath={.status.disruptionsAllowed}"];
    stage.until("no guard may be evicted", LIMIT, || stage.bed.kubectl(&budget).is_ok_and(|allowed| allowed == "0"));
    let refused = drain(&stage, "cp2", 20).expect_err("a member is down already");
    assert!(refused.contains("disruption budget"), "{refused}");
    stage.bed.kubectl(&["uncordon", "cp2"]).unwrap();
    stage.bed.start(std::slice::from_ref(&node)).unwrap();
    guarded(&stage, &["cp1", "cp2", "cp3"]);
}
