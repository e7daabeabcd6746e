//! After the pivot, under 50 writes a second of others: the operator writes nothing and asks for no change of the membership.

use std::time::Duration;

use etcd_operator_scenarios::usage::{audited, used};
use etcd_operator_scenarios::{Stage, assert_clean, is_sampled};

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

/// How many lines about members all of the node's etcds have logged.
fn membership_lines(stage: &Stage) -> usize {
    let words = ["\"added member\"", "\"removed member\"", "\"promote member\"", "\"updated member\""];
    stage.etcd_logs().iter().flat_map(|log| log.lines()).filter(|line| words.iter().any(|w| line.contains(w))).count()
}
