//! Backups on the nodes and in a bucket: by schedule and at once, proven, kept, and whole enough to begin a cluster from; with what keeps them
//! from being taken.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use etcd_operator_bed::layout::{HOST_IP, Node};
use etcd_operator_bed::node;
use etcd_operator_bed::s3::{ID, SECRET, Server};
use etcd_operator_scenarios::others::{NAMESPACE, get, kubectl};
use etcd_operator_scenarios::{Stage, assert_clean, is_sampled, text_of};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);

fn post(stage: &Stage, name: &str, spec: &Value) {
    let object = json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdBackup",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    stage.bed.apply(&object).unwrap();
}

fn status(stage: &Stage, name: &str) -> Value {
    get(stage, "etcdbackup", name)["status"].clone()
}

/// Waits for what the status says.
fn until(stage: &Stage, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    stage.until(&format!("EtcdBackup {name}: {what}"), LIMIT, || {
        last = status(stage, name);
        let fits = wanted(&last);
        if !fits && last["reason"].is_string() {
            println!("   {name}: {} {}", last["reason"], last["message"]);
        }
        fits
    });
    last
}

/// Where a backup lies on this machine: its node, its file.
fn files(stage: &Stage, status: &Value) -> Vec<(Node, PathBuf)> {
    let copies = status["newest"].as_array().unwrap();
    let file = |copy: &Value| {
        let node = stage.bed.options().node(copy["node"].as_str().unwrap()).unwrap();
        let file = stage.bed.layout.disk(&node, copy["path"].as_str().unwrap().trim_start_matches('/'));
        (node, file)
    };
    copies.iter().map(file).collect()
}

/// The operator's own command; what it printed if it succeeded, else what it complained of.
fn snapshot(stage: &Stage, args: &[&str]) -> Result<String, String> {
    let out = Command::new(stage.bed.layout.bin("etcd-operator")).arg("snapshot").args(args).output().unwrap();
    if out.status.success() { Ok(String::from_utf8(out.stdout).unwrap()) } else { Err(text_of(&out)) }
}

/// What etcdutl makes of a backup: revision and number of keys of a cluster that begins from it.
fn restored(stage: &Stage, file: &std::path::Path) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("plain.db");
    snapshot(stage, &["get", &file.to_string_lossy(), &db.to_string_lossy()]).unwrap();
    let etcdutl = stage.bed.layout.bin("etcdutl");
    let restored = dir.path().join("restored");
    let out = Command::new(&etcdutl).arg("snapshot").arg("restore").arg(&db).arg("--data-dir").arg(&restored).output().unwrap();
    assert!(out.status.success(), "etcdutl takes it as a whole snapshot: {}", text_of(&out));
    let out = Command::new(&etcdutl).args(["snapshot", "status", "-w", "json"]).arg(&db).output().unwrap();
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    (said["revision"].as_u64().unwrap(), said["totalKey"].as_u64().unwrap())
}

