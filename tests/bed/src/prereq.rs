//! What the bed needs from the machine; missing Debian packages are installed.

use std::path::Path;
use std::process::Command;

use crate::cmd::{progress, run, run_long, succeeds};
use crate::error::{Error, Result};
use crate::layout::{BRIDGE, Layout};

/// A program and the Debian package that has it.
const PROGRAMS: [(&str, &str); 15] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("haproxy", "haproxy"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("conntrack", "conntrack"),
    ("protoc", "protobuf-compiler"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
];
/// Where the pod network's plug-ins may be.
const CNI: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// Free space that nodes, images and a frozen copy need.
const SPACE: u64 = 6 << 30;
/// Free space for a cold build of Kubernetes.
const SPACE_FOR_GO: u64 = 8 << 30;
/// Modules that the bed uses, where the kernel has modules at all.
const MODULES: [&str; 9] =
    ["overlay", "br_netfilter", "veth", "nf_conntrack", "nft_compat", "xt_statistic", "xt_comment", "xt_conntrack", "sch_tbf"];

fn found(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    // A plain user's PATH lacks sbin, and so may a CI's.
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).is_file())
}

/// The folder of the CNI plug-ins.
#[must_use]
pub fn cni_dir() -> Option<&'static str> {
    CNI.into_iter().find(|dir| Path::new(dir).join("bridge").is_file() && Path::new(dir).join("host-local").is_file())
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !found(program)).map(|(_, p)| *p).collect();
    if cni_dir().is_none() {
        packages.push("containernetworking-plugins");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Only root can make namespaces and mounts the bed's way.
///
/// # Errors
/// Says so.
pub fn root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Missing("  root: the bed makes namespaces, mounts, cgroups and a bridge; run it with sudo".into()))
}

/// Checks everything before anything is changed, installs missing Debian packages, and lists all that is still missing.
///
/// # Errors
/// [`Error::Missing`] with one line per thing.
pub fn check(layout: &Layout) -> Result<()> {
    root()?;
    let packages = missing_packages();
    if !packages.is_empty() && found("apt-get") {
        progress(format!("installing Debian packages: {}", packages.join(" ")));
        install(&packages)?;
    }
    let mut problems: Vec<String> = missing_packages()
        .iter()
        .map(|p| format!("  Debian package `{p}` (or its programs in PATH): apt-get install {p}"))
        .collect();
    if !found("go") {
        problems
            .push("  `go` 1.26 or later in PATH (Kubernetes and etcd are built from their modules): https://go.dev/dl".into());
    }
    let go = layout.cache()?.join("go");
    let built = std::fs::read_dir(&go).into_iter().flatten().flatten();
    let built = built.filter(|e| e.path().join(".complete").exists()).count() >= 2;
    for (path, needed) in [(layout.dir.as_path(), SPACE), (Path::new("/"), if built { 0 } else { SPACE_FOR_GO })] {
        let free = rustix::fs::statvfs(path).map(|s| s.f_bavail * s.f_frsize).unwrap_or(u64::MAX);
        if free < needed {
            let (free, needed) = (free >> 20, needed >> 20);
            problems.push(format!("  disk space: {free} MiB free at {}, {needed} MiB needed", path.display()));
        }
    }
    for line in run(&["ip", "-o", "-4", "address"]).unwrap_or_default().lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, device, _, address, ..] = fields.as_slice() else {
            continue;
        };
        if *device != BRIDGE && ["10.83.0.", "10.244."].iter().any(|ours| address.starts_with(ours)) {
            problems.push(format!("  the networks 10.83.0.0/24 and 10.244.0.0/16 for itself: {device} has {address}"));
        }
    }
    for module in MODULES {
        // Built in, or unknown to this kernel: what is really needed shows below and in use.
        if Path::new("/proc/modules").exists() {
            succeeds(&["modprobe", "-q", module]);
        }
    }
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !file_systems.contains("overlay") {
        problems.push("  overlayfs in the kernel: modprobe overlay".into());
    }
    if let Err(e) = crate::cgroup::hierarchies() {
        problems.push(e.to_string());
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Missing(problems.join("\n"))) }
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        // RUNLEVEL=1 keeps the packages' own services from starting.
        command.args(["-q", "-y"]).args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command.stderr(std::process::Stdio::null());
        run_long(command, &format!("apt-get {}", args.join(" ")))
    };
    apt(&["update"])?;
    let mut args = vec!["install", "--no-install-recommends"];
    args.extend(packages);
    apt(&args).map(|_| ())
}

/// Sysctls that the bed or a kubelet changes for the whole machine: put back by `down`.
const SYSCTLS: [&str; 8] = [
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Keeps the machine's sysctls in the run folder and raises inotify's limits: 128 instances are too few for several
/// kubelets and containerds.
///
/// # Errors
/// If one cannot be written.
pub fn raise_sysctls() -> Result<()> {
    let saved: std::collections::BTreeMap<_, _> = SYSCTLS
        .iter()
        .filter_map(|name| Some((*name, std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?)))
        .collect();
    let file = Path::new(crate::layout::RUN).join("sysctls.json");
    if !file.exists() {
        let text = serde_json::to_string(&saved).map_err(|source| Error::Json { what: file.display().to_string(), source })?;
        crate::layout::write(&file, text, 0o644)?;
    }
    for (name, wanted) in [("fs/inotify/max_user_instances", 8_192_u64), ("fs/inotify/max_user_watches", 1 << 20)] {
        let now = saved.get(name).and_then(|v| v.trim().parse::<u64>().ok()).unwrap_or(0);
        if now < wanted {
            let path = Path::new("/proc/sys").join(name);
            crate::error::At::at(std::fs::write(&path, wanted.to_string()), &path)?;
        }
    }
    Ok(())
}

/// Puts the machine's sysctls back as they were before `up`.
pub fn restore_sysctls() {
    let file = Path::new(crate::layout::RUN).join("sysctls.json");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let saved: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    for (name, value) in saved {
        let path = Path::new("/proc/sys").join(&name);
        let changed = std::fs::read_to_string(&path).is_ok_and(|now| now != value);
        if changed && let Err(e) = std::fs::write(&path, value.trim()) {
            progress(format!("could not put {} back: {e}", path.display()));
        }
    }
}
