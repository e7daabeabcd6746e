//! All orders of a pivot's events, with one thing or two going wrong at any of its situations.
//!
//! `make test` explores one fault; `make soak` (`WORLD_ALL=1`) two, where that is long one slice of the first faults in [`SLICES`], by the seed;
//! `make model` (`WORLD_SLICES=all`, or a list of numbers) all of them.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test ends by it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use etcd_operator_plan::{Observed, Plan, Removal, Restart, RunsWith, Step, WaitFor, plan};
use etcd_operator_world::model::{HOLDS, Pivot, RESTS, STEPS, Slice, UNBROKEN};
use etcd_operator_world::{BOOT, BootHost, Setup};
use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, HasDiscoveries, Model};

/// Slices of what goes wrong first where two things do.
const SLICES: usize = 16;

/// Says how far it is, where it takes longer.
struct Heartbeat {
    name: String,
    said: Duration,
}

impl<M: Model> Reporter<M> for Heartbeat {
    fn report_checking(&mut self, data: ReportData) {
        if data.done || data.duration < self.said + Duration::from_secs(20) {
            return;
        }
        self.said = data.duration;
        println!("{}: {} states after {} s", self.name, data.unique_states, data.duration.as_secs());
    }

    fn report_discoveries(&mut self, _: &M, _: BTreeMap<&'static str, ReportDiscovery<M>>) {}

    fn delay(&self) -> Duration {
        Duration::from_millis(200)
    }
}

/// Explores, and returns what was found out about each property.
fn explore(name: &str, pivot: Pivot) -> BTreeSet<&'static str> {
    let (faults, again) = (pivot.faults, pivot.again());
    let broken: BTreeSet<&'static str> = [UNBROKEN, RESTS].into();
    let checker = pivot.checker().finish_when(HasDiscoveries::AnyOf(broken.clone())).spawn_dfs();
    let checker = checker.join_and_report(&mut Heartbeat { name: name.to_owned(), said: Duration::ZERO });
    println!("{name}, {faults} faults: {} states, {} of them different", checker.state_count(), checker.unique_state_count());
    let mut found = BTreeSet::new();
    for (property, path) in checker.discoveries() {
        if broken.contains(property) {
            let (last, actions) = (format!("{:?}", path.last_state()), path.into_actions());
            println!("{name}: not so: {property}\n{last}\n{actions:?}\n{}", again.story(&actions));
        }
        found.insert(property);
    }
    found
}

/// The slices to explore of a pivot to 3 in which two things go wrong: those asked for, or one by the seed.
fn slices() -> Vec<usize> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < SLICES);
    match std::env::var("WORLD_SLICES").as_deref() {
        Ok("all") => (0..SLICES).collect(),
        Ok(list) => list.split(',').map(|n| number(n).unwrap_or_else(|| panic!("WORLD_SLICES: {n:?} is no slice"))).collect(),
        Err(_) => {
            let seed = std::env::var("WORLD_SEED").ok().and_then(|s| s.parse::<usize>().ok());
            vec![seed.unwrap_or(0) % SLICES]
        }
    }
}

/// A pivot to explore, and its name.
type Job = (String, Pivot);

