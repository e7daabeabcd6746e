//! An API server that has been up for 6 min, whose channels to the seats try only every 2 min, and 1 GB in boot: slower, and nothing fails.

use std::time::{Duration, Instant};

use etcd_operator_scenarios::{Stage, assert_clean, assert_unharmed, is_sampled};
use serde_json::Value;

/// gRPC's backoff has reached its longest pause, 120 s, after some 5 min.
const OLD: Duration = Duration::from_secs(360);
/// 1 GB in values of 1 MB: a request of etcd's may have 1.5 MB.
const VALUES: usize = 1_000;
const VALUE_BYTES: usize = 1_000_000;

#[test]
fn an_old_api_server_and_a_gigabyte_lose_no_write() {
    if !is_sampled("an_old_api_server_and_a_gigabyte_lose_no_write") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    let began = Instant::now();
    fill(&stage, VALUES);
    println!(
        "boot holds {:.2} GB after {:.0} s; waiting until the API server is {} s old",
        gigabytes(&stage),
        began.elapsed().as_secs_f32(),
        OLD.as_secs()
    );
    std::thread::sleep(OLD.saturating_sub(began.elapsed()));
    let before = stage.under_witness(None, |_| {}, || std::thread::sleep(Duration::from_secs(10)));
    assert_clean(&before);
    let pivot = Instant::now();
    let verdict = stage.under_witness(Some(3), |_| {}, || stage.pivot(3));
    assert_unharmed(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    println!("1 GB, API SERVER {} s OLD: pivot in {:.0} s", OLD.as_secs(), pivot.elapsed().as_secs_f32());
    for (member, seconds) in joins(&verdict) {
        println!(
            "  learner {member}: {:.1} s from its MemberAdd to its promotion, {:.1} s/GB",
            seconds,
            seconds / gigabytes(&stage)
        );
    }
    let ratio = verdict.writes.p99_ms / before.writes.p99_ms;
    println!(
        "  writes' p99: {:.1} ms before, {:.1} ms during it ({ratio:.1} times)",
        before.writes.p99_ms, verdict.writes.p99_ms
    );
    println!(
        "  longest gap {:.0} ms, longest silence of a watch {:.0} ms",
        verdict.writes.longest_gap_ms, verdict.watches.longest_silence_ms
    );
}

/// Writes values that compress badly, beside what the API server reads.
fn fill(stage: &Stage, values: usize) {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut value = String::with_capacity(VALUE_BYTES);
    for number in 0..values {
        value.clear();
        while value.len() < VALUE_BYTES {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            value.push_str(&format!("{seed:016x}"));
        }
        stage
            .bed
            .etcdctl_with_input(&stage.boot_endpoint(), &["put", &format!("ballast/{number:04}")], value.as_bytes())
            .unwrap();
    }
}

fn gigabytes(stage: &Stage) -> f64 {
    let member = stage.members().first().cloned();
    let endpoint = if member.as_deref() == Some("boot") {
        stage.boot_endpoint()
    } else {
        format!("https://{}:2379", stage.bed.options().all()[0].ip())
    };
    let text = stage.bed.etcdctl(&endpoint, &["endpoint", "status", "-w", "json"]).unwrap();
    let status: Value = serde_json::from_str(&text).unwrap();
    status[0]["Status"]["dbSize"].as_f64().unwrap() / 1e9
}

/// Name of each member that was promoted, and the seconds since a learner was last added.
fn joins(verdict: &etcd_operator_witness::Verdict) -> Vec<(String, f64)> {
    let mut added = 0.0;
    let mut joins = Vec::new();
    for phase in &verdict.etcd.membership {
        if phase.change.contains("+learner") {
            added = phase.at;
        }
        if let Some(name) = phase.change.strip_prefix("promoted ") {
            joins.push((name.to_owned(), phase.at - added));
        }
    }
    joins
}
