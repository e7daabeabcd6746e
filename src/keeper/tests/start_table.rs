//! The rows of the start table, with data directories of real etcds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;

use common::{Bed, Plain, copy_dir};
use etcd_operator_keeper::contract::{OneShot, Permission, PermissionKind, Phase};

/// An order for a member that boot's cluster lists; nothing runs yet.
fn ordered(bed: &Bed, name: &str) -> common::Node {
    let mut node = bed.node(name);
    node.write_order();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "NotAddedYet");
    node.power_off();
    let id = bed.add_learner(&bed.boot().client, &node.order.etcd.peer_url);
    let cluster = bed.cluster_id();
    node.change_order(|o| (o.member_id, o.cluster_id) = (Some(id), Some(cluster)));
    node
}

fn segment(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("member/wal/0000000000000000-0000000000000000.wal")
}

#[test]
fn nobody_answers_and_the_data_is_empty_foreign_or_damaged_so_it_waits() {
    let mut bed = Bed::with_boot();
    let mut node = ordered(&bed, "cp1");
    let boot = bed.boot.as_mut().unwrap();
    boot.end();
    let foreign = boot.data.clone();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "EmptyAndNoAnswer");
    node.stays(Phase::Waiting, "EmptyAndNoAnswer");
    node.power_off();

    copy_dir(&foreign, &node.data_dir());
    node.start_keeper();
    let state = node.wait_phase(Phase::Waiting, "ForeignData");
    assert!(state.message.contains(node.order.cluster_id.as_ref().unwrap()), "names the owner: {}", state.message);
    node.power_off();

    fs::remove_file(segment(&node.data_dir())).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "DamagedData");
    node.stays(Phase::Waiting, "DamagedData");
    assert_eq!(node.archived(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_listed_member_that_ran_here_and_lost_its_data_never_comes_back() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.power_off();
    fs::remove_dir_all(node.data_dir()).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Refused, "DataLost");
    node.stays(Phase::Refused, "DataLost");
    node.power_off();
    // The state lost as well: the list knows its name, so it ran somewhere.
    fs::remove_file(node.paths.state()).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Refused, "DataLost");
    assert_eq!(node.state().etcd_starts, 0);
    // The controller replaces it: another generation joins.
    bed.remove(&bed.boot().client, &node.member_id());
    node.change_order(|o| (o.member_id, o.member_name) = (None, "cp1-2".into()));
    node.wait_phase(Phase::Waiting, "NotAddedYet");
    node.join(&bed, &bed.boot().client);
}

#[test]
fn a_listed_member_with_a_damaged_log_is_refused() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.power_off();
    let mut bytes = fs::read(segment(&node.data_dir())).unwrap();
    bytes[30] ^= 1;
    fs::write(segment(&node.data_dir()), bytes).unwrap();
    node.start_keeper();
    let state = node.wait_phase(Phase::Refused, "DataLost");
    assert!(state.message.contains("the WAL cannot be read"), "{}", state.message);
    node.stays(Phase::Refused, "DataLost");
}

#[test]
fn a_listed_member_without_a_state_may_have_run_here_and_never_joins() {
    let bed = Bed::with_boot();
    let mut node = ordered(&bed, "cp1");
    fs::remove_file(node.paths.state()).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Refused, "StateLost");
    node.stays(Phase::Refused, "StateLost");
    // Nor after another restart, when there is a state again.
    node.power_off();
    node.start_keeper();
    node.wait_phase(Phase::Refused, "DataLost");
    node.stays(Phase::Refused, "DataLost");
}

#[test]
fn another_members_data_is_archived_when_the_cluster_waits_for_this_member() {
    let bed = Bed::with_boot();
    let other = Bed::with_boot();
    let mut node = ordered(&bed, "cp1");
    copy_dir(&other.boot().data, &node.data_dir());
    node.start_keeper();
    node.wait_phase(Phase::Running, "Joining");
    let archived = node.archived();
    assert_eq!(archived.len(), 1);
    assert!(segment(&archived[0]).is_file());
}

#[test]
fn a_removed_member_never_runs_again_and_is_archived_on_order_only() {
    let mut bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.power_off();
    bed.remove(&bed.boot().client, &node.member_id());
    node.start_keeper();
    let state = node.wait_phase(Phase::Stopped, "MemberRemoved");
    assert_eq!((state.removed, state.etcd_starts), (vec![node.member_id()], 0));
    node.power_off();
    // Nobody answers any more: a cold start must not bring it back, with or without an order.
    bed.boot.as_mut().unwrap().end();
    node.start_keeper();
    node.wait_phase(Phase::Stopped, "MemberRemoved");
    fs::remove_file(node.paths.order()).unwrap();
    node.wait_state("the missing order", |s| s.order_refused.is_some() && s.reason == "MemberRemoved");
    node.stays(Phase::Stopped, "MemberRemoved");
    assert_eq!(node.archived().len(), 0);
    node.change_order(|o| o.archive = Some(OneShot { id: "archive-1".into() }));
    node.wait_state("the archive", |s| s.consumed.contains(&"archive-1".to_owned()));
    assert!(!node.data_dir().exists() && segment(&node.archived()[0]).is_file());
    node.wait_phase(Phase::Stopped, "MemberRemoved");
    node.stays(Phase::Stopped, "MemberRemoved");
}

