//! The node as the agent sees it: its name, its directories, what is allowed on it.

use std::path::{Path, PathBuf};

use etcd_operator_keeper::contract::Paths;

/// What `etcd-operator agent` is started with.
#[derive(Clone, Debug)]
pub struct AgentArgs {
    /// The node this agent runs on (`NODE_NAME`).
    pub node_name: String,
    /// The operator's own namespace: EtcdMembers elsewhere are not looked at (design D11).
    pub namespace: String,
    /// URLs of the API servers, by IP; empty = in-cluster default.
    pub api_servers: Vec<String>,
    /// A kubeconfig instead of the service account.
    pub kubeconfig: Option<PathBuf>,
    /// The kubelet's static pod directory, as the node names it.
    pub static_pod_path: PathBuf,
    /// Root of orders, state, keys and binary, as the node names it.
    pub operator_root: PathBuf,
    /// Root of the data directories, as the node names it.
    pub data_root: PathBuf,
    /// Where the node's file system is mounted for the agent; empty = the same paths.
    pub host_root: PathBuf,
    /// UID that the controller runs as: its connections to etcd are told apart by it.
    pub controller_uid: u32,
    /// Images outside of these repositories are refused. `registry.example/etcd` allows that repository, with any tag; a value that
    /// ends in `/` allows all below it. Empty allows none.
    pub allowed_image_prefixes: Vec<String>,
    /// Hundredths of a file system that backups leave free.
    pub backup_reserve: u64,
    /// `/proc` of the node's PID and network namespace.
    pub proc: PathBuf,
    /// The binary that becomes `bin/keeper`; `/proc/self/exe` = this one.
    pub keeper_binary: PathBuf,
}

impl Default for AgentArgs {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            namespace: String::new(),
            api_servers: Vec::new(),
            kubeconfig: None,
            static_pod_path: "/etc/kubernetes/manifests".into(),
            operator_root: "/var/lib/etcd-operator".into(),
            data_root: "/var/lib/etcd".into(),
            host_root: PathBuf::new(),
            controller_uid: 23790,
            allowed_image_prefixes: Vec::new(),
            backup_reserve: etcd_operator_backup::DiskRoom::PERCENT,
            proc: "/proc".into(),
            keeper_binary: "/proc/self/exe".into(),
        }
    }
}

impl AgentArgs {
    /// A path of the node, as this process reaches it.
    #[must_use]
    pub fn reach(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(relative) if self.host_root != Path::new("") => self.host_root.join(relative),
            _ => path.to_owned(),
        }
    }

    /// The paths of a cluster, as the node (and so the keeper) names them.
    #[must_use]
    pub fn node_paths(&self, cluster: &str) -> Paths {
        Paths::new(&self.operator_root, &self.data_root, &self.namespace, cluster)
    }

    /// The paths of a cluster, as this process reaches them.
    #[must_use]
    pub fn paths(&self, cluster: &str) -> Paths {
        Paths::new(&self.reach(&self.operator_root), &self.reach(&self.data_root), &self.namespace, cluster)
    }

    /// The static pod directory, as this process reaches it.
    #[must_use]
    pub fn static_pods(&self) -> PathBuf {
        self.reach(&self.static_pod_path)
    }
}

/// The agent's own notes about a cluster: the disk's identity, the pod's seed, the last manifest.
pub(crate) fn notes(paths: &Paths) -> PathBuf {
    paths.dir.join("agent")
}

/// Everything about the boot member.
pub(crate) fn boot_dir(paths: &Paths) -> PathBuf {
    paths.dir.join("boot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_reached_below_the_hosts_root() {
        let mut args = AgentArgs { namespace: "ns".into(), ..AgentArgs::default() };
        assert_eq!(args.paths("c").dir, Path::new("/var/lib/etcd-operator/ns/c"));
        args.host_root = "/host".into();
        assert_eq!(args.paths("c").dir, Path::new("/host/var/lib/etcd-operator/ns/c"));
        assert_eq!(args.node_paths("c").dir, Path::new("/var/lib/etcd-operator/ns/c"));
        assert_eq!(args.static_pods(), Path::new("/host/etc/kubernetes/manifests"));
    }
}
