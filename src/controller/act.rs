//! Act: carries out one step. A membership call that fails in a passing way is no error: the next pass looks again.

use std::net::IpAddr;
use std::sync::Arc;

use etcd_operator_api::member::{EtcdMember, OrderSpec, Role, RunSpec, Seat};
use etcd_operator_etcd::client::{Member, MemberStatus};
use etcd_operator_etcd::dial::Endpoint;
use etcd_operator_etcd::error::EtcdError;
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{self as plan, Gate, NodeName, Step};
use kube::ResourceExt;

use super::memory::Memory;
use super::observe::View;
use super::{
    Context, ControllerError, corrupt, etcd, found, leader, members, pods, preflight, progress, readdress, remove, settings,
    stopper, structure,
};
use crate::clock;

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was carried out.
    Done,
    /// Refused in a way that passes: the next pass derives what to do from what it then sees.
    NotYet,
}

/// Carries out a step.
pub(crate) async fn act(context: &Context, view: &View, memory: &mut Memory, step: &Step) -> Result<Outcome, ControllerError> {
    if let Step::RemoveMember { .. } | Step::Evict { .. } | Step::Unseat { .. } = step {
        // The clients are counted anew, with whoever takes its place.
        (memory.listening_since, memory.count) = (None, None);
    }
    let done = |()| Outcome::Done;
    match step {
        Step::RunPreflight => preflight::start(context, view, memory).await.map(done),
        Step::SnapshotBoot => snapshot_boot(context, view).await.map(done),
        Step::AssignSeats { nodes } => assign_seats(context, view, nodes).await.map(done),
        Step::Found { node } => found::act(context, view, node).await,
        Step::AddLearner { node } => add_learner(view, memory, node).await,
        Step::StartMember { node, member } => start_member(context, view, node, *member).await.map(done),
        Step::CountClients => count_clients(context, view, memory).await.map(done),
        Step::Promote { member, .. } => promote(view, memory, *member).await,
        Step::CheckGate => check_gate(view, memory).await.map(done),
        Step::MoveLeader { from, to } => leader::transfer(view, memory, MemberId(from.0), MemberId(to.0)).await,
        Step::RemoveBoot { boot, how } => remove::boot(context, view, memory, MemberId(boot.0), *how).await,
        Step::WithdrawBootDrain => stopper::withdraw(context, view).await.map(done),
        Step::TombstoneBoot => remove::tombstone(context, view).await.map(done),
        Step::RemoveMember { node, member } => remove::member(context, view, memory, node, MemberId(member.0)).await,
        Step::Evict { node, member } => progress::evict(context, view, memory, node, MemberId(member.0)).await,
        Step::Unseat { node } => unseat(context, view, node).await.map(done),
        Step::Readdress { node, member } => readdress::act(context, view, memory, node, *member).await,
        Step::CompareStores => corrupt::compare(view, memory).await.map(done),
        Step::RemoveCorrupt { member, .. } => {
            let client = any_voter(view, memory).await?;
            passing("MemberRemove", client.member_remove(MemberId(member.0)).await)
        }
        Step::DisarmCorrupt { member } => {
            let client = any_voter(view, memory).await?;
            passing("Alarm", client.disarm_corrupt(MemberId(member.0)).await)
        }
        Step::EnableDowngrade => {
            let client = any_voter(view, memory).await?;
            of_downgrade(client.enable_downgrade(&pods::minor_version(view)).await)
        }
        Step::CancelDowngrade => {
            let client = any_voter(view, memory).await?;
            of_downgrade(client.cancel_downgrade().await)
        }
        Step::PrepareRollOut => pods::prepare(context, view).await.map(done),
        Step::RollBack { node } => pods::roll_back(context, view, node).await.map(done),
        Step::RollOut { node, restart } => settings::apply(context, view, node, *restart).await,
        Step::CallOffRollOut { node } => settings::call_off(context, view, node).await.map(done),
        Step::HandOverKeeper { node } => order_keeper(context, view, node, context.args.binary.as_ref()).await.map(done),
        // The one that runs, and not none: that would be a human's word that what was refused may be tried again (`keeper/hand_over.rs`).
        Step::CallOffHandOver { node } => order_keeper(context, view, node, running_keeper(view, node).as_ref()).await.map(done),
    }
}

