//! Clusters that have no boot member: what stands before their first member, and its beginning (`plan/found.rs`).

use std::collections::BTreeSet;

use etcd_operator_api::cluster::Founding;
use etcd_operator_api::member::{EtcdMember, OrderSpec, Role, RunSpec};
use etcd_operator_api::{EtcdCluster, EtcdClusterStatus};
use etcd_operator_keeper::identity;
use etcd_operator_plan::{self as plan, HoldReason, NodeName};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::ListParams;

use super::act::{Outcome, seat_of};
use super::members::{self, Ports};
use super::memory::Memory;
use super::observe::{View, is_fresh};
use super::{Context, ControllerError, api_error, clients, readdress, retire, status, structure};

/// The first ports that are given where the spec says none: every tenth, as long as none is one of the operator's own (23791, `cli.rs`).
const FIRST_PORTS: std::ops::Range<u16> = 22_379..23_780;
const NEXT: usize = 10;

/// What an EtcdCluster is the object of. That `spec.selfHosted` is missing proves nothing: the object of the datastore may have been made anew without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The cluster's own datastore, or what was hosted before there was another kind.
    Datastore,
    /// A cluster that began, or is to begin, without a boot member.
    Standalone,
    /// There are etcds of its name of which nothing is known. Nothing is signed or made for them.
    Unclear {
        /// Which, and the way out.
        why: String,
    },
}

impl Kind {
    pub(crate) fn of(cluster: &EtcdCluster, members: &[EtcdMember]) -> Self {
        let status = cluster.status.clone().unwrap_or_default();
        // What a standalone one has written down before anything else.
        let is_marked = status.first_port.is_some() || first_port(members).is_some_and(|port| port != Ports::SELF_HOSTED.client);
        let is_datastores =
            members.iter().any(|m| m.spec.role == Role::Boot) || first_port(members) == Some(Ports::SELF_HOSTED.client);
        if cluster.spec.self_hosted.is_some() || is_datastores || status.cluster_id.is_some() && !is_marked {
            return Self::Datastore;
        }
        if is_begun(&status, members) {
            return Self::Standalone;
        }
        let is_other =
            |m: &&EtcdMember| m.metadata.owner_references.iter().flatten().any(|o| Some(&o.uid) != cluster.metadata.uid.as_ref());
        if let Some(member) = members.iter().find(is_other) {
            let why = format!(
                "EtcdMember {} belongs to an earlier EtcdCluster of this name, and is about to go with it",
                member.name_any()
            );
            return Self::Unclear { why };
        }
        let runs = |m: &&EtcdMember| {
            let is_seat = m.spec.role == Role::Member;
            is_running(m) || is_seat && knows_later(m) || !is_seat && has_pod(m)
        };
        match members.iter().find(runs) {
            None => Self::Standalone,
            Some(member) => Self::Unclear {
                why: format!(
                    "an etcd of an earlier EtcdCluster of this name is on node {}, and nothing else is known of it: give EtcdCluster and EtcdMembers back as they were last, from a backup and with their status, and with spec.selfHosted if it was the cluster's own datastore; or use another name",
                    member.spec.node_name
                ),
            },
        }
    }
}

/// Whether its agent says that the kubelet has a pod to run there.
pub(crate) fn has_pod(member: &EtcdMember) -> bool {
    member.status.as_ref().and_then(|s| s.pod.as_ref()).is_some_and(|pod| !pod.put_away)
}

fn is_running(member: &EtcdMember) -> bool {
    let keeper = member.status.as_ref().and_then(|s| s.keeper.as_ref());
    keeper.is_some_and(|k| ["Running", "Draining"].contains(&k.phase.as_str()))
}

/// Whether its node had an order of this life after the one that stands here: a backup is not the whole story.
fn knows_later(member: &EtcdMember) -> bool {
    members::is_behind(member) || member.status.as_ref().is_some_and(|s| s.problem == structure::ORDER_OLDER)
}

/// Whether etcd was seen, be it that only the orders know.
pub(crate) fn is_seen(status: &EtcdClusterStatus, members: &[EtcdMember]) -> bool {
    status.cluster_id.is_some() || seat_orders(members).any(|order| order.cluster_id.is_some())
}

/// Whether a cluster has begun, or may have.
pub(crate) fn is_begun(status: &EtcdClusterStatus, members: &[EtcdMember]) -> bool {
    status.cluster_id.is_some() || status.founding.is_some() || has_begun(members)
}

