//! The World for the model checker: a pivot, or a change of size and what may befall members after one, and at each situation everything that
//! may go wrong, a given number of times.
//!
//! One action goes from one situation to the next: the controller passes until its answer, the members or who is up changes. That is
//! where faults are put; what happens in the midst of a wait is for the random histories. Power and agents come back by themselves.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use etcd_operator_plan::{MemberId, Plan};
use stateright::{Model, Property};

use crate::raft::Life;
use crate::rest::rests_rightly;
use crate::shape::shape;
use crate::world::{PATIENCE_MS, REPLACE_AFTER_MS, peer_url};
use crate::{Edit, Event, Fault, Interrupt, Ms, Planner, Rest, Run, Setup, Sight};

/// How long a node is without power, and an agent away, ms.
const AWAY_MS: Ms = 4_000;
/// How long a node is gone, ms: another one takes over in that time.
const GONE_MS: Ms = REPLACE_AFTER_MS + 12_000;
/// How long a learner's link is dead: it is evicted in that time.
const STARVES_MS: Ms = PATIENCE_MS + 3_000;
/// How long an answer must stay the same to be a rest, ms.
const REST_MS: Ms = 12_000;
/// So many equal answers are a rest.
const RESTED: u8 = 3;
/// Passes within one action: gRPC's longest backoff at 200 ms a look.
const PASSES: usize = 2_000;
/// Actions within which a World without faults must rest.
const ACTIONS: usize = 400;

/// No check of `checks.rs` has found anything.
pub const UNBROKEN: &str = "no invariant is broken";
/// From each state, with nothing more going wrong.
pub const RESTS: &str = "without further faults it comes to rest where it may";

/// A pivot that is explored.
pub struct Pivot {
    /// The cluster.
    pub setup: Setup,
    /// How many things go wrong on one path.
    pub faults: u8,
    /// The planner: the real one, or a wrong one that must be found out.
    pub planner: Planner,
    /// Which of the first faults are tried.
    slice: Slice,
    /// After the pivot: the size that is set then.
    scaled_to: Option<u32>,
    /// After the pivot: whether etcd's settings are others then.
    resettled: bool,
    /// Whether keepers do not look before a restart.
    blind_keepers: bool,
    /// Shapes from which a World without faults is known to come to rest.
    good: Mutex<HashSet<u64>>,
}

/// Every `of`-th of what may go wrong first, from the `number`-th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// From 0.
    pub number: usize,
    /// How many slices make the whole.
    pub of: usize,
}

impl Slice {
    /// All there is.
    pub const WHOLE: Self = Self { number: 0, of: 1 };
}

/// A state: a run, what may still go wrong, what heals when.
#[derive(Clone)]
pub struct State {
    run: Run,
    faults_left: u8,
    heals: Vec<(Ms, Fault)>,
    /// The planner's last answer to the first controller.
    answer: Answer,
    /// How often it was the same Done or Hold.
    rested: u8,
    shape: u64,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The first controller passes, until something is different.
    Go,
    /// Something goes wrong in its pass.
    Pass(Interrupt),
    /// It does not see all.
    Blind(Sight),
    /// The second controller passes.
    Other,
    /// The second controller thinks, and acts later by what it saw.
    Think,
    /// The second controller acts by what it saw.
    Act,
    /// Something breaks.
    Fault(Fault),
    /// A node loses power, for so long that another takes over from it.
    Gone(usize),
    /// Somebody edits the spec.
    Edit(Edit),
}

/// The kind of the planner's answer, as a place in [`STEPS`] or [`HOLDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    None,
    Step(usize),
    Hold(usize),
    Wait,
    Done,
}

/// All kinds of steps.
pub const STEPS: [&str; 17] = [
    "RunPreflight",
    "SnapshotBoot",
    "AssignSeats",
    "AddLearner",
    "StartMember",
    "CountClients",
    "Promote",
    "CheckGate",
    "MoveLeader",
    "RemoveBoot",
    "WithdrawBootDrain",
    "TombstoneBoot",
    "RemoveMember",
    "Evict",
    "Unseat",
    "RollOut",
    "CallOffRollOut",
];

/// The reasons to hold that a World can give. Others are of what it does not have: preflight's findings, keepers that refuse, foreign
/// members, stores that differ; the planner's tables have them.
pub const HOLDS: [&str; 7] = [
    "EtcdUnreachable",
    "HoldBootRemoval",
    "NotEnoughNodes",
    "BootCameBack",
    "ApiServerOnBootMember",
    "MemberDown",
    "ToleranceTooLow",
];

