//! `spec.version` and `spec.pod` are changed on members that run, under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

const LIMIT: Duration = Duration::from_secs(600);
/// The bed's own version; one of the next minor version, and a patch of that which no node has.
const BEFORE: &str = "3.6.16";
const NEXT: &str = "3.7.3";
const ABSENT: &str = "3.7.2";

fn patch(stage: &Stage, spec: &str) {
    let patch = format!(r#"{{"spec":{spec}}}"#);
    stage.bed.kubectl(&["patch", "etcd", "kube-etcd", "-n", "kube-system", "--type=merge", "-p", &patch]).unwrap();
}

/// The PID of each node's etcd.
fn etcds(stage: &Stage) -> BTreeMap<String, i32> {
    let of = |node: &etcd_operator_bed::layout::Node| {
        let pid = *faults::find(node, Process::Etcd).unwrap().first()?;
        Some((node.name.clone(), pid))
    };
    stage.bed.options().all().iter().filter_map(of).collect()
}

/// The nodes whose members run a version, as the status has it.
fn run(stage: &Stage, version: &str) -> Vec<String> {
    let cluster = stage.cluster();
    let states = cluster["status"]["memberStates"].as_array().cloned().unwrap_or_default();
    let with = states.iter().filter(|m| m["version"] == version && m["healthy"] == true);
    with.filter_map(|m| Some(m["node"].as_str()?.to_owned())).collect()
}

fn held(stage: &Stage, reason: &str) -> String {
    stage.until(&format!("it holds with {reason}"), LIMIT, || stage.cluster()["status"]["reason"] == reason);
    stage.cluster()["status"]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn another_version_rolls_out_one_member_at_a_time_and_a_bad_pod_is_taken_back() {
    if !is_sampled("another_version_rolls_out_one_member_at_a_time_and_a_bad_pod_is_taken_back") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    let (before, leader) = (etcds(&stage), stage.leader());

    // An image that no node has, nor can have: nobody is restarted for it.
    patch(&stage, &format!(r#"{{"version":"{ABSENT}"}}"#));
    stage.until("the image is asked for", LIMIT, || stage.cluster()["status"]["reason"] == "RollOutPrepared");
    let message = stage.cluster()["status"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(ABSENT) && message.contains("proof-etcd-kube-etcd"), "{message}");
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(etcds(&stage), before);

    let taken = snapshots(&stage);
    stage.bed.load_etcd("etcd-3.7", &format!("v{NEXT}")).unwrap();
    let mut order: Vec<String> = Vec::new();
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let started = Instant::now();
            patch(&stage, &format!(r#"{{"version":"{NEXT}","pod":{{"labels":{{"team":"infra"}}}}}}"#));
            stage.until("all run it", LIMIT, || {
                let down = before.len() - etcds(&stage).len();
                assert!(down <= 1, "more than one is down");
                for node in run(&stage, NEXT) {
                    if !order.contains(&node) {
                        order.push(node);
                    }
                }
                order.len() == 3
            });
            stage.wait_for("Ready", LIMIT);
            println!("== three members of {NEXT} after {:.1} s", started.elapsed().as_secs_f32());
        },
    );
    assert_unharmed(&verdict);
    assert_eq!(order.last(), Some(&leader), "the leader is the last: {order:?}");
    let pods = stage.bed.kubectl(&["get", "pods", "-n", "kube-system", "-l", "team=infra", "-o", "name"]).unwrap();
    assert_eq!(pods.lines().count(), 3, "{pods}");
    stage.until("nothing is proven any more", LIMIT, || {
        !stage.bed.kubectl(&["get", "pods", "-n", "kube-system", "-o", "name"]).unwrap().contains("proof-etcd")
    });
    assert_eq!(snapshots(&stage), taken + 1, "one snapshot of a member, before the first restart");

    // Nor does it go down by two at once.
    patch(&stage, r#"{"version":"3.5.33"}"#);
    let message = held(&stage, "InvalidSpec");
    assert!(message.contains("3.6.x"), "{message}");
    patch(&stage, &format!(r#"{{"version":"{NEXT}"}}"#));
    stage.wait_for("Ready", LIMIT);

    // What no node has: the kubelet refuses the pod, and the member gets back the one before.
    let after = etcds(&stage);
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            patch(&stage, r#"{"pod":{"resources":{"requests":{"cpu":"512"}}}}"#);
            let message = held(&stage, "RollOutFailed");
            assert!(message.contains("did not come up"), "{message}");
            stage.until("three serve", LIMIT, || run(&stage, NEXT).len() == 3);
        },
    );
    assert_unharmed(&verdict);
    let now = etcds(&stage);
    assert_eq!(now.iter().filter(|(node, pid)| after[*node] != **pid).count(), 1, "only one was tried: {after:?} {now:?}");
    patch(&stage, r#"{"pod":{"resources":null}}"#);
    stage.wait_for("Ready", LIMIT);
    assert_eq!(etcds(&stage), now, "nothing was restarted");
    let took = stage.power_cut_and_back();
    println!("/readyz {:.1} s after the power was back", took.as_secs_f32());
    goes_down(&stage);
}

/// etcd converts its data, and then they are restarted as they were on the way up.
fn goes_down(stage: &Stage) {
    stage.wait_for("Ready", LIMIT);
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let started = Instant::now();
            patch(stage, &format!(r#"{{"version":"{BEFORE}"}}"#));
            stage.until("all run it", LIMIT, || run(stage, BEFORE).len() == 3);
            stage.wait_for("Ready", LIMIT);
            println!("== three members of {BEFORE} again after {:.1} s", started.elapsed().as_secs_f32());
        },
    );
    assert_unharmed(&verdict);
    let events = stage.bed.kubectl(&["get", "events", "-n", "kube-system", "-o", "jsonpath={.items[*].reason}"]).unwrap();
    assert!(events.contains("EnableDowngrade") && !events.contains("CancelDowngrade"), "{events}");
}

/// The snapshots of members that lie on the nodes.
fn snapshots(stage: &Stage) -> usize {
    let of = |node: &etcd_operator_bed::layout::Node| {
        let dir = stage.bed.layout.disk(node, "var/lib/etcd-operator/kube-system/kube-etcd/snapshots");
        let names =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("member-") && name.ends_with(".db")).count()
    };
    stage.bed.options().all().iter().map(of).sum()
}
