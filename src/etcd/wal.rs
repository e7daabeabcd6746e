//! Whose data is this? Read from etcd's write-ahead log, without etcd.
//!
//! The log's metadata holds the cluster's and the member's ID. A member whose log is lost must never come back under its old ID (it
//! may have promised entries that it no longer has), so "empty", "intact" and "damaged" are told apart here, carefully: anything that
//! is neither plainly empty nor plainly intact is damaged.
//!
//! Format (etcd `server/storage/wal`): segments `<seq>-<index>.wal`, each a run of frames. A frame is a little-endian 64-bit word, the
//! low 56 bits of which are the record's length; if its sign bit is set, the low three bits of the top byte are the length of the
//! padding that follows. A record is the protobuf message [`Record`]. Its CRC (Castagnoli) runs on from record to record, and each
//! segment begins with the CRC so far. A zero word is preallocated space: the end of the segment.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::ids::{ClusterId, MemberId};

/// Largest record we read: far above etcd's request limit (1.5 MiB by default), so that a torn length cannot exhaust memory.
const MAX_RECORD: u64 = 256 << 20;

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const HARD_STATE: i64 = 3;
const CRC: i64 = 4;
const SNAPSHOT: i64 = 5;

mod history;
mod settle;

pub use history::{History, history};
pub use settle::settle;

/// What lies in a member's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// Nothing that an etcd ever served from.
    Empty,
    /// A database and a log with an owner.
    Intact(Owner),
    /// Neither empty nor complete.
    Damaged(Damage),
}

/// Whose data it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Cluster it belongs to.
    pub cluster: ClusterId,
    /// Member it belongs to.
    pub member: MemberId,
}

/// Why a data directory is neither empty nor complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A database without a log. Also left by an etcd that was killed, or gave up, in its very first start: it makes the database first.
    DbWithoutWal,
    /// A log without a database.
    WalWithoutDb,
    /// The log's head cannot be read.
    Wal(String),
    /// Files that are no etcd's.
    Strange(PathBuf),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DbWithoutWal => write!(f, "a database without a WAL (lost, or etcd was stopped in its very first start)"),
            Self::WalWithoutDb => write!(f, "a WAL without a database"),
            Self::Wal(why) => write!(f, "the WAL cannot be read: {why}"),
            Self::Strange(path) => write!(f, "neither empty nor etcd's: found {}", path.display()),
        }
    }
}

/// How far a log reaches. Two survivors of a cluster are compared by `(last_term, last_index)`; `commit` is only a lower bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Last term, vote and commit index saved.
    pub term: u64,
    /// Who got this member's vote in that term; 0 = nobody.
    pub vote: u64,
    /// Commit index saved: a lower bound.
    pub commit: u64,
    /// Term of the last entry (or of the snapshot, if no entry follows it).
    pub last_term: u64,
    /// Index of the last entry (or of the snapshot).
    pub last_index: u64,
    /// Whether the last segment ends in a torn record, as after a power cut. etcd cuts it off by itself.
    pub torn: bool,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The file system failed.
    #[error("cannot read {path}: {source}")]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no segment.
    #[error("there is no segment in {0}")]
    NoSegment(PathBuf),
    /// A segment is missing in the middle.
    #[error("segment {0:016x} is missing")]
    Gap(u64),
    /// A segment does not begin as etcd writes it, or breaks off before its metadata.
    #[error("{path} is damaged at byte {offset}: {why}")]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// Looks at `--data-dir`. Reads the head of the log only: damage further on is etcd's to find, and it does.
