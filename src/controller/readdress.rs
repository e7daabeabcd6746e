//! Seats whose node has got another address, or whose address is another's.

use std::net::{IpAddr, SocketAddr};

use etcd_operator_api::member::{EtcdMember, OrderSpec, RestartSpec};
use etcd_operator_etcd::client::MemberStatus;
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{self as plan, Address, NodeName};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::act::{Outcome, any_voter, passing, seat_of};
use super::memory::Memory;
use super::observe::{View, ips, is_fresh};
use super::{Context, ControllerError, members, settings};

/// The ID that an order names, if it is of the cluster that answers.
fn ordered(view: &View, order: &OrderSpec) -> Option<MemberId> {
    let reading = view.etcd.as_ref().ok()?;
    let is_of_this = order.cluster_id.as_deref() == Some(reading.cluster_id.to_string().as_str());
    order.member_id.as_deref().filter(|_| is_of_this)?.parse().ok()
}

/// The peer URL that etcd lists for the member in a seat's order.
pub(crate) fn listed(view: &View, member: &EtcdMember) -> Option<String> {
    let id = ordered(view, &member.spec.seat.as_ref()?.order)?;
    view.etcd.as_ref().ok()?.members.iter().find(|(m, _)| m.id == id)?.0.peer_urls.first().cloned()
}

/// The member of another seat that etcd lists at the URL of a seat that has none.
pub(crate) fn url_of(view: &View, member: &EtcdMember) -> Option<MemberId> {
    let order = &member.spec.seat.as_ref()?.order;
    if listed(view, member).is_some() {
        return None;
    }
    let (there, _) = view.etcd.as_ref().ok()?.members.iter().find(|(m, _)| m.peer_urls.contains(&order.peer_url))?;
    let others = view.seats().into_iter().filter(|m| m.spec.node_name != member.spec.node_name);
    others.filter_map(|m| ordered(view, &m.spec.seat.as_ref()?.order)).find(|id| *id == there.id)
}

/// Addresses of a node that no other node claims: certificates name them, and members are looked for there.
pub(crate) fn own_ips(view: &View, node: &Node) -> Vec<IpAddr> {
    let others = view.all_nodes.iter().filter(|n| n.name_any() != node.name_any());
    let claimed: Vec<IpAddr> = others.flat_map(ips).collect();
    ips(node).into_iter().filter(|ip| !claimed.contains(ip)).collect()
}

/// Whether a seat on this node would be at the URL of another node's seat, or of a member that is none of this node's.
pub(crate) fn is_taken(view: &View, node: &Node) -> bool {
    let Some(ip) = own_ips(view, node).first().copied() else { return true };
    let url = members::url(ip, view.ports().peer);
    let name = node.name_any();
    let of_seat = view
        .seats()
        .into_iter()
        .any(|m| m.spec.node_name != name && m.spec.seat.as_ref().is_some_and(|s| s.order.peer_url == url));
    let is_own = |m: &etcd_operator_etcd::client::Member| m.name.is_empty() || members::generation(&m.name, &name).is_some();
    let of_member = view.etcd.as_ref().is_ok_and(|r| r.members.iter().any(|(m, _)| m.peer_urls.contains(&url) && !is_own(m)));
    of_seat || of_member
}

/// As the planner takes it.
pub(crate) fn address(view: &View, memory: &Memory, member: &EtcdMember) -> Address {
    let Some(seat) = &member.spec.seat else { return Address::Right };
    let Some(node) = view.all_nodes.iter().find(|n| n.name_any() == member.spec.node_name) else { return Address::Right };
    let (own, listed) = (own_ips(view, node), listed(view, member));
    let is_gone = match listed {
        // Nothing runs there yet.
        None => Some(true),
        Some(_) => is_gone(memory, member),
    };
    judge(&seat.order, listed.as_deref(), is_gone, &own)
}

