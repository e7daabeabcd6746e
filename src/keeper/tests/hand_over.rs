//! Another keeper takes over while etcd runs on; and what happens if it is no good.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Bed, Node, is_etcd, keeper_bin, kill, wait_for};
use etcd_operator_keeper::binary::sha256;
use etcd_operator_keeper::contract::{HandOverStep, Phase, Run, State};
use rustix::process::Signal;

/// How long a new keeper has to prove itself here.
const PROVE_MS: u64 = 1_500;

/// A node whose keeper runs from `bin/keeper`, as in a pod, and serves.
fn serving(bed: &Bed) -> Node {
    let mut node = bed.bootstrapped("cp1");
    assert!(node.stop_keeper().success());
    install(&mut node);
    node.start_keeper();
    node.wait_ready();
    node.wait_state("which binary runs", |s| s.keeper_binary.is_some());
    node
}

fn install(node: &mut Node) {
    fs::create_dir_all(node.paths.bin()).unwrap();
    copy(&node.paths.keeper(), "");
    node.program = node.paths.keeper();
    node.set_env("KEEPER_PROVE_MS", &PROVE_MS.to_string());
}

/// Another build of the same keeper: an ELF file does not mind what stands behind it. Not written by this process: while one of its
/// threads has a program open for writing, any other may fork, and the program cannot be run.
fn copy(to: &Path, appended: &str) {
    let script = r#"cp "$1" "$2.tmp" && printf %s "$3" >> "$2.tmp" && mv "$2.tmp" "$2""#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(keeper_bin()).arg(to).arg(appended).status().unwrap();
    assert!(status.success());
}

/// Lays another build beside the one that runs; its hash.
fn offer(node: &Node, appended: &str) -> String {
    copy(&node.paths.keeper_next(), appended);
    sha256(&node.paths.keeper_next()).unwrap()
}

/// Lays a script beside the one that runs; its hash.
fn offer_script(node: &Node, self_check: &str, run: &str) -> String {
    let path = node.paths.keeper_next();
    let temporary = path.with_extension("tmp");
    let text = format!("#!/bin/sh\ncase \"$*\" in\n*--self-check) {self_check};;\n*) {run};;\nesac\n");
    fs::write(&temporary, text).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(temporary, &path).unwrap();
    sha256(&path).unwrap()
}

fn order(node: &mut Node, binary: &str) {
    node.change_order(|o| o.keeper = Some(binary.to_owned()));
}

fn step(state: &State) -> Option<HandOverStep> {
    state.hand_over.as_ref().map(|h| h.step)
}

fn message(state: &State) -> String {
    state.hand_over.as_ref().map(|h| h.message.clone()).unwrap_or_default()
}

fn wait_step(node: &Node, wanted: HandOverStep) -> State {
    node.wait_state(&format!("{wanted:?}"), |s| step(s) == Some(wanted))
}

fn runs_from(node: &Node) -> String {
    fs::read_link(format!("/proc/{}/exe", node.keeper_pid())).unwrap().display().to_string()
}

/// Refused, nothing touched, and it stays so.
fn is_refused(node: &Node, etcd: u32, old: &str, why: &str) {
    let state = wait_step(node, HandOverStep::Refused);
    assert!(message(&state).contains(why), "{}", message(&state));
    let checks = || node.log().matches("its self-check runs").count();
    let before = checks();
    std::thread::sleep(Duration::from_secs(1));
    let state = node.state();
    assert_eq!(checks(), before, "not tried again");
    assert_eq!((state.phase, state.etcd_pid, step(&state)), (Phase::Running, Some(etcd), Some(HandOverStep::Refused)));
    assert_eq!(state.keeper_binary.as_deref(), Some(old));
    assert_eq!(sha256(&node.paths.keeper()).unwrap(), old);
    assert!(is_etcd(etcd, &node.paths.data));
    node.wait_ready();
}

