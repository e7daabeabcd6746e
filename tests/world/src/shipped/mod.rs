//! The shipped controller and agents in the World: the same code as in the image, its calls to the API, to etcd and to other processes
//! answered by the World, its files real, its clock paused and moved on when nothing else is left to do. A pivot takes a second or so.
//!
//! [`tell`] plays one [`Tale`]: who dies in which of its calls, what else goes wrong. Kubelets and keepers are the World's (`nodes.rs`,
//! `disk.rs`); the keeper's own code has its tests beside it, against real data directories.

#![allow(clippy::expect_used, reason = "where the stage cannot be set, a test ends by it")]

mod api_server;
mod binary;
mod calls;
mod disk;
mod etcd;
mod installer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use etcd_operator::controller::{ControllerArgs, LeaseTimes};
use etcd_operator::telemetry::Metrics;
use etcd_operator_client::{ApiServers, ClientOptions, clock};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::nodes::{power_cut, power_on};
use crate::raft::Raft;
use crate::world::{Setup, TICK_MS, World, ip, peer_url};
use crate::{Ms, Violation, checks};
use api_server::{Service, Store};
use calls::Calls;
pub use calls::When;
use disk::Disks;
use etcd::Way;
use installer::Machine;

/// The EtcdCluster.
pub const CLUSTER: &str = "kube-etcd";
/// The operator's namespace.
pub const NAMESPACE: &str = "etcd-system";
const REPOSITORY: &str = "registry.example/etcd";
const VERSION: &str = "3.6.16";
/// A later one, and one whose etcd does not come up.
const LATER: &str = "3.6.17";
const BAD: &str = "3.6.18";
/// One of the minor version before.
const EARLIER: &str = "3.5.33";
/// The version of the data of all others.
const NEWEST: &str = "3.6.0";
/// How long etcd takes to convert its data, ms.
const CONVERTS_MS: Ms = 2_000;

pub(crate) type SharedWorld = Arc<Mutex<World>>;

pub(crate) fn lock(world: &SharedWorld) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The controller: its first replica, or the second.
    Controller(usize),
    /// The agent on a node.
    Agent(usize),
    /// The pivot command, where boot is a plain process ([`BootIs::Process`]).
    Installer,
}

/// What boot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootIs {
    /// A static pod, or a process elsewhere that nobody stops.
    AsSetUp,
    /// A plain process, which the installer's program stops and starts.
    Process,
    /// The same, and nobody runs the program.
    ForgottenProcess,
}

/// What happens after the pivot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// The operator is upgraded, its pods one after the other.
    Upgrade,
    /// `kubectl scale`.
    Scale(u32),
    /// `spec.etcd.heartbeatInterval` is another one.
    Settings,
    /// `spec.version` is a later patch, and the pod has a label more.
    Version,
    /// The same, and its etcd does not come up.
    BadVersion,
    /// `spec.version` is of the minor version before; and so long after that something else happens, ms.
    Downgrade(Option<(Ms, Meanwhile)>),
    /// The data of a node's member is gone.
    Wipe(usize),
    /// Bits have flipped in the store of a node's member, and etcd has found out.
    Corrupt {
        /// Which node's.
        node: usize,
        /// Whether its alarm says so.
        is_named: bool,
    },
    /// A node is gone for good.
    Gone(usize),
    /// A node has got another address.
    Moved(usize),
    /// Somebody restores all EtcdMembers from a backup.
    Restored {
        /// Whether that is of the nodes' earlier members; else of the moment before they were added.
        earlier_members: bool,
    },
    /// All EtcdMembers are gone, and come back blank: made while etcd could not be asked.
    Blank,
    /// The EtcdCluster is deleted.
    Deleted,
}

/// What happens in the middle of a downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// `spec.version` is set back.
    Back,
    /// The data of a node's member is gone.
    Wipe(usize),
}

