//! The nodes' disks and `/proc`, real files below one temporary directory: what the shipped agents write and read there, the World's
//! kubelets and keepers act on.

use std::fs;
use std::path::{Path, PathBuf};

use etcd_operator_agent::AgentArgs;
use etcd_operator_keeper::contract::{
    DrainState, DrainStep, EtcdSettings, FORMAT, KEEPER_POD, Order, Paths, Phase, Proof, Run, State,
};
use etcd_operator_keeper::identity;
use etcd_operator_keeper::order::objection;
use etcd_operator_plan::{DATA_IS_CORRUPT, MemberId};
use k8s_openapi::api::core::v1::Pod;

use super::binary::{Binary, hash};
use super::{BAD, BootIs, CLUSTER, NAMESPACE, REPOSITORY, VERSION};
use crate::Ms;
use crate::api::Restart;
use crate::boot::BootHost;
use crate::checks::Violation;
use crate::nodes::{self, KUBELET_START_MS, Keeper};
use crate::raft::{DRAIN_MS, Life, Listed, Raft};
use crate::world::{BOOT, ELSEWHERE, World, host, ip};

/// From the manifest to the keeper's first word, ms.
const POD_STARTS_MS: Ms = 1_500;
/// Size of an entry on disk: 20,000 of them are 1.2 GiB, in a file without blocks.
const ENTRY_BYTES: u64 = 64 << 10;
/// A keeper that gave its member back to be started again (design D7.5), ms after the signal.
const GIVE_UP_MS: Ms = 10_000;
/// Between the removal, as the keeper sees it, and SIGKILL, ms.
const KILL_AFTER_MS: Ms = 200;

/// The disks of a World.
pub(crate) struct Disks {
    root: tempfile::TempDir,
    keepers: Vec<KeeperProcess>,
    /// Each node's `/proc/net/tcp` as it was written last.
    sockets: Vec<String>,
    boot_is: BootIs,
    /// Keepers look at the count of an order and nothing else of it, as they did up to 0.1.0.
    pub(crate) older_keepers: bool,
}

/// What a keeper remembers that is not in the World.
#[derive(Default)]
struct KeeperProcess {
    /// When it saw its manifest first.
    since: Option<Ms>,
    /// The pod that it runs in.
    pod: Option<StaticPod>,
    /// The manifest as it was read last, and what it was.
    manifest: (String, Option<StaticPod>),
    accepted: Option<Order>,
    drain: Option<Draining>,
    binary: Binary,
    written: State,
    /// IDs of the archive's orders that it has carried out.
    archived: Vec<String>,
    /// Whose data lies there, and its MiB.
    data: Option<(String, u64)>,
}

/// What a keeper's pod is made from.
#[derive(Clone, PartialEq)]
struct StaticPod {
    uid: String,
    /// As its environment says.
    inputs: Option<String>,
    /// Of its etcd, by the tag.
    version: String,
}

impl StaticPod {
    fn of(manifest: &str) -> Option<Self> {
        let pod: Pod = serde_yaml_ng::from_str(manifest).ok()?;
        let container = pod.spec?.containers.into_iter().next()?;
        let inputs = container.env.unwrap_or_default().into_iter().find(|one| one.name == KEEPER_POD);
        Some(Self {
            uid: pod.metadata.uid.unwrap_or_default(),
            inputs: inputs.and_then(|one| one.value),
            version: tag(&container.image?)?,
        })
    }
}

fn tag(image: &str) -> Option<String> {
    image.rsplit_once(":v").map(|(_, version)| version.to_owned())
}

struct Draining {
    state: DrainState,
    at: Ms,
    unlisted_since: Option<Ms>,
}

/// The node on which boot runs.
pub(crate) fn boot_node(world: &World) -> Option<usize> {
    match world.boot.host {
        BootHost::Node(node) => Some(node),
        BootHost::Elsewhere => None,
    }
}

/// Address of boot's machine.
pub(crate) fn boot_ip(world: &World) -> String {
    ip(boot_node(world).unwrap_or(ELSEWHERE))
}

