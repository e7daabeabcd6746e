//! Handing over to another keeper while etcd runs on (design D3), the old one's side; the new one's is `take_over.rs`.
//!
//! The order names the binary that is to run, the agent puts it beside the one that does (`bin/keeper.next`). If it is that binary, and
//! its self-check passes in this very pod, this process becomes it by execve: the same PID, so that the container lives on, and etcd
//! stays its child. `bin/keeper`, which the kubelet starts, is not touched here: that is for the new one to do once it has proven itself.
//! So a cold start never meets a keeper that has not run on this node.
//!
//! etcd is neither stopped nor signalled by anything in here, whatever fails.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use crate::binary::boot_id;
use crate::child::{Ended, Event, reap_all};
use crate::clock::now;
use crate::contract::{HandOver, HandOverStep, HandedEtcd};
use crate::files::sync_dir;
use crate::first_start::FirstStart;
use crate::running::Running;
use crate::supervise::Keeper;

/// Bytes of a self-check's output that are kept.
const OUTPUT: u64 = 64 * 1024;
/// How long its output may take to come after its end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Characters of it that are reported.
const REPORTED: usize = 400;
/// What is still told to the keeper in the last moment before execve: enough to let a signal through.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// Pause after a hand-over that could not be begun: for want of disk, or of time.
const AGAIN: Duration = Duration::from_secs(30);
/// Word in a self-check's report: the binary can take over a running etcd. One from before there were hand-overs could not: it would
/// find the data in use, and leave etcd to itself.
pub(crate) const TAKES_OVER: &str = "takesOver";

/// What else happened while a hand-over was prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meanwhile {
    /// Nothing, or another order: the loop goes on as ever.
    Nothing,
    /// The keeper was told to end.
    Terminated,
    /// etcd ended.
    Ended(Ended),
}

enum Checked {
    Passed,
    Failed(String),
    /// Not now: nothing is held against the binary.
    NotNow(Meanwhile),
}

/// What belongs to a hand-over between two looks.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// Until when nothing is tried.
    until: Option<Instant>,
    /// A foreign binary that was named in the log.
    foreign: Option<String>,
}

impl Keeper {
    /// To be called again and again: proves this keeper if it is new, and hands over if that is ordered and possible; then it does not
    /// return.
    pub(crate) async fn hand_over(&mut self, running: Option<&Running>) -> Meanwhile {
        self.know_itself().await;
        self.prove();
        let Some(to) = self.successor(running).await else { return Meanwhile::Nothing };
        match self.check(running).await {
            Checked::Passed => {}
            Checked::Failed(why) => {
                self.refuse(to, why);
                return Meanwhile::Nothing;
            }
            Checked::NotNow(meanwhile) => return meanwhile,
        }
        if self.next.is_changed() {
            return Meanwhile::Nothing;
        }
        self.become_next(to, running).await
    }

    /// Which binary this is, as soon as it has been read.
    async fn know_itself(&mut self) {
        if self.store.state.keeper_binary.is_none()
            && let Some(hash) = self.own.look().await.map(str::to_owned)
        {
            self.store.state.keeper_binary = Some(hash);
            self.save("which binary runs");
        }
    }

    /// The binary that is to take over, if it lies there and nothing stands against it.
    async fn successor(&mut self, running: Option<&Running>) -> Option<String> {
        self.forget_refusal();
        let state = &self.store.state;
        let wanted = self.order.as_ref()?.keeper.as_ref()?.to_ascii_lowercase();
        let is_refused = |h: &HandOver| h.step == HandOverStep::Refused && h.to == wanted;
        if state.keeper_binary.as_ref()? == &wanted || state.hand_over.as_ref().is_some_and(is_refused) {
            return None;
        }
        // One after the other. And with an order that this keeper does not follow the next one's self-check would fail for no fault of its own.
        if self.prove_until.is_some() || state.order_refused.is_some() || self.pauses.until.is_some_and(|until| now() < until) {
            return None;
        }
        // The proof that a first start came to nothing is in this process only (`first_start.rs`).
        if running.and_then(|r| r.first.as_ref()).is_some_and(|first| !FirstStart::is_over(first)) {
            return None;
        }
        let found = self.next.look().await?;
        if found == wanted {
            return Some(wanted);
        }
        if self.pauses.foreign.as_deref() != Some(found) {
            tracing::warn!(found, wanted, "bin/keeper.next is not the keeper that is wanted: it is not run");
            self.pauses.foreign = Some(found.to_owned());
        }
        None
    }

