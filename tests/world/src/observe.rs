//! What a controller sees of the World: the planner's [`Observed`], with what faults hide from it as `Unknown`, and with the API as
//! its cache holds it.

use std::collections::BTreeMap;

use etcd_operator_plan::{
    Absences, Address, AgentView, Boot, ClientCounts, ClusterId, Etcd, EtcdHealth, EtcdMember, Founding, Gate, KeeperBinary,
    MemberId, Node, NodeName, Observed, Preflight, Preparation, Progress, Readiness, RemoteClient, RunsWith, Sample, Seat,
    SeatSeen,
};

use crate::api::{Api, SeatObject};
use crate::boot::BootHost;
use crate::execute::Doing;
use crate::raft::{Life, Listed};
use crate::world::{BOOT, PATIENCE_MS, REPLACE_AFTER_MS, World, peer_url};

/// A controller's memory: gone when it crashes.
#[derive(Clone, Debug, PartialEq)]
pub struct Controller {
    /// Its name in the story.
    pub name: &'static str,
    /// The gate as it last checked it, and the members listed then.
    pub(crate) gate: (Gate, Vec<MemberId>),
    /// A removal that it is carrying out.
    pub(crate) doing: Option<Doing>,
    pub(crate) lags: BTreeMap<MemberId, u64>,
    pub(crate) progress: BTreeMap<MemberId, Progress>,
    /// Voters that are down, and nodes of seats that are away.
    pub(crate) absences: Absences<usize>,
    pub(crate) cache: Option<Api>,
}

impl Controller {
    /// One that has just started.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            gate: (Gate::NotChecked, Vec::new()),
            doing: None,
            lags: BTreeMap::new(),
            progress: BTreeMap::new(),
            absences: Absences::default(),
            cache: None,
        }
    }

    /// It dies, and another begins: its open stream on boot is closed.
    pub fn crash(&mut self, world: &mut World) {
        if self.doing.is_some() {
            world.boot.stream = false;
        }
        let now = world.now;
        world.trace.tell(now, format!("{} crashes", self.name));
        *self = Self::new(self.name);
    }
}

/// What is hidden from a controller in a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// No linearizable answer.
    pub no_etcd: bool,
    /// Members (by position in the list, as bits) whose Status does not come back.
    pub mute: u8,
    /// The watch lags: the API as in the round before.
    pub stale_api: bool,
}

/// What a round of observation gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The planner's input.
    pub observed: Observed,
    /// The version that an intent has to be swapped against.
    pub version: u64,
    /// The faults up to then, for the checks.
    pub faults_seen: u64,
}

/// Observes. `None` = the API does not answer and nothing was ever read: there is no pass.
pub fn observe(world: &World, controller: &mut Controller, sight: &Sight) -> Option<Observation> {
    if world.api_answers() && !(sight.stale_api && controller.cache.is_some()) {
        controller.cache = Some(world.api.clone());
    }
    let api = controller.cache.clone()?;
    let etcd = etcd(world, controller, sight);
    note_progress(world, controller, &etcd);
    note_down(world, controller, &etcd);
    let seats: Vec<&SeatObject> = sorted(&api.seats);
    let ids: Vec<MemberId> = world.raft.config.iter().map(|m| m.id).collect();
    let gate = if controller.gate.1 == ids { controller.gate.0.clone() } else { Gate::NotChecked };
    let observed = Observed {
        now_ms: world.now,
        spec: api.spec.clone(),
        nodes: world
            .nodes
            .iter()
            .zip(&api.evicted)
            .zip(&api.evictions)
            .map(|((n, evicted), count)| node(n, *evicted, *count))
            .collect(),
        seats: seats.iter().map(|s| seat(world, controller, s, api.settings)).collect(),
        boot: boot(world, &api),
        founding: Founding::Over,
        etcd,
        clients: clients(world, &api, &seats),
        gate,
        preflight: preflight(world, &api),
        learner_patience_ms: PATIENCE_MS,
        replace_after_ms: REPLACE_AFTER_MS,
        adds_beside_dead: true,
        roll_out_refused: None,
        rolled_back: None,
        roll_out: Preparation::Ready,
        downgrade: etcd_operator_plan::Downgrade::None,
        // They list all seats, or only boot (`clients.rs`).
        api_servers: Vec::new(),
        accused: Vec::new(),
        stores: etcd_operator_plan::Stores::NotCompared,
    };
    Some(Observation { observed, version: api.version, faults_seen: world.trace.faults })
}

