//! Names, addresses and paths of the bed, all in one place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};

/// Prefix of bridge, network namespaces and cgroups.
pub const PREFIX: &str = "etcdbed";
/// Prefix of host-side veths (a link's name has at most 15 bytes).
pub const VETH: &str = "eb-";
/// The bridge between the nodes.
pub const BRIDGE: &str = "etcdbed0";
/// The host's address on the bridge.
pub const HOST_IP: &str = "10.83.0.1";
/// The load balancer in front of the API servers.
pub const LB_IP: &str = "10.83.0.2";
/// URL of the API through the load balancer.
pub const API_URL: &str = "https://10.83.0.2:6443";
/// Port of the API servers after the hand-over.
pub const API_PORT: u16 = 6443;
/// Port of the temporary API server.
pub const BOOT_API_PORT: u16 = 16443;
/// Client port of boot etcd.
pub const BOOT_CLIENT_PORT: u16 = 12379;
/// Peer port of boot etcd.
pub const BOOT_PEER_PORT: u16 = 12380;
/// All pods.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// All Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The Service `kubernetes`.
pub const SERVICE_IP: &str = "10.96.0.1";
/// Namespace of the operator and of the control plane's pods.
pub const NAMESPACE: &str = "kube-system";
/// Name of the EtcdCluster.
pub const CLUSTER: &str = "kube-etcd";
/// Upstream's etcd and nothing else.
pub const ETCD_IMAGE: &str = "etcd.test/etcd:v3.6.16";
/// Kubernetes' binaries.
pub const KUBE_IMAGE: &str = "kube.test/kubernetes:v1.37.2";
/// The sandbox image.
pub const PAUSE_IMAGE: &str = "kube.test/pause:1";
/// The operator as built from the checkout.
pub const OPERATOR_IMAGE: &str = "etcd-operator.test/etcd-operator:dev";
/// Most learners at once: part of the cluster's membership rules, so equal on all members, boot included.
pub const MAX_LEARNERS: u8 = 9;
/// What a running bed keeps outside of its folder: where that is, a lock, saved sysctls. Gone after `down` or a reboot.
pub const RUN: &str = "/run/etcdbed";

/// One node of the bed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `cp1` …
    pub name: String,
    /// Its number, from 1.
    pub index: u8,
    /// The number in its address: another one once it has moved.
    pub address: u8,
}

impl Node {
    /// The node with this number.
    #[must_use]
    pub fn new(index: u8) -> Self {
        Self { name: format!("cp{index}"), index, address: index }
    }
    /// Its address on the bridge.
    #[must_use]
    pub fn ip(&self) -> String {
        format!("10.83.0.{}", 10 + u16::from(self.address))
    }
    /// Its pods' addresses.
    #[must_use]
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.index)
    }
    /// Its zone, `a` …
    #[must_use]
    pub fn zone(&self) -> String {
        char::from(b'a' + self.index.saturating_sub(1)).to_string()
    }
    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("{PREFIX}-{}", self.name)
    }
    /// The host's end of its cable.
    #[must_use]
    pub fn veth(&self) -> String {
        format!("{VETH}{}", self.name)
    }
}

/// What an API server lists in `--etcd-servers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiServerEtcd {
    /// Boot and every seat (the recommended way).
    All,
    /// Boot alone: the operator must refuse to remove it.
    BootOnly,
}

/// Which operator the bed runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    /// The one that is shipped.
    #[default]
    Shipped,
    /// The same code, which dies or stands still at calls that a scenario names (tests/crash).
    Crashing,
}

impl Operator {
    /// Its package and program.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Shipped => "etcd-operator",
            Self::Crashing => "etcd-operator-crash",
        }
    }

    /// Where the manifests lie that put it on the bed.
    #[must_use]
    pub fn overlay(self) -> &'static str {
        match self {
            Self::Shipped => "tests/bed/overlay",
            Self::Crashing => "tests/crash/overlay",
        }
    }
}