    /// Runs the next keeper's self-check, with the arguments that it will have. Whatever happens meanwhile comes first.
    async fn check(&mut self, running: Option<&Running>) -> Checked {
        let path = self.paths.keeper_next();
        tracing::info!(path = %path.display(), "another keeper is to take over: its self-check runs");
        let (pid, output) = match spawn_check(&path) {
            Ok(started) => started,
            // Somebody still has it open for writing: it is about to change.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => return Checked::NotNow(Meanwhile::Nothing),
            // Out of memory, of processes: that passes. What is no program does not.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => {
                tracing::warn!(%error, "the next keeper's self-check cannot be run now: it is tried again");
                self.pauses.until = Some(now() + AGAIN);
                return Checked::NotNow(Meanwhile::Nothing);
            }
            Err(error) => return Checked::Failed(format!("its self-check cannot be run: {error}")),
        };
        let limit = self.args.timing.self_check;
        let until = now() + limit;
        loop {
            let event = self.events.next(until.min(now() + self.args.timing.order_poll)).await;
            if event == Event::Child {
                let reaped = reap_all();
                let check = reaped.iter().find(|(reaped, _)| *reaped == pid).map(|(_, ended)| *ended);
                if let Some(ended) = running.and_then(|r| r.etcd.among(&reaped)) {
                    if check.is_none() {
                        kill(pid);
                    }
                    return Checked::NotNow(Meanwhile::Ended(ended));
                }
                if let Some(ended) = check {
                    if self.order_changed() {
                        return Checked::NotNow(Meanwhile::Nothing);
                    }
                    return verdict(ended, output).await;
                }
            }
            let meanwhile = match event {
                Event::Terminate => Some(Meanwhile::Terminated),
                Event::Child | Event::Time => self.order_changed().then_some(Meanwhile::Nothing),
            };
            if let Some(meanwhile) = meanwhile {
                kill(pid);
                return Checked::NotNow(meanwhile);
            }
            if now() >= until {
                kill(pid);
                // A busy node says nothing about the binary.
                tracing::warn!(seconds = limit.as_secs(), "the next keeper's self-check did not end in time: it is tried again");
                self.pauses.until = Some(now() + AGAIN);
                return Checked::NotNow(Meanwhile::Nothing);
            }
        }
    }

    /// An order that wants no keeper at all is a human's word that the one that was refused may be tried again.
    fn forget_refusal(&mut self) {
        let is_refused = self.store.state.hand_over.as_ref().is_some_and(|h| h.step == HandOverStep::Refused);
        if is_refused && self.store.state.order_refused.is_none() && self.order.as_ref().is_some_and(|o| o.keeper.is_none()) {
            tracing::info!("the order wants no other keeper any more: what was refused before may be tried again");
            self.store.state.hand_over = None;
            self.save("that a refusal is forgotten");
        }
    }

    /// Not tried again until somebody says so: a keeper that fails here once fails here again, and each try is a risk for what runs.
    pub(crate) fn refuse(&mut self, to: String, message: String) {
        tracing::error!(to, message, "the hand-over to another keeper is refused; this one goes on");
        self.store.state.hand_over = Some(HandOver { to, step: HandOverStep::Refused, message, etcd: None, boot_id: boot_id() });
        self.save("that a hand-over was refused");
    }

    /// The last words of this keeper. Returns only if the hand-over does not come about.
    async fn become_next(&mut self, to: String, running: Option<&Running>) -> Meanwhile {
        if let Err(error) = self.keep_previous() {
            tracing::error!(%error, "bin/keeper cannot be kept as bin/keeper.prev: no hand-over; it is tried again");
            self.pauses.until = Some(now() + AGAIN);
            return Meanwhile::Nothing;
        }
        let before = self.store.state.hand_over.clone();
        let etcd = running.map(|running| HandedEtcd {
            pid: running.etcd.pid(),
            cluster_id: running.owner.cluster.to_string(),
            member_id: running.owner.member.to_string(),
            ran_seconds: running.etcd.since.elapsed().as_secs(),
        });
        let begun = HandOver { to: to.clone(), step: HandOverStep::Begun, message: String::new(), etcd, boot_id: boot_id() };
        self.store.state.hand_over = Some(begun);
        // Without this on disk the next keeper would not know of its etcd.
        if !self.save("that a hand-over begins") {
            self.store.state.hand_over = before;
            self.pauses.until = Some(now() + AGAIN);
            return Meanwhile::Nothing;
        }
        let meanwhile = loop {
            match self.events.next(now() + LAST_LOOK).await {
                Event::Terminate => break Meanwhile::Terminated,
                Event::Child => {
                    if let Some(ended) = running.and_then(|r| r.etcd.reap()) {
                        break Meanwhile::Ended(ended);
                    }
                }
                Event::Time => break Meanwhile::Nothing,
            }
        };
        if !matches!(meanwhile, Meanwhile::Nothing) {
            self.store.state.hand_over = before;
            self.save("that a hand-over was broken off");
            return meanwhile;
        }
        tracing::info!(to, "handing over");
        // A SIGTERM from here until the next keeper listens for it (some ms) is lost: PID 1 ignores what it has no handler for, and
        // blocking it over an execve takes unsafe code. The kubelet then kills the container after its grace period, as a power cut
        // would: etcd's data is fsynced, the state says Begun, and `bin/keeper` is the old one. An etcd that ends in this gap stays a
        // zombie, which the next keeper reaps as soon as it has adopted it.
        let error = exec(&self.paths.keeper_next());
        if let Err(error) = self.events.after_failed_exec() {
            tracing::error!(%error, "SIGPIPE cannot be caught");
        }
        self.refuse(to, format!("it cannot be executed: {error}"));
        Meanwhile::Nothing
    }

    /// Keeps the binary that the kubelet starts under a second name, which outlasts the end of this hand-over.
    fn keep_previous(&self) -> io::Result<()> {
        let (keeper, previous) = (self.paths.keeper(), self.paths.keeper_prev());
        let temporary = previous.with_file_name(".keeper.prev.tmp");
        let remove = || match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        remove()?;
        std::fs::hard_link(&keeper, &temporary)?;
        std::fs::rename(&temporary, &previous)?;
        // A rename between two names of one file does nothing (POSIX), after a hand-over that failed.
        remove()?;
        sync_dir(&self.paths.bin())
    }
}

