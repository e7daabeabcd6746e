//! After the pivot, under 50 writes a second of others: the operator writes nothing and asks for no change of the membership.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_bed::layout::Node;
use etcd_operator_scenarios::{Stage, assert_clean, is_sampled};
use serde_json::Value;

const AT_REST: Duration = Duration::from_secs(300);

#[test]
fn at_rest_it_writes_nothing() {
    if !is_sampled("at_rest_it_writes_nothing") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    stage.pivot(3);
    stage.wait_for("Ready", Duration::from_secs(60));
    let nodes = stage.bed.options().all();
    let boot = stage.bed.options().boot().unwrap();
    let requests = || audited(&stage, &boot);
    // The last of the pivot's own writes may come a moment later: until two looks see the same, Leases apart.
    let writes = || requests().iter().filter(|r| !r.contains("leases")).count();
    stage.until("the operator's last write", Duration::from_secs(120), || {
        let before = writes();
        std::thread::sleep(Duration::from_secs(5));
        writes() == before
    });
    let (before, changes, usage) = (requests(), membership_lines(&stage), used(&nodes));
    assert!(before.len() > 20, "the audit log has only {} writes of the operator in a whole pivot", before.len());
    let verdict = stage.under_witness(Some(3), |_| {}, || std::thread::sleep(AT_REST));
    assert_clean(&verdict);
    let written: Vec<String> = requests().split_off(before.len()).into_iter().filter(|r| !r.contains("leases")).collect();
    assert_eq!(written, Vec::<String>::new(), "written at rest");
    assert_eq!(membership_lines(&stage), changes, "membership changed at rest");
    println!("AT REST for {} s under {} writes/s: 0 writes of the operator but Leases", AT_REST.as_secs(), verdict.writes.rate);
    for (process, (rss, cpu)) in used(&nodes) {
        let spent = cpu - usage.get(&process).map_or(0.0, |(_, before)| *before);
        println!("  {process}: {rss:.0} MiB resident, {:.2} % of a core", 100.0 * spent / AT_REST.as_secs_f64());
    }
}

/// Verb and resource of each write of the operator's, as the API server recorded them.
fn audited(stage: &Stage, node: &Node) -> Vec<String> {
    let log = std::fs::read_to_string(stage.bed.layout.disk(node, "var/log/kube-apiserver/audit.log")).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.map(|e| format!("{} {} by {}", e["verb"], e["requestURI"], e["user"]["username"])).collect()
}

/// How many lines about members all of the node's etcds have logged.
fn membership_lines(stage: &Stage) -> usize {
    let words = ["\"added member\"", "\"removed member\"", "\"promote member\"", "\"updated member\""];
    stage.etcd_logs().iter().flat_map(|log| log.lines()).filter(|line| words.iter().any(|w| line.contains(w))).count()
}

/// Resident memory (MiB) and CPU time (s) of the operator's processes.
fn used(nodes: &[Node]) -> BTreeMap<String, (f64, f64)> {
    let mut all = BTreeMap::new();
    for node in nodes {
        for process in [Process::Controller, Process::Agent, Process::Keeper] {
            for (number, pid) in faults::find(node, process).unwrap().into_iter().enumerate() {
                let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let status = read("status");
                let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
                // User and system time, in ticks of 1/100 s, are the 12th and 13th field behind the name.
                let stat = read("stat");
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
                let ticks = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum::<f64>();
                all.insert(format!("{process:?} {} on {}", number + 1, node.name), (rss.unwrap_or(0.0) / 1024.0, ticks / 100.0));
            }
        }
    }
    all
}