fn sorted(seats: &[SeatObject]) -> Vec<&SeatObject> {
    let mut seats: Vec<&SeatObject> = seats.iter().collect();
    seats.sort_by_key(|s| s.node);
    seats
}

fn node(node: &crate::nodes::Node, evicted_ms: Option<crate::Ms>, evictions: u32) -> Node {
    Node {
        name: NodeName(node.name.clone()),
        zone: String::new(),
        // The kubelet's Lease runs out.
        readiness: if node.on_since.is_some() { node.readiness } else { Readiness::NotReady },
        cordoned: node.cordoned,
        agent: if node.agent_answers() { AgentView::Fresh } else { AgentView::Silent },
        evicted_ms,
        evictions,
        is_taken: false,
    }
}

fn seat(world: &World, controller: &Controller, seat: &SeatObject, wanted: u8) -> Seat {
    let name = &world.nodes[seat.node].name;
    Seat {
        node: NodeName(name.clone()),
        member_name: format!("{name}-1"),
        peer_url: peer_url(seat.node),
        address: Address::Right,
        url_of: None,
        ordered: seat.ordered,
        keeper: seat.keeper.clone(),
        // Nobody upgrades the operator here; `shipped/` does.
        binary: KeeperBinary::Unknown,
        restart_ordered_ms: seat.restart.filter(|restart| seat.restarted != Some(restart.id)).map(|_| seat.changed_at),
        replaced_ms: None,
        may_go_back: false,
        runs_with: match seat.runs_with {
            Some(_) if seat.restart.is_some_and(|restart| seat.restarted != Some(restart.id)) => RunsWith::UnderWay,
            Some(runs) if runs != wanted => RunsWith::Outdated,
            None if seat.settings != wanted => RunsWith::Outdated,
            Some(_) | None => RunsWith::Current,
        },
        problem: None,
        no_progress_since_ms: seat.ordered.and_then(|id| controller.progress.get(&id)).map(Progress::since_ms),
        away_since_ms: controller.absences.away_since(&seat.node),
        up_since_ms: seat.ordered.and_then(|id| match world.raft.processes.get(&id).map(|p| p.life) {
            Some(Life::Up { since }) => Some(since),
            Some(Life::Down | Life::Draining { .. }) | None => None,
        }),
        is_leaving: is_away(world, seat.node) || world.nodes[seat.node].cordoned,
        // A drain is one instant here; `shipped/` has its ends.
        drains_in_vain: 0,
        down_since_ms: seat.ordered.and_then(|id| controller.absences.down_since(id)),
    }
}

fn boot(world: &World, api: &Api) -> Boot {
    let host = match world.boot.host {
        BootHost::Node(_) if api.boot.found => etcd_operator_plan::BootHost::StaticPod,
        BootHost::Node(_) => etcd_operator_plan::BootHost::NotFound,
        BootHost::Elsewhere => etcd_operator_plan::BootHost::Elsewhere,
    };
    Boot::Member { id: Some(BOOT), host, snapshot: api.boot.snapshot, drain: api.boot.drain(), tombstone: api.boot.tombstone }
}

fn etcd(world: &World, controller: &mut Controller, sight: &Sight) -> Etcd {
    if sight.no_etcd || world.raft.leader.is_none() || world.raft.spare_voters() < 0 {
        return Etcd::Unknown { why: "no leader, or no answer".into() };
    }
    let before = std::mem::take(&mut controller.lags);
    let members = world.raft.config.iter().enumerate().map(|(position, listed)| {
        let muted = sight.mute & 1_u8.checked_shl(u32::try_from(position).unwrap_or(8)).unwrap_or(0) != 0;
        let health = if muted { EtcdHealth::Unknown } else { health(world, listed, &before) };
        if let EtcdHealth::Healthy { lag, .. } = health {
            controller.lags.insert(listed.id, lag.0);
        }
        EtcdMember {
            id: listed.id,
            name: listed.name.clone(),
            peer_urls: vec![listed.peer_url.clone()],
            is_learner: listed.learner,
            health,
        }
    });
    Etcd::Known { cluster: ClusterId(7), members: members.collect() }
}

