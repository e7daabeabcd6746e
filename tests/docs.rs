//! Documents that must not drift from the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test ends where something fails")]

use std::collections::BTreeSet;

use etcd_operator_plan::{HoldReason, WaitFor};

fn sections() -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/runbooks.md")).unwrap();
    text.lines().filter_map(|l| l.strip_prefix("### ")).map(|s| s.trim().to_owned()).collect()
}

#[test]
fn each_reason_that_can_be_shown_has_a_runbook_section() {
    let mut reasons: BTreeSet<String> = HoldReason::ALL.iter().map(|r| r.as_str().to_owned()).collect();
    reasons.extend(WaitFor::ALL.iter().map(|r| r.as_str().to_owned()));
    reasons.extend(etcd_operator_keeper::table::Reason::ALL.iter().map(ToString::to_string));
    reasons.extend(etcd_operator_agent::Reason::ALL.iter().map(|r| r.word().to_owned()));
    reasons.extend(etcd_operator_api::condition::Reason::ALL.iter().map(|r| r.as_str().to_owned()));
    // A phase that ends a pivot.
    reasons.insert("Aborted".to_owned());
    let sections = sections();
    let missing: Vec<_> = reasons.difference(&sections).collect();
    assert!(missing.is_empty(), "docs/runbooks.md lacks {missing:?}");
    let stale: Vec<_> = sections.difference(&reasons).collect();
    assert!(stale.is_empty(), "docs/runbooks.md explains what does not exist: {stale:?}");
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
