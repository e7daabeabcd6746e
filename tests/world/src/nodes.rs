//! Nodes: power, the agent (needs the API) and the keeper (needs only its disk). The keeper here is the start table of design §3 as
//! far as a disk that is never wiped needs it.

use etcd_operator_plan::{DATA_IS_CORRUPT, KeeperView, MemberId, Readiness, Snapshot, Tombstone};

use crate::api::{Counted, Restart};
use crate::raft::Life;
use crate::world::World;
use crate::{Ms, boot::BootHost};

/// How long an agent's watch takes to bring an order, ms.
pub const AGENT_DELAY_MS: Ms = 100;
/// How long certificate, image proof and pod take on a node, ms.
const PREPARE_MS: Ms = 1_500;
/// From the order of other settings until etcd serves again, its drain left out, ms.
const RESTART_MS: Ms = 2_000;
/// From power to the first process of the kubelet's static pods, ms.
pub(crate) const KUBELET_START_MS: Ms = 1_000;

/// A control node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Since when it has power; `None` = off.
    pub on_since: Option<Ms>,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// Its Ready condition.
    pub readiness: Readiness,
    /// Whether its agent runs (when the node does).
    pub agent_alive: bool,
    /// Whether it has got another address.
    pub moved: bool,
    /// The keeper's pod, once the node has a seat.
    pub keeper: Option<Keeper>,
}

/// The keeper: what stands on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keeper {
    /// When the agent wrote the manifest.
    pub since: Ms,
    /// The member ID in its order.
    pub order: Option<MemberId>,
    /// Whose data lies in the data directory.
    pub data: Option<MemberId>,
    /// Member IDs that ran here.
    pub ran_here: Vec<MemberId>,
    /// Member IDs whose removal it learned.
    pub removed: Vec<MemberId>,
    /// The settings in its order.
    pub settings: u8,
    /// An order to restart etcd with them.
    pub restart: Option<Restart>,
    /// The one that it has done with.
    pub restarted: Option<u64>,
    /// The settings with which its etcd runs, or ran last.
    pub runs_with: u8,
    /// Until when it restarts etcd with other ones.
    pub restarts_until: Option<Ms>,
    /// The member as which it began a cluster.
    pub founded: Option<MemberId>,
    /// Its order is for an address that its node does not have.
    pub elsewhere: bool,
}

/// A node's name.
pub(crate) fn name(index: usize) -> String {
    format!("cp{}", index + 1)
}

impl Node {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            name: name(index),
            on_since: Some(0),
            cordoned: false,
            readiness: Readiness::NoNetworkYet,
            agent_alive: true,
            moved: false,
            keeper: None,
        }
    }

    /// Whether its agent runs and answers.
    #[must_use]
    pub fn agent_answers(&self) -> bool {
        self.on_since.is_some() && self.agent_alive
    }
}

pub(crate) fn tick(world: &mut World) {
    for index in 0..world.nodes.len() {
        keep(world, index);
    }
    if world.shipped {
        return;
    }
    if world.now % AGENT_DELAY_MS >= crate::world::TICK_MS || !world.api_answers() {
        return;
    }
    for index in 0..world.nodes.len() {
        if world.nodes[index].agent_answers() {
            obey(world, index);
            report(world, index);
        }
    }
}

