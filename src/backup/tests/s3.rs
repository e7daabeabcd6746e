//! Against a real server that speaks S3 (versitygw over a directory), over TLS with a CA of its own: the full cycle, and what goes wrong there.
//!
//! Needs `S3_BIN` (see tests/bed/go/build.sh).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends by it")]

mod common;

use std::time::Duration;

use common::{Etcd, at, names, order};
use etcd_operator_backup::{Credentials, Keep, NoLimit, Progress, Reason, S3, Store, Whose, clear, prove, take};
use etcd_operator_bed::s3::{ID, SECRET, Server};

fn up() -> Server {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Server::up("127.0.0.1")
}

fn at_server(server: &Server) -> S3 {
    S3 {
        path: "bucket/some/where".into(),
        endpoint: server.endpoint(),
        region: String::new(),
        path_style: true,
        ca: Some(server.ca.clone().into_bytes()),
        credentials: Some(Credentials { id: ID.into(), secret: SECRET.into(), token: None }),
    }
}

fn store(server: &Server) -> Store {
    at_server(server).store().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_full_cycle_in_a_bucket() {
    let server = up();
    let place = store(&server);
    // One part of an upload, and several.
    for (n, bytes) in [1 << 10, 60 << 20].into_iter().enumerate() {
        let etcd = Etcd::random(bytes);
        let id = format!("run-{n}");
        let taken = take(&etcd, &place, &NoLimit, &order(&id), at(n as i64), &Progress::default()).await.unwrap();
        let mut out = Vec::new();
        let proven = prove(place.read(&taken.name).await.unwrap(), &mut out).await.unwrap();
        assert!(out[..bytes] == etcd.db && proven.sha256 == taken.manifest.sha256);
        let again = take(&etcd, &place, &NoLimit, &order(&id), at(100), &Progress::default()).await.unwrap();
        assert_eq!(again, taken, "the same run");
    }
    let lies = server.path("data/bucket/some/where");
    assert_eq!(std::fs::read_dir(&lies).unwrap().count(), 4);
    // Somebody else's in the same bucket, above, below and beside.
    let mut others = at_server(&server);
    for path in ["bucket/some", "bucket/some/where/deeper", "bucket/some/whereelse"] {
        path.clone_into(&mut others.path);
        let other = others.store().unwrap();
        take(&Etcd::new(10), &other, &NoLimit, &order("other"), at(50), &Progress::default()).await.unwrap();
        assert_eq!(names(&other.list().await.unwrap()), ["other"], "{path}");
    }
    assert_eq!(names(&place.list().await.unwrap()), ["run-0", "run-1"]);
    let whose = Whose { backup: "nightly", cluster_id: Some("00000000000000c1") };
    assert_eq!(clear(&place, whose, Keep { count: 1, age: None }, None, at(60)).await.unwrap(), 1);
    assert_eq!(names(&place.list().await.unwrap()), ["run-1"]);

    // Cut and altered in the bucket.
    let newest = place.list().await.unwrap().newest().unwrap().name.clone();
    let file = lies.join(newest.data());
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let listed = place.list().await.unwrap();
    assert!(listed.backups.is_empty() && listed.damaged.len() == 1, "{listed:?}");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    let error = prove(place.read(&newest).await.unwrap(), &mut tokio::io::sink()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Damaged, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_store_is_said_in_one_word() {
    let mut server = up();
    let good = at_server(&server);
    let wrong = Credentials { secret: "guess".into(), ..good.credentials.clone().unwrap() };
    let unknown = Credentials { id: "nobody".into(), ..good.credentials.clone().unwrap() };
    for (s3, reason) in [
        (S3 { credentials: Some(wrong), ..good.clone() }, Reason::StoreDenied),
        (S3 { credentials: Some(unknown), ..good.clone() }, Reason::StoreDenied),
        (S3 { path: "nobucket/x".into(), ..good.clone() }, Reason::StoreMissing),
        (S3 { ca: None, ..good.clone() }, Reason::StoreUnavailable),
    ] {
        let etcd = Etcd::new(1000);
        let error = take(&etcd, &s3.store().unwrap(), &NoLimit, &order("run"), at(0), &Progress::default()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{:?} at {}: {error}", s3.credentials, s3.path);
        println!("{}: {error}", error.reason().word());
        assert_eq!(etcd.asked(), 0, "etcd is not bothered for it");
        assert!(!error.to_string().contains("sesame"));
    }
    server.stop();
    let error = take(&Etcd::new(10), &store(&server), &NoLimit, &order("run"), at(0), &Progress::default()).await.unwrap_err();
    println!("{}: {error}", error.reason().word());
    assert_eq!(error.reason(), Reason::StoreUnavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_in_the_middle_leaves_no_backup_and_the_next_run_makes_one() {
    let mut server = up();
    let place = store(&server);
    let progress = Progress::default();
    {
        let etcd = Etcd::random(200 << 20);
        let order = order("run-0");
        let taking = take(&etcd, &place, &NoLimit, &order, at(0), &progress);
        tokio::pin!(taking);
        let killed = loop {
            tokio::select! {
                ended = &mut taking => panic!("it ended before the server was killed: {ended:?}"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            // Some parts have gone.
            if progress.now().1 > 60 << 20 {
                server.stop();
                break taking.await;
            }
        };
        let error = killed.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{error}");
    }
    server.start();
    assert!(place.list().await.unwrap().backups.is_empty());
    take(&Etcd::random(20 << 20), &place, &NoLimit, &order("run-1"), at(9), &Progress::default()).await.unwrap();
    assert_eq!(names(&place.list().await.unwrap()), ["run-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_thousand_objects_are_listed() {
    let server = up();
    let place = store(&server);
    let etcd = Etcd::new(10);
    let first = take(&etcd, &place, &NoLimit, &order("run"), at(0), &Progress::default()).await.unwrap();
    let lies = server.path("data/bucket/some/where");
    let (data, manifest) = (lies.join(first.name.data()), lies.join(first.name.manifest()));
    for n in 1..=600_i64 {
        let name = etcd_operator_backup::Name { taken: at(n), id: format!("run-{n}") };
        std::fs::copy(&data, lies.join(name.data())).unwrap();
        let text = std::fs::read_to_string(&manifest).unwrap().replace(&first.name.data(), &name.data());
        std::fs::write(lies.join(name.manifest()), text).unwrap();
    }
    let listed = place.list().await.unwrap();
    assert_eq!((listed.backups.len(), listed.damaged.len()), (601, 0));
    assert_eq!(listed.newest().unwrap().name.id, "run-600");
    let whose = Whose { backup: "nightly", cluster_id: Some("00000000000000c1") };
    assert_eq!(clear(&place, whose, Keep { count: 5, age: None }, None, at(700)).await.unwrap(), 5);
    assert_eq!(place.list().await.unwrap().backups.len(), 5);
}
