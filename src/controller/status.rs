//! What is written into the EtcdCluster: only what changed, and nothing at rest. Lag and other live numbers stay out of it.

use etcd_operator_api::cluster::{Intent, Members, PivotStatus};
use etcd_operator_api::condition::{self, Condition, Reason};
use etcd_operator_api::{EtcdCluster, EtcdClusterStatus};
use etcd_operator_plan::{Boot, Founding, HoldReason, Observed, Plan, Preflight, Step, Tolerance, WaitFor};
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};

use super::endpoints::ready_voters;
use super::etcd::is_distrust;
use super::memory::Memory;
use super::observe::View;
use super::words::{step_words, unhealthy_voters, wait_words, why_removed};
use super::{Context, ControllerError, api_error, hand_over, member_states, members, pass};
use crate::clock;

/// The status that belongs to what was seen and planned.
pub(crate) fn compute(context: &Context, view: &View, memory: &Memory, seen: &Observed, plan: &Plan) -> EtcdClusterStatus {
    let mut status = view.status.clone();
    status.observed_generation = view.cluster.metadata.generation.unwrap_or(0);
    status.selector = format!("{}={}", members::CLUSTER_LABEL, view.name());
    status.target_version = view.cluster.spec.plain_version().to_owned();
    (status.reason, status.message) = words(view, seen, plan);
    if let Ok(reading) = &view.etcd {
        let boot = view.boot_id();
        let ready = |(m, s): &&(etcd_operator_etcd::client::Member, Option<etcd_operator_etcd::client::MemberStatus>)| {
            !m.is_learner && s.as_ref().is_some_and(etcd_operator_etcd::client::MemberStatus::is_healthy)
        };
        let name = |m: &etcd_operator_etcd::client::Member| if m.name.is_empty() { m.id.to_string() } else { m.name.clone() };
        status.members = Members {
            ready: reading.members.iter().filter(ready).map(|(m, _)| name(m)).collect(),
            unready: reading.members.iter().filter(|m| !ready(m)).map(|(m, _)| name(m)).collect(),
        };
        status.member_states = member_states::compute(view, reading);
        status.members.ready.sort();
        status.members.unready.sort();
        status.size = count(status.members.ready.len());
        let mut versions: Vec<&str> =
            reading.members.iter().filter_map(|(_, s)| s.as_ref()).map(|s| s.version.as_str()).collect();
        versions.sort_unstable();
        status.current_version = versions.first().copied().unwrap_or_default().to_owned();
        // From here on no other cluster's answer counts.
        if !matches!(seen.founding, Founding::Open | Founding::Unheard | Founding::NotAllowed { .. }) {
            status.cluster_id.get_or_insert_with(|| reading.cluster_id.to_string());
        }
        status.lineage = status.lineage.max(1);
        status.endpoints = ready_voters(view);
        if view.boot_endpoint().is_some() {
            let pivot = status.pivot.get_or_insert_default();
            pivot.boot_member_id = pivot.boot_member_id.take().or_else(|| boot.map(|id| id.to_string()));
        }
    }
    // What was not read stays as it was: that nobody could ask is not that nobody serves.
    if view.boot_endpoint().is_some() {
        pivot(view, memory, seen, plan, status.pivot.get_or_insert_default());
    }
    status.phase = phase(view, seen, plan, &status).to_owned();
    // Passes of one controller follow each other: an intent of our own belongs to a step that is over.
    if let Some(intent) = &status.intent
        && (intent.holder == context.args.holder || !pass::is_open(intent, view.now_ms))
    {
        status.intent = None;
    }
    conditions(view, seen, plan, &mut status);
    keepers(context, view, seen, &mut status);
    status
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The reason and the message. Before etcd was ever seen, a missing answer is boot's.
fn words(view: &View, seen: &Observed, plan: &Plan) -> (String, String) {
    match plan {
        Plan::Do(step) => (String::new(), step_words(seen, step)),
        Plan::Wait { what, .. } => (what.to_string(), wait_words(view, seen, *what)),
        Plan::Hold { reason: HoldReason::EtcdUnreachable, next_step } => match &view.ca {
            Err(why) => (HoldReason::CaSecretUnusable.to_string(), why.clone()),
            Ok(_) if view.status.cluster_id.is_none() && view.boot_endpoint().is_some() => unreachable_boot(view),
            Ok(_) => (HoldReason::EtcdUnreachable.to_string(), next_step.clone()),
        },
        Plan::Hold { reason, next_step } => (reason.to_string(), next_step.clone()),
        Plan::Done => (String::new(), String::new()),
    }
}

fn unreachable_boot(view: &View) -> (String, String) {
    let endpoint = view.boot_endpoint().unwrap_or_default();
    let why = view.etcd.as_ref().err().cloned().unwrap_or_default();
    if is_distrust(&why) {
        return (
            HoldReason::CaNotTrustedByBoot.to_string(),
            format!(
                "{endpoint} and the CA in Secret {} do not trust each other: put the CA that signed boot's certificates there ({why})",
                view.cluster.spec.ca_secret()
            ),
        );
    }
    let advice = "check spec.selfHosted.bootMemberClientEndpoint, and that boot runs and listens there with TLS";
    (HoldReason::BootUnreachable.to_string(), format!("no answer from boot: {why}; {advice}"))
}

/// Where the pivot is, from the plan.
fn pivot(view: &View, memory: &Memory, seen: &Observed, plan: &Plan, pivot: &mut PivotStatus) {
    let phase = pivot_phase(seen, plan).unwrap_or(&pivot.phase).to_owned();
    if phase != pivot.phase {
        pivot.since = clock::rfc3339(view.now_ms);
        pivot.phase = phase;
    }
    if pivot.phase == "Aborted" {
        // The next pivot checks anew and takes its own snapshot.
        (pivot.preflight_id, pivot.listening_since, pivot.boot_drain) = (None, None, None);
        return;
    }
    if pivot.preflight_id.is_none() && seen.preflight == Preflight::Passed {
        pivot.preflight_id = memory.preflight.as_ref().map(|(id, _)| id.clone());
    }
    if matches!(plan, Plan::Do(Step::Evict { .. } | Step::RemoveMember { .. } | Step::Unseat { .. })) {
        // Whoever takes its place has not been listening.
        pivot.listening_since = None;
    } else if pivot.listening_since.is_none() {
        pivot.listening_since = memory.listening_since.map(clock::rfc3339);
    }
    let snapshot = view.boot_member().and_then(|b| Some((b, b.status.as_ref()?.boot.as_ref()?.snapshot.as_ref()?)));
    if let Some((boot, snapshot)) = snapshot {
        pivot.snapshot = Some(format!("{}:{}", boot.spec.node_name, snapshot.path));
    }
    let listed = view.etcd.as_ref().ok().map(|r| r.members.iter().any(|(m, _)| Some(m.id) == view.boot_id()));
    let is_known = pivot.boot_member_id.is_some() || seen.boot == Boot::None;
    if pivot.boot_removed.is_none() && is_known && listed == Some(false) {
        pivot.boot_removed = Some(clock::rfc3339(view.now_ms));
    }
}

/// `None` = the phase stays what it was. Once boot is out and put away, what happens is no part of the pivot.
fn pivot_phase(seen: &Observed, plan: &Plan) -> Option<&'static str> {
    let phase = phase_of(seen, plan)?;
    Some(if is_out(seen) && phase != "Tombstone" { "Complete" } else { phase })
}

