//! The EtcdMembers: that there is one per eligible node and one for boot, that their certificates are signed, and what they say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use etcd_operator_api::member::{
    BootDrainStep, BootSpec, BootStatus, Certificates, EtcdMember, EtcdMemberSpec, OrderSpec, Pod, Role, RunSpec, Seat,
};
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan as plan;
use kube::ResourceExt;

use super::memory::Memory;
use super::observe::{View, is_fresh};
use super::{Context, ControllerError, clients, found, losses, members, pass, pods, readdress, settings, stopper};
use crate::clock;
use crate::pki::{self, Ca, Names, Usage};

/// An agent's word for an order that is older than the one on its node (`agent/problem.rs`).
pub(crate) const ORDER_OLDER: &str = "OrderOlder";

/// Creates what is missing, and puts right what is not as it was left. Nothing here touches etcd. Returns how many objects were written: the view is
/// then older than they are.
pub(crate) async fn ensure(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let mut written = 0;
    let cluster = view.name();
    // While etcd cannot be asked nobody knows whether a member is there already.
    let is_known = view.etcd.is_ok() || view.status.cluster_id.is_none();
    for node in view.nodes.iter().filter(|_| is_known) {
        let addresses = readdress::own_ips(view, node);
        let node = node.name_any();
        if view.member_of(&node).is_none() {
            let blank = members::blank(&cluster, &node, Role::Candidate, view.status.lineage.max(1));
            let spec = restored(view, &node, &addresses, blank);
            members::create(context, &members::name_of(&cluster, &node), None, spec).await?;
            written += 1;
        }
    }
    if let (Some(endpoint), Some(node)) = (view.boot_endpoint(), &view.boot_node)
        && view.boot_member().is_none()
    {
        let mut spec = members::blank(&cluster, node, Role::Boot, view.status.lineage);
        let client_endpoint = endpoint.to_owned();
        spec.boot = Some(BootSpec { client_endpoint, snapshot: None, drain: None, tombstone: None });
        members::create(context, &members::boot_name(&cluster), None, spec).await?;
        written += 1;
    }
    for member in &view.members {
        written += adopt(context, view, member).await?;
    }
    for member in view.seats() {
        written += newer_order(context, view, member).await?;
        written += forgotten_drain(context, view, member).await?;
        written += others_to_ask(context, view, member).await?;
        written += unstarted_pod(context, view, member).await?;
    }
    if let Some(member) = view.boot_member() {
        written += boot_orders(context, view, member).await?;
    }
    // Boot is out: nobody's connections matter any more, and each change of a count would be a write.
    if view.boot_is_out() {
        for member in view.members.iter().filter(|m| !m.spec.count_clients.is_empty() || !m.spec.count_own.is_empty()) {
            members::change(context, member, |spec| {
                spec.count_clients.clear();
                spec.count_own.clear();
            })
            .await?;
            written += 1;
        }
    }
    Ok(written)
}

/// Signs what is asked for: also while the cluster is paused, as nothing else keeps its certificates from expiring. Returns how many objects were written.
pub(crate) async fn sign(context: &Context, view: &View, memory: &mut Memory) -> Result<usize, ControllerError> {
    let mut written = 0;
    let Ok(ca) = &view.ca else { return Ok(written) };
    for member in &view.members {
        // One node's bad request must not keep the others from being served.
        let signed = if found::is_strange(view, member) {
            Err("an etcd runs there that this cluster has not begun".to_owned())
        } else {
            certificates(view, ca, member).map_err(|error| error.to_string())
        };
        let known = memory.unsigned.remove(&member.name_any());
        match signed {
            Ok(None) => {}
            Ok(Some(certificates)) => {
                members::change(context, member, |spec| spec.certificates = Some(certificates.clone())).await?;
                written += 1;
            }
            Err(why) => {
                if known.as_ref() != Some(&why) {
                    tracing::warn!(member = %member.name_any(), %why, "certificate requests are not signed");
                }
                memory.unsigned.insert(member.name_any(), why);
            }
        }
    }
    Ok(written)
}

