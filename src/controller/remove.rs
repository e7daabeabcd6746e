//! Drain, remove, kill (design D7.5): the one way in which a living member leaves.
//!
//! We hold a watch open on the member, so that its drain goes on; the one beside it (boot's agent or command, a member's keeper) sends SIGTERM; the
//! closed listener is the sign; MemberRemove follows as soon as requests in flight can be done, with a deadline. Whoever signalled asks the other members himself and kills
//! the process when it is no longer listed, or starts it again after 10 s. Nothing between signal and kill goes through the API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::member::BootDrain;
use etcd_operator_etcd::client::MemberStatus;
use etcd_operator_etcd::dial::{Dial, Endpoint};
use etcd_operator_etcd::error::ErrorKind;
use etcd_operator_etcd::ids::MemberId;
use etcd_operator_plan::{NodeName, Removal};

use super::act::Outcome;
use super::memory::Memory;
use super::observe::View;
use super::stopper::{Answer, Stopper};
use super::{Context, ControllerError, api_error, etcd, members};
use crate::clock::{self, Instant};

/// How long the signal may take to come after it was ordered: who does not see the order in this time is not there.
const SIGNAL_WITHIN: Duration = Duration::from_secs(10);
/// MemberRemove must be done this long after the signal and never later: after 7 s the drain is over, after 10 s it is started again.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);
/// How often the listener is tried.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What requests in flight get to finish between the signal and the removal: once that is applied, the others turn the member away (410
/// Gone) and it stops its raft at once, drain or not. Seen on the bed as "raft: stopped". It votes on meanwhile, as the watch is open.
const FINISH_WITHIN: Duration = Duration::from_millis(400);
/// For the second look at a member that does not serve.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How long the watch is held open after the removal, so that requests in flight can finish.
const HOLD_AFTER: Duration = Duration::from_millis(300);

/// Who leaves, and who stays.
struct Leaving {
    id: MemberId,
    client: Arc<dyn Endpoint>,
    address: SocketAddr,
    others: Vec<Arc<dyn Endpoint>>,
    dial: Arc<dyn Dial>,
}

/// Removes boot.
pub(crate) async fn boot(
    context: &Context,
    view: &View,
    memory: &mut Memory,
    id: MemberId,
    how: Removal,
) -> Result<Outcome, ControllerError> {
    let leaving = leaving(view, memory, id).await?;
    if view.is_stale() {
        return Ok(Outcome::NotYet);
    }
    let attempt = match how {
        Removal::Alive => return remove_now(&leaving, clock::instant()).await,
        Removal::Drain { attempt } => attempt,
    };
    let Some(stopper) = Stopper::of(view) else { return Err(ControllerError::Object("boot has no EtcdMember".into())) };
    let Ok(reading) = &view.etcd else { return Ok(Outcome::NotYet) };
    let drain = BootDrain {
        id: format!("{}-{attempt}", members::unique("drain")),
        member_id: id.to_string(),
        cluster_id: reading.cluster_id.to_string(),
        ask: leaving.others.iter().map(|c| c.url().to_owned()).collect(),
    };
    // If boot doesn't answer, there is nothing to drain. If it does, no stream, no SIGTERM: its vote would end at once.
    let answers = view.status_of(id).is_some();
    let watch = leaving.client.hold_watch().await;
    if answers && let Err(error) = &watch {
        tracing::info!(error = %error, "boot's drain could not be held open; trying again");
        return Ok(Outcome::NotYet);
    }
    stopper.order(context, &drain).await?;
    // Of an earlier order.
    memory.signalled_since = None;
    let at = match sign_of_boot(context, &stopper, &drain.id, &leaving).await {
        Some(Answer::Signalled) => clock::instant(),
        refused => {
            tracing::warn!(answers, ?refused, "boot was not signalled, the order is taken back");
            stopper.take_back(context).await?;
            if answers {
                return Ok(Outcome::NotYet);
            }
            // Neither it nor anybody beside it answers: its node is off. The gate was passed without it, and a dead voter is a risk for the
            // rest.
            return remove_now(&leaving, clock::instant()).await;
        }
    };
    clock::sleep(FINISH_WITHIN).await;
    let removed = remove_now(&leaving, at).await;
    clock::sleep(HOLD_AFTER).await;
    drop(watch);
    removed
}