impl Answer {
    fn of(plan: Option<&Plan>) -> Self {
        match plan {
            None => Self::None,
            Some(Plan::Wait { .. }) => Self::Wait,
            Some(Plan::Done) => Self::Done,
            Some(Plan::Do(step)) => {
                let text = format!("{step:?}");
                STEPS.iter().position(|s| text.starts_with(s)).map_or(Self::None, Self::Step)
            }
            Some(Plan::Hold { reason, .. }) => {
                let text = reason.to_string();
                Self::Hold(HOLDS.iter().position(|r| *r == text).unwrap_or(HOLDS.len()))
            }
        }
    }
}

impl State {
    /// What makes it another state than others.
    fn key(&self) -> (u64, u8, Answer, u8, Vec<(Ms, Fault)>) {
        let now = self.run.world.now;
        let heals = self.heals.iter().map(|(at, fault)| (at.saturating_sub(now), *fault)).collect();
        (self.shape, self.faults_left, self.answer, self.rested, heals)
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = &self.run.world;
        write!(f, "{} ms, {:?}, {:?}, {:?}", world.now, self.answer, world.raft.config, world.trace.violations)
    }
}

/// What makes a situation another one.
#[derive(PartialEq)]
struct Situation {
    members: Vec<(MemberId, bool)>,
    up: Vec<(MemberId, u8)>,
    leader: Option<MemberId>,
    drains: bool,
    nodes: usize,
}

fn situation(run: &Run) -> Situation {
    let world = &run.world;
    let life = |life: &Life| match life {
        Life::Down => 0,
        Life::Up { .. } => 1,
        Life::Draining { .. } => 2,
    };
    Situation {
        members: world.raft.config.iter().map(|m| (m.id, m.learner)).collect(),
        up: world.raft.processes.iter().map(|(id, p)| (*id, life(&p.life))).collect(),
        leader: world.raft.leader,
        drains: world.boot.journal.is_some(),
        nodes: world.nodes.iter().filter(|n| n.agent_answers()).count(),
    }
}

impl Pivot {
    /// A pivot in which so many things go wrong.
    #[must_use]
    pub fn new(setup: Setup, faults: u8, planner: Planner) -> Self {
        Self {
            setup,
            faults,
            planner,
            slice: Slice::WHOLE,
            scaled_to: None,
            resettled: false,
            blind_keepers: false,
            good: Mutex::default(),
        }
    }

    /// The pivot is over, and the size is set to this one.
    #[must_use]
    pub fn then_scaled_to(mut self, size: u32) -> Self {
        self.scaled_to = Some(size);
        self
    }

    /// The pivot is over, and etcd's settings are others.
    #[must_use]
    pub fn then_resettled(mut self) -> Self {
        (self.scaled_to, self.resettled) = (Some(self.setup.size), true);
        self
    }

    /// Keepers restart on order, whatever the others do.
    #[must_use]
    pub fn with_blind_keepers(mut self) -> Self {
        self.blind_keepers = true;
        self
    }

    /// Of what may go wrong first, only these.
    #[must_use]
    pub fn in_slice(mut self, slice: Slice) -> Self {
        self.slice = slice;
        self
    }

    /// The same, with nothing known yet.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { good: Mutex::default(), setup: self.setup.clone(), ..*self }
    }

    /// Plays a path again, and tells its story.
    #[must_use]
    pub fn story(&self, actions: &[Action]) -> String {
        let mut state = self.begin();
        state.run.world.trace.silent = false;
        for action in actions {
            let now = state.run.world.now;
            state.run.world.trace.tell(now, format!("-- {action:?}"));
            state = step(&state, action);
        }
        let end = closes(&state, &Mutex::default());
        let lines: Vec<String> = state.run.world.trace.story.iter().map(|(at, what)| format!("{at:>8} {what}")).collect();
        format!("{}\n{:?}\n{end:?}", lines.join("\n"), state.run.world.trace.violations)
    }

    fn begin(&self) -> State {
        let mut run = Run::new(&self.setup, self.planner);
        run.world.trace.silent = true;
        run.world.keepers_look = !self.blind_keepers;
        if let Some(size) = self.scaled_to {
            let rest = run.settle(ACTIONS * 10);
            assert_eq!(rest, Rest::Done, "the pivot before it");
            run.happen(&Event::Edit(Edit::Size(size)));
        }
        if self.resettled {
            run.happen(&Event::Edit(Edit::Settings(1)));
        }
        let shape = shape(&run);
        State { run, faults_left: self.faults, heals: Vec::new(), answer: Answer::None, rested: 0, shape }
    }
}

