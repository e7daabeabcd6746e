//! The World: everything there is, and how time passes. It holds no randomness: who drives it decides what happens when, so that the
//! same history always ends in the same World, and a World can be cloned, compared and explored.

use etcd_operator_plan::{MemberId, Snapshot, Spec, Tombstone, wait_ms};

use crate::api::{Api, BootObject};
use crate::boot::{BootHost, BootMachine};
use crate::checks::Trace;
use crate::clients::ApiServer;
use crate::nodes::Node;
use crate::raft::Raft;
use crate::{Ms, boot};

/// How far time goes in one go, ms: the interval at which drains are watched (design D7.5).
pub const TICK_MS: Ms = 50;
/// Boot's member ID.
pub const BOOT: MemberId = MemberId(1);
/// How long a learner may make no progress, ms: longer than a node is away in a history, and short enough to be played often.
pub const PATIENCE_MS: Ms = 10_000;
/// How long a voter and its node must be away before another node takes over, ms: longer than a node is away in a history.
pub const REPLACE_AFTER_MS: Ms = 20_000;
/// What the address of a boot that is on no node is counted from, as those of the nodes are.
pub(crate) const ELSEWHERE: usize = 98;
/// Entries in boot's log when the story begins.
const SEED_ENTRIES: u64 = 20_000;

/// What to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Control nodes.
    pub nodes: usize,
    /// `spec.size`.
    pub size: u32,
    /// Where boot runs.
    pub boot: BootHost,
    /// API servers that list only boot in `--etcd-servers`.
    pub boot_only_servers: usize,
    /// Age of the API servers' refused connections: how often each channel has tried the seats in vain already.
    pub refused_before: u32,
}

impl Setup {
    /// `nodes` nodes, boot on the first as a static pod.
    #[must_use]
    pub fn of(nodes: usize, size: u32) -> Self {
        Self { nodes, size, boot: BootHost::Node(0), boot_only_servers: 0, refused_before: 3 }
    }
}

/// The simulated cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The time, ms.
    pub now: Ms,
    /// etcd.
    pub raft: Raft,
    /// Control nodes, with their agents and keepers.
    pub nodes: Vec<Node>,
    /// Boot's process, its kubelet's part and its agent's journal.
    pub boot: BootMachine,
    /// The API objects.
    pub api: Api,
    /// API servers as clients of etcd.
    pub servers: Vec<ApiServer>,
    /// Whether keepers look for themselves, before a restart, whether the others are a quorum. The planner must do without.
    pub keepers_look: bool,
    /// The cluster's ID.
    pub cluster_id: u64,
    /// Whether the API lives on another etcd than this one.
    pub api_elsewhere: bool,
    /// Whether the shipped agents act on the nodes, instead of the model's.
    pub shipped: bool,
    /// What happened, for the checks.
    pub trace: Trace,
}

impl World {
    /// A cluster on boot alone, the operator installed, nothing done yet.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let spec = Spec {
            size: setup.size,
            paused: false,
            hold_boot_removal: false,
            skip_boot_removal: false,
            abort: false,
            preflight_only: false,
            overruled: None,
        };
        let elsewhere = setup.boot == BootHost::Elsewhere;
        let boot = BootObject {
            found: true,
            snapshot: if elsewhere { Snapshot::Impossible } else { Snapshot::None },
            drain_order: None,
            drain_report: None,
            tombstone: Tombstone::None,
            changed_at: 0,
        };
        let api = Api {
            spec,
            version: 0,
            seats: Vec::new(),
            boot,
            preflight_at: None,
            preflight_answers: Vec::new(),
            settings: 0,
            count_at: None,
            counts: vec![None; setup.nodes],
            evicted: vec![None; setup.nodes],
            evictions: vec![0; setup.nodes],
        };
        let raft = Raft::of_boot(BOOT, &boot_peer_url(setup.boot), SEED_ENTRIES);
        let mut world = Self {
            now: 0,
            raft,
            nodes: (0..setup.nodes).map(Node::new).collect(),
            boot: BootMachine::new(setup.boot),
            api,
            servers: Vec::new(),
            keepers_look: true,
            cluster_id: 7,
            api_elsewhere: false,
            shipped: false,
            trace: Trace::default(),
        };
        world.servers.push(ApiServer::new(0, setup.nodes, setup.refused_before));
        for _ in 0..setup.boot_only_servers {
            let index = world.servers.len();
            world.servers.push(ApiServer::boot_only(index));
        }
        world.advance(2 * crate::raft::STRICT_CHECK_MS);
        world
    }

    /// Lets time pass.
    pub fn advance(&mut self, ms: Ms) {
        let until = self.now + ms;
        while self.now < until {
            let tick = TICK_MS.min(until - self.now);
            self.now += tick;
            boot::tick(self);
            crate::nodes::tick(self);
            if self.raft.tick(self.now, tick) {
                crate::checks::after_election(self);
            }
            crate::clients::tick(self);
            crate::checks::each_tick(self, tick);
        }
    }

    /// The peer URL of the seat on a node.
    #[must_use]
    pub fn peer_url(&self, node: usize) -> String {
        peer_url(node)
    }

    /// Where a node is now.
    pub(crate) fn address(&self, node: usize) -> String {
        let is_moved = self.nodes.get(node).is_some_and(|n| n.moved);
        if is_moved { format!("10.0.9.{}", node + 1) } else { ip(node) }
    }

    /// The ID of the listed member on a node.
    #[must_use]
    pub fn member_on(&self, node: usize) -> Option<MemberId> {
        let hosts = [ip(node), self.address(node)];
        let is_of = |m: &&crate::raft::Listed| m.id != BOOT && hosts.iter().any(|own| own == host(&m.peer_url));
        self.raft.config.iter().find(is_of).map(|m| m.id)
    }

    /// Whether boot is listed.
    #[must_use]
    pub fn boot_listed(&self) -> bool {
        self.raft.listed(BOOT).is_some()
    }

    /// Whether what a planner says now is no rest yet: a node waits, after its evictions, to be tried again; or the API does not answer, and the
    /// planner goes by what it was told before.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        let waits = |(at, count): (&Option<Ms>, &u32)| at.is_some_and(|at| self.now < at + wait_ms(*count, PATIENCE_MS));
        !self.api_answers() || self.api.evicted.iter().zip(&self.api.evictions).any(waits)
    }

    /// Voters of ours.
    #[must_use]
    pub fn our_voters(&self) -> Vec<MemberId> {
        self.raft.voters().filter(|id| *id != BOOT).collect()
    }

    /// One write by a client, acknowledged or not.
    pub fn write(&mut self) -> Option<()> {
        let entry = self.raft.propose()?;
        self.trace.acknowledged(self.now, entry);
        Some(())
    }

    /// Whether the API answers: an API server with a way to a member that serves.
    #[must_use]
    pub fn api_answers(&self) -> bool {
        self.api_elsewhere || self.raft.spare_voters() >= 0 && self.servers.iter().any(|s| s.reaches_etcd(self))
    }
}

fn boot_peer_url(host: BootHost) -> String {
    let node = match host {
        BootHost::Node(node) => node,
        BootHost::Elsewhere => ELSEWHERE,
    };
    format!("https://{}:12380", ip(node))
}

pub(crate) fn peer_url(node: usize) -> String {
    format!("https://{}:2380", ip(node))
}

/// `10.0.0.1` of `https://10.0.0.1:2380`.
pub(crate) fn host(url: &str) -> &str {
    url.trim_start_matches("https://").split(':').next().unwrap_or_default()
}

/// Internal IP of a node.
pub(crate) fn ip(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}