/// Explores all, several at a time: one alone leaves most cores idle.
fn explore_all(jobs: Vec<Job>) -> Vec<(String, BTreeSet<&'static str>)> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(jobs.len());
    let (jobs, found) = (Mutex::new(jobs.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((name, pivot)) = { jobs.lock().unwrap().next() } {
                    let one = explore(&name, pivot);
                    found.lock().unwrap().push((name, one));
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// With one fault the whole of it, with two the slices that are asked for.
fn sliced(name: &str, pivot: impl Fn() -> Pivot) -> Vec<Job> {
    if pivot().faults < 2 {
        return vec![(name.to_owned(), pivot())];
    }
    let slice = |number| (format!("{name}, slice {number} of {SLICES}"), pivot().in_slice(Slice { number, of: SLICES }));
    slices().into_iter().map(slice).collect()
}

/// Nodes, size before, size after, and how many things go wrong at most (`make soak`, `make model`).
const CHANGES: [(usize, u32, u32, u8); 6] = [(4, 3, 3, 2), (3, 1, 3, 2), (3, 3, 1, 2), (3, 2, 3, 2), (5, 3, 5, 1), (5, 5, 3, 1)];

#[test]
fn a_change_of_size_or_settings_and_the_loss_of_members_survive_whatever_goes_wrong() {
    let most = if std::env::var_os("WORLD_ALL").is_some() { 2 } else { 1 };
    let jobs = CHANGES.iter().flat_map(|(nodes, from, to, faults)| {
        let change = || Pivot::new(Setup::of(*nodes, *from), (*faults).min(most), plan).then_scaled_to(*to);
        sliced(&format!("{from} to {to} of {nodes} nodes"), change)
    });
    let resettled = RESETTLED.iter().flat_map(|(nodes, size, faults)| {
        let change = || Pivot::new(Setup::of(*nodes, *size), (*faults).min(most), plan).then_resettled();
        let blind = || change().with_blind_keepers();
        let name = format!("other settings for {size} of {nodes} nodes");
        sliced(&name, change).into_iter().chain(sliced(&format!("{name}, keepers that do not look"), blind))
    });
    let mut reached = BTreeSet::new();
    for (name, found) in explore_all(resettled.chain(jobs).collect()) {
        assert!(!found.contains(UNBROKEN) && !found.contains(RESTS), "{name}: see above");
        reached.extend(found);
    }
    // A slice alone need not come to all of them.
    let is_whole = most == 1 || slices().len() == SLICES;
    assert!(!is_whole || AFTER_A_PIVOT.iter().all(|name| reached.contains(name)), "reached: {reached:?}");
}

/// What a pivot never comes to: there no machine is gone for so long.
const AFTER_A_PIVOT: [&str; 4] = ["MemberDown", "RollOut", "CallOffRollOut", "ToleranceTooLow"];

/// Nodes and size, and how many things go wrong at most.
const RESETTLED: [(usize, u32, u8); 4] = [(1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 1)];

#[test]
fn a_pivot_survives_whatever_goes_wrong_at_any_of_its_situations() {
    let faults = if std::env::var_os("WORLD_ALL").is_some() { 2 } else { 1 };
    let boot_only = Setup { boot_only_servers: 1, ..Setup::of(1, 1) };
    let elsewhere = Setup { boot: BootHost::Elsewhere, ..Setup::of(1, 1) };
    let mut jobs = vec![
        ("an API server that lists only boot".to_owned(), Pivot::new(boot_only, 0, plan)),
        ("to 1, boot elsewhere".to_owned(), Pivot::new(elsewhere, faults, plan)),
        ("to 1".to_owned(), Pivot::new(Setup::of(1, 1), faults, plan)),
    ];
    jobs.extend(sliced("to 3", || Pivot::new(Setup::of(3, 3), faults, plan)));
    let mut reached = BTreeSet::new();
    for (name, found) in explore_all(jobs) {
        assert!(!found.contains(UNBROKEN) && !found.contains(RESTS), "{name}: see above");
        reached.extend(found);
    }
    let is_missing = |name: &&&str| !reached.contains(**name) && !AFTER_A_PIVOT.contains(name);
    let missing: Vec<_> = STEPS.iter().chain(&HOLDS).filter(is_missing).collect();
    println!("never reached: {missing:?}");
    // A slice alone need not come to all of them.
    let is_whole = faults == 2 && slices().len() == SLICES;
    assert!(!is_whole || missing.is_empty(), "never reached: {missing:?}");
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

/// Restarts the next one while the one before is under way.
fn hasty(o: &Observed) -> Plan {
    let next = o.seats.iter().find(|seat| seat.runs_with == RunsWith::Outdated);
    match (plan(o), next) {
        (Plan::Wait { what: WaitFor::MemberRestart, .. }, Some(seat)) => {
            Plan::Do(Step::RollOut { node: seat.node.clone(), restart: Restart::WhileQuorum })
        }
        (other, _) => other,
    }
}

#[test]
fn wrong_planners_are_found_out() {
    let wrong = |planner| Pivot::new(Setup::of(3, 3), 0, planner);
    assert!(explore("without gate", wrong(without_gate)).contains(UNBROKEN));
    assert!(explore("without tombstone", wrong(without_tombstone)).contains(RESTS));
    let hasty = || wrong(hasty).then_resettled();
    assert!(explore("hasty", hasty().with_blind_keepers()).contains(UNBROKEN));
    // That is what the keepers' own look is for.
    assert!(!explore("hasty, and keepers that look", hasty()).contains(UNBROKEN));
}