/// One look of the keeper on a node.
fn keep(world: &mut World, index: usize) {
    let now = world.now;
    if world.nodes[index].on_since.is_none_or(|on| now < on + KUBELET_START_MS) {
        return;
    }
    let address = world.address(index);
    let (looks, reachable, raft) = (world.keepers_look, world.raft.leader.is_some(), &mut world.raft);
    let Some(keeper) = world.nodes[index].keeper.as_mut() else { return };
    if let Some(data) = keeper.data
        && reachable
        && raft.listed(data).is_none()
        && !keeper.removed.contains(&data)
    {
        keeper.removed.push(data);
        raft.stop(data);
    }
    let Some(order) = keeper.order.filter(|id| !keeper.removed.contains(id)) else { return };
    // Nor do its peers find it where they do not look.
    if keeper.elsewhere || raft.listed(order).is_some_and(|m| crate::world::host(&m.peer_url) != address) {
        if raft.runs(order) {
            raft.stop(order);
        }
        return;
    }
    let ordered = keeper.restart.filter(|restart| keeper.restarted != Some(restart.id));
    if let Some(restart) = ordered.filter(|_| keeper.data == Some(order) && raft.runs(order) && keeper.restarts_until.is_none()) {
        if keeper.runs_with == keeper.settings {
            keeper.restarted = Some(restart.id);
            return;
        }
        // The keeper's own look: the others must be a quorum without it.
        let voters: Vec<MemberId> = raft.voters().collect();
        let well = voters.iter().filter(|id| **id != order && reachable && raft.runs(**id)).count();
        if looks && voters.contains(&order) && well < etcd_operator_plan::quorum_of(voters.len()) {
            return;
        }
        keeper.restarts_until = Some(now + RESTART_MS);
        let before = crate::checks::before(world, restart.faults_seen);
        world.raft.stop(order);
        crate::checks::after(world, &before, "RollOut", None);
        return;
    }
    if keeper.restarts_until.take_if(|until| now >= *until).is_none() && keeper.restarts_until.is_some() {
        return;
    }
    if keeper.data == Some(order) {
        if !raft.runs(order) {
            started(keeper);
        }
        raft.start(now, order);
    } else if reachable && raft.listed(order).is_some() && !keeper.ran_here.contains(&order) {
        // Its version is not the one above the cluster's (etcd: `allowedVersionRange`).
        if raft.downgrade.is_some() {
            return;
        }
        // Data of a removed member is archived first; data of a member that is still listed is not ours to touch.
        if keeper.data.is_some_and(|d| !keeper.removed.contains(&d)) {
            return;
        }
        keeper.ran_here.push(order);
        keeper.data = Some(order);
        started(keeper);
        raft.start(now, order);
    }
}

/// etcd is started with what the order has.
fn started(keeper: &mut Keeper) {
    keeper.runs_with = keeper.settings;
    keeper.restarted = keeper.restart.map(|restart| restart.id);
}

/// What the keeper on a node says.
pub(crate) fn view(world: &World, index: usize) -> KeeperView {
    let node = &world.nodes[index];
    let Some(keeper) = &node.keeper else { return KeeperView::NotPrepared { why: "no pod yet".into() } };
    if world.now < keeper.since + PREPARE_MS {
        return KeeperView::NotPrepared { why: "proving the image".into() };
    }
    match keeper.data {
        Some(data) if keeper.removed.contains(&data) => KeeperView::Stopped,
        Some(data) if world.raft.runs(data) => KeeperView::Running,
        Some(data) if is_refused(world, data) => {
            KeeperView::Refused { reason: DATA_IS_CORRUPT.into(), message: "its peers have another store".into() }
        }
        None if is_lost(world, index) => KeeperView::Refused { reason: "DataLost".into(), message: "no data".into() },
        Some(_) | None => KeeperView::Waiting { reason: "WaitToBeAdded".into() },
    }
}

/// Whether etcd ends again and again, as its peers have another store.
pub(crate) fn is_refused(world: &World, data: MemberId) -> bool {
    world.raft.corrupt.contains(&data)
        && world.raft.leader.is_some()
        && world.raft.listed(data).is_some()
        && !world.raft.runs(data)
}

/// Whether the keeper of a node refuses an empty directory: only a linearizable answer that lists the member makes it a loss.
pub(crate) fn is_lost(world: &World, index: usize) -> bool {
    let Some(keeper) = world.nodes.get(index).and_then(|n| n.keeper.as_ref()) else { return false };
    let is_listed = |id: MemberId| world.raft.leader.is_some() && world.raft.listed(id).is_some();
    keeper.data.is_none() && keeper.order.is_some_and(|id| keeper.ran_here.contains(&id) && is_listed(id))
}

/// The agent carries out what its watch has brought.
fn obey(world: &mut World, index: usize) {
    let seen = world.now.saturating_sub(AGENT_DELAY_MS);
    match world.api.seats.iter().find(|s| s.node == index).filter(|s| s.changed_at <= seen) {
        Some(seat) => {
            let fresh = Keeper { since: world.now, ..Keeper::default() };
            let keeper = world.nodes[index].keeper.get_or_insert(fresh);
            (keeper.order, keeper.settings, keeper.restart) = (seat.ordered, seat.settings, seat.restart);
        }
        None if world.api.seats.iter().all(|s| s.node != index) => {
            if let Some(data) = world.nodes[index].keeper.take().and_then(|k| k.data) {
                world.raft.stop(data);
            }
        }
        None => {}
    }
    if world.api.preflight_at.is_some_and(|at| at <= seen) && !world.api.preflight_answers.contains(&index) {
        world.api.preflight_answers.push(index);
    }
    if world.boot.host == BootHost::Node(index) && world.api.boot.changed_at <= seen {
        crate::boot::obey(world);
    }
}

