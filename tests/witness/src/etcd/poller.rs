//! Polls each etcd for its status and for the linearizable member list, in two loops, so that a lost quorum, which
//! holds up the second, does not hide what the first still says.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::wire::{CALL, Connection, Credentials};
use crate::clock::{micros, within};
use crate::history::{ListSample, Member, Status, StatusSample};
use crate::options::{BedEtcdClient, WitnessError};
use crate::recorder::Recorder;

/// Failures in a row after which a connection is opened anew: one to a node that lost power gets no end.
const FAILURES: u32 = 3;

/// Polls the given endpoints, and those that member lists name, until told to stop; one of them may be left alone.
pub async fn poll_all(
    endpoints: Vec<String>,
    left_alone: Option<String>,
    credentials: Credentials,
    recorder: Recorder,
    pause: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let (found, mut founds) = mpsc::unbounded_channel();
    for endpoint in endpoints {
        drop(found.send(endpoint));
    }
    let mut known = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        let url = tokio::select! {
            biased;
            _ = stop.changed() => return,
            url = founds.recv() => url,
        };
        let Some(url) = url.map(|url| url.trim_end_matches('/').to_string()) else { return };
        if left_alone.as_ref() == Some(&url) {
            continue;
        }
        // Boot may advertise its loopback address; that one is polled by the address in bed.json.
        if url.contains("//127.0.0.1") && !known.is_empty() || !known.insert(url.clone()) {
            continue;
        }
        let index = recorder.with(|history| {
            history.endpoints.push(url.clone());
            history.endpoints.len() - 1
        });
        tasks.spawn(poll_status(index, url.clone(), credentials.clone(), recorder.clone(), pause));
        tasks.spawn(poll_list(index, url, credentials.clone(), recorder.clone(), pause, found.clone()));
    }
}

async fn poll_status(endpoint: usize, url: String, credentials: Credentials, recorder: Recorder, pause: Duration) {
    let mut poll = Poll::new(url, credentials);
    loop {
        let began = recorder.now();
        let answer = match poll.connection() {
            Some(connection) => within(CALL, connection.status()).await.and_then(Result::ok),
            None => None,
        };
        poll.note(answer.is_some());
        let answer = answer.and_then(|status| {
            let header = status.header?;
            Some(Status {
                cluster: header.cluster_id,
                member: header.member_id,
                revision: header.revision,
                leader: status.leader,
                term: status.raft_term,
                index: status.raft_index,
                learner: status.is_learner,
                version: status.version,
                errors: status.errors,
            })
        });
        let at = recorder.now();
        recorder.with(|history| history.statuses.push(StatusSample { endpoint, at, answer }));
        recorder.clock().sleep_until(began + micros(pause)).await;
    }
}

async fn poll_list(
    endpoint: usize,
    url: String,
    credentials: Credentials,
    recorder: Recorder,
    pause: Duration,
    found: mpsc::UnboundedSender<String>,
) {
    let mut poll = Poll::new(url, credentials);
    loop {
        let sent = recorder.now();
        let answer = match poll.connection() {
            Some(connection) => within(CALL, connection.member_list()).await.and_then(Result::ok),
            None => None,
        };
        poll.note(answer.is_some());
        if let Some((header, members)) = answer.and_then(|answer| Some((answer.header?, answer.members))) {
            for url in members.iter().flat_map(|member| &member.client_urls) {
                drop(found.send(url.clone()));
            }
            let members = members
                .into_iter()
                .map(|member| Member {
                    id: member.id,
                    name: member.name,
                    learner: member.is_learner,
                    client_urls: member.client_urls,
                })
                .collect();
            let at = recorder.now();
            recorder.with(|history| {
                let set = history.member_set(members);
                history.lists.push(ListSample { endpoint, sent, at, cluster: header.cluster_id, set });
            });
        }
        recorder.clock().sleep_until(sent + micros(pause)).await;
    }
}

/// A connection that is replaced when it keeps failing.
struct Poll {
    url: String,
    credentials: Credentials,
    connection: Option<Connection>,
    failures: u32,
}

impl Poll {
    fn new(url: String, credentials: Credentials) -> Self {
        Poll { url, credentials, connection: None, failures: 0 }
    }

    fn connection(&mut self) -> Option<Connection> {
        if self.connection.is_none() {
            self.connection = Connection::lazy(&self.url, &self.credentials).ok();
        }
        self.connection.clone()
    }

    fn note(&mut self, answered: bool) {
        self.failures = if answered { 0 } else { self.failures + 1 };
        if self.failures >= FAILURES {
            (self.connection, self.failures) = (None, 0);
        }
    }
}

/// Reads the client certificate for etcd.
pub fn credentials(files: &BedEtcdClient) -> Result<Credentials, WitnessError> {
    Credentials::read(files)
}
