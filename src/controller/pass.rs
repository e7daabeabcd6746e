//! One pass over one cluster: observe → plan → guard → record the intent → act → status.

use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_operator_api::cluster::Intent;
use etcd_operator_plan::{self as plan, ClientCounts, Observed, Plan, Step, WaitFor};
use kube::ResourceExt;

use super::act::Outcome;
use super::memory::{Memory, Refused};
use super::observe::{View, endpoints, observe, observed};
use super::{
    Context, ControllerError, act, clients, corrupt, endpoints as published, etcd, figures, found, guards, losses, pods,
    preflight, progress, readdress, recovered, retire, settings, status, structure,
};
use crate::clock;
use crate::telemetry::metrics;

/// How long other controllers keep away from a step that was announced: longer than any step takes (`remove.rs`: 10 s + 5 s).
const INTENT_LASTS_MS: u64 = 30_000;
/// An intent that ends later than this was announced by a clock that is far ahead, ms; clocks that differ by less hold each other up for no longer.
const LATEST_INTENT_MS: u64 = 600_000;
/// How soon to look again after a step.
const AFTER_STEP: Duration = Duration::from_millis(50);
/// How soon after a refusal that passes, such as etcd's own wait of 5 s between two changes.
const AFTER_REFUSAL: Duration = Duration::from_millis(300);

/// After so many refusals of the same step it is tried less often: each try is two writes of the EtcdCluster.
const REFUSALS: u32 = 20;
const AFTER_MANY_REFUSALS: Duration = Duration::from_secs(5);

/// How long etcd may be silent before another replica should try, ms: some passes, each of which asks for 2 s.
const ETCD_SILENT_MS: u64 = 15_000;
/// 15 s become 8 min.
const MOST_DOUBLINGS: u32 = 5;
/// Two passes that are further apart than this do not belong together, ms: a held one comes every 5 s, and takes 2 s to ask etcd and 4 s to look for another life
/// of it.
const BREAK_MS: u64 = 14_000;
/// How long this replica then does not lead: for another to see the free Lease, which takes it 2 s.
const STANDS_ASIDE: Duration = Duration::from_secs(10);

