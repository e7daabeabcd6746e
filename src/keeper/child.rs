//! etcd as a child: starting it, signalling it, and taking note when it (or an orphan that fell to PID 1) ends.

use std::ffi::OsString;
use std::fs::File;
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
    /// Only held.
    pipe: Option<Signals>,
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
            pipe: None,
        })
    }

    /// An execve that failed has left the default action for SIGPIPE (`CommandExt::exec`): a log that nobody reads would kill the keeper.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn after_failed_exec(&mut self) -> io::Result<()> {
        self.pipe = Some(signal(SignalKind::pipe())?);
        Ok(())
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
    /// Starts it, its output going into a file, or where the keeper's goes.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn spawn(binary: &Path, flags: &[String], output: Option<File>) -> io::Result<Self> {
        let mut command = Command::new(binary);
        command.args(flags).stdin(Stdio::null());
        if let Some(output) = output {
            command.stdout(output.try_clone()?).stderr(output);
        }
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

    /// Takes over an etcd that another binary started in this very process: execve leaves a process its children. It may have ended
    /// meanwhile; whoever adopts it reaps next.
    ///
    /// # Errors
    /// In words, when the process is no child of this one or no etcd.
    pub fn adopt(pid: u32, binary: &Path, ran: Duration) -> Result<Self, String> {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| format!("{pid} is no PID"))?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| format!("process {pid}: {error}"))?;
        let (name, parent) = name_and_parent(&stat).ok_or_else(|| format!("process {pid} cannot be made out: {stat}"))?;
        if parent != std::process::id() {
            return Err(format!("process {pid} is no child of this keeper"));
        }
        // The kernel keeps 15 bytes of a name. `exe` would say more, but a process that has ended has none.
        let wanted = binary.file_name().unwrap_or_default().to_string_lossy();
        if name != wanted.get(..15).unwrap_or(&wanted) {
            return Err(format!("process {pid} is `{name}`, not {wanted}"));
        }
        Ok(Self { pid: id, since: now().checked_sub(ran).unwrap_or_else(now) })
    }

    /// Reaps all children that ended; how this one did, if it is among them.
    pub fn reap(&self) -> Option<Ended> {
        self.among(&reap_all())
    }

    /// How this one ended, if it is among those reaped.
    #[must_use]
    pub fn among(&self, reaped: &[(u32, Ended)]) -> Option<Ended> {
        reaped.iter().find(|(pid, _)| *pid == self.pid()).map(|(_, ended)| *ended)
    }
}

/// Name and parent of a process, from its `/proc/<pid>/stat`: `pid (name) state ppid …`, where a name may hold anything.
fn name_and_parent(stat: &str) -> Option<(&str, u32)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    Some((name, after.split_ascii_whitespace().nth(1)?.parse().ok()?))
}

/// Reaps all children that ended.
pub fn reap_all() -> Vec<(u32, Ended)> {
    let mut reaped = Vec::new();
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        reaped.push((pid.as_raw_nonzero().get().unsigned_abs(), Ended(status)));
    }
    reaped
}

/// Reaps orphans while no etcd runs.
pub fn reap_orphans() {
    drop(reap_all());
}

/// How etcd ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended(WaitStatus);

impl Ended {
    /// Whether it ended by itself with exit code 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.0.exit_status() == Some(0)
    }

    /// Whether it ended as one that was told to, and has finished: etcd ends of the same signal then.
    #[must_use]
    pub fn is_as_told(self) -> bool {
        self.is_success() || self.0.terminating_signal() == Some(Signal::TERM.as_raw())
    }
}

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_an_etcd_that_is_a_child_of_this_very_process_is_adopted() {
        assert_eq!(name_and_parent("7 (a) b) S 42 7 7 0"), Some(("a) b", 42)));
        assert_eq!(name_and_parent("7 etcd"), None);
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let adopt = |pid, binary: &str| Etcd::adopt(pid, Path::new(binary), Duration::ZERO).map(|etcd| etcd.pid());
        // The name is that of its binary once it has been executed.
        while adopt(child.id(), "/bin/sleep").is_err() {
            std::thread::yield_now();
        }
        assert!(adopt(child.id(), "/bin/sleepy").unwrap_err().contains("is `sleep`, not sleepy"));
        assert!(adopt(std::process::id(), "/bin/sleep").unwrap_err().contains("no child of this keeper"));
        child.kill().unwrap();
        // Ended, not reaped: still its child.
        let is_zombie = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") Z ");
        while !is_zombie() {
            std::thread::yield_now();
        }
        assert_eq!(adopt(child.id(), "/bin/sleep"), Ok(child.id()));
        child.wait().unwrap();
        assert!(adopt(child.id(), "/bin/sleep").unwrap_err().contains("No such file"));
    }
}
