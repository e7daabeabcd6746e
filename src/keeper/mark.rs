//! How far a member's log has reached, kept where its disk cannot take it back: in etcd itself. A disk that is rolled back to an older image, or a log
//! that etcd "repairs" by cutting it short, would have a voter forget entries for which it has voted; with them a write may be lost that
//! was acknowledged. etcd cannot see that: the older log is whole.
//!
//! Each running member leaves its mark about once a minute; before a start it is compared with the log on the disk, where the other members answer. It is
//! one to two minutes old: what was lost since then is not seen. Nor is it where nobody answers (a cold start; two members, of which one is down).

use std::path::Path;
use std::time::Duration;

use etcd_operator_etcd::client::{EtcdClient, Tls};
use etcd_operator_etcd::error::{ErrorKind, EtcdError};
use etcd_operator_etcd::wal::Owner;
use serde::{Deserialize, Serialize};

use crate::ask;

/// Where the marks lie, beside the API server's `/registry`.
const PREFIX: &str = "etcd-operator/marks/";

/// What a member leaves. One key per address, so that nothing grows with the members that come and go; of another member it says nothing: who takes over an
/// address takes over its key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Its ID, hex.
    member: String,
    /// An index that its log holds on disk.
    index: u64,
}

/// What is known of a mark.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The index; `None` = this member has left none.
    Index(Option<u64>),
    /// Nobody answered; why.
    Nothing(String),
}

fn key(peer_url: &str) -> String {
    format!("{PREFIX}{peer_url}")
}

/// Reads the mark of a member from the others: the highest that it has left under any of its peer URLs.
pub(crate) async fn read(pki: &Path, endpoints: &[String], owner: Owner, peer_urls: &[&str], limit: Duration) -> Read {
    let tls = match Tls::read(pki) {
        Ok(tls) => tls,
        Err(error) => return Read::Nothing(format!("the client certificate cannot be read: {error}")),
    };
    let first = ask::first(endpoints, |endpoint| {
        let (tls, keys) = (tls.clone(), peer_urls.iter().map(|url| key(url)).collect::<Vec<_>>());
        async move {
            let client = EtcdClient::new(&endpoint, &tls).await?;
            let mut highest = None;
            for key in keys {
                let (cluster, value) = client.get(&key, limit).await?;
                if cluster != owner.cluster {
                    return Err(EtcdError::Config { endpoint, why: format!("is of cluster {cluster}, not {}", owner.cluster) });
                }
                highest = highest.max(value.and_then(|value| of(owner, &value)));
            }
            Ok(highest)
        }
    });
    match first.await {
        Ok(highest) => Read::Index(highest),
        Err(failures) => {
            let why = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            // With etcd's authentication on, nothing of ours can be read or written, and a member must start all the same.
            if !failures.is_empty() && failures.iter().all(is_denied) {
                tracing::warn!(why, "etcd does not let itself be read: how far this member's log should reach is not known");
                return Read::Index(None);
            }
            Read::Nothing(why)
        }
    }
}

fn is_denied(error: &EtcdError) -> bool {
    error.kind() == ErrorKind::Denied
}

fn of(owner: Owner, value: &[u8]) -> Option<u64> {
    match serde_json::from_slice::<Mark>(value) {
        Ok(mark) => (mark.member == owner.member.to_string()).then_some(mark.index),
        Err(error) => {
            tracing::warn!(%error, "this member's mark is none that a keeper wrote");
            None
        }
    }
}

/// A round at a running member: looks how far it has applied, and leaves what it had applied in the round before. Returns what it has applied now, and
/// whether a mark was left.
///
/// etcd applies entries while they are still on their way to the disk. That what was applied before is on the disk when the mark counts rests on the
/// mark going through this very member: raft sends its proposal on, or appends it, in a later Ready than the one that brought those entries, and goes on
/// to that only once they are synced. Never leave a mark through another member's endpoint.
///
/// # Errors
/// When the member does not answer, or takes no writes: a learner, or without a quorum.
pub(crate) async fn leave(
    pki: &Path,
    endpoint: &str,
    owner: Owner,
    peer_url: &str,
    before: Option<u64>,
    limit: Duration,
) -> Result<(u64, bool), EtcdError> {
    let config = |why: String| EtcdError::Config { endpoint: endpoint.to_owned(), why };
    let tls = Tls::read(pki).map_err(|error| config(format!("the client certificate cannot be read: {error}")))?;
    let client = EtcdClient::new(endpoint, &tls).await?;
    let status = client.status(limit).await?;
    if (status.cluster_id, status.member_id) != (owner.cluster, owner.member) {
        return Err(config(format!("is member {} of cluster {}", status.member_id, status.cluster_id)));
    }
    let now = status.applied_index;
    let before = before.filter(|before| *before < now);
    if let Some(index) = before {
        let mark = Mark { member: owner.member.to_string(), index };
        let value = serde_json::to_vec(&mark).map_err(|error| config(error.to_string()))?;
        client.put(&key(peer_url), value, limit).await?;
    }
    Ok((now, before.is_some()))
}

#[cfg(test)]
mod tests {
    use etcd_operator_etcd::ids::{ClusterId, MemberId};

    use super::*;

    #[test]
    fn a_mark_counts_for_the_member_that_left_it() {
        let owner = Owner { cluster: ClusterId(1), member: MemberId(0xab) };
        let mark = br#"{"member":"00000000000000ab","index":42}"#;
        assert_eq!(of(owner, mark), Some(42));
        assert_eq!(of(Owner { member: MemberId(0xac), ..owner }, mark), None);
        assert_eq!(of(owner, b"{"), None);
    }

    #[test]
    fn only_what_is_denied_will_stay_so() {
        let call = |kind| EtcdError::Call { endpoint: String::new(), call: "Range", kind, message: String::new() };
        assert!(is_denied(&call(ErrorKind::Denied)));
        for kind in
            [ErrorKind::Timeout, ErrorKind::Unreachable, ErrorKind::NoLeader, ErrorKind::LearnerCannotServe, ErrorKind::Other]
        {
            assert!(!is_denied(&call(kind)), "{kind:?}");
        }
    }
}
