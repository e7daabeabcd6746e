//! After a recovery on a node, without an API and so without a controller: the cluster lives on under another ID, and what the API says is of its life before,
//! as it stood in the store that was recovered. The new life is taken over from the record in etcd itself ([`etcd_operator_keeper::lineage`]); then the
//! recovered member gets its EtcdMember back, and every other seat is void, so that its node gets a new member.

use std::net::SocketAddr;

use etcd_operator_api::member::{EtcdMember, Role};
use etcd_operator_etcd::ids::ClusterId;
use etcd_operator_keeper::lineage::{KEY, Record};
use futures::future::join_all;
use kube::ResourceExt;

use super::etcd::READ_LIMIT;
use super::memory::Memory;
use super::observe::{View, endpoints};
use super::{Context, ControllerError, act, etcd, members, readdress, status, structure};

/// Looks for a life of this cluster after the one that does not answer any more. Returns whether there is one, which is in the status now.
pub(crate) async fn adopt(context: &Context, view: &View, memory: &mut Memory) -> Result<bool, ControllerError> {
    let Some(known) = view.status.cluster_id.as_ref().filter(|_| view.etcd.is_err()) else { return Ok(false) };
    let Ok(known) = known.parse::<ClusterId>() else { return Ok(false) };
    let mut clients = Vec::new();
    for endpoint in endpoints(view) {
        if let Ok(client) = etcd::client(memory, &endpoint).await {
            clients.push(client);
        }
    }
    let answers = join_all(clients.iter().map(|client| client.get(KEY, READ_LIMIT))).await;
    let lineage = u64::try_from(view.status.lineage).unwrap_or(0);
    let records = answers.into_iter().flatten().filter_map(|(cluster, value)| Record::of(cluster, &value?));
    let mut lives: Vec<Record> = records.filter(|record| record.ends(known, lineage)).collect();
    lives.sort_by(|a, b| (b.lineage, &b.cluster_id).cmp(&(a.lineage, &a.cluster_id)));
    lives.dedup();
    let life = match lives.as_slice() {
        [] => return Ok(false),
        [life] => life.clone(),
        // Recovered twice, on nodes that did not know of each other: which of them counts only a human can say.
        [first, second, ..] => {
            tracing::error!(
                one = first.cluster_id,
                other = second.cluster_id,
                "the cluster was recovered on more than one node: stop all but the one that is to stay"
            );
            return Ok(false);
        }
    };
    let Ok(lineage) = i64::try_from(life.lineage) else { return Ok(false) };
    let mut object = view.cluster.clone();
    let new = object.status.get_or_insert_default();
    (new.lineage, new.cluster_id, new.intent) = (lineage, Some(life.cluster_id.clone()), None);
    let written = status::replace(context, object).await?;
    let note = format!(
        "etcd cluster {known} was recovered on a node, and is {} now (lineage {lineage}): its members are replaced",
        life.cluster_id
    );
    tracing::warn!(cluster = %view.name(), note);
    status::recovered(context, &written, note).await;
    Ok(true)
}

/// Gives the seats of the life before up, and its EtcdMember back to the one that was recovered. Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let Ok(reading) = &view.etcd else { return Ok(0) };
    let cluster = reading.cluster_id.to_string();
    let mut written = 0;
    for member in view.members.iter().filter(|member| is_of_before(member, view.status.lineage, &cluster)) {
        let node = view.all_nodes.iter().find(|node| node.name_any() == member.spec.node_name);
        let mut addresses = node.map(|node| readdress::own_ips(view, node)).unwrap_or_default();
        let seat = member.spec.seat.as_ref();
        addresses.extend(seat.and_then(|seat| members::address(&seat.order.peer_url).parse::<SocketAddr>().ok()).map(|a| a.ip()));
        match structure::there(view, &member.spec.node_name, &addresses) {
            Some(found) => written += structure::again(context, view, member, found).await?,
            None if member.spec.role == Role::Member => {
                act::take_seat(context, member, view.status.lineage).await?;
                written += 1;
            }
            None => {}
        }
    }
    Ok(written)
}

/// Whether a seat is of a life of the cluster that is over.
fn is_of_before(member: &EtcdMember, lineage: i64, cluster: &str) -> bool {
    let ordered = member.spec.seat.as_ref().and_then(|seat| seat.order.cluster_id.as_deref());
    member.spec.role != Role::Boot && member.spec.lineage < lineage && ordered.is_some_and(|id| id != cluster)
}