#[test]
fn another_keeper_takes_over_and_etcd_runs_on() {
    let bed = Bed::new();
    let mut node = serving(&bed);
    let (etcd, keeper) = (node.etcd_pid(), node.keeper_pid());
    let old = node.state().keeper_binary.unwrap();
    assert_eq!(old, sha256(&node.paths.keeper()).unwrap());
    let new = offer(&node, "another build");
    assert_ne!(old, new);
    order(&mut node, &new);
    let state = node.wait_state("the new keeper", |s| s.keeper_binary.as_ref() == Some(&new));
    // It has yet to prove itself: a cold start would meet the old one.
    assert_eq!(step(&state), Some(HandOverStep::Proving));
    assert_eq!(sha256(&node.paths.keeper()).unwrap(), old);
    assert!(runs_from(&node).ends_with("/bin/keeper.next"));
    assert_eq!((state.phase, state.reason.as_str(), state.etcd_pid), (Phase::Running, "TakenOver", Some(etcd)));
    bed.etcdctl(&node.client(), &["put", "a", "b"]);

    let state = wait_step(&node, HandOverStep::Done);
    assert_eq!(sha256(&node.paths.keeper()).unwrap(), new);
    assert_eq!(sha256(&node.paths.keeper_prev()).unwrap(), old);
    assert!(!node.paths.keeper_next().exists() && runs_from(&node).ends_with("/bin/keeper"));
    assert_eq!((node.keeper_pid(), state.etcd_pid, state.etcd_starts), (keeper, Some(etcd), 0));
    assert!(is_etcd(etcd, &node.paths.data));
    assert_eq!(node.probe("/livez"), Some(200));
    node.wait_ready();
    assert_eq!(bed.etcdctl(&node.client(), &["get", "a"])["count"], 1);

    // It keeps what the old one kept: sees etcd's end, starts it again, follows orders, ends it first.
    kill(etcd, Signal::KILL);
    let state = node.wait_state("another etcd", |s| s.phase == Phase::Running && s.etcd_pid.is_some_and(|pid| pid != etcd));
    assert_eq!(state.etcd_starts, 1);
    node.change_order(|o| o.run = Run::Stop);
    node.wait_phase(Phase::Stopped, "OrderedToStop");
    node.change_order(|o| o.run = Run::Run);
    node.wait_ready();
    assert!(node.stop_keeper().success());
    // And back, as after a downgrade, by a keeper that the kubelet has started.
    node.start_keeper();
    node.wait_ready();
    let etcd = node.etcd_pid();
    assert_eq!(step(&node.state()), Some(HandOverStep::Done));
    assert_eq!(offer(&node, ""), old);
    order(&mut node, &old);
    let state =
        node.wait_state("the old keeper", |s| s.keeper_binary.as_ref() == Some(&old) && step(s) == Some(HandOverStep::Done));
    assert_eq!((state.etcd_pid, sha256(&node.paths.keeper_prev()).unwrap()), (Some(etcd), new));
}

#[test]
fn a_keeper_that_fails_its_self_check_is_refused_and_not_tried_again() {
    let bed = Bed::new();
    let mut node = serving(&bed);
    let (etcd, old) = (node.etcd_pid(), node.state().keeper_binary.unwrap());
    let bad = offer_script(&node, "echo no such luck >&2; exit 3", "exit 1");
    order(&mut node, &bad);
    is_refused(&node, etcd, &old, "its self-check ended with exit code 3: no such luck");
    // Somebody takes the order back, and gives it again: what failed may have been the node's.
    let before = node.log().matches("its self-check runs").count();
    node.change_order(|o| o.keeper = None);
    node.wait_state("the refusal is forgotten", |s| s.hand_over.is_none());
    order(&mut node, &bad);
    wait_for("another try", || node.log(), || (node.log().matches("its self-check runs").count() > before).then_some(()));
    is_refused(&node, etcd, &old, "its self-check ended with exit code 3: no such luck");
    // Neither is one that does not know what a hand-over is, as from before there were any.
    let ancient = offer_script(&node, "echo '{}'", "exit 1");
    order(&mut node, &ancient);
    node.wait_state("its refusal", |s| s.hand_over.as_ref().is_some_and(|h| h.to == ancient));
    is_refused(&node, etcd, &old, "does not say that it can take over");
    // Another one is another matter.
    let good = offer(&node, "good");
    order(&mut node, &good);
    assert_eq!(wait_step(&node, HandOverStep::Done).etcd_pid, Some(etcd));
}

