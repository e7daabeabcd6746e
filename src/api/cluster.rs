//! EtcdCluster: what the installer posts and the admin scales. Field names of v1beta2 are kept; `docs/compatibility.md` says per field
//! whether it is honoured, translated, ignored with a condition, or refused.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::condition::Condition;

/// A cluster of etcd members that this Kubernetes cluster hosts.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "etcd.database.coreos.com",
    version = "v1beta2",
    kind = "EtcdCluster",
    plural = "etcdclusters",
    shortname = "etcd",
    namespaced,
    status = "EtcdClusterStatus",
    derive = "PartialEq",
    scale = r#"{"specReplicasPath":".spec.size","statusReplicasPath":".status.size","labelSelectorPath":".status.selector"}"#,
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 40")
        .message("metadata.name: at most 40 lower case letters, digits and '-', as names of pods and files are made from it"),
    validation = Rule::new("has(oldSelf.spec.selfHosted) || !has(self.spec.selfHosted) || !has(self.status) || !has(self.status.firstPort)")
        .message("spec.selfHosted: cannot be added; this cluster has begun on its own, without a boot etcd to move away from"),
    validation = Rule::new("!has(self.spec.firstPort) || !has(oldSelf.status) || !has(oldSelf.status.firstPort) || self.spec.firstPort == oldSelf.status.firstPort")
        .message("spec.firstPort: cannot be changed; the members' URLs are made from status.firstPort"),
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".spec.size"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.size"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.currentVersion"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Pivot","type":"string","jsonPath":".status.pivot.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Leader","type":"string","jsonPath":".status.memberStates[?(@.leader==true)].name","priority":1}"#,
    printcolumn = r#"{"name":"Unready","type":"string","jsonPath":".status.members.unready","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(oldSelf.selfHosted) || has(self.selfHosted)")
    .message("spec.selfHosted: cannot be taken away; the cluster's API server depends on this etcd"))]
#[x_kube(validation = Rule::new("has(self.selfHosted) || !has(self.TLS) || !has(self.TLS.ca) || self.TLS.ca.secretName != 'etcd-ca'")
    .message("spec.TLS.ca.secretName: etcd-ca is the CA of the cluster's own datastore; name another Secret, or leave it out: one is made"))]
#[x_kube(validation = Rule::new("!has(self.firstPort) || !has(self.selfHosted)")
    .message("spec.firstPort: not with spec.selfHosted, whose members listen on 2379 to 2383"))]
#[x_kube(validation = Rule::new("!has(oldSelf.firstPort) || (has(self.firstPort) && self.firstPort == oldSelf.firstPort)")
    .message("spec.firstPort: cannot be changed; the members' URLs are made from it"))]
#[x_kube(validation = Rule::new("!has(oldSelf.TLS) || !has(oldSelf.TLS.ca) || (has(self.TLS) && has(self.TLS.ca) && self.TLS.ca == oldSelf.TLS.ca)")
    .message("spec.TLS.ca: cannot be changed yet; members that trust different CAs could not talk to each other"))]
pub struct EtcdClusterSpec {
    /// Number of members, 1 to 9; odd is best. `kubectl scale` changes it.
    #[serde(default = "default_size")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 9")
        .message("spec.size: must be 1 to 9 (odd is best: an even size tolerates no more failures); a cluster is not deleted by scaling it to 0"))]
    pub size: i32,
    /// etcd's version, `3.6.16`; a leading `v` is accepted.
    #[serde(default = "default_version")]
    #[x_kube(validation = Rule::new("self.matches('^v?[0-9]+[.][0-9]+[.][0-9]+$') && self.size() <= 32")
        .message("spec.version: must be a version of etcd such as 3.6.16"))]
    pub version: String,
    /// Image repository of etcd, without tag; the tag is `v` + version. Empty: the controller's `--default-repository`.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._:/-]*$') && self.size() <= 255")
        .message("spec.repository: an image repository without tag: letters, digits and ._:/-"))]
    pub repository: String,
    /// Stops the operator from changing anything in this cluster.
    #[serde(default)]
    pub paused: bool,
    /// How etcd's pods look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodPolicy>,
    /// etcd's own settings. A change restarts the members one at a time, the leader last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdPolicy>,
    /// This etcd is the cluster's own datastore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_hosted: Option<SelfHosted>,
    /// The first of the five ports that each member takes on its node: client, peer, metrics, clients over HTTP, probes (the last three on loopback). Unset: the
    /// lowest free of 22379, 22389, …. Only without selfHosted, and only where the operator may host such clusters (`deploy/standalone.yaml`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1024 && self <= 65531")
        .message("spec.firstPort: must be 1024 to 65531, as five ports from there on are taken"))]
    #[x_kube(validation = Rule::new("self < 2375 || self > 2383")
        .message("spec.firstPort: 2379 to 2383 are those of the cluster's own datastore"))]
    pub first_port: Option<i32>,
    /// Certificates.
    #[serde(default, rename = "TLS", skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPolicy>,
    /// v1beta1's backup policy: ignored; see EtcdBackup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub backup: Option<Value>,
    /// v1beta1's restore policy: ignored; see EtcdRestore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub restore: Option<Value>,
}

