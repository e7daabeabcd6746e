//! etcd's settings: what the spec wants, what a seat's order has, what its etcd runs with.

use etcd_operator_api::member::{EtcdMember, RestartSpec, Settings};
use etcd_operator_keeper::contract::QUOTA_BYTES;
use etcd_operator_plan::{self as plan, NodeName, RunsWith};

use super::act::Outcome;
use super::observe::View;
use super::{Context, ControllerError, members, pods};

/// What the spec wants.
pub(crate) fn wanted(view: &View) -> Settings {
    let etcd = view.cluster.spec.etcd.clone().unwrap_or_default();
    normal(Settings {
        quota_backend_bytes: etcd.quota_backend_bytes.unwrap_or_default(),
        heartbeat_ms: etcd.heartbeat_interval.unwrap_or_default(),
        election_ms: etcd.election_timeout.unwrap_or_default(),
    })
}

/// The quota is explicit in what the agents write: an order without settings is one with this.
fn normal(settings: Settings) -> Settings {
    match settings.quota_backend_bytes {
        0 => Settings { quota_backend_bytes: i64::try_from(QUOTA_BYTES).unwrap_or(i64::MAX), ..settings },
        _ => settings,
    }
}

/// The order to restart that its keeper has not done with.
fn open_restart(member: &EtcdMember) -> Option<&RestartSpec> {
    let restart = member.spec.seat.as_ref()?.order.restart.as_ref()?;
    let done = member.status.as_ref().and_then(|s| s.keeper.as_ref()).is_some_and(|k| k.consumed.contains(&restart.id));
    (!done).then_some(restart)
}

/// When the restart that is under way was ordered, ms.
pub(crate) fn restart_ordered_ms(member: &EtcdMember) -> Option<u64> {
    open_restart(member).and_then(|restart| members::asked_at(RESTART, &restart.id))
}

/// As the planner takes it.
pub(crate) fn view(member: &EtcdMember, wanted: Settings) -> RunsWith {
    let order = member.spec.seat.as_ref().map(|seat| &seat.order);
    let ordered = order.map(|order| normal(order.settings.unwrap_or_default()));
    let keeper = member.status.clone().unwrap_or_default().keeper.unwrap_or_default();
    // An order that was taken back may still lie on its disk until it has read the next one.
    let is_unread = order.is_some_and(|order| keeper.order_sequence < order.sequence && order.restart.is_none());
    match (keeper.runs_with.map(normal), keeper.phase.as_str()) {
        // One from before it said so restarted for each change.
        (None, "Running" | "Draining") if ordered != Some(wanted) => RunsWith::Unknown,
        // Until its keeper has done with it: what it runs with now may be about to end.
        (Some(_), _) if open_restart(member).is_some() => RunsWith::UnderWay,
        (Some(runs), _) if is_unread && Some(runs) != ordered => RunsWith::UnderWay,
        (Some(runs), _) if runs == wanted => RunsWith::Current,
        (None, _) if ordered == Some(wanted) => RunsWith::Current,
        (Some(_) | None, _) => RunsWith::Outdated,
    }
}

/// An order that has other settings than its etcd runs with, though those are the ones that are wanted: set back, or taken back. They would count at its
/// next start. Returns how many objects were written.
pub(crate) async fn ensure(context: &Context, view: &View) -> Result<usize, ControllerError> {
    let wanted = wanted(view);
    let mut written = 0;
    for member in view.seats() {
        let runs_with = member.status.as_ref().and_then(|s| s.keeper.as_ref()?.runs_with).map(normal);
        let ordered = member.spec.seat.as_ref().map(|seat| normal(seat.order.settings.unwrap_or_default()));
        if runs_with == Some(wanted) && ordered != Some(wanted) && open_restart(member).is_none() {
            members::change_order(context, member, |order| order.settings = Some(wanted)).await?;
            written += 1;
        }
    }
    Ok(written)
}

/// Why the spec's settings must not be applied.
pub(crate) fn refusal(view: &View) -> Option<String> {
    timing(view).or_else(|| quota(view))
}

fn timing(view: &View) -> Option<String> {
    let run = view.seats().into_iter().filter_map(|m| m.status.as_ref()?.keeper.as_ref()?.runs_with);
    // Boot's are not known: most likely etcd's own.
    let boot = (view.boot_endpoint().is_some() && !view.boot_is_out()).then(Settings::default);
    side_by_side(run.chain([wanted(view)]).chain(boot))
}