/// The ID that it has by its orders, or will have.
pub(crate) fn cluster_id(status: &EtcdClusterStatus, members: &[EtcdMember]) -> Option<String> {
    let ordered = seat_orders(members).find_map(|order| order.cluster_id.clone());
    ordered.or_else(|| status.founding.as_ref().map(|f| f.cluster_id.clone()))
}

/// Whether a node may hold an etcd of this name that nobody here knows: it gets no seat.
pub(crate) fn is_unheard_or_strange(view: &View, node: &Node) -> bool {
    let is_known = |m: &EtcdMember| is_heard(m) && !is_strange(view, m);
    let addresses = readdress::own_ips(view, node);
    view.kind != Kind::Datastore && (addresses.is_empty() || !view.member_of(&node.name_any()).is_some_and(is_known))
}

/// Whether there is an etcd on the node that this cluster has not begun: nothing is signed for it, and no member is put in its place.
pub(crate) fn is_strange(view: &View, member: &EtcdMember) -> bool {
    view.kind != Kind::Datastore && member.spec.seat.is_none() && (has_pod(member) || is_running(member))
}

/// As the planner takes it.
pub(crate) fn founding(context_allows: bool, view: &View, memory: &Memory) -> plan::Founding {
    let not = |reason, why: String| plan::Founding::NotAllowed { reason, why };
    match &view.kind {
        Kind::Datastore if view.cluster.spec.self_hosted.is_none() && view.status.cluster_id.is_none() && view.etcd.is_err() => {
            let why = "spec.selfHosted is missing, and its EtcdMembers are those of a cluster's own datastore: set it as it was";
            return not(HoldReason::InvalidSpec, why.into());
        }
        Kind::Datastore => return plan::Founding::Over,
        Kind::Unclear { why } => return not(HoldReason::InvalidSpec, why.clone()),
        Kind::Standalone => {}
    }
    if is_seen(&view.status, &view.members) {
        return plan::Founding::Over;
    }
    if let Some(founding) = &view.status.founding {
        let seat = view.member_of(&founding.node).and_then(|m| m.spec.seat.as_ref());
        return plan::Founding::Chosen {
            node: NodeName(founding.node.clone()),
            is_permitted: seat.is_some_and(|s| s.order.bootstrap.as_ref() == Some(&founding.token)),
        };
    }
    if !is_hosted(context_allows, view) {
        let why = "spec.selfHosted is missing, and this operator hosts no other clusters: set spec.selfHosted (`etcd-operator pivot` does), or let it host them: kubectl apply -f deploy/standalone.yaml, and ETCD_OPERATOR_STANDALONE: \"true\" in ConfigMap etcd-operator";
        return not(HoldReason::InvalidSpec, why.into());
    }
    if view.cluster.metadata.deletion_timestamp.is_some() {
        return not(HoldReason::InvalidSpec, "the EtcdCluster is deleted: nothing is begun any more".into());
    }
    if !view.name().starts_with(|first: char| first.is_ascii_lowercase()) {
        return not(HoldReason::InvalidSpec, "metadata.name: must begin with a letter, as a Service is called after it; delete this EtcdCluster and make it with another name".into());
    }
    if !view.cluster.finalizers().iter().any(|f| f == retire::FINALIZER) {
        return memory.not_taken_over.clone().map_or(plan::Founding::Unheard, |why| not(HoldReason::InvalidSpec, why));
    }
    match (&view.ca, view.status.first_port) {
        (Err(why), _) => return not(HoldReason::CaSecretUnusable, why.clone()),
        (Ok(_), Some(_)) => {}
        (Ok(_), None) if unheard(view).is_empty() => return not(HoldReason::InvalidSpec, no_port(view)),
        (Ok(_), None) => return plan::Founding::Unheard,
    }
    if view.seats().is_empty() || unanswered(view, memory).is_empty() { plan::Founding::Open } else { plan::Founding::Unheard }
}

/// Whether anything is done about it. What was begun when it was allowed is kept.
pub(crate) fn is_hosted(context_allows: bool, view: &View) -> bool {
    match view.kind {
        Kind::Datastore => true,
        Kind::Standalone => context_allows || is_begun(&view.status, &view.members),
        Kind::Unclear { .. } => false,
    }
}

/// Whether the orders of the seats say that it has begun, or may.
fn has_begun(members: &[EtcdMember]) -> bool {
    seat_orders(members).any(|order| order.cluster_id.is_some() || order.bootstrap.is_some())
}

