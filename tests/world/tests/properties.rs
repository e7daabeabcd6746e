//! Properties over random histories. `WORLD_SEED=… WORLD_CASES=…` replays and widens.
#![allow(clippy::panic, clippy::expect_used, reason = "a test ends by it")]

use std::cell::Cell;

use etcd_operator_plan::plan;
use etcd_operator_world::histories::{Mishaps, histories, runner, setups};
use etcd_operator_world::rest::rests_rightly;
use etcd_operator_world::{Event, Rest, Run, Setup, Violation, World};
use proptest::test_runner::TestCaseError;

/// Passes within which a World without faults must come to rest: gRPC's longest backoff at 200 ms a look, and then some.
const PASSES: usize = 6_000;

fn story(world: &World) -> String {
    let lines: Vec<String> = world.trace.story.iter().map(|(at, what)| format!("{at:>8} {what}")).collect();
    format!("{}\n{:?}\nconfig {:#?}\nfailed {:?}", lines.join("\n"), world.api, world.raft.config, world.trace.failed)
}

fn fail(what: impl std::fmt::Display, world: &World) -> TestCaseError {
    TestCaseError::fail(format!("{what}\n{}", story(world)))
}

fn no_violation(world: &World) -> Result<(), TestCaseError> {
    let violations: &[Violation] = &world.trace.violations;
    if violations.is_empty() { Ok(()) } else { Err(fail(format!("{violations:?}"), world)) }
}

fn live(setup: &Setup, history: &[Event]) -> Result<Run, TestCaseError> {
    let mut run = Run::new(setup, plan);
    for event in history {
        run.happen(event);
        no_violation(&run.world)?;
    }
    Ok(run)
}

/// How many histories came to what: a property over histories in which nothing happens proves nothing.
#[derive(Default)]
struct Reached {
    cases: Cell<u32>,
    removed: Cell<u32>,
    signalled_in_vain: Cell<u32>,
    elections: Cell<u32>,
    aborted: Cell<u32>,
    held: Cell<u32>,
    evicted: Cell<u32>,
}

impl Reached {
    fn note(&self, run: &Run, rest: &Rest) {
        let add = |cell: &Cell<u32>, yes: bool| cell.set(cell.get() + u32::from(yes));
        let trace = &run.world.trace;
        add(&self.cases, true);
        add(&self.removed, trace.boot_removals > 0);
        add(&self.signalled_in_vain, trace.signals > trace.boot_removals);
        add(&self.elections, trace.elections > 0);
        add(&self.aborted, run.took("RemoveMember") > 0);
        add(&self.evicted, run.took(": Evict ") > 0);
        add(&self.held, matches!(rest, Rest::Hold(..)));
    }

    /// Tells, and with enough cases insists.
    fn tell(&self, name: &str, must: &[(&str, &Cell<u32>)]) {
        println!(
            "{name}: {} histories: boot removed in {}, signalled in vain in {}, elections in {}, members removed in {}, learners evicted in {}, at rest in a hold {}",
            self.cases.get(),
            self.removed.get(),
            self.signalled_in_vain.get(),
            self.elections.get(),
            self.aborted.get(),
            self.evicted.get(),
            self.held.get()
        );
        for (what, count) in must {
            assert!(self.cases.get() < 100 || count.get() > 0, "{name}: no history reached: {what}");
        }
    }
}

#[test]
fn no_history_breaks_an_invariant_and_every_world_comes_to_rest_once_healed() {
    let mut runner = runner("all mishaps", 60);
    let strategy = (setups(), histories(Mishaps::All));
    let reached = Reached::default();
    let outcome = runner.run(&strategy, |(setup, history)| {
        let mut run = live(&setup, &history)?;
        run.heal();
        let rest = run.settle(PASSES);
        reached.note(&run, &rest);
        no_violation(&run.world)?;
        rests_rightly(&run.world, &rest).map_err(|why| fail(why, &run.world))?;
        let acks = run.world.trace.acks;
        run.advance(5_000);
        if run.world.trace.acks <= acks {
            return Err(fail("no write is acknowledged at rest", &run.world));
        }
        etcd_operator_world::checks::acked_writes_present(&mut run.world);
        no_violation(&run.world)
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    let must = [
        ("removal", &reached.removed),
        ("a drain in vain", &reached.signalled_in_vain),
        ("an election", &reached.elections),
        ("an eviction", &reached.evicted),
    ];
    reached.tell("all mishaps", &must);
}

#[test]
fn no_write_fails_and_no_leader_is_lost_where_nothing_dies() {
    let mut runner = runner("only confusion", 40);
    let strategy = (setups(), histories(Mishaps::OnlyConfusion));
    let reached = Reached::default();
    let outcome = runner.run(&strategy, |(setup, history)| {
        let mut run = live(&setup, &history)?;
        let rest = run.settle(PASSES);
        reached.note(&run, &rest);
        no_violation(&run.world)?;
        rests_rightly(&run.world, &rest).map_err(|why| fail(why, &run.world))?;
        let trace = &run.world.trace;
        if trace.failed.is_empty() && trace.elections == 0 {
            Ok(())
        } else {
            Err(fail(format!("{} writes failed, {} elections", trace.failed.len(), trace.elections), &run.world))
        }
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    reached.tell("only confusion", &[("removal", &reached.removed), ("abort", &reached.aborted), ("hold", &reached.held)]);
}