/// A member that etcd lists at one of these addresses and that is this node's by its name: where it is, its ID and its generation.
pub(crate) fn there(view: &View, node: &str, addresses: &[IpAddr]) -> Option<(IpAddr, MemberId, i64)> {
    let reading = view.etcd.as_ref().ok()?;
    addresses.iter().find_map(|ip| {
        let url = members::url(*ip, view.ports().peer);
        let (member, _) = reading.members.iter().find(|(m, _)| m.peer_urls.contains(&url))?;
        Some((*ip, member.id, members::generation(&member.name, node)?))
    })
}

/// The seat of a member that is listed, though the EtcdMember says otherwise: that one was deleted and made again, or restored from an older state (F31).
fn seat_of_listed(view: &View, node: &str, (ip, id, generation): (IpAddr, MemberId, i64)) -> Option<Seat> {
    let reading = view.etcd.as_ref().ok()?;
    tracing::info!(node, member = %id, "the EtcdMember of a listed member is made anew");
    let mut seat = super::act::new_seat(view, node, ip, generation);
    seat.order.run = RunSpec::Run;
    seat.order.cluster_id = Some(reading.cluster_id.to_string());
    seat.order.member_id = Some(id.to_string());
    seat.order.ask = reading.members.iter().filter(|(m, _)| m.id != id).flat_map(|(m, _)| m.client_urls.clone()).collect();
    Some(seat)
}

/// What a new EtcdMember says: blank, unless a member of its node is listed.
fn restored(view: &View, node: &str, addresses: &[IpAddr], blank: EtcdMemberSpec) -> EtcdMemberSpec {
    let Some(found) = there(view, node, addresses) else { return blank };
    let Some(seat) = seat_of_listed(view, node, found) else { return blank };
    EtcdMemberSpec { role: Role::Member, generation: found.2, nonce: members::unique("seat"), seat: Some(seat), ..blank }
}

/// An EtcdMember without a seat whose node's member is listed: it was made while etcd could not be asked, or restored from a state before that member was.
async fn adopt(context: &Context, view: &View, member: &EtcdMember) -> Result<usize, ControllerError> {
    let node = &member.spec.node_name;
    if member.spec.role != Role::Candidate {
        return Ok(0);
    }
    let addresses = view.nodes.iter().find(|n| n.name_any() == *node).map(|n| readdress::own_ips(view, n)).unwrap_or_default();
    let Some(found) = there(view, node, &addresses) else { return Ok(0) };
    again(context, view, member, found).await
}

/// The order of a listed member, made anew, with a higher count than any that its node knows.
pub(crate) async fn again(
    context: &Context,
    view: &View,
    member: &EtcdMember,
    found: (IpAddr, MemberId, i64),
) -> Result<usize, ControllerError> {
    // Its node may have heard of a higher one.
    let lineage = view.status.lineage.max(1).max(member.spec.lineage).max(members::known_order(member).0);
    let known = member.status.as_ref().and_then(|s| s.keeper.as_ref()).filter(|k| k.order_lineage == lineage);
    let sequences = [known.map(|k| k.order_sequence), member.spec.seat.as_ref().map(|s| s.order.sequence)];
    let Some(mut seat) = seat_of_listed(view, &member.spec.node_name, found) else { return Ok(0) };
    seat.order.sequence = sequences.into_iter().flatten().max().unwrap_or(0) + 1;
    let nonce = members::unique("seat");
    members::change(context, member, |spec| {
        spec.role = Role::Member;
        spec.generation = found.2;
        spec.lineage = lineage;
        spec.nonce.clone_from(&nonce);
        spec.seat = Some(seat.clone());
    })
    .await?;
    Ok(1)
}

/// The pod of a seat that has no member yet follows the spec: what was wrong there can be put right. That of a member does not, as another
/// manifest restarts etcd.
async fn unstarted_pod(context: &Context, view: &View, member: &EtcdMember) -> Result<usize, ControllerError> {
    let Some(seat) = &member.spec.seat else { return Ok(0) };
    if seat.order.run != RunSpec::Wait || view.repository.is_empty() {
        return Ok(0);
    }
    let wanted = pods::of_new(view);
    let changed = members::change(context, member, |spec| {
        if let Some(seat) = &mut spec.seat {
            // The preflight has compared the minor version with boot's.
            let may_follow = view.boot_endpoint().is_none()
                || view.boot_is_out()
                || minor_version(&seat.pod.image) == minor_version(&wanted.image);
            let image = if may_follow { &wanted.image } else { &seat.pod.image };
            seat.pod = Pod { image: image.clone(), ..wanted.clone() };
        }
    })
    .await?;
    Ok(usize::from(changed.spec != member.spec))
}

