//! The files between agent, keeper and the recovery command: who writes what, and its shape.
//!
//! One writer per file. All are JSON, written as `.name.tmp`, fsynced, renamed, directory fsynced; a reader that finds a torn or
//! unknown file treats it as missing and says so. Field names are part of the on-disk format: never change their meaning, raise
//! [`FORMAT`] instead. The keeper says in its state which formats it reads; the agent writes none that the keeper does not claim.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Format number of the order and state files that this version writes, and reads.
pub const FORMAT: u32 = 1;

/// etcd's `--max-learners`, the same on every member for ever: etcd checks it when the entry is applied, each member with its own
/// flag, so that different values would fork the membership (traps, "Membership"). 9 = the largest cluster we allow.
pub const MAX_LEARNERS: u32 = 9;
/// `--quota-backend-bytes` of the members, the most that etcd advises. Explicit: boot may have more than etcd's default of 2 GiB in it, and a
/// member with a lower quota than the rest stops all writes (NOSPACE is the cluster's).
pub const QUOTA_BYTES: u64 = 8 << 30;

/// Variable of the pod's environment with the digest of what its manifest was made from: the keeper passes it on in [`State::pod`].
pub const KEEPER_POD: &str = "KEEPER_POD";

/// What the agent tells the keeper. Writer: the agent. Its content is the controller's, from `EtcdMember.spec.seat.order`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Format of this file, see [`FORMAT`].
    pub format: u32,
    /// Which life of the cluster this belongs to; raised by each recovery or restore. An order of an older lineage is ignored.
    pub lineage: u64,
    /// Raised by each change within a lineage. An order with a lower sequence than the last accepted one is ignored.
    pub sequence: u64,
    /// ID of the live cluster (16 hex digits), once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// ID of this member (16 hex digits), once it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// Name of the member, `<node>-<generation>`; also the name of its data directory.
    pub member_name: String,
    /// Whether etcd should run at all.
    pub run: Run,
    /// How etcd is to be configured.
    pub etcd: EtcdSettings,
    /// Client endpoints at which to ask for the member list (besides those that the keeper remembers itself).
    #[serde(default)]
    pub ask: Vec<String>,
    /// A permission that is used up by the first start that needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<Permission>,
    /// Stop serving now, since this member is being removed (drain, remove, kill: design D7.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<OneShot>,
    /// Move the data of this removed member into the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<OneShot>,
    /// The same if it was not removed: the whole cluster is deleted. Counts while [`Self::run`] is [`Run::Stop`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
    /// Restart etcd, if it runs with other settings than these. Without it they count from its next start on: an order that is taken back must
    /// not restart what it was meant to spare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// SHA-256 (hex) of the keeper that is to run. Another one than that which runs takes over if it lies in `bin/keeper.next`. `None` =
    /// the one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<String>,
}

/// Whether etcd should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Run {
    /// Nothing to run yet: the keeper proves the image (`etcd --version`) and waits.
    Wait,
    /// Run etcd, if the start table allows it.
    Run,
    /// Stop etcd and stay stopped.
    Stop,
}

/// etcd's settings that change without a new manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdSettings {
    /// URL that peers use, by node IP: `https://10.0.0.1:2380`.
    pub peer_url: String,
    /// URL that clients use, by node IP: `https://10.0.0.1:2379`. etcd listens there and on loopback.
    pub client_url: String,
    /// Loopback port for etcd's own `/metrics` and `/readyz` (plain http).
    pub metrics_port: u16,
    /// Loopback port for etcd's HTTP gateway, apart from gRPC, so that gRPC's own graceful stop works (traps).
    pub client_http_port: u16,
    /// `--max-learners`, the same on every member for ever, boot's too: it is judged when a change is applied, by each member for itself, and
    /// members that differ would apply different memberships. 0 = [`MAX_LEARNERS`].
    #[serde(default)]
    pub max_learners: u32,
    /// `--quota-backend-bytes`; 0 = etcd's default (2 GiB).
    #[serde(default)]
    pub quota_backend_bytes: u64,
    /// `--heartbeat-interval` in ms; 0 = etcd's default (100 ms).
    #[serde(default)]
    pub heartbeat_ms: u32,
    /// `--election-timeout` in ms; 0 = etcd's default (1000 ms).
    #[serde(default)]
    pub election_ms: u32,
}