fn phase_of(seen: &Observed, plan: &Plan) -> Option<&'static str> {
    let aborting = seen.spec.abort;
    Some(match plan {
        Plan::Do(Step::RunPreflight) | Plan::Wait { what: WaitFor::PreflightChecks, .. } => "Preflight",
        Plan::Do(Step::SnapshotBoot) | Plan::Wait { what: WaitFor::BootSnapshot, .. } => "Snapshot",
        Plan::Do(Step::AssignSeats { .. }) | Plan::Wait { what: WaitFor::MembersPrepared | WaitFor::Agents, .. } => "Preparing",
        Plan::Do(Step::Unseat { .. }) if aborting => "Aborting",
        Plan::Do(Step::RemoveMember { node, .. }) if why_removed(seen, node).1 => "Joining",
        Plan::Do(Step::RemoveMember { .. }) => "Aborting",
        // Only once boot is out.
        Plan::Do(
            Step::CompareStores
            | Step::RemoveCorrupt { .. }
            | Step::DisarmCorrupt { .. }
            | Step::PrepareRollOut
            | Step::EnableDowngrade
            | Step::CancelDowngrade
            | Step::RollOut { .. }
            | Step::RollBack { .. }
            | Step::CallOffRollOut { .. }
            | Step::HandOverKeeper { .. }
            | Step::CallOffHandOver { .. },
        )
        | Plan::Wait { what: WaitFor::RollOutPrepared | WaitFor::MemberRestart | WaitFor::KeeperHandOver, .. } => "Complete",
        Plan::Do(
            Step::Readdress { .. }
            | Step::Found { .. }
            | Step::AddLearner { .. }
            | Step::StartMember { .. }
            | Step::Promote { .. }
            | Step::Evict { .. }
            | Step::Unseat { .. },
        )
        | Plan::Wait {
            what: WaitFor::FirstMember | WaitFor::LearnerStarts | WaitFor::LearnerCatchesUp | WaitFor::VotersHealthy,
            ..
        } => "Joining",
        Plan::Do(Step::CountClients) | Plan::Wait { what: WaitFor::ApiServersConnect, .. } => "WaitingForClients",
        Plan::Do(Step::CheckGate) | Plan::Wait { what: WaitFor::BootRemovalGate, .. } => "Gate",
        Plan::Do(Step::MoveLeader { .. }) => {
            if aborting {
                "Aborting"
            } else {
                "MovingLeader"
            }
        }
        Plan::Do(Step::RemoveBoot { .. } | Step::WithdrawBootDrain) | Plan::Wait { what: WaitFor::BootDrain, .. } => {
            "RemovingBoot"
        }
        Plan::Do(Step::TombstoneBoot) | Plan::Wait { what: WaitFor::BootTombstone, .. } => "Tombstone",
        Plan::Done if seen.spec.preflight_only && !is_out(seen) => "PreflightPassed",
        Plan::Done if aborting && !is_out(seen) => "Aborted",
        Plan::Done if is_out(seen) => "Complete",
        Plan::Done => "BootKept",
        Plan::Hold { reason: HoldReason::ApiServerOnBootMember, .. } => "WaitingForClients",
        Plan::Hold { reason: HoldReason::HashMismatch, .. } => "Gate",
        Plan::Hold { .. } | Plan::Wait { what: WaitFor::Unpause | WaitFor::MemberDrain | WaitFor::ApiServersReconnect, .. } => {
            return None;
        }
    })
}

