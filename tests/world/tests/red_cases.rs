//! Red cases: deliberately wrong planners. Each check must flag the one that breaks it, else it is blind.
#![allow(clippy::panic, clippy::expect_used, reason = "a test ends by it")]

use etcd_operator_plan::{Etcd, Gate, Observed, Plan, Preflight, Removal, Step, WaitFor, plan};
use etcd_operator_world::{BOOT, Edit, Event, Fault, Interrupt, Rest, Run, Setup, Sight, Violation, World, checks, execute};

fn drive(planner: fn(&Observed) -> Plan, setup: &Setup, passes: usize) -> World {
    let mut run = Run::new(setup, planner);
    for _ in 0..passes {
        run.happen(&Event::Pass { who: 0, sight: Sight::default(), interrupt: Interrupt::None });
    }
    run.world
}

fn remove_boot() -> Plan {
    Plan::Do(Step::RemoveBoot { boot: BOOT, how: Removal::Drain { attempt: 1 } })
}

/// The real planner, told that the gate has just been passed.
fn without_gate(o: &Observed) -> Plan {
    let mut o = o.clone();
    if matches!(o.gate, Gate::NotChecked) {
        o.gate = Gate::Passed { at_ms: o.now_ms };
    }
    plan(&o)
}

/// The real planner, told that every client is connected everywhere.
fn without_waiting_for_clients(o: &Observed) -> Plan {
    let mut o = o.clone();
    o.clients = etcd_operator_plan::ClientCounts::Known { listening_since_ms: 0, remotes: Vec::new() };
    plan(&o)
}

/// Leaves the leader where it is.
fn without_moving_the_leader(o: &Observed) -> Plan {
    match plan(o) {
        Plan::Do(Step::MoveLeader { .. }) => remove_boot(),
        other => other,
    }
}

/// Adds each seat as soon as it may, whatever else is in flight.
fn two_learners(o: &Observed) -> Plan {
    let Etcd::Known { members, .. } = &o.etcd else { return plan(o) };
    let missing = o.seats.iter().find(|s| !members.iter().any(|m| m.peer_urls.contains(&s.peer_url)));
    match (&o.preflight, missing) {
        (Preflight::Passed, Some(seat)) => Plan::Do(Step::AddLearner { node: seat.node.clone() }),
        _ => plan(o),
    }
}

/// Promotes what has caught up although a voter is dead.
fn promotes_beside_a_dead_voter(o: &Observed) -> Plan {
    let Etcd::Known { members, .. } = &o.etcd else { return plan(o) };
    let learner = members.iter().find(|m| m.is_learner);
    match (plan(o), learner) {
        (Plan::Wait { what: WaitFor::VotersHealthy, .. }, Some(learner)) => {
            let seat = o.seats.iter().find(|s| learner.peer_urls.contains(&s.peer_url)).expect("our seat");
            Plan::Do(Step::Promote { node: seat.node.clone(), member: learner.id })
        }
        (other, _) => other,
    }
}

/// Removes a living voter of ours while another one is dead.
fn removes_a_living_voter(o: &Observed) -> Plan {
    let Etcd::Known { members, .. } = &o.etcd else { return plan(o) };
    let dead = members.iter().any(|m| !m.is_learner && m.health == etcd_operator_plan::EtcdHealth::Unknown);
    let living = o.seats.iter().find_map(|s| {
        let member = members.iter().find(|m| m.peer_urls.contains(&s.peer_url))?;
        let follows = matches!(member.health, etcd_operator_plan::EtcdHealth::Healthy { is_leader: false, .. });
        follows.then(|| Step::RemoveMember { node: s.node.clone(), member: member.id })
    });
    match (dead, living) {
        (true, Some(step)) => Plan::Do(step),
        _ => plan(o),
    }
}

#[test]
fn removing_boot_without_the_gate_is_flagged() {
    let world = drive(without_gate, &Setup::of(3, 3), 600);
    let found = world.trace.violations.iter().any(|v| matches!(v, Violation::BootRemovedTooEarly { .. }));
    assert!(found, "{:?}", world.trace);
}

#[test]
fn removing_boot_before_all_seats_vote_is_flagged() {
    fn hasty(o: &Observed) -> Plan {
        match plan(o) {
            Plan::Do(Step::AddLearner { .. }) if o.seats.len() == 3 && voters(o) == 3 => remove_boot(),
            other => other,
        }
    }
    fn voters(o: &Observed) -> usize {
        match &o.etcd {
            Etcd::Known { members, .. } => members.iter().filter(|m| !m.is_learner).count(),
            Etcd::Unknown { .. } => 0,
        }
    }
    let world = drive(hasty, &Setup::of(3, 3), 600);
    let found = world.trace.violations.iter().any(|v| matches!(v, Violation::BootRemovedTooEarly { .. }));
    assert!(found, "{:?}", world.trace);
}

