//! What breaks around the operator, at each phase of one pivot: the power of all nodes, the API server, boot itself. The process under the
//! fault stands still in the call that is typical for the phase, so that the fault meets it there.

use std::time::Duration;

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_crash::plan::{Entry, Role, Then, When};
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};
use etcd_operator_witness::Invariant;

/// For a phase to come, with the restarts before it.
const LIMIT: Duration = Duration::from_secs(300);

type Point = (Role, When, &'static str);

/// One call per phase, in the order of a pivot; membership calls on both sides. (The agent's SIGKILL is none of them: where something fails
/// before it, boot has often ended by itself.)
const PHASES: [Point; 10] = [
    (Role::Controller, When::After, "POST etcdmembers"),
    (Role::Agent, When::Before, "Snapshot"),
    (Role::Controller, When::Before, "MemberAdd"),
    (Role::Controller, When::After, "MemberAdd"),
    (Role::Controller, When::Before, "MemberPromote"),
    (Role::Controller, When::After, "MemberPromote"),
    (Role::Controller, When::Before, "WriteAndRead"),
    (Role::Controller, When::After, "MoveLeader"),
    (Role::Controller, When::Before, "MemberRemove"),
    (Role::Controller, When::After, "MemberRemove"),
];

/// Begins a pivot, and calls `fault` once a process stands still at each of the points. It gets a function that lets the process go, with the
/// next point set before, so that it cannot be missed.
fn pivot_with(stage: &Stage, points: &[Point], mut fault: impl FnMut(usize, &str, &dyn Fn())) {
    let faults = stage.faults();
    let set = |number: usize| {
        let next: Vec<Entry> = points.get(number).into_iter().map(|(role, when, call)| hold(*role, *when, call)).collect();
        faults.plan(&next).unwrap();
    };
    set(0);
    let pivot = stage.begin_pivot(3);
    for (number, (role, when, call)) in points.iter().enumerate() {
        stage.until(&format!("{role:?} {when:?} {call}"), LIMIT, || faults.holds(number));
        println!("== {when:?} {call}");
        fault(number, call, &|| {
            set(number + 1);
            faults.let_go(number).unwrap();
        });
    }
    stage.end_pivot(pivot);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    stage.wait_for("Ready", Duration::from_secs(60));
}

fn hold(role: Role, when: When, call: &str) -> Entry {
    Entry { role, call: call.to_owned(), when, then: Then::Hold }
}

#[test]
fn all_nodes_lose_power_at_each_phase() {
    if !is_sampled("all_nodes_lose_power_at_each_phase") {
        return;
    }
    let stage = Stage::with_crashing_operator();
    let nodes = stage.bed.options().all();
    let verdict = stage.under_witness(
        Some(3),
        // Nobody writes to a control plane that has no power; what was acknowledged before has to be there.
        |options| {
            options.allow = vec![Invariant::FailedWrite, Invariant::TooFewWrites, Invariant::Tolerance, Invariant::Blind];
        },
        || {
            pivot_with(&stage, &PHASES, |number, _, let_go| {
                stage.bed.power_cut(&nodes).unwrap();
                let_go();
                stage.bed.start(&nodes).unwrap();
                let took = stage.bed.wait_api().unwrap();
                println!("/readyz {:.1} s after the power was back", took.as_secs_f32());
                // Whoever is elected: no leadership is moved off a boot that does not lead.
                if PHASES.get(number + 1).is_some_and(|(_, _, call)| *call == "MoveLeader") {
                    stage.let_boot_lead();
                }
            });
        },
    );
    assert!(verdict.clean, "{:#?}", verdict.violations);
}

#[test]
fn the_api_server_stops_at_each_phase() {
    if !is_sampled("the_api_server_stops_at_each_phase") {
        return;
    }
    let stage = Stage::with_crashing_operator();
    let node = stage.bed.options().boot().unwrap();
    let verdict = stage.under_witness(
        Some(3),
        // Its own absence is not judged; what etcd acknowledged is.
        |options| options.allow = vec![Invariant::FailedWrite, Invariant::TooFewWrites, Invariant::Blind],
        || {
            pivot_with(&stage, &PHASES, |number, _, let_go| {
                // By turns it stands still for longer than a request waits for it, and dies.
                let signal = |signal| faults::signal(&node, Process::KubeApiserver, signal).map(drop);
                if number % 2 == 0 {
                    signal(Signal::Pause).unwrap();
                    let_go();
                    std::thread::sleep(Duration::from_secs(8));
                    signal(Signal::Resume).unwrap();
                } else {
                    signal(Signal::Kill).unwrap();
                    let_go();
                }
                stage.bed.wait_api().unwrap();
            });
        },
    );
    assert!(verdict.clean, "{:#?}", verdict.violations);
}

#[test]
fn boot_dies_around_each_join() {
    if !is_sampled("boot_dies_around_each_join") {
        return;
    }
    let stage = Stage::with_crashing_operator();
    let node = stage.bed.options().boot().unwrap();
    let join = (Role::Controller, When::After, "MemberPromote");
    let points = [(Role::Controller, When::Before, "MemberAdd"), join, join, join];
    let verdict = stage.under_witness(
        Some(3),
        // While boot is the only voter, or one of two, nothing can be written without it.
        |options| options.allow = vec![Invariant::FailedWrite, Invariant::TooFewWrites, Invariant::Tolerance, Invariant::Blind],
        || {
            pivot_with(&stage, &points, |_, _, let_go| {
                faults::signal(&node, Process::BootEtcd, Signal::Kill).unwrap();
                let_go();
            });
        },
    );
    assert!(verdict.clean, "{:#?}", verdict.violations);
}

#[test]
fn a_controller_that_was_away_for_longer_than_its_lease_does_no_harm() {
    if !is_sampled("a_controller_that_was_away_for_longer_than_its_lease_does_no_harm") {
        return;
    }
    let stage = Stage::with_crashing_operator();
    let before = |call| (Role::Controller, When::Before, call);
    let points = [before("MemberAdd"), before("MemberPromote"), before("MoveLeader"), before("MemberRemove")];
    let holder = || {
        let lease = ["get", "lease", "etcd-operator", "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}"];
        stage.bed.kubectl(&lease).unwrap_or_default()
    };
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            pivot_with(&stage, &points, |_, call, let_go| {
                let old = holder();
                let node =
                    stage.bed.kubectl(&["get", "pod", &old, "-n", "kube-system", "-o", "jsonpath={.spec.nodeName}"]).unwrap();
                let node = stage.bed.options().node(&node).unwrap();
                // The whole process, its clocks and its deadlines too. It goes on in the middle of its call.
                faults::signal(&node, Process::Controller, Signal::Pause).unwrap();
                stage.until("another controller leads", LIMIT, || !holder().is_empty() && holder() != old);
                println!("{} leads instead of {old}, which stands before its {call}", holder());
                std::thread::sleep(Duration::from_secs(3));
                let_go();
                faults::signal(&node, Process::Controller, Signal::Resume).unwrap();
            });
        },
    );
    assert_unharmed(&verdict);
}
