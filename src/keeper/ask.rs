//! Asking the cluster's members who is a member: linearizable, in parallel, and only the right cluster's answer counts.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use etcd_operator_etcd::client::{EtcdClient, Members, Tls};
use etcd_operator_etcd::ids::ClusterId;
use etcd_operator_etcd::wal::Owner;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::clock::sleep;
use crate::contract::{Order, State};

/// Pause before each look whether a member knows a leader. An answer that is under way arrives in a tenth of that.
const LEADERLESS_PAUSE: Duration = Duration::from_millis(300);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A list that a quorum of the right cluster agreed on.
    Members(Members),
    /// None; why, per endpoint.
    Nothing(String),
}

/// Whom to ask: the order's endpoints and those last seen, without this member's own.
#[must_use]
pub fn others(order: &Order, state: &State) -> Vec<String> {
    let all: BTreeSet<&String> = order.ask.iter().chain(&state.known_endpoints).collect();
    all.into_iter().filter(|url| **url != order.etcd.client_url).cloned().collect()
}

/// Asks all endpoints at once. The first good answer wins; when all have failed it does not wait for the rest of `limit`.
pub async fn ask(pki: &Path, endpoints: &[String], cluster: ClusterId, limit: Duration) -> Answer {
    let tls = match Tls::read(pki) {
        Ok(tls) => tls,
        Err(error) => return Answer::Nothing(format!("the client certificate cannot be read: {error}")),
    };
    if endpoints.is_empty() {
        return Answer::Nothing("no endpoint of another member is known".to_owned());
    }
    let first = first(endpoints, |endpoint| {
        let tls = tls.clone();
        async move { ask_one(&endpoint, &tls, cluster, limit).await }
    });
    match first.await {
        Ok(members) => Answer::Members(members),
        Err(failures) => {
            Answer::Nothing(failures.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; "))
        }
    }
}

/// Asks all endpoints at once. The first good answer wins.
pub(crate) async fn first<T, E, F>(endpoints: &[String], one: impl Fn(String) -> F) -> Result<T, Vec<E>>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = endpoints.iter().cloned().map(one).collect();
    let mut failures = Vec::new();
    while let Some(result) = tasks.join_next().await {
        match result {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(why)) => failures.push(why),
            // Nobody aborts them: it panicked, and has said so.
            Err(_) => {}
        }
    }
    Err(failures)
}

/// What becomes of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// It is away for a while, and counts as a voter.
    Down,
    /// It is removed: the others need a quorum of their own number only.
    Removed,
}

/// Whether the other voters are a quorum without this member: each of them says itself that it takes part.
///
/// # Errors
/// Why not, as far as is known.
pub async fn others_are_a_quorum(
    pki: &Path,
    endpoints: &[String],
    own: Owner,
    without: Without,
    limit: Duration,
) -> Result<(), String> {
    let members = match ask(pki, endpoints, own.cluster, limit).await {
        Answer::Members(members) => members.members,
        Answer::Nothing(why) => return Err(why),
    };
    let tls = Tls::read(pki).map_err(|error| format!("the client certificate cannot be read: {error}"))?;
    let voters: Vec<_> = members.into_iter().filter(|m| !m.is_learner).collect();
    let mut tasks = JoinSet::new();
    for member in voters.iter().filter(|m| m.id != own.member).cloned() {
        let tls = tls.clone();
        tasks.spawn(async move {
            let says = first(&member.client_urls, |url| {
                let tls = tls.clone();
                async move {
                    let client = EtcdClient::new(&url, &tls).await.map_err(drop)?;
                    let status = client.status(limit).await.map_err(drop)?;
                    let is_it = (status.member_id, status.cluster_id) == (member.id, own.cluster);
                    if is_it && status.is_healthy() { Ok(()) } else { Err(()) }
                }
            });
            says.await.is_ok()
        });
    }
    let mut well = 0;
    while let Some(answer) = tasks.join_next().await {
        well += usize::from(answer.unwrap_or(false));
    }
    let others = voters.iter().filter(|m| m.id != own.member).count();
    let of = match without {
        Without::Down => voters.len(),
        Without::Removed => others,
    };
    if well > of / 2 {
        return Ok(());
    }
    Err(format!("{well} of the {others} other voters are well, which is no quorum of {of}"))
}

async fn ask_one(endpoint: &str, tls: &Tls, cluster: ClusterId, limit: Duration) -> Result<Members, String> {
    let client = EtcdClient::new(endpoint, tls).await.map_err(|e| e.to_string())?;
    tokio::select! {
        answer = list(&client, cluster, limit) => answer,
        () = leaderless(&client, limit) => Err(format!("{endpoint}: is up and knows no leader")),
    }
}

/// Returns when a member said at two looks in a row that it knows no leader: then no linearizable answer is under way. Members that
/// start together after a power cut would otherwise wait for each other until `limit`.
async fn leaderless(client: &EtcdClient, limit: Duration) {
    let mut seen = 0;
    while seen < 2 {
        sleep(LEADERLESS_PAUSE).await;
        seen = match client.status(limit).await {
            Ok(status) if status.leader.is_none() => seen + 1,
            Ok(_) | Err(_) => 0,
        };
    }
}

async fn list(client: &EtcdClient, cluster: ClusterId, limit: Duration) -> Result<Members, String> {
    let members = client.member_list(limit).await.map_err(|e| e.to_string())?;
    if members.cluster_id != cluster {
        return Err(format!("{}: is of cluster {}, not {cluster}", client.endpoint(), members.cluster_id));
    }
    Ok(members)
}

/// Asks again and again until it is dropped, each endpoint on a connection that stays open.
pub struct Poll {
    answers: mpsc::Receiver<Members>,
    tasks: Vec<AbortHandle>,
}

impl Poll {
    /// Starts asking.
    #[must_use]
    pub fn start(pki: &Path, endpoints: &[String], cluster: ClusterId, every: Duration, limit: Duration) -> Self {
        let (sender, answers) = mpsc::channel(16);
        let pki = pki.to_owned();
        let tasks = endpoints
            .iter()
            .cloned()
            .map(|endpoint| {
                let (sender, pki) = (sender.clone(), pki.clone());
                let task = async move {
                    loop {
                        // Read anew each time it is connected: certificates are renewed in place.
                        if let Ok(tls) = Tls::read(&pki)
                            && let Ok(client) = EtcdClient::new(&endpoint, &tls).await
                        {
                            while let Ok(members) = list(&client, cluster, limit).await {
                                if sender.send(members).await.is_err() {
                                    return;
                                }
                                sleep(every).await;
                            }
                        }
                        sleep(every).await;
                    }
                };
                tokio::spawn(task).abort_handle()
            })
            .collect();
        Self { answers, tasks }
    }

    /// The next good answer. Never returns if there is nobody to ask.
    pub async fn next(&mut self) -> Members {
        match self.answers.recv().await {
            Some(members) => members,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
