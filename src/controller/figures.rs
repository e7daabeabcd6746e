//! What a pass saw, as metrics: the numbers that change all the time and stay out of the status.

use etcd_operator_api::EtcdClusterStatus;
use etcd_operator_api::member::{EtcdMember, Role};
use etcd_operator_etcd::client::MemberStatus;
use etcd_operator_plan::{Etcd, Observed, Plan, Tolerance};
use kube::ResourceExt;
use x509_parser::pem::parse_x509_pem;

use super::memory::Memory;
use super::observe::View;
use crate::telemetry::metrics::{
    CERTIFICATE, CONDITION, Gauge, HOLD, HOLD_SINCE, MEMBER_DB, MEMBER_HEALTHY, MEMBER_LAG, MEMBER_LEADER, SIZE_WANTED, Sample,
    TOLERANCE, seconds_of,
};

/// The samples of a pass.
pub(super) fn of(view: &View, memory: &mut Memory, seen: &Observed, plan: &Plan, status: &EtcdClusterStatus) -> Vec<Sample> {
    let mut all = vec![sample(&SIZE_WANTED, vec![], f64::from(seen.spec.size))];
    members(view, memory, status, &mut all);
    if let Etcd::Known { members, .. } = &seen.etcd {
        let Tolerance(tolerance) = Tolerance::of(members);
        all.push(sample(&TOLERANCE, vec![], f64::from(i32::try_from(tolerance).unwrap_or(i32::MAX))));
    }
    for condition in &status.conditions {
        let value = match condition.status.as_str() {
            "True" => 1.0,
            "False" => 0.0,
            _ => -1.0,
        };
        all.push(sample(&CONDITION, vec![("type", condition.type_.clone())], value));
    }
    // As the status words it: the planner's is less exact where the CA is at fault.
    let reason = matches!(plan, Plan::Hold { .. }).then(|| status.reason.clone());
    let known = memory.hold_since.take();
    memory.hold_since = reason.map(|reason| known.filter(|(before, _)| *before == reason).unwrap_or((reason, view.now_ms)));
    if let Some((reason, since)) = &memory.hold_since {
        let labels = vec![("reason", reason.clone())];
        all.push(sample(&HOLD, labels.clone(), 1.0));
        all.push(sample(&HOLD_SINCE, labels, seconds_of(*since)));
    }
    certificates(view, &mut all);
    all
}

fn sample(gauge: &'static Gauge, labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample { gauge, labels, value }
}

#[expect(clippy::cast_precision_loss, reason = "a size or a lag: exact up to 2^53")]
fn members(view: &View, memory: &Memory, told: &EtcdClusterStatus, all: &mut Vec<Sample>) {
    let Ok(reading) = &view.etcd else { return };
    for (member, status) in &reading.members {
        let id = member.id.to_string();
        let node = told.member_states.iter().find(|s| s.id == id).map(|s| s.node.clone()).unwrap_or_default();
        let who = || vec![("member", member.name.clone()), ("id", id.clone()), ("node", node.clone())];
        let role = if member.is_learner { "learner" } else { "voter" };
        let with_role = [who(), vec![("role", role.to_owned())]].concat();
        let flag = |on: bool| if on { 1.0 } else { 0.0 };
        all.push(sample(&MEMBER_HEALTHY, with_role, flag(status.as_ref().is_some_and(MemberStatus::is_healthy))));
        let Some(status) = status else { continue };
        all.push(sample(&MEMBER_LEADER, who(), flag(status.leader == Some(status.member_id))));
        all.push(sample(&MEMBER_DB, who(), status.db_size as f64));
        if let Some((_, lag)) = memory.lags.get(&member.id.0).and_then(|samples| samples.last()) {
            all.push(sample(&MEMBER_LAG, who(), *lag as f64));
        }
    }
}

/// Of the certificates that the controller has signed, by node and use.
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970: exact")]
fn certificates(view: &View, all: &mut Vec<Sample>) {
    // Boot has a client certificate on its node, besides that of the node's own seat; of a node that is gone nothing is signed anew.
    let is_there = |m: &&EtcdMember| view.all_nodes.iter().any(|n| n.name_any() == m.spec.node_name);
    for member in view.members.iter().filter(|m| m.spec.role != Role::Boot).filter(is_there) {
        let Some(certificates) = &member.spec.certificates else { continue };
        let each = [
            ("peer", certificates.peer.as_ref()),
            ("server", certificates.server.as_ref()),
            ("client", Some(&certificates.client)),
        ];
        for (usage, pem) in each {
            let Some(expiry) = pem.and_then(|pem| expiry(pem)) else { continue };
            all.push(sample(
                &CERTIFICATE,
                vec![("node", member.spec.node_name.clone()), ("usage", usage.to_owned())],
                expiry as f64,
            ));
        }
    }
}

/// Seconds since 1970.
fn expiry(pem: &str) -> Option<i64> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
}
