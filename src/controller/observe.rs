//! Observe: bounded reads of the API and of etcd, put into the form that the planner takes. What was not read is Unknown.

use std::net::IpAddr;
use std::sync::Arc;

use etcd_operator_api::cluster::DEFAULT_CA_SECRET;
use etcd_operator_api::member::{EtcdMember, Role};
use etcd_operator_api::{EtcdCluster, EtcdClusterStatus};
use etcd_operator_etcd::client::{Member, MemberStatus};
use etcd_operator_etcd::ids::{ClusterId, MemberId};
use etcd_operator_plan as plan;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use super::etcd::{self, Reading};
use super::found::Kind;
use super::members::Ports;
use super::memory::Memory;
use super::{Context, ControllerArgs, ControllerError, api_error, clients, found, members, pods, preflight, progress};
use crate::clock;
use crate::pki::{self, Ca};

/// How long a list of nodes is used, ms.
const NODES_FRESH_MS: u64 = 2_000;
/// Two samples of a lag are at least this far apart, ms.
const SAMPLE_GAP_MS: u64 = 100;

/// One round's view.
pub(crate) struct View {
    /// When it was taken.
    pub(crate) now_ms: u64,
    /// The EtcdCluster.
    pub(crate) cluster: EtcdCluster,
    /// What it is the object of.
    pub(crate) kind: Kind,
    /// Its status (never absent here).
    pub(crate) status: EtcdClusterStatus,
    /// All nodes.
    pub(crate) all_nodes: Vec<Node>,
    /// Eligible nodes.
    pub(crate) nodes: Vec<Node>,
    /// The node on which boot runs, if it is one of the cluster's.
    pub(crate) boot_node: Option<String>,
    /// Repository of etcd's image: the spec's, else the controller's default; may be empty.
    pub(crate) repository: String,
    /// Its EtcdMembers.
    pub(crate) members: Vec<EtcdMember>,
    /// The CA, or why there is none.
    pub(crate) ca: Result<Arc<Ca>, String>,
    /// The pod security level that the namespace enforces, where that was looked for: before the preflight has passed.
    pub(crate) pod_security: Option<String>,
    /// What etcd says, or why it says nothing.
    pub(crate) etcd: Result<Reading, String>,
}

/// A view that is older than this when its step is taken is too old, ms: less than an intent lasts.
const STALE_MS: u64 = 20_000;

impl View {
    /// Whether this process stood still since the view was taken: what it shows may long be otherwise, and nobody can take a signal back.
    pub(crate) fn is_stale(&self) -> bool {
        clock::now_ms().saturating_sub(self.now_ms) > STALE_MS
    }

    /// Name of the EtcdCluster.
    pub(crate) fn name(&self) -> String {
        self.cluster.name_any()
    }

    /// The EtcdMembers with a seat, by node name.
    pub(crate) fn seats(&self) -> Vec<&EtcdMember> {
        let mut seats: Vec<&EtcdMember> =
            self.members.iter().filter(|m| m.spec.role == Role::Member && m.spec.seat.is_some()).collect();
        seats.sort_by(|a, b| a.spec.node_name.cmp(&b.spec.node_name));
        seats
    }

    /// Whether a node is NotReady or deleted, whatever its labels.
    fn is_away(&self, node: &str) -> bool {
        let node = self.all_nodes.iter().find(|n| n.name_any() == node);
        node.is_none_or(|n| readiness(n) == plan::Readiness::NotReady)
    }

    /// Whether somebody is about to take a node down, or something has.
    pub(crate) fn is_leaving(&self, node: &str) -> bool {
        let cordoned = |n: &Node| n.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        self.is_away(node) || self.all_nodes.iter().any(|n| n.name_any() == node && cordoned(n))
    }

    /// The EtcdMember of a node.
    pub(crate) fn member_of(&self, node: &str) -> Option<&EtcdMember> {
        self.members.iter().find(|m| m.spec.node_name == node && m.spec.role != Role::Boot)
    }

