//! One client per endpoint, a timeout on every call, and the one call that etcd-client cannot make: a linearizable member list.

use std::path::Path;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Channel as AnyChannel, Client, DowngradeInfo, DowngradeOptions, GetOptions,
    MemberAddOptions, WatchOptions,
};
use tokio::io::AsyncWriteExt;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::error::{ErrorKind, EtcdError, classify};
use crate::ids::{ClusterId, MemberId};
use crate::stub;

/// How long a call may take unless said otherwise. etcd gives up on a proposal after 7 s (5 s + two elections); a caller that
/// waits longer learns nothing more.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a TCP and TLS connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest silence between two chunks of a snapshot.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// A key under which the operator proves that a member takes writes; deleted again at once.
const PROBE_KEY_PREFIX: &str = "etcd-operator/probe/";

/// What a client shows and trusts, as PEM.
#[derive(Clone)]
pub struct Tls {
    /// The CA that signed etcd's server certificates.
    pub ca: Vec<u8>,
    /// The client's certificate.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl Tls {
    /// Reads `ca.crt`, `client.crt` and `client.key` of a folder.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn read(pki: &Path) -> std::io::Result<Self> {
        Ok(Self {
            ca: std::fs::read(pki.join("ca.crt"))?,
            cert: std::fs::read(pki.join("client.crt"))?,
            key: std::fs::read(pki.join("client.key"))?,
        })
    }
}

/// A member as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its ID.
    pub id: MemberId,
    /// Its name; empty until it has started and published it.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started.
    pub client_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

/// A linearizable member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The cluster that answered.
    pub cluster_id: ClusterId,
    /// Its members.
    pub members: Vec<Member>,
}

/// What one member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster that answered.
    pub cluster_id: ClusterId,
    /// The member that answered.
    pub member_id: MemberId,
    /// etcd's version, `3.6.16`.
    pub version: String,
    /// The leader it knows; `None` if it knows none.
    pub leader: Option<MemberId>,
    /// Raft term.
    pub raft_term: u64,
    /// Commit index that it knows (etcd calls it raftIndex).
    pub raft_index: u64,
    /// Index up to which it has applied.
    pub applied_index: u64,
    /// Revision of its store.
    pub revision: i64,
    /// Size of its database in bytes.
    pub db_size: i64,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// Alarms and errors it reports (NOSPACE, CORRUPT).
    pub errors: Vec<String>,
    /// The version that its data is of, `3.6.0`: not newer than the cluster's. Empty before 3.6.
    pub storage_version: String,
    /// The minor version that the cluster is told to go down to, `3.5.0`. Known from 3.6 on.
    pub downgrade: Option<String>,
}

impl MemberStatus {
    /// Whether it takes part: it knows a leader, and nothing it reports is about its own store. Each member reports the alarms of all
    /// (`memberID:… alarm:…`); one that is out of space still votes, and what helps against it must not be refused for it.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let concerns_it = |error: &String| alarm(error).is_none_or(|(id, kind)| id == self.member_id && kind != "NOSPACE");
        self.leader.is_some() && !self.errors.iter().any(concerns_it)
    }

    /// Whom the alarms CORRUPT accuse, as this member knows them; ID 0 = etcd cannot tell. While there is one etcd refuses every write.
    #[must_use]
    pub fn accused(&self) -> Vec<MemberId> {
        self.errors.iter().filter_map(|error| alarm(error)).filter(|(_, kind)| *kind == "CORRUPT").map(|(id, _)| id).collect()
    }
}

/// An alarm in the text of a Status: `memberID:77 alarm:CORRUPT`, in protobuf's text form: an ID of 0 is left out, and newer versions write
/// one blank or two.
fn alarm(error: &str) -> Option<(MemberId, &str)> {
    let field = |name: &str| error.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
    Some((MemberId(field("memberID").unwrap_or("0").parse().ok()?), field("alarm")?))
}

/// A hash of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// Revision it was asked for.
    pub revision: i64,
    /// Compact revision: hashes compare only if these are equal as well.
    pub compact_revision: i64,
}

/// A client of one etcd endpoint. Connects when first used, and again after a break.
#[derive(Clone)]
pub struct EtcdClient {
    endpoint: String,
    channel: Channel,
    client: Client,
}

