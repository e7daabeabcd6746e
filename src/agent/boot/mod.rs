//! The boot member on its node: a snapshot of it, its end (drain, remove, kill), its tombstone.

mod drain;
pub(crate) mod find;
pub(crate) mod snapshot;
mod tombstone;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_operator_api::member::{BootDrainStep, BootSpec, BootStatus, SnapshotStatus};
use tokio::sync::Notify;

use crate::host::Agent;
use crate::jobs::Job;
use crate::node::boot_dir;
use crate::validate;

/// Where everything of boot is.
#[derive(Clone)]
pub(crate) struct Place {
    agent: Arc<Agent>,
    proc: PathBuf,
    static_pods: PathBuf,
    /// The agent's notes about boot.
    dir: PathBuf,
    pki: PathBuf,
    snapshots: PathBuf,
    snapshots_on_node: PathBuf,
    data_root_on_node: PathBuf,
    /// Told at each step, so that the status follows at once.
    changed: Arc<Notify>,
}

impl Place {
    pub(crate) fn new(agent: &Arc<Agent>, cluster: &str, changed: &Arc<Notify>) -> Self {
        let args = &agent.args;
        let paths = args.paths(cluster);
        let dir = boot_dir(&paths);
        Self {
            agent: Arc::clone(agent),
            proc: args.proc.clone(),
            static_pods: args.static_pods(),
            pki: dir.join("pki"),
            dir,
            snapshots: paths.snapshots(),
            snapshots_on_node: args.node_paths(cluster).snapshots(),
            data_root_on_node: args.data_root.clone(),
            changed: Arc::clone(changed),
        }
    }

    pub(crate) fn pki(&self) -> &Path {
        &self.pki
    }

    fn manifest_archive(&self) -> PathBuf {
        self.dir.join("manifest-archive")
    }

    fn reach(&self, on_node: &Path) -> PathBuf {
        self.agent.args.reach(on_node)
    }
}

/// The work for one boot member.
#[derive(Default)]
pub(crate) struct Boot {
    snapshot: Job<SnapshotStatus>,
    drain: Job<()>,
    tombstone: Job<tombstone::Note>,
}

impl Boot {
    /// Starts what the spec asks for and is not done, and says how far all is.
    pub(crate) fn pass(&self, place: &Place, spec: &BootSpec) -> BootStatus {
        let mut status = BootStatus::default();
        // The spec was validated; without an address there is nothing to look for.
        let Ok(endpoint) = validate::endpoint("spec.boot.clientEndpoint", &spec.client_endpoint) else { return status };
        let mut messages = Vec::new();
        match find::pod(&place.static_pods, endpoint) {
            Ok(pod) => {
                status.max_learners = pod.as_ref().map(|pod| pod.max_learners);
                status.manifest = pod.map(|pod| on_node(place, &pod.manifest));
            }
            Err(problem) => messages.push(problem.message),
        }
        let processes = find::processes(&place.proc, endpoint);
        status.process_found = !processes.is_empty();
        if let (None, Some(pid)) = (status.max_learners, processes.first()) {
            status.max_learners = Some(find::max_learners_of(&place.proc, *pid));
        }
        self.snapshot(place, spec, &mut status, &mut messages);
        self.drain(place, spec, endpoint, &mut status, &mut messages);
        self.tombstone(place, spec, endpoint, &mut status, &mut messages);
        status.message = messages.join("; ");
        status
    }

    /// Whether things change fast at the moment.
    pub(crate) fn busy(&self) -> bool {
        self.drain.running()
    }

    fn snapshot(&self, place: &Place, spec: &BootSpec, status: &mut BootStatus, messages: &mut Vec<String>) {
        let Some(id) = &spec.snapshot else { return };
        let (pki, endpoint) = (place.pki().to_owned(), spec.client_endpoint.clone());
        let take = || snapshot::take(place.clone(), pki, format!("boot-{id}"), id.clone(), endpoint);
        self.snapshot.want(&place.agent, id, &place.changed, take);
        match self.snapshot.outcome(id) {
            Some(Ok(snapshot)) => status.snapshot = Some(snapshot),
            Some(Err(why)) => messages.push(why),
            None => {}
        }
    }

    fn drain(&self, place: &Place, spec: &BootSpec, endpoint: SocketAddr, status: &mut BootStatus, messages: &mut Vec<String>) {
        if let Some(order) = &spec.drain {
            self.drain.want(&place.agent, &order.id, &place.changed, || drain::run(place.clone(), order.clone(), endpoint));
            if let Some(Err(why)) = self.drain.outcome(&order.id) {
                messages.push(why);
            }
        }
        // The journal is the truth: while the work goes on, and also when the order was taken back, as a signal cannot be.
        match drain::journal(place) {
            Ok(Some(journal)) => {
                status.drain_id = Some(journal.drain.id);
                status.drain_step = Some(journal.step);
                if !journal.message.is_empty() {
                    messages.push(journal.message);
                }
            }
            Ok(None) => {}
            Err(problem) => messages.push(problem.message),
        }
    }

    fn tombstone(
        &self,
        place: &Place,
        spec: &BootSpec,
        endpoint: SocketAddr,
        status: &mut BootStatus,
        messages: &mut Vec<String>,
    ) {
        let Some(id) = &spec.tombstone else { return };
        self.tombstone
            .want(&place.agent, id, &place.changed, || tombstone::set(place.clone(), id.clone(), endpoint, spec.drain.clone()));
        match self.tombstone.outcome(id) {
            Some(Ok(note)) => status.tombstone_id = Some(note.id),
            Some(Err(why)) => messages.push(why),
            None => {}
        }
    }
}

/// The check of boot's own before a pivot.
pub(crate) fn check(place: &Place, spec: &BootSpec) -> Result<String, String> {
    let endpoint = validate::endpoint("spec.boot.clientEndpoint", &spec.client_endpoint).map_err(|problem| problem.message)?;
    tombstone::could_lay(place, endpoint)
}

/// Goes on with a drain that an earlier agent began: at once, without waiting for the API.
pub(crate) fn resume(agent: &Arc<Agent>) {
    let args = &agent.args;
    let root = args.reach(&args.operator_root).join(&args.namespace);
    let Ok(clusters) = std::fs::read_dir(root) else { return };
    let open = clusters.flatten().filter_map(|entry| {
        let place = Place::new(agent, entry.file_name().to_str()?, &Arc::new(Notify::new()));
        let journal = drain::journal(&place).ok()??;
        (journal.step == BootDrainStep::Signalled).then_some((place, journal))
    });
    for (place, journal) in open {
        tracing::info!(drain = %journal.drain.id, "going on with the drain of boot that an earlier agent began");
        agent.spawn(async move {
            if let Err(why) = drain::run(place, journal.drain, journal.endpoint).await {
                tracing::warn!(%why, "the drain of boot could not be ended");
            }
        });
    }
}

/// A manifest's path as the node names it.
fn on_node(place: &Place, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    place.agent.args.static_pod_path.join(name).to_string_lossy().into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn place(root: &Path) -> Place {
        let args = crate::testing::args(root);
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        Place::new(&Agent::new(args, Arc::new(crate::host::Linux)), "kube-etcd", &Arc::new(Notify::new()))
    }
}