#[test]
fn removing_the_leader_is_flagged_and_costs_an_election() {
    let world = drive(without_moving_the_leader, &Setup::of(3, 3), 600);
    assert!(world.trace.violations.contains(&Violation::LeaderRemoved { member: BOOT }), "{:?}", world.trace.violations);
    assert!(world.trace.elections > 0 && world.trace.longest_gap >= 1_000, "{:?}", world.trace.longest_gap);
}

#[test]
fn not_waiting_for_the_clients_fails_writes() {
    let setup = Setup { refused_before: 9, ..Setup::of(3, 3) };
    let world = drive(without_waiting_for_clients, &setup, 600);
    assert!(!world.boot_listed() && !world.trace.failed.is_empty(), "{:?}", world.trace.failed.len());
}

#[test]
fn a_second_learner_is_flagged() {
    let world = drive(two_learners, &Setup::of(3, 3), 600);
    assert!(world.trace.violations.contains(&Violation::SecondChangeInFlight), "{:?}", world.trace.violations);
}

/// The real planner, without the patience.
fn impatient(o: &Observed) -> Plan {
    plan(&Observed { learner_patience_ms: 0, ..o.clone() })
}

/// The real planner, with a patience that never ends.
fn patient(o: &Observed) -> Plan {
    plan(&Observed { learner_patience_ms: u64::MAX, ..o.clone() })
}

#[test]
fn evicting_a_learner_that_gets_on_is_flagged() {
    let world = drive(impatient, &Setup::of(3, 3), 300);
    assert!(matches!(world.trace.violations[..], [Violation::EvictedTooEarly { .. }, ..]), "{:?}", world.trace.violations);
}

#[test]
fn a_node_on_a_dead_link_holds_nobody_up_where_there_is_another() {
    for (planner, ends) in [(plan as fn(&Observed) -> Plan, true), (patient, false)] {
        let mut run = Run::new(&Setup::of(4, 3), planner);
        run.happen(&Event::Fault(Fault::Starve(1)));
        let rest = run.settle(6_000);
        assert_eq!(rest == Rest::Done && !run.world.boot_listed(), ends, "{rest:?}");
        assert_eq!(run.world.trace.violations, []);
    }
}

#[test]
fn a_node_without_power_holds_nobody_up_where_there_is_another() {
    for (planner, ends) in [(plan as fn(&Observed) -> Plan, true), (patient, false)] {
        let mut run = Run::new(&Setup::of(4, 3), planner);
        for _ in 0..2_000 {
            run.happen(&Event::Pass { who: 0, sight: Sight::default(), interrupt: Interrupt::None });
            if run.world.raft.config.iter().any(|m| m.learner) && run.world.raft.voters().count() == 2 {
                break;
            }
        }
        run.happen(&Event::Fault(Fault::PowerCut(1)));
        let rest = run.settle(6_000);
        assert_eq!(rest == Rest::Done && !run.world.boot_listed(), ends, "{rest:?}");
        assert_eq!(run.world.trace.violations, []);
    }
}

/// Drives until the third learner is listed, with `voters` voters, then kills the given nodes for good.
fn with_dead_nodes(planner: fn(&Observed) -> Plan, size: u32, voters: usize, dead: &[usize]) -> Run {
    played(planner, size, voters, dead, |_| {})
}

fn played(planner: fn(&Observed) -> Plan, size: u32, voters: usize, dead: &[usize], set_up: fn(&mut World)) -> Run {
    let mut run = Run::new(&Setup::of(5, size), planner);
    set_up(&mut run.world);
    for _ in 0..2_000 {
        run.happen(&Event::Pass { who: 0, sight: Sight::default(), interrupt: Interrupt::None });
        if run.world.raft.config.iter().any(|m| m.learner) && run.world.raft.voters().count() == voters {
            break;
        }
    }
    for node in dead {
        run.happen(&Event::Fault(Fault::PowerCut(*node)));
    }
    for _ in 0..200 {
        run.happen(&Event::Pass { who: 0, sight: Sight::default(), interrupt: Interrupt::None });
    }
    run
}

#[test]
fn promoting_beside_a_dead_voter_is_flagged() {
    // Boot, cp1 and cp2 vote, cp3 learns; cp2 dies.
    let run = with_dead_nodes(promotes_beside_a_dead_voter, 3, 3, &[1]);
    let violations = &run.world.trace.violations;
    assert!(violations.contains(&Violation::PromotedBesideDeadVoter), "{violations:?}");
    let right = with_dead_nodes(plan, 3, 3, &[1]);
    assert_eq!(right.world.trace.violations, []);
}

#[test]
fn removing_a_living_voter_beside_a_dead_one_is_flagged() {
    let run = with_dead_nodes(removes_a_living_voter, 5, 4, &[1]);
    assert_eq!(run.world.trace.violations, [], "etcd itself refuses it");
    let run = played(removes_a_living_voter, 5, 4, &[1], |world| world.raft.strict = false);
    let found = run.world.trace.violations.iter().any(|v| matches!(v, Violation::QuorumLostByUs { .. }));
    assert!(found, "{:#?}", run.world.trace.story);
}

