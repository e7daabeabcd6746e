//! Logs written here byte by byte. Against directories of a real etcd the reader is tested with the keeper.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;

use super::*;

const OWNER: Owner = Owner { cluster: ClusterId(0xc1), member: MemberId(0xa1) };

/// Writes segments as etcd does.
struct Writer {
    bytes: Vec<u8>,
    crc: u32,
}

impl Writer {
    fn after(crc: u32) -> Self {
        let mut writer = Self { bytes: Vec::new(), crc };
        writer.frame(&Record { kind: CRC, crc, data: Vec::new() });
        writer.record(METADATA, &Metadata { node_id: OWNER.member.0, cluster_id: OWNER.cluster.0 });
        writer
    }
    fn frame(&mut self, record: &Record) {
        self.bytes.extend(settle::frame(record));
    }
    fn record(&mut self, kind: i64, message: &impl Message) {
        let data = message.encode_to_vec();
        self.crc = crc32c(self.crc, &data);
        self.frame(&Record { kind, crc: self.crc, data });
    }
    fn entry(&mut self, term: u64, index: u64) {
        self.record(ENTRY, &Entry { term, index });
    }
    fn preallocated(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 512, 0);
        self.bytes
    }
}

fn two_segments() -> (Vec<u8>, Vec<u8>) {
    let mut first = Writer::after(0);
    first.record(SNAPSHOT, &SnapshotMark { index: 0, term: 0 });
    first.entry(1, 1);
    first.record(HARD_STATE, &HardState { term: 1, vote: 0xa1, commit: 1 });
    let mut second = Writer::after(first.crc);
    second.entry(1, 2);
    second.entry(1, 3);
    second.entry(2, 2);
    second.record(HARD_STATE, &HardState { term: 2, vote: 0xa2, commit: 1 });
    (first.bytes, second.preallocated())
}

fn data_dir(first: &[u8], second: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("member/wal");
    fs::create_dir_all(&wal).unwrap();
    fs::create_dir_all(dir.path().join("member/snap")).unwrap();
    fs::write(dir.path().join("member/snap/db"), b"db").unwrap();
    fs::write(wal.join("0000000000000000-0000000000000000.wal"), first).unwrap();
    fs::write(wal.join("0000000000000001-0000000000000002.wal"), second).unwrap();
    fs::write(wal.join("1.tmp"), [0; 64]).unwrap();
    dir
}

#[test]
fn crc_is_castagnoli_and_can_be_continued() {
    assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
}

#[test]
fn reads_owner_and_reach_across_segments_and_overwritten_entries() {
    let (first, second) = two_segments();
    let dir = data_dir(&first, &second);
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Intact(OWNER));
    let expected = Reach { term: 2, vote: 0xa2, commit: 1, last_term: 2, last_index: 2, torn: false };
    assert_eq!(reach(&dir.path().join("member/wal")).unwrap(), expected);
}

#[test]
fn the_last_index_is_that_of_the_last_entry_or_of_a_later_snapshot_in_whichever_segment() {
    let index = |first: &[u8], second: &[u8]| last_index(&data_dir(first, second).path().join("member/wal")).unwrap();
    let (first, second) = two_segments();
    // Raft overwrote its tail.
    assert_eq!(index(&first, &second), 2);
    // A new segment without an entry, whose snapshot is older than the last one before it.
    let mut begun = Writer::after(7);
    begun.record(SNAPSHOT, &SnapshotMark { index: 1, term: 1 });
    let mut long = Writer::after(0);
    long.entry(1, 8);
    long.entry(1, 9);
    assert_eq!(index(&long.bytes, &begun.preallocated()), 9);
    // One that was received from the leader.
    let mut received = Writer::after(7);
    received.record(SNAPSHOT, &SnapshotMark { index: 50, term: 2 });
    assert_eq!(index(&long.bytes, &received.preallocated()), 50);
    // Cut short: what was read before counts.
    let mut cut = Writer::after(7);
    cut.entry(1, 10);
    let whole = cut.bytes.len();
    cut.entry(1, 11);
    assert_eq!(index(&long.bytes, &cut.bytes[..whole + 20]), 10);
    assert_eq!(index(&long.bytes, &cut.bytes), 11);
    // Nothing but heads.
    assert_eq!(index(&Writer::after(0).bytes, &Writer::after(7).bytes), 0);
}

