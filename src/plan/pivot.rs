//! The pivot: from one boot member to `size` members on our seats, without boot (design D7). Level-triggered: everything is derived
//! from what is observed, so that a crash at any point only means that the next controller looks again.
//!
//! In order: preflight → snapshot of boot → seats prepared → learners joined and promoted → clients seen → gate → leader moved →
//! boot drained, removed, killed → tombstone. At size 1 the clients are waited for while the new member is still a learner, so that
//! the time with two voters, of which none may fail, is under a second.

use crate::quorum::{is_healthy, may_remove};
use crate::{
    Boot, BootDrain, BootHost, ClientCounts, EtcdHealth, EtcdMember, FAST_LOOK_MS, Gate, HoldReason, MemberId, Observed, Plan,
    Preflight, Removal, SLOW_LOOK_MS, Seat, Snapshot, Step, Tombstone, WaitFor, grow,
};

/// gRPC's longest reconnect backoff, 120 s + 20 %, and a second: after that every channel has tried the new members at least once.
/// Stands in for the comparison of counts, never for "none at all".
pub(crate) const CLIENTS_LONGEST_BACKOFF_MS: u64 = 145_000;
/// How old a passed gate may be.
pub(crate) const GATE_FRESH_MS: u64 = 5_000;
/// How long to wait before a gate that was not passed is checked again.
const GATE_RETRY_MS: u64 = 1_000;
/// How often boot may be signalled and come back before a human has to look; at size 1 two voters hang on it.
const DRAIN_ATTEMPTS: u32 = 3;
const DRAIN_ATTEMPTS_AT_SIZE_1: u32 = 2;

/// A removal that was begun comes before everything else: nothing may be started beside it.
pub(crate) fn in_flight(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let Boot::Member { drain, .. } = &o.boot else { return None };
    o.boot.listed(members)?;
    match drain {
        // It is killed if it is removed, and started again after 10 s if it is not: both end this wait.
        BootDrain::Signalled { .. } => Some(Plan::wait(WaitFor::BootDrain)),
        // Who gave the order takes it back when no signal follows. It still stands, so he is gone: boot must not be stopped by an
        // agent that reads the order at some later time.
        BootDrain::Ordered { .. } => Some(Plan::Do(Step::WithdrawBootDrain)),
        BootDrain::None | BootDrain::StartedAgain { .. } | BootDrain::Failed { .. } | BootDrain::Unanswered | BootDrain::Gone => {
            None
        }
    }
}

pub(crate) fn plan(o: &Observed, members: &[EtcdMember]) -> Plan {
    let Boot::Member { snapshot, .. } = &o.boot else { return Plan::Done };
    let Some(boot) = o.boot.listed(members) else { return after_removal(o, members) };

    if let Some(plan) = before_the_first_change(o, members, *snapshot) {
        return plan;
    }
    if let Some(plan) = tried_too_often(o, members) {
        return plan;
    }
    if let Some(plan) = crate::heal::plan(o, members) {
        return plan;
    }
    if let Some(plan) = crate::evict::plan(o, members) {
        return plan;
    }
    // If boot stays, there is no moment of two voters to keep short.
    let promotion =
        if one_for_one(o) && !o.spec.skip_boot_removal { grow::Promotion::ByThePivot } else { grow::Promotion::WhenCaughtUp };
    if let Some(plan) = grow::plan(o, members, promotion) {
        return plan;
    }
    if o.spec.skip_boot_removal {
        return Plan::Done;
    }
    let two_voters = one_for_one(o) && !ours(o, members).is_empty();
    if let Some(plan) = clients_wanted(o, two_voters) {
        return plan;
    }
    if o.spec.hold_boot_removal && two_voters && !gate_was_passed(o) {
        // These two voters come from elsewhere, as from a larger size: without boot's gate the way is back, not forward.
        return crate::shrink::back_to_boot(o, members);
    }
    if o.spec.hold_boot_removal && !two_voters {
        return Plan::hold(
            HoldReason::HoldBootRemoval,
            "selfHosted.holdBootRemoval is set; boot stays a member until it is false again",
        );
    }
    remove_boot(o, members, boot)
}

