//! `spec.etcd` is changed on members that run, under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_scenarios::{Stage, assert_unharmed, is_sampled};

const LIMIT: Duration = Duration::from_secs(400);

/// PID and heartbeat of each node's etcd.
fn etcds(stage: &Stage) -> BTreeMap<String, (i32, bool)> {
    let of = |node: &etcd_operator_bed::layout::Node| {
        let pid = *faults::find(node, Process::Etcd).unwrap().first()?;
        let flags = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some((node.name.clone(), (pid, flags.contains("--heartbeat-interval=200"))))
    };
    stage.bed.options().all().iter().filter_map(of).collect()
}

fn patch(stage: &Stage, spec: &str) {
    let patch = format!(r#"{{"spec":{spec}}}"#);
    stage.bed.kubectl(&["patch", "etcd", "kube-etcd", "-n", "kube-system", "--type=merge", "-p", &patch]).unwrap();
}

#[test]
fn other_settings_roll_out_one_member_at_a_time() {
    if !is_sampled("other_settings_roll_out_one_member_at_a_time") {
        return;
    }
    let stage = Stage::on(3);
    stage.pivot(3);
    stage.wait_for("Ready", LIMIT);
    let (before, leader) = (etcds(&stage), stage.leader());
    assert_eq!(before.len(), 3);
    let mut order = Vec::new();
    let verdict = stage.under_witness(
        Some(3),
        |_| {},
        || {
            let started = Instant::now();
            patch(&stage, r#"{"etcd":{"heartbeatInterval":200,"electionTimeout":2000}}"#);
            stage.until("all run with them", LIMIT, || {
                let now = etcds(&stage);
                assert!(now.len() >= 2, "more than one is down: {now:?}");
                for (node, (_, has)) in now {
                    if has && !order.contains(&node) {
                        order.push(node);
                    }
                }
                order.len() == 3
            });
            stage.wait_for("Ready", LIMIT);
            println!("== three members with other settings after {:.1} s", started.elapsed().as_secs_f32());
        },
    );
    assert_unharmed(&verdict);
    assert_eq!(order.last(), Some(&leader), "the leader is the last: {order:?}");
    let after = etcds(&stage);
    assert!(after.iter().all(|(node, (pid, has))| *has && before[node].0 != *pid), "{before:?} {after:?}");

    // What would not fit side by side is refused, and stops nothing else.
    patch(&stage, r#"{"etcd":{"heartbeatInterval":5000,"electionTimeout":50000}}"#);
    stage.until("it is held", LIMIT, || stage.cluster()["status"]["reason"] == "InvalidSpec");
    let message = stage.cluster()["status"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("5000 ms") && message.contains("in steps"), "{message}");
    patch(&stage, r#"{"etcd":{"heartbeatInterval":200,"electionTimeout":2000}}"#);
    stage.wait_for("Ready", LIMIT);
    assert_eq!(etcds(&stage), after, "nothing was restarted");
    let took = stage.power_cut_and_back();
    println!("/readyz {:.1} s after the power was back", took.as_secs_f32());
}
