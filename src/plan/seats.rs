//! Which nodes get a seat.

use std::collections::BTreeMap;

use crate::{EtcdMember, HoldReason, Node, NodeName, Observed, Plan, Readiness, Step, evict, grow, heal};

/// Gives seats until there are `size` of them, or says why that cannot be done. `None` = there are enough.
pub(crate) fn assign(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let wanted = heal::wanted(o, members);
    if o.seats.len() >= wanted {
        return None;
    }
    if o.nodes.is_empty() {
        return Some(Plan::hold(
            HoldReason::NoControlNode,
            "no node matches spec.pod.nodeSelector; label the control nodes (node-role.kubernetes.io/control-plane) or change the selector",
        ));
    }
    let mut taken: Vec<NodeName> = o.seats.iter().map(|s| s.node.clone()).collect();
    let mut new = Vec::new();
    while taken.len() < wanted {
        let Some(node) = free(o, members, &taken) else {
            return Some(Plan::hold(
                HoldReason::NotEnoughNodes,
                format!(
                    "spec.size is {}, but only {} of the {} nodes that match spec.pod.nodeSelector can take a member (ready, not cordoned{}); add nodes or lower spec.size",
                    o.spec.size,
                    taken.len(),
                    o.nodes.len(),
                    resting(o)
                ),
            ));
        };
        taken.push(node.name.clone());
        new.push(node.name.clone());
    }
    Some(Plan::Do(Step::AssignSeats { nodes: new }))
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

/// The node that would have a seat next.
pub(crate) fn best<'a>(o: &'a Observed, members: &[EtcdMember]) -> Option<&'a Node> {
    let taken: Vec<NodeName> = o.seats.iter().map(|s| s.node.clone()).collect();
    free(o, members, &taken)
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
        .filter(|n| !taken.contains(&n.name) && !n.cordoned && may_join(n, o) && evict::may_return(o, n))
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