/// Where a member's clients reach it.
pub(crate) fn client_url(world: &World, member: &Listed) -> String {
    match member.id {
        BOOT => format!("https://{}:12379", boot_ip(world)),
        _ => super::etcd::client_url(&member.peer_url),
    }
}

/// Boot's process in `/proc`, as it is now.
pub(crate) fn boot_process(root: &Path, world: &World, node: usize) {
    let proc = root.join(nodes::name(node)).join("proc");
    let pid = match world.raft.processes.get(&BOOT).map(|p| p.life) {
        Some(Life::Up { since }) => Some(1_000 + since / 50),
        // Draining: still there.
        Some(Life::Draining { .. }) => existing(&proc),
        Some(Life::Down) | None => None,
    };
    if existing(&proc) == pid {
        return;
    }
    if let Some(old) = existing(&proc) {
        let _ = fs::remove_dir_all(proc.join(old.to_string()));
    }
    if let Some(pid) = pid {
        let dir = proc.join(pid.to_string());
        let listen = format!("etcd\0--listen-client-urls=https://{}:12379\0", ip(node));
        let made = fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join("stat"), format!("{pid} (etcd) S 1 1 1 0")))
            .and_then(|()| fs::write(dir.join("cmdline"), listen));
        debug_assert!(made.is_ok(), "{made:?}");
    }
}

fn existing(proc: &Path) -> Option<u64> {
    fs::read_dir(proc).ok()?.flatten().find_map(|e| e.file_name().to_str()?.parse().ok())
}

