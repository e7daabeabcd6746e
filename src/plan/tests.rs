//! Tables: what the planner answers in each situation. They stand in `tables/`, as Cargo takes a folder `tests` for its own.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::expect_used, reason = "a table that is wrong in itself ends its test")]

#[path = "tables/abort.rs"]
mod abort;
#[path = "tables/clients.rs"]
mod clients;
#[path = "tables/corrupt.rs"]
mod corrupt;
#[path = "tables/eviction.rs"]
mod eviction;
#[path = "tables/found.rs"]
mod found;
#[path = "tables/hand_over.rs"]
mod hand_over;
#[path = "tables/heal.rs"]
mod heal;
#[path = "tables/joining.rs"]
mod joining;
#[path = "tables/keepers.rs"]
mod keepers;
#[path = "tables/looking.rs"]
mod looking;
#[path = "tables/order.rs"]
mod order;
#[path = "tables/quorum.rs"]
mod quorum;
#[path = "tables/readdress.rs"]
mod readdress;
#[path = "tables/reasons.rs"]
mod reasons;
#[path = "tables/removal.rs"]
mod removal;
#[path = "tables/roll_out.rs"]
mod roll_out;
#[path = "tables/shrink.rs"]
mod shrink;
#[path = "tables/size.rs"]
mod size;
#[path = "tables/start.rs"]
mod start;
#[path = "tables/steady.rs"]
mod steady;
#[path = "tables/steps.rs"]
mod steps;
#[path = "tables/two_voters.rs"]
mod two_voters;
#[path = "tables/wording.rs"]
mod wording;

use crate::{
    Address, AgentView, ApiServer, Boot, BootDrain, BootHost, ClientCounts, ClusterId, Downgrade, Etcd, EtcdHealth, EtcdMember,
    Founding, Gate, HoldReason, KeeperBinary, KeeperView, MemberId, Node, NodeName, Observed, Plan, Preflight, Preparation,
    Readiness, RemoteClient, Removal, Restart, RunsWith, Seat, Snapshot, Spec, Step, Tombstone, WaitFor, plan,
};

/// The time of every table; all that is old is older than this.
const NOW: u64 = 1_000_000;
/// How long a learner may make no progress.
const PATIENCE: u64 = 300_000;
/// How long a voter must be away.
const GRACE: u64 = 200_000;
const BOOT: MemberId = MemberId(0xb);

/// The situation just before the first change: boot alone, `nodes` nodes, preflight passed, snapshot taken, no seat.
fn before_the_first_change(nodes: usize, size: u32) -> Observed {
    Observed {
        now_ms: NOW,
        spec: Spec {
            size,
            paused: false,
            hold_boot_removal: false,
            skip_boot_removal: false,
            abort: false,
            preflight_only: false,
            overruled: None,
        },
        nodes: (1..=nodes).map(node).collect(),
        seats: Vec::new(),
        boot: Boot::Member {
            id: Some(BOOT),
            host: BootHost::StaticPod,
            snapshot: Snapshot::Taken,
            drain: BootDrain::None,
            tombstone: Tombstone::None,
        },
        founding: Founding::Over,
        etcd: Etcd::Known { cluster: ClusterId(7), members: vec![boot(leader())] },
        clients: ClientCounts::Unknown { missing: "not asked for".into() },
        gate: Gate::NotChecked,
        preflight: Preflight::Passed,
        learner_patience_ms: PATIENCE,
        replace_after_ms: GRACE,
        adds_beside_dead: true,
        roll_out_refused: None,
        rolled_back: None,
        roll_out: Preparation::Ready,
        downgrade: Downgrade::None,
        api_servers: Vec::new(),
        accused: Vec::new(),
        stores: crate::Stores::NotCompared,
    }
}

/// `size` prepared seats, none listed.
fn seated(size: u32) -> Observed {
    let mut o = before_the_first_change(5, size);
    o.seats = (1..=size as usize).map(seat).collect();
    o
}

/// `size` seats, of which the first `voters` vote; boot leads.
fn joined(size: u32, voters: usize) -> Observed {
    let mut o = seated(size);
    for n in 1..=voters {
        list(&mut o, n, voter());
    }
    o
}

/// All seats vote (size 1: learns), clients connected, gate passed, boot leads.
fn ready(size: u32) -> Observed {
    let mut o = joined(size, size as usize);
    if size == 1 {
        member(&mut o, 1).is_learner = true;
    }
    connected(&mut o);
    o.gate = Gate::Passed { at_ms: NOW - 1_000 };
    o
}

/// As `ready`, and a member of ours leads. At size 1: it votes.
fn led_by_ours(size: u32) -> Observed {
    let mut o = ready(size);
    member(&mut o, 1).is_learner = false;
    member(&mut o, 1).health = leader();
    members(&mut o)[0].health = follower();
    o
}

/// Boot is not listed any more.
fn removed(size: u32) -> Observed {
    let mut o = led_by_ours(size);
    members(&mut o).remove(0);
    o
}

/// Boot cannot come back either.
fn after_the_pivot(size: u32) -> Observed {
    let mut o = removed(size);
    if let Boot::Member { tombstone, .. } = &mut o.boot {
        *tombstone = Tombstone::Set;
    }
    o
}

