//! The controller: observe → plan → guard → act → status, for each EtcdCluster of its namespace. Talks to the API and to etcd, never to a
//! node. One pass takes at most one disruptive step and never sleeps; what it learned is derived again in the next one.

mod act;
mod backups;
mod clients;
mod corrupt;
mod endpoints;
mod etcd;
mod figures;
mod found;
mod guards;
mod hand_over;
mod leader;
mod lease;
mod losses;
mod measured;
mod member_states;
mod members;
mod memory;
mod observe;
mod pass;
mod pods;
mod preflight;
mod progress;
mod readdress;
mod recovered;
mod remove;
mod retire;
mod settings;
mod status;
mod stopper;
mod structure;
mod words;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_operator_api::{EtcdCluster, EtcdMember};
use etcd_operator_client::{ApiServers, ClientError, ClientOptions, watch_config};
use etcd_operator_etcd::dial::{Dial, Grpc};
use futures::StreamExt;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};

use crate::clock;
use crate::pki::PkiError;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::{Metrics, http};

pub use backups::{Figures as BackupFigures, Reason as BackupReason};
pub use lease::LeaseTimes;
pub use members::unique as unique_id;

/// How long a settled cluster is left alone when no watch reports anything: etcd has no watch for its health.
const SETTLED_LOOK: Duration = Duration::from_secs(10);
/// How long after an error before a cluster is looked at again.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// The same after somebody else wrote first: what we read was old, nothing is wrong.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
/// A clock that is set back by less changes nothing, ms.
const CLOCK_STEP_MS: u64 = 1_000;
/// How long a pass that is under way at SIGTERM may go on: longer than the longest step, shorter than the pod's 30 s of grace.
const LAST_PASS: Duration = Duration::from_secs(20);

/// What the controller needs to know.
#[derive(Clone, Debug)]
pub struct ControllerArgs {
    /// The namespace in which EtcdClusters are honoured (design D11).
    pub namespace: String,
    /// Name of this replica, as holder of the Lease.
    pub holder: String,
    /// Where the API is.
    pub api: ClientOptions,
    /// Repository of etcd's image where `spec.repository` is empty.
    pub default_repository: String,
    /// Times of the Lease.
    pub lease: LeaseTimes,
    /// How long a learner that is behind may make no progress before it is evicted.
    pub learner_patience: Duration,
    /// How long a voter must be down, and its node gone, before another node takes its place.
    pub replace_after: Duration,
    /// What it counts.
    pub metrics: Metrics,
    /// Where that is served; `None` = nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Whether clusters without `selfHosted` are honoured, too.
    pub standalone: bool,
    /// SHA-256 (hex) of the controller's own binary, which all keepers are to be; `None` = read at the start.
    pub binary: Option<String>,
}

impl ControllerArgs {
    /// [`Self::learner_patience`] in ms.
    #[must_use]
    pub fn learner_patience_ms(&self) -> u64 {
        u64::try_from(self.learner_patience.as_millis()).unwrap_or(u64::MAX)
    }

