//! What etcd says in one round: a linearizable member list, and the status of each member.

use std::sync::Arc;
use std::time::Duration;

use etcd_operator_etcd::client::{Member, MemberStatus, Members};
use etcd_operator_etcd::dial::Endpoint;
use etcd_operator_etcd::error::EtcdError;
use etcd_operator_etcd::ids::ClusterId;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;

use super::ControllerError;
use super::memory::Memory;

/// How long one round's reads may take.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(2);

/// One round's reading.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The cluster that answered.
    pub(crate) cluster_id: ClusterId,
    /// Its members; the status is `None` if it did not answer in time or belongs to another cluster.
    pub(crate) members: Vec<(Member, Option<MemberStatus>)>,
}

impl Reading {
    /// The member IDs, sorted.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.members.iter().map(|(m, _)| m.id.0).collect();
        ids.sort_unstable();
        ids
    }
}

/// A client of an endpoint, kept between passes.
pub(crate) async fn client(memory: &mut Memory, endpoint: &str) -> Result<Arc<dyn Endpoint>, ControllerError> {
    if let Some(client) = memory.clients.get(endpoint) {
        return Ok(client.clone());
    }
    let Some((_, _, tls)) = &memory.ca else { return Err(ControllerError::Object("no CA has been read yet".into())) };
    let client = memory.dial.etcd(endpoint, tls).await?;
    memory.clients.insert(endpoint.to_owned(), client.clone());
    Ok(client)
}

/// Asks all endpoints for the member list and takes the first answer; then asks each member for its status.
pub(crate) async fn read(memory: &mut Memory, endpoints: &[String], wanted: Option<ClusterId>) -> Result<Reading, String> {
    let mut clients = Vec::new();
    for endpoint in endpoints {
        clients.push(client(memory, endpoint).await.map_err(|e| e.to_string())?);
    }
    let Members { cluster_id, members } = list(&clients, wanted).await?;
    let mut asked = Vec::new();
    for member in members {
        let client = match member.client_urls.first() {
            Some(url) => client(memory, url).await.ok(),
            None => None,
        };
        asked.push(async move {
            let status = match client {
                Some(client) => client.status(READ_LIMIT).await.ok(),
                None => None,
            };
            let ours = status.filter(|s| s.cluster_id == cluster_id && s.member_id == member.id);
            (member, ours)
        });
    }
    Ok(Reading { cluster_id, members: join_all(asked).await })
}

/// The first linearizable member list of the right cluster; or why there is none.
pub(crate) async fn list(clients: &[Arc<dyn Endpoint>], wanted: Option<ClusterId>) -> Result<Members, String> {
    let mut asked: FuturesUnordered<_> =
        clients.iter().map(|c| async move { (c.url().to_owned(), c.member_list(READ_LIMIT).await) }).collect();
    let mut whys = Vec::new();
    while let Some((endpoint, answer)) = asked.next().await {
        match answer {
            Ok(list) if wanted.is_none_or(|w| w == list.cluster_id) => return Ok(list),
            Ok(list) => whys.push(format!("{endpoint} belongs to another cluster ({})", list.cluster_id)),
            Err(error) => whys.push(error.to_string()),
        }
    }
    whys.sort();
    Err(if whys.is_empty() { "no endpoint is known".into() } else { whys.join("; ") })
}

/// Whether the error means that the two sides do not trust each other, or do not speak TLS.
pub(crate) fn is_distrust(why: &str) -> bool {
    ["invalid peer certificate", "received fatal alert", "UnknownIssuer", "InvalidContentType", "CertificateRequired"]
        .iter()
        .any(|needle| why.contains(needle))
}

/// Whether a failed membership call only means that it must be tried again later.
pub(crate) fn is_passing(error: &EtcdError) -> bool {
    use etcd_operator_etcd::error::ErrorKind;
    match error.kind() {
        ErrorKind::UnhealthyCluster
        | ErrorKind::LearnerNotReady
        | ErrorKind::TooManyLearners
        | ErrorKind::PeerUrlExists
        | ErrorKind::NotLearner
        | ErrorKind::NotLeader
        | ErrorKind::NoLeader
        | ErrorKind::MemberNotFound
        | ErrorKind::Timeout
        | ErrorKind::Unreachable => true,
        ErrorKind::LearnerCannotServe | ErrorKind::Denied | ErrorKind::Other => false,
    }
}
