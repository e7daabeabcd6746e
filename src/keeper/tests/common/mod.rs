//! Real etcd on loopback, under a real keeper (the example), with TLS. Everything is ended when it goes out of scope.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, dead_code, missing_docs)]

pub mod pki;
pub mod plain;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use etcd_operator_keeper::contract::{EtcdSettings, FORMAT, Order, Paths, Permission, PermissionKind, Phase, Run, State};
#[allow(unused_imports, reason = "not every test binary uses both")]
pub use plain::{Plain, plain_flags};
use rustix::process::{Pid, Signal, kill_process};

/// Longest that anything in these tests may take; a machine under load included.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The folder with etcd, etcdctl and etcdutl.
pub fn etcd_bin(name: &str) -> PathBuf {
    let Some(etcd) = std::env::var_os("ETCD_BIN") else {
        panic!("set ETCD_BIN to the folder with etcd: export ETCD_BIN=$(tests/bed/go/build.sh etcd)");
    };
    let path = PathBuf::from(etcd).join(name);
    assert!(path.is_file(), "{} is missing: tests/bed/go/build.sh etcd", path.display());
    path
}

/// An etcd of another minor version: `etcd-3.5`, `etcd-3.7`.
pub fn other_etcd(what: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bed/go/build.sh");
    let built = Command::new(script).arg(what).stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "{what} was not built");
    Path::new(String::from_utf8_lossy(&built.stdout).trim()).join("etcd")
}

/// The example, which cargo has built beside this test.
pub fn keeper_bin() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join("keeper");
    assert!(path.is_file(), "{} is missing: cargo build -p etcd-operator-keeper --examples", path.display());
    path
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections, so that none of these takes it meanwhile.
pub fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let from = 11_000 + u16::try_from(std::process::id() % 200).unwrap() * 100;
        let port = from + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Polls until there is a value.
pub fn wait_for<T>(what: &str, context: impl Fn() -> String, look: impl FnMut() -> Option<T>) -> T {
    wait_long(PATIENCE, what, context, look)
}

/// The same, with another patience.
pub fn wait_long<T>(patience: Duration, what: &str, context: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} for: {what}\n{}", context());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A cluster: its CA, its boot member, and a place for its nodes.
pub struct Bed {
    pub tmp: tempfile::TempDir,
    pub ca: pki::Ca,
    pub boot: Option<Plain>,
}

impl Bed {
    pub fn new() -> Self {
        Self { tmp: tempfile::tempdir().unwrap(), ca: pki::Ca::new(), boot: None }
    }

    /// With a boot member, plain etcd without a keeper.
    pub fn with_boot() -> Self {
        let mut bed = Self::new();
        let boot = Plain::start(&bed, "boot");
        bed.boot = Some(boot);
        bed
    }

    pub fn boot(&self) -> &Plain {
        self.boot.as_ref().unwrap()
    }

    pub fn cluster_id(&self) -> String {
        self.etcdctl(&self.boot().client, &["member", "list"])["header"]["cluster_id"]
            .as_u64()
            .map(|id| format!("{id:016x}"))
            .unwrap()
    }

