//! `recover inspect` on what real etcds left behind: three members, of which one fell behind before all of them died.
//!
//! Needs `ETCD_BIN` (see tests/bed/go/build.sh).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test ends by it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const NODES: [&str; 3] = ["cp1", "cp2", "cp3"];

/// Killed when it goes.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bin(name: &str) -> PathBuf {
    Path::new(&std::env::var("ETCD_BIN").expect("ETCD_BIN: the folder that tests/bed/go/build.sh etcd prints")).join(name)
}

/// A node's roots, as the operator lays them out.
fn data_dir(root: &Path, node: &str) -> PathBuf {
    root.join(node).join(format!("data/kube-system/kube-etcd/{node}-1"))
}

fn etcd(root: &Path, node: &str, urls: &[(String, String); 3]) -> Etcd {
    let n = NODES.iter().position(|name| *name == node).unwrap();
    let (client, peer) = &urls[n];
    let all: Vec<String> = NODES.iter().zip(urls).map(|(node, (_, peer))| format!("{node}-1={peer}")).collect();
    let log = std::fs::File::create(root.join(format!("{node}.log"))).unwrap();
    let child = Command::new(bin("etcd"))
        .args([format!("--name={node}-1"), format!("--data-dir={}", data_dir(root, node).display())])
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster={}", all.join(",")))
        // So that the members stand in a snapshot's mark.
        .arg("--snapshot-count=10")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Etcd(child)
}

