//! Held before boot goes: aborted from there, begun again, and ended with no client left that boot could disturb.

use std::time::Duration;

use etcd_operator_scenarios::{Stage, assert_clean, is_sampled};

const LIMIT: Duration = Duration::from_secs(300);

/// A pivot that stands at its gate: three voters beside boot, and boot's removal held by hand.
fn held_before_the_removal() -> Stage {
    let stage = Stage::with_boot_on("cp1");
    let mut object = stage.etcd_cluster(3);
    object["spec"]["selfHosted"]["holdBootRemoval"] = true.into();
    stage.bed.apply(&object).unwrap();
    stage.until("the pivot is held before boot's removal", LIMIT, || stage.cluster()["status"]["reason"] == "HoldBootRemoval");
    assert_eq!(stage.members(), ["boot", "cp1-1", "cp2-1", "cp3-1"]);
    stage
}

#[test]
fn an_aborted_pivot_loses_no_write_and_can_be_made_again() {
    if !is_sampled("an_aborted_pivot_loses_no_write_and_can_be_made_again") {
        return;
    }
    let stage = held_before_the_removal();
    let verdict = stage.under_witness(
        None,
        |_| {},
        || {
            let status = stage.pivot_command(3).arg("--abort").status().unwrap();
            assert!(status.success(), "pivot --abort ended with {status}; {}", stage.explain());
        },
    );
    assert_clean(&verdict);
    assert_eq!(stage.members(), ["boot"]);
    for node in stage.bed.options().all() {
        let manifest = stage.bed.layout.disk(&node, "etc/kubernetes/manifests/etcd-kube-etcd.yaml");
        stage.until("the manifests are gone", Duration::from_secs(30), || !manifest.exists());
    }
    // Their data is kept, so the next members are of the next generation.
    stage.pivot(3);
    assert_eq!(stage.members(), ["cp1-2", "cp2-2", "cp3-2"]);
}

#[test]
fn boot_goes_while_nobody_else_is_connected_to_it() {
    if !is_sampled("boot_goes_while_nobody_else_is_connected_to_it") {
        return;
    }
    let mut stage = held_before_the_removal();
    // API servers that list the members only: from here on boot has no client but the operator.
    let seats: Vec<String> = stage.bed.options().all().iter().map(|n| format!("https://{}:2379", n.ip())).collect();
    stage.bed.handover(&seats).unwrap();
    let verdict = stage.under_witness(Some(3), |_| {}, || stage.pivot(3));
    assert_clean(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}