/// `is_gone`: whether the address of the order is, as far as is known.
fn judge(order: &OrderSpec, listed: Option<&str>, is_gone: Option<bool>, own: &[IpAddr]) -> Address {
    let Some(now) = parse(&order.peer_url) else { return Address::Right };
    match (own.contains(&now.ip()), is_gone) {
        (true, _) | (false, Some(false)) if listed.is_some_and(|url| url != order.peer_url) => return Address::Mislisted,
        (true, _) | (false, Some(false) | None) => return Address::Right,
        (false, Some(true)) => {}
    }
    // A human may have told etcd already.
    let told = listed.and_then(parse).filter(|a| own.contains(&a.ip())).map(|a| a.ip());
    let same_family = || own.iter().copied().find(|ip| ip.is_ipv4() == now.is_ipv4());
    match told.or_else(same_family) {
        Some(ip) => Address::Moved { to: members::url(ip, now.port()) },
        None => Address::Right,
    }
}

pub(crate) fn parse(url: &str) -> Option<SocketAddr> {
    members::address(url).parse().ok()
}

/// Whether the node does not have the address any more, as its agent says that was asked for it since the member has been silent.
fn is_gone(memory: &Memory, member: &EtcdMember) -> Option<bool> {
    let before = memory.moved.get(&member.spec.node_name)?;
    let has_answered = member.spec.nonce != *before && is_fresh(member);
    has_answered.then(|| member.status.as_ref().is_some_and(|s| s.address_gone))
}

/// Asks where a member is silent and its Node does not have its address: the Node alone may be wrong, and what its agent said before was of another time.
/// Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View, memory: &mut Memory) -> Result<usize, ControllerError> {
    let Ok(reading) = &view.etcd else { return Ok(0) };
    let is_silent = |member: &&EtcdMember| {
        let Some(order) = member.spec.seat.as_ref().map(|s| &s.order) else { return false };
        let own = view.all_nodes.iter().find(|n| n.name_any() == member.spec.node_name).map(ips).unwrap_or_default();
        let is_elsewhere = parse(&order.peer_url).is_some_and(|a| !own.is_empty() && !own.contains(&a.ip()));
        let id = ordered(view, order);
        is_elsewhere && reading.members.iter().any(|(m, s)| Some(m.id) == id && !m.is_learner && s.is_none())
    };
    let silent: Vec<&EtcdMember> = view.seats().into_iter().filter(is_silent).collect();
    memory.moved.retain(|node, _| silent.iter().any(|m| m.spec.node_name == *node));
    let mut written = 0;
    for member in silent {
        if !memory.moved.contains_key(&member.spec.node_name) {
            let nonce = members::ask("address", view.now_ms);
            members::change(context, member, |spec| spec.nonce.clone_from(&nonce)).await?;
            memory.moved.insert(member.spec.node_name.clone(), member.spec.nonce.clone());
            // As in `losses.rs`.
            memory.count = None;
            written += 1;
        }
    }
    Ok(written)
}

/// Its member, by the ID in its order, or else by its URL.
pub(crate) fn member_of<'a>(
    view: &'a View,
    seat: &EtcdMember,
) -> Option<&'a (etcd_operator_etcd::client::Member, Option<MemberStatus>)> {
    let order = &seat.spec.seat.as_ref()?.order;
    let members = &view.etcd.as_ref().ok()?.members;
    match ordered(view, order) {
        Some(id) => members.iter().find(|(m, _)| m.id == id),
        None if url_of(view, seat).is_some() => None,
        None => members.iter().find(|(m, _)| m.peer_urls.contains(&order.peer_url)),
    }
}

