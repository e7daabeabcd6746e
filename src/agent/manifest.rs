//! The static pod: constant for the member's life (design D2). What changes during that life is in the order file.
//!
//! It is rewritten only when one of [`Inputs`] changes, never because a newer agent would render it otherwise: rewriting it restarts etcd
//! (traps, "Kubernetes objects"). So the agent keeps a copy of what it wrote, with a digest of the inputs in an annotation, and puts that
//! copy back when somebody edits or removes the file (F31).

use std::collections::BTreeMap;
use std::path::Path;

use etcd_operator_api::member::Seat;
use etcd_operator_keeper::contract::Paths;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, HTTPGetAction, HostPathVolumeSource, Pod, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::files;
use crate::node::{AgentArgs, notes};
use crate::problem::{Problem, Reason};

/// Digest of the inputs that a manifest was rendered from.
const INPUTS: &str = "etcd.database.coreos.com/inputs";
/// Label with the cluster's name.
pub(crate) const CLUSTER: &str = "etcd.database.coreos.com/cluster";
/// Where upstream's image has etcd.
const ETCD: &str = "/usr/local/bin/etcd";
/// What `system-node-critical` stands for. By number as well: a kubelet without an API cannot look the class up.
const NODE_CRITICAL: i32 = 2_000_001_000;
/// etcd drains its clients for up to 7 s before it stops raft, and the keeper stops after it.
const GRACE_SECONDS: i64 = 30;

/// All that a rendering depends on. A new field here restarts every etcd once: give it a default that is left out of the digest.
#[derive(Debug, Serialize)]
struct Inputs<'a> {
    namespace: &'a str,
    cluster: &'a str,
    image: &'a str,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    requests: &'a BTreeMap<String, String>,
    limits: &'a BTreeMap<String, String>,
    probe_port: u16,
    dir: &'a Path,
    data: &'a Path,
}

/// Writes the manifest if it is missing, edited, or its inputs changed. Returns whether it wrote. New inputs wait while etcd runs: each node
/// would restart its etcd when it likes, all at once if it comes to that.
pub(crate) fn apply(args: &AgentArgs, cluster: &str, seat: &Seat, runs: bool) -> Result<bool, Problem> {
    let (here, node) = (args.paths(cluster), args.node_paths(cluster));
    let inputs = Inputs {
        namespace: &args.namespace,
        cluster,
        image: &seat.image,
        labels: &seat.labels,
        annotations: &seat.annotations,
        requests: &seat.requests,
        limits: &seat.limits,
        probe_port: seat.probe_port,
        dir: &node.dir,
        data: &node.data,
    };
    let digest = digest(&inputs)?;
    let copy_file = notes(&here).join("manifest.yaml");
    let copy = files::read(&copy_file)?.map(|text| String::from_utf8_lossy(&text).into_owned());
    let mut waits = false;
    let text = match copy {
        Some(text) if inputs_of(&text).as_deref() == Some(digest.as_str()) => text,
        Some(text) if runs && inputs_of(&text).is_some() => {
            waits = true;
            text
        }
        Some(_) | None => {
            files::make_dir(&notes(&here), 0o700)?;
            let text = render(&inputs, &digest, &seed(&here)?)?;
            files::write(&copy_file, text.as_bytes(), files::SECRET)?;
            text
        }
    };
    let wrote =
        files::write_if_changed(&args.static_pods().join(format!("etcd-{cluster}.yaml")), text.as_bytes(), files::SECRET)?;
    if waits {
        return Err(Problem::new(
            Reason::NotRolledOut,
            "spec.seat's image, resources, labels or annotations differ from those of the pod that runs, which keeps its own: changes are not rolled out to running members yet; set the fields of the EtcdCluster back",
        ));
    }
    Ok(wrote)
}

/// Takes the manifest away; the copy stays. Returns whether there was one.
pub(crate) fn remove(args: &AgentArgs, cluster: &str) -> Result<bool, Problem> {
    let path = args.static_pods().join(format!("etcd-{cluster}.yaml"));
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Problem::file("remove", &path, &error)),
    }
}

fn digest(inputs: &Inputs<'_>) -> Result<String, Problem> {
    let json = serde_json::to_vec(inputs)
        .map_err(|error| Problem::new(Reason::NodeFiles, format!("cannot encode the manifest's inputs: {error}")))?;
    Ok(files::hex(&Sha256::digest(json)))
}

