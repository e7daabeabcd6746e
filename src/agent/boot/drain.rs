//! Drain, remove, kill (design D7.5): the agent's side, on boot's node.
//!
//! SIGTERM, with boot's manifest untouched, so that the kubelet itself is the dead-man: whatever becomes of this agent, boot comes back.
//! The controller removes boot meanwhile. We ask the *other* members, by a linearizable read every 50 ms, whether it is still listed.
//! Confirmed: manifest away, and SIGKILL 200 ms later (a draining etcd keeps watch streams open but no longer hears anything). Not
//! confirmed within 10 s: nothing is touched. Between signal and kill nothing goes through the Kubernetes API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_operator_api::member::{BootDrain, BootDrainStep};
use etcd_operator_client::clock;
use etcd_operator_etcd::client::Tls;
use etcd_operator_etcd::dial::Endpoint;
use etcd_operator_etcd::ids::{ClusterId, MemberId};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Place, find};
use crate::files;
use crate::problem::Problem;

/// How long after the signal the removal must be confirmed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two questions to one member.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// For one answer.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// From the confirmation to SIGKILL: answers that are on their way still arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long boot is hunted after its removal: the kubelet may start it once more before it sees that the manifest is gone.
const HUNT: Duration = Duration::from_secs(15);
/// Between two looks at the processes; three in a row must find none.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was begun and how far it is: on disk before the signal is sent, so that a restarted agent goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Journal {
    /// The order.
    pub(super) drain: BootDrain,
    /// Boot's client endpoint, to find its process again.
    pub(super) endpoint: SocketAddr,
    /// How far.
    pub(super) step: BootDrainStep,
    /// What a human should know.
    pub(super) message: String,
}

/// What the others say about boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// A linearizable answer of the right cluster without boot.
    No,
    /// A linearizable answer of the right cluster with boot in it.
    Yes,
    /// None answered.
    Unknown,
}

pub(super) fn journal_file(dir: &Path) -> PathBuf {
    dir.join("drain.json")
}

/// The journal, if there is one.
pub(super) fn journal(place: &Place) -> Result<Option<Journal>, Problem> {
    files::read_json(&journal_file(&place.dir))
}

/// Carries the order out, from wherever an earlier run left it. An error means that nothing could be recorded, so nothing was done.
pub(super) async fn run(place: Place, drain: BootDrain, endpoint: SocketAddr) -> Result<(), String> {
    let agent = Arc::clone(&place.agent);
    let _one = agent.draining.lock().await;
    let text = |problem: Problem| problem.message;
    match journal(&place).map_err(text)? {
        Some(journal) if journal.drain.id == drain.id => match journal.step {
            BootDrainStep::Gone | BootDrainStep::StartedAgain | BootDrainStep::Failed => Ok(()),
            BootDrainStep::Signalled => resume(place, journal).await,
        },
        _ => begin(place, Journal { drain, endpoint, step: BootDrainStep::Failed, message: String::new() }).await,
    }
}

async fn begin(place: Place, journal: Journal) -> Result<(), String> {
    files::make_dir(&place.dir, 0o700).map_err(|problem| problem.message)?;
    let pid = match target(&place, journal.endpoint) {
        Ok(pid) => pid,
        Err(why) => return end(&place, journal, BootDrainStep::Failed, &why),
    };
    let members = match others(&place, &journal.drain).await {
        Ok(members) => members,
        Err(why) => return end(&place, journal, BootDrainStep::Failed, &why),
    };
    // Who cannot be asked now could not confirm later; and connections that stand make the later answers fast.
    match members.ask(ASK_LIMIT, Until::Any).await {
        Listed::No => return finish(place, journal).await,
        Listed::Yes => {}
        Listed::Unknown => {
            let why = "none of the other members answers this node, so nobody could confirm the removal; nothing was signalled. Check the network and the certificate in the boot member's spec";
            return end(&place, journal, BootDrainStep::Failed, why);
        }
    }
    // Recorded first: a crash right here leaves a journal that says more than was done, which is harmless.
    let journal = step(&place, journal, BootDrainStep::Signalled, "")?;
    match place.agent.host.signal(&place.proc, pid, journal.endpoint, Signal::TERM) {
        Ok(_) => tracing::info!(pid, "SIGTERM sent to boot etcd"),
        Err(error) => {
            let why =
                format!("boot's etcd (PID {pid}) cannot be signalled: {error}; the agent needs hostPID and the capability KILL");
            return end(&place, journal, BootDrainStep::Failed, &why);
        }
    }
    decide(place, journal, members).await
}

/// After a restart of the agent or of the node: whether the signal was sent is not known, whether boot is listed is.
async fn resume(place: Place, journal: Journal) -> Result<(), String> {
    match others(&place, &journal.drain).await {
        Ok(members) => decide(place, journal, members).await,
        Err(why) => end(&place, journal, BootDrainStep::StartedAgain, &why),
    }
}

async fn decide(place: Place, journal: Journal, members: Others) -> Result<(), String> {
    match members.ask(DEADLINE, Until::Gone).await {
        Listed::No => finish(place, journal).await,
        Listed::Yes => end(
            &place,
            journal,
            BootDrainStep::StartedAgain,
            "boot was still listed 10 s after the signal: left to the kubelet, which starts it again",
        ),
        Listed::Unknown => end(
            &place,
            journal,
            BootDrainStep::StartedAgain,
            "no other member answered within 10 s of the signal: boot is left to the kubelet, which starts it again",
        ),
    }
}

