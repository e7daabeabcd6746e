//! etcd behind the door.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_etcd::client::{HashKv, HeldWatch, MemberStatus, Members, Snapshot, Tls};
use etcd_operator_etcd::dial::{Answer, Dial, Endpoint, Grpc, Out};
use etcd_operator_etcd::ids::{ClusterId, MemberId};
use futures::future::BoxFuture;

use crate::door::Door;

/// The way to etcd, through the door.
#[derive(Clone, Debug)]
pub struct Doors(pub Door);

struct Behind {
    inner: Arc<dyn Endpoint>,
    door: Door,
}

impl Dial for Doors {
    fn etcd<'a>(&'a self, url: &'a str, tls: &'a Tls) -> Answer<'a, Arc<dyn Endpoint>> {
        Box::pin(async move {
            let inner = Grpc.etcd(url, tls).await?;
            Ok(Arc::new(Behind { inner, door: self.0.clone() }) as Arc<dyn Endpoint>)
        })
    }

    fn peer_hash<'a>(&'a self, peer_url: &'a str, tls: &'a Tls, cluster: ClusterId, revision: i64) -> Answer<'a, HashKv> {
        Box::pin(async move { self.0.call("PeerHash", Grpc.peer_hash(peer_url, tls, cluster, revision)).await })
    }

    fn is_closed(&self, address: SocketAddr) -> BoxFuture<'_, bool> {
        // Not a request: nothing changes by it, and it is asked every few ms.
        Grpc.is_closed(address)
    }
}

impl Behind {
    fn call<'a, T: Send + 'a>(&'a self, name: &'static str, call: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move { self.door.call(name, call).await })
    }
}

impl Endpoint for Behind {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn member_list(&self, limit: Duration) -> Answer<'_, Members> {
        self.call("MemberList", self.inner.member_list(limit))
    }

    fn status(&self, limit: Duration) -> Answer<'_, MemberStatus> {
        self.call("Status", self.inner.status(limit))
    }

    fn get<'a>(&'a self, key: &'a str, limit: Duration) -> Answer<'a, (ClusterId, Option<Vec<u8>>)> {
        self.call("Range", self.inner.get(key, limit))
    }

    fn member_add_learner<'a>(&'a self, peer_url: &'a str) -> Answer<'a, MemberId> {
        self.call("MemberAdd", self.inner.member_add_learner(peer_url))
    }

    fn member_promote(&self, id: MemberId) -> Answer<'_, ()> {
        self.call("MemberPromote", self.inner.member_promote(id))
    }

    fn member_remove(&self, id: MemberId) -> Answer<'_, ()> {
        self.call("MemberRemove", self.inner.member_remove(id))
    }

    fn member_update<'a>(&'a self, id: MemberId, peer_url: &'a str) -> Answer<'a, ()> {
        self.call("MemberUpdate", self.inner.member_update(id, peer_url))
    }

    fn move_leader(&self, to: MemberId) -> Answer<'_, ()> {
        self.call("MoveLeader", self.inner.move_leader(to))
    }

    fn disarm_corrupt(&self, accused: MemberId) -> Answer<'_, ()> {
        self.call("Alarm", self.inner.disarm_corrupt(accused))
    }

    fn enable_downgrade<'a>(&'a self, version: &'a str) -> Answer<'a, ()> {
        self.call("Downgrade", self.inner.enable_downgrade(version))
    }

    fn cancel_downgrade(&self) -> Answer<'_, ()> {
        self.call("Downgrade", self.inner.cancel_downgrade())
    }

    fn hash_kv(&self, revision: i64) -> Answer<'_, HashKv> {
        self.call("HashKV", self.inner.hash_kv(revision))
    }

    fn write_and_read<'a>(&'a self, token: &'a str) -> Answer<'a, ()> {
        self.call("WriteAndRead", self.inner.write_and_read(token))
    }

    fn hold_watch(&self) -> Answer<'_, HeldWatch> {
        self.call("Watch", self.inner.hold_watch())
    }

    fn snapshot<'a>(&'a self, out: &'a mut Out<'a>) -> Answer<'a, Snapshot> {
        self.call("Snapshot", self.inner.snapshot(out))
    }
}
