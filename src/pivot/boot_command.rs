//! A boot that is no pod (design D7.5): the program of `--boot-command` is called as `PROGRAM drain|kill|start`. The controller orders the
//! drain through the EtcdCluster's status and is answered by an annotation; nothing here decides about boot's membership.
//!
//! What the program owes, as this command may die at any time: `drain` sends SIGTERM and returns, and from then on starts boot again after
//! 10 s by itself, unless `kill` came; `kill` ends boot and keeps it from starting again; `start` starts it unless it runs or `kill` came.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use etcd_operator_api::EtcdCluster;
use etcd_operator_api::boot_command::{BOOT_COMMAND, CommandAnswer, CommandStep};
use etcd_operator_api::cluster::CommandOrder;
use futures::future::BoxFuture;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::PivotError;
use super::outcome::Judge;
use crate::clock::{self, Instant};

/// How long a call of the program may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long after the signal boot is started again if it is still a member (design D7.5).
const START_AFTER: Duration = Duration::from_secs(10);
/// Between two calls of `kill`, when the first one failed.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// The end of a pivot in which boot was stopped by the command.
pub(super) const DONE: &str = "boot is out and was killed by --boot-command; the members on the nodes serve alone. It must never start again: on an empty directory it would be a second cluster at an address that API servers may still list";

/// What the program is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Send SIGTERM; start it again after 10 s unless `kill` came.
    Drain,
    /// End it, for good.
    Kill,
    /// Start it, unless it runs or `kill` came.
    Start,
}

impl Verb {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Kill => "kill",
            Self::Start => "start",
        }
    }
}

/// What stops and starts a boot that is no pod.
pub trait BootCommand: Send + Sync {
    /// Does it. An error is for a human.
    fn call(&self, verb: Verb) -> BoxFuture<'_, Result<(), String>>;
}

/// The program of `--boot-command`.
pub(super) struct Program(PathBuf);

impl Program {
    /// The program, if it can be run at all.
    pub(super) fn at(path: &Path) -> Result<Self, PivotError> {
        use std::os::unix::fs::PermissionsExt as _;
        let usage = |why: &str| {
            PivotError::Usage(format!(
                "--boot-command {}: {why}; name one executable file, which is called with drain, kill or start and nothing else",
                path.display()
            ))
        };
        // Absolute: without a slash in it, it would be looked for in PATH.
        let program = path.canonicalize().map_err(|error| usage(&error.to_string()))?;
        let metadata = program.metadata().map_err(|error| usage(&error.to_string()))?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            return Err(usage("it is not executable"));
        }
        Ok(Self(program))
    }

    async fn run(&self, verb: Verb) -> Result<(), String> {
        let named = format!("{} {}", self.0.display(), verb.as_str());
        let mut child = tokio::process::Command::new(&self.0)
            .arg(verb.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::inherit())
            // A Ctrl-C is for this command: whoever starts boot again after 10 s must not hear it.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{named}: cannot be run: {error}"))?;
        match clock::within(CALL_LIMIT, child.wait()).await {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(format!("{named}: {status}")),
            Some(Err(error)) => Err(format!("{named}: {error}")),
            None => {
                let _ = child.start_kill();
                Err(format!("{named}: not done within {} s", CALL_LIMIT.as_secs()))
            }
        }
    }
}

impl BootCommand for Program {
    fn call(&self, verb: Verb) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.run(verb))
    }
}

/// What is known when something has to be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    order: Option<CommandOrder>,
    answer: Option<CommandAnswer>,
    /// Whether boot is out of the member list.
    boot: Listed,
    /// How long ago boot was signalled, or the signal was first seen.
    signalled_for: Option<Duration>,
    /// How long ago `kill` failed.
    kill_failed_for: Option<Duration>,
    /// Whether the order was there before this command.
    order_is: Age,
}

/// Whether an order was seen to appear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Age {
    #[default]
    New,
    /// It was there at the first look: nobody may be left who holds boot's drain open and removes it. Whoever leads takes it back.
    FoundThere,
}