/// The digest that a rendered manifest carries.
fn inputs_of(text: &str) -> Option<String> {
    let pod: Pod = serde_yaml_ng::from_str(text).ok()?;
    pod.metadata.annotations?.get(INPUTS).cloned()
}

/// Random, once per node and cluster.
fn seed(paths: &Paths) -> Result<String, Problem> {
    let file = notes(paths).join("pod-seed");
    if let Some(seed) = files::read(&file)?.filter(|seed| !seed.is_empty()) {
        return Ok(String::from_utf8_lossy(&seed).into_owned());
    }
    let seed = files::random_hex(16)?;
    files::write(&file, seed.as_bytes(), files::SECRET)?;
    Ok(seed)
}

/// The pod's UID. Set by us since the kubelet's own is a hash over Go structs, which changes with its minor version and would restart
/// every static pod (kubernetes#67537). The same for the same inputs; another for others, as the kubelet replaces static pods by UID.
fn uid(digest: &str, seed: &str) -> String {
    let hash = files::hex(&Sha256::digest(format!("{seed}/{digest}")));
    let part = |from: usize, to: usize| hash.get(from..to).unwrap_or_default();
    // Shaped as a version 4 UUID: kubelet and runtimes take it for a path component only.
    format!("{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

fn render(inputs: &Inputs<'_>, digest: &str, seed: &str) -> Result<String, Problem> {
    let mut labels = inputs.labels.clone();
    labels.insert("app.kubernetes.io/name".into(), "etcd".into());
    labels.insert(CLUSTER.into(), inputs.cluster.into());
    let mut annotations = inputs.annotations.clone();
    annotations.insert(INPUTS.into(), digest.into());

    let dir = inputs.dir.to_string_lossy().into_owned();
    let data = inputs.data.to_string_lossy().into_owned();
    let command = [
        format!("{dir}/bin/keeper").as_str(),
        "keeper",
        "--dir",
        &dir,
        "--data",
        &data,
        "--etcd",
        ETCD,
        "--probe-port",
        &inputs.probe_port.to_string(),
    ]
    .map(ToOwned::to_owned);

    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(format!("etcd-{}", inputs.cluster)),
            namespace: Some(inputs.namespace.into()),
            uid: Some(uid(digest, seed)),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            host_network: Some(true),
            dns_policy: Some("Default".into()),
            enable_service_links: Some(false),
            automount_service_account_token: Some(false),
            priority_class_name: Some("system-node-critical".into()),
            priority: Some(NODE_CRITICAL),
            restart_policy: Some("Always".into()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            containers: vec![container(inputs, command.to_vec(), &dir, &data)],
            volumes: Some(vec![directory("operator", &dir), directory("data", &data)]),
            ..PodSpec::default()
        }),
        status: None,
    };
    serde_yaml_ng::to_string(&pod)
        .map_err(|error| Problem::new(Reason::NodeFiles, format!("cannot encode the manifest: {error}")))
}

