//! Which binary each keeper is, beside the controller's own.

use etcd_operator_api::member::{EtcdMember, KeeperHandOverStep};
use etcd_operator_plan::{KeeperBinary, Observed, Readiness, Seat};

use super::observe::View;

/// As the planner takes it. The word of three: what the keeper says that it is, what its agent can bring, what was ordered.
///
/// The controller knows only its own binary. Where an agent offers another one, the roll-out of the operator is under way, or this
/// controller is the one that is being replaced: then nothing is done. So of two controllers of different versions at most one acts.
pub(crate) fn binary(member: &EtcdMember, own: Option<&str>) -> KeeperBinary {
    let status = member.status.clone().unwrap_or_default();
    let keeper = status.keeper.unwrap_or_default();
    let (Some(own), Some(runs)) = (own, keeper.binary.as_deref()) else { return KeeperBinary::Unknown };
    if let Some(hand_over) = keeper.hand_over {
        match hand_over.step {
            KeeperHandOverStep::Begun | KeeperHandOverStep::Proving => return KeeperBinary::HandingOver,
            KeeperHandOverStep::Refused if hand_over.to == own => {
                return KeeperBinary::Refused { message: hand_over.message };
            }
            KeeperHandOverStep::Refused | KeeperHandOverStep::Done => {}
        }
    }
    if runs == own {
        return KeeperBinary::Current;
    }
    // Ordered is ordered: what its agent has brought may be taken at any time, also where another agent has come since.
    if member.spec.seat.as_ref().is_some_and(|seat| seat.keeper.as_deref() == Some(own)) {
        return KeeperBinary::Ordered;
    }
    if status.offers.as_deref() == Some(own) { KeeperBinary::Outdated } else { KeeperBinary::Unknown }
}

/// The nodes whose keeper is not the operator's, and why, so that none lags behind without a word.
pub(crate) fn outdated(view: &View, seen: &Observed, own: &str) -> Vec<String> {
    seen.seats.iter().filter_map(|seat| Some(format!("{}: {}", seat.node, why_outdated(view, seen, seat, own)?))).collect()
}

fn why_outdated(view: &View, seen: &Observed, seat: &Seat, own: &str) -> Option<String> {
    let status = view.member_of(&seat.node.0)?.status.clone()?;
    let keeper = status.keeper?;
    Some(match &seat.binary {
        KeeperBinary::Current => return None,
        KeeperBinary::Refused { message } => format!("the operator's was refused: {message}"),
        KeeperBinary::Ordered | KeeperBinary::HandingOver => format!("hands over{}", hindrance(seat)),
        KeeperBinary::Outdated => {
            let node = seen.nodes.iter().find(|n| n.name == seat.node);
            let place = match node {
                Some(node) if node.cordoned => ", and its node is cordoned",
                Some(node) if node.readiness == Readiness::Ready => "",
                Some(_) | None => ", and its node is not Ready",
            };
            format!("waits for its turn{place}{}", hindrance(seat))
        }
        // One that has just started has not read its own binary yet.
        KeeperBinary::Unknown if keeper.binary.is_none() && keeper.phase != "Running" => return None,
        KeeperBinary::Unknown if keeper.binary.is_none() => {
            "its keeper is from before there were hand-overs and has to be replaced by hand (runbook KeepersOutdated)".into()
        }
        KeeperBinary::Unknown if status.offers.as_deref() == Some(own) => "nothing is known of it".into(),
        KeeperBinary::Unknown => "its agent is of another version than the controller, or silent".into(),
    })
}

/// What the agent beside a keeper has to say.
pub(crate) fn hindrance(seat: &Seat) -> String {
    seat.problem.as_ref().map(|problem| format!(", and its agent reports {problem}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a table that is wrong in itself ends its test")]
    use etcd_operator_api::member::{EtcdMemberStatus, HandOverStatus, KeeperStatus, Role};

    use super::super::members;
    use super::*;

    fn seen(runs: Option<&str>, offers: Option<&str>, hand_over: Option<(&str, KeeperHandOverStep)>) -> KeeperBinary {
        let mut member = EtcdMember::new("c-n", members::blank("c", "n", Role::Member, 1));
        let hand_over = hand_over.map(|(to, step)| HandOverStatus { to: to.into(), step, message: "why".into() });
        member.status = Some(EtcdMemberStatus {
            offers: offers.map(str::to_owned),
            keeper: Some(KeeperStatus { binary: runs.map(str::to_owned), hand_over, ..KeeperStatus::default() }),
            ..EtcdMemberStatus::default()
        });
        binary(&member, Some("own"))
    }

    #[test]
    fn a_keeper_is_outdated_only_where_its_agent_brings_the_controllers() {
        use KeeperHandOverStep::{Begun, Done, Proving, Refused};
        assert_eq!(seen(Some("own"), Some("own"), None), KeeperBinary::Current);
        assert_eq!(seen(Some("own"), Some("own"), Some(("own", Done))), KeeperBinary::Current);
        assert_eq!(seen(Some("old"), Some("own"), None), KeeperBinary::Outdated);
        // From before there were hand-overs; agents that are older or newer than this controller.
        assert_eq!(seen(None, Some("own"), None), KeeperBinary::Unknown);
        assert_eq!(seen(Some("old"), Some("new"), None), KeeperBinary::Unknown);
        assert_eq!(seen(Some("old"), None, None), KeeperBinary::Unknown);
        // Whatever it leads to: one after the other.
        for step in [Begun, Proving] {
            assert_eq!(seen(Some("own"), Some("own"), Some(("own", step))), KeeperBinary::HandingOver);
            assert_eq!(seen(Some("new"), Some("own"), Some(("new", step))), KeeperBinary::HandingOver);
        }
        let refused = KeeperBinary::Refused { message: "why".into() };
        assert_eq!(seen(Some("old"), Some("own"), Some(("own", Refused))), refused);
        // An earlier version was; this one has its own chance.
        assert_eq!(seen(Some("old"), Some("own"), Some(("other", Refused))), KeeperBinary::Outdated);
        assert_eq!(binary(&EtcdMember::new("c-n", members::blank("c", "n", Role::Member, 1)), None), KeeperBinary::Unknown);
    }
}