/// How a bed was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Number of nodes, 1–5.
    pub nodes: u8,
    /// The node with boot etcd and the temporary control plane.
    pub boot_node: String,
    /// What the temporary API server lists.
    pub api_server_etcd: ApiServerEtcd,
    /// Which operator it runs.
    #[serde(default)]
    pub operator: Operator,
    /// Nodes that have got another address, and the number in it ([`crate::Bed::readdress`]).
    #[serde(default)]
    pub addresses: BTreeMap<u8, u8>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            boot_node: "cp1".into(),
            api_server_etcd: ApiServerEtcd::All,
            operator: Operator::Shipped,
            addresses: BTreeMap::new(),
        }
    }
}

impl Options {
    /// All nodes.
    #[must_use]
    pub fn all(&self) -> Vec<Node> {
        let of = |index| Node { address: self.addresses.get(&index).copied().unwrap_or(index), ..Node::new(index) };
        (1..=self.nodes).map(of).collect()
    }
    /// The node called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.all().into_iter().find(|n| n.name == name).ok_or_else(|| {
            let names: Vec<_> = self.all().into_iter().map(|n| n.name).collect();
            Error::State(format!("there is no node `{name}`; nodes are {}", names.join(", ")))
        })
    }
    /// The node that boots the cluster.
    ///
    /// # Errors
    /// If `boot_node` is not a node.
    pub fn boot(&self) -> Result<Node> {
        self.node(&self.boot_node)
    }
    /// Refuses what the bed cannot do.
    ///
    /// # Errors
    /// Names the option.
    pub fn validate(&self) -> Result<()> {
        if !(1..=5).contains(&self.nodes) {
            return Err(Error::State(format!("--nodes {}: the bed has 1 to 5 nodes", self.nodes)));
        }
        self.boot().map(|_| ()).map_err(|e| Error::State(format!("--boot-node: {e}")))
    }
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The checkout.
    pub checkout: PathBuf,
    /// The bed's folder, absolute.
    pub dir: PathBuf,
}

impl Layout {
    /// The bed in `dir`, or in `BED_DIR`, or in `target/bed` of the checkout.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn find(dir: Option<&Path>) -> Result<Self> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let checkout = checkout.canonicalize().at(&checkout)?;
        let dir = match (dir, std::env::var_os("BED_DIR")) {
            (Some(dir), _) => dir.to_owned(),
            (None, Some(dir)) if !dir.is_empty() => PathBuf::from(dir),
            _ => checkout.join("target/bed"),
        };
        std::fs::create_dir_all(&dir).at(&dir)?;
        let dir = dir.canonicalize().at(&dir)?;
        Ok(Self { checkout, dir })
    }
    /// A path in the bed's folder.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }
    /// A program of the bed.
    #[must_use]
    pub fn bin(&self, program: &str) -> PathBuf {
        self.dir.join("bin").join(program)
    }
    /// A node's disk, or a path on it (`var/lib/…`, `var/log/…`, `etc/kubernetes/…`).
    #[must_use]
    pub fn disk(&self, node: &Node, relative: &str) -> PathBuf {
        self.dir.join("nodes").join(&node.name).join(relative)
    }
    /// A folder that all nodes and the host share, mounted at `/run/bed/shared`.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.path("shared")
    }
    /// The admin's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }
    /// What is kept for all checkouts.
    ///
    /// # Errors
    /// If no home folder is known.
    pub fn cache(&self) -> Result<PathBuf> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        var("BED_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("etcd-operator-bed")))
            .or_else(|| var("HOME").map(|d| d.join(".cache/etcd-operator-bed")))
            .ok_or_else(|| Error::State("neither BED_CACHE nor HOME is set".into()))
    }
}

/// Writes a file whole: to a name that starts with a dot, then renamed. The kubelet reads its manifest folder at any
/// moment and would stop a running pod for a torn file.
///
/// # Errors
/// Names the file.
pub fn write(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temp = path.with_file_name(format!(".{name}.tmp"));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).at(parent)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temp).at(&temp)?;
    std::io::Write::write_all(&mut file, content.as_ref()).at(&temp)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).at(&temp)?;
    std::fs::rename(&temp, path).at(path)
}