/// Boot is not listed any more: manifest away, kill.
async fn finish(place: Place, journal: Journal) -> Result<(), String> {
    let confirmed = clock::instant();
    let archived = archive_manifest(&place, journal.endpoint);
    clock::sleep(LAST_WORDS.saturating_sub(confirmed.elapsed())).await;
    let killed = hunt(&place, journal.endpoint).await;
    match archived.map_err(|problem| problem.message).and(killed) {
        Ok(()) => end(&place, journal, BootDrainStep::Gone, ""),
        // A removed boot that the kubelet starts once more is refused by its peers and serves nothing; the tombstone tries again.
        Err(why) => end(&place, journal, BootDrainStep::Gone, &why),
    }
}

/// Boot's one process, provided that the kubelet would start it again.
fn target(place: &Place, endpoint: SocketAddr) -> Result<i32, String> {
    let pod = find::pod(&place.static_pods, endpoint).map_err(|problem| problem.message)?;
    if pod.is_none() {
        return Err(format!(
            "no manifest in {} serves {endpoint}: boot is no static pod here, nobody would start it again, so it was not signalled; remove it alive",
            place.static_pods.display()
        ));
    }
    match find::processes(&place.proc, endpoint).as_slice() {
        [pid] => Ok(*pid),
        [] => Err(format!("no etcd process on this node serves {endpoint}; if boot is dead, remove it without a drain")),
        several => Err(format!("processes {several:?} all look like boot's etcd at {endpoint}; nothing was signalled")),
    }
}

/// Moves boot's manifest to the archive, if it is still there.
pub(super) fn archive_manifest(place: &Place, endpoint: SocketAddr) -> Result<(), Problem> {
    let Some(pod) = find::pod(&place.static_pods, endpoint)? else { return Ok(()) };
    let archive = place.manifest_archive();
    files::make_dir(&archive, 0o700)?;
    let name = pod.manifest.file_name().unwrap_or_default();
    files::move_file(&pod.manifest, &archive.join(name))?;
    tracing::info!(manifest = %pod.manifest.display(), "boot's manifest archived");
    Ok(())
}

/// Kills boot until it stays away.
async fn hunt(place: &Place, endpoint: SocketAddr) -> Result<(), String> {
    let started = clock::instant();
    let mut absent = 0;
    while absent < 3 {
        let pids = find::processes(&place.proc, endpoint);
        absent = if pids.is_empty() { absent + 1 } else { 0 };
        for pid in pids {
            if let Err(error) = place.agent.host.signal(&place.proc, pid, endpoint, Signal::KILL) {
                return Err(format!("boot is removed but its etcd (PID {pid}) cannot be killed: {error}; kill it by hand"));
            }
        }
        if started.elapsed() > HUNT {
            return Err("boot is removed but its etcd is started again and again; take its manifest away by hand".into());
        }
        clock::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn step(place: &Place, journal: Journal, step: BootDrainStep, message: &str) -> Result<Journal, String> {
    let journal = Journal { step, message: message.to_owned(), ..journal };
    files::write_json(&journal_file(&place.dir), &journal, files::SECRET).map_err(|problem| problem.message)?;
    place.changed.notify_one();
    Ok(journal)
}

fn end(place: &Place, journal: Journal, outcome: BootDrainStep, message: &str) -> Result<(), String> {
    tracing::info!(?outcome, message, "boot's drain ended");
    step(place, journal, outcome, message).map(drop)
}

/// The members that are asked.
pub(super) struct Others {
    clients: Vec<Arc<dyn Endpoint>>,
    boot: MemberId,
    cluster: ClusterId,
}

/// When asking ends before its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// With the first answer.
    Any,
    /// When boot is gone.
    Gone,
}

pub(super) async fn others(place: &Place, drain: &BootDrain) -> Result<Others, String> {
    let tls = Tls::read(&place.pki)
        .map_err(|error| format!("no client certificate to ask the other members with ({error}); wait for spec.certificates"))?;
    let mut clients = Vec::with_capacity(drain.ask.len());
    for endpoint in &drain.ask {
        clients.push(place.agent.host.dial().etcd(endpoint, &tls).await.map_err(|error| error.to_string())?);
    }
    let bad = |error: std::num::ParseIntError| format!("spec.boot.drain has an ID that is not hex: {error}");
    Ok(Others { clients, boot: drain.member_id.parse().map_err(bad)?, cluster: drain.cluster_id.parse().map_err(bad)? })
}

impl Others {
    /// Asks all in parallel, again and again.
    pub(super) async fn ask(&self, limit: Duration, until: Until) -> Listed {
        let seen = Mutex::new(Listed::Unknown);
        let note = |listed: Listed| *seen.lock().unwrap_or_else(PoisonError::into_inner) = listed;
        let one = |client: &Arc<dyn Endpoint>| {
            let (client, note) = (Arc::clone(client), &note);
            async move {
                loop {
                    if let Ok(list) = client.member_list(ASK_LIMIT).await
                        // An answer of another cluster is none.
                        && list.cluster_id == self.cluster
                    {
                        let listed = list.members.iter().any(|member| member.id == self.boot);
                        note(if listed { Listed::Yes } else { Listed::No });
                        if !listed || until == Until::Any {
                            return;
                        }
                    }
                    clock::sleep(ASK_EVERY).await;
                }
            }
        };
        let mut all: FuturesUnordered<_> = self.clients.iter().map(one).collect();
        let _ = clock::within(limit, all.next()).await;
        drop(all);
        *seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