/// Size of a cluster that names none.
fn default_size() -> i32 {
    3
}

/// Version of a cluster that names none: the newest patch of the minor that the newest Kubernetes is tested with.
#[must_use]
pub fn default_version() -> String {
    "3.6.16".into()
}

/// How etcd's pods look. Static pods are not scheduled: fields that only mean something to the scheduler are ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodPolicy {
    /// Labels of the pods, besides ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, besides ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Nodes that may carry a member. Empty: the control nodes. `node-role.kubernetes.io/master` is read as `…/control-plane`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Requests and limits of the etcd container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Ignored: members are spread over zones and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub affinity: Option<Value>,
    /// Ignored: there is never more than one member on a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub anti_affinity: Option<Value>,
    /// Ignored: static pods tolerate every taint that does not evict by execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub tolerations: Option<Value>,
    /// Ignored: etcd's settings are typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub etcd_env: Option<Value>,
    /// Ignored: the data lies on the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub persistent_volume_claim_spec: Option<Value>,
    /// Ignored: etcd has no service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub automount_service_account_token: Option<Value>,
    /// Ignored: there is no init container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub busybox_image: Option<Value>,
    /// Ignored: the operator sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub security_context: Option<Value>,
}

/// etcd's own settings; what is not set is etcd's default, but for the quota.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.electionTimeout) ? self.electionTimeout : 1000) >= 5 * (has(self.heartbeatInterval) ? self.heartbeatInterval : 100)")
    .message("spec.etcd.electionTimeout: must be at least five times heartbeatInterval (defaults: 1000 and 100 ms), as etcd demands"))]
pub struct EtcdPolicy {
    /// `--quota-backend-bytes`, 1 GiB to 16 GiB; default 8 GiB, the most that etcd advises. Not below what the database has by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1073741824 && self <= 17179869184")
        .message("spec.etcd.quotaBackendBytes: must be 1073741824 (1 GiB) to 17179869184 (16 GiB)"))]
    pub quota_backend_bytes: Option<i64>,
    /// `--heartbeat-interval` in ms, 10 to 5000; about the round trip between members, or more. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 10 && self <= 5000")
        .message("spec.etcd.heartbeatInterval: must be 10 to 5000 (ms)"))]
    pub heartbeat_interval: Option<i32>,
    /// `--election-timeout` in ms, 100 to 50000. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 100 && self <= 50000")
        .message("spec.etcd.electionTimeout: must be 100 to 50000 (ms)"))]
    pub election_timeout: Option<i32>,
}

/// Requests and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Resources {
    /// `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

/// This etcd is the cluster's own datastore.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.bootMemberClientEndpoint == oldSelf.bootMemberClientEndpoint")
    .message("spec.selfHosted.bootMemberClientEndpoint: cannot be changed; delete the object before the pivot has begun, or set abort"))]