impl Disks {
    /// The disks of fresh nodes, boot's manifest and data on its own.
    pub(crate) fn new(world: &World, boot_is: BootIs) -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("etcd-operator-world-");
        // The agents' preflight asks for 1 GiB.
        let has_room = rustix::fs::statvfs(memory).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) > 2 << 30);
        let root = if has_room { builder.tempdir_in(memory)? } else { builder.tempdir()? };
        let disks = Self {
            root,
            keepers: world.nodes.iter().map(|_| KeeperProcess::default()).collect(),
            sockets: vec![String::new(); world.nodes.len()],
            boot_is,
            older_keepers: false,
        };
        fs::write(disks.image(), b"the keeper's binary")?;
        for node in 0..world.nodes.len() {
            let args = disks.agent_args(node);
            fs::create_dir_all(args.static_pods())?;
            fs::create_dir_all(args.proc.join("net"))?;
            disks.upgrade(node);
        }
        if let Some(node) = boot_node(world) {
            let args = disks.agent_args(node);
            fs::create_dir_all(args.reach(Path::new("/var/lib/boot-etcd/member")))?;
            if boot_is == BootIs::AsSetUp {
                fs::write(disks.boot_manifest(node), boot_pod(node))?;
            }
        }
        Ok(disks)
    }

    /// There is another version of the operator.
    pub(crate) fn upgrade_operator(&self) {
        let wrote = fs::write(self.image(), b"the next keeper's binary");
        debug_assert!(wrote.is_ok(), "{wrote:?}");
    }

    /// The agent on a node is now made from it.
    pub(crate) fn upgrade(&self, node: usize) {
        let copied = fs::copy(self.image(), self.agent_args(node).keeper_binary);
        debug_assert!(copied.is_ok(), "{copied:?}");
    }

    /// The operator's binary.
    pub(crate) fn operator(&self) -> String {
        hash(&self.image())
    }

    fn image(&self) -> PathBuf {
        self.root.path().join("image")
    }

    /// The binary that a cold start of a node's keeper would meet, and the one that runs.
    pub(crate) fn keeper_binaries(&self, node: usize) -> (String, Option<String>) {
        (hash(&self.paths(node).keeper()), self.keepers.get(node).and_then(|k| k.binary.runs.clone()))
    }

    /// Nodes whose keeper hands over.
    pub(crate) fn handing_over(&self) -> Vec<usize> {
        self.keepers.iter().enumerate().filter(|(_, k)| k.binary.is_open()).map(|(node, _)| node).collect()
    }

    /// Where they are.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// What the agent of a node is started with.
    pub(crate) fn agent_args(&self, node: usize) -> AgentArgs {
        let root = self.root.path().join(nodes::name(node));
        AgentArgs {
            node_name: nodes::name(node),
            namespace: NAMESPACE.into(),
            proc: root.join("proc"),
            keeper_binary: root.join("binary"),
            host_root: root,
            allowed_image_prefixes: vec![REPOSITORY.into()],
            ..AgentArgs::default()
        }
    }

    fn boot_manifest(&self, node: usize) -> PathBuf {
        self.agent_args(node).static_pods().join("boot-etcd.yaml")
    }

    fn paths(&self, node: usize) -> Paths {
        self.agent_args(node).paths(CLUSTER)
    }

    /// A tick: files to World, World to files.
    pub(crate) fn tick(&mut self, world: &mut World) {
        if let Some(node) = boot_node(world) {
            if self.boot_is == BootIs::AsSetUp {
                world.boot.tombstone = !self.boot_manifest(node).exists();
            }
            boot_process(self.root.path(), world, node);
        }
        for node in 0..world.nodes.len() {
            self.keeper(world, node);
            self.sockets(world, node);
        }
    }

    fn keeper(&mut self, world: &mut World, node: usize) {
        let paths = self.paths(node);
        let manifest = self.agent_args(node).static_pods().join(format!("etcd-{CLUSTER}.yaml"));
        let now = world.now;
        let runs = world.nodes[node].on_since.is_some_and(|on| now >= on + KUBELET_START_MS) && manifest.exists();
        self.prove(world, node);
        let Some(process) = self.keepers.get_mut(node) else { return };
        // Seldom another one; to read YAML takes longer than all else in a tick.
        let text = fs::read_to_string(&manifest).unwrap_or_default();
        if text != process.manifest.0 {
            process.manifest = (text.clone(), StaticPod::of(&text));
        }
        let pod = process.manifest.1.clone();
        // The kubelet ends the pod that runs first.
        let is_replaced = process.pod.is_some() && pod.is_some() && process.pod != pod;
        if !runs || is_replaced {
            // Its disk is the World's `keeper`; what it had in memory is gone.
            if process.since.take().is_some()
                && let Some(data) = world.nodes[node].keeper.as_ref().and_then(|k| k.data)
            {
                world.raft.stop(data);
            }
            process.drain = None;
            process.binary.lose();
            process.pod = None;
            // Nor does anything run until the next pod has come up.
            if let Some(keeper) = world.nodes[node].keeper.as_mut().filter(|_| is_replaced) {
                keeper.order = None;
            }
            return;
        }
        let since = *process.since.get_or_insert(now);
        process.pod = pod;
        if now < since + POD_STARTS_MS {
            return;
        }
        let is_older = |o: &Order| process.accepted.as_ref().is_some_and(|a| (o.lineage, o.sequence) < (a.lineage, a.sequence));
        let refuses = |o: &Order| if self.older_keepers { is_older(o) } else { objection(o, &process.written).is_some() };
        let order = read_order(&paths).filter(|o| o.format == FORMAT && !refuses(o));
        process.accepted = order.or(process.accepted.take());
        let Some(order) = process.accepted.clone() else { return };
        let address = world.address(node);
        let keeper = world.nodes[node].keeper.get_or_insert(Keeper { since: now, ..Keeper::default() });
        let id = order.member_id.as_deref().and_then(|id| u64::from_str_radix(id, 16).ok()).map(MemberId);
        keeper.elsewhere = host(&order.etcd.peer_url) != address;
        (keeper.settings, keeper.restart) = (settings_of(&order), restart_of(&order));
        let began = found(process, keeper, &mut world.raft, &mut world.cluster_id, now, &order);
        keeper.order = match order.run {
            Run::Run => id.or(began),
            Run::Wait | Run::Stop => None,
        };
        if let (Some(id), Some(pod)) = (id, &process.pod) {
            if pod.version == BAD {
                keeper.order = None;
            }
            let runs = order.run == Run::Run && world.raft.listed(id).is_some();
            if runs && minor(&pod.version) < minor(&world.raft.data_version) {
                world.trace.violations.push(Violation::TooOld { member: id });
            }
            world.raft.versions.insert(id, pod.version.clone());
        }
        if let Some(id) = id {
            world.raft.names.insert(id, order.member_name.clone());
        }
        // Today's keepers refuse such an order to wait.
        if order.run != Run::Run
            && let Some(data) = keeper.data
        {
            world.raft.stop(data);
        }
        // The data, as far as its size goes: what a learner receives is seen there before its etcd says anything.
        if let Some(data) = keeper.data.filter(|d| keeper.order == Some(*d)).and_then(|d| world.raft.processes.get(&d)) {
            let length = data.log.last_index() * ENTRY_BYTES;
            let db = paths.member(&order.member_name).join("db");
            if process.data != Some((order.member_name.clone(), length >> 20)) {
                let made = fs::create_dir_all(paths.member(&order.member_name))
                    .and_then(|()| fs::File::create(&db))
                    .and_then(|file| file.set_len(length));
                debug_assert!(made.is_ok(), "{made:?}");
                process.data = Some((order.member_name.clone(), length >> 20));
            }
        }
        drain(process, world, node, &order);
        archive(process, world, node, &order, &paths);
        process.binary.tick(now, &paths, &order);
        let state = state(process, world, node, &order);
        if process.written != state {
            let text = serde_json::to_vec(&state).unwrap_or_default();
            let temporary = paths.dir.join(".state.tmp");
            let wrote = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, paths.state()));
            debug_assert!(wrote.is_ok(), "{wrote:?}");
            process.written = state;
        }
    }

    /// The pod that proves an image: what it finds is on disk as soon as it runs.
    fn prove(&self, world: &World, node: usize) {
        let args = self.agent_args(node);
        let manifest = args.static_pods().join(format!("proof-etcd-{CLUSTER}.yaml"));
        let Some(text) = fs::read_to_string(manifest).ok().filter(|_| world.nodes[node].on_since.is_some()) else { return };
        let Ok(pod) = serde_yaml_ng::from_str::<Pod>(&text) else { return };
        let Some(image) = pod.spec.and_then(|spec| spec.containers.into_iter().next()?.image) else { return };
        let proof = Proof { version: tag(&image).ok_or_else(|| "no tag".into()), image };
        let path = self.paths(node).proof();
        let text = serde_json::to_vec(&proof).unwrap_or_default();
        if fs::read(&path).ok().as_ref() != Some(&text) {
            let wrote = fs::write(&path, text);
            debug_assert!(wrote.is_ok(), "{wrote:?}");
        }
    }

    /// Whether an image is still being proven on a node.
    pub(crate) fn proves(&self, node: usize) -> bool {
        self.agent_args(node).static_pods().join(format!("proof-etcd-{CLUSTER}.yaml")).exists()
    }

    /// `/proc/net/tcp` of a node: the API servers' connections.
    fn sockets(&mut self, world: &World, node: usize) {
        let mut text =
            String::from("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n");
        let here = |id: MemberId, port: u16, text: &mut String| {
            for (index, server) in world.servers.iter().enumerate() {
                for n in 0..server.sockets_to(id) {
                    let (local, remote) = (hex(&[10, 0, 0, octet(node + 1)]), hex(&[10, 0, 1, octet(index)]));
                    text.push_str(&format!(
                        "   0: {local}:{port:04X} {remote}:{:04X} 01 00000000:00000000 00:00000000 00000000     0        0 {} 1 0\n",
                        40_000 + n,
                        900_000 + index * 1_000 + n as usize
                    ));
                }
            }
        };
        if boot_node(world) == Some(node) {
            here(BOOT, 12_379, &mut text);
        }
        if let Some(id) = world.nodes[node].keeper.as_ref().and_then(|k| k.data) {
            here(id, 2_379, &mut text);
        }
        let file = self.agent_args(node).proc.join("net/tcp");
        if let Some(shown) = self.sockets.get_mut(node).filter(|shown| **shown != text) {
            let wrote = fs::write(&file, &text);
            debug_assert!(wrote.is_ok(), "{wrote:?}");
            *shown = text;
        }
    }
}

