//! Carrying out a step, with what may go wrong in between. A disruptive step first swaps its intent against the version that was
//! observed; the others are plain writes of the API, as a controller with a stale cache makes them.

use etcd_operator_plan::{BootDrain, Gate, KeeperView, MemberId, NodeName, Removal, Step, Tombstone};

use crate::api::{DrainOrder, Restart, SeatObject};
use crate::checks;
use crate::observe::{Controller, Observation};
use crate::raft::{Life, Refusal};
use crate::world::{BOOT, World};
use crate::{Ms, peer_url};

/// How long a controller waits for the signal (GOAWAY on its own stream) before it takes the order back, ms.
const SIGNAL_MS: Ms = 3_000;
/// MemberRemove follows the signal within this time or not at all (design D7.5), ms.
const REMOVE_DEADLINE_MS: Ms = 5_000;
/// Lag up to which the gate counts a voter as caught up.
const GATE_LAG: u64 = 100;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interrupt {
    /// Nothing.
    #[default]
    None,
    /// It is applied, but the answer is lost.
    AnswerLost,
    /// The controller dies before the call.
    CrashBefore,
    /// The controller dies right after the call.
    CrashAfter,
}

/// Why a step was not carried out, as far as the controller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Another controller was faster.
    Conflict,
    /// The API does not answer.
    ApiDown,
    /// etcd refused.
    Etcd(Refusal),
    /// No answer.
    AnswerLost,
    /// The controller died.
    Crashed,
    /// The step names a node or member that is not there.
    NoSuchThing,
}

/// A removal of boot under way in a controller: order written, stream open, waiting for the signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    pub(crate) since: Ms,
    pub(crate) seats: Vec<usize>,
    pub(crate) faults_seen: u64,
}

/// Carries out one step.
///
/// # Errors
/// What the controller would see.
pub fn execute(
    world: &mut World,
    controller: &mut Controller,
    step: &Step,
    seen: &Observation,
    interrupt: Interrupt,
) -> Result<(), Failure> {
    let now = world.now;
    world.trace.tell(now, format!("{}: {step:?} ({interrupt:?})", controller.name));
    if interrupt == Interrupt::CrashBefore {
        controller.crash(world);
        return Err(Failure::Crashed);
    }
    let result = intend(world, step, seen).and_then(|()| apply(world, controller, step, seen));
    if let Err(failure) = result {
        world.trace.tell(now, format!("{}: {failure:?}", controller.name));
    }
    match interrupt {
        Interrupt::None | Interrupt::CrashBefore => result,
        Interrupt::AnswerLost => Err(Failure::AnswerLost),
        Interrupt::CrashAfter => {
            controller.crash(world);
            Err(Failure::Crashed)
        }
    }
}

/// Records the intent of a disruptive step by compare-and-swap.
fn intend(world: &mut World, step: &Step, seen: &Observation) -> Result<(), Failure> {
    let only_etcd = matches!(step, Step::CheckGate);
    if !only_etcd && !world.api_answers() {
        return Err(Failure::ApiDown);
    }
    if step.is_disruptive() {
        if world.api.version != seen.version {
            return Err(Failure::Conflict);
        }
        world.api.version += 1;
    }
    Ok(())
}

