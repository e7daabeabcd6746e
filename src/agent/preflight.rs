//! Checks on the node before anything is changed. They write nothing that stays.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_operator_api::member::{BootSpec, Check, PreflightSpec, PreflightStatus};
use etcd_operator_client::clock;
use futures::future::join_all;

use crate::boot::{self, Place};
use crate::files;
use crate::host::Agent;
use crate::node::AgentArgs;
use crate::problem::Problem;
use crate::sockets::{self, Socket};
use crate::validate::allow_image;

/// etcd's own advice for the 99th percentile of a WAL fsync (docs, "hardware"): slower is said.
const FSYNC_ADVICE: Duration = Duration::from_millis(10);
/// Slower than this, elections would come and go: one fsync takes longer than two heartbeats.
const FSYNC_LIMIT: Duration = Duration::from_millis(250);
/// Writes to measure it with, of the size of a small WAL record.
const FSYNC_WRITES: usize = 20;
/// Room for a snapshot being received beside the database and the WAL, for a small cluster.
const FREE_BYTES: u64 = 1 << 30;

/// All checks; on boot's node also whether boot's data can be put away.
pub(crate) async fn run(agent: Arc<Agent>, spec: PreflightSpec, boot: Option<(Place, BootSpec)>) -> PreflightStatus {
    let reach = join_all(spec.reach.iter().map(|address| reach(&agent, address))).await;
    let args = agent.args.clone();
    let (ports, seats, image, need_bytes) = (spec.ports.clone(), spec.seats.clone(), spec.image.clone(), spec.need_bytes);
    let local = tokio::task::spawn_blocking(move || {
        let mut checks = self::ports(sockets::read(&args), &ports);
        checks.push(fsync(&args));
        checks.push(free(&args, need_bytes));
        checks.push(static_pods(&args));
        checks.push(api_servers(&args, &seats));
        checks.extend(image.map(|image| self::image(&args, &image)));
        checks.extend(boot.map(|(place, spec)| check("BootData", boot::check(&place, &spec))));
        checks
    });
    let mut checks = local
        .await
        .unwrap_or_else(|error| vec![check("Node", Err(format!("the checks ended early: {error}; see the agent's log")))]);
    checks.extend(reach);
    PreflightStatus { id: spec.id, checks }
}

fn check(name: &str, outcome: Result<String, String>) -> Check {
    let ok = outcome.is_ok();
    let message = outcome.unwrap_or_else(|message| message);
    Check { name: name.into(), ok, message }
}

fn ports(sockets: Result<Vec<Socket>, Problem>, ports: &[String]) -> Vec<Check> {
    let sockets = match sockets {
        Ok(sockets) => sockets,
        Err(problem) => return vec![check("Port", Err(problem.message))],
    };
    ports
        .iter()
        .map(|port| {
            let taken = port.parse::<SocketAddr>().ok().and_then(|address| sockets::listener(&sockets, &address));
            check(
                "Port",
                match taken {
                    None => Ok(format!("{port} is free")),
                    Some(socket) => {
                        Err(format!("{port} is taken: a process of UID {} listens on {}; stop it", socket.uid, socket.local))
                    }
                },
            )
        })
        .collect()
}

fn image(args: &AgentArgs, image: &str) -> Check {
    let allowed = allow_image("spec.repository", image, &args.allowed_image_prefixes);
    check("Image", allowed.map(|()| format!("{image} is allowed")).map_err(|problem| problem.message))
}

async fn reach(agent: &Agent, address: &str) -> Check {
    let outcome = match agent.host.reach(address).await {
        Ok(()) => Ok(format!("{address} accepts connections")),
        Err(why) => Err(format!("{address} {why}; check that it listens on that address, and firewalls and routes")),
    };
    check("Reach", outcome)
}

/// A node may carry two EtcdMembers (its own and boot's), which are checked side by side.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}.tmp", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn fsync(args: &AgentArgs) -> Check {
    let root = args.reach(&args.operator_root);
    let measure = || -> Result<Vec<Duration>, Problem> {
        files::make_dir(&root, 0o755)?;
        let path = root.join(unique(".preflight"));
        let wrap = |error: std::io::Error| Problem::file("write", &path, &error);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).map_err(wrap)?;
        let mut times = Vec::with_capacity(FSYNC_WRITES);
        let outcome = (0..FSYNC_WRITES).try_for_each(|_| {
            let started = clock::instant();
            file.write_all(&[0x5a; 2048])?;
            file.sync_data()?;
            times.push(started.elapsed());
            Ok(())
        });
        let removed = fs::remove_file(&path);
        outcome.and(removed).map_err(wrap)?;
        times.sort_unstable();
        Ok(times)
    };
    let outcome = measure().map_err(|problem| problem.message).and_then(|times| {
        // Of 20 samples the 99th percentile is the slowest.
        let slowest = times.last().copied().unwrap_or_default();
        let ms = slowest.as_millis();
        if slowest > FSYNC_LIMIT {
            Err(format!(
                "the slowest of {FSYNC_WRITES} fsyncs took {ms} ms, more than {} ms: etcd needs a faster disk",
                FSYNC_LIMIT.as_millis()
            ))
        } else if slowest > FSYNC_ADVICE {
            Ok(format!("the slowest of {FSYNC_WRITES} fsyncs took {ms} ms; etcd advises at most {} ms", FSYNC_ADVICE.as_millis()))
        } else {
            Ok(format!("the slowest of {FSYNC_WRITES} fsyncs took {ms} ms"))
        }
    });
    check("Disk", outcome)
}

