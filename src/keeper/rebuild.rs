//! Making the data of a recovered cluster, beside the old: with the etcd and the etcdutl of the image.
//!
//! A survivor's data is copied; its log is settled up to the last entry ([`wal::settle`]), since etcd would throw away what lies above the commit index that was
//! saved; an etcd that nobody else can reach applies it, alone (`--force-new-cluster`). That keeps the cluster's ID, under which the old members would still
//! find a quorum, so that its database is restored like any snapshot: under new IDs, with a revision far above all that a client may have seen, and all before
//! it compacted, so that whoever watches lists anew.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_operator_etcd::wal::{self, DataDir, Owner};
use tokio::task::JoinHandle;

use crate::child::{Ended, Etcd, Event, reap_all, reap_orphans};
use crate::clock::now;
use crate::contract::{Order, Recovery, RecoveryStep, Source};
use crate::disk;
use crate::last_words::last_words;
use crate::order::address;
use crate::ready;
use crate::supervise::Keeper;

/// Added to the revision by the first recovery: more than any cluster writes between a backup and its loss (etcd takes some 10,000 writes per second: a day and
/// more).
const BUMP_REVISION: u64 = 1_000_000_000;
/// It doubles with each life, so that it is more than all the ones before together: they may begin from the same backup. At some time that is enough.
const MOST_DOUBLINGS: u64 = 30;
/// How long etcd may take to apply a survivor's log and to be ready. A database of 8 GiB on a slow disk takes minutes.
const APPLIED_WITHIN: Duration = Duration::from_secs(1800);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(100);
/// How much of a tool's last line a message gets, in characters.
const SHORT: usize = 300;

/// What is made in [`crate::contract::Paths::recovery`].
pub(crate) const MADE_ON_THE_WAY: [&str; 4] = [COPY, DATA, "etcd.log", "etcdutl.log"];
/// The copy of a survivor's data.
const COPY: &str = "copy";
/// The data of the new cluster.
pub(crate) const DATA: &str = "data";

/// Why there is no new data.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The keeper was told to end; it is begun anew at its next start.
    Terminated,
    /// It is not possible.
    Failed(String),
}