/// Preflight and snapshot, while boot is still alone. Not repeated once a member of ours is listed.
fn before_the_first_change(o: &Observed, members: &[EtcdMember], snapshot: Snapshot) -> Option<Plan> {
    if o.seats.iter().any(|s| grow::listed(s, members).is_some()) {
        return None;
    }
    match &o.preflight {
        Preflight::NotRun => return Some(Plan::Do(Step::RunPreflight)),
        Preflight::Pending { .. } => return Some(Plan::wait(WaitFor::PreflightChecks)),
        Preflight::Failed { reason, message } => return Some(Plan::hold(*reason, message.clone())),
        Preflight::Passed => {}
    }
    if o.spec.preflight_only {
        return Some(Plan::Done);
    }
    match snapshot {
        Snapshot::None => Some(Plan::Do(Step::SnapshotBoot)),
        Snapshot::Pending => Some(Plan::wait(WaitFor::BootSnapshot)),
        Snapshot::Taken | Snapshot::Impossible => None,
    }
}

/// The gate was only checked because the clients had been seen. Counts go up and down with every reconnect, so while the gate counts they
/// are not compared again; and at two voters, where nothing may rest, nothing that was seen is asked for again.
fn clients_wanted(o: &Observed, two_voters: bool) -> Option<Plan> {
    match clients_seen(o)? {
        _ if two_voters && gate_was_passed(o) => None,
        Plan::Wait { what: WaitFor::ApiServersConnect, .. } if gate(o).is_none() && !anybody_lost(o) => None,
        plan => Some(plan),
    }
}

/// Whether some address has connections to boot and to no new member.
fn anybody_lost(o: &Observed) -> bool {
    match &o.clients {
        ClientCounts::Unknown { .. } => true,
        ClientCounts::Known { remotes, .. } => remotes.iter().any(is_lost),
    }
}

/// Connections from one address of which a few to the new members may be our own: a keeper asks the others for the member list now and
/// then, and cannot be told from an API server, both being root.
const FEW_CONNECTIONS: u32 = 4;

/// Whether a client would lose its etcd with boot. An API server holds a connection per resource to each etcd that it lists, so one that
/// lists the new members has about as many to them as to boot, and one that doesn't has none.
fn is_lost(remote: &crate::RemoteClient) -> bool {
    let best = remote.to_members.iter().copied().max().unwrap_or(0);
    if remote.to_boot <= FEW_CONNECTIONS {
        return remote.to_boot > 0 && best == 0;
    }
    u64::from(best) * 5 < u64::from(remote.to_boot) * 4
}

/// Whether the API servers would go on without boot (design D7.3). `None` = they would.
fn clients_seen(o: &Observed) -> Option<Plan> {
    let (since, remotes) = match &o.clients {
        ClientCounts::Unknown { .. } => return Some(Plan::Do(Step::CountClients)),
        ClientCounts::Known { listening_since_ms, remotes } => (*listening_since_ms, remotes),
    };
    let backoff_over = o.now_ms.saturating_sub(since) >= CLIENTS_LONGEST_BACKOFF_MS;
    // No agent stands beside such a boot: that no remote was counted does not mean that there is none, so time alone has to do.
    let nobody_counts = matches!(
        o.boot,
        Boot::Member { host: BootHost::Elsewhere, .. }
            | Boot::Member { host: BootHost::Command, snapshot: Snapshot::Impossible, .. }
    );
    if nobody_counts && !backoff_over {
        return Some(Plan::wait(WaitFor::ApiServersConnect));
    }
    if let Some(lost) = remotes.iter().find(|r| is_lost(r)) {
        if !backoff_over {
            return Some(Plan::wait(WaitFor::ApiServersConnect));
        }
        return Some(Plan::hold(
            HoldReason::ApiServerOnBootMember,
            format!(
                "{} has {} connections to boot and none, or only a few, to any new member: an API server there would lose its etcd; add the new members to its --etcd-servers and restart it",
                lost.ip, lost.to_boot
            ),
        ));
    }
    let like_boot = |r: &crate::RemoteClient| r.to_members.iter().all(|n| *n >= r.to_boot);
    if !backoff_over && !remotes.iter().all(like_boot) {
        return Some(Plan::wait(WaitFor::ApiServersConnect));
    }
    None
}