/// `3.6` of `repository:v3.6.16`.
fn minor_version(image: &str) -> Option<&str> {
    image.rsplit_once(":v").and_then(|(_, version)| version.rsplit_once('.')).map(|(minor, _)| minor)
}

/// The node knows a later order than the EtcdMember, which was made again or restored from an older state: its count goes on from there. Not as it
/// stands where a member of the node is listed: an order of another time would stop it, or look for its data where it is not.
async fn newer_order(context: &Context, view: &View, member: &EtcdMember) -> Result<usize, ControllerError> {
    let status = member.status.clone().unwrap_or_default();
    let Some(keeper) = status.keeper.filter(|_| status.problem == ORDER_OLDER) else { return Ok(0) };
    let (Some(seat), Ok(reading)) = (&member.spec.seat, &view.etcd) else { return Ok(0) };
    if keeper.order_lineage != member.spec.lineage || keeper.order_sequence < seat.order.sequence {
        return Ok(0);
    }
    // What runs there is another life of this cluster's, or its own from later: no order of ours is made for it from nothing.
    if keeper.phase == "Running" && seat.order.run == RunSpec::Wait && view.is_standalone() {
        return Ok(0);
    }
    let node = view.all_nodes.iter().find(|n| n.name_any() == member.spec.node_name);
    let mut addresses = node.map(|n| readdress::own_ips(view, n)).unwrap_or_default();
    addresses.extend(members::address(&seat.order.peer_url).parse::<SocketAddr>().map(|a| a.ip()));
    if let Some(found) = there(view, &member.spec.node_name, &addresses) {
        return again(context, view, member, found).await;
    }
    // One of it may be about to start, or is listed at an address that the node had before: what its node knows is right, and it is found once that is settled.
    let urls: Vec<String> = addresses.iter().map(|ip| members::url(*ip, view.ports().peer)).collect();
    let is_nameless =
        |m: &etcd_operator_etcd::client::Member| m.name.is_empty() && m.peer_urls.iter().any(|url| urls.contains(url));
    let is_of_node = |m: &etcd_operator_etcd::client::Member| members::generation(&m.name, &member.spec.node_name).is_some();
    if reading.members.iter().any(|(m, _)| is_nameless(m) || is_of_node(m)) {
        return Ok(0);
    }
    let sequence = seat.order.sequence.max(keeper.order_sequence + 1);
    let changed = members::change(context, member, |spec| {
        let node = spec.node_name.clone();
        if let Some(seat) = &mut spec.seat {
            seat.order.sequence = sequence;
            // Which generations there have been on this node is not known any more. Each took an order: this one is new, and so is its member's name.
            if seat.order.run == RunSpec::Wait {
                spec.generation = spec.generation.max(sequence);
                seat.order.member_name = format!("{node}-{}", spec.generation);
            }
        }
    })
    .await?;
    Ok(usize::from(changed.spec != member.spec))
}

/// A listed member whose keeper waits, as none of the endpoints that it knows answers: those of the moment in which it joined may all be gone, boot's first
/// of all. It is told the ones of now; else nobody would ever hear that its data is gone.
async fn others_to_ask(context: &Context, view: &View, member: &EtcdMember) -> Result<usize, ControllerError> {
    let (Some(seat), Ok(reading)) = (&member.spec.seat, &view.etcd) else { return Ok(0) };
    let keeper = member.status.clone().unwrap_or_default().keeper.unwrap_or_default();
    let own = readdress::member_of(view, member).map(|(m, _)| m.id);
    let is_own = |m: &etcd_operator_etcd::client::Member| Some(m.id) == own;
    let is_listed = own.is_some();
    if keeper.phase != "Waiting" || seat.order.run != RunSpec::Run || !is_listed {
        return Ok(0);
    }
    let others = reading.members.iter().filter(|(m, s)| !is_own(m) && s.is_some());
    let mut ask: Vec<String> = others.flat_map(|(m, _)| m.client_urls.clone()).collect();
    ask.sort();
    if ask.iter().all(|url| seat.order.ask.contains(url)) {
        return Ok(0);
    }
    tracing::info!(member = %member.name_any(), ?ask, "its keeper is told whom to ask");
    members::change_order(context, member, |order| order.ask.clone_from(&ask)).await?;
    Ok(1)
}