    /// The EtcdMember of boot.
    pub(crate) fn boot_member(&self) -> Option<&EtcdMember> {
        self.members.iter().find(|m| m.spec.role == Role::Boot)
    }

    /// Whether it is no pivot's cluster.
    pub(crate) fn is_standalone(&self) -> bool {
        self.kind == Kind::Standalone
    }

    /// The ports of its members.
    pub(crate) fn ports(&self) -> Ports {
        if !self.is_standalone() {
            return Ports::SELF_HOSTED;
        }
        let written = || self.status.first_port.and_then(|port| u16::try_from(port).ok());
        let first = found::first_port(&self.members).or_else(written).filter(|port| *port <= Ports::LAST);
        // Before they are given none is used.
        first.map_or(Ports::SELF_HOSTED, Ports::from)
    }

    /// Boot's client endpoint, in a pivot.
    pub(crate) fn boot_endpoint(&self) -> Option<&str> {
        self.cluster.spec.self_hosted.as_ref().map(|s| s.boot_member_client_endpoint.as_str())
    }

    /// Whether boot was seen to be out.
    pub(crate) fn boot_is_out(&self) -> bool {
        self.status.pivot.as_ref().is_some_and(|p| p.boot_removed.is_some())
    }

    /// Boot's member ID, as recorded or as listed.
    pub(crate) fn boot_id(&self) -> Option<MemberId> {
        let recorded = self.status.pivot.as_ref().and_then(|p| p.boot_member_id.as_deref()).and_then(|id| id.parse().ok());
        let endpoint = self.boot_endpoint()?;
        recorded.or_else(|| {
            let (member, _) =
                self.etcd.as_ref().ok()?.members.iter().find(|(m, _)| m.client_urls.iter().any(|u| u == endpoint))?;
            Some(member.id)
        })
    }

    /// The status of a listed member.
    pub(crate) fn status_of(&self, id: MemberId) -> Option<&MemberStatus> {
        self.etcd.as_ref().ok()?.members.iter().find(|(m, _)| m.id == id).and_then(|(_, s)| s.as_ref())
    }
}

/// Internal IPs of a node.
pub(crate) fn ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.clone()).unwrap_or_default();
    addresses.iter().filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
}

/// Reads everything. `None` = the EtcdCluster is gone.
pub(crate) async fn observe(context: &Context, name: &str, memory: &mut Memory) -> Result<Option<View>, ControllerError> {
    let Some(cluster) = context.clusters().get_opt(name).await.map_err(api_error("reading the EtcdCluster"))? else {
        return Ok(None);
    };
    let selector = format!("{}={name}", members::CLUSTER_LABEL);
    let list =
        context.members().list(&ListParams::default().labels(&selector)).await.map_err(api_error("listing EtcdMembers"))?;
    let now_ms = clock::now_ms();
    let all_nodes = nodes(context, memory, now_ms).await?;
    let status = cluster.status.clone().unwrap_or_default();
    let boot_ip = cluster.spec.self_hosted.as_ref().and_then(|s| {
        members::address(&s.boot_member_client_endpoint).rsplit_once(':').and_then(|(ip, _)| ip.parse::<IpAddr>().ok())
    });
    let boot_node = boot_ip.and_then(|ip| all_nodes.iter().find(|n| ips(n).contains(&ip))).map(ResourceExt::name_any);
    let wanted_labels = cluster.spec.node_selector();
    let nodes = all_nodes
        .iter()
        .filter(|n| wanted_labels.iter().all(|(k, v)| n.labels().get(k) == Some(v)))
        .filter(|n| !ips(n).is_empty())
        .cloned()
        .collect();
    let kind = Kind::of(&cluster, &list.items);
    let secret = ca_secret(&cluster, &kind);
    let is_new = kind == Kind::Standalone && !found::is_begun(&status, &list.items);
    let ca = match &kind {
        Kind::Unclear { why } => Err(why.clone()),
        Kind::Standalone if secret == DEFAULT_CA_SECRET => Err(format!(
            "spec.TLS.ca.secretName: {secret} is the CA of the cluster's own datastore; name another Secret, or leave it out: one is made"
        )),
        Kind::Datastore | Kind::Standalone => ca(context, &cluster, &kind, &secret, is_new, memory, now_ms).await?,
    };
    let ca = ca.and_then(|ca| same_ca(&cluster, &list.items, &secret, ca));
    let ca = match ca {
        Ok(ca) if is_new => own_ca(context, &cluster.name_any(), &secret, ca).await?,
        ca => ca,
    };
    let is_checked = status.pivot.as_ref().is_some_and(|p| p.preflight_id.is_some());
    let pod_security = if cluster.spec.self_hosted.is_some() && !is_checked { pod_security(context).await? } else { None };

    let own = &cluster.spec.repository;
    let repository = if own.is_empty() { context.args.default_repository.clone() } else { own.clone() };
    let mut view = View {
        now_ms,
        cluster,
        kind,
        status,
        all_nodes,
        nodes,
        boot_node,
        repository,
        members: list.items,
        ca,
        pod_security,
        etcd: Err(String::new()),
    };
    view.etcd = read_etcd(&view, memory).await;
    note_down(&view, memory, context.args.replace_after_ms());
    pods::note_preparing(&view, memory);
    Ok(Some(view))
}

