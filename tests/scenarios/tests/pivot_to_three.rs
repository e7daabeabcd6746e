//! Three members take over from boot; nobody who uses the API notices; all nodes lose power and come back.

use std::time::Duration;

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_scenarios::{Stage, is_sampled, pivot_that_loses_nothing};

#[test]
fn a_pivot_to_three_loses_no_write_and_survives_a_power_cut() {
    let stage = pivot_that_loses_nothing("cp1", 3);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);

    // Run again it says that all is done.
    stage.pivot(3);

    // Boot was removed once, as etcd's own logs say.
    let boot = stage.cluster()["status"]["pivot"]["bootMemberID"].as_str().unwrap().to_owned();
    assert_eq!(stage.removals_logged(&boot), [1, 1, 1]);

    // All nodes lose power, and when they are on again there is no API server yet, so no agent either.
    let nodes = stage.bed.options().all();
    stage.bed.power_cut(&nodes).unwrap();
    let manifest = stage.bed.layout.disk(&nodes[0], "etc/kubernetes/manifests/boot-kube-apiserver.yaml");
    let aside = stage.bed.layout.path("boot-kube-apiserver.yaml");
    std::fs::rename(&manifest, &aside).unwrap();
    stage.bed.start(&nodes).unwrap();
    stage.until("all three serve", Duration::from_secs(120), || {
        nodes.iter().all(|n| stage.bed.etcdctl(&format!("https://{}:2379", n.ip()), &["get", "no-such-key"]).is_ok())
    });
    for node in &nodes {
        assert!(faults::find(node, Process::Agent).unwrap().is_empty(), "an agent runs on {}", node.name);
    }
    std::fs::rename(&aside, &manifest).unwrap();
    stage.bed.wait_api().unwrap();
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    stage.wait_for("Ready", Duration::from_secs(120));
}

#[test]
fn the_same_power_cut_with_plain_static_pods() {
    if !is_sampled("the_same_power_cut_with_plain_static_pods") {
        return;
    }
    // Twice each, as a start takes some seconds more or less.
    let mut lines = Vec::new();
    for (name, pivot) in [
        ("the operator's members", Stage::pivot as fn(&Stage, u32)),
        ("plain static pods", |s, size| s.by_hand(size, &[("WAIT_CLIENTS", "1")])),
    ] {
        let stage = Stage::with_boot_on("cp1");
        pivot(&stage, 3);
        let took = [stage.power_cut_and_back(), stage.power_cut_and_back()].map(|d| d.as_secs_f32());
        assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
        lines.push(format!("power cut of all nodes, then /readyz: {name}: {:.1} s and {:.1} s", took[0], took[1]));
    }
    println!("{}", lines.join("\n"));
}
