//! EtcdMember: the contract between the controller (spec) and the agent of one node (status).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One member, or one node that may become one, or the boot member. Spec: the controller only. Status: the agent of `nodeName` only.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "etcd.database.coreos.com",
    version = "v1beta2",
    kind = "EtcdMember",
    plural = "etcdmembers",
    shortname = "etcdm",
    namespaced,
    status = "EtcdMemberStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Role","type":"string","jsonPath":".spec.role"}"#,
    printcolumn = r#"{"name":"Member","type":"string","jsonPath":".spec.seat.order.memberID"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.keeper.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.keeper.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EtcdMemberSpec {
    /// The EtcdCluster this belongs to, in the same namespace.
    pub cluster_name: String,
    /// The node whose agent carries this out.
    pub node_name: String,
    /// Candidate: the node is eligible. Member: it has a seat. Boot: the installer's temporary etcd.
    pub role: Role,
    /// Counts the lives of this seat: never reused. The member is named `<node>-<generation>`.
    #[serde(default)]
    pub generation: i64,
    /// Which life of the cluster; raised by each recovery or restore.
    #[serde(default)]
    pub lineage: i64,
    /// Echoed by the agent as status.observedNonce: proves that the status is fresh.
    #[serde(default)]
    pub nonce: String,
    /// Certificates signed by the controller for the keys whose CSRs stand in the status, and the CA, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Certificates>,
    /// The seat, if the role is Member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
    /// What to do with the boot member, if the role is Boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootSpec>,
    /// Listeners on this node (`ip:port`) whose clients the agent counts; empty = none. Only set while the pivot waits for clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub count_clients: Vec<String>,
    /// Connections from this node to these `ip:port` by processes of the operator, to be reported so that they can be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub count_own: Vec<String>,
    /// Checks to be made on the node before anything is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightSpec>,
    /// Backups to be taken of this node's member and kept on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupOrder>,
    /// When a learner of this node was evicted last, RFC 3339; cleared once a member of it votes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted: Option<String>,
    /// How many learners of this node were evicted since a member of it voted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub evictions: u32,
}

/// A count that is left out where there is none.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What an EtcdMember stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Role {
    /// The node is eligible and has no seat.
    Candidate,
    /// The node has a seat.
    Member,
    /// The installer's temporary etcd.
    Boot,
}

/// Certificates as PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Certificates {
    /// The etcd CA.
    pub ca: String,
    /// For etcd's peer port. Absent for the boot member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// For etcd's client port. Absent for the boot member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// For this node's keeper and agent as clients of etcd; carries no SANs.
    pub client: String,
}

/// What runs on the node.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seat {
    /// The pod.
    #[serde(flatten)]
    pub pod: Pod,
    /// Loopback port of the keeper's probes.
    pub probe_port: u16,
    /// Report the size of the member's data. Only set while it is a learner that is behind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub measure_data: bool,
    /// SHA-256 (hex) of the keeper that is to run here; absent = the one that does. Only the agent whose own binary it is can bring it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<String>,
    /// An order to put another pod in the place of the one that runs. Without it a pod with other inputs waits until etcd does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll_out: Option<RollOut>,
    /// The pod that did not come up here, and was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<Pod>,
    /// An image to be proven on this node, beside the pod that runs: pulled, and `etcd --version` run in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prove: Option<String>,
    /// ID of a snapshot to be taken of this member and kept on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The keeper's order.
    pub order: OrderSpec,
}

/// What the static pod is made from; a change of it restarts etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Pod {
    /// etcd's image, `repository:vX.Y.Z`.
    pub image: String,
    /// Labels of the pod, besides ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod, besides ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Resource requests of the container (cpu, memory).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// Resource limits of the container (cpu, memory).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// An order to put another pod in the place of the one that runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct RollOut {
    /// Unique ID; the time in it tells its age.
    pub id: String,
    /// Also where the other voters are no quorum meanwhile: a human wants it.
    #[serde(default)]
    pub overruled: bool,
    /// The pod that is replaced, to go back to; absent where this order is the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Pod>,
    /// Taken back: what runs stays. It is here until its agent is seen to have read that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays: bool,
}

