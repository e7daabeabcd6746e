//! The planner: a pure function from what was observed to the one next step. No IO, no clock, no dependencies.
//!
//! [`plan`] is the same function in the controller, in the simulator and in the model checker. Time comes in as data
//! ([`Observed::now_ms`]); what was not read is `Unknown`, which counts as unhealthy and never as absent.
//!
//! Where to read: the order of concerns is in [`plan`]; the pivot from boot etcd in `pivot.rs`; adding members in `grow.rs`; giving a
//! learner up in `evict.rs`; replacing a lost voter in `heal.rs`; scaling in in `shrink.rs`; stores that differ in `corrupt.rs`; other settings in `roll_out.rs`; keepers after an upgrade in `hand_over.rs`; the quorum arithmetic in `quorum.rs`.

mod absence;
mod corrupt;
mod evict;
mod found;
mod grow;
mod hand_over;
mod heal;
mod observed;
mod outcome;
mod pivot;
mod progress;
mod quorum;
mod readdress;
mod roll_out;
mod seats;
mod shrink;
mod ways;

pub use absence::{Absences, SeatSeen};
pub use corrupt::{NOBODY, Stores};
pub use evict::{DATA_IS_CORRUPT, DATA_IS_GONE, wait_ms};
pub use grow::CAUGHT_UP_ENTRIES;
pub use observed::{
    Address, AgentView, ApiServer, Boot, BootDrain, BootHost, ClientCounts, ClusterId, Downgrade, Etcd, EtcdHealth, EtcdMember,
    Founding, Gate, KeeperBinary, KeeperView, MemberId, Node, NodeName, Observed, Preflight, Preparation, Readiness,
    RemoteClient, RunsWith, Seat, Snapshot, Spec, Tombstone,
};
pub use outcome::{HoldReason, Plan, Removal, Restart, Step, WaitFor};
pub use progress::{Progress, Sample};
pub use quorum::{Tolerance, quorum_of};
pub use shrink::OVERRULE;

/// The one next step. Priority: safety of what is in flight, then the pivot, then shrinking, then growing.
#[must_use]
pub fn plan(o: &Observed) -> Plan {
    if let Etcd::Known { members, .. } = &o.etcd
        && let Some(plan) = pivot::in_flight(o, members)
    {
        return plan;
    }
    if let Some(plan) = refuse_bad_input(o) {
        return plan;
    }
    if o.spec.paused {
        return Plan::Wait { what: WaitFor::Unpause, look_again_ms: SLOW_LOOK_MS };
    }
    if let Some(plan) = found::plan(o) {
        return plan;
    }
    let Etcd::Known { members, .. } = &o.etcd else {
        return Plan::hold(HoldReason::EtcdUnreachable, format!("no linearizable member list: {}", o.etcd.why_unknown()));
    };
    // Nothing else could be carried out.
    if let Some(plan) = corrupt::plan(o, members) {
        return plan;
    }
    if o.spec.abort && o.boot.listed(members).is_some() {
        return shrink::back_to_boot(o, members);
    }
    if o.boot.is_pivot() {
        return pivot::plan(o, members);
    }
    steady(o, members)
}

/// What is wanted after the pivot: the right number of members, all of them alive.
fn steady(o: &Observed, members: &[EtcdMember]) -> Plan {
    if let Some(plan) = hand_over::call_off(o, members).or_else(|| roll_out::call_off(o, members)) {
        return plan;
    }
    // Whoever waits for that member to be well would wait for ever.
    if let Some(plan) = roll_out::take_back(o, members) {
        return plan;
    }
    if let Some(plan) = heal::plan(o, members) {
        return plan;
    }
    if let Some(step @ Plan::Do(_)) = readdress::plan(o, members) {
        return step;
    }
    if let Some(plan) = shrink::plan(o, members) {
        return plan;
    }
    if let Some(plan) = evict::plan(o, members) {
        return plan;
    }
    if let Some(plan) = roll_out::let_join(o, members) {
        return plan;
    }
    // Whoever is lost is replaced, whatever his keeper said last.
    if heal::lost(o, members).is_none()
        && let Some(plan) =
            heal::on_corrupt_data(o, members).or_else(|| readdress::plan(o, members)).or_else(|| grow::refused_member(o, members))
    {
        return plan;
    }
    if let Some(plan) = grow::plan(o, members, grow::Promotion::WhenCaughtUp) {
        return plan;
    }
    if let Some(plan) = heal::no_node(o, members) {
        return plan;
    }
    let is_well = members.iter().all(quorum::is_healthy);
    match roll_out::plan(o, members) {
        // What waits for a human holds up no keeper.
        Some(hold @ Plan::Hold { .. }) if is_well => return hand_over::plan(o).unwrap_or(hold),
        Some(plan) => return plan,
        None => {}
    }
    if is_well {
        return hand_over::plan(o).or_else(|| roll_out::left(o)).unwrap_or(Plan::Done);
    }
    Plan::Wait { what: WaitFor::VotersHealthy, look_again_ms: SLOW_LOOK_MS }
}

/// How soon to look again while something is moving, in ms.
pub const FAST_LOOK_MS: u64 = 200;
/// How soon to look again when only a human or a slow event can change something, in ms.
pub const SLOW_LOOK_MS: u64 = 5_000;

/// Sizes that a cluster may have: etcd's own advice ends at 7; 9 still works.
pub const SIZES: std::ops::RangeInclusive<u32> = 1..=9;

fn refuse_bad_input(o: &Observed) -> Option<Plan> {
    if !SIZES.contains(&o.spec.size) {
        return Some(Plan::hold(
            HoldReason::InvalidSpec,
            format!("spec.size is {}; set it to 1 to 9 (odd is best: an even size tolerates no more failures)", o.spec.size),
        ));
    }
    None
}

#[cfg(test)]
mod tests;
