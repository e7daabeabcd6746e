//! Writing EtcdMembers: read, change, replace with the resourceVersion that was read, so that of two controllers one fails.

use std::net::{IpAddr, SocketAddr};

use etcd_operator_api::member::{EtcdMember, EtcdMemberSpec, OrderSpec, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{ObjectMeta, PostParams};

use super::{Context, ControllerError, api_error};

/// Label on EtcdMembers and pods that names the cluster.
pub(crate) const CLUSTER_LABEL: &str = "etcd.database.coreos.com/cluster";
/// Ports of a member on its node, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) client: u16,
    pub(crate) peer: u16,
    /// The last three on loopback.
    pub(crate) metrics: u16,
    pub(crate) client_http: u16,
    pub(crate) probe: u16,
}

impl Ports {
    /// So many there are.
    pub(crate) const COUNT: u16 = 5;
    /// The highest first one.
    pub(crate) const LAST: u16 = u16::MAX - Self::COUNT + 1;
    /// Of the cluster's own datastore: 2379 and 2380 are etcd's own; 2381 is where kubeadm has its metrics.
    pub(crate) const SELF_HOSTED: Self = Self::from(2379);

    /// Those from here on.
    pub(crate) const fn from(first: u16) -> Self {
        Self { client: first, peer: first + 1, metrics: first + 2, client_http: first + 3, probe: first + 4 }
    }
}

/// Whether an object was made for this cluster, and is no stranger's of the same name.
pub(crate) fn is_of(object: &impl kube::Resource, cluster: &str) -> bool {
    object.meta().labels.as_ref().and_then(|labels| labels.get(CLUSTER_LABEL)).is_some_and(|label| label == cluster)
}

/// Lineage and sequence of the last order that the node's keeper knows.
pub(crate) fn known_order(member: &EtcdMember) -> (i64, i64) {
    let keeper = member.status.as_ref().and_then(|s| s.keeper.as_ref());
    keeper.map_or((0, 0), |k| (k.order_lineage, k.order_sequence))
}

/// Whether that is later than the one that stands in the object.
pub(crate) fn is_behind(member: &EtcdMember) -> bool {
    let sequence = member.spec.seat.as_ref().map_or(0, |seat| seat.order.sequence);
    known_order(member) > (member.spec.lineage, sequence)
}

/// Name of the EtcdMember of a node.
pub(crate) fn name_of(cluster: &str, node: &str) -> String {
    format!("{cluster}-{node}")
}

/// Name of the EtcdMember of boot.
pub(crate) fn boot_name(cluster: &str) -> String {
    format!("{cluster}-boot")
}

/// Creates an EtcdMember that doesn't exist; one with owners goes with them.
pub(crate) async fn create(
    context: &Context,
    name: &str,
    owners: Option<Vec<OwnerReference>>,
    spec: EtcdMemberSpec,
) -> Result<EtcdMember, ControllerError> {
    let labels = [(CLUSTER_LABEL.to_owned(), spec.cluster_name.clone())].into();
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), owner_references: owners, ..ObjectMeta::default() };
    let member = EtcdMember { metadata, spec, status: None };
    match context.members().create(&PostParams::default(), &member).await {
        Err(error) if is_conflict(&error) => labelled(context, &member).await,
        made => made.map_err(api_error("creating an EtcdMember")),
    }
}

/// It is there, though its label did not show it: that is put back. Or another replica was faster.
async fn labelled(context: &Context, wanted: &EtcdMember) -> Result<EtcdMember, ControllerError> {
    let name = wanted.name_any();
    let mut there = context.members().get(&name).await.map_err(api_error("reading an EtcdMember"))?;
    if (&there.spec.cluster_name, &there.spec.node_name) != (&wanted.spec.cluster_name, &wanted.spec.node_name)
        || (there.spec.role == Role::Boot) != (wanted.spec.role == Role::Boot)
    {
        return Err(ControllerError::Object(format!(
            "EtcdMember {name} is of node {} of cluster {}, and that of node {} of cluster {} would have its name: rename the cluster",
            there.spec.node_name, there.spec.cluster_name, wanted.spec.node_name, wanted.spec.cluster_name
        )));
    }
    there.labels_mut().extend(wanted.labels().clone());
    context.members().replace(&name, &PostParams::default(), &there).await.map_err(api_error("labelling an EtcdMember"))
}

