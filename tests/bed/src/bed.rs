//! A bed: up, down, status, power, and the programs that talk to it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cmd::{self, progress, run, run_prepared, wait_for};
use crate::error::{At, Error, Result};
use crate::layout::{API_URL, Layout, NAMESPACE, Node, Options, RUN};
use crate::state::{NodeStatus, State, Status, is_ready, switched_on};
use crate::{binaries, cgroup, config, faults, images, lb, network, node, pki, prereq, state};

/// How long the first `/readyz` may take: three nodes on a busy machine of two cores.
const API_LIMIT: Duration = Duration::from_secs(180);
/// How long nodes may take to become Ready after that.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// A bed on this machine.
#[derive(Debug, Clone)]
pub struct Bed {
    /// Where its things are.
    pub layout: Layout,
    /// What is known about it.
    pub state: State,
}

impl Bed {
    /// The bed that an earlier `up` made.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(layout: Layout) -> Result<Self> {
        let state = State::load(&layout)?;
        Ok(Self { layout, state })
    }

    /// Makes a bed, up to a temporary control plane on one boot etcd and all nodes Ready. Takes away what an earlier one
    /// left. After Ctrl-C everything is cleaned up; after another error it is left for a look, and `down` takes it away.
    ///
    /// # Errors
    /// The step that failed.
    pub fn up(layout: Layout, options: Options) -> Result<Self> {
        options.validate()?;
        prereq::check(&layout)?;
        let programs = binaries::build(&layout)?;
        // Not once the API server runs: the older it is, the longer its channels to the seats wait between two tries, up to 2 min.
        binaries::compile_operator(&layout, options.operator)?;
        let lock = state::lock()?;
        if let Some(dir) = state::complete() {
            // Half-made ones are taken away without a question; this one may be in somebody's use.
            return Err(Error::State(format!("a bed is up already (in {}): bed down", dir.display())));
        }
        let made = Self::make(layout.clone(), options, &programs);
        if matches!(made, Err(Error::Interrupted)) {
            cmd::clear_interrupt();
            remove(&layout, lock)?;
            progress("cleaned up");
        }
        made
    }

    fn make(layout: Layout, options: Options, programs: &binaries::Programs) -> Result<Self> {
        clean_machine()?;
        remove_files(&layout.dir)?;
        state::claim(&layout)?;
        prereq::raise_sysctls()?;
        let store = images::seed(&layout, programs)?;
        pki::create(&layout)?;
        config::create_admin(&layout)?;
        let bed = Self { layout, state: State { options, handed_over: false } };
        bed.state.save(&bed.layout)?;
        progress(format!("making {} nodes ...", bed.options().nodes));
        for node in bed.options().all() {
            node::create_disk(&bed.layout, bed.options(), &node, &store)?;
        }
        bed.create_network()?;
        bed.first_start()?;
        bed.bootstrap_objects()?;
        let nodes = bed.options().all();
        // No lease yet: a kubelet makes its first only 10 s after it registered.
        bed.wait_nodes_ready(&nodes, None)?;
        state::set_complete()?;
        progress(format!("up: export KUBECONFIG={}", bed.layout.kubeconfig().display()));
        Ok(bed)
    }

    /// How it was asked for.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.state.options
    }

    /// The nodes with these names; all if `all`.
    ///
    /// # Errors
    /// If one is unknown or none is named.
    pub fn nodes(&self, names: &[String], all: bool) -> Result<Vec<Node>> {
        if all {
            return Ok(self.options().all());
        }
        if names.is_empty() {
            return Err(Error::State("name at least one node, or --all".into()));
        }
        names.iter().map(|name| self.options().node(name)).collect()
    }

    pub(crate) fn create_network(&self) -> Result<()> {
        network::create_bridge()?;
        network::create_lb(self.options())?;
        lb::start(&self.layout, self.options())
    }

    /// Switches nodes on.
    ///
    /// # Errors
    /// The node that did not start.
    pub fn start(&self, nodes: &[Node]) -> Result<()> {
        for node in nodes {
            cmd::check_interrupt()?;
            node::start(&self.layout, self.options(), node)?;
            progress(format!("{} is on", node.name));
        }
        Ok(())
    }

    /// Cuts the power of nodes, all in the same moment.
    ///
    /// # Errors
    /// If something outlives it.
    pub fn power_cut(&self, nodes: &[Node]) -> Result<()> {
        node::power_cut_all(nodes)
    }

    /// Cuts a node's power, and switches it on with another address. Returns it as it is now; this bed goes on with what it knew, [`Self::open`] knows
    /// better.
    ///
    /// # Errors
    /// The step that failed.
    pub fn readdress(&self, node: &Node) -> Result<Node> {
        let mut state = State::load(&self.layout)?;
        state.options.addresses.insert(node.index, node.address + 100);
        state.save(&self.layout)?;
        node::power_cut(node)?;
        let moved = state.options.node(&node.name)?;
        node::start(&self.layout, &state.options, &moved)?;
        network::reroute(&state.options, &moved)?;
        progress(format!("{} is on, and is {} now", moved.name, moved.ip()));
        Ok(moved)
    }

    /// Gives a node a new, empty disk: only what an installer puts there stays (keys, configuration, the bed's own
    /// manifests). The node is off afterwards.
    ///
    /// # Errors
    /// The step that failed.
    pub fn wipe(&self, node: &Node) -> Result<()> {
        node::power_cut(node)?;
        let programs = binaries::build(&self.layout)?;
        let store = images::seed(&self.layout, &programs)?;
        for dir in ["var/lib", "var/log"] {
            let dir = self.layout.disk(node, dir);
            fs::remove_dir_all(&dir).at(&dir)?;
            fs::create_dir_all(&dir).at(&dir)?;
        }
        for dir in ["var/lib/kubelet", "var/lib/cni"] {
            let dir = self.layout.disk(node, dir);
            fs::create_dir_all(&dir).at(&dir)?;
        }
        images::link_store(&store, &self.layout.disk(node, "var/lib/containerd"))?;
        let manifests = self.layout.disk(node, "etc/kubernetes/manifests");
        for entry in fs::read_dir(&manifests).at(&manifests)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("boot-") && !name.starts_with("kube-") {
                fs::remove_file(entry.path()).at(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Waits for `/readyz` through the load balancer.
    ///
    /// # Errors
    /// If it takes too long.
    pub fn wait_api(&self) -> Result<Duration> {
        let started = Instant::now();
        wait_for("the API", API_LIMIT, &self.hint(), || {
            self.kubectl(&["get", "--raw=/readyz", "--request-timeout=3s"]).map_err(|e| e.to_string())
        })?;
        Ok(started.elapsed())
    }

    fn hint(&self) -> String {
        let boot = self.options().boot_node.as_str();
        let logs = self.layout.path("nodes").join(boot).join("var/log");
        format!("{} (kubelet.log, containerd.log, pods/) and {}", logs.display(), self.layout.path("haproxy.log").display())
    }

    /// Waits until each node is Ready and, with `since` ([`crate::now`]), its kubelet has renewed its lease after that:
    /// what the API says of a node that was just switched on may date from before.
    ///
    /// # Errors
    /// If it takes too long.
    pub fn wait_nodes_ready(&self, nodes: &[Node], since: Option<&str>) -> Result<()> {
        wait_for("nodes Ready", READY_LIMIT, &self.hint(), || {
            let get = |args: &[&str]| -> std::result::Result<Value, String> {
                let text = self.kubectl(args).map_err(|e| e.to_string())?;
                serde_json::from_str(&text).map_err(|e| e.to_string())
            };
            let objects = get(&["get", "nodes", "-o", "json", "--request-timeout=3s"])?;
            let leases = get(&["get", "leases", "-n", "kube-node-lease", "-o", "json", "--request-timeout=3s"])?;
            let find = |list: &Value, name: &str| {
                let items = list.get("items").and_then(Value::as_array)?;
                items.iter().find(|i| i.pointer("/metadata/name").and_then(Value::as_str) == Some(name)).cloned()
            };
            let late: Vec<_> = nodes
                .iter()
                .filter(|n| {
                    let ready = find(&objects, &n.name).is_some_and(|o| is_ready(&o));
                    let renewed = find(&leases, &n.name)
                        .and_then(|l| l.pointer("/spec/renewTime").and_then(Value::as_str).map(str::to_owned));
                    !(ready && since.is_none_or(|since| renewed.is_some_and(|r| r.as_str() >= since)))
                })
                .map(|n| n.name.as_str())
                .collect();
            if late.is_empty() { Ok(()) } else { Err(format!("not yet: {}", late.join(", "))) }
        })?;
        progress(format!("{} nodes are Ready", nodes.len()));
        Ok(())
    }

    /// Switches the boot node on, and the others once the API answers: a kubelet that asks for its CSINode in vain waits
    /// longer each time, 19 s in the end. The boot node's must ask too early, so it is started again.
    fn first_start(&self) -> Result<()> {
        let boot = self.options().boot()?;
        self.start(std::slice::from_ref(&boot))?;
        let took = self.wait_api()?;
        progress(format!("the API is ready ({:.1} s after {} was switched on)", took.as_secs_f32(), boot.name));
        let others: Vec<_> = self.options().all().into_iter().filter(|n| *n != boot).collect();
        self.start(&others)?;
        if took > Duration::from_secs(4) {
            faults::signal(&boot, faults::Process::Kubelet, faults::Signal::Kill)?;
        }
        Ok(())
    }

    /// What an installer posts: labels of the control nodes, and etcd's CA for the operator.
    fn bootstrap_objects(&self) -> Result<()> {
        let names: Vec<_> = self.options().all().into_iter().map(|n| n.name).collect();
        let mut label = vec!["label", "--overwrite", "nodes"];
        label.extend(names.iter().map(String::as_str));
        label.push("node-role.kubernetes.io/control-plane=");
        wait_for("the nodes to register", READY_LIMIT, &self.hint(), || self.kubectl(&label).map_err(|e| e.to_string()))?;
        let authority = pki::Authority::load(&self.layout.path("pki"), "etcd-ca")?;
        let key = self.layout.path("pki/etcd-ca.key");
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": "etcd-ca", "namespace": NAMESPACE },
            "data": {
                "tls.crt": config::base64(authority.certificate().as_bytes()),
                "tls.key": config::base64(&fs::read(&key).at(&key)?),
            },
        }))
    }

    /// Applies an object.
    ///
    /// # Errors
    /// If the API refuses it.
    pub fn apply(&self, object: &Value) -> Result<()> {
        self.run_kubectl(&["apply", "-f", "-"], object.to_string().as_bytes()).map(|_| ())
    }

    /// Runs kubectl as admin and returns its stdout.
    ///
    /// # Errors
    /// If it fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run_kubectl(args, b"")
    }

    fn run_kubectl(&self, args: &[&str], input: &[u8]) -> Result<String> {
        let mut command = Command::new(self.layout.bin("kubectl"));
        command.arg("--kubeconfig").arg(self.layout.kubeconfig());
        // Its default is in the home folder.
        command.arg("--cache-dir").arg(self.layout.path("kubectl-cache")).args(args);
        // A proxy of the host has no way to the bed.
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        run_prepared(command, &format!("kubectl {}", args.join(" ")), input)
    }

    /// Runs etcdctl against an endpoint with the bed's client certificate.
    ///
    /// # Errors
    /// If it fails.
    pub fn etcdctl(&self, endpoint: &str, args: &[&str]) -> Result<String> {
        self.etcdctl_with_input(endpoint, args, b"")
    }

    /// The same with something on its stdin: the value of `put KEY`.
    ///
    /// # Errors
    /// If it fails.
    pub fn etcdctl_with_input(&self, endpoint: &str, args: &[&str], input: &[u8]) -> Result<String> {
        let pki = |name: &str| self.layout.path("pki").join(name).display().to_string();
        let mut command = vec![
            self.layout.bin("etcdctl").display().to_string(),
            format!("--endpoints={endpoint}"),
            format!("--cacert={}", pki("etcd-ca.crt")),
            format!("--cert={}", pki("etcd-client.crt")),
            format!("--key={}", pki("etcd-client.key")),
        ];
        command.extend(args.iter().map(|a| (*a).to_owned()));
        cmd::run_with_input(&command, input)
    }

    /// How it stands.
    ///
    /// # Errors
    /// If the node list cannot be read.
    pub fn status(&self) -> Result<Status> {
        let on = switched_on(self.options());
        let api_ready = self.kubectl(&["get", "--raw=/readyz", "--request-timeout=2s"]).is_ok();
        let objects: Value = if api_ready {
            let text = self.kubectl(&["get", "nodes", "-o", "json", "--request-timeout=5s"]).unwrap_or_default();
            serde_json::from_str(&text).unwrap_or_default()
        } else {
            Value::Null
        };
        let items = objects.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let nodes = self.options().all().into_iter().map(|n| NodeStatus {
            ip: n.ip(),
            on: on.contains(&n),
            ready: items.iter().find(|i| i.pointer("/metadata/name").and_then(Value::as_str) == Some(&n.name)).map(is_ready),
            faults: crate::faults::active(&n),
            name: n.name,
        });
        Ok(Status {
            api_ready,
            api_servers: lb::ready_servers().unwrap_or_default(),
            handed_over: self.state.handed_over,
            boot_node: self.options().boot_node.clone(),
            nodes: nodes.collect(),
        })
    }

    /// The server's URL, for messages.
    #[must_use]
    pub fn url(&self) -> &'static str {
        API_URL
    }
}

