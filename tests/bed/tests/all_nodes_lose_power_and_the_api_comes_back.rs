//! From nothing to a control plane, a power cut of all nodes, back by itself, a frozen copy, and nothing left behind.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test ends where something is not as it says.

use std::path::Path;
use std::time::Duration;

use etcd_operator_bed::cmd::wait_for;
use etcd_operator_bed::{Bed, Layout, Options, TestBed, down};

/// The bed's names on this machine: there should be none after `down`.
fn remains() -> Vec<String> {
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.path().display().to_string()).collect()
    };
    let mut all = names("/sys/class/net");
    all.extend(names("/run/netns"));
    all.extend(names("/run"));
    all.extend(names("/sys/fs/cgroup"));
    all.extend(names("/sys/fs/cgroup").iter().flat_map(|h| names(h)));
    let ours = |p: &String| {
        let name = Path::new(p).file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("etcdbed") || name.starts_with("eb-")
    };
    all.retain(ours);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    all.extend(mounts.lines().filter(|l| l.contains("etcdbed")).map(str::to_owned));
    all
}

#[test]
fn all_nodes_lose_power_and_the_api_comes_back() {
    let layout = Layout::find(None).unwrap();
    down(&layout).unwrap();
    assert_eq!(remains(), Vec::<String>::new(), "left behind by `down`");

    let bed = TestBed::new(Bed::up(layout.clone(), Options::default()).unwrap());
    // A static pod's mirror is posted some time after its node is Ready.
    wait_for("boot's pod to show", Duration::from_secs(60), "bed status", || {
        let pods = bed.kubectl(&["get", "pods", "-n", "kube-system", "-o", "name"]).map_err(|e| e.to_string())?;
        if pods.contains("boot-etcd-cp1") { Ok(()) } else { Err(pods) }
    })
    .unwrap();
    bed.kubectl(&["create", "configmap", "before", "-n", "default"]).unwrap();

    let nodes = bed.options().all();
    bed.power_cut(&nodes).unwrap();
    assert!(bed.status().unwrap().nodes.iter().all(|n| !n.on));
    let since = etcd_operator_bed::now();
    bed.start(&nodes).unwrap();
    let took = bed.wait_api().unwrap();
    println!("/readyz {:.1} s after all nodes were switched on again", took.as_secs_f32());
    bed.wait_nodes_ready(&nodes, Some(&since)).unwrap();
    bed.kubectl(&["get", "configmap", "before", "-n", "default"]).unwrap();

    bed.freeze("selftest").unwrap();
    drop(bed);
    assert_eq!(remains(), Vec::<String>::new(), "left behind by a bed whose nodes were off");
    let bed = TestBed::new(Bed::thaw(layout.clone(), "selftest").unwrap());
    bed.kubectl(&["get", "configmap", "before", "-n", "default"]).unwrap();
    drop(bed);
    assert_eq!(remains(), Vec::<String>::new(), "left behind by a thawed bed");
    std::fs::remove_dir_all(layout.path("frozen/selftest")).unwrap();

    // The smallest and the largest.
    for nodes in [1, 5] {
        let bed = TestBed::new(Bed::up(layout.clone(), Options { nodes, ..Options::default() }).unwrap());
        assert_eq!(bed.status().unwrap().nodes.iter().filter(|n| n.on).count(), usize::from(nodes));
        drop(bed);
        assert_eq!(remains(), Vec::<String>::new(), "left behind by {nodes} node(s)");
    }
}
