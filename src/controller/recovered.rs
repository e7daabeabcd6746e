//! After a recovery on a node, without an API and so without a controller: the cluster lives on under another ID, and what the API says is of its life before,
//! as it stood in the store that was recovered. The new life is taken over from the record in etcd itself ([`etcd_operator_keeper::lineage`]); then the
//! recovered member gets its EtcdMember back, and every other seat is void, so that its node gets a new member.

use std::net::SocketAddr;

use etcd_operator_api::member::Role;
use etcd_operator_etcd::client::Member;
use etcd_operator_etcd::dial::Endpoint;
use etcd_operator_etcd::ids::ClusterId;
use etcd_operator_keeper::lineage::{KEY, Record};
use futures::future::join_all;
use kube::ResourceExt;
use kube::api::ListParams;

use super::etcd::READ_LIMIT;
use super::memory::Memory;
use super::observe::{View, endpoints};
use super::{Context, ControllerError, act, etcd, members, readdress, status, structure};

/// How long the cluster of the status must not have answered: an election takes a second or two.
const SILENT_MS: u64 = 10_000;

/// What an endpoint is.
enum At {
    /// A member of the cluster of the status that knows a leader: that lives.
    Known,
    /// Of another life, which it says follows that one.
    Life(String, Record),
    Nothing,
}

/// Looks for a life of this cluster after the one that does not answer any more. Returns whether there is one, which is in the status now.
pub(crate) async fn adopt(context: &Context, view: &View, memory: &mut Memory) -> Result<bool, ControllerError> {
    let Some(known) = view.status.cluster_id.as_ref().filter(|_| view.etcd.is_err()).and_then(|id| id.parse().ok()) else {
        memory.life_since = None;
        return Ok(false);
    };
    let Some((endpoint, life)) = newest_life(view, memory, known).await else {
        memory.life_since = None;
        return Ok(false);
    };
    let since = *memory.life_since.get_or_insert(view.now_ms);
    if view.now_ms.saturating_sub(since) < SILENT_MS || !stands_on(context, view, &life).await? {
        return Ok(false);
    }
    let Ok(lineage) = i64::try_from(life.lineage) else { return Ok(false) };
    let lineage = lineage.max(view.status.lineage + 1);
    let mut object = view.cluster.clone();
    let new = object.status.get_or_insert_default();
    (new.lineage, new.cluster_id, new.intent) = (lineage, Some(life.cluster_id.clone()), None);
    // The seats may know no other that answers.
    new.endpoints = vec![endpoint];
    let written = status::replace(context, object).await?;
    let note = format!(
        "etcd cluster {known} was recovered on a node, and is {} now (lineage {lineage}): its members are replaced",
        life.cluster_id
    );
    tracing::warn!(cluster = %view.name(), note);
    status::recovered(context, &written, note).await;
    Ok(true)
}

/// The life that follows the one of the status, and where it answers. `None` also where that one lives, or where two claim to follow it.
async fn newest_life(view: &View, memory: &mut Memory, known: ClusterId) -> Option<(String, Record)> {
    let mut all = endpoints(view);
    // It may be where no seat of the store that was recovered ever was.
    let has_been = view.all_nodes.iter().filter(|node| view.member_of(&node.name_any()).is_some());
    let ips = has_been.flat_map(|node| readdress::own_ips(view, node));
    all.extend(ips.map(|ip| members::url(ip, view.ports().client)));
    all.sort();
    all.dedup();
    let mut clients = Vec::new();
    for endpoint in all {
        if let Ok(client) = etcd::client(memory, &endpoint).await {
            clients.push(client);
        }
    }
    let answers = join_all(clients.iter().map(|client| look(client.as_ref(), known))).await;
    let mut lives = Vec::new();
    for answer in answers {
        match answer {
            At::Known => return None,
            At::Life(endpoint, record) => lives.push((endpoint, record)),
            At::Nothing => {}
        }
    }
    only(lives)
}

async fn look(client: &dyn Endpoint, known: ClusterId) -> At {
    match client.status(READ_LIMIT).await {
        Ok(status) if status.leader.is_none() => At::Nothing,
        Ok(status) if status.cluster_id == known => At::Known,
        Ok(_) => {
            let read = client.get(KEY, READ_LIMIT).await.ok().and_then(|(cluster, value)| Record::of(cluster, &value?));
            let life = read.filter(|record| record.ends(known));
            life.map_or(At::Nothing, |record| At::Life(client.url().to_owned(), record))
        }
        Err(_) => At::Nothing,
    }
}