#[test]
fn a_self_check_has_its_time_and_what_happens_meanwhile_comes_first() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    assert!(node.stop_keeper().success());
    install(&mut node);
    node.set_env("KEEPER_SELF_CHECK_MS", "4000");
    node.start_keeper();
    node.wait_ready();
    let (etcd, old) = (node.etcd_pid(), node.wait_state("its binary", |s| s.keeper_binary.is_some()).keeper_binary.unwrap());
    let slow = offer_script(&node, "exec sleep 60", "exit 1");
    order(&mut node, &slow);
    wait_for("the self-check", || node.log(), || node.log().contains("its self-check runs").then_some(()));
    let killed = Instant::now();
    kill(etcd, Signal::KILL);
    let state = node.wait_state("another etcd", |s| s.phase == Phase::Running && s.etcd_pid.is_some_and(|pid| pid != etcd));
    // The pause after an etcd that ended by itself is 1 s.
    assert!(killed.elapsed() < Duration::from_millis(3_500), "{:?}\n{}", killed.elapsed(), node.log());
    let etcd = state.etcd_pid.unwrap();
    // A node that has no time for it says nothing about the binary.
    wait_for("the end of its time", || node.log(), || node.log().contains("self-check did not end in time").then_some(()));
    let state = node.state();
    assert_eq!((state.etcd_pid, step(&state), state.keeper_binary.as_deref()), (Some(etcd), None, Some(old.as_str())));
}

#[test]
fn a_binary_that_is_not_the_one_ordered_is_not_run() {
    let bed = Bed::new();
    let mut node = serving(&bed);
    let etcd = node.etcd_pid();
    let ran = node.paths.dir.join("ran");
    let run = format!("touch {}; echo '{{\"takesOver\":true}}'", ran.display());
    let foreign = offer_script(&node, &run, &run);
    order(&mut node, &"0123456789abcdef".repeat(4));
    wait_for("a warning", || node.log(), || node.log().contains("is not the keeper that is wanted").then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!ran.exists());
    let state = node.state();
    assert_eq!((state.etcd_pid, step(&state)), (Some(etcd), None));
    assert_eq!(sha256(&node.paths.keeper_next()).unwrap(), foreign);
}

#[test]
fn a_keeper_that_dies_as_soon_as_it_runs_is_not_tried_again() {
    let bed = Bed::new();
    let mut node = serving(&bed);
    let (etcd, old) = (node.etcd_pid(), node.state().keeper_binary.unwrap());
    let bad = offer_script(&node, "echo '{\"takesOver\":true}'", "exit 7");
    order(&mut node, &bad);
    assert_eq!(node.wait_keeper().code(), Some(7));
    // In a pod etcd dies with its PID 1, and the kubelet starts the container anew.
    kill(etcd, Signal::KILL);
    wait_for("etcd's end", String::new, || (!is_etcd(etcd, &node.paths.data)).then_some(()));
    node.start_keeper();
    node.wait_phase(Phase::Running, "ColdStart");
    node.wait_ready();
    is_refused(&node, node.etcd_pid(), &old, "it ended before it had proven itself");
}

#[test]
fn a_keeper_that_cannot_take_over_goes_back_in_place() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    assert!(node.stop_keeper().success());
    install(&mut node);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    node.set_env("KEEPER_NEXT_PROBE_PORT", &taken.local_addr().unwrap().port().to_string());
    node.start_keeper();
    node.wait_ready();
    let (etcd, keeper) = (node.etcd_pid(), node.keeper_pid());
    let old = node.wait_state("its binary", |s| s.keeper_binary.is_some()).keeper_binary.unwrap();
    let new = offer(&node, "another build");
    order(&mut node, &new);
    is_refused(&node, etcd, &old, "it could not take over: it cannot listen for probes");
    assert_eq!((node.keeper_pid(), node.state().etcd_starts), (keeper, 0));
    assert!(runs_from(&node).ends_with("/bin/keeper"));
    assert!(node.log().contains("going back to bin/keeper"));
    // Which has adopted it as well.
    kill(etcd, Signal::KILL);
    node.wait_state("another etcd", |s| s.phase == Phase::Running && s.etcd_pid.is_some_and(|pid| pid != etcd));
    node.wait_ready();
}

