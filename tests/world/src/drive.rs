//! Drives a World: controllers that pass, faults, edits of the spec, and the closure with all faults healed.

use etcd_operator_plan::{HoldReason, Observed, Plan, Readiness, Step};

use crate::execute::{Interrupt, execute, go_on};
use crate::nodes::{power_cut, power_on};
use crate::observe::{Controller, Observation, Sight, observe};
use crate::world::{Setup, TICK_MS, World, peer_url};
use crate::{Ms, boot};

/// A planner: the real one, or a wrong one for the red cases.
pub type Planner = fn(&Observed) -> Plan;

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A controller observes, plans and acts at once.
    Pass {
        /// Which controller, 0 or 1.
        who: usize,
        /// What it cannot see.
        sight: Sight,
        /// What goes wrong.
        interrupt: Interrupt,
    },
    /// A controller passes undisturbed until it has begun to remove boot, or for so many passes: what comes next hits the removal.
    ToRemoval {
        /// Which.
        who: usize,
        /// At most.
        passes: u32,
    },
    /// A controller observes and plans, and is then paused.
    Think {
        /// Which.
        who: usize,
        /// What it cannot see.
        sight: Sight,
    },
    /// It goes on where it was paused, with what it saw then.
    Act {
        /// Which.
        who: usize,
    },
    /// A controller dies and begins anew.
    Crash {
        /// Which.
        who: usize,
    },
    /// What happens at the next moment between SIGTERM to boot and its MemberRemove.
    AtSignal(AtSignal),
    /// Time passes.
    Wait {
        /// ms.
        ms: Ms,
    },
    /// The world goes wrong.
    Fault(Fault),
    /// A human edits the spec.
    Edit(Edit),
}

/// What goes wrong between SIGTERM and MemberRemove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtSignal {
    /// The controller dies.
    Crash,
    /// The controller is paused for so many ms, and then goes on.
    Pause(Ms),
    /// The controller dies, and this happens.
    CrashAnd(Fault),
    /// This happens, and the controller goes on.
    And(Fault),
}

/// What goes wrong in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A node loses power.
    PowerCut(usize),
    /// A node gets power.
    PowerOn(usize),
    /// All nodes lose power, and get it again.
    PowerCutAll,
    /// Boot's process is killed.
    KillBoot,
    /// A member's etcd is killed; its keeper starts it again.
    KillEtcd(usize),
    /// A node's agent dies.
    AgentDies(usize),
    /// A node's agent is back.
    AgentBack(usize),
    /// A node is cordoned, or no longer.
    Cordon(usize),
    /// A node becomes NotReady.
    NotReady(usize),
    /// The data of a node's member is gone, unless too few others have it.
    Wipe(usize),
    /// A node's link to the others carries nothing that a learner needs.
    Starve(usize),
    /// It does again.
    Feed(usize),
}

/// An edit of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edit {
    /// `spec.size`.
    Size(u32),
    /// `holdBootRemoval` is turned over.
    Hold,
    /// `skipBootMemberRemoval` is turned over.
    Skip,
    /// `abort` is turned over.
    Abort,
    /// etcd's settings.
    Settings(u8),
}

/// Where the closure came to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The planner says Done, again and again.
    Done,
    /// The planner holds, again and again, for this reason.
    Hold(HoldReason, String),
    /// It never rested: the last answers.
    Never(Vec<String>),
}

/// A World with two controllers in it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The world.
    pub world: World,
    pub(crate) controllers: [Controller; 2],
    pub(crate) paused: [Option<(Plan, Observation)>; 2],
    at_signal: Option<AtSignal>,
    asleep_until: Ms,
    planner: Planner,
}

impl Run {
    /// Begins.
    #[must_use]
    pub fn new(setup: &Setup, planner: Planner) -> Self {
        let controllers = [Controller::new("A"), Controller::new("B")];
        Self { world: World::new(setup), controllers, paused: [None, None], at_signal: None, asleep_until: 0, planner }
    }

    /// Another planner from here on.
    pub fn plan_with(&mut self, planner: Planner) {
        self.planner = planner;
    }

    /// Lets time pass; removals under way go on.
    pub fn advance(&mut self, ms: Ms) {
        let until = self.world.now + ms;
        while self.world.now < until {
            self.world.advance(TICK_MS.min(until - self.world.now));
            self.interrupt_removals();
            if self.world.now < self.asleep_until {
                continue;
            }
            for controller in &mut self.controllers {
                go_on(&mut self.world, controller);
            }
        }
    }

