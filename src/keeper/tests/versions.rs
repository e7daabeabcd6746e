//! Members go from one minor version of etcd to the next, one at a time, and back as long as the cluster has not gone up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Bed, Node, etcd_bin, other_etcd, wait_for};
use etcd_operator_etcd::client::{EtcdClient, Tls};
use etcd_operator_etcd::wal;
use etcd_operator_keeper::contract::Phase;

/// Another image: the pod ends, and begins anew with it.
fn restart_with(node: &mut Node, etcd: &Path) {
    node.stop_keeper();
    node.etcd = etcd.to_owned();
    node.start_keeper();
    node.wait_phase(Phase::Running, "Listed");
    node.wait_ready();
}

fn put(bed: &Bed, through: &Node, key: &str) {
    wait_for("a write", || through.log(), || bed.try_etcdctl(&through.client(), &["put", key, "value"]).ok());
}

/// So many writes: etcd 3.6 takes a snapshot after 10,000.
fn put_many(node: &Node, count: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (url, pki) = (node.client(), node.paths.pki());
    runtime.block_on(async move {
        let client = std::sync::Arc::new(EtcdClient::new(&url, &Tls::read(&pki).unwrap()).await.unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..count {
            if tasks.len() >= 100 {
                tasks.join_next().await.unwrap().unwrap();
            }
            let client = client.clone();
            tasks.spawn(async move { client.put(&format!("many-{n}"), b"x".to_vec(), Duration::from_secs(30)).await.unwrap() });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
}

/// Each member has all that was written.
fn have(bed: &Bed, nodes: &[Node], keys: &[String]) {
    for node in nodes {
        for key in keys {
            let read = bed.etcdctl(&node.client(), &["get", key]);
            assert_eq!(read["count"], 1, "{key} on {}: {read}", node.name);
        }
    }
}

fn versions(bed: &Bed, nodes: &[Node]) -> Vec<String> {
    let of =
        |node: &Node| bed.etcdctl(&node.client(), &["endpoint", "status"])[0]["Status"]["version"].as_str().unwrap().to_owned();
    nodes.iter().map(of).collect()
}

/// The minor version that each member's data is of.
fn storage(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| status(node).storage_version).collect()
}

fn status(node: &Node) -> etcd_operator_etcd::client::MemberStatus {
    client(node, async |client| client.status(Duration::from_secs(5)).await.unwrap())
}

fn client<T>(node: &Node, act: impl AsyncFnOnce(EtcdClient) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = EtcdClient::new(&node.client(), &Tls::read(&node.paths.pki()).unwrap()).await.unwrap();
        act(client).await
    })
}

/// Meanwhile etcd takes no member of the version that all have: the planner takes the conversion back before.
fn nobody_joins(bed: &Bed, through: &Node, etcd: &Path) {
    let mut node = bed.node("cp4");
    node.etcd = etcd.to_owned();
    node.write_order();
    node.start_keeper();
    node.wait_state("its state", |s| s.etcd_version.is_some());
    let id = bed.add_learner(&through.client(), &node.order.etcd.peer_url);
    node.change_order(|order| {
        (order.member_id, order.cluster_id) = (Some(id.clone()), through.order.cluster_id.clone());
        order.ask = vec![through.client()];
    });
    node.wait_state("its refusal", |s| s.message.contains("incompatible with current running cluster"));
    bed.remove(&through.client(), &id);
}

#[test]
fn three_members_go_down_from_3_7_to_3_6_to_3_5_once_etcd_has_converted_their_data() {
    let (new, middle, old) = (other_etcd("etcd-3.7"), etcd_bin("etcd"), other_etcd("etcd-3.5"));
    let bed = Bed::new();
    let mut nodes = bed.three_voters(&new);
    let mut keys = Vec::new();
    for (etcd, minor, before) in [(&middle, "3.6.0", "3.7.0"), (&old, "3.5.0", "3.6.0")] {
        let all_are = |nodes: &[Node], version: &str| storage(nodes).iter().all(|one| one == version).then_some(());
        wait_for("the version of the data", || format!("{:?}", storage(&nodes)), || all_are(&nodes, before));
        // Not by two at once.
        client(&nodes[0], async |client| client.enable_downgrade("3.4.0").await.unwrap_err());
        client(&nodes[0], async |client| client.enable_downgrade(minor).await.unwrap());
        assert_eq!(status(&nodes[1]).downgrade.as_deref(), Some(minor));
        // A second controller that has not seen it yet.
        client(&nodes[1], async |client| client.enable_downgrade(minor).await.unwrap_err());
        // Taken back and begun anew.
        client(&nodes[0], async |client| client.cancel_downgrade().await.unwrap());
        wait_for("no downgrade", String::new, || status(&nodes[2]).downgrade.is_none().then_some(()));
        wait_for("the version of the data", || format!("{:?}", storage(&nodes)), || all_are(&nodes, before));
        client(&nodes[0], async |client| client.enable_downgrade(minor).await.unwrap());
        wait_for("the conversion", || format!("{:?}", storage(&nodes)), || all_are(&nodes, minor));
        if minor == "3.6.0" {
            nobody_joins(&bed, &nodes[0], &new);
        }
        for n in [1, 2, 0] {
            restart_with(&mut nodes[n], etcd);
            // It can come back as long as the others are of that version.
            if n == 2 {
                restart_with(&mut nodes[n], if minor == "3.6.0" { &new } else { &middle });
                restart_with(&mut nodes[n], etcd);
            }
            let key = format!("key-{}", keys.len());
            put(&bed, &nodes[(n + 1) % 3], &key);
            keys.push(key);
            have(&bed, &nodes, &keys);
        }
        assert!(versions(&bed, &nodes).iter().all(|version| version.starts_with(&minor[..3])));
        // etcd ends it by itself.
        wait_for("its end", String::new, || nodes.iter().all(|node| status(node).downgrade.is_none()).then_some(()));
    }
}

#[test]
fn three_members_go_from_3_5_to_3_6_to_3_7_and_back_while_the_cluster_has_not_gone_up() {
    let (old, middle, new) = (other_etcd("etcd-3.5"), etcd_bin("etcd"), other_etcd("etcd-3.7"));
    let bed = Bed::new();
    let mut nodes = bed.three_voters(&old);
    let mut keys = Vec::new();
    let mut step = |bed: &Bed, nodes: &mut [Node], n: usize, etcd: &Path| {
        restart_with(&mut nodes[n], etcd);
        let key = format!("key-{}", keys.len());
        put(bed, &nodes[(n + 1) % 3], &key);
        keys.push(key);
        have(bed, nodes, &keys);
    };
    // Two go up, and come back: the third one has kept the cluster at 3.5.
    for (n, etcd) in [(1, &middle), (2, &middle), (2, &old), (1, &old)] {
        step(&bed, &mut nodes, n, etcd);
    }
    assert!(versions(&bed, &nodes).iter().all(|version| version.starts_with("3.5.")));
    let snapshots = |nodes: &[Node]| nodes.iter().all(|node| !wal::has_v2_requests(&node.data_dir().join("member/wal")).unwrap());
    for (etcd, minor) in [(&middle, "3.6."), (&new, "3.7.")] {
        if minor == "3.7." {
            // What 3.5 has written 3.7 could not read. It goes with a snapshot.
            assert!(!snapshots(&nodes), "nothing of 3.5 is left, so that nothing is shown here");
            put_many(&nodes[0], 10_100);
            wait_for("a snapshot of each", String::new, || snapshots(&nodes).then_some(()));
            // Back once more, as long as the others are of 3.6.
            step(&bed, &mut nodes, 1, &new);
            step(&bed, &mut nodes, 1, &middle);
        }
        for n in [1, 2, 0] {
            step(&bed, &mut nodes, n, etcd);
        }
        assert!(versions(&bed, &nodes).iter().all(|version| version.starts_with(minor)));
    }
    // With that, what the planner refuses is what etcd would refuse.
    nodes[1].stop_keeper();
    nodes[1].etcd = old;
    nodes[1].start_keeper();
    nodes[1].wait_phase(Phase::Waiting, "EtcdExited");
}