/// How the learners get on: their data's size by the node's agent, what they have applied by themselves.
fn note_progress(world: &World, controller: &mut Controller, etcd: &Etcd) {
    let Etcd::Known { members, .. } = etcd else { return };
    let learner = |id: &MemberId| members.iter().any(|m| m.id == *id && m.is_learner);
    controller.progress.retain(|id, _| learner(id));
    for member in members.iter().filter(|m| m.is_learner) {
        let has = world.raft.processes.get(&member.id).map(|p| p.log.last_index());
        let agent = (0..world.nodes.len()).any(|n| world.member_on(n) == Some(member.id) && world.nodes[n].agent_answers());
        let lag = match member.health {
            EtcdHealth::Healthy { lag: (now, _), .. } => Some(now),
            EtcdHealth::Unhealthy | EtcdHealth::Unknown => None,
        };
        let sample = Sample { size: has.filter(|_| agent), applied: lag.and(has), lag };
        controller
            .progress
            .entry(member.id)
            .and_modify(|p| p.note(world.now, sample, PATIENCE_MS))
            .or_insert_with(|| Progress::begin(world.now, sample));
    }
}

fn note_down(world: &World, controller: &mut Controller, etcd: &Etcd) {
    let Etcd::Known { members, .. } = etcd else { return };
    let is_down = |m: &&EtcdMember| !m.is_learner && !matches!(m.health, EtcdHealth::Healthy { .. });
    let down: Vec<MemberId> = members.iter().filter(is_down).map(|m| m.id).collect();
    let seat = |seat: &SeatObject| SeatSeen { node: seat.node, is_away: is_away(world, seat.node), member: seat.ordered };
    let seats: Vec<_> = controller.cache.iter().flat_map(|api| &api.seats).map(seat).collect();
    controller.absences.note(world.now, REPLACE_AFTER_MS, &down, &seats);
}

/// The kubelet's Lease runs out.
fn is_away(world: &World, node: usize) -> bool {
    let node = &world.nodes[node];
    node.on_since.is_none() || node.readiness == Readiness::NotReady
}

fn health(world: &World, listed: &Listed, before: &BTreeMap<MemberId, u64>) -> EtcdHealth {
    match world.raft.processes.get(&listed.id).map(|p| p.life) {
        // It has not published itself, and serves nobody.
        Some(Life::Up { .. }) if listed.name.is_empty() => EtcdHealth::Unknown,
        Some(Life::Up { .. }) => EtcdHealth::Healthy {
            is_leader: world.raft.leader == Some(listed.id),
            lag: (world.raft.lag(listed.id), before.get(&listed.id).copied()),
        },
        // A draining member takes no new client.
        Some(Life::Draining { .. } | Life::Down) | None => EtcdHealth::Unknown,
    }
}

fn preflight(world: &World, api: &Api) -> Preflight {
    if api.preflight_at.is_none() {
        return Preflight::NotRun;
    }
    let missing: Vec<&str> = world
        .nodes
        .iter()
        .enumerate()
        .filter(|(i, _)| !api.preflight_answers.contains(i))
        .map(|(_, n)| n.name.as_str())
        .collect();
    if missing.is_empty() { Preflight::Passed } else { Preflight::Pending { missing: missing.join(", ") } }
}

/// The agents' counts, put together. An agent that doesn't answer counts for nothing it said before.
fn clients(world: &World, api: &Api, seats: &[&SeatObject]) -> ClientCounts {
    let unknown = |missing: &str| ClientCounts::Unknown { missing: missing.to_owned() };
    if api.count_at.is_none() {
        return unknown("not asked for");
    }
    let answer = |node: usize| api.counts.get(node).and_then(Option::as_ref).filter(|_| world.nodes[node].agent_answers());
    let mut to_members = Vec::new();
    let mut listening_since_ms = 0;
    for seat in seats {
        match answer(seat.node).map(|c| (c.listening_since, &c.to_member)) {
            Some((Some(since), counts)) => {
                listening_since_ms = listening_since_ms.max(since);
                to_members.push(counts);
            }
            Some((None, _)) | None => return unknown(&world.nodes[seat.node].name),
        }
    }
    let to_boot = match world.boot.host {
        BootHost::Elsewhere => &Vec::new(),
        BootHost::Node(node) => match answer(node) {
            Some(counted) => &counted.to_boot,
            None => return unknown(&world.nodes[node].name),
        },
    };
    let remote = |(server, to_boot): (usize, &u32)| RemoteClient {
        ip: format!("10.0.1.{server}"),
        to_boot: *to_boot,
        to_members: to_members.iter().map(|m| m.get(server).copied().unwrap_or(0)).collect(),
    };
    let remotes = to_boot.iter().enumerate().filter(|(_, n)| **n > 0).map(remote).collect();
    ClientCounts::Known { listening_since_ms, remotes }
}