async fn nodes(context: &Context, memory: &mut Memory, now_ms: u64) -> Result<Vec<Node>, ControllerError> {
    if let Some((at, nodes)) = &memory.nodes
        && now_ms.saturating_sub(*at) < NODES_FRESH_MS
    {
        return Ok(nodes.clone());
    }
    let api: Api<Node> = Api::all(context.client.clone());
    let nodes = api.list(&ListParams::default()).await.map_err(api_error("listing nodes"))?.items;
    memory.nodes = Some((now_ms, nodes.clone()));
    Ok(nodes)
}

async fn pod_security(context: &Context) -> Result<Option<String>, ControllerError> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let namespace = match api.get_opt(&context.args.namespace).await {
        // A check that cannot be made must not end the pass, whose other checks can.
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::debug!(why = status.message, "the namespace may not be read, so its pod security level is not checked");
            None
        }
        other => other.map_err(api_error("reading the namespace"))?,
    };
    Ok(namespace.and_then(|n| n.labels().get("pod-security.kubernetes.io/enforce").cloned()))
}

/// Name of the CA's Secret. The default of a cluster that is not the datastore is its own, and never that of the datastore.
pub(crate) fn ca_secret(cluster: &EtcdCluster, kind: &Kind) -> String {
    let is_named = cluster.spec.tls.as_ref().is_some_and(|tls| tls.ca.is_some());
    match kind {
        Kind::Standalone if !is_named => clients::ca_name(&cluster.name_any()),
        Kind::Datastore | Kind::Standalone | Kind::Unclear { .. } => cluster.spec.ca_secret().to_owned(),
    }
}

