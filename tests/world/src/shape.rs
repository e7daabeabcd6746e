//! What of a Run decides its future, as one number: two runs of the same shape go on alike. Times count as ages, and only up to the
//! longest that anybody waits for; how long the log is does not count, who lags by how much does.

use std::hash::{Hash, Hasher};

use etcd_operator_plan::Gate;

use crate::api::{Api, Restart};
use crate::clients::ApiServer;
use crate::raft::{Life, Raft};
use crate::world::{PATIENCE_MS, REPLACE_AFTER_MS, World};
use crate::{Controller, Ms, Run};

/// gRPC's longest backoff with its jitter, and the planner's 145 s.
const LONGEST_MS: Ms = 150_000;
/// The agents look every so often.
const BEAT_MS: Ms = 100;

/// Feeds the shape into a hasher.
pub(crate) struct Shape<'a, H> {
    now: Ms,
    into: &'a mut H,
}

/// The shape of a run.
#[must_use]
pub fn shape(run: &Run) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    let mut shape = Shape { now: run.world.now, into: &mut hasher };
    shape.world(&run.world);
    for (controller, paused) in run.controllers.iter().zip(&run.paused) {
        shape.controller(controller, &run.world);
        shape.put(
            &paused
                .as_ref()
                .map(|(plan, seen)| (plan, run.world.api.version - seen.version, run.world.trace.faults == seen.faults_seen)),
        );
    }
    hasher.finish()
}

