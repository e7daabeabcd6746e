//! The human's ways to stop a pivot, at each phase of it: abort, hold, skip. And boot's ways back: by its kubelet where it was signalled and not
//! removed; none once it is buried.

use std::time::{Duration, SystemTime};

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_crash::plan::When;
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

const LIMIT: Duration = Duration::from_secs(300);

fn patch(stage: &Stage, self_hosted: &str) {
    let patch = format!(r#"{{"spec":{{"selfHosted":{self_hosted}}}}}"#);
    stage.bed.kubectl(&["patch", "etcd", "kube-etcd", "-n", "kube-system", "--type=merge", "-p", &patch]).unwrap();
}

fn phase(stage: &Stage) -> String {
    stage.cluster()["status"]["pivot"]["phase"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_pivot_is_aborted_at_each_phase_and_held_and_ends() {
    if !is_sampled("a_pivot_is_aborted_at_each_phase_and_held_and_ends") {
        return;
    }
    let stage = Stage::with_crashing_operator();
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let points = [
                (When::After, "POST etcdmembers"),
                (When::After, "MemberAdd"),
                (When::After, "MemberPromote"),
                (When::Before, "WriteAndRead"),
                (When::After, "MoveLeader"),
            ];
            for (round, (when, call)) in points.into_iter().enumerate() {
                let number = stage.hold_next(when, call);
                if round == 0 {
                    stage.bed.apply(&stage.etcd_cluster(3)).unwrap();
                } else {
                    patch(&stage, r#"{"abort":false}"#);
                }
                stage.until_held(number, &format!("aborted {when:?} {call}"));
                patch(&stage, r#"{"abort":true}"#);
                stage.faults().let_go(number).unwrap();
                stage.until("it is aborted", LIMIT, || phase(&stage) == "Aborted" && stage.members() == ["boot"]);
            }

            // Held at the gate for as long as somebody wants it; then kept for good; then after all not.
            let number = stage.hold_next(When::Before, "WriteAndRead");
            patch(&stage, r#"{"abort":false}"#);
            stage.until_held(number, "held before the gate");
            patch(&stage, r#"{"holdBootRemoval":true}"#);
            stage.faults().let_go(number).unwrap();
            let is_held = || stage.cluster()["status"]["reason"] == "HoldBootRemoval";
            stage.until("it is held", LIMIT, is_held);
            std::thread::sleep(Duration::from_secs(10));
            assert!(is_held() && stage.members().contains(&"boot".to_owned()));
            patch(&stage, r#"{"holdBootRemoval":false,"skipBootMemberRemoval":true}"#);
            stage.until("boot is kept", LIMIT, || phase(&stage) == "BootKept");
            std::thread::sleep(Duration::from_secs(10));
            assert!(stage.members().contains(&"boot".to_owned()));
            patch(&stage, r#"{"skipBootMemberRemoval":false}"#);
            stage.wait_for("PivotComplete", LIMIT);
        },
    );
    assert_unharmed(&verdict);
    assert_eq!(stage.members().len(), 3);
}

#[test]
fn a_signalled_boot_comes_back_and_a_buried_one_does_not() {
    if !is_sampled("a_signalled_boot_comes_back_and_a_buried_one_does_not") {
        return;
    }
    let stage = Stage::with_crashing_operator();
    let node = stage.bed.options().boot().unwrap();
    let boot = || faults::find(&node, Process::BootEtcd).unwrap().first().copied();
    let serves = || stage.bed.etcdctl(&stage.boot_endpoint(), &["get", "no-such-key", "--command-timeout=1s"]).is_ok();
    let first = boot().expect("boot runs");

    // The controller has had boot signalled and says no more: nobody but the kubelet brings it back.
    let number = stage.hold_next(When::Before, "MemberRemove");
    let pivot = stage.begin_pivot(3);
    stage.until_held(number, "boot is signalled, not removed");
    stage.until("its kubelet has started it again", LIMIT, || boot().is_some_and(|pid| pid != first) && serves());
    assert!(stage.faults().holds(number), "the controller had no part in it");
    stage.faults().let_go(number).unwrap();
    stage.end_pivot(pivot);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);

    // Somebody puts its manifest back.
    let manifests = stage.bed.layout.disk(&node, "etc/kubernetes/manifests");
    let archive = stage.bed.layout.disk(&node, "var/lib/etcd-operator/kube-system/kube-etcd/boot/manifest-archive");
    let archived = std::fs::read_dir(&archive).unwrap().next().expect("boot's manifest is archived").unwrap().path();
    // Its earlier logs go with the pod, at a time of the kubelet's choosing: they do not count.
    let put_back = SystemTime::now();
    let log = || stage.pod_log(&node, "boot-etcd", put_back);
    let refusal = "removed-by-etcd-operator";
    std::fs::copy(&archived, manifests.join("boot-etcd.yaml")).unwrap();
    stage.until("its etcd has tried to start", LIMIT, || log().contains("data-dir"));
    for _ in 0..40 {
        assert!(!serves(), "a buried boot serves");
        std::thread::sleep(Duration::from_millis(250));
    }
    let kept = stage.bed.layout.disk(&node, "var/lib/etcd-boot");
    let names: Vec<String> =
        std::fs::read_dir(kept).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|n| n.ends_with(refusal)), "{names:?}");
    println!("its etcd's last words: {}", log().lines().last().unwrap_or_default());
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    std::fs::remove_file(manifests.join("boot-etcd.yaml")).unwrap();
}
