//! The witness against a real API server and a real etcd on loopback: a quiet run is clean, and what is done to etcd
//! behind its back is seen. (Needs the programs of `tests/bed/go/build.sh`, which builds them if they are missing.)

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcd_operator_witness::{Invariant, Options, Running, Verdict, Witness, sleep};

/// An etcd and an API server that end with the test.
struct Loopback {
    folder: tempfile::TempDir,
    port: u16,
}

impl Loopback {
    /// Each test has ports of its own, as tests run side by side.
    fn up(port: u16) -> Self {
        let loopback = Loopback { folder: tempfile::tempdir().unwrap(), port };
        loopback.script("up");
        loopback
    }

    fn script(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("loopback.sh");
        let status =
            Command::new(script).arg(verb).arg(self.folder.path()).env("LOOPBACK_PORT", self.port.to_string()).status().unwrap();
        assert!(status.success(), "loopback.sh {verb}: {status}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn witness(&self) -> Running {
        Witness::start(Options::new(self.path("bed.json"), self.path("out"))).await.unwrap()
    }

    /// Sends a signal to one of the two processes.
    fn signal(&self, process: &str, signal: &str) {
        let pid = std::fs::read_to_string(self.path(&format!("{process}.pid"))).unwrap();
        let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.trim()).status().unwrap();
        assert!(status.success(), "kill -{signal} {process}");
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.script("down");
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

fn journal_lines(loopback: &Loopback) -> usize {
    std::fs::read_to_string(loopback.path("out/journal.log")).unwrap().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_run_is_clean_and_leaves_no_type_out() {
    let loopback = Loopback::up(23_800);
    let running = loopback.witness().await;
    seconds(8).await;
    let verdict: Verdict = running.stop().await.unwrap();
    assert!(verdict.clean, "{verdict}");
    assert!(verdict.writes.types >= 30 && verdict.watches.open == verdict.writes.types, "{verdict}");
    assert!(verdict.writes.due >= 390, "{verdict}");
    assert_eq!(verdict.writes.acked, journal_lines(&loopback), "every acknowledged write is in the journal");
    assert_eq!(verdict.etcd.cluster_ids.len(), 1);
    assert_eq!(std::fs::read_to_string(loopback.path("out/setup.log")).unwrap(), "", "no type was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_stands_still_for_three_seconds_is_seen() {
    let loopback = Loopback::up(23_810);
    let running = loopback.witness().await;
    seconds(3).await;
    loopback.signal("etcd", "STOP");
    seconds(3).await;
    loopback.signal("etcd", "CONT");
    seconds(3).await;
    let verdict = running.stop().await.unwrap();
    assert!(verdict.writes.longest_gap_ms > 2_500.0, "{verdict}");
    assert!(verdict.writes.max_ms > 2_500.0, "latency counts from the due time: {verdict}");
    assert!(verdict.broke(Invariant::Tolerance), "{verdict}");
    assert!(!verdict.broke(Invariant::I1) && !verdict.broke(Invariant::LostEvent), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_comes_back_without_its_last_seconds_is_seen() {
    let loopback = Loopback::up(23_820);
    let running = loopback.witness().await;
    seconds(4).await;
    // What a disk that loses acknowledged writes looks like: everything stops, the data of some seconds ago is back.
    let data = loopback.path("data");
    let old = loopback.path("old");
    loopback.signal("etcd", "STOP");
    let copied = Command::new("cp").arg("-a").arg(&data).arg(&old).status().unwrap();
    loopback.signal("etcd", "CONT");
    assert!(copied.success());
    seconds(4).await;
    loopback.signal("etcd", "KILL");
    loopback.signal("kube-apiserver", "KILL");
    std::fs::rename(&data, loopback.path("new")).unwrap();
    std::fs::rename(&old, &data).unwrap();
    loopback.script("again");
    seconds(4).await;
    let verdict = running.stop().await.unwrap();
    assert!(verdict.broke(Invariant::FailedWrite), "{verdict}");
    assert!(verdict.broke(Invariant::I3), "{verdict}");
    assert!(verdict.broke(Invariant::I1) || verdict.broke(Invariant::LostEvent), "{verdict}");
}
