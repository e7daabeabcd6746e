//! How much a member has on disk: the progress of a learner whose etcd says nothing yet, as it serves no client before it has the data.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use etcd_operator_api::member::DataSize;

/// The size of a member's data directory. `None` = it cannot be read, which is not "nothing there".
pub(crate) fn data(dir: &Path, member: &str) -> Option<DataSize> {
    let bytes = match size(dir) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "the member's data cannot be measured");
            return None;
        }
    };
    Some(DataSize { member: member.to_owned(), mib: i64::try_from(bytes >> 20).unwrap_or(i64::MAX) })
}

/// Bytes in the files below a directory, whatever they are called: a snapshot is received as `member/snap/tmp…`. Lengths, not blocks: what
/// etcd allots in advance (64 MB per WAL file) comes in few steps.
fn size(dir: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        // No etcd has been here yet; or a directory went while we looked.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0_u64;
    for entry in entries {
        let entry = entry?;
        // Not followed: a link may lead out of the directory, or in circles.
        bytes = bytes.saturating_add(match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path())?,
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => 0,
            // Renamed, or removed, since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(dir: &Path) -> i64 {
        data(dir, "cp1-1").unwrap().mib
    }

    fn file(path: &Path, bytes: u64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().set_len(bytes).unwrap();
    }

    #[test]
    fn all_files_count_rounded_down_and_a_snapshot_on_its_way_too() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cp1-1");
        assert_eq!(mib(&dir), 0, "nothing there");
        file(&dir.join("member/wal/0000000000000000-0000000000000000.wal"), 64 << 20);
        file(&dir.join("member/snap/db"), (1 << 20) - 1);
        assert_eq!(mib(&dir), 64);
        file(&dir.join("member/snap/tmp123456789"), 1);
        assert_eq!(mib(&dir), 65);
        file(&dir.join("member/snap/tmp123456789"), 10 << 20);
        assert_eq!(mib(&dir), 74);
    }

    #[test]
    fn links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cp1-1");
        file(&root.path().join("elsewhere/big"), 8 << 20);
        fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink(root.path().join("elsewhere"), dir.join("out")).unwrap();
        std::os::unix::fs::symlink(&dir, dir.join("round")).unwrap();
        assert_eq!(mib(&dir), 0);
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_not_empty() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cp1-1");
        fs::write(&dir, "a file").unwrap();
        assert_eq!(data(&dir, "cp1-1"), None);
    }
}
