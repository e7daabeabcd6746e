//! From nothing to seats: input, preflight, snapshot, seats.

use super::*;

#[test]
fn sizes_out_of_range_are_refused_before_anything_else() {
    for size in [0, 10, 11, u32::MAX] {
        let mut o = before_the_first_change(3, size);
        o.etcd = Etcd::Unknown { why: "down".into() };
        holds(&o, HoldReason::InvalidSpec, "1 to 9");
    }
}

#[test]
fn paused_takes_no_step_whatever_is_to_be_done() {
    for mut o in [before_the_first_change(3, 3), joined(3, 1), ready(3), removed(3)] {
        o.spec.paused = true;
        waits(&o, WaitFor::Unpause);
    }
}

#[test]
fn an_etcd_that_does_not_answer_holds_with_its_error() {
    for mut o in [before_the_first_change(3, 3), joined(3, 2), ready(1), removed(3)] {
        o.etcd = Etcd::Unknown { why: "dial tcp: connection refused".into() };
        holds(&o, HoldReason::EtcdUnreachable, "connection refused");
    }
}

#[test]
fn preflight_comes_before_the_snapshot() {
    let mut o = before_the_first_change(3, 3);
    o.preflight = Preflight::NotRun;
    does(&o, Step::RunPreflight);
    o.preflight = Preflight::Pending { missing: "cp2".into() };
    waits(&o, WaitFor::PreflightChecks);
}

#[test]
fn a_failed_preflight_holds_with_its_own_reason_and_message() {
    let mut o = before_the_first_change(3, 3);
    for reason in [HoldReason::PreflightFailed, HoldReason::CaNotTrustedByBoot, HoldReason::BootTooOld, HoldReason::BootNotAlone]
    {
        o.preflight = Preflight::Failed { reason, message: "cp2: port 2379 is taken".into() };
        holds(&o, reason, "2379");
    }
}

#[test]
fn preflight_only_is_done_after_the_checks_and_changes_nothing() {
    let mut o = before_the_first_change(3, 3);
    o.spec.preflight_only = true;
    assert_eq!(plan(&o), Plan::Done);
    o.preflight = Preflight::NotRun;
    does(&o, Step::RunPreflight);
}

#[test]
fn the_snapshot_of_boot_comes_before_the_first_seat() {
    let mut o = before_the_first_change(3, 3);
    let steps = [
        (Snapshot::None, Plan::Do(Step::SnapshotBoot)),
        (Snapshot::Pending, Plan::Wait { what: WaitFor::BootSnapshot, look_again_ms: crate::FAST_LOOK_MS }),
        (Snapshot::Taken, Plan::Do(Step::AssignSeats { nodes: vec![name(1), name(2), name(3)] })),
        (Snapshot::Impossible, Plan::Do(Step::AssignSeats { nodes: vec![name(1), name(2), name(3)] })),
    ];
    for (state, answer) in steps {
        if let Boot::Member { snapshot, .. } = &mut o.boot {
            *snapshot = state;
        }
        assert_eq!(plan(&o), answer, "{state:?}");
    }
}

#[test]
fn preflight_and_snapshot_are_not_repeated_once_a_member_is_listed() {
    let mut o = joined(3, 1);
    o.preflight = Preflight::NotRun;
    if let Boot::Member { snapshot, .. } = &mut o.boot {
        *snapshot = Snapshot::None;
    }
    does(&o, Step::AddLearner { node: name(2) });
}

#[test]
fn seats_go_to_ready_nodes_in_the_least_crowded_zones() {
    let mut o = before_the_first_change(5, 3);
    for (node, zone) in o.nodes.iter_mut().zip(["a", "a", "a", "b", "c"]) {
        node.zone = zone.into();
    }
    does(&o, Step::AssignSeats { nodes: vec![name(1), name(4), name(5)] });
    o.nodes[0].cordoned = true;
    o.nodes[3].readiness = Readiness::NotReady;
    does(&o, Step::AssignSeats { nodes: vec![name(2), name(5), name(3)] });
}

#[test]
fn nodes_without_a_network_take_a_seat_during_a_pivot_only() {
    let mut o = before_the_first_change(1, 1);
    o.nodes[0].readiness = Readiness::NoNetworkYet;
    does(&o, Step::AssignSeats { nodes: vec![name(1)] });
    o.boot = Boot::None;
    o.etcd = Etcd::Known { cluster: ClusterId(7), members: Vec::new() };
    holds(&o, HoldReason::NotEnoughNodes, "add nodes");
}

#[test]
fn too_few_nodes_hold_and_none_at_all_names_the_label() {
    let mut o = before_the_first_change(2, 3);
    holds(&o, HoldReason::NotEnoughNodes, "only 2 of the 2 nodes");
    o.nodes[1].cordoned = true;
    holds(&o, HoldReason::NotEnoughNodes, "only 1 of the 2 nodes");
    o.nodes.clear();
    holds(&o, HoldReason::NoControlNode, "node-role.kubernetes.io/control-plane");
}

#[test]
fn a_boot_that_no_member_stands_for_is_unreachable() {
    let mut o = before_the_first_change(3, 3);
    if let Boot::Member { id, .. } = &mut o.boot {
        *id = None;
    }
    holds(&o, HoldReason::BootUnreachable, "bootMemberClientEndpoint");
}

#[test]
fn a_seat_is_no_change_yet_and_the_checks_are_asked_for_until_a_member_is_listed() {
    let mut o = seated(3);
    o.preflight = Preflight::NotRun;
    does(&o, Step::RunPreflight);
    // Nor do they come back once all of them are.
    let mut o = joined(3, 3);
    o.preflight = Preflight::NotRun;
    does(&o, Step::CountClients);
}
