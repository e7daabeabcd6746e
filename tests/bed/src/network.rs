//! Bridge, network namespaces, cables and routes.

use std::path::Path;

use crate::cmd::{run, succeeds};
use crate::error::Result;
use crate::layout::{BRIDGE, HOST_IP, LB_IP, Node, Options, PREFIX, VETH};

/// The load balancer's network namespace.
#[must_use]
pub fn lb_netns() -> String {
    format!("{PREFIX}-lb")
}

/// Makes the bridge on the host.
///
/// # Errors
/// The command that failed.
pub fn create_bridge() -> Result<()> {
    run(&["ip", "link", "add", BRIDGE, "type", "bridge"])?;
    run(&["ip", "address", "add", &format!("{HOST_IP}/24"), "dev", BRIDGE])?;
    run(&["ip", "link", "set", BRIDGE, "up"])?;
    // A host whose FORWARD policy is DROP (docker's) filters bridged frames too when br_netfilter is loaded.
    let policy = run(&["iptables", "-S", "FORWARD"]).unwrap_or_default();
    if !policy.contains("-P FORWARD ACCEPT") {
        run(&accept_rule("-I"))?;
    }
    Ok(())
}

fn accept_rule(action: &'static str) -> [&'static str; 12] {
    ["iptables", action, "FORWARD", "-i", BRIDGE, "-m", "comment", "--comment", PREFIX, "-j", "ACCEPT", "-w"]
}

/// Makes a network namespace with an address on the bridge.
fn create_namespace(netns: &str, veth: &str, ip: &str) -> Result<()> {
    let peer = format!("{veth}-");
    // A machine keeps its MAC address over a power cut, so others' ARP entries stay right.
    let number = ip.rsplit('.').next().and_then(|n| n.parse::<u8>().ok()).unwrap_or(0);
    let mac = format!("02:eb:00:00:00:{number:02x}");
    run(&["ip", "netns", "add", netns])?;
    run(&["ip", "link", "add", veth, "type", "veth", "peer", "name", &peer])?;
    run(&["ip", "link", "set", &peer, "netns", netns])?;
    let inside = format!(
        "link set lo up\nlink set {peer} name eth0 address {mac}\naddress add {ip}/24 dev eth0\nlink set eth0 up\nroute add default via {HOST_IP}\n"
    );
    crate::cmd::run_with_input(&["ip", "-n", netns, "-batch", "-"], inside.as_bytes())?;
    run(&["ip", "link", "set", veth, "master", BRIDGE, "up"])?;
    Ok(())
}

/// The routes to the pods of `nodes`, but not of `except`.
fn pod_routes(nodes: &[Node], except: Option<&Node>) -> String {
    let routes = nodes.iter().filter(|n| Some(*n) != except);
    routes.map(|n| format!("route replace {} via {}\n", n.pod_cidr(), n.ip())).collect()
}

/// The load balancer's namespace, and the host's routes to pods.
///
/// # Errors
/// The command that failed.
pub fn create_lb(options: &Options) -> Result<()> {
    create_namespace(&lb_netns(), &format!("{VETH}lb"), LB_IP)?;
    let routes = pod_routes(&options.all(), None);
    crate::cmd::run_with_input(&["ip", "-n", &lb_netns(), "-batch", "-"], routes.as_bytes())?;
    crate::cmd::run_with_input(&["ip", "-batch", "-"], routes.as_bytes())?;
    Ok(())
}

/// A node's network, made anew at each start: nothing of before a power cut survives in it.
///
/// # Errors
/// The command that failed.
pub fn create_node(options: &Options, node: &Node) -> Result<()> {
    remove_node(node);
    create_namespace(&node.netns(), &node.veth(), &node.ip())?;
    let netns = node.netns();
    let routes = pod_routes(&options.all(), Some(node));
    crate::cmd::run_with_input(&["ip", "-n", &netns, "-batch", "-"], routes.as_bytes())?;
    // Per network namespace; the second only exists where br_netfilter does.
    let sysctls = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                   [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables";
    run(&["nsenter", &format!("--net=/run/netns/{netns}"), "sh", "-c", sysctls])?;
    Ok(())
}

/// Has everybody find the pods of a node that has got another address.
///
/// # Errors
/// The command that failed.
pub fn reroute(options: &Options, moved: &Node) -> Result<()> {
    let route = pod_routes(std::slice::from_ref(moved), None);
    let others = options.all().into_iter().filter(|n| n != moved).map(|n| n.netns());
    for netns in others.chain([lb_netns()]).filter(|netns| Path::new("/run/netns").join(netns).exists()) {
        crate::cmd::run_with_input(&["ip", "-n", &netns, "-batch", "-"], route.as_bytes())?;
    }
    crate::cmd::run_with_input(&["ip", "-batch", "-"], route.as_bytes())?;
    Ok(())
}

/// Takes a node's network away.
pub fn remove_node(node: &Node) {
    remove(&node.netns(), &node.veth());
}

fn remove(netns: &str, veth: &str) {
    if Path::new("/sys/class/net").join(veth).exists() {
        succeeds(&["ip", "link", "delete", veth]);
    }
    if Path::new("/run/netns").join(netns).exists() {
        succeeds(&["ip", "netns", "delete", netns]);
    }
}

/// Pulls a node's cable, so that no FIN of its dying processes gets out.
pub fn unplug(node: &Node) {
    succeeds(&["ip", "link", "set", &node.veth(), "down"]);
}

/// Takes away everything on this machine that carries the bed's names.
pub fn remove_all() {
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    for link in names("/sys/class/net") {
        if link.starts_with(VETH) {
            succeeds(&["ip", "link", "delete", &link]);
        }
    }
    for netns in names("/run/netns") {
        if netns.starts_with(&format!("{PREFIX}-")) {
            succeeds(&["ip", "netns", "delete", &netns]);
        }
    }
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        succeeds(&["ip", "link", "delete", BRIDGE]);
    }
    while succeeds(&accept_rule("-C")) && succeeds(&accept_rule("-D")) {}
}
