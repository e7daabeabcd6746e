//! A member's life under the keeper, with real etcd: from a new cluster, or from a join, through restarts to its removal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::Bed;
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
    let written = Instant::now();
    let state = node.wait_phase(Phase::Running, "Joining");
    eprintln!("etcd started {:?} after its order", written.elapsed());
    assert!(written.elapsed() < Duration::from_secs(2), "{:?}", written.elapsed());
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