#[test]
fn what_a_removed_member_left_is_archived_when_the_next_one_joins_and_nothing_else_is() {
    let bed = Bed::with_boot();
    let other = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.power_off();
    bed.remove(&bed.boot().client, &node.member_id());
    let old = node.data_dir();
    // Another cluster's, a listed member's, a damaged one: not for the keeper to judge.
    let lies = |name: &str| node.paths.member(name);
    copy_dir(&other.boot().data, &lies("cp1-foreign"));
    copy_dir(&bed.boot().data, &lies("cp1-listed"));
    copy_dir(&old, &lies("cp1-damaged"));
    fs::remove_dir_all(lies("cp1-damaged").join("member/wal")).unwrap();
    for whole in ["cp1-foreign", "cp1-listed"] {
        let data = etcd_operator_etcd::wal::classify(&lies(whole)).unwrap();
        assert!(matches!(data, etcd_operator_etcd::wal::DataDir::Intact(_)), "{whole}: {data:?}");
    }
    // The order that asked for the archive was overtaken by the next member's.
    let id = bed.add_learner(&bed.boot().client, &node.order.etcd.peer_url);
    node.change_order(|o| (o.member_id, o.member_name) = (Some(id), "cp1-2".into()));
    node.start_keeper();
    node.wait_phase(Phase::Running, "Joining");
    let archived = node.archived();
    assert!(matches!(&archived[..], [one] if one.file_name().unwrap().to_str().unwrap().starts_with("cp1-1-")), "{archived:?}");
    assert!(segment(&archived[0]).is_file() && !old.exists());
    for kept in ["cp1-foreign", "cp1-listed", "cp1-damaged"] {
        assert!(node.paths.member(kept).exists(), "{kept}");
    }
}

#[test]
fn a_listed_member_that_ran_here_and_finds_anothers_data_archives_it_and_is_refused() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    node.power_off();
    fs::remove_dir_all(node.data_dir()).unwrap();
    copy_dir(&bed.boot().data, &node.data_dir());
    node.start_keeper();
    node.wait_phase(Phase::Refused, "DataLost");
    node.stays(Phase::Refused, "DataLost");
    assert_eq!(node.archived().len(), 1);
}

#[test]
fn an_unlisted_member_waits_whatever_lies_there() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    bed.remove(&bed.boot().client, &node.member_id());
    node.wait_phase(Phase::Stopped, "MemberRemoved");
    node.power_off();
    // Planned under a known ID that the cluster does not list.
    node.change_order(|o| (o.member_id, o.member_name) = (Some("00000000000000aa".into()), "cp1-2".into()));
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "NotAddedYet");
    copy_dir(&bed.boot().data, &node.data_dir());
    node.wait_phase(Phase::Waiting, "ForeignData");
    fs::remove_dir_all(node.data_dir().join("member/wal")).unwrap();
    node.wait_phase(Phase::Waiting, "DamagedData");
    assert_eq!(node.archived().len(), 0);
}

#[test]
fn data_that_no_cluster_asks_for_is_left_alone() {
    let bed = Bed::with_boot();
    let mut node = bed.learner("cp1");
    bed.remove(&bed.boot().client, &node.member_id());
    node.wait_phase(Phase::Stopped, "MemberRemoved");
    node.power_off();
    // A new member was planned but not added, and the data of the removed one lies in its place.
    let old = node.data_dir();
    node.change_order(|o| (o.member_id, o.member_name) = (None, "cp1-2".into()));
    fs::rename(old, node.data_dir()).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "ForeignData");
    fs::remove_dir_all(node.data_dir().join("member/wal")).unwrap();
    node.wait_phase(Phase::Waiting, "DamagedData");
    node.stays(Phase::Waiting, "DamagedData");
    assert_eq!(node.archived().len(), 0);
}

fn bootstrap(id: &str) -> Permission {
    Permission { id: id.into(), kind: PermissionKind::Bootstrap }
}

#[test]
fn a_permission_is_used_once() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    node.change_order(|o| {
        o.permission = Some(bootstrap("boot-cp1"));
    });
    node.power_off();
    fs::remove_dir_all(node.data_dir()).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "EmptyAndNoAnswer");
    node.stays(Phase::Waiting, "EmptyAndNoAnswer");
}

#[test]
fn a_permission_that_is_older_than_the_state_permits_nothing() {
    let bed = Bed::new();
    let mut node = bed.node("cp1");
    // The machine was made anew, and its agent has brought the order of before.
    node.order.permission = Some(bootstrap("boot-cp1"));
    node.write_order();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "NotAddedYet");
    node.stays(Phase::Waiting, "NotAddedYet");
    assert!(node.state().consumed.contains(&"boot-cp1".to_owned()));
}

