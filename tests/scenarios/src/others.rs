//! EtcdClusters beside the datastore.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Stage;

/// Where they are.
pub const NAMESPACE: &str = "kube-system";

/// The operator may host them.
pub fn host(stage: &Stage) {
    let rights = stage.bed.layout.checkout.join("deploy/standalone.yaml");
    kubectl(stage, &["apply", "-f", &rights.to_string_lossy()]);
    stage.set("ETCD_OPERATOR_STANDALONE", "true");
}

/// An EtcdCluster as a user would post it.
pub fn post(stage: &Stage, name: &str, mut spec: Value) {
    spec["version"] = stage.cluster()["spec"]["version"].clone();
    spec["etcd"] = json!({"quotaBackendBytes": 1 << 30});
    let object = json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    let file = stage.bed.layout.path(&format!("{name}.json"));
    std::fs::write(&file, object.to_string()).unwrap();
    kubectl(stage, &["apply", "-f", &file.to_string_lossy()]);
}

/// `kubectl`, which must do it; what it printed.
#[allow(clippy::must_use_candidate, reason = "often only what it does counts")]
pub fn kubectl(stage: &Stage, args: &[&str]) -> String {
    stage.bed.kubectl(args).unwrap()
}

/// An object; `Null` if there is none.
#[must_use]
pub fn get(stage: &Stage, kind: &str, name: &str) -> Value {
    let text = kubectl(stage, &["get", kind, name, "-n", NAMESPACE, "-o", "json", "--ignore-not-found"]);
    serde_json::from_str(&text).unwrap_or_default()
}

/// Waits until it has so many members, as told last.
pub fn wait_ready(stage: &Stage, name: &str, size: u64, limit: Duration) {
    stage.until(&format!("{name} has {size} members"), limit, || {
        let cluster = get(stage, "etcd", name);
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        let is_told = cluster["status"]["observedGeneration"] == cluster["metadata"]["generation"];
        cluster["status"]["size"] == size && is_ready && is_told
    });
    println!("== {name} has {size} members");
}