/// The keeper's order; the agent adds the format number and writes it to disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderSpec {
    /// Raised by each change within a lineage.
    pub sequence: i64,
    /// Wait: prove the image and wait. Run: run etcd, if the start table allows it. Stop: stay stopped.
    pub run: RunSpec,
    /// Cluster ID, 16 hex digits.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Member ID, 16 hex digits.
    #[serde(default, rename = "memberID", skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// `<node>-<generation>`.
    pub member_name: String,
    /// `https://<node IP>:2380`.
    #[serde(rename = "peerURL")]
    pub peer_url: String,
    /// `https://<node IP>:2379`.
    #[serde(rename = "clientURL")]
    pub client_url: String,
    /// Loopback port of etcd's metrics and `/readyz`.
    pub metrics_port: u16,
    /// Loopback port of etcd's HTTP gateway.
    pub client_http_port: u16,
    /// etcd's `--max-learners`: boot's, since all members must have the same. 0 = 9.
    #[serde(default)]
    pub max_learners: u16,
    /// etcd's settings, from its next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// An order to restart etcd, if it runs with other settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSpec>,
    /// Client endpoints at which the keeper asks for the member list.
    #[serde(default)]
    pub ask: Vec<String>,
    /// ID of a one-shot permission to bootstrap a new cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// ID of a drain (SIGTERM now, this member is being removed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// ID of an order to archive the data of this removed member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The same of a member that was not removed: its whole cluster is deleted. Only with `run: Stop`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
}

/// An order to restart etcd once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct RestartSpec {
    /// Unique ID.
    pub id: String,
    /// Also where the other voters are no quorum meanwhile: a human wants it.
    #[serde(default)]
    pub overruled: bool,
}

/// Settings of etcd that may change while it is a member; 0 = etcd's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// `--quota-backend-bytes`; 0 = the operator's default, 8 GiB.
    #[serde(default)]
    pub quota_backend_bytes: i64,
    /// `--heartbeat-interval`, ms.
    #[serde(default)]
    pub heartbeat_ms: i32,
    /// `--election-timeout`, ms.
    #[serde(default)]
    pub election_ms: i32,
}

/// Whether etcd should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RunSpec {
    /// Prove the image and wait.
    Wait,
    /// Run etcd.
    Run,
    /// Stay stopped.
    Stop,
}

/// What to do with the boot member. Each step has an ID and is carried out once; its outcome stands in the status under that ID.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootSpec {
    /// Boot's client endpoint, by IP.
    pub client_endpoint: String,
    /// Take a snapshot of boot and keep it on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// SIGTERM boot's etcd; kill it once it is no longer listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<BootDrain>,
    /// Put boot's manifest into the archive and make its data dir unusable for etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<String>,
}

/// Drain, remove, kill.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootDrain {
    /// Unique ID.
    pub id: String,
    /// Boot's member ID, hex: the one whose absence from the list allows the kill.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// The cluster's ID, hex: an answer of another cluster counts as none.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Client endpoints of the other members, to be asked for the member list (linearizable).
    pub ask: Vec<String>,
}

/// Checks before anything is changed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreflightSpec {
    /// Client URLs of all seats there may be: what an API server should list.
    #[serde(default)]
    pub seats: Vec<String>,
    /// Unique ID, echoed in the status.
    pub id: String,
    /// The image that the members would run: the agent must allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Bytes that must be free for etcd's data on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need_bytes: Option<i64>,
    /// Addresses `ip:port` that must be free on this node.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Addresses `ip:port` that must accept a TCP connection from this node.
    #[serde(default)]
    pub reach: Vec<String>,
}