    fn interrupt_removals(&mut self) {
        let signalled = self.world.boot.journal.is_some() && self.controllers.iter().any(|c| c.doing.is_some());
        let Some(what) = self.at_signal.take_if(|_| signalled) else { return };
        let mut crash = || self.controllers.iter_mut().filter(|c| c.doing.is_some()).for_each(|c| c.crash(&mut self.world));
        match what {
            AtSignal::Crash => crash(),
            AtSignal::Pause(ms) => self.asleep_until = self.world.now + ms,
            AtSignal::CrashAnd(fault) => {
                crash();
                self.fault(fault);
            }
            AtSignal::And(fault) => self.fault(fault),
        }
    }

    /// One pass. `None` = there was none: the API doesn't answer, or the controller is in the middle of a removal.
    pub fn pass(&mut self, who: usize, sight: &Sight, interrupt: Interrupt) -> Option<Plan> {
        let (plan, seen) = self.think(who, sight)?;
        self.act(who, &plan, &seen, interrupt);
        Some(plan)
    }

    fn think(&mut self, who: usize, sight: &Sight) -> Option<(Plan, Observation)> {
        let controller = self.controllers.get_mut(who)?;
        if controller.doing.is_some() {
            return None;
        }
        let seen = observe(&self.world, controller, sight)?;
        if self.world.api_answers() {
            crate::execute::put_settings_right(&mut self.world);
        }
        Some(((self.planner)(&seen.observed), seen))
    }

    fn act(&mut self, who: usize, plan: &Plan, seen: &Observation, interrupt: Interrupt) {
        if let (Plan::Do(step), Some(controller)) = (plan, self.controllers.get_mut(who)) {
            // The controller says what failed by looking again.
            let _ = execute(&mut self.world, controller, step, seen, interrupt);
        }
    }

    /// Lets an event happen, and a little time pass.
    pub fn happen(&mut self, event: &Event) {
        match event {
            Event::Pass { who, sight, interrupt } => {
                self.pass(*who, sight, *interrupt);
                self.advance(100);
            }
            Event::ToRemoval { who, passes } => {
                for _ in 0..*passes {
                    if self.controllers.get(*who).is_some_and(|c| c.doing.is_some()) {
                        break;
                    }
                    self.pass(*who, &Sight::default(), Interrupt::None);
                    if self.controllers.get(*who).is_some_and(|c| c.doing.is_none()) {
                        self.advance(200);
                    }
                }
            }
            Event::Think { who, sight } => {
                let thought = self.think(*who, sight);
                if let Some(paused) = self.paused.get_mut(*who) {
                    *paused = thought;
                }
            }
            Event::Act { who } => {
                if let Some((plan, seen)) = self.paused.get_mut(*who).and_then(Option::take) {
                    self.act(*who, &plan, &seen, Interrupt::None);
                }
                self.advance(100);
            }
            Event::Crash { who } => {
                if let Some(controller) = self.controllers.get_mut(*who) {
                    controller.crash(&mut self.world);
                }
                if let Some(paused) = self.paused.get_mut(*who) {
                    *paused = None;
                }
            }
            Event::AtSignal(what) => self.at_signal = Some(*what),
            Event::Wait { ms } => self.advance(*ms),
            Event::Fault(fault) => self.fault(*fault),
            Event::Edit(edit) => self.edit(*edit),
        }
    }

    fn fault(&mut self, fault: Fault) {
        let world = &mut self.world;
        world.trace.faults += 1;
        let now = world.now;
        world.trace.tell(now, format!("{fault:?}"));
        let last = world.nodes.len().saturating_sub(1);
        match fault {
            Fault::PowerCut(node) => power_cut(world, node.min(last)),
            Fault::PowerOn(node) => power_on(world, node.min(last)),
            Fault::PowerCutAll => {
                (0..=last).for_each(|node| power_cut(world, node));
                (0..=last).for_each(|node| power_on(world, node));
            }
            Fault::KillBoot => boot::stop(world),
            Fault::KillEtcd(node) => {
                if let Some(id) = world.member_on(node.min(last)) {
                    world.raft.stop(id);
                }
            }
            Fault::AgentDies(node) => world.nodes[node.min(last)].agent_alive = false,
            Fault::AgentBack(node) => world.nodes[node.min(last)].agent_alive = true,
            Fault::Cordon(node) => {
                let node = &mut world.nodes[node.min(last)];
                node.cordoned = !node.cordoned;
            }
            Fault::NotReady(node) => world.nodes[node.min(last)].readiness = Readiness::NotReady,
            Fault::Wipe(node) => crate::nodes::wipe(world, node.min(last)),
            Fault::Starve(node) => {
                world.raft.slow.insert(peer_url(node.min(last)), 0);
            }
            Fault::Feed(node) => {
                world.raft.slow.remove(&peer_url(node.min(last)));
            }
        }
    }