/// Something that is carried out once: the keeper notes the ID in its state when it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneShot {
    /// Unique ID, chosen by the controller.
    pub id: String,
}

/// An order to restart etcd once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Unique ID, chosen by the controller.
    pub id: String,
    /// What must be seen right before. The order may come late: after a power cut, or with an agent that was away.
    pub unless: Unless,
}

/// What keeps a keeper from a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unless {
    /// The other voters that answer and know a leader are no quorum: it is looked at again and again.
    QuorumLost,
    /// Nothing: a human wants it.
    Never,
}

/// A permission to do once what the keeper never does by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// Unique ID, chosen by the controller; used up for good once it stands in [`State::consumed`].
    pub id: String,
    /// What is permitted.
    pub kind: PermissionKind,
}

/// What a permission permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PermissionKind {
    /// Start a new cluster of one member on an empty data directory.
    Bootstrap,
}

/// What a human orders on a node whose cluster has no quorum any more. It beats the order, which is of the life of the cluster before. Writer: `etcd-operator recover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Format of this file, see [`FORMAT`].
    pub format: u32,
    /// Unique ID; done with once it stands in [`State::consumed`]. Also the token of the new cluster.
    pub id: String,
    /// The life of the cluster that begins with it: higher than any that this node knows.
    pub lineage: u64,
    /// From what.
    pub from: Source,
    /// Although this node knows of a recovery on another one: that is lost again, and does not answer.
    #[serde(default)]
    pub other_is_lost: bool,
    /// The kernel's boot ID when it was ordered: it is not begun on another day.
    pub boot_id: String,
    /// When it was ordered, ms since 1970.
    pub ordered_ms: u64,
}

/// From what a cluster is recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A new cluster of one member, from the snapshot [`Paths::snapshot_to_recover`].
    Snapshot,
    /// A new cluster of one member, from the data of this node's member, its log up to the last entry.
    #[serde(rename_all = "camelCase")]
    Survivor {
        /// Whose data was looked at, hex.
        member: String,
        /// Term of its last entry.
        last_term: u64,
        /// Index of its last entry.
        last_index: u64,
    },
    /// Nothing: another node is recovered. This one gives its member up and waits for an order of the new life.
    Retire,
}

/// What became of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryState {
    /// Its ID.
    pub id: String,
    /// The life of the cluster that begins with it.
    pub lineage: u64,
    /// How far it is.
    pub step: RecoveryStep,
    /// What is done at the moment, or why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A life of the cluster that was begun on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Began {
    /// Its lineage.
    pub lineage: u64,
    /// Whether the cluster itself says whom it follows ([`crate::lineage`]).
    pub is_recorded: bool,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryStep {
    /// It was seen, and is begun once no quorum has answered for a while.
    Waiting,
    /// The new data is being made. The old data is where it was.
    Building,
    /// The new data is whole; it is put in the place of the old, which goes into the archive.
    Switching,
    /// The node is of the new life.
    Done,
    /// Nothing was changed, and the old data is where it was.
    Failed,
}

