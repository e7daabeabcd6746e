//! A pivot on nodes that have a kubelet and little else: no DNS (the bed has none), no pod network, no kube-proxy; and kubelets that are
//! killed as the manifests appear (F22, F23).

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_operator_bed::faults::{self, Process, Signal};
use etcd_operator_bed::node::exec;
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

#[test]
fn a_pivot_needs_no_network_addon_and_outlives_its_kubelets() {
    if !is_sampled("a_pivot_needs_no_network_addon_and_outlives_its_kubelets") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    let nodes = stage.bed.options().all();
    for node in &nodes {
        faults::signal(node, Process::KubeProxy, Signal::Pause).unwrap();
        for table in ["nat", "filter", "mangle"] {
            exec(node, &["iptables", "-w", "-t", table, "-F"]).unwrap();
        }
        // containerd watches the folder: from now on it has no network for pods.
        std::fs::remove_file(stage.bed.layout.disk(node, "etc/kubernetes/cni/10-bed.conflist")).unwrap();
    }
    let ready =
        || stage.bed.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"]);
    stage.until("no node is Ready, for want of a network", Duration::from_secs(60), || {
        ready().is_ok_and(|text| text.split_whitespace().all(|status| status == "False"))
    });
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let mut pivot = stage.begin_pivot(3);
            let mut killed = BTreeSet::new();
            let status = loop {
                if let Some(status) = pivot.0.try_wait().unwrap() {
                    break status;
                }
                for node in nodes.iter().filter(|node| !killed.contains(&node.index)).cloned().collect::<Vec<_>>() {
                    if stage.bed.layout.disk(&node, "etc/kubernetes/manifests/etcd-kube-etcd.yaml").exists() {
                        faults::signal(&node, Process::Kubelet, Signal::Kill).unwrap();
                        println!("the kubelet on {} was killed as the manifest appeared", node.name);
                        killed.insert(node.index);
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            };
            assert!(status.success(), "the pivot ended with {status}; {}", stage.explain());
            assert_eq!(killed.len(), nodes.len());
        },
    );
    assert_unharmed(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    // One etcd a node, whatever its kubelet went through.
    for node in &nodes {
        assert_eq!(faults::find(node, Process::Etcd).unwrap().len(), 1, "{}", node.name);
    }
}