/// Gate, leader, removal. At size 1 the promotion stands in here, between the gate and the rest.
fn remove_boot(o: &Observed, members: &[EtcdMember], boot: &EtcdMember) -> Plan {
    // With two voters nothing is waited for that the gate has seen already: none of them may fail.
    let two_voters = one_for_one(o) && !ours(o, members).is_empty();
    if !(two_voters && gate_was_passed(o))
        && let Some(plan) = gate(o)
    {
        return plan;
    }
    if let Some((seat, learner)) = learner_of_ours(o, members) {
        return grow::promote(o, members, seat, learner);
    }
    let ours = ours(o, members);
    if ours.len() < o.spec.size as usize || !ours.iter().all(|m| is_healthy(m)) {
        return Plan::wait(WaitFor::VotersHealthy);
    }
    if !may_remove(members, boot.id) {
        return Plan::hold(
            HoldReason::ToleranceTooLow,
            "removing boot would leave too few healthy voters; bring the unhealthy members back first",
        );
    }
    if let EtcdHealth::Healthy { is_leader: true, .. } = boot.health {
        return match successor(&ours) {
            Some(to) => Plan::Do(Step::MoveLeader { from: boot.id, to }),
            None => Plan::wait(WaitFor::LearnerCatchesUp),
        };
    }
    // A boot that did not answer may still lead: only a leader among ours proves that its removal ends no leadership.
    if !ours.iter().any(|m| grow::leads(m)) {
        return Plan::wait(WaitFor::VotersHealthy);
    }
    removal(o, boot)
}

/// One member of ours takes over from boot, by 1→2→1.
fn one_for_one(o: &Observed) -> bool {
    o.spec.size == 1 && o.seats.len() <= 1
}

/// Boot came back each time: at size 1 our voter goes again, so that nothing rests at two voters; then a human has to look.
fn tried_too_often(o: &Observed, members: &[EtcdMember]) -> Option<Plan> {
    let Boot::Member { drain, host, .. } = &o.boot else { return None };
    let limit = if one_for_one(o) { DRAIN_ATTEMPTS_AT_SIZE_1 } else { DRAIN_ATTEMPTS };
    let give_up = match drain {
        BootDrain::StartedAgain { attempt } | BootDrain::Failed { attempt } => *attempt >= limit,
        // Once is enough: who begins to run the command says so.
        BootDrain::Unanswered => true,
        BootDrain::None | BootDrain::Ordered { .. } | BootDrain::Signalled { .. } | BootDrain::Gone => return None,
    };
    // Not at two voters: counting anew would keep them there for ever.
    let two_voters = one_for_one(o) && !ours(o, members).is_empty();
    if o.spec.hold_boot_removal && !two_voters {
        return Some(Plan::Do(Step::WithdrawBootDrain));
    }
    if !give_up {
        return None;
    }
    if two_voters {
        return Some(crate::shrink::back_to_boot(o, members));
    }
    if *drain == BootDrain::Unanswered {
        return Some(Plan::hold(
            HoldReason::BootCommandMissing,
            "boot was to be stopped by its command (selfHosted.stopBoot), and nobody ran it: run `etcd-operator pivot --boot-command <program>` where that program can be run; the pivot goes on as soon as it does",
        ));
    }
    let look = match host {
        BootHost::Command => "look at what boot's command printed (on stderr of the pivot command)",
        BootHost::StaticPod | BootHost::NotFound | BootHost::Elsewhere => "look at the agent's log on its node",
    };
    Some(Plan::hold(
        HoldReason::BootCameBack,
        format!(
            "boot was told to stop and had to be started again each time; {look}, then set selfHosted.holdBootRemoval to true and back to false"
        ),
    ))
}

/// Whether the gate was passed with the members that are listed now, at whatever time.
fn gate_was_passed(o: &Observed) -> bool {
    match o.gate {
        Gate::Passed { .. } => true,
        Gate::NotChecked | Gate::NotYet { .. } | Gate::HashMismatch { .. } => false,
    }
}

