//! Boot etcd on its node: which static pod it is, which process, which directory. Found by the port that it serves clients on, as an
//! installer may name everything else as it likes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::manifest::CLUSTER;
use crate::problem::Problem;

/// etcd's default (`server/etcdserver/api/membership`).
const DEFAULT_MAX_LEARNERS: u16 = 1;

/// A static pod that runs boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootPod {
    /// The manifest.
    pub(crate) manifest: PathBuf,
    /// Where its data is on the node.
    pub(crate) data: DataPlace,
    /// Its `--max-learners`.
    pub(crate) max_learners: u16,
}

/// Where a pod's `--data-dir` ends up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DataPlace {
    /// On the node, at this path.
    Node(PathBuf),
    /// In the container or a volume that goes with the pod.
    Pod,
}

/// The static pod in `dir` whose etcd serves clients at `endpoint`; our own members are left out.
pub(crate) fn pod(dir: &Path, endpoint: SocketAddr) -> Result<Option<BootPod>, Problem> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Problem::file("read", dir, &error)),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // So that two candidates give the same answer each time.
    paths.sort();
    for path in paths {
        // As the kubelet does: a name that begins with a dot is no pod.
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        // JSON is YAML too.
        let Ok(pod) = serde_yaml_ng::from_str::<Pod>(&text) else { continue };
        if pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(CLUSTER)) {
            continue;
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let boot = containers.into_iter().find(|container| {
            let words = words(container);
            let listens = flag(&words, "listen-client-urls").or_else(|| variable(container, "ETCD_LISTEN_CLIENT_URLS"));
            listens.is_some_and(|urls| serves(&urls, endpoint))
        });
        if let Some(container) = boot {
            let data = data_place(&pod, container);
            let words = words(container);
            let max_learners = max_learners(&words, || variable(container, "ETCD_MAX_LEARNERS"));
            return Ok(Some(BootPod { manifest: path, data, max_learners }));
        }
    }
    Ok(None)
}

fn max_learners(words: &[String], variable: impl FnOnce() -> Option<String>) -> u16 {
    let set = ["max-learners", "experimental-max-learners"].into_iter().find_map(|name| flag(words, name));
    set.or_else(variable).and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_MAX_LEARNERS)
}

/// The `--max-learners` of a process that is no pod.
pub(crate) fn max_learners_of(proc: &Path, pid: i32) -> u16 {
    max_learners(&command_line(proc, pid), || None)
}

/// Command and arguments as words; a shell's `-c` text is taken apart too.
fn words(container: &Container) -> Vec<String> {
    let all = container.command.iter().flatten().chain(container.args.iter().flatten());
    all.flat_map(|text| text.split_ascii_whitespace()).map(|word| word.trim_matches(['"', '\'']).to_owned()).collect()
}

fn variable(container: &Container, name: &str) -> Option<String> {
    container.env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
}

/// Value of `--name=value` or `--name value`.
fn flag(words: &[String], name: &str) -> Option<String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(bare) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        match bare.split_once('=') {
            Some((found, value)) if found == name => return Some(value.to_owned()),
            None if bare == name => return words.next().cloned(),
            _ => {}
        }
    }
    None
}

/// Whether one of the URLs is the endpoint: same port, and its address, all addresses, or something only the pod can
/// resolve. (A listener on loopback alone is somebody else's.)
fn serves(urls: &str, endpoint: SocketAddr) -> bool {
    urls.split(',').any(|url| {
        let rest = url.trim().split_once("://").map_or(url.trim(), |(_, rest)| rest);
        let Some((host, port)) = rest.trim_end_matches('/').rsplit_once(':') else { return false };
        let same_port = port.parse() == Ok(endpoint.port());
        let host: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
        same_port && host.map_or(true, |host| host == endpoint.ip() || host.is_unspecified())
    })
}

/// `--data-dir` through the container's mounts to the node.
fn data_place(pod: &Pod, container: &Container) -> DataPlace {
    let words = words(container);
    let Some(inside) = flag(&words, "data-dir").or_else(|| variable(container, "ETCD_DATA_DIR")) else { return DataPlace::Pod };
    let inside = PathBuf::from(inside);
    // The longest mount path that contains it is the one that counts.
    let mounts = container.volume_mounts.iter().flatten();
    let mount = mounts.filter(|mount| inside.starts_with(&mount.mount_path)).max_by_key(|mount| mount.mount_path.len());
    let Some(mount) = mount else { return DataPlace::Pod };
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let host = volumes.into_iter().find(|volume| volume.name == mount.name).and_then(|volume| volume.host_path.as_ref());
    let (Some(host), Ok(below)) = (host, inside.strip_prefix(&mount.mount_path)) else { return DataPlace::Pod };
    let sub = mount.sub_path.as_deref().unwrap_or_default();
    // Components only: joining an empty path would add a trailing slash.
    DataPlace::Node(Path::new(&host.path).join(sub).join(below).components().collect())
}

/// PIDs of the etcd processes that serve clients at `endpoint`, those under a keeper of ours left out.
pub(crate) fn processes(proc: &Path, endpoint: SocketAddr) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let mut pids: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.retain(|pid| is_boot(proc, *pid, endpoint));
    pids.sort_unstable();
    pids
}

fn is_boot(proc: &Path, pid: i32, endpoint: SocketAddr) -> bool {
    let words = command_line(proc, pid);
    let program = words.first().map(Path::new).and_then(Path::file_name);
    let listens = flag(&words, "listen-client-urls").is_some_and(|urls| serves(&urls, endpoint));
    program.is_some_and(|name| name == "etcd") && listens && !parent_is_keeper(proc, pid)
}

/// `--etcd-servers` of the API servers that run on the node.
pub(crate) fn api_servers(proc: &Path) -> Vec<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let servers = pids.filter_map(|pid| {
        let words = command_line(proc, pid);
        let program = Path::new(words.first()?).file_name()?;
        let list = flag(&words, "etcd-servers")?;
        (program == "kube-apiserver").then(|| list.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect())
    });
    servers.collect()
}

fn command_line(proc: &Path, pid: i32) -> Vec<String> {
    let bytes = std::fs::read(proc.join(pid.to_string()).join("cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

fn parent_is_keeper(proc: &Path, pid: i32) -> bool {
    let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).unwrap_or_default();
    // pid (name, which may hold anything) state ppid ...
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    let Some(parent) = parent else { return false };
    let words = command_line(proc, parent);
    let named = words.first().map(Path::new).and_then(Path::file_name).is_some_and(|name| name == "keeper");
    named && words.get(1).is_some_and(|word| word == "keeper")
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// Delivered.
    Yes,
    /// The process is gone, or is another one by now.
    Gone,
}

/// Signals boot's process by a pidfd, so that a PID that was reused in between is never hit.
pub(crate) fn signal(proc: &Path, pid: i32, endpoint: SocketAddr, signal: Signal) -> std::io::Result<Signalled> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(Signalled::Gone) };
    let handle = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(Signalled::Gone),
        Err(error) => return Err(error.into()),
    };
    // The handle pins whoever has the PID now: look once more who that is.
    if !is_boot(proc, pid, endpoint) {
        return Ok(Signalled::Gone);
    }
    match pidfd_send_signal(&handle, signal) {
        Ok(()) => Ok(Signalled::Yes),
        Err(rustix::io::Errno::SRCH) => Ok(Signalled::Gone),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