impl After {
    /// What `spec.version` is then.
    fn version(self) -> &'static str {
        match self {
            Self::Version => LATER,
            Self::BadVersion => BAD,
            Self::Downgrade(Some((_, Meanwhile::Back))) => VERSION,
            Self::Downgrade(_) => EARLIER,
            _ => VERSION,
        }
    }

    /// What the members run in the end.
    fn version_at_rest(self) -> &'static str {
        if self == Self::BadVersion { VERSION } else { self.version() }
    }
}

/// What goes wrong when a call is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing: the calls are counted.
    Nothing,
    /// The process dies, or the answer is lost.
    Process(When),
    /// All nodes lose power, and have it again 3 s later.
    PowerOfAll,
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Tale {
    /// The cluster.
    pub setup: Setup,
    /// Whose call.
    pub who: Who,
    /// Which of its calls, from 0.
    pub call: usize,
    /// What goes wrong then.
    pub wrong: Wrong,
    /// A second controller that leads as well.
    pub two_controllers: bool,
    /// What boot advertises to its peers instead of its node's address.
    pub boot_peer_url: Option<&'static str>,
    /// A node whose link carries a learner so many entries per second, and until when (ms of the tale).
    pub slow: Option<(usize, u64, Ms)>,
    /// What happens after the pivot; what goes wrong then goes wrong in processes that begin with it.
    pub after: After,
    /// What boot is.
    pub boot_is: BootIs,
    /// A cluster that begins anew, and not the API's.
    pub standalone: bool,
}

impl Tale {
    /// An undisturbed pivot.
    #[must_use]
    pub fn of(setup: Setup) -> Self {
        Self {
            setup,
            who: Who::Controller(0),
            call: usize::MAX,
            wrong: Wrong::Nothing,
            two_controllers: false,
            boot_peer_url: None,
            slow: None,
            after: After::Nothing,
            boot_is: BootIs::AsSetUp,
            standalone: false,
        }
    }
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Whether the pivot was complete in time.
    pub complete: bool,
    /// When, ms of the World.
    pub at: Ms,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// Writes of the API servers that failed.
    pub failed_writes: usize,
    /// Changes of API objects, Leases left out, and membership calls, in the minute after the end.
    pub restless: Vec<String>,
    /// After an upgrade: which node's keepers handed over, in this order, one word per node and spell.
    pub hand_overs: Vec<Vec<usize>>,
    /// After the pivot: etcd processes of ours that are not those from before it.
    pub etcd_restarts: usize,
    /// The calls of each process's first life (or its first after the pivot, if something happens then), up to the end.
    pub calls: BTreeMap<Who, Vec<String>>,
    /// What the Events say, in order.
    pub events: Vec<String>,
    /// The names of the members, as etcd lists them.
    pub members: Vec<String>,
    /// The World's story, and the object's last words, for a human.
    pub story: String,
}

/// The controller's patience with a learner: less than its default, so that a tale is told sooner.
const PATIENCE: Duration = Duration::from_secs(120);
/// The controller's grace with a node that is away: less than its default, too.
const REPLACE_AFTER: Duration = Duration::from_secs(120);
/// How long a process that died takes to be started again.
const RESTART: Duration = Duration::from_secs(3);
/// Within which a tale must have ended, ms: gRPC's longest backoff, the longest drains in vain, and room.
const ENDS_WITHIN_MS: Ms = 900_000;
/// How often etcd compares the stores, ms.
const COMPACT_EVERY_MS: Ms = 300_000;
/// How long it must look complete to be, ms.
const SURE_MS: Ms = 10_000;
/// How long it is watched after its end, ms.
const REST_MS: Ms = 60_000;

/// Plays a tale, on a runtime of its own.
///
/// # Panics
/// When the stage cannot be set: no runtime, no temporary files.
#[must_use]
pub fn tell(tale: &Tale) -> Ending {
    let _ = rustls::crypto::ring::default_provider().install_default();
    clock::simulate();
    if std::env::var_os("RUST_LOG").is_some() {
        etcd_operator::telemetry::start();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut stage = Stage::new(tale);
        stage.play().await
    })
}

