//! Which binary is which: by the SHA-256 of its content, as versions do not tell one build from another.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::order::{Stamp, stamp};

/// This process's binary, also after its file was renamed or replaced.
pub const OWN: &str = "/proc/self/exe";

/// SHA-256 of a file, lower-case hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hash of a file, made beside the loop (a slow disk must not hold it up), and again only when the file has changed.
pub(crate) struct Hashed {
    path: PathBuf,
    stamp: Stamp,
    hashing: Option<JoinHandle<io::Result<String>>>,
    hash: Option<String>,
}

impl Hashed {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, hashing: None, hash: None }
    }

    /// The hash, once it is known. `None` = not yet, or there is no such file.
    pub(crate) async fn look(&mut self) -> Option<&str> {
        if self.is_changed() {
            let path = self.path.clone();
            self.stamp = stamp(&path);
            self.hash = None;
            self.hashing = self.stamp.map(|_| tokio::task::spawn_blocking(move || sha256(&path)));
        }
        if self.hashing.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(done) = self.hashing.take()
        {
            match done.await {
                Ok(Ok(hash)) => self.hash = Some(hash),
                Ok(Err(error)) => tracing::error!(path = %self.path.display(), %error, "the binary cannot be read"),
                Err(error) => tracing::error!(path = %self.path.display(), %error, "the binary was not read to its end"),
            }
        }
        self.hash.as_deref()
    }

    /// Whether the file is another one than that which was hashed.
    pub(crate) fn is_changed(&self) -> bool {
        stamp(&self.path) != self.stamp
    }
}

/// The kernel's ID of this boot of the machine; empty if it has none.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_file_is_hashed_once_and_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keeper.next");
        let mut hashed = Hashed::new(path.clone());
        assert_eq!(hashed.look().await, None);
        for (text, hash) in [
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ] {
            std::fs::write(&path, text).unwrap();
            while hashed.look().await.is_none() {
                tokio::task::yield_now().await;
            }
            assert_eq!(hashed.look().await, Some(hash));
            assert!(!hashed.is_changed());
        }
        assert!(sha256(&dir.path().join("none")).is_err());
    }
}
