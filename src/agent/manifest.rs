//! The static pod: constant for the member's life (design D2). What changes during that life is in the order file.
//!
//! It is rewritten only when one of [`Inputs`] changes, never because a newer agent would render it otherwise: rewriting it restarts etcd
//! (traps, "Kubernetes objects"). So the agent keeps a copy of what it wrote, with a digest of the inputs in an annotation, and puts that
//! copy back when somebody edits or removes the file (F31).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use etcd_operator_api::member::{Pod, PodStatus, RunSpec, Seat};
use etcd_operator_keeper::contract::{KEEPER_POD, Paths};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, HTTPGetAction, HostPathVolumeSource, Pod as RenderedPod, PodSpec, Probe,
    ResourceRequirements, SeccompProfile, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::files;
use crate::memo::Memo;
use crate::node::{AgentArgs, notes};
use crate::problem::{Problem, Reason};

/// Digest of the inputs that a manifest was rendered from.
const INPUTS: &str = "etcd.database.coreos.com/inputs";
/// Label with the cluster's name.
pub(crate) const CLUSTER: &str = "etcd.database.coreos.com/cluster";
/// Label with what it is.
const NAME: &str = "app.kubernetes.io/name";
/// The agent's copy of what it wrote, among its notes.
const COPY: &str = "manifest.yaml";
/// Where upstream's image has etcd.
pub(crate) const ETCD: &str = "/usr/local/bin/etcd";
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

impl<'a> Inputs<'a> {
    fn of(args: &'a AgentArgs, cluster: &'a str, pod: &'a Pod, probe_port: u16, node: &'a Paths) -> Self {
        let Pod { image, labels, annotations, requests, limits } = pod;
        let (dir, data) = (&node.dir, &node.data);
        Self { namespace: &args.namespace, cluster, image, labels, annotations, requests, limits, probe_port, dir, data }
    }
}

/// What this agent wrote last.
#[derive(Clone)]
struct Copy {
    text: String,
    digest: String,
    pod: Pod,
    /// Whether the keeper that it starts says so ([`KEEPER_POD`]); those of older agents do not.
    says_so: bool,
}

/// Whether the pod that runs may be replaced: its etcd is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    /// No etcd runs in it.
    Idle,
    /// etcd runs. Each node would restart it when it likes, all at once if it comes to that.
    No,
    /// etcd runs, and the others are a quorum without it, or a human wants it all the same.
    Yes,
}

/// Writes the manifest if it is missing, edited, or its inputs changed and that may be. Returns whether it wrote. `running` is what the keeper
/// that runs was started from, where it says so.
pub(crate) fn apply(
    args: &AgentArgs,
    cluster: &str,
    seat: &Seat,
    running: Option<&str>,
    replace: Replace,
) -> Result<bool, Problem> {
    let (here, node) = (args.paths(cluster), args.node_paths(cluster));
    let inputs = Inputs::of(args, cluster, &seat.pod, seat.probe_port, &node);
    let digest = digest(&inputs)?;
    let path = path(args, cluster);
    is_ours(args, cluster)?;
    let (copy, lies) = (copy(args, cluster)?, on_disk(args, cluster)?);
    let is_of = |copy: &&Copy| copy.digest == digest;
    // Nothing is replaced by what runs, nor by what lies there already; nor where nothing has ever been.
    let is_there = lies.as_ref().is_some_and(|lies| lies.digest == digest) || running == Some(digest.as_str());
    // Removed or torn by somebody.
    let is_gone = lies.is_none() && copy.as_ref().is_some_and(|copy| copy.digest == digest);
    // What was taken back would else come with etcd's next end by itself.
    let is_asked_for = seat.roll_out.as_ref().is_some_and(|order| !order.stays) || seat.order.run == RunSpec::Wait;
    let may_be = match replace {
        Replace::No => copy.is_none(),
        Replace::Idle => copy.is_none() || is_asked_for,
        Replace::Yes => true,
    };
    if is_there || is_gone || may_be {
        files::make_dir(&notes(&here), 0o700)?;
        // Other renderers of the same inputs made another text: it stays.
        let known = copy.as_ref().filter(is_of).or(lies.as_ref().filter(is_of));
        let text = match known {
            Some(known) => known.text.clone(),
            None => render(&inputs, &digest, &seed(&here)?)?,
        };
        files::write_if_changed(&notes(&here).join(COPY), text.as_bytes(), files::SECRET)?;
        return files::write_if_changed(&path, text.as_bytes(), files::SECRET);
    }
    // Restored, if it is of the pod that runs.
    let wrote = match &copy {
        Some(copy) if lies.as_ref().is_none_or(|lies| lies.digest == copy.digest) || running == Some(copy.digest.as_str()) => {
            files::write_if_changed(&path, copy.text.as_bytes(), files::SECRET)?
        }
        Some(_) | None => false,
    };
    if seat.roll_out.is_none() {
        return Err(Problem::new(
            Reason::NotRolledOut,
            "spec.seat's image, resources, labels or annotations differ from those of the pod that runs, which keeps its own: they need the controller's order (spec.seat.rollOut)",
        ));
    }
    Ok(wrote)
}