/// Whether boot was seen and is no longer listed.
fn is_out(seen: &Observed) -> bool {
    match (&seen.boot, &seen.etcd) {
        (Boot::Member { id: Some(id), .. }, etcd_operator_plan::Etcd::Known { members, .. }) => {
            !members.iter().any(|m| m.id == *id)
        }
        // It was out before this EtcdCluster was posted.
        (Boot::None, _) => true,
        (Boot::Member { .. }, _) => false,
    }
}

fn phase(view: &View, seen: &Observed, plan: &Plan, status: &EtcdClusterStatus) -> &'static str {
    let has_voter = match &seen.etcd {
        etcd_operator_plan::Etcd::Known { members, .. } => {
            members.iter().any(|m| !m.is_learner && seen.seats.iter().any(|s| m.peer_urls.contains(&s.peer_url)))
        }
        etcd_operator_plan::Etcd::Unknown { .. } => false,
    };
    if has_voter || view.status.phase == "Running" {
        return "Running";
    }
    let unreachable = [HoldReason::EtcdUnreachable, HoldReason::BootUnreachable].iter().any(|r| r.as_str() == status.reason);
    match plan {
        Plan::Hold { .. } if !unreachable => "Failed",
        Plan::Hold { .. } | Plan::Do(_) | Plan::Wait { .. } | Plan::Done => "Creating",
    }
}

