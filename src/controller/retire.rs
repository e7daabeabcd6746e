//! The end of a cluster without selfHosted: its EtcdCluster was deleted. Each member stops, and its data is moved into the archive of its node; then the object is let
//! go, and with it what it owns. Nothing is deleted on a node. The cluster's own datastore has no such end: its EtcdCluster has no finalizer, and its agents refuse.

use std::time::Duration;

use etcd_operator_api::EtcdCluster;
use etcd_operator_api::condition::{self, Condition};
use etcd_operator_api::member::{EtcdMember, Role, RunSpec};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::found::Kind;
use super::memory::Memory;
use super::observe::{View, is_fresh};
use super::{Context, ControllerError, api_error, clients, found, guards, members, status};
use crate::clock;
use crate::telemetry::metrics;

/// Keeps the object until its members' data is in the archives.
pub(crate) const FINALIZER: &str = "etcd.database.coreos.com/archive";
/// How soon to look again while members stop.
const AGAIN: Duration = Duration::from_secs(1);
/// The same where nothing was written: an agent's answer comes by itself.
const AGAIN_LATER: Duration = Duration::from_secs(5);
/// Begin of the IDs of the orders.
const RETIRE: &str = "retire";
/// The reason that stands in the status meanwhile.
const RETIRING: &str = "Retiring";

/// Sets the finalizer before anything is begun. Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let is_set = view.cluster.finalizers().iter().any(|f| f == FINALIZER);
    if !view.is_standalone() || is_set || view.cluster.metadata.deletion_timestamp.is_some() {
        return Ok(0);
    }
    let mut cluster = view.cluster.clone();
    cluster.finalizers_mut().push(FINALIZER.to_owned());
    write(context, &cluster, "setting the finalizer").await.map(|()| 1)
}

/// Nothing but the finalizers: a newer operator's fields stay as they are.
async fn write(context: &Context, cluster: &EtcdCluster, what: &'static str) -> Result<(), ControllerError> {
    let metadata = json!({"finalizers": cluster.finalizers(), "resourceVersion": cluster.metadata.resource_version});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    context.clusters().patch(&cluster.name_any(), &PatchParams::default(), &patch).await.map(drop).map_err(api_error(what))
}

/// A pass over a cluster that is deleted. `None` = it is not; or it has no such end, and is kept until its object is gone.
pub(crate) async fn pass(
    context: &Context,
    view: &View,
    memory: &mut Memory,
) -> Result<Option<(metrics::Outcome, Option<Duration>)>, ControllerError> {
    let is_ours = view.cluster.finalizers().iter().any(|f| f == FINALIZER);
    if view.cluster.metadata.deletion_timestamp.is_none() || !is_ours {
        return Ok(None);
    }
    if view.kind != Kind::Standalone {
        // It has begun nothing that could end: the object was taken for a new cluster's before its EtcdMembers said more.
        if let Err(error) = let_go(context, view).await {
            tracing::warn!(%error, "the finalizer of an EtcdCluster that is deleted cannot be taken away");
        }
        return Ok(None);
    }
    if view.cluster.spec.paused {
        say(context, view, "the EtcdCluster is deleted, and spec.paused is true: set it to false, and its members stop").await?;
        return Ok(Some((metrics::Outcome::Holds, None)));
    }
    // A drain must not wait for members that are to end.
    if let Err(error) = guards::lift(context, view, memory).await {
        status::not_guarded(context, view, memory, &error).await;
    }
    let mut written = 0;
    for node in unlisted(view) {
        let mut spec = members::blank(&view.name(), node, Role::Candidate, view.status.lineage.max(1));
        spec.nonce = members::unique(RETIRE);
        // It has no order that could be lost; and where another controller has come to the end meanwhile, it goes at once.
        members::create(context, &members::name_of(&view.name(), node), clients::owners(view), spec).await?;
        written += 1;
    }
    for member in view.members.iter().filter(|m| is_to_stop(m)) {
        stop(context, view, member).await?;
        written += 1;
    }
    let left: Vec<String> =
        view.members.iter().filter_map(|m| Some(format!("{} ({})", m.spec.node_name, left(view, m)?))).collect();
    if written > 0 || !left.is_empty() {
        let message = format!(
            "the EtcdCluster is deleted: its members stop, and their data is moved into <data>/archive/ of their nodes; left: {}; of a node that is gone for good delete the Node object",
            left.join("; ")
        );
        say(context, view, &message).await?;
        return Ok(Some((metrics::Outcome::Waits, Some(if written > 0 { AGAIN } else { AGAIN_LATER }))));
    }
    for member in &view.members {
        if let Err(error) = members::own(context, member, clients::owners(view)).await {
            say(context, view, &format!("the EtcdMembers cannot be given an owner with which they go: {error}")).await?;
            return Err(error);
        }
    }
    let_go(context, view).await?;
    tracing::info!(cluster = %view.name(), "all members are stopped, their data is archived");
    context.args.metrics.set_cluster(&view.name(), None);
    Ok(Some((metrics::Outcome::Settled, None)))
}

