//! What happens to members after the pivot: out of memory, a keeper that stands still, a disk that comes late, data wiped under a running
//! etcd (faults F33, F34). The other two members serve all the time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_bed::layout::Node;
use etcd_operator_bed::node::exec;
use etcd_operator_scenarios::{Stage, is_sampled};
use serde_json::Value;

/// For a container that ends, waits out the kubelet's backoff, and starts again.
const LIMIT: Duration = Duration::from_secs(240);

struct Member<'a> {
    stage: &'a Stage,
    node: Node,
}

impl Member<'_> {
    fn etcd(&self) -> Option<i32> {
        faults::find(&self.node, Process::Etcd).unwrap_or_default().first().copied()
    }

    /// The keeper's state file.
    fn state(&self) -> Value {
        let path = self.stage.bed.layout.disk(&self.node, "var/lib/etcd-operator/kube-system/kube-etcd/state.json");
        std::fs::read(path).ok().and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default()
    }

    fn serves(&self) -> bool {
        self.stage.bed.etcdctl(&format!("https://{}:2379", self.node.ip()), &["get", "no-such-key"]).is_ok()
    }

    fn data(&self) -> PathBuf {
        self.stage.bed.layout.disk(&self.node, "var/lib/etcd")
    }

    fn until(&self, what: &str, look: impl FnMut() -> bool) {
        self.stage.until(&format!("{}: {what}; keeper: {}", self.node.name, self.state()), LIMIT, look);
    }
}

#[test]
fn a_member_that_is_hurt_comes_back_or_says_why_not() {
    if !is_sampled("a_member_that_is_hurt_comes_back_or_says_why_not") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    stage.pivot(3);
    let nodes = stage.bed.options().all();
    let member = |index: usize| Member { stage: &stage, node: nodes[index].clone() };
    out_of_memory(&member(1));
    a_frozen_keeper(&member(2));
    a_late_disk(&member(1));
    wiped_data(&member(2));
}

/// The kernel kills etcd for want of memory in its cgroup: the same member comes back.
fn out_of_memory(member: &Member) {
    let before = member.etcd().expect("an etcd");
    let limit = MemoryLimit::of(before);
    // The heap that it has, and no room for the answers below.
    limit.set(limit.used() + (4 << 20));
    let endpoint = format!("https://{}:2379", member.node.ip());
    let started = Instant::now();
    while limit.kills() == 0 {
        assert!(started.elapsed() < LIMIT, "the kernel killed nothing");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| member.stage.bed.etcdctl(&endpoint, &["get", "", "--prefix", "-w", "json"]).map(|t| t.len()));
            }
        });
    }
    limit.lift();
    member.until("another etcd serves after the kernel killed one", || {
        member.etcd().is_some_and(|pid| pid != before) && member.serves()
    });
    assert_eq!(member.stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}

/// A keeper that stands still for a minute: etcd runs on, and is not started again afterwards.
fn a_frozen_keeper(member: &Member) {
    let before = member.etcd().expect("an etcd");
    faults::signal(&member.node, Process::Keeper, Signal::Pause).unwrap();
    std::thread::sleep(Duration::from_secs(60));
    assert!(member.serves(), "etcd serves without its keeper");
    faults::signal(&member.node, Process::Keeper, Signal::Resume).unwrap();
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(member.etcd(), Some(before));
    assert!(member.serves());
}

/// The node starts while another file system is where its data belongs, empty; then the disk is there. Nothing is replaced, and the member
/// goes on.
fn a_late_disk(member: &Member) {
    let node = std::slice::from_ref(&member.node);
    member.stage.bed.power_cut(node).unwrap();
    member.stage.bed.start(node).unwrap();
    // Long before the node's containerd is up, and right after its own file systems are mounted.
    member.until("its file system is there", || exec(&member.node, &["mount", "-t", "tmpfs", "tmpfs", "/var/lib/etcd"]).is_ok());
    let problem = ["get", "etcdm", "kube-etcd-cp2", "-n", "kube-system", "-o", "jsonpath={.status.problem}"];
    member.until("the agent misses the disk", || member.stage.bed.kubectl(&problem).is_ok_and(|p| p == "DiskMissing"));
    assert_eq!(member.etcd(), None);
    assert_eq!(
        exec(&member.node, &["ls", "-A", "/var/lib/etcd"]).unwrap().trim(),
        "",
        "something was made on the wrong file system"
    );
    exec(&member.node, &["umount", "/var/lib/etcd"]).unwrap();
    member.until("etcd serves once the disk is there", || member.serves());
    assert_eq!(member.stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}

/// The data is gone when etcd starts again in the same pod: it must not join under its old ID, and another member takes its place.
fn wiped_data(member: &Member) {
    let data = member.data().join("kube-system/kube-etcd/cp3-1");
    std::fs::remove_dir_all(&data).unwrap();
    faults::signal(&member.node, Process::Etcd, Signal::Kill).unwrap();
    member.until("another member takes its place", || member.stage.members() == ["cp1-1", "cp2-1", "cp3-2"]);
    member.until("it serves", || member.serves());
    member.stage.wait_for("Ready", LIMIT);
    assert!(!data.exists(), "the old one was started on an empty directory");
}

/// The memory cgroup of a process's container, whichever version the machine has.
struct MemoryLimit {
    folder: PathBuf,
    is_v2: bool,
    before: String,
}

impl MemoryLimit {
    fn of(pid: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = |hierarchy: &str| {
            text.lines().find_map(|l| l.split_once(hierarchy).map(|(_, path)| path.trim_start_matches('/').to_owned()))
        };
        let v1 = path(":memory:");
        let is_v2 = v1.is_none();
        let folder = match v1 {
            Some(path) => PathBuf::from("/sys/fs/cgroup/memory").join(path),
            None => PathBuf::from("/sys/fs/cgroup").join(path("0::").expect("a cgroup")),
        };
        let mut limit = Self { folder, is_v2, before: String::new() };
        limit.before = limit.read(limit.limit_file());
        limit
    }

    fn limit_file(&self) -> &'static str {
        if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_default().trim().to_owned()
    }

    /// Bytes in use that are not the page cache's.
    fn used(&self) -> u64 {
        let wanted = if self.is_v2 { "anon " } else { "rss " };
        let stat = self.read("memory.stat");
        stat.lines().find_map(|l| l.strip_prefix(wanted)).and_then(|v| v.parse().ok()).unwrap()
    }

    fn set(&self, bytes: u64) {
        std::fs::write(self.folder.join(self.limit_file()), bytes.to_string()).unwrap();
    }

    fn lift(&self) {
        // The container may have ended with its cgroup.
        let _ = std::fs::write(self.folder.join(self.limit_file()), &self.before);
    }

    /// How often the kernel killed for want of memory here; the cgroup of a container that ended was killed as a whole.
    fn kills(&self) -> u64 {
        if !self.folder.exists() {
            return 1;
        }
        let events = self.read(if self.is_v2 { "memory.events" } else { "memory.oom_control" });
        events.lines().find_map(|l| l.strip_prefix("oom_kill ")).and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}