struct Process {
    who: Who,
    calls: Calls,
    task: JoinHandle<()>,
    first_life: Calls,
}

struct Stage<'a> {
    tale: &'a Tale,
    world: SharedWorld,
    store: Store,
    disks: Disks,
    /// Of a boot that is a plain process.
    machine: Machine,
    processes: Vec<Process>,
    /// Who starts again when.
    dead: Vec<(Who, tokio::time::Instant)>,
    power_on_at: Option<tokio::time::Instant>,
    /// When the tale began, on the World's clock.
    began: Ms,
    gone_wrong: bool,
    /// When what happens after the pivot did, while something else is to follow.
    changed_at: Option<Ms>,
    /// Whose keepers hand over, whenever that changed.
    hand_overs: Vec<Vec<usize>>,
}

impl<'a> Stage<'a> {
    fn new(tale: &'a Tale) -> Self {
        let mut world = World::new(&tale.setup);
        world.shipped = true;
        if tale.standalone {
            (world.raft, world.api_elsewhere) = (Raft::nothing(), true);
            world.servers.clear();
            // What boot was told before never was.
            world.trace = crate::checks::Trace::default();
        }
        if let (Some(url), Some(boot)) = (tale.boot_peer_url, world.raft.config.first_mut()) {
            url.clone_into(&mut boot.peer_url);
        }
        if let Some((node, per_second, _)) = tale.slow {
            world.raft.slow.insert(peer_url(node), per_second);
        }
        let mut disks = Disks::new(&world, tale.boot_is).expect("temporary files");
        // Today's refuse by themselves what the controller must not order.
        disks.older_keepers = matches!(tale.after, After::Restored { .. });
        let store = Store::new();
        objects(&store, &world, tale);
        let began = world.now;
        let world = Arc::new(Mutex::new(world));
        let mut stage = Self {
            tale,
            began,
            world,
            store,
            disks,
            machine: Machine::default(),
            processes: Vec::new(),
            dead: Vec::new(),
            power_on_at: None,
            gone_wrong: false,
            changed_at: None,
            hand_overs: Vec::new(),
        };
        let installer = (tale.boot_is == BootIs::Process).then_some(Who::Installer);
        for who in stage.everybody().into_iter().chain(installer) {
            let wrong = stage.wrong(who).filter(|_| tale.after == After::Nothing);
            stage.start(who, wrong);
        }
        stage
    }

    /// The operator's pods.
    fn everybody(&self) -> Vec<Who> {
        let controllers = if self.tale.two_controllers { 2 } else { 1 };
        (0..controllers).map(Who::Controller).chain((0..self.tale.setup.nodes).map(Who::Agent)).collect()
    }

    /// Which call of a process goes wrong.
    fn wrong(&self, who: Who) -> Option<(usize, When)> {
        let wrong = match self.tale.wrong {
            Wrong::Process(when) => Some((self.tale.call, when)),
            // The moment before the call.
            Wrong::PowerOfAll => Some((self.tale.call, When::Before)),
            Wrong::Nothing => None,
        };
        wrong.filter(|_| who == self.tale.who)
    }

    /// The operator's pods are replaced one after the other, as a Deployment and a DaemonSet do: for a while the versions differ.
    async fn upgrade(&mut self) {
        self.disks.upgrade_operator();
        for who in self.everybody() {
            self.end(who);
            if let Who::Agent(node) = who {
                self.disks.upgrade(node);
            }
            for _ in 0..(RESTART.as_millis() / u128::from(TICK_MS)) {
                self.tick().await;
            }
            self.start(who, self.wrong(who));
            if let Some(process) = self.processes.iter_mut().find(|p| p.who == who) {
                process.first_life = process.calls.clone();
            }
        }
    }

