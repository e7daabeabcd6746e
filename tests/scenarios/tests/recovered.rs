//! A control plane that has lost its etcd for good comes back by commands on one node, without an API: from the last disk with all that was acknowledged, and from
//! a backup (F9, F10, F28, F29). The controller heals the rest by itself.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_bed::layout::Node;
use etcd_operator_bed::node;
use etcd_operator_scenarios::others::{NAMESPACE, get, kubectl};
use etcd_operator_scenarios::{Stage, is_sampled, text_of};
use etcd_operator_witness::Invariant;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(300);
const KEEPER: &str = "/var/lib/etcd-operator/kube-system/kube-etcd/bin/keeper";

fn control(stage: &Stage, name: &str) -> Node {
    stage.bed.options().node(name).unwrap()
}

/// `recover` on a node that runs; what it printed if it succeeded, else what it complained of.
fn recover(node: &Node, args: &[&str]) -> Result<String, String> {
    let mut command = node::inside(node).unwrap();
    let out = command.arg(KEEPER).arg("recover").args(args).args(["--node", &node.name]).output().unwrap();
    println!("--- {}: recover {}\n{}", node.name, args.join(" "), text_of(&out));
    if out.status.success() { Ok(text_of(&out)) } else { Err(text_of(&out)) }
}

/// The report of a node that is off, from its disk.
fn report(stage: &Stage, node: &Node) -> PathBuf {
    let [operator, data] = ["var/lib/etcd-operator", "var/lib/etcd"].map(|dir| stage.bed.layout.disk(node, dir));
    let out = Command::new(stage.bed.layout.bin("etcd-operator"))
        .args(["recover", "inspect", "-o", "json", "--node", &node.name, "--operator-root"])
        .arg(operator)
        .arg("--data-root")
        .arg(data)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text_of(&out));
    let file = stage.bed.layout.path(&format!("{}.json", node.name));
    std::fs::write(&file, out.stdout).unwrap();
    file
}

/// Which of the nodes has the most.
fn survivor(stage: &Stage, reports: &[PathBuf]) -> Value {
    let out = Command::new(stage.bed.layout.bin("etcd-operator"))
        .args(["recover", "inspect", "-o", "json"])
        .args(reports)
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}

fn status(stage: &Stage) -> Value {
    stage.cluster()["status"].clone()
}

/// Waits until the keeper of a node that was just switched on has looked around.
fn until_keeper_says(node: &Node, stage: &Stage, word: &str) {
    stage.until(&format!("the keeper of {} says {word}", node.name), LIMIT, || {
        let state = stage.bed.layout.disk(node, "var/lib/etcd-operator/kube-system/kube-etcd/state.json");
        let state: Value = std::fs::read(state).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        state["reason"] == word
    });
}

/// Three members of the new life, as the EtcdCluster says.
fn until_healed(stage: &Stage, since: Instant) {
    stage.until("the new life is taken over", LIMIT, || status(stage)["lineage"] == 2);
    stage.until("three members", LIMIT, || {
        stage.members().iter().filter(|name| !name.is_empty()).count() == 3 && status(stage)["size"] == 3
    });
    stage.wait_for("Ready", LIMIT);
    println!("== three members again, {:.0} s after the recovery was ordered", since.elapsed().as_secs_f32());
}

