//! What a log says of the membership, and whether its end is as a power cut leaves it: for a human who must choose between logs.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use prost::Message;

use super::{CRC, ENTRY, HARD_STATE, HardState, METADATA, Next, Record, Request, SNAPSHOT, Segment, WalError, crc32c, list};
use crate::ids::MemberId;

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Who votes as far as the log is known to be committed, and after each change of that which follows: that may have been committed, too. Empty: the
    /// log does not reach back far enough to say.
    pub voters: Vec<BTreeSet<MemberId>>,
    /// Whether something comes after what cannot be read: a power cut may leave that of a write that was not over, and so does a disk that fails.
    pub damaged: bool,
}

/// `EntryConfChange`.
const CHANGE: i32 = 1;
/// `EntryConfChangeV2`, which etcd does not write.
const CHANGE_V2: i32 = 2;

#[derive(Clone, PartialEq, Eq, Message)]
struct ConfChange {
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(uint64, tag = "3")]
    node: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ConfState {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    voters: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Mark {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(message, optional, tag = "3")]
    members: Option<ConfState>,
}

/// Reads a log to its end.
///
/// # Errors
/// When a record other than the last one of the last segment is damaged.
pub fn history(wal_dir: &Path) -> Result<History, WalError> {
    let list = list(wal_dir)?;
    let last = list.len().saturating_sub(1);
    let mut history = History::default();
    let (mut marks, mut changes) = (Vec::new(), Vec::<(u64, ConfChange)>::new());
    let (mut first, mut commit, mut crc) = (None, 0, None);
    for (at, (_, path)) in list.iter().enumerate() {
        let mut segment = Segment::open(path, crc)?;
        loop {
            let record = match segment.next()? {
                Next::Record(record) => record,
                Next::End => {
                    history.damaged = at == last && segment.is_followed()?;
                    break;
                }
                Next::Torn(_) if at == last => {
                    history.damaged = segment.is_followed()?;
                    break;
                }
                Next::Torn(why) => return Err(segment.corrupt(why)),
            };
            let data = record.data.as_slice();
            match record.kind {
                ENTRY => {
                    let entry = Request::decode(data).map_err(|_| segment.corrupt("an entry cannot be decoded"))?;
                    first = first.or(Some(entry.index));
                    // Raft overwrote its tail.
                    changes.retain(|(index, _)| *index < entry.index);
                    if entry.kind == CHANGE_V2 {
                        return Ok(History { voters: Vec::new(), ..history });
                    }
                    if entry.kind == CHANGE {
                        let change = ConfChange::decode(entry.data.as_slice());
                        changes.push((
                            entry.index,
                            change.map_err(|_| segment.corrupt("a change of the membership cannot be decoded"))?,
                        ));
                    }
                }
                HARD_STATE => {
                    commit = HardState::decode(data).map_err(|_| segment.corrupt("a state cannot be decoded"))?.commit;
                }
                SNAPSHOT => {
                    let mark = Mark::decode(data).map_err(|_| segment.corrupt("a snapshot mark cannot be decoded"))?;
                    marks.extend(mark.members.map(|members| (mark.index, members.voters)));
                }
                METADATA | CRC => {}
                _ => return Err(segment.corrupt("a record of unknown kind")),
            }
        }
        crc = Some(segment.crc);
    }
    // One beyond what was committed was never used: etcd died before it had saved that.
    let mark = marks.into_iter().rfind(|(index, voters)| *index <= commit && !voters.is_empty());
    let (from, mut voters): (u64, BTreeSet<MemberId>) = match mark {
        Some((index, voters)) => (index, voters.into_iter().map(MemberId).collect()),
        None if first == Some(1) => (0, BTreeSet::new()),
        None => return Ok(history),
    };
    let mut all = Vec::new();
    let mut is_committed = true;
    for (index, change) in changes.iter().filter(|(index, _)| *index > from) {
        if *index > commit && is_committed {
            all.push(voters.clone());
            is_committed = false;
        }
        match change.kind {
            0 => drop(voters.insert(MemberId(change.node))),
            // Removed; or (3) a learner from here on.
            1 | 3 => drop(voters.remove(&MemberId(change.node))),
            _ => {}
        }
        if !is_committed {
            all.push(voters.clone());
        }
    }
    if is_committed {
        all.push(voters);
    }
    all.retain(|voters| !voters.is_empty());
    history.voters = all;
    Ok(history)
}

impl Segment {
    /// Whether anything follows what could not be read: something other than zeros, or whole records within what it seems to reach over, as where its
    /// length is wrong.
    fn is_followed(&mut self) -> Result<bool, WalError> {
        let io = |source| WalError::Io { path: self.path.clone(), source };
        let mut after = Vec::new();
        self.reader.read_to_end(&mut after).map_err(io)?;
        if after.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        let mut rest = std::fs::read(&self.path).map_err(io)?.split_off(usize::try_from(self.offset).unwrap_or(usize::MAX));
        rest.truncate(rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        // Frames begin at multiples of eight in the file; each record's CRC goes on from the one before.
        let first = usize::try_from(8 - self.offset % 8).unwrap_or(8);
        let follows = |at: usize| {
            let (first, next) = frame(rest.get(at..)?)?;
            let (second, _) = frame(rest.get(at + next..)?)?;
            Some(crc32c(first.crc, &second.data) == second.crc)
        };
        Ok((first..rest.len()).step_by(8).any(|at| follows(at) == Some(true)))
    }
}

/// The record at the beginning, and where the next one begins.
fn frame(bytes: &[u8]) -> Option<(Record, usize)> {
    let word = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let length = usize::try_from(word & ((1 << 56) - 1)).ok()?;
    let padding = if word >> 63 == 1 { usize::try_from((word >> 56) & 7).ok()? } else { 0 };
    let record = Record::decode(bytes.get(8..8_usize.checked_add(length)?)?).ok()?;
    (length > 0 && (METADATA..=SNAPSHOT).contains(&record.kind)).then_some((record, 8 + length + padding))
}
