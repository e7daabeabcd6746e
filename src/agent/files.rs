//! Files that survive a power cut: either the old content or the new, never half of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

pub(crate) use etcd_operator_etcd::snapshot::hex;

use crate::problem::Problem;

/// Keys and everything that may hold secrets.
pub(crate) const SECRET: u32 = 0o600;
/// What the kubelet and people read as well.
pub(crate) const PUBLIC: u32 = 0o644;
/// Programs.
pub(crate) const PROGRAM: u32 = 0o755;

/// Where a file is written before it gets its name. Begins with a dot: the kubelet takes every other name in its static pod directory
/// for a pod. In the same directory, so that the rename stays on one mount.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Writes a file: dot-temp, fsync, rename, fsync of the directory.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Problem> {
    write_from(path, content, mode)
}

/// The same from a reader, for what does not fit in memory.
pub(crate) fn write_from(path: &Path, mut content: impl io::Read, mode: u32) -> Result<(), Problem> {
    let temporary = temporary(path);
    let mut step = || -> io::Result<()> {
        // A leftover of a crash may have another mode.
        remove_if_there(&temporary)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        io::copy(&mut content, &mut file)?;
        file.flush()?;
        // The umask must not decide.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    step().map_err(|error| {
        // Best effort: a leftover begins with a dot and is overwritten the next time.
        let _ = fs::remove_file(&temporary);
        Problem::file("write", path, &error)
    })
}

/// Removes a file. Returns whether there was one.
pub(crate) fn remove(path: &Path) -> Result<bool, Problem> {
    remove_if_there(path).map_err(|error| Problem::file("remove", path, &error))
}

/// Writes a file unless it has that content already. Returns whether it wrote.
pub(crate) fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> Result<bool, Problem> {
    if read(path)?.is_some_and(|current| current == content) {
        return Ok(false);
    }
    write(path, content, mode).map(|()| true)
}

/// The content, or none if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problem::file("read", path, &error)),
    }
}

/// A JSON file, or none if there is none or it is torn (one that we wrote never is; it is then made anew).
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Problem> {
    Ok(read(path)?.and_then(|content| match serde_json::from_slice(&content) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "file cannot be parsed, treated as missing");
            None
        }
    }))
}

/// Writes a JSON file atomically.
pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T, mode: u32) -> Result<(), Problem> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Problem::file("encode", path, &io::Error::other(error)))?;
    write(path, &text, mode)
}

/// Makes a directory and its parents. The directory itself has at most `mode`, also if it was there; parents that are missing get 0755.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Problem> {
    let step = || -> io::Result<()> {
        let there = path.is_dir();
        if !there {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            DirBuilder::new().recursive(true).mode(mode).create(path)?;
        }
        // Tightened if it is too open; an admin's tighter one is left alone.
        let current = fs::metadata(path)?.permissions().mode() & 0o777;
        if current & !mode != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(current & mode))?;
        }
        if !there {
            sync_parent(path)?;
        }
        Ok(())
    };
    step().map_err(|error| Problem::file("make directory", path, &error))
}

/// Moves a file to another directory, over mounts if need be (two bind mounts of one file system refuse a rename): the copy is
/// complete and on disk before the original goes.
pub(crate) fn move_file(from: &Path, to: &Path) -> Result<(), Problem> {
    match fs::rename(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let file = File::open(from).map_err(|error| Problem::file("read", from, &error))?;
            write_from(to, file, SECRET)?;
            fs::remove_file(from).map_err(|error| Problem::file("remove", from, &error))?;
        }
        Err(error) => return Err(Problem::file("move", from, &error)),
    }
    sync_parent(from).and_then(|()| sync_parent(to)).map_err(|error| Problem::file("sync directory of", from, &error))
}

/// Makes renames and creations in the file's directory durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The same, with the error as it is.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `f_fsid` of the file system that holds `path`, hex; of its nearest parent if `path` does not exist.
pub(crate) fn file_system(path: &Path) -> Result<String, Problem> {
    let place = nearest(path);
    let stat = rustix::fs::statvfs(&place).map_err(|error| Problem::file("stat file system of", &place, &error.into()))?;
    Ok(format!("{:016x}", stat.f_fsid))
}

/// Bytes free for root on the file system that holds `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, Problem> {
    let place = nearest(path);
    let stat = rustix::fs::statvfs(&place).map_err(|error| Problem::file("stat file system of", &place, &error.into()))?;
    Ok(stat.f_bfree.saturating_mul(stat.f_frsize))
}

/// The path or its nearest parent that exists.
pub(crate) fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Random bytes from the kernel, as hex.
pub(crate) fn random_hex(bytes: usize) -> Result<String, Problem> {
    let source = Path::new("/dev/urandom");
    let mut buffer = vec![0_u8; bytes];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut buffer))
        .map_err(|error| Problem::file("read", source, &error))?;
    Ok(hex(&buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("order.json");
        // A leftover of a crash, longer than what follows.
        fs::write(temporary(&path), "a torn and much longer content").unwrap();
        write(&path, b"one", SECRET).unwrap();
        assert!(!write_if_changed(&path, b"one", SECRET).unwrap());
        assert!(write_if_changed(&path, b"two", SECRET).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SECRET);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["order.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("x");
        let problem = write(&path, b"one", SECRET).unwrap_err();
        assert_eq!(problem.reason.word(), "NodeFiles");
        assert!(problem.message.contains("missing/x"), "{problem}");
    }

    #[test]
    fn a_temporary_begins_with_a_dot() {
        assert_eq!(temporary(Path::new("/m/etcd.yaml")), Path::new("/m/.etcd.yaml.tmp"));
    }

    #[test]
    fn a_torn_json_file_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, "{\"format\": 1, ").unwrap();
        assert_eq!(read_json::<serde_json::Value>(&path).unwrap(), None);
        assert_eq!(read_json::<serde_json::Value>(&dir.path().join("none")).unwrap(), None);
    }

    #[test]
    fn a_file_moves_also_between_file_systems() {
        let here = tempfile::tempdir().unwrap();
        let Ok(there) = tempfile::tempdir_in("/dev/shm") else { return };
        let (from, to) = (here.path().join("a"), there.path().join("b"));
        fs::write(&from, "manifest").unwrap();
        move_file(&from, &to).unwrap();
        assert!(!from.exists());
        assert_eq!(fs::read(to).unwrap(), b"manifest");
    }
}