/// What the agent of the node sees and did.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EtcdMemberStatus {
    /// spec.nonce as last seen.
    #[serde(default)]
    pub observed_nonce: String,
    /// metadata.generation that this status belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of the agent.
    #[serde(default)]
    pub agent_version: String,
    /// SHA-256 (hex) of the agent's own binary: the keeper that it can bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers: Option<String>,
    /// The node's clock when the nonce was echoed, ms since 1970.
    #[serde(default)]
    pub clock_ms: i64,
    /// CSRs of the keys made on this node, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<Csr>,
    /// Why the node could not carry out the spec, as CamelCase word; empty if it could.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// The same for a human, with the next step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem_message: String,
    /// File system of the data directory (`f_fsid`, hex).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<String>,
    /// What the keeper says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<KeeperStatus>,
    /// The static pod on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodStatus>,
    /// What is known of the image in spec.seat.prove, or of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ProofStatus>,
    /// The snapshot of spec.seat.snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// What became of the backups in spec.backups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupReport>,
    /// What became of the boot member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootStatus>,
    /// Clients of the listeners in spec.countClients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ClientCount>,
    /// Connections of our own processes on this node, per address in spec.countOwn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnCount>,
    /// Outcome of the preflight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightStatus>,
    /// API servers that run on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_servers: Vec<ApiServerStatus>,
    /// Size of the member's data, while spec.seat.measureData asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSize>,
    /// No interface of the node has the address in the URLs of spec.seat: etcd could not listen there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub address_gone: bool,
}

/// The static pod on a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// What its manifest was made from.
    #[serde(flatten)]
    pub pod: Pod,
    /// Whether the keeper that runs was started from this manifest; absent where the keeper does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<bool>,
    /// Why spec.seat.rollOut is not carried out yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its manifest is not there (any more): the kubelet runs none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_away: bool,
}

/// An image that was run on a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ProofStatus {
    /// The image.
    pub image: String,
    /// The version of its etcd, from running it; empty if that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Why that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether it can read the log of this node's member; absent while that has not been looked at.
    #[serde(default, rename = "readsLog", skip_serializing_if = "Option::is_none")]
    pub reads_log: Option<bool>,
}

/// An API server on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiServerStatus {
    /// Its `--etcd-servers`.
    pub etcd_servers: Vec<String>,
}

/// How much a member has on disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct DataSize {
    /// Whose data, `<node>-<generation>`: what was said of an earlier member of the node says nothing of this one.
    pub member: String,
    /// MiB of file contents, rounded down so that not every byte is a write; a snapshot that is being received counts.
    pub mib: i64,
}

/// CSRs, PEM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Csr {
    /// For the peer port. Absent for the boot member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// For the client port. Absent for the boot member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// As a client of etcd.
    pub client: String,
}

/// What the keeper's state file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeeperStatus {
    /// Version of the keeper.
    #[serde(default)]
    pub version: String,
    /// Version of etcd in the image, from running it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_version: Option<String>,
    /// Deciding, Waiting, Running, Stopped, Refused or Draining.
    #[serde(default)]
    pub phase: String,
    /// Why, one CamelCase word.
    #[serde(default)]
    pub reason: String,
    /// Why, for a human.
    #[serde(default)]
    pub message: String,
    /// Lineage of the order last accepted.
    #[serde(default)]
    pub order_lineage: i64,
    /// Sequence of the order last accepted.
    #[serde(default)]
    pub order_sequence: i64,
    /// Member IDs (hex) that ran on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ran_here: Vec<String>,
    /// Member IDs (hex) known to be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// IDs of one-shots that were carried out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consumed: Vec<String>,
    /// A drain under way or done: its ID.
    #[serde(default, rename = "drainID", skip_serializing_if = "Option::is_none")]
    pub drain_id: Option<String>,
    /// Signalled, Gone or StartedAgain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_step: Option<String>,
    /// SHA-256 (hex) of the binary that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// A hand-over to another keeper that is under way, or what became of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<HandOverStatus>,
    /// The settings with which etcd runs; absent while it does not, and where the keeper is too old to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_with: Option<Settings>,
}

