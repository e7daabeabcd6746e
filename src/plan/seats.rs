//! Which nodes get a seat.

use std::collections::BTreeMap;

use crate::{EtcdMember, HoldReason, Node, NodeName, Observed, Plan, Readiness, Step, evict, grow, heal};

/// Gives seats until there are as many as wanted. In a pivot all at once or none, so that nothing is begun that cannot be ended; after it to
/// whichever nodes are free. `None` = there are enough, or no node is free.
pub(crate) fn assign(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let wanted = heal::wanted(o, members);
    let mut taken: Vec<NodeName> = o.seats.iter().map(|s| s.node.clone()).collect();
    let mut new = Vec::new();
    while taken.len() < wanted {
        let Some(node) = free(o, members, &taken) else { break };
        taken.push(node.name.clone());
        new.push(node.name.clone());
    }
    if taken.len() < o.spec.size as usize && o.boot.listed(members).is_some() {
        return Some(not_enough(o, taken.len()));
    }
    if new.is_empty() { None } else { Some(Plan::Do(Step::AssignSeats { nodes: new })) }
}

/// Fewer seats than `size`, and no node for another.
pub(crate) fn too_few(o: &Observed) -> Option<Plan> {
    (o.seats.len() < o.spec.size as usize).then(|| not_enough(o, o.seats.len()))
}

fn not_enough(o: &Observed, seats: usize) -> Plan {
    if o.nodes.is_empty() {
        return Plan::hold(
            HoldReason::NoControlNode,
            "no node matches spec.pod.nodeSelector; label the control nodes (node-role.kubernetes.io/control-plane) or change the selector",
        );
    }
    Plan::hold(
        HoldReason::NotEnoughNodes,
        format!(
            "spec.size is {}, but only {seats} of the {} nodes that match spec.pod.nodeSelector can take a member (ready, not cordoned, with an address that no other member has, without another etcd of this name{}); add nodes or lower spec.size",
            o.spec.size,
            o.nodes.len(),
            resting(o)
        ),
    )
}

/// Takes back, one by one, the seats whose member was removed: its ID is used up, and the next member has a name and an ID of its own, on
/// whichever node. Then those beyond `size` that have no member yet: without this they would be filled and then be too many.
pub(crate) fn give_back(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let unlisted = || o.seats.iter().filter(|s| grow::listed(s, members).is_none());
    let too_many = o.seats.len() > heal::wanted(o, members);
    let used_up = unlisted().find(|s| s.ordered.is_some());
    let goes = used_up.or_else(|| unlisted().filter(|_| too_many).max_by_key(|s| &s.node))?;
    Some(Plan::Do(Step::Unseat { node: goes.node.clone() }))
}

/// The free node in the least crowded zone; by name where zones are equal. Where a learner was evicted lately comes last. A lost voter crowds
/// nothing.
fn free<'a>(o: &'a Observed, members: &[EtcdMember], taken: &[NodeName]) -> Option<&'a Node> {
    let lost = heal::lost(o, members).map(|(seat, _)| &seat.node);
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for node in o.nodes.iter().filter(|n| taken.contains(&n.name) && Some(&n.name) != lost) {
        *crowd.entry(&node.zone).or_default() += 1;
    }
    o.nodes
        .iter()
        .filter(|n| !taken.contains(&n.name) && !n.is_taken && !n.cordoned && may_join(n, o) && evict::may_return(o, n))
        .min_by_key(|n| (evict::lately(o, n), crowd.get(n.zone.as_str()).copied().unwrap_or(0), &n.name))
}

/// The nodes that are left alone for a while after several evictions.
fn resting(o: &Observed) -> String {
    let resting = o.nodes.iter().filter(|n| !evict::may_return(o, n)).map(|n| n.name.to_string()).collect::<Vec<_>>();
    if resting.is_empty() {
        String::new()
    } else {
        format!("; {}: tried again later, after several evictions", resting.join(", "))
    }
}

/// NotReady for want of a network does not count during a pivot: the network is an add-on that comes later.
fn may_join(node: &Node, o: &Observed) -> bool {
    match node.readiness {
        Readiness::Ready => true,
        Readiness::NoNetworkYet => o.boot.is_pivot(),
        Readiness::NotReady => false,
    }
}