impl EtcdClient {
    /// A client of `endpoint` (`https://ip:port`).
    ///
    /// # Errors
    /// When the URL or the certificates cannot be used.
    pub async fn new(endpoint: &str, tls: &Tls) -> Result<Self, EtcdError> {
        let config = |why: String| EtcdError::Config { endpoint: endpoint.to_owned(), why };
        if !endpoint.starts_with("https://") {
            return Err(config("not an https URL".into()));
        }
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&tls.ca))
            .identity(Identity::from_pem(&tls.cert, &tls.key));
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .and_then(|e| e.tls_config(tls))
            .map_err(|e| config(describe(&e)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect_lazy();
        let client = Client::from_channel(AnyChannel::Tonic(channel.clone()), None).await.map_err(|e| config(e.to_string()))?;
        Ok(Self { endpoint: endpoint.to_owned(), channel, client })
    }

    /// The endpoint's URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Every call passes here: bounded in time, its error classified.
    async fn call<T, E: Into<CallError>>(
        &self,
        call: &'static str,
        limit: Duration,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, EtcdError> {
        let (kind, message) = match tokio::time::timeout(limit, future).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => {
                let error = error.into();
                (error.kind, error.message)
            }
            Err(_) => (ErrorKind::Timeout, format!("no answer in {} ms", limit.as_millis())),
        };
        Err(EtcdError::Call { endpoint: self.endpoint.clone(), call, kind, message })
    }

    /// The member list, as agreed by a quorum. etcd-client's own never asks for that.
    ///
    /// # Errors
    /// When there is no quorum, no connection or no answer in `limit`.
    pub async fn member_list(&self, limit: Duration) -> Result<Members, EtcdError> {
        let response = self.call("MemberList", limit, stub::member_list(self.channel.clone())).await?;
        let header = response.header.unwrap_or_default();
        Ok(Members {
            cluster_id: ClusterId(header.cluster_id),
            members: response
                .members
                .into_iter()
                .map(|m| Member {
                    id: MemberId(m.id),
                    name: m.name,
                    peer_urls: m.peer_urls,
                    client_urls: m.client_urls,
                    is_learner: m.is_learner,
                })
                .collect(),
        })
    }

    /// What this member says of itself. Not linearizable: a member without quorum answers as well.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer in time.
    pub async fn status(&self, limit: Duration) -> Result<MemberStatus, EtcdError> {
        let mut client = self.client.clone();
        let s = self.call("Status", limit, client.status()).await?;
        let (cluster, member, revision) = s.header().map_or((0, 0, 0), |h| (h.cluster_id(), h.member_id(), h.revision()));
        Ok(MemberStatus {
            cluster_id: ClusterId(cluster),
            member_id: MemberId(member),
            version: s.version().to_owned(),
            leader: (s.leader() != 0).then(|| MemberId(s.leader())),
            raft_term: s.raft_term(),
            raft_index: s.raft_index(),
            applied_index: s.raft_applied_index(),
            revision,
            db_size: s.db_size(),
            is_learner: s.is_learner(),
            errors: s.errors().to_vec(),
            storage_version: s.storage_version().to_owned(),
            downgrade: s.downgrade_info().filter(|d| d.enabled()).map(|d| DowngradeInfo::target_version(d).to_owned()),
        })
    }

    /// Adds a learner.
    ///
    /// # Errors
    /// `UnhealthyCluster` for 5 s after each change; `PeerUrlExists` if it is listed; after `Timeout` it may have been added.
    pub async fn member_add_learner(&self, peer_url: &str) -> Result<MemberId, EtcdError> {
        let mut client = self.client.clone();
        let add = client.member_add([peer_url], Some(MemberAddOptions::new().with_is_learner()));
        let response = self.call("MemberAdd", CALL_TIMEOUT, add).await?;
        Ok(MemberId(response.member().map_or(0, etcd_client::Member::id)))
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// `LearnerNotReady` until it has nine tenths of the leader's log.
    pub async fn member_promote(&self, id: MemberId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        self.call("MemberPromote", CALL_TIMEOUT, client.member_promote(id.0)).await.map(drop)
    }

    /// Removes a member.
    ///
    /// # Errors
    /// `MemberNotFound` if it is gone already; after `Timeout` it may have been removed.
    pub async fn member_remove(&self, id: MemberId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        self.call("MemberRemove", CALL_TIMEOUT, client.member_remove(id.0)).await.map(drop)
    }

    /// Gives a voter another peer URL. Never a learner: etcd before 3.5.31 and 3.6.12 then takes it for a voter.
    ///
    /// # Errors
    /// `PeerUrlExists` if another member has it, `MemberNotFound` if it is gone; after `Timeout` it may have been done.
    pub async fn member_update(&self, id: MemberId, peer_url: &str) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        self.call("MemberUpdate", CALL_TIMEOUT, client.member_update(id.0, [peer_url.to_owned()])).await.map(drop)
    }

    /// Takes the alarm CORRUPT that accuses a member back; one that is not raised is no error.
    ///
    /// # Errors
    /// When there is no quorum, no connection or no answer.
    pub async fn disarm_corrupt(&self, accused: MemberId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        let mut options = AlarmOptions::new();
        options.with_member(accused.0);
        self.call("Alarm", CALL_TIMEOUT, client.alarm(AlarmAction::Deactivate, AlarmType::Corrupt, Some(options))).await.map(drop)
    }

    /// Lets the cluster go down to the minor version before its own: every member then makes its data such that an etcd of that version reads it
    /// ([`MemberStatus::storage_version`]). etcd itself ends this once all members are of that version.
    ///
    /// # Errors
    /// `Other` if it is not the minor version before, or this is under way already.
    pub async fn enable_downgrade(&self, version: &str) -> Result<(), EtcdError> {
        self.downgrade(DowngradeOptions::Enable(version.to_owned())).await
    }

    /// Takes that back: the cluster goes up again once all its members are of the higher version.
    ///
    /// # Errors
    /// `Other` if none is under way.
    pub async fn cancel_downgrade(&self) -> Result<(), EtcdError> {
        self.downgrade(DowngradeOptions::Cancel).await
    }

    async fn downgrade(&self, options: DowngradeOptions) -> Result<(), EtcdError> {
        let mut client = self.client.maintenance_client();
        self.call("Downgrade", CALL_TIMEOUT, client.downgrade(options)).await.map(drop)
    }

    /// Moves the leadership. Must be sent to the leader.
    ///
    /// # Errors
    /// `NotLeader` if this member is not the leader (any more).
    pub async fn move_leader(&self, to: MemberId) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        self.call("MoveLeader", CALL_TIMEOUT, client.move_leader(to.0)).await.map(drop)
    }

    /// The hash of the store at a revision that this member has applied. Its writes stall for about 0.9 s per GB (traps, "Hashes").
    ///
    /// # Errors
    /// When it does not answer within a minute.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKv, EtcdError> {
        let mut client = self.client.clone();
        let h = self.call("HashKV", Duration::from_secs(60), client.hash_kv(revision)).await?;
        Ok(HashKv { hash: h.hash(), revision: h.hash_revision(), compact_revision: h.compact_version() })
    }

    /// Proves that writes and linearizable reads pass through this member: writes a key of the operator's, reads it, deletes it.
    ///
    /// # Errors
    /// When one of the three fails, or what is read is not what was written.
    pub async fn write_and_read(&self, token: &str) -> Result<(), EtcdError> {
        let key = format!("{PROBE_KEY_PREFIX}{token}");
        let mut client = self.client.clone();
        self.call("Put", CALL_TIMEOUT, client.put(key.clone(), token, None)).await?;
        let read = self.call("Range", CALL_TIMEOUT, client.get(key.clone(), Some(GetOptions::new()))).await?;
        let same = read.kvs().first().is_some_and(|kv| kv.value() == token.as_bytes());
        self.call("DeleteRange", CALL_TIMEOUT, client.delete(key, None)).await?;
        if same {
            return Ok(());
        }
        Err(EtcdError::Call {
            endpoint: self.endpoint.clone(),
            call: "Range",
            kind: ErrorKind::Other,
            message: "a key just written through this member was not read back".into(),
        })
    }

    /// Reads a key, linearizable. Returns the cluster that answered, and the value if there is one.
    ///
    /// # Errors
    /// When there is no quorum, no connection or no answer in `limit`; `Denied` where etcd's own authentication is on.
    pub async fn get(&self, key: &str, limit: Duration) -> Result<(ClusterId, Option<Vec<u8>>), EtcdError> {
        let mut client = self.client.clone();
        let read = self.call("Range", limit, client.get(key, None)).await?;
        let cluster = ClusterId(read.header().map_or(0, etcd_client::ResponseHeader::cluster_id));
        Ok((cluster, read.kvs().first().map(|kv| kv.value().to_vec())))
    }

    /// Writes a key.
    ///
    /// # Errors
    /// As for reading; after `Timeout` it may have been written.
    pub async fn put(&self, key: &str, value: Vec<u8>, limit: Duration) -> Result<(), EtcdError> {
        let mut client = self.client.clone();
        self.call("Put", limit, client.put(key, value, None)).await.map(drop)
    }

    /// Opens a watch and holds it open: while it is open, the member's drain after SIGTERM goes on (traps: with no stream it stops
    /// voting at once). Dropping the handle ends it.
    ///
    /// # Errors
    /// When the member does not confirm the watch in time.
    pub async fn hold_watch(&self) -> Result<HeldWatch, EtcdError> {
        let mut client = self.client.clone();
        let key = format!("{PROBE_KEY_PREFIX}drain");
        let stream = self.call("Watch", CALL_TIMEOUT, client.watch(key, Some(WatchOptions::new()))).await?;
        Ok(HeldWatch::new(stream))
    }

    /// Streams a snapshot of the store to `out` and verifies the SHA-256 that etcd appends to it. Whoever gave it makes it durable.
    ///
    /// # Errors
    /// When the stream breaks or stalls, it cannot be written, or the digest differs. What was written is then worthless.
    pub async fn snapshot(&self, out: &mut crate::dial::Out<'_>) -> Result<Snapshot, EtcdError> {
        let mut client = self.client.clone();
        let mut stream = self.call("Snapshot", CALL_TIMEOUT, client.snapshot()).await?;
        let failed = |why: String| EtcdError::Snapshot { endpoint: self.endpoint.clone(), why };
        let mut digest = crate::snapshot::TrailingDigest::new();
        loop {
            let next = self.call("Snapshot", SNAPSHOT_CHUNK_TIMEOUT, stream.message()).await?;
            let Some(chunk) = next else { break };
            digest.update(chunk.blob());
            out.write_all(chunk.blob()).await.map_err(|e| failed(format!("cannot write: {e}")))?;
        }
        let (bytes, sha256) = digest.finish().map_err(failed)?;
        out.flush().await.map_err(|e| failed(format!("cannot write: {e}")))?;
        Ok(Snapshot { bytes, sha256 })
    }
}

