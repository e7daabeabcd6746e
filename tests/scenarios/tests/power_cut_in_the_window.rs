//! All nodes lose power after boot was told to stop and before it was removed: it comes back by itself, and the pivot completes.

use std::process::Stdio;
use std::time::Duration;

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_scenarios::{Stage, is_sampled};

fn cut_in_the_window(size: u32, members: &[&str]) {
    let stage = Stage::with_boot_on("cp1");
    let nodes = stage.bed.options().all();
    let boot_node = nodes[0].clone();
    let mut pivot = stage.pivot_command(size).stdout(Stdio::null()).spawn().unwrap();
    // Boot's agent stands still from the moment when only boot's removal is left, so that the window stays open for us.
    let phase = || stage.cluster()["status"]["pivot"]["phase"].as_str().unwrap_or_default().to_owned();
    let near = ["WaitingForClients", "Gate", "MovingLeader", "RemovingBoot"];
    stage.until("clients are waited for", Duration::from_secs(300), || near.contains(&phase().as_str()));
    stage.until("the drain is ordered", Duration::from_secs(300), || {
        faults::signal(&boot_node, Process::Agent, Signal::Pause).unwrap();
        let text =
            stage.bed.kubectl(&["get", "etcdm", "kube-etcd-boot", "-n", "kube-system", "-o", "jsonpath={.spec.boot.drain.id}"]);
        let ordered = text.is_ok_and(|t| !t.is_empty());
        if !ordered {
            faults::signal(&boot_node, Process::Agent, Signal::Resume).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        ordered
    });
    for node in &nodes {
        let _ = faults::signal(node, Process::Controller, Signal::Pause);
    }
    faults::signal(&boot_node, Process::Agent, Signal::Resume).unwrap();
    let journal = stage.bed.layout.disk(&boot_node, "var/lib/etcd-operator/kube-system/kube-etcd/boot/drain.json");
    stage.until("boot is signalled", Duration::from_secs(9), || {
        std::fs::read_to_string(&journal).is_ok_and(|t| t.contains("Signalled"))
    });
    stage.bed.power_cut(&nodes).unwrap();
    let _ = pivot.kill();
    let _ = pivot.wait();

    stage.bed.start(&nodes).unwrap();
    stage.bed.wait_api().unwrap();
    assert!(stage.members().contains(&"boot".to_owned()), "boot was not removed before the cut");
    // By itself: nobody runs the command again.
    stage.wait_for("PivotComplete", Duration::from_secs(300));
    assert_eq!(stage.members(), members);
}

#[test]
fn with_three_members() {
    if is_sampled("with_three_members") {
        cut_in_the_window(3, &["cp1-1", "cp2-1", "cp3-1"]);
    }
}

#[test]
fn with_one_member() {
    if is_sampled("with_one_member") {
        cut_in_the_window(1, &["cp1-1"]);
    }
}
