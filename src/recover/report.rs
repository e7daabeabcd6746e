//! What lies on one node.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use etcd_operator_etcd::wal;
use etcd_operator_keeper::ask::{Answer, ask};
use etcd_operator_keeper::contract::{Held, Order, Paths, State};
use etcd_operator_keeper::files::{Found, read};
use etcd_operator_keeper::identity;
use etcd_operator_keeper::recover::retired;
use serde::{Deserialize, Serialize};

use crate::clock;

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// For the members to answer.
const ASK: Duration = Duration::from_secs(5);

/// What lies on one node of a cluster, and what its keeper says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of this shape.
    pub format: u32,
    /// The node.
    pub node: String,
    /// When it was looked at, RFC 3339.
    pub time: String,
    /// Of the EtcdCluster.
    pub namespace: String,
    /// Its name.
    pub cluster: String,
    /// Which life of the cluster the node's last order, or its own record, is of.
    pub lineage: u64,
    /// The highest life that the node has heard of.
    #[serde(default)]
    pub known_lineage: u64,
    /// Whether it was retired (`recover retire`): its data is of the life before, and is not started.
    #[serde(default)]
    pub is_retired: bool,
    /// The cluster that the node's member belongs to, 16 hex digits; empty = not known.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// The node's member, 16 hex digits; empty = it has none.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// Whether the keeper knows that this member was removed.
    pub removed: bool,
    /// What the keeper does.
    pub phase: String,
    /// Why.
    pub reason: String,
    /// The same for a human.
    pub message: String,
    /// etcd's version on this node; empty = not known.
    pub etcd_version: String,
    /// Client URLs of the members, as this node saw them last; its own among them.
    pub endpoints: Vec<String>,
    /// Its own; empty = not known.
    #[serde(default)]
    pub own_endpoint: String,
    /// Members that a quorum lists right now; `None` = no quorum answers.
    pub quorum: Option<usize>,
    /// Why none answers.
    pub no_quorum: String,
    /// What lies here.
    pub data: Vec<Data>,
}

/// A data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// Its name below the cluster's.
    pub name: String,
    /// Whether it is that of the node's member.
    pub is_own: bool,
    /// Of its log, 16 hex digits.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Of its log, 16 hex digits.
    #[serde(rename = "memberID")]
    pub member_id: String,
    /// Term of the last entry.
    pub last_term: u64,
    /// Index of the last entry.
    pub last_index: u64,
    /// Commit index that was saved: a lower bound, and no measure of what was acknowledged.
    pub commit: u64,
    /// Who votes, as the log says: as far as it is known to be committed, and after each change that follows. IDs of 16 hex digits. Empty = it does not say.
    #[serde(default)]
    pub voters: Vec<Vec<String>>,
    /// Why it may lack what it once had; it can be recovered from all the same.
    #[serde(default)]
    pub suspect: String,
    /// Size of the database.
    pub db_mib: u64,
    /// What is wrong with it.
    pub problem: String,
}

impl Report {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none, or of a newer format.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let report: Self =
            serde_json::from_slice(json).map_err(|error| format!("is no report of `recover inspect -o json`: {error}"))?;
        if report.format > FORMAT {
            return Err(format!(
                "is of format {}, and this program reads up to {FORMAT}: use the newest one for all",
                report.format
            ));
        }
        Ok(report)
    }

    /// The data of the node's member, if it can be started from.
    #[must_use]
    pub fn own(&self) -> Option<&Data> {
        self.data.iter().find(|data| data.is_own && data.problem.is_empty()).filter(|_| !self.removed)
    }

    /// Whether a quorum answers.
    #[must_use]
    pub fn quorum_words(&self) -> String {
        match self.quorum {
            Some(members) => format!("a quorum answers, and lists {members} members: there is nothing to recover"),
            None => format!("no quorum answers: {}", self.no_quorum),
        }
    }
}

/// Looks at this node.
///
/// # Errors
/// When there is nothing of this cluster here.
pub async fn inspect(paths: &Paths, node: &str, namespace: &str, cluster: &str) -> Result<Report, String> {
    if !paths.dir.is_dir() && !paths.data.is_dir() {
        return Err(format!(
            "there is neither {} nor {} on this node: name the cluster (--cluster, --namespace), or the roots",
            paths.dir.display(),
            paths.data.display()
        ));
    }
    let mut report = Report {
        format: FORMAT,
        node: node.to_owned(),
        time: clock::now_rfc3339(),
        namespace: namespace.to_owned(),
        cluster: cluster.to_owned(),
        ..Report::default()
    };
    let state = match read::<State>(&paths.state()) {
        Found::Whole(state) => state,
        Found::Missing => {
            report.message = "there is no state file".into();
            State::default()
        }
        Found::Unusable(why) => {
            report.message = format!("the state file {why}");
            State::default()
        }
    };
    // As the keeper does: the copy counts where the file does not.
    let order = match read::<Order>(&paths.order()) {
        Found::Whole(order) if etcd_operator_keeper::order::objection(&order, &state).is_none() => Some(order),
        _ => state.last_order.as_deref().cloned(),
    };
    // What lies on a node that was retired still is of the life before, and counts for whoever compares.
    let retired = retired(&state);
    report.is_retired = retired.is_some();
    let owner = order.as_ref().and_then(|order| identity::newest(order, &state)).or_else(|| identity::of(retired?));
    if let Some(owner) = owner {
        (report.cluster_id, report.member_id) = (owner.cluster.to_string(), owner.member.to_string());
        report.removed = state.removed.contains(&report.member_id);
    }
    let lineages =
        [state.order_lineage, state.identity.as_ref().map_or(0, |i| i.lineage), order.as_ref().map_or(0, |o| o.lineage)];
    report.known_lineage = lineages.into_iter().chain(state.ended_by.as_ref().map(|record| record.lineage)).max().unwrap_or(0);
    report.lineage = retired.map_or(lineages.into_iter().max().unwrap_or(0), |own| own.lineage);
    if report.message.is_empty() {
        report.phase = format!("{:?}", state.phase);
        report.reason.clone_from(&state.reason);
        report.message.clone_from(&state.message);
    }
    report.etcd_version = state.etcd_version.clone().unwrap_or_default();
    report.endpoints.clone_from(&state.known_endpoints);
    let own_name = order.as_ref().map(|order| order.member_name.clone());
    if let Some(order) = &order {
        report.endpoints.extend(order.ask.iter().cloned());
        report.endpoints.push(order.etcd.client_url.clone());
        report.own_endpoint.clone_from(&order.etcd.client_url);
        report.endpoints.sort();
        report.endpoints.dedup();
    }
    match owner {
        Some(owner) => match ask(&paths.pki(), &report.endpoints, owner.cluster, ASK).await {
            Answer::Members(members) => report.quorum = Some(members.members.len()),
            Answer::Nothing(why) => report.no_quorum = why,
        },
        None => report.no_quorum = "this node does not know of which etcd cluster it is".into(),
    }
    report.data = all_data(paths, own_name.as_deref(), state.held.as_ref(), &report)?;
    Ok(report)
}

