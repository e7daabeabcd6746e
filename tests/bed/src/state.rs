//! What is known about a bed: its options, `bed.json` for others, its status, and the lock.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{pretty, read_json};
use crate::error::{At, Error, Result};
use crate::layout::{API_PORT, API_URL, BOOT_API_PORT, CLUSTER, Layout, NAMESPACE, Node, Options, RUN, write};

/// Kept in `state.json` of the bed's folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// How the bed was asked for.
    pub options: Options,
    /// Whether the control plane that stays has taken over.
    pub handed_over: bool,
}

impl State {
    /// Reads it.
    ///
    /// # Errors
    /// If there is no bed.
    pub fn load(layout: &Layout) -> Result<Self> {
        let path = layout.path("state.json");
        if !path.exists() {
            return Err(Error::State(format!("there is no bed in {}: bed up", layout.dir.display())));
        }
        read_json(&path)
    }

    /// Writes it, and `bed.json` beside it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::Json { what: "state.json".into(), source })?;
        write(&layout.path("state.json"), text, 0o644)?;
        write(&layout.path("bed.json"), pretty(&self.bed_json(layout)?), 0o644)
    }

    /// URLs of the API servers that should run now.
    ///
    /// # Errors
    /// If the boot node is not a node.
    pub fn api_servers(&self) -> Result<Vec<String>> {
        if self.handed_over {
            return Ok(self.options.all().iter().map(|n| format!("https://{}:{API_PORT}", n.ip())).collect());
        }
        Ok(vec![format!("https://{}:{BOOT_API_PORT}", self.options.boot()?.ip())])
    }

    fn bed_json(&self, layout: &Layout) -> Result<Value> {
        let boot = self.options.boot()?;
        let nodes: Vec<_> = self.options.all().iter().map(|n| json!({ "name": n.name, "ip": n.ip() })).collect();
        let pki = |name: &str| layout.path("pki").join(name);
        Ok(json!({
            "version": 1,
            "namespace": NAMESPACE,
            "cluster": CLUSTER,
            "nodes": nodes,
            "boot": { "node": boot.name, "clientEndpoint": crate::manifests::boot_client_url(&boot) },
            "etcdClient": { "ca": pki("etcd-ca.crt"), "cert": pki("etcd-client.crt"), "key": pki("etcd-client.key") },
            "api": { "loadBalancer": API_URL, "servers": self.api_servers()? },
            "kubeconfig": layout.kubeconfig(),
        }))
    }
}

/// What `bed status` shows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether `/readyz` says ok through the load balancer.
    pub api_ready: bool,
    /// The API servers that the load balancer uses (`cp1` …, `boot`).
    pub api_servers: Vec<String>,
    /// Whether the control plane that stays has taken over.
    pub handed_over: bool,
    /// The boot node.
    pub boot_node: String,
    /// Each node.
    pub nodes: Vec<NodeStatus>,
}

/// A node in [`Status`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// Whether it is switched on.
    pub on: bool,
    /// The Ready condition; none if the API does not answer or does not know the node.
    pub ready: Option<bool>,
    /// The faults that are switched on at it.
    pub faults: Vec<String>,
}

/// Whether a Node object is Ready and, if asked, has been heard of since.
#[must_use]
pub fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| {
        all.iter().any(|c| {
            let text = |key: &str| c.get(key).and_then(Value::as_str).unwrap_or_default();
            text("type") == "Ready" && text("status") == "True"
        })
    })
}

/// Holds the bed for one verb that changes it.
pub struct Lock {
    _file: OwnedFd,
}

/// Takes the machine's bed for this process: names and addresses exist once per machine.
///
/// # Errors
/// If another `bed` works on it now.
pub fn lock() -> Result<Lock> {
    fs::create_dir_all(RUN).at(Path::new(RUN))?;
    let path = Path::new(RUN).join("lock");
    let file = OwnedFd::from(fs::File::options().create(true).write(true).truncate(false).open(&path).at(&path)?);
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::State("another `bed` command is changing the bed right now: wait for it or end it".into()))
        }
        Err(e) => Err(Error::State(format!("{}: {e}", path.display()))),
    }
}

/// Remembers whose bed is up on this machine.
///
/// # Errors
/// If it cannot be written.
pub fn claim(layout: &Layout) -> Result<()> {
    write(&Path::new(RUN).join("dir"), layout.dir.to_string_lossy().as_bytes(), 0o644)
}

/// The folder of the bed that is up on this machine.
#[must_use]
pub fn claimed() -> Option<PathBuf> {
    let text = fs::read_to_string(Path::new(RUN).join("dir")).ok()?;
    Some(PathBuf::from(text.trim()))
}

/// Says that the bed is whole, so that the next `up` does not take it for the remains of a crash.
///
/// # Errors
/// If it cannot be written.
pub fn set_complete() -> Result<()> {
    write(&Path::new(RUN).join("complete"), "", 0o644)
}

/// The folder of a bed that was made to the end and still runs its load balancer.
#[must_use]
pub fn complete() -> Option<PathBuf> {
    let whole = Path::new(RUN).join("complete").exists() && crate::lb::ready_servers().is_ok();
    claimed().filter(|_| whole)
}

/// The nodes that are switched on.
#[must_use]
pub fn switched_on(options: &Options) -> Vec<Node> {
    options.all().into_iter().filter(|n| crate::node::init_pid(n).is_some()).collect()
}
