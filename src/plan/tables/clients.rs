//! The clients of boot: would they go on without it?

use super::*;

fn remote(to_boot: u32, to_members: &[u32]) -> RemoteClient {
    RemoteClient { ip: "10.0.0.9".into(), to_boot, to_members: to_members.to_vec() }
}

#[test]
fn clients_are_counted_once_all_seats_are_there() {
    for size in [1, 2, 3, 5] {
        let mut o = ready(size);
        o.clients = ClientCounts::Unknown { missing: "cp1".into() };
        does(&o, Step::CountClients);
    }
}

#[test]
fn nobody_connected_to_boot_is_nobody_to_wait_for() {
    let mut o = ready(3);
    o.gate = Gate::NotChecked;
    counted(&mut o, 0, Vec::new());
    does(&o, Step::CheckGate);
}

#[test]
fn fewer_connections_than_to_boot_are_waited_for_until_the_longest_backoff_is_over() {
    let mut o = ready(3);
    o.gate = Gate::NotChecked;
    for (age, to_members, goes_on) in [
        (0, [30, 30, 30], true),
        (0, [31, 90, 30], true),
        (0, [30, 30, 29], false),
        (144_999, [30, 0, 30], false),
        (145_000, [30, 0, 30], true),
        (145_000, [24, 0, 0], true),
    ] {
        counted(&mut o, age, vec![remote(30, &to_members)]);
        match goes_on {
            true => does(&o, Step::CheckGate),
            false => waits(&o, WaitFor::ApiServersConnect),
        }
    }
}

#[test]
fn a_client_of_boot_alone_holds_however_long_it_has_been() {
    let mut o = ready(3);
    counted(&mut o, 1_000, vec![remote(30, &[30, 30, 30]), remote(1, &[0, 0, 0])]);
    waits(&o, WaitFor::ApiServersConnect);
    for age in [145_000, 900_000] {
        counted(&mut o, age, vec![remote(30, &[30, 30, 30]), remote(1, &[0, 0, 0])]);
        holds(&o, HoldReason::ApiServerOnBootMember, "--etcd-servers");
    }
}

#[test]
fn at_size_1_a_client_of_boot_alone_keeps_the_learner_a_learner() {
    let mut o = ready(1);
    counted(&mut o, 900_000, vec![remote(30, &[0])]);
    holds(&o, HoldReason::ApiServerOnBootMember, "10.0.0.9");
}

#[test]
fn where_nobody_can_count_boots_clients_the_longest_backoff_stands_in() {
    let mut o = ready(3);
    o.gate = Gate::NotChecked;
    host(&mut o, BootHost::Elsewhere);
    counted(&mut o, 144_999, Vec::new());
    waits(&o, WaitFor::ApiServersConnect);
    counted(&mut o, 145_000, Vec::new());
    does(&o, Step::CheckGate);
}

#[test]
fn a_boot_that_its_command_stops_is_counted_where_an_agent_stands_beside_it() {
    for (taken, counts) in [(Snapshot::Taken, true), (Snapshot::Impossible, false)] {
        let mut o = ready(3);
        o.gate = Gate::NotChecked;
        host(&mut o, BootHost::Command);
        if let Boot::Member { snapshot, .. } = &mut o.boot {
            *snapshot = taken;
        }
        counted(&mut o, 1_000, vec![remote(30, &[30, 30, 30])]);
        match counts {
            true => does(&o, Step::CheckGate),
            false => waits(&o, WaitFor::ApiServersConnect),
        }
        counted(&mut o, 145_000, Vec::new());
        does(&o, Step::CheckGate);
    }
}

#[test]
fn a_gate_that_counts_vouches_for_the_clients() {
    // A reconnect makes the counts differ for a moment: at two voters nothing may rest on that.
    for mut o in [ready(3), led_by_ours(1)] {
        let fewer = vec![RemoteClient { ip: "10.0.0.9".into(), to_boot: 30, to_members: vec![29; o.seats.len()] }];
        counted(&mut o, 1_000, fewer);
        o.gate = Gate::Passed { at_ms: NOW };
        assert!(matches!(plan(&o), Plan::Do(Step::MoveLeader { .. } | Step::RemoveBoot { .. })), "{:?}", plan(&o));
        o.gate = Gate::NotChecked;
        waits(&o, WaitFor::ApiServersConnect);
    }
    // With three, a gate of long ago does not.
    let mut o = ready(3);
    let fewer = vec![RemoteClient { ip: "10.0.0.9".into(), to_boot: 30, to_members: vec![29; 3] }];
    counted(&mut o, 1_000, fewer);
    o.gate = Gate::Passed { at_ms: NOW - 60_000 };
    waits(&o, WaitFor::ApiServersConnect);
}

#[test]
fn a_few_connections_of_our_own_do_not_stand_for_an_api_server() {
    // Seen on the bed: an API server that listed only boot, and a keeper of the same address that had just asked the others.
    for (to_boot, to_members, lost) in [
        (73, 3, true),
        (73, 58, true),
        (73, 59, false),
        (73, 73, false),
        (4, 0, true),
        (4, 1, false),
        (5, 3, true),
        (5, 4, false),
        (0, 0, false),
    ] {
        let mut o = ready(3);
        o.gate = Gate::NotChecked;
        let remote = RemoteClient { ip: "10.0.0.9".into(), to_boot, to_members: vec![to_members; 3] };
        counted(&mut o, 600_000, vec![remote]);
        match lost {
            true => holds(&o, HoldReason::ApiServerOnBootMember, "--etcd-servers"),
            false => does(&o, Step::CheckGate),
        }
    }
}

#[test]
fn a_client_of_which_no_new_member_says_anything_is_lost() {
    let mut o = ready(3);
    for to_boot in [1, 30] {
        counted(&mut o, 600_000, vec![remote(to_boot, &[])]);
        holds(&o, HoldReason::ApiServerOnBootMember, "10.0.0.9");
    }
}