fn free(args: &AgentArgs, wanted: Option<i64>) -> Check {
    let needed = FREE_BYTES.max(wanted.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0));
    let root = args.reach(&args.data_root);
    let outcome = files::free_bytes(&root).map_err(|problem| problem.message).and_then(|bytes| {
        let text = format!("{} MiB are free for {}", bytes >> 20, root.display());
        if bytes >= needed { Ok(text) } else { Err(format!("{text}, at least {} MiB are needed: make room", needed >> 20)) }
    });
    check("Space", outcome)
}

/// No failure: such an API server is found again before boot goes, and what else it lists is its installer's business.
fn api_servers(args: &AgentArgs, seats: &[String]) -> Check {
    let lists = boot::find::api_servers(&args.proc);
    let mut missing: Vec<&str> =
        seats.iter().filter(|seat| lists.iter().any(|list| !list.contains(seat))).map(String::as_str).collect();
    missing.sort_unstable();
    let message = match (lists.len(), missing.as_slice()) {
        (0, _) => "no API server runs here".to_owned(),
        (_, []) => "the API server lists all seats in --etcd-servers".to_owned(),
        (_, missing) => format!(
            "WARNING: the API server here does not list {} in --etcd-servers: if members are made there, the pivot holds before it removes boot (ApiServerOnBootMember)",
            missing.join(", ")
        ),
    };
    check("ApiServer", Ok(message))
}

/// By doing it: a dot-file is nothing to the kubelet.
fn static_pods(args: &AgentArgs) -> Check {
    let dir = args.static_pods();
    let path = dir.join(unique(".etcd-operator-preflight"));
    let outcome = if dir.is_dir() {
        fs::write(&path, b"")
            .and_then(|()| fs::remove_file(&path))
            .map(|()| format!("{} is writable", dir.display()))
            .map_err(|error| format!("{} is not writable: {error}; check the DaemonSet's mount, and SELinux", dir.display()))
    } else {
        Err(format!("{} is no directory: set the kubelet's staticPodPath, or the agent's --static-pod-path to it", dir.display()))
    };
    check("StaticPodPath", outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Linux;
    use crate::testing;

    #[tokio::test]
    async fn a_good_node_passes_and_nothing_stays_behind() {
        let root = tempfile::tempdir().unwrap();
        // The real one, to look at real listeners.
        let args = AgentArgs { proc: "/proc".into(), ..testing::args(root.path()) };
        fs::create_dir_all(&args.static_pod_path).unwrap();
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let reach = vec![here.local_addr().unwrap().to_string()];
        let status = run(
            Agent::new(args.clone(), Arc::new(Linux)),
            PreflightSpec {
                id: "p1".into(),
                image: None,
                need_bytes: None,
                seats: Vec::new(),
                ports: vec!["127.0.0.1:1".into()],
                reach,
            },
            None,
        )
        .await;
        assert_eq!(status.id, "p1");
        for name in ["Port", "Disk", "Space", "StaticPodPath", "ApiServer", "Reach"] {
            assert!(status.checks.iter().any(|check| check.name == name), "{name}");
        }
        // How fast this machine's disk is, is not what is tested.
        assert!(status.checks.iter().filter(|check| check.name != "Disk").all(|check| check.ok), "{status:?}");
        assert_eq!(fs::read_dir(&args.static_pod_path).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&args.operator_root).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn each_failure_names_cause_and_way_out() {
        let root = tempfile::tempdir().unwrap();
        // The real one, to look at real listeners.
        let args = AgentArgs { proc: "/proc".into(), ..testing::args(root.path()) };
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = vec![taken.local_addr().unwrap().to_string()];
        let status = run(
            Agent::new(args, Arc::new(Linux)),
            PreflightSpec {
                id: "p2".into(),
                image: None,
                need_bytes: None,
                seats: Vec::new(),
                ports,
                reach: vec!["127.0.0.1:1".into()],
            },
            None,
        )
        .await;
        let failed: Vec<_> =
            status.checks.iter().filter(|check| !check.ok && check.name != "Disk").map(|check| check.name.as_str()).collect();
        assert_eq!(failed, ["Port", "StaticPodPath", "Reach"]);
    }
}
