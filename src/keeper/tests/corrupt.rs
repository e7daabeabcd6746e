//! Bits that flipped, under real etcds: what etcd does about them, what the keeper makes of that, and what may still be done while etcd's alarm
//! CORRUPT is raised. The planner and the controller rest on it (`plan/corrupt.rs`, `controller/corrupt.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs::{self, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Bed, Node, etcd_bin, other_etcd, wait_for};
use etcd_operator_etcd::client::{EtcdClient, MemberStatus, Tls};
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_keeper::contract::Phase;
use rustix::process::Signal;

/// As etcd writes it.
const NOBODY: MemberId = MemberId(0);
const LIMIT: Duration = Duration::from_secs(5);
/// A value that stands in no other place of a database.
const VALUE: &str = "whoever reads this reads what was written, and nothing else";

fn db(node: &Node) -> PathBuf {
    node.data_dir().join("member/snap/db")
}

/// Puts `new` in the place of each `old` in a file, behind etcd's back.
fn overwrite(file: &Path, old: &str, new: &str) {
    let read = fs::read(file).unwrap();
    let places: Vec<usize> =
        read.windows(old.len()).enumerate().filter(|(_, window)| *window == old.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{old:?} is not in {}", file.display());
    let open = OpenOptions::new().write(true).open(file).unwrap();
    places.iter().for_each(|at| open.write_all_at(new.as_bytes(), *at as u64).unwrap());
}

/// Writes [`VALUE`], until a member has it on disk: etcd writes to its database every 100 ms.
fn written(bed: &Bed, through: &Node, node: &Node) {
    bed.etcdctl(&through.client(), &["put", "key", VALUE]);
    let is_there = || fs::read(db(node)).unwrap().windows(VALUE.len()).any(|window| window == VALUE.as_bytes());
    wait_for("the value on disk", || node.log(), || is_there().then_some(()));
}

/// The same under an etcd that runs, which stands still meanwhile: it must not have put another page where the value was read.
fn overwrite_under(node: &Node, old: &str, new: &str) {
    let pid = node.etcd_pid();
    let stands = |task: &Path| {
        fs::read_to_string(task.join("stat")).is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
    };
    common::kill(pid, Signal::STOP);
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path());
    wait_for("etcd to stand still", || node.log(), || tasks().all(|task| stands(&task)).then_some(()));
    overwrite(&db(node), old, new);
    common::kill(pid, Signal::CONT);
}

fn other() -> String {
    VALUE.replacen('w', "W", 1)
}

#[test]
fn a_member_whose_store_differs_from_its_peers_refuses_and_runs_once_they_agree_again() {
    let bed = Bed::new();
    let mut nodes = bed.three_voters(&etcd_bin("etcd"));
    written(&bed, &nodes[0], &nodes[2]);
    nodes[2].power_off();
    overwrite(&db(&nodes[2]), VALUE, &other());
    nodes[2].start_keeper();
    let state = nodes[2].wait_phase(Phase::Refused, "DataCorrupt");
    assert!(state.message.contains("found data inconsistency with peers"), "{}", state.message);
    nodes[2].stays(Phase::Refused, "DataCorrupt");
    // What it said is in the log, where it would be otherwise.
    assert!(nodes[2].log().contains("found different hash values from remote peer"));
    assert!(!nodes[2].paths.etcd_log().exists());
    // An order is a reason to try again.
    overwrite(&db(&nodes[2]), &other(), VALUE);
    nodes[2].change_order(|_| {});
    nodes[2].wait_ready();
}

#[test]
fn a_database_that_cannot_be_read_and_a_log_with_a_wrong_checksum_are_told_from_other_ends() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    bed.etcdctl(&node.client(), &["put", "key", VALUE]);
    node.power_off();
    // Something else that keeps etcd from running.
    let port = node.order.etcd.metrics_port;
    let metrics = wait_for("the port", String::new, || TcpListener::bind(("127.0.0.1", port)).ok());
    node.start_keeper();
    let state = node.wait_state("its words", |s| s.reason == "EtcdExited" && s.message.contains("address already in use"));
    assert_eq!(state.phase, Phase::Waiting);
    drop(metrics);
    node.wait_ready();
    node.power_off();

    let whole = fs::read(db(&node)).unwrap();
    let mut broken = whole.clone();
    // The two first pages say where the others are.
    broken.iter_mut().skip(2 * 4096).for_each(|byte| *byte = 0xa5);
    fs::write(db(&node), broken).unwrap();
    node.start_keeper();
    let state = node.wait_phase(Phase::Refused, "DataCorrupt");
    assert!(state.message.contains("cannot read its database"), "{}", state.message);
    node.power_off();
    fs::write(db(&node), whole).unwrap();

    let wal = fs::read_dir(node.data_dir().join("member/wal")).unwrap().map(|e| e.unwrap().path());
    let wal = wal.filter(|path| path.extension().is_some_and(|e| e == "wal")).min().unwrap();
    overwrite(&wal, VALUE, &other());
    node.start_keeper();
    let state = node.wait_phase(Phase::Refused, "DataCorrupt");
    assert!(state.message.contains("a checksum is wrong"), "{}", state.message);
    node.power_off();
    overwrite(&wal, &other(), VALUE);
    node.start_keeper();
    node.wait_ready();
}

