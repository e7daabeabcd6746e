//! Says in a log that all of it is committed: for a copy that a new cluster of one is made of.

use std::fs::OpenOptions;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use prost::Message as _;

use super::{HARD_STATE, HardState, Reach, Record, Segment, WalError, crc32c, list, reach};

/// Appends a state to the log whose commit index is that of its last entry, and cuts off what a power cut left torn behind that.
///
/// etcd's `--force-new-cluster` throws away what lies above the commit index that was saved, and what was acknowledged last often does: a member writes
/// an entry before it is told that it is committed. Only for a copy: the entries that are settled with this may never have been committed at all.
///
/// # Errors
/// When the log cannot be read, is damaged before its end, ends below what it says was committed, or cannot be written.
pub fn settle(wal_dir: &Path) -> Result<Reach, WalError> {
    let before = reach(wal_dir)?;
    let list = list(wal_dir)?;
    let (_, path) = list.last().ok_or_else(|| WalError::NoSegment(wal_dir.to_owned()))?;
    let mut segment = Segment::open(path, None)?;
    while segment.record(true)?.is_some() {}
    if !segment.crc_known {
        return Err(segment.corrupt("it has no head"));
    }
    if before.commit > before.last_index {
        return Err(segment.corrupt("the log ends before an entry that it says was committed"));
    }
    // The term of an entry that was saved before the state that goes with it.
    let term = before.term.max(before.last_term);
    let vote = if term == before.term { before.vote } else { 0 };
    let settled = Reach { term, vote, commit: before.last_index, torn: false, ..before };
    let data = HardState { term, vote, commit: settled.commit }.encode_to_vec();
    let frame = frame(&Record { kind: HARD_STATE, crc: crc32c(segment.crc, &data), data });
    let io = |source| WalError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new().write(true).open(path).map_err(io)?;
    file.set_len(segment.offset).map_err(io)?;
    file.seek(SeekFrom::Start(segment.offset)).map_err(io)?;
    file.write_all(&frame).map_err(io)?;
    file.sync_all().map_err(io)?;
    Ok(settled)
}

/// As etcd's `encodeFrameSize`: the length, what it is padded with in its top byte, and the record up to a multiple of 8 bytes.
pub(super) fn frame(record: &Record) -> Vec<u8> {
    let body = record.encode_to_vec();
    let padding = (8 - body.len() % 8) % 8;
    let mut word = body.len() as u64;
    if padding != 0 {
        word |= (0x80 | padding as u64) << 56;
    }
    let mut frame = word.to_le_bytes().to_vec();
    frame.extend(body);
    frame.extend(std::iter::repeat_n(0, padding));
    frame
}
