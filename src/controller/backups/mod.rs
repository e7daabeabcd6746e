//! EtcdBackups: whether a run is due, which nodes it asks, and what came of it. Agents take the backups that stay on nodes, a task of this process
//! those that go into a bucket (`remote.rs`); none of it is part of a pass over a cluster, so that whatever goes wrong with a backup keeps no cluster
//! from being managed.

mod decide;
mod figures;
mod remote;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::backup::{Copy, Run, StorageType};
use etcd_operator_api::cluster::MemberRole;
use etcd_operator_api::condition::{self, Condition};
use etcd_operator_api::member::{BackupOrder, EtcdMember, Role};
use etcd_operator_api::{EtcdBackup, EtcdBackupStatus, EtcdCluster};
use etcd_operator_client::watch_config;
use futures::StreamExt as _;
use kube::api::{ListParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource as _, ResourceExt as _};

use self::decide::{Begin, End, Next, Past, Source};
use super::members::{self, CLUSTER_LABEL};
use super::{AFTER_CONFLICT, AFTER_ERROR, Context, ControllerError, api_error, is_conflict};
use crate::clock;

pub use figures::Figures;
pub(crate) use remote::Runs;

/// Without another event an EtcdBackup is looked at again after so long at most: clocks are set, and objects change unseen.
const LOOK: Duration = Duration::from_secs(300);
/// After a write of ours.
const NEXT_STEP: Duration = Duration::from_millis(50);
/// How often a run of this process is looked at.
const REMOTE_LOOK: Duration = Duration::from_secs(2);
/// How long one backup may take, where the policy does not say, s.
const TIMEOUT_S: i64 = 600;
/// Backups that each node keeps where the policy does not say: its disk is etcd's, too.
const KEPT_ON_NODES: u32 = 10;
/// How long one that is too many waits.
const TURN: Duration = Duration::from_secs(10);
/// Orders that one node has at the same time.
const ORDERS: usize = 32;
/// How long a run waits for this process's first pass over its cluster.
const FIRST_PASS: Duration = Duration::from_secs(120);
/// Longest message in a status.
const WORDS: usize = 1024;