/// An order to stop a member that is still listed, and nobody is at it: its controller died. Its agent could read it at any later time.
async fn forgotten_drain(context: &Context, view: &View, member: &EtcdMember) -> Result<usize, ControllerError> {
    let Some(seat) = &member.spec.seat else { return Ok(0) };
    let keeper = member.status.clone().unwrap_or_default().keeper.unwrap_or_default();
    let Some(drain) = seat.order.drain.as_ref().filter(|id| !keeper.consumed.contains(id)) else { return Ok(0) };
    let is_listed = readdress::member_of(view, member).is_some();
    let is_announced = view
        .status
        .intent
        .as_ref()
        .is_some_and(|intent| intent.holder != context.args.holder && pass::is_open(intent, view.now_ms));
    if !is_listed || is_announced || keeper.phase == "Draining" {
        return Ok(0);
    }
    tracing::info!(member = %member.name_any(), drain, "an order to stop, left by a controller that is gone, is taken back");
    members::change_order(context, member, |order| order.drain = None).await?;
    Ok(1)
}

/// Boot's EtcdMember may be left over from an earlier EtcdCluster, whose endpoint was wrong; and after an abort the next pivot takes a
/// snapshot of its own.
async fn boot_orders(context: &Context, view: &View, member: &EtcdMember) -> Result<usize, ControllerError> {
    let (Some(endpoint), Some(node)) = (view.boot_endpoint(), &view.boot_node) else { return Ok(0) };
    let is_aborted = view.status.pivot.as_ref().is_some_and(|p| p.phase == "Aborted");
    let is_begun = |boot: &BootSpec| boot.snapshot.is_some() || boot.drain.is_some() || boot.tombstone.is_some();
    let changed = members::change(context, member, |spec| {
        let Some(boot) = &mut spec.boot else { return };
        if is_aborted {
            boot.snapshot = None;
        }
        if !is_begun(boot) {
            endpoint.clone_into(&mut boot.client_endpoint);
            spec.node_name.clone_from(node);
        }
    })
    .await?;
    Ok(usize::from(changed.spec != member.spec))
}

