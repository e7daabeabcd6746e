//! Room on the disk that a backup goes to: etcd's own is often the same, and a full one stops it.

use std::path::PathBuf;

/// Whether there is room.
pub trait Room: Send + Sync {
    /// Asked before the first byte and again and again while they are written.
    ///
    /// # Errors
    /// When so many bytes more must not be written, with the way out.
    fn check(&self, bytes: u64) -> Result<(), String>;
}

/// An object store: it says so itself.
#[derive(Clone, Copy, Debug)]
pub struct NoLimit;

impl Room for NoLimit {
    fn check(&self, _: u64) -> Result<(), String> {
        Ok(())
    }
}

/// A file system of which so much stays free.
#[derive(Clone, Debug)]
pub struct DiskRoom {
    /// A directory on it.
    pub dir: PathBuf,
    /// What must stay free, in hundredths of the whole.
    pub percent: u64,
    /// And at least so many bytes.
    pub bytes: u64,
}

impl DiskRoom {
    /// Kubelets remove images where less than 15 % is free, and evict pods where less than 10 % is.
    pub const PERCENT: u64 = 15;

    /// At least what etcd needs to go on for a while: a log segment is 64 MB, and a learner's snapshot is as large as the database.
    #[must_use]
    pub fn of(dir: PathBuf, percent: u64) -> Self {
        Self { dir, percent, bytes: 1 << 30 }
    }
}

impl Room for DiskRoom {
    fn check(&self, bytes: u64) -> Result<(), String> {
        let stat =
            rustix::fs::statvfs(&self.dir).map_err(|error| format!("cannot ask {} for its room: {error}", self.dir.display()))?;
        let (free, all) = (stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize));
        let reserve = self.bytes.max(all / 100 * self.percent);
        if free >= bytes.saturating_add(reserve) {
            return Ok(());
        }
        Err(format!(
            "{} has {} MiB free; a backup needs {} MiB and leaves {} MiB to etcd: free some, or keep fewer (backupPolicy.maxBackups)",
            self.dir.display(),
            free >> 20,
            bytes >> 20,
            reserve >> 20
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_eat_into_the_reserve_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut room = DiskRoom { dir: dir.path().to_owned(), percent: 0, bytes: 0 };
        room.check(1).unwrap();
        assert!(room.check(u64::MAX / 2).unwrap_err().contains("maxBackups"));
        room.bytes = u64::MAX;
        assert!(room.check(0).is_err());
        room = DiskRoom::of(dir.path().to_owned(), 100);
        assert!(room.check(0).is_err());
    }
}
