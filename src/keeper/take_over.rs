//! Taking over from another keeper, the new one's side of a hand-over (`hand_over.rs` is the old one's), and what a start makes of a
//! hand-over that it finds open.
//!
//! A keeper that runs from `bin/keeper.next` has been made from another one by execve. If it finds the etcd that the state names to be its
//! own child, it goes on where the other stopped; after a while it makes itself `bin/keeper`. If it cannot, it becomes `bin/keeper` again,
//! in place, which adopts etcd in the same way.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use etcd_operator_etcd::wal::Owner;

use crate::binary::{OWN, boot_id, sha256};
use crate::child::Etcd;
use crate::clock::now;
use crate::contract::{HandOverStep, HandedEtcd, Order, Paths, Phase, State};
use crate::files::{StateAtStart, Store, sync_dir};
use crate::hand_over::exec;
use crate::last_words::Output;
use crate::render::{EtcdVersion, InitialCheck, Start, flags};
use crate::running::Running;
use crate::supervise::Keeper;
use crate::table::Reason;
use crate::{KeeperArgs, probe};

/// What was found at the start of this process.
pub(crate) struct Arrival {
    /// Whether this keeper has yet to prove itself.
    pub standing: Standing,
    /// The etcd that runs already, and the version of its binary.
    pub adopted: Option<(Running, EtcdVersion)>,
    /// The probe's socket, if it is open already.
    pub listening: Option<TcpListener>,
}

/// How a keeper came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The kubelet started it, or the next keeper went back to it.
    Kept,
    /// Another one has handed over to it.
    New,
}

impl Arrival {
    /// Looks at it. Does not return if this keeper must not run: it is then the one before again.
    pub(crate) fn look(args: &KeeperArgs, paths: &Paths, store: &mut Store, at_start: StateAtStart) -> Self {
        let standing = if is_next() { Standing::New } else { Standing::Kept };
        match standing {
            Standing::New => new(args, paths, store, at_start),
            Standing::Kept => {
                let handed = store.state.hand_over.as_mut().and_then(|h| h.etcd.take());
                close(&mut store.state, &boot_id(), || sha256(Path::new(OWN)));
                // In a new container there is none of the old one's processes; after a keeper that went back there is.
                let adopted = handed.and_then(|handed| match adopt(args, paths, &store.state, &handed) {
                    Ok(adopted) => Some(adopted),
                    Err(why) => {
                        tracing::info!(why, "there is no etcd to go on with");
                        None
                    }
                });
                Self { standing, adopted, listening: None }
            }
        }
    }
}

/// Whether this process runs from `bin/keeper.next`, whatever became of that file since.
fn is_next() -> bool {
    let exe = std::env::current_exe().unwrap_or_default();
    // The kernel appends " (deleted)" when another file has taken its name.
    exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("keeper.next"))
}

fn new(args: &KeeperArgs, paths: &Paths, store: &mut Store, at_start: StateAtStart) -> Arrival {
    let taken = take(args, paths, &store.state, at_start);
    match taken {
        Ok((listening, adopted)) => {
            if let Some(open) = &mut store.state.hand_over {
                (open.step, open.etcd) = (HandOverStep::Proving, None);
                store.state.keeper_binary = Some(open.to.clone());
            }
            Arrival { standing: Standing::New, adopted, listening: Some(listening) }
        }
        Err(why) => go_back(paths, store, why),
    }
}

/// Everything that a new keeper needs to go on, or why it cannot.
fn take(
    args: &KeeperArgs,
    paths: &Paths,
    state: &State,
    at_start: StateAtStart,
) -> Result<(TcpListener, Option<(Running, EtcdVersion)>), Cannot> {
    if at_start == StateAtStart::Lost {
        return Err(Cannot::Read);
    }
    let own = sha256(Path::new(OWN)).map_err(|error| Cannot::TakeOver(format!("it cannot read its own binary: {error}")))?;
    let open = state.hand_over.as_ref().filter(|h| h.step == HandOverStep::Begun && h.to == own);
    let open = open.ok_or_else(|| Cannot::TakeOver(format!("the state has no hand-over to it ({own})")))?;
    let listening = probe::listen(args.probe_port)
        .map_err(|error| Cannot::TakeOver(format!("it cannot listen for probes on port {}: {error}", args.probe_port)))?;
    let adopted = open.etcd.as_ref().map(|handed| adopt(args, paths, state, handed)).transpose().map_err(Cannot::TakeOver)?;
    Ok((listening, adopted))
}