/// A refusal that passes is no error.
pub(crate) fn passing(call: &'static str, result: Result<(), EtcdError>) -> Result<Outcome, ControllerError> {
    match result {
        Err(error) if etcd::is_passing(&error) => {
            tracing::debug!(call, error = %error, "etcd does not take the call yet");
            Ok(Outcome::NotYet)
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(Outcome::Done),
    }
}

/// Somebody was faster, or the cluster's version is still on its way: the next pass looks again.
fn of_downgrade(result: Result<(), EtcdError>) -> Result<Outcome, ControllerError> {
    match result {
        Err(error) if error.to_string().contains("downgrade") => {
            tracing::debug!(%error, "etcd does not take the call yet");
            Ok(Outcome::NotYet)
        }
        other => passing("Downgrade", other),
    }
}

pub(crate) fn seat_of<'a>(view: &'a View, node: &NodeName) -> Result<(&'a EtcdMember, &'a Seat), ControllerError> {
    let member = view.member_of(&node.0).ok_or_else(|| ControllerError::Object(format!("{node} has no EtcdMember")))?;
    let seat = member.spec.seat.as_ref().ok_or_else(|| ControllerError::Object(format!("{node} has no seat")))?;
    Ok((member, seat))
}

/// Ordering the snapshot under one ID per pivot: it is taken once, before the first change.
async fn snapshot_boot(context: &Context, view: &View) -> Result<(), ControllerError> {
    let Some(member) = view.boot_member() else { return Ok(()) };
    let id = members::unique("pre-pivot");
    members::change(context, member, |spec| {
        if let Some(boot) = &mut spec.boot {
            boot.snapshot.get_or_insert_with(|| id.clone());
        }
    })
    .await
    .map(drop)
}

async fn assign_seats(context: &Context, view: &View, nodes: &[NodeName]) -> Result<(), ControllerError> {
    let nonce = members::ask(found::ASK, view.now_ms);
    let max_learners = max_learners(view);
    for name in nodes {
        let Some(node) = view.nodes.iter().find(|n| n.name_any() == name.0) else { continue };
        let Some(member) = view.member_of(&name.0) else { continue };
        let Some(ip) = readdress::own_ips(view, node).first().copied() else { continue };
        // A node that was retired more often than the cluster was recovered takes no order of a lower one.
        let (lineage, known) = members::known_order(member);
        let last = if view.is_standalone() { known } else { 0 };
        // Of a cluster of the same name that was here before, a generation may have left data: none is used twice.
        let generation = next_generation(view, member, &name.0).max(if member.spec.generation == 0 { last + 1 } else { 0 });
        let sequence = member.spec.seat.as_ref().map_or(0, |s| s.order.sequence).max(last) + 1;
        let mut seat = new_seat(view, &name.0, ip, generation);
        (seat.order.sequence, seat.order.max_learners) = (sequence, max_learners);
        members::change(context, member, |spec| {
            spec.role = Role::Member;
            spec.generation = generation;
            spec.lineage = view.status.lineage.max(lineage).max(1);
            spec.nonce.clone_from(&nonce);
            spec.seat = Some(seat.clone());
        })
        .await?;
    }
    Ok(())
}

