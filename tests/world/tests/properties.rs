//! Properties over random histories. `WORLD_SEED=… WORLD_CASES=…` replays and widens.

use etcd_operator_plan::{HoldReason, plan};
use etcd_operator_world::histories::{Mishaps, histories, runner, setups};
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

/// What a World may rest at, by what its spec wants.
fn rests_rightly(run: &Run, rest: &Rest) -> Result<(), String> {
    let world = &run.world;
    let spec = &world.api.spec;
    let ours = world.our_voters().len();
    let learners = world.raft.config.iter().filter(|m| m.learner).count();
    match rest {
        Rest::Never(last) => Err(format!("never rests: {}", last.join("\n"))),
        Rest::Done if spec.abort && world.boot_listed() => {
            let alone = world.raft.config.len() == 1 && world.api.seats.is_empty();
            if alone { Ok(()) } else { Err("Done with abort, but boot is not alone".into()) }
        }
        Rest::Done if spec.skip_boot_removal && world.boot_listed() => {
            if ours + learners >= spec.size as usize { Ok(()) } else { Err("Done with skip, but members are missing".into()) }
        }
        Rest::Done => {
            let right = !world.boot_listed() && learners == 0 && ours == spec.size as usize && world.api.seats.len() == ours;
            if right { Ok(()) } else { Err("Done, but not what is wanted".into()) }
        }
        Rest::Hold(reason, next_step) => {
            let right = match reason {
                HoldReason::HoldBootRemoval => spec.hold_boot_removal && world.boot_listed(),
                HoldReason::NotEnoughNodes => spec.size as usize > world.nodes.len(),
                HoldReason::ScaleDownUnsupported => ours > spec.size as usize && !world.boot_listed(),
                HoldReason::BootCameBack => world.trace.signals > 1 && world.boot_listed(),
                _ => false,
            };
            if right { Ok(()) } else { Err(format!("Hold {reason}: {next_step}")) }
        }
    }
}

#[test]
fn no_history_breaks_an_invariant_and_every_world_comes_to_rest_once_healed() {
    let mut runner = runner("all mishaps", 150);
    let strategy = (setups(), histories(Mishaps::All));
    let outcome = runner.run(&strategy, |(setup, history)| {
        let mut run = live(&setup, &history)?;
        run.heal();
        let rest = run.settle(PASSES);
        no_violation(&run.world)?;
        rests_rightly(&run, &rest).map_err(|why| fail(why, &run.world))?;
        let acked = run.world.trace.acked.len();
        run.advance(5_000);
        if run.world.trace.acked.len() <= acked {
            return Err(fail("no write is acknowledged at rest", &run.world));
        }
        etcd_operator_world::checks::acked_writes_present(&mut run.world);
        no_violation(&run.world)
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn no_write_fails_and_no_leader_is_lost_where_nothing_dies() {
    let mut runner = runner("only confusion", 100);
    let strategy = (setups(), histories(Mishaps::OnlyConfusion));
    let outcome = runner.run(&strategy, |(setup, history)| {
        let mut run = live(&setup, &history)?;
        let rest = run.settle(PASSES);
        no_violation(&run.world)?;
        rests_rightly(&run, &rest).map_err(|why| fail(why, &run.world))?;
        let trace = &run.world.trace;
        if trace.failed.is_empty() && trace.elections == 0 {
            Ok(())
        } else {
            Err(fail(format!("{} writes failed, {} elections", trace.failed.len(), trace.elections), &run.world))
        }
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