/// The sign that SIGTERM was sent: boot's listener is closed, or who was to send it says so. `None` = there is none in time.
async fn sign_of_boot(context: &Context, stopper: &Stopper<'_>, id: &str, leaving: &Leaving) -> Option<Answer> {
    let said = async {
        loop {
            clock::sleep(LOOK_EVERY * 10).await;
            if let Some(answer) = stopper.answer(context, id).await {
                return answer;
            }
        }
    };
    let listener_closes = async {
        while !leaving.dial.is_closed(leaving.address).await {
            clock::sleep(LOOK_EVERY).await;
        }
        Answer::Signalled
    };
    let sign = clock::within(SIGNAL_WITHIN, async {
        tokio::select! {
            sign = said => sign,
            sign = listener_closes => sign,
        }
    });
    sign.await
}

/// MemberRemove through the members that stay, until one says that it is done, or the time is over.
async fn remove_now(leaving: &Leaving, since: Instant) -> Result<Outcome, ControllerError> {
    let mut last = None;
    while since.elapsed() < REMOVE_WITHIN {
        for other in &leaving.others {
            let left = REMOVE_WITHIN.saturating_sub(since.elapsed());
            if left.is_zero() {
                break;
            }
            match clock::within(left, other.member_remove(leaving.id)).await {
                Some(Ok(())) => {
                    tracing::info!(member = %leaving.id, ms = since.elapsed().as_millis(), "member removed");
                    return Ok(Outcome::Done);
                }
                Some(Err(error)) if error.kind() == ErrorKind::MemberNotFound => return Ok(Outcome::Done),
                Some(Err(error)) => last = Some(error),
                None => {}
            }
        }
        clock::sleep(LOOK_EVERY).await;
    }
    match last {
        Some(error) => super::act::passing("MemberRemove", Err(error)),
        None => Ok(Outcome::NotYet),
    }
}

async fn leaving(view: &View, memory: &mut Memory, id: MemberId) -> Result<Leaving, ControllerError> {
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?;
    let leader = reading.members.iter().filter_map(|(_, s)| s.as_ref()).find_map(|s| s.leader);
    let mut urls: Vec<(bool, String)> = reading
        .members
        .iter()
        .filter(|(m, s)| m.id != id && !m.is_learner && s.is_some())
        .filter_map(|(m, _)| Some((Some(m.id) != leader, m.client_urls.first()?.clone())))
        .collect();
    urls.sort();
    let mut others = Vec::new();
    for (_, url) in &urls {
        others.push(etcd::client(memory, url).await?);
    }
    let member = reading.members.iter().find(|(m, _)| m.id == id).map(|(m, _)| m);
    let url = member.and_then(|m| m.client_urls.iter().find(|u| !u.contains("127.0.0.1"))).cloned().unwrap_or_default();
    let address =
        members::address(&url).parse().map_err(|_| ControllerError::Object(format!("{id} has no client URL by IP: {url:?}")))?;
    Ok(Leaving { id, client: etcd::client(memory, &url).await?, address, others, dial: memory.dial.clone() })
}

/// Has boot's agent put its manifest away.
pub(crate) async fn tombstone(context: &Context, view: &View) -> Result<(), ControllerError> {
    let Some(member) = view.boot_member() else { return Ok(()) };
    members::change(context, member, |spec| {
        if let Some(boot) = &mut spec.boot {
            boot.tombstone = Some(members::unique("tombstone"));
        }
    })
    .await
    .map(drop)
}