/// Reasons of an EtcdBackup's status beside those of whoever took it ([`etcd_operator_backup::Reason`]). Each has a section in `docs/runbooks.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// As many backups as wanted were taken and proven.
    Verified,
    /// Fewer than wanted.
    FewerCopies,
    /// The schedule cannot be read.
    ScheduleInvalid,
    /// There is no such EtcdCluster.
    ClusterNotFound,
    /// It has no healthy voter.
    NoHealthyMember,
    /// An agent did not answer.
    AgentSilent,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Verified,
        Self::FewerCopies,
        Self::ScheduleInvalid,
        Self::ClusterNotFound,
        Self::NoHealthyMember,
        Self::AgentSilent,
    ];
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Looks after all EtcdBackups of the operator's namespace; never ends.
pub(crate) async fn serve(context: Arc<Context>) {
    let backups: Api<EtcdBackup> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let members: Api<EtcdMember> = context.members();
    let of_orders = |member: EtcdMember| {
        let namespace = member.metadata.namespace.unwrap_or_default();
        let orders = member.spec.backups.into_iter();
        orders.map(move |order| ObjectRef::<EtcdBackup>::new(&order.name).within(&namespace)).collect::<Vec<_>>()
    };
    let controller = kube::runtime::Controller::new(backups, watch_config());
    context.args.metrics.backups.watch(controller.store());
    controller
        .trigger_backoff(crate::retry::WatchBackoff::default())
        .watches(members, watch_config(), of_orders)
        .reconcile_all_on(context.lease.acquired())
        .run(reconcile, after_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(backup: Arc<EtcdBackup>, context: Arc<Context>) -> Result<Action, ControllerError> {
    if !context.lease.may_act() || context.is_stopping() {
        return Ok(Action::await_change());
    }
    // What the cache holds may be from before our last write.
    let name = backup.name_any();
    let api: Api<EtcdBackup> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let Some(backup) = api.get_opt(&name).await.map_err(api_error("reading an EtcdBackup"))? else {
        return Ok(Action::await_change());
    };
    let again = Pass { context: &context, api, backup }.run().await?;
    Ok(Action::requeue(again.min(LOOK)))
}

fn after_error(backup: Arc<EtcdBackup>, error: &ControllerError, _: Arc<Context>) -> Action {
    if is_conflict(error) {
        return Action::requeue(AFTER_CONFLICT);
    }
    tracing::warn!(backup = %backup.name_any(), error = %error, "pass over an EtcdBackup failed, it is repeated");
    Action::requeue(AFTER_ERROR)
}

/// One look at one EtcdBackup.
struct Pass<'a> {
    context: &'a Context,
    api: Api<EtcdBackup>,
    backup: EtcdBackup,
}

impl Pass<'_> {
    async fn run(self) -> Result<Duration, ControllerError> {
        let now_ms = clock::now_ms();
        let status = self.backup.status.clone().unwrap_or_default();
        if let Some(run) = &status.run {
            return self.go_on(run, &status, now_ms).await;
        }
        let schedule = match schedule::parse(self.backup.spec.backup_policy.as_ref()) {
            Ok(schedule) => schedule,
            Err(why) => {
                let mut new = status.clone();
                self.say(&mut new, &Reason::ScheduleInvalid.to_string(), &why, false, now_ms);
                self.write(&status, new).await?;
                return Ok(LOOK);
            }
        };
        match decide::begin(&past(&self.backup), &schedule, now_ms) {
            Begin::Now(due_ms) => {
                let mut new = status.clone();
                let due = clock::rfc3339(due_ms);
                new.last_execution_date = Some(due.clone());
                new.run = Some(Run { id: members::unique("run"), due, node: None, asked: Some(clock::rfc3339(now_ms)) });
                new.observed_generation = self.backup.metadata.generation;
                self.write(&status, new).await?;
                Ok(NEXT_STEP)
            }
            Begin::At(at_ms) => Ok(until(at_ms, now_ms)),
            Begin::No => Ok(LOOK),
        }
    }

    /// A run is under way.
    async fn go_on(&self, run: &Run, status: &EtcdBackupStatus, now_ms: u64) -> Result<Duration, ControllerError> {
        let spec = &self.backup.spec;
        let is_remote = spec.storage_type == StorageType::S3;
        let known = self.context.remote.look(&run.id).filter(|_| is_remote);
        // Seen every 2 s: nothing else has to be read for that.
        if matches!(known, Some(remote::Run::UnderWay)) {
            return Ok(REMOTE_LOOK);
        }
        let clusters = self.context.clusters();
        let cluster = clusters.get_opt(&spec.cluster_name).await.map_err(api_error("reading an EtcdCluster"))?;
        let Some(cluster) = cluster else {
            let why = format!("spec.clusterName: there is no EtcdCluster {} in this namespace", spec.cluster_name);
            return self.end(status, End::default(), Some((Reason::ClusterNotFound, why)), now_ms).await;
        };
        let of_cluster = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", spec.cluster_name));
        let members = self.context.members().list(&of_cluster).await.map_err(api_error("listing EtcdMembers"))?.items;
        if is_remote {
            return self.go_on_remotely(run, status, &cluster, &members, known, now_ms).await;
        }
        let sources = sources(&cluster, &members, &self.backup.name_any());
        let timeout_s = self.timeout_s();
        let timeout_ms = u64::try_from(timeout_s).unwrap_or(0).saturating_mul(1000);
        let asked_ms = run.asked.as_deref().and_then(clock::parse_rfc3339);
        match decide::next(run, &sources, self.copies(), timeout_ms, asked_ms, now_ms) {
            Next::Ask(node) => {
                let mut new = status.clone();
                new.run = Some(Run { node: Some(node), asked: Some(clock::rfc3339(now_ms)), ..run.clone() });
                self.write(status, new).await?;
                Ok(NEXT_STEP)
            }
            Next::Order(node) => {
                if let Some(member) = member_on(&members, &node) {
                    let is_given = self.order(member, run, timeout_s).await?;
                    return Ok(if is_given { NEXT_STEP } else { TURN });
                }
                Ok(NEXT_STEP)
            }
            Next::Wait(until_ms) => Ok(until(until_ms, now_ms)),
            Next::End(end) => self.end(status, end, None, now_ms).await,
        }
    }

    /// A run of this process itself.
    async fn go_on_remotely(
        &self,
        run: &Run,
        status: &EtcdBackupStatus,
        cluster: &EtcdCluster,
        members: &[EtcdMember],
        known: Option<remote::Run>,
        now_ms: u64,
    ) -> Result<Duration, ControllerError> {
        let runs = &self.context.remote;
        let outcome = match known {
            Some(remote::Run::UnderWay) => return Ok(REMOTE_LOOK),
            Some(remote::Run::Over(outcome)) => outcome,
            None => match self.begin_remotely(run, cluster, members, status.failures).await {
                Ok(true) => return Ok(REMOTE_LOOK),
                // The cluster's certificates are not known yet: a pass over it comes first.
                Ok(false) if runs.waited(&run.id) < FIRST_PASS => return Ok(AFTER_ERROR),
                Ok(false) => Err((Reason::NoHealthyMember.to_string(), self.no_member())),
                Err(failure) => Err(failure),
            },
        };
        let end = match outcome {
            Ok(taken) => End { copies: vec![Copy { node: String::new(), taken }], failed: Vec::new() },
            Err((reason, message)) => End { copies: Vec::new(), failed: vec![(String::new(), reason, message)] },
        };
        let again = self.end(status, end, None, now_ms).await?;
        runs.forget(&run.id);
        Ok(again)
    }

    /// Whether it could be begun.
    async fn begin_remotely(
        &self,
        run: &Run,
        cluster: &EtcdCluster,
        members: &[EtcdMember],
        failures: i64,
    ) -> Result<bool, remote::Failure> {
        let sources = sources(cluster, members, &self.backup.name_any());
        let Some(source) = decide::best(&sources, failures) else {
            return Err((Reason::NoHealthyMember.to_string(), self.no_member()));
        };
        let member = member_on(members, &source.node);
        let Some((member, seat)) = member.and_then(|m| Some((m, m.spec.seat.as_ref()?))) else { return Ok(false) };
        let (store, shown) = remote::store(self.context, &self.backup).await?;
        let (dial, tls) = {
            let memory = self.context.memory(&self.backup.spec.cluster_name);
            let memory = memory.lock().await;
            let Some((_, _, tls)) = &memory.ca else { return Ok(false) };
            (Arc::clone(&memory.dial), tls.clone())
        };
        let cluster_id = cluster.status.as_ref().and_then(|status| status.cluster_id.as_deref());
        let policy = self.backup.spec.backup_policy.clone().unwrap_or_default();
        self.context.remote.begin(remote::Work {
            dial,
            tls,
            endpoint: seat.order.client_url.clone(),
            store,
            shown,
            order: etcd_operator_backup::Order {
                backup: self.backup.name_any(),
                id: run.id.clone(),
                cluster: self.backup.spec.cluster_name.clone(),
                cluster_id: cluster_id.and_then(|id| id.parse().ok()),
                lineage: member.spec.lineage,
                limit: Duration::from_secs(u64::try_from(self.timeout_s()).unwrap_or(0)),
                operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            lease: self.context.lease.clone(),
            keep: etcd_operator_backup::Keep::of(
                policy.max_backups.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
                policy.max_age_in_second.unwrap_or(0),
            ),
        });
        Ok(true)
    }

    fn no_member(&self) -> String {
        let name = &self.backup.spec.cluster_name;
        format!("EtcdCluster {name} has no member that votes and is healthy: see its status.memberStates")
    }

    /// Places that a backup is wanted in.
    fn copies(&self) -> usize {
        match self.backup.spec.storage_type {
            StorageType::Node => usize::try_from(self.backup.spec.node.clone().unwrap_or_default().copies).unwrap_or(1),
            StorageType::S3 => 1,
        }
    }

    /// Orders a backup of a member, if it has not too many already. Orders that are carried out, or whose EtcdBackup is gone, go with the same write.
    async fn order(&self, member: &EtcdMember, run: &Run, timeout_s: i64) -> Result<bool, ControllerError> {
        let policy = self.backup.spec.backup_policy.clone().unwrap_or_default();
        let order = BackupOrder {
            name: self.backup.name_any(),
            id: run.id.clone(),
            keep: policy.max_backups.and_then(|n| u32::try_from(n).ok()).unwrap_or(KEPT_ON_NODES),
            max_age_seconds: policy.max_age_in_second.unwrap_or(0),
            timeout_seconds: timeout_s,
        };
        let there = self.api.list(&ListParams::default()).await.map_err(api_error("listing EtcdBackups"))?;
        let is_open = |order: &BackupOrder| {
            let runs = there.items.iter().filter_map(|backup| Some((backup.name_any(), backup.status.as_ref()?.run.as_ref()?)));
            runs.into_iter().any(|(name, run)| (&name, &run.id) == (&order.name, &order.id))
        };
        let edit = |spec: &mut etcd_operator_api::EtcdMemberSpec| {
            spec.backups.retain(|other| other.name != order.name && is_open(other));
            // An agent takes no more than 64; what comes later waits for its turn.
            if spec.backups.len() < ORDERS {
                spec.backups.push(order.clone());
            }
        };
        let changed = members::change(self.context, member, edit).await?;
        Ok(changed.spec.backups.contains(&order))
    }

    fn timeout_s(&self) -> i64 {
        let policy = self.backup.spec.backup_policy.as_ref();
        policy.and_then(|p| p.timeout_in_second).filter(|s| *s > 0).unwrap_or(TIMEOUT_S)
    }

    /// The run is over.
    async fn end(
        &self,
        status: &EtcdBackupStatus,
        end: End,
        refused: Option<(Reason, String)>,
        now_ms: u64,
    ) -> Result<Duration, ControllerError> {
        let mut new = status.clone();
        new.run = None;
        let said = |(node, reason, why): &(String, String, String)| match node.as_str() {
            "" => why.clone(),
            node => format!("{node}: {reason}: {why}"),
        };
        let failed: Vec<String> = end.failed.iter().map(said).collect();
        let newest = end.copies.iter().max_by_key(|copy| copy.taken.revision);
        let (reason, message) = match (refused, newest) {
            (Some((reason, why)), _) => (reason.to_string(), why),
            (None, Some(copy)) => self.success(copy.taken.revision, &end.copies, &failed),
            (None, None) => match end.failed.first() {
                Some((_, reason, _)) => (reason.clone(), failed.join("; ")),
                None => (Reason::NoHealthyMember.to_string(), self.no_member()),
            },
        };
        if let Some(copy) = newest {
            new.etcd_version.clone_from(&copy.taken.etcd_version);
            new.etcd_revision = Some(copy.taken.revision);
            new.last_success_date = end.copies.iter().map(|copy| copy.taken.time.clone()).max();
            (new.failures, new.not_before) = (0, None);
            new.newest.clone_from(&end.copies);
        } else {
            new.failures += 1;
            new.not_before = Some(clock::rfc3339(decide::again(new.failures, now_ms)));
        }
        self.say(&mut new, &reason, &message, newest.is_some(), now_ms);
        let (failures, succeeded) = (new.failures, new.succeeded);
        self.write(status, new).await?;
        // The first in a row: the others stand in the status.
        if succeeded || failures == 1 {
            self.event(&reason, &message, succeeded).await;
        }
        Ok(NEXT_STEP)
    }

    /// Reason and message of a run that has taken a backup.
    fn success(&self, revision: i64, copies: &[Copy], failed: &[String]) -> (String, String) {
        let place = |copy: &Copy| if copy.node.is_empty() { copy.taken.path.clone() } else { copy.node.clone() };
        let places: Vec<String> = copies.iter().map(place).collect();
        let mut said = format!("revision {revision} on {}", places.join(", "));
        for copy in copies.iter().filter(|copy| !copy.taken.not_cleared.is_empty()) {
            said = format!("{said}; older ones were not removed from {}: {}", place(copy), copy.taken.not_cleared);
        }
        if places.len() >= self.copies() {
            return (Reason::Verified.to_string(), said);
        }
        let why = if failed.is_empty() { "no other healthy member".to_owned() } else { failed.join("; ") };
        (Reason::FewerCopies.to_string(), format!("{said}; {} were wanted: {why}", self.copies()))
    }

    /// Puts the outcome into a status.
    fn say(&self, status: &mut EtcdBackupStatus, reason: &str, message: &str, succeeded: bool, now_ms: u64) {
        let message: String = message.chars().take(WORDS).collect();
        (status.succeeded, status.reason, status.message) = (succeeded, reason.to_owned(), message.clone());
        status.observed_generation = self.backup.metadata.generation;
        let condition = Condition {
            type_: "Succeeded".into(),
            status: if succeeded { "True" } else { "False" }.into(),
            reason: reason.to_owned(),
            message,
            last_transition_time: clock::rfc3339(now_ms),
            observed_generation: self.backup.metadata.generation.unwrap_or(0),
        };
        condition::set(&mut status.conditions, condition);
    }

    /// Nothing is written where nothing changed; where somebody else wrote first, nothing either.
    async fn write(&self, before: &EtcdBackupStatus, status: EtcdBackupStatus) -> Result<(), ControllerError> {
        if *before == status {
            return Ok(());
        }
        let name = self.backup.name_any();
        let object = EtcdBackup { status: Some(status), ..self.backup.clone() };
        let written = self.api.replace_status(&name, &PostParams::default(), &object).await;
        written.map(drop).map_err(api_error("writing the status of an EtcdBackup"))
    }

    async fn event(&self, reason: &str, note: &str, is_good: bool) {
        let type_ = if is_good { EventType::Normal } else { EventType::Warning };
        let note = note.chars().take(WORDS).collect();
        let event = Event { type_, reason: reason.to_owned(), note: Some(note), action: "Backup".into(), secondary: None };
        if let Err(error) = self.context.recorder.publish(&event, &self.backup.object_ref(&())).await {
            tracing::debug!(%error, "an Event was not written");
        }
    }
}

/// The one that carries a member: boot's stands for the same node.
fn member_on<'a>(members: &'a [EtcdMember], node: &str) -> Option<&'a EtcdMember> {
    members.iter().find(|m| m.spec.node_name == node && m.spec.role == Role::Member)
}

