//! What is done, waited for and missing, in a human's words: for the EtcdCluster's status and for Events.

use etcd_operator_plan::{self as plan, Observed, Preflight, Readiness, Step, WaitFor};

use super::observe::View;
use super::{hand_over, progress};
use crate::clock;

/// What a step does.
pub(super) fn step_words(seen: &Observed, step: &Step) -> String {
    match step {
        Step::RunPreflight => "asking the agents to check their nodes".into(),
        Step::SnapshotBoot => "having a snapshot of boot taken".into(),
        Step::AssignSeats { nodes } => {
            format!("preparing members on {}", nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        Step::AddLearner { node } => format!("adding a learner on {node}"),
        Step::StartMember { node, .. } => format!("starting the member on {node}"),
        Step::CountClients => match &seen.clients {
            plan::ClientCounts::Unknown { missing } => {
                format!("counting the clients of boot and of the new members: {missing}")
            }
            plan::ClientCounts::Known { .. } => "counting the clients of boot and of the new members".into(),
        },
        Step::Found { node } => format!("the member on {node} begins the cluster"),
        Step::Promote { node, .. } => format!("promoting the learner on {node}"),
        Step::CheckGate => "comparing the members' data, writing and reading through each".into(),
        Step::MoveLeader { to, .. } => format!("moving the leadership to {to}"),
        Step::RemoveBoot { .. } => "removing boot".into(),
        Step::WithdrawBootDrain => "taking back an order to stop boot".into(),
        Step::TombstoneBoot => "putting boot's manifest away".into(),
        Step::RemoveMember { node, .. } => format!("removing the member on {node}: {}", why_removed(seen, node).0),
        Step::Evict { node, .. } => progress::why_evicted(seen, node),
        Step::Unseat { node } => format!("giving back the seat of {node}"),
        Step::RollOut { node, .. } => format!("restarting etcd on {node} with what the spec says"),
        Step::Readdress { node, .. } => match seen.seats.iter().find(|s| s.node == *node).map(|s| &s.address) {
            Some(plan::Address::Moved { to }) => format!("{node} has another address: its member is to be at {to}"),
            _ => format!("etcd lists another URL for the member on {node} than where it listens"),
        },
        Step::CompareStores => "comparing the members' stores: etcd says that they differ, and refuses every write".into(),
        Step::RemoveCorrupt { node, member } => {
            format!("removing {member} on {node}: etcd accuses it, and its store differs from those of a quorum")
        }
        Step::DisarmCorrupt { member } => {
            format!("taking back etcd's alarm against {member}: it is gone, serves nobody, or has the store of the others")
        }
        Step::PrepareRollOut => "having the image proven on all nodes, and a snapshot taken where the version changes".into(),
        Step::EnableDowngrade => "having etcd convert its data for the version that the spec says".into(),
        Step::CancelDowngrade => "no conversion of etcd's data after all: the spec says another version".into(),
        Step::RollBack { node } => format!("etcd on {node} did not come up with another pod, and is given back the one before"),
        Step::CallOffRollOut { node } => format!("no restart of etcd on {node} after all: not all members and nodes are well"),
        Step::HandOverKeeper { node } => format!("handing over to the operator's keeper on {node}"),
        Step::CallOffHandOver { node } => format!("no hand-over on {node} after all: not all members and nodes are well"),
    }
}

/// Why a member of ours is removed, and whether it is lost.
pub(super) fn why_removed(seen: &Observed, node: &plan::NodeName) -> (String, bool) {
    let seat = seen.seats.iter().find(|s| s.node == *node);
    let plan::Etcd::Known { members, .. } = &seen.etcd else { return (String::new(), false) };
    let member = seat.and_then(|s| members.iter().find(|m| m.peer_urls.contains(&s.peer_url)));
    let is_healthy = member.is_some_and(|m| matches!(m.health, plan::EtcdHealth::Healthy { .. }));
    match seat {
        Some(plan::Seat { keeper: plan::KeeperView::Refused { reason, message }, .. }) if !is_healthy => {
            (format!("its data is gone ({reason}: {message})"), true)
        }
        Some(seat) if !is_healthy && seat.away_since_ms.is_some() => {
            let since = seat.down_since_ms.map(clock::rfc3339).unwrap_or_default();
            (format!("it has been down since {since}, and its node is away"), true)
        }
        _ if seen.spec.abort => ("back to boot".into(), false),
        _ => (format!("spec.size is {}", seen.spec.size), false),
    }
}

/// What is waited for.
pub(super) fn wait_words(view: &View, seen: &Observed, what: WaitFor) -> String {
    if let (Err(why), WaitFor::MembersPrepared | WaitFor::FirstMember) = (&view.ca, what) {
        return why.clone();
    }
    match what {
        WaitFor::Unpause => "spec.paused is true".into(),
        WaitFor::Agents => format!("waiting for the agents on {}", silent_agents(seen)),
        WaitFor::PreflightChecks => match &seen.preflight {
            Preflight::Pending { missing } => format!("waiting for the checks of {missing}"),
            Preflight::NotRun | Preflight::Passed | Preflight::Failed { .. } => String::new(),
        },
        WaitFor::BootSnapshot => with_boots_words(view, "a snapshot of boot is being taken on its node"),
        WaitFor::MembersPrepared => {
            let missing = |s: &plan::Seat| match &s.keeper {
                plan::KeeperView::NotPrepared { why } => Some(format!("{}: {why}", s.node)),
                _ => None,
            };
            seen.seats.iter().filter_map(missing).collect::<Vec<_>>().join("; ")
        }
        WaitFor::FirstMember => {
            let node = view.status.founding.as_ref().map(|f| f.node.as_str()).unwrap_or_default();
            let keeper = view.member_of(node).and_then(|m| m.status.as_ref()?.keeper.clone()).unwrap_or_default();
            let says = format!("{} {} {}", keeper.phase, keeper.reason, keeper.message);
            format!("the first member is starting on {node}: its keeper: {}", says.trim_end())
        }
        WaitFor::LearnerStarts => format!("a learner was added and is starting: {}", learners(view, seen)),
        WaitFor::LearnerCatchesUp => format!("a learner is receiving the data: {}", learners(view, seen)),
        WaitFor::VotersHealthy => match unhealthy_voters(view, seen).as_slice() {
            [] => "not all voters are healthy, or nobody is seen to lead".into(),
            names => format!("not all voters are healthy: {}", names.join("; ")),
        },
        WaitFor::ApiServersConnect => match lacking(seen).as_slice() {
            [] => "the clients of boot and of the new members are being counted".into(),
            remotes => format!(
                "clients that have fewer connections to a new member than to boot: {} (waited for until all members have listened for 145 s)",
                remotes.join(", ")
            ),
        },
        WaitFor::BootRemovalGate => match &seen.gate {
            plan::Gate::NotYet { why, .. } => why.clone(),
            _ => String::new(),
        },
        WaitFor::BootDrain => with_boots_words(view, "boot was told to stop"),
        WaitFor::BootTombstone => with_boots_words(view, "boot's manifest and data are being put away"),
        WaitFor::ApiServersReconnect => {
            "members came, or came back, lately: a healthy one goes once another has been up for 145 s, in which every API server tries it again".into()
        }
        WaitFor::MemberDrain => "a member was told to stop".into(),
        WaitFor::RollOutPrepared => match &seen.roll_out {
            plan::Preparation::Pending { missing, .. } => missing.clone(),
            _ => String::new(),
        },
        WaitFor::MemberRestart => {
            let of = |wanted: plan::RunsWith| {
                let seats = seen.seats.iter().filter(move |s| s.runs_with == wanted);
                seats.map(|s| format!("{}{}", s.node, hand_over::hindrance(s))).collect::<Vec<_>>().join(", ")
            };
            match (of(plan::RunsWith::UnderWay), of(plan::RunsWith::Unknown)) {
                (nodes, _) if !nodes.is_empty() => format!("etcd is to be restarted with what the spec says on {nodes}, once its agent brings the order and the others are a quorum"),
                (_, nodes) if !nodes.is_empty() => format!("the keeper does not say what its etcd runs with, and has to be handed over first: {nodes}"),
                (_, _) => "what the spec says is still to be rolled out".into(),
            }
        }
        WaitFor::KeeperHandOver => {
            let handing = |s: &&plan::Seat| matches!(s.binary, plan::KeeperBinary::Ordered | plan::KeeperBinary::HandingOver);
            let words = |s: &plan::Seat| format!("{}{}", s.node, hand_over::hindrance(s));
            let nodes: Vec<_> = seen.seats.iter().filter(handing).map(words).collect();
            format!("the keeper hands over to the operator's on {}; etcd runs on", nodes.join(", "))
        }
    }
}

/// With what boot's agent says.
fn with_boots_words(view: &View, text: &str) -> String {
    let Some(member) = view.boot_member() else { return text.to_owned() };
    let said = member.status.as_ref().and_then(|s| s.boot.as_ref()).map(|b| b.message.as_str()).unwrap_or_default();
    let node = &member.spec.node_name;
    if said.is_empty() { format!("{text} ({node})") } else { format!("{text} ({node}: {said})") }
}

fn silent_agents(seen: &Observed) -> String {
    let silent = |n: &&plan::Node| n.agent == plan::AgentView::Silent || n.readiness == Readiness::NotReady;
    seen.nodes.iter().filter(silent).map(|n| n.name.to_string()).collect::<Vec<_>>().join(", ")
}

/// Entries in one significant digit: a message that changes with each of them would be written all the time.
fn about(entries: u64) -> u64 {
    let digit = 10_u64.pow(entries.checked_ilog10().unwrap_or(0));
    entries / digit * digit
}

/// The seats whose member is no voter yet, how far behind it is, and what their keepers say.
fn learners(view: &View, seen: &Observed) -> String {
    let plan::Etcd::Known { members, .. } = &seen.etcd else { return String::new() };
    let is_learner = |s: &&plan::Seat| members.iter().any(|m| m.is_learner && m.peer_urls.contains(&s.peer_url));
    let words = |s: &plan::Seat| {
        let status = view.member_of(&s.node.0).and_then(|m| m.status.clone()).unwrap_or_default();
        let keeper = status.keeper.filter(|k| !k.message.is_empty());
        let said = keeper.map(|k| format!(" ({}: {})", k.reason, k.message)).unwrap_or_default();
        let learner = members.iter().find(|m| m.peer_urls.contains(&s.peer_url));
        let behind = match learner.map(|m| m.health) {
            Some(plan::EtcdHealth::Healthy { lag: (now, _), .. }) if now < u64::MAX => {
                format!(", about {} entries behind", about(now))
            }
            _ => String::new(),
        };
        let still = progress::stands_still(seen, s);
        let before = seen.nodes.iter().find(|n| n.name == s.node).and_then(|n| n.evicted_ms);
        let again = before.map(|at| format!(", evicted once before at {}", clock::rfc3339(at))).unwrap_or_default();
        format!("{}{behind}{still}{again}{said}", s.node)
    };
    seen.seats.iter().filter(is_learner).map(words).collect::<Vec<_>>().join("; ")
}

/// Voters that did not answer or complain, by name and node.
pub(super) fn unhealthy_voters(view: &View, seen: &Observed) -> Vec<String> {
    let plan::Etcd::Known { members, .. } = &seen.etcd else { return Vec::new() };
    let words = |m: &plan::EtcdMember| {
        let name = if m.name.is_empty() { m.id.to_string() } else { m.name.clone() };
        let errors = view.status_of(etcd_operator_etcd::ids::MemberId(m.id.0)).map(|s| s.errors.join(", "));
        match (m.health, errors) {
            // Alarms of another member, or NOSPACE: it votes, but somebody has to look.
            (_, Some(errors)) if !errors.is_empty() => Some(format!("{name} says: {errors}")),
            (plan::EtcdHealth::Healthy { .. }, _) => None,
            (_, Some(_)) => Some(format!("{name} sees no leader")),
            (_, None) => Some(format!("{name} does not answer")),
        }
    };
    members.iter().filter(|m| !m.is_learner).filter_map(words).collect()
}

/// Addresses of clients that boot has more connections of than a new member has. No counts: they change all the time.
fn lacking(seen: &Observed) -> Vec<String> {
    let plan::ClientCounts::Known { remotes, .. } = &seen.clients else { return Vec::new() };
    remotes.iter().filter(|r| r.to_members.iter().any(|n| *n < r.to_boot)).map(|r| r.ip.clone()).collect()
}