fn all_data(paths: &Paths, own_name: Option<&str>, held: Option<&Held>, report: &Report) -> Result<Vec<Data>, String> {
    let entries = match std::fs::read_dir(&paths.data) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| format!("{}: {error}", paths.data.display()))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", paths.data.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_dir() || path == paths.archive() || path == paths.recovery() {
            continue;
        }
        let mut data = data(&path);
        data.is_own = own_name == Some(name.as_str());
        if data.is_own
            && data.problem.is_empty()
            && (&data.cluster_id, &data.member_id) != (&report.cluster_id, &report.member_id)
        {
            data.problem =
                format!("its log is of member {} of cluster {}, and this node's is another", data.member_id, data.cluster_id);
        }
        if let Some(held) = held.filter(|held| held.member == data.member_id && data.last_index < held.index) {
            data.suspect = format!("its log reached index {} before: the disk is an older copy, or was cut short", held.index);
        }
        data.name = name;
        all.push(data);
    }
    all.sort_by(|a, b| (!a.is_own, &a.name).cmp(&(!b.is_own, &b.name)));
    Ok(all)
}

fn data(dir: &Path) -> Data {
    let mut data = Data::default();
    match wal::classify(dir) {
        Ok(wal::DataDir::Empty) => data.problem = "it is empty".into(),
        Ok(wal::DataDir::Damaged(damage)) => data.problem = damage.to_string(),
        Ok(wal::DataDir::Intact(owner)) => {
            (data.cluster_id, data.member_id) = (owner.cluster.to_string(), owner.member.to_string());
            let wal_dir = dir.join("member/wal");
            match wal::reach(&wal_dir).and_then(|reach| Ok((reach, wal::history(&wal_dir)?))) {
                Ok((reach, history)) => {
                    (data.last_term, data.last_index, data.commit) = (reach.last_term, reach.last_index, reach.commit);
                    data.voters = history.voters.iter().map(|all| all.iter().map(ToString::to_string).collect()).collect();
                    if history.damaged {
                        data.suspect = "its log breaks off, and something follows that cannot be read".into();
                    }
                    if reach.commit > reach.last_index {
                        data.problem =
                            format!("its log ends at index {}, and says that {} was committed", reach.last_index, reach.commit);
                    }
                }
                Err(error) => data.problem = error.to_string(),
            }
            if let (true, Err(why)) = (data.problem.is_empty(), database(&dir.join("member/snap/db"))) {
                data.problem = format!("its database {why}");
            }
        }
        Err(error) => data.problem = format!("it cannot be read: {error}"),
    }
    data.db_mib = std::fs::metadata(dir.join("member/snap/db")).map_or(0, |db| db.len() >> 20);
    data
}

/// Whether a file is a bbolt database as far as its head tells: one of its two meta pages is whole, and the file reaches as far as that says.
fn database(path: &Path) -> Result<(), String> {
    const MAGIC: u32 = 0xed0c_daed;
    // Where bbolt has the second one depends on the size of its pages.
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let length = file.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
    file.take(128 << 10).read_to_end(&mut head).map_err(|error| format!("cannot be read: {error}"))?;
    let whole = (0..=16)
        .map(|page| if page == 0 { 0 } else { 2048 << (page - 1) })
        .filter_map(|at| head.get(at + 16..at + 80))
        .find_map(|meta| {
            let number = |at: usize| meta.get(at..at + 8).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
            let short = |at: usize| meta.get(at..at + 4).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
            let sum = meta
                .get(..56)?
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
            // magic, version, page size, flags, root (16), free list, high-water mark, transaction, checksum
            (short(0)? == MAGIC && number(56)? == sum).then_some(u64::from(short(8)?).saturating_mul(number(40)?))
        });
    match whole {
        Some(reaches) if reaches <= length => Ok(()),
        Some(reaches) => Err(format!("was cut short: it has {length} of {reaches} bytes")),
        None => Err("has no head that can be read".into()),
    }
}