/// Takes the bed away, in whatever state it is: processes, cgroups, network, disks, sysctls. Built programs, images and
/// frozen copies stay.
///
/// # Errors
/// The thing that could not be removed.
pub fn down(layout: &Layout) -> Result<()> {
    prereq::root()?;
    let lock = state::lock()?;
    // What a crash left behind is anybody's to take away; a whole bed may be in somebody's use.
    if let Some(dir) = state::complete().filter(|dir| *dir != layout.dir) {
        return Err(Error::State(format!("the bed that is up belongs to {}: take it away from there", dir.display())));
    }
    remove(layout, lock)
}

/// [`down`] under a lock that is held already.
pub(crate) fn remove(layout: &Layout, lock: state::Lock) -> Result<()> {
    let other = state::claimed().filter(|dir| *dir != layout.dir);
    clean_machine()?;
    remove_files(&layout.dir)?;
    if let Some(other) = other {
        remove_files(&other)?;
    }
    let run = Path::new(RUN);
    fs::remove_dir_all(run).at(run)?;
    drop(lock);
    Ok(())
}

/// Ends what runs and takes away what lies outside of the bed's folder.
pub(crate) fn clean_machine() -> Result<()> {
    cgroup::destroy(None)?;
    network::remove_all();
    prereq::restore_sysctls();
    // Nodes mount in namespaces of their own; should one ever show here, nothing below it may be deleted.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own: Vec<_> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| m.starts_with(&format!("{RUN}/"))).collect();
    for mount in own.iter().rev() {
        run(&["umount", "--lazy", mount])?;
    }
    for entry in fs::read_dir(RUN).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.file_name().is_some_and(|n| n == "lock") {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.at(&path)?;
    }
    Ok(())
}