async fn ca(
    context: &Context,
    cluster: &EtcdCluster,
    kind: &Kind,
    name: &str,
    is_new: bool,
    memory: &mut Memory,
    now_ms: u64,
) -> Result<Result<Arc<Ca>, String>, ControllerError> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let found = match api.get_opt(name).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let way = match kind {
                Kind::Standalone => "kubectl apply -f deploy/standalone.yaml".to_owned(),
                Kind::Datastore | Kind::Unclear { .. } => {
                    format!("add it to the resourceNames in deploy/rbac-controller.yaml, or name it {DEFAULT_CA_SECRET}")
                }
            };
            return Ok(Err(format!("the controller may not read Secret {name}: {way} ({})", status.message)));
        }
        other => other.map_err(api_error("reading the CA's Secret"))?,
    };
    let Some(secret) = found else {
        let whose = if *kind == Kind::Standalone { "the members'" } else { "boot's" };
        return Ok(Err(format!(
            "Secret {name} does not exist in {}; create it from the CA that signed {whose} certificates: kubectl -n {} create secret tls {name} --cert=ca.crt --key=ca.key",
            context.args.namespace, context.args.namespace
        )));
    };
    // Of one that has begun `same_ca` decides.
    if is_new && name == clients::ca_name(&cluster.name_any()) && !members::is_of(&secret, &cluster.name_any()) {
        return Ok(Err(format!(
            "Secret {name}, in which the cluster's own CA would be, is there and is not this cluster's: delete it, or name it in spec.TLS.ca.secretName"
        )));
    }
    let version = secret.meta().resource_version.clone().unwrap_or_default();
    if let Some((known, ca, _)) = &memory.ca
        && *known == version
    {
        return Ok(Ok(ca.clone()));
    }
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| data.get(key).and_then(|v| String::from_utf8(v.0.clone()).ok()).unwrap_or_default();
    let read = Ca::from_pem(name, &text("tls.crt"), &text("tls.key"))
        .and_then(|ca| ca.own_client("etcd-operator-controller", now_ms).map(|tls| (ca, tls)));
    Ok(match read {
        Ok((ca, tls)) => {
            let ca = Arc::new(ca);
            memory.ca = Some((version, ca.clone(), tls));
            memory.clients.clear();
            Ok(ca)
        }
        Err(error) => Err(error.to_string()),
    })
}

/// Whoever has a certificate of a CA may do anything in a cluster that trusts it: no new cluster shares that of another one, least of all the datastore's.
async fn own_ca(context: &Context, cluster: &str, secret: &str, ca: Arc<Ca>) -> Result<Result<Arc<Ca>, String>, ControllerError> {
    let all = context.members().list(&ListParams::default()).await.map_err(api_error("listing EtcdMembers"))?.items;
    let has_it = |m: &&EtcdMember| m.spec.certificates.as_ref().is_some_and(|c| pki::same_key(&c.ca, ca.pem()));
    let other = all.iter().filter(|m| m.spec.cluster_name != cluster).find(has_it).map(|m| m.spec.cluster_name.clone());
    Ok(match other {
        None => Ok(ca),
        Some(other) => Err(format!(
            "Secret {secret} holds the CA of EtcdCluster {other}, whose clients could then do anything in this one, and the reverse: name another Secret in spec.TLS.ca.secretName, or leave it out: one is made; to change it delete this EtcdCluster and make it again"
        )),
    })
}

/// What the members run with was signed by the CA that they trust. Another one in its Secret signs nothing, once etcd has been seen with the first: etcd reads certificates anew, but not whom
/// it trusts, so that whoever got one would be cut off.
fn same_ca(cluster: &EtcdCluster, members: &[EtcdMember], secret: &str, ca: Arc<Ca>) -> Result<Arc<Ca>, String> {
    let is_seen = found::is_seen(&cluster.status.clone().unwrap_or_default(), members);
    let is_ordered = |m: &EtcdMember| m.spec.seat.as_ref().is_some_and(|s| s.order.member_id.is_some());
    let runs = |m: &&EtcdMember| m.spec.role == Role::Member && is_ordered(m);
    let other =
        members.iter().filter(runs).find(|m| m.spec.certificates.as_ref().is_some_and(|c| !pki::same_key(&c.ca, ca.pem())));
    match other.filter(|_| is_seen) {
        None => Ok(ca),
        Some(member) => Err(format!(
            "Secret {secret} holds another CA than the one that the members run with: put that back (its certificate is spec.certificates.ca of EtcdMember {}, the key is where it was made); the CA of a running cluster cannot be replaced yet",
            member.name_any()
        )),
    }
}