/// Runs one pass. Returns what came of it, and how soon to look again; `None` = when something changes.
pub(crate) async fn run(
    context: &Context,
    name: &str,
    memory: &mut Memory,
) -> Result<(metrics::Outcome, Option<Duration>), ControllerError> {
    use metrics::Outcome::{Holds, Settled, Step, Waits};
    let Some(view) = observe(context, name, memory).await? else {
        context.args.metrics.set_cluster(name, None);
        return Ok((Settled, None));
    };
    let uid = view.cluster.uid();
    if memory.uid.is_some() && memory.uid != uid {
        memory.forget();
        return Ok((Step, Some(AFTER_STEP)));
    }
    memory.uid = uid;
    if context.lease.is_held()
        && let Some(passed) = retire::pass(context, &view, memory).await?
    {
        return Ok(passed);
    }
    if let Some(passed) = corrupt::pass(context, &view, memory).await? {
        return Ok(passed);
    }
    if !context.lease.is_held() {
        return Ok((Waits, Some(Duration::from_millis(plan::SLOW_LOOK_MS))));
    }
    if recovered::adopt(context, &view, memory).await? {
        memory.forget();
        return Ok((Step, Some(AFTER_STEP)));
    }
    progress::note(&view, memory, context.args.learner_patience_ms());
    if structure::sign(context, &view, memory).await? > 0 {
        return Ok((Step, Some(AFTER_STEP)));
    }
    if !view.cluster.spec.paused
        && found::is_hosted(context.args.standalone, &view)
        && (found::ensure(context, &view, memory).await? > 0
            || recovered::ensure(context, &view).await? > 0
            || structure::ensure(context, &view).await? > 0
            || losses::ensure(context, &view, memory).await? > 0
            || readdress::ensure(context, &view, memory).await? > 0
            || settings::ensure(context, &view).await? > 0
            || pods::ensure(context, &view).await? > 0
            || progress::ensure(context, &view, memory).await? > 0)
    {
        return Ok((Step, Some(AFTER_STEP)));
    }
    structure::note_signal(&view, memory);
    let silent = etcd_is_silent(context, &view, memory);
    let seen = observed(&view, memory, &context.args);
    let plan = plan::plan(&seen);
    tracing::debug!(cluster = name, plan = ?plan, "planned");
    if plan == Plan::Done {
        memory.drains_in_vain.clear();
    }
    tell_clients(&seen, &plan, memory);
    if view.etcd.is_ok() {
        // Nobody's pivot waits for it: it is tried again in each pass, and said.
        if let Err(error) = published::publish(context, &view, memory).await {
            status::not_published(context, &view, memory, &error).await;
        }
        if let Err(error) = clients::publish(context, &view, memory).await {
            status::clients_not_served(context, &view, memory, &error).await;
        }
        if let Err(error) = guards::ensure(context, &view, memory).await {
            status::not_guarded(context, &view, memory, &error).await;
        }
    }
    let new = status::compute(context, &view, memory, &seen, &plan);
    if new.pivot.as_ref().is_some_and(|p| p.phase == "Aborted") {
        memory.forget_pivot();
    }
    if silent {
        tracing::warn!(cluster = name, "etcd does not answer this replica, though the API does: another one may lead");
        context.lease.stand_aside(STANDS_ASIDE);
    }
    context.args.metrics.set_cluster(name, Some(figures::of(&view, memory, &seen, &plan, &new)));
    let written = status::write(context, &view, new, &plan, memory).await?;
    preflight::repeat(context, &view, memory, &seen.preflight).await?;
    match &plan {
        Plan::Do(step) if step.is_disruptive() => {
            disruptive(context, &view, &seen, memory, step, written).await.map(|pause| (Step, Some(pause)))
        }
        Plan::Do(step) => {
            tracing::info!(cluster = name, step = ?step, "step");
            act(context, &view, memory, step).await?;
            // The agents count every half second.
            Ok((Step, Some(if *step == plan::Step::CountClients { AFTER_STEP * 5 } else { AFTER_STEP })))
        }
        Plan::Wait { look_again_ms, .. } => Ok((Waits, Some(Duration::from_millis(*look_again_ms)))),
        Plan::Hold { .. } => Ok((Holds, Some(Duration::from_millis(plan::SLOW_LOOK_MS)))),
        Plan::Done => Ok((Settled, corrupt::looks_again(&view, memory))),
    }
}

/// Whether a step that was announced may still be under way. One that would be so for longer than any lasts was announced by a clock that is ahead.
pub(crate) fn is_open(intent: &Intent, now_ms: u64) -> bool {
    clock::parse_rfc3339(&intent.expires).is_some_and(|until| until > now_ms && until <= now_ms + LATEST_INTENT_MS)
}

/// Carries a step out, and counts it.
pub(crate) async fn act(context: &Context, view: &View, memory: &mut Memory, step: &Step) -> Result<Outcome, ControllerError> {
    let done = act::act(context, view, memory, step).await;
    let outcome = match &done {
        Ok(Outcome::Done) => "done",
        Ok(Outcome::NotYet) => "not_yet",
        Err(_) => "error",
    };
    context.args.metrics.step(&view.name(), step.kind(), outcome);
    done
}

/// Whether etcd has not answered for so long that another replica should try. The API that this one was read from rests on the very etcd of a
/// self-hosted cluster that was seen before, so it is this replica's way there that is cut; of others that cannot be said.
fn etcd_is_silent(context: &Context, view: &View, memory: &mut Memory) -> bool {
    let is_own = view.cluster.spec.self_hosted.is_some() && view.status.cluster_id.is_some() && view.ca.is_ok();
    if view.etcd.is_ok() || !is_own {
        if is_own {
            context.asides.store(0, Ordering::Relaxed);
        }
        memory.etcd_silent = None;
        return false;
    }
    // A pass that did not come about for want of the API is a break.
    let together = |(_, last): &(u64, u64)| view.now_ms.saturating_sub(*last) < BREAK_MS;
    let since = memory.etcd_silent.filter(together).map_or(view.now_ms, |(since, _)| since);
    // Where no replica has a way, they take turns more and more slowly.
    let limit = ETCD_SILENT_MS << context.asides.load(Ordering::Relaxed).min(MOST_DOUBLINGS);
    let is_silent = view.now_ms.saturating_sub(since) >= limit;
    if is_silent {
        context.asides.fetch_add(1, Ordering::Relaxed);
    }
    memory.etcd_silent = (!is_silent).then_some((since, view.now_ms));
    is_silent
}

