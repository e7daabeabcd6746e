//! What cannot be done is refused or held, with the reason and the way out, and boot is untouched.

use std::process::Command;
use std::time::Duration;

use etcd_operator_bed::binaries;
use etcd_operator_scenarios::{Ended, Stage, text_of};
use serde_json::{Value, json};

/// Posts an EtcdCluster, waits for the reason, takes the object away again.
fn held(stage: &Stage, spec: Value, reason: &str, words: &str) {
    let mut object = stage.etcd_cluster(3);
    object["spec"] = spec;
    stage.bed.apply(&object).unwrap();
    stage.until(reason, Duration::from_secs(60), || stage.cluster()["status"]["reason"] == reason);
    let message = stage.cluster()["status"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains(words), "{reason}: wanted {words:?} in {message:?}");
    stage.bed.kubectl(&["delete", "etcd", "kube-etcd", "-n", "kube-system"]).unwrap();
    stage.bed.kubectl(&["delete", "etcdmembers", "--all", "-n", "kube-system"]).unwrap();
}

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[field] = value;
    spec
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason_and_boot_is_untouched() {
    let stage = Stage::with_boot_on("cp1");
    let good = stage.etcd_cluster(3)["spec"].take();
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

    restricted_pods(&stage, &good);
    another_ca(&stage, &good);
    a_second_member(&stage, &good);
    an_old_boot(&stage, &good);

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

/// An EtcdCluster that somebody wrote to get at the nodes (F32): refused in words that name the field, and nothing of it reaches a node.
#[test]
fn an_enemys_cluster_reaches_no_node() {
    let stage = Stage::with_boot_on("cp1");
    let good = stage.etcd_cluster(3)["spec"].take();
    let on_nodes = || {
        let of = |node: &etcd_operator_bed::layout::Node| {
            ["etc/kubernetes/manifests", "var/lib/etcd", "var/lib/etcd-operator/kube-system"].map(|folder| {
                let entries = std::fs::read_dir(stage.bed.layout.disk(node, folder)).into_iter().flatten();
                let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
                names.sort();
                names
            })
        };
        stage.bed.options().all().iter().map(of).collect::<Vec<_>>()
    };
    // The folder of keys that each candidate has.
    held(&stage, with(good.clone(), "/size", json!(5)), "NotEnoughNodes", "only 3 node(s)");
    let before = on_nodes();
    let yaml = "x\n  hostPID: true\n---\nkind: Pod";
    for (pointer, value, reason, words) in [
        ("/repository", json!("evil.example/etcd"), "PreflightFailed", "--allowed-image"),
        ("/repository", json!("etcd.test/../../etcd"), "InvalidSpec", "spec.repository"),
        ("/pod", json!({"labels": {"app": yaml}}), "InvalidSpec", "spec.pod.labels"),
        ("/pod", json!({"labels": {"../../../etc/cron.d/x": "y"}}), "InvalidSpec", "spec.pod.labels"),
        ("/pod", json!({"labels": {"etcd.database.coreos.com/cluster": "other"}}), "InvalidSpec", "spec.pod.labels"),
        ("/pod", json!({"annotations": {"note": "bell\u{7} and \u{1b}[31m"}}), "InvalidSpec", "spec.pod.annotations"),
        ("/pod", json!({"annotations": {"note": "x".repeat(200_000)}}), "InvalidSpec", "spec.pod.annotations"),
        ("/pod", json!({"resources": {"limits": {"memory": "1Gi; reboot"}}}), "InvalidSpec", "spec.pod.resources.limits"),
        ("/pod", json!({"resources": {"limits": {"example.com/gpu": "1"}}}), "InvalidSpec", "spec.pod.resources.limits"),
        ("/pod", json!({"nodeSelector": {"no-such": "label"}}), "NoControlNode", "no-such=label"),
        ("/TLS", json!({"ca": {"secretName": "../../secrets/other"}}), "CaSecretUnusable", "other"),
    ] {
        held(&stage, with(good.clone(), pointer, value), reason, words);
        assert_eq!(on_nodes(), before, "{pointer} {words}");
    }
    assert_eq!(stage.members(), ["boot"]);

    // A pod that the admission of the API server takes, and no kubelet can run: put right, the pivot goes on.
    stage.bed.apply(&with(stage.etcd_cluster(3), "/spec/pod", json!({"resources": {"requests": {"cpu": "1000"}}}))).unwrap();
    stage.until("members are prepared", Duration::from_secs(60), || stage.cluster()["status"]["reason"] == "MembersPrepared");
    let smaller = r#"{"spec":{"pod":{"resources":{"requests":{"cpu":"50m"}}}}}"#;
    stage.bed.kubectl(&["patch", "etcd", "kube-etcd", "-n", "kube-system", "--type=merge", "-p", smaller]).unwrap();
    stage.wait_for("PivotComplete", Duration::from_secs(300));
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}

/// The namespace would refuse the members' pods.
fn restricted_pods(stage: &Stage, good: &Value) {
    let label = |label: &str| stage.bed.kubectl(&["label", "--overwrite", "namespace", "kube-system", label]).unwrap();
    label("pod-security.kubernetes.io/enforce=baseline");
    held(stage, good.clone(), "PreflightFailed", "enforce=privileged");
    label("pod-security.kubernetes.io/enforce-");
}

/// The Secret holds a CA that did not sign boot's certificate.
fn another_ca(stage: &Stage, good: &Value) {
    let secret = ["get", "secret", "etcd-ca", "-n", "kube-system", "-o", "json"];
    let mut before: Value = serde_json::from_str(&stage.bed.kubectl(&secret).unwrap()).unwrap();
    before["metadata"] = json!({"name": "etcd-ca", "namespace": "kube-system"});
    let [crt, key] = ["other-ca.crt", "other-ca.key"].map(|f| stage.bed.layout.path(f));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=other",
        ])
        .arg("-out")
        .arg(&crt)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text_of(&made));
    let mut other = before.clone();
    other.as_object_mut().unwrap().remove("data");
    let read = |path| std::fs::read_to_string(path).unwrap();
    other["stringData"] = json!({"tls.crt": read(&crt), "tls.key": read(&key)});
    stage.bed.apply(&other).unwrap();
    held(stage, good.clone(), "CaNotTrustedByBoot", "etcd-ca");
    stage.bed.apply(&before).unwrap();
}