/// MemberUpdate, and then the order: its agent has the certificate for the new address already, which is in the same object. Each may be done again.
pub(crate) async fn act(
    context: &Context,
    view: &View,
    memory: &mut Memory,
    node: &NodeName,
    id: Option<plan::MemberId>,
) -> Result<Outcome, ControllerError> {
    let (member, seat) = seat_of(view, node)?;
    // Somebody else may have gone on from here.
    if view.is_stale() {
        return Ok(Outcome::NotYet);
    }
    let (peer_url, moves) = match address(view, memory, member) {
        Address::Right => return Ok(Outcome::NotYet),
        Address::Moved { to } => (to, true),
        Address::Mislisted => (seat.order.peer_url.clone(), false),
    };
    if let Some(id) = id.map(|id| MemberId(id.0)).filter(|_| listed(view, member).as_ref() != Some(&peer_url)) {
        let updated = any_voter(view, memory).await?.member_update(id, &peer_url).await;
        if passing("MemberUpdate", updated)? == Outcome::NotYet {
            return Ok(Outcome::NotYet);
        }
        tracing::info!(%node, member = %id, peer_url, "member updated: its node has another address");
    }
    if !moves {
        return Ok(Outcome::Done);
    }
    let ip = parse(&peer_url).ok_or_else(|| ControllerError::Object(format!("{peer_url} is no address")))?.ip();
    let client_url = members::url(ip, parse(&seat.order.client_url).map_or(view.ports().client, |a| a.port()));
    let restart = RestartSpec { id: members::ask(settings::RESTART, view.now_ms), overruled: false };
    let written = members::change(context, member, |spec| {
        spec.nonce.clone_from(&restart.id);
        if let Some(seat) = &mut spec.seat {
            (seat.order.peer_url, seat.order.client_url) = (peer_url.clone(), client_url.clone());
            // An etcd that still runs cannot be reached at the old address.
            seat.order.restart = id.map(|_| restart.clone());
            seat.order.sequence += 1;
        }
    });
    written.await.map(|_| Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_moves_once_its_address_is_gone_and_stays_where_all_agree() {
        let order: OrderSpec = serde_json::from_value(serde_json::json!({"sequence": 1, "run": "Run", "memberName": "cp1-1",
            "peerURL": "https://10.0.0.1:2380", "clientURL": "https://10.0.0.1:2379", "metricsPort": 1, "clientHttpPort": 1}))
        .unwrap();
        let own = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let (old, new) = ("https://10.0.0.1:2380", "https://10.0.0.2:2380");
        let is = |listed: Option<&str>, is_gone: Option<bool>, ips: &[&str]| judge(&order, listed, is_gone, &own(ips));
        let moved = |to: &str| Address::Moved { to: to.into() };
        let (gone, there) = (Some(true), Some(false));
        let both = ["10.0.0.2", "10.0.0.1"];
        assert_eq!(is(Some(old), None, &["10.0.0.1"]), Address::Right);
        assert_eq!(is(None, gone, &both), Address::Right, "the order of a node's addresses says nothing");
        assert_eq!(is(Some(old), gone, &both), Address::Right, "its Node still names it");
        assert_eq!(is(Some(old), gone, &[]), Address::Right, "its addresses are not known");
        assert_eq!(is(Some(old), gone, &["10.0.0.2"]), moved(new));
        assert_eq!(is(Some(old), there, &["10.0.0.2"]), Address::Right, "its agent says otherwise");
        assert_eq!(is(Some(old), None, &["10.0.0.2"]), Address::Right, "its agent has not said so");
        assert_eq!(is(None, gone, &["10.0.0.2"]), moved(new));
        assert_eq!(is(Some(new), gone, &["10.0.0.2"]), moved(new), "the order comes after etcd");
        assert_eq!(is(Some(new), gone, &["10.0.0.3", "10.0.0.2"]), moved(new), "a human has updated the member");
        assert_eq!(is(Some(new), None, &["10.0.0.2"]), Address::Right, "whether it is gone is being asked");
        assert_eq!(is(Some(new), there, &["10.0.0.2"]), Address::Mislisted, "it came back where it was");
        assert_eq!(is(Some(new), None, &["10.0.0.1"]), Address::Mislisted);
        assert_eq!(is(Some(old), gone, &["fd00::2"]), Address::Right, "not to another family of addresses");
        assert_eq!(is(Some(old), gone, &["fd00::2", "10.0.0.2"]), moved(new));
    }
}
