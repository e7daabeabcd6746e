//! The keeper as a program of its own, for its tests: `keeper DIR DATA ETCD PROBE_PORT [--self-check]`. `KEEPER_DISK_WAIT_MS` and
//! `KEEPER_MEMBERS_POLL_MS` shorten what a test cannot wait for.

use std::process::ExitCode;
use std::time::Duration;

use etcd_operator_keeper::clock::Timing;
use etcd_operator_keeper::{ARCHIVE_LIMIT, KeeperArgs, run, self_check};

fn main() -> ExitCode {
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_max_level(tracing::Level::DEBUG).init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().unwrap_or_default();
    let (dir, data, etcd, port, mode) = (next(), next(), next(), next(), next());
    let Ok(probe_port) = port.parse() else {
        eprintln!("usage: keeper DIR DATA ETCD PROBE_PORT [--self-check]");
        return ExitCode::from(2);
    };
    let mut timing = Timing::default();
    for (name, field) in [("KEEPER_DISK_WAIT_MS", &mut timing.disk_wait), ("KEEPER_MEMBERS_POLL_MS", &mut timing.members_poll)] {
        if let Some(ms) = std::env::var(name).ok().and_then(|ms| ms.parse().ok()) {
            *field = Duration::from_millis(ms);
        }
    }
    let args =
        KeeperArgs { dir: dir.into(), data: data.into(), etcd: etcd.into(), probe_port, archive_limit: ARCHIVE_LIMIT, timing };
    if mode == "--self-check" { self_check(args) } else { run(args) }
}