fn node(n: usize) -> Node {
    Node {
        name: NodeName(format!("cp{n}")),
        zone: String::new(),
        readiness: Readiness::Ready,
        cordoned: false,
        agent: AgentView::Fresh,
        evicted_ms: None,
        evictions: 0,
        is_taken: false,
    }
}

fn name(n: usize) -> NodeName {
    NodeName(format!("cp{n}"))
}

fn id(n: usize) -> MemberId {
    MemberId(n as u64)
}

fn url(n: usize) -> String {
    format!("https://10.0.0.{n}:2380")
}

fn seat(n: usize) -> Seat {
    Seat {
        node: name(n),
        member_name: format!("cp{n}-1"),
        peer_url: url(n),
        address: Address::Right,
        url_of: None,
        ordered: None,
        keeper: KeeperView::Waiting { reason: "WaitToBeAdded".into() },
        binary: KeeperBinary::Unknown,
        runs_with: RunsWith::Current,
        restart_ordered_ms: None,
        replaced_ms: None,
        may_go_back: false,
        problem: None,
        no_progress_since_ms: None,
        down_since_ms: None,
        away_since_ms: None,
        up_since_ms: Some(0),
        is_leaving: false,
        drains_in_vain: 0,
    }
}

fn boot(health: EtcdHealth) -> EtcdMember {
    EtcdMember { id: BOOT, name: "boot".into(), peer_urls: vec!["https://10.0.0.1:12380".into()], is_learner: false, health }
}

fn leader() -> EtcdHealth {
    EtcdHealth::Healthy { is_leader: true, lag: (0, Some(0)) }
}

fn follower() -> EtcdHealth {
    lagging(0, Some(0))
}

fn lagging(now: u64, before: Option<u64>) -> EtcdHealth {
    EtcdHealth::Healthy { is_leader: false, lag: (now, before) }
}

/// How a member is listed.
struct As {
    learner: bool,
    health: EtcdHealth,
}

fn voter() -> As {
    As { learner: false, health: follower() }
}

fn learner(health: EtcdHealth) -> As {
    As { learner: true, health }
}

/// Lists the member of seat `n`, told to run.
fn list(o: &mut Observed, n: usize, how: As) {
    let seat = o.seats.iter_mut().find(|s| s.node == name(n)).expect("seated");
    (seat.ordered, seat.keeper) = (Some(id(n)), KeeperView::Running);
    let member =
        EtcdMember { id: id(n), name: format!("cp{n}-1"), peer_urls: vec![url(n)], is_learner: how.learner, health: how.health };
    members(o).push(member);
}

fn members(o: &mut Observed) -> &mut Vec<EtcdMember> {
    match &mut o.etcd {
        Etcd::Known { members, .. } => members,
        Etcd::Unknown { .. } => panic!("the table's etcd is unknown"),
    }
}

fn member(o: &mut Observed, n: usize) -> &mut EtcdMember {
    members(o).iter_mut().find(|m| m.id == id(n)).expect("listed")
}

/// Lists a member that is none of ours.
fn stranger(o: &mut Observed) {
    members(o).push(EtcdMember {
        id: MemberId(0x66),
        name: "stranger".into(),
        peer_urls: vec!["https://10.9.9.9:2380".into()],
        is_learner: false,
        health: follower(),
    });
}

/// One API server, connected everywhere as to boot; all have been listening for a second.
fn connected(o: &mut Observed) {
    let to_members = vec![30; o.seats.len()];
    counted(o, 1_000, vec![RemoteClient { ip: "10.0.0.1".into(), to_boot: 30, to_members }]);
}

fn counted(o: &mut Observed, listening_for_ms: u64, remotes: Vec<RemoteClient>) {
    o.clients = ClientCounts::Known { listening_since_ms: NOW - listening_for_ms, remotes };
}

fn drain(o: &mut Observed, to: BootDrain) {
    match &mut o.boot {
        Boot::Member { drain, .. } => *drain = to,
        Boot::None => panic!("the table has no boot"),
    }
}

fn host(o: &mut Observed, to: BootHost) {
    match &mut o.boot {
        Boot::Member { host, .. } => *host = to,
        Boot::None => panic!("the table has no boot"),
    }
}

#[track_caller]
fn does(o: &Observed, step: Step) {
    assert_eq!(plan(o), Plan::Do(step));
}

#[track_caller]
fn waits(o: &Observed, for_what: WaitFor) {
    match plan(o) {
        Plan::Wait { what, .. } => assert_eq!(what, for_what),
        other => panic!("no wait for {for_what}: {other:?}"),
    }
}

/// Holds for this reason, and the message names `word`: what was seen or what to do.
#[track_caller]
fn holds(o: &Observed, why: HoldReason, word: &str) {
    match plan(o) {
        Plan::Hold { reason, next_step } => {
            assert_eq!(reason, why, "{next_step}");
            assert!(next_step.contains(word), "no word of {word:?} in {next_step:?}");
        }
        other => panic!("no hold {why}: {other:?}"),
    }
}

#[track_caller]
fn drains(o: &Observed, attempt: u32) {
    does(o, Step::RemoveBoot { boot: BOOT, how: Removal::Drain { attempt } });
}
