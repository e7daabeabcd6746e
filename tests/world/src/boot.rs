//! Boot etcd as a static pod: its kubelet starts it whenever it is down and its manifest is there, which makes the kubelet the
//! dead-man of a drain. The agent of its node signals it, asks the others whether it is still listed, and kills or lets it come back
//! (design D7.5); its journal is on disk and needs no API.

use etcd_operator_plan::{BootDrain, Snapshot, Tombstone};

use crate::Ms;
use crate::api::DrainOrder;
use crate::nodes::KUBELET_START_MS;
use crate::raft::{DRAIN_MS, Life};
use crate::world::{BOOT, World};

/// How long after the signal a boot that is still listed is started again, ms.
pub const GIVE_UP_MS: Ms = 10_000;
/// From the removal, as its agent sees it, to SIGKILL, ms.
const KILL_AFTER_MS: Ms = 200;
/// The kubelet's restart of a container that ended, ms.
const RESTART_MS: Ms = 1_000;

/// Where boot runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootHost {
    /// As a static pod on this node (index).
    Node(usize),
    /// Where no agent is.
    Elsewhere,
}

/// Boot's machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BootMachine {
    /// Where it runs.
    pub host: BootHost,
    /// Whether its manifest is away and its data dir is unusable.
    pub tombstone: bool,
    /// Whether the controller that removes it holds a stream open on it.
    pub stream: bool,
    /// The agent's journal: the drain under way.
    pub journal: Option<Journal>,
    /// What came of the last drain, and of which order.
    pub(crate) outcome: Option<(u64, BootDrain)>,
    pub(crate) down_since: Option<Ms>,
    pub(crate) clients_at_signal: bool,
}

/// A drain under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Journal {
    /// The order that it carries out.
    pub order: DrainOrder,
    /// When SIGTERM was sent.
    pub at: Ms,
    /// Since when the others no longer list it.
    pub unlisted_since: Option<Ms>,
}

impl BootMachine {
    pub(crate) fn new(host: BootHost) -> Self {
        Self { host, tombstone: false, stream: false, journal: None, outcome: None, down_since: None, clients_at_signal: false }
    }

    /// What its agent reports.
    pub(crate) fn reported(&self) -> Option<(u64, BootDrain)> {
        match self.journal {
            Some(Journal { order, .. }) => Some((order.id, BootDrain::Signalled { attempt: order.attempt })),
            None => self.outcome,
        }
    }
}

pub(crate) fn tick(world: &mut World) {
    end_of_drain(world);
    hears_of_its_removal(world);
    watch_the_removal(world);
    kubelet(world);
}

/// etcd stops when its streams are closed, at the latest after 7 s.
fn end_of_drain(world: &mut World) {
    let streams = world.boot.stream || world.boot.clients_at_signal;
    if let Some(Life::Draining { until }) = world.raft.processes.get(&BOOT).map(|p| p.life)
        && (world.now >= until || !streams)
    {
        stop(world);
    }
}

/// A boot that was removed alive stops by itself; one that drains no longer hears of it.
fn hears_of_its_removal(world: &mut World) {
    if !world.boot_listed() && matches!(world.raft.processes.get(&BOOT).map(|p| p.life), Some(Life::Up { .. })) {
        stop(world);
    }
}

/// The agent's journal: every tick, without the API.
fn watch_the_removal(world: &mut World) {
    let now = world.now;
    let BootHost::Node(index) = world.boot.host else { return };
    if !world.nodes[index].agent_answers() {
        return;
    }
    let answer = world.raft.leader.is_some_and(|l| l != BOOT).then(|| world.boot_listed());
    let Some(journal) = world.boot.journal.as_mut() else { return };
    if answer == Some(false) {
        let since = *journal.unlisted_since.get_or_insert(now);
        if now >= since + KILL_AFTER_MS {
            world.boot.outcome = Some((journal.order.id, BootDrain::Gone));
            world.boot.journal = None;
            stop(world);
        }
    } else if now >= journal.at + GIVE_UP_MS {
        let order = journal.order;
        world.boot.outcome = Some((order.id, BootDrain::StartedAgain { attempt: order.attempt }));
        world.boot.journal = None;
    }
}

/// Its kubelet starts it whenever it is down.
fn kubelet(world: &mut World) {
    let now = world.now;
    if world.boot.tombstone || world.raft.runs(BOOT) {
        return;
    }
    let powered = match world.boot.host {
        BootHost::Node(index) => world.nodes[index].on_since.is_some_and(|on| now >= on + KUBELET_START_MS),
        BootHost::Elsewhere => true,
    };
    let rested = world.boot.down_since.is_none_or(|at| now >= at + RESTART_MS);
    // A removed boot that starts is refused by its peers and serves nothing: as good as down.
    if powered && rested && world.boot_listed() {
        world.boot.down_since = None;
        world.raft.start(now, BOOT);
    }
}

/// Its agent carries out its orders.
pub(crate) fn obey(world: &mut World) {
    if world.api.boot.tombstone == Tombstone::Pending && !world.boot.tombstone {
        world.boot.tombstone = true;
        stop(world);
    }
    let Some(order) = world.api.boot.drain_order else { return };
    if world.boot.journal.is_some() || world.boot.outcome.is_some_and(|(id, _)| id == order.id) {
        return;
    }
    if !matches!(world.raft.processes.get(&BOOT).map(|p| p.life), Some(Life::Up { .. })) {
        world.boot.outcome = Some((order.id, BootDrain::Failed { attempt: order.attempt }));
        return;
    }
    world.boot.journal = Some(Journal { order, at: world.now, unlisted_since: None });
    sigterm(world);
}

/// Boot gets SIGTERM.
pub(crate) fn sigterm(world: &mut World) {
    world.boot.clients_at_signal = world.servers.iter().any(|s| s.sockets_to(BOOT) > 0);
    if let Some(process) = world.raft.processes.get_mut(&BOOT) {
        process.life = Life::Draining { until: world.now + DRAIN_MS };
    }
    world.trace.signals += 1;
    let now = world.now;
    world.trace.tell(now, "boot gets SIGTERM");
}

/// Boot's process ends: kill -9, or the end of its drain.
pub fn stop(world: &mut World) {
    world.raft.stop(BOOT);
    world.boot.down_since = Some(world.now);
    world.boot.stream = false;
    world.boot.clients_at_signal = false;
}

pub(crate) fn power_cut(world: &mut World, index: usize) {
    if world.boot.host == BootHost::Node(index) {
        stop(world);
        crate::clients::lost_power(world, BOOT);
    }
}

/// A snapshot is asked for: answered at once where boot runs as a pod.
pub(crate) fn ask_snapshot(world: &mut World) {
    if world.api.boot.snapshot == Snapshot::None {
        world.api.boot.snapshot = Snapshot::Pending;
        world.api.boot.changed_at = world.now;
    }
}
