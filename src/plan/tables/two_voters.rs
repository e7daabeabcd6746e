//! Size 1, between the promotion and boot's removal: two voters, of which none may fail. Nothing that was seen is asked for again.

use super::*;

#[test]
fn a_gate_of_any_age_vouches_for_clients_that_have_gone_since() {
    let mut o = led_by_ours(1);
    o.gate = Gate::Passed { at_ms: NOW - 600_000 };
    let lost = |to_members| vec![RemoteClient { ip: "10.0.0.9".into(), to_boot: 30, to_members }];
    for (listening_for_ms, remotes) in [(1_000, lost(vec![29])), (1_000, lost(vec![0])), (900_000, lost(vec![0]))] {
        counted(&mut o, listening_for_ms, remotes);
        drains(&o, 1);
    }
    o.clients = ClientCounts::Unknown { missing: "cp1".into() };
    drains(&o, 1);
}

#[test]
fn before_the_promotion_the_clients_are_still_asked_for() {
    let mut o = ready(1);
    o.gate = Gate::Passed { at_ms: NOW - 600_000 };
    o.clients = ClientCounts::Unknown { missing: "cp1".into() };
    does(&o, Step::CountClients);
}

#[test]
fn a_gate_that_was_not_passed_vouches_for_nothing() {
    let mut o = led_by_ours(1);
    o.gate = Gate::NotYet { at_ms: NOW, why: "cp1 lags".into() };
    waits(&o, WaitFor::BootRemovalGate);
    o.gate = Gate::HashMismatch { what: "cp1 0xa, boot 0xb".into() };
    holds(&o, HoldReason::HashMismatch, "cp1 0xa");
    o.clients = ClientCounts::Unknown { missing: "cp1".into() };
    does(&o, Step::CountClients);
}

#[test]
fn hold_takes_our_voter_back_where_the_gate_was_not_passed() {
    for gate in [Gate::NotChecked, Gate::NotYet { at_ms: NOW, why: "cp1 lags".into() }] {
        let mut o = led_by_ours(1);
        o.spec.hold_boot_removal = true;
        o.gate = gate;
        does(&o, Step::MoveLeader { from: id(1), to: BOOT });
    }
}
