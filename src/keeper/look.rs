//! Looking at order, disk and peers: from there come the facts of the start table. Changes nothing.

use std::io;

use etcd_operator_etcd::client::Members;
use etcd_operator_etcd::wal::{self, DataDir, Owner, WalError};

use crate::ask::{self, Answer};
use crate::clock::Timing;
use crate::contract::{Held, Order, Paths, PermissionKind, Run, State};
use crate::disk::FileSystem;
use crate::identity;
use crate::lineage::{self, Record};
use crate::mark::{self, Read};
use crate::table::{
    ArchiveFact, DataFact, Decision, Disk, Facts, History, IdentityFact, LogFact, OrderFact, PeersFact, PermissionFact, Reason,
    decide,
};

/// What was seen, and what follows from it.
pub struct Look {
    /// What the table says.
    pub decision: Decision,
    /// What it says it from.
    pub facts: Facts,
    /// Whose data this node is to serve.
    pub identity: Option<Owner>,
    /// The member list, if a quorum answered.
    pub members: Option<Members>,
    /// How far the log is known to have reached, where it does not any more.
    pub held: Option<Held>,
    /// What says that this cluster's life is over.
    pub ended_by: Option<Record>,
    /// Whether that was said just now, and not only remembered.
    pub is_said: bool,
    /// The file system, if it is the right one.
    pub file_system: Option<FileSystem>,
    /// What was seen, in words, for the message.
    pub detail: String,
}

/// Looks at everything.
pub async fn look(paths: &Paths, state: &State, order: Option<&Order>, suspect: Option<&str>, timing: &Timing) -> Look {
    let mut seen = Vec::new();
    let (disk, file_system) = disk(paths, state, &mut seen);
    let identity = order.and_then(|order| identity::newest(order, state));
    let mut facts = Facts {
        disk,
        order: order.map_or(OrderFact::Absent, |order| match order.run {
            Run::Wait => OrderFact::Wait,
            Run::Run => OrderFact::Run,
            Run::Stop => OrderFact::Stop,
        }),
        identity: identity_fact(identity, state),
        history: history(identity, state, suspect),
        data: DataFact::Empty,
        peers: PeersFact::NoAnswer,
        log: LogFact::Whole,
        permission: permission(order, state),
        archive: archive(order, state),
    };
    let mut look = Look {
        decision: decide(&facts),
        facts,
        identity,
        members: None,
        held: None,
        ended_by: None,
        is_said: false,
        file_system,
        detail: String::new(),
    };
    let Some(order) = order.filter(|_| disk == Disk::Right) else {
        look.detail = seen.join("; ");
        return look;
    };
    match data(paths, order, identity, &mut seen) {
        Ok(data) => facts.data = data,
        Err(error) => {
            // A disk that cannot be read says nothing about the data on it.
            look.decision = Decision::Wait(Reason::DiskUnreadable);
            look.detail = error.to_string();
            return look;
        }
    }
    // A node that was retired knows its cluster, and no member.
    let knows_cluster = identity.is_some() || order.run == Run::Run || order.cluster_id.is_some();
    if facts.identity != IdentityFact::Removed && knows_cluster {
        match peers(paths, state, order, identity, timing, &mut seen).await {
            Peers::List(fact, members) => (facts.peers, look.members) = (fact, Some(members)),
            Peers::Ended(record, is_said) => {
                seen.push(format!("lineage {} is cluster {}", record.lineage, record.cluster_id));
                (facts.peers, look.ended_by, look.is_said) = (PeersFact::Superseded, Some(record), is_said);
            }
            Peers::NoAnswer => {}
        }
    }
    // Where it would start on data, and nowhere else, it matters how far that reaches.
    if let (Decision::Start(reason), Some(owner)) = (decide(&facts), identity) {
        match log(paths, state, order, owner, reason, timing, &mut seen).await {
            Ok((log, held)) => (facts.log, look.held) = (log, held),
            Err(error) => {
                look.decision = Decision::Wait(Reason::DiskUnreadable);
                (look.detail, look.facts) = (error.to_string(), facts);
                return look;
            }
        }
    }
    look.facts = facts;
    look.decision = decide(&facts);
    look.detail = seen.join("; ");
    look
}

fn disk(paths: &Paths, state: &State, seen: &mut Vec<String>) -> (Disk, Option<FileSystem>) {
    match FileSystem::of(paths) {
        Ok(Some(found)) => match &state.file_system {
            Some(recorded) if !found.is(recorded) => {
                seen.push(format!("file system is `{}`, recorded is `{recorded}`", found.record()));
                (Disk::Missing, None)
            }
            Some(_) | None => (Disk::Right, Some(found)),
        },
        Ok(None) => {
            seen.push(format!("there is no {}", paths.marker().display()));
            (Disk::Missing, None)
        }
        Err(error) => {
            seen.push(format!("{}: {error}", paths.data.display()));
            (Disk::Missing, None)
        }
    }
}

fn identity_fact(identity: Option<Owner>, state: &State) -> IdentityFact {
    match identity {
        None => IdentityFact::Unknown,
        Some(owner) if has(&state.removed, owner) => IdentityFact::Removed,
        Some(_) => IdentityFact::Known,
    }
}

fn history(identity: Option<Owner>, state: &State, suspect: Option<&str>) -> History {
    match identity {
        Some(owner) if suspect == Some(owner.member.to_string().as_str()) => History::Lost,
        Some(owner) if has(&state.ran_here, owner) => History::RanHere,
        Some(_) | None => History::NeverRan,
    }
}

/// Whether a member is in a list of hexadecimal IDs, however they are padded.
fn has(list: &[String], owner: Owner) -> bool {
    list.iter().any(|id| u64::from_str_radix(id, 16) == Ok(owner.member.0))
}