    fn edit(&mut self, edit: Edit) {
        if !self.world.api_answers() {
            return;
        }
        let now = self.world.now;
        self.world.trace.tell(now, format!("{edit:?}"));
        let spec = &mut self.world.api.spec;
        match edit {
            Edit::Size(size) => spec.size = size,
            Edit::Hold => spec.hold_boot_removal = !spec.hold_boot_removal,
            Edit::Skip => spec.skip_boot_removal = !spec.skip_boot_removal,
            Edit::Abort => spec.abort = !spec.abort,
            Edit::Settings(settings) => self.world.api.settings = settings,
        }
    }

    /// Whether the first controller is in the middle of a removal.
    pub(crate) fn is_removing(&self) -> bool {
        self.controllers.first().is_some_and(|c| c.doing.is_some())
    }

    /// Whether a controller is paused between thinking and acting.
    pub(crate) fn has_thought(&self, who: usize) -> bool {
        self.paused.get(who).is_some_and(Option::is_some)
    }

    /// Nothing more goes wrong, and what was wrong is put right; the controllers live on.
    pub(crate) fn calm(&mut self) {
        for index in 0..self.world.nodes.len() {
            power_on(&mut self.world, index);
            let node = &mut self.world.nodes[index];
            node.agent_alive = true;
            node.cordoned = false;
            node.readiness = Readiness::Ready;
        }
        self.world.raft.slow.clear();
        self.paused = [None, None];
        self.at_signal = None;
        self.asleep_until = 0;
        self.world.trace.faults += 1;
    }

    /// All faults are healed: power, agents, nodes. Edits of the spec stay: they are what is wanted.
    pub fn heal(&mut self) {
        self.calm();
        for controller in &mut self.controllers {
            controller.crash(&mut self.world);
        }
        let now = self.world.now;
        self.world.trace.tell(now, "all faults are healed");
    }

    /// Passes of one controller, without faults, until the planner's answer has been the same Done or Hold for a minute.
    pub fn settle(&mut self, passes: usize) -> Rest {
        const REST_MS: Ms = 60_000;
        let mut resting: Option<(Plan, Ms)> = None;
        let mut last = Vec::new();
        for _ in 0..passes {
            let Some(plan) = self.pass(0, &Sight::default(), Interrupt::None) else {
                self.advance(100);
                continue;
            };
            last.push(format!("{} {plan:?}", self.world.now));
            let rests = match &plan {
                Plan::Done | Plan::Hold { .. } => !self.world.is_restless(),
                Plan::Do(_) | Plan::Wait { .. } => false,
            };
            let pause = match &plan {
                Plan::Do(_) => 100,
                Plan::Wait { look_again_ms, .. } => *look_again_ms,
                Plan::Done | Plan::Hold { .. } => 1_000,
            };
            let since = match resting.take() {
                Some((same, since)) if rests && same_kind(&same, &plan) => since,
                Some(_) | None => self.world.now,
            };
            if rests && self.world.now >= since + REST_MS {
                return match plan {
                    Plan::Hold { reason, next_step } => Rest::Hold(reason, next_step),
                    Plan::Done | Plan::Do(_) | Plan::Wait { .. } => Rest::Done,
                };
            }
            resting = rests.then_some((plan, since));
            self.advance(pause);
        }
        Rest::Never(last.split_off(last.len().saturating_sub(12)))
    }

    /// The steps taken so far that stand in the story, for tests.
    #[must_use]
    pub fn took(&self, step: &str) -> usize {
        self.world.trace.story.iter().filter(|(_, what)| what.contains(step)).count()
    }
}

fn same_kind(a: &Plan, b: &Plan) -> bool {
    match (a, b) {
        (Plan::Hold { reason: a, .. }, Plan::Hold { reason: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

/// Whether a plan is this kind of step, for wrong planners.
#[must_use]
pub fn is_removal(step: &Step) -> bool {
    matches!(step, Step::RemoveBoot { .. })
}