/// Not of seats that were given back: an earlier cluster of this name may have left them.
fn seat_orders(members: &[EtcdMember]) -> impl Iterator<Item = &OrderSpec> {
    members.iter().filter(|m| m.spec.role == Role::Member).filter_map(|m| m.spec.seat.as_ref()).map(|seat| &seat.order)
}

/// Nodes whose agent has said nothing yet: there may be an etcd of this name.
fn unheard(view: &View) -> Vec<String> {
    asked(view).filter(|node| !view.member_of(node).is_some_and(is_heard)).collect()
}

/// Whether its agent has ever said what is on its node.
fn is_heard(member: &EtcdMember) -> bool {
    member.status.as_ref().is_some_and(|s| s.observed_generation.is_some())
}

/// Whoever may have something to say: also nodes that are NotReady. A human takes the label or the Node of one away that is gone.
fn asked(view: &View) -> impl Iterator<Item = String> {
    let of_seats = view.seats().into_iter().map(|m| m.spec.node_name.clone());
    view.nodes.iter().map(ResourceExt::name_any).chain(of_seats).collect::<BTreeSet<_>>().into_iter()
}

/// Begin of the questions that are asked before a beginning, and of those with which a seat is given.
pub(crate) const ASK: &str = "seat";

/// Nodes whose agent has not answered since this controller looks after the cluster. What stands there may be of a backup.
fn unanswered(view: &View, memory: &Memory) -> Vec<String> {
    let answers = |node: &str| view.member_of(node).is_some_and(|m| is_asked(m, memory) && is_fresh(m));
    asked(view).filter(|node| !answers(node)).collect()
}

fn is_asked(member: &EtcdMember, memory: &Memory) -> bool {
    members::asked_at(ASK, &member.spec.nonce).is_some_and(|at| at >= memory.since_ms)
}

fn no_port(view: &View) -> String {
    match view.cluster.spec.first_port {
        Some(port) => format!(
            "spec.firstPort is {port}, and another EtcdCluster of this namespace has one of the five ports from there on (status.firstPort): delete this EtcdCluster and make it with another one, or with none"
        ),
        None => "every tenth port from 22379 to 23779 is taken by an EtcdCluster of this namespace: delete this EtcdCluster and make it with a spec.firstPort".into(),
    }
}

/// What is written down before the first seat is given, once all agents have been heard: the finalizer, a CA, the ports, and a lineage that no keeper has seen. Returns
/// how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View, memory: &mut Memory) -> Result<usize, ControllerError> {
    if view.kind != Kind::Standalone {
        return Ok(0);
    }
    memory.not_taken_over = None;
    let mut new = view.status.clone();
    let is_over = new.cluster_id.is_some() || has_begun(&view.members);
    if !is_over && new.first_port.is_none() && !unheard(view).is_empty() {
        return Ok(0);
    }
    let made = match take_over(context, view).await {
        Err(ControllerError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 403) => {
            let way = "kubectl apply -f deploy/standalone.yaml";
            memory.not_taken_over = Some(format!("the controller has not the rights that such clusters need: {way} ({source})"));
            if !is_over {
                return Ok(0);
            }
            0
        }
        made => made?,
    };
    if made > 0 {
        return Ok(made);
    }
    if !is_over && view.status.founding.is_none() && view.status.first_port.is_some() {
        let written = before_the_beginning(context, view, memory).await?;
        if written > 0 {
            return Ok(written);
        }
    }
    // A status that was lost: the orders still say it.
    let first = first_port(&view.members).map(i32::from);
    new.first_port = new.first_port.or(first);
    let begins = |m: &EtcdMember| {
        let order = &m.spec.seat.as_ref().filter(|_| m.spec.role == Role::Member)?.order;
        Some(of_seat(&m.spec.node_name, &order.peer_url, order.bootstrap.as_ref()?))
    };
    new.founding = new.founding.or_else(|| view.members.iter().find_map(begins));
    let seats = view.seats().iter().map(|m| m.spec.lineage).max().unwrap_or(0);
    new.lineage = new.lineage.max(seats).max(1);
    if !is_over && new.founding.is_none() && view.seats().is_empty() {
        // A cluster of the same name was here before: its orders are void, however high their count.
        let lived = |m: &EtcdMember| {
            let keeper = m.status.as_ref()?.keeper.as_ref().filter(|k| k.order_sequence > 0)?;
            Some(keeper.order_lineage + 1)
        };
        new.lineage = new.lineage.max(view.members.iter().filter_map(lived).max().unwrap_or(0));
    }
    if new.first_port.is_none() && view.ca.is_ok() {
        // Of several clusters that are made at once each sees what the one before got.
        let _one_at_a_time = context.ports.lock().await;
        let all = context.clusters().list(&ListParams::default()).await.map_err(api_error("listing EtcdClusters"))?;
        new.first_port = free_ports(&view.cluster, &all.items).map(i32::from);
        return write(context, view, new).await;
    }
    write(context, view, new).await
}