#[test]
fn a_power_cut_before_the_proof_meets_the_old_keeper() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    assert!(node.stop_keeper().success());
    install(&mut node);
    node.set_env("KEEPER_PROVE_MS", "60000");
    node.start_keeper();
    node.wait_ready();
    let old = node.wait_state("its binary", |s| s.keeper_binary.is_some()).keeper_binary.unwrap();
    let new = offer(&node, "another build");
    order(&mut node, &new);
    node.wait_state("the new keeper", |s| s.keeper_binary.as_ref() == Some(&new));
    node.power_off();
    // The machine was booted since: nothing is held against the new one.
    let mut state = node.state();
    assert_eq!(step(&state), Some(HandOverStep::Proving));
    state.hand_over.as_mut().unwrap().boot_id = "of an earlier boot".into();
    etcd_operator_keeper::files::write(&node.paths.state(), &state).unwrap();
    assert_eq!(sha256(&node.paths.keeper()).unwrap(), old);
    node.start_keeper();
    node.wait_phase(Phase::Running, "ColdStart");
    node.wait_ready();
    let etcd = node.etcd_pid();
    // So it takes over once more.
    node.wait_state("the new keeper", |s| s.keeper_binary.as_ref() == Some(&new));
    assert_eq!(node.etcd_pid(), etcd);
    // Only the container died.
    node.power_off();
    node.start_keeper();
    node.wait_phase(Phase::Running, "ColdStart");
    is_refused(&node, node.etcd_pid(), &old, "it ended before it had proven itself");
}

#[test]
fn a_new_keeper_that_is_told_to_end_is_handed_over_to_again() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    assert!(node.stop_keeper().success());
    install(&mut node);
    node.set_env("KEEPER_PROVE_MS", "3000");
    node.start_keeper();
    node.wait_ready();
    let old = node.wait_state("its binary", |s| s.keeper_binary.is_some()).keeper_binary.unwrap();
    let new = offer(&node, "another build");
    order(&mut node, &new);
    node.wait_state("the new keeper", |s| s.keeper_binary.as_ref() == Some(&new));
    assert!(node.stop_keeper().success());
    assert_eq!((step(&node.state()), sha256(&node.paths.keeper()).unwrap()), (None, old));
    node.start_keeper();
    let state = wait_step(&node, HandOverStep::Done);
    assert_eq!((state.keeper_binary, sha256(&node.paths.keeper()).unwrap()), (Some(new.clone()), new));
    node.wait_ready();
}

#[test]
fn an_etcd_that_dies_during_the_hand_over_is_started_again() {
    let bed = Bed::new();
    let mut node = bed.bootstrapped("cp1");
    assert!(node.stop_keeper().success());
    install(&mut node);
    let script = node.paths.dir.join("first.sh");
    node.set_env("KEEPER_NEXT_FIRST", &script.display().to_string());
    node.start_keeper();
    node.wait_ready();
    let etcd = node.etcd_pid();
    fs::write(&script, format!("kill -9 {etcd}; while ! grep -q ') Z ' /proc/{etcd}/stat; do :; done")).unwrap();
    let new = offer(&node, "another build");
    order(&mut node, &new);
    let state = node.wait_state("another etcd", |s| s.phase == Phase::Running && s.etcd_pid.is_some_and(|pid| pid != etcd));
    assert_eq!((state.keeper_binary.as_ref(), state.etcd_starts), (Some(&new), 1));
    assert!(node.log().contains("signal 9"), "it was adopted, and reaped");
    node.wait_ready();
    wait_step(&node, HandOverStep::Done);
}

#[test]
fn a_keeper_that_waits_hands_over_as_well() {
    let bed = Bed::new();
    let mut node = bed.node("cp1");
    install(&mut node);
    node.order.run = Run::Wait;
    node.write_order();
    node.start_keeper();
    node.wait_phase(Phase::Waiting, "OrderedToWait");
    let keeper = node.keeper_pid();
    let new = offer(&node, "another build");
    order(&mut node, &new);
    let state = wait_step(&node, HandOverStep::Done);
    assert_eq!((state.phase, state.keeper_binary.as_ref(), node.keeper_pid()), (Phase::Waiting, Some(&new), keeper));
    assert_eq!(sha256(&node.paths.keeper()).unwrap(), new);
    assert!(node.stop_keeper().success());
}