/// Time passes; what is to heal heals.
fn advance(state: &mut State, ms: Ms) {
    state.run.advance(ms);
    let now = state.run.world.now;
    let (due, later) = std::mem::take(&mut state.heals).into_iter().partition(|(at, _)| *at <= now);
    state.heals = later;
    let due: Vec<(Ms, Fault)> = due;
    for (_, fault) in due {
        state.run.happen(&Event::Fault(fault));
    }
}

/// The first controller passes until something is different, at least once.
fn go(state: &mut State) -> Option<Plan> {
    let before = situation(&state.run);
    let mut last: Option<Option<Plan>> = None;
    for _ in 0..PASSES {
        let plan = state.run.pass(0, &Sight::default(), Interrupt::None);
        let pause = match &plan {
            None if state.run.is_removing() => 50,
            None | Some(Plan::Do(_)) => 100,
            Some(Plan::Wait { look_again_ms, .. }) => (*look_again_ms).min(1_000),
            Some(Plan::Done | Plan::Hold { .. }) => 1_000,
        };
        advance(state, pause);
        let rests = matches!(plan, Some(Plan::Do(_) | Plan::Done | Plan::Hold { .. }));
        let same = last.as_ref().is_none_or(|l| *l == plan) && situation(&state.run) == before;
        if rests || !same {
            return plan;
        }
        last = Some(plan);
    }
    last.flatten()
}

fn step(state: &State, action: &Action) -> State {
    let mut next = state.clone();
    let now = next.run.world.now;
    match action {
        Action::Go => {}
        Action::Act => next.rested = 0,
        _ => (next.faults_left, next.rested) = (state.faults_left - 1, 0),
    }
    let pass = |who, sight, interrupt| Event::Pass { who, sight, interrupt };
    match action {
        Action::Go => {
            let plan = go(&mut next);
            next.answer = Answer::of(plan.as_ref());
            let rests =
                matches!(plan, Some(Plan::Done | Plan::Hold { .. })) && next.answer == state.answer && next.heals.is_empty();
            next.rested = if rests { state.rested + 1 } else { 0 };
        }
        Action::Pass(interrupt) => next.run.happen(&pass(0, Sight::default(), *interrupt)),
        Action::Blind(sight) => next.run.happen(&pass(0, sight.clone(), Interrupt::None)),
        Action::Other => next.run.happen(&pass(1, Sight::default(), Interrupt::None)),
        Action::Think => next.run.happen(&Event::Think { who: 1, sight: Sight::default() }),
        Action::Act => next.run.happen(&Event::Act { who: 1 }),
        Action::Fault(fault) => {
            next.run.happen(&Event::Fault(*fault));
            let back = match fault {
                Fault::PowerCut(node) => Some((now + AWAY_MS, Fault::PowerOn(*node))),
                Fault::AgentDies(node) => Some((now + AWAY_MS, Fault::AgentBack(*node))),
                Fault::Starve(node) => Some((now + STARVES_MS, Fault::Feed(*node))),
                _ => None,
            };
            next.heals.extend(back);
        }
        Action::Gone(node) => {
            next.run.happen(&Event::Fault(Fault::PowerCut(*node)));
            next.heals.push((now + GONE_MS, Fault::PowerOn(*node)));
        }
        Action::Edit(edit) => next.run.happen(&Event::Edit(*edit)),
    }
    next.shape = shape(&next.run);
    next
}