/// While they roll out members run side by side with what was and what is wanted: a heartbeat that is longer than another's election timeout would have that one
/// without a leader, again and again.
fn side_by_side(all: impl Iterator<Item = Settings>) -> Option<String> {
    let or = |value: i32, default: i32| if value == 0 { default } else { value };
    let of = |s: Settings| (or(s.heartbeat_ms, 100), or(s.election_ms, 1000));
    let (heartbeat, election) = all.map(of).reduce(|(h, e), (heartbeat, election)| (h.max(heartbeat), e.min(election)))?;
    (heartbeat.saturating_mul(2) > election).then(|| {
        format!(
            "spec.etcd: members with a heartbeat of {heartbeat} ms and others with an election timeout of {election} ms would run side by side meanwhile, and lose their leader again and again; change it in steps (electionTimeout first where both go up)"
        )
    })
}

fn quota(view: &View) -> Option<String> {
    let sizes = view.etcd.iter().flat_map(|reading| &reading.members).filter_map(|(_, status)| status.as_ref());
    too_full(wanted(view).quota_backend_bytes, sizes.map(|status| status.db_size).max().unwrap_or(0))
}

/// A tenth of room: at the quota etcd takes no more writes, from anybody.
fn too_full(quota: i64, largest: i64) -> Option<String> {
    (largest > quota / 10 * 9).then(|| {
        format!(
            "spec.etcd.quotaBackendBytes is {quota}, and a database has {largest} bytes: at its quota etcd refuses all writes, the Kubernetes API's among them; raise it, or compact and defragment first"
        )
    })
}

/// Of a member that is made now: what the spec wants, unless that must not be; then what those that are there have, and the rest rolls out later.
pub(crate) fn of_new(view: &View) -> Settings {
    let there = || view.seats().into_iter().find_map(|m| m.spec.seat.as_ref()?.order.settings);
    if refusal(view).is_some() { there().unwrap_or_default() } else { wanted(view) }
}

/// What the IDs of restarts begin with; the time in them tells how old an order is.
pub(crate) const RESTART: &str = "restart";

/// The order of a seat gets what the spec wants: its keeper restarts etcd with it, or its agent puts another pod in the place of the one that runs.
pub(crate) async fn apply(
    context: &Context,
    view: &View,
    node: &NodeName,
    restart: plan::Restart,
) -> Result<Outcome, ControllerError> {
    // Somebody else may have gone on from here.
    if view.is_stale() {
        return Ok(Outcome::NotYet);
    }
    let overruled = match restart {
        plan::Restart::WhileQuorum => false,
        plan::Restart::Overruled => true,
    };
    let (wanted, restart) = (wanted(view), RestartSpec { id: members::ask(RESTART, view.now_ms), overruled });
    let member = member_of(view, node)?;
    // Another pod brings the settings with it.
    let pod = pods::order(view, member, overruled);
    // With a question to its agent: one that does not answer does not bring the order either.
    let written = members::change(context, member, |spec| {
        spec.nonce.clone_from(&restart.id);
        if let Some(seat) = &mut spec.seat {
            seat.order.settings = Some(wanted);
            match &pod {
                Some((pod, order)) => (seat.pod, seat.roll_out) = (pod.clone(), Some(order.clone())),
                None => seat.order.restart = Some(restart.clone()),
            }
            seat.order.sequence += 1;
        }
    });
    written.await.map(|_| Outcome::Done)
}

/// No restart: the settings count from the next start on, the pod stays.
pub(crate) async fn call_off(context: &Context, view: &View, node: &NodeName) -> Result<(), ControllerError> {
    let member = member_of(view, node)?;
    let there = member.status.as_ref().and_then(|s| s.pod.clone());
    members::change(context, member, |spec| {
        let Some(seat) = &mut spec.seat else { return };
        if seat.order.restart.take().is_some() {
            seat.order.sequence += 1;
        }
        pods::call_off(seat, there.as_ref());
    })
    .await
    .map(drop)
}

fn member_of<'a>(view: &'a View, node: &NodeName) -> Result<&'a EtcdMember, ControllerError> {
    view.member_of(&node.0).ok_or_else(|| ControllerError::Object(format!("{node} has no EtcdMember")))
}

#[cfg(test)]
mod tests {
    use etcd_operator_api::member::{EtcdMemberStatus, KeeperStatus, Role};

    use super::*;

    const OLD: Settings = Settings { quota_backend_bytes: 8 << 30, heartbeat_ms: 0, election_ms: 0 };
    const NEW: Settings = Settings { heartbeat_ms: 200, ..OLD };

