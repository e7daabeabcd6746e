//! Why the agent could not carry out a spec: a closed list of words for `status.problem`, each with a section in the runbook.

use std::fmt;
use std::path::Path;

/// One word for what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A field of the spec is outside of what this agent carries out; nothing was written to the node.
    InvalidSpec,
    /// The data directory is not on the file system it was on: the disk is not mounted (yet), or is another one.
    DiskMissing,
    /// The data directory holds something that neither this agent nor the keeper put there.
    DataDirNotOurs,
    /// Keys or CSRs could not be made or read.
    KeysUnusable,
    /// A certificate in the spec does not belong to the key on this node.
    CertificateMismatch,
    /// The spec's order is older than the one on disk.
    OrderOlder,
    /// Image, resources, labels or annotations differ from the pod's, whose etcd runs: rewriting it would restart etcd.
    NotRolledOut,
    /// The keeper on this node does not read the format of order that this agent writes.
    KeeperTooOld,
    /// A file or directory on the node could not be read or written.
    NodeFiles,
}

impl Reason {
    /// All of them, for the test that looks for their runbook sections.
    pub const ALL: [Self; 9] = [
        Self::InvalidSpec,
        Self::DiskMissing,
        Self::DataDirNotOurs,
        Self::KeysUnusable,
        Self::CertificateMismatch,
        Self::OrderOlder,
        Self::NotRolledOut,
        Self::KeeperTooOld,
        Self::NodeFiles,
    ];

    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::DiskMissing => "DiskMissing",
            Self::DataDirNotOurs => "DataDirNotOurs",
            Self::KeysUnusable => "KeysUnusable",
            Self::CertificateMismatch => "CertificateMismatch",
            Self::OrderOlder => "OrderOlder",
            Self::NotRolledOut => "NotRolledOut",
            Self::KeeperTooOld => "KeeperTooOld",
            Self::NodeFiles => "NodeFiles",
        }
    }
}

/// What is wrong, for a program and for a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The word.
    pub reason: Reason,
    /// What was seen, and the next step.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A file could not be handled; the operating system's word says why.
    pub(crate) fn file(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "; on SELinux hosts the agent must be allowed to write there (container type spc_t)"
            }
            std::io::ErrorKind::StorageFull => "; make room on that file system",
            std::io::ErrorKind::ReadOnlyFilesystem => "; the file system is read-only: check the disk and the DaemonSet's mounts",
            _ => "",
        };
        Self::new(Reason::NodeFiles, format!("cannot {action} {}: {error}{hint}", path.display()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.word(), self.message)
    }
}
