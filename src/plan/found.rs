//! The beginning of a cluster that was not seeded from a boot member: one member on an empty disk, once and never again. Everything else is growth.
//!
//! Who begins is written down (by compare-and-swap) before its keeper is permitted to, with the IDs that etcd will give: whatever dies in between, there is no second
//! beginning, and no other cluster's answer counts.

use crate::evict::DATA_IS_CORRUPT;
use crate::{Address, Etcd, Founding, HoldReason, KeeperView, Observed, Plan, Preflight, Seat, Step, WaitFor, grow, seats};

/// What comes before the first answer of etcd. `None` = it was there before, or it is a pivot's.
pub(crate) fn plan(o: &Observed) -> Option<Plan> {
    match &o.founding {
        Founding::Over => None,
        Founding::NotAllowed { reason, why } => Some(Plan::hold(*reason, why.clone())),
        Founding::Unheard => Some(Plan::wait(WaitFor::Agents)),
        Founding::Open => Some(open(o)),
        Founding::Chosen { node, is_permitted } => match &o.etcd {
            Etcd::Known { .. } => None,
            Etcd::Unknown { .. } => {
                let seat = o.seats.iter().find(|s| s.node == *node);
                Some(seat.map_or_else(|| gone(o), |seat| chosen(seat, *is_permitted)))
            }
        },
    }
}

fn open(o: &Observed) -> Plan {
    // Somebody answers there: whose is that?
    if let Etcd::Known { cluster, .. } = &o.etcd {
        return Plan::hold(
            HoldReason::UnknownMember,
            format!("etcd of cluster {:016x} answers at a seat, and nothing says that it was begun here", cluster.0),
        );
    }
    // Once there are seats, what listens at their ports is ours.
    match &o.preflight {
        _ if !o.seats.is_empty() => {}
        Preflight::NotRun => return Plan::Do(Step::RunPreflight),
        Preflight::Pending { .. } => return Plan::wait(WaitFor::PreflightChecks),
        Preflight::Failed { reason, message } => return Plan::hold(*reason, message.clone()),
        Preflight::Passed => {}
    }
    if let Some(plan) = seats::assign(o, &[]) {
        return plan;
    }
    // One is enough: the others join it. Those that are too many by now are given back once there is an etcd.
    let is_ready =
        |s: &&Seat| grow::answers(o, s) && s.address == Address::Right && matches!(s.keeper, KeeperView::Waiting { .. });
    match o.seats.iter().filter(is_ready).min_by_key(|s| &s.node) {
        Some(seat) => Plan::Do(Step::Found { node: seat.node.clone() }),
        None => grow::prepared(o, &[]).or_else(|| seats::too_few(o)).unwrap_or_else(|| Plan::wait(WaitFor::MembersPrepared)),
    }
}

/// What a keeper says that was permitted to begin, and cannot: a human must look.
const STUCK: [&str; 7] =
    ["NotAddedYet", "ForeignData", "DamagedData", "EmptyAndNoAnswer", "DataLost", "StateLost", DATA_IS_CORRUPT];

fn chosen(seat: &Seat, is_permitted: bool) -> Plan {
    match &seat.keeper {
        _ if !is_permitted => Plan::Do(Step::Found { node: seat.node.clone() }),
        KeeperView::Refused { reason, message } => grow::refused(seat, reason, message),
        KeeperView::Waiting { reason } if STUCK.contains(&reason.as_str()) => grow::refused(
            seat,
            reason,
            "the first member cannot begin there, and none is begun a second time: see the runbook; as long as the cluster holds nothing, delete the EtcdCluster and make it again",
        ),
        KeeperView::NotPrepared { .. } => Plan::wait(WaitFor::MembersPrepared),
        KeeperView::Waiting { .. } | KeeperView::Running | KeeperView::Stopped => Plan::wait(WaitFor::FirstMember),
    }
}

fn gone(o: &Observed) -> Plan {
    let node = match &o.founding {
        Founding::Chosen { node, .. } => node.to_string(),
        Founding::Over | Founding::Unheard | Founding::Open | Founding::NotAllowed { .. } => String::new(),
    };
    Plan::hold(
        HoldReason::EtcdUnreachable,
        format!(
            "the first member was begun on {node}, whose EtcdMember has no seat any more: nothing is begun a second time beside its data; bring the node back, or delete the EtcdCluster and make it again"
        ),
    )
}
