//! What a scenario and the processes of all nodes share: one folder, which the bed mounts everywhere.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The controller that leads: the others make no calls.
    Controller,
    /// Any node's agent that makes the call.
    Agent,
}

/// On which side of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// It is not made.
    Before,
    /// It was carried out, and the process does not learn of it.
    After,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// The process dies.
    Die,
    /// The process makes no further call until [`Shared::let_go`].
    Hold,
}

/// What a process meets at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its end.
    Die,
    /// It stands still by the fault with this index.
    Hold(usize),
}

/// One fault: at the first call whose name begins with `call`, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which process.
    pub role: Role,
    /// Begin of the call's name: `PUT etcdclusters/kube-etcd/status`, `MemberAdd`, `signal TERM`.
    pub call: String,
    /// On which side of it.
    pub when: When,
    /// What happens there.
    pub then: Then,
}

/// A fault that came to pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// The fault.
    pub entry: Entry,
    /// The whole name of the call.
    pub call: String,
    /// Which call of the process's life it was, from 1.
    pub number: u64,
    /// The host name of the node.
    pub node: String,
}

/// The shared folder.
#[derive(Clone, Debug)]
pub struct Shared(PathBuf);

impl Shared {
    /// The folder at this path.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Replaces the faults to come.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn plan(&self, entries: &[Entry]) -> io::Result<()> {
        let _lock = self.lock()?;
        self.write_plan(entries)
    }

    /// The faults that have not come to pass.
    ///
    /// # Errors
    /// When the plan cannot be read.
    pub fn left(&self) -> io::Result<Vec<Entry>> {
        match fs::read(self.file("plan.json")) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The faults that came to pass, in order.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn met(&self) -> io::Result<Vec<Met>> {
        match fs::read_to_string(self.file("met.jsonl")) {
            Ok(text) => text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether a process stands still by the fault that came to pass as this one, from 0.
    #[must_use]
    pub fn holds(&self, index: usize) -> bool {
        self.hold(index).exists()
    }

    /// Lets that process go on.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub fn let_go(&self, index: usize) -> io::Result<()> {
        fs::remove_file(self.hold(index))
    }

    fn hold(&self, index: usize) -> PathBuf {
        self.file(&format!("hold-{index}"))
    }

    /// Begins anew.
    ///
    /// # Errors
    /// When the folder cannot be made or a file cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir_all(&self.0)?;
        // The controller is not root.
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o777))?;
        for entry in fs::read_dir(&self.0)? {
            fs::remove_file(entry?.path())?;
        }
        self.lock().map(drop)
    }

    /// Takes the fault for this call out of the plan, if there is one, and writes down that it came to pass: of several processes one gets
    /// it.
    pub(crate) fn take(&self, role: Role, when: When, call: &str, number: u64) -> io::Result<Option<Fault>> {
        let is_due = |e: &Entry| e.role == role && e.when == when && call.starts_with(&e.call);
        // Without the lock, as almost no call is one.
        if !self.left()?.iter().any(is_due) {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let mut entries = self.left()?;
        let Some(index) = entries.iter().position(is_due) else { return Ok(None) };
        let entry = entries.remove(index);
        let number_met = self.met()?.len();
        let fault = match entry.then {
            Then::Die => Fault::Die,
            Then::Hold => Fault::Hold(number_met),
        };
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let line = serde_json::to_string(&Met { entry, call: call.to_owned(), number, node })?;
        let mut record = File::options().create(true).append(true).open(self.file("met.jsonl"))?;
        open_to_all(&record)?;
        writeln!(record, "{line}")?;
        if let Fault::Hold(index) = fault {
            open_to_all(&File::create(self.hold(index))?)?;
        }
        self.write_plan(&entries)?;
        Ok(Some(fault))
    }

    fn write_plan(&self, entries: &[Entry]) -> io::Result<()> {
        // Each process has a name of its own for the file that is not whole yet.
        let temporary = self.file(&format!(".plan.{}", std::process::id()));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(entries)?)?;
        open_to_all(&file)?;
        fs::rename(temporary, self.file("plan.json"))
    }

    fn lock(&self) -> io::Result<File> {
        let path: &Path = &self.file("lock");
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        // Fails where another user made it, who opened it to all.
        let _ = open_to_all(&file);
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }
}

/// The host's tests, the agents and the controller are different users.
fn open_to_all(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    match file.set_permissions(fs::Permissions::from_mode(0o666)) {
        // Another user made it and did this already.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn entry(role: Role, call: &str, when: When, then: Then) -> Entry {
        Entry { role, call: call.into(), when, then }
    }

    #[test]
    fn a_fault_comes_to_pass_once_on_its_side_of_its_call() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::at(folder.path());
        shared.clear().unwrap();
        let add = entry(Role::Controller, "MemberAdd", When::Before, Then::Die);
        let promote = entry(Role::Controller, "MemberPromote", When::After, Then::Hold);
        let patch = entry(Role::Agent, "PATCH etcdmembers", When::After, Then::Die);
        shared.plan(&[add, promote, patch.clone()]).unwrap();

        let take = |role, when, call| shared.take(role, when, call, 7).unwrap();
        assert_eq!(take(Role::Agent, When::Before, "MemberAdd x"), None, "another role's");
        assert_eq!(take(Role::Controller, When::After, "MemberAdd x"), None, "the other side of the call");
        assert_eq!(take(Role::Controller, When::Before, "MemberAdd x"), Some(Fault::Die));
        assert_eq!(take(Role::Controller, When::Before, "MemberAdd x"), None, "once");
        assert!(!shared.holds(0));
        assert_eq!(take(Role::Controller, When::After, "MemberPromote 1"), Some(Fault::Hold(1)));
        assert!(shared.holds(1));
        shared.let_go(1).unwrap();
        assert_eq!(shared.left().unwrap(), [patch]);
        let met = shared.met().unwrap();
        assert_eq!(
            met.iter().map(|m| (m.call.as_str(), m.number)).collect::<Vec<_>>(),
            [("MemberAdd x", 7), ("MemberPromote 1", 7)]
        );
    }
}
