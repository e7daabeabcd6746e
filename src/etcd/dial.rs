//! What the controller and the agent ask of etcd, apart from how it is reached: over gRPC, or in the simulated World. Only what they use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::client::{EtcdClient, HashKv, HeldWatch, MemberStatus, Members, Snapshot, Tls};
use crate::error::EtcdError;
use crate::ids::{ClusterId, MemberId};
use crate::peer;

/// Where a snapshot goes.
pub type Out<'a> = dyn tokio::io::AsyncWrite + Send + Unpin + 'a;

/// What a call comes to.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, EtcdError>>;

/// One etcd endpoint. Its calls and their errors are those of [`EtcdClient`].
pub trait Endpoint: Send + Sync {
    /// Its URL.
    fn url(&self) -> &str;
    /// The member list, linearizable.
    fn member_list(&self, limit: Duration) -> Answer<'_, Members>;
    /// What the member says of itself.
    fn status(&self, limit: Duration) -> Answer<'_, MemberStatus>;
    /// A key's value, linearizable, and the cluster that gave it.
    fn get<'a>(&'a self, key: &'a str, limit: Duration) -> Answer<'a, (ClusterId, Option<Vec<u8>>)>;
    /// MemberAdd as learner.
    fn member_add_learner<'a>(&'a self, peer_url: &'a str) -> Answer<'a, MemberId>;
    /// MemberPromote.
    fn member_promote(&self, id: MemberId) -> Answer<'_, ()>;
    /// MemberRemove.
    fn member_remove(&self, id: MemberId) -> Answer<'_, ()>;
    /// MemberUpdate.
    fn member_update<'a>(&'a self, id: MemberId, peer_url: &'a str) -> Answer<'a, ()>;
    /// MoveLeader.
    fn move_leader(&self, to: MemberId) -> Answer<'_, ()>;
    /// Takes back the alarm CORRUPT that accuses a member.
    fn disarm_corrupt(&self, accused: MemberId) -> Answer<'_, ()>;
    /// Lets the cluster go down by a minor version.
    fn enable_downgrade<'a>(&'a self, version: &'a str) -> Answer<'a, ()>;
    /// Takes that back.
    fn cancel_downgrade(&self) -> Answer<'_, ()>;
    /// HashKV.
    fn hash_kv(&self, revision: i64) -> Answer<'_, HashKv>;
    /// A write and a read through this member.
    fn write_and_read<'a>(&'a self, token: &'a str) -> Answer<'a, ()>;
    /// A watch, held open until the answer is dropped.
    fn hold_watch(&self) -> Answer<'_, HeldWatch>;
    /// A snapshot, streamed into a file or wherever it goes.
    fn snapshot<'a>(&'a self, out: &'a mut Out<'a>) -> Answer<'a, Snapshot>;
}

/// The way to etcd.
pub trait Dial: Send + Sync {
    /// A client of one endpoint; it connects when first used.
    fn etcd<'a>(&'a self, url: &'a str, tls: &'a Tls) -> Answer<'a, Arc<dyn Endpoint>>;
    /// A member's hash by its peer URL ([`peer::hash_kv`]).
    fn peer_hash<'a>(&'a self, peer_url: &'a str, tls: &'a Tls, cluster: ClusterId, revision: i64) -> Answer<'a, HashKv>;
    /// Whether nobody listens at an address: refused at once, not merely silent.
    fn is_closed(&self, address: SocketAddr) -> BoxFuture<'_, bool>;
}

/// How long a connection to see whether somebody listens may take.
const LISTENS_WITHIN: Duration = Duration::from_secs(1);

/// By gRPC and TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc;

impl Dial for Grpc {
    fn etcd<'a>(&'a self, url: &'a str, tls: &'a Tls) -> Answer<'a, Arc<dyn Endpoint>> {
        Box::pin(async move { Ok(Arc::new(EtcdClient::new(url, tls).await?) as Arc<dyn Endpoint>) })
    }

    fn peer_hash<'a>(&'a self, peer_url: &'a str, tls: &'a Tls, cluster: ClusterId, revision: i64) -> Answer<'a, HashKv> {
        Box::pin(peer::hash_kv(peer_url, tls, cluster, revision))
    }

    fn is_closed(&self, address: SocketAddr) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            match tokio::time::timeout(LISTENS_WITHIN, tokio::net::TcpStream::connect(address)).await {
                Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
                Ok(Ok(_)) | Err(_) => false,
            }
        })
    }
}

impl Endpoint for EtcdClient {
    fn url(&self) -> &str {
        self.endpoint()
    }

    fn member_list(&self, limit: Duration) -> Answer<'_, Members> {
        Box::pin(Self::member_list(self, limit))
    }

    fn status(&self, limit: Duration) -> Answer<'_, MemberStatus> {
        Box::pin(Self::status(self, limit))
    }

    fn get<'a>(&'a self, key: &'a str, limit: Duration) -> Answer<'a, (ClusterId, Option<Vec<u8>>)> {
        Box::pin(Self::get(self, key, limit))
    }

    fn member_add_learner<'a>(&'a self, peer_url: &'a str) -> Answer<'a, MemberId> {
        Box::pin(Self::member_add_learner(self, peer_url))
    }

    fn member_promote(&self, id: MemberId) -> Answer<'_, ()> {
        Box::pin(Self::member_promote(self, id))
    }

    fn member_remove(&self, id: MemberId) -> Answer<'_, ()> {
        Box::pin(Self::member_remove(self, id))
    }

    fn member_update<'a>(&'a self, id: MemberId, peer_url: &'a str) -> Answer<'a, ()> {
        Box::pin(Self::member_update(self, id, peer_url))
    }

    fn move_leader(&self, to: MemberId) -> Answer<'_, ()> {
        Box::pin(Self::move_leader(self, to))
    }

    fn disarm_corrupt(&self, accused: MemberId) -> Answer<'_, ()> {
        Box::pin(Self::disarm_corrupt(self, accused))
    }

    fn enable_downgrade<'a>(&'a self, version: &'a str) -> Answer<'a, ()> {
        Box::pin(Self::enable_downgrade(self, version))
    }

    fn cancel_downgrade(&self) -> Answer<'_, ()> {
        Box::pin(Self::cancel_downgrade(self))
    }

    fn hash_kv(&self, revision: i64) -> Answer<'_, HashKv> {
        Box::pin(Self::hash_kv(self, revision))
    }

    fn write_and_read<'a>(&'a self, token: &'a str) -> Answer<'a, ()> {
        Box::pin(Self::write_and_read(self, token))
    }

    fn hold_watch(&self) -> Answer<'_, HeldWatch> {
        Box::pin(Self::hold_watch(self))
    }

    fn snapshot<'a>(&'a self, out: &'a mut Out<'a>) -> Answer<'a, Snapshot> {
        Box::pin(Self::snapshot(self, out))
    }
}