/// Whether boot is a member, as the controller saw it last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    #[default]
    Yes,
    No,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    /// Say that somebody is there now.
    SayReady {
        id: String,
    },
    Drain {
        id: String,
    },
    Start {
        id: String,
    },
    Kill {
        id: String,
    },
}

fn next(seen: &Seen) -> Action {
    if seen.boot == Listed::No {
        // Whether or not anybody knows of a signal: what is no member must not run, and `kill` keeps it from starting.
        return match &seen.answer {
            Some(answer) if answer.step == CommandStep::Gone => Action::Nothing,
            _ if seen.kill_failed_for.is_some_and(|ago| ago < KILL_AGAIN) => Action::Nothing,
            answer => {
                let ordered = seen.order.as_ref().map(|order| order.id.clone());
                let id = ordered.or_else(|| answer.as_ref().map(|answer| answer.id.clone()));
                Action::Kill { id: id.unwrap_or_default() }
            }
        };
    }
    let Some(order) = &seen.order else { return Action::Nothing };
    let id = order.id.clone();
    match seen.answer.as_ref().filter(|answer| answer.id == id).map(|answer| answer.step) {
        // It was given while nobody was here, and must not be begun any more.
        None if order.withdrawn => Action::SayReady { id },
        None if seen.order_is == Age::FoundThere => Action::Nothing,
        None => Action::Drain { id },
        // Once is enough, whoever it was that signalled.
        Some(CommandStep::Signalled) if seen.signalled_for.is_some_and(|ago| ago >= START_AFTER) => Action::Start { id },
        Some(
            CommandStep::Signalled | CommandStep::Ready | CommandStep::StartedAgain | CommandStep::Failed | CommandStep::Gone,
        ) => Action::Nothing,
    }
}

/// What the last look at the EtcdCluster showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Never,
    BootIsMember,
    BootIsOut,
}

/// Whoever runs the program for one pivot.
pub struct Attendant {
    command: Arc<dyn BootCommand>,
    /// The order whose signal is known, and since when.
    signalled: Option<(String, Instant)>,
    kill_failed: Option<Instant>,
    /// The order that was open at the first look.
    found_there: Option<String>,
    looked: Looked,
    /// The order after which boot was started again.
    started: Option<String>,
    /// An answer that has not reached the API yet. It counts all the same: nothing is done twice.
    unsent: Option<CommandAnswer>,
}

impl Attendant {
    /// One that has just begun.
    #[must_use]
    pub fn new(command: Arc<dyn BootCommand>) -> Self {
        Self {
            command,
            signalled: None,
            kill_failed: None,
            found_there: None,
            looked: Looked::Never,
            started: None,
            unsent: None,
        }
    }

    /// Whether boot was signalled a short while ago: who is called off now would leave the rest to the program.
    pub(super) fn is_draining(&self) -> bool {
        self.signalled.as_ref().is_some_and(|(_, at)| at.elapsed() < START_AFTER + CALL_LIMIT)
    }

    /// Does what is due, and answers. Returns what a human should know.
    pub async fn look(&mut self, api: &Api<EtcdCluster>, name: &str, cluster: &EtcdCluster) -> Option<String> {
        let seen = self.seen(cluster);
        let (id, step, note) = match next(&seen) {
            Action::Nothing => return self.send(api, name).await,
            Action::SayReady { id } => (id, CommandStep::Ready, None),
            Action::Drain { id } => self.drain(id).await,
            Action::Start { id } => self.start(id, "boot was still a member 10 s after its signal: started again").await,
            Action::Kill { id } => match self.command.call(Verb::Kill).await {
                Ok(()) => (id, CommandStep::Gone, Some("boot is out: killed".into())),
                Err(why) => {
                    self.kill_failed = Some(clock::instant());
                    return Some(format!("boot is out, but {why}; it is tried again, and must not start any more"));
                }
            },
        };
        self.unsent = Some(CommandAnswer { id, step });
        self.send(api, name).await.or(note)
    }

