//! Faults: cut or bad links, and stopped or killed processes. All from the host, never through the API.

use std::collections::BTreeMap;
use std::fs;

use crate::cmd::{run, succeeds};
use crate::error::{Error, Result};
use crate::layout::{LB_IP, Node, Options};
use crate::network::lb_netns;

/// Our chain in a network namespace's raw table: it sees every packet first, those to pods too.
const CHAIN: &str = "EB-FAULT";

/// One end of a link: a node or the load balancer.
struct End {
    netns: String,
    /// Its own address and its pods'.
    sources: Vec<String>,
}

fn end(options: &Options, name: &str) -> Result<End> {
    if name == "lb" {
        return Ok(End { netns: lb_netns(), sources: vec![LB_IP.into()] });
    }
    let node = options.node(name).map_err(|e| Error::State(format!("{e}, or `lb`, the load balancer")))?;
    Ok(End { netns: node.netns(), sources: vec![node.ip(), node.pod_cidr()] })
}

fn iptables(netns: &str, args: &[&str]) -> Result<String> {
    let netns = format!("--net=/run/netns/{netns}");
    let mut command = vec!["nsenter", &netns, "iptables", "-w", "-t", "raw"];
    command.extend(args);
    run(&command)
}

fn chain(netns: &str) -> Result<()> {
    if iptables(netns, &["-n", "-L", CHAIN]).is_err() {
        iptables(netns, &["-N", CHAIN])?;
        iptables(netns, &["-I", "PREROUTING", "-j", CHAIN])?;
        iptables(netns, &["-I", "OUTPUT", "-j", CHAIN])?;
    }
    Ok(())
}

/// In which direction a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Neither hears the other.
    Both,
    /// The first no longer hears the second.
    FirstIsDeaf,
}

/// Cuts the link between two nodes (or a node and `lb`); packets are dropped in silence.
///
/// # Errors
/// If one is unknown or off.
pub fn partition(options: &Options, a: &str, b: &str, direction: Direction) -> Result<()> {
    let (first, second) = (end(options, a)?, end(options, b)?);
    if first.netns == second.netns {
        return Err(Error::State(format!("partition {a} {b}: name two different ends")));
    }
    let deafen = |who: &End, of: &End| -> Result<()> {
        chain(&who.netns)?;
        of.sources.iter().try_for_each(|s| iptables(&who.netns, &["-A", CHAIN, "-s", s, "-j", "DROP"]).map(|_| ()))
    };
    deafen(&first, &second)?;
    match direction {
        Direction::Both => deafen(&second, &first),
        Direction::FirstIsDeaf => Ok(()),
    }
}

/// Makes a node's cable bad, in both directions: packets lost at random, and a limit on the rate.
///
/// # Errors
/// If the node is off or a value is none.
pub fn link(node: &Node, loss: Option<&str>, rate: Option<&str>) -> Result<()> {
    let netns = node.netns();
    if let Some(loss) = loss {
        let percent = loss.trim_end_matches('%').parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p));
        let percent = percent.ok_or_else(|| Error::State(format!("--loss {loss}: a percentage like 30%")))?;
        let probability = format!("{:.4}", percent / 100.0);
        chain(&netns)?;
        for side in ["-i", "-o"] {
            let random = ["-m", "statistic", "--mode", "random", "--probability", &probability];
            // -o has no meaning in PREROUTING, so each direction has a rule in the hook that knows its interface.
            let hook = if side == "-i" { "PREROUTING" } else { "OUTPUT" };
            let mut rule = vec!["-A", hook, side, "eth0"];
            rule.extend(random);
            rule.extend(["-m", "comment", "--comment", CHAIN, "-j", "DROP"]);
            iptables(&netns, &rule)?;
        }
    }
    if let Some(rate) = rate {
        let shape = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"];
        let mut out = vec!["tc", "-n", &netns, "qdisc", "replace", "dev", "eth0"];
        out.extend(shape);
        run(&out)?;
        let veth = node.veth();
        let mut back = vec!["tc", "qdisc", "replace", "dev", &veth];
        back.extend(shape);
        run(&back)?;
    }
    Ok(())
}

/// Takes all network faults back, on all nodes that are on.
///
/// # Errors
/// If a rule cannot be removed.
pub fn heal(options: &Options) -> Result<()> {
    let nodes = options.all();
    let mut spaces: Vec<_> = nodes.iter().map(Node::netns).collect();
    spaces.push(lb_netns());
    for netns in spaces.iter().filter(|n| std::path::Path::new("/run/netns").join(n).exists()) {
        // The raw table is ours alone.
        iptables(netns, &["-F"])?;
        let _ = iptables(netns, &["-X", CHAIN]);
    }
    for node in &nodes {
        for command in [
            vec!["tc", "-n", &node.netns(), "qdisc", "delete", "dev", "eth0", "root"],
            vec!["tc", "qdisc", "delete", "dev", &node.veth(), "root"],
        ] {
            // Fails where there is none.
            succeeds(&command);
        }
    }
    Ok(())
}

/// The faults that are on at a node, for `status`.
#[must_use]
pub fn active(node: &Node) -> Vec<String> {
    let netns = node.netns();
    if !std::path::Path::new("/run/netns").join(&netns).exists() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for line in iptables(&netns, &["-S"]).unwrap_or_default().lines().filter(|l| l.ends_with("-j DROP")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |flag: &str| words.iter().skip_while(|w| **w != flag).nth(1).copied();
        match (after("-s"), after("--probability"), after("-i")) {
            (Some(source), ..) => found.push(format!("hears nothing of {source}")),
            (None, Some(p), Some(_)) => found.push(format!("loses packets with probability {p}")),
            _ => (),
        }
    }
    let shaped = run(&["tc", "-n", &netns, "qdisc", "show", "dev", "eth0"]).unwrap_or_default();
    found.extend(shaped.lines().filter(|l| l.contains("tbf")).map(|l| l.trim().to_owned()));
    found
}