/// Keeps a watch open until it is dropped.
pub struct HeldWatch {
    _stream: Box<dyn Send>,
}

impl HeldWatch {
    /// Of a stream that ends when it is dropped.
    #[must_use]
    pub fn new(stream: impl Send + 'static) -> Self {
        Self { _stream: Box::new(stream) }
    }
}

/// A snapshot whose digest was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Size with the 32 bytes of digest.
    pub bytes: u64,
    /// SHA-256 of the database, hex.
    pub sha256: String,
}

struct CallError {
    kind: ErrorKind,
    message: String,
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        let cause = std::error::Error::source(&status).map(|e| format!(": {}", describe(e))).unwrap_or_default();
        Self { kind: classify(&status), message: format!("{}{cause}", status.message()) }
    }
}

impl From<etcd_client::Error> for CallError {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => status.into(),
            etcd_client::Error::TransportError(error) => Self { kind: ErrorKind::Unreachable, message: describe(&error) },
            other => Self { kind: ErrorKind::Other, message: other.to_string() },
        }
    }
}

/// An error with its causes: tonic's own text is only "transport error".
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(errors: &[&str]) -> MemberStatus {
        MemberStatus {
            cluster_id: ClusterId(1),
            member_id: MemberId(7),
            version: "3.6.16".into(),
            leader: Some(MemberId(7)),
            raft_term: 2,
            raft_index: 9,
            applied_index: 9,
            revision: 3,
            db_size: 0,
            is_learner: false,
            errors: errors.iter().map(ToString::to_string).collect(),
            storage_version: String::new(),
            downgrade: None,
        }
    }

    #[test]
    fn anothers_alarm_is_not_ones_own() {
        assert!(status(&[]).is_healthy());
        assert!(status(&["memberID:77 alarm:CORRUPT "]).is_healthy());
        assert!(!status(&["memberID:7 alarm:CORRUPT "]).is_healthy());
        assert!(status(&["memberID:7 alarm:NOSPACE "]).is_healthy());
        assert!(!status(&["memberID:7  alarm:CORRUPT"]).is_healthy());
        // It accuses nobody in particular.
        assert!(status(&["alarm:CORRUPT "]).is_healthy());
        assert!(!status(&["etcdserver: no leader"]).is_healthy());
        assert!(!MemberStatus { leader: None, ..status(&[]) }.is_healthy());
    }

    #[test]
    fn whom_the_alarms_accuse_is_read_from_etcds_words() {
        assert_eq!(status(&["etcdserver: no leader", "memberID:7 alarm:NOSPACE "]).accused(), []);
        let accused = status(&["memberID:77 alarm:CORRUPT ", "memberID:7 alarm:NOSPACE ", "memberID:0 alarm:CORRUPT"]).accused();
        assert_eq!(accused, [MemberId(77), MemberId(0)]);
        // It writes a 0 as nothing at all.
        assert_eq!(status(&["alarm:CORRUPT "]).accused(), [MemberId(0)]);
    }
}
