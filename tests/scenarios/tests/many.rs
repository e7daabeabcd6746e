//! Fifty EtcdClusters beside the datastore, on five nodes: they settle, each with real etcds; then nothing is written, and what the operator costs is printed.

use std::time::Duration;

use etcd_operator_scenarios::others::{NAMESPACE, host, kubectl, post, wait_ready};
use etcd_operator_scenarios::usage::{audited, counters, used};
use etcd_operator_scenarios::{Stage, is_sampled};
use serde_json::json;

const CLUSTERS: u32 = 50;
/// So many of them have three members.
const OF_THREE: u32 = 5;
/// For all of them, on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);
const AT_REST: Duration = Duration::from_secs(120);
/// Passes per cluster in that time, at most: three times what looking every 10 s makes.
const PASSES: f64 = 36.0;

#[test]
fn fifty_clusters_settle_and_rest() {
    if !is_sampled("fifty_clusters_settle_and_rest") {
        return;
    }
    let stage = Stage::on(5);
    stage.pivot(3);
    host(&stage);
    let size = |number: u32| if number <= OF_THREE { 3 } else { 1_u64 };
    let started = std::time::Instant::now();
    for number in 1..=CLUSTERS {
        post(&stage, &format!("c{number}"), json!({"size": size(number)}));
    }
    for number in 1..=CLUSTERS {
        wait_ready(&stage, &format!("c{number}"), size(number), LIMIT);
    }
    println!(
        "{CLUSTERS} clusters, {OF_THREE} of three members, were ready {:.0} s after the first was posted",
        started.elapsed().as_secs_f32()
    );
    stage.wait_for("Ready", LIMIT);

    let nodes = stage.bed.options().all();
    let boot = stage.bed.options().boot().unwrap();
    let requests = || audited(&stage, &boot).into_iter().filter(|r| !r.contains("leases")).collect::<Vec<_>>();
    stage.until("the operator's last write", LIMIT, || {
        let before = requests().len();
        std::thread::sleep(Duration::from_secs(20));
        requests().len() == before
    });
    let (before, calls, usage) = (requests().len(), counters(&nodes), used(&nodes));
    std::thread::sleep(AT_REST);
    let (now, uses) = (counters(&nodes), used(&nodes));
    assert_eq!(requests().split_off(before), Vec::<String>::new(), "written at rest");
    let all = f64::from(CLUSTERS + 1);
    let done = |name: &str| now[name] - calls[name];
    for name in [
        "etcd_operator_passes_total",
        "etcd_operator_api_call_duration_seconds_count",
        "etcd_operator_etcd_call_duration_seconds_count",
    ] {
        println!("  {name}: {:.1} per cluster and minute", done(name) / all / AT_REST.as_secs_f64() * 60.0);
    }
    let passes = done("etcd_operator_passes_total") / all;
    assert!(passes > 0.0 && passes < PASSES, "{passes} passes per cluster in {} s", AT_REST.as_secs());
    for (process, (rss, cpu)) in uses.iter().filter(|(process, _)| !process.starts_with("Keeper")) {
        let spent = cpu - usage.get(process).map_or(0.0, |(_, before)| *before);
        println!("  {process}: {rss:.0} MiB resident, {:.2} % of a core", 100.0 * spent / AT_REST.as_secs_f64());
    }

    // One among them is still looked after, and one ends.
    kubectl(&stage, &["scale", "etcd/c50", "-n", NAMESPACE, "--replicas=3"]);
    wait_ready(&stage, "c50", 3, LIMIT);
    kubectl(&stage, &["delete", "etcd", "c49", "-n", NAMESPACE, "--timeout=300s"]);
}