/// `6` of `3.6.16`.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

fn octet(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

fn hex(ip: &[u8; 4]) -> String {
    format!("{:08X}", u32::from_ne_bytes(*ip))
}

fn read_order(paths: &Paths) -> Option<Order> {
    serde_json::from_slice(&fs::read(paths.order()).ok()?).ok()
}

/// etcd's settings as the World counts them.
fn settings_of(order: &Order) -> u8 {
    u8::try_from(order.etcd.heartbeat_ms / 100).unwrap_or(u8::MAX)
}

fn restart_of(order: &Order) -> Option<Restart> {
    let id = order.restart.as_ref()?.id.rsplit_once('-').and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok())?;
    // The keeper looks for itself; nothing here is the operator's fault.
    Some(Restart { id, faults_seen: u64::MAX })
}

/// A keeper that is permitted to begins a cluster, once. Returns as whom.
fn found(
    process: &KeeperProcess,
    keeper: &mut Keeper,
    raft: &mut Raft,
    cluster: &mut u64,
    now: Ms,
    order: &Order,
) -> Option<MemberId> {
    let Some(permission) = order.permission.as_ref().filter(|_| order.run == Run::Run) else { return keeper.founded };
    let is_new = keeper.founded.is_none() && keeper.data.is_none() && order.member_id.is_none();
    if is_new && !process.written.consumed.contains(&permission.id) {
        let owner = identity::of_new_cluster(&order.etcd.peer_url, &permission.id);
        let id = MemberId(owner.member.0);
        (keeper.founded, keeper.data) = (Some(id), Some(id));
        keeper.ran_here.push(id);
        *cluster = owner.cluster.0;
        raft.names.insert(id, order.member_name.clone());
        raft.found(now, id, &order.etcd.peer_url);
    }
    keeper.founded
}