/// What the keeper knows and did. Writer: the keeper.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Format of this file.
    pub format: u32,
    /// Formats of [`Order`] that this keeper reads.
    pub reads_orders: Vec<u32>,
    /// Version of the keeper.
    pub keeper_version: String,
    /// Version of the image's etcd, from running it: proof that the image is there and runs.
    pub etcd_version: Option<String>,
    /// Lineage of the last order accepted.
    pub order_lineage: u64,
    /// Sequence of the last order accepted.
    pub order_sequence: u64,
    /// The copy of the last order accepted, used when the order file is missing or torn.
    pub last_order: Option<Box<Order>>,
    /// Why the order file was not used, if it was not: torn, older lineage, lower sequence, unknown format.
    pub order_refused: Option<String>,
    /// What the keeper is doing.
    pub phase: Phase,
    /// Why, as one CamelCase word from a closed list (see the start table).
    pub reason: String,
    /// Why, for a human, with the next step.
    pub message: String,
    /// PID of etcd in the keeper's PID namespace.
    pub etcd_pid: Option<u32>,
    /// The settings with which that etcd was started.
    pub runs_with: Option<EtcdSettings>,
    /// How often this keeper started etcd since it started itself.
    pub etcd_starts: u32,
    /// Identity written before a permission, restore or recovery was carried out: the newest of this and the order's counts.
    pub identity: Option<Identity>,
    /// Member IDs (hex) that were started on this node: fsynced before the first start of each.
    pub ran_here: Vec<String>,
    /// Member IDs (hex) of which the keeper learned that they were removed from the cluster: they never run again.
    pub removed: Vec<String>,
    /// IDs of permissions and one-shots that were carried out.
    pub consumed: Vec<String>,
    /// How far this member's log is known to have reached, where it was found not to any more: it must not start without the others, either.
    pub held: Option<Held>,
    /// The peer URL under which this node's last mark was left in etcd: its address may have changed since.
    pub marked_as: Option<String>,
    /// Client endpoints of the cluster's members, as last seen in a member list.
    pub known_endpoints: Vec<String>,
    /// File system of the data directory (`f_fsid`, hex), recorded before the first start.
    pub file_system: Option<String>,
    /// A removal under way.
    pub drain: Option<DrainState>,
    /// The record of a recovery that ended the life of this node's cluster, once it was seen: it counts also where nobody can be asked any more.
    pub ended_by: Option<crate::lineage::Record>,
    /// The last recovery on this node.
    pub recovery: Option<RecoveryState>,
    /// The life of the cluster that was begun here last.
    pub began: Option<Began>,
    /// Cluster IDs (hex) of lives that are over, as far as this node was told.
    pub ended: Vec<String>,
    /// Whose data lies here, where this node has given its member up ([`Source::Retire`]) and no order of the new life has come yet.
    pub retired: Option<Identity>,
    /// What the pod was made from, as its environment says ([`KEEPER_POD`]).
    pub pod: Option<String>,
    /// SHA-256 (hex) of the binary that runs as the keeper; `None` until it has read itself.
    pub keeper_binary: Option<String>,
    /// A hand-over to another keeper that is under way, or what became of the last one.
    pub hand_over: Option<HandOver>,
}

/// How far a log has reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The member's ID, hex.
    pub member: String,
    /// An index that its log held on disk.
    pub index: u64,
}

/// A hand-over to another keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandOver {
    /// SHA-256 (hex) of the binary that takes over.
    pub to: String,
    /// How far it is.
    pub step: HandOverStep,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The etcd that goes from one keeper to the other, from the execve until it was adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<HandedEtcd>,
    /// The kernel's boot ID when it began: a machine that has booted since was not brought down by the new keeper.
    #[serde(default)]
    pub boot_id: String,
}

/// How far a hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOverStep {
    /// The old keeper's last word: execve comes next.
    Begun,
    /// The new one runs and has yet to prove itself: `bin/keeper` is still the old one.
    Proving,
    /// The new one is `bin/keeper`.
    Done,
    /// It failed its check, could not take over, or ended before it had proven itself. Not tried again until an order wants no other keeper.
    Refused,
}

/// A running etcd, for the keeper that adopts it. What else it must know stands in the state anyway: the last order, etcd's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedEtcd {
    /// Its PID.
    pub pid: u32,
    /// ID of its cluster, hex.
    pub cluster_id: String,
    /// ID of its member, hex.
    pub member_id: String,
    /// How long it had run, in seconds.
    pub ran_seconds: u64,
}

/// What the keeper is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Looking at order, disk and peers.
    #[default]
    Deciding,
    /// Waiting for something; etcd is not running.
    Waiting,
    /// etcd is running.
    Running,
    /// Stopped on order, or because the member was removed.
    Stopped,
    /// etcd must not start on this data: a human or the controller has to act.
    Refused,
    /// etcd was told to stop because the member is being removed.
    Draining,
}

