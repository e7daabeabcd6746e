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
    /// It took too long.
    Timeout,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SourceUnavailable,
        Self::SourceCorrupt,
        Self::StoreUnavailable,
        Self::StoreDenied,
        Self::StoreMissing,
        Self::NoRoom,
        Self::Damaged,
        Self::Timeout,
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
            Self::Timeout => "Timeout",
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
    #[error("{what}: {words}")]
    Store {
        /// What was being done.
        what: String,
        /// What it said.
        words: String,
        /// What that means.
        reason: Reason,
    },
    /// A store that cannot be used as it is described.
    #[error("{0}")]
    Config(String),
    /// It took longer than so many seconds.
    #[error("not finished within {0} s (backupPolicy.timeoutInSecond)")]
    Late(u64),
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
            Self::Late(_) => Reason::Timeout,
            Self::Room(_) => Reason::NoRoom,
            Self::Damaged(_) => Reason::Damaged,
            Self::Config(_) => Reason::StoreMissing,
            Self::Store { reason, .. } => *reason,
        }
    }
}

/// What an error of a store means.
fn meaning(error: &object_store::Error, whole: &str) -> Reason {
    if DENIALS.iter().any(|code| whole.contains(code)) {
        return Reason::StoreDenied;
    }
    match (error, status(whole)) {
        (object_store::Error::NotFound { .. }, _) | (_, Some(404)) => Reason::StoreMissing,
        (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }, _) => Reason::StoreDenied,
        (_, Some(401 | 403)) => Reason::StoreDenied,
        (_, Some(507)) => Reason::NoRoom,
        (other, _) if is_full(other) => Reason::NoRoom,
        _ => Reason::StoreUnavailable,
    }
}

/// Codes of S3 that come with one status or another; the last is versitygw's.
const DENIALS: [&str; 7] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "XAdminUserNotFound",
];

/// The errors behind an error, itself first.
fn causes(error: &object_store::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// Whether a disk was full.
fn is_full(error: &object_store::Error) -> bool {
    let full = |io: &std::io::Error| io.kind() == std::io::ErrorKind::StorageFull;
    causes(error).any(|cause| cause.downcast_ref().is_some_and(full))
}

/// All that it says.
fn whole(error: &object_store::Error) -> String {
    let mut whole = String::new();
    for text in causes(error).map(ToString::to_string) {
        if !whole.contains(&text) {
            whole = if whole.is_empty() { text } else { format!("{whole}: {text}") };
        }
    }
    whole
}

/// The HTTP status of an answer. (The library keeps its type for that to itself; for an object, but not for a list, it tells a denial from others.)
fn status(whole: &str) -> Option<u16> {
    let (_, rest) = whole.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// For a human: of an answer its code and its words, not the page of XML that it is.
fn words(whole: &str) -> String {
    let of = |tag: &str| {
        let (_, rest) = whole.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(text, _)| text.to_owned())
    };
    match (status(whole), of("Code"), of("Message")) {
        (Some(status), Some(code), Some(message)) => format!("HTTP {status}: {code}: {message}"),
        _ => whole.chars().take(600).collect(),
    }
}

/// Adds what was being done to an error of the store.
pub(crate) fn store(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> Error {
    move |error| of_store(what, &error)
}

/// The same, of one that belongs to somebody else.
pub(crate) fn of_store(what: impl Into<String>, error: &object_store::Error) -> Error {
    let whole = whole(error);
    Error::Store { what: what.into(), words: words(&whole), reason: meaning(error, &whole) }
}

/// An error of writing to or reading from a store.
pub(crate) fn of_io(what: &str, error: &std::io::Error) -> Error {
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<object_store::Error>()) {
        return of_store(what, inner);
    }
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let reason = if full { Reason::NoRoom } else { Reason::StoreUnavailable };
    Error::Store { what: what.to_owned(), words: error.to_string(), reason }
}