/// Drain, remove, kill, on the keeper's side.
fn drain(process: &mut KeeperProcess, world: &mut World, node: usize, order: &Order) {
    let now = world.now;
    let Some(data) = world.nodes[node].keeper.as_ref().and_then(|k| k.data) else { return };
    if let Some(wanted) = &order.drain
        && process.drain.as_ref().is_none_or(|d| d.state.id != wanted.id)
        && !process.written.consumed.contains(&wanted.id)
        && let Some(etcd) = world.raft.processes.get_mut(&data)
        && matches!(etcd.life, Life::Up { .. })
    {
        etcd.life = Life::Draining { until: now + DRAIN_MS };
        let state = DrainState { id: wanted.id.clone(), step: DrainStep::Signalled };
        process.drain = Some(Draining { state, at: now, unlisted_since: None });
    }
    let Some(drain) = process.drain.as_mut().filter(|d| d.state.step == DrainStep::Signalled) else { return };
    if world.raft.leader.is_some_and(|l| l != data) && world.raft.listed(data).is_none() {
        let since = *drain.unlisted_since.get_or_insert(now);
        if now >= since + KILL_AFTER_MS {
            drain.state.step = DrainStep::Gone;
            world.raft.stop(data);
        }
    } else if now >= drain.at + GIVE_UP_MS {
        drain.state.step = DrainStep::StartedAgain;
    }
    if matches!(world.raft.processes.get(&data).map(|p| p.life), Some(Life::Draining { until }) if now >= until) {
        world.raft.stop(data);
    }
}

/// The data of a removed member goes into the archive, on order.
fn archive(process: &mut KeeperProcess, world: &mut World, node: usize, order: &Order, paths: &Paths) {
    let Some(wanted) = &order.archive else { return };
    let Some(keeper) = world.nodes[node].keeper.as_mut() else { return };
    let is_retired = order.retire && order.run == Run::Stop && keeper.data.is_some();
    let is_removed = keeper.data.is_some_and(|d| keeper.removed.contains(&d)) || is_retired;
    if is_removed && !process.archived.contains(&wanted.id) {
        process.archived.push(wanted.id.clone());
        keeper.data = None;
        let to = paths.archive().join(format!("{}-0", order.member_name));
        let moved = fs::create_dir_all(paths.archive()).and_then(|()| fs::rename(paths.member(&order.member_name), to));
        debug_assert!(moved.is_ok(), "{moved:?}");
    }
}