/// Changes the spec of an EtcdMember; nothing is written if nothing changes. An agent that writes the status in between only makes us
/// read again; somebody who changed the spec makes it fail, and the pass is repeated.
pub(crate) async fn change(
    context: &Context,
    member: &EtcdMember,
    edit: impl Fn(&mut EtcdMemberSpec),
) -> Result<EtcdMember, ControllerError> {
    let what = "changing an EtcdMember";
    let name = member.name_any();
    let mut base = member.clone();
    loop {
        let mut changed = base.clone();
        edit(&mut changed.spec);
        if changed.spec == base.spec {
            return Ok(changed);
        }
        match context.members().replace(&name, &PostParams::default(), &changed).await {
            Ok(written) => return Ok(written),
            Err(error) if is_conflict(&error) => {
                let fresh = context.members().get(&name).await.map_err(api_error(what))?;
                if fresh.metadata.generation != member.metadata.generation || fresh.metadata.uid != member.metadata.uid {
                    return Err(api_error(what)(error));
                }
                base = fresh;
            }
            Err(error) => return Err(api_error(what)(error)),
        }
    }
}

/// Gives an EtcdMember an owner, with which it goes.
pub(crate) async fn own(
    context: &Context,
    member: &EtcdMember,
    owners: Option<Vec<OwnerReference>>,
) -> Result<(), ControllerError> {
    if owners.is_none() || member.metadata.owner_references == owners {
        return Ok(());
    }
    let mut owned = member.clone();
    owned.metadata.owner_references = owners;
    let done = context.members().replace(&member.name_any(), &PostParams::default(), &owned).await;
    done.map(drop).map_err(api_error("giving an EtcdMember its owner"))
}

/// Changes the order of a seat; its sequence goes up if anything changes.
pub(crate) async fn change_order(
    context: &Context,
    member: &EtcdMember,
    edit: impl Fn(&mut OrderSpec),
) -> Result<EtcdMember, ControllerError> {
    let edit = |spec: &mut EtcdMemberSpec| {
        let Some(seat) = &mut spec.seat else { return };
        let before = seat.order.clone();
        edit(&mut seat.order);
        if seat.order != before {
            seat.order.sequence += 1;
        }
    };
    change(context, member, edit).await
}

/// Whether somebody wrote the object since it was read.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
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
        backups: Vec::new(),
        evicted: None,
        evictions: 0,
    }
}

/// A short unique ID: the process's random seed and the clock; unique among the few that a cluster ever sees.
#[must_use]
pub fn unique(prefix: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(crate::clock::now_ms());
    format!("{prefix}-{random:016x}")
}

/// A question to the agents, `<kind>-<ms since 1970, hex>-<random>`, that another controller asked after ours: of several the newest counts,
/// so that they do not ask against each other for ever. A controller that has asked none takes none over: what an agent answered before
/// this controller lived does not show that the agent lives.
pub(crate) fn newer<'a>(kind: &str, mine: Option<&str>, theirs: Option<&'a str>) -> Option<&'a str> {
    let (mine, theirs) = (mine?, theirs?);
    (asked_at(kind, theirs)? > asked_at(kind, mine)?).then_some(theirs)
}

/// A new question.
pub(crate) fn ask(kind: &str, now_ms: u64) -> String {
    unique(&format!("{kind}-{now_ms:x}"))
}

/// When a question was asked, ms.
pub(crate) fn asked_at(kind: &str, question: &str) -> Option<u64> {
    let (at, _) = question.strip_prefix(kind)?.strip_prefix('-')?.split_once('-')?;
    u64::from_str_radix(at, 16).ok()
}

/// `https://10.0.0.1:2379`.
pub(crate) fn url(ip: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(ip, port))
}

/// The generation in a member's name, if it is one of this node's.
pub(crate) fn generation(name: &str, node: &str) -> Option<i64> {
    name.strip_prefix(node)?.strip_prefix('-')?.parse().ok()
}

/// `10.0.0.1:2379` of `https://10.0.0.1:2379`.
pub(crate) fn address(url: &str) -> String {
    url.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_question_of_several_controllers_counts() {
        let (old, new) = (ask("count", 1_000), ask("count", 2_000));
        assert_eq!(asked_at("count", &new), Some(2_000));
        assert_eq!(newer("count", Some(&old), Some(&new)), Some(new.as_str()));
        assert_eq!(newer("count", Some(&new), Some(&old)), None);
        assert_eq!(newer("count", Some(&new), Some(&new)), None);
        assert_eq!(newer("count", Some(&old), None), None);
        // Who has asked nothing asks anew.
        assert_eq!(newer("count", None, Some(&new)), None);
        // Of another kind.
        assert_eq!(newer("preflight", Some(&ask("preflight", 1_000)), Some(&new)), None);
    }
}