/// Why a new keeper cannot take over.
enum Cannot {
    /// It cannot read the state, and so must not write it.
    Read,
    TakeOver(String),
}

/// Pause between two tries to go back.
const AGAIN: Duration = Duration::from_secs(1);

/// Becomes `bin/keeper` again.
fn go_back(paths: &Paths, store: &mut Store, why: Cannot) -> ! {
    match why {
        Cannot::Read => tracing::error!("the state cannot be read: going back to bin/keeper, which can"),
        Cannot::TakeOver(why) => {
            tracing::error!(why, "cannot take over: going back to bin/keeper");
            if let Some(open) = &mut store.state.hand_over {
                // Its etcd stays in the record: the one before is to adopt it.
                (open.step, open.message) = (HandOverStep::Refused, format!("it could not take over: {why}"));
            }
            if let Err(error) = store.save() {
                tracing::error!(%error, "why there was no hand-over cannot be written down");
            }
        }
    }
    // Not on without it: this keeper would write a state that it has not read, or leave its etcd to itself. Meanwhile etcd serves, and the
    // kubelet, whose probes nobody answers, starts the container anew after 3 min.
    loop {
        for binary in [paths.keeper(), paths.keeper_prev()] {
            let error = exec(&binary);
            tracing::error!(%error, path = %binary.display(), "cannot go back: trying again");
        }
        crate::clock::pause(AGAIN);
    }
}

/// A hand-over that a kept keeper finds open did not end well, whatever its reason: unless this very binary is what it led to.
fn close(state: &mut State, boot: &str, own: impl FnOnce() -> io::Result<String>) {
    let Some(open) = &mut state.hand_over else { return };
    match open.step {
        HandOverStep::Done | HandOverStep::Refused => return,
        HandOverStep::Begun | HandOverStep::Proving => {}
    }
    // Cut off between the rename that made it bin/keeper and the word in the state.
    if own().is_ok_and(|own| own == open.to) {
        open.step = HandOverStep::Done;
    } else if open.boot_id != boot {
        tracing::warn!(to = open.to, "the machine went down before a new keeper had proven itself: no fault of its own");
        state.hand_over = None;
    } else {
        open.step = HandOverStep::Refused;
        open.message = "it ended before it had proven itself, and etcd with it, which was started again; its log is that of the container before this one".to_owned();
        tracing::error!(
            to = open.to,
            "a new keeper ended before it had proven itself: it is not tried again until somebody says so"
        );
    }
}

/// The running etcd as if this keeper had started it.
fn adopt(args: &KeeperArgs, paths: &Paths, state: &State, handed: &HandedEtcd) -> Result<(Running, EtcdVersion), String> {
    let etcd = Etcd::adopt(handed.pid, &args.etcd, Duration::from_secs(handed.ran_seconds))?;
    // The order that the other one followed, not one that has come since: what differs in that is seen by the loop, and acted upon.
    let order: Order = state.last_order.as_deref().cloned().ok_or("the state has no order")?;
    // What it runs with, which that order may have been about to change.
    let order = Order { etcd: state.runs_with.clone().unwrap_or_else(|| order.etcd.clone()), ..order };
    let version = state.etcd_version.as_deref().and_then(EtcdVersion::of_state).ok_or("the state has no version of etcd")?;
    let id = |id: &str| u64::from_str_radix(id, 16).map_err(|error| format!("ID {id}: {error}"));
    let owner = Owner {
        cluster: etcd_operator_etcd::ids::ClusterId(id(&handed.cluster_id)?),
        member: etcd_operator_etcd::ids::MemberId(id(&handed.member_id)?),
    };
    // As this keeper renders them: that another version renders the same order in another way is no reason to restart etcd.
    let flags = flags(&order, paths, version, &Start::Data(InitialCheck::Off)).unwrap_or_default();
    Ok((Running { etcd, order, owner, flags, first: None, output: Output::resume(paths), was_ready: true }, version))
}