/// Live numbers stay out of the status; who wants to know what the pivot waits for finds them here.
fn tell_clients(seen: &Observed, plan: &Plan, memory: &mut Memory) {
    if let (ClientCounts::Known { remotes, .. }, Plan::Wait { what: WaitFor::ApiServersConnect, .. }) = (&seen.clients, plan)
        && memory.clients_told != *remotes
    {
        tracing::info!(?remotes, "clients of boot, and their connections to each new member");
        memory.clients_told.clone_from(remotes);
    }
}

/// A step that changes the membership or takes something down: announced first, and only if the members are still those of the plan.
async fn disruptive(
    context: &Context,
    view: &View,
    seen: &Observed,
    memory: &mut Memory,
    step: &Step,
    object: etcd_operator_api::EtcdCluster,
) -> Result<Duration, ControllerError> {
    let Ok(reading) = &view.etcd else { return Ok(AFTER_STEP) };
    // Announcing a step is a write, and brings on the next pass: nothing is announced that would only be refused.
    if memory.refused.as_ref().is_some_and(|refused| refused.step == *step && view.now_ms < refused.until)
        || !act::would_be_taken(view, memory, step)
    {
        return Ok(AFTER_REFUSAL);
    }
    let cluster_id = reading.cluster_id.to_string();
    let now_ms = clock::now_ms();
    if let Some(other) = object.status.as_ref().and_then(|s| s.intent.as_ref())
        && other.holder != context.args.holder
        && other.cluster_id == cluster_id
        && other.lineage == view.status.lineage
        && is_open(other, now_ms)
    {
        tracing::info!(holder = %other.holder, step = %other.step, "another controller has announced a step");
        return Ok(Duration::from_secs(1));
    }
    let intent = Intent {
        step: format!("{step:?}"),
        holder: context.args.holder.clone(),
        expires: clock::rfc3339(now_ms + INTENT_LASTS_MS),
        cluster_id,
        lineage: view.status.lineage,
    };
    let announced = status::set_intent(context, object, Some(intent)).await?;
    if !context.lease.is_held() || !is_as_planned(view, memory).await {
        status::set_intent(context, announced, None).await?;
        return Ok(AFTER_STEP);
    }
    tracing::info!(cluster = %view.name(), step = ?step, "step");
    let done = act(context, view, memory, step).await;
    if !matches!(done, Ok(Outcome::NotYet)) {
        status::event(context, view, seen, step, done.as_ref().err()).await;
    }
    Ok(match done? {
        Outcome::Done => {
            memory.refused = None;
            AFTER_STEP
        }
        Outcome::NotYet => {
            let times = memory.refused.take().filter(|refused| refused.step == *step).map_or(0, |refused| refused.times) + 1;
            let pause = if times > REFUSALS { AFTER_MANY_REFUSALS } else { AFTER_REFUSAL };
            let until = clock::now_ms() + u64::try_from(pause.as_millis()).unwrap_or(0);
            memory.refused = Some(Refused { step: step.clone(), until, times });
            AFTER_REFUSAL
        }
    })
}

/// The guard: a linearizable list right before the step shows the same members as the plan was made for.
pub(crate) async fn is_as_planned(view: &View, memory: &mut Memory) -> bool {
    let Ok(reading) = &view.etcd else { return false };
    let mut clients = Vec::new();
    for endpoint in endpoints(view) {
        if let Ok(client) = etcd::client(memory, &endpoint).await {
            clients.push(client);
        }
    }
    let Ok(list) = etcd::list(&clients, Some(reading.cluster_id)).await else { return false };
    let key = |m: &etcd_operator_etcd::client::Member| (m.id, m.is_learner);
    let mut now: Vec<_> = list.members.iter().map(key).collect();
    let mut then: Vec<_> = reading.members.iter().map(|(m, _)| key(m)).collect();
    now.sort_unstable();
    then.sort_unstable();
    now == then
}
