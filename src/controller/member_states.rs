//! What the status says of each member: transitions and what one can act on. What changes all the time, as lag and size, is in metrics.

use etcd_operator_api::cluster::{MemberRole, MemberState};
use etcd_operator_etcd::client::{Member, MemberStatus};

use super::etcd::Reading;
use super::observe::View;
use super::readdress;
use crate::clock;

/// The members of this reading, by ID, with what the status said of them before.
pub(super) fn compute(view: &View, reading: &Reading) -> Vec<MemberState> {
    let mut states: Vec<MemberState> =
        reading.members.iter().map(|(member, status)| state(view, member, status.as_ref())).collect();
    states.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    for state in &mut states {
        if let Some(before) = view.status.member_states.iter().find(|s| s.id == state.id)
            && (before.role, before.healthy) == (state.role, state.healthy)
        {
            state.last_transition_time.clone_from(&before.last_transition_time);
        }
    }
    // A write for a size alone would be a write for ever.
    let sized = |s: &MemberState, size| MemberState { db_size_mib: size, ..s.clone() };
    let is_news = states.len() != view.status.member_states.len()
        || states.iter().zip(&view.status.member_states).any(|(new, old)| sized(new, old.db_size_mib) != *old);
    if is_news { states } else { view.status.member_states.clone() }
}

fn state(view: &View, member: &Member, status: Option<&MemberStatus>) -> MemberState {
    let seat = view.seats().into_iter().find(|s| readdress::member_of(view, s).is_some_and(|(m, _)| m.id == member.id));
    let is_boot = view.boot_id() == Some(member.id);
    let node = match (seat, is_boot) {
        (Some(seat), _) => seat.spec.node_name.clone(),
        (None, true) => view.boot_node.clone().unwrap_or_default(),
        (None, false) => String::new(),
    };
    let role = match (is_boot, seat.is_some(), member.is_learner) {
        (true, ..) => MemberRole::Boot,
        (false, false, _) => MemberRole::Foreign,
        (false, true, true) => MemberRole::Learner,
        (false, true, false) => MemberRole::Voter,
    };
    MemberState {
        id: member.id.to_string(),
        name: member.name.clone(),
        healthy: status.is_some_and(MemberStatus::is_healthy),
        message: why_unhealthy(view, &node, status),
        leader: status.is_some_and(|s| s.leader == Some(s.member_id)),
        version: status.map(|s| s.version.clone()).unwrap_or_default(),
        db_size_mib: status.map(|s| s.db_size >> 20),
        last_transition_time: clock::rfc3339(view.now_ms),
        role,
        node,
    }
}

fn why_unhealthy(view: &View, node: &str, status: Option<&MemberStatus>) -> String {
    let Some(status) = status else {
        let keeper = view.member_of(node).and_then(|m| m.status.as_ref()?.keeper.clone());
        let said = keeper.filter(|k| k.phase != "Running" && !k.reason.is_empty());
        return match said {
            Some(keeper) => format!("does not answer; its keeper: {}: {}", keeper.reason, keeper.message),
            None => "does not answer".into(),
        };
    };
    if status.is_healthy() {
        return String::new();
    }
    match status.leader {
        None => "knows no leader".into(),
        Some(_) => status.errors.join("; "),
    }
}
