//! Which order counts: the file's, if it is whole, readable, sound and not older than the last one accepted; else the copy in the
//! state.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::contract::{FORMAT, Order, Run, State};
use crate::files::{Found, read};

/// What changes when the file does.
pub type Stamp = Option<(u64, u64, i64, i64)>;

/// Looks at the file without reading it.
#[must_use]
pub fn stamp(path: &Path) -> Stamp {
    std::fs::metadata(path).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}

/// The order that counts.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The order; `None` if there never was one.
    pub order: Option<Order>,
    /// Why the file was not used.
    pub refused: Option<String>,
}

/// Decides which order counts.
#[must_use]
pub fn load(path: &Path, state: &State) -> Loaded {
    let copy = state.last_order.as_deref().cloned();
    // The format first: a later format need not have our fields.
    let refused = match read::<Format>(path) {
        Found::Missing if copy.is_none() => return Loaded { order: None, refused: None },
        Found::Missing => "the order file is missing".to_owned(),
        Found::Unusable(why) => format!("the order file {why}"),
        Found::Whole(Format { format }) if format != FORMAT => {
            format!("the order file has format {format}; this keeper reads {FORMAT}: upgrade the keeper first")
        }
        Found::Whole(_) => match read::<Order>(path) {
            Found::Missing => "the order file is missing".to_owned(),
            Found::Unusable(why) => format!("the order file {why}"),
            Found::Whole(order) => match objection(&order, state) {
                None => return Loaded { order: Some(order), refused: None },
                Some(why) => why,
            },
        },
    };
    let fallback = if copy.is_some() { "the last order accepted stays in force" } else { "there is no earlier order" };
    Loaded { order: copy, refused: Some(format!("{refused}; {fallback}")) }
}

#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

/// Why an order is not accepted.
#[must_use]
pub fn objection(order: &Order, state: &State) -> Option<String> {
    if order.lineage < state.order_lineage {
        return Some(format!("the order is of lineage {}, the last one accepted of {}", order.lineage, state.order_lineage));
    }
    if order.lineage == state.order_lineage && order.sequence < state.order_sequence {
        return Some(format!("the order has sequence {}, the last one accepted {}", order.sequence, state.order_sequence));
    }
    if let Err((field, why)) = check(order) {
        return Some(format!("the order's {field} {why}"));
    }
    if order.lineage != state.order_lineage {
        return None;
    }
    state.last_order.as_ref().and_then(|last| takes_back(order, last, state)).map(str::to_owned)
}

/// No controller says so of a member that was told to run: it is the order of another time, as of an EtcdMember that was restored from a backup. Obeyed it would end
/// an etcd that others need, or have it looked for where its data is not.
fn takes_back(order: &Order, last: &Order, state: &State) -> Option<&'static str> {
    let same_name = order.member_name == last.member_name;
    let is_over = last.member_id.as_ref().is_some_and(|id| state.removed.contains(id));
    if order.run == Run::Wait && last.run == Run::Run && last.member_id.is_some() && same_name && !is_over {
        return Some("the order says to wait to be added, and this member was told to run before");
    }
    let same_id = order.member_id.is_some() && order.member_id == last.member_id;
    (same_id && !same_name).then_some("the order gives the data of this member another name than the one that it has")
}

/// The order comes from the API, where an enemy may have written it: everything that becomes a path or an argument is checked here.
fn check(order: &Order) -> Result<(), (&'static str, &'static str)> {
    let name = order.member_name.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let starts_well = name.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if name.len() > 253 || !starts_well || !name.iter().all(plain) || order.member_name == "archive" {
        return Err(("memberName", "must be a DNS name of at most 253 characters other than `archive`"));
    }
    let hex = |id: &Option<String>| id.as_ref().is_none_or(|id| u64::from_str_radix(id, 16).is_ok_and(|id| id != 0));
    if !hex(&order.cluster_id) {
        return Err(("clusterId", "must be a hexadecimal number of 64 bits, not 0"));
    }
    if !hex(&order.member_id) {
        return Err(("memberId", "must be a hexadecimal number of 64 bits, not 0"));
    }
    if order.member_id.is_some() && order.cluster_id.is_none() {
        return Err(("memberId", "needs a clusterId beside it"));
    }
    for (field, url) in [("etcd.peerUrl", &order.etcd.peer_url), ("etcd.clientUrl", &order.etcd.client_url)] {
        if address(url).is_none() {
            return Err((field, "must be https://IP:PORT"));
        }
    }
    if order.ask.len() > 64 || order.ask.iter().any(|url| address(url).is_none()) {
        return Err(("ask", "must be at most 64 URLs of the form https://IP:PORT"));
    }
    if order.keeper.as_ref().is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err(("keeper", "must be a SHA-256 as 64 hexadecimal digits"));
    }
    // etcd refuses to start otherwise.
    let heartbeat = if order.etcd.heartbeat_ms == 0 { 100 } else { order.etcd.heartbeat_ms };
    let election = if order.etcd.election_ms == 0 { 1000 } else { order.etcd.election_ms };
    if u64::from(election) < 5 * u64::from(heartbeat) || election > 50_000 {
        return Err(("etcd.electionMs", "must be at least five times heartbeatMs and at most 50000"));
    }
    let ids =
        [order.permission.as_ref().map(|p| &p.id), order.drain.as_ref().map(|d| &d.id), order.archive.as_ref().map(|a| &a.id)];
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if ids.into_iter().flatten().any(|id| id.is_empty() || id.len() > 128 || !id.bytes().all(plain)) {
        return Err(("permission, drain or archive", "must have an ID of 1 to 128 letters, digits, dots, dashes or underscores"));
    }
    Ok(())
}

/// IP and port of `https://IP:PORT`.
#[must_use]
pub fn address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("https://")?.parse().ok()
}

#[cfg(test)]
#[path = "order_tests.rs"]
pub(crate) mod tests;