fn path(args: &AgentArgs, cluster: &str) -> PathBuf {
    args.static_pods().join(format!("etcd-{cluster}.yaml"))
}

/// What the kubelet finds there, if it is one of ours.
fn on_disk(args: &AgentArgs, cluster: &str) -> Result<Option<Copy>, Problem> {
    read_from(&path(args, cluster))
}

/// What the manifest is made from, and whether the pod that runs is: `running` is what its keeper says.
pub(crate) fn status(args: &AgentArgs, cluster: &str, running: Option<&str>) -> Result<Option<PodStatus>, Problem> {
    // What was removed by hand is about to be restored.
    let (there, put_away) = match on_disk(args, cluster)? {
        Some(there) => (Some(there), false),
        None => (copy(args, cluster)?, true),
    };
    Ok(there.map(|copy| PodStatus {
        put_away,
        runs: if copy.says_so { running.map(|digest| digest == copy.digest) } else { Some(true) },
        pod: copy.pod,
        message: String::new(),
    }))
}

fn copy(args: &AgentArgs, cluster: &str) -> Result<Option<Copy>, Problem> {
    read_from(&notes(&args.paths(cluster)).join(COPY))
}

fn read_from(path: &Path) -> Result<Option<Copy>, Problem> {
    static READ: LazyLock<Memo<Option<Copy>>> = LazyLock::new(Memo::default);
    let Some(text) = files::read(path)? else { return Ok(None) };
    READ.of(path, &text, || Ok(read(String::from_utf8_lossy(&text).into_owned())))
}

/// The inputs of a rendered manifest, out of it.
fn read(text: String) -> Option<Copy> {
    let rendered: RenderedPod = serde_yaml_ng::from_str(&text).ok()?;
    let (mut labels, mut annotations) =
        (rendered.metadata.labels.unwrap_or_default(), rendered.metadata.annotations.unwrap_or_default());
    let digest = annotations.remove(INPUTS)?;
    labels.remove(NAME);
    labels.remove(CLUSTER);
    let container = rendered.spec?.containers.into_iter().next()?;
    let resources = container.resources.unwrap_or_default();
    let plain = |quantities: Option<BTreeMap<String, Quantity>>| {
        quantities.unwrap_or_default().into_iter().map(|(name, quantity)| (name, quantity.0)).collect()
    };
    let pod = Pod {
        image: container.image?,
        labels,
        annotations,
        requests: plain(resources.requests),
        limits: plain(resources.limits),
    };
    let says_so = container.env.is_some_and(|env| env.iter().any(|one| one.name == KEEPER_POD));
    Some(Copy { text, digest, pod, says_so })
}

/// Takes the manifest away; the copy stays. Returns whether there was one.
pub(crate) fn remove(args: &AgentArgs, cluster: &str) -> Result<bool, Problem> {
    is_ours(args, cluster)?;
    files::remove(&path(args, cluster))
}

/// Whether a manifest of ours lies there.
pub(crate) fn lies(args: &AgentArgs, cluster: &str) -> bool {
    on_disk(args, cluster).is_ok_and(|lies| lies.is_some())
}

