//! Looking at order, disk and peers: from there come the facts of the start table. Changes nothing.

use std::io;

use etcd_operator_etcd::client::Members;
use etcd_operator_etcd::wal::{self, DataDir, Owner, WalError};

use crate::ask::{self, Answer};
use crate::clock::Timing;
use crate::contract::{Order, Paths, PermissionKind, Run, State};
use crate::disk::FileSystem;
use crate::identity;
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
    let mut look = Look { decision: decide(&facts), facts, identity, members: None, file_system, detail: String::new() };
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
    if facts.identity != IdentityFact::Removed && (identity.is_some() || order.run == Run::Run) {
        (facts.peers, look.members) = peers(paths, state, order, identity, timing, &mut seen).await;
    }
    // Where else the log does not matter, or cannot be compared.
    if let (Decision::Start(Reason::Listed), Some(owner)) = (decide(&facts), identity) {
        match log(paths, state, order, owner, timing, &mut seen).await {
            Ok(log) => facts.log = log,
            Err(error) => {
                look.decision = Decision::Wait(Reason::DiskUnreadable);
                look.detail = error.to_string();
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

/// Compares the log with the mark that this member left.
async fn log(
    paths: &Paths,
    state: &State,
    order: &Order,
    owner: Owner,
    timing: &Timing,
    seen: &mut Vec<String>,
) -> Result<LogFact, WalError> {
    let wal = paths.member(&order.member_name).join("member").join("wal");
    let (pki, others) = (paths.pki(), ask::others(order, state));
    // Beside the question, and off the thread that everything else waits for.
    let (mark, reaches) = tokio::join!(
        mark::read(&pki, &others, owner, &order.etcd.peer_url, timing.ask),
        tokio::task::spawn_blocking(move || wal::last_index(&wal)),
    );
    let mark = match mark {
        Read::Index(Some(mark)) => mark,
        Read::Index(None) => return Ok(LogFact::Whole),
        Read::Nothing(why) => {
            seen.push(why);
            return Ok(LogFact::Unread);
        }
    };
    match reaches {
        Ok(Ok(last)) if last >= mark => Ok(LogFact::Whole),
        Ok(Ok(last)) => {
            seen.push(format!("the log ends at {last}, and held {mark}"));
            Ok(LogFact::Behind)
        }
        Ok(Err(error @ WalError::Io { .. })) => Err(error),
        Ok(Err(error)) => {
            seen.push(format!("{error}; the log held {mark}"));
            Ok(LogFact::Behind)
        }
        Err(error) => {
            seen.push(format!("reading the log: {error}"));
            Ok(LogFact::Unread)
        }
    }
}

async fn peers(
    paths: &Paths,
    state: &State,
    order: &Order,
    identity: Option<Owner>,
    timing: &Timing,
    seen: &mut Vec<String>,
) -> (PeersFact, Option<Members>) {
    let Some(cluster) = identity::cluster(order, identity) else {
        seen.push("the order names no cluster".to_owned());
        return (PeersFact::NoAnswer, None);
    };
    let members = match ask::ask(&paths.pki(), &ask::others(order, state), cluster, timing.ask).await {
        Answer::Members(members) => members,
        Answer::Nothing(why) => {
            seen.push(why);
            return (PeersFact::NoAnswer, None);
        }
    };
    let listed = identity.and_then(|own| members.members.iter().find(|m| m.id == own.member));
    let fact = match listed {
        None => PeersFact::NotListed,
        Some(member) if member.name.is_empty() => PeersFact::Unstarted,
        Some(_) => PeersFact::Started,
    };
    (fact, Some(members))
}