fn container(inputs: &Inputs<'_>, command: Vec<String>, dir: &str, data: &str) -> Container {
    let quantities = |map: &BTreeMap<String, String>| {
        (!map.is_empty()).then(|| map.iter().map(|(key, value)| (key.clone(), Quantity(value.clone()))).collect())
    };
    let probe = |path: &str, failures: i32| Probe {
        http_get: Some(HTTPGetAction {
            host: Some("127.0.0.1".into()),
            path: Some(path.into()),
            port: IntOrString::Int(i32::from(inputs.probe_port)),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(10),
        period_seconds: Some(10),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let mount = |name: &str, path: &str| VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() };
    Container {
        name: "etcd".into(),
        image: Some(inputs.image.into()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(command),
        // No `ports:` here: with hostNetwork they let admission reject the pod for good when a port looks taken.
        // A dead PID 1 needs no probe; 18 failures are three minutes, in which a slow node is left alone.
        liveness_probe: Some(probe("/livez", 18)),
        readiness_probe: Some(Probe { period_seconds: Some(5), ..probe("/readyz", 3) }),
        resources: Some(ResourceRequirements {
            requests: quantities(inputs.requests),
            limits: quantities(inputs.limits),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            // Root owns the data directory and the keys; it needs no capability for what is its own.
            run_as_user: Some(0),
            run_as_group: Some(0),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount("operator", dir), mount("data", data)]),
        ..Container::default()
    }
}

/// Type Directory: a missing disk must stop the pod, not get an empty directory made for it.
fn directory(name: &str, path: &str) -> Volume {
    Volume {
        name: name.into(),
        host_path: Some(HostPathVolumeSource { path: path.into(), type_: Some("Directory".into()) }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn rendered() -> String {
        let member = testing::member();
        let seat = member.spec.seat.unwrap();
        let (dir, data) =
            (Path::new("/var/lib/etcd-operator/etcd-system/kube-etcd"), Path::new("/var/lib/etcd/etcd-system/kube-etcd"));
        let inputs = Inputs {
            namespace: "etcd-system",
            cluster: "kube-etcd",
            image: &seat.image,
            labels: &seat.labels,
            annotations: &seat.annotations,
            requests: &seat.requests,
            limits: &seat.limits,
            probe_port: seat.probe_port,
            dir,
            data,
        };
        render(&inputs, &digest(&inputs).unwrap(), "seed").unwrap()
    }

    /// A change of this text by a change of the renderer is fine for new members; the digest in it must stay, or every etcd restarts.
    #[test]
    fn the_manifest_is_this_text() {
        let expected = include_str!("manifest_snapshot.yaml");
        let rendered = rendered();
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/manifest_snapshot.yaml"), &rendered).unwrap();
            return;
        }
        assert_eq!(rendered, expected, "run with UPDATE_SNAPSHOTS=1 if the change is meant");
    }

    #[test]
    fn a_value_that_looks_like_yaml_stays_a_value() {
        let pod: Pod = serde_yaml_ng::from_str(&rendered()).unwrap();
        assert_eq!(pod.metadata.annotations.unwrap()["example.com/note"], "a: \"b\" # {not} [yaml]");
        assert_eq!(pod.spec.unwrap().containers.len(), 1);
    }

    #[test]
    fn it_is_written_once_restored_when_touched_and_rewritten_for_new_inputs_only() {
        let root = tempfile::tempdir().unwrap();
        let args = testing::args(root.path());
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        let file = args.static_pod_path.join("etcd-kube-etcd.yaml");
        let mut seat = testing::member().spec.seat.unwrap();
        assert!(apply(&args, "kube-etcd", &seat, true).unwrap());
        assert!(!apply(&args, "kube-etcd", &seat, true).unwrap());
        let first = std::fs::read_to_string(&file).unwrap();

        // The order is not in it.
        seat.order.sequence += 1;
        seat.order.ask.clear();
        assert!(!apply(&args, "kube-etcd", &seat, true).unwrap());

        // Deleted, edited or torn by somebody: back comes the very same text, so the kubelet sees the very same pod.
        std::fs::remove_file(&file).unwrap();
        assert!(apply(&args, "kube-etcd", &seat, true).unwrap());
        std::fs::write(&file, "apiVersion: v1\nkind: P").unwrap();
        assert!(apply(&args, "kube-etcd", &seat, true).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);

        // Another renderer of the same inputs does not replace it.
        let copy = notes(&args.paths("kube-etcd")).join("manifest.yaml");
        let older = first.replace("timeoutSeconds: 10", "timeoutSeconds: 9");
        std::fs::write(&copy, &older).unwrap();
        std::fs::write(&file, &older).unwrap();
        assert!(!apply(&args, "kube-etcd", &seat, true).unwrap());

        // New inputs wait while etcd runs.
        seat.image = "registry.example/etcd:v3.6.17".into();
        assert_eq!(apply(&args, "kube-etcd", &seat, true).unwrap_err().reason, Reason::NotRolledOut);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), older);
        assert!(apply(&args, "kube-etcd", &seat, false).unwrap());
        let names: Vec<_> = std::fs::read_dir(&args.static_pod_path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["etcd-kube-etcd.yaml"], "each other name would be a pod");
    }

    #[test]
    fn the_uid_follows_the_inputs_and_the_node() {
        assert_eq!(uid("a", "s"), uid("a", "s"));
        assert_ne!(uid("a", "s"), uid("b", "s"));
        assert_ne!(uid("a", "s"), uid("a", "t"));
        assert_eq!(uid("a", "s").len(), 36);
    }
}