#[test]
fn two_of_three_disks_are_lost_and_nothing_that_was_acknowledged_is() {
    if !is_sampled("two_of_three_disks_are_lost_and_nothing_that_was_acknowledged_is") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    let all = stage.bed.options().all();
    let before = status(&stage);
    assert_eq!(before["lineage"], 1);
    let verdict = stage.under_witness(
        None,
        |options| {
            // There is no API for as long as nobody recovers it, and etcd begins a new life.
            options.allow.extend([Invariant::FailedWrite, Invariant::Tolerance, Invariant::I4]);
        },
        || {
            stage.bed.power_cut(&all).unwrap();
            let reports: Vec<PathBuf> = all.iter().map(|node| report(&stage, node)).collect();
            let said = survivor(&stage, &reports);
            println!("{said:#}");
            assert_eq!(said["complete"], true, "{said:#}");
            let last = control(&stage, said["survivor"].as_str().unwrap());
            let others: Vec<Node> = all.iter().filter(|node| node.name != last.name).cloned().collect();
            for node in &others {
                stage.bed.wipe(node).unwrap();
            }
            stage.bed.start(std::slice::from_ref(&last)).unwrap();
            until_keeper_says(&last, &stage, "ColdStart");
            let on_node: Vec<String> = reports
                .iter()
                .filter(|file| !file.ends_with(format!("{}.json", last.name)))
                .map(|file| {
                    let name = file.file_name().unwrap().to_string_lossy().into_owned();
                    std::fs::copy(file, stage.bed.layout.disk(&last, &format!("var/lib/{name}"))).unwrap();
                    format!("--report=/var/lib/{name}")
                })
                .collect();
            let gone: Vec<String> = others.iter().map(|node| format!("--gone={}", node.ip())).collect();
            let args = |more: &[&str]| -> Vec<String> {
                let more = more.iter().map(|arg| (*arg).to_owned());
                std::iter::once("from-survivor".to_owned()).chain(more).collect()
            };
            let run = |args: Vec<String>| recover(&last, &args.iter().map(String::as_str).collect::<Vec<_>>());
            // Alone it knows neither what the others had, nor what became of them.
            let why = run(args(&[])).unwrap_err();
            assert!(why.contains("--may-lose-writes"), "{why}");
            let why = run([args(&[]), on_node.clone()].concat()).unwrap_err();
            assert!(why.contains("--gone"), "{why}");
            let plan = run([args(&["--dry-run"]), on_node.clone(), gone.clone()].concat()).unwrap();
            assert!(plan.contains("would be done"), "{plan}");
            let started = Instant::now();
            run([args(&[]), on_node, gone].concat()).unwrap();
            // The only API server may be on one of them.
            stage.bed.start(&others).unwrap();
            stage.bed.wait_api().unwrap();
            println!("== the API answers {:.1} s after the recovery was ordered", started.elapsed().as_secs_f32());
            until_healed(&stage, started);
            let why = recover(&last, &["from-survivor"]).unwrap_err();
            assert!(why.contains("a quorum answers"), "{why}");
        },
    );
    let after = status(&stage);
    assert_ne!(after["clusterID"], before["clusterID"], "{after:#}");
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
    println!("{} of {} writes failed, while there was no etcd", verdict.writes.failed, verdict.writes.due);
}

#[test]
fn all_data_is_lost_and_a_backup_brings_the_cluster_back() {
    if !is_sampled("all_data_is_lost_and_a_backup_brings_the_cluster_back") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    let all = stage.bed.options().all();
    let note = |name: &str| kubectl(&stage, &["create", "configmap", name, "-n", NAMESPACE]);
    note("before-the-backup");
    let spec = json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdBackup",
        "metadata": {"name": "once", "namespace": NAMESPACE}, "spec": {"clusterName": "kube-etcd"}});
    stage.bed.apply(&spec).unwrap();
    let mut taken = Value::Null;
    stage.until("a backup", LIMIT, || {
        taken = get(&stage, "etcdbackup", "once")["status"].clone();
        taken["succeeded"] == true
    });
    note("after-the-backup");
    let copy = &taken["newest"][0];
    let first = control(&stage, copy["node"].as_str().unwrap());
    let others: Vec<Node> = all.iter().filter(|node| node.name != first.name).cloned().collect();
    let old = status(&stage)["clusterID"].clone();

    stage.bed.power_cut(&all).unwrap();
    // One of the others keeps its disk: what it would serve is newer than the backup, and nobody's any more.
    let [kept, lost] = others.as_slice() else { panic!("three nodes") };
    for node in [&first, lost] {
        let data = stage.bed.layout.disk(node, "var/lib/etcd/kube-system/kube-etcd");
        for entry in std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            std::fs::remove_dir_all(entry).unwrap();
        }
    }
    stage.bed.start(std::slice::from_ref(&first)).unwrap();
    until_keeper_says(&first, &stage, "EmptyAndNoAnswer");
    let why = recover(&first, &["from-survivor", "--may-lose-writes"]).unwrap_err();
    assert!(why.contains("no data to begin from"), "{why}");
    let started = Instant::now();
    let gone = format!("--gone={},{}", kept.ip(), lost.ip());
    recover(&first, &["from-snapshot", copy["path"].as_str().unwrap(), &gone]).unwrap();
    stage.bed.start(&others).unwrap();
    stage.bed.wait_api().unwrap();
    println!("== the API answers {:.1} s after the recovery was ordered", started.elapsed().as_secs_f32());
    until_healed(&stage, started);
    assert_ne!(status(&stage)["clusterID"], old);
    let there = kubectl(&stage, &["get", "configmaps", "-n", NAMESPACE, "-o", "name"]);
    assert!(there.contains("before-the-backup") && !there.contains("after-the-backup"), "{there}");
    // All of them say the same, and take writes.
    note("after-the-recovery");
    for node in &all {
        assert_eq!(faults::find(node, Process::Etcd).unwrap().len(), 1, "{}", node.name);
    }
    let took = stage.power_cut_and_back();
    println!("/readyz {:.1} s after a power cut", took.as_secs_f32());
    stage.wait_for("Ready", LIMIT);
    assert!(kubectl(&stage, &["get", "configmaps", "-n", NAMESPACE, "-o", "name"]).contains("after-the-recovery"));
}
