//! Which life of the cluster this is, kept in etcd itself: a recovery begins a new one, under another cluster ID. A member of the life before that comes up again
//! finds it here, where it asks for its own cluster, and does not start. Written by the keeper that was recovered; read also by the controller, which has a
//! status from before.
//!
//! It is no fence: who cannot reach the recovered node does not learn of it.

use std::path::Path;
use std::time::Duration;

use etcd_operator_etcd::client::{EtcdClient, Tls};
use etcd_operator_etcd::error::EtcdError;
use etcd_operator_etcd::ids::ClusterId;
use etcd_operator_etcd::wal::Owner;
use serde::{Deserialize, Serialize};

use crate::ask;

/// Where the record lies, beside the API server's `/registry`.
pub const KEY: &str = "etcd-operator/lineage";

/// What the recovered member leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// This life.
    pub lineage: u64,
    /// Its cluster ID, hex. In a store that was restored once more the record is the old one, and is no word of that cluster.
    pub cluster_id: String,
    /// IDs of the clusters before it, hex.
    pub supersedes: Vec<String>,
    /// A revision that the cluster had when this was written: far above all of the lives before, so that it can be told on which of them an API server stands.
    pub revision: i64,
}

impl Record {
    /// Reads one that a cluster gave out. `None` if it is not of that cluster.
    #[must_use]
    pub fn of(cluster: ClusterId, value: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(value).ok()?;
        (record.cluster_id == cluster.to_string()).then_some(record)
    }

    /// Whether it ends the life of a cluster: each has an ID of its own.
    #[must_use]
    pub fn ends(&self, cluster: ClusterId) -> bool {
        self.supersedes.contains(&cluster.to_string())
    }

    /// The record of a life that follows the one of `before`, if that left one.
    fn after(self, before: Option<Self>) -> Self {
        let mut supersedes = self.supersedes;
        // In the store that was recovered, whatever its lineage.
        if let Some(before) = before {
            supersedes.extend(before.supersedes);
            supersedes.push(before.cluster_id);
        }
        supersedes.sort();
        supersedes.dedup();
        supersedes.retain(|id| *id != self.cluster_id);
        Self { supersedes, ..self }
    }
}

/// Leaves the record in the recovered cluster.
///
/// # Errors
/// When the member does not answer, or is another.
pub(crate) async fn leave(
    pki: &Path,
    endpoint: &str,
    owner: Owner,
    lineage: u64,
    supersedes: &[String],
    limit: Duration,
) -> Result<(), EtcdError> {
    let config = |why: String| EtcdError::Config { endpoint: endpoint.to_owned(), why };
    let tls = Tls::read(pki).map_err(|error| config(format!("the client certificate cannot be read: {error}")))?;
    let client = EtcdClient::new(endpoint, &tls).await?;
    let (cluster, before) = client.get(KEY, limit).await?;
    if cluster != owner.cluster {
        return Err(config(format!("is of cluster {cluster}")));
    }
    let before = before.and_then(|value| serde_json::from_slice::<Record>(&value).ok());
    let revision = client.status(limit).await?.revision;
    let record = Record { lineage, cluster_id: cluster.to_string(), supersedes: supersedes.to_vec(), revision }.after(before);
    let value = serde_json::to_vec(&record).map_err(|error| config(error.to_string()))?;
    client.put(KEY, value, limit).await
}

/// The record of a cluster at one of these endpoints that ends the life of this one.
pub async fn that_ends(pki: &Path, endpoints: &[String], cluster: ClusterId, limit: Duration) -> Option<Record> {
    let tls = Tls::read(pki).ok()?;
    let first = ask::first(endpoints, |endpoint| {
        let tls = tls.clone();
        async move {
            let client = EtcdClient::new(&endpoint, &tls).await.map_err(drop)?;
            // Without a leader a read would only take its time.
            let status = client.status(limit).await.map_err(drop)?;
            if status.cluster_id == cluster || status.leader.is_none() {
                return Err(());
            }
            let (of, value) = client.get(KEY, limit).await.map_err(drop)?;
            let record = value.and_then(|value| Record::of(of, &value)).filter(|record| of != cluster && record.ends(cluster));
            record.ok_or(())
        }
    });
    first.await.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_ends_the_lives_before_it_and_is_the_word_of_its_own_cluster_only() {
        let (one, two, three) = (ClusterId(1), ClusterId(2), ClusterId(3));
        let new = |lineage, of: ClusterId, before: ClusterId| Record {
            lineage,
            cluster_id: of.to_string(),
            supersedes: vec![before.to_string()],
            revision: 7,
        };
        let second = new(2, two, one).after(None);
        assert!(second.ends(one) && !second.ends(two) && !second.ends(three));
        // Its store recovered once more: the first life is still over.
        let third = new(3, three, two).after(Some(second.clone()));
        assert!(third.ends(one) && third.ends(two) && !third.ends(three));
        // Written again, it stays as it is.
        assert_eq!(new(3, three, two).after(Some(third.clone())), third);
        let value = serde_json::to_vec(&second).unwrap();
        assert_eq!(Record::of(two, &value), Some(second));
        assert_eq!(Record::of(three, &value), None);
        assert_eq!(Record::of(three, b"{"), None);
    }
}
