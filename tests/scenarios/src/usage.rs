//! What the operator writes and uses.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_bed::layout::Node;
use serde_json::Value;

use crate::Stage;

/// Verb and resource of each write of the operator's, as the API server recorded them.
#[must_use]
pub fn audited(stage: &Stage, node: &Node) -> Vec<String> {
    let log = std::fs::read_to_string(stage.bed.layout.disk(node, "var/log/kube-apiserver/audit.log")).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.map(|e| format!("{} {} by {}", e["verb"], e["requestURI"], e["user"]["username"])).collect()
}

/// Resident memory (MiB) and CPU time (s) of the operator's processes.
#[must_use]
pub fn used(nodes: &[Node]) -> BTreeMap<String, (f64, f64)> {
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

/// Sums of the leading controller's counters, by name without labels. Empty where none leads.
#[must_use]
pub fn counters(nodes: &[Node]) -> BTreeMap<String, f64> {
    let all = nodes.iter().flat_map(|node| (23_791..23_795).map(move |port| (node.ip(), port)));
    let leads = |text: &String| text.lines().any(|line| line == "etcd_operator_leading 1");
    let text = all.filter_map(|(ip, port)| get(&format!("{ip}:{port}"), "/metrics")).find(leads).unwrap_or_default();
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or_default();
        if let (true, Ok(value)) = (name.ends_with("_total") || name.ends_with("_count"), value.parse::<f64>()) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

/// The body of an answer over plain HTTP.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}
