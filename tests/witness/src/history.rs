//! What a run recorded: plain data, without a verdict.
//!
//! The checks (`crate::check`) are functions of this alone, so that each invariant has a red case: a history that
//! breaks it and must be flagged. It is also written to `history.json`, so that a failed run can be judged again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;

/// Everything that one run saw. Times are microseconds since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// When the run started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Due writes per second.
    pub rate: u32,
    /// When writing began and ended.
    pub writing: Option<(Micros, Micros)>,
    /// The client URL of boot etcd, as in `bed.json`; how the witness knows which member is boot.
    pub boot_endpoint: Option<String>,
    /// Voters that must be there when boot goes, if the caller knows.
    pub size: Option<usize>,
    /// The objects written to; records name them by index.
    pub objects: Vec<Object>,
    /// One record per due write, in order of due time; its index is the value written.
    pub writes: Vec<Write>,
    /// One per resource type.
    pub watches: Vec<Watch>,
    /// What the API returned for each object at the end, by object index.
    pub read_back: BTreeMap<usize, ReadBack>,
    /// The polled etcd endpoints; samples name them by index.
    pub endpoints: Vec<String>,
    /// Answers to `Status`, failures included.
    pub statuses: Vec<StatusSample>,
    /// Answers to linearizable member lists.
    pub lists: Vec<ListSample>,
    /// The distinct member lists; samples name them by index.
    pub member_sets: Vec<Vec<Member>>,
}

/// An object of the API that is written to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Resource type, as `deployments.apps`.
    pub resource: String,
    /// Its name.
    pub name: String,
}

/// One due write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Write {
    /// Index into `objects`.
    pub object: usize,
    /// When it was due; latency counts from here, whatever delayed the sending.
    pub due: Micros,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a write ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Outcome {
    /// Still on its way.
    Pending,
    /// Never sent: the witness itself was too late.
    NotSent,
    /// Acknowledged, and in the journal.
    Acked {
        /// When the answer arrived.
        at: Micros,
        /// The resource version of the answer.
        rv: u64,
    },
    /// Sent, and not acknowledged. It may have been applied all the same.
    Failed {
        /// When it was given up.
        at: Micros,
        /// Why.
        error: String,
    },
}

/// What one watch saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Watch {
    /// Resource type.
    pub resource: String,
    /// Resource version that the watch began at.
    pub from: u64,
    /// Events in order of arrival.
    pub events: Vec<Event>,
    /// Lists made anew after a 410; an event that one of them covers is not lost.
    pub relists: Vec<Relist>,
    /// Ends of the stream, with the reason.
    pub ends: Vec<(Micros, String)>,
    /// How many of the ends were a 410.
    pub gone: u32,
    /// Attempts to open it that failed.
    #[serde(default)]
    pub refused: u32,
}

/// An event of a watch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When it arrived.
    pub at: Micros,
    /// Index into `objects`; nothing for bookmarks and for objects of others.
    pub object: Option<usize>,
    /// Its resource version.
    pub rv: u64,
}

/// A list made anew after a watch was told that its resource version is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Relist {
    /// When it arrived.
    pub at: Micros,
    /// Its resource version.
    pub rv: u64,
    /// Resource version of each object in it.
    pub objects: BTreeMap<usize, u64>,
}

/// What the API returned for an object at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum ReadBack {
    /// It is there.
    Found {
        /// Index of the write that it carries, if any.
        value: Option<usize>,
        /// Its resource version.
        rv: u64,
    },
    /// The API says that it does not exist.
    Missing,
    /// The API did not say.
    Unread {
        /// Why.
        error: String,
    },
}

/// One poll of one endpoint's `Status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusSample {
    /// Index into `endpoints`.
    pub endpoint: usize,
    /// When the answer or the failure arrived.
    pub at: Micros,
    /// The answer.
    pub answer: Option<Status>,
}

/// The part of an etcd's `Status` that the checks use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Cluster ID.
    pub cluster: u64,
    /// ID of the member that answered.
    pub member: u64,
    /// Its revision.
    pub revision: i64,
    /// Member ID of the leader it knows, 0 for none.
    pub leader: u64,
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
    /// Whether it is a learner.
    pub learner: bool,
    /// Server version.
    pub version: String,
    /// Alarms and other errors it reports.
    pub errors: Vec<String>,
}

/// One linearizable member list. It was true at some moment between `sent` and `at`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListSample {
    /// Index into `endpoints`.
    pub endpoint: usize,
    /// When it was asked for.
    pub sent: Micros,
    /// When it arrived.
    pub at: Micros,
    /// Cluster ID.
    pub cluster: u64,
    /// Index into `member_sets`.
    pub set: usize,
}

/// A member as listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Member ID.
    pub id: u64,
    /// Name; empty until it has started.
    pub name: String,
    /// Whether it is a learner.
    pub learner: bool,
    /// Client URLs; empty until it has started.
    pub client_urls: Vec<String>,
}

impl History {
    /// Index of an object by resource and name.
    pub fn object(&self, resource: &str, name: &str) -> Option<usize> {
        self.objects.iter().position(|object| object.resource == resource && object.name == name)
    }

    /// Index of a member list, added if it is new.
    pub fn member_set(&mut self, mut members: Vec<Member>) -> usize {
        members.sort();
        match self.member_sets.iter().position(|known| *known == members) {
            Some(index) => index,
            None => {
                self.member_sets.push(members);
                self.member_sets.len() - 1
            }
        }
    }
}