/// Boot is not alone.
fn a_second_member(stage: &Stage, good: &Value) {
    let endpoint = stage.boot_endpoint();
    let add = ["member", "add", "stranger", "--learner", "--peer-urls", "https://10.9.9.9:2380", "-w", "json"];
    let added: Value = serde_json::from_str(&stage.bed.etcdctl(&endpoint, &add).unwrap()).unwrap();
    held(stage, good.clone(), "BootNotAlone", "10.9.9.9");
    let id = format!("{:x}", added["member"]["ID"].as_u64().unwrap());
    stage.bed.etcdctl(&endpoint, &["member", "remove", &id]).unwrap();
}

/// A boot older than 3.5.26: a real one, beside the bed's own.
fn an_old_boot(stage: &Stage, good: &Value) {
    let layout = &stage.bed.layout;
    let etcd = binaries::go(layout, "etcd-3.5").unwrap().join("etcd").display().to_string();
    let node = stage.bed.options().boot().unwrap();
    let pki = layout.disk(&node, "etc/kubernetes/pki/etcd");
    let file = |name: &str| pki.join(name).display().to_string();
    let (client, peer) = (format!("https://{}:12389", node.ip()), format!("https://{}:12390", node.ip()));
    let data = tempfile::tempdir().unwrap();
    let _old = Ended(
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.netns()))
            .args([&etcd, "--name=old", "--log-level=error", "--client-cert-auth", "--peer-client-cert-auth"])
            .arg(format!("--data-dir={}", data.path().display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=old={peer}"))
            .args([format!("--trusted-ca-file={}", file("ca.crt")), format!("--peer-trusted-ca-file={}", file("ca.crt"))])
            .args([format!("--cert-file={}", file("server.crt")), format!("--key-file={}", file("server.key"))])
            .args([format!("--peer-cert-file={}", file("peer.crt")), format!("--peer-key-file={}", file("peer.key"))])
            .spawn()
            .unwrap(),
    );
    stage.until("the old etcd serves", Duration::from_secs(30), || stage.bed.etcdctl(&client, &["endpoint", "status"]).is_ok());
    held(stage, with(good.clone(), "/selfHosted/bootMemberClientEndpoint", json!(client)), "BootTooOld", "3.5.26");
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
    // However long.
    std::thread::sleep(Duration::from_secs(60));
    assert_eq!(stage.cluster()["status"]["reason"], "ApiServerOnBootMember");
    assert!(stage.members().contains(&"boot".to_owned()));
}