impl From<String> for Cut {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Keeper {
    /// Makes the data of the new cluster's only member in [`crate::contract::Paths::recovery`]. What was begun before is thrown away.
    pub(crate) async fn rebuild(&mut self, recovery: &Recovery, order: &Order, owner: Owner) -> Result<(), Cut> {
        let work = self.paths.recovery();
        let (copy, data) = (work.join(COPY), work.join(DATA));
        for left in [&copy, &data] {
            match fs::remove_dir_all(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(left)(error).into()),
                _ => {}
            }
        }
        fs::create_dir_all(&work).map_err(at(&work))?;
        let (snapshot, is_plain_db) = match &recovery.from {
            Source::Snapshot => (self.paths.snapshot_to_recover(&recovery.id), false),
            Source::Survivor { last_term, last_index, .. } => {
                self.say(recovery, "copying the data of this member");
                let from = self.paths.member(&order.member_name);
                let (of, to) = (from.clone(), copy.clone());
                // Held while it is read: no etcd works on it.
                self.beside(tokio::task::spawn_blocking(move || {
                    let _locks = disk::lock(&of).map_err(|error| error.to_string())?;
                    copy_dir(&of.join("member"), &to.join("member"))
                }))
                .await??;
                let settled = wal::settle(&copy.join("member/wal")).map_err(|error| error.to_string())?;
                if (settled.last_term, settled.last_index) != (*last_term, *last_index) {
                    return Err(Cut::Failed(format!(
                        "the log ends at term {} and index {}, and was looked at when it ended at term {last_term} and index {last_index}: look again",
                        settled.last_term, settled.last_index
                    )));
                }
                self.say(recovery, "etcd applies its log");
                self.apply(order, &copy).await?;
                (copy.join("member/snap/db"), true)
            }
            Source::Retire => return Err(Cut::Failed("nothing is made where a node is retired".into())),
        };
        if !snapshot.is_file() {
            return Err(Cut::Failed(format!("there is no {}", snapshot.display())));
        }
        self.say(recovery, "making the data of the new cluster");
        let peer_url = &order.etcd.peer_url;
        let mut args = vec![
            "snapshot".to_owned(),
            "restore".to_owned(),
            snapshot.display().to_string(),
            format!("--name={}", order.member_name),
            format!("--initial-cluster={}={peer_url}", order.member_name),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster-token={}", recovery.id),
            format!("--data-dir={}", data.display()),
            format!("--bump-revision={}", bump(recovery.lineage)),
            "--mark-compacted".to_owned(),
        ];
        if is_plain_db {
            // It has no digest behind it.
            args.push("--skip-hash-check".to_owned());
        }
        let (tool, log) = (self.args.etcd.with_file_name("etcdutl"), work.join("etcdutl.log"));
        let child = spawn(&tool, &args, &log)?;
        let ended = self.until_end(&child).await?;
        if !ended.is_success() {
            return Err(Cut::Failed(format!("etcdutl snapshot restore: {ended}{}", said(&log))));
        }
        match wal::classify(&data).map_err(at(&data))? {
            DataDir::Intact(made) if made == owner => {}
            other => {
                return Err(Cut::Failed(format!(
                    "etcdutl made something else than the data of member {}: {other:?}",
                    owner.member
                )));
            }
        }
        let dir = File::open(&work).map_err(at(&work))?;
        self.beside(tokio::task::spawn_blocking(move || rustix::fs::syncfs(&dir).map_err(io::Error::from)))
            .await?
            .map_err(at(&work))?;
        Ok(())
    }

    fn say(&mut self, recovery: &Recovery, what: &str) {
        tracing::info!(id = recovery.id, what, "recovering");
        self.note_recovery(recovery, RecoveryStep::Building, what);
        self.save("how far a recovery is");
    }

    /// Runs an etcd on the copy that takes no part in anything: at loopback, at a port that no client knows.
    async fn apply(&mut self, order: &Order, copy: &Path) -> Result<(), Cut> {
        let log = self.paths.recovery().join("etcd.log");
        let child = spawn(&self.args.etcd.clone(), &alone(order, &self.paths.pki(), copy)?, &log)?;
        let until = now() + APPLIED_WITHIN;
        loop {
            match self.events.next(now() + POLL).await {
                Event::Terminate => return Err(self.kill(&child).await),
                Event::Child => {
                    if let Some(ended) = child.reap() {
                        return Err(Cut::Failed(format!("etcd does not run on a copy of the data: {ended}{}", said(&log))));
                    }
                }
                Event::Time => {}
            }
            if ready::is_ready(order.etcd.metrics_port).await {
                break;
            }
            if now() >= until {
                let _ = self.kill(&child).await;
                return Err(Cut::Failed(format!(
                    "etcd on a copy of the data was not ready in {} s{}",
                    APPLIED_WITHIN.as_secs(),
                    said(&log)
                )));
            }
        }
        // It writes what it has applied before it ends.
        child.terminate();
        let ended = self.until_end(&child).await?;
        if ended.is_as_told() {
            Ok(())
        } else {
            Err(Cut::Failed(format!("etcd on a copy of the data ended with {ended}{}", said(&log))))
        }
    }

    /// Waits for a child to end.
    async fn until_end(&mut self, child: &Etcd) -> Result<Ended, Cut> {
        loop {
            if let Some(ended) = child.reap() {
                return Ok(ended);
            }
            if self.events.next(now() + POLL).await == Event::Terminate {
                return Err(self.kill(child).await);
            }
        }
    }