/// The agent writes its status.
fn report(world: &mut World, index: usize) {
    let view = view(world, index);
    let seen = world.now.saturating_sub(AGENT_DELAY_MS);
    let running = world.nodes[index].keeper.as_ref().filter(|k| k.data.is_some_and(|data| world.raft.runs(data)));
    let runs_with = running.map(|k| k.runs_with);
    let restarted = world.nodes[index].keeper.as_ref().and_then(|k| k.restarted);
    if let Some(seat) = world.api.seats.iter_mut().find(|s| s.node == index) {
        (seat.keeper, seat.runs_with, seat.restarted) = (view, runs_with, restarted);
    }
    world.api.counts[index] = if world.api.count_at.is_some_and(|at| at <= seen) { Some(count(world, index)) } else { None };
    if world.boot.host == BootHost::Node(index) {
        world.api.boot.found = world.raft.runs(crate::world::BOOT);
        world.api.boot.drain_report = world.boot.reported();
        if world.api.boot.snapshot == Snapshot::Pending && world.raft.runs(crate::world::BOOT) {
            world.api.boot.snapshot = Snapshot::Taken;
        }
        if world.api.boot.tombstone == Tombstone::Pending && world.boot.tombstone {
            world.api.boot.tombstone = Tombstone::Set;
        }
    }
}

/// Sockets on this node, per API server.
fn count(world: &World, index: usize) -> Counted {
    let here = |id: MemberId| world.servers.iter().map(|s| s.sockets_to(id)).collect::<Vec<u32>>();
    let to_boot = if world.boot.host == BootHost::Node(index) { here(crate::world::BOOT) } else { Vec::new() };
    let running = world.member_on(index).and_then(|id| match world.raft.processes.get(&id).map(|p| p.life) {
        Some(Life::Up { since }) => Some((id, since)),
        Some(Life::Down | Life::Draining { .. }) | None => None,
    });
    Counted {
        to_boot,
        to_member: running.map(|(id, _)| here(id)).unwrap_or_default(),
        listening_since: running.map(|(_, since)| since),
    }
}

/// The node loses power: everything on it is gone in the same instant, its disk stays.
pub fn power_cut(world: &mut World, index: usize) {
    let Some(node) = world.nodes.get_mut(index) else { return };
    node.on_since = None;
    if let Some(keeper) = &mut node.keeper {
        keeper.restarts_until = None;
    }
    if let Some(data) = node.keeper.as_ref().and_then(|k| k.data) {
        world.raft.stop(data);
        crate::clients::lost_power(world, data);
    }
    crate::boot::power_cut(world, index);
    for server in world.servers.iter_mut().filter(|s| s.node == index) {
        server.power_cut();
    }
}

/// The data directory of a node's member is emptied. Not if it is needed: of three voters or more, while all the others have their data and run,
/// and boot is not just leaving.
pub(crate) fn wipe(world: &mut World, index: usize) {
    if world.boot_listed() && (world.boot.journal.is_some() || world.api.boot.drain_order.is_some()) {
        return;
    }
    let Some(data) = world.nodes.get(index).and_then(|n| n.keeper.as_ref()?.data) else { return };
    let others = || world.raft.voters().filter(|id| *id != data);
    let is_voter = world.raft.listed(data).is_some_and(|m| !m.learner);
    if is_voter && !(others().count() >= 2 && others().all(|id| world.raft.runs(id))) {
        return;
    }
    if let Some(keeper) = &mut world.nodes[index].keeper {
        keeper.data = None;
    }
    world.raft.wipe(data);
}

/// The node gets another address. Its etcd is cut off.
pub(crate) fn moves(world: &mut World, index: usize) {
    world.nodes[index].moved = true;
    if let Some(data) = world.nodes[index].keeper.as_ref().and_then(|k| k.data) {
        world.raft.stop(data);
        crate::clients::lost_power(world, data);
    }
}

/// Bits flip in the store of a node's member, and etcd finds out. Not if that leaves no quorum of good ones.
pub(crate) fn flip_bits(world: &mut World, index: usize, is_named: bool) {
    let Some(id) = world.member_on(index) else { return };
    world.raft.alarms_name = is_named;
    world.raft.corrupt.insert(id);
    world.raft.compare();
    if world.raft.alarms.is_empty() {
        world.raft.corrupt.remove(&id);
    }
}

/// The node gets power again: the kubelet starts what stands in its manifest directory, the agent comes with the API.
pub fn power_on(world: &mut World, index: usize) {
    let now = world.now;
    let Some(node) = world.nodes.get_mut(index).filter(|n| n.on_since.is_none()) else { return };
    node.on_since = Some(now);
    for server in world.servers.iter_mut().filter(|s| s.node == index) {
        server.power_on(now + KUBELET_START_MS);
    }
}
