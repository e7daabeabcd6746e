//! EtcdBackup: what is to be backed up, when, where to, and how much of it is kept. Field names of v1beta2 are kept (`docs/compatibility.md`).

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::member::BackupTaken;

/// Backups of an EtcdCluster: one, or one after the other. Deleting it deletes no backup.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "etcd.database.coreos.com",
    version = "v1beta2",
    kind = "EtcdBackup",
    plural = "etcdbackups",
    shortname = "etcdb",
    namespaced,
    status = "EtcdBackupStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && self.metadata.name.size() <= 52")
        .message("metadata.name: at most 52 lower case letters, digits and '-', as a directory is named after it"),
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterName"}"#,
    printcolumn = r#"{"name":"Store","type":"string","jsonPath":".spec.storageType"}"#,
    printcolumn = r#"{"name":"Schedule","type":"string","jsonPath":".spec.backupPolicy.schedule"}"#,
    printcolumn = r#"{"name":"Last","type":"date","jsonPath":".status.lastSuccessDate"}"#,
    printcolumn = r#"{"name":"Revision","type":"integer","jsonPath":".status.etcdRevision"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.node) || self.storageType == 'Node'")
    .message("spec.node: goes with spec.storageType: Node"))]
#[x_kube(validation = Rule::new("has(self.s3) == (self.storageType == 'S3')")
    .message("spec.s3: goes with spec.storageType: S3, and is needed there"))]
pub struct EtcdBackupSpec {
    /// The EtcdCluster, in the same namespace.
    #[x_kube(validation = Rule::new("self.size() >= 1 && self.size() <= 40")
        .message("spec.clusterName: the name of an EtcdCluster of this namespace"))]
    pub cluster_name: String,
    /// Where backups go. Node: a directory on nodes that carry members, which is there when nothing else is.
    #[serde(default)]
    pub storage_type: StorageType,
    /// When, and how much is kept. Unset: one backup, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_policy: Option<BackupPolicy>,
    /// Begins no backup while it is set; one that is under way comes to its end.
    #[serde(default)]
    pub suspend: bool,
    /// About storageType Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeStore>,
    /// About storageType S3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
}

/// Where backups go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum StorageType {
    /// A directory on nodes that carry members: `/var/lib/etcd-operator/<namespace>/<cluster>/backups/<name>`.
    #[default]
    Node,
    /// A bucket of a store that speaks S3.
    S3,
}

/// When, and how much is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.schedule) || !has(self.backupIntervalInSecond) || self.backupIntervalInSecond == 0")
    .message("spec.backupPolicy: either schedule or backupIntervalInSecond"))]
#[x_kube(validation = Rule::new("!has(self.timeZone) || has(self.schedule)")
    .message("spec.backupPolicy.timeZone: goes with schedule"))]
pub struct BackupPolicy {
    /// How long one backup may take, in seconds; unset or 0: 600. Of each node anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 86400")
        .message("spec.backupPolicy.timeoutInSecond: 1 to 86400, or 0 for the default of 600"))]
    pub timeout_in_second: Option<i64>,
    /// Seconds between two backups; unset or 0: one backup only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == 0 || self >= 60")
        .message("spec.backupPolicy.backupIntervalInSecond: 60 or more, or 0 for a single backup"))]
    pub backup_interval_in_second: Option<i64>,
    /// When, as in cron: minute, hour, day of the month, month, day of the week; or `@daily` and the like. A time that was missed is made up for once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.size() <= 128").message("spec.backupPolicy.schedule: at most 128 characters"))]
    pub schedule: Option<String>,
    /// IANA time zone of the schedule, such as `Europe/Berlin`. Unset: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.size() <= 64").message("spec.backupPolicy.timeZone: at most 64 characters"))]
    pub time_zone: Option<String>,
    /// So many are kept in each place; 0: all; unset: 10 on nodes, all in a bucket. The newest of each etcd cluster always is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 10000").message("spec.backupPolicy.maxBackups: 1 to 10000, or 0 for all"))]
    pub max_backups: Option<i64>,
    /// None is kept for longer, in seconds; unset or 0: for ever. The newest of each etcd cluster always is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0").message("spec.backupPolicy.maxAgeInSecond: not negative; 0 for any age"))]
    pub max_age_in_second: Option<i64>,
}

/// About a directory on nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStore {
    /// On so many nodes, each of its own member; fewer where there are not so many healthy ones. Unset: 2.
    #[serde(default = "default_copies")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 9").message("spec.node.copies: 1 to 9"))]
    pub copies: i32,
}

impl Default for NodeStore {
    fn default() -> Self {
        Self { copies: default_copies() }
    }
}

/// A node that is lost takes its backup with it.
fn default_copies() -> i32 {
    2
}

/// About a store that speaks S3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// `<bucket>/<prefix>`. Several EtcdBackups may share it.
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9._-]+)*$') && self.size() <= 512 && !self.matches('(^|/)[.][.]?(/|$)')")
        .message("spec.s3.path: <bucket>/<prefix> of letters, digits and ._-"))]
    pub path: String,
    /// URL of the store; unset = Amazon's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self == '' || (self.matches('^https://[^/?#@ ]+$') && self.size() <= 255)")
        .message("spec.s3.endpoint: https://<host>[:<port>]; a backup holds every Secret of the cluster"))]
    pub endpoint: String,
    /// Its region; unset: the one in the Secret, or `us-east-1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9-]*$') && self.size() <= 64").message("spec.s3.region: letters, digits and '-'"))]
    pub region: String,
    /// `https://<endpoint>/<bucket>` instead of `https://<bucket>.<endpoint>`.
    #[serde(default)]
    pub force_path_style: bool,
    /// Secret with `credentials` and, if wanted, `config` as files of the AWS command line (profile `default`). Unset: workload identity of the controller's pod.
    /// The controller reads Secret `etcd-backup`; other names have to be added to its Role.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self.size() <= 253").message("spec.s3.awsSecret: the name of a Secret"))]
    pub aws_secret: String,
    /// Secret with `ca.crt`, which signs the store's certificate; unset = the CAs that browsers trust. May be the same as awsSecret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[x_kube(validation = Rule::new("self.size() <= 253").message("spec.s3.caSecret: the name of a Secret"))]
    pub ca_secret: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EtcdBackupStatus {
    /// Whether the last run ended with a backup that was read again and found whole.
    #[serde(default)]
    pub succeeded: bool,
    /// What it came to, in one word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for a human, with the next step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// etcd's version in the newest backup.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub etcd_version: String,
    /// All up to this revision is in the newest backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_revision: Option<i64>,
    /// When the newest backup was begun, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_date: Option<String>,
    /// For when the last run was due, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_execution_date: Option<String>,
    /// The newest backup, wherever it lies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newest: Vec<Copy>,
    /// The run that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Runs in a row that ended without a backup.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failures: i64,
    /// Not before this time is it tried again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// metadata.generation that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(count: &i64) -> bool {
    *count == 0
}

/// A backup in one place.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Copy {
    /// The node; empty: not on a node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// What was taken.
    #[serde(flatten)]
    pub taken: BackupTaken,
}

/// A run that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its ID, which its backups carry in their names.
    pub id: String,
    /// When it was due, RFC 3339.
    pub due: String,
    /// The node that is asked at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}
