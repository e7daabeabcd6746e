//! Backups in a directory: proven before they count, refused where anything is off, and never more removed than is wanted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test ends by it")]

mod common;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use common::{Etcd, at, names, order};
use etcd_operator_backup::{
    DiskRoom, Error, Keep, Name, NoLimit, Order, Progress, Reason, Room, Store, Whose, clear, prove, take,
};
use etcd_operator_etcd::client::MemberStatus;
use etcd_operator_etcd::ids::ClusterId;
use sha2::{Digest as _, Sha256};

fn files(dir: &Path) -> Vec<String> {
    let mut files: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_was_taken_is_listed_and_is_what_etcd_had() {
    let dir = tempfile::tempdir().unwrap();
    let place = Store::directory(dir.path()).unwrap();
    // Less than a part of an upload, and several of them.
    for (n, bytes) in [1 << 10, 40 << 20].into_iter().enumerate() {
        let etcd = Etcd::new(bytes);
        let id = format!("run-{n}");
        let taken = take(&etcd, &place, &NoLimit, &order(&id), at(n as i64), &Progress::default()).await.unwrap();
        assert_eq!((taken.manifest.revision, taken.manifest.db_bytes), (77, bytes as u64 + 32));
        let mut out = Vec::new();
        let proven = prove(place.read(&taken.name).await.unwrap(), &mut out).await.unwrap();
        assert!(out[..bytes] == etcd.db && out.len() == bytes + 32, "with etcd's digest, as etcdutl wants it");
        assert_eq!((proven.bytes, proven.sha256), (taken.manifest.bytes, taken.manifest.sha256.clone()));
        // The same run again, as after a restart: what is there counts.
        assert_eq!(take(&etcd, &place, &NoLimit, &order(&id), at(100), &Progress::default()).await.unwrap(), taken);
        assert_eq!(etcd.asked(), 1);
    }
    let listed = place.list().await.unwrap();
    assert_eq!(names(&listed), ["run-0", "run-1"]);
    assert!(listed.damaged.is_empty() && listed.unfinished.is_empty());
    assert_eq!(files(dir.path()).len(), 4);
}

#[tokio::test]
async fn a_stream_that_breaks_off_leaves_nothing() {
    for breaks in [0, 100, 20 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let place = Store::directory(dir.path()).unwrap();
        let etcd = Etcd { breaks: Some(breaks), ..Etcd::new(40 << 20) };
        let error = take(&etcd, &place, &NoLimit, &order("run"), at(0), &Progress::default()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::SourceUnavailable, "{error}");
        assert_eq!(files(dir.path()), Vec::<String>::new(), "after {breaks} bytes");
    }
}

#[tokio::test]
async fn a_member_that_is_not_fit_is_not_asked_for_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let place = Store::directory(dir.path()).unwrap();
    let mut learner = Etcd::new(10);
    learner.status.is_learner = true;
    let mut corrupt = Etcd::new(10);
    corrupt.status.errors = vec!["memberID:7 alarm:CORRUPT ".into()];
    let mut foreign = Etcd::new(10);
    foreign.status.cluster_id = ClusterId(0xdead);
    let full = Etcd { status: MemberStatus { db_size: i64::MAX, ..Etcd::new(0).status }, ..Etcd::new(10) };
    let room = DiskRoom::of(dir.path().to_owned(), 1);
    for (etcd, reason) in [
        (learner, Reason::SourceUnavailable),
        (corrupt, Reason::SourceCorrupt),
        (foreign, Reason::SourceUnavailable),
        (full, Reason::NoRoom),
    ] {
        let error = take(&etcd, &place, &room, &order("run"), at(0), &Progress::default()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert_eq!(etcd.asked(), 0, "{error}");
    }
    // One that is out of space can be backed up: it is what one does before anything else.
    let mut nospace = Etcd::new(10);
    nospace.status.errors = vec!["memberID:161 alarm:NOSPACE ".into()];
    take(&nospace, &place, &room, &order("run"), at(0), &Progress::default()).await.unwrap();
}

/// A disk that fills up.
struct Fills(Mutex<u32>);

impl Room for Fills {
    fn check(&self, _: u64) -> Result<(), String> {
        let mut looks = self.0.lock().unwrap();
        *looks += 1;
        if *looks > 2 { Err("the disk has 3 MiB free".into()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_meanwhile_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = Store::directory(dir.path()).unwrap();
    // Random enough that what is written is large.
    let etcd = Etcd::random(80 << 20);
    let error = take(&etcd, &place, &Fills(Mutex::default()), &order("run"), at(0), &Progress::default()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoRoom, "{error}");
    assert!(error.to_string().contains("3 MiB free"), "{error}");
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

/// A directory that goes, and a file in its place, at this look.
struct Goes {
    dir: std::path::PathBuf,
    at: u32,
    looks: Mutex<u32>,
}

impl Room for Goes {
    fn check(&self, _: u64) -> Result<(), String> {
        let mut looks = self.looks.lock().unwrap();
        *looks += 1;
        if *looks == self.at {
            std::fs::remove_dir_all(&self.dir).unwrap();
            std::fs::write(&self.dir, "a file").unwrap();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_store_that_fails_ends_the_backup_and_nothing_else_at_whatever_step() {
    // A single write at the end; the parts of an upload; its completion.
    for (bytes, at_look) in [(1 << 10, 1), (80 << 20, 1), (80 << 20, 3), (33 << 20, 3)] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("backups");
        std::fs::create_dir(&dir).unwrap();
        let place = Store::directory(&dir).unwrap();
        let goes = Goes { dir: dir.clone(), at: at_look, looks: Mutex::default() };
        let error = take(&Etcd::random(bytes), &place, &goes, &order("run"), at(0), &Progress::default()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreUnavailable, "{bytes} bytes, {at_look}: {error}");
        assert!(dir.is_file());
    }
}

#[tokio::test]
async fn a_member_that_stands_still_is_given_up_in_time_and_nothing_is_left() {
    for hangs in [0, 20 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let place = Store::directory(dir.path()).unwrap();
        let etcd = Etcd { hangs: Some(hangs), ..Etcd::random(40 << 20) };
        let order = Order { limit: Duration::from_millis(300), ..order("run") };
        let error = take(&etcd, &place, &NoLimit, &order, at(0), &Progress::default()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Timeout, "{error}");
        assert_eq!(files(dir.path()), Vec::<String>::new(), "after {hangs} bytes");
    }
}

#[tokio::test]
async fn what_was_cut_or_altered_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let place = Store::directory(dir.path()).unwrap();
    let taken = take(&Etcd::new(1 << 20), &place, &NoLimit, &order("run"), at(0), &Progress::default()).await.unwrap();
    let path = dir.path().join(taken.name.data());
    let whole = std::fs::read(&path).unwrap();
    let mut state = 7_u64;
    for round in 0..200_u32 {
        let mut bad = whole.clone();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(round) | 1);
        let place_in = (state >> 33) as usize % bad.len();
        match round % 3 {
            0 => bad.truncate(place_in),
            1 => bad[place_in] ^= 1 << (round % 8),
            _ => bad.extend_from_slice(&whole[..place_in.max(1)]),
        }
        std::fs::write(&path, &bad).unwrap();
        let proven = prove(place.read(&taken.name).await.unwrap(), &mut tokio::io::sink()).await;
        // A bit that zstd ignores changes nothing that comes out; the digest of the file does.
        let is_found = match &proven {
            Ok(proven) => proven.sha256 != taken.manifest.sha256,
            Err(error) => matches!(error, Error::Damaged(_)),
        };
        assert!(is_found, "round {round} at {place_in}: {proven:?}");
    }
    // Its size alone shows it in a list.
    std::fs::write(&path, &whole[1..]).unwrap();
    let listed = place.list().await.unwrap();
    assert!(listed.backups.is_empty() && listed.damaged.len() == 1, "{listed:?}");
    std::fs::remove_file(&path).unwrap();
    assert!(place.list().await.unwrap().damaged[0].1.to_string().contains("is not there"));
}

#[tokio::test]
async fn an_uncompressed_snapshot_is_proven_as_well() {
    let db = Etcd::new(100_000).db;
    let stored = [db.as_slice(), Sha256::digest(&db).as_slice()].concat();
    let mut out = Vec::new();
    let proven = prove(stored.as_slice(), &mut out).await.unwrap();
    assert!(out == stored && proven.bytes == proven.db_bytes);
    assert!(prove(&stored[..stored.len() - 1], &mut tokio::io::sink()).await.is_err());
    assert!(prove([].as_slice(), &mut tokio::io::sink()).await.is_err());
}

#[tokio::test]
async fn the_oldest_go_and_strangers_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let place = Store::directory(dir.path()).unwrap();
    let etcd = Etcd::new(1000);
    for n in 0..4 {
        take(&etcd, &place, &NoLimit, &order(&format!("run-{n}")), at(n), &Progress::default()).await.unwrap();
    }
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let unfinished = |second, id: &str| Name { taken: at(second), id: id.into() };
    std::fs::write(dir.path().join(unfinished(-1_000_000, "old").data()), "x").unwrap();
    std::fs::write(dir.path().join(unfinished(0, "new").data()), "x").unwrap();
    let staged = dir.path().join(format!("{}#1", unfinished(0, "staged").data()));
    std::fs::write(&staged, "x").unwrap();
    // The newest is damaged: it is none of those that are kept instead of others.
    let newest = place.list().await.unwrap().newest().unwrap().name.clone();
    std::fs::write(dir.path().join(newest.data()), "x").unwrap();

    let keep = Keep { count: 2, age: None };
    let shared = Whose { backup: "nightly", cluster_id: Some("00000000000000c1") };
    let alone = Whose { cluster_id: None, ..shared };
    for other in [Whose { backup: "hourly", ..shared }, Whose { cluster_id: Some("00000000000000c2"), ..shared }] {
        assert_eq!(clear(&place, other, Keep { count: 1, age: None }, None, at(10)).await.unwrap(), 0, "{other:?}");
    }
    assert_eq!(clear(&place, shared, keep, None, at(10)).await.unwrap(), 2);
    let listed = place.list().await.unwrap();
    assert_eq!(names(&listed), ["run-1", "run-2"]);
    assert_eq!(listed.damaged.len(), 1, "what is damaged is left for a human");
    assert_eq!(listed.unfinished, [unfinished(0, "new")]);
    assert!(dir.path().join("notes.txt").exists());
    assert!(staged.exists(), "another process may be at it");
    assert_eq!(clear(&place, alone, keep, None, at(10)).await.unwrap(), 2, "of the backups nothing more");
    assert!(!staged.exists() && place.list().await.unwrap().unfinished.is_empty());
}
