//! Why a backup could not be taken or read.

use etcd_operator_etcd::error::EtcdError;

/// What went wrong, as CamelCase word for a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The member does not answer, is no part of a quorum, or broke off.
    SourceUnavailable,
    /// The member's own store is under suspicion.
    SourceCorrupt,
    /// The store does not answer, or broke off.
    StoreUnavailable,
    /// The store does not let us.
    StoreDenied,
    /// The bucket or directory is not there.
    StoreMissing,
    /// There is no room.
    NoRoom,
    /// What is in the store is not what was put there.
    Damaged,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SourceUnavailable,
        Self::SourceCorrupt,
        Self::StoreUnavailable,
        Self::StoreDenied,
        Self::StoreMissing,
        Self::NoRoom,
        Self::Damaged,
    ];

    /// As it stands in a status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SourceUnavailable => "SourceUnavailable",
            Self::SourceCorrupt => "SourceCorrupt",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::StoreDenied => "StoreDenied",
            Self::StoreMissing => "StoreMissing",
            Self::NoRoom => "NoRoom",
            Self::Damaged => "Damaged",
        }
    }
}

/// Why a backup could not be taken or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// etcd did not answer, or broke off.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The member must not be backed up.
    #[error("{0}")]
    Source(String),
    /// Its store is not to be trusted.
    #[error("{0}")]
    Corrupt(String),
    /// The store failed.
    #[error("{what}: {source}")]
    Store {
        /// What was being done.
        what: String,
        /// What it said.
        source: object_store::Error,
    },
    /// A store that cannot be used as it is described.
    #[error("{0}")]
    Config(String),
    /// There is no room for it.
    #[error("{0}")]
    Room(String),
    /// What is in the store is not what was put there.
    #[error("{0}")]
    Damaged(String),
}

impl Error {
    /// In one word.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Etcd(_) | Self::Source(_) => Reason::SourceUnavailable,
            Self::Corrupt(_) => Reason::SourceCorrupt,
            Self::Room(_) => Reason::NoRoom,
            Self::Damaged(_) => Reason::Damaged,
            Self::Config(_) => Reason::StoreMissing,
            Self::Store { source, .. } => match source {
                object_store::Error::NotFound { .. } => Reason::StoreMissing,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Reason::StoreDenied,
                other if is_full(other) => Reason::NoRoom,
                _ => Reason::StoreUnavailable,
            },
        }
    }
}

/// Whether a disk was full, somewhere in the chain of causes.
fn is_full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::StorageFull) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Adds what was being done to an error of the store.
pub(crate) fn store(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> Error {
    move |source| Error::Store { what: what.into(), source }
}
