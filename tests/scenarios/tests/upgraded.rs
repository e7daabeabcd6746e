//! Another build of the operator in the middle of a pivot (F35): first the controllers alone, one version ahead of the agents; then the agents;
//! then the keepers, one after the other, while their etcds run on.

use std::time::Duration;

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn the_operator_is_upgraded_in_the_middle_of_a_pivot() {
    if !is_sampled("the_operator_is_upgraded_in_the_middle_of_a_pivot") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    let nodes = stage.bed.options().all();
    let kubectl = |args: &[&str]| stage.bed.kubectl(args).unwrap();
    let restart = |what: &str| {
        kubectl(&["rollout", "restart", "-n", "kube-system", what]);
        kubectl(&["rollout", "status", "-n", "kube-system", "--timeout=240s", what]);
    };
    let etcds = || nodes.iter().map(|n| faults::find(n, Process::Etcd).unwrap()).collect::<Vec<_>>();
    let digest = |path: &str| {
        let of = |node| stage.bed.layout.disk(node, &format!("var/lib/etcd-operator/kube-system/kube-etcd/bin/{path}"));
        let sum = |node| std::fs::read(of(node)).ok().map(|content| hex(&content));
        nodes.iter().map(sum).collect::<Vec<_>>()
    };
    let binaries = || {
        let list: Value = serde_json::from_str(&kubectl(&["get", "etcdm", "-n", "kube-system", "-o", "json"])).unwrap();
        let seats = list["items"].as_array().unwrap().iter().filter(|m| m["spec"]["role"] == "Member").cloned();
        seats.map(|m| m["status"]["keeper"]["binary"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let old = hex(&std::fs::read(stage.bed.layout.bin("etcd-operator")).unwrap());

    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let mut pivot = stage.begin_pivot(3);
            stage.until("the first member votes", LIMIT, || {
                stage.cluster()["status"]["members"]["ready"].as_array().is_some_and(|r| r.len() > 1)
            });
            stage.bed.load_another_build().unwrap();
            restart("deployment/etcd-operator-controller");
            assert!(pivot.0.try_wait().unwrap().is_none(), "the pivot ended before the upgrade");
            println!("== the controllers are upgraded");
            stage.end_pivot(pivot);
            stage.wait_for("Ready", LIMIT);
            let before = etcds();
            // The controllers are one version ahead: nobody can bring their keeper.
            std::thread::sleep(Duration::from_secs(15));
            assert_eq!(binaries(), vec![old.clone(); 3]);

            restart("daemonset/etcd-operator-agent");
            println!("== the agents are upgraded");
            let new = hex(&std::fs::read(stage.bed.layout.bin("etcd-operator")).unwrap());
            assert_ne!(new, old);
            stage.until("all keepers are handed over", LIMIT, || binaries() == vec![new.clone(); 3]);
            stage.until("and proven", LIMIT, || digest("keeper") == vec![Some(new.clone()); 3]);
            assert_eq!(digest("keeper.prev"), vec![Some(old.clone()); 3]);
            stage.wait_for("Ready", LIMIT);
            assert_eq!(etcds(), before, "an etcd was restarted");
        },
    );
    assert_unharmed(&verdict);

    // What lies there now is what a cold start meets.
    let took = stage.power_cut_and_back();
    println!("/readyz {:.1} s after the power was back, under the new keepers", took.as_secs_f32());
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}

fn hex(content: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}