fn conditions(view: &View, seen: &Observed, plan: &Plan, status: &mut EtcdClusterStatus) {
    let time = clock::rfc3339(view.now_ms);
    let generation = status.observed_generation;
    let mut all = std::mem::take(&mut status.conditions);
    let mut set = |type_: &str, on: Option<bool>, reason: &str, message: &str| {
        let new = Condition {
            type_: type_.into(),
            status: match on {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            }
            .into(),
            reason: if reason.is_empty() { Reason::AsExpected.as_str() } else { reason }.into(),
            message: message.into(),
            last_transition_time: time.clone(),
            observed_generation: generation,
        };
        condition::set(&mut all, new);
    };
    let (reason, message) = (status.reason.as_str(), status.message.as_str());
    let tolerance = match &seen.etcd {
        etcd_operator_plan::Etcd::Known { members, .. } => Some(Tolerance::of(members)),
        etcd_operator_plan::Etcd::Unknown { .. } => None,
    };
    match tolerance {
        Some(tolerance) if tolerance >= Tolerance(0) => set("Available", Some(true), Reason::QuorumHealthy.as_str(), ""),
        Some(_) => set("Available", Some(false), Reason::NoQuorum.as_str(), message),
        // Nobody could be asked, which says nothing about those that serve.
        None => set("Available", None, reason, message),
    }
    let moving = matches!(plan, Plan::Do(_) | Plan::Wait { .. });
    set("Progressing", Some(moving), if moving && reason.is_empty() { Reason::StepUnderWay.as_str() } else { reason }, message);
    let pivot = status.pivot.clone().unwrap_or_default();
    let complete = match &seen.boot {
        Boot::None => true,
        // As recorded: that etcd cannot be asked for a moment does not bring boot back.
        Boot::Member { .. } => pivot.boot_removed.is_some() && pivot.phase == "Complete",
    };
    let unhealthy = unhealthy_voters(view, seen);
    match plan {
        Plan::Hold { .. } => set("Degraded", Some(true), reason, message),
        // During a pivot boot may be gone before its time, and members come and go: that is the pivot's business.
        Plan::Do(_) | Plan::Wait { .. } | Plan::Done if complete && !unhealthy.is_empty() => {
            set("Degraded", Some(true), Reason::MembersUnready.as_str(), &unhealthy.join("; "));
        }
        Plan::Do(_) | Plan::Wait { .. } | Plan::Done => set("Degraded", Some(false), Reason::AsExpected.as_str(), ""),
    }
    if view.boot_endpoint().is_some() {
        let why = match (complete, &pivot.boot_removed) {
            (true, _) => Reason::BootRemoved.as_str(),
            (false, Some(_)) => WaitFor::BootTombstone.as_str(),
            (false, None) => Reason::BootIsMember.as_str(),
        };
        set("PivotComplete", Some(complete), why, if complete { "" } else { message });
    }
    let wanted = usize::try_from(seen.spec.size).unwrap_or(0);
    let ready = *plan == Plan::Done && complete && status.members.ready.len() == wanted && status.members.unready.is_empty();
    set(
        "Ready",
        Some(ready),
        if ready {
            Reason::AsWanted.as_str()
        } else if reason.is_empty() {
            Reason::NotYet.as_str()
        } else {
            reason
        },
        if ready { "" } else { message },
    );
    let ignored = view.cluster.spec.ignored_fields();
    if !ignored.is_empty() {
        let message = format!("accepted and without effect: {}; see docs/compatibility.md", ignored.join(", "));
        set("FieldIgnored", Some(true), Reason::FieldIgnored.as_str(), &message);
    } else {
        all.retain(|c| c.type_ != "FieldIgnored");
    }
    status.conditions = all;
}