async fn take_over(context: &Context, view: &View) -> Result<usize, ControllerError> {
    Ok(retire::ensure(context, view).await? + clients::ensure_ca(context, view).await?)
}

/// Once there are seats, every agent is asked what is on its node now; then seats that nobody has begun on follow their nodes' addresses.
async fn before_the_beginning(context: &Context, view: &View, memory: &Memory) -> Result<usize, ControllerError> {
    let mut written = 0;
    for node in asked(view).filter(|_| !view.seats().is_empty()) {
        let Some(member) = view.member_of(&node).filter(|m| !is_asked(m, memory)) else { continue };
        let nonce = members::ask(ASK, view.now_ms.max(memory.since_ms));
        members::change(context, member, |spec| spec.nonce.clone_from(&nonce)).await?;
        written += 1;
    }
    if written > 0 || !unanswered(view, memory).is_empty() {
        return Ok(written);
    }
    let ports = view.ports();
    for member in view.seats() {
        let node = view.nodes.iter().find(|n| n.name_any() == member.spec.node_name);
        let Some(ip) = node.and_then(|n| readdress::own_ips(view, n).first().copied()) else { continue };
        let (peer, client) = (members::url(ip, ports.peer), members::url(ip, ports.client));
        let is_moved = member.spec.seat.as_ref().is_some_and(|s| s.order.run == RunSpec::Wait && s.order.peer_url != peer);
        if is_moved {
            members::change_order(context, member, |order| {
                order.peer_url.clone_from(&peer);
                order.client_url.clone_from(&client);
            })
            .await?;
            written += 1;
        }
    }
    Ok(written)
}

async fn write(context: &Context, view: &View, new: EtcdClusterStatus) -> Result<usize, ControllerError> {
    if new == view.status {
        return Ok(0);
    }
    let (ports, founding) = (new.first_port, new.founding.clone());
    let written = status::replace(context, EtcdCluster { status: Some(new), ..view.cluster.clone() }).await?;
    // Pruned, it would be written for ever.
    if written.status.is_none_or(|s| s.first_port != ports || s.founding != founding) {
        return Err(ControllerError::Object(
            "the API server's CRDs are older than this operator, and do not know status.firstPort and status.founding: kubectl apply -k crds".into(),
        ));
    }
    Ok(1)
}

/// The first of the ports that the seats of a cluster have.
pub(crate) fn first_port(members: &[EtcdMember]) -> Option<u16> {
    seat_orders(members).find_map(|order| readdress::parse(&order.client_url)).map(|address| address.port())
}

/// The spec's, if no other cluster has them; or the lowest that are free.
fn free_ports(own: &EtcdCluster, all: &[EtcdCluster]) -> Option<u16> {
    let others = || all.iter().filter(|c| c.name_any() != own.name_any());
    let given = |c: &EtcdCluster| {
        let port = c.status.as_ref().and_then(|s| s.first_port).or(c.spec.first_port);
        port.and_then(|p| u16::try_from(p).ok())
    };
    // Those of the datastore are not free either where its object is in another namespace, or not there.
    let taken: Vec<u16> = others().filter_map(given).chain([Ports::SELF_HOSTED.client]).collect();
    let is_free = |first: &u16| *first <= Ports::LAST && taken.iter().all(|other| first.abs_diff(*other) >= Ports::COUNT);
    match own.spec.first_port {
        Some(port) => u16::try_from(port).ok().filter(is_free),
        None => FIRST_PORTS.step_by(NEXT).find(is_free),
    }
}

fn of_seat(node: &str, peer_url: &str, token: &str) -> Founding {
    let owner = identity::of_new_cluster(peer_url, token);
    Founding {
        node: node.to_owned(),
        token: token.to_owned(),
        member_id: owner.member.to_string(),
        cluster_id: owner.cluster.to_string(),
    }
}

