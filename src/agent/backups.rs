//! Backups of this node's member, kept in a directory of the node: there when the API and every network store are not.
//!
//! One at a time, each run's once. Whatever goes wrong stands in the report; the controller decides whether and where to try again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::member::{BackupOrder, BackupReport, BackupTaken, EtcdMember, Role};
use etcd_operator_backup::{self as backup, Backup, DiskRoom, Error, Keep, Order, Store, Whose};
use etcd_operator_client::clock;
use etcd_operator_etcd::client::Tls;
use etcd_operator_etcd::ids::ClusterId;
use tokio::sync::Notify;

use crate::files;
use crate::host::Agent;
use crate::jobs::Job;

/// What became of the orders that were seen.
#[derive(Default)]
pub(crate) struct Backups {
    job: Job<BackupReport>,
    /// By the EtcdBackup's name.
    reports: BTreeMap<String, BackupReport>,
}

impl Backups {
    /// Begins what is ordered and not answered, and says what is known of all orders.
    pub(crate) fn pass(
        &mut self,
        agent: &Arc<Agent>,
        member: &EtcdMember,
        before: &[BackupReport],
        changed: &Arc<Notify>,
    ) -> Vec<BackupReport> {
        let orders = &member.spec.backups;
        for order in orders {
            if let Some(Ok(report)) = self.job.outcome(&key(order)) {
                self.reports.insert(order.name.clone(), report);
            }
        }
        self.reports.retain(|name, _| orders.iter().any(|order| order.name == *name));
        // What an earlier agent said counts: each run is tried once.
        for report in before {
            if orders.iter().any(|order| is_of(report, order)) && !self.reports.contains_key(&report.name) {
                self.reports.insert(report.name.clone(), report.clone());
            }
        }
        let answered = |order: &BackupOrder| self.reports.get(&order.name).filter(|report| is_of(report, order));
        if let Some(order) = orders.iter().find(|order| answered(order).is_none())
            && let Some(work) = work(agent, member, order)
        {
            self.job.want(agent, &key(order), changed, || async { Ok(work.run().await) });
        }
        orders.iter().filter_map(answered).cloned().collect()
    }
}

fn key(order: &BackupOrder) -> String {
    format!("{}/{}", order.name, order.id)
}

fn is_of(report: &BackupReport, order: &BackupOrder) -> bool {
    (&report.name, &report.id) == (&order.name, &order.id)
}

/// One backup.
struct Work {
    agent: Arc<Agent>,
    order: BackupOrder,
    cluster: String,
    cluster_id: Option<ClusterId>,
    lineage: i64,
    endpoint: String,
    pki: PathBuf,
    /// As this process reaches it, and as the node names it.
    dir: PathBuf,
    on_node: PathBuf,
}

/// None where the node has no member.
fn work(agent: &Arc<Agent>, member: &EtcdMember, order: &BackupOrder) -> Option<Work> {
    let spec = &member.spec;
    let seat = spec.seat.as_ref().filter(|_| spec.role == Role::Member)?;
    let paths = agent.args.paths(&spec.cluster_name);
    Some(Work {
        agent: Arc::clone(agent),
        order: order.clone(),
        cluster: spec.cluster_name.clone(),
        cluster_id: seat.order.cluster_id.as_deref().and_then(|id| id.parse().ok()),
        lineage: spec.lineage,
        endpoint: seat.order.client_url.clone(),
        pki: paths.pki(),
        dir: paths.backups().join(&order.name),
        on_node: agent.args.node_paths(&spec.cluster_name).backups().join(&order.name),
    })
}

impl Work {
    async fn run(self) -> BackupReport {
        let (name, id) = (self.order.name.clone(), self.order.id.clone());
        let outcome = self.take().await;
        match outcome {
            Ok(taken) => BackupReport { name, id, taken: Some(taken), reason: String::new(), message: String::new() },
            Err((reason, message)) => {
                tracing::warn!(backup = %name, run = %id, reason, message, "no backup was taken");
                BackupReport { name, id, taken: None, reason, message }
            }
        }
    }

    async fn take(&self) -> Result<BackupTaken, (String, String)> {
        let failed = |error: Error| (error.reason().word().to_owned(), error.to_string());
        let files_failed = |message: String| ("StoreUnavailable".to_owned(), message);
        files::make_dir(&self.dir, 0o700).map_err(|problem| files_failed(problem.message))?;
        let tls = Tls::read(&self.pki).map_err(|error| files_failed(format!("no client certificate yet: {error}")))?;
        let client = self.agent.host.dial().etcd(&self.endpoint, &tls).await.map_err(|error| failed(error.into()))?;
        let place = Store::directory(&self.dir).map_err(failed)?;
        let now = || backup::timestamp(clock::now_ms());
        let keep = Keep::of(usize::try_from(self.order.keep).unwrap_or(usize::MAX), self.order.max_age_seconds);
        // Nobody else writes here: what is unfinished is what an agent left that was killed, and takes room.
        let whose = Whose { backup: &self.order.name, cluster_id: None };
        backup::clear(&place, whose, Keep::default(), None, now()).await.map_err(failed)?;
        let order = Order {
            backup: self.order.name.clone(),
            id: self.order.id.clone(),
            cluster: self.cluster.clone(),
            cluster_id: self.cluster_id,
            lineage: self.lineage,
            limit: Duration::from_secs(u64::try_from(self.order.timeout_seconds).unwrap_or(0)),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let room = DiskRoom::of(self.dir.clone(), self.agent.args.backup_reserve);
        let progress = backup::Progress::default();
        let taken = backup::take(client.as_ref(), &place, &room, &order, now(), &progress).await.map_err(failed)?;
        let kept = backup::clear(&place, whose, keep, Some(&taken.name), now()).await;
        Ok(report(self.on_node.join(taken.name.data()).to_string_lossy().into_owned(), &taken, kept))
    }
}

/// What a status says of a backup, and of those before it.
#[must_use]
pub fn report(path: String, backup: &Backup, kept: Result<usize, Error>) -> BackupTaken {
    let manifest = &backup.manifest;
    let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    BackupTaken {
        path,
        time: manifest.taken.to_string(),
        etcd_version: manifest.etcd_version.clone(),
        cluster_id: manifest.cluster_id.clone(),
        revision: manifest.revision,
        bytes: count(manifest.bytes),
        db_bytes: count(manifest.db_bytes),
        sha256: manifest.sha256.clone(),
        kept: kept.as_ref().ok().map(|kept| i64::try_from(*kept).unwrap_or(i64::MAX)),
        not_cleared: kept.err().map(|error| error.to_string()).unwrap_or_default(),
    }
}