fn until(at_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(now_ms)).max(NEXT_STEP)
}

/// What the object itself says.
fn past(backup: &EtcdBackup) -> Past {
    let status = backup.status.clone().unwrap_or_default();
    let created = backup.metadata.creation_timestamp.as_ref();
    let time = |text: &Option<String>| text.as_deref().and_then(clock::parse_rfc3339);
    Past {
        created_ms: created.and_then(|time| u64::try_from(time.0.as_millisecond()).ok()).unwrap_or(0),
        last_ms: time(&status.last_execution_date),
        succeeded: status.succeeded,
        not_before_ms: time(&status.not_before),
        suspend: backup.spec.suspend,
    }
}

/// The nodes that carry members, and how these are, as the EtcdCluster's status says: nothing of a backup is worth a question to etcd more.
fn sources(cluster: &EtcdCluster, members: &[EtcdMember], backup: &str) -> Vec<Source> {
    let states = cluster.status.as_ref().map(|status| status.member_states.clone()).unwrap_or_default();
    let seated = members.iter().filter(|m| m.spec.role == Role::Member && m.metadata.deletion_timestamp.is_none());
    let source = |member: &EtcdMember| {
        let node = member.spec.node_name.clone();
        let state = states.iter().find(|state| state.node == node);
        let reports = member.status.as_ref().map(|status| status.backups.clone()).unwrap_or_default();
        Source {
            is_fit: state.is_some_and(|state| state.role == MemberRole::Voter && state.healthy),
            is_leader: state.is_some_and(|state| state.leader),
            ordered: member.spec.backups.iter().find(|order| order.name == backup).map(|order| order.id.clone()),
            report: reports.into_iter().find(|report| report.name == backup),
            node,
        }
    };
    seated.map(source).collect()
}