    async fn kill(&mut self, child: &Etcd) -> Cut {
        child.kill();
        while child.reap().is_none() {
            let _ = self.events.next(now() + POLL).await;
        }
        Cut::Terminated
    }

    /// Waits for work on another thread, which is left alone when the keeper is told to end.
    async fn beside<T>(&mut self, mut work: JoinHandle<T>) -> Result<T, Cut> {
        loop {
            tokio::select! {
                done = &mut work => return done.map_err(|error| Cut::Failed(error.to_string())),
                event = self.events.next(now() + POLL) => match event {
                    Event::Terminate => return Err(Cut::Terminated),
                    Event::Child => reap_orphans(),
                    Event::Time => {}
                },
            }
        }
    }
}

/// How far the revisions of a life are above those that it begins from.
fn bump(lineage: u64) -> u64 {
    BUMP_REVISION << lineage.saturating_sub(2).min(MOST_DOUBLINGS)
}

/// Its flags: of the order's, those that the copy needs to be read.
fn alone(order: &Order, pki: &Path, copy: &Path) -> Result<Vec<String>, Cut> {
    let port = |url: &str| {
        address(url).map(|address| address.port()).ok_or_else(|| Cut::Failed(format!("{url} is not https://IP:PORT")))
    };
    // Nobody of the cluster asks there.
    let peer = format!("https://127.0.0.1:{}", port(&order.etcd.peer_url)?);
    let client = format!("https://127.0.0.1:{}", order.etcd.client_http_port);
    let pki = |flag: &str, file: &str| format!("--{flag}={}", pki.join(file).display());
    let mut flags = vec![
        format!("--name={}", order.member_name),
        format!("--data-dir={}", copy.display()),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-metrics-urls=http://127.0.0.1:{}", order.etcd.metrics_port),
        format!("--initial-cluster={}={peer}", order.member_name),
        "--initial-cluster-state=existing".to_owned(),
        "--force-new-cluster=true".to_owned(),
        "--client-cert-auth=true".to_owned(),
        pki("trusted-ca-file", "ca.crt"),
        pki("cert-file", "server.crt"),
        pki("key-file", "server.key"),
        "--peer-client-cert-auth=true".to_owned(),
        pki("peer-trusted-ca-file", "ca.crt"),
        pki("peer-cert-file", "peer.crt"),
        pki("peer-key-file", "peer.key"),
        "--logger=zap".to_owned(),
        "--log-outputs=stderr".to_owned(),
    ];
    if order.etcd.quota_backend_bytes != 0 {
        flags.push(format!("--quota-backend-bytes={}", order.etcd.quota_backend_bytes));
    }
    Ok(flags)
}

fn spawn(binary: &Path, args: &[String], log: &Path) -> Result<Etcd, Cut> {
    // Whatever ended before is not this one.
    drop(reap_all());
    let output = File::create(log).map_err(at(log))?;
    Etcd::spawn(binary, args, Some(output)).map_err(|error| Cut::Failed(format!("{}: {error}", binary.display())))
}

/// What a tool said last.
fn said(log: &Path) -> String {
    let text = fs::read(log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    let last = || text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.chars().take(SHORT).collect());
    last_words(&text).or_else(last).map(|words: String| format!(": {words}")).unwrap_or_default()
}

fn at(path: &Path) -> impl Fn(io::Error) -> String {
    let path: PathBuf = path.to_owned();
    move |error| format!("{}: {error}", path.display())
}

/// Copies a directory; the file system may share the blocks.
fn copy_dir(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(at(&path))?.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(at(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_begins_above_all_that_any_before_it_may_have_reached_from_the_same_backup() {
        for lineage in 2..32 {
            // Each from the one before, and this one from where the first began.
            let before: u64 = (2..lineage).map(bump).sum();
            assert!(bump(lineage) >= before + BUMP_REVISION, "{lineage}");
        }
        assert!(i64::try_from(2 * bump(u64::MAX)).is_ok());
    }
}