/// What the controller does with such a cluster, call by call.
fn raises_its_alarm_and_takes_what_the_controller_does(etcd: &Path) {
    let bed = Bed::new();
    let nodes = bed.three_voters(etcd);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = |node: &Node| runtime.block_on(EtcdClient::new(&node.client(), &Tls::read(&node.paths.pki()).unwrap())).unwrap();
    let clients: Vec<EtcdClient> = nodes.iter().map(client).collect();
    let is_different = || {
        written(&bed, &nodes[0], &nodes[1]);
        overwrite_under(&nodes[1], VALUE, &other());
        // A page that etcd was just about to write again has the old bits.
        std::thread::sleep(Duration::from_millis(300));
        // Where the machine is busy one may close the connection.
        let hash = |n: usize| runtime.block_on(clients[n].hash_kv(0)).ok();
        let (right, wrong) = (hash(0)?, hash(1)?);
        (right.revision == wrong.revision && right.hash != wrong.hash).then_some(())
    };
    common::wait_long(Duration::from_secs(120), "hashes that differ", || nodes[1].log(), is_different);
    let revision = bed.etcdctl(&nodes[0].client(), &["put", "another", "value"])["header"]["revision"].as_i64().unwrap();
    // Its leader compares the hashes of a compaction within a minute.
    bed.etcdctl(&nodes[0].client(), &["compact", &revision.to_string()]);
    let bad = MemberId(u64::from_str_radix(&nodes[1].member_id(), 16).unwrap());
    let status = |n: usize| runtime.block_on(clients[n].status(LIMIT)).unwrap();
    let context = || {
        let log = nodes[0].log();
        let told: Vec<&str> = log.lines().filter(|line| line.contains("hash check") || line.contains("hash mismatch")).collect();
        format!("{:?}\n{}", status(0), told.join("\n"))
    };
    // It cannot tell whose store it is: before 3.6, or as one of them was slow to answer.
    let is_accused = |n: usize| [vec![bad], vec![NOBODY]].contains(&status(n).accused());
    let is_raised = || is_accused(0).then_some(());
    common::wait_long(Duration::from_secs(120), "etcd's alarm", context, is_raised);

    let refused = runtime.block_on(clients[0].put("key", b"x".to_vec(), LIMIT)).unwrap_err().to_string();
    assert!(refused.contains("etcdserver: corrupt cluster"), "{refused}");
    assert!((0..3).all(is_accused));
    let accused = status(0).accused()[0];
    let is_well = accused == NOBODY;
    assert_eq!((0..3).map(|n| MemberStatus::is_healthy(&status(n))).collect::<Vec<_>>(), [true, is_well, true]);
    runtime.block_on(async {
        assert!(clients[0].get("key", LIMIT).await.unwrap().1.is_some());
        let list = clients[0].member_list(LIMIT).await.unwrap();
        assert_eq!(list.members.len(), 3);
        let mut hashes = Vec::new();
        for client in &clients {
            hashes.push(client.hash_kv(revision).await.unwrap());
        }
        assert!(hashes[0] == hashes[2] && hashes[0].hash != hashes[1].hash, "{hashes:?}");
        assert_eq!(hashes[0].compact_revision, hashes[1].compact_revision);
        // As if the wrong one led.
        clients[0].move_leader(bad).await.unwrap();
        let heir = clients[0].status(LIMIT).await.unwrap().member_id;
        loop {
            // Leadership is told to the others in a moment.
            if clients[1].move_leader(heir).await.is_ok() {
                break;
            }
        }
        clients[0].member_remove(bad).await.unwrap();
        let still = clients[0].put("key", b"x".to_vec(), LIMIT).await.unwrap_err().to_string();
        assert!(still.contains("etcdserver: corrupt cluster"), "the alarm outlives its member: {still}");
        clients[0].disarm_corrupt(accused).await.unwrap();
        clients[0].put("key", b"x".to_vec(), LIMIT).await.unwrap();
        assert!(clients[2].status(LIMIT).await.unwrap().accused().is_empty());
        // Once more is no error.
        clients[0].disarm_corrupt(accused).await.unwrap();
    });
    nodes[1].wait_phase(Phase::Stopped, "MemberRemoved");
}

#[test]
fn etcd_3_5_raises_its_alarm_and_takes_what_the_controller_does() {
    raises_its_alarm_and_takes_what_the_controller_does(&other_etcd("etcd-3.5"));
}

#[test]
fn etcd_3_6_raises_its_alarm_and_takes_what_the_controller_does() {
    raises_its_alarm_and_takes_what_the_controller_does(&etcd_bin("etcd"));
}

#[test]
fn etcd_3_7_raises_its_alarm_and_takes_what_the_controller_does() {
    raises_its_alarm_and_takes_what_the_controller_does(&other_etcd("etcd-3.7"));
}
