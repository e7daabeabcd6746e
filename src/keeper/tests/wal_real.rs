//! The log reader against logs of a real etcd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::{Bed, etcd_bin, plain_flags, port, wait_for};
use etcd_operator_etcd::wal::{Damage, DataDir, classify, reach};

#[test]
fn a_real_log_names_its_owner_and_reaches_as_far_as_etcd_says() {
    let mut bed = Bed::with_boot();
    let client = bed.boot().client.clone();
    for n in 0..20 {
        bed.etcdctl(&client, &["put", &format!("k{n}"), &"v".repeat(200)]);
    }
    let status = bed.etcdctl(&client, &["endpoint", "status"])[0]["Status"].clone();
    let (cluster, member) = (status["header"]["cluster_id"].as_u64().unwrap(), status["header"]["member_id"].as_u64().unwrap());
    bed.boot.as_mut().unwrap().end();
    let data = bed.boot().data.clone();
    let DataDir::Intact(owner) = classify(&data).unwrap() else { panic!("not intact") };
    assert_eq!((owner.cluster.0, owner.member.0), (cluster, member));
    let got = reach(&data.join("member/wal")).unwrap();
    eprintln!("{got:?}, etcd said {status}");
    assert!(got.last_index >= status["raftIndex"].as_u64().unwrap() && got.commit <= got.last_index);
    assert_eq!((got.term, got.vote, got.torn), (status["raftTerm"].as_u64().unwrap(), member, false));

    // Cut at every byte of what is written, as a power cut may leave it: never a panic, never a longer log, never another owner.
    let segment = data.join("member/wal/0000000000000000-0000000000000000.wal");
    let bytes = fs::read(&segment).unwrap();
    let written = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    for length in 0..written {
        fs::write(&segment, &bytes[..length]).unwrap();
        match classify(&data).unwrap() {
            DataDir::Intact(cut) => assert_eq!(cut, owner),
            DataDir::Damaged(Damage::Wal(_)) => assert!(length < 256, "{length}"),
            other => panic!("{length}: {other:?}"),
        }
        if let Ok(cut) = reach(&data.join("member/wal")) {
            assert!(cut.last_index <= got.last_index);
        }
    }
    fs::remove_file(&segment).unwrap();
    assert_eq!(classify(&data).unwrap(), DataDir::Damaged(Damage::DbWithoutWal));
}

#[test]
fn an_etcd_killed_in_its_very_first_start_leaves_a_database_without_a_log() {
    let bed = Bed::new();
    let pki = bed.tmp.path().join("pki");
    bed.ca.write(&pki, &["127.0.0.1".parse().unwrap()]);
    let data = bed.tmp.path().join("data");
    let peer = format!("https://127.0.0.1:{}", port());
    // A peer that accepts connections and never answers: etcd hangs after it made the database.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut etcd = Command::new(etcd_bin("etcd"))
        .args(plain_flags("new", &data, &pki, &format!("https://127.0.0.1:{}", port()), &peer))
        .arg(format!("--initial-cluster=new={peer},old=https://{}", silent.local_addr().unwrap()))
        .arg("--initial-cluster-state=existing")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("a database", String::new, || data.join("member/snap/db").exists().then_some(()));
    etcd.kill().unwrap();
    etcd.wait().unwrap();
    assert_eq!(classify(&data).unwrap(), DataDir::Damaged(Damage::DbWithoutWal));
}