/// Whether a World in which nothing more goes wrong comes to rest, and where it may. What is known to is not tried again.
fn closes(state: &State, good: &Mutex<HashSet<u64>>) -> Result<(), String> {
    let mut state = state.clone();
    state.run.calm();
    state.heals.clear();
    let mut passed = HashSet::new();
    let mut since: Option<(Answer, Ms)> = None;
    let good = || good.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..ACTIONS {
        let key = shape(&state.run);
        if good().contains(&key) {
            good().extend(passed);
            return Ok(());
        }
        // What follows from equal shapes is equal.
        if !passed.insert(key) && since.is_none() {
            return Err("it goes round and round".into());
        }
        let plan = go(&mut state);
        let (now, answer) = (state.run.world.now, Answer::of(plan.as_ref()));
        let rest = match plan {
            Some(Plan::Done) => Rest::Done,
            Some(Plan::Hold { reason, next_step }) => Rest::Hold(reason, next_step),
            Some(Plan::Do(_) | Plan::Wait { .. }) | None => {
                since = None;
                continue;
            }
        };
        if state.run.world.is_restless() {
            since = None;
            continue;
        }
        let (same, at) = since.filter(|(same, _)| *same == answer).unwrap_or((answer, now));
        since = Some((same, at));
        if now >= at + REST_MS {
            rests_rightly(&state.run.world, &rest)?;
            let violations = &state.run.world.trace.violations;
            if !violations.is_empty() {
                return Err(format!("{violations:?}"));
            }
            good().extend(passed);
            return Ok(());
        }
    }
    Err("it never rests".into())
}

macro_rules! reached {
    ($kind:ident, $names:expr, $($n:literal),+) => {
        vec![$(Property::<Pivot>::sometimes($names[$n], |_, s: &State| s.answer == Answer::$kind($n))),+]
    };
}

impl Model for Pivot {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // A broken World has nothing more to tell, nor has one that rests and in which all has been tried.
        if !state.run.world.trace.violations.is_empty() || state.rested >= RESTED {
            return;
        }
        actions.push(Action::Go);
        if state.run.has_thought(1) {
            actions.push(Action::Act);
        }
        if state.faults_left == 0 {
            return;
        }
        let goes_on = actions.len();
        actions.extend([Interrupt::AnswerLost, Interrupt::CrashBefore, Interrupt::CrashAfter].map(Action::Pass));
        actions.extend([Action::Other, Action::Think]);
        actions.push(Action::Blind(Sight { no_etcd: true, ..Sight::default() }));
        actions.push(Action::Blind(Sight { stale_api: true, ..Sight::default() }));
        for position in 0..state.run.world.raft.config.len() {
            actions.push(Action::Blind(Sight { mute: 1 << position, ..Sight::default() }));
        }
        actions.push(Action::Fault(Fault::PowerCutAll));
        for node in 0..state.run.world.nodes.len() {
            actions.extend([Fault::PowerCut(node), Fault::KillEtcd(node), Fault::AgentDies(node)].map(Action::Fault));
        }
        // Only a learner minds.
        let raft = &state.run.world.raft;
        let learns = |url: &str| raft.config.iter().any(|m| m.learner && m.peer_url == url);
        let starved =
            (0..state.run.world.nodes.len()).filter(|n| learns(&peer_url(*n)) && !raft.slow.contains_key(&peer_url(*n)));
        actions.extend(starved.map(|n| Action::Fault(Fault::Starve(n))));
        if self.scaled_to.is_none() {
            actions.push(Action::Fault(Fault::KillBoot));
            actions.extend([Edit::Hold, Edit::Abort, Edit::Skip].map(Action::Edit));
        } else {
            for node in 0..state.run.world.nodes.len() {
                actions.extend([Action::Fault(Fault::Wipe(node)), Action::Gone(node)]);
            }
        }
        if self.resettled {
            actions.push(Action::Edit(Edit::Settings(1 - state.run.world.api.settings)));
        }
        let size = state.run.world.api.spec.size;
        actions.extend([1, 2, 3].into_iter().filter(|s| *s != size).map(|s| Action::Edit(Edit::Size(s))));
        if state.faults_left == self.faults {
            let first = actions.split_off(goes_on);
            actions.extend(first.into_iter().skip(self.slice.number).step_by(self.slice.of));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(step(state, &action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::<Self>::always(UNBROKEN, |_, s: &State| s.run.world.trace.violations.is_empty()),
            Property::<Self>::always(RESTS, |m: &Self, s: &State| closes(s, &m.good).is_ok()),
            Property::<Self>::sometimes("boot is removed", |_, s: &State| s.run.world.trace.boot_removals == 1),
        ];
        all.extend(reached!(Step, STEPS, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16));
        all.extend(reached!(Hold, HOLDS, 0, 1, 2, 3, 4, 5, 6));
        all
    }
}
