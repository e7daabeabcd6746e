//! The beginning of a cluster without a boot member.

use super::*;

/// Nothing but nodes.
fn new(size: u32) -> Observed {
    Observed {
        boot: Boot::None,
        founding: Founding::Open,
        etcd: Etcd::Unknown { why: "no endpoint".into() },
        ..before_the_first_change(5, size)
    }
}

fn seated_new(size: u32) -> Observed {
    Observed { seats: (1..=size as usize).map(seat).collect(), ..new(size) }
}

/// It was written down that the first node begins.
fn chosen(is_permitted: bool) -> Observed {
    Observed { founding: Founding::Chosen { node: name(1), is_permitted }, ..seated_new(3) }
}

#[test]
fn it_begins_once_all_seats_are_proven_and_grows_from_there() {
    let mut o = new(3);
    o.preflight = Preflight::NotRun;
    does(&o, Step::RunPreflight);
    o.preflight = Preflight::Passed;
    does(&o, Step::AssignSeats { nodes: vec![name(1), name(2), name(3)] });
    does(&seated_new(3), Step::Found { node: name(1) });
    // One that is proven is enough; what listens at the ports now is its keeper.
    let mut o = Observed { preflight: Preflight::NotRun, ..seated_new(3) };
    o.seats[0].keeper = KeeperView::NotPrepared { why: "no image".into() };
    does(&o, Step::Found { node: name(2) });
    for seat in &mut o.seats {
        seat.keeper = KeeperView::NotPrepared { why: "no image".into() };
    }
    waits(&o, WaitFor::MembersPrepared);
    // Not where the node has another address by now.
    let mut o = seated_new(3);
    o.seats[0].address = Address::Moved { to: "https://10.0.0.9:22380".into() };
    assert_ne!(plan(&o), Plan::Do(Step::Found { node: name(1) }));
    // Written down; then its keeper is permitted to.
    does(&chosen(false), Step::Found { node: name(1) });
    waits(&chosen(true), WaitFor::FirstMember);
    let mut o = chosen(true);
    o.etcd = Etcd::Known { cluster: ClusterId(7), members: Vec::new() };
    list(&mut o, 1, As { learner: false, health: leader() });
    does(&o, Step::AddLearner { node: name(2) });
}

#[test]
fn there_is_no_second_beginning() {
    // The seat of the first member is gone, or its data.
    let mut o = chosen(true);
    o.seats.remove(0);
    holds(&o, HoldReason::EtcdUnreachable, "nothing is begun a second time");
    let mut o = chosen(true);
    o.seats[0].keeper = KeeperView::Refused { reason: "DataLost".into(), message: "gone".into() };
    holds(&o, HoldReason::MemberRefused, "DataLost");
    // Data of another cluster lies there, or what it began with is gone.
    for reason in ["ForeignData", "EmptyAndNoAnswer", "DataLost", "DataCorrupt"] {
        o.seats[0].keeper = KeeperView::Waiting { reason: reason.into() };
        holds(&o, HoldReason::MemberRefused, reason);
    }
    // It has been seen before, and does not answer now.
    let o = Observed { founding: Founding::Over, ..seated_new(3) };
    holds(&o, HoldReason::EtcdUnreachable, "no linearizable member list");
    // Somebody answers at one of the seats.
    let mut o = seated_new(3);
    o.etcd = Etcd::Known { cluster: ClusterId(7), members: Vec::new() };
    stranger(&mut o);
    holds(&o, HoldReason::UnknownMember, "nothing says that it was begun here");
}

#[test]
fn what_is_not_allowed_or_cannot_be_is_said_and_nothing_is_begun() {
    waits(&Observed { founding: Founding::Unheard, ..new(3) }, WaitFor::Agents);
    let mut o = new(3);
    o.founding = Founding::NotAllowed { reason: HoldReason::InvalidSpec, why: "spec.selfHosted is missing".into() };
    holds(&o, HoldReason::InvalidSpec, "spec.selfHosted");
    // With fewer nodes than wanted it begins, and then waits for more.
    let mut o = new(3);
    o.nodes.truncate(2);
    does(&o, Step::AssignSeats { nodes: vec![name(1), name(2)] });
    o.seats = vec![seat(1), seat(2)];
    does(&o, Step::Found { node: name(1) });
    (o.nodes, o.seats) = (Vec::new(), Vec::new());
    holds(&o, HoldReason::NoControlNode, "spec.pod.nodeSelector");
    let mut o = new(3);
    o.spec.paused = true;
    waits(&o, WaitFor::Unpause);
    // Fewer are wanted before it has begun: the rest is given back once it has.
    let mut o = seated_new(3);
    o.spec.size = 1;
    does(&o, Step::Found { node: name(1) });
    let mut o = Observed { spec: Spec { size: 1, ..o.spec }, ..chosen(true) };
    o.etcd = Etcd::Known { cluster: ClusterId(7), members: Vec::new() };
    list(&mut o, 1, As { learner: false, health: leader() });
    does(&o, Step::Unseat { node: name(3) });
}
