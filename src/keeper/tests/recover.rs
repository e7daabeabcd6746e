//! Recovery on a node, by the keeper alone, with real etcds: from a snapshot, from the last disk, and what must not come of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Bed, Node, copy_dir, etcd_bin, other_etcd, plain_flags, port, wait_for};
use etcd_operator_etcd::client::{EtcdClient, Tls};
use etcd_operator_etcd::wal::{self, DataDir, Reach};
use etcd_operator_keeper::binary::boot_id;
use etcd_operator_keeper::contract::{FORMAT, Phase, Recovery, RecoveryState, RecoveryStep, Source, State};
use etcd_operator_keeper::lineage::{KEY, Record};
use rustix::process::Signal;

fn recovery(id: &str, from: Source) -> Recovery {
    let ordered_ms = u64::try_from(etcd_operator_keeper::clock::unix_millis()).unwrap();
    Recovery { format: FORMAT, id: id.into(), lineage: 2, from, other_is_lost: false, boot_id: boot_id(), ordered_ms }
}

/// As the command does.
fn order(node: &Node, recovery: &Recovery) {
    etcd_operator_keeper::files::write(&node.paths.recovery_order(), recovery).unwrap();
}

fn wait_step(node: &Node, id: &str, step: RecoveryStep) -> State {
    node.wait_state(&format!("{step:?} of {id}"), |s| s.recovery.as_ref().is_some_and(|r| r.id == id && r.step == step))
}

/// What lies there, for a recovery from it.
fn survivor(node: &Node) -> Source {
    let reach = reach(node);
    Source::Survivor { member: node.member_id(), last_term: reach.last_term, last_index: reach.last_index }
}

fn reach(node: &Node) -> Reach {
    wal::reach(&node.data_dir().join("member/wal")).unwrap()
}

fn value(node: &Node, key: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_, value) = runtime
        .block_on(async {
            let client = EtcdClient::new(&node.client(), &Tls::read(&node.paths.pki()).unwrap()).await?;
            client.get(key, Duration::from_secs(20)).await
        })
        .unwrap();
    Some(String::from_utf8(value?).unwrap())
}

fn revision(bed: &Bed, node: &Node) -> i64 {
    bed.etcdctl(&node.client(), &["get", "nothing"])["header"]["revision"].as_i64().unwrap()
}

fn cluster(bed: &Bed, node: &Node) -> String {
    let list = bed.etcdctl(&node.client(), &["member", "list"]);
    format!("{:016x}", list["header"]["cluster_id"].as_u64().unwrap())
}

/// Cuts a log off after its last entry: the state that would say that it was committed was on its way to the disk.
fn forget_commit(node: &Node) -> Reach {
    let whole = reach(node);
    let segment = wal::last_segment(&node.data_dir().join("member/wal")).unwrap().unwrap();
    let bytes = fs::read(&segment).unwrap();
    // The shortest beginning that has all of the entries.
    let written = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    let has_all = |length: usize| {
        fs::write(&segment, &bytes[..length]).unwrap();
        reach(node).last_index == whole.last_index
    };
    let shortest = (0..=written / 8 + 1).rev().map(|word| word * 8).take_while(|length| has_all(*length)).last().unwrap();
    assert!(has_all(shortest));
    reach(node)
}

/// Two of three are gone for good, with their disks; the third has been told so.
fn last_of_three(bed: &Bed, etcd: &Path) -> (Node, Vec<Node>) {
    let mut nodes = bed.three_voters(etcd);
    for n in 0..50 {
        bed.etcdctl(&nodes[0].client(), &["put", &format!("k{n}"), "v"]);
    }
    // Its log is fsynced with each write, its database every 100 ms: as if it had lost its power in between.
    let database = nodes[1].data_dir().join("member/snap/db");
    nodes[1].power_off();
    let behind = fs::read(&database).unwrap();
    nodes[1].start_keeper();
    nodes[1].wait_ready();
    let before = bed.etcdctl(&nodes[1].client(), &["endpoint", "status"])[0]["Status"]["raftIndex"].as_u64().unwrap();
    bed.etcdctl(&nodes[1].client(), &["put", "last", "acknowledged"]);
    nodes.iter_mut().for_each(Node::power_off);
    let last = nodes.remove(1);
    fs::write(&database, behind).unwrap();
    assert!(reach(&last).last_index > before);
    (last, nodes)
}

