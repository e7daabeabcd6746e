//! Other clusters beside the datastore, on the same nodes: each begins once, has ports and a CA of its own, serves its clients through a Service, keeps its members,
//! and ends in the archives of its nodes.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use etcd_operator_bed::faults::{self, Process};
use etcd_operator_bed::layout::Node;
use etcd_operator_scenarios::others::{NAMESPACE, get, host, kubectl, post, wait_ready};
use etcd_operator_scenarios::{Stage, assert_clean, is_sampled};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(240);
/// The name that is most easily mistaken for the datastore's.
const ETCD: &str = "etcd";

/// A client of the cluster, with what its Secret holds, at the addresses of its EndpointSlice.
struct Client<'a> {
    stage: &'a Stage,
    files: PathBuf,
    endpoints: Vec<String>,
}

impl<'a> Client<'a> {
    fn of(stage: &'a Stage, name: &str) -> Self {
        let object = format!("{name}-client");
        let files = stage.bed.layout.path(&object);
        std::fs::create_dir_all(&files).unwrap();
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            let path = format!("go-template={{{{index .data \"{file}\" | base64decode}}}}");
            std::fs::write(files.join(file), kubectl(stage, &["get", "secret", &object, "-n", NAMESPACE, "-o", &path])).unwrap();
        }
        let slice = get(stage, "endpointslice", &object);
        let port = slice["ports"][0]["port"].as_u64().unwrap();
        let hosts = slice["endpoints"].as_array().unwrap().iter().map(|e| e["addresses"][0].as_str().unwrap().to_owned());
        Self { stage, files, endpoints: hosts.map(|host| format!("https://{host}:{port}")).collect() }
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let file = |name: &str| self.files.join(name).display().to_string();
        let output = Command::new(self.stage.bed.layout.bin("etcdctl"))
            .args(["--endpoints", &self.endpoints.join(",")])
            .args(["--cacert", &file("ca.crt"), "--cert", &file("tls.crt"), "--key", &file("tls.key")])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

fn data(stage: &Stage, node: &Node, cluster: &str, folder: &str) -> PathBuf {
    stage.bed.layout.disk(node, &format!("var/lib/etcd/{NAMESPACE}/{cluster}/{folder}"))
}

fn archived(stage: &Stage, cluster: &str) -> usize {
    let entries = |node: &Node| std::fs::read_dir(data(stage, node, cluster, "archive")).into_iter().flatten().count();
    stage.bed.options().all().iter().map(entries).sum()
}

/// The data goes under the running etcd of the cluster `etcd`, which then ends.
fn wipe(stage: &Stage, node: &Node, member: &str) {
    std::fs::remove_dir_all(data(stage, node, ETCD, member)).unwrap();
    let is_its = |pid: &i32| {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.contains(&format!("{NAMESPACE}/{ETCD}/{member}"))
    };
    let pids = faults::find(node, Process::Etcd).unwrap();
    let pid = pids.into_iter().find(is_its).expect("its etcd");
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn other_clusters_live_beside_the_datastore_and_end_in_the_archives() {
    if !is_sampled("other_clusters_live_beside_the_datastore_and_end_in_the_archives") {
        return;
    }
    let stage = Stage::with_boot_on("cp1");
    stage.pivot(3);
    let verdict = stage.under_witness(Some(3), |_| {}, || lives_and_ends(&stage));
    assert_clean(&verdict);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
}

fn lives_and_ends(stage: &Stage) {
    // Without the right to, it says so and touches nothing.
    post(stage, ETCD, json!({"size": 3}));
    stage.until("it is refused with the way out", LIMIT, || {
        get(stage, ETCD, ETCD)["status"]["message"].as_str().is_some_and(|m| m.contains("deploy/standalone.yaml"))
    });
    assert_eq!(
        kubectl(stage, &["get", "etcdmembers", "-n", NAMESPACE, "-l", "etcd.database.coreos.com/cluster=etcd", "-o", "name"]),
        ""
    );
    host(stage);
    wait_ready(stage, ETCD, 3, LIMIT);

    // Two more at once, one of them where the user wants it, and one where it cannot be.
    let given = get(stage, ETCD, ETCD)["status"]["firstPort"].as_u64().unwrap();
    post(stage, "one", json!({"size": 1}));
    post(stage, "other", json!({"size": 1, "firstPort": 23_000}));
    post(stage, "clash", json!({"size": 1, "firstPort": given + 1}));
    wait_ready(stage, "one", 1, LIMIT);
    wait_ready(stage, "other", 1, LIMIT);
    stage.until("the clash is refused", LIMIT, || {
        get(stage, ETCD, "clash")["status"]["message"].as_str().is_some_and(|m| m.contains("spec.firstPort"))
    });
    kubectl(stage, &["delete", "etcd", "clash", "-n", NAMESPACE, "--timeout=60s"]);

    // Nobody gets certificates for the datastore that way.
    let mut copy = get(stage, "secret", "etcd-ca");
    copy["metadata"] = json!({"name": "copy", "namespace": NAMESPACE});
    let file = stage.bed.layout.path("copy.json");
    std::fs::write(&file, copy.to_string()).unwrap();
    kubectl(stage, &["apply", "-f", &file.to_string_lossy()]);
    post(stage, "thief", json!({"size": 1, "TLS": {"ca": {"secretName": "copy"}}}));
    stage.until("the datastore's CA is refused", LIMIT, || {
        get(stage, ETCD, "thief")["status"]["message"].as_str().is_some_and(|m| m.contains("CA of EtcdCluster kube-etcd"))
    });
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(get(stage, "secret", "thief-client"), json!(null));
    kubectl(stage, &["delete", "etcd", "thief", "-n", NAMESPACE, "--timeout=60s"]);

    // Each is its own, and none lets in who belongs to another.
    let (first, second) = (Client::of(stage, ETCD), Client::of(stage, "one"));
    assert_eq!(first.endpoints.len(), 3);
    first.run(&["put", "who", "first"]).unwrap();
    second.run(&["put", "who", "second"]).unwrap();
    assert!(first.run(&["get", "who"]).unwrap().contains("first"));
    let stranger = Client { endpoints: second.endpoints.clone(), ..Client::of(stage, ETCD) };
    assert!(stranger.run(&["get", "who", "--command-timeout=3s"]).is_err(), "a stranger's certificate is taken");
    assert!(
        stage.bed.etcdctl(&second.endpoints[0], &["get", "who", "--command-timeout=3s"]).is_err(),
        "the datastore's is taken"
    );

    // A lost disk is made good, a smaller size kept.
    wipe(stage, &stage.bed.options().node("cp2").unwrap(), "cp2-1");
    stage.until("another member is in its place", LIMIT, || {
        first.run(&["member", "list"]).is_ok_and(|list| list.contains("cp2-2") && !list.contains("cp2-1"))
    });
    wait_ready(stage, ETCD, 3, LIMIT);
    kubectl(stage, &["scale", "etcd/etcd", "-n", NAMESPACE, "--replicas=1"]);
    wait_ready(stage, ETCD, 1, LIMIT);
    assert!(Client::of(stage, ETCD).run(&["get", "who"]).unwrap().contains("first"));
    kubectl(stage, &["scale", "etcd/etcd", "-n", NAMESPACE, "--replicas=3"]);
    wait_ready(stage, ETCD, 3, LIMIT);

    // It ends, with all that is in the API, in the foreground; its data is kept, and so is everybody else's.
    let before = get(stage, ETCD, ETCD)["status"]["clusterID"].clone();
    let kept = archived(stage, ETCD);
    kubectl(stage, &["delete", "etcd", ETCD, "-n", NAMESPACE, "--cascade=foreground", "--timeout=120s"]);
    stage.until("nothing is left of it in the API", LIMIT, || {
        let label = format!("etcd.database.coreos.com/cluster={ETCD}");
        let kinds = "etcdmembers,services,endpointslices,configmaps,deployments,poddisruptionbudgets,pods";
        kubectl(stage, &["get", kinds, "-n", NAMESPACE, "-l", &label, "-o", "name"]).is_empty()
    });
    assert_eq!(archived(stage, ETCD), kept + 3, "each member's data is in the archive of its node");
    assert!(first.run(&["get", "who", "--command-timeout=3s"]).is_err(), "nobody serves it any more");
    assert!(second.run(&["get", "who"]).unwrap().contains("second"));

    // The same name again is another cluster.
    post(stage, ETCD, json!({"size": 3}));
    wait_ready(stage, ETCD, 3, LIMIT);
    assert_ne!(get(stage, ETCD, ETCD)["status"]["clusterID"], before);
    assert_eq!(Client::of(stage, ETCD).run(&["get", "who"]).unwrap(), "");
    for name in [ETCD, "one", "other"] {
        kubectl(stage, &["delete", "etcd", name, "-n", NAMESPACE, "--timeout=120s"]);
    }
}