    /// Something befalls the cluster or its spec; all processes begin anew with it.
    fn change(&mut self) {
        match self.tale.after {
            After::Scale(size) => {
                let mut cluster = self.cluster();
                cluster["spec"]["size"] = json!(size);
                self.store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
                lock(&self.world).api.spec.size = size;
            }
            After::Settings => {
                let mut cluster = self.cluster();
                cluster["spec"]["etcd"] = json!({"heartbeatInterval": 200});
                self.store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
                lock(&self.world).api.settings = 2;
            }
            After::Version | After::BadVersion | After::Downgrade(_) => {
                let mut cluster = self.cluster();
                let is_downgrade = matches!(self.tale.after, After::Downgrade(_));
                cluster["spec"]["version"] = if is_downgrade { EARLIER } else { self.tale.after.version() }.into();
                cluster["spec"]["pod"] = json!({"labels": {"team": "infra"}});
                self.store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
            }
            After::Wipe(node) => crate::nodes::wipe(&mut lock(&self.world), node),
            After::Corrupt { node, is_named } => crate::nodes::flip_bits(&mut lock(&self.world), node, is_named),
            After::Gone(node) => {
                power_cut(&mut lock(&self.world), node);
                let name = crate::nodes::name(node);
                let mut object = self.store.get("nodes", "", &name).unwrap_or_default();
                object["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown"}]);
                self.store.put("nodes", "", &name, object);
            }
            After::Moved(node) => {
                crate::nodes::moves(&mut lock(&self.world), node);
                let name = crate::nodes::name(node);
                let mut object = self.store.get("nodes", "", &name).unwrap_or_default();
                object["status"]["addresses"] = json!([{"type": "InternalIP", "address": lock(&self.world).address(node)}]);
                self.store.put("nodes", "", &name, object);
            }
            After::Restored { earlier_members } => self.restore(|node, spec| {
                let order = &mut spec["seat"]["order"];
                order["sequence"] = json!(1);
                if earlier_members {
                    order["memberID"] = json!("00000000000000aa");
                    order["memberName"] = json!(format!("{node}-0"));
                    spec["generation"] = json!(0);
                } else {
                    order["run"] = json!("Wait");
                    order["memberID"] = serde_json::Value::Null;
                    order["clusterID"] = serde_json::Value::Null;
                }
            }),
            After::Blank => self.restore(|_, spec| {
                spec["role"] = json!("Candidate");
                spec["seat"] = serde_json::Value::Null;
                spec["generation"] = json!(0);
                spec["lineage"] = json!(0);
            }),
            After::Deleted => {
                let mut cluster = self.cluster();
                cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
                self.store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
            }
            After::Nothing | After::Upgrade => {}
        }
        {
            let mut world = lock(&self.world);
            let now = world.now;
            world.trace.faults += 1;
            world.trace.tell(now, format!("{:?}", self.tale.after));
            self.changed_at = Some(now);
        }
        for who in self.everybody() {
            self.end(who);
            if self.gone().map(Who::Agent) == Some(who) {
                continue;
            }
            self.start(who, self.wrong(who));
            if let Some(process) = self.processes.iter_mut().find(|p| p.who == who) {
                process.first_life = process.calls.clone();
            }
        }
    }

    /// The node that never comes back.
    fn gone(&self) -> Option<usize> {
        match self.tale.after {
            After::Gone(node) => Some(node),
            After::Nothing
            | After::Upgrade
            | After::Scale(_)
            | After::Settings
            | After::Version
            | After::BadVersion
            | After::Downgrade(_)
            | After::Wipe(_)
            | After::Corrupt { .. }
            | After::Moved(_)
            | After::Restored { .. }
            | After::Blank
            | After::Deleted => None,
        }
    }

    /// Each EtcdMember of a node gets another spec.
    fn restore(&self, change: impl Fn(&str, &mut serde_json::Value)) {
        for node in 0..self.tale.setup.nodes {
            let node = crate::nodes::name(node);
            let name = format!("{CLUSTER}-{node}");
            if let Some(mut object) = self.store.get("etcdmembers", NAMESPACE, &name) {
                change(&node, &mut object["spec"]);
                self.store.put("etcdmembers", NAMESPACE, &name, object);
            }
        }
    }

    /// Whether each seat's keeper is of the operator's version, and stays so in a cold start.
    fn is_upgraded(&self) -> bool {
        let new = self.disks.operator();
        let seats: Vec<usize> = {
            let world = lock(&self.world);
            (0..world.nodes.len()).filter(|n| world.member_on(*n).is_some()).collect()
        };
        seats.into_iter().all(|node| self.disks.keeper_binaries(node) == (new.clone(), Some(new.clone())))
    }

    /// Whether each voter runs with the settings of the spec.
    fn is_resettled(&self) -> bool {
        let world = lock(&self.world);
        let runs_with = |id: &etcd_operator_plan::MemberId| {
            world.nodes.iter().filter_map(|n| n.keeper.as_ref()).find(|k| k.data == Some(*id))
        };
        world.our_voters().iter().all(|id| runs_with(id).is_some_and(|keeper| keeper.runs_with == world.api.settings))
    }

    /// Whether each voter runs etcd of this version, and no pod is left that proved it.
    fn all_run(&self, version: &str) -> bool {
        let world = lock(&self.world);
        let of = |id: &etcd_operator_plan::MemberId| world.raft.versions.get(id).map_or(VERSION, String::as_str);
        world.our_voters().iter().all(|id| of(id) == version) && (0..world.nodes.len()).all(|node| !self.disks.proves(node))
    }

    fn etcd_processes(&self) -> BTreeMap<u64, Option<Ms>> {
        let world = lock(&self.world);
        let since = |id| match world.raft.processes.get(&id).map(|p| p.life) {
            Some(crate::raft::Life::Up { since }) => Some(since),
            Some(crate::raft::Life::Draining { .. } | crate::raft::Life::Down) | None => None,
        };
        world.our_voters().iter().map(|id| (id.0, since(*id))).collect()
    }

    fn start(&mut self, who: Who, wrong: Option<(usize, When)>) {
        let calls = Calls::new(wrong);
        let (node, name) = match who {
            Who::Controller(0) => (0, "a"),
            Who::Controller(_) => (0, "b"),
            Who::Agent(node) => (node, "agent"),
            Who::Installer => (0, "installer"),
        };
        let service = Service {
            store: self.store.clone(),
            world: self.world.clone(),
            calls: calls.clone(),
            own_lease: self.tale.two_controllers.then_some(name),
        };
        let client = kube::Client::new(service, NAMESPACE);
        let way = Way { world: self.world.clone(), calls: calls.clone(), node, root: self.disks.root().to_owned() };
        let task = match who {
            Who::Controller(_) => {
                let args = ControllerArgs {
                    namespace: NAMESPACE.into(),
                    holder: format!("controller-{name}"),
                    api: ClientOptions::default(),
                    default_repository: REPOSITORY.into(),
                    lease: LeaseTimes::default(),
                    learner_patience: PATIENCE,
                    replace_after: REPLACE_AFTER,
                    metrics: Metrics::default(),
                    metrics_address: None,
                    standalone: true,
                    binary: Some(self.disks.operator()),
                };
                tokio::spawn(etcd_operator::controller::serve(args, client, Arc::new(way), std::future::pending()))
            }
            Who::Agent(node) => {
                let servers = ApiServers::one("https://10.0.1.0:6443", client, NAMESPACE);
                tokio::spawn(etcd_operator_agent::serve(self.disks.agent_args(node), servers, Arc::new(way)))
            }
            Who::Installer => {
                let root = self.disks.root().to_owned();
                tokio::spawn(installer::pivot_command(client, self.machine.clone(), self.world.clone(), calls.clone(), root))
            }
        };
        let first_life = match self.processes.iter().position(|p| p.who == who) {
            Some(old) => self.processes.remove(old).first_life,
            None => calls.clone(),
        };
        self.processes.push(Process { who, calls, task, first_life });
    }

    async fn play(&mut self) -> Ending {
        let began = self.began;
        let mut complete = self.comes_to_rest().await;
        let before = self.etcd_processes();
        if complete && self.tale.after != After::Nothing {
            match self.tale.after {
                After::Upgrade => self.upgrade().await,
                _ => self.change(),
            }
            complete = self.comes_to_rest().await
                && match self.tale.after {
                    After::Upgrade => self.is_upgraded(),
                    After::Settings => self.is_resettled(),
                    After::Version | After::BadVersion | After::Downgrade(_) => self.all_run(self.tale.after.version_at_rest()),
                    After::Nothing
                    | After::Scale(_)
                    | After::Wipe(_)
                    | After::Corrupt { .. }
                    | After::Gone(_)
                    | After::Moved(_)
                    | After::Restored { .. }
                    | After::Blank
                    | After::Deleted => true,
                };
        }
        let etcd_restarts = self.etcd_processes().iter().filter(|(id, since)| before.get(id) != Some(since)).count();
        let at = lock(&self.world).now;
        let calls = self.processes.iter().map(|p| (p.who, p.first_life.log())).collect();
        let restless = if complete { self.rest().await } else { Vec::new() };
        for process in &self.processes {
            process.task.abort();
        }
        let mut world = lock(&self.world);
        checks::acked_writes_present(&mut world);
        Ending {
            complete,
            at: at - began,
            violations: world.trace.violations.clone(),
            failed_writes: world.trace.failed.len(),
            hand_overs: self.hand_overs.clone(),
            etcd_restarts,
            restless,
            calls,
            events: self.store.notes(),
            members: world.raft.config.iter().map(|m| m.name.clone()).collect(),
            story: self.story(&world),
        }
    }

    /// Whether all is as wanted for a while, in time.
    async fn comes_to_rest(&mut self) -> bool {
        let began = lock(&self.world).now;
        let mut since = None;
        while lock(&self.world).now < began + ENDS_WITHIN_MS {
            self.tick().await;
            // What an object says may be from before a power cut.
            let now = lock(&self.world).now;
            if !self.is_complete() {
                since = None;
            } else if now - *since.get_or_insert(now) >= SURE_MS {
                return true;
            }
        }
        false
    }

    /// One step of time: the World's, the disks', and whoever died is noticed.
    async fn tick(&mut self) {
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
        {
            let mut world = lock(&self.world);
            world.advance(TICK_MS);
            if let Some((node, _, until)) = self.tale.slow
                && world.now >= self.began.saturating_add(until)
            {
                world.raft.slow.remove(&peer_url(node));
            }
            if self.tale.boot_is != BootIs::AsSetUp {
                self.machine.tick(&mut world);
            }
            convert(&mut world);
            // The API servers compact every 5 min.
            if world.now % COMPACT_EVERY_MS < TICK_MS {
                world.raft.compare();
            }
            self.disks.tick(&mut world);
        }
        if let After::Downgrade(Some((at, what))) = self.tale.after
            && self.changed_at.is_some_and(|changed| lock(&self.world).now >= changed + at)
        {
            self.changed_at = None;
            match what {
                Meanwhile::Back => {
                    let mut cluster = self.cluster();
                    cluster["spec"]["version"] = VERSION.into();
                    self.store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
                }
                Meanwhile::Wipe(node) => crate::nodes::wipe(&mut lock(&self.world), node),
            }
            let mut world = lock(&self.world);
            let now = world.now;
            world.trace.faults += 1;
            world.trace.tell(now, format!("{what:?}"));
        }
        let handing_over = self.disks.handing_over();
        if self.hand_overs.last() != Some(&handing_over) {
            self.hand_overs.push(handing_over);
        }
        let now = tokio::time::Instant::now();
        let died: Vec<Who> =
            self.processes.iter().filter(|p| p.calls.is_dead() && !p.task.is_finished()).map(|p| p.who).collect();
        for who in died {
            self.end(who);
            self.dead.push((who, now + RESTART));
            self.go_wrong(now);
        }
        if self.power_on_at.is_some_and(|at| now >= at) {
            self.power_on_at = None;
            let mut world = lock(&self.world);
            (0..world.nodes.len()).filter(|n| Some(*n) != self.gone()).for_each(|node| power_on(&mut world, node));
        }
        let ready: Vec<Who> = self.dead.iter().filter(|(_, at)| now >= *at).map(|(who, _)| *who).collect();
        for who in ready {
            self.dead.retain(|(w, _)| *w != who);
            self.start(who, None);
        }
    }

    fn end(&mut self, who: Who) {
        if let Some(process) = self.processes.iter().find(|p| p.who == who) {
            process.calls.kill();
            process.task.abort();
        }
        let mut world = lock(&self.world);
        let now = world.now;
        world.trace.tell(now, format!("{who:?} dies"));
    }

    /// What else happens when the call is reached: all nodes lose power, and all processes with them.
    fn go_wrong(&mut self, now: tokio::time::Instant) {
        if self.tale.wrong != Wrong::PowerOfAll || std::mem::replace(&mut self.gone_wrong, true) {
            return;
        }
        {
            let mut world = lock(&self.world);
            world.trace.faults += 1;
            let at = world.now;
            world.trace.tell(at, "all nodes lose power");
            (0..world.nodes.len()).for_each(|node| power_cut(&mut world, node));
        }
        let living: Vec<Who> = self.processes.iter().filter(|p| !p.calls.is_dead()).map(|p| p.who).collect();
        for who in living {
            self.end(who);
            self.dead.push((who, now + RESTART * 2));
        }
        self.power_on_at = Some(now + RESTART);
    }

    fn cluster(&self) -> Value {
        self.store.get("etcdclusters", NAMESPACE, CLUSTER).unwrap_or_default()
    }

    fn is_complete(&self) -> bool {
        if self.tale.after == After::Deleted && self.changed_at.is_some() {
            return self.is_deleted();
        }
        let cluster = self.cluster();
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_true = |name: &str| conditions.iter().any(|c| c["type"] == name && c["status"] == "True");
        let world = lock(&self.world);
        let power = world.nodes.iter().enumerate().all(|(n, node)| node.on_since.is_some() || self.gone() == Some(n));
        let size =
            world.our_voters().len() == world.api.spec.size as usize && world.raft.config.len() == world.our_voters().len();
        let is_wrong = |m: &crate::raft::Listed| world.raft.corrupt.contains(&m.id);
        let is_right = world.raft.alarms.is_empty() && !world.raft.config.iter().any(is_wrong);
        let up = world.api_answers() && is_right && world.our_voters().iter().all(|id| world.raft.serves(*id));
        // What did not come up is taken back, and a human is told.
        let is_as_told = match self.tale.after {
            After::BadVersion => cluster["status"]["reason"] == "RollOutFailed",
            _ => is_true("Ready"),
        };
        // Before it happens all is well, too.
        let is_well = is_as_told || cluster["spec"]["version"] != BAD && is_true("Ready");
        let is_over = self.changed_at.is_none() || !matches!(self.tale.after, After::Downgrade(Some(_)));
        let has_moved = self.tale.standalone || is_true("PivotComplete");
        is_over && self.dead.is_empty() && power && up && size && has_moved && is_well
    }

    /// Whether nothing of it is left but what lies in the archives.
    fn is_deleted(&self) -> bool {
        let world = lock(&self.world);
        let runs = world.raft.processes.values().any(|p| p.life != crate::raft::Life::Down);
        let has_data = world.nodes.iter().any(|n| n.keeper.as_ref().is_some_and(|k| k.data.is_some()));
        let gone =
            ["etcdclusters", "etcdmembers", "services", "endpointslices"].iter().all(|kind| self.store.show(kind).is_empty());
        self.dead.is_empty() && !runs && !has_data && gone
    }

    /// What happens in the minute after the end, when nothing should.
    async fn rest(&mut self) -> Vec<String> {
        // Which call it is differs from run to run; what goes wrong after the end is another tale.
        self.processes.iter().for_each(|p| p.calls.spare());
        // What was under way at the end comes to its own.
        for _ in 0..(15_000 / TICK_MS) {
            self.tick().await;
        }
        let changes = self.store.changes();
        let lives: Vec<(Who, usize)> = self.processes.iter().map(|p| (p.who, p.calls.log().len())).collect();
        for _ in 0..(REST_MS / TICK_MS) {
            self.tick().await;
        }
        let mut restless: Vec<String> = Vec::new();
        for (who, before) in lives {
            let Some(process) = self.processes.iter().find(|p| p.who == who) else { continue };
            let log = process.calls.log();
            let acts = log.iter().skip(before).filter(|c| !c.starts_with('?'));
            restless.extend(acts.map(|c| format!("{who:?}: {c}")));
        }
        let more = self.store.changes() - changes;
        if more > 0 {
            restless.push(format!("{more} changes of objects"));
        }
        restless
    }

    fn story(&self, world: &World) -> String {
        let lines: Vec<String> = world.trace.story.iter().map(|(at, what)| format!("{at:>8} {what}")).collect();
        let status = &self.cluster()["status"];
        let why = format!("{} {}: {}", status["pivot"]["phase"], status["reason"], status["message"]);
        format!("{}\n{why}\n{:?}\n{}", lines.join("\n"), world.raft.config, self.store.show("etcdmembers"))
    }
}