/// Certificates that have to be signed: none yet, made for another key, two thirds of their life over, or an address of the node is new.
fn certificates(view: &View, ca: &Ca, member: &EtcdMember) -> Result<Option<Certificates>, ControllerError> {
    let Some(csr) = member.status.as_ref().and_then(|s| s.csr.as_ref()) else { return Ok(None) };
    let node = &member.spec.node_name;
    let mut addresses: Vec<IpAddr> =
        view.nodes.iter().find(|n| n.name_any() == *node).map(|n| readdress::own_ips(view, n)).unwrap_or_default();
    // None is known: what is there stays.
    let wanted = addresses.clone();
    let seat = member.spec.seat.iter().flat_map(|s| [&s.order.peer_url, &s.order.client_url]);
    let of_seat = seat.filter_map(|url| members::address(url).parse::<SocketAddr>().ok()).map(|a| a.ip());
    for ip in of_seat {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    let good = |cert: Option<&String>, csr: Option<&String>, ips: &[IpAddr]| match (cert, csr) {
        (Some(cert), Some(csr)) => pki::matches(cert, csr) && !pki::is_due(cert, view.now_ms) && pki::covers(cert, ips),
        (_, None) => true,
        (None, Some(_)) => false,
    };
    // Of another CA: before etcd was seen the Secret may be put right (`observe.rs`).
    if let Some(have) = &member.spec.certificates
        && pki::same_key(&have.ca, ca.pem())
        && good(Some(&have.client), Some(&csr.client), &[])
        && good(have.peer.as_ref(), csr.peer.as_ref(), &wanted)
        && good(have.server.as_ref(), csr.server.as_ref(), &wanted)
    {
        return Ok(None);
    }
    if addresses.is_empty() && (csr.peer.is_some() || csr.server.is_some()) {
        // Without its addresses nobody could verify it: what is there is better, and lasts for another third of its life.
        return match &member.spec.certificates {
            Some(_) => Ok(None),
            None => Err(ControllerError::Object(format!(
                "no address of node {node} is known: it has no InternalIP, or is not selected"
            ))),
        };
    }
    let dns = clients::dns_names(view);
    let names = Names { ips: &addresses, dns: &dns };
    let sign = |csr: Option<&String>, usage| csr.map(|c| ca.sign(c, node, usage, names, view.now_ms)).transpose();
    Ok(Some(Certificates {
        ca: ca.pem().to_owned(),
        peer: sign(csr.peer.as_ref(), Usage::Peer)?,
        server: sign(csr.server.as_ref(), Usage::Server)?,
        client: ca.sign(&csr.client, node, Usage::Client, Names::default(), view.now_ms)?,
    }))
}

/// A seat, as the planner takes it.
pub(crate) fn seat(view: &View, memory: &Memory, member: &EtcdMember, own_binary: Option<&str>) -> plan::Seat {
    let cluster = view.etcd.as_ref().ok().map(|r| r.cluster_id);
    let node = &member.spec.node_name;
    let order = member.spec.seat.as_ref().map(|s| &s.order);
    // Of another cluster's life it says nothing (design D4).
    let is_of_this = |o: &&OrderSpec| cluster.is_none_or(|id| o.cluster_id.as_deref() == Some(id.to_string().as_str()));
    let ordered = order.filter(is_of_this).and_then(|o| o.member_id.as_deref()).and_then(|id| u64::from_str_radix(id, 16).ok());
    let status = member.status.clone().unwrap_or_default();
    plan::Seat {
        node: plan::NodeName(node.clone()),
        away_since_ms: memory.absences.away_since(&plan::NodeName(node.clone())),
        up_since_ms: ordered.and_then(|id| up_since_ms(view, memory, id)),
        is_leaving: view.is_leaving(node),
        drains_in_vain: ordered.and_then(|id| memory.drains_in_vain.get(&id)).copied().unwrap_or(0),
        member_name: order.map(|o| o.member_name.clone()).unwrap_or_default(),
        peer_url: readdress::listed(view, member).or_else(|| order.map(|o| o.peer_url.clone())).unwrap_or_default(),
        address: readdress::address(view, memory, member),
        url_of: readdress::url_of(view, member).map(|id| plan::MemberId(id.0)),
        ordered: ordered.map(plan::MemberId),
        keeper: keeper(memory, member),
        no_progress_since_ms: ordered.and_then(|id| memory.progress.get(&id)).map(plan::Progress::since_ms),
        down_since_ms: ordered.and_then(|id| memory.absences.down_since(plan::MemberId(id))),
        binary: super::hand_over::binary(member, own_binary),
        runs_with: both(settings::view(member, settings::wanted(view)), pods::view(member, &pods::wanted(view))),
        restart_ordered_ms: settings::restart_ordered_ms(member).or(pods::ordered_ms(member)),
        replaced_ms: pods::replaced_ms(member),
        may_go_back: pods::may_go_back(view, member),
        problem: (!status.problem.is_empty()).then(|| format!("{}: {}", status.problem, status.problem_message)),
    }
}

/// What is said of the settings and of the pod, as one.
fn both(settings: plan::RunsWith, pod: plan::RunsWith) -> plan::RunsWith {
    use plan::RunsWith::{Current, Outdated, UnderWay, Unknown};
    [UnderWay, Unknown, Outdated].into_iter().find(|one| settings == *one || pod == *one).unwrap_or(Current)
}

/// As this controller has seen it, or as one before it wrote down.
fn up_since_ms(view: &View, memory: &Memory, id: u64) -> Option<u64> {
    let id = etcd_operator_etcd::ids::MemberId(id);
    view.status_of(id).filter(|s| s.is_healthy())?;
    let text = id.to_string();
    let known = view.status.member_states.iter().find(|s| s.id == text && s.healthy);
    let written = known.and_then(|s| clock::parse_rfc3339(&s.last_transition_time));
    [memory.healthy_since.get(&id.0).copied(), written].into_iter().flatten().min()
}

fn keeper(memory: &Memory, member: &EtcdMember) -> plan::KeeperView {
    let missing = |why: String| plan::KeeperView::NotPrepared { why };
    let status = member.status.clone().unwrap_or_default();
    if !status.problem.is_empty() {
        return missing(format!("{}: {}", status.problem, status.problem_message));
    }
    if let Some(why) = memory.unsigned.get(&member.name_any()) {
        return missing(format!("its certificate requests cannot be signed: {why}"));
    }
    if member.spec.certificates.is_none() {
        return missing("its certificates are not signed yet: the agent has not sent its requests".into());
    }
    let Some(keeper) = status.keeper else { return missing("its keeper has not been heard of: is the image there?".into()) };
    let running = keeper.phase == "Running";
    if !running && !is_fresh(member) {
        return missing("its agent has not answered".into());
    }
    let Some(seat) = &member.spec.seat else { return missing("it has no seat".into()) };
    if !running && keeper.order_sequence < seat.order.sequence {
        // What it said before is of an earlier seat.
        return missing("its keeper has not read its order yet".into());
    }
    // Of the seat's image: a version that the spec has since been set to is not what this member was made for.
    let wanted = seat.pod.image.rsplit_once(":v").map_or("", |(_, version)| version);
    match keeper.etcd_version.as_deref() {
        Some(version) if version == wanted => {}
        // One that runs while its pod is about to be replaced.
        Some(_) if running => {}
        Some(version) => return missing(format!("its image holds etcd {version}, not {wanted}")),
        None => return missing("its keeper has not run etcd from the image yet".into()),
    }
    match keeper.phase.as_str() {
        "Running" => plan::KeeperView::Running,
        // What an agent said before may long be otherwise: it is asked first (`losses.rs`).
        "Refused" if losses::is_unproven(memory, member, &keeper.reason) => plan::KeeperView::Waiting { reason: keeper.reason },
        "Refused" => plan::KeeperView::Refused { reason: keeper.reason, message: keeper.message },
        "Stopped" | "Draining" => plan::KeeperView::Stopped,
        _ => plan::KeeperView::Waiting { reason: keeper.reason },
    }
}

/// Boot, as the planner takes it.
pub(crate) fn boot(view: &View, memory: &Memory) -> plan::Boot {
    if view.boot_endpoint().is_none() || is_buried(view) {
        return plan::Boot::None;
    }
    let id = view.boot_id().map(|id| plan::MemberId(id.0));
    let by_command = stopper::is_command(view);
    let Some(member) = view.boot_member() else {
        return plan::Boot::Member {
            id,
            host: if by_command { plan::BootHost::Command } else { plan::BootHost::Elsewhere },
            snapshot: plan::Snapshot::Impossible,
            drain: command_drain(view, memory),
            tombstone: plan::Tombstone::Impossible,
        };
    };
    let status = member.status.clone().unwrap_or_default().boot.unwrap_or_default();
    let orders = member.spec.boot.clone();
    let wanted = orders.as_ref().and_then(|b| b.snapshot.clone());
    let lineages = (view.boot_member().map_or(view.status.lineage, |member| member.spec.lineage), view.status.lineage);
    plan::Boot::Member {
        id,
        host: if by_command {
            plan::BootHost::Command
        } else if status.process_found && status.manifest.is_some() {
            plan::BootHost::StaticPod
        } else {
            plan::BootHost::NotFound
        },
        snapshot: match (&wanted, &status.snapshot) {
            (None, _) => plan::Snapshot::None,
            (Some(id), Some(taken)) if taken.id == *id => plan::Snapshot::Taken,
            (Some(_), _) => plan::Snapshot::Pending,
        },
        drain: match (command_drain(view, memory), drain(orders.as_ref(), status.drain_id.as_deref(), status.drain_step)) {
            (plan::BootDrain::None, plan::BootDrain::Signalled { attempt }) if is_silent(view) && is_given_up(view, memory) => {
                plan::BootDrain::StartedAgain { attempt }
            }
            (plan::BootDrain::None, drain) => drain,
            (by_command, _) => by_command,
        },
        // What keeps it from starting is its command's `kill`.
        tombstone: if by_command { plan::Tombstone::Impossible } else { tombstone_of(orders.as_ref(), &status, lineages) },
    }
}

/// What its command says, whoever stops boot by now: a signal cannot be taken back. Whoever runs it starts boot again after 10 s, and it
/// does so itself if he is gone, but then nobody says so.
fn command_drain(view: &View, memory: &Memory) -> plan::BootDrain {
    match stopper::drain(view) {
        plan::BootDrain::Signalled { attempt } if is_given_up(view, memory) => plan::BootDrain::StartedAgain { attempt },
        drain => drain,
    }
}

/// By the lineage of boot's EtcdMember, which is never made anew, and that of the cluster.
fn tombstone_of(orders: Option<&BootSpec>, status: &BootStatus, (of_boot, now): (i64, i64)) -> plan::Tombstone {
    if of_boot.max(1) < now {
        // Boot was of the cluster's life before a recovery: nobody is left who could say that it was removed, and what it has joins nothing.
        return plan::Tombstone::Impossible;
    }
    match orders.and_then(|b| b.tombstone.as_ref()) {
        None => plan::Tombstone::None,
        Some(id) if status.tombstone_id.as_ref() == Some(id) => plan::Tombstone::Set,
        Some(_) => plan::Tombstone::Pending,
    }
}

/// An EtcdCluster that was posted anew after the pivot knows nothing of boot, but its EtcdMember does.
fn is_buried(view: &View) -> bool {
    let recorded = view.status.pivot.as_ref().and_then(|p| p.boot_member_id.as_ref());
    let Some(member) = view.boot_member() else { return false };
    let ordered = member.spec.boot.as_ref().and_then(|b| b.tombstone.as_ref());
    let done = member.status.as_ref().and_then(|s| s.boot.as_ref()).and_then(|b| b.tombstone_id.as_ref());
    recorded.is_none() && ordered.is_some() && ordered == done
}

fn is_silent(view: &View) -> bool {
    view.boot_id().is_some_and(|id| view.status_of(id).is_none())
}

fn is_given_up(view: &View, memory: &Memory) -> bool {
    memory.signalled_since.is_some_and(|since| view.now_ms.saturating_sub(since) > SIGNAL_ENDS_WITHIN_MS)
}

/// Since when this process has seen boot signalled.
pub(crate) fn note_signal(view: &View, memory: &mut Memory) {
    let boot = view.boot_member().and_then(|b| b.status.as_ref()).and_then(|s| s.boot.as_ref());
    let by_agent = boot.and_then(|b| b.drain_step) == Some(BootDrainStep::Signalled);
    if by_agent || matches!(stopper::drain(view), plan::BootDrain::Signalled { .. }) {
        memory.signalled_since.get_or_insert(view.now_ms);
    } else {
        memory.signalled_since = None;
    }
}

/// A drain's ID ends in its attempt: `drain-<random>-<attempt>`; random, so that an order that was taken back is not taken for a new one.
pub(crate) fn attempt_of(id: &str) -> u32 {
    id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// What the agent says counts even if the order was taken back in between: a signal cannot be.
fn drain(orders: Option<&BootSpec>, seen: Option<&str>, step: Option<BootDrainStep>) -> plan::BootDrain {
    let ordered = orders.and_then(|b| b.drain.as_ref()).map(|d| d.id.as_str());
    match (ordered, seen, step) {
        (Some(id), Some(seen), Some(step)) if id == seen => answered(step, attempt_of(id)),
        (Some(id), _, _) => plan::BootDrain::Ordered { attempt: attempt_of(id) },
        (None, Some(seen), Some(BootDrainStep::Signalled)) => plan::BootDrain::Signalled { attempt: attempt_of(seen) },
        (None, _, _) => plan::BootDrain::None,
    }
}

fn answered(step: BootDrainStep, attempt: u32) -> plan::BootDrain {
    match step {
        BootDrainStep::Signalled => plan::BootDrain::Signalled { attempt },
        BootDrainStep::Gone => plan::BootDrain::Gone,
        BootDrainStep::StartedAgain => plan::BootDrain::StartedAgain { attempt },
        BootDrainStep::Failed => plan::BootDrain::Failed { attempt },
    }
}

/// The listeners whose clients are counted: boot's first, then the seats' in their order.
pub(crate) fn listeners(view: &View) -> Vec<String> {
    let boot = view.boot_endpoint().map(members::address);
    boot.into_iter()
        .chain(view.seats().iter().filter_map(|m| m.spec.seat.as_ref()).map(|s| members::address(&s.order.client_url)))
        .collect()
}

/// etcd's gateway is a client of its own server, once per client URL that it listens on (embed/serve.go), and comes from the listener's own
/// IP. Two, a node IP and loopback, is what installers and we have; seen with `ss -tnp` on the bed. One too many taken off boot's count
/// would only mean one channel less that has to be seen at the new members.
const SELF_CONNECTIONS: i64 = 2;
/// Loopback connections that may be etcd's gateway and a keeper's or an installer's probes.
const FEW_OVER_LOOPBACK: i64 = 6;
/// After a signal its agent kills boot or leaves it to the kubelet within 10 s (`boot/drain.rs`), and its command does the like. A boot that
/// is still silent and of which nothing was heard for this long has lost its node, or whoever ran its command, ms.
const SIGNAL_ENDS_WITHIN_MS: u64 = 30_000;

/// Who is connected to boot and to the new members, without our own connections.
pub(crate) fn clients(view: &View, memory: &Memory) -> plan::ClientCounts {
    let unknown = |missing: String| plan::ClientCounts::Unknown { missing };
    let Some(nonce) = &memory.count else { return unknown("not asked for".into()) };
    let Some(since) = listening_since(view, memory) else { return unknown("the new members do not all listen yet".into()) };
    // An order to count that reached only some of the agents is no count.
    let is_asked = |l: &String| view.members.iter().any(|m| m.spec.count_clients.contains(l));
    let unseen = usize::from(view.boot_member().is_none());
    if let Some(listener) = listeners(view).iter().skip(unseen).find(|l| !is_asked(l)) {
        return unknown(format!("nobody has been asked about {listener}"));
    }
    let mut counts: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for member in &view.members {
        let status = member.status.clone().unwrap_or_default();
        // A node without a seat matters only for our own connections from there, of which there are few.
        let asked =
            member.spec.role != Role::Candidate && !(member.spec.count_clients.is_empty() && member.spec.count_own.is_empty());
        if asked && (member.spec.nonce != *nonce || status.observed_nonce != *nonce) {
            return unknown(format!("the agent of {} has not answered", member.spec.node_name));
        }
        // Sockets that could not be read are not "no clients".
        let all_clients = member.spec.count_clients.iter().all(|l| status.clients.iter().any(|c| c.listener == *l));
        let all_own = member.spec.count_own.iter().all(|l| status.own.iter().any(|o| o.to == *l));
        if asked && !(all_clients && all_own && status.problem.is_empty()) {
            return unknown(format!("the agent of {} cannot count: {}", member.spec.node_name, status.problem_message));
        }
        for seen in &status.clients {
            let remotes = counts.entry(seen.listener.clone()).or_default();
            seen.remotes.iter().for_each(|(ip, n)| *remotes.entry(ip.clone()).or_default() += n);
        }
    }
    for own in view.members.iter().filter_map(|m| m.status.as_ref()).flat_map(|s| s.own.iter()) {
        let remotes = counts.entry(own.to.clone()).or_default();
        own.locals.iter().for_each(|(ip, n)| *remotes.entry(ip.clone()).or_default() -= n);
    }
    let listeners = listeners(view);
    let Some((boot, ours)) = listeners.split_first() else { return unknown("no boot member".into()) };
    for listener in &listeners {
        let ip = listener.rsplit_once(':').map_or("", |(ip, _)| ip);
        let Some(remotes) = counts.get_mut(listener) else { continue };
        // etcd's own and its probes' are few; an API server that uses loopback has a connection per resource.
        let over_loopback = remotes.remove("127.0.0.1").unwrap_or(0) + remotes.remove("::1").unwrap_or(0);
        if over_loopback > FEW_OVER_LOOPBACK {
            *remotes.entry(ip.to_owned()).or_default() += over_loopback;
        }
        if let Some(itself) = remotes.get_mut(ip) {
            *itself -= SELF_CONNECTIONS;
        }
    }
    let count = |listener: &String, ip: &String| {
        counts.get(listener).and_then(|r| r.get(ip)).and_then(|n| u32::try_from((*n).max(0)).ok()).unwrap_or(0)
    };
    let remotes = counts.get(boot).cloned().unwrap_or_default();
    plan::ClientCounts::Known {
        listening_since_ms: since,
        remotes: remotes
            .keys()
            .map(|ip| plan::RemoteClient {
                ip: ip.clone(),
                to_boot: count(boot, ip),
                to_members: ours.iter().map(|l| count(l, ip)).collect(),
            })
            .collect(),
    }
}

fn listening_since(view: &View, memory: &Memory) -> Option<u64> {
    let recorded = view.status.pivot.as_ref().and_then(|p| p.listening_since.as_deref());
    recorded.and_then(crate::clock::parse_rfc3339).or(memory.listening_since)
}

#[cfg(test)]
#[path = "structure_tests.rs"]
pub(crate) mod tests;