/// A seat as the spec wants it, whose etcd does not run yet.
pub(crate) fn new_seat(view: &View, node: &str, ip: IpAddr, generation: i64) -> Seat {
    let ports = view.ports();
    Seat {
        pod: pods::of_new(view),
        probe_port: ports.probe,
        measure_data: false,
        // The agent's first copy; what an older one has left there is handed over once the member votes.
        keeper: None,
        roll_out: None,
        rolled_back: None,
        prove: None,
        snapshot: None,
        order: OrderSpec {
            sequence: 1,
            run: RunSpec::Wait,
            cluster_id: None,
            member_id: None,
            member_name: format!("{node}-{generation}"),
            peer_url: members::url(ip, ports.peer),
            client_url: members::url(ip, ports.client),
            metrics_port: ports.metrics,
            client_http_port: ports.client_http,
            max_learners: max_learners(view),
            settings: Some(settings::of_new(view)),
            ask: Vec::new(),
            bootstrap: None,
            drain: None,
            archive: None,
            retire: false,
            restart: None,
        },
    }
}

/// What the members that are there have, boot among them: see the keeper's contract.
fn max_learners(view: &View) -> u16 {
    let of_seat = view.seats().into_iter().find_map(|m| m.spec.seat.as_ref()).map(|s| s.order.max_learners);
    let of_boot = view.boot_member().and_then(|b| b.status.as_ref()?.boot.as_ref()?.max_learners);
    of_seat.or(of_boot).unwrap_or(0)
}

/// One more than any generation of this node that is known: never reused. The disk's part of the maximum is the keeper's: it refuses a
/// data directory that another ID ran in.
fn next_generation(view: &View, member: &EtcdMember, node: &str) -> i64 {
    let prefix = format!("{node}-");
    let listed = view.etcd.iter().flat_map(|r| &r.members).filter_map(|(m, _)| m.name.strip_prefix(&prefix)?.parse::<i64>().ok());
    listed.chain([member.spec.generation]).max().unwrap_or(0) + 1
}

async fn unseat(context: &Context, view: &View, node: &NodeName) -> Result<(), ControllerError> {
    let (member, _) = seat_of(view, node)?;
    take_seat(context, member, member.spec.lineage).await
}

/// The seat stays in the spec as Candidate's history: its order says Stop, so that the keeper does not wait for ever for a join. What a
/// member left goes into the archive, so that it neither runs nor lies in the way again.
pub(crate) async fn take_seat(context: &Context, member: &EtcdMember, lineage: i64) -> Result<(), ControllerError> {
    let archive = members::unique("archive");
    members::change(context, member, |spec| {
        (spec.role, spec.lineage) = (Role::Candidate, lineage);
        if let Some(seat) = &mut spec.seat {
            seat.order.archive = seat.order.member_id.is_some().then(|| archive.clone());
            seat.order.sequence += 1;
            seat.order.run = RunSpec::Stop;
            seat.measure_data = false;
        }
    })
    .await
    .map(drop)
}

/// The binary that a keeper says it is.
fn running_keeper(view: &View, node: &NodeName) -> Option<String> {
    view.member_of(&node.0)?.status.as_ref()?.keeper.as_ref()?.binary.clone()
}

/// This controller's binary is to be the keeper there: its agent brings it, the keeper becomes it.
async fn order_keeper(context: &Context, view: &View, node: &NodeName, wanted: Option<&String>) -> Result<(), ControllerError> {
    let (member, _) = seat_of(view, node)?;
    members::change(context, member, |spec| {
        if let Some(seat) = &mut spec.seat
            && seat.keeper.as_ref() != wanted
        {
            seat.order.sequence += 1;
            seat.keeper = wanted.cloned();
        }
    })
    .await
    .map(drop)
}

/// A client of a voter that answers, the leader if it does.
pub(crate) async fn any_voter(view: &View, memory: &mut Memory) -> Result<Arc<dyn Endpoint>, ControllerError> {
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?;
    let leader = reading.members.iter().filter_map(|(_, s)| s.as_ref()).find_map(|s| s.leader);
    let voters = reading.members.iter().filter(|(m, s)| !m.is_learner && s.is_some());
    let best = voters.clone().find(|(m, _)| Some(m.id) == leader).or_else(|| voters.clone().next());
    let url = best.and_then(|(m, _)| m.client_urls.first()).ok_or_else(|| ControllerError::Object("no voter answers".into()))?;
    etcd::client(memory, url).await
}

