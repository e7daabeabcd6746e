//! What etcd says before it ends. Its output goes where the keeper's goes, and nobody reads it there when it matters. So once an etcd has ended
//! soon after its start, the next one writes into a file, and the keeper passes that on: a file and no pipe, as with a pipe's reader etcd would end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use crate::contract::Paths;

/// What the file may have before it is emptied, in bytes: all of it was passed on.
const MOST: u64 = 1 << 20;
/// How much of a line the state gets, in characters.
const SHORT: usize = 300;

/// The output of the etcd that runs.
pub(crate) struct Output {
    path: PathBuf,
    file: File,
    /// Up to where it was passed on.
    at: u64,
}

impl Output {
    /// A file for an etcd that is about to be started, and what it is to write into.
    pub(crate) fn begin(paths: &Paths) -> io::Result<(Self, File)> {
        let path = paths.etcd_log();
        // Appending, so that it can be emptied while etcd has it open.
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        file.set_len(0)?;
        Ok((Self { path, file: file.try_clone()?, at: 0 }, file))
    }

    /// That of an etcd that another keeper started.
    pub(crate) fn resume(paths: &Paths) -> Option<Self> {
        let path = paths.etcd_log();
        let file = OpenOptions::new().read(true).append(true).open(&path).ok()?;
        let at = file.metadata().ok()?.len();
        Some(Self { path, file, at })
    }

    /// There is none: what an earlier etcd left is not this one's.
    pub(crate) fn forget(paths: &Paths) {
        let _ = fs::remove_file(paths.etcd_log());
    }

    /// Passes on what is new.
    pub(crate) fn pass_on(&mut self) {
        // A log that cannot be read is no reason to do anything else.
        let _ = self.try_pass_on(&mut io::stderr());
    }

    fn try_pass_on(&mut self, to: &mut impl io::Write) -> io::Result<()> {
        let passed = self.read_from(self.at).and_then(|new| {
            self.at += new.len() as u64;
            to.write_all(&new)
        });
        if self.at > MOST {
            self.file.set_len(0)?;
            self.at = 0;
        }
        passed
    }

    /// Not by the file's position, which etcd's writes move: it has the same open file.
    fn read_from(&self, at: u64) -> io::Result<Vec<u8>> {
        let len = self.file.metadata()?.len().saturating_sub(at);
        let mut read = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.read_exact_at(&mut read, at)?;
        Ok(read)
    }

    /// It has ended: all that it said, as far as it is there.
    pub(crate) fn ended(self) -> String {
        let text = self.read_from(0).unwrap_or_default();
        let _ = fs::remove_file(&self.path);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.pass_on();
    }
}

/// What shows that etcd cannot run on this data, whoever starts it, in etcd's and Go's own words: `server/etcdserver/corrupt.go`,
/// `server/storage/wal/walpb/record.go`; a panic or a fault in bbolt's code.
pub(crate) fn data_fault(text: &str) -> Option<&'static str> {
    if text.contains("found data inconsistency with peers") {
        Some("etcd compared its store with its peers', and they differ")
    } else if text.contains("walpb: crc mismatch") {
        Some("etcd cannot read its log: a checksum is wrong")
    } else if fell_in_bbolt(text) {
        Some("etcd cannot read its database")
    } else {
        None
    }
}

/// Whether it fell over what it read of its database. Go prints first the goroutine that fell; of want of memory or threads it prints them all, and is
/// no matter of the data.
fn fell_in_bbolt(text: &str) -> bool {
    let falls = ["panic: ", "unexpected fault address", "fatal error: fault"];
    let Some(at) = falls.iter().filter_map(|words| text.find(words)).min() else { return false };
    let rest = text.get(at..).unwrap_or_default();
    let stack = rest.split_once("\ngoroutine ").and_then(|(_, stacks)| stacks.split("\n\n").next()).unwrap_or_default();
    stack.contains("go.etcd.io/bbolt.")
}

/// The last complaint, for a human.
pub(crate) fn last_words(text: &str) -> Option<String> {
    let of_line = |line: &str| {
        let Ok(said) = serde_json::from_str::<serde_json::Value>(line) else {
            return ["panic: ", "fatal error: "].iter().any(|words| line.starts_with(words)).then(|| line.to_owned());
        };
        let field = |name: &str| said.get(name).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
        let is_complaint = matches!(field("level"), Some("error" | "dpanic" | "panic" | "fatal"));
        let words: Vec<&str> = [field("msg"), field("error")].into_iter().flatten().collect();
        (is_complaint && !words.is_empty()).then(|| words.join(": "))
    };
    let words = text.lines().rev().find_map(of_line)?;
    Some(words.chars().take(SHORT).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_etcd_writes_is_passed_on_once_and_the_file_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { dir: dir.path().to_owned(), data: dir.path().to_owned() };
        let (mut output, mut etcd) = Output::begin(&paths).unwrap();
        let mut passed = Vec::new();
        etcd.write_all(b"one\n").unwrap();
        output.try_pass_on(&mut passed).unwrap();
        output.try_pass_on(&mut passed).unwrap();
        assert_eq!(passed, b"one\n");
        etcd.write_all(&vec![b'x'; usize::try_from(MOST).unwrap()]).unwrap();
        output.try_pass_on(&mut passed).unwrap();
        assert_eq!(fs::metadata(paths.etcd_log()).unwrap().len(), 0);
        // Another keeper takes over.
        etcd.write_all(b"two\n").unwrap();
        let mut resumed = Output::resume(&paths).unwrap();
        etcd.write_all(b"three\n").unwrap();
        passed.clear();
        resumed.try_pass_on(&mut passed).unwrap();
        assert_eq!(passed, b"three\n");
        assert_eq!(resumed.ended(), "two\nthree\n");
        assert!(!paths.etcd_log().exists() && Output::resume(&paths).is_none());
    }

    #[test]
    fn the_last_complaint_is_etcds_own() {
        let text = concat!(
            "{\"level\":\"info\",\"msg\":\"starting\"}\n",
            "{\"level\":\"fatal\",\"msg\":\"discovery failed\",\"error\":\"listen tcp 10.0.0.1:2380: bind: address already in use\"}\n",
            "{\"level\":\"warn\",\"msg\":\"closing\"}\n",
        );
        assert_eq!(last_words(text).unwrap(), "discovery failed: listen tcp 10.0.0.1:2380: bind: address already in use");
        assert_eq!(last_words("x\npanic: page 7 already freed\n\ngoroutine 1\n").unwrap(), "panic: page 7 already freed");
        assert_eq!(last_words("{\"level\":\"info\",\"msg\":\"fine\"}"), None);
        assert_eq!(data_fault(text), None);
    }

    #[test]
    fn only_who_fell_over_the_database_has_a_fault_in_it() {
        let stacks = |first: &str, second: &str| {
            format!("panic: page 7 already freed\n\ngoroutine 1 [running]:\n{first}()\n\ngoroutine 2 [select]:\n{second}()\n")
        };
        let (bbolt, other) = ("go.etcd.io/bbolt.(*freelist).free", "go.etcd.io/etcd/server/v3/etcdserver.x");
        assert!(data_fault(&stacks(bbolt, other)).is_some());
        assert!(
            data_fault(&stacks(bbolt, other).replace("panic: page", "unexpected fault address 0x7\nfatal error: fault"))
                .is_some()
        );
        assert_eq!(data_fault(&stacks(other, bbolt)), None);
        assert_eq!(data_fault(&stacks(bbolt, other).replace("panic: page 7", "fatal error: out of memory")), None);
    }
}