fn apply(world: &mut World, controller: &mut Controller, step: &Step, seen: &Observation) -> Result<(), Failure> {
    let now = world.now;
    match step {
        Step::RunPreflight => {
            world.api.preflight_at.get_or_insert(now);
        }
        Step::SnapshotBoot => crate::boot::ask_snapshot(world),
        Step::AssignSeats { nodes } => {
            for name in nodes {
                assign(world, name)?;
            }
        }
        Step::AddLearner { node } => {
            let url = peer_url(index(world, node)?);
            let before = checks::before(world, seen.faults_seen);
            world.raft.add_learner(now, &url).map_err(Failure::Etcd)?;
            checks::after(world, &before, "AddLearner", None);
        }
        Step::StartMember { node, member } => {
            let seat = seat_on(world, node)?;
            seat.ordered = Some(*member);
            seat.changed_at = now;
        }
        Step::CountClients => {
            world.api.count_at.get_or_insert(now);
        }
        Step::Promote { member, .. } => {
            let before = checks::before(world, seen.faults_seen);
            world.raft.promote(now, *member).map_err(Failure::Etcd)?;
            checks::at_promotion(world, &before);
            checks::after(world, &before, "Promote", None);
            // As the controller's next look does.
            if let Some(node) = (0..world.nodes.len()).find(|n| world.member_on(*n) == Some(*member)) {
                (world.api.evicted[node], world.api.evictions[node]) = (None, 0);
            }
        }
        Step::CheckGate => check_gate(world, controller),
        Step::MoveLeader { from, to } => world.raft.move_leader(*from, *to).map_err(Failure::Etcd)?,
        Step::RemoveBoot { how, .. } => {
            let seats = seats_of(world, seen)?;
            match how {
                Removal::Alive => remove_boot(world, &seats, seen.faults_seen)?,
                Removal::Drain { attempt } => {
                    world.api.boot.drain_order = Some(DrainOrder { id: world.api.version, attempt: *attempt });
                    world.api.boot.changed_at = now;
                    world.boot.stream = true;
                    controller.doing = Some(Doing { since: now, seats, faults_seen: seen.faults_seen });
                }
            }
        }
        Step::WithdrawBootDrain => withdraw(world),
        Step::TombstoneBoot => {
            world.api.boot.tombstone =
                if world.boot.host == crate::boot::BootHost::Elsewhere { Tombstone::Impossible } else { Tombstone::Pending };
            world.api.boot.changed_at = now;
        }
        Step::RemoveMember { node, member } => {
            let node = index(world, node)?;
            if world.member_on(node) != Some(*member) {
                return Err(Failure::Etcd(Refusal::NotFound));
            }
            let before = checks::before(world, seen.faults_seen);
            checks::at_removal(world, &seen.observed, &before, *member);
            world.raft.remove(now, *member).map_err(Failure::Etcd)?;
            checks::after(world, &before, "RemoveMember", Some(*member));
        }
        Step::Evict { node, member } => {
            if !world.raft.listed(*member).is_some_and(|m| m.learner) {
                return Err(Failure::Etcd(Refusal::NotFound));
            }
            let position = index(world, node)?;
            // A removal that is refused for now is tried again, and counts once.
            if world.api.evicted[position].is_none_or(|at| now.saturating_sub(at) >= crate::world::PATIENCE_MS) {
                world.api.evicted[position] = Some(now);
                world.api.evictions[position] += 1;
            }
            let before = checks::before(world, seen.faults_seen);
            checks::at_eviction(world, &seen.observed, node, *member);
            world.raft.remove(now, *member).map_err(Failure::Etcd)?;
            checks::after(world, &before, "Evict", Some(*member));
        }
        Step::Unseat { node } => {
            let node = index(world, node)?;
            world.api.seats.retain(|s| s.node != node);
        }
        Step::RollOut { node, .. } => {
            let (wanted, restart) = (world.api.settings, Restart { id: world.api.version, faults_seen: seen.faults_seen });
            let seat = seat_on(world, node)?;
            (seat.settings, seat.restart, seat.changed_at) = (wanted, Some(restart), now);
        }
        Step::CallOffRollOut { node } => {
            let seat = seat_on(world, node)?;
            (seat.restart, seat.changed_at) = (None, now);
        }
        Step::Found { .. }
        | Step::PrepareRollOut
        | Step::RollBack { .. }
        | Step::EnableDowngrade
        | Step::CancelDowngrade
        | Step::Readdress { .. }
        | Step::CompareStores
        | Step::RemoveCorrupt { .. }
        | Step::DisarmCorrupt { .. } => return Err(Failure::NoSuchThing),
        // Nobody upgrades the operator here.
        Step::HandOverKeeper { .. } | Step::CallOffHandOver { .. } => return Err(Failure::NoSuchThing),
    }
    Ok(())
}

/// As the controller does before it plans: an order whose settings nobody wants would count at the next start.
pub(crate) fn put_settings_right(world: &mut World) {
    let (wanted, now) = (world.api.settings, world.now);
    let is_open = |seat: &SeatObject| seat.restart.is_some_and(|restart| seat.restarted != Some(restart.id));
    let is_wrong = |seat: &&mut SeatObject| seat.runs_with == Some(wanted) && seat.settings != wanted && !is_open(seat);
    for seat in world.api.seats.iter_mut().filter(is_wrong) {
        (seat.settings, seat.changed_at) = (wanted, now);
    }
}

