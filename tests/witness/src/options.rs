//! What a run is told: the bed's description, where to write, how fast.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::verdict::Invariant;

/// How to run the witness.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bed's description, `target/bed/bed.json`.
    pub bed: PathBuf,
    /// Kubeconfig of an admin; the bed's own if not given.
    pub kubeconfig: Option<PathBuf>,
    /// Folder for the journal, the history and the verdict; made if missing.
    pub out: PathBuf,
    /// Due writes per second.
    pub rate: u32,
    /// A write without an answer this long after it was due has failed.
    pub deadline: Duration,
    /// Pause between two polls of an etcd.
    pub poll: Duration,
    /// Objects written to per resource type.
    pub objects_per_type: usize,
    /// Voters that must be there when boot goes, if known.
    pub size: Option<usize>,
    /// Boot's etcd is not polled: nobody but its own clients is connected to it.
    pub leave_boot_alone: bool,
    /// Invariants that this run breaks on purpose (a power cut fails writes): reported, not judged.
    pub allow: Vec<Invariant>,
}

impl Options {
    /// The defaults of issue 3: 50 writes/s, each etcd polled every 100 ms.
    pub fn new(bed: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Options {
            bed: bed.into(),
            kubeconfig: None,
            out: out.into(),
            rate: 50,
            deadline: Duration::from_secs(10),
            poll: Duration::from_millis(100),
            objects_per_type: 2,
            size: None,
            leave_boot_alone: false,
            allow: Vec::new(),
        }
    }
}

/// Why the witness could not run. Broken invariants are no errors: they are the verdict.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not say what it should.
    #[error("{path}: {reason}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// The API could not be set up for the run.
    #[error("the API server at {server} could not be prepared for the run: {reason}")]
    Setup {
        /// Its address.
        server: String,
        /// What it answered last.
        reason: String,
    },
    /// Too few resource types.
    #[error(
        "only {types} resource types can be written here, at least {} are wanted: channels of the API server that nobody uses hide their breaks; see setup.log for the ones refused",
        crate::catalog::FEWEST_TYPES
    )]
    TooFewTypes {
        /// How many there are.
        types: usize,
    },
}

/// The part of `bed.json` that the witness needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bed {
    /// The nodes; etcd members listen on port 2379 of their address.
    pub nodes: Vec<BedNode>,
    /// Boot etcd.
    pub boot: BedBoot,
    /// Client certificate for etcd.
    pub etcd_client: BedEtcdClient,
    /// Kubeconfig of an admin.
    pub kubeconfig: Option<PathBuf>,
}

/// A node of the bed.
#[derive(Clone, Debug, Deserialize)]
pub struct BedNode {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
}

/// Boot etcd.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BedBoot {
    /// Its client URL.
    pub client_endpoint: String,
}

/// Files of a client certificate for etcd.
#[derive(Clone, Debug, Deserialize)]
pub struct BedEtcdClient {
    /// The CA.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Bed {
    /// Reads `bed.json`. Relative paths in it count from its own folder.
    pub fn read(path: &Path) -> Result<Self, WitnessError> {
        let mut bed: Bed = serde_json::from_slice(&read(path)?).map_err(|error| WitnessError::Content {
            path: path.into(),
            reason: format!("not a bed's description ({error}); it is written by `bed up`"),
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for file in [&mut bed.etcd_client.ca, &mut bed.etcd_client.cert, &mut bed.etcd_client.key]
            .into_iter()
            .chain(bed.kubeconfig.as_mut())
        {
            // Joining an absolute path yields that path.
            *file = folder.join(&*file);
        }
        Ok(bed)
    }

    /// The etcd endpoints to poll: boot's, and the seat on each node. `http` only where boot itself has no TLS.
    pub fn etcd_endpoints(&self) -> Vec<String> {
        let scheme = if self.boot.client_endpoint.starts_with("http://") { "http" } else { "https" };
        let mut endpoints = vec![self.boot.client_endpoint.trim_end_matches('/').to_string()];
        for node in &self.nodes {
            let url = format!("{scheme}://{}:2379", node.ip);
            if !endpoints.contains(&url) {
                endpoints.push(url);
            }
        }
        endpoints
    }
}

/// Reads a file, naming it in the error.
pub fn read(path: &Path) -> Result<Vec<u8>, WitnessError> {
    std::fs::read(path).map_err(|source| WitnessError::File { path: path.into(), source })
}