    /// [`Self::replace_after`] in ms.
    #[must_use]
    pub fn replace_after_ms(&self) -> u64 {
        u64::try_from(self.replace_after.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Why the controller stopped, or a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API cannot be reached with what was given.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A call to the API failed; the pass is repeated.
    #[error("{what}: {source}")]
    Api {
        /// What was being done.
        what: &'static str,
        /// What the API said.
        source: Box<kube::Error>,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// etcd refused or did not answer.
    #[error(transparent)]
    Etcd(#[from] etcd_operator_etcd::error::EtcdError),
    /// The object in hand lacks something that the API always sets.
    #[error("{0}")]
    Object(String),
    /// Only another process would do better.
    #[error("this process ends, so that the kubelet starts it anew: {0}")]
    Stuck(String),
}

/// Adds what was being done to an error of the API.
pub(crate) fn api_error(what: &'static str) -> impl FnOnce(kube::Error) -> ControllerError {
    move |source| ControllerError::Api { what, source: Box::new(source) }
}

/// What all passes share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) args: ControllerArgs,
    pub(crate) recorder: Recorder,
    pub(crate) lease: lease::Claim,
    /// Held while ports are chosen.
    pub(crate) ports: tokio::sync::Mutex<()>,
    /// Backups that this process takes.
    pub(crate) remote: backups::Runs,
    dial: Arc<dyn Dial>,
    memories: Mutex<HashMap<String, memory::Shared>>,
    stopping: AtomicBool,
    /// How often in a row this replica stood aside as etcd did not answer it.
    asides: AtomicU32,
}

impl Context {
    pub(crate) fn clusters(&self) -> Api<EtcdCluster> {
        Api::namespaced(self.client.clone(), &self.args.namespace)
    }

    pub(crate) fn members(&self) -> Api<EtcdMember> {
        Api::namespaced(self.client.clone(), &self.args.namespace)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn memory(&self, cluster: &str) -> memory::Shared {
        let mut all = self.memories.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = || Arc::new(tokio::sync::Mutex::new(memory::Memory::new(self.dial.clone(), self.lease.turn())));
        all.entry(cluster.to_owned()).or_insert_with(new).clone()
    }
}

/// Runs until it is told to stop.
///
/// # Errors
/// When no connection can be set up at all. A lost API is waited out.
pub async fn run(mut args: ControllerArgs) -> Result<(), ControllerError> {
    if args.binary.is_none() {
        args.binary = own_binary().await;
    }
    let servers = ApiServers::connect(&args.api).await?;
    tracing::info!(holder = %args.holder, servers = ?servers.urls(), "controller started");
    let metrics = args.metrics.clone();
    servers.observe(Arc::new(metrics.clone()));
    if let Some(address) = args.metrics_address {
        tokio::spawn(http::serve(address, metrics.clone()));
    }
    // A pass that is under way comes to its end in either case.
    let stuck = Mutex::new(None);
    let told_to_stop = async {
        tokio::select! {
            () = crate::telemetry::told_to_stop() => {}
            why = http::watchdog(metrics) => *stuck.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(why),
        }
    };
    serve(args, servers.client(), Arc::new(Grpc), told_to_stop).await;
    match stuck.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(why) => Err(ControllerError::Stuck(why)),
        None => Ok(()),
    }
}

/// Without it no keeper is handed over; all else goes on.
async fn own_binary() -> Option<String> {
    use etcd_operator_keeper::binary::{OWN, sha256};
    match tokio::task::spawn_blocking(|| sha256(std::path::Path::new(OWN))).await {
        Ok(Ok(hash)) => Some(hash),
        Ok(Err(error)) => {
            tracing::error!(%error, "the controller's own binary cannot be read: no keeper will be handed over");
            None
        }
        Err(_) => None,
    }
}

/// The controller itself, until it is told to stop. When it is dropped, all that it has under way ends with it.
pub async fn serve(args: ControllerArgs, client: Client, dial: Arc<dyn Dial>, told_to_stop: impl Future<Output = ()>) {
    let lease = lease::Claim::start(client.clone(), &args.namespace, &args.holder, args.lease, args.metrics.clone());
    let reporter = Reporter { controller: "etcd-operator".into(), instance: Some(args.holder.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        lease: lease.clone(),
        dial: Arc::new(measured::Measured { inner: dial, metrics: args.metrics.clone() }),
        ports: tokio::sync::Mutex::default(),
        remote: backups::Runs::default(),
        memories: Mutex::default(),
        stopping: AtomicBool::new(false),
        asides: AtomicU32::new(0),
        args,
    });

    let everywhere: Api<EtcdCluster> = Api::all(client.clone());
    let members: Api<EtcdMember> = context.members();
    let of_cluster = |m: EtcdMember| {
        let namespace = m.metadata.namespace.unwrap_or_default();
        Some(ObjectRef::<EtcdCluster>::new(&m.spec.cluster_name).within(&namespace))
    };
    let controller = kube::runtime::Controller::new(everywhere, watch_config())
        .with_config(kube::runtime::controller::Config::default().concurrency(4))
        .trigger_backoff(crate::retry::WatchBackoff::default())
        .watches(members, watch_config(), of_cluster)
        .reconcile_all_on(lease.acquired())
        .run(reconcile, after_error, context.clone())
        .for_each(|_| std::future::ready(()));
    tokio::select! {
        () = controller => {}
        () = backups::serve(context.clone()) => {}
        () = stop(&context, told_to_stop) => {}
    }
    lease.release().await;
}

/// At SIGTERM: no new pass begins, and the ones under way are let finish, as one may stand between a drain and a removal.
async fn stop(context: &Context, told_to_stop: impl Future<Output = ()>) {
    told_to_stop.await;
    context.stopping.store(true, Ordering::SeqCst);
    let memories: Vec<_> = context.memories.lock().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect();
    let finished = async {
        for memory in memories {
            drop(memory.lock().await);
        }
    };
    let _ = clock::within(LAST_PASS, finished).await;
}

async fn reconcile(cluster: Arc<EtcdCluster>, context: Arc<Context>) -> Result<Action, ControllerError> {
    if !context.lease.may_act() || context.is_stopping() {
        return Ok(Action::await_change());
    }
    let name = cluster.metadata.name.clone().unwrap_or_default();
    if cluster.metadata.namespace.as_deref() != Some(&context.args.namespace) {
        status::refuse_namespace(&context, &cluster).await?;
        return Ok(Action::await_change());
    }
    let since = clock::instant();
    let result = reconcile_one(&name, &context).await;
    let outcome = match &result {
        Ok((outcome, _)) => *outcome,
        Err(error) if is_conflict(error) => Outcome::Conflict,
        Err(_) => Outcome::Error,
    };
    context.args.metrics.pass(&name, outcome, since.elapsed(), clock::now_ms());
    result.map(|(_, action)| action)
}

async fn reconcile_one(name: &str, context: &Context) -> Result<(Outcome, Action), ControllerError> {
    let memory = context.memory(name);
    let mut memory = memory.lock().await;
    // Whatever was noted at a time that is still to come would count as new until then.
    let now_ms = clock::now_ms();
    let is_back = now_ms.saturating_add(CLOCK_STEP_MS) < memory.last_ms;
    if is_back {
        tracing::warn!(by_ms = memory.last_ms.saturating_sub(now_ms), "the clock was set back: everything is looked at anew");
    }
    if memory.turn != context.lease.turn() || is_back {
        // Of etcd's alarm, and not of who leads.
        let disarmed_ms = memory.disarmed_ms;
        *memory = memory::Memory::new(context.dial.clone(), context.lease.turn());
        memory.disarmed_ms = disarmed_ms.filter(|at| *at <= now_ms);
    }
    memory.last_ms = now_ms;
    let (outcome, look_again) = pass::run(context, name, &mut memory).await?;
    Ok((outcome, Action::requeue(look_again.unwrap_or(SETTLED_LOOK))))
}

fn is_conflict(error: &ControllerError) -> bool {
    matches!(error, ControllerError::Api { source, .. } if members::is_conflict(source))
}

fn after_error(cluster: Arc<EtcdCluster>, error: &ControllerError, _: Arc<Context>) -> Action {
    let name = cluster.metadata.name.clone().unwrap_or_default();
    if is_conflict(error) {
        tracing::debug!(cluster = %name, error = %error, "somebody else wrote first, the pass is repeated");
        return Action::requeue(AFTER_CONFLICT);
    }
    tracing::warn!(cluster = %name, error = %error, "pass failed, it is repeated");
    Action::requeue(AFTER_ERROR)
}
