//! The proof of an image on this node, beside the pod that runs: a static pod of that image with which nothing goes down. The kubelet pulls the
//! image for it, and keeps it as long as the pod is there.

use std::path::{Path, PathBuf};

use etcd_operator_api::member::ProofStatus;
use etcd_operator_etcd::wal;
use etcd_operator_keeper::contract::Proof;
use etcd_operator_keeper::render::EtcdVersion;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::files;
use crate::manifest::{ETCD, directory, security};
use crate::node::AgentArgs;
use crate::problem::{Problem, Reason};
use crate::validate::allow_image;

/// Label with the cluster's name; not the members' own, by which they are counted.
const CLUSTER: &str = "etcd.database.coreos.com/proof-of";

/// Has the image proven, or ends that where none is asked for.
pub(crate) fn apply(args: &AgentArgs, cluster: &str, image: Option<&str>) -> Result<(), Problem> {
    let manifest = args.static_pods().join(format!("proof-etcd-{cluster}.yaml"));
    let proof = args.paths(cluster).proof();
    let Some(image) = image.filter(|image| allowed(args, image).is_ok()) else {
        files::remove(&manifest)?;
        return files::remove(&proof).map(drop);
    };
    let text = render(args, cluster, image)?;
    // What was found long ago does not show that the image is there now.
    if files::read(&manifest)?.is_none_or(|lies| lies != text.as_bytes()) {
        files::remove(&proof)?;
    }
    if files::write_if_changed(&manifest, text.as_bytes(), files::SECRET)? {
        tracing::info!(cluster, image, "an image is to be proven");
    }
    Ok(())
}

/// What is known of the image asked for.
pub(crate) fn status(args: &AgentArgs, cluster: &str, image: Option<&str>) -> Result<Option<ProofStatus>, Problem> {
    let Some(image) = image else { return Ok(None) };
    let said = |version: Result<String, String>| {
        let (version, message) = match version {
            Ok(version) => (version, String::new()),
            Err(message) => (String::new(), message),
        };
        ProofStatus { image: image.to_owned(), version, message, reads_log: None }
    };
    if let Err(problem) = allowed(args, image) {
        return Ok(Some(said(Err(problem.message))));
    }
    let proof: Option<Proof> = files::read_json(&args.paths(cluster).proof())?;
    // Of an earlier image it says nothing.
    Ok(proof.filter(|proof| proof.image == image).map(|proof| said(proof.version)))
}

fn allowed(args: &AgentArgs, image: &str) -> Result<(), Problem> {
    allow_image("spec.seat.prove", image, &args.allowed_image_prefixes)
}

/// From which version on etcd cannot read what 3.5 has written to its log.
const NO_V2: (u32, u32) = (3, 7);

/// Whether the etcd of this version reads a member's log.
pub(crate) async fn reads_log(version: String, data_dir: PathBuf) -> Result<bool, String> {
    let is_new = EtcdVersion::of_state(&version).is_some_and(|v| (v.major, v.minor) >= NO_V2);
    if !is_new {
        return Ok(true);
    }
    let look = move || wal::has_v2_requests(&data_dir.join("member/wal"));
    let seen = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?;
    seen.map(|has| !has).map_err(|error| format!("looking through the log: {error}"))
}

/// Name of a member's newest snapshot of its own: what is before it in the log is not read any more.
pub(crate) fn newest_snapshot(data_dir: &Path) -> String {
    let names = std::fs::read_dir(data_dir.join("member/snap")).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.ends_with(".snap"));
    names.max().unwrap_or_default()
}

fn render(args: &AgentArgs, cluster: &str, image: &str) -> Result<String, Problem> {
    let dir = args.node_paths(cluster).dir.to_string_lossy().into_owned();
    let name = format!("proof-etcd-{cluster}");
    let container = Container {
        name: "proof".into(),
        image: Some(image.into()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: Some(
            [&format!("{dir}/bin/keeper"), "prove", "--dir", &dir, "--etcd", ETCD, "--image", image].map(str::to_owned).to_vec(),
        ),
        security_context: Some(security()),
        volume_mounts: Some(vec![VolumeMount { name: "operator".into(), mount_path: dir.clone(), ..VolumeMount::default() }]),
        ..Container::default()
    };
    let pod = Pod {
        metadata: ObjectMeta {
            labels: Some([(CLUSTER.to_owned(), cluster.to_owned())].into()),
            name: Some(name),
            namespace: Some(args.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            // No address of its own: it talks to nobody, and needs no network to start.
            host_network: Some(true),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(1),
            containers: vec![container],
            volumes: Some(vec![directory("operator", &dir)]),
            ..PodSpec::default()
        }),
        status: None,
    };
    serde_yaml_ng::to_string(&pod)
        .map_err(|error| Problem::new(Reason::NodeFiles, format!("cannot encode the proof's manifest: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn an_image_is_proven_by_a_pod_of_its_own_that_goes_when_nobody_asks() {
        let root = tempfile::tempdir().unwrap();
        let args = testing::args(root.path());
        std::fs::create_dir_all(&args.static_pod_path).unwrap();
        let paths = args.paths("kube-etcd");
        std::fs::create_dir_all(&paths.dir).unwrap();
        let file = args.static_pod_path.join("proof-etcd-kube-etcd.yaml");
        let seen = |image| status(&args, "kube-etcd", image).unwrap();

        apply(&args, "kube-etcd", Some("registry.example/etcd:v3.6.17")).unwrap();
        let pod: Pod = serde_yaml_ng::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let (labels, spec) = (pod.metadata.labels.unwrap(), pod.spec.unwrap());
        assert!(!labels.contains_key(crate::manifest::CLUSTER), "it would be counted as a member");
        assert_eq!(spec.containers[0].image.as_deref(), Some("registry.example/etcd:v3.6.17"));
        assert!(spec.containers[0].command.as_ref().unwrap().contains(&"prove".to_owned()));
        assert_eq!(seen(Some("registry.example/etcd:v3.6.17")), None);

        let proof = |version| Proof { image: "registry.example/etcd:v3.6.17".into(), version };
        files::write_json(&paths.proof(), &proof(Err("no such file".into())), files::SECRET).unwrap();
        assert_eq!(seen(Some("registry.example/etcd:v3.6.17")).unwrap().message, "no such file");
        files::write_json(&paths.proof(), &proof(Ok("3.6.17".into())), files::SECRET).unwrap();
        assert_eq!(seen(Some("registry.example/etcd:v3.6.17")).unwrap().version, "3.6.17");
        assert_eq!((seen(Some("registry.example/etcd:v3.6.18")), seen(None)), (None, None), "of another image it says nothing");

        // An image of somebody else is not run, and nothing else of the spec is held up for it.
        apply(&args, "kube-etcd", Some("evil.example/etcd:v3.6.17")).unwrap();
        assert!(!file.exists());
        assert!(seen(Some("evil.example/etcd:v3.6.17")).unwrap().message.contains("--allowed-image"));

        // Asked for again, it has to be shown again.
        apply(&args, "kube-etcd", Some("registry.example/etcd:v3.6.17")).unwrap();
        assert_eq!(seen(Some("registry.example/etcd:v3.6.17")), None);
        apply(&args, "kube-etcd", None).unwrap();
        apply(&args, "kube-etcd", None).unwrap();
        assert!(!file.exists());
    }
}