/// Whether all keepers are the operator's own: one that lags behind waits for its turn, or for a human. Apart from Ready, which is about etcd.
fn keepers(context: &Context, view: &View, seen: &Observed, status: &mut EtcdClusterStatus) {
    let Some(own) = context.args.binary.as_deref() else { return };
    let outdated = hand_over::outdated(view, seen, own);
    let (on, reason) = if outdated.is_empty() { ("True", Reason::AsExpected) } else { ("False", Reason::KeepersOutdated) };
    let new = Condition {
        type_: "KeepersCurrent".into(),
        status: on.into(),
        reason: reason.as_str().into(),
        message: outdated.join("; "),
        last_transition_time: clock::rfc3339(view.now_ms),
        observed_generation: status.observed_generation,
    };
    condition::set(&mut status.conditions, new);
}

/// Writes the status if it changed, with the resourceVersion that was read; an Event for a new hold. Returns the object as it is now.
pub(crate) async fn write(
    context: &Context,
    view: &View,
    status: EtcdClusterStatus,
    plan: &Plan,
    memory: &mut Memory,
) -> Result<EtcdCluster, ControllerError> {
    if view.cluster.status.as_ref() == Some(&status) {
        return Ok(view.cluster.clone());
    }
    let event = match plan {
        Plan::Hold { .. } => Some((EventType::Warning, status.reason.clone(), status.message.clone())),
        Plan::Done if status.pivot.as_ref().is_some_and(|p| p.phase == "Complete") => {
            Some((EventType::Normal, "PivotComplete".into(), "boot is out; the members on the nodes serve alone".into()))
        }
        Plan::Do(_) | Plan::Wait { .. } | Plan::Done => {
            let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded" && c.status == "True");
            degraded.map(|c| (EventType::Warning, c.reason.clone(), c.message.clone()))
        }
    };
    let written = replace(context, EtcdCluster { status: Some(status), ..view.cluster.clone() }).await?;
    if let Some((type_, reason, note)) = event
        && memory.last_event != note
    {
        memory.last_event.clone_from(&note);
        publish(context, &view.cluster, type_, reason, note).await;
    }
    Ok(written)
}

/// Announces a disruptive step, or takes the announcement back. Fails if anybody wrote in between: the pass is then repeated.
pub(crate) async fn set_intent(
    context: &Context,
    mut object: EtcdCluster,
    intent: Option<Intent>,
) -> Result<EtcdCluster, ControllerError> {
    object.status.get_or_insert_default().intent = intent;
    replace(context, object).await
}

/// Writes the status over the version that the object was read at.
pub(crate) async fn replace(context: &Context, object: EtcdCluster) -> Result<EtcdCluster, ControllerError> {
    let name = object.name_any();
    let what = "writing the EtcdCluster's status";
    context.clusters().replace_status(&name, &PostParams::default(), &object).await.map_err(api_error(what))
}

/// An Event per membership step.
pub(crate) async fn event(context: &Context, view: &View, seen: &Observed, step: &Step, error: Option<&ControllerError>) {
    let is_loss = match step {
        Step::Evict { .. } | Step::RemoveCorrupt { .. } | Step::DisarmCorrupt { .. } => true,
        Step::RemoveMember { node, .. } => why_removed(seen, node).1,
        _ => false,
    };
    let usual = if is_loss { EventType::Warning } else { EventType::Normal };
    let (type_, note) = match error {
        None => (usual, step_words(seen, step)),
        Some(error) => (EventType::Warning, format!("{}: {error}", step_words(seen, step))),
    };
    let reason = match step {
        Step::Evict { .. } => "EvictLearner",
        Step::AddLearner { .. }
        | Step::Promote { .. }
        | Step::MoveLeader { .. }
        | Step::RemoveBoot { .. }
        | Step::RemoveMember { .. }
        | Step::Readdress { .. }
        | Step::RemoveCorrupt { .. }
        | Step::DisarmCorrupt { .. }
        | Step::EnableDowngrade
        | Step::CancelDowngrade
        | Step::RollOut { .. }
        | Step::RollBack { .. }
        | Step::HandOverKeeper { .. } => step.kind(),
        _ => return,
    };
    publish(context, &view.cluster, type_, reason.into(), note).await;
}

