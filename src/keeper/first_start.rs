//! Proof that an etcd which ended in its very first start never took part in raft.
//!
//! An ID is written down as "ran here" before its first start, and never joins again. But etcd gives up a join for harmless reasons,
//! such as a member list that changed in between ("member count is unequal"), before it has made its log, and then a new member would
//! have to be added for nothing. etcd takes part in raft only after `member/wal` was renamed into place; so if the kernel has seen no
//! such name appear in that very directory, the ID is as good as new. Without that proof (no inotify, a power cut) it is not.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

/// Watches the directory in which the log appears.
pub struct FirstStart {
    inotify: OwnedFd,
    member: PathBuf,
    inode: (u64, u64),
}

/// What the kernel saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No log ever appeared.
    NeverHadLog,
    /// It did, or nobody can say.
    MayHaveRun,
}

impl FirstStart {
    /// Starts watching a data directory that is empty. `None` if that is not possible: then there will be no proof.
    #[must_use]
    pub fn watch(data_dir: &Path) -> Option<Self> {
        let member = data_dir.join("member");
        let result = (|| {
            use std::os::unix::fs::DirBuilderExt;
            // etcd's own mode; it refuses directories that others can read.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&member)?;
            let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let what =
                WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
            add_watch(&inotify, &member, what)?;
            let metadata = fs::metadata(&member)?;
            std::io::Result::Ok((inotify, (metadata.dev(), metadata.ino())))
        })();
        match result {
            Ok((inotify, inode)) if !member.join("wal").exists() => Some(Self { inotify, member, inode }),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot watch the data directory: should etcd give up its join, this member must be replaced");
                None
            }
        }
    }

    /// Whether the log is there: nothing is left to prove. Leaves what the kernel saw for [`FirstStart::verdict`].
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.member.join("wal").exists()
    }

    /// To be asked after etcd has ended.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let same = fs::metadata(&self.member).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        let no_log = fs::symlink_metadata(self.member.join("wal")).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
        if !same || !no_log {
            return Verdict::MayHaveRun;
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Err(Errno::AGAIN) => return Verdict::NeverHadLog,
                Err(Errno::INTR) => {}
                Err(_) => return Verdict::MayHaveRun,
                Ok(event) => {
                    let blind = ReadFlags::QUEUE_OVERFLOW
                        | ReadFlags::DELETE_SELF
                        | ReadFlags::MOVE_SELF
                        | ReadFlags::UNMOUNT
                        | ReadFlags::IGNORED;
                    if event.events().intersects(blind) || event.file_name().is_some_and(|name| name.to_bytes() == b"wal") {
                        return Verdict::MayHaveRun;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_directory_in_which_no_log_ever_appeared_is_as_good_as_new() {
        let verdict = |act: fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            let watch = FirstStart::watch(dir.path()).unwrap();
            act(&dir.path().join("member"));
            watch.verdict()
        };
        assert_eq!(verdict(|_| {}), Verdict::NeverHadLog);
        assert_eq!(
            verdict(|m| {
                fs::create_dir_all(m.join("snap")).unwrap();
                fs::write(m.join("snap/db"), b"").unwrap();
                fs::create_dir_all(m.join("wal.tmp")).unwrap();
            }),
            Verdict::NeverHadLog
        );
        let renamed: fn(&Path) = |m| {
            fs::create_dir_all(m.join("wal.tmp")).unwrap();
            fs::rename(m.join("wal.tmp"), m.join("wal")).unwrap();
        };
        assert_eq!(verdict(renamed), Verdict::MayHaveRun);
        assert_eq!(
            verdict(|m| {
                fs::create_dir(m.join("wal")).unwrap();
                fs::remove_dir(m.join("wal")).unwrap();
            }),
            Verdict::MayHaveRun,
            "the log was there, and was wiped"
        );
        assert_eq!(
            verdict(|m| {
                fs::remove_dir(m).unwrap();
                fs::create_dir(m).unwrap();
            }),
            Verdict::MayHaveRun,
            "another directory stands in its place"
        );
    }
}
