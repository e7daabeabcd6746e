//! The bed's cgroups: one tree per node on each hierarchy (v1), or one in the unified one (v2). Whatever the bed started
//! is in one of them, so they also say what a crashed bed left running.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{At, Error, Result};
use crate::layout::PREFIX;

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where the host has it.
    pub mount: PathBuf,
    /// Mount options that give the same hierarchy again (`cpu`, `none,name=systemd`); none for v2.
    pub options: Option<String>,
}

/// The hierarchies a node needs. On a hybrid host (v1 controllers and an empty unified tree) only the v1 ones.
///
/// # Errors
/// If /proc/mounts cannot be read or no cgroup is mounted.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let path = Path::new("/proc/mounts");
    let found = parse(&fs::read_to_string(path).at(path)?);
    if found.is_empty() {
        return Err(Error::Missing("  no cgroup hierarchy is mounted below /sys/fs/cgroup".into()));
    }
    Ok(found)
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut v1 = Vec::new();
    let mut v2 = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = fields.as_slice() else {
            continue;
        };
        if !mount.starts_with("/sys/fs/cgroup") {
            continue;
        }
        if *kind == "cgroup" {
            let general = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children"];
            let own: Vec<_> = options.split(',').filter(|o| !general.contains(o) && !o.starts_with("release_agent=")).collect();
            let own = own.join(",");
            let options = if own.starts_with("name=") { format!("none,{own}") } else { own };
            v1.push(Hierarchy { mount: mount.into(), options: Some(options) });
        } else if *kind == "cgroup2" {
            v2.push(Hierarchy { mount: mount.into(), options: None });
        }
    }
    if v1.is_empty() { v2 } else { v1 }
}

/// Makes the cgroup `<prefix>/<name>` in each hierarchy.
///
/// # Errors
/// The folder or file that refused.
pub fn create(name: &str) -> Result<()> {
    for h in hierarchies()? {
        let parent = h.mount.join(PREFIX);
        let own = parent.join(name);
        fs::create_dir_all(&own).at(&own)?;
        if h.options.is_none() {
            for dir in [&h.mount, &parent] {
                enable_controllers(dir)?;
            }
        }
        // v1's cpuset is empty at first, and nothing may join an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            for dir in [&parent, &own] {
                let path = dir.join(file);
                let above = dir.parent().map(|d| d.join(file)).unwrap_or_default();
                if h.options.is_some() && path.exists() {
                    fs::write(&path, fs::read(&above).at(&above)?).at(&path)?;
                }
            }
        }
    }
    Ok(())
}

/// Lets the children of a v2 cgroup use all controllers it has.
///
/// # Errors
/// If the kernel refuses, e.g. while a process is in the cgroup itself.
pub fn enable_controllers(dir: &Path) -> Result<()> {
    let available = dir.join("cgroup.controllers");
    let wanted: String = fs::read_to_string(&available).at(&available)?.split_whitespace().map(|c| format!("+{c} ")).collect();
    let control = dir.join("cgroup.subtree_control");
    fs::write(&control, wanted.trim()).at(&control)
}

/// Moves a process into `<prefix>/<name>` of each hierarchy.
///
/// # Errors
/// If the kernel refuses.
pub fn join(name: &str, pid: u32) -> Result<()> {
    for h in hierarchies()? {
        let procs = h.mount.join(PREFIX).join(name).join("cgroup.procs");
        fs::write(&procs, pid.to_string()).at(&procs)?;
    }
    Ok(())
}

/// Folders of a cgroup tree, children before parents.
fn tree(root: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            tree(&entry.path(), found);
        }
    }
    if root.is_dir() {
        found.push(root.to_owned());
    }
}

/// Processes in the cgroup `relative` and below.
fn processes(relative: &Path) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    for h in hierarchies().unwrap_or_default() {
        let mut folders = Vec::new();
        tree(&h.mount.join(relative), &mut folders);
        for folder in folders {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
        }
    }
    pids
}

/// Kills what runs in a node's cgroups, or in all of the bed's, and removes them. Dead containers' cgroups that stay
/// would keep the next kubelet busy for two minutes.
///
/// # Errors
/// If a process does not die or a cgroup cannot be removed in 10 s.
pub fn destroy(name: Option<&str>) -> Result<()> {
    let relative = name.map_or_else(|| PathBuf::from(PREFIX), |name| Path::new(PREFIX).join(name));
    let started = Instant::now();
    loop {
        for pid in processes(&relative) {
            // 0 stands for a process of another PID namespace: none that the bed started.
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let mut last = None;
        for h in hierarchies()? {
            let mut folders = Vec::new();
            tree(&h.mount.join(&relative), &mut folders);
            for folder in folders {
                if let Err(e) = fs::remove_dir(&folder) {
                    last = Some(format!("{}: {e}", folder.display()));
                }
            }
        }
        let Some(last) = last else { return Ok(()) };
        if started.elapsed() > Duration::from_secs(10) {
            return Err(Error::State(format!("cgroups are still in use after 10 s: {last}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_hybrid_host_counts_as_v1() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,nosuid,relatime,xattr,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = parse(mounts);
        let options: Vec<_> = found.iter().filter_map(|h| h.options.as_deref()).collect();
        assert_eq!(options, ["cpu", "none,name=systemd"]);
    }

    #[test]
    fn a_unified_host_counts_as_v2() {
        let found = parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].options.is_none());
    }
}
