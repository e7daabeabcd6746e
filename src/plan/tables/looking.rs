//! How soon the planner is asked again: five times a second while something moves by itself, every five seconds where a human or a slow
//! event has to come first. Each look costs a round of questions to etcd.

use super::*;

#[track_caller]
fn looks_again(o: &Observed, what: WaitFor, look_again_ms: u64) {
    assert_eq!(plan(o), Plan::Wait { what, look_again_ms });
}

#[test]
fn what_moves_by_itself_is_looked_at_five_times_a_second() {
    let mut o = led_by_ours(3);
    drain(&mut o, BootDrain::Signalled { attempt: 1 });
    looks_again(&o, WaitFor::BootDrain, 200);
    let mut o = ready(3);
    o.gate = Gate::NotYet { at_ms: NOW, why: "cp2 lags".into() };
    looks_again(&o, WaitFor::BootRemovalGate, 200);
    let mut o = joined(3, 1);
    list(&mut o, 2, learner(lagging(500, None)));
    looks_again(&o, WaitFor::LearnerCatchesUp, 200);
}

#[test]
fn a_hand_over_is_looked_at_twice_a_second() {
    let mut o = after_the_pivot(3);
    o.seats[0].binary = KeeperBinary::HandingOver;
    looks_again(&o, WaitFor::KeeperHandOver, 500);
}

#[test]
fn what_a_human_has_to_change_is_looked_at_every_five_seconds() {
    let mut o = ready(3);
    o.spec.paused = true;
    looks_again(&o, WaitFor::Unpause, 5_000);
    let mut o = after_the_pivot(3);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    looks_again(&o, WaitFor::VotersHealthy, 5_000);
}