#[test]
fn a_beginning_that_came_to_nothing_before_there_was_a_log_is_made_again() {
    let bed = Bed::new();
    let mut node = bed.node("cp1");
    // Ends once, before it has made anything.
    let (real, once) = (node.etcd.clone(), node.paths.keeper().with_file_name("once"));
    let script = once.with_file_name("etcd-that-fails-once");
    let text = format!(
        "#!/bin/sh\ncase \"$1\" in --version) ;; *) [ -e {once} ] || {{ : >{once}; exit 1; }} ;; esac\nexec {real} \"$@\"\n",
        once = once.display(),
        real = real.display()
    );
    fs::create_dir_all(once.parent().unwrap()).unwrap();
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    node.etcd = script;
    node.write_order();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "NotAddedYet");
    node.change_order(|o| o.permission = Some(bootstrap("boot-cp1")));
    node.wait_ready();
    assert!(once.exists() && node.log().contains("gave up its first start"), "{}", node.log());
    assert!(node.state().consumed.contains(&"boot-cp1".to_owned()));
}

#[test]
fn without_an_order_nothing_starts_whatever_lies_there() {
    let bed = Bed::with_boot();
    let mut node = bed.node("cp1");
    copy_dir(&bed.boot().data, &node.data_dir());
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "NoOrder");
    node.stays(Phase::Waiting, "NoOrder");
}

#[test]
fn another_clusters_answer_is_no_answer() {
    let mut bed = Bed::with_boot();
    let mut node = ordered(&bed, "cp1");
    bed.boot.as_mut().unwrap().end();
    // Another cluster, of the same CA, at an address that the order names.
    let other = Plain::start(&bed, "other");
    node.change_order(|o| o.ask.push(other.client.clone()));
    node.start_keeper();
    let state = node.wait_phase(Phase::Waiting, "EmptyAndNoAnswer");
    assert!(state.message.contains("is of cluster"), "{}", state.message);
    node.stays(Phase::Waiting, "EmptyAndNoAnswer");
}

#[test]
fn a_join_that_etcd_gave_up_before_it_took_part_is_tried_again_under_the_same_id() {
    let bed = Bed::with_boot();
    let mut node = ordered(&bed, "cp1");
    // Its peers do not trust its certificate.
    let pki = node.paths.pki();
    let (good_crt, good_key) = (fs::read(pki.join("peer.crt")).unwrap(), fs::read(pki.join("peer.key")).unwrap());
    let stranger = Bed::new();
    let strange = stranger.tmp.path().join("pki");
    stranger.ca.write(&strange, &["127.0.0.1".parse().unwrap()]);
    for file in ["peer.crt", "peer.key"] {
        fs::copy(strange.join(file), pki.join(file)).unwrap();
    }
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "EtcdExited");
    fs::write(pki.join("peer.crt"), good_crt).unwrap();
    fs::write(pki.join("peer.key"), good_key).unwrap();
    let state = node.wait_state("a join that lasts", |s| s.phase == Phase::Running && s.etcd_starts > 1);
    assert_eq!(state.ran_here, [node.member_id()]);
    let id = node.member_id();
    bed.promote(&bed.boot().client, &id);
    node.wait_ready();
}

#[test]
fn a_peer_url_that_the_cluster_does_not_list_is_said_before_etcd_starts() {
    let bed = Bed::with_boot();
    let mut node = ordered(&bed, "cp1");
    let listed = node.order.etcd.peer_url.clone();
    node.change_order(|o| o.etcd.peer_url = "https://127.0.0.1:9".into());
    node.start_keeper();
    let state = node.wait_phase(Phase::Waiting, "PeerUrlDiffers");
    assert!(state.message.contains(&listed) && state.ran_here.is_empty(), "{}", state.message);
    node.change_order(|o| o.etcd.peer_url = listed);
    node.wait_phase(Phase::Running, "Joining");
}

#[test]
fn several_learners_join_at_once() {
    let bed = Bed::with_boot();
    let boot = bed.boot().client.clone();
    let mut nodes: Vec<_> = ["cp1", "cp2", "cp3"].map(|name| bed.node(name)).into();
    for node in &mut nodes {
        node.write_order();
        node.start_keeper();
        node.wait_phase(Phase::Waiting, "NotAddedYet");
    }
    let cluster = bed.cluster_id();
    // Added one by one and ordered to run at once, so that the list changes while the first ones join.
    for node in &mut nodes {
        let id = bed.add_learner(&boot, &node.order.etcd.peer_url);
        node.change_order(|o| (o.member_id, o.cluster_id) = (Some(id), Some(cluster.clone())));
    }
    for node in &nodes {
        let id = node.member_id();
        bed.promote(&boot, &id);
        node.wait_ready();
        assert_eq!(node.state().ran_here, [id]);
    }
    // A power cut of all of them; boot stays away.
    for node in &mut nodes {
        node.power_off();
    }
    bed.boot().signal(rustix::process::Signal::STOP);
    let on = std::time::Instant::now();
    for node in &mut nodes {
        node.start_keeper();
    }
    for node in &nodes {
        node.wait_ready();
    }
    eprintln!("all three ready {:?} after the power cut; joins tried again: {}", on.elapsed(), {
        nodes.iter().map(|n| n.log().matches("gave up its first start").count()).sum::<usize>()
    });
}