fn recovers_from_its_own_disk(etcd: &Path) {
    let bed = Bed::new();
    let (mut node, others) = last_of_three(&bed, etcd);
    let cut = forget_commit(&node);
    assert!(cut.commit < cut.last_index, "{cut:?}");
    // What etcd's own way makes of it.
    let plain = bed.tmp.path().join("plain");
    copy_dir(&node.data_dir(), &plain);
    assert_eq!(forced(&bed, etcd, &plain), None, "--force-new-cluster has kept what was not known to be committed");

    let before = wal::owner(&node.data_dir().join("member/wal")).unwrap();
    let from = survivor(&node);
    node.start_keeper();
    node.wait_phase(Phase::Running, "ColdStart");
    order(&node, &recovery("survive", from));
    let state = wait_step(&node, "survive", RecoveryStep::Done);
    node.wait_ready();
    assert_eq!(value(&node, "last").as_deref(), Some("acknowledged"));
    assert_eq!(value(&node, "k0").as_deref(), Some("v"));
    assert!(revision(&bed, &node) > 1_000_000_000);
    assert_ne!(cluster(&bed, &node), before.cluster.to_string());
    assert_eq!(bed.members(&node.client()).len(), 1);
    assert_eq!((state.order_lineage, state.phase), (2, state.phase));
    // All revisions of before are compacted: whoever watches from one of them lists anew.
    let old = bed.try_etcdctl(&node.client(), &["get", "k0", "--rev=10"]).unwrap_err();
    assert!(old.contains("compacted"), "{old}");
    // The old data is kept, under its own IDs.
    let archived = node.archived();
    assert_eq!(archived.len(), 1);
    assert_eq!(wal::classify(&archived[0]).unwrap(), DataDir::Intact(before));
    assert!(!node.paths.recovery().exists());
    // The order of the life before does not count, whatever its sequence.
    node.change_order(|order| order.sequence = 99);
    node.wait_state("why the order is refused", |s| s.order_refused.as_ref().is_some_and(|why| why.contains("lineage 1")));
    // The cluster says itself what it follows, and a member of before that asks it does not start.
    let recorded = node.wait_state("the record", |s| s.began.as_ref().is_some_and(|began| began.is_recorded));
    let record: Record = serde_json::from_str(&value(&node, KEY).unwrap()).unwrap();
    assert_eq!(record.supersedes, [before.cluster.to_string()]);
    assert_eq!((record.lineage, &record.cluster_id), (2, &recorded.identity.unwrap().cluster_id));
    let mut others = others;
    for other in &mut others {
        other.start_keeper();
        other.wait_phase(Phase::Waiting, "Superseded");
    }
    for other in &others {
        other.stays(Phase::Waiting, "Superseded");
    }
    // Nor where that is out of reach: they would be a quorum of the old.
    node.power_off();
    for other in &mut others {
        other.stop_keeper();
        other.start_keeper();
        other.wait_phase(Phase::Waiting, "Superseded");
    }
    others[0].stays(Phase::Waiting, "Superseded");
    node.start_keeper();
    node.wait_ready();
    // And again: it was recovered already.
    order(&others[0], &Recovery { lineage: 3, ..recovery("twice", survivor(&others[0])) });
    let state = wait_step(&others[0], "twice", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("recovered on another node"));
    // What was ordered on another day, or under another kernel, is not begun.
    let now = recovery("late", survivor(&others[0]));
    for (id, late) in [
        ("late", Recovery { ordered_ms: now.ordered_ms - 700_000, ..now.clone() }),
        ("boot", Recovery { boot_id: "x".into(), ..now }),
    ] {
        order(&others[0], &Recovery { id: id.into(), lineage: 3, other_is_lost: true, ..late });
        let state = wait_step(&others[0], id, RecoveryStep::Failed);
        let why = state.recovery.unwrap().message;
        assert!(why.contains("on another day") || why.contains("recovered on another node"), "{why}");
    }
    // A new member on the other node, as its controller orders one.
    let other = &mut others[0];
    other.order.lineage = 2;
    other.order.member_name = format!("{}-2", other.name);
    (other.order.cluster_id, other.order.member_id) = (None, None);
    other.change_order(|order| order.run = etcd_operator_keeper::contract::Run::Wait);
    other.wait_phase(Phase::Waiting, "OrderedToWait");
    other.order.run = etcd_operator_keeper::contract::Run::Run;
    other.join(&bed, &node.client());
    bed.promote(&node.client(), &other.member_id());
    other.wait_ready();
    assert_eq!(value(other, "last").as_deref(), Some("acknowledged"));
    // What its member of before had is out of the way.
    assert!(!other.paths.member(&format!("{}-1", other.name)).exists());
    assert_eq!(other.archived().len(), 1);
}