/// Removes a member of ours that may serve clients.
pub(crate) async fn member(
    context: &Context,
    view: &View,
    memory: &mut Memory,
    node: &NodeName,
    id: MemberId,
) -> Result<Outcome, ControllerError> {
    let serves = view.status_of(id).is_some_and(MemberStatus::is_healthy);
    let is_learner = view.etcd.iter().flat_map(|r| &r.members).any(|(m, _)| m.id == id && m.is_learner);
    let Some(object) = view.member_of(&node.0) else { return Err(ControllerError::Object(format!("{node} has no EtcdMember"))) };
    // A learner serves no writes, and one that is down serves nothing: there is nothing to drain.
    if is_learner || !serves {
        if !is_still_so(view, memory, id, is_learner).await? || view.is_stale() {
            return Ok(Outcome::NotYet);
        }
        return listed(view, memory, id).await;
    }
    let leaving = leaving(view, memory, id).await?;
    if view.is_stale() {
        return Ok(Outcome::NotYet);
    }
    let watch = leaving.client.hold_watch().await;
    if let Err(error) = &watch {
        tracing::info!(member = %id, error = %error, "the member's drain could not be held open; trying again");
        return Ok(Outcome::NotYet);
    }
    let object = members::change(context, object, |spec| {
        if let Some(seat) = &mut spec.seat {
            seat.order.sequence += 1;
            seat.order.drain = Some(members::unique("drain"));
            seat.order.ask = leaving.others.iter().map(|c| c.url().to_owned()).collect();
        }
    })
    .await?;
    let closed = clock::within(SIGNAL_WITHIN, async {
        while !leaving.dial.is_closed(leaving.address).await {
            clock::sleep(LOOK_EVERY).await;
        }
    });
    if closed.await.is_none() {
        tracing::warn!(member = %id, "the member was not signalled in time, the order is taken back; its keeper starts it again if it was");
        let name = object.metadata.name.clone().unwrap_or_default();
        let fresh = context.members().get(&name).await.map_err(api_error("reading an EtcdMember"))?;
        members::change(context, &fresh, |spec| {
            if let Some(seat) = &mut spec.seat {
                seat.order.sequence += 1;
                seat.order.drain = None;
            }
        })
        .await?;
        *memory.drains_in_vain.entry(id.0).or_default() += 1;
        return Ok(Outcome::NotYet);
    }
    let at = clock::instant();
    memory.drains_in_vain.remove(&id.0);
    clock::sleep(FINISH_WITHIN).await;
    let removed = remove_now(&leaving, at).await;
    clock::sleep(HOLD_AFTER).await;
    drop(watch);
    removed
}

/// The second look at a member that is to go without a drain: another controller may have promoted it, or it answers by now.
async fn is_still_so(view: &View, memory: &mut Memory, id: MemberId, is_learner: bool) -> Result<bool, ControllerError> {
    let now = super::act::any_voter(view, memory).await?.member_list(LOOK_WITHIN).await?;
    let Some(member) = now.members.iter().find(|m| m.id == id && m.is_learner == is_learner) else { return Ok(false) };
    let (false, Some(url)) = (is_learner, member.client_urls.first()) else { return Ok(true) };
    let status = etcd::client(memory, url).await?.status(LOOK_WITHIN).await;
    Ok(!status.is_ok_and(|s| s.member_id == id && s.is_healthy()))
}

/// MemberRemove of a member that serves nobody.
pub(crate) async fn listed(view: &View, memory: &mut Memory, id: MemberId) -> Result<Outcome, ControllerError> {
    let reading = view.etcd.as_ref().map_err(|why| ControllerError::Object(why.clone()))?;
    let leader = reading.members.iter().filter_map(|(_, s)| s.as_ref()).find_map(|s| s.leader);
    // The leader first: etcd's own check of the quorum judges by what the member that is asked has applied.
    let others = reading.members.iter().filter(|(m, s)| m.id != id && !m.is_learner && s.is_some());
    let url = others.min_by_key(|(m, _)| Some(m.id) != leader).and_then(|(m, _)| m.client_urls.first());
    let Some(url) = url else { return Ok(Outcome::NotYet) };
    let client = etcd::client(memory, url).await?;
    super::act::passing("MemberRemove", client.member_remove(id).await)
}