fn seat_on<'a>(world: &'a mut World, name: &NodeName) -> Result<&'a mut SeatObject, Failure> {
    let node = index(world, name)?;
    world.api.seats.iter_mut().find(|s| s.node == node).ok_or(Failure::NoSuchThing)
}

fn assign(world: &mut World, name: &NodeName) -> Result<(), Failure> {
    let node = index(world, name)?;
    if world.api.seats.iter().all(|s| s.node != node) {
        let keeper = KeeperView::NotPrepared { why: "just assigned".into() };
        world.api.seats.push(SeatObject {
            node,
            changed_at: world.now,
            ordered: None,
            settings: world.api.settings,
            restart: None,
            runs_with: None,
            restarted: None,
            keeper,
        });
    }
    Ok(())
}

fn index(world: &World, name: &NodeName) -> Result<usize, Failure> {
    world.nodes.iter().position(|n| n.name == name.0).ok_or(Failure::NoSuchThing)
}

fn seats_of(world: &World, seen: &Observation) -> Result<Vec<usize>, Failure> {
    seen.observed.seats.iter().map(|s| index(world, &s.node)).collect()
}

/// One round of linearizable reads: the members besides boot run and have caught up, and boot's data is theirs.
fn check_gate(world: &mut World, controller: &mut Controller) {
    let ids: Vec<MemberId> = world.raft.config.iter().map(|m| m.id).collect();
    let up = |id: &MemberId| matches!(world.raft.processes.get(id).map(|p| p.life), Some(Life::Up { .. }));
    let ready = |id: &MemberId| up(id) && world.raft.lag(*id) <= GATE_LAG;
    let quorum = world.raft.leader.is_some() && world.raft.spare_voters() >= 0;
    let gate = if quorum && ids.iter().filter(|id| **id != BOOT).all(ready) {
        world.trace.gates.push((world.now, ids.clone()));
        Gate::Passed { at_ms: world.now }
    } else {
        Gate::NotYet { at_ms: world.now, why: "a member does not answer or lags".into() }
    };
    controller.gate = (gate, ids);
}

fn withdraw(world: &mut World) {
    world.api.boot.drain_order = None;
    world.api.boot.changed_at = world.now;
}

fn remove_boot(world: &mut World, seats: &[usize], faults_seen: u64) -> Result<(), Failure> {
    if !world.boot_listed() {
        return Err(Failure::Etcd(Refusal::NotFound));
    }
    let before = checks::before(world, faults_seen);
    let judged = checks::judge_boot_removal(world, seats, faults_seen == world.trace.faults);
    world.raft.remove(world.now, BOOT).map_err(Failure::Etcd)?;
    world.trace.boot_removals += 1;
    world.trace.violations.extend(judged);
    let now = world.now;
    world.trace.tell(now, "boot is removed");
    checks::after(world, &before, "RemoveBoot", Some(BOOT));
    Ok(())
}

/// Goes on with a removal under way: MemberRemove as soon as the signal is seen, never later than 5 s after it. The sign is GOAWAY on
/// the controller's own stream, so that nothing here goes through the API.
pub fn go_on(world: &mut World, controller: &mut Controller) {
    let Some(doing) = controller.doing.clone() else { return };
    match world.boot.journal {
        Some(journal) if world.now <= journal.at + REMOVE_DEADLINE_MS => {
            controller.doing = None;
            if let Err(failure) = remove_boot(world, &doing.seats, doing.faults_seen) {
                let now = world.now;
                world.trace.tell(now, format!("{}: MemberRemove of boot: {failure:?}", controller.name));
            }
        }
        Some(_) => controller.doing = None,
        None => {
            let failed = matches!(world.api.boot.drain(), BootDrain::Failed { .. });
            if failed || !world.boot_listed() || world.now >= doing.since + SIGNAL_MS {
                controller.doing = None;
                world.boot.stream = false;
                // An agent that could not signal has answered: the order has been used, and its answer counts the attempts.
                if !failed && world.api_answers() {
                    withdraw(world);
                }
            }
        }
    }
}