/// Makes this process the binary, with the arguments that this one was given. Returns only if that fails.
pub(crate) fn exec(binary: &Path) -> io::Error {
    Command::new(binary).args(std::env::args_os().skip(1)).exec()
}

fn spawn_check(path: &Path) -> io::Result<(u32, JoinHandle<Vec<u8>>)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(path);
    command.args(std::env::args_os().skip(1)).arg("--self-check");
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    // Not waited for through `Child`: see `child.rs`.
    let pid = command.spawn()?.id();
    // Its own ends of the pipe: without them the output has an end.
    drop(command);
    let reader = Receiver::from_owned_fd(reader.into())?;
    Ok((pid, tokio::spawn(read(reader))))
}

/// The beginning of what is written; the rest is read, so that nobody waits for a full pipe.
async fn read(mut reader: Receiver) -> Vec<u8> {
    let mut kept = Vec::new();
    if (&mut reader).take(OUTPUT).read_to_end(&mut kept).await.is_ok() {
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    }
    kept
}

async fn verdict(ended: Ended, mut output: JoinHandle<Vec<u8>>) -> Checked {
    let output = match tokio::time::timeout(LAST_WORDS, &mut output).await {
        Ok(Ok(output)) => output,
        Ok(Err(_)) | Err(_) => {
            output.abort();
            Vec::new()
        }
    };
    let text = String::from_utf8_lossy(&output);
    let words = || tail(text.trim());
    if !ended.is_success() {
        return Checked::Failed(format!("its self-check ended with {ended}: {}", words()));
    }
    let takes_over = |line: &str| {
        let report: Option<serde_json::Value> = serde_json::from_str(line).ok();
        report.is_some_and(|report| report.get(TAKES_OVER) == Some(&serde_json::Value::Bool(true)))
    };
    if !text.lines().any(takes_over) {
        return Checked::Failed(format!("it does not say that it can take over a running etcd: {}", words()));
    }
    Checked::Passed
}

/// The last words count: what went wrong stands at the end.
fn tail(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(REPORTED);
    text.chars().skip(skipped).collect()
}

fn kill(pid: u32) {
    // Not reaped yet, so the PID is still its own.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, Signal::KILL)
    {
        tracing::error!(?pid, %error, "cannot kill the self-check");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_end_of_a_long_output_is_what_is_reported() {
        assert_eq!(tail("short"), "short");
        let long = format!("{}the reason", "é".repeat(1000));
        assert!(tail(&long).ends_with("the reason") && tail(&long).chars().count() == REPORTED);
    }
}