fn gate(o: &Observed) -> Option<Plan> {
    match &o.gate {
        Gate::Passed { at_ms } if o.now_ms.saturating_sub(*at_ms) <= GATE_FRESH_MS => None,
        Gate::NotYet { at_ms, .. } if o.now_ms.saturating_sub(*at_ms) < GATE_RETRY_MS => {
            Some(Plan::Wait { what: WaitFor::BootRemovalGate, look_again_ms: FAST_LOOK_MS })
        }
        Gate::HashMismatch { what } => Some(Plan::hold(
            HoldReason::HashMismatch,
            format!(
                "the stores differ: {what}; do not go on: compare with `etcdctl endpoint hashkv`, restore from the snapshot of boot if in doubt"
            ),
        )),
        Gate::NotChecked | Gate::Passed { .. } | Gate::NotYet { .. } => Some(Plan::Do(Step::CheckGate)),
    }
}

fn ours<'a>(o: &Observed, members: &'a [EtcdMember]) -> Vec<&'a EtcdMember> {
    o.seats.iter().filter_map(|s| grow::listed(s, members)).filter(|m| !m.is_learner).collect()
}

fn learner_of_ours<'a>(o: &'a Observed, members: &[EtcdMember]) -> Option<(&'a Seat, MemberId)> {
    o.seats.iter().find_map(|s| grow::listed(s, members).filter(|m| m.is_learner).map(|m| (s, m.id)))
}

/// Who is to lead: the voter with the least lag, on two samples.
pub(crate) fn successor(ours: &[&EtcdMember]) -> Option<MemberId> {
    ours.iter()
        .filter_map(|m| match m.health {
            EtcdHealth::Healthy { lag: (now, Some(before)), .. }
                if now <= grow::CAUGHT_UP_ENTRIES && before <= grow::CAUGHT_UP_ENTRIES =>
            {
                Some((now.max(before), m.id))
            }
            EtcdHealth::Healthy { .. } | EtcdHealth::Unhealthy | EtcdHealth::Unknown => None,
        })
        .min()
        .map(|(_, id)| id)
}

fn removal(o: &Observed, boot: &EtcdMember) -> Plan {
    let Boot::Member { host, drain, .. } = &o.boot else { return Plan::Done };
    let dead = boot.health == EtcdHealth::Unknown;
    let how = match host {
        BootHost::StaticPod | BootHost::Command => Removal::Drain { attempt: attempts(*drain) + 1 },
        BootHost::Elsewhere => Removal::Alive,
        // It doesn't answer and its node has no such process: there is nothing to drain.
        BootHost::NotFound if dead => Removal::Alive,
        BootHost::NotFound => {
            return Plan::hold(
                HoldReason::BootProcessNotFound,
                "boot answers, but the agent of its node finds no etcd process or no static pod manifest of it; see the status of the EtcdMember <cluster>-boot, or run the pivot command with --boot-command if boot is no static pod",
            );
        }
    };
    Plan::Do(Step::RemoveBoot { boot: boot.id, how })
}

fn attempts(drain: BootDrain) -> u32 {
    match drain {
        BootDrain::None | BootDrain::Unanswered | BootDrain::Gone => 0,
        BootDrain::Ordered { attempt }
        | BootDrain::Signalled { attempt }
        | BootDrain::StartedAgain { attempt }
        | BootDrain::Failed { attempt } => attempt,
    }
}

/// Boot is no longer listed: its process goes, and something is left that keeps it from coming back.
fn after_removal(o: &Observed, members: &[EtcdMember]) -> Plan {
    let Boot::Member { id, tombstone, .. } = &o.boot else { return Plan::Done };
    if id.is_none() {
        // The endpoint answers for a cluster in which no member has its URL: nothing is known about boot, so nothing is done.
        return Plan::hold(
            HoldReason::BootUnreachable,
            "no member advertises selfHosted.bootMemberClientEndpoint as its client URL; correct the field, or boot's --advertise-client-urls",
        );
    }
    match tombstone {
        Tombstone::None => Plan::Do(Step::TombstoneBoot),
        Tombstone::Pending => Plan::Wait { what: WaitFor::BootTombstone, look_again_ms: SLOW_LOOK_MS / 10 },
        Tombstone::Set | Tombstone::Impossible => crate::steady(o, members),
    }
}
