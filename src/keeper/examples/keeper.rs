//! The keeper as a program of its own, for its tests: `keeper DIR DATA ETCD PROBE_PORT [--self-check]`. `KEEPER_DISK_WAIT_MS` and
//! `KEEPER_MEMBERS_POLL_MS`, `KEEPER_MARK_MS`, `KEEPER_QUIET_MS`, `KEEPER_PROVE_MS` and `KEEPER_SELF_CHECK_MS` shorten what a test cannot wait for. `KEEPER_NEXT_PROBE_PORT` is
//! the probe's port of a keeper that takes over: one that is taken is a reason to go back; `KEEPER_NEXT_FIRST` a script that it runs first.

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
    let takes_over = std::env::current_exe().is_ok_and(|exe| exe.ends_with("keeper.next"));
    let of_next = |name: &str| std::env::var(name).ok().filter(|_| takes_over);
    let port = of_next("KEEPER_NEXT_PROBE_PORT").unwrap_or(port);
    if let Some(script) = of_next("KEEPER_NEXT_FIRST").filter(|_| mode.is_empty()) {
        let _ = std::process::Command::new("sh").arg(script).status();
    }
    let Ok(probe_port) = port.parse() else {
        eprintln!("usage: keeper DIR DATA ETCD PROBE_PORT [--self-check]");
        return ExitCode::from(2);
    };
    let mut timing = Timing::default();
    for (name, field) in [
        ("KEEPER_DISK_WAIT_MS", &mut timing.disk_wait),
        ("KEEPER_MEMBERS_POLL_MS", &mut timing.members_poll),
        ("KEEPER_MARK_MS", &mut timing.mark),
        ("KEEPER_PROVE_MS", &mut timing.prove),
        ("KEEPER_QUIET_MS", &mut timing.quiet),
        ("KEEPER_SELF_CHECK_MS", &mut timing.self_check),
    ] {
        if let Some(ms) = std::env::var(name).ok().and_then(|ms| ms.parse().ok()) {
            *field = Duration::from_millis(ms);
        }
    }
    let args =
        KeeperArgs { dir: dir.into(), data: data.into(), etcd: etcd.into(), probe_port, archive_limit: ARCHIVE_LIMIT, timing };
    if mode == "--self-check" { self_check(args) } else { run(args) }
}
