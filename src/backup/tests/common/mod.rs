//! A member in this process.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::sync::Mutex;
use std::time::Duration;

use etcd_operator_backup::{Listed, Order};
use etcd_operator_etcd::client::{HashKv, HeldWatch, MemberStatus, Members, Snapshot};
use etcd_operator_etcd::dial::{Answer, Endpoint, Out};
use etcd_operator_etcd::error::EtcdError;
use etcd_operator_etcd::ids::{ClusterId, MemberId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

/// A member with this database.
pub struct Etcd {
    pub db: Vec<u8>,
    pub status: MemberStatus,
    /// The stream breaks off after so many bytes.
    pub breaks: Option<usize>,
    /// It stands still after so many bytes.
    pub hangs: Option<usize>,
    pub asked: Mutex<u32>,
}

impl Etcd {
    pub fn new(bytes: usize) -> Self {
        // Not all of it can be compressed.
        let db: Vec<u8> = (0..bytes).map(|n| (n / 4096 * n % 251) as u8).collect();
        let status = MemberStatus {
            cluster_id: ClusterId(0xc1),
            member_id: MemberId(0xa1),
            version: "3.6.16".into(),
            leader: Some(MemberId(0xa2)),
            raft_term: 2,
            raft_index: 100,
            applied_index: 100,
            revision: 77,
            db_size: bytes as i64,
            is_learner: false,
            errors: Vec::new(),
            storage_version: "3.6.0".into(),
            downgrade: None,
        };
        Self { db, status, breaks: None, hangs: None, asked: Mutex::new(0) }
    }

    /// So random that it stays as large.
    pub fn random(bytes: usize) -> Self {
        let mut etcd = Self::new(bytes);
        let mut state = 1_u64;
        for byte in &mut etcd.db {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        etcd
    }

    /// How often its data was asked for.
    pub fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }

    fn none<T>(&self) -> Answer<'_, T> {
        unreachable!("a backup changes nothing")
    }
}

impl Endpoint for Etcd {
    fn url(&self) -> &str {
        "https://10.0.0.1:2379"
    }
    fn member_list(&self, _: Duration) -> Answer<'_, Members> {
        Box::pin(async { Ok(Members { cluster_id: self.status.cluster_id, members: Vec::new() }) })
    }
    fn status(&self, _: Duration) -> Answer<'_, MemberStatus> {
        Box::pin(async { Ok(self.status.clone()) })
    }
    fn get<'a>(&'a self, _: &'a str, _: Duration) -> Answer<'a, (ClusterId, Option<Vec<u8>>)> {
        self.none()
    }
    fn snapshot<'a>(&'a self, out: &'a mut Out<'a>) -> Answer<'a, Snapshot> {
        Box::pin(async move {
            *self.asked.lock().unwrap() += 1;
            let failed = |why: String| EtcdError::Snapshot { endpoint: self.url().into(), why };
            let digest = Sha256::digest(&self.db);
            let all = [self.db.as_slice(), digest.as_slice()].concat();
            for chunk in all[..self.breaks.or(self.hangs).unwrap_or(all.len())].chunks(32 << 10) {
                out.write_all(chunk).await.map_err(|error| failed(error.to_string()))?;
            }
            if self.hangs.is_some() {
                std::future::pending::<()>().await;
            }
            if self.breaks.is_some() {
                return Err(failed("broke off".into()));
            }
            let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Snapshot { bytes: all.len() as u64, sha256 })
        })
    }
    fn member_add_learner<'a>(&'a self, _: &'a str) -> Answer<'a, MemberId> {
        self.none()
    }
    fn member_promote(&self, _: MemberId) -> Answer<'_, ()> {
        self.none()
    }
    fn member_remove(&self, _: MemberId) -> Answer<'_, ()> {
        self.none()
    }
    fn member_update<'a>(&'a self, _: MemberId, _: &'a str) -> Answer<'a, ()> {
        self.none()
    }
    fn move_leader(&self, _: MemberId) -> Answer<'_, ()> {
        self.none()
    }
    fn disarm_corrupt(&self, _: MemberId) -> Answer<'_, ()> {
        self.none()
    }
    fn enable_downgrade<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        self.none()
    }
    fn cancel_downgrade(&self) -> Answer<'_, ()> {
        self.none()
    }
    fn hash_kv(&self, _: i64) -> Answer<'_, HashKv> {
        self.none()
    }
    fn write_and_read<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        self.none()
    }
    fn hold_watch(&self) -> Answer<'_, HeldWatch> {
        self.none()
    }
}

pub fn order(id: &str) -> Order {
    Order {
        backup: "nightly".into(),
        id: id.into(),
        cluster: "kube-etcd".into(),
        cluster_id: Some(ClusterId(0xc1)),
        lineage: 0,
        limit: Duration::from_secs(600),
        operator_version: "0.1.0".into(),
    }
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_764_273_180 + second).unwrap()
}

pub fn names(listed: &Listed) -> Vec<&str> {
    listed.backups.iter().map(|backup| backup.name.id.as_str()).collect()
}
