//! Which binaries are which, by their SHA-256: the agent's own, which is the keeper that it can bring, and those on the node.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use etcd_operator_keeper::binary::sha256;
use etcd_operator_keeper::order::{Stamp, stamp};

/// The agent's own binary, read once, and the last other one that was looked at, read again when it has changed.
pub(crate) struct Binary {
    path: PathBuf,
    own: OnceLock<Option<String>>,
    seen: Mutex<Option<(PathBuf, Stamp, String)>>,
}

impl Binary {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, own: OnceLock::new(), seen: Mutex::default() }
    }

    /// Hash of the agent's own binary; `None` if it cannot be read. Reads it the first time: not to be called on a thread that has timers.
    pub(crate) fn own(&self) -> Option<&str> {
        let read = || {
            sha256(&self.path)
                .inspect_err(|error| tracing::error!(path = %self.path.display(), %error, "the agent's own binary cannot be read: no keeper will be handed over"))
                .ok()
        };
        self.own.get_or_init(read).as_deref()
    }

    /// The same, if it was read already.
    pub(crate) fn known(&self) -> Option<&str> {
        self.own.get()?.as_deref()
    }

    /// Hash of another binary; `None` if there is none.
    pub(crate) fn of(&self, path: &Path) -> Option<String> {
        let now = stamp(path);
        // A cache: nothing is left half-changed under this lock.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, then, hash)) = seen.as_ref()
            && known == path
            && *then == now
        {
            return Some(hash.clone());
        }
        let hash = sha256(path).ok()?;
        *seen = Some((path.to_owned(), now, hash.clone()));
        Some(hash)
    }
}