/// Whose data this node is to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Lineage it belongs to.
    pub lineage: u64,
    /// Sequence of the order that led to it.
    pub sequence: u64,
    /// Cluster ID, hex.
    pub cluster_id: String,
    /// Member ID, hex.
    pub member_id: String,
    /// Name of the member: the record counts for orders with this name only, so that it does not outlive the member.
    #[serde(default)]
    pub member_name: String,
}

/// A removal under way: SIGTERM was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainState {
    /// ID of the order's [`OneShot`].
    pub id: String,
    /// How far it is.
    pub step: DrainStep,
}

/// How far a removal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainStep {
    /// SIGTERM was sent; the other members are being asked whether this one is still listed.
    Signalled,
    /// Removal was confirmed by the others and etcd is gone.
    Gone,
    /// Still listed, or no answer, 10 s after the signal: etcd was started again.
    StartedAgain,
}

/// An image that was run on a node, beside the pod that runs. Writer: `etcd-operator prove`, which runs in a pod of that image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The image.
    pub image: String,
    /// The version of its etcd, or why that cannot be run.
    pub version: Result<String, String>,
}

/// Where everything of one cluster lies on a node. The only place that knows these paths.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `/var/lib/etcd-operator/<namespace>/<cluster>`
    pub dir: PathBuf,
    /// `/var/lib/etcd/<namespace>/<cluster>`
    pub data: PathBuf,
}

impl Paths {
    /// The paths of a cluster under the two configurable roots.
    #[must_use]
    pub fn new(operator_root: &Path, data_root: &Path, namespace: &str, cluster: &str) -> Self {
        Self { dir: operator_root.join(namespace).join(cluster), data: data_root.join(namespace).join(cluster) }
    }
    /// The agent's order.
    #[must_use]
    pub fn order(&self) -> PathBuf {
        self.dir.join("order.json")
    }
    /// What a human orders without a controller.
    #[must_use]
    pub fn recovery_order(&self) -> PathBuf {
        self.dir.join("recover.json")
    }
    /// Where the data of a recovery is made; on the file system of the data. Nothing in it is of any member.
    #[must_use]
    pub fn recovery(&self) -> PathBuf {
        self.data.join(".recovery")
    }
    /// The snapshot that [`Source::Snapshot`] means. Writer: `etcd-operator recover`.
    #[must_use]
    pub fn snapshot_to_recover(&self, id: &str) -> PathBuf {
        self.recovery().join(format!("{id}.db"))
    }
    /// The keeper's state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }
    /// What is known of an image that is to be rolled out.
    #[must_use]
    pub fn proof(&self) -> PathBuf {
        self.dir.join("proof.json")
    }
    /// Keys and certificates: `ca.crt`, `{peer,server,client}.{crt,key}`.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }
    /// The binaries that the agent copies: `keeper`, `keeper.prev`, `keeper.next`.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }
    /// What the kubelet starts. A copy of the first agent's binary; from then on the keeper's to replace, by one that has run here.
    #[must_use]
    pub fn keeper(&self) -> PathBuf {
        self.bin().join("keeper")
    }
    /// The binary that is to take over. Writer: the agent.
    #[must_use]
    pub fn keeper_next(&self) -> PathBuf {
        self.bin().join("keeper.next")
    }
    /// The one before [`Paths::keeper`], for a human who wants it back. Writer: the keeper.
    #[must_use]
    pub fn keeper_prev(&self) -> PathBuf {
        self.bin().join("keeper.prev")
    }
    /// What etcd says, after one that ended soon after its start. Writers: etcd, and the keeper, which empties it.
    #[must_use]
    pub fn etcd_log(&self) -> PathBuf {
        self.dir.join("etcd.log")
    }

    /// Snapshots taken on this node.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    /// Backups kept on this node, a directory for each EtcdBackup.
    #[must_use]
    pub fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }

    /// etcd's `--data-dir` of a member.
    #[must_use]
    pub fn member(&self, member_name: &str) -> PathBuf {
        self.data.join(member_name)
    }
    /// Where data goes instead of being deleted. Same file system as the data.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.data.join("archive")
    }
    /// Marker that the agent made this directory: an empty mount point has none.
    #[must_use]
    pub fn marker(&self) -> PathBuf {
        self.data.join(".etcd-operator")
    }
}
