//! Which steps need a recorded intent and a guard. One too few is two controllers that step at once; one too many is a write to the API
//! for every look, and each write brings on the next pass.

use super::*;

#[test]
fn what_changes_the_members_or_whose_seat_is_whose_or_who_leads_needs_an_intent() {
    let (node, member) = (name(1), id(1));
    for step in [
        Step::AddLearner { node: node.clone() },
        Step::Promote { node: node.clone(), member },
        Step::MoveLeader { from: BOOT, to: member },
        Step::RemoveBoot { boot: BOOT, how: Removal::Drain { attempt: 1 } },
        Step::RemoveBoot { boot: BOOT, how: Removal::Alive },
        Step::RemoveMember { node: node.clone(), member },
        Step::Evict { node: node.clone(), member },
        Step::HandOverKeeper { node: node.clone() },
        Step::EnableDowngrade,
        Step::CancelDowngrade,
        Step::Unseat { node },
    ] {
        assert!(step.is_disruptive(), "{step:?}");
    }
}

#[test]
fn what_asks_looks_or_can_be_said_twice_needs_none() {
    for step in [
        Step::RunPreflight,
        Step::SnapshotBoot,
        Step::AssignSeats { nodes: vec![name(1)] },
        Step::StartMember { node: name(1), member: id(1) },
        Step::CountClients,
        Step::CheckGate,
        Step::WithdrawBootDrain,
        Step::TombstoneBoot,
        Step::CallOffHandOver { node: name(1) },
    ] {
        assert!(!step.is_disruptive(), "{step:?}");
    }
}
