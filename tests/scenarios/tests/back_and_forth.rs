//! Held before boot goes: aborted from there, begun again, and ended with no client left that boot could disturb.

use std::process::Command;
use std::time::Duration;

use etcd_operator_scenarios::{Stage, assert_clean, assert_unharmed, is_sampled, text_of};
use etcd_operator_witness::Invariant;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);

/// A pivot that stands at its gate: three voters beside boot, and boot's removal held, as the command had no time for more.
fn held_before_the_removal() -> Stage {
    let stage = Stage::with_boot_on("cp1");
    let output = stage.pivot_command(3).args(["--timeout", "5", "-o", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text_of(&output));
    let lines: Vec<Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let last = lines.last().expect("an outcome");
    assert_eq!((&last["outcome"], &last["exitCode"]), (&"timedOut".into(), &4.into()), "{last}");
    assert_eq!(stage.cluster()["spec"]["selfHosted"]["holdBootRemoval"], true);
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
    let stage = held_before_the_removal();
    // API servers that list the members only: from here on boot has no client but the operator.
    let seats: Vec<String> = stage.bed.options().all().iter().map(|n| format!("https://{}:2379", n.ip())).collect();
    let verdict = stage.under_witness(
        None,
        // The temporary API server goes: what that costs is the installer's to know, not ours to judge.
        |options| options.allow = vec![Invariant::FailedWrite, Invariant::TooFewWrites, Invariant::LostEvent],
        || {
            let status =
                Command::new(stage.bed.layout.path("bin/bed")).args(["handover", "--etcd-servers", &seats.join(",")]).status();
            assert!(status.unwrap().success(), "bed handover");
        },
    );
    let writes = &verdict.writes;
    println!("THE HAND-OVER lost {} of {} writes, longest gap {:.0} ms", writes.failed, writes.due, writes.longest_gap_ms);
    assert!(verdict.clean, "{:#?}", verdict.violations);
    // The witness, too, keeps away from boot.
    let verdict = stage.under_witness(Some(3), |options| options.leave_boot_alone = true, || stage.pivot(3));
    assert_unharmed(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}