/// Endpoints that may answer: boot until it is out, the published ones, and those of the seats that were started.
pub(crate) fn endpoints(view: &View) -> Vec<String> {
    let mut all: Vec<String> = view.boot_endpoint().filter(|_| !view.boot_is_out()).map(str::to_owned).into_iter().collect();
    all.extend(view.status.endpoints.iter().cloned());
    all.extend(
        view.seats()
            .iter()
            .filter_map(|m| m.spec.seat.as_ref())
            .filter(|s| s.order.member_id.is_some() || s.order.bootstrap.is_some())
            .map(|s| s.order.client_url.clone()),
    );
    all.sort();
    all.dedup();
    all
}

async fn read_etcd(view: &View, memory: &mut Memory) -> Result<Reading, String> {
    if let Err(why) = &view.ca {
        return Err(why.clone());
    }
    let founded = || found::cluster_id(&view.status, &view.members).filter(|_| view.is_standalone());
    let wanted: Option<ClusterId> = view.status.cluster_id.clone().or_else(founded).and_then(|id| id.parse().ok());
    let reading = etcd::read(memory, &endpoints(view), wanted).await?;
    let commit = reading.members.iter().filter_map(|(_, s)| s.as_ref()).map(|s| s.raft_index).max().unwrap_or(0);
    for (member, status) in &reading.members {
        let Some(status) = status else {
            memory.lags.remove(&member.id.0);
            memory.healthy_since.remove(&member.id.0);
            continue;
        };
        memory.healthy_since.entry(member.id.0).or_insert(view.now_ms);
        let samples = memory.lags.entry(member.id.0).or_default();
        let lag = commit.saturating_sub(status.applied_index);
        match samples.last_mut() {
            // It keeps its time: however fast passes follow each other, the gap comes.
            Some((at, newest)) if view.now_ms.saturating_sub(*at) < SAMPLE_GAP_MS => *newest = lag,
            _ => samples.push((view.now_ms, lag)),
        }
        let surplus = samples.len().saturating_sub(2);
        samples.drain(..surplus);
    }
    Ok(reading)
}

/// Notes who is down, and whose node is away.
fn note_down(view: &View, memory: &mut Memory, grace_ms: u64) {
    let Ok(reading) = &view.etcd else { return };
    let is_down = |(m, s): &&(Member, Option<MemberStatus>)| !m.is_learner && !s.as_ref().is_some_and(MemberStatus::is_healthy);
    let down: Vec<plan::MemberId> = reading.members.iter().filter(is_down).map(|(m, _)| plan::MemberId(m.id.0)).collect();
    let seat = |seat: &EtcdMember| plan::SeatSeen {
        node: plan::NodeName(seat.spec.node_name.clone()),
        is_away: view.is_away(&seat.spec.node_name),
        member: seat
            .spec
            .seat
            .as_ref()
            .and_then(|s| s.order.member_id.as_deref()?.parse().ok())
            .map(|id: MemberId| plan::MemberId(id.0)),
    };
    let seats: Vec<_> = view.seats().into_iter().map(seat).collect();
    memory.absences.note(view.now_ms, grace_ms, &down, &seats);
}

/// Whether an etcd takes a learner while a voter is down, by its version: from 3.5.30 and 3.6.11 on (`mayAddMember`).
fn adds_beside_dead(version: &str) -> bool {
    let mut parts = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match (major, minor) {
        (3, 5) => patch >= 30,
        (3, 6) => patch >= 11,
        other => other > (3, 6),
    }
}

