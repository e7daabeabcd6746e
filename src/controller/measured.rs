//! The way to etcd, with each call measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_etcd::client::{HashKv, HeldWatch, MemberStatus, Members, Snapshot, Tls};
use etcd_operator_etcd::dial::{Answer, Dial, Endpoint, Out};
use etcd_operator_etcd::error::EtcdError;
use etcd_operator_etcd::ids::{ClusterId, MemberId};
use futures::future::BoxFuture;

use crate::clock;
use crate::telemetry::Metrics;

/// A [`Dial`] whose calls are counted.
pub(super) struct Measured {
    pub(super) inner: Arc<dyn Dial>,
    pub(super) metrics: Metrics,
}

struct MeasuredEndpoint {
    inner: Arc<dyn Endpoint>,
    metrics: Metrics,
}

async fn measure<T>(metrics: &Metrics, call: &'static str, answer: Answer<'_, T>) -> Result<T, EtcdError> {
    let since = clock::instant();
    let result = answer.await;
    let code = result.as_ref().err().map_or("ok", |error| error.kind().as_str());
    metrics.etcd_call(call, code, since.elapsed());
    result
}

impl Dial for Measured {
    fn etcd<'a>(&'a self, url: &'a str, tls: &'a Tls) -> Answer<'a, Arc<dyn Endpoint>> {
        // It connects when first used: there is nothing to measure.
        Box::pin(async move {
            let inner = self.inner.etcd(url, tls).await?;
            Ok(Arc::new(MeasuredEndpoint { inner, metrics: self.metrics.clone() }) as Arc<dyn Endpoint>)
        })
    }

    fn peer_hash<'a>(&'a self, peer_url: &'a str, tls: &'a Tls, cluster: ClusterId, revision: i64) -> Answer<'a, HashKv> {
        Box::pin(measure(&self.metrics, "PeerHashKV", self.inner.peer_hash(peer_url, tls, cluster, revision)))
    }

    fn is_closed(&self, address: SocketAddr) -> BoxFuture<'_, bool> {
        self.inner.is_closed(address)
    }
}

impl MeasuredEndpoint {
    fn measure<'a, T: 'a>(&'a self, call: &'static str, answer: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(measure(&self.metrics, call, answer))
    }
}

impl Endpoint for MeasuredEndpoint {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn member_list(&self, limit: Duration) -> Answer<'_, Members> {
        self.measure("MemberList", self.inner.member_list(limit))
    }

    fn status(&self, limit: Duration) -> Answer<'_, MemberStatus> {
        self.measure("Status", self.inner.status(limit))
    }

    fn get<'a>(&'a self, key: &'a str, limit: Duration) -> Answer<'a, (ClusterId, Option<Vec<u8>>)> {
        self.measure("Range", self.inner.get(key, limit))
    }

    fn member_add_learner<'a>(&'a self, peer_url: &'a str) -> Answer<'a, MemberId> {
        self.measure("MemberAdd", self.inner.member_add_learner(peer_url))
    }

    fn member_promote(&self, id: MemberId) -> Answer<'_, ()> {
        self.measure("MemberPromote", self.inner.member_promote(id))
    }

    fn member_remove(&self, id: MemberId) -> Answer<'_, ()> {
        self.measure("MemberRemove", self.inner.member_remove(id))
    }

    fn member_update<'a>(&'a self, id: MemberId, peer_url: &'a str) -> Answer<'a, ()> {
        self.measure("MemberUpdate", self.inner.member_update(id, peer_url))
    }

    fn move_leader(&self, to: MemberId) -> Answer<'_, ()> {
        self.measure("MoveLeader", self.inner.move_leader(to))
    }

    fn disarm_corrupt(&self, accused: MemberId) -> Answer<'_, ()> {
        self.measure("Alarm", self.inner.disarm_corrupt(accused))
    }

    fn enable_downgrade<'a>(&'a self, version: &'a str) -> Answer<'a, ()> {
        self.measure("Downgrade", self.inner.enable_downgrade(version))
    }

    fn cancel_downgrade(&self) -> Answer<'_, ()> {
        self.measure("Downgrade", self.inner.cancel_downgrade())
    }

    fn hash_kv(&self, revision: i64) -> Answer<'_, HashKv> {
        self.measure("HashKV", self.inner.hash_kv(revision))
    }

    fn write_and_read<'a>(&'a self, token: &'a str) -> Answer<'a, ()> {
        self.measure("WriteAndRead", self.inner.write_and_read(token))
    }

    fn hold_watch(&self) -> Answer<'_, HeldWatch> {
        self.measure("Watch", self.inner.hold_watch())
    }

    fn snapshot<'a>(&'a self, out: &'a mut Out<'a>) -> Answer<'a, Snapshot> {
        self.measure("Snapshot", self.inner.snapshot(out))
    }
}
