//! A member's life under the keeper, with real etcd: from a new cluster, or from a join, through restarts to its removal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::time::Duration;

use common::Bed;
use etcd_operator_etcd::client::{EtcdClient, Tls};
use etcd_operator_etcd::ids::ClusterId;
use etcd_operator_etcd::peer;
use etcd_operator_keeper::contract::{OneShot, Phase, Run};

#[test]
fn a_new_cluster_is_started_once_by_permission_with_the_ids_foretold() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    let state = node.state();
    assert!(state.consumed.contains(&"boot-cp1".to_owned()) && state.etcd_version.is_some());
    let list = bed.etcdctl(&node.client(), &["member", "list"]);
    assert_eq!(format!("{:016x}", list["header"]["cluster_id"].as_u64().unwrap()), node.order.cluster_id.clone().unwrap());
    assert_eq!(bed.members(&node.client()), [node.member_id()]);
    // A cold start: nobody else to ask.
    bed.etcdctl(&node.client(), &["put", "k", "v"]);
    node.power_off();
    node.start_keeper();
    node.wait_phase(Phase::Running, "ColdStart");
    node.wait_ready();
    assert_eq!(bed.etcdctl(&node.client(), &["get", "k"])["kvs"][0]["value"], "dg==");
}

#[test]
fn a_learner_tells_its_peers_the_hash_that_a_voter_tells_its_clients() {
    let bed = Bed::with_boot();
    let node = bed.learner("cp1");
    let boot = bed.boot().client.clone();
    bed.etcdctl(&boot, &["put", "k", "v"]);
    let tls = Tls::read(&node.paths.pki()).unwrap();
    let cluster: ClusterId = bed.cluster_id().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let voter = EtcdClient::new(&boot, &tls).await.unwrap();
        let revision = voter.status(Duration::from_secs(5)).await.unwrap().revision;
        let wanted = voter.hash_kv(revision).await.unwrap();
        let url = &node.order.etcd.peer_url;
        // It may be a moment behind.
        let got = loop {
            match peer::hash_kv(url, &tls, cluster, revision).await {
                Ok(hash) => break hash,
                Err(error) => assert!(error.to_string().contains("future revision"), "{error}"),
            }
        };
        assert_eq!(got, wanted);
        let error = peer::hash_kv(url, &tls, ClusterId(1), revision).await.unwrap_err();
        assert!(error.to_string().contains("412"), "{error}");
    });
}

#[test]
fn a_member_joins_restarts_and_is_drained() {
    let bed = Bed::with_boot();
    let boot = bed.boot().client.clone();
    let mut node = bed.node("cp1");
    node.order.run = Run::Wait;
    node.write_order();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "OrderedToWait");
    node.change_order(|o| o.run = Run::Run);
    node.wait_phase(Phase::Waiting, "NotAddedYet");
    assert_eq!((node.probe("/livez"), node.probe("/readyz")), (Some(200), Some(503)));

    let id = bed.add_learner(&boot, &node.order.etcd.peer_url);
    let cluster = bed.cluster_id();
    node.change_order(|o| (o.member_id, o.cluster_id) = (Some(id.clone()), Some(cluster)));
    let state = node.wait_phase(Phase::Running, "Joining");
    assert_eq!(state.ran_here, std::slice::from_ref(&id));
    bed.promote(&boot, &id);
    node.wait_ready();
    node.wait_state("the members' endpoints", |s| s.known_endpoints.len() == 2);

    // The container restarts.
    assert!(node.stop_keeper().success());
    assert_eq!(node.state().reason, "Terminated");
    node.start_keeper();
    node.wait_ready();
    assert_eq!(bed.members(&boot).len(), 2);

    // Drain, remove, kill.
    let etcd = node.etcd_pid();
    let watch = bed.watch(&node.client());
    node.change_order(|o| o.drain = Some(OneShot { id: "drain-1".into() }));
    node.wait_phase(Phase::Draining, "Removing");
    bed.remove(&boot, &id);
    let state = node.wait_phase(Phase::Stopped, "MemberRemoved");
    assert!(state.removed.contains(&id) && state.consumed.contains(&"drain-1".to_owned()));
    assert!(!common::is_etcd(etcd, &node.paths.data));
    drop(watch);
}
