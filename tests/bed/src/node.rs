//! A node from outside: start, power cut, wipe, commands inside.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cmd::wait_for;
use crate::error::{At, Error, Result};
use crate::layout::{Layout, Node, Options, RUN, write};
use crate::{cgroup, config, images, manifests, network, pki};

/// Makes a node's disk: keys, configuration, images; on the boot node also the temporary control plane.
///
/// # Errors
/// The step that failed.
pub fn create_disk(layout: &Layout, options: &Options, node: &Node, store: &Path) -> Result<()> {
    let disk = layout.disk(node, "");
    if disk.exists() {
        fs::remove_dir_all(&disk).at(&disk)?;
    }
    for dir in ["var/lib/kubelet", "var/lib/cni", "var/log", "etc/kubernetes"] {
        let dir = layout.disk(node, dir);
        fs::create_dir_all(&dir).at(&dir)?;
    }
    images::link_store(store, &layout.disk(node, "var/lib/containerd"))?;
    pki::create_for_node(layout, options, node)?;
    config::create_for_node(layout, options, node)?;
    if node.name == options.boot_node {
        for (file, manifest) in manifests::boot(options, node) {
            let path = layout.disk(node, "etc/kubernetes/manifests").join(file);
            write(&path, config::pretty(&manifest), 0o600)?;
        }
    }
    Ok(())
}

/// Switches a node on. Returns when its init runs; the kubelet follows in a second or two.
///
/// # Errors
/// The step that failed.
pub fn start(layout: &Layout, options: &Options, node: &Node) -> Result<()> {
    if init_pid(node).is_some() {
        return Ok(());
    }
    let disk = layout.disk(node, "etc/kubernetes");
    if !disk.exists() {
        return Err(Error::State(format!("node {} has no disk at {}: bed up", node.name, disk.display())));
    }
    cgroup::destroy(Some(&node.name))?;
    cgroup::create(&node.name)?;
    network::create_node(options, node)?;
    let root = Path::new(RUN).join("root").join(&node.name);
    fs::create_dir_all(&root).at(&root)?;
    let log = layout.disk(node, "var/log/init.log");
    let out = fs::File::options().create(true).append(true).open(&log).at(&log)?;
    let mut command = Command::new("setsid");
    command.arg(layout.bin("bed")).arg("--dir").arg(&layout.dir).args(["node-launch", &node.name]);
    command.current_dir("/").stdin(Stdio::null()).stdout(out.try_clone().at(&log)?).stderr(out);
    let mut child = command.spawn().map_err(|e| Error::State(format!("node {}: {e}", node.name)))?;
    let hint = log.to_string_lossy().into_owned();
    wait_for(&format!("the init of {}", node.name), Duration::from_secs(15), &hint, || {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it ended: {status}"));
        }
        init_pid(node).ok_or_else(|| "not there yet".to_owned())
    })?;
    // v2 refuses controllers for the children of a cgroup with processes of its own, and unshare's is one.
    if cgroup::hierarchies()?.iter().all(|h| h.options.is_none()) {
        cgroup::create("launch")?;
        cgroup::join("launch", child.id())?;
    }
    Ok(())
}

/// The process that becomes a node: joins the node's cgroups, then its namespaces.
///
/// # Errors
/// Only if it fails; else it is replaced.
pub fn launch(layout: &Layout, node: &Node) -> Result<()> {
    cgroup::join(&node.name, std::process::id())?;
    let error = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", node.netns()))
        .args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child=SIGKILL", "--"])
        .arg(layout.bin("bed"))
        .arg("--dir")
        .arg(&layout.dir)
        .args(["node-init", &node.name])
        .exec();
    Err(Error::State(format!("nsenter: {error}")))
}

/// The init of a running node, as the host numbers it.
#[must_use]
pub fn init_pid(node: &Node) -> Option<i32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).find(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<_> = arguments.split(|b| *b == 0).filter(|a| !a.is_empty()).collect();
        let [.., verb, name] = arguments.as_slice() else {
            return false;
        };
        *verb == b"node-init" && *name == node.name.as_bytes() && is_first_of_namespace(*pid)
    })
}

/// Whether a process is number 1 of a PID namespace just below the host's.
fn is_first_of_namespace(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
    let pids: Vec<_> = line.split_whitespace().collect();
    pids.len() >= 2 && pids.last() == Some(&"1")
}

/// Cuts the power: the cable goes first, so that nobody gets a FIN from the dying; then everything dies in one instant.
///
/// # Errors
/// If something of the node outlives it.
pub fn power_cut(node: &Node) -> Result<()> {
    cut(node);
    clear_up(node)
}

/// Cuts several nodes' power within a few milliseconds, before anything is cleared up.
///
/// # Errors
/// If something outlives it.
pub fn power_cut_all(nodes: &[Node]) -> Result<()> {
    nodes.iter().for_each(cut);
    nodes.iter().try_for_each(clear_up)
}

fn cut(node: &Node) {
    let init = init_pid(node).and_then(rustix::process::Pid::from_raw);
    network::unplug(node);
    if let Some(pid) = init {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn clear_up(node: &Node) -> Result<()> {
    cgroup::destroy(Some(&node.name))?;
    network::remove_node(node);
    let root = Path::new(RUN).join("root").join(&node.name);
    let _ = fs::remove_dir(&root);
    Ok(())
}

/// A command inside a node.
///
/// # Errors
/// If the node is off.
pub fn inside(node: &Node) -> Result<Command> {
    let pid = init_pid(node).ok_or_else(|| Error::State(format!("node {} is off: bed start {}", node.name, node.name)))?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={pid}"));
    // --root and --wd without a value: the init's, not the host's.
    command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"]);
    Ok(command)
}

/// Runs a command inside a node and returns its stdout.
///
/// # Errors
/// If the node is off or the command fails.
pub fn exec(node: &Node, args: &[&str]) -> Result<String> {
    let mut command = inside(node)?;
    let line = format!("{}: {}", node.name, args.join(" "));
    let output = command.args(args).stdin(Stdio::null()).output();
    let failed = |status: String, output: String| Error::Command { command: line.clone(), status, output };
    let output = output.map_err(|e| failed(e.to_string(), String::new()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(output.status.to_string(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