/// Writes down who begins; once that is written, permits it. Each may be done again.
pub(crate) async fn act(context: &Context, view: &View, node: &NodeName) -> Result<Outcome, ControllerError> {
    let (member, seat) = seat_of(view, node)?;
    let Some(founding) = &view.status.founding else {
        let token = members::unique(&format!("found-{}", view.name()));
        let founding = of_seat(&node.0, &seat.order.peer_url, &token);
        tracing::info!(cluster = %view.name(), %node, member = founding.member_id, "this member begins the cluster");
        let status = EtcdClusterStatus { founding: Some(founding), ..view.status.clone() };
        // With the resourceVersion that was read: of two controllers one fails.
        return write(context, view, status).await.map(|_| Outcome::Done);
    };
    if of_seat(&node.0, &seat.order.peer_url, &founding.token) != *founding {
        return Err(ControllerError::Object(format!(
            "status.founding was made for another peer URL than {}: the node has got another address; delete the EtcdCluster and make it again",
            seat.order.peer_url
        )));
    }
    members::change_order(context, member, |order| {
        order.bootstrap = Some(founding.token.clone());
        order.run = RunSpec::Run;
    })
    .await
    .map(|_| Outcome::Done)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn cluster(name: &str, spec: serde_json::Value, first_port: Option<i32>) -> EtcdCluster {
        let mut cluster: EtcdCluster =
            serde_json::from_value(serde_json::json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster",
            "metadata": {"name": name}, "spec": spec}))
            .unwrap();
        cluster.status = Some(EtcdClusterStatus { first_port, ..EtcdClusterStatus::default() });
        cluster
    }

    fn member(spec: serde_json::Value, status: serde_json::Value) -> EtcdMember {
        let mut spec_of = serde_json::to_value(members::blank("c", "cp1", Role::Candidate, 1)).unwrap();
        spec_of.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(serde_json::json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdMember",
            "metadata": {"name": "c-cp1"}, "spec": spec_of, "status": status}))
        .unwrap()
    }

    #[test]
    fn what_may_be_the_datastores_or_of_an_earlier_cluster_is_never_taken_for_a_new_one() {
        let new = cluster("c", serde_json::json!({}), None);
        let empty = serde_json::json!({});
        let kind = |cluster: &EtcdCluster, member: &EtcdMember| Kind::of(cluster, std::slice::from_ref(member));
        assert_eq!(Kind::of(&new, &[]), Kind::Standalone);
        assert_eq!(kind(&new, &member(empty.clone(), empty.clone())), Kind::Standalone);
        // The object of the datastore, made anew without selfHosted.
        assert_eq!(kind(&new, &member(serde_json::json!({"role": "Boot"}), empty.clone())), Kind::Datastore);
        // Its EtcdMembers are gone, too.
        let pod = |away: bool| serde_json::json!({"pod": {"image": "etcd:v3.6.16", "putAway": away}});
        let unclear = kind(&new, &member(empty.clone(), pod(false)));
        assert!(
            matches!(&unclear, Kind::Unclear { why } if why.contains("node cp1") && why.contains("spec.selfHosted")),
            "{unclear:?}"
        );
        let runs = serde_json::json!({"keeper": {"phase": "Running"}});
        assert!(matches!(kind(&new, &member(empty.clone(), runs)), Kind::Unclear { .. }));
        // One that ended in the archives is in nobody's way.
        assert_eq!(kind(&new, &member(empty.clone(), pod(true))), Kind::Standalone);
        // A backup from between the seats and the beginning, of a cluster that has begun since.
        let seat = serde_json::json!({"role": "Member", "seat": {"image": "etcd:v3.6.16", "probePort": 22_383,
            "order": {"sequence": 1, "run": "Wait", "memberName": "cp1-1", "peerURL": "https://10.0.0.1:22380",
                "clientURL": "https://10.0.0.1:22379", "metricsPort": 22_381, "clientHttpPort": 22_382}}});
        assert_eq!(kind(&new, &member(seat.clone(), empty.clone())), Kind::Standalone);
        let runs = serde_json::json!({"keeper": {"phase": "Running"}});
        assert!(matches!(kind(&new, &member(seat.clone(), runs.clone())), Kind::Unclear { .. }));
        // What has begun is told by what was written down before.
        let status = |first_port| EtcdClusterStatus { cluster_id: Some("7".into()), first_port, ..EtcdClusterStatus::default() };
        let begun = EtcdCluster { status: Some(status(Some(22_379))), ..new.clone() };
        assert_eq!(kind(&begun, &member(empty.clone(), pod(false))), Kind::Standalone);
        let hosted = EtcdCluster { status: Some(status(None)), ..new.clone() };
        assert_eq!(Kind::of(&hosted, &[]), Kind::Datastore);
        assert_eq!(kind(&hosted, &member(seat, runs)), Kind::Standalone, "its status was lost in part");
        // An EtcdCluster of the same name has just been deleted.
        let mut other = member(empty.clone(), empty);
        other.metadata.owner_references = Some(vec![OwnerReference { uid: "earlier".into(), ..OwnerReference::default() }]);
        assert!(matches!(kind(&new, &other), Kind::Unclear { why } if why.contains("EtcdMember c-cp1")));
    }

    #[test]
    fn a_beginning_that_must_not_be_says_why_and_what_to_do() {
        use crate::controller::structure::tests as structure_tests;
        let memory = Memory::new(std::sync::Arc::new(crate::controller::Grpc), 0);
        let view = |edit: fn(&mut View)| {
            let mut view = structure_tests::view(Vec::new());
            view.cluster = cluster("c", serde_json::json!({}), None);
            view.cluster.metadata.finalizers = Some(vec![retire::FINALIZER.into()]);
            (view.kind, view.ca) = (Kind::Standalone, Ok(std::sync::Arc::new(structure_tests::ca())));
            view.status.first_port = Some(22_379);
            edit(&mut view);
            view
        };
        let refused = |view: &View, allows: bool, memory: &Memory| match founding(allows, view, memory) {
            plan::Founding::NotAllowed { why, .. } => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(founding(true, &view(|_| ()), &memory), plan::Founding::Open);
        assert!(refused(&view(|_| ()), false, &memory).contains("kubectl apply -f deploy/standalone.yaml"));
        let digit = view(|v| v.cluster.metadata.name = Some("1c".into()));
        assert!(refused(&digit, true, &memory).contains("make it with another name"));
        let now = || Some(serde_json::from_value(serde_json::json!("2026-01-01T00:00:00Z")).unwrap());
        let mut deleted = view(|_| ());
        deleted.cluster.metadata.deletion_timestamp = now();
        assert!(refused(&deleted, true, &memory).contains("is deleted"));
        assert_eq!(refused(&view(|v| v.ca = Err("no CA".into())), true, &memory), "no CA");
        assert!(refused(&view(|v| v.status.first_port = None), true, &memory).contains("spec.firstPort"));
        let datastores = view(|v| (v.kind, v.etcd) = (Kind::Datastore, Err("silent".into())));
        assert!(refused(&datastores, true, &memory).contains("set it as it was"));
        let unclear = view(|v| v.kind = Kind::Unclear { why: "somebody's".into() });
        assert_eq!(refused(&unclear, true, &memory), "somebody's");
        // Not taken over yet: for want of rights, or as not all were heard.
        let bare = view(|v| v.cluster.metadata.finalizers = None);
        assert_eq!(founding(true, &bare, &memory), plan::Founding::Unheard);
        let mut memory = memory;
        memory.not_taken_over = Some("no rights".into());
        assert_eq!(refused(&bare, true, &memory), "no rights");
        // What has begun is none of this.
        let begun = view(|v| v.status.cluster_id = Some("7".into()));
        assert_eq!(founding(false, &begun, &memory), plan::Founding::Over);
    }

    #[test]
    fn ports_never_overlap_with_those_of_another_cluster() {
        let hosted =
            cluster("kube-etcd", serde_json::json!({"selfHosted": {"bootMemberClientEndpoint": "https://10.0.0.1:12379"}}), None);
        let given = cluster("a", serde_json::json!({}), Some(22_379));
        let asked = cluster("b", serde_json::json!({"firstPort": 22_392}), None);
        let own =
            |port: Option<u16>| cluster("c", port.map_or(serde_json::json!({}), |p| serde_json::json!({"firstPort": p})), None);
        let all = |own: &EtcdCluster| vec![hosted.clone(), given.clone(), asked.clone(), own.clone()];
        let free = |port: Option<u16>| free_ports(&own(port), &all(&own(port)));
        assert_eq!(free(None), Some(22_399), "22389 to 22393 overlaps with 22392");
        assert_eq!(free(Some(22_384)), Some(22_384));
        for taken in [2379, 2383, 2375, 22_375, 22_383, 22_396, 65_532] {
            assert_eq!(free(Some(taken)), None, "{taken}");
        }
        assert_eq!(free_ports(&given, &all(&given)), Some(22_379), "not in its own way");
    }
}
