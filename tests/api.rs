//! The API types and `deploy/` against a real API server: what is accepted, what is refused and with which words, who may do what.
//!
//! One test function per subject, one API server for all of them: starting it takes longer than the tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where something fails"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PORT: &str = "23890";

struct Api {
    folder: tempfile::TempDir,
    kubectl: PathBuf,
}

impl Api {
    fn up() -> Self {
        let bin = std::env::var("KUBE_BIN").expect("KUBE_BIN: the folder that tests/bed/go/build.sh kubernetes prints");
        let api = Self { folder: tempfile::tempdir().unwrap(), kubectl: Path::new(&bin).join("kubectl") };
        api.loopback("up");
        api
    }

    fn loopback(&self, verb: &str) {
        let script = Path::new(ROOT).join("tests/witness/loopback.sh");
        let status = Command::new(script).arg(verb).arg(self.folder.path()).env("LOOPBACK_PORT", PORT).status().unwrap();
        assert!(status.success(), "loopback.sh {verb}");
    }

    fn kubectl(&self, args: &[&str], input: Option<&Value>) -> Output {
        let mut child = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(self.folder.path().join("admin.kubeconfig"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = input.map(ToString::to_string).unwrap_or_default();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// With a token, and without the admin's certificate, which would win over it.
    fn as_token(&self, token: &str, args: &[&str]) -> Output {
        let server = format!("https://127.0.0.1:{}", PORT.parse::<u16>().unwrap() + 2);
        let ca = self.folder.path().join("ca.crt");
        Command::new(&self.kubectl)
            .args([
                "--kubeconfig=/dev/null",
                "--server",
                &server,
                "--certificate-authority",
                ca.to_str().unwrap(),
                "--token",
                token,
            ])
            .args(args)
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str], input: Option<&Value>) -> String {
        let out = self.kubectl(args, input);
        assert!(out.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// It must be refused, with these words.
    fn refused(&self, args: &[&str], input: Option<&Value>, words: &str) {
        let out = self.kubectl(args, input);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success(), "kubectl {args:?} was accepted: {input:?}");
        assert!(error.contains(words), "kubectl {args:?}: wanted {words:?} in {error}");
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.loopback("down");
    }
}

fn cluster(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdCluster",
           "metadata": {"name": name, "namespace": "kube-system"}, "spec": spec})
}

fn hosted(endpoint: &str) -> Value {
    json!({"size": 3, "selfHosted": {"bootMemberClientEndpoint": endpoint}})
}

const GOOD: &str = "https://10.0.0.1:12379";

#[test]
fn the_api_server_takes_what_is_good_and_refuses_what_is_not() {
    let api = Api::up();
    api.ok(&["apply", "-k", &format!("{ROOT}/deploy")], None);
    for kind in ["etcdbackups", "etcdclusters", "etcdmembers"] {
        let crd = &format!("crd/{kind}.etcd.database.coreos.com");
        api.ok(&["wait", "--for=condition=Established", "--timeout=30s", crd], None);
        // A schema that is not structural is served all the same, without validation: the condition tells.
        let text = api.ok(&["get", crd, "-o", "json"], None);
        assert!(!text.contains("NonStructuralSchema"), "{crd}");
    }
    good_clusters(&api);
    bad_clusters(&api);
    backups(&api);
    immutable_fields(&api);
    scaling(&api);
    applying_twice_changes_nothing(&api);
    a_controller_shows_what_it_does(&api);
    who_may_do_what(&api);
    agents_write_only_of_their_own_node(&api);
    what_the_datastore_hangs_on_is_not_deleted_by_mistake(&api);
}

/// Ended with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn http(port: u16, path: &str) -> Option<String> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The shipped program, on EtcdClusters that have no CA.
fn a_controller_shows_what_it_does(api: &Api) {
    let port = PORT.parse::<u16>().unwrap() + 5;
    let controller = |holder: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-operator"));
        command.args(["controller", "--holder", holder, "--metrics-address", &format!("127.0.0.1:{port}"), "--kubeconfig"]);
        command.arg(api.folder.path().join("admin.kubeconfig")).env("RUST_LOG", "warn").env_remove("KUBECONFIG");
        Running(command.spawn().unwrap())
    };
    let until = |what: &str, port: u16, path: &str, lines: &[&str]| {
        let mut last = None;
        for _ in 0..300 {
            last = http(port, path);
            if last.as_ref().is_some_and(|text| lines.iter().all(|line| text.contains(line))) {
                return last.unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{what} within 30 s: {}", last.unwrap_or_default());
    };
    let mut first = controller("first");
    let held = r#"etcd_operator_hold{cluster="kube-etcd",reason="CaSecretUnusable"} 1"#;
    let lines = [
        "etcd_operator_leading 1",
        held,
        r#"etcd_operator_condition{cluster="kube-etcd",type="Ready"} 0"#,
        // Counted when the pass is over.
        r#"etcd_operator_passes_total{cluster="kube-etcd",outcome="holds"}"#,
        r#"etcd_operator_api_call_duration_seconds_count{verb="watch",resource="etcdclusters",code="200"} 1"#,
        r#"etcd_operator_api_call_duration_seconds_count{verb="update",resource="etcdclusters/status",code="200"}"#,
        "etcd_operator_size_wanted{cluster=\"kube-etcd\"} ",
    ];
    until("it leads and says why it holds", port, "/metrics", &lines);
    until("it is ready", port, "/readyz", &["200 OK"]);
    until("it lives", port, "/livez", &["200 OK"]);
    // Another one on the same node: the next port, and nothing to say of clusters that it does not lead.
    let _second = controller("second");
    let text = until("the other one answers", port + 1, "/metrics", &["etcd_operator_leading 0", "# EOF"]);
    assert!(!text.contains("etcd_operator_hold{"), "{text}");
    until("the other one is ready", port + 1, "/readyz", &["200 OK"]);
    let pid = rustix::process::Pid::from_child(&first.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(first.0.wait().unwrap().success(), "it ends well when it is told to");
    until("the other one takes over", port + 1, "/metrics", &["etcd_operator_leading 1", held]);
}

fn good_clusters(api: &Api) {
    let fixture: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{ROOT}/tests/fixtures/bootkube.json")).unwrap()).unwrap();
    api.ok(&["create", "-f", "-"], Some(&fixture));
    let text = api.ok(&["get", "etcd", "kube-etcd", "-n", "kube-system", "-o", "json"], None);
    let stored: Value = serde_json::from_str(&text).unwrap();
    // Nothing that was posted is pruned: what is ignored must be named in a condition.
    assert_eq!(stored["spec"]["TLS"], fixture["spec"]["TLS"]);
    assert_eq!(stored["spec"]["pod"], fixture["spec"]["pod"]);
    let typed: etcd_operator_api::EtcdCluster = serde_json::from_value(stored).unwrap();
    assert_eq!(typed.spec.plain_version(), "3.6.16");
    assert_eq!(typed.spec.ignored_fields(), ["spec.TLS.static", "spec.pod.tolerations"]);
    assert!(typed.spec.node_selector().contains_key("node-role.kubernetes.io/control-plane"));

    every_field_of_the_ancestor(api);
    api.ok(&["create", "-f", "-"], Some(&cluster("defaults", hosted(GOOD))));
    let mut tuned = hosted(GOOD);
    tuned["etcd"] = json!({"quotaBackendBytes": 4_i64 << 30, "heartbeatInterval": 200});
    api.ok(&["create", "--dry-run=server", "-f", "-"], Some(&cluster("tuned", tuned)));
    let of = |path: &str| api.ok(&["get", "etcd", "defaults", "-n", "kube-system", "-o", &format!("jsonpath={{{path}}}")], None);
    assert_eq!(of(".spec.paused"), "false");
    let table = api.ok(&["get", "etcd", "-n", "kube-system"], None);
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["NAME", "SIZE", "READY", "VERSION", "PHASE", "PIVOT", "REASON", "AGE"]);
    let version = api.ok(&["get", "etcd", "defaults", "-n", "kube-system", "-o", "jsonpath={.spec.version}"], None);
    assert_eq!(version, etcd_operator_api::cluster::default_version());
}

/// What docs/compatibility.md says of each field: accepted, kept, and named if it has no effect.
fn every_field_of_the_ancestor(api: &Api) {
    let text = std::fs::read_to_string(format!("{ROOT}/tests/fixtures/every-field.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    api.ok(&["create", "-f", "-"], Some(&fixture));
    let text = api.ok(&["get", "etcd", "every-field", "-n", "kube-system", "-o", "json"], None);
    let stored: Value = serde_json::from_str(&text).unwrap();
    for (field, value) in fixture["spec"].as_object().unwrap() {
        if field != "selfHosted" {
            assert_eq!(stored["spec"][field], *value, "{field}");
        }
    }
    let typed: etcd_operator_api::EtcdCluster = serde_json::from_value(stored).unwrap();
    let ignored = typed.spec.ignored_fields();
    let table = std::fs::read_to_string(format!("{ROOT}/docs/compatibility.md")).unwrap();
    let said = |field: &str| {
        let last = field.rsplit('.').next().unwrap();
        table.lines().any(|line| line.contains("FieldIgnored") && line.split(['`', '.']).any(|word| word == last))
    };
    for field in &ignored {
        assert!(said(field), "docs/compatibility.md does not say that {field} is ignored");
    }
    assert_eq!(ignored.len(), 11, "{ignored:?}");
    let spec = &typed.spec;
    assert!(spec.paused && spec.self_hosted.as_ref().unwrap().skip_boot_member_removal);
    assert_eq!(spec.pod.as_ref().unwrap().resources.as_ref().unwrap().limits["memory"], "4Gi");
}

fn bad_clusters(api: &Api) {
    let with = |field: &str, value: Value| {
        let mut spec = hosted(GOOD);
        spec[field] = value;
        spec
    };
    let cases = [
        ("size0", with("size", json!(0)), "spec.size: must be 1 to 9"),
        ("size11", with("size", json!(11)), "spec.size: must be 1 to 9"),
        ("negative", with("size", json!(-1)), "spec.size: must be 1 to 9"),
        ("text", with("size", json!("3")), "spec.size"),
        ("version", with("version", json!("latest")), "spec.version: must be a version of etcd"),
        ("control", with("version", json!("3.6.16\n")), "spec.version: must be a version of etcd"),
        ("repository", with("repository", json!("evil;rm -rf /")), "spec.repository: an image repository"),
        ("quota", with("etcd", json!({"quotaBackendBytes": 1024})), "spec.etcd.quotaBackendBytes: must be"),
        ("heartbeat", with("etcd", json!({"heartbeatInterval": 5})), "spec.etcd.heartbeatInterval: must be"),
        ("election", with("etcd", json!({"heartbeatInterval": 300})), "spec.etcd.electionTimeout: must be at least five times"),
        ("http", hosted("http://10.0.0.1:12379"), "must be https://<IPv4>:<port>; plain http"),
        ("name", hosted("https://boot.example:12379"), "must be https://<IPv4>:<port>"),
        ("path", hosted("https://10.0.0.1:12379/../../x"), "must be https://<IPv4>:<port>"),
        ("a-name-that-is-much-too-long-for-the-files-made-from-it", hosted(GOOD), "metadata.name: at most 40"),
        ("with.dots", hosted(GOOD), "metadata.name: at most 40"),
        ("port", with("firstPort", json!(23_000)), "spec.firstPort: not with spec.selfHosted"),
        ("low-port", json!({"size": 1, "firstPort": 443}), "spec.firstPort: must be 1024 to 65531"),
        ("datastores-port", json!({"size": 1, "firstPort": 2377}), "spec.firstPort: 2379 to 2383"),
        ("datastores-ca", json!({"size": 1, "TLS": {"ca": {"secretName": "etcd-ca"}}}), "spec.TLS.ca.secretName: etcd-ca is"),
    ];
    for (name, spec, words) in cases {
        api.refused(&["create", "-f", "-"], Some(&cluster(name, spec)), words);
    }
    api.refused(&["create", "-f", "-"], Some(&cluster("a/b", hosted(GOOD))), "metadata.name");
}

fn backups(api: &Api) {
    let backup = |name: &str, spec: Value| {
        json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdBackup",
               "metadata": {"name": name, "namespace": "kube-system"}, "spec": spec})
    };
    let policy = |policy: Value| json!({"clusterName": "kube-etcd", "backupPolicy": policy});
    let s3 = |s3: Value| json!({"clusterName": "kube-etcd", "storageType": "S3", "s3": s3});
    for (name, spec) in [
        ("once", json!({"clusterName": "kube-etcd"})),
        ("nightly", policy(json!({"schedule": "0 3 * * *", "timeZone": "Europe/Berlin", "maxBackups": 14}))),
        (
            "bucket",
            s3(
                json!({"path": "b/some/where", "endpoint": "https://s3.example:9000", "forcePathStyle": true, "awsSecret": "etcd-backup"}),
            ),
        ),
        ("amazon", s3(json!({"path": "b"}))),
        ("ancestors", policy(json!({"timeoutInSecond": 0, "backupIntervalInSecond": 3600, "maxBackups": 0}))),
    ] {
        api.ok(&["create", "-f", "-"], Some(&backup(name, spec)));
    }
    assert_eq!(api.ok(&["get", "etcdbackup", "once", "-n", "kube-system", "-o", "jsonpath={.spec.storageType}"], None), "Node");
    let cases = [
        ("none", json!({}), "spec.clusterName"),
        ("empty", json!({"clusterName": ""}), "spec.clusterName: the name of an EtcdCluster"),
        ("store", json!({"clusterName": "c", "storageType": "Floppy"}), "spec.storageType"),
        ("copies", json!({"clusterName": "c", "node": {"copies": 0}}), "spec.node.copies: 1 to 9"),
        (
            "both",
            policy(json!({"schedule": "@daily", "backupIntervalInSecond": 60})),
            "either schedule or backupIntervalInSecond",
        ),
        ("zone", policy(json!({"timeZone": "UTC"})), "spec.backupPolicy.timeZone: goes with schedule"),
        ("often", policy(json!({"backupIntervalInSecond": 5})), "spec.backupPolicy.backupIntervalInSecond: 60 or more"),
        ("keep", policy(json!({"maxBackups": -1})), "spec.backupPolicy.maxBackups: 1 to 10000"),
        ("age", policy(json!({"maxAgeInSecond": -1})), "spec.backupPolicy.maxAgeInSecond: not negative"),
        ("timeout", policy(json!({"timeoutInSecond": 100_000})), "spec.backupPolicy.timeoutInSecond: 1 to 86400"),
        ("with.dots", json!({"clusterName": "c"}), "metadata.name: at most 52"),
    ];
    for (name, spec, words) in cases {
        api.refused(&["create", "-f", "-"], Some(&backup(name, spec)), words);
    }
}

fn immutable_fields(api: &Api) {
    let patch = |patch: &str, words: &str| {
        api.refused(&["patch", "etcd", "defaults", "-n", "kube-system", "--type=merge", "-p", patch], None, words);
    };
    patch(
        r#"{"spec":{"selfHosted":{"bootMemberClientEndpoint":"https://10.0.0.2:12379"}}}"#,
        "bootMemberClientEndpoint: cannot be changed",
    );
    patch(r#"{"spec":{"selfHosted":null}}"#, "spec.selfHosted: cannot be taken away");
    let with_ca = r#"{"spec":{"TLS":{"ca":{"secretName":"one"}}}}"#;
    api.ok(&["patch", "etcd", "defaults", "-n", "kube-system", "--type=merge", "-p", with_ca], None);
    patch(r#"{"spec":{"TLS":{"ca":{"secretName":"two"}}}}"#, "spec.TLS.ca: cannot be changed");
    patch(r#"{"spec":{"TLS":null}}"#, "spec.TLS.ca: cannot be changed");

    // One that has begun on its own.
    api.ok(&["create", "-f", "-"], Some(&cluster("alone", json!({"size": 1}))));
    let begun = r#"{"status":{"firstPort":22379}}"#;
    api.ok(&["patch", "etcd", "alone", "-n", "kube-system", "--subresource=status", "--type=merge", "-p", begun], None);
    let patch = |patch: &str, words: &str| {
        api.refused(&["patch", "etcd", "alone", "-n", "kube-system", "--type=merge", "-p", patch], None, words);
    };
    let hosted = json!({"spec": hosted(GOOD)}).to_string();
    patch(&hosted, "spec.selfHosted: cannot be added");
    patch(r#"{"spec":{"firstPort":23000}}"#, "spec.firstPort: cannot be changed");
    api.ok(&["patch", "etcd", "alone", "-n", "kube-system", "--type=merge", "-p", r#"{"spec":{"firstPort":22379}}"#], None);
}

fn scaling(api: &Api) {
    api.ok(&["scale", "etcd/defaults", "-n", "kube-system", "--replicas=5"], None);
    assert_eq!(api.ok(&["get", "etcd", "defaults", "-n", "kube-system", "-o", "jsonpath={.spec.size}"], None), "5");
    api.refused(&["scale", "etcd/defaults", "-n", "kube-system", "--replicas=0"], None, "spec.size: must be 1 to 9");
}

fn applying_twice_changes_nothing(api: &Api) {
    let object = cluster("applied", hosted(GOOD));
    let apply = ["apply", "--server-side", "-f", "-"];
    api.ok(&apply, Some(&object));
    let version = || api.ok(&["get", "etcd", "applied", "-n", "kube-system", "-o", "jsonpath={.metadata.resourceVersion}"], None);
    let before = version();
    api.ok(&apply, Some(&object));
    assert_eq!(version(), before);
}

/// With real tokens of the two service accounts.
fn who_may_do_what(api: &Api) {
    let token = |account: &str| api.ok(&["create", "token", account, "-n", "kube-system"], None);
    let (agent, controller) = (token("etcd-operator-agent"), token("etcd-operator-controller"));
    let may = |token: &str, verb: &str, what: &str, namespace: &str| {
        // `kubectl auth can-i` reads TYPE/NAME, and a subresource as a flag.
        let subresource = what.ends_with("/status").then_some("--subresource=status");
        let mut args = vec!["auth", "can-i", verb, what.trim_end_matches("/status"), "-n", namespace];
        args.extend(subresource);
        String::from_utf8_lossy(&api.as_token(token, &args).stdout).trim() == "yes"
    };
    // Who, verb, what, and whether.
    let table = [
        (&agent, "list", "etcdmembers", true),
        (&agent, "patch", "etcdmembers/status", true),
        (&agent, "update", "etcdmembers/status", false),
        (&agent, "update", "etcdmembers", false),
        (&agent, "delete", "etcdmembers", false),
        (&agent, "get", "etcdclusters", false),
        (&agent, "get", "secrets", false),
        (&agent, "list", "secrets", false),
        (&agent, "get", "secrets/etcd-ca", false),
        (&agent, "create", "pods", false),
        (&agent, "get", "configmaps", false),
        (&controller, "get", "secrets/etcd-ca", true),
        (&controller, "get", "secrets/etcd-backup", true),
        (&controller, "update", "etcdmembers", true),
        (&controller, "update", "etcdclusters/status", true),
        (&controller, "update", "etcdbackups/status", true),
        (&controller, "update", "etcdbackups", false),
        (&controller, "delete", "etcdbackups", false),
        (&agent, "get", "etcdbackups", false),
        (&controller, "create", "leases", true),
        (&controller, "update", "leases/etcd-operator", true),
        (&controller, "patch", "configmaps/kube-etcd-endpoints", true),
        (&controller, "get", "namespaces/kube-system", true),
        (&controller, "list", "namespaces", false),
        (&controller, "list", "secrets", false),
        (&controller, "get", "secrets/other", false),
        (&controller, "patch", "etcdmembers/status", false),
        (&controller, "delete", "etcdmembers", false),
        (&controller, "delete", "etcdclusters", false),
        (&controller, "update", "etcdclusters", false),
        (&controller, "update", "leases/kube-scheduler", false),
        // It holds the agents' list of allowed images.
        (&controller, "patch", "configmaps/etcd-operator", false),
        (&controller, "create", "pods", false),
    ];
    for (token, verb, what, wanted) in table {
        let who = if token == &agent { "agent" } else { "controller" };
        assert_eq!(may(token, verb, what, "kube-system"), wanted, "the {who}: {verb} {what}");
    }
    assert!(may(&controller, "update", "etcdclusters/status", "default"), "to refuse an EtcdCluster in another namespace");
    assert!(!may(&controller, "get", "secrets/etcd-ca", "default"));
}

fn member(node: &str) -> Value {
    json!({"apiVersion": "etcd.database.coreos.com/v1beta2", "kind": "EtcdMember",
           "metadata": {"name": format!("kube-etcd-{node}"), "namespace": "kube-system"},
           "spec": {"clusterName": "kube-etcd", "nodeName": node, "role": "Candidate", "generation": 0, "lineage": 0, "nonce": "n"}})
}

/// With real tokens: of the agent's pod on its node, and of none.
fn agents_write_only_of_their_own_node(api: &Api) {
    for node in ["cp1", "cp2"] {
        api.ok(&["create", "-f", "-"], Some(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})));
        api.ok(&["create", "-f", "-"], Some(&member(node)));
    }
    let of_node =
        ["create", "token", "etcd-operator-agent", "-n", "kube-system", "--bound-object-kind=Node", "--bound-object-name=cp1"];
    let of_cp1 = api.ok(&of_node, None);
    let of_none = api.ok(&["create", "token", "etcd-operator-agent", "-n", "kube-system"], None);
    // As the agent writes: server-side apply, without reading first.
    let write = |token: &str, node: &str, fields: Value| {
        let mut object = member(node);
        object["spec"] = fields["spec"].clone();
        object["status"] = fields["status"].clone();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{object}").unwrap();
        let path = file.path().to_str().unwrap();
        let apply = ["apply", "--server-side", "--force-conflicts", "--validate=false", "--subresource=status", "-f", path];
        let out = api.as_token(token, &apply);
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let said = |nonce: &str| json!({"status": {"observedNonce": nonce}});
    // A policy takes effect a moment after it was created.
    let until = |what: &str, good: &dyn Fn() -> bool| {
        for _ in 0..150 {
            if good() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("{what} within 30 s");
    };
    until("the agents' policy is in force", &|| !write(&of_none, "cp1", said("n")).0);
    let (done, why) = write(&of_cp1, "cp1", said("n"));
    assert!(done, "its own node: {why}");
    let (done, why) = write(&of_cp1, "cp2", said("n"));
    assert!(!done && why.contains("its token is of cp1, the EtcdMember of cp2"), "{why}");
    // What the request itself says of the node does not count.
    let (done, why) = write(&of_cp1, "cp2", json!({"spec": {"nodeName": "cp1"}, "status": {"observedNonce": "n"}}));
    assert!(!done && why.contains("the EtcdMember of cp2"), "{why}");
    let (done, why) = write(&of_none, "cp1", said("n"));
    assert!(!done && why.contains("its token is of no node"), "{why}");
    // Others are none of this policy's business.
    let admin = ["patch", "etcdmember", "kube-etcd-cp2", "-n", "kube-system", "--subresource=status", "--type=merge", "-p"];
    api.ok(&[&admin[..], &[&said("n").to_string()]].concat(), None);
    // It is the policy that keeps the agent out, nothing else.
    api.ok(&["delete", "validatingadmissionpolicybinding", "etcd-operator-agents"], None);
    until("without its binding the policy lets all pass", &|| write(&of_cp1, "cp2", said("m")).0);
}

fn what_the_datastore_hangs_on_is_not_deleted_by_mistake(api: &Api) {
    let secret = ["create", "secret", "generic", "etcd-ca", "-n", "kube-system", "--from-literal=tls.crt=x"];
    api.ok(&secret, None);
    api.ok(&["create", "namespace", "precious"], None);
    api.ok(&["label", "namespace", "precious", "etcd.database.coreos.com/protected="], None);
    api.ok(&["create", "-f", "-"], Some(&cluster("hosting", hosted(GOOD))));
    // Before the pivot has begun nothing hangs on it.
    api.ok(&["delete", "etcd", "hosting", "-n", "kube-system"], None);
    api.ok(&["create", "-f", "-"], Some(&cluster("hosting", hosted(GOOD))));
    let begun = r#"{"status":{"pivot":{"phase":"Joining","preflightID":"p1"}}}"#;
    api.ok(&["patch", "etcd", "hosting", "-n", "kube-system", "--subresource=status", "--type=merge", "-p", begun], None);
    // What a check alone leaves is taken back by it.
    let mut only_checked = hosted(GOOD);
    only_checked["selfHosted"]["preflightOnly"] = json!(true);
    api.ok(&["create", "-f", "-"], Some(&cluster("checked", only_checked)));
    api.ok(&["patch", "etcd", "checked", "-n", "kube-system", "--subresource=status", "--type=merge", "-p", begun], None);
    let crd = "etcdmembers.etcd.database.coreos.com";
    let all: [(&[&str], &str); 4] = [
        (&["etcd", "hosting", "-n", "kube-system"], "hosting"),
        (&["crd", crd], crd),
        (&["namespace", "precious"], "precious"),
        (&["secret", "etcd-ca", "-n", "kube-system"], "etcd-ca"),
    ];
    for (what, name) in all {
        let delete = [&["delete", "--wait=false"], what].concat();
        let words = format!("annotate it first: etcd.database.coreos.com/allow-deletion={name}");
        api.refused(&delete, None, &words);
        let key = "etcd.database.coreos.com/allow-deletion";
        api.ok(&[&["annotate"], what, &[&format!("{key}=another")]].concat(), None);
        api.refused(&delete, None, &words);
    }
    api.ok(&["delete", "etcd", "checked", "-n", "kube-system"], None);
    api.refused(&["delete", "etcd", "--all", "-n", "kube-system", "--wait=false"], None, "allow-deletion=hosting");
    for (what, name) in all {
        let annotation = format!("etcd.database.coreos.com/allow-deletion={name}");
        api.ok(&[&["annotate", "--overwrite"], what, &[annotation.as_str()]].concat(), None);
        api.ok(&[&["delete", "--wait=false"], what].concat(), None);
    }
    api.ok(&["create", "namespace", "usual"], None);
    api.ok(&["delete", "namespace", "usual", "--wait=false"], None);
    api.ok(&[&secret[..3], &["other"], &secret[4..]].concat(), None);
    api.ok(&["delete", "secret", "other", "-n", "kube-system"], None);
}