    /// While the API does not answer, perhaps since boot is away: what is overdue is done all the same.
    pub(super) async fn look_without_api(&mut self) -> Option<String> {
        let (id, at) = self.signalled.clone()?;
        let is_over = self.looked == Looked::BootIsOut || self.started.as_ref() == Some(&id);
        if is_over || at.elapsed() < START_AFTER {
            return None;
        }
        let (id, step, note) = self.start(id, "no API says that boot is out, 10 s after its signal: started again").await;
        self.unsent = Some(CommandAnswer { id, step });
        note
    }

    async fn start(&mut self, id: String, note: &str) -> (String, CommandStep, Option<String>) {
        self.started = Some(id.clone());
        match self.command.call(Verb::Start).await {
            Ok(()) => (id, CommandStep::StartedAgain, Some(note.to_owned())),
            Err(why) => (id, CommandStep::Failed, Some(why)),
        }
    }

    async fn drain(&mut self, id: String) -> (String, CommandStep, Option<String>) {
        match self.command.call(Verb::Drain).await {
            Ok(()) => {
                self.signalled = Some((id.clone(), clock::instant()));
                (id, CommandStep::Signalled, Some("boot was told to stop".into()))
            }
            Err(why) => {
                // Whether it was signalled is not known. Where it runs, this does nothing.
                let started = self.command.call(Verb::Start).await.err().map(|why| format!("; {why}")).unwrap_or_default();
                (id, CommandStep::Failed, Some(format!("boot could not be told to stop: {why}{started}")))
            }
        }
    }

    fn seen(&mut self, cluster: &EtcdCluster) -> Seen {
        let pivot = cluster.status.as_ref().and_then(|s| s.pivot.clone()).unwrap_or_default();
        let answer = self.unsent.clone().or_else(|| CommandAnswer::of(cluster));
        // A signal that an earlier run of this command sent: how long ago is not known, but the program starts boot by itself.
        if let Some(answer) = answer.as_ref().filter(|answer| answer.step == CommandStep::Signalled)
            && self.signalled.as_ref().is_none_or(|(id, _)| *id != answer.id)
        {
            self.signalled = Some((answer.id.clone(), clock::instant()));
        }
        if self.looked == Looked::Never {
            self.found_there = pivot.boot_drain.as_ref().map(|order| order.id.clone());
        }
        self.looked = if pivot.boot_removed.is_some() { Looked::BootIsOut } else { Looked::BootIsMember };
        let is_found = pivot.boot_drain.as_ref().is_some_and(|order| self.found_there.as_ref() == Some(&order.id));
        Seen {
            order_is: if is_found { Age::FoundThere } else { Age::New },
            signalled_for: self.signalled.as_ref().map(|(_, at)| at.elapsed()),
            kill_failed_for: self.kill_failed.map(|at| at.elapsed()),
            boot: if pivot.boot_removed.is_some() { Listed::No } else { Listed::Yes },
            order: pivot.boot_drain,
            answer,
        }
    }

    /// Sends what has not been sent yet.
    async fn send(&mut self, api: &Api<EtcdCluster>, name: &str) -> Option<String> {
        let answer = self.unsent.as_ref()?;
        let patch = json!({"metadata": {"annotations": {BOOT_COMMAND: answer.to_string()}}});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                self.unsent = None;
                None
            }
            Err(error) => {
                Some(format!("the API did not take the answer to an order to stop boot, which is tried again: {error}"))
            }
        }
    }
}

/// Whether boot is out and not known to be killed.
pub(super) fn is_to_be_killed(cluster: &EtcdCluster) -> bool {
    let is_gone = CommandAnswer::of(cluster).is_some_and(|answer| answer.step == CommandStep::Gone);
    Judge::is_boot_removed(cluster) && !is_gone
}

#[cfg(test)]
#[path = "boot_command_tests.rs"]
mod tests;
