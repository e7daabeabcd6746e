//! From the API's events to passes: one worker per EtcdMember of this node, so that a slow disk or a slow status of one holds up no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::member::{EtcdMember, EtcdMemberStatus};
use etcd_operator_client::{ApiServers, clock, watch_config};
use futures::StreamExt as _;
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::host::Agent;
use crate::reconcile::Memory;
use crate::status;

/// First and longest pause after a failed list or watch.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What all workers know of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    /// The last list or watch worked.
    Yes,
    /// It did not: nothing on the node is changed by what may be an old view (somebody may be recovering the cluster by hand).
    Lost,
}

struct Worker {
    subject: watch::Sender<Arc<EtcdMember>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Work under way (a drain) goes on: it is a task of its own.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Never ends.
pub(crate) async fn run(agent: Arc<Agent>, servers: ApiServers) {
    let api: Api<EtcdMember> = Api::namespaced(servers.client(), &agent.args.namespace);
    let (contact, _) = watch::channel(Contact::Lost);
    let mut workers = BTreeMap::new();
    let mut pause = PAUSE.0;
    loop {
        let mut listed: Option<Vec<EtcdMember>> = None;
        let mut events = std::pin::pin!(watcher(api.clone(), watch_config()));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed = Some(Vec::new()),
                Ok(Event::InitApply(member)) => listed.get_or_insert_default().push(member),
                Ok(Event::InitDone) => {
                    let all = listed.take().unwrap_or_default();
                    workers.retain(|name, _| all.iter().any(|member| member.name_any() == *name && mine(member, &agent)));
                    for member in all {
                        apply(&mut workers, &agent, &api, &contact, member);
                    }
                    contact.send_replace(Contact::Yes);
                    pause = PAUSE.0;
                }
                Ok(Event::Apply(member)) => apply(&mut workers, &agent, &api, &contact, member),
                // Nothing is torn down because an object went: it may have been a mistake, and comes back (F31).
                Ok(Event::Delete(member)) => drop(workers.remove(&member.name_any())),
                Err(error) => {
                    tracing::warn!(%error, server = %servers.current(), "lost the EtcdMembers; nothing on the node is changed until they are seen again");
                    break;
                }
            }
        }
        // A new watcher begins with a list, and so with a clear sign that the API is back.
        contact.send_replace(Contact::Lost);
        clock::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn mine(member: &EtcdMember, agent: &Agent) -> bool {
    member.spec.node_name == agent.args.node_name
}

fn apply(
    workers: &mut BTreeMap<String, Worker>,
    agent: &Arc<Agent>,
    api: &Api<EtcdMember>,
    contact: &watch::Sender<Contact>,
    member: EtcdMember,
) {
    let name = member.name_any();
    if !mine(&member, agent) {
        workers.remove(&name);
        return;
    }
    let member = Arc::new(member);
    if let Some(worker) = workers.get(&name) {
        worker.subject.send_replace(member);
        return;
    }
    tracing::info!(member = %name, role = ?member.spec.role, "an EtcdMember of this node");
    let (subject, subjects) = watch::channel(member);
    let (wanted, wishes) = watch::channel(None);
    let tasks = [
        tokio::spawn(work(Memory::new(agent.clone()), subjects.clone(), contact.subscribe(), wanted)),
        tokio::spawn(status::write(api.clone(), subjects, wishes)),
    ];
    workers.insert(name, Worker { subject, tasks });
}

/// Passes over one EtcdMember: at each change of it, at each step of its background work, and every tick.
async fn work(
    mut memory: Memory,
    mut subjects: watch::Receiver<Arc<EtcdMember>>,
    mut contact: watch::Receiver<Contact>,
    wanted: watch::Sender<Option<EtcdMemberStatus>>,
) {
    let changed = Arc::clone(&memory.changed);
    loop {
        let member = Arc::clone(&subjects.borrow_and_update());
        let in_contact = *contact.borrow_and_update() == Contact::Yes;
        if in_contact {
            let status = memory.pass(&member).await;
            wanted.send_if_modified(|wish| {
                let new = wish.as_ref() != Some(&status);
                *wish = Some(status);
                new
            });
        }
        tokio::select! {
            outcome = subjects.changed() => if outcome.is_err() { return },
            outcome = contact.changed() => if outcome.is_err() { return },
            () = changed.notified() => {}
            () = clock::sleep(memory.tick(&member)), if in_contact => {}
        }
    }
}