#[test]
fn a_log_cut_at_any_byte_is_read_or_refused_but_never_panics() {
    let (first, second) = two_segments();
    let dir = data_dir(&first, &second);
    let wal = dir.path().join("member/wal");
    let last = wal.join("0000000000000001-0000000000000002.wal");
    for length in 0..second.len() {
        fs::write(&last, &second[..length]).unwrap();
        // A tail may be torn; what was read before it is a prefix of the whole.
        let got = reach(&wal).unwrap();
        assert!(got.last_index <= 3 && got.term <= 2, "{length}: {got:?}");
    }
    let path = wal.join("0000000000000000-0000000000000000.wal");
    for length in 0..first.len() {
        fs::write(&path, &first[..length]).unwrap();
        let whole_head = owner(&wal).is_ok();
        assert_eq!(matches!(classify(dir.path()).unwrap(), DataDir::Intact(_)), whole_head);
        assert!(length > 16 || !whole_head, "an owner from {length} bytes");
        fs::write(&last, &second).unwrap();
        assert!(reach(&wal).is_err(), "a cut first segment does not continue in the second: {length}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_head_never_yields_another_owner() {
    let (first, second) = two_segments();
    let dir = data_dir(&first, &second);
    let wal = dir.path().join("member/wal");
    let path = wal.join("0000000000000000-0000000000000000.wal");
    for at in 0..first.len() {
        for bit in 0..8 {
            let mut bytes = first.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            if let Ok(got) = owner(&wal) {
                assert_eq!(got, OWNER, "byte {at}, bit {bit}");
            }
            let _ = reach(&wal);
        }
    }
}

#[test]
fn a_log_whose_first_segments_were_purged_begins_with_a_crc_of_its_own() {
    let (_, second) = two_segments();
    let dir = data_dir(&second, &second);
    fs::remove_file(dir.path().join("member/wal/0000000000000000-0000000000000000.wal")).unwrap();
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Intact(OWNER));
    assert_eq!(reach(&dir.path().join("member/wal")).unwrap().last_index, 2);
}

#[test]
fn a_missing_segment_is_found() {
    let (first, second) = two_segments();
    let dir = data_dir(&first, &second);
    let wal = dir.path().join("member/wal");
    fs::rename(wal.join("0000000000000001-0000000000000002.wal"), wal.join("0000000000000003-0000000000000002.wal")).unwrap();
    assert!(matches!(reach(&wal), Err(WalError::Gap(1))));
}

#[test]
fn a_database_or_a_log_alone_is_damage_not_emptiness() {
    let (first, second) = two_segments();
    let dir = data_dir(&first, &second);
    fs::remove_file(dir.path().join("member/snap/db")).unwrap();
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Damaged(Damage::WalWithoutDb));
    fs::write(dir.path().join("member/snap/db"), b"db").unwrap();
    fs::remove_dir_all(dir.path().join("member/wal")).unwrap();
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Damaged(Damage::DbWithoutWal));
    // A log that was never renamed into place, or only preallocated files, make no difference.
    fs::create_dir_all(dir.path().join("member/wal.tmp")).unwrap();
    fs::create_dir_all(dir.path().join("member/wal")).unwrap();
    fs::write(dir.path().join("member/wal/0.tmp"), [0; 64]).unwrap();
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Damaged(Damage::DbWithoutWal));
}

