//! Boot is a plain process on a node, which no kubelet starts again: a program of the installer stops it (`boot-command.sh`).

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_bed::layout::Node;
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled, text_of};
use serde_json::Value;

/// Where boot is kept on its node.
const BOOT_DIR: &str = "/var/lib/boot-etcd-process";
/// For a kubelet that takes a pod away, an etcd that starts, an API that comes back.
const LIMIT: Duration = Duration::from_secs(180);
/// Longer than a watchdog waits before it starts boot again.
const WATCHDOG: Duration = Duration::from_secs(15);

/// A stage whose boot is no pod any more.
struct PlainBoot {
    stage: Stage,
    node: Node,
}

impl PlainBoot {
    fn new() -> Self {
        let stage = Stage::with_boot_on("cp1");
        let node = stage.bed.options().boot().unwrap();
        let plain = Self { stage, node };
        let layout = &plain.stage.bed.layout;
        let manifest = layout.disk(&plain.node, "etc/kubernetes/manifests/boot-etcd.yaml");
        let pod: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
        let dir = layout.disk(&plain.node, BOOT_DIR.trim_start_matches('/'));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("run"), run_file(&pod["spec"]["containers"][0]["command"])).unwrap();
        std::fs::rename(&manifest, layout.path("boot-etcd.yaml")).unwrap();
        plain.stage.until("boot's pod is gone", LIMIT, || plain.processes().is_empty());
        plain.call("start");
        plain.stage.bed.wait_api().unwrap();
        plain.stage.wait_for_operator();
        assert_eq!(plain.processes().len(), 1);
        plain
    }

    /// Boot's processes.
    fn processes(&self) -> Vec<i32> {
        faults::find(&self.node, Process::BootEtcd).unwrap()
    }

    fn script(&self) -> PathBuf {
        self.stage.bed.layout.checkout.join("tests/scenarios/boot-command.sh")
    }

    /// Where the script finds boot.
    fn environment(&self, command: &mut Command) {
        let on = format!("{} exec {} --", self.stage.bed.layout.path("bin/bed").display(), self.node.name);
        command.env("BOOT_ON", on).env("BOOT_DIR", BOOT_DIR);
    }

    /// Calls the script as the pivot command does.
    fn call(&self, verb: &str) {
        let mut command = Command::new(self.script());
        self.environment(&mut command);
        let status = command.arg(verb).status().unwrap();
        assert!(status.success(), "boot-command.sh {verb}: {status}");
    }

    fn pivot_command(&self, size: u32, program: &Path) -> Command {
        let mut command = self.stage.pivot_command(size);
        self.environment(&mut command);
        command.arg("--boot-command").arg(program);
        command
    }

    fn pivot(&self, size: u32) {
        let status = self.pivot_command(size, &self.script()).status().unwrap();
        assert!(status.success(), "the pivot ended with {status}; {}", self.stage.explain());
    }

    /// Boot was killed, this is written down, and it does not start again: neither by a watchdog nor when it is told to.
    fn assert_stays_away(&self) {
        let answer = self.stage.cluster()["metadata"]["annotations"]["etcd.database.coreos.com/boot-command"].clone();
        assert!(answer.as_str().unwrap_or_default().ends_with("/Gone"), "{answer}");
        self.call("start");
        std::thread::sleep(WATCHDOG);
        assert_eq!(self.processes(), [0; 0], "boot was started again");
    }
}

/// The pod's command as a script that becomes it.
fn run_file(command: &Value) -> String {
    let words = command.as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    words.fold("exec".to_owned(), |mut line, word| {
        assert!(!word.contains('\''), "{word}");
        write!(line, " '{word}'").unwrap();
        line
    })
}

fn pivot_of_a_plain_boot(size: u32) -> PlainBoot {
    let boot = PlainBoot::new();
    let verdict = boot.stage.under_witness(Some(size as usize), |_| {}, || boot.pivot(size));
    assert_unharmed(&verdict);
    boot.assert_stays_away();
    boot
}

#[test]
fn a_plain_boot_and_three_members() {
    if !is_sampled("a_plain_boot_and_three_members") {
        return;
    }
    let boot = pivot_of_a_plain_boot(3);
    assert_eq!(boot.stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    // Run again, it says that all is done, and does not call the program.
    boot.pivot(3);
}

#[test]
fn a_plain_boot_and_one_member_beside_it() {
    if !is_sampled("a_plain_boot_and_one_member_beside_it") {
        return;
    }
    let boot = pivot_of_a_plain_boot(1);
    assert_eq!(boot.stage.members(), ["cp1-1"]);
}

#[test]
fn the_pivot_command_dies_right_after_it_signalled_boot() {
    if !is_sampled("the_pivot_command_dies_right_after_it_signalled_boot") {
        return;
    }
    let boot = PlainBoot::new();
    let stage = &boot.stage;

    // Not without a program that can be run; and without any, what is no pod is held before anything is changed.
    let output = boot.pivot_command(3, Path::new("/no/such/program")).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text_of(&output));
    assert!(text_of(&output).contains("--boot-command /no/such/program"), "{}", text_of(&output));
    assert!(stage.bed.kubectl(&["get", "etcd", "-n", "kube-system", "-o", "name"]).unwrap().trim().is_empty());
    let output = stage.pivot_command(3).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text_of(&output));
    assert!(
        text_of(&output).contains("BootProcessNotFound") && text_of(&output).contains("--boot-command"),
        "{}",
        text_of(&output)
    );

    let dir = tempfile::tempdir().unwrap();
    let deadly = dir.path().join("deadly.sh");
    let (script, done) = (boot.script(), dir.path().join("done"));
    // Its caller dies, once, as soon as boot was signalled.
    let text = format!(
        "#!/bin/sh\nset -e\n'{}' \"$1\"\nif [ \"$1\" = drain ] && [ ! -e '{done}' ]; then : >'{done}'; kill -KILL $PPID; fi\n",
        script.display(),
        done = done.display()
    );
    std::fs::write(&deadly, text).unwrap();
    std::fs::set_permissions(&deadly, std::fs::Permissions::from_mode(0o755)).unwrap();
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let status = boot.pivot_command(3, &deadly).status().unwrap();
            assert_eq!(status.signal(), Some(9), "{status}; {}", stage.explain());
            boot.pivot(3);
        },
    );
    assert_unharmed(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    boot.assert_stays_away();
}