/// A hand-over from one keeper to another, while etcd runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct HandOverStatus {
    /// SHA-256 (hex) of the binary that takes over.
    pub to: String,
    /// How far it is.
    pub step: KeeperHandOverStep,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How far a hand-over is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum KeeperHandOverStep {
    /// The old keeper is about to become the new one.
    Begun,
    /// The new one runs; a cold start would still meet the old one.
    Proving,
    /// The new one is what the kubelet starts.
    Done,
    /// It failed, and is tried again once `spec.seat.keeper` has been removed.
    Refused,
}

/// What the agent of boot's node sees and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootStatus {
    /// Path of boot's static manifest on the node, if it is a static pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Boot's `--max-learners`, of its static pod or else its process; 1 where it has no such flag (etcd's default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_learners: Option<u16>,
    /// Whether boot's etcd process was found and can be signalled.
    #[serde(default)]
    pub process_found: bool,
    /// The snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// ID of the drain that `drainStep` belongs to.
    #[serde(default, rename = "drainID", skip_serializing_if = "Option::is_none")]
    pub drain_id: Option<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_step: Option<BootDrainStep>,
    /// ID of the tombstone that was set.
    #[serde(default, rename = "tombstoneID", skip_serializing_if = "Option::is_none")]
    pub tombstone_id: Option<String>,
    /// What failed last, with the next step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How far boot's removal is on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum BootDrainStep {
    /// SIGTERM was sent.
    Signalled,
    /// The other members no longer list boot; its process is gone.
    Gone,
    /// Still listed, or no answer, 10 s after the signal: left to the kubelet, which starts it again.
    StartedAgain,
    /// The process could not be found or signalled.
    Failed,
}

/// A snapshot on a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// ID of the request.
    pub id: String,
    /// Path on the node.
    pub path: String,
    /// Size in bytes.
    pub bytes: i64,
    /// Hex SHA-256 of the database, as verified against the digest that etcd appends.
    pub sha256: String,
}

/// A backup to be taken of a node's member, once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupOrder {
    /// The EtcdBackup.
    pub name: String,
    /// Of which run; each is tried once.
    pub id: String,
    /// Backups of this EtcdBackup that the node keeps; 0 = any number.
    #[serde(default)]
    pub keep: u32,
    /// And for how long, in seconds; 0 = for ever.
    #[serde(default)]
    pub max_age_seconds: i64,
    /// How long this one may take, in seconds.
    pub timeout_seconds: i64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupReport {
    /// The EtcdBackup.
    pub name: String,
    /// Of which run.
    pub id: String,
    /// The backup, if it was taken and proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<BackupTaken>,
    /// Why not, as CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for a human.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A backup that was read again and found whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTaken {
    /// Where it lies.
    pub path: String,
    /// When it was begun, RFC 3339.
    pub time: String,
    /// etcd's version.
    pub etcd_version: String,
    /// etcd's cluster ID, hex.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// All up to this revision is in it.
    pub revision: i64,
    /// Its size in bytes.
    pub bytes: i64,
    /// Size of the database in bytes.
    pub db_bytes: i64,
    /// SHA-256 of what is stored, hex.
    pub sha256: String,
    /// Backups of this EtcdBackup that are there now; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<i64>,
    /// Why older ones could not be removed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_cleared: String,
}

/// Clients of one listener, as seen on the listener's node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ClientCount {
    /// `ip:port` of the listener.
    pub listener: String,
    /// Established connections per remote IP, our own not left out yet.
    pub remotes: BTreeMap<String, i64>,
}

/// Established connections of the operator's own processes on this node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct OwnCount {
    /// `ip:port` that they go to.
    pub to: String,
    /// How many, per local IP.
    pub locals: BTreeMap<String, i64>,
}

/// Outcome of the preflight.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct PreflightStatus {
    /// ID of the request.
    pub id: String,
    /// The checks.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Check {
    /// Name, CamelCase: Port, Reach, Disk, Clock, ...
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// What was seen, and the way out if it failed.
    pub message: String,
}