/// Whether what lies at the manifest's place, if anything does, was written by an agent: torn or edited as it may be by now.
pub(crate) fn is_ours(args: &AgentArgs, cluster: &str) -> Result<(), Problem> {
    let path = path(args, cluster);
    if !path.exists() || on_disk(args, cluster)?.is_some() || copy(args, cluster)?.is_some() {
        return Ok(());
    }
    Err(Problem::new(
        Reason::NodeFiles,
        format!("{} is no manifest of this operator's, and is left alone: use another name for the EtcdCluster", path.display()),
    ))
}

fn digest(inputs: &Inputs<'_>) -> Result<String, Problem> {
    let json = serde_json::to_vec(inputs)
        .map_err(|error| Problem::new(Reason::NodeFiles, format!("cannot encode the manifest's inputs: {error}")))?;
    Ok(files::hex(&Sha256::digest(json)))
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
    labels.insert(NAME.into(), "etcd".into());
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

    let pod = RenderedPod {
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
            containers: vec![container(inputs, digest, command.to_vec(), &dir, &data)],
            volumes: Some(vec![directory("operator", &dir), directory("data", &data)]),
            ..PodSpec::default()
        }),
        status: None,
    };
    serde_yaml_ng::to_string(&pod)
        .map_err(|error| Problem::new(Reason::NodeFiles, format!("cannot encode the manifest: {error}")))
}

fn container(inputs: &Inputs<'_>, digest: &str, command: Vec<String>, dir: &str, data: &str) -> Container {
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
        // Not on the command line, where a keeper that does not know it yet would not start.
        env: Some(vec![EnvVar { name: KEEPER_POD.into(), value: Some(digest.into()), value_from: None }]),
        // No `ports:` here: with hostNetwork they let admission reject the pod for good when a port looks taken.
        // A dead PID 1 needs no probe; 18 failures are three minutes, in which a slow node is left alone.
        liveness_probe: Some(probe("/livez", 18)),
        readiness_probe: Some(Probe { period_seconds: Some(5), ..probe("/readyz", 3) }),
        resources: Some(ResourceRequirements {
            requests: quantities(inputs.requests),
            limits: quantities(inputs.limits),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security()),
        volume_mounts: Some(vec![mount("operator", dir), mount("data", data)]),
        ..Container::default()
    }
}