/// The API servers that the agents see, by the members that they list. Loopback is the member of their own node.
fn api_servers(view: &View) -> Vec<plan::ApiServer> {
    let Ok(reading) = &view.etcd else { return Vec::new() };
    let own = |object: &EtcdMember, list: &[String]| {
        let seat = object.spec.seat.as_ref().filter(|_| object.spec.role == Role::Member)?;
        let port = seat.order.client_url.rsplit_once(':')?.1;
        let is_loopback = |url: &String| {
            let address = members::address(url);
            address.rsplit_once(':').is_some_and(|(host, p)| p == port && ["127.0.0.1", "[::1]", "localhost"].contains(&host))
        };
        list.iter().any(is_loopback).then(|| seat.order.client_url.clone())
    };
    let of_object = |object: &EtcdMember| {
        let lists = object.status.clone().unwrap_or_default().api_servers;
        let node = plan::NodeName(object.spec.node_name.clone());
        lists.into_iter().map(move |server| (node.clone(), server.etcd_servers)).collect::<Vec<_>>()
    };
    let mut servers = Vec::new();
    // What was said by a node that is gone for good says nothing.
    let is_there = |m: &&EtcdMember| view.all_nodes.iter().any(|n| n.name_any() == m.spec.node_name);
    for object in view.members.iter().filter(|m| m.spec.role != Role::Boot).filter(is_there) {
        for (node, list) in of_object(object) {
            let own = own(object, &list);
            let is_listed = |url: &String| list.contains(url) || own.as_ref() == Some(url);
            let lists = reading.members.iter().filter(|(m, _)| m.client_urls.iter().any(is_listed));
            servers.push(plan::ApiServer { node, lists: lists.map(|(m, _)| plan::MemberId(m.id.0)).collect() });
        }
    }
    servers
}

/// The view as the planner takes it.
pub(crate) fn observed(view: &View, memory: &Memory, args: &ControllerArgs) -> plan::Observed {
    let spec = &view.cluster.spec;
    let hosted = spec.self_hosted.clone().unwrap_or_default();
    plan::Observed {
        now_ms: view.now_ms,
        spec: plan::Spec {
            size: u32::try_from(spec.size).unwrap_or(0),
            paused: spec.paused,
            hold_boot_removal: hosted.hold_boot_removal,
            skip_boot_removal: hosted.skip_boot_member_removal,
            abort: hosted.abort,
            preflight_only: hosted.preflight_only,
            overruled: view.cluster.annotations().get(plan::OVERRULE).and_then(|word| plan::HoldReason::named(word)),
        },
        nodes: view.nodes.iter().map(|n| node(view, n)).collect(),
        seats: view.seats().into_iter().map(|m| super::structure::seat(view, memory, m, args.binary.as_deref())).collect(),
        boot: super::structure::boot(view, memory),
        founding: found::founding(args.standalone, view, memory),
        etcd: match &view.etcd {
            Ok(reading) => plan::Etcd::Known {
                cluster: plan::ClusterId(reading.cluster_id.0),
                members: reading.members.iter().map(|(m, s)| listed(memory, m, s.as_ref())).collect(),
            },
            Err(why) => plan::Etcd::Unknown { why: why.clone() },
        },
        clients: super::structure::clients(view, memory),
        gate: match (&memory.gate, &view.etcd) {
            (Some((ids, gate)), Ok(reading)) if *ids == reading.ids() => gate.clone(),
            _ => plan::Gate::NotChecked,
        },
        preflight: preflight::evaluate(view, memory),
        learner_patience_ms: args.learner_patience_ms(),
        replace_after_ms: args.replace_after_ms(),
        adds_beside_dead: view
            .etcd
            .as_ref()
            .is_ok_and(|r| r.members.iter().filter_map(|(_, s)| s.as_ref()).all(|s| adds_beside_dead(&s.version))),
        roll_out_refused: super::settings::refusal(view).or_else(|| pods::refusal(view)),
        rolled_back: pods::rolled_back(view),
        roll_out: pods::preparation(view, memory),
        downgrade: pods::downgrade(view),
        api_servers: api_servers(view),
        accused: view.etcd.as_ref().map(super::corrupt::accused).unwrap_or_default(),
        stores: super::corrupt::stores(view, memory),
    }
}

/// A node's Ready condition.
pub(crate) fn readiness(node: &Node) -> plan::Readiness {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    match conditions.into_iter().find(|c| c.type_ == "Ready") {
        Some(c) if c.status == "True" => plan::Readiness::Ready,
        // The kubelet's own words while no CNI configuration is there.
        Some(c) if c.message.as_deref().unwrap_or_default().contains("NetworkReady=false") => plan::Readiness::NoNetworkYet,
        _ => plan::Readiness::NotReady,
    }
}

