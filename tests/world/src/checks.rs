//! The invariants (faults.md), checked while the story runs. A check judges a step of the operator only if no fault hit between its
//! observation and the step: a node that dies in that instant is not the operator's doing.

use std::collections::BTreeMap;

use etcd_operator_plan::{AgentView, MemberId, NodeName, Observed};

use crate::Ms;
use crate::world::{BOOT, PATIENCE_MS, World};

/// How old the gate may be at boot's removal, ms: 5 s until the order, the time that a controller waits for the signal, and the 5 s
/// deadline of MemberRemove.
const GATE_AT_REMOVAL_MS: Ms = 20_000;

/// An invariant that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// I1: an acknowledged write is gone.
    AckedWriteLost {
        /// Its index.
        index: u64,
    },
    /// I5: a step of ours left fewer living voters than a quorum.
    QuorumLostByUs {
        /// The step.
        step: String,
    },
    /// I5: a second membership change was begun before the first was through.
    SecondChangeInFlight,
    /// I8: boot was removed a second time.
    BootRemovedTwice,
    /// I8: boot was removed although something was missing.
    BootRemovedTooEarly {
        /// What was missing.
        why: String,
    },
    /// The member that was removed led: the cluster has no leader for an election.
    LeaderRemoved {
        /// Which.
        member: MemberId,
    },
    /// A learner was evicted that was getting on, or sooner than the patience after it had been.
    EvictedTooEarly {
        /// Which.
        member: MemberId,
    },
    /// A voter was removed that ran, although there were no more of them than wanted.
    LivingMemberRemoved {
        /// Which.
        member: MemberId,
    },
    /// An etcd was put on data that it cannot read.
    TooOld {
        /// Whose.
        member: MemberId,
    },
    /// etcd's alarm was taken back while whom it accuses served another store.
    CorruptServes {
        /// Who.
        member: MemberId,
    },
    /// A learner was promoted although a voter that was to remain did not run (design D6, rule 3).
    PromotedBesideDeadVoter,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The entry `(index, term)` of the newest write that was acknowledged to a client. All earlier ones stand before it in the log of
    /// whoever has it (raft's log matching).
    pub acked: Option<(u64, u64)>,
    /// How many writes were acknowledged.
    pub acks: u64,
    /// When writes failed.
    pub failed: Vec<Ms>,
    /// The longest time without an acknowledged write, ms.
    pub longest_gap: Ms,
    last_ack: Option<Ms>,
    /// How often boot got SIGTERM.
    pub signals: u32,
    /// How often boot was removed.
    pub boot_removals: u32,
    /// How often there was an election (a moved leader is none).
    pub elections: u32,
    /// Counts the faults: a step is judged only if none hit since its observation.
    pub faults: u64,
    /// When the gate was passed, and with which members listed.
    pub gates: Vec<(Ms, Vec<MemberId>)>,
    /// How far each learner has got, and since when: what an eviction is judged by.
    pub grown: BTreeMap<MemberId, (u64, Ms)>,
    /// When each member's hash was taken last.
    pub hashed: BTreeMap<MemberId, Ms>,
    /// Whether nobody reads the story: the model checker tells it anew from the path.
    pub silent: bool,
    /// What the controllers did, for a human who reads a failed history.
    pub story: Vec<(Ms, String)>,
    /// What was broken.
    pub violations: Vec<Violation>,
}

impl Trace {
    pub(crate) fn acknowledged(&mut self, now: Ms, entry: (u64, u64)) {
        if let Some(last) = self.last_ack {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.last_ack = Some(now);
        self.acked = Some(entry);
        self.acks += 1;
    }

    /// Notes something for the reader.
    pub fn tell(&mut self, now: Ms, what: impl Into<String>) {
        if !self.silent {
            self.story.push((now, what.into()));
        }
    }
}

/// I1, at the only moment when a log can lose entries.
pub(crate) fn after_election(world: &mut World) {
    world.trace.elections += 1;
    let now = world.now;
    world.trace.tell(now, format!("elected {:?}", world.raft.leader));
    acked_writes_present(world);
}

/// I1: every acknowledged entry stands in the leader's log.
pub fn acked_writes_present(world: &mut World) {
    let Some(leader) = world.raft.leader.and_then(|l| world.raft.processes.get(&l)) else { return };
    let lost = world.trace.acked.filter(|(index, term)| leader.log.term_at(*index) != Some(*term));
    if let Some((index, _)) = lost {
        world.trace.violations.push(Violation::AckedWriteLost { index });
    }
}

pub(crate) fn each_tick(world: &mut World, _tick: Ms) {
    let learners = world.raft.config.iter().filter(|m| m.learner).count();
    let (now, raft) = (world.now, &world.raft);
    world.trace.grown.retain(|id, _| raft.listed(*id).is_some_and(|m| m.learner));
    for member in raft.config.iter().filter(|m| m.learner) {
        let has = raft.processes.get(&member.id).map_or(0, |p| p.log.last_index());
        let (most, at) = world.trace.grown.entry(member.id).or_insert((has, now));
        if has > *most {
            (*most, *at) = (has, now);
        }
    }
    if learners > 1 && !world.trace.violations.contains(&Violation::SecondChangeInFlight) {
        world.trace.violations.push(Violation::SecondChangeInFlight);
    }
}

/// What a step is judged against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Before {
    spare: i64,
    leader: Option<MemberId>,
    fair: bool,
}