/// The key that was written last, in what `--force-new-cluster` makes of a copy.
fn forced(bed: &Bed, etcd: &Path, data: &Path) -> Option<String> {
    let pki = bed.tmp.path().join("plain-pki");
    bed.ca.write(&pki, &["127.0.0.1".parse().unwrap()]);
    let (client, peer) = (format!("https://127.0.0.1:{}", port()), format!("https://127.0.0.1:{}", port()));
    let flags = plain_flags("plain", data, &pki, &client, &peer).into_iter().filter(|flag| !flag.starts_with("--max-learners"));
    let mut child = Command::new(etcd)
        .args(flags)
        .args([format!("--initial-cluster=plain={peer}"), "--force-new-cluster=true".into()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let read = bed.etcdctl(&client, &["get", "last"]);
    child.kill().unwrap();
    child.wait().unwrap();
    read["kvs"][0]["value"].as_str().map(str::to_owned)
}

#[test]
fn etcd_3_5_recovers_from_the_last_disk_with_all_that_was_acknowledged() {
    recovers_from_its_own_disk(&other_etcd("etcd-3.5"));
}

#[test]
fn etcd_3_6_recovers_from_the_last_disk_with_all_that_was_acknowledged() {
    recovers_from_its_own_disk(&etcd_bin("etcd"));
}

#[test]
fn etcd_3_7_recovers_from_the_last_disk_with_all_that_was_acknowledged() {
    recovers_from_its_own_disk(&other_etcd("etcd-3.7"));
}

#[test]
fn a_snapshot_begins_a_new_life_where_all_data_is_gone() {
    let bed = Bed::new();
    let mut nodes = bed.three_voters(&etcd_bin("etcd"));
    bed.etcdctl(&nodes[0].client(), &["put", "key", "in the snapshot"]);
    let saved = bed.tmp.path().join("saved.db");
    bed.etcdctl(&nodes[0].client(), &["snapshot", "save", saved.to_str().unwrap()]);
    bed.etcdctl(&nodes[0].client(), &["put", "key", "after it"]);
    // Nothing is recovered while there is a quorum.
    fs::create_dir_all(nodes[0].paths.recovery()).unwrap();
    fs::copy(&saved, nodes[0].paths.snapshot_to_recover("early")).unwrap();
    order(&nodes[0], &recovery("early", Source::Snapshot));
    let state = wait_step(&nodes[0], "early", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("a quorum of the cluster answers"));
    let pid = nodes[0].etcd_pid();
    let old = cluster(&bed, &nodes[0]);
    let last = revision(&bed, &nodes[0]);

    nodes.iter_mut().for_each(Node::power_off);
    for node in &nodes {
        fs::remove_dir_all(node.data_dir()).unwrap();
    }
    for node in &mut nodes {
        node.start_keeper();
        node.wait_phase(Phase::Waiting, "EmptyAndNoAnswer");
    }
    // One that is cut short is found out before anything else happens.
    let node = &nodes[0];
    fs::create_dir_all(node.paths.recovery()).unwrap();
    let bytes = fs::read(&saved).unwrap();
    fs::write(node.paths.snapshot_to_recover("torn"), &bytes[..bytes.len() - 512]).unwrap();
    order(node, &recovery("torn", Source::Snapshot));
    let state = wait_step(node, "torn", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("etcdutl"));
    node.wait_phase(Phase::Waiting, "EmptyAndNoAnswer");
    // Nor is anything taken from where there is nothing.
    order(node, &recovery("none", Source::Survivor { member: node.member_id(), last_term: 1, last_index: 1 }));
    let state = wait_step(node, "none", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("is not that of member"));

    fs::create_dir_all(node.paths.recovery()).unwrap();
    fs::copy(&saved, node.paths.snapshot_to_recover("back")).unwrap();
    order(node, &recovery("back", Source::Snapshot));
    wait_step(node, "back", RecoveryStep::Done);
    node.wait_ready();
    assert_ne!(node.etcd_pid(), pid);
    assert_eq!(value(node, "key").as_deref(), Some("in the snapshot"));
    assert_ne!(cluster(&bed, node), old);
    assert!(revision(&bed, node) > last);
    // Another life needs a higher lineage than this one.
    let again = Recovery { lineage: 2, ..recovery("again", Source::Snapshot) };
    order(&nodes[1], &recovery("retire", Source::Retire));
    wait_step(&nodes[1], "retire", RecoveryStep::Done);
    order(&nodes[1], &again);
    let state = wait_step(&nodes[1], "again", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("lineage 2"));
}

#[test]
fn a_node_that_is_retired_never_serves_its_old_data_again() {
    let bed = Bed::new();
    let (_, mut others) = last_of_three(&bed, &etcd_bin("etcd"));
    others[0].start_keeper();
    others[0].wait_phase(Phase::Running, "ColdStart");
    order(&others[0], &recovery("retire", Source::Retire));
    wait_step(&others[0], "retire", RecoveryStep::Done);
    others[0].wait_phase(Phase::Waiting, "OrderedToWait");
    // With the other one it would be a quorum.
    others[1].start_keeper();
    others[0].stop_keeper();
    others[0].start_keeper();
    others[0].wait_phase(Phase::Waiting, "OrderedToWait");
    others[0].stays(Phase::Waiting, "OrderedToWait");
    assert!(others[0].data_dir().join("member/wal").is_dir());
    // Once is enough, and what lies there is not lost: it can still be the one to begin from.
    let lineage = |recovery: Recovery| Recovery { lineage: 3, ..recovery };
    order(&others[0], &lineage(recovery("again", Source::Retire)));
    let state = wait_step(&others[0], "again", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("retired already"));
    let old = wal::owner(&others[0].data_dir().join("member/wal")).unwrap().cluster.to_string();
    let from = survivor(&others[0]);
    // A quorum of before that is there after all is not given up.
    others[1].power_off();
    order(&others[0], &lineage(recovery("back", from)));
    wait_step(&others[0], "back", RecoveryStep::Done);
    others[0].wait_ready();
    assert_eq!(value(&others[0], "last").as_deref(), Some("acknowledged"));
    others[0].wait_state("the record", |s| s.began.as_ref().is_some_and(|began| began.is_recorded));
    let record: Record = serde_json::from_str(&value(&others[0], KEY).unwrap()).unwrap();
    assert_eq!((record.lineage, record.supersedes), (3, vec![old]));
    // The one that was recovered is lost again, and the other one has heard of it.
    let from = survivor(&others[1]);
    others[1].start_keeper();
    others[1].wait_phase(Phase::Waiting, "Superseded");
    let again = |id: &str, other_is_lost| Recovery { lineage: 4, other_is_lost, ..recovery(id, from.clone()) };
    order(&others[1], &again("beside", true));
    let state = wait_step(&others[1], "beside", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("recovered on another node"));
    others[0].power_off();
    order(&others[1], &again("unsaid", false));
    wait_step(&others[1], "unsaid", RecoveryStep::Failed);
    order(&others[1], &again("lost", true));
    wait_step(&others[1], "lost", RecoveryStep::Done);
    others[1].wait_ready();
    assert_eq!(value(&others[1], "last").as_deref(), Some("acknowledged"));
    // Above all that the life before may have reached.
    assert!(revision(&bed, &others[1]) > 4_000_000_000);
}

#[test]
fn an_election_is_not_the_end_of_a_quorum() {
    let bed = Bed::new();
    let mut nodes = bed.three_voters(&etcd_bin("etcd"));
    // As long as the product waits.
    nodes[2].set_env("KEEPER_QUIET_MS", "10000");
    nodes[2].stop_keeper();
    nodes[2].start_keeper();
    nodes[2].wait_ready();
    let leader = bed.etcdctl(&nodes[0].client(), &["endpoint", "status"])[0]["Status"]["leader"].as_u64().unwrap();
    let id = |node: &Node| u64::from_str_radix(&node.member_id(), 16).unwrap();
    if id(&nodes[2]) == leader {
        bed.etcdctl(&nodes[2].client(), &["move-leader", &nodes[0].member_id()]);
    }
    let leads =
        |node: &Node| bed.etcdctl(&node.client(), &["endpoint", "status"])[0]["Status"]["leader"].as_u64() == Some(id(node));
    let dies = if leads(&nodes[0]) { 0 } else { 1 };
    let pid = nodes[2].etcd_pid();
    nodes[dies].power_off();
    order(&nodes[2], &recovery("hasty", Source::Retire));
    let state = wait_step(&nodes[2], "hasty", RecoveryStep::Failed);
    assert!(state.recovery.unwrap().message.contains("a quorum of the cluster answers"));
    assert_eq!(nodes[2].etcd_pid(), pid);
    bed.etcdctl(&nodes[2].client(), &["put", "key", "value"]);
}

#[test]
fn an_old_member_that_runs_alone_ends_once_it_hears_of_the_new_life() {
    let bed = Bed::new();
    let (mut node, mut others) = last_of_three(&bed, &etcd_bin("etcd"));
    // Started while the recovered one cannot be asked yet.
    others[0].start_keeper();
    others[0].wait_phase(Phase::Running, "ColdStart");
    let from = survivor(&node);
    order(&node, &recovery("survive", from));
    node.start_keeper();
    wait_step(&node, "survive", RecoveryStep::Done);
    others[0].wait_phase(Phase::Waiting, "Superseded");
    assert_eq!(others[0].state().etcd_pid, None);
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_node_of_the_old_life_or_of_the_new() {
    let seed: u64 = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let cuts = if std::env::var("TEST_TIER").as_deref() == Ok("soak") { 12 } else { 3 };
    println!("seed {seed}, {cuts} cuts");
    let bed = Bed::new();
    let (mut node, _others) = last_of_three(&bed, &etcd_bin("etcd"));
    let from = survivor(&node);
    let aside = bed.tmp.path().join("aside");
    copy_dir(&node.data_dir(), &aside);
    let state = fs::read(node.paths.state()).unwrap();
    let mut random = seed;
    for cut in 0..cuts {
        let id = format!("cut-{cut}");
        order(&node, &recovery(&id, from.clone()));
        // Up to what the whole takes, several times: it goes on where it was.
        for _ in 0..3 {
            node.start_keeper();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis((random >> 33) % 2_500));
            // With all that it has started: a copy of etcd, or etcdutl.
            let children = children(node.keeper_pid());
            node.power_off();
            children.into_iter().for_each(|pid| common::kill(pid, Signal::KILL));
            let owner = wal::classify(&node.data_dir()).unwrap();
            println!("cut {cut}: {:?}, {owner:?}", node.state().recovery.map(|r| (r.step, r.message)));
        }
        node.start_keeper();
        wait_step(&node, &id, RecoveryStep::Done);
        node.wait_ready();
        assert_eq!(value(&node, "last").as_deref(), Some("acknowledged"));
        assert_eq!(node.archived().len(), 1, "{:?}", node.archived());
        node.power_off();
        // Once more from the beginning.
        fs::remove_dir_all(node.data_dir()).unwrap();
        fs::remove_dir_all(node.paths.archive()).unwrap();
        copy_dir(&aside, &node.data_dir());
        fs::write(node.paths.state(), &state).unwrap();
    }
}

#[test]
fn a_power_cut_between_the_old_data_and_the_new_goes_on_to_the_new() {
    let bed = Bed::new();
    let (mut node, _others) = last_of_three(&bed, &etcd_bin("etcd"));
    let (before, from) = (fs::read(node.paths.state()).unwrap(), survivor(&node));
    order(&node, &recovery("switch", from));
    node.start_keeper();
    wait_step(&node, "switch", RecoveryStep::Done);
    node.wait_ready();
    node.power_off();
    // As it was written down before the first rename.
    let mut state: State = serde_json::from_slice(&before).unwrap();
    let done = node.state().recovery.unwrap();
    state.recovery = Some(RecoveryState { step: RecoveryStep::Switching, ..done });
    for in_place in [true, false] {
        etcd_operator_keeper::files::write(&node.paths.state(), &state).unwrap();
        if !in_place {
            fs::create_dir_all(node.paths.recovery()).unwrap();
            fs::rename(node.data_dir(), node.paths.recovery().join("data")).unwrap();
        }
        node.start_keeper();
        wait_step(&node, "switch", RecoveryStep::Done);
        node.wait_ready();
        assert_eq!(value(&node, "last").as_deref(), Some("acknowledged"), "in place: {in_place}");
        assert_eq!(node.archived().len(), 1);
        node.power_off();
    }
    // What lies there is neither: nothing is begun on it, and nothing is lost.
    etcd_operator_keeper::files::write(&node.paths.state(), &state).unwrap();
    let aside = bed.tmp.path().join("aside");
    fs::rename(node.data_dir(), &aside).unwrap();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "Recovering");
    node.stays(Phase::Waiting, "Recovering");
    // Found again, it goes on.
    fs::rename(&aside, node.data_dir()).unwrap();
    wait_step(&node, "switch", RecoveryStep::Done);
    node.wait_ready();
}

/// PIDs of a process's children.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn an_order_to_recover_that_is_none_changes_nothing() {
    let bed = Bed::new();
    let node = bed.bootstrapped("cp1");
    let pid = node.etcd_pid();
    for text in ["{", "{}", r#"{"format":9,"id":"x","lineage":2,"from":"Retire"}"#] {
        fs::write(node.paths.recovery_order(), text).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!((node.state().recovery, node.etcd_pid()), (None, pid));
    }
    wait_for("readiness", || node.log(), || (node.probe("/readyz") == Some(200)).then_some(()));
}