impl<H: Hasher> Shape<'_, H> {
    fn put(&mut self, value: &impl Hash) {
        value.hash(self.into);
    }

    /// How long ago, at most so long.
    fn age(&mut self, at: Ms, most: Ms) {
        let age = self.now.saturating_sub(at).min(most);
        self.put(&age);
    }

    /// In how long.
    fn due(&mut self, at: Ms) {
        let due = at.saturating_sub(self.now);
        self.put(&due);
    }

    fn maybe(&mut self, at: Option<Ms>, most: Ms) {
        self.put(&at.is_some());
        if let Some(at) = at {
            self.age(at, most);
        }
    }

    fn world(&mut self, world: &World) {
        self.put(&(world.now % BEAT_MS));
        self.raft(&world.raft);
        for node in &world.nodes {
            self.maybe(node.on_since, 3_000);
            self.put(&(node.cordoned, node.readiness, node.agent_alive, node.keeper.is_some()));
            if let Some(keeper) = &node.keeper {
                self.age(keeper.since, 3_000);
                self.put(&(keeper.order, keeper.data, &keeper.ran_here, &keeper.removed));
                let open = keeper.restart.filter(|restart| keeper.restarted != Some(restart.id));
                self.put(&(keeper.settings, keeper.runs_with, open.map(|restart| restart.faults_seen == world.trace.faults)));
                self.put(&keeper.restarts_until.map(|until| until.saturating_sub(world.now)));
            }
        }
        let boot = &world.boot;
        self.put(&(boot.host, boot.tombstone, boot.stream, boot.clients_at_signal));
        self.put(&boot.outcome.map(|(_, drain)| drain));
        self.put(&(boot.outcome.map(|(id, _)| id) == world.api.boot.drain_order.map(|o| o.id)));
        self.maybe(boot.down_since, 2_000);
        self.put(&boot.journal.map(|j| j.order.attempt));
        self.maybe(boot.journal.map(|j| j.at), 12_000);
        self.maybe(boot.journal.and_then(|j| j.unlisted_since), 300);
        self.api(&world.api, world);
        for server in &world.servers {
            self.server(server, world);
        }
        let trace = &world.trace;
        self.put(&(trace.violations.len(), trace.boot_removals, trace.signals.min(3)));
        for (id, (_, at)) in &trace.grown {
            self.put(id);
            self.age(*at, PATIENCE_MS);
        }
        let gate = trace.gates.last();
        self.put(&gate.map(|(_, ids)| ids));
        self.maybe(gate.map(|(at, _)| *at), 30_000);
    }

    fn raft(&mut self, raft: &Raft) {
        self.put(&(&raft.config, raft.leader, raft.next_id, raft.max_learners, &raft.slow));
        self.age(raft.changed_at, 6_000);
        if raft.leader.is_none() {
            self.age(raft.leaderless_since, 2_000);
        }
        let mut terms: Vec<u64> = raft.processes.values().map(|p| p.log.rank().0).collect();
        terms.sort_unstable();
        terms.dedup();
        let best = raft.processes.values().max_by_key(|p| p.log.rank()).map(|p| &p.log);
        for (id, process) in &raft.processes {
            let rank = terms.iter().position(|t| *t == process.log.rank().0);
            let (behind, own) = best.map_or((0, 0), |best| {
                let agreed = best.agrees_up_to(&process.log);
                (best.last_index() - agreed, process.log.last_index() - agreed)
            });
            // A voter that is back has all at once; a member that is out gets nothing more.
            let most = match raft.listed(*id) {
                Some(member) if member.learner => u64::MAX,
                Some(_) => 1,
                None => 0,
            };
            self.put(&(id, rank, behind.min(most), own));
            match process.life {
                Life::Down => self.put(&0_u8),
                Life::Up { since } => {
                    self.put(&1_u8);
                    // The planner counts how long all have been listening.
                    self.age(since, LONGEST_MS);
                }
                Life::Draining { until } => {
                    self.put(&2_u8);
                    self.due(until);
                }
            }
        }
        let newest = best.map_or(0, super::log::Log::last_index);
        self.put(&(newest.saturating_sub(raft.commit)));
    }

    fn api(&mut self, api: &Api, world: &World) {
        let faults = world.trace.faults;
        let known: Vec<_> = world.nodes.iter().map(|n| n.keeper.as_ref().and_then(|k| k.restart).map(|r| r.id)).collect();
        self.put(&(&api.spec, api.settings));
        for evicted in &api.evicted {
            self.maybe(*evicted, 64 * PATIENCE_MS);
        }
        self.put(&api.evictions);
        for seat in &api.seats {
            self.put(&(seat.node, seat.ordered, &seat.keeper, seat.settings, seat.runs_with));
            let open = seat.restart.filter(|restart| seat.restarted != Some(restart.id));
            let is_known = |restart: &Restart| known.get(seat.node).is_some_and(|id| *id == Some(restart.id));
            self.put(&open.map(|restart| (restart.faults_seen == faults, is_known(&restart))));
            self.age(seat.changed_at, 500);
        }
        let boot = &api.boot;
        self.put(&(boot.found, boot.snapshot, boot.tombstone, boot.drain()));
        self.age(boot.changed_at, 500);
        self.maybe(api.preflight_at, 500);
        self.put(&api.preflight_answers);
        self.maybe(api.count_at, 500);
        for count in &api.counts {
            self.put(&count.as_ref().map(|c| (&c.to_boot, &c.to_member)));
            self.maybe(count.as_ref().and_then(|c| c.listening_since), LONGEST_MS);
        }
    }

    fn server(&mut self, server: &ApiServer, world: &World) {
        server.shape(world, &mut |at, is_due| if is_due { self.put(&at.saturating_sub(self.now)) } else { self.put(&at) });
    }

    fn controller(&mut self, controller: &Controller, world: &World) {
        let (gate, ids) = &controller.gate;
        match gate {
            Gate::NotChecked => self.put(&0_u8),
            Gate::Passed { at_ms } => {
                self.put(&(1_u8, ids));
                self.age(*at_ms, 30_000);
            }
            Gate::NotYet { at_ms, .. } => {
                self.put(&(2_u8, ids));
                self.age(*at_ms, 30_000);
            }
            Gate::HashMismatch { .. } => self.put(&(3_u8, ids)),
        }
        self.put(&controller.lags);
        for (id, progress) in &controller.progress {
            let has = world.raft.processes.get(id).map_or(0, |p| p.log.last_index());
            // What was seen already decides whether what comes next is growth, not how much it was.
            let unseen = |most: Option<u64>| most.map(|most| i128::from(has).saturating_sub(i128::from(most)).min(1));
            let (size, applied) = progress.most();
            self.put(&(id, unseen(size), unseen(applied)));
            self.age(progress.since_ms(), PATIENCE_MS);
            self.age(progress.seen_ms(), PATIENCE_MS / 4 + 1);
        }
        let (down, away) = controller.absences.times();
        for (id, since, seen) in down {
            self.put(id);
            self.age(since, REPLACE_AFTER_MS);
            self.age(seen, REPLACE_AFTER_MS / 4 + 1);
        }
        for (node, since, seen) in away {
            self.put(node);
            self.age(since, REPLACE_AFTER_MS);
            self.age(seen, REPLACE_AFTER_MS / 4 + 1);
        }
        self.put(&controller.doing.as_ref().map(|d| (&d.seats, d.faults_seen == world.trace.faults)));
        self.maybe(controller.doing.as_ref().map(|d| d.since), 12_000);
        let is_current = controller.cache.as_ref() == Some(&world.api);
        self.put(&is_current);
        if let (false, Some(cache)) = (is_current, &controller.cache) {
            self.put(&world.api.version.saturating_sub(cache.version));
            self.api(cache, world);
        }
    }
}
