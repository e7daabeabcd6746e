//! After the pivot the member set is the operator's to keep: `kubectl scale` up and down on the cluster's own etcd, and members that are lost (F5, F8,
//! F11, F12, F31).

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_bed::layout::Node;
use etcd_operator_scenarios::{Stage, assert_clean, is_sampled};
use etcd_operator_witness::Invariant;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// What lies in the archive of a node.
fn archived(stage: &Stage, node: &Node) -> Vec<String> {
    let folder: PathBuf = stage.bed.layout.disk(node, "var/lib/etcd/kube-system/kube-etcd/archive");
    let mut names: Vec<String> =
        std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn has_manifest(stage: &Stage, node: &Node) -> bool {
    stage.bed.layout.disk(node, "etc/kubernetes/manifests/etcd-kube-etcd.yaml").exists()
}

#[test]
fn one_to_three_to_five_to_three_to_one() {
    if !is_sampled("one_to_three_to_five_to_three_to_one") {
        return;
    }
    let stage = Stage::on(5);
    stage.pivot(1);
    let verdict = stage.under_witness(
        None,
        |_| {},
        || {
            for size in [3, 5, 3, 1] {
                let started = Instant::now();
                stage.scale(size, LIMIT);
                println!("== {size} members after {:.1} s", started.elapsed().as_secs_f32());
            }
        },
    );
    assert_clean(&verdict);
    // The first member, on the node of the only API server, never moved.
    assert_eq!(stage.members(), ["cp1-1"]);
    for node in stage.bed.options().all().iter().skip(1) {
        stage.until(&format!("{}'s seat is given back", node.name), LIMIT, || !has_manifest(&stage, node));
        assert_eq!(faults::find(node, Process::Etcd).unwrap(), Vec::<i32>::new());
        assert!(!archived(&stage, node).is_empty(), "{}: what its member left is not in the archive", node.name);
    }
    let took = stage.power_cut_and_back();
    println!("/readyz {:.1} s after the power was back, on one member", took.as_secs_f32());
    assert_eq!(stage.members(), ["cp1-1"]);
}

#[test]
fn lost_members_are_replaced() {
    if !is_sampled("lost_members_are_replaced") {
        return;
    }
    let stage = Stage::on(4);
    stage.pivot(3);
    stage.set("ETCD_OPERATOR_REPLACE_AFTER", "60");
    stage.wait_for("Ready", LIMIT);
    let node = |name: &str| stage.bed.options().node(name).unwrap();
    let verdict = stage.under_witness(
        None,
        // Whoever dies takes with it what was under way.
        |options| options.allow.push(Invariant::FailedWrite),
        || {
            let leader = stage.leader();
            let follower = ["cp1", "cp2", "cp3"].into_iter().find(|n| *n != leader).expect("a follower");
            wiped(&stage, &node(follower), "a follower");
            wiped(&stage, &node(&stage.leader()), "the leader");
            removed_by_hand(&stage, "cp2");
            let image = Image::of(&stage, &node("cp2"));
            gone(&stage, &node("cp3"));
            image.rolled_back(&stage);
        },
    );
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
    println!("{} of {} writes failed, as members died", verdict.writes.failed, verdict.writes.due);

    // The machine comes back with its old data: that never serves again.
    let back = node("cp3");
    let old = stage.members();
    stage.bed.start(std::slice::from_ref(&back)).unwrap();
    stage.until("its seat is given back and its data archived", LIMIT, || {
        !has_manifest(&stage, &back) && archived(&stage, &back).iter().any(|name| name.starts_with("cp3-"))
    });
    stage.wait_for("Ready", LIMIT);
    assert_eq!(stage.members(), old);
    assert_eq!(faults::find(&back, Process::Etcd).unwrap(), Vec::<i32>::new());
}

/// The members that are not those of before, once there are three again and all is well.
fn replaced(stage: &Stage, before: &[String], what: &str) -> Vec<String> {
    let started = Instant::now();
    stage.until(what, LIMIT, || {
        stage.members().len() == 3 && stage.members() != before && !stage.members().contains(&String::new())
    });
    stage.wait_for("Ready", LIMIT);
    stage.until("three are ready", LIMIT, || stage.cluster()["status"]["size"] == 3);
    println!("== {what}: three members again after {:.1} s", started.elapsed().as_secs_f32());
    stage.members().into_iter().filter(|m| !before.contains(m)).collect()
}

/// The data goes under the running etcd, which then ends.
fn wiped(stage: &Stage, node: &Node, who: &str) {
    let before = stage.members();
    let own = before.iter().find(|m| m.starts_with(&node.name)).expect("its member");
    let data = stage.bed.layout.disk(node, &format!("var/lib/etcd/kube-system/kube-etcd/{own}"));
    std::fs::remove_dir_all(&data).unwrap();
    faults::signal(node, Process::Etcd, Signal::Kill).unwrap();
    let new = replaced(stage, &before, &format!("the data of {who} on {} is gone", node.name));
    assert!(matches!(&new[..], [one] if one.starts_with(&node.name)), "{new:?}");
}

/// Somebody removes a member, as runbooks of other tools say.
fn removed_by_hand(stage: &Stage, node: &str) {
    let before = stage.members();
    let endpoint = format!("https://{}:2379", stage.bed.options().node("cp1").unwrap().ip());
    let list: Value = serde_json::from_str(&stage.bed.etcdctl(&endpoint, &["member", "list", "-w", "json"]).unwrap()).unwrap();
    let member = list["members"].as_array().unwrap().iter().find(|m| m["name"].as_str().is_some_and(|n| n.starts_with(node)));
    let id = format!("{:x}", member.expect("its member")["ID"].as_u64().unwrap());
    // Refused until all have been connected for 5 s.
    stage.until("etcd takes the removal", LIMIT, || stage.bed.etcdctl(&endpoint, &["member", "remove", &id]).is_ok());
    let new = replaced(stage, &before, &format!("{node}'s member was removed by hand"));
    assert_eq!(new.len(), 1, "{new:?}");
}

/// A disk as it was.
struct Image {
    node: Node,
    member: String,
    copy: PathBuf,
    /// What the member had applied then.
    applied: u64,
}

impl Image {
    /// Taken of the running member: its log then breaks off like one after a power cut.
    fn of(stage: &Stage, node: &Node) -> Self {
        let member = stage.members().into_iter().find(|m| m.starts_with(&node.name)).expect("its member");
        let data = stage.bed.layout.disk(node, &format!("var/lib/etcd/kube-system/kube-etcd/{member}"));
        let copy = stage.bed.layout.disk(node, "var/lib/image");
        assert!(Command::new("cp").arg("-a").arg(&data).arg(&copy).status().unwrap().success());
        let status = stage.bed.etcdctl(&format!("https://{}:2379", node.ip()), &["endpoint", "status", "-w", "json"]).unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        let applied = status[0]["Status"]["raftAppliedIndex"].as_u64().unwrap();
        Self { node: node.clone(), member, copy, applied }
    }

    /// The disk is as it was then, under the same member: it is found out by the mark that the member has left with the others since.
    fn rolled_back(&self, stage: &Stage) {
        let (node, before) = (&self.node, stage.members());
        let (key, endpoint) = (format!("etcd-operator/marks/https://{}:2380", node.ip()), format!("https://{}:2379", node.ip()));
        let mark = || {
            let value = stage.bed.etcdctl(&endpoint, &["get", &key, "--print-value-only"]).ok()?;
            serde_json::from_str::<Value>(&value).ok()?["index"].as_u64()
        };
        stage.until("the member leaves a later mark", LIMIT, || mark().is_some_and(|mark| mark > self.applied));
        let data = stage.bed.layout.disk(node, &format!("var/lib/etcd/kube-system/kube-etcd/{}", self.member));
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&self.copy, &data).unwrap();
        faults::signal(node, Process::Etcd, Signal::Kill).unwrap();
        let new = replaced(stage, &before, &format!("the disk of {} was rolled back", node.name));
        assert!(matches!(&new[..], [one] if one.starts_with(&node.name)), "{new:?}");
        assert!(archived(stage, node).iter().any(|name| name.starts_with(&self.member)), "the old data is archived");
    }
}

/// A machine is gone: another node takes over.
fn gone(stage: &Stage, node: &Node) {
    let before = stage.members();
    stage.bed.power_cut(std::slice::from_ref(node)).unwrap();
    let new = replaced(stage, &before, &format!("{} is gone", node.name));
    assert!(matches!(&new[..], [one] if !one.starts_with(&node.name)), "{new:?}");
}
