//! Writing EtcdMembers: read, change, replace with the resourceVersion that was read, so that of two controllers one fails.

use etcd_operator_api::member::{EtcdMember, EtcdMemberSpec, Role};
use kube::ResourceExt;
use kube::api::{ObjectMeta, PostParams};

use super::{Context, ControllerError, api_error};

/// Label on EtcdMembers and pods that names the cluster.
pub(crate) const CLUSTER_LABEL: &str = "etcd.database.coreos.com/cluster";
/// Ports of a member on its node. 2379 and 2380 are etcd's own; 2381 is where kubeadm has its metrics.
pub(crate) const CLIENT_PORT: u16 = 2379;
pub(crate) const PEER_PORT: u16 = 2380;
pub(crate) const METRICS_PORT: u16 = 2381;
pub(crate) const CLIENT_HTTP_PORT: u16 = 2382;
pub(crate) const PROBE_PORT: u16 = 2383;

/// Name of the EtcdMember of a node.
pub(crate) fn name_of(cluster: &str, node: &str) -> String {
    format!("{cluster}-{node}")
}

/// Name of the EtcdMember of boot.
pub(crate) fn boot_name(cluster: &str) -> String {
    format!("{cluster}-boot")
}

/// Creates an EtcdMember that doesn't exist.
pub(crate) async fn create(context: &Context, name: &str, spec: EtcdMemberSpec) -> Result<EtcdMember, ControllerError> {
    let labels = [(CLUSTER_LABEL.to_owned(), spec.cluster_name.clone())].into();
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    let member = EtcdMember { metadata, spec, status: None };
    context.members().create(&PostParams::default(), &member).await.map_err(api_error("creating an EtcdMember"))
}

/// Changes the spec of an EtcdMember; nothing is written if nothing changes.
pub(crate) async fn change(
    context: &Context,
    member: &EtcdMember,
    edit: impl FnOnce(&mut EtcdMemberSpec),
) -> Result<EtcdMember, ControllerError> {
    let mut changed = member.clone();
    edit(&mut changed.spec);
    if changed.spec == member.spec {
        return Ok(changed);
    }
    let what = "changing an EtcdMember";
    context.members().replace(&member.name_any(), &PostParams::default(), &changed).await.map_err(api_error(what))
}

/// An empty spec.
pub(crate) fn blank(cluster: &str, node: &str, role: Role, lineage: i64) -> EtcdMemberSpec {
    EtcdMemberSpec {
        cluster_name: cluster.to_owned(),
        node_name: node.to_owned(),
        role,
        generation: 0,
        lineage,
        nonce: String::new(),
        certificates: None,
        seat: None,
        boot: None,
        count_clients: Vec::new(),
        count_own: Vec::new(),
        preflight: None,
    }
}

/// A short unique ID: the process's random seed and the clock; unique among the few that a cluster ever sees.
pub(crate) fn unique(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(crate::clock::now_ms());
    format!("{prefix}-{random:016x}")
}

/// `10.0.0.1:2379` of `https://10.0.0.1:2379`.
pub(crate) fn address(url: &str) -> String {
    url.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/').to_owned()
}