/// The cluster was recovered on a node.
pub(crate) async fn recovered(context: &Context, object: &EtcdCluster, note: String) {
    publish(context, object, EventType::Warning, "Recovered".into(), note).await;
}

/// The endpoints could not be published.
pub(crate) async fn not_published(context: &Context, view: &View, memory: &mut Memory, error: &ControllerError) {
    let note = format!("{error}; {}", rights(view, "its ConfigMap"));
    once(context, view, &mut memory.last_event, "EndpointsNotPublished", note).await;
}

/// What the clients of a cluster without selfHosted need could not be applied: nothing else waits for it.
pub(crate) async fn clients_not_served(context: &Context, view: &View, memory: &mut Memory, error: &ControllerError) {
    let note = format!("{error}; {}", rights(view, "its Secret, Service and EndpointSlice"));
    once(context, view, &mut memory.clients_failed, "ClientsNotServed", note).await;
}

/// Where the rights are that may be missing.
fn rights(view: &View, what: &str) -> String {
    if view.is_standalone() {
        return format!("an EtcdCluster without spec.selfHosted needs {what} as in deploy/standalone.yaml");
    }
    format!("an EtcdCluster of another name than kube-etcd needs {what} in deploy/rbac-controller.yaml")
}

/// The guards could not be applied: nothing else waits for them.
pub(crate) async fn not_guarded(context: &Context, view: &View, memory: &mut Memory, error: &ControllerError) {
    let note = format!("{error}; until then kubectl drain does not spare the quorum; {}", rights(view, "its guards"));
    once(context, view, &mut memory.guards_failed, "GuardsNotApplied", note).await;
}

/// A warning that is not the last one of its kind again.
async fn once(context: &Context, view: &View, last: &mut String, reason: &str, note: String) {
    if *last != note {
        last.clone_from(&note);
        tracing::warn!("{note}");
        publish(context, &view.cluster, EventType::Warning, reason.into(), note).await;
    }
}

/// An Event that cannot be written is only logged: it must not stop the work.
async fn publish(context: &Context, cluster: &EtcdCluster, type_: EventType, reason: String, mut note: String) {
    // The API refuses longer ones.
    while note.len() > 1000 {
        note.pop();
    }
    let event = Event { type_, reason: reason.clone(), note: Some(note), action: reason, secondary: None };
    if let Err(error) = context.recorder.publish(&event, &cluster.object_ref(&())).await {
        tracing::debug!(error = %error, "Event not written");
    }
}

/// An EtcdCluster outside the operator's namespace is told so, once, and otherwise left alone.
pub(crate) async fn refuse_namespace(context: &Context, cluster: &EtcdCluster) -> Result<(), ControllerError> {
    let message = format!(
        "EtcdClusters are honoured in namespace {} only, as they are root on the control plane; create it there",
        context.args.namespace
    );
    let mut status = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation.unwrap_or(0);
    if status.reason == Reason::WrongNamespace.as_str() && status.observed_generation == generation {
        return Ok(());
    }
    status.phase = "Failed".into();
    status.reason = Reason::WrongNamespace.as_str().into();
    status.message.clone_from(&message);
    status.observed_generation = generation;
    let ready = Condition {
        type_: "Ready".into(),
        status: "False".into(),
        reason: Reason::WrongNamespace.as_str().into(),
        message,
        last_transition_time: clock::now_rfc3339(),
        observed_generation: generation,
    };
    condition::set(&mut status.conditions, ready);
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let api: kube::Api<EtcdCluster> = kube::Api::namespaced(context.client.clone(), &namespace);
    let object = EtcdCluster { status: Some(status), ..cluster.clone() };
    api.replace_status(&cluster.name_any(), &PostParams::default(), &object)
        .await
        .map_err(api_error("refusing an EtcdCluster in another namespace"))
        .map(drop)
}