pub(crate) fn security() -> SecurityContext {
    SecurityContext {
        // Root owns the data directory and the keys; it needs no capability for what is its own.
        run_as_user: Some(0),
        run_as_group: Some(0),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// Type Directory: a missing disk must stop the pod, not get an empty directory made for it.
pub(crate) fn directory(name: &str, path: &str) -> Volume {
    Volume {
        name: name.into(),
        host_path: Some(HostPathVolumeSource { path: path.into(), type_: Some("Directory".into()) }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use etcd_operator_api::member::RollOut;

    use super::*;
    use crate::testing;

    fn rendered() -> String {
        let member = testing::member();
        let seat = member.spec.seat.unwrap();
        let (dir, data) =
            (Path::new("/var/lib/etcd-operator/etcd-system/kube-etcd"), Path::new("/var/lib/etcd/etcd-system/kube-etcd"));
        let Pod { image, labels, annotations, requests, limits } = &seat.pod;
        let (namespace, cluster, probe_port) = ("etcd-system", "kube-etcd", seat.probe_port);
        let inputs = Inputs { namespace, cluster, image, labels, annotations, requests, limits, probe_port, dir, data };
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
        let pod: RenderedPod = serde_yaml_ng::from_str(&rendered()).unwrap();
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
        let apply = |seat: &Seat, running: Option<&str>, replace| super::apply(&args, "kube-etcd", seat, running, replace);
        assert!(apply(&seat, None, Replace::No).unwrap());
        assert!(!apply(&seat, None, Replace::No).unwrap());
        let first = std::fs::read_to_string(&file).unwrap();

        // The order is not in it.
        seat.order.sequence += 1;
        seat.order.ask.clear();
        assert!(!apply(&seat, None, Replace::Yes).unwrap());

        // Deleted, edited or torn by somebody: back comes the very same text, so the kubelet sees the very same pod.
        std::fs::remove_file(&file).unwrap();
        assert!(apply(&seat, None, Replace::No).unwrap());
        std::fs::write(&file, "apiVersion: v1\nkind: P").unwrap();
        assert!(apply(&seat, None, Replace::No).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);

        // Another renderer of the same inputs does not replace it.
        let copy = notes(&args.paths("kube-etcd")).join(COPY);
        let older = first.replace("timeoutSeconds: 10", "timeoutSeconds: 9");
        std::fs::write(&copy, &older).unwrap();
        std::fs::write(&file, &older).unwrap();
        assert!(!apply(&seat, None, Replace::Yes).unwrap());

        // New inputs wait while etcd runs.
        let digest = read(older.clone()).unwrap().digest;
        let old = seat.clone();
        seat.pod.image = "registry.example/etcd:v3.6.17".into();
        assert_eq!(apply(&seat, Some(&digest), Replace::No).unwrap_err().reason, Reason::NotRolledOut);
        seat.roll_out = Some(RollOut { id: "r".into(), overruled: false, before: None, stays: false });
        assert!(!apply(&seat, Some(&digest), Replace::No).unwrap(), "ordered, but the others are no quorum");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), older);
        let status = |running| status(&args, "kube-etcd", running).unwrap().unwrap();
        assert_eq!((status(Some(&digest)).pod.image, status(Some(&digest)).runs), (old.pod.image.clone(), Some(true)));
        assert!(apply(&seat, Some(&digest), Replace::Yes).unwrap());
        assert_eq!((status(Some(&digest)).pod, status(Some(&digest)).runs), (seat.pod.clone(), Some(false)));
        assert_eq!(status(None).runs, None, "a keeper that does not say");
        // Taken back before the kubelet has seen it: what runs is not replaced by it.
        assert!(apply(&old, Some(&digest), Replace::No).unwrap());
        assert_eq!(status(Some(&digest)).runs, Some(true));
        // Where no etcd runs only what is ordered replaces it: what was taken back would else come by itself.
        assert!(apply(&seat, None, Replace::Idle).unwrap());
        assert!(apply(&old, Some(&digest), Replace::No).unwrap());
        seat.roll_out = None;
        assert_eq!(apply(&seat, Some(&digest), Replace::Idle).unwrap_err().reason, Reason::NotRolledOut);
        seat.roll_out = Some(RollOut { id: "r".into(), overruled: false, before: None, stays: false });
        // The agent wrote its copy and no more, as its disk was full or its power went: that is no leave to go on unasked.
        let text = render_of(&args, &seat);
        std::fs::write(&copy, &text).unwrap();
        assert!(!apply(&seat, Some(&digest), Replace::No).unwrap());
        assert_eq!(status(Some(&digest)).pod, old.pod);
        assert!(apply(&seat, Some(&digest), Replace::Yes).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        let names: Vec<_> = std::fs::read_dir(&args.static_pod_path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["etcd-kube-etcd.yaml"], "each other name would be a pod");
    }

    fn render_of(args: &AgentArgs, seat: &Seat) -> String {
        let node = args.node_paths("kube-etcd");
        let inputs = Inputs::of(args, "kube-etcd", &seat.pod, seat.probe_port, &node);
        render(&inputs, &digest(&inputs).unwrap(), &seed(&args.paths("kube-etcd")).unwrap()).unwrap()
    }

    #[test]
    fn what_it_was_made_from_is_read_out_of_it() {
        let seat = testing::member().spec.seat.unwrap();
        let copy = read(rendered()).unwrap();
        assert_eq!((copy.pod, copy.says_so), (seat.pod, true));
        // One of an agent from before keepers said so.
        let older: String = rendered().lines().filter(|line| !line.contains("env:")).collect::<Vec<_>>().join("\n");
        let older = older.replace("    - name: KEEPER_POD\n", "");
        let older: Vec<&str> = older.lines().filter(|line| !line.trim_start().starts_with("value: ")).collect();
        assert!(!read(older.join("\n")).unwrap().says_so);
    }

    #[test]
    fn the_uid_follows_the_inputs_and_the_node() {
        assert_eq!(uid("a", "s"), uid("a", "s"));
        assert_ne!(uid("a", "s"), uid("b", "s"));
        assert_ne!(uid("a", "s"), uid("a", "t"));
        assert_eq!(uid("a", "s").len(), 36);
    }
}