/// The one life that no other of them has ended.
fn only(lives: Vec<(String, Record)>) -> Option<(String, Record)> {
    let is_over = |life: &Record| lives.iter().any(|(_, other)| other.supersedes.contains(&life.cluster_id));
    let mut left: Vec<(String, Record)> = lives.iter().filter(|(_, life)| !is_over(life)).cloned().collect();
    left.sort_by(|(a, x), (b, y)| (&x.cluster_id, a).cmp(&(&y.cluster_id, b)));
    left.dedup_by(|(_, x), (_, y)| x.cluster_id == y.cluster_id);
    match left.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        // On nodes that did not know of each other: which of them counts only a human can say.
        [(_, one), (_, other), ..] => {
            let (one, other) = (&one.cluster_id, &other.cluster_id);
            tracing::error!(one, other, "the cluster was recovered on more than one node: stop all but the one that is to stay");
            None
        }
    }
}

/// Whether the API that this is written to stands on that life, where the cluster is its own datastore: another one would be of the old life, whose members this
/// controller does not reach. Revisions of a new life are far above those of all before it.
async fn stands_on(context: &Context, view: &View, life: &Record) -> Result<bool, ControllerError> {
    if view.cluster.spec.self_hosted.is_none() {
        return Ok(true);
    }
    let params = ListParams { limit: Some(1), ..ListParams::default() };
    let list = context.members().list(&params).await.map_err(super::api_error("listing EtcdMembers"))?;
    let revision = list.metadata.resource_version.and_then(|version| version.parse::<i64>().ok());
    Ok(revision.is_some_and(|revision| revision >= life.revision))
}

/// Gives the seats of the life before up, and its EtcdMember back to the one that was recovered. Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let Ok(reading) = &view.etcd else { return Ok(0) };
    let (cluster, lineage) = (reading.cluster_id.to_string(), view.status.lineage);
    let mut written = 0;
    for member in view.members.iter().filter(|member| member.spec.role != Role::Boot && member.spec.lineage < lineage) {
        let Some(seat) = &member.spec.seat else { continue };
        let node_name = &member.spec.node_name;
        let node = view.all_nodes.iter().find(|node| node.name_any() == *node_name);
        let mut addresses = node.map(|node| readdress::own_ips(view, node)).unwrap_or_default();
        addresses.extend(members::address(&seat.order.peer_url).parse::<SocketAddr>().map(|a| a.ip()));
        if let Some(found) = structure::there(view, node_name, &addresses) {
            written += structure::again(context, view, member, found).await?;
            continue;
        }
        // One of it may be listed at an address that is not known yet, or be about to start: what its node runs is right.
        let is_of_node = |m: &Member| members::generation(&m.name, node_name).is_some();
        let is_at = |m: &Member| addresses.iter().any(|ip| m.peer_urls.contains(&members::url(*ip, view.ports().peer)));
        if reading.members.iter().any(|(m, _)| is_of_node(m) || is_at(m)) {
            continue;
        }
        if seat.order.cluster_id.as_ref().is_none_or(|id| *id == cluster) {
            // Not added yet: only the order has to be one that counts.
            members::change(context, member, |spec| {
                spec.lineage = lineage;
                if let Some(seat) = &mut spec.seat {
                    seat.order.sequence += 1;
                }
            })
            .await?;
            written += 1;
        } else if member.spec.role == Role::Member {
            act::take_seat(context, member, lineage).await?;
            written += 1;
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(at: &str, cluster: &str, supersedes: &[&str]) -> (String, Record) {
        let supersedes = supersedes.iter().map(|id| (*id).to_owned()).collect();
        (at.to_owned(), Record { lineage: 2, cluster_id: cluster.to_owned(), supersedes, revision: 0 })
    }

    #[test]
    fn of_several_lives_the_last_counts_and_of_two_that_do_not_know_of_each_other_none() {
        let found = |lives: Vec<_>| only(lives).map(|(_, life)| life.cluster_id);
        assert_eq!(found(Vec::new()), None);
        assert_eq!(found(vec![life("a", "b1", &["a1"]), life("b", "b1", &["a1"])]).as_deref(), Some("b1"));
        assert_eq!(found(vec![life("a", "b1", &["a1"]), life("b", "c1", &["a1", "b1"])]).as_deref(), Some("c1"));
        assert_eq!(found(vec![life("a", "b1", &["a1"]), life("b", "c1", &["a1"])]), None);
    }
}