async fn let_go(context: &Context, view: &View) -> Result<(), ControllerError> {
    let mut cluster = view.cluster.clone();
    cluster.finalizers_mut().retain(|f| f != FINALIZER);
    write(context, &cluster, "taking the finalizer away").await
}

/// Nodes that had a member, and have no EtcdMember any more: somebody deleted it.
fn unlisted(view: &View) -> Vec<&str> {
    let seen = view.status.member_states.iter().map(|m| m.node.as_str());
    let begun = view.status.founding.iter().map(|f| f.node.as_str());
    let mut nodes: Vec<&str> = seen.chain(begun).filter(|node| !node.is_empty() && view.member_of(node).is_none()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Whether it has not been told to, or was told by an order that its keeper takes for an older one.
fn is_to_stop(member: &EtcdMember) -> bool {
    let Some(seat) = &member.spec.seat else { return false };
    let is_unheeded = if seat.order.retire { members::is_behind(member) } else { found::has_pod(member) };
    member.spec.role == Role::Member || is_unheeded
}

async fn stop(context: &Context, view: &View, member: &EtcdMember) -> Result<(), ControllerError> {
    let nonce = members::unique(RETIRE);
    let (lineage, sequence) = members::known_order(member);
    let founding = view.status.founding.as_ref().filter(|f| f.node == member.spec.node_name);
    let written = members::change(context, member, |spec| {
        spec.role = Role::Candidate;
        spec.nonce.clone_from(&nonce);
        spec.lineage = spec.lineage.max(lineage);
        if let Some(seat) = &mut spec.seat {
            seat.measure_data = false;
            let order = &mut seat.order;
            // Nothing but its permission says as whom it began.
            if let (None, Some(founding)) = (&order.member_id, founding) {
                (order.cluster_id, order.member_id) = (Some(founding.cluster_id.clone()), Some(founding.member_id.clone()));
            }
            order.run = RunSpec::Stop;
            (order.archive, order.retire) = (Some(nonce.clone()), true);
            (order.bootstrap, order.restart, order.drain) = (None, None, None);
            order.sequence = order.sequence.max(sequence) + 1;
        }
    })
    .await?;
    if written.spec.seat.is_none_or(|seat| seat.order.retire) {
        return Ok(());
    }
    let old = "the API server's CRDs are older than this operator, and do not know spec.seat.order.retire: kubectl apply -k crds";
    say(context, view, old).await?;
    Err(ControllerError::Object(old.into()))
}

/// What an EtcdMember still waits for. `None` = its agent has put the pod away, or there never was one; or nobody can, as the node is no more.
fn left(view: &View, member: &EtcdMember) -> Option<String> {
    if !view.all_nodes.iter().any(|n| n.name_any() == member.spec.node_name) {
        return None;
    }
    let status = member.status.clone().unwrap_or_default();
    let is_asked = !member.spec.nonce.is_empty();
    if is_asked && !is_fresh(member) {
        return Some("its agent has not answered".into());
    }
    if !status.problem.is_empty() {
        return Some(format!("{}: {}", status.problem, status.problem_message));
    }
    if status.pod.is_none_or(|pod| pod.put_away) {
        return None;
    }
    if member.spec.seat.is_none() {
        return Some(format!(
            "its EtcdMember was deleted while its etcd ran: move etcd-{}.yaml out of the kubelet's static pod folder there; its data stays where it is",
            view.name()
        ));
    }
    let keeper = status.keeper.unwrap_or_default();
    let hint = if keeper.phase == "Stopped" {
        "; if it stays so, its agent or keeper is older than this controller: upgrade the agents"
    } else {
        ""
    };
    Some(format!("its keeper: {} {} {}{hint}", keeper.phase, keeper.reason, keeper.message))
}

async fn say(context: &Context, view: &View, message: &str) -> Result<(), ControllerError> {
    let mut new = view.status.clone();
    (new.reason, new.message) = (RETIRING.to_owned(), message.to_owned());
    new.observed_generation = view.cluster.metadata.generation.unwrap_or(0);
    for type_ in ["Ready", "Available"] {
        let ended = Condition {
            type_: type_.into(),
            status: "False".into(),
            reason: RETIRING.into(),
            message: message.to_owned(),
            last_transition_time: clock::rfc3339(view.now_ms),
            observed_generation: new.observed_generation,
        };
        condition::set(&mut new.conditions, ended);
    }
    if new == view.status {
        return Ok(());
    }
    if view.status.reason != RETIRING {
        tracing::info!(cluster = %view.name(), message, "it ends");
    }
    status::replace(context, EtcdCluster { status: Some(new), ..view.cluster.clone() }).await.map(drop)
}