///
/// # Errors
/// When the file system fails (which says nothing about the data).
pub fn classify(data_dir: &Path) -> io::Result<DataDir> {
    let member = data_dir.join("member");
    let db = exists(&member.join("snap").join("db"))?;
    let wal_dir = member.join("wal");
    let segments = match segments(&wal_dir) {
        Ok(segments) => !segments.is_empty(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    match (db, segments) {
        (true, true) => match owner(&wal_dir) {
            Ok(owner) => Ok(DataDir::Intact(owner)),
            Err(WalError::Io { source, .. }) => Err(source),
            Err(error) => Ok(DataDir::Damaged(Damage::Wal(error.to_string()))),
        },
        (true, false) => Ok(DataDir::Damaged(Damage::DbWithoutWal)),
        (false, true) => Ok(DataDir::Damaged(Damage::WalWithoutDb)),
        (false, false) => Ok(match strange_file(data_dir, 0)? {
            Some(path) => DataDir::Damaged(Damage::Strange(path)),
            None => DataDir::Empty,
        }),
    }
}

/// Whose log it is: the metadata of its first segment, its CRC verified.
///
/// # Errors
/// When there is no segment or its head is damaged.
pub fn owner(wal_dir: &Path) -> Result<Owner, WalError> {
    let list = list(wal_dir)?;
    let (_, path) = list.first().ok_or_else(|| WalError::NoSegment(wal_dir.to_owned()))?;
    let mut segment = Segment::open(path, None)?;
    loop {
        match segment.next()? {
            Next::Record(record) if record.kind == METADATA => return segment.metadata(&record),
            Next::Record(record) if record.kind == CRC => {}
            Next::Record(_) => return Err(segment.corrupt("a record before the metadata")),
            Next::End => return Err(segment.corrupt("it ends before the metadata")),
            Next::Torn(why) => return Err(segment.corrupt(why)),
        }
    }
}

/// Reads the whole log, one record at a time.
///
/// # Errors
/// When a record other than the last one of the last segment is damaged, or a segment is missing or of another member.
pub fn reach(wal_dir: &Path) -> Result<Reach, WalError> {
    let list = list(wal_dir)?;
    let last = list.len().saturating_sub(1);
    let mut reach = Reach::default();
    let mut crc = None;
    let mut whose: Option<Owner> = None;
    let mut expected = None;
    for (at, (sequence, path)) in list.iter().enumerate() {
        if let Some(expected) = expected.filter(|e| e != sequence) {
            return Err(WalError::Gap(expected));
        }
        expected = Some(sequence.saturating_add(1));
        let mut segment = Segment::open(path, crc)?;
        loop {
            let record = match segment.next()? {
                Next::Record(record) => record,
                Next::End => break,
                Next::Torn(_) if at == last => {
                    reach.torn = true;
                    break;
                }
                Next::Torn(why) => return Err(segment.corrupt(why)),
            };
            let data = record.data.as_slice();
            match record.kind {
                METADATA => {
                    let this = segment.metadata(&record)?;
                    if *whose.get_or_insert(this) != this {
                        return Err(segment.corrupt("its metadata is another member's"));
                    }
                }
                // A later entry may have a lower index: raft overwrote its tail. The last one written is the last one.
                ENTRY => {
                    let entry = Entry::decode(data).map_err(|_| segment.corrupt("an entry cannot be decoded"))?;
                    (reach.last_term, reach.last_index) = (entry.term, entry.index);
                }
                HARD_STATE => {
                    let state = HardState::decode(data).map_err(|_| segment.corrupt("a state cannot be decoded"))?;
                    (reach.term, reach.vote, reach.commit) = (state.term, state.vote, state.commit);
                }
                SNAPSHOT => {
                    let mark = segment.mark(data)?;
                    if mark.index > reach.last_index {
                        (reach.last_term, reach.last_index) = (mark.term, mark.index);
                    }
                }
                CRC => {}
                _ => return Err(segment.corrupt("a record of unknown kind")),
            }
        }
        crc = Some(segment.crc);
    }
    match whose {
        Some(_) => Ok(reach),
        None => Err(WalError::NoSegment(wal_dir.to_owned())),
    }
}

/// Index of the last entry of a log, or of its last snapshot. Reads back only as far as the last entry: in most cases one segment of 64 MiB.
///
/// # Errors
/// When a record other than the last one of the last segment is damaged.
pub fn last_index(wal_dir: &Path) -> Result<u64, WalError> {
    let list = list(wal_dir)?;
    let newest = list.len().saturating_sub(1);
    let mut snapshot = 0;
    for (at, (_, path)) in list.iter().enumerate().rev() {
        let mut segment = Segment::open(path, None)?;
        let mut entry = None;
        while let Some(record) = segment.record(at == newest)? {
            let data = record.data.as_slice();
            match record.kind {
                ENTRY => entry = Some(Entry::decode(data).map_err(|_| segment.corrupt("an entry cannot be decoded"))?.index),
                SNAPSHOT => {
                    let mark = segment.mark(data)?;
                    snapshot = snapshot.max(mark.index);
                }
                _ => {}
            }
        }
        if let Some(index) = entry {
            return Ok(index.max(snapshot));
        }
    }
    Ok(snapshot)
}

/// Whether a log holds requests that only an etcd before 3.7 can read, after its last snapshot: 3.5 and older wrote some of their own (a member's name, the cluster's
/// version) in the form of the v2 API, and 3.7 panics on them when it replays its log ("unmarshal should never fail", seen with 3.7.3). etcd 3.6 writes none.
///
/// # Errors
/// When a record other than the last one of the last segment is damaged.
pub fn has_v2_requests(wal_dir: &Path) -> Result<bool, WalError> {
    let list = list(wal_dir)?;
    let newest = list.len().saturating_sub(1);
    let (mut snapshot, mut last) = (0, None);
    for (at, (_, path)) in list.iter().enumerate() {
        let mut segment = Segment::open(path, None)?;
        while let Some(record) = segment.record(at == newest)? {
            let data = record.data.as_slice();
            match record.kind {
                ENTRY => {
                    let entry = Request::decode(data).map_err(|_| segment.corrupt("an entry cannot be decoded"))?;
                    if entry.kind == NORMAL && is_v2(&entry.data) {
                        last = Some(entry.index);
                    }
                }
                SNAPSHOT => {
                    let mark = segment.mark(data)?;
                    snapshot = snapshot.max(mark.index);
                }
                _ => {}
            }
        }
    }
    Ok(last.is_some_and(|index| index > snapshot))
}

/// `raftpb.EntryNormal`.
const NORMAL: i32 = 0;

/// Whether a request is one of the v2 API. Field 2 is `InternalRaftRequest.v2` or, in a bare `etcdserverpb.Request`, the method; nothing else has it.
fn is_v2(mut request: &[u8]) -> bool {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    while !request.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut request) else { return false };
        if tag == 2 {
            return true;
        }
        if skip_field(wire_type, tag, &mut request, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

/// The last segment of a log: the one that a running etcd holds a lock on.
///
/// # Errors
/// When the directory cannot be read.
pub fn last_segment(wal_dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(segments(wal_dir)?.pop().map(|(_, path)| path))
}

fn list(wal_dir: &Path) -> Result<Vec<(u64, PathBuf)>, WalError> {
    segments(wal_dir).map_err(|source| WalError::Io { path: wal_dir.to_owned(), source })
}

/// The segments by sequence number. Other files (`*.tmp`, preallocated) are not part of the log.
fn segments(wal_dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(wal_dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".wal"));
        if let Some((sequence, _)) = name.and_then(|n| n.split_once('-'))
            && let Ok(sequence) = u64::from_str_radix(sequence, 16)
        {
            found.push((sequence, path));
        }
    }
    found.sort();
    Ok(found)
}

fn exists(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file in a directory that has neither database nor log. Left out: what etcd leaves when it is killed before it has either.
fn strange_file(dir: &Path, depth: u32) -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Some(dir.to_owned())),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        // `.touch` is etcd's test whether it may write, `wal.tmp` a log that was never renamed into place.
        if [".touch", "wal.tmp", "lost+found"].iter().any(|known| name.to_str() == Some(known)) {
            continue;
        }
        if !entry.file_type()?.is_dir() || depth > 3 {
            return Ok(Some(path));
        }
        if let Some(path) = strange_file(&path, depth + 1)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A segment that is being read.
struct Segment {
    path: PathBuf,
    reader: BufReader<File>,
    length: u64,
    offset: u64,
    crc: u32,
    /// Whether the CRC so far is known; at the first segment of a log it is taken from its head.
    crc_known: bool,
}

enum Next {
    Record(Record),
    End,
    Torn(&'static str),
}

impl Segment {
    /// The next record; `None` at the end, which in the newest segment may be a torn one.
    fn record(&mut self, is_newest: bool) -> Result<Option<Record>, WalError> {
        match self.next()? {
            Next::Record(record) => Ok(Some(record)),
            Next::End => Ok(None),
            Next::Torn(_) if is_newest => Ok(None),
            Next::Torn(why) => Err(self.corrupt(why)),
        }
    }

    fn mark(&self, data: &[u8]) -> Result<SnapshotMark, WalError> {
        SnapshotMark::decode(data).map_err(|_| self.corrupt("a snapshot mark cannot be decoded"))
    }

    fn open(path: &Path, crc: Option<u32>) -> Result<Self, WalError> {
        let io = |source| WalError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let (crc, crc_known) = (crc.unwrap_or(0), crc.is_some());
        Ok(Self { path: path.to_owned(), reader: BufReader::new(file), length, offset: 0, crc, crc_known })
    }

    fn corrupt(&self, why: &'static str) -> WalError {
        WalError::Corrupt { path: self.path.clone(), offset: self.offset, why }
    }

    fn metadata(&self, record: &Record) -> Result<Owner, WalError> {
        let metadata = Metadata::decode(record.data.as_slice()).map_err(|_| self.corrupt("its metadata cannot be decoded"))?;
        if metadata.node_id == 0 || metadata.cluster_id == 0 {
            return Err(self.corrupt("its metadata names no member or no cluster"));
        }
        Ok(Owner { cluster: ClusterId(metadata.cluster_id), member: MemberId(metadata.node_id) })
    }

    fn next(&mut self) -> Result<Next, WalError> {
        let io = |source| WalError::Io { path: self.path.clone(), source };
        let left = self.length.saturating_sub(self.offset);
        if left == 0 {
            return Ok(Next::End);
        }
        if left < 8 {
            return Ok(Next::Torn("a length breaks off"));
        }
        let mut word = [0; 8];
        self.reader.read_exact(&mut word).map_err(io)?;
        let word = u64::from_le_bytes(word);
        if word == 0 {
            return Ok(Next::End);
        }
        let length = word & ((1 << 56) - 1);
        let padding = if word >> 63 == 1 { (word >> 56) & 7 } else { 0 };
        if length > MAX_RECORD || length + padding > left - 8 {
            return Ok(Next::Torn("a record is longer than its segment"));
        }
        let mut frame = Vec::new();
        // Not allocated by the length that the file claims, but as it comes.
        (&mut self.reader).take(length + padding).read_to_end(&mut frame).map_err(io)?;
        let Some(body) = usize::try_from(length).ok().and_then(|length| frame.get(..length)) else {
            return Ok(Next::Torn("a record breaks off"));
        };
        let Ok(record) = Record::decode(body) else {
            return Ok(Next::Torn("a record cannot be decoded"));
        };
        if record.kind == CRC {
            if self.crc_known && record.crc != self.crc {
                return Err(self.corrupt("it does not continue the segment before it (CRC)"));
            }
            (self.crc, self.crc_known) = (record.crc, true);
        } else {
            if !self.crc_known {
                return Err(self.corrupt("it does not begin with a CRC"));
            }
            let crc = crc32c(self.crc, &record.data);
            if crc != record.crc {
                return Ok(Next::Torn("a record has a wrong CRC"));
            }
            self.crc = crc;
        }
        self.offset += 8 + length + padding;
        Ok(Next::Record(record))
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Record {
    #[prost(int64, required, tag = "1")]
    kind: i64,
    #[prost(uint32, required, tag = "2")]
    crc: u32,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Metadata {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(uint64, tag = "2")]
    cluster_id: u64,
}

/// The fields of `raftpb.Entry` that matter here.
#[derive(Clone, PartialEq, Eq, Message)]
struct Entry {
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

/// The same message, with what it asks for.
#[derive(Clone, PartialEq, Eq, Message)]
struct Request {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HardState {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    vote: u64,
    #[prost(uint64, tag = "3")]
    commit: u64,
}

/// `walpb.Snapshot`: a snapshot with this index was taken.
#[derive(Clone, PartialEq, Eq, Message)]
struct SnapshotMark {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
}

/// CRC-32 (Castagnoli) of `data`, continued from `crc`, as Go's `hash/crc32`.
fn crc32c(crc: u32, data: &[u8]) -> u32 {
    !data.iter().fold(!crc, |crc, byte| {
        let row = usize::from(crc.to_le_bytes()[0] ^ byte);
        (crc >> 8) ^ CRC_TABLE.get(row).copied().unwrap_or_default()
    })
}

static CRC_TABLE: [u32; 256] = crc_table();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = at as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