    fn seen(ordered: Option<Settings>, restart: Option<&str>, phase: &str, runs_with: Option<Settings>) -> RunsWith {
        let mut member = EtcdMember::new("c-cp1", members::blank("c", "cp1", Role::Member, 1));
        let seat = serde_json::json!({"image": "etcd:v3.6.16", "probePort": 1, "order": {"sequence": 1, "run": "Run", "restart": restart.map(|id| serde_json::json!({"id": id})),
            "memberName": "cp1-1", "peerURL": "", "clientURL": "", "metricsPort": 1, "clientHttpPort": 1}});
        member.spec.seat = Some(serde_json::from_value(seat).unwrap());
        member.spec.seat.as_mut().unwrap().order.settings = ordered;
        let consumed = vec!["done".to_owned()];
        let keeper = KeeperStatus { phase: phase.into(), runs_with, consumed, order_sequence: 1, ..KeeperStatus::default() };
        member.status = Some(EtcdMemberStatus { keeper: Some(keeper), ..EtcdMemberStatus::default() });
        view(&member, NEW)
    }

    #[test]
    fn what_would_not_fit_side_by_side_or_is_nearly_full_is_refused_with_the_way_out() {
        let with = |heartbeat_ms, election_ms| Settings { heartbeat_ms, election_ms, ..OLD };
        let refused = |all: &[Settings]| side_by_side(all.iter().copied());
        assert_eq!(refused(&[with(0, 0), with(200, 2000)]), None);
        assert_eq!(refused(&[with(0, 0), with(500, 5000)]), None);
        let why = refused(&[with(0, 0), with(501, 5000)]).unwrap();
        assert!(why.contains("heartbeat of 501 ms") && why.contains("timeout of 1000 ms") && why.contains("in steps"), "{why}");
        assert!(refused(&[with(1000, 10_000), with(0, 0)]).is_some());
        assert_eq!(too_full(1000, 900), None);
        let why = too_full(1000, 901).unwrap();
        assert!(why.contains("901 bytes") && why.contains("raise it"), "{why}");
    }

    #[test]
    fn an_order_that_was_taken_back_counts_until_its_keeper_has_read_that() {
        let mut member = EtcdMember::new("c-cp1", members::blank("c", "cp1", Role::Member, 1));
        let seat = serde_json::json!({"image": "etcd:v3.6.16", "probePort": 1, "order": {"sequence": 5, "run": "Run", "memberName": "cp1-1",
            "peerURL": "", "clientURL": "", "metricsPort": 1, "clientHttpPort": 1, "settings": NEW}});
        member.spec.seat = Some(serde_json::from_value(seat).unwrap());
        let mut at = |order_sequence| {
            let keeper =
                KeeperStatus { phase: "Running".into(), runs_with: Some(OLD), order_sequence, ..KeeperStatus::default() };
            member.status = Some(EtcdMemberStatus { keeper: Some(keeper), ..EtcdMemberStatus::default() });
            view(&member, NEW)
        };
        assert_eq!((at(4), at(5)), (RunsWith::UnderWay, RunsWith::Outdated));
    }

    #[test]
    fn what_runs_counts_unless_a_restart_is_ordered_and_not_done_with() {
        use RunsWith::{Current, Outdated, UnderWay, Unknown};
        for restart in [None, Some("done")] {
            assert_eq!(seen(Some(NEW), restart, "Running", Some(NEW)), Current);
            assert_eq!(seen(Some(OLD), restart, "Running", Some(OLD)), Outdated);
            // Called off, or set back meanwhile.
            assert_eq!(seen(Some(NEW), restart, "Running", Some(OLD)), Outdated);
            // An order from before there were settings.
            assert_eq!(seen(None, restart, "Running", Some(OLD)), Outdated);
        }
        for runs in [OLD, NEW] {
            assert_eq!(seen(Some(NEW), Some("open"), "Running", Some(runs)), UnderWay);
            assert_eq!(seen(Some(OLD), Some("open"), "Draining", Some(runs)), UnderWay);
        }
        assert_eq!(seen(Some(NEW), Some("open"), "Waiting", None), Current);
        assert_eq!(seen(Some(OLD), Some("open"), "Waiting", None), Outdated);
        // A keeper from before it said so restarted for each change.
        assert_eq!(seen(Some(OLD), None, "Running", None), Unknown);
        assert_eq!(seen(Some(NEW), None, "Running", None), Current);
    }
}