fn permission(order: Option<&Order>, state: &State) -> PermissionFact {
    match order.and_then(|o| o.permission.as_ref()).filter(|p| !state.consumed.contains(&p.id)) {
        Some(permission) => match permission.kind {
            PermissionKind::Bootstrap => PermissionFact::Bootstrap,
        },
        None => PermissionFact::Absent,
    }
}

fn archive(order: Option<&Order>, state: &State) -> ArchiveFact {
    match order.and_then(|o| o.archive.as_ref()).filter(|a| !state.consumed.contains(&a.id)) {
        Some(_) if order.is_some_and(|o| o.retire && o.run == Run::Stop) => ArchiveFact::AlsoUnremoved,
        Some(_) => ArchiveFact::Ordered,
        None => ArchiveFact::NotOrdered,
    }
}

fn data(paths: &Paths, order: &Order, identity: Option<Owner>, seen: &mut Vec<String>) -> io::Result<DataFact> {
    let dir = paths.member(&order.member_name);
    Ok(match wal::classify(&dir)? {
        DataDir::Empty => DataFact::Empty,
        DataDir::Intact(owner) if Some(owner) == identity => DataFact::Mine,
        DataDir::Intact(owner) => {
            seen.push(format!("{} is of member {} of cluster {}", dir.display(), owner.member, owner.cluster));
            DataFact::Foreign
        }
        DataDir::Damaged(damage) => {
            seen.push(format!("{}: {damage}", dir.display()));
            DataFact::Damaged
        }
    })
}

/// Compares the log with the mark that this member left; where nobody answers, with what was once found missing.
async fn log(
    paths: &Paths,
    state: &State,
    order: &Order,
    owner: Owner,
    reason: Reason,
    timing: &Timing,
    seen: &mut Vec<String>,
) -> Result<(LogFact, Option<Held>), WalError> {
    let member = owner.member.to_string();
    let held = state.held.as_ref().filter(|held| held.member == member).map(|held| held.index);
    let wal = paths.member(&order.member_name).join("member").join("wal");
    let (pki, others) = (paths.pki(), ask::others(order, state));
    // Under each that it may have had when it left its last one.
    let ran_at = state.runs_with.as_ref().map(|with| &with.peer_url);
    let mut urls: Vec<&str> = state.marked_as.iter().chain(ran_at).chain([&order.etcd.peer_url]).map(String::as_str).collect();
    urls.sort_unstable();
    urls.dedup();
    let mark = async {
        match reason {
            Reason::Listed => mark::read(&pki, &others, owner, &urls, timing.ask).await,
            _ => Read::Index(held),
        }
    };
    if reason != Reason::Listed && held.is_none() {
        return Ok((LogFact::Whole, None));
    }
    // Beside the question, and off the thread that everything else waits for.
    let (mark, reaches) = tokio::join!(mark, tokio::task::spawn_blocking(move || wal::last_index(&wal)));
    let mark = match mark {
        Read::Index(mark) => match mark.max(held) {
            Some(mark) => mark,
            None => return Ok((LogFact::Whole, None)),
        },
        Read::Nothing(why) => {
            seen.push(why);
            return Ok((LogFact::Unread, None));
        }
    };
    let behind = (LogFact::Behind, Some(Held { member, index: mark }));
    match reaches {
        Ok(Ok(last)) if last >= mark => Ok((LogFact::Whole, None)),
        Ok(Ok(last)) => {
            seen.push(format!("the log ends at {last}, and held {mark}"));
            Ok(behind)
        }
        Ok(Err(error @ WalError::Io { .. })) => Err(error),
        Ok(Err(error)) => {
            seen.push(format!("{error}; the log held {mark}"));
            Ok(behind)
        }
        Err(error) => {
            seen.push(format!("reading the log: {error}"));
            Ok((LogFact::Unread, None))
        }
    }
}

/// What the members say.
enum Peers {
    /// A quorum's list, and what it says of this member.
    List(PeersFact, Members),
    /// None, and it is known that there is none any more; whether that was said just now.
    Ended(Record, bool),
    NoAnswer,
}

async fn peers(
    paths: &Paths,
    state: &State,
    order: &Order,
    identity: Option<Owner>,
    timing: &Timing,
    seen: &mut Vec<String>,
) -> Peers {
    let Some(cluster) = identity::cluster(order, identity) else {
        seen.push("the order names no cluster".to_owned());
        return Peers::NoAnswer;
    };
    let (pki, others) = (paths.pki(), ask::others(order, state));
    let ended = lineage::that_ends(&pki, &others, cluster, timing.ask);
    let asked = ask::ask(&pki, &others, cluster, timing.ask);
    tokio::pin!(ended, asked);
    // Whoever has the list does not wait for what only matters without one.
    let mut record = None;
    let answer = tokio::select! {
        answer = &mut asked => answer,
        found = &mut ended => {
            record = Some(found);
            asked.await
        }
    };
    let members = match answer {
        Answer::Members(members) => members,
        Answer::Nothing(why) => {
            seen.push(why);
            let ended = match record {
                Some(found) => found,
                None => ended.await,
            };
            let known = state.ended_by.clone().filter(|record| record.ends(cluster));
            return match (ended, known) {
                (Some(record), _) => Peers::Ended(record, true),
                (None, Some(record)) => Peers::Ended(record, false),
                (None, None) => Peers::NoAnswer,
            };
        }
    };
    let listed = identity.and_then(|own| members.members.iter().find(|m| m.id == own.member));
    let fact = match listed {
        None => PeersFact::NotListed,
        Some(member) if member.name.is_empty() => PeersFact::Unstarted,
        Some(_) => PeersFact::Started,
    };
    Peers::List(fact, members)
}