pub struct SelfHosted {
    /// Client URL of the boot etcd, `https://<IP>:<port>`, as boot advertises it.
    #[x_kube(validation = Rule::new("self.matches('^https://[0-9]{1,3}([.][0-9]{1,3}){3}:[0-9]{1,5}$')")
        .message("spec.selfHosted.bootMemberClientEndpoint: must be https://<IPv4>:<port>; plain http and names are refused: boot needs TLS, and names need a DNS that may run on this very etcd"))]
    pub boot_member_client_endpoint: String,
    /// Leave boot in the cluster for good.
    #[serde(default)]
    pub skip_boot_member_removal: bool,
    /// Stop before boot's removal until this is false.
    #[serde(default)]
    pub hold_boot_removal: bool,
    /// Go back to boot alone; possible until boot has been removed.
    #[serde(default)]
    pub abort: bool,
    /// Only check whether the pivot could be made; change nothing.
    #[serde(default)]
    pub preflight_only: bool,
    /// How a boot that is no static pod is stopped. Unset: it is removed alive, and a write in flight may fail. Without effect where the
    /// agent of boot's node finds its static pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_boot: Option<StopBoot>,
}

/// How a boot that is no static pod is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum StopBoot {
    /// By `etcd-operator pivot --boot-command`, which runs as long as the pivot: the order stands in status.pivot.bootDrain, the answer in
    /// the annotation `etcd.database.coreos.com/boot-command`.
    Command,
}

/// Certificates.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct TlsPolicy {
    /// The CA that signs the members' certificates. In a pivot it must be the one that boot trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaRef>,
    /// v1beta2's ready-made certificates: ignored, as each node makes its own keys and they never leave it.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub static_: Option<Value>,
}

/// The CA's Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaRef {
    /// Name of a Secret of type `kubernetes.io/tls` in the same namespace.
    pub secret_name: String,
}

/// Name of the CA's Secret where `spec.TLS.ca` names none.
pub const DEFAULT_CA_SECRET: &str = "etcd-ca";

/// What the operator has seen and done.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EtcdClusterStatus {
    /// Creating, Running (from the first new voter on) or Failed (nothing goes on without a human). As in v1beta2.
    #[serde(default)]
    pub phase: String,
    /// Why the operator waits or holds, one CamelCase word; empty when all is as wanted.
    #[serde(default)]
    pub reason: String,
    /// The same for a human, with the next step.
    #[serde(default)]
    pub message: String,
    /// Number of ready voters.
    #[serde(default)]
    pub size: i32,
    /// Selector of the members' pods, for the scale subresource.
    #[serde(default)]
    pub selector: String,
    /// Members by readiness.
    #[serde(default)]
    pub members: Members,
    /// Each member that etcd lists, as it was last seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub member_states: Vec<MemberState>,
    /// Version that all members run.
    #[serde(default)]
    pub current_version: String,
    /// Version that is wanted.
    #[serde(default)]
    pub target_version: String,
    /// ID of the etcd cluster, hex.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Which life of the cluster; raised by each recovery or restore.
    #[serde(default)]
    pub lineage: i64,
    /// The first of the five ports of its members; only without selfHosted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_port: Option<i32>,
    /// The one beginning of a cluster without selfHosted: never a second one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<Founding>,
    /// Client URLs of the ready voters; never empty once there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// The move from boot to members of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pivot: Option<PivotStatus>,
    /// The disruptive step that a controller has announced; of another cluster ID or lineage it is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// metadata.generation that this status belongs to.
    #[serde(default)]
    pub observed_generation: i64,
    /// Available, Progressing, Degraded, PivotComplete, Ready, KeepersCurrent, FieldIgnored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The first member of a cluster without selfHosted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Founding {
    /// Its node.
    pub node: String,
    /// What etcd makes the cluster's ID of (`--initial-cluster-token`), and the ID of the permission.
    pub token: String,
    /// The ID that this member will have, hex.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// The ID that the cluster will have, hex.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
}

/// Members by readiness, names as etcd lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Members {
    /// Voters that answer and know a leader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready: Vec<String>,
    /// All others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unready: Vec<String>,
}

/// A member that etcd lists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberState {
    /// Its ID, hex.
    pub id: String,
    /// Its name; empty until it has started.
    #[serde(default)]
    pub name: String,
    /// The node that carries it; empty if none of the cluster's does.
    #[serde(default)]
    pub node: String,
    /// What it is.
    pub role: MemberRole,
    /// Whether it answers, knows a leader and raises no alarm.
    pub healthy: bool,
    /// Why it is not, for a human.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether it leads.
    #[serde(default)]
    pub leader: bool,
    /// etcd's version there; empty while it does not answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Size of its database in MiB when anything else here changed last: by itself a size that grows is written nowhere but in metrics.
    #[serde(default, rename = "dbSizeMiB", skip_serializing_if = "Option::is_none")]
    pub db_size_mib: Option<i64>,
    /// When role or health changed last, RFC 3339.
    pub last_transition_time: String,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It has no vote yet.
    Learner,
    /// The installer's temporary etcd.
    Boot,
    /// The operator did not add it.
    Foreign,
}

