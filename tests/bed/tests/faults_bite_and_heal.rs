//! Each fault that the bed can make is felt where it should be, only there, and heals.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test ends where something is not as it says.

use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Direction, Process, Signal};
use etcd_operator_bed::layout::Node;
use etcd_operator_bed::{Bed, Layout, Options, TestBed, down, node};

/// Whether the kubelet of `to` accepts a connection from within `from`.
fn reaches(from: &Node, to: &Node) -> bool {
    let dial = format!("exec 3<>/dev/tcp/{}/10250", to.ip());
    node::exec(from, &["timeout", "1", "bash", "-c", &dial]).is_ok()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "not in 60 s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn faults_bite_and_heal() {
    let layout = Layout::find(None).unwrap();
    down(&layout).unwrap();
    let bed = TestBed::new(Bed::up(layout, Options { boot_node: "cp3".into(), ..Options::default() }).unwrap());
    let options = bed.options().clone();
    let [cp1, cp2, cp3] = [1, 2, 3].map(Node::new);

    assert!(reaches(&cp1, &cp2) && reaches(&cp2, &cp1));
    faults::partition(&options, "cp1", "cp2", Direction::Both).unwrap();
    assert!(!reaches(&cp1, &cp2) && !reaches(&cp2, &cp1));
    assert!(reaches(&cp1, &cp3) && reaches(&cp3, &cp2));
    assert_eq!(bed.status().unwrap().nodes[0].faults.len(), 2);
    faults::heal(&options).unwrap();
    assert!(reaches(&cp1, &cp2) && reaches(&cp2, &cp1));

    faults::link(&cp1, Some("100%"), Some("1mbit")).unwrap();
    assert!(!reaches(&cp2, &cp1) && reaches(&cp2, &cp3));
    faults::heal(&options).unwrap();
    assert!(reaches(&cp2, &cp1));
    assert!(bed.status().unwrap().nodes.iter().all(|n| n.faults.is_empty()));

    // A paused boot etcd: the API cannot read. It goes on where it stood.
    let before = faults::find(&cp3, Process::BootEtcd).unwrap();
    faults::signal(&cp3, Process::BootEtcd, Signal::Pause).unwrap();
    assert!(bed.kubectl(&["get", "configmaps", "-n", "default", "--request-timeout=2s"]).is_err());
    faults::signal(&cp3, Process::BootEtcd, Signal::Resume).unwrap();
    eventually("the API reads again", || bed.kubectl(&["get", "configmaps", "-n", "default"]).is_ok());
    assert_eq!(faults::find(&cp3, Process::BootEtcd).unwrap(), before);
    assert!(faults::find(&cp1, Process::BootEtcd).unwrap().is_empty());

    for process in [Process::Kubelet, Process::Containerd] {
        let killed = faults::signal(&cp2, process, Signal::Kill).unwrap();
        eventually("the node's init starts it again", || {
            faults::find(&cp2, process).unwrap().iter().any(|pid| !killed.contains(pid))
        });
    }
    bed.wait_nodes_ready(&[cp2], Some(&etcd_operator_bed::now())).unwrap();
}