fn etcdctl(endpoint: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(bin("etcdctl")).arg(format!("--endpoints={endpoint}")).args(args).output().unwrap();
    out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn recover(args: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_etcd-operator")).args(["recover", "inspect"]).args(args).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// The report of a node, as a file.
fn report(root: &Path, node: &str) -> (PathBuf, Value) {
    let home = root.join(node);
    let roots = [home.join("operator"), home.join("data")].map(|path| path.to_string_lossy().into_owned());
    let (ok, text) = recover(&["-o", "json", "--node", node, "--operator-root", &roots[0], "--data-root", &roots[1]]);
    assert!(ok, "{text}");
    let file = root.join(format!("{node}.json"));
    std::fs::write(&file, &text).unwrap();
    (file, serde_json::from_str(&text).unwrap())
}

#[test]
fn the_node_with_the_most_is_named_and_what_may_be_lost_without_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let urls = [(); 3].map(|()| (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port())));
    let mut all: Vec<Etcd> = NODES.iter().map(|node| etcd(root, node, &urls)).collect();
    until("all serve", || urls.iter().all(|(client, _)| etcdctl(client, &["endpoint", "health"]).is_some()));
    let list: Value = serde_json::from_str(&etcdctl(&urls[0].0, &["member", "list", "-w", "json"]).unwrap()).unwrap();
    let cluster = format!("{:016x}", list["header"]["cluster_id"].as_u64().unwrap());
    let id = |node: &str| {
        let of_node = |m: &&Value| m["name"] == format!("{node}-1");
        format!("{:016x}", list["members"].as_array().unwrap().iter().find(of_node).unwrap()["ID"].as_u64().unwrap())
    };
    for (n, node) in NODES.into_iter().enumerate() {
        // As the agent and the keeper write them.
        let order = json!({
            "format": 1, "lineage": 0, "sequence": 3, "clusterId": cluster, "memberId": id(node), "memberName": format!("{node}-1"),
            "run": "Run", "etcd": {"peerUrl": format!("https://127.0.0.{}:2380", n + 1),
                "clientUrl": format!("https://127.0.0.{}:2379", n + 1), "metricsPort": 2381, "clientHttpPort": 2382},
        });
        let others: Vec<String> = (1..=3).map(|n| format!("https://127.0.0.{n}:2379")).collect();
        let state = json!({"format": 1, "phase": "Waiting", "reason": "EmptyAndNoAnswer", "message": "as a test says",
            "knownEndpoints": others, "lastOrder": order, "orderSequence": 3});
        let home = root.join(node).join("operator/kube-system/kube-etcd");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("state.json"), state.to_string()).unwrap();
    }
    for n in 0..20 {
        etcdctl(&urls[0].0, &["put", "key", &n.to_string()]).unwrap();
    }
    // cp3 dies; what is acknowledged from now on it does not have.
    drop(all.pop());
    until("two of three elect a leader", || etcdctl(&urls[0].0, &["put", "key", "later"]).is_some());
    for n in 0..20 {
        etcdctl(&urls[1].0, &["put", "key", &format!("later {n}")]).unwrap();
    }
    drop(all);

    let reports: Vec<(PathBuf, Value)> = NODES.iter().map(|node| report(root, node)).collect();
    for ((_, report), node) in reports.iter().zip(NODES) {
        assert_eq!((&report["clusterID"], &report["memberID"]), (&json!(cluster), &json!(id(node))), "{report:#}");
        assert_eq!((&report["quorum"], &report["reason"]), (&Value::Null, &json!("EmptyAndNoAnswer")), "{report:#}");
        assert_eq!((&report["data"][0]["problem"], &report["data"][0]["suspect"]), (&json!(""), &json!("")), "{report:#}");
        let mut voters = NODES.map(id);
        voters.sort();
        assert_eq!(report["data"][0]["voters"], json!([voters]), "as the log says: {report:#}");
    }
    let index = |n: usize| reports[n].1["data"][0]["lastIndex"].as_u64().unwrap();
    assert!(index(2) + 20 <= index(0), "cp3 is behind: {} of {}", index(2), index(0));
    let file = |n: usize| reports[n].0.to_str().unwrap();
    let verdict = |files: &[&str]| -> Value {
        let (_, text) = recover(&[&["-o", "json"], files].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let of_all = verdict(&[file(2), file(1), file(0)]);
    assert!(of_all["survivor"] == "cp1" || index(1) > index(0) && of_all["survivor"] == "cp2", "{of_all:#}");
    assert_eq!(of_all["complete"], true);
    let of_two = verdict(&[file(2), file(1)]);
    assert_eq!((&of_two["survivor"], &of_two["complete"]), (&json!("cp2"), &json!(true)), "every majority met one of them");
    let of_one = verdict(&[file(2)]);
    assert_eq!((&of_one["survivor"], &of_one["complete"]), (&json!("cp3"), &json!(false)), "{of_one:#}");
    let (ok, text) = recover(&[file(2)]);
    assert!(ok && text.contains("writes that were acknowledged by the others alone may be missing"), "{text}");

    // Bytes that a disk changed in the middle of the log: what follows may have been acknowledged.
    let segment = std::fs::read_dir(data_dir(root, "cp2").join("member/wal")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).max().unwrap();
    let log = std::fs::read(&segment).unwrap();
    let end = log.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (end / 3..end / 2).step_by(29) {
        let mut flipped = log.clone();
        flipped[at] ^= 1;
        std::fs::write(&segment, &flipped).unwrap();
        let (_, suspect) = report(root, "cp2");
        let says = |field: &str| suspect["data"][0][field].as_str().unwrap().to_owned();
        let is_padding = suspect["data"][0]["lastIndex"] == reports[1].1["data"][0]["lastIndex"];
        assert!(
            is_padding || says("suspect").contains("something follows") || !says("problem").is_empty(),
            "byte {at}: {suspect:#}"
        );
        if !is_padding {
            assert_eq!(verdict(&[file(1), file(2)])["complete"], false, "byte {at}");
        }
    }
    // Torn as by a power cut it is whole.
    let mut torn = log.clone();
    torn[end - 4..].fill(0);
    std::fs::write(&segment, &torn).unwrap();
    let (_, report_of_torn) = report(root, "cp2");
    assert_eq!(report_of_torn["data"][0]["suspect"], "", "{report_of_torn:#}");
    std::fs::write(&segment, &log).unwrap();
    // A database that was cut short, and one that is none.
    let db = data_dir(root, "cp1").join("member/snap/db");
    let whole = std::fs::read(&db).unwrap();
    for bad in [&whole[..8 << 10], &whole[..0], &[7_u8; 100_000]] {
        std::fs::write(&db, bad).unwrap();
        let (_, report) = report(root, "cp1");
        assert!(report["data"][0]["problem"].as_str().unwrap().starts_with("its database"), "{report:#}");
    }
    std::fs::write(&db, &whole).unwrap();

    // A disk that lost its log, or its data, is no survivor.
    std::fs::remove_dir_all(data_dir(root, "cp1").join("member/wal")).unwrap();
    std::fs::remove_dir_all(data_dir(root, "cp2")).unwrap();
    for node in ["cp1", "cp2"] {
        report(root, node);
    }
    let after = verdict(&[file(0), file(1), file(2)]);
    assert_eq!((&after["survivor"], &after["complete"]), (&json!("cp3"), &json!(false)), "{after:#}");
    let (_, text) = recover(&["--cluster", "another", "--operator-root", "/nowhere", "--data-root", "/nowhere"]);
    assert!(text.contains("name the cluster"), "{text}");
    let (ok, text) = recover(&[root.join("cp1.log").to_str().unwrap()]);
    assert!(!ok && text.contains("is no report"), "{text}");
}
