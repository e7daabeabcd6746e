//! Bits flip in a member's database (F18): etcd finds out at a compaction, and then refuses every write, the Kubernetes API's and the operator's
//! own among them; or it finds out when it starts, and does not. In both cases another member takes its place without a human.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_bed::layout::Node;
use etcd_operator_scenarios::{Stage, is_sampled};
use serde_json::{Value, json};

/// etcd compares the hashes of a compaction once a minute; then a member is removed, and another one joins.
const LIMIT: Duration = Duration::from_secs(300);
const VALUE: &str = "whoever reads this reads what was written, and nothing else";
const OTHER: &str = "Whoever reads this reads what was written, and nothing else";

fn endpoint(node: &Node) -> String {
    format!("https://{}:2379", node.ip())
}

/// Puts [`OTHER`] in the place of each [`VALUE`]. Returns how many there were.
fn flip(db: &Path) -> usize {
    let read = std::fs::read(db).unwrap();
    let is_value = |(_, window): &(usize, &[u8])| *window == VALUE.as_bytes();
    let places: Vec<usize> = read.windows(VALUE.len()).enumerate().filter(is_value).map(|(at, _)| at).collect();
    let file = OpenOptions::new().write(true).open(db).unwrap();
    places.iter().for_each(|at| file.write_all_at(OTHER.as_bytes(), *at as u64).unwrap());
    places.len()
}

/// The hash of a member's store at a revision that all have, and that revision.
fn hash(stage: &Stage, node: &Node, revision: i64) -> Value {
    let rev = format!("--rev={revision}");
    let text = stage.bed.etcdctl(&endpoint(node), &["endpoint", "hashkv", &rev, "-w", "json"]).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[0]["HashKV"]["hash"].clone()
}

fn revision(stage: &Stage, node: &Node) -> i64 {
    let text = stage.bed.etcdctl(&endpoint(node), &["get", "no-such-key", "-w", "json"]).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["header"]["revision"].as_i64().unwrap()
}

/// Flips bits in the store of `bad` until they stay so. Returns a revision at which it differs from that of `good`.
fn corrupt(stage: &Stage, bad: &Node, member: &str, good: &Node) -> i64 {
    let db = stage.bed.layout.disk(bad, &format!("var/lib/etcd/kube-system/kube-etcd/{member}/member/snap/db"));
    let (mut at, mut tries) = (0, 0);
    stage.until("the bits stay flipped", LIMIT, || {
        let metadata = json!({"name": "flipped", "namespace": "default", "labels": {"try": tries.to_string()}});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": VALUE}});
        stage.bed.apply(&object).unwrap();
        tries += 1;
        // etcd writes to its database every 100 ms, and a page that it is about to write again has the old bits.
        std::thread::sleep(Duration::from_millis(500));
        let places = flip(&db);
        std::thread::sleep(Duration::from_millis(500));
        at = revision(stage, good);
        places > 0 && hash(stage, bad, at) != hash(stage, good, at)
    });
    at
}

#[test]
fn a_member_with_flipped_bits_is_replaced_whoever_finds_out() {
    if !is_sampled("a_member_with_flipped_bits_is_replaced_whoever_finds_out") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    stage.pivot(3);
    let nodes = stage.bed.options().all();
    found_by_a_compaction(&stage, &nodes);
    found_at_its_start(&stage, &nodes);
}

fn is_alarmed(stage: &Stage, node: &Node) -> bool {
    stage.bed.etcdctl(&endpoint(node), &["alarm", "list"]).is_ok_and(|text| text.contains("CORRUPT"))
}

fn found_by_a_compaction(stage: &Stage, nodes: &[Node]) {
    let (good, bad) = (&nodes[0], &nodes[2]);
    let at = corrupt(stage, bad, "cp3-1", good);
    stage.bed.etcdctl(&endpoint(good), &["compact", &at.to_string()]).unwrap();
    stage.until("etcd's alarm", LIMIT, || is_alarmed(stage, good));
    let since = Instant::now();
    stage.until("the alarm is taken back", LIMIT, || !is_alarmed(stage, good));
    println!("etcd refused every write for {} ms from when that was seen", since.elapsed().as_millis());
    stage.until("another member in its place", LIMIT, || stage.members() == ["cp1-1", "cp2-1", "cp3-2"]);
    stage.wait_for("Ready", LIMIT);
    let events = stage.bed.kubectl(&["get", "events", "-n", "kube-system", "-o", "jsonpath={.items[*].reason}"]).unwrap();
    for reason in ["RemoveCorrupt", "DisarmCorrupt"] {
        assert!(events.contains(reason), "no Event {reason}: {events}");
    }
    stage.bed.kubectl(&["create", "configmap", "written-afterwards"]).unwrap();
    are_equal(stage, nodes);
}

fn found_at_its_start(stage: &Stage, nodes: &[Node]) {
    let (good, bad) = (&nodes[0], &nodes[1]);
    corrupt(stage, bad, "cp2-1", good);
    faults::signal(bad, Process::Etcd, Signal::Kill).unwrap();
    stage.until("another member in its place", LIMIT, || stage.members() == ["cp1-1", "cp2-2", "cp3-2"]);
    stage.wait_for("Ready", LIMIT);
    assert!(!is_alarmed(stage, good));
    are_equal(stage, nodes);
}

fn are_equal(stage: &Stage, nodes: &[Node]) {
    stage.until("equal stores", LIMIT, || {
        let at = revision(stage, &nodes[0]);
        let hashes: Vec<Value> = nodes.iter().map(|node| hash(stage, node, at)).collect();
        hashes.iter().all(|one| *one == hashes[0])
    });
}