impl Keeper {
    /// Goes on with an etcd that runs already.
    pub(crate) fn go_on(&mut self, (running, version): (Running, EtcdVersion)) -> Running {
        tracing::info!(pid = running.etcd.pid(), member = %running.owner.member, "etcd is adopted");
        self.version = Some(version);
        // One from before this was noted has it as its order has it: other settings would have restarted etcd.
        self.store.state.runs_with.get_or_insert_with(|| running.order.etcd.clone());
        self.store.state.etcd_pid = Some(running.etcd.pid());
        self.publish(Phase::Running, Reason::TakenOver, "");
        running
    }

    /// Makes a new keeper the one that the kubelet starts, once it has run for long enough.
    pub(crate) fn prove(&mut self) {
        if self.prove_until.is_none_or(|until| now() < until) {
            return;
        }
        if let Err(error) = keep(&self.paths) {
            tracing::error!(%error, "the new keeper cannot become bin/keeper; it is tried again");
            return self.prove_anew();
        }
        self.prove_until = None;
        if let Some(open) = &mut self.store.state.hand_over {
            open.step = HandOverStep::Done;
            tracing::info!(binary = open.to, "the hand-over is done: bin/keeper is this keeper");
        }
        self.save("that the hand-over is done");
    }

    /// etcd ended, or bin/keeper could not be written: the time begins again.
    pub(crate) fn prove_anew(&mut self) {
        if self.prove_until.is_some() {
            self.prove_until = Some(now() + self.args.timing.prove);
        }
    }

    /// An end that was asked for says nothing against a keeper that has yet to prove itself: it will be handed over to again.
    pub(crate) fn leave_unproven(&mut self) {
        if self.prove_until.take().is_some() {
            self.store.state.hand_over = None;
        }
    }
}

/// Makes this process's binary `bin/keeper`.
fn keep(paths: &Paths) -> io::Result<()> {
    let (own, next) = (Path::new(OWN), paths.keeper_next());
    let inode = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    if inode(&next).ok() == Some(inode(own)?) {
        fs::rename(next, paths.keeper())?;
    } else {
        // The agent has put a later one there: not that, but what has been proven.
        let temporary = paths.keeper().with_file_name(".keeper.tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&temporary)?;
        io::copy(&mut File::open(own)?, &mut file)?;
        file.sync_all()?;
        fs::rename(temporary, paths.keeper())?;
    }
    sync_dir(&paths.bin())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::contract::HandOver;

    fn closed(step: HandOverStep, own: &str, boot: &str) -> Option<(HandOverStep, String)> {
        let open = HandOver { to: "new".into(), step, message: String::new(), etcd: None, boot_id: "b1".into() };
        let mut state = State { hand_over: Some(open), ..State::default() };
        close(&mut state, boot, || Ok(own.to_owned()));
        state.hand_over.map(|h| (h.step, h.message))
    }

    #[test]
    fn an_open_hand_over_ends_at_the_next_start() {
        for step in [HandOverStep::Begun, HandOverStep::Proving] {
            let (end, why) = closed(step, "old", "b1").unwrap();
            assert!(end == HandOverStep::Refused && why.contains("before it had proven itself"));
            assert_eq!(closed(step, "new", "b1").unwrap().0, HandOverStep::Done, "cut off after the rename");
            assert_eq!(closed(step, "old", "b2"), None, "a power cut is no fault of its own");
        }
        for step in [HandOverStep::Done, HandOverStep::Refused] {
            assert_eq!(closed(step, "old", "b2").unwrap().0, step);
        }
    }
}