/// Whether etcd would take a step now, as far as that is known: for 5 s after a member has come it refuses MemberAdd.
pub(crate) fn would_be_taken(view: &View, memory: &Memory, step: &Step) -> bool {
    match step {
        Step::AddLearner { .. } => {
            memory.healthy_since.values().all(|since| view.now_ms.saturating_sub(*since) >= STRICT_CHECK_MS)
        }
        // A drain whose removal is then refused costs the member a restart.
        Step::RemoveMember { member, .. } if view.status_of(MemberId(member.0)).is_some() => {
            memory.healthy_since.values().all(|since| view.now_ms.saturating_sub(*since) >= CONNECTED_MS)
        }
        _ => true,
    }
}

async fn add_learner(view: &View, memory: &mut Memory, node: &NodeName) -> Result<Outcome, ControllerError> {
    let (_, seat) = seat_of(view, node)?;
    let client = any_voter(view, memory).await?;
    let added = client.member_add_learner(&seat.order.peer_url).await;
    if let Ok(id) = &added {
        tracing::info!(node = %node, member = %id, "learner added");
    }
    passing("MemberAdd", added.map(drop))
}

async fn start_member(context: &Context, view: &View, node: &NodeName, id: plan::MemberId) -> Result<(), ControllerError> {
    let (member, _) = seat_of(view, node)?;
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?;
    let ask = reading.members.iter().filter(|(m, _)| m.id.0 != id.0).flat_map(|(m, _)| m.client_urls.clone()).collect();
    // One that has run says under which name its data is.
    let listed = reading.members.iter().find(|(m, _)| m.id.0 == id.0).map(|(m, _)| m.name.clone()).unwrap_or_default();
    let generation = members::generation(&listed, &node.0);
    members::change(context, member, |spec| {
        spec.generation = generation.unwrap_or(spec.generation);
        if let Some(seat) = &mut spec.seat {
            if generation.is_some() {
                seat.order.member_name.clone_from(&listed);
            }
            seat.order.sequence += 1;
            seat.order.run = RunSpec::Run;
            seat.order.cluster_id = Some(reading.cluster_id.to_string());
            seat.order.member_id = Some(id.to_string());
            seat.order.ask.clone_from(&ask);
            // It has begun, and must never begin again.
            seat.order.bootstrap = None;
        }
    })
    .await
    .map(drop)
}

async fn promote(view: &View, memory: &mut Memory, id: plan::MemberId) -> Result<Outcome, ControllerError> {
    let client = any_voter(view, memory).await?;
    passing("MemberPromote", client.member_promote(MemberId(id.0)).await)
}

/// What the nonces of counts begin with.
const COUNT: &str = "count";

/// Asks the agents to count. Idempotent: the nonce stays for as long as this controller lives, unless another one asks after it.
async fn count_clients(context: &Context, view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let listeners = structure::listeners(view);
    let Some((boot, _)) = listeners.split_first() else { return Ok(()) };
    if memory.listening_since.is_none() && all_listen(view) {
        memory.listening_since = Some(view.now_ms);
    }
    let theirs = view.members.iter().map(|m| m.spec.nonce.as_str()).filter(|n| members::asked_at(COUNT, n).is_some()).max();
    if let Some(newer) = members::newer(COUNT, memory.count.as_deref(), theirs) {
        memory.count = Some(newer.to_owned());
    }
    let nonce = memory.count.get_or_insert_with(|| members::ask(COUNT, view.now_ms)).clone();
    let boot_on_member_node = view.boot_member().is_some_and(|b| view.member_of(&b.spec.node_name).is_some());
    for member in &view.members {
        let is_boot = member.spec.role == Role::Boot;
        let own_listener = member.spec.seat.as_ref().map(|s| members::address(&s.order.client_url));
        let clients = if is_boot { vec![boot.clone()] } else { own_listener.into_iter().collect() };
        // Two EtcdMembers may be one node: its own connections are counted once.
        let own = if is_boot && boot_on_member_node { Vec::new() } else { listeners.clone() };
        members::change(context, member, |spec| {
            spec.nonce.clone_from(&nonce);
            spec.count_clients.clone_from(&clients);
            spec.count_own.clone_from(&own);
        })
        .await?;
    }
    Ok(())
}