#[test]
fn empty_is_what_holds_no_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(classify(&dir.path().join("nothing")).unwrap(), DataDir::Empty);
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Empty);
    for sub in ["lost+found", "member/snap", "member/wal.tmp"] {
        fs::create_dir_all(dir.path().join(sub)).unwrap();
    }
    fs::write(dir.path().join("member/wal.tmp/0.wal"), b"x").unwrap();
    fs::write(dir.path().join("member/.touch"), b"").unwrap();
    assert_eq!(classify(dir.path()).unwrap(), DataDir::Empty);
    fs::write(dir.path().join("member/snap/0000000000000002-0000000000000005.snap"), b"x").unwrap();
    assert!(matches!(classify(dir.path()).unwrap(), DataDir::Damaged(Damage::Strange(_))));
}

#[test]
fn a_settled_log_has_all_of_its_entries_committed_and_nothing_torn_behind_them() {
    let (first, second) = two_segments();
    let written = second.len() - 512;
    let whole = reach(&data_dir(&first, &second).path().join("member/wal")).unwrap();
    for length in 0..=written {
        let dir = data_dir(&first, &second[..length]);
        let wal = dir.path().join("member/wal");
        let Ok(before) = reach(&wal) else { continue };
        match settle(&wal) {
            // The segment breaks off in its head.
            Err(WalError::Corrupt { .. }) => assert!(length < 64, "{length}"),
            Err(error) => panic!("{length}: {error}"),
            Ok(settled) => {
                assert_eq!(settled, reach(&wal).unwrap(), "{length}");
                assert_eq!((settled.last_term, settled.last_index), (before.last_term, before.last_index));
                assert_eq!(settled.commit, settled.last_index);
                assert!(settled.term >= settled.last_term && !settled.torn);
            }
        }
    }
    let dir = data_dir(&first, &second);
    let wal = dir.path().join("member/wal");
    assert_eq!(settle(&wal).unwrap(), Reach { commit: 2, ..whole });
    // What was committed is not there: nothing to begin anew with.
    let mut log = Writer::after(0);
    log.entry(1, 1);
    log.record(HARD_STATE, &HardState { term: 1, vote: 0xa1, commit: 2 });
    let next = Writer::after(log.crc);
    let dir = data_dir(&log.bytes, &next.bytes);
    assert!(settle(&dir.path().join("member/wal")).is_err());
}

#[test]
fn requests_of_the_v2_api_are_found_after_the_last_snapshot_only() {
    let request = |index, data: &[u8]| Request { kind: 0, index, data: data.to_vec() };
    // `etcdserverpb.Request { ID: 7, Method: "PUT", Path: "/0" }`; `InternalRaftRequest { header: { ID: 7 }, put: {} }`.
    let v2 = [&[0x08, 7, 0x12, 3][..], b"PUT", &[0x1a, 2], b"/0"].concat();
    let v3 = [0x22, 0, 0xa2, 0x06, 2, 0x08, 7];
    let wal = |entries: &[(u64, &[u8])], snapshot| {
        let mut writer = Writer::after(0);
        writer.record(SNAPSHOT, &SnapshotMark { index: 0, term: 0 });
        for (index, data) in entries {
            writer.record(ENTRY, &request(*index, data));
        }
        writer.record(SNAPSHOT, &SnapshotMark { index: snapshot, term: 1 });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("0000000000000000-0000000000000000.wal"), writer.preallocated()).unwrap();
        has_v2_requests(dir.path()).unwrap()
    };
    assert!(wal(&[(1, &v2), (2, &v3)], 0));
    assert!(!wal(&[(1, &v2), (2, &v3)], 1));
    assert!(!wal(&[(1, &v3), (2, &[])], 0));
    // A change of the membership holds no request.
    let mut writer = Writer::after(0);
    writer.record(ENTRY, &Request { kind: 1, index: 1, data: v2.clone() });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("0000000000000000-0000000000000000.wal"), writer.preallocated()).unwrap();
    assert!(!has_v2_requests(dir.path()).unwrap());
}