/// The move from boot to members of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PivotStatus {
    /// Preflight, Snapshot, Preparing, Joining, WaitingForClients, Gate, MovingLeader, RemovingBoot, Tombstone, Complete, Aborting,
    /// Aborted or PreflightPassed.
    #[serde(default)]
    pub phase: String,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub since: String,
    /// Boot's member ID, hex, as first seen.
    #[serde(default, rename = "bootMemberID", skip_serializing_if = "Option::is_none")]
    pub boot_member_id: Option<String>,
    /// ID of the preflight that passed, so that it is not repeated.
    #[serde(default, rename = "preflightID", skip_serializing_if = "Option::is_none")]
    pub preflight_id: Option<String>,
    /// Since when all new members have been listening, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening_since: Option<String>,
    /// Where the snapshot of boot lies: `<node>:<path>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// When boot was seen to be out of the member list, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_removed: Option<String>,
    /// The order to stop boot, where a command does that (spec.selfHosted.stopBoot).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_drain: Option<CommandOrder>,
}

/// The order to stop boot by its command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandOrder {
    /// Unique ID, which ends in the attempt.
    pub id: String,
    /// Nobody carried it out in time: it must not be begun any more.
    #[serde(default)]
    pub withdrawn: bool,
}

/// A disruptive step that a controller has announced before taking it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The step, as text.
    pub step: String,
    /// Which controller.
    pub holder: String,
    /// Until when no other controller may take a disruptive step, RFC 3339.
    pub expires: String,
    /// Cluster ID that it belongs to, hex.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Lineage that it belongs to.
    pub lineage: i64,
}

/// Accepted as it is, kept, and named in the condition FieldIgnored.
fn anything(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

impl EtcdClusterSpec {
    /// Names of the fields that are set and not honoured.
    #[must_use]
    pub fn ignored_fields(&self) -> Vec<&'static str> {
        let pod = self.pod.clone().unwrap_or_default();
        let tls = self.tls.clone().unwrap_or_default();
        [
            ("spec.backup", self.backup.is_some()),
            ("spec.restore", self.restore.is_some()),
            ("spec.TLS.static", tls.static_.is_some()),
            ("spec.pod.affinity", pod.affinity.is_some()),
            ("spec.pod.antiAffinity", pod.anti_affinity.is_some()),
            ("spec.pod.tolerations", pod.tolerations.is_some()),
            ("spec.pod.etcdEnv", pod.etcd_env.is_some()),
            ("spec.pod.persistentVolumeClaimSpec", pod.persistent_volume_claim_spec.is_some()),
            ("spec.pod.automountServiceAccountToken", pod.automount_service_account_token.is_some()),
            ("spec.pod.busyboxImage", pod.busybox_image.is_some()),
            ("spec.pod.securityContext", pod.security_context.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
    }

    /// The version without a leading `v`.
    #[must_use]
    pub fn plain_version(&self) -> &str {
        self.version.strip_prefix('v').unwrap_or(&self.version)
    }

    /// Name of the CA's Secret, of a cluster with selfHosted. That of another one defaults to one of its own.
    #[must_use]
    pub fn ca_secret(&self) -> &str {
        self.tls.as_ref().and_then(|t| t.ca.as_ref()).map_or(DEFAULT_CA_SECRET, |ca| &ca.secret_name)
    }

    /// The labels that a node must have, with the old name of the control nodes' label translated.
    #[must_use]
    pub fn node_selector(&self) -> BTreeMap<String, String> {
        const CONTROL: &str = "node-role.kubernetes.io/control-plane";
        let wanted = self.pod.as_ref().map(|p| p.node_selector.clone()).unwrap_or_default();
        if wanted.is_empty() {
            return BTreeMap::from([(CONTROL.to_owned(), String::new())]);
        }
        let translate = |key: String| if key == "node-role.kubernetes.io/master" { CONTROL.to_owned() } else { key };
        wanted.into_iter().map(|(key, value)| (translate(key), value)).collect()
    }
}
