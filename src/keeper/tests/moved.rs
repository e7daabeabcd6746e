//! A node that has got another address (F21): etcd is told first, then the keeper; the data is the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;

use common::{Bed, Node, copy_dir, wait_for};
use etcd_operator_keeper::contract::{Phase, Restart, Unless};

fn voter(bed: &Bed, name: &str) -> Node {
    bed.marking_voter(name, &["127.0.0.1", "127.0.0.2"])
}

fn applied(bed: &Bed, node: &Node) -> u64 {
    bed.etcdctl(&node.client(), &["endpoint", "status"])[0]["Status"]["raftAppliedIndex"].as_u64().unwrap()
}

/// What the controller does.
fn moves(bed: &Bed, node: &mut Node) {
    let to = |url: &str| url.replace("127.0.0.1", "127.0.0.2");
    let flag = format!("--peer-urls={}", to(&node.order.etcd.peer_url));
    bed.etcdctl(&bed.boot().client, &["member", "update", &node.member_id(), &flag]);
    node.change_order(|o| {
        (o.etcd.peer_url, o.etcd.client_url) = (to(&o.etcd.peer_url), to(&o.etcd.client_url));
        o.restart = Some(Restart { id: "moved".into(), unless: Unless::QuorumLost });
    });
}

/// It is where it is looked for now, as the member that it was, and has what the others have.
fn is_there(bed: &Bed, node: &Node, id: &str) {
    node.wait_state("its etcd at the new address", |s| {
        s.runs_with.as_ref() == Some(&node.order.etcd) && s.phase == Phase::Running
    });
    node.wait_ready();
    assert_eq!(node.member_id(), id);
    bed.etcdctl(&bed.boot().client, &["put", "after", "it moved"]);
    let read = bed.etcdctl(&node.client(), &["get", "after"]);
    assert_eq!(read["count"], 1, "{read}");
}

#[test]
fn an_etcd_that_runs_at_the_old_address_is_restarted_at_the_new_one() {
    let bed = Bed::with_boot();
    let mut node = voter(&bed, "cp1");
    let _other = voter(&bed, "cp2");
    let id = node.member_id();
    moves(&bed, &mut node);
    is_there(&bed, &node, &id);
    assert!(node.state().consumed.contains(&"moved".to_owned()));
}

#[test]
fn a_member_that_was_down_runs_on_at_the_new_address_and_its_old_mark_still_counts() {
    let bed = Bed::with_boot();
    let mut node = voter(&bed, "cp1");
    let _other = voter(&bed, "cp2");
    let (id, old) = (node.member_id(), node.order.etcd.peer_url.clone());
    node.power_off();
    let image = bed.tmp.path().join("image");
    copy_dir(&node.data_dir(), &image);
    node.start_keeper();
    node.wait_ready();
    let before = applied(&bed, &node);
    let key = format!("etcd-operator/marks/{old}");
    // A later one than what the image has: two more of them, with writes in between.
    for _ in 0..2 {
        let version = || bed.etcdctl(&bed.boot().client, &["get", &key])["kvs"][0]["mod_revision"].as_u64();
        let seen = version();
        wait_for(
            "a later mark",
            || node.log(),
            || {
                bed.etcdctl(&bed.boot().client, &["put", "key", "value"]);
                (version() > seen && applied(&bed, &node) > before + 20).then_some(())
            },
        );
    }
    assert_eq!(node.state().marked_as.as_ref(), Some(&old));
    node.power_off();
    let newest = bed.tmp.path().join("newest");
    fs::rename(node.data_dir(), &newest).unwrap();

    // The machine was made again from an old image of its disk, and has another address, too.
    copy_dir(&image, &node.data_dir());
    moves(&bed, &mut node);
    node.start_keeper();
    node.wait_phase(Phase::Refused, "LogBehind");
    node.power_off();

    fs::remove_dir_all(node.data_dir()).unwrap();
    fs::rename(&newest, node.data_dir()).unwrap();
    node.start_keeper();
    is_there(&bed, &node, &id);
    let new = node.order.etcd.peer_url.clone();
    node.wait_state("a mark at the new URL", |s| s.marked_as.as_ref() == Some(&new));
}