/// Whether etcd of each seat answers.
fn all_listen(view: &View) -> bool {
    let listed = |seat: &EtcdMember| {
        let id = seat.spec.seat.as_ref().and_then(|s| s.order.member_id.as_deref()).and_then(|id| id.parse().ok());
        id.and_then(|id| view.status_of(id)).is_some()
    };
    view.seats().into_iter().all(listed)
}

/// The gate before boot's removal: a write and a read through each new voter, and equal hashes at one revision, one member at a time.
async fn check_gate(view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?.clone();
    let gate = match gate_of(view, memory, &reading).await? {
        Ok(()) => Gate::Passed { at_ms: clock::now_ms() },
        Err(Failure::NotYet(why)) => Gate::NotYet { at_ms: clock::now_ms(), why },
        Err(Failure::Mismatch(what)) => Gate::HashMismatch { what },
    };
    tracing::info!(gate = ?gate, "gate before boot's removal");
    memory.gate = Some((reading.ids(), gate));
    Ok(())
}

enum Failure {
    NotYet(String),
    Mismatch(String),
}

/// etcd refuses MemberRemove, too, until every voter has been connected for 5 s (`--strict-reconfig-check`, HealthInterval). A drain that
/// began earlier would use up its own window; one second for what the members see later than we do.
const CONNECTED_MS: u64 = STRICT_CHECK_MS + 1_000;
/// How long every voter must have been connected before etcd takes a MemberAdd or MemberRemove, ms (etcd: `HealthInterval`).
const STRICT_CHECK_MS: u64 = 5_000;

async fn gate_of(view: &View, memory: &mut Memory, reading: &etcd::Reading) -> Result<Result<(), Failure>, ControllerError> {
    let boot = view.boot_id();
    for (member, _) in reading.members.iter().filter(|(m, _)| Some(m.id) != boot) {
        let since = memory.healthy_since.get(&member.id.0).copied().unwrap_or(view.now_ms);
        if view.now_ms.saturating_sub(since) < CONNECTED_MS {
            return Ok(Err(Failure::NotYet(format!("{} has been connected for less than 6 s", member.name))));
        }
    }
    let is_silent_voter = |(m, s): &&(Member, Option<MemberStatus>)| !m.is_learner && s.is_none() && Some(m.id) != boot;
    if let Some((silent, _)) = reading.members.iter().find(is_silent_voter) {
        return Ok(Err(Failure::NotYet(format!("{} does not answer", silent.name))));
    }
    // A learner takes no writes.
    for (member, _) in reading.members.iter().filter(|(m, s)| !m.is_learner && s.is_some() && Some(m.id) != boot) {
        let Some(url) = member.client_urls.first() else { continue };
        let id = member.id;
        if let Err(error) = etcd::client(memory, url).await?.write_and_read(&format!("gate-{id}")).await {
            return Ok(Err(Failure::NotYet(format!("no write through {id}: {error}"))));
        }
    }
    let (revision, hashes) = match corrupt::hashes(memory, reading, |_| true).await? {
        Ok(found) => found,
        Err(why) => return Ok(Err(Failure::NotYet(why))),
    };
    let Some((_, first)) = hashes.first() else { return Ok(Ok(())) };
    if hashes.iter().any(|(_, h)| h.compact_revision != first.compact_revision) {
        return Ok(Err(Failure::NotYet("the members were compacting while their hashes were taken".into())));
    }
    if hashes.iter().any(|(_, h)| h.hash != first.hash) {
        let all: Vec<String> = hashes.iter().map(|(id, h)| format!("{id}: {:08x}", h.hash)).collect();
        return Ok(Err(Failure::Mismatch(format!("at revision {revision}: {}", all.join(", ")))));
    }
    Ok(Ok(()))
}