/// Takes away a bed's own files: only names that the bed made.
pub(crate) fn remove_files(dir: &Path) -> Result<()> {
    for name in ["nodes", "pki", "kubectl-cache", "shared"] {
        let path = dir.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).at(&path)?;
        }
    }
    for name in ["admin.kubeconfig", "bed.json", "state.json", "haproxy.log"] {
        let path = dir.join(name);
        if path.exists() {
            fs::remove_file(&path).at(&path)?;
        }
    }
    Ok(())
}

/// A bed that is taken away when it goes out of scope: for tests. `BED_KEEP=1` keeps it for a look.
pub struct TestBed(Bed);

impl TestBed {
    /// Takes over a bed.
    #[must_use]
    pub fn new(bed: Bed) -> Self {
        Self(bed)
    }
}

impl std::ops::Deref for TestBed {
    type Target = Bed;
    fn deref(&self) -> &Bed {
        &self.0
    }
}

impl std::ops::DerefMut for TestBed {
    fn deref_mut(&mut self) -> &mut Bed {
        &mut self.0
    }
}

impl Drop for TestBed {
    fn drop(&mut self) {
        if std::env::var_os("BED_KEEP").is_some() {
            return progress("BED_KEEP is set: the bed stays up");
        }
        if let Err(e) = down(&self.0.layout) {
            progress(format!("bed down: {e}"));
        }
    }
}
