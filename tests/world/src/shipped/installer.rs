//! An installer whose boot is a plain process: what runs of the pivot command while it waits, shipped code, and the program that it calls,
//! the World's. The program outlives whoever calls it, as a script's watchdog does.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_operator::clock;
use etcd_operator::pivot::{Attendant, BootCommand, Verb};
use futures::future::BoxFuture;
use kube::{Api, Client};

use super::calls::Calls;
use super::{CLUSTER, NAMESPACE, SharedWorld, disk, lock};
use crate::Ms;
use crate::boot::{GIVE_UP_MS, sigterm, stop};
use crate::raft::Life;
use crate::world::{BOOT, World};

/// How long a call of the program takes.
const CALL: Duration = Duration::from_millis(100);
/// How often the pivot command looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the program left behind on boot's machine.
#[derive(Clone, Default)]
pub(super) struct Machine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// When boot is started again.
    watchdog: Option<Ms>,
    /// `kill` came.
    is_dead: bool,
}

impl Machine {
    /// The watchdog that `drain` left. No kubelet stands beside such a boot.
    pub(super) fn tick(&self, world: &mut World) {
        world.boot.tombstone = true;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.watchdog.is_some_and(|at| world.now >= at) {
            state.watchdog = None;
            state.start(world);
        }
    }
}

impl State {
    fn start(&self, world: &mut World) {
        if self.is_dead || world.raft.runs(BOOT) {
            return;
        }
        // A removed one is refused by its peers and serves nothing: as good as down.
        if world.boot_listed() {
            let now = world.now;
            world.boot.down_since = None;
            world.raft.start(now, BOOT);
            world.trace.tell(now, "boot is started again by its program");
        }
    }
}

/// The program of `--boot-command`.
struct Program {
    machine: Machine,
    world: SharedWorld,
    calls: Calls,
    root: PathBuf,
}

impl BootCommand for Program {
    fn call(&self, verb: Verb) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let run = async {
                clock::sleep(CALL).await;
                let mut world = lock(&self.world);
                let mut state = self.machine.0.lock().unwrap_or_else(PoisonError::into_inner);
                match verb {
                    Verb::Drain => match world.raft.processes.get(&BOOT).map(|p| p.life) {
                        Some(Life::Up { .. }) => {
                            sigterm(&mut world);
                            state.watchdog = Some(world.now + GIVE_UP_MS);
                        }
                        Some(Life::Draining { .. }) => {}
                        Some(Life::Down) | None => return Err("boot does not run".to_owned()),
                    },
                    Verb::Kill => {
                        state.is_dead = true;
                        stop(&mut world);
                    }
                    Verb::Start => state.start(&mut world),
                }
                if let Some(node) = disk::boot_node(&world) {
                    disk::boot_process(&self.root, &world, node);
                }
                Ok(())
            };
            self.calls.make(|| verb.as_str().into(), run).await.unwrap_or_else(|_| Err("its end was not heard of".into()))
        })
    }
}

/// The pivot command, as far as it attends to boot.
pub(super) async fn pivot_command(client: Client, machine: Machine, world: SharedWorld, calls: Calls, root: PathBuf) {
    let api: Api<_> = Api::namespaced(client, NAMESPACE);
    let mut attendant = Attendant::new(Arc::new(Program { machine, world, calls, root }));
    loop {
        if let Ok(Some(cluster)) = api.get_opt(CLUSTER).await {
            attendant.look(&api, CLUSTER, &cluster).await;
        }
        clock::sleep(LOOK_EVERY).await;
    }
}
