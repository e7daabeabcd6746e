//! etcd as a child: starting it, signalling it, and taking note when it (or an orphan that fell to PID 1) ends.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use crate::clock::now;
use crate::render::EtcdVersion;

/// How long `etcd --version` may take: the image may have to come from a slow disk.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// What happens to the keeper from outside.
pub struct Events {
    term: Signals,
    int: Signals,
    child: Signals,
}

/// What happened first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The keeper is told to end.
    Terminate,
    /// A child ended.
    Child,
    /// The time is over.
    Time,
}

impl Events {
    /// Starts listening; must come before any child.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// Waits for the first of them.
    pub async fn next(&mut self, until: Instant) -> Event {
        tokio::select! {
            biased;
            _ = self.term.recv() => Event::Terminate,
            _ = self.int.recv() => Event::Terminate,
            _ = self.child.recv() => Event::Child,
            () = tokio::time::sleep_until(until.into()) => Event::Time,
        }
    }
}

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    pid: Pid,
    /// When it was started.
    pub since: Instant,
}

impl Etcd {
    /// Starts it, its output going where the keeper's goes.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn spawn(binary: &Path, flags: &[String]) -> io::Result<Self> {
        let mut command = Command::new(binary);
        command.args(flags).stdin(Stdio::null());
        // etcd reads a flag's value from the environment as well: only what is rendered here counts.
        let settings: Vec<OsString> =
            std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("ETCD_")).collect();
        for name in settings {
            command.env_remove(name);
        }
        // Not waited for through `Child`: as PID 1 the keeper reaps whatever ends, and takes its status there.
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a PID out of range"))?;
        Ok(Self { pid, since: now() })
    }

    /// Its PID in the keeper's PID namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks it to end: it finishes its requests first.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // Not reaped yet, so the PID is still its own.
        if let Err(error) = kill_process(self.pid, signal) {
            tracing::error!(pid = self.pid(), ?signal, %error, "cannot signal etcd");
        }
    }

    /// Reaps all children that ended; how this one did, if it is among them.
    pub fn reap(&self) -> Option<Ended> {
        let mut ended = None;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => ended = Some(Ended(status)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return ended,
            }
        }
    }
}

/// Reaps orphans while no etcd runs.
pub fn reap_orphans() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// How etcd ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended(WaitStatus);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.exit_status(), self.0.terminating_signal()) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => write!(f, "an unknown status"),
        }
    }
}

/// Runs `etcd --version`: proof that the image is there and runs.
///
/// # Errors
/// In words, with what it printed.
pub async fn version(binary: &Path) -> Result<EtcdVersion, String> {
    let path = binary.to_owned();
    let run = tokio::task::spawn_blocking(move || Command::new(path).arg("--version").stdin(Stdio::null()).output());
    let output = match tokio::time::timeout(VERSION_LIMIT, run).await {
        Ok(Ok(Ok(output))) => output,
        Ok(Ok(Err(error))) => return Err(format!("{}: {error}", binary.display())),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("`{} --version` did not end in {} s", binary.display(), VERSION_LIMIT.as_secs())),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    EtcdVersion::parse(&text)
        .filter(|_| output.status.success())
        .ok_or_else(|| format!("`{} --version` printed no version ({})", binary.display(), output.status))
}