    /// Runs etcdctl until it succeeds; its JSON.
    pub fn etcdctl(&self, endpoint: &str, args: &[&str]) -> serde_json::Value {
        let start = Instant::now();
        loop {
            match self.try_etcdctl(endpoint, args) {
                Ok(value) => return value,
                Err(why) => assert!(start.elapsed() < PATIENCE, "etcdctl {args:?}: {why}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn try_etcdctl(&self, endpoint: &str, args: &[&str]) -> Result<serde_json::Value, String> {
        let pki = self.tmp.path().join("ctl-pki");
        if !pki.exists() {
            self.ca.write(&pki, &[]);
        }
        let output = Command::new(etcd_bin("etcdctl"))
            .args(["--endpoints", endpoint, "-w", "json", "--command-timeout=3s", "--dial-timeout=2s"])
            .arg("--cacert")
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(pki.join("client.crt"))
            .arg("--key")
            .arg(pki.join("client.key"))
            .args(args)
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null));
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Adds a learner through a member; its ID in hex.
    pub fn add_learner(&self, through: &str, peer_url: &str) -> String {
        let answer = self.etcdctl(through, &["member", "add", "new", "--learner", &format!("--peer-urls={peer_url}")]);
        format!("{:016x}", answer["member"]["ID"].as_u64().unwrap())
    }

    pub fn promote(&self, through: &str, id: &str) {
        self.etcdctl(through, &["member", "promote", id]);
    }

    /// Removes a member. A call that timed out may have been carried out.
    pub fn remove(&self, through: &str, id: &str) {
        let context = || format!("{:?}", self.try_etcdctl(through, &["member", "list"]));
        wait_for("the removal", context, || {
            let gone = |why: &String| why.contains("member not found");
            self.try_etcdctl(through, &["member", "remove", id]).map_or_else(|why| gone(&why).then_some(()), |_| Some(()))
        });
    }

    /// Holds a watch open on a member until it is dropped: its drain lasts as long.
    pub fn watch(&self, endpoint: &str) -> Watching {
        let pki = self.tmp.path().join("ctl-pki");
        let mut child = Command::new(etcd_bin("etcdctl"))
            .args(["--endpoints", endpoint])
            .arg("--cacert")
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(pki.join("client.crt"))
            .arg("--key")
            .arg(pki.join("client.key"))
            .args(["watch", "watched"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let watching = Watching(child);
        // Open once an event has come. Read to the end: etcdctl would die of a broken pipe, and its stream with it.
        let (sender, events) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while output.read(&mut buffer).is_ok_and(|n| n > 0) {
                let _ = sender.send(());
            }
        });
        wait_for("an event", String::new, || {
            self.etcdctl(endpoint, &["put", "watched", "x"]);
            events.recv_timeout(Duration::from_millis(200)).ok()
        });
        watching
    }

    /// IDs of the listed members.
    pub fn members(&self, through: &str) -> Vec<String> {
        let list = self.etcdctl(through, &["member", "list"]);
        list["members"].as_array().unwrap().iter().map(|m| format!("{:016x}", m["ID"].as_u64().unwrap())).collect()
    }

    /// A node with certificates and a marked data disk; nothing runs yet.
    pub fn node(&self, name: &str) -> Node {
        Node::new(self, name)
    }

    /// A node whose keeper runs a new cluster of one member.
    pub fn bootstrapped(&self, name: &str) -> Node {
        self.bootstrapped_with(name, etcd_bin("etcd"))
    }

    /// The same, with another etcd.
    pub fn bootstrapped_with(&self, name: &str, etcd: PathBuf) -> Node {
        let mut node = self.node(name);
        node.etcd = etcd;
        node.write_order();
        node.start_keeper();
        // As the controller, which permits nothing before it has seen a state.
        node.wait_phase(Phase::Waiting, "NotAddedYet");
        node.change_order(|o| o.permission = Some(Permission { id: format!("boot-{name}"), kind: PermissionKind::Bootstrap }));
        node.wait_ready();
        let identity = node.state().identity.unwrap();
        node.order.cluster_id = Some(identity.cluster_id);
        node.order.member_id = Some(identity.member_id);
        node.order.sequence += 1;
        node.order.permission = None;
        node.write_order();
        let sequence = node.order.sequence;
        node.wait_state("the order with its IDs", |s| s.order_sequence == sequence);
        node
    }

    /// Three voters of a new cluster, all with this etcd.
    pub fn three_voters(&self, etcd: &Path) -> Vec<Node> {
        let first = self.bootstrapped_with("cp1", etcd.to_owned());
        let through = first.client();
        let mut nodes = vec![first];
        for name in ["cp2", "cp3"] {
            let mut node = self.node(name);
            node.etcd = etcd.to_owned();
            node.write_order();
            node.start_keeper();
            node.join(self, &through);
            self.promote(&through, &node.member_id());
            node.wait_ready();
            nodes.push(node);
        }
        nodes
    }

    /// A voter beside boot that leaves its marks often, with certificates for these addresses.
    pub fn marking_voter(&self, name: &str, ips: &[&str]) -> Node {
        let mut node = self.node(name);
        node.set_env("KEEPER_MARK_MS", "300");
        self.ca.write(&node.paths.pki(), &ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>());
        node.write_order();
        node.start_keeper();
        node.join(self, &self.boot().client);
        self.promote(&self.boot().client, &node.member_id());
        node.wait_ready();
        node
    }

    /// A node that has joined boot's cluster and been promoted.
    pub fn joined(&self, name: &str) -> Node {
        let node = self.learner(name);
        self.promote(&self.boot().client, &node.member_id());
        node.wait_ready();
        node
    }

    /// A node that has joined boot's cluster as a learner: boot alone has the quorum.
    pub fn learner(&self, name: &str) -> Node {
        let mut node = self.node(name);
        node.write_order();
        node.start_keeper();
        node.join(self, &self.boot().client.clone());
        node
    }
}

pub struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node with a keeper.
pub struct Node {
    pub name: String,
    pub paths: Paths,
    pub order: Order,
    pub probe_port: u16,
    pub keeper: Option<Child>,
    /// What is started as the keeper.
    pub program: PathBuf,
    /// The image's etcd.
    pub etcd: PathBuf,
    log: PathBuf,
    env: Vec<(String, String)>,
}

impl Node {
    fn new(bed: &Bed, name: &str) -> Self {
        let root = bed.tmp.path().join(name);
        let paths = Paths::new(&root.join("operator"), &root.join("etcd"), "kube-system", "kube-etcd");
        fs::create_dir_all(&paths.dir).unwrap();
        fs::create_dir_all(&paths.data).unwrap();
        fs::write(paths.marker(), name).unwrap();
        bed.ca.write(&paths.pki(), &["127.0.0.1".parse().unwrap()]);
        let boot = bed.boot.as_ref().map(|b| b.client.clone());
        let order = Order {
            format: FORMAT,
            lineage: 1,
            sequence: 1,
            cluster_id: None,
            member_id: None,
            member_name: format!("{name}-1"),
            run: Run::Run,
            etcd: EtcdSettings {
                peer_url: format!("https://127.0.0.1:{}", port()),
                client_url: format!("https://127.0.0.1:{}", port()),
                metrics_port: port(),
                client_http_port: port(),
                max_learners: 0,
                quota_backend_bytes: 0,
                heartbeat_ms: 0,
                election_ms: 0,
            },
            ask: boot.into_iter().collect(),
            permission: None,
            drain: None,
            archive: None,
            retire: false,
            restart: None,
            keeper: None,
        };
        let env = [("KEEPER_MEMBERS_POLL_MS", "500"), ("KEEPER_QUIET_MS", "1000")]
            .map(|(name, ms)| (name.to_owned(), ms.to_owned()))
            .into();
        Self {
            name: name.into(),
            log: root.join("keeper.log"),
            paths,
            order,
            probe_port: port(),
            keeper: None,
            program: keeper_bin(),
            etcd: etcd_bin("etcd"),
            env,
        }
    }

    pub fn client(&self) -> String {
        self.order.etcd.client_url.clone()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.paths.member(&self.order.member_name)
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// As the agent does: beside it, then renamed.
    pub fn write_order(&self) {
        etcd_operator_keeper::files::write(&self.paths.order(), &self.order).unwrap();
    }

    /// Changes the order and writes it with the next sequence.
    pub fn change_order(&mut self, change: impl FnOnce(&mut Order)) {
        self.order.sequence += 1;
        change(&mut self.order);
        self.write_order();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(&self.paths.dir).arg(&self.paths.data).arg(&self.etcd).arg(self.probe_port.to_string());
        command.envs(self.env.clone());
        command
    }

    pub fn start_keeper(&mut self) {
        assert!(self.keeper.is_none(), "one keeper at a time");
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let before = etcd_operator_keeper::order::stamp(&self.paths.state());
        self.keeper = Some(self.command().stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap());
        // From here on the state is this keeper's, not the last one's.
        wait_for(
            "its first state",
            || self.log(),
            || (etcd_operator_keeper::order::stamp(&self.paths.state()) != before).then_some(()),
        );
    }

    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().unwrap().id()
    }

    pub fn state(&self) -> State {
        self.try_state().unwrap_or_default()
    }

    pub fn try_state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.paths.state()).ok()?).ok()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_state(&self, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        let context = || {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("{}: {:#?}\n{}", self.name, self.try_state(), lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        wait_for(what, context, || self.try_state().filter(|s| wanted(s)))
    }

    pub fn wait_phase(&self, phase: Phase, reason: &str) -> State {
        self.wait_state(&format!("{phase:?} {reason}"), |s| s.phase == phase && s.reason == reason)
    }

    pub fn wait_ready(&self) {
        wait_for(
            "readiness",
            || format!("{:#?}\n{}", self.state(), self.log()),
            || (self.probe("/readyz") == Some(200)).then_some(()),
        );
    }

    /// Status of a probe.
    pub fn probe(&self, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.probe_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// Adds this node as a learner, orders it to run, waits until it is known by its name.
    pub fn join(&mut self, bed: &Bed, through: &str) {
        self.wait_state("its state, before it is added", |s| s.etcd_version.is_some());
        let id = bed.add_learner(through, &self.order.etcd.peer_url);
        let cluster = bed.etcdctl(through, &["member", "list"])["header"]["cluster_id"].as_u64().unwrap();
        self.change_order(|order| {
            order.member_id = Some(id.clone());
            order.cluster_id = Some(format!("{cluster:016x}"));
            order.ask = vec![through.to_owned()];
        });
        self.wait_phase(Phase::Running, "Joining");
        wait_for(
            "its name in the list",
            || self.log(),
            || {
                let list = bed.etcdctl(through, &["member", "list"]);
                list["members"].as_array()?.iter().find(|m| m["name"] == self.order.member_name).map(|_| ())
            },
        );
    }

    pub fn member_id(&self) -> String {
        self.order.member_id.clone().unwrap()
    }

    pub fn etcd_pid(&self) -> u32 {
        self.wait_state("a running etcd", |s| s.etcd_pid.is_some()).etcd_pid.unwrap()
    }

    pub fn signal_keeper(&self, signal: Signal) {
        kill(self.keeper_pid(), signal);
    }

    /// SIGTERM, as the kubelet does.
    pub fn stop_keeper(&mut self) -> ExitStatus {
        self.signal_keeper(Signal::TERM);
        self.wait_keeper()
    }

    pub fn wait_keeper(&mut self) -> ExitStatus {
        let mut keeper = self.keeper.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = keeper.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                let _ = keeper.kill();
                panic!("the keeper did not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As when a container dies: the keeper and its etcd at once.
    pub fn power_off(&mut self) {
        let etcd = self.state().etcd_pid;
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        if let Some(etcd) = etcd.filter(|pid| is_etcd(*pid, &self.paths.data)) {
            kill(etcd, Signal::KILL);
            wait_for("etcd's end", String::new, || (!is_etcd(etcd, &self.paths.data)).then_some(()));
        }
    }

    /// What lies in the archive.
    pub fn archived(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.paths.archive());
        entries.map(|entries| entries.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
    }

    /// Must stay so for a while: several rounds of deciding.
    pub fn stays(&self, phase: Phase, reason: &str) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            let state = self.state();
            assert_eq!((state.phase, state.reason.as_str()), (phase, reason), "{}", self.log());
            assert_eq!(state.etcd_pid, None);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

/// Whether this process is the etcd on this data: a PID may have been given to another.
pub fn is_etcd(pid: u32, data: &Path) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&*data.display().to_string()))
}

/// Copies a data directory.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