pub(crate) fn before(world: &World, faults_seen: u64) -> Before {
    Before { spare: world.raft.spare_voters(), leader: world.raft.leader, fair: faults_seen == world.trace.faults }
}

/// Before MemberPromote: boot may be dead by then, no other voter.
pub(crate) fn at_promotion(world: &mut World, before: &Before) {
    if before.fair && world.our_voters().iter().any(|id| !world.raft.runs(*id)) {
        world.trace.violations.push(Violation::PromotedBesideDeadVoter);
    }
}

/// A learner goes only if its data has not grown for the patience, as far as its node's agent could tell. What it got after the
/// controller looked is not held against it.
pub(crate) fn at_eviction(world: &mut World, seen: &Observed, node: &NodeName, member: MemberId) {
    let answers = seen.nodes.iter().any(|n| n.name == *node && n.agent == AgentView::Fresh);
    let grown = world.trace.grown.get(&member).map(|(_, at)| *at).filter(|at| *at <= seen.now_ms);
    // Its data is gone: it will not get on.
    let is_wiped =
        world.nodes.iter().filter_map(|n| n.keeper.as_ref()).any(|k| k.ran_here.contains(&member) && k.data != Some(member));
    if answers && !is_wiped && grown.is_some_and(|at| seen.now_ms - at < PATIENCE_MS) {
        world.trace.violations.push(Violation::EvictedTooEarly { member });
    }
}

/// Before MemberRemove of a member of ours, where it is not the way back to boot: slow, paused or cut off is not dead.
pub(crate) fn at_removal(world: &mut World, seen: &Observed, before: &Before, member: MemberId) {
    let ours = world.our_voters();
    let is_too_many = ours.len() > seen.spec.size as usize;
    if before.fair && !world.boot_listed() && !is_too_many && ours.contains(&member) && world.raft.runs(member) {
        world.trace.violations.push(Violation::LivingMemberRemoved { member });
    }
}

/// I5 after a step that changed the membership.
pub(crate) fn after(world: &mut World, before: &Before, step: &str, removed: Option<MemberId>) {
    if before.fair && before.spare >= 0 && world.raft.spare_voters() < 0 {
        world.trace.violations.push(Violation::QuorumLostByUs { step: step.to_owned() });
    }
    if let Some(member) = removed
        && before.fair
        && before.leader == Some(member)
    {
        world.trace.violations.push(Violation::LeaderRemoved { member });
    }
}

/// I8, judged just before MemberRemove of boot. `seats` are the nodes that had one when the removal was decided.
pub(crate) fn judge_boot_removal(world: &World, seats: &[usize], fair: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    if world.trace.boot_removals > 0 {
        found.push(Violation::BootRemovedTwice);
    }
    let ours = world.our_voters();
    let why = if world.raft.config.iter().any(|m| m.learner) {
        Some("a learner is listed".to_owned())
    } else if ours.len() != seats.len() || seats.iter().any(|n| world.member_on(*n).is_none()) {
        Some(format!("{} voters besides boot, {} seats", ours.len(), seats.len()))
    } else if fair && ours.iter().any(|id| !world.raft.runs(*id)) {
        Some("a voter is down".to_owned())
    } else {
        no_gate(world)
    };
    found.extend(why.map(|why| Violation::BootRemovedTooEarly { why }));
    found
}

/// I8 where the shipped controller removes: what it compared is seen by the calls that it made.
pub(crate) fn judge_removal_by_the_shipped(world: &World, fair: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    if world.trace.boot_removals > 0 {
        found.push(Violation::BootRemovedTwice);
    }
    let ours = world.our_voters();
    let two_voters = ours.len() == 1;
    let fresh = |id: &MemberId| world.trace.hashed.get(id).is_some_and(|at| two_voters || world.now - at <= GATE_AT_REMOVAL_MS);
    let why = if world.raft.config.iter().any(|m| m.learner) {
        Some("a learner is listed".to_owned())
    } else if ours.len() < world.api.spec.size as usize {
        Some(format!("{} voters besides boot, {} wanted", ours.len(), world.api.spec.size))
    } else if fair && ours.iter().any(|id| !world.raft.runs(*id)) {
        Some("a voter is down".to_owned())
    } else if !ours.iter().all(fresh) {
        Some("a member's hash was not compared lately".to_owned())
    } else {
        None
    };
    found.extend(why.map(|why| Violation::BootRemovedTooEarly { why }));
    found
}

/// At size 1 the gate comes before the promotion, and the time with two voters may be long if controllers die in it: there it only
/// has to be of the same members. Otherwise it must be fresh.
fn no_gate(world: &World) -> Option<String> {
    let listed: Vec<MemberId> = world.raft.config.iter().map(|m| m.id).collect();
    let Some((at, _)) = world.trace.gates.iter().rev().find(|(_, ids)| *ids == listed) else {
        return Some("no gate was passed with these members".into());
    };
    let age = world.now - at;
    let two_voters = listed.len() == 2 && listed.contains(&BOOT);
    (!two_voters && age > GATE_AT_REMOVAL_MS).then(|| format!("the gate is {age} ms old"))
}
