//! All orders of a pivot's events, with one thing or two going wrong at any of its situations.
//!
//! `make test` explores one fault, `make soak` (`WORLD_ALL=1`) two.
#![allow(clippy::panic, reason = "a test ends by it")]

use std::collections::BTreeSet;

use etcd_operator_plan::{Observed, Plan, Removal, Step, WaitFor, plan};
use etcd_operator_world::model::{HOLDS, Pivot, RESTS, STEPS, UNBROKEN};
use etcd_operator_world::{BOOT, BootHost, Setup};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores, and returns what was found out about each property.
fn explore(name: &str, pivot: Pivot) -> BTreeSet<&'static str> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (faults, again) = (pivot.faults, Pivot::new(pivot.setup.clone(), pivot.faults, pivot.planner));
    let broken: BTreeSet<&'static str> = [UNBROKEN, RESTS].into();
    let checker = pivot.checker().threads(threads).finish_when(HasDiscoveries::AnyOf(broken.clone())).spawn_dfs().join();
    println!("{name}, {faults} faults: {} states, {} of them different", checker.state_count(), checker.unique_state_count());
    let mut found = BTreeSet::new();
    for (property, path) in checker.discoveries() {
        if broken.contains(property) {
            let actions = path.into_actions();
            println!("{name}: not so: {property}\n{actions:?}\n{}", again.story(&actions));
        }
        found.insert(property);
    }
    found
}

#[test]
fn a_pivot_survives_whatever_goes_wrong_at_any_of_its_situations() {
    let faults = if std::env::var_os("WORLD_ALL").is_some() { 2 } else { 1 };
    let mut reached = BTreeSet::new();
    let boot_only = Setup { boot_only_servers: 1, ..Setup::of(1, 1) };
    let elsewhere = Setup { boot: BootHost::Elsewhere, ..Setup::of(1, 1) };
    for (name, setup, faults) in [
        ("an API server that lists only boot", boot_only, 0),
        ("to 1, boot elsewhere", elsewhere, faults),
        ("to 1", Setup::of(1, 1), faults),
        ("to 3", Setup::of(3, 3), faults),
    ] {
        let found = explore(name, Pivot::new(setup, faults, plan));
        assert!(!found.contains(UNBROKEN) && !found.contains(RESTS), "{name}: see above");
        reached.extend(found);
    }
    let missing: Vec<_> = STEPS.iter().chain(&HOLDS).filter(|name| !reached.contains(**name)).collect();
    println!("never reached: {missing:?}");
    assert!(faults < 2 || missing.is_empty(), "never reached: {missing:?}");
}

/// Removes boot at once where the real planner would look at the gate first.
fn without_gate(o: &Observed) -> Plan {
    match plan(o) {
        Plan::Do(Step::CheckGate) => Plan::Do(Step::RemoveBoot { boot: BOOT, how: Removal::Drain { attempt: 1 } }),
        other => other,
    }
}

/// Waits for ever where the real planner puts boot's data away.
fn without_tombstone(o: &Observed) -> Plan {
    match plan(o) {
        Plan::Do(Step::TombstoneBoot) => Plan::Wait { what: WaitFor::BootTombstone, look_again_ms: 200 },
        other => other,
    }
}

#[test]
fn wrong_planners_are_found_out() {
    let wrong = |planner| Pivot::new(Setup::of(3, 3), 0, planner);
    assert!(explore("without gate", wrong(without_gate)).contains(UNBROKEN));
    assert!(explore("without tombstone", wrong(without_tombstone)).contains(RESTS));
}