#[test]
fn backups_lie_on_two_nodes_are_whole_and_are_not_more_than_wanted() {
    if !is_sampled("backups_lie_on_two_nodes_are_whole_and_are_not_more_than_wanted") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    let leader = stage.leader();

    // While all is well there is nothing to recover, as each node's own binary says.
    let cp1 = stage.bed.options().node("cp1").unwrap();
    let said = node::exec(&cp1, &["/var/lib/etcd-operator/kube-system/kube-etcd/bin/keeper", "recover", "inspect"]).unwrap();
    assert!(said.contains("a quorum answers, and lists 3 members") && said.contains("cp1-1"), "{said}");

    // At once, under writes.
    let mut once = Value::Null;
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            post(&stage, "once", &json!({"clusterName": "kube-etcd"}));
            once = until(&stage, "once", "taken", |s| s["succeeded"] == true);
        },
    );
    assert_clean(&verdict);
    assert_eq!(once["reason"], "Verified", "{once:#}");
    let taken = files(&stage, &once);
    assert_eq!(taken.len(), 2, "{once:#}");
    assert!(taken.iter().all(|(node, _)| node.name != leader), "followers: {once:#}, led by {leader}");
    for ((_, file), copy) in taken.iter().zip(once["newest"].as_array().unwrap()) {
        let (revision, keys) = restored(&stage, file);
        assert!(revision >= copy["revision"].as_u64().unwrap() && keys > 100, "{revision}, {keys} of {copy}");
    }
    println!(
        "== one backup on two followers: revision {}, {} of {} bytes",
        once["etcdRevision"], once["newest"][0]["bytes"], once["newest"][0]["dbBytes"]
    );

    // The command for a node without an API.
    let (_, file) = &taken[0];
    let dir = file.parent().unwrap().to_string_lossy().into_owned();
    let listed: Value = serde_json::from_str(&snapshot(&stage, &["list", &dir, "-o", "json"]).unwrap()).unwrap();
    assert_eq!(listed[0]["manifest"]["cluster"], "kube-etcd", "{listed:#}");
    assert_eq!(listed[0]["sha256"], once["newest"][0]["sha256"], "{listed:#}");
    snapshot(&stage, &["verify", &dir]).unwrap();
    let whole = std::fs::read(file).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    for bad in [&whole[..middle], flipped.as_slice()] {
        std::fs::write(file, bad).unwrap();
        let why = snapshot(&stage, &["verify", &file.to_string_lossy()]).unwrap_err();
        assert!(why.contains("not all of it is whole"), "{why}");
    }
    std::fs::write(file, &whole).unwrap();

    // One after the other; two are kept.
    let spec = json!({"clusterName": "kube-etcd", "node": {"copies": 3}, "backupPolicy": {"backupIntervalInSecond": 60, "maxBackups": 2}});
    post(&stage, "often", &spec);
    until(&stage, "often", "three times", |s| {
        s["newest"].as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|c| c["kept"] == 2))
    });
    kubectl(&stage, &["patch", "etcdbackup", "often", "-n", NAMESPACE, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);

    // An agent that is killed in the middle of it begins anew; a controller that dies, too.
    for node in ["cp1", "cp2", "cp3"] {
        let node = stage.bed.options().node(node).unwrap();
        let dir = stage.bed.layout.disk(&node, &format!("var/lib/etcd-operator/{NAMESPACE}/kube-etcd/backups/often"));
        let names: Vec<String> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.len() <= 6, "at most one more than wanted, while it is taken: {names:?}");
    }
    post(&stage, "killed", &json!({"clusterName": "kube-etcd"}));
    kubectl(
        &stage,
        &["delete", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=etcd-operator", "--force", "--grace-period=0"],
    );
    until(&stage, "killed", "taken all the same", |s| s["succeeded"] == true);

    // What cannot be done is said.
    post(&stage, "nowhere", &json!({"clusterName": "another"}));
    let said = until(&stage, "nowhere", "refused", |s| s["reason"] == "ClusterNotFound");
    assert!(said["message"].as_str().unwrap().contains("another") && said["succeeded"] == false, "{said:#}");
    post(&stage, "never", &json!({"clusterName": "kube-etcd", "backupPolicy": {"schedule": "0 0 30 2 *"}}));
    until(&stage, "never", "refused", |s| s["reason"] == "ScheduleInvalid");

    in_a_bucket(&stage);

    // At rest nothing more happens.
    let all = || ["once", "often", "killed", "bucket"].map(|name| status(&stage, name));
    let before = all();
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(before, all());
    // What was taken outlives its EtcdBackup.
    kubectl(&stage, &["delete", "etcdbackup", "once", "-n", NAMESPACE]);
    assert!(file.exists());
}

/// Into an object store, by the controller.
fn in_a_bucket(stage: &Stage) {
    let mut server = Server::up(HOST_IP);
    let credentials = format!("[default]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "etcd-backup", "namespace": NAMESPACE},
        "stringData": {"credentials": credentials, "ca.crt": server.ca}});
    let spec = json!({"clusterName": "kube-etcd", "storageType": "S3", "s3": {"path": "bucket/here", "endpoint": server.endpoint(),
        "forcePathStyle": true, "awsSecret": "etcd-backup", "caSecret": "etcd-backup"}});
    // Without the Secret, and with it: it is tried again by itself.
    post(stage, "bucket", &spec);
    let said = until(stage, "bucket", "no Secret", |s| s["reason"] == "StoreDenied");
    assert!(said["message"].as_str().unwrap().contains("there is no Secret etcd-backup"), "{said:#}");
    stage.bed.apply(&secret).unwrap();
    server.stop();
    let other = json!({"clusterName": "kube-etcd", "storageType": "S3", "s3": spec["s3"]});
    post(stage, "down", &other);
    until(stage, "down", "nobody there", |s| s["reason"] == "StoreUnavailable");
    server.start();
    let said = until(stage, "bucket", "taken", |s| s["reason"] == "Verified");
    let path = said["newest"][0]["path"].as_str().unwrap();
    println!("== a backup in a bucket: {path}");
    let file = server.path("data").join(path.trim_start_matches("s3://"));
    let (revision, keys) = restored(stage, &file);
    assert!(revision >= said["etcdRevision"].as_u64().unwrap() && keys > 100, "{revision}, {keys}: {said:#}");
    until(stage, "down", "taken once the store is there again", |s| s["reason"] == "Verified");
}