/// A process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// An etcd that is not boot's.
    Etcd,
    /// Boot etcd.
    BootEtcd,
    /// `etcd-operator keeper`.
    Keeper,
    /// `etcd-operator agent`.
    Agent,
    /// `etcd-operator controller`.
    Controller,
    /// Any API server, the temporary one too.
    KubeApiserver,
    /// The kubelet.
    Kubelet,
    /// kube-proxy.
    KubeProxy,
    /// containerd, without its shims.
    Containerd,
}

impl std::str::FromStr for Process {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Ok(match name {
            "etcd" => Self::Etcd,
            "boot-etcd" => Self::BootEtcd,
            "keeper" => Self::Keeper,
            "agent" => Self::Agent,
            "controller" => Self::Controller,
            "kube-apiserver" => Self::KubeApiserver,
            "kubelet" => Self::Kubelet,
            "kube-proxy" => Self::KubeProxy,
            "containerd" => Self::Containerd,
            other => {
                return Err(format!(
                    "`{other}`: etcd, boot-etcd, keeper, agent, controller, kube-apiserver, kubelet, kube-proxy or containerd"
                ));
            }
        })
    }
}

impl Process {
    /// Whether a command line is this process's.
    fn matches(self, arguments: &[String]) -> bool {
        let Some((program, rest)) = arguments.split_first() else {
            return false;
        };
        let program = program.rsplit('/').next().unwrap_or_default();
        let operator = |verb: &str| {
            let first = rest.iter().find(|a| !a.starts_with('-'));
            program.starts_with("etcd-operator") && first.is_some_and(|a| a == verb)
                // The keeper's binary on a node may be called by its role.
                || program == verb
        };
        let boot = rest.iter().any(|a| a == "--name=boot");
        match self {
            Self::Etcd => program == "etcd" && !boot,
            Self::BootEtcd => program == "etcd" && boot,
            Self::Keeper => operator("keeper"),
            Self::Agent => operator("agent"),
            Self::Controller => operator("controller"),
            Self::KubeApiserver => program == "kube-apiserver",
            Self::Kubelet => program == "kubelet",
            Self::KubeProxy => program == "kube-proxy",
            Self::Containerd => program == "containerd",
        }
    }
}

/// Processes of a node by the host's numbers: all descendants of its init.
///
/// # Errors
/// If the node is off.
pub fn find(node: &Node, process: Process) -> Result<Vec<i32>> {
    let init =
        crate::node::init_pid(node).ok_or_else(|| Error::State(format!("node {} is off: bed start {}", node.name, node.name)))?;
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).and_then(|p| p.trim().parse::<i32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let of_node = |pid: i32| {
        let mut above = Some(pid);
        // At most as many steps as there are processes: a table read while it changes could hold a circle.
        for _ in 0..parents.len() {
            match above {
                Some(pid) if pid == init => return true,
                Some(pid) => above = parents.get(&pid).copied(),
                None => return false,
            }
        }
        false
    };
    let arguments = |pid: i32| -> Vec<String> {
        let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = text.split(|b| *b == 0).filter(|a| !a.is_empty());
        words.map(|a| String::from_utf8_lossy(a).into_owned()).collect()
    };
    Ok(parents.keys().copied().filter(|pid| of_node(*pid) && process.matches(&arguments(*pid))).collect())
}

/// What to do to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stops it where it stands.
    Pause,
    /// Lets it go on.
    Resume,
    /// Kills it without a warning.
    Kill,
    /// Asks it to end.
    Terminate,
}

/// Signals all processes of that kind on the node and returns their PIDs.
///
/// # Errors
/// If there is none, or the node is off.
pub fn signal(node: &Node, process: Process, signal: Signal) -> Result<Vec<i32>> {
    let pids = find(node, process)?;
    if pids.is_empty() {
        return Err(Error::State(format!("no {process:?} runs on {}", node.name)));
    }
    let signal = match signal {
        Signal::Pause => rustix::process::Signal::STOP,
        Signal::Resume => rustix::process::Signal::CONT,
        Signal::Kill => rustix::process::Signal::KILL,
        Signal::Terminate => rustix::process::Signal::TERM,
    };
    for pid in &pids {
        if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
            rustix::process::kill_process(pid, signal).map_err(|e| Error::State(format!("signal to {pid:?}: {e}")))?;
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::Process;

    fn is(process: Process, line: &str) -> bool {
        process.matches(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn processes_are_told_apart_by_their_command_line() {
        assert!(is(Process::BootEtcd, "/usr/local/bin/etcd --name=boot"));
        assert!(!is(Process::Etcd, "/usr/local/bin/etcd --name=boot"));
        assert!(is(Process::Etcd, "etcd --config-file=/x"));
        assert!(!is(Process::Etcd, "/etcd-operator keeper"));
        assert!(is(Process::Keeper, "/x/bin/etcd-operator keeper --dir=/y"));
        assert!(is(Process::Agent, "/etcd-operator agent"));
        assert!(!is(Process::Agent, "/etcd-operator controller"));
        assert!(!is(Process::Containerd, "/usr/bin/containerd-shim-runc-v2 -id containerd"));
    }
}