fn node(view: &View, node: &Node) -> plan::Node {
    let name = node.name_any();
    let fresh = view.member_of(&name).is_some_and(is_fresh);
    plan::Node {
        zone: node.labels().get("topology.kubernetes.io/zone").cloned().unwrap_or_default(),
        cordoned: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
        readiness: readiness(node),
        agent: if fresh { plan::AgentView::Fresh } else { plan::AgentView::Silent },
        evicted_ms: view.member_of(&name).and_then(progress::evicted_ms),
        evictions: view.member_of(&name).map_or(0, |m| m.spec.evictions),
        is_taken: found::is_unheard_or_strange(view, node) || view.etcd.is_ok() && super::readdress::is_taken(view, node),
        name: plan::NodeName(name),
    }
}

/// Whether the agent has answered the last nonce.
pub(crate) fn is_fresh(member: &EtcdMember) -> bool {
    !member.spec.nonce.is_empty() && member.status.as_ref().is_some_and(|s| s.observed_nonce == member.spec.nonce)
}

fn listed(memory: &Memory, member: &Member, status: Option<&MemberStatus>) -> plan::EtcdMember {
    let health = match status {
        None => plan::EtcdHealth::Unknown,
        Some(s) if !s.is_healthy() => plan::EtcdHealth::Unhealthy,
        Some(s) => {
            let samples = memory.lags.get(&member.id.0).map(Vec::as_slice).unwrap_or_default();
            let lag = match samples {
                [(_, before), (_, now)] => (*now, Some(*before)),
                [(_, now)] => (*now, None),
                _ => (u64::MAX, None),
            };
            plan::EtcdHealth::Healthy { is_leader: s.leader == Some(s.member_id), lag }
        }
    };
    plan::EtcdMember {
        id: plan::MemberId(member.id.0),
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        is_learner: member.is_learner,
        health,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, IsCa, KeyPair};
    use serde_json::json;

    use super::*;

    fn ca(key: &KeyPair) -> Arc<Ca> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Arc::new(Ca::from_pem("etcd-ca", &params.self_signed(key).unwrap().pem(), &key.serialize_pem()).unwrap())
    }

    #[test]
    fn another_ca_in_the_secret_of_a_running_cluster_signs_nothing() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut member = EtcdMember::new("c-cp1", members::blank("c", "cp1", Role::Member, 1));
        let certificates = json!({"ca": ca(&key).pem(), "client": ""});
        member.spec.certificates = Some(serde_json::from_value(certificates).unwrap());
        let waiting = member.clone();
        let seat = json!({"image": "etcd:v3.6.16", "probePort": 1, "order": {"sequence": 1, "run": "Run", "memberID": "a", "memberName": "cp1-1",
            "peerURL": "", "clientURL": "", "metricsPort": 1, "clientHttpPort": 1}});
        member.spec.seat = Some(serde_json::from_value(seat).unwrap());
        let cluster = |id: Option<&str>| -> EtcdCluster {
            let object = json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster", "metadata": {"name": "c"}, "spec": {},
                "status": {"clusterID": id}});
            serde_json::from_value(object).unwrap()
        };
        let of = |id, key: &KeyPair| same_ca(&cluster(id), std::slice::from_ref(&member), "etcd-ca", ca(key)).map(drop);
        assert_eq!(of(Some("7"), &key), Ok(()), "its certificate may be renewed");
        assert!(of(Some("7"), &other).unwrap_err().contains("etcd-ca holds another CA"));
        assert_eq!(of(None, &other), Ok(()), "before the pivot the wrong one may be put right");
        let put_right = same_ca(&cluster(Some("7")), &[waiting], "etcd-ca", ca(&other)).map(drop);
        assert_eq!(put_right, Ok(()), "and what was signed before with the wrong one runs nowhere");
    }
}
