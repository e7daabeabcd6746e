//! Documents that must not drift from the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test ends where something fails")]

use std::collections::BTreeSet;

use etcd_operator_plan::{HoldReason, WaitFor};

fn sections() -> BTreeSet<String> {
    read("docs/runbooks.md").lines().filter_map(|l| l.strip_prefix("### ")).map(|s| s.trim().to_owned()).collect()
}

#[test]
fn each_reason_that_can_be_shown_has_a_runbook_section() {
    let mut reasons: BTreeSet<String> = HoldReason::ALL.iter().map(|r| r.as_str().to_owned()).collect();
    reasons.extend(WaitFor::ALL.iter().map(|r| r.as_str().to_owned()));
    reasons.extend(etcd_operator_keeper::table::Reason::ALL.iter().map(ToString::to_string));
    reasons.extend(etcd_operator_agent::Reason::ALL.iter().map(|r| r.word().to_owned()));
    reasons.extend(etcd_operator::controller::BackupReason::ALL.iter().map(ToString::to_string));
    reasons.extend(etcd_operator_backup::Reason::ALL.iter().map(|r| r.word().to_owned()));
    reasons.extend(etcd_operator_api::condition::Reason::ALL.iter().map(|r| r.as_str().to_owned()));
    // A phase that ends a pivot.
    reasons.insert("Aborted".to_owned());
    reasons.extend(rules().iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()));
    let sections = sections();
    let missing: Vec<_> = reasons.difference(&sections).collect();
    assert!(missing.is_empty(), "docs/runbooks.md lacks {missing:?}");
    let stale: Vec<_> = sections.difference(&reasons).collect();
    assert!(stale.is_empty(), "docs/runbooks.md explains what does not exist: {stale:?}");
}

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn rules() -> Vec<serde_json::Value> {
    let file: serde_json::Value = serde_yaml_ng::from_str(&read("deploy/monitoring/rules.yaml")).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The names of our metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.match_indices("etcd_operator_").map(|(at, _)| text[at..].split(|c| !is_name(c)).next().unwrap().to_owned());
    names.collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    use etcd_operator::telemetry::metrics::{GAUGES, Metrics, Outcome, Sample};
    use etcd_operator_client::{ApiCall, CallObserver};
    let metrics = Metrics::default();
    let sample = |gauge: &&'static _| Sample { gauge, labels: Vec::new(), value: 1.0 };
    metrics.set_cluster("c", Some(GAUGES.iter().map(sample).collect()));
    let second = std::time::Duration::from_secs(1);
    metrics.pass("c", Outcome::Step, second, 1);
    metrics.step("c", "Promote", "done");
    metrics.etcd_call("Status", "ok", second);
    metrics.called(&ApiCall { verb: "get", resource: String::new(), code: Some(200), took: second });
    let backup = serde_json::json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdBackup",
        "metadata": {"name": "b"}, "spec": {"clusterName": "c"}, "status": {"lastSuccessDate": "2026-01-01T00:00:00Z"}});
    let (backups, mut writer) = kube::runtime::reflector::store::<etcd_operator_api::EtcdBackup>();
    writer.apply_watcher_event(&kube::runtime::watcher::Event::Apply(serde_json::from_value(backup).unwrap()));
    metrics.backups.watch(backups);
    let existing = metrics_in(&metrics.text().unwrap());
    for file in ["rules.yaml", "rules.test.yaml", "dashboard.json"] {
        let used = metrics_in(&read(&format!("deploy/monitoring/{file}")));
        assert!(used.len() > 9, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&existing).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
    let tested = read("deploy/monitoring/rules.test.yaml");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tested.matches(name).count() >= 2, "{name}: once where it fires, once where it is silent");
    }
}

#[test]
fn the_crds_in_the_repository_are_those_of_the_types() {
    for (name, crd) in etcd_operator_api::crds() {
        let path = format!("{}/crds/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let in_repository: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(in_repository, serde_json::to_value(&crd).unwrap(), "{path}: run `make crds`");
    }
}