/// Takes silence for death: replaces whoever does not answer, though its node is there.
fn hasty_healer(o: &Observed) -> Plan {
    let mut o = o.clone();
    o.replace_after_ms = 1_000;
    let etcd_operator_plan::Etcd::Known { members, .. } = &o.etcd else { return plan(&o) };
    let silent = |s: &etcd_operator_plan::Seat| {
        members.iter().any(|m| m.peer_urls.contains(&s.peer_url) && m.health == etcd_operator_plan::EtcdHealth::Unknown)
    };
    let gone: Vec<_> = o.seats.iter().map(silent).collect();
    o.seats.iter_mut().zip(gone).filter(|(_, gone)| *gone).for_each(|(s, _)| s.away_since_ms = s.down_since_ms);
    plan(&o)
}

#[test]
fn replacing_a_voter_that_only_does_not_answer_the_controller_is_flagged() {
    for (planner, is_wrong) in [(hasty_healer as fn(&Observed) -> Plan, true), (plan, false)] {
        let mut run = Run::new(&Setup::of(4, 3), plan);
        assert_eq!(run.settle(6_000), Rest::Done);
        run.plan_with(planner);
        for _ in 0..400 {
            let sight = Sight { mute: 0b010, ..Sight::default() };
            run.happen(&Event::Pass { who: 0, sight, interrupt: Interrupt::None });
        }
        let found = run.world.trace.violations.iter().any(|v| matches!(v, Violation::LivingMemberRemoved { .. }));
        assert_eq!(found, is_wrong, "{:#?}", run.world.trace.story);
    }
}

/// Shrinks from the front, whoever leads.
fn shrinks_from_the_front(o: &Observed) -> Plan {
    match plan(o) {
        Plan::Do(Step::RemoveMember { .. }) if o.spec.size < 3 => {
            let etcd_operator_plan::Etcd::Known { members, .. } = &o.etcd else { return plan(o) };
            let leads = |m: &&etcd_operator_plan::EtcdMember| {
                matches!(m.health, etcd_operator_plan::EtcdHealth::Healthy { is_leader: true, .. })
            };
            let leader = members.iter().find(leads).expect("a leader");
            let seat = o.seats.iter().find(|s| leader.peer_urls.contains(&s.peer_url)).expect("its seat");
            Plan::Do(Step::RemoveMember { node: seat.node.clone(), member: leader.id })
        }
        other => other,
    }
}

#[test]
fn scaling_in_by_the_leader_is_flagged() {
    let mut run = Run::new(&Setup::of(3, 3), plan);
    assert_eq!(run.settle(6_000), Rest::Done);
    run.plan_with(shrinks_from_the_front);
    run.happen(&Event::Edit(Edit::Size(1)));
    run.settle(6_000);
    let found = run.world.trace.violations.iter().any(|v| matches!(v, Violation::LeaderRemoved { .. }));
    assert!(found, "{:#?}", run.world.trace.story);
}

#[test]
fn a_lost_acknowledged_write_is_flagged() {
    let mut world = drive(plan, &Setup::of(3, 3), 10);
    let last = world.trace.acked.expect("writes go on");
    world.trace.acked = Some((last.0 + 1_000, last.1));
    checks::acked_writes_present(&mut world);
    assert_eq!(world.trace.violations, [Violation::AckedWriteLost { index: last.0 + 1_000 }]);
}

#[test]
fn a_second_removal_of_boot_is_flagged() {
    let mut run = Run::new(&Setup::of(3, 3), plan);
    run.settle(6_000);
    assert_eq!(run.world.trace.violations, []);
    // Somebody brings boot back into the list, and it is removed again.
    let boot = etcd_operator_world::raft::Listed {
        id: BOOT,
        name: "boot".into(),
        peer_url: "https://boot:12380".into(),
        learner: false,
    };
    run.world.raft.config.push(boot);
    run.world.raft.start(run.world.now, BOOT);
    run.settle(6_000);
    assert!(run.world.trace.violations.contains(&Violation::BootRemovedTwice), "{:#?}", run.world.trace.story);
}

#[test]
fn a_step_that_names_nothing_is_refused() {
    let mut world = World::new(&Setup::of(1, 1));
    let mut controller = etcd_operator_world::Controller::new("A");
    let seen = etcd_operator_world::observe(&world, &mut controller, &Sight::default()).expect("the API answers");
    let step = Step::AddLearner { node: etcd_operator_plan::NodeName("nowhere".into()) };
    let failure = execute(&mut world, &mut controller, &step, &seen, Interrupt::None);
    assert_eq!(failure, Err(etcd_operator_world::Failure::NoSuchThing));
}
