//! The data disk: is it there, is it in use, and moving data away instead of deleting it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use etcd_operator_etcd::wal;
use rustix::fs::{FlockOperation, fcntl_lock, flock, statvfs};
use rustix::io::Errno;

use crate::clock::unix_millis;
use crate::contract::Paths;
use crate::files::sync_dir;

/// What the data directory lies on: the file system's ID, and what the marker file in it says.
///
/// Either alone is not enough: some file systems (XFS) derive the ID from the device number, which may change at a reboot, and a
/// marker may be empty. A disk is another one if both differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    id: String,
    marker: String,
}

impl FileSystem {
    /// Looks at it. `None` if there is no marker: then nothing is mounted here.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn of(paths: &Paths) -> io::Result<Option<Self>> {
        let marker = match fs::read(paths.marker()) {
            Ok(marker) => marker,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error),
        };
        let marker = String::from_utf8_lossy(&marker).split_whitespace().next().unwrap_or_default().chars().take(64).collect();
        let id = format!("{:016x}", statvfs(&paths.data)?.f_fsid);
        Ok(Some(Self { id, marker }))
    }

    /// As it is recorded in the state.
    #[must_use]
    pub fn record(&self) -> String {
        format!("{} {}", self.id, self.marker).trim_end().to_owned()
    }

    /// Whether it is the one recorded.
    #[must_use]
    pub fn is(&self, recorded: &str) -> bool {
        let (id, marker) = recorded.split_once(' ').unwrap_or((recorded, ""));
        self.id == id || (!marker.is_empty() && self.marker == marker)
    }
}

/// Why data cannot be locked or moved.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Another process works on it.
    #[error("another process holds a lock on {0}")]
    InUse(PathBuf),
    /// The archive would exceed its bound.
    #[error("the archive holds {held} bytes, the data {more}, the bound is {limit}")]
    Full {
        /// Bytes in the archive.
        held: u64,
        /// Bytes that would be added.
        more: u64,
        /// The bound.
        limit: u64,
    },
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// etcd's own two locks on a data directory: flock on the database and a record lock on the last log segment. While they are held no
/// etcd works on it. (etcd takes an open-file-description lock on the segment; rustix has the process-wide kind, which conflicts with
/// it just as well, in both directions.)
#[derive(Debug)]
pub struct Locks {
    _held: Vec<File>,
}

/// Takes both locks, of those files that exist.
///
/// # Errors
/// [`ArchiveError::InUse`] if another process holds one.
pub fn lock(member: &Path) -> Result<Locks, ArchiveError> {
    let mut held = Vec::new();
    let database = member.join("member").join("snap").join("db");
    if let Some(file) = open(&database)? {
        let result = flock(&file, FlockOperation::NonBlockingLockExclusive);
        held.push(locked(&database, file, result)?);
    }
    let wal_dir = member.join("member").join("wal");
    let segment = match wal::last_segment(&wal_dir) {
        Ok(segment) => segment,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(source) => return Err(ArchiveError::Io { path: wal_dir, source }),
    };
    if let Some(segment) = segment
        && let Some(file) = open(&segment)?
    {
        let result = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
        held.push(locked(&segment, file, result)?);
    }
    Ok(Locks { _held: held })
}

fn open(path: &Path) -> Result<Option<File>, ArchiveError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(ArchiveError::Io { path: path.to_owned(), source }),
    }
}

fn locked(path: &Path, file: File, result: Result<(), Errno>) -> Result<File, ArchiveError> {
    match result {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(ArchiveError::InUse(path.to_owned())),
        Err(errno) => Err(ArchiveError::Io { path: path.to_owned(), source: errno.into() }),
    }
}

/// Moves a member's data into the archive, holding etcd's locks. Never deletes, never copies. Returns where it went.
///
/// # Errors
/// When it is in use, the archive would hold more than `limit` bytes, or the file system fails.
pub fn archive(paths: &Paths, member_name: &str, limit: u64) -> Result<PathBuf, ArchiveError> {
    let from = paths.member(member_name);
    let archive = paths.archive();
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ArchiveError::Io { path, source }
    };
    let _locks = lock(&from)?;
    fs::create_dir_all(&archive).map_err(io(&archive))?;
    let (held, more) = (size(&archive).map_err(io(&archive))?, size(&from).map_err(io(&from))?);
    if held.saturating_add(more) > limit {
        return Err(ArchiveError::Full { held, more, limit });
    }
    let mut number = unix_millis();
    let to = loop {
        let to = archive.join(format!("{member_name}-{number}"));
        match fs::symlink_metadata(&to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break to,
            Err(error) => return Err(io(&to)(error)),
            Ok(_) => number += 1,
        }
    };
    fs::rename(&from, &to).map_err(io(&to))?;
    sync_dir(&archive).map_err(io(&archive))?;
    sync_dir(&paths.data).map_err(io(&paths.data))?;
    Ok(to)
}

/// Bytes of all files below.
///
/// # Errors
/// When the file system fails.
pub fn size(path: &Path) -> io::Result<u64> {
    let mut total: u64 = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total = total.saturating_add(if metadata.is_dir() { size(&entry.path())? } else { metadata.len() });
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn paths(dir: &Path) -> Paths {
        let paths = Paths { dir: dir.join("op"), data: dir.join("data") };
        fs::create_dir_all(paths.member("cp1-1").join("member/snap")).unwrap();
        fs::create_dir_all(paths.member("cp1-1").join("member/wal")).unwrap();
        fs::write(paths.member("cp1-1").join("member/snap/db"), [0; 1000]).unwrap();
        fs::write(paths.member("cp1-1").join("member/wal/0000000000000000-0000000000000000.wal"), [0; 24]).unwrap();
        paths
    }

    #[test]
    fn a_disk_is_another_one_if_both_its_id_and_its_marker_differ() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        assert_eq!(FileSystem::of(&paths).unwrap(), None);
        fs::write(paths.marker(), "7f3a\n").unwrap();
        let here = FileSystem::of(&paths).unwrap().unwrap();
        assert!(here.is(&here.record()));
        assert!(here.is(&here.id), "recorded when the marker was empty");
        assert!(here.is("0000000000000bad 7f3a"), "the device number changed");
        assert!(!here.is("0000000000000bad 7f3b") && !here.is("0000000000000bad"));
        fs::write(paths.marker(), "").unwrap();
        let unmarked = FileSystem::of(&paths).unwrap().unwrap();
        assert!(unmarked.is(&unmarked.record()) && !unmarked.is("0000000000000bad"));
    }

    #[test]
    fn data_is_moved_not_deleted_and_only_up_to_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        assert!(matches!(archive(&paths, "cp1-1", 1000), Err(ArchiveError::Full { held: 0, more: 1024, .. })));
        let to = archive(&paths, "cp1-1", 1024).unwrap();
        assert_eq!(fs::metadata(to.join("member/snap/db")).unwrap().len(), 1000);
        assert!(!paths.member("cp1-1").exists());
    }

    #[test]
    fn data_in_use_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let database = File::open(paths.member("cp1-1").join("member/snap/db")).unwrap();
        flock(&database, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(archive(&paths, "cp1-1", 1 << 20), Err(ArchiveError::InUse(_))));
    }
}
