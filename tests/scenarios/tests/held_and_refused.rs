//! What cannot be done is refused or held, with the reason and the way out, and boot is untouched.

use std::process::Command;
use std::time::Duration;

use etcd_operator_scenarios::{Stage, text_of};
use serde_json::{Value, json};

/// Posts an EtcdCluster, waits for the reason, takes the object away again.
fn held(stage: &Stage, spec: Value, reason: &str, words: &str) {
    let object = json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster",
                        "metadata": {"name": "kube-etcd", "namespace": "kube-system"}, "spec": spec});
    stage.bed.apply(&object).unwrap();
    stage.until(reason, Duration::from_secs(60), || stage.cluster()["status"]["reason"] == reason);
    let message = stage.cluster()["status"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(words), "{reason}: wanted {words:?} in {message:?}");
    stage.bed.kubectl(&["delete", "etcd", "kube-etcd", "-n", "kube-system"]).unwrap();
    stage.bed.kubectl(&["delete", "etcdmembers", "--all", "-n", "kube-system"]).unwrap();
}

fn spec(stage: &Stage) -> Value {
    json!({"size": 3, "selfHosted": {"bootMemberClientEndpoint": stage.boot_endpoint()}})
}

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[field] = value;
    spec
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason_and_boot_is_untouched() {
    let stage = Stage::with_boot_on("cp1");
    let good = spec(&stage);
    let ip = stage.boot_endpoint().trim_start_matches("https://").split(':').next().unwrap().to_owned();

    held(&stage, with(good.clone(), "/size", json!(5)), "NotEnoughNodes", "only 3 node(s)");
    held(&stage, with(good.clone(), "/pod", json!({"nodeSelector": {"no-such": "label"}})), "NoControlNode", "no-such=label");
    held(&stage, with(good.clone(), "/version", json!("3.5.26")), "InvalidSpec", "one minor version");
    let closed = format!("https://{ip}:12399");
    held(&stage, with(good.clone(), "/selfHosted/bootMemberClientEndpoint", json!(closed)), "BootUnreachable", "12399");
    held(
        &stage,
        with(good.clone(), "/TLS", json!({"ca": {"secretName": "no-such-secret"}})),
        "CaSecretUnusable",
        "no-such-secret",
    );

    // A port in use on one node.
    let layout = &stage.bed.layout;
    let node = stage.bed.options().all().remove(1);
    let address = format!("TCP-LISTEN:2380,bind={},fork", node.ip());
    let mut listener = Command::new(layout.path("bin/bed"))
        .args(["exec", &node.name, "--", "timeout", "20", "socat", &address, "/dev/null"])
        .spawn()
        .unwrap();
    held(&stage, good.clone(), "PreflightFailed", "2380");
    // Ended by its own limit: a signal to `bed exec` does not reach into the node.
    listener.wait().unwrap();

    // The command: usage errors, a refusal by the API, a check that passes and leaves nothing.
    let run = |args: &[&str]| {
        let mut command = stage.pivot_command(3);
        let output = command.args(args).output().unwrap();
        (output.status.code().unwrap(), text_of(&output))
    };
    for (args, code, words) in [
        (&["--name", "a/b"][..], 2, "--name"),
        (&["--namespace", "default"], 6, "kube-system only"),
        (&["--etcd-version", "latest"], 2, "--etcd-version"),
        (&["--abort"], 6, "no EtcdCluster"),
    ] {
        let (exit, text) = run(args);
        assert_eq!(exit, code, "{args:?}: {text}");
        assert!(text.contains(words), "{args:?}: wanted {words:?} in {text}");
    }
    let _ = stage.bed.kubectl(&["delete", "etcd", "--all", "-n", "default"]);
    let (exit, text) = run(&["--check"]);
    assert_eq!(exit, 0, "{text}");
    assert_eq!(stage.bed.kubectl(&["get", "etcd,etcdm", "-n", "kube-system", "-o", "name"]).unwrap().trim(), "");
    for node in stage.bed.options().all() {
        assert!(!layout.disk(&node, "etc/kubernetes/manifests/etcd-kube-etcd.yaml").exists());
    }
    assert_eq!(stage.members(), ["boot"]);
}

#[test]
fn an_api_server_that_lists_only_boot_holds_the_pivot() {
    if !etcd_operator_scenarios::is_sampled("an_api_server_that_lists_only_boot_holds_the_pivot") {
        return;
    }
    let stage = Stage::with_api_server_on_boot_only();
    let output = stage.pivot_command(3).args(["--timeout", "400"]).output().unwrap();
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("ApiServerOnBootMember") && text.contains("--etcd-servers"), "{text}");
    assert!(stage.members().contains(&"boot".to_owned()));
}