/// etcd converts its data for an older version, and ends that once all members are of it. Where it is not told to, its data goes up with its members.
fn convert(world: &mut World) {
    let Some((target, at)) = world.raft.downgrade.clone() else {
        let is_newer = |id| world.raft.versions.get(&id).is_none_or(|version| version.starts_with("3.6."));
        let rises = world.raft.data_version != NEWEST && world.raft.voters().all(is_newer);
        let since = world.raft.rises_since.filter(|_| rises).unwrap_or(world.now);
        world.raft.rises_since = rises.then_some(since);
        if rises && world.now >= since + CONVERTS_MS {
            world.raft.data_version = NEWEST.into();
        }
        return;
    };
    world.raft.rises_since = None;
    let converts =
        world.now >= at + CONVERTS_MS && world.raft.leader.is_some() && world.raft.voters().all(|id| world.raft.runs(id));
    if converts {
        world.raft.data_version.clone_from(&target);
    }
    let is_there = |id| world.raft.versions.get(&id).is_some_and(|version| version.starts_with(target.trim_end_matches("0")));
    if world.raft.data_version == target && world.raft.voters().all(is_there) {
        world.raft.downgrade = None;
    }
}

/// What an installer leaves: nodes, the CA, and the EtcdCluster that it posts.
fn objects(store: &Store, world: &World, tale: &Tale) {
    for node in 0..tale.setup.nodes {
        let name = world.nodes[node].name.clone();
        let object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/hostname": name}},
            "spec": {},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ip(node)}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        store.put("nodes", "", &name, object);
    }
    if tale.standalone {
        let cluster = json!({
            "apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster", "metadata": {},
            "spec": {"size": tale.setup.size, "version": VERSION, "repository": REPOSITORY},
        });
        store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
        return;
    }
    let (cert, key) = ca();
    let text = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {},
        "data": {"tls.crt": text(&cert), "tls.key": text(&key)}});
    store.put("secrets", NAMESPACE, "etcd-ca", secret);
    let endpoint = format!("https://{}:12379", disk::boot_ip(world));
    let mut cluster = json!({
        "apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster", "metadata": {},
        "spec": {"size": tale.setup.size, "version": VERSION, "repository": REPOSITORY,
            "selfHosted": {"bootMemberClientEndpoint": endpoint}},
    });
    if tale.boot_is != BootIs::AsSetUp {
        cluster["spec"]["selfHosted"]["stopBoot"] = json!("Command");
    }
    store.put("etcdclusters", NAMESPACE, CLUSTER, cluster);
}

/// One CA for all tales: keys take time to make.
fn ca() -> (String, String) {
    static CA: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    let made = CA.get_or_init(|| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcd-ca");
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    });
    made.clone()
}