fn state(process: &KeeperProcess, world: &World, node: usize, order: &Order) -> State {
    let keeper = world.nodes[node].keeper.clone().unwrap_or_default();
    let life = keeper.data.and_then(|d| world.raft.processes.get(&d)).map(|p| p.life);
    let is_removed = keeper.data.is_some_and(|d| keeper.removed.contains(&d));
    let (phase, reason) = match (order.run, life) {
        (_, Some(Life::Draining { .. })) => (Phase::Draining, "Draining"),
        _ if is_removed => (Phase::Stopped, "ArchivingRemoved"),
        (Run::Stop, _) if keeper.data.is_none() && !keeper.removed.is_empty() => (Phase::Stopped, "MemberRemoved"),
        (Run::Stop, _) => (Phase::Stopped, "OrderedToStop"),
        (_, Some(Life::Up { .. })) => (Phase::Running, "Started"),
        _ if keeper.data.is_some_and(|data| nodes::is_refused(world, data)) => (Phase::Refused, DATA_IS_CORRUPT),
        _ if nodes::is_lost(world, node) => (Phase::Refused, "DataLost"),
        _ => (Phase::Waiting, "WaitToBeAdded"),
    };
    let hex = |ids: &[MemberId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut consumed = process.written.consumed.clone();
    if let Some(drain) = process.drain.as_ref().filter(|d| d.state.step != DrainStep::Signalled)
        && !consumed.contains(&drain.state.id)
    {
        consumed.push(drain.state.id.clone());
    }
    let restarted = restart_of(order).filter(|restart| keeper.restarted == Some(restart.id)).and(order.restart.as_ref());
    consumed.extend(restarted.map(|restart| restart.id.clone()).filter(|id| !process.written.consumed.contains(id)));
    let is_up = matches!(life, Some(Life::Up { .. } | Life::Draining { .. }));
    let runs_with = EtcdSettings { heartbeat_ms: u32::from(keeper.runs_with) * 100, ..order.etcd.clone() };
    consumed.extend(
        order
            .permission
            .iter()
            .filter(|_| keeper.founded.is_some())
            .map(|p| p.id.clone())
            .filter(|id| !process.written.consumed.contains(id)),
    );
    consumed.extend(process.archived.iter().filter(|id| !process.written.consumed.contains(id)).cloned());
    State {
        format: FORMAT,
        reads_orders: vec![FORMAT],
        keeper_version: VERSION.into(),
        etcd_version: process.pod.as_ref().map(|pod| pod.version.clone()),
        pod: process.pod.as_ref().and_then(|pod| pod.inputs.clone()),
        order_lineage: order.lineage,
        order_sequence: order.sequence,
        last_order: Some(Box::new(order.clone())),
        phase,
        reason: reason.into(),
        etcd_pid: is_up.then_some(1),
        runs_with: is_up.then_some(runs_with),
        ran_here: hex(&keeper.ran_here),
        removed: hex(&keeper.removed),
        consumed,
        drain: process.drain.as_ref().map(|d| d.state.clone()),
        keeper_binary: process.binary.runs.clone(),
        hand_over: process.binary.hand_over.clone(),
        ..State::default()
    }
}

fn boot_pod(node: usize) -> String {
    format!(
        "{{kind: Pod, apiVersion: v1, metadata: {{name: boot-etcd}}, spec: {{containers: [{{name: etcd, image: {REPOSITORY}:v{VERSION}, command: [etcd, --listen-client-urls=https://{}:12379, --data-dir=/data, --max-learners=9], volumeMounts: [{{name: d, mountPath: /data}}]}}], volumes: [{{name: d, hostPath: {{path: /var/lib/boot-etcd}}}}]}}}}",
        ip(node)
    )
}
