//! A node comes back with another address (F21): its member goes with it, with its data, while the others serve.

use std::time::{Duration, Instant};

use etcd_operator_bed::Bed;
use etcd_operator_scenarios::{Stage, is_sampled};
use etcd_operator_witness::Invariant;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// ID and peer URL of a member.
fn listed(stage: &Stage, name: &str) -> Option<(u64, String)> {
    let endpoint = format!("https://{}:2379", stage.bed.options().node("cp1").unwrap().ip());
    let list: Value = serde_json::from_str(&stage.bed.etcdctl(&endpoint, &["member", "list", "-w", "json"]).ok()?).ok()?;
    let member = list["members"].as_array()?.iter().find(|m| m["name"] == name)?.clone();
    Some((member["ID"].as_u64()?, member["peerURLs"][0].as_str()?.to_owned()))
}

#[test]
fn a_node_with_another_address_keeps_its_member() {
    if !is_sampled("a_node_with_another_address_keeps_its_member") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    let node = stage.bed.options().node("cp3").unwrap();
    let (id, _) = listed(&stage, "cp3-1").expect("its member");
    let mut moved = None;
    let verdict = stage.under_witness(
        None,
        // What was under way at the node that lost its power.
        |options| options.allow.push(Invariant::FailedWrite),
        || {
            let started = Instant::now();
            let now = stage.bed.readdress(&node).unwrap();
            let (peer, client) = (format!("https://{}:2380", now.ip()), format!("https://{}:2379", now.ip()));
            stage.until("its member is listed and serves at the new address", LIMIT, || {
                listed(&stage, "cp3-1") == Some((id, peer.clone())) && stage.bed.etcdctl(&client, &["endpoint", "health"]).is_ok()
            });
            stage.wait_for("Ready", LIMIT);
            println!("== cp3 has another address: its member serves there after {:.1} s", started.elapsed().as_secs_f32());
            moved = Some(now);
        },
    );
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
    println!("{} of {} writes failed, as a member died", verdict.writes.failed, verdict.writes.due);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);

    // And so it comes back after a power cut of all.
    let bed = Bed::open(stage.bed.layout.clone()).unwrap();
    let nodes = bed.options().all();
    assert_eq!(moved.as_ref(), nodes.iter().find(|n| n.name == "cp3"));
    bed.power_cut(&nodes).unwrap();
    bed.start(&nodes).unwrap();
    bed.wait_api().unwrap();
    let all: Vec<String> = nodes.iter().map(|n| format!("https://{}:2379", n.ip())).collect();
    stage.until("all three serve", LIMIT, || bed.etcdctl(&all.join(","), &["endpoint", "health"]).is_ok());
    stage.wait_for("Ready", LIMIT);
    assert_eq!(listed(&stage, "cp3-1").map(|(id, _)| id), Some(id));
}
