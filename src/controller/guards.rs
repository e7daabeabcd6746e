//! Guards: `kubectl drain` does not see static pods. So each member has an ordinary pod beside it, ready while the member is, and a
//! PodDisruptionBudget lets only as many of these be evicted as keeps the quorum: the drain of one node too many is held back by the API server.
//!
//! A Deployment places them, one per node with a voter. One that was evicted finds no other place, and is back once its node is uncordoned.

use std::collections::{BTreeMap, BTreeSet};

use etcd_operator_plan::quorum_of;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::memory::Memory;
use super::observe::View;
use super::{Context, ControllerError, api_error, clients, members, readdress};

/// What a guard runs, as this controller does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardImage {
    /// The operator's image.
    pub image: String,
    /// Secrets to pull it with.
    pub pull_secrets: Vec<String>,
}

impl GuardImage {
    /// That of the pod in which this controller runs; `None` where it runs in none.
    ///
    /// # Errors
    /// When the API fails.
    pub(super) async fn own(client: &Client, namespace: &str, pod: &str) -> Result<Option<Self>, ControllerError> {
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let spec = api.get_opt(pod).await.map_err(api_error("reading the controller's own pod"))?.and_then(|pod| pod.spec);
        Ok(spec.and_then(|spec: PodSpec| {
            let image = spec.containers.first()?.image.clone()?;
            let pull_secrets = spec.image_pull_secrets.unwrap_or_default().into_iter().map(|secret| secret.name).collect();
            Some(Self { image, pull_secrets })
        }))
    }
}

/// What is guarded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Guarded {
    cluster: String,
    /// Nodes with a voter, and the port of its keeper's probes.
    nodes: BTreeMap<String, i32>,
    /// Taints of these nodes that are not Kubernetes' own: a guard that finds no place would count as one that was evicted.
    taints: BTreeSet<String>,
    image: GuardImage,
    /// They go with the cluster, unless it is the datastore.
    owners: Option<Vec<OwnerReference>>,
}

/// How often it is looked whether they are still what they should be, ms.
const LOOK_MS: u64 = 300_000;

/// Applies them where they changed, and where somebody changed them. Not before boot is out: the quorum is its, too.
pub(crate) async fn ensure(context: &Context, view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    let Some(nodes) = voters(view).filter(|_| !view.cluster.spec.paused) else { return Ok(()) };
    apply(context, view, memory, nodes).await
}

/// Nothing is held back any more: the cluster is about to end.
pub(crate) async fn lift(context: &Context, view: &View, memory: &mut Memory) -> Result<(), ControllerError> {
    apply(context, view, memory, BTreeMap::new()).await
}

async fn apply(context: &Context, view: &View, memory: &mut Memory, nodes: BTreeMap<String, i32>) -> Result<(), ControllerError> {
    if memory.guard_image.is_none() {
        memory.guard_image = Some(GuardImage::own(&context.client, &context.args.namespace, &context.args.holder).await?);
    }
    let Some(Some(image)) = memory.guard_image.clone() else { return Ok(()) };
    let wanted = Guarded { cluster: view.name(), taints: taints(view, &nodes), nodes, image, owners: clients::owners(view) };
    let name = format!("etcd-guard-{}", wanted.cluster);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &context.args.namespace);
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &context.args.namespace);
    if let Some((known, at)) = &memory.guarded
        && *known == wanted
    {
        if view.now_ms.saturating_sub(*at) < LOOK_MS {
            return Ok(());
        }
        let what = "looking at the guards";
        let budget = budgets.get_opt(&name).await.map_err(api_error(what))?.and_then(|b| b.spec?.min_available);
        let replicas = deployments.get_opt(&name).await.map_err(api_error(what))?.and_then(|d| d.spec?.replicas);
        let as_wanted = (IntOrString::Int(small(available(&wanted))), small(how_many(&wanted)));
        if budget.zip(replicas) == Some(as_wanted) {
            memory.guarded = Some((wanted, view.now_ms));
            return Ok(());
        }
    }
    let params = PatchParams::apply("etcd-operator").force();
    let fewer = memory.guarded.as_ref().is_some_and(|(known, _)| known.nodes.len() > wanted.nodes.len());
    let (budget, guards) = (Patch::Apply(budget(&wanted)), Patch::Apply(deployment(&wanted)));
    let budget = async { budgets.patch(&name, &params, &budget).await.map_err(api_error("applying the guards' budget")) };
    let guards = async { deployments.patch(&name, &params, &guards).await.map_err(api_error("applying the guards")) };
    // The guard of a member that has gone must not count for the smaller quorum.
    if fewer {
        guards.await?;
        budget.await?;
    } else {
        budget.await?;
        guards.await?;
    }
    memory.guarded = Some((wanted, view.now_ms));
    Ok(())
}

fn taints(view: &View, nodes: &BTreeMap<String, i32>) -> BTreeSet<String> {
    let of_voters = view.all_nodes.iter().filter(|n| nodes.contains_key(&n.name_any()));
    let keys = of_voters.filter_map(|n| n.spec.as_ref()?.taints.as_ref()).flatten().map(|taint| taint.key.clone());
    keys.filter(|key| !key.starts_with("node.kubernetes.io/")).collect()
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Nodes with a voter; `None` = not known, or not to be guarded yet.
fn voters(view: &View) -> Option<BTreeMap<String, i32>> {
    view.etcd.as_ref().ok()?;
    let boot_is_out = view.boot_endpoint().is_none() || view.boot_is_out();
    let of_seat = |member: &etcd_operator_api::EtcdMember| {
        let seat = member.spec.seat.as_ref()?;
        let votes = readdress::member_of(view, member).is_some_and(|(m, _)| !m.is_learner);
        votes.then(|| (member.spec.node_name.clone(), i32::from(seat.probe_port)))
    };
    boot_is_out.then(|| view.seats().into_iter().filter_map(of_seat).collect())
}

fn labels(guarded: &Guarded) -> Value {
    json!({"app.kubernetes.io/name": "etcd-operator", "app.kubernetes.io/component": "guard", members::CLUSTER_LABEL: guarded.cluster})
}

fn metadata(guarded: &Guarded) -> Value {
    let name = format!("etcd-guard-{}", guarded.cluster);
    match &guarded.owners {
        None => json!({"name": name, "labels": labels(guarded)}),
        Some(owners) => json!({"name": name, "labels": labels(guarded), "ownerReferences": owners}),
    }
}

/// Of one member there is nothing to guard: its node can only be drained as a whole.
fn how_many(guarded: &Guarded) -> usize {
    if guarded.nodes.len() < 2 { 0 } else { guarded.nodes.len() }
}

/// How many must stay.
fn available(guarded: &Guarded) -> usize {
    if how_many(guarded) == 0 { 0 } else { quorum_of(guarded.nodes.len()) }
}

fn budget(guarded: &Guarded) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(guarded),
        "spec": {
            "minAvailable": available(guarded),
            "selector": {"matchLabels": labels(guarded)},
            // A guard whose member is down may go as long as the others are a quorum.
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
        },
    })
}

fn deployment(guarded: &Guarded) -> Value {
    let labels = labels(guarded);
    // All members of a cluster have the same ports.
    let port = guarded.nodes.values().next().copied().unwrap_or_default();
    let on = |node: &String| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let mut terms: Vec<Value> = guarded.nodes.keys().map(on).collect();
    if terms.is_empty() {
        terms.push(json!({"matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]}));
    }
    // Not "everything": a cordoned node (unschedulable) must not get its guard back. Nor a node that goes down: there a guard that is bound stays
    // (NoExecute), and a new one would fail again and again.
    let everywhere = [
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/master",
        "node.kubernetes.io/network-unavailable",
        "node.kubernetes.io/disk-pressure",
        "node.kubernetes.io/memory-pressure",
        "node.kubernetes.io/pid-pressure",
    ];
    let stays = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let mut tolerations: Vec<Value> = everywhere.map(|key| json!({"key": key, "operator": "Exists"})).into();
    tolerations.extend(stays.map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute"})));
    let own = guarded.taints.iter().filter(|key| !everywhere.contains(&key.as_str()));
    tolerations.extend(own.map(|key| json!({"key": key, "operator": "Exists"})));
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(guarded),
        "spec": {
            "replicas": how_many(guarded),
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true,
                    "dnsPolicy": "Default",
                    "priorityClassName": "system-cluster-critical",
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 5,
                    "imagePullSecrets": guarded.image.pull_secrets.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
                    "tolerations": tolerations,
                    "affinity": {
                        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}},
                        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}},
                        ]},
                    },
                    "securityContext": {"runAsUser": 65534, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "guard",
                        "image": guarded.image.image,
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["guard"],
                        // The keeper's, which answers for its etcd; on loopback, where this node's kubelet asks.
                        "readinessProbe": {
                            "httpGet": {"host": "127.0.0.1", "port": port, "path": "/readyz"},
                            "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2,
                        },
                        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(nodes: &[&str]) -> Guarded {
        let image = GuardImage { image: "op:v1".into(), pull_secrets: vec!["pull".into()] };
        let taints = BTreeSet::from(["dedicated".to_owned()]);
        Guarded {
            cluster: "kube-etcd".into(),
            taints,
            nodes: nodes.iter().map(|n| ((*n).to_owned(), 2383)).collect(),
            image,
            owners: None,
        }
    }

    #[test]
    fn as_many_may_be_evicted_as_keeps_the_quorum_and_of_one_there_is_nothing_to_guard() {
        let names = ["a", "b", "c", "d", "e"];
        for (members, guards, available) in [(0, 0, 0), (1, 0, 0), (2, 2, 2), (3, 3, 2), (4, 4, 3), (5, 5, 3)] {
            let guarded = guarded(&names[..members]);
            let typed: PodDisruptionBudget = serde_json::from_value(budget(&guarded)).unwrap();
            let spec = typed.spec.unwrap();
            assert_eq!(serde_json::to_value(spec.min_available).unwrap(), json!(available), "{members}");
            let typed: Deployment = serde_json::from_value(deployment(&guarded)).unwrap();
            assert_eq!(typed.spec.unwrap().replicas, Some(guards), "{members}");
        }
    }

    #[test]
    fn a_guard_stands_beside_its_member_and_leaves_a_cordoned_node_alone() {
        let typed: Deployment = serde_json::from_value(deployment(&guarded(&["cp1", "cp2"]))).unwrap();
        let spec = typed.spec.unwrap();
        let pod = spec.template.spec.unwrap();
        let tolerations = pod.tolerations.unwrap();
        assert!(tolerations.iter().all(|t| t.key.as_deref().is_some_and(|k| k != "node.kubernetes.io/unschedulable")));
        assert!(tolerations.iter().any(|t| t.key.as_deref() == Some("dedicated")));
        let stays = |t: &&k8s_openapi::api::core::v1::Toleration| t.key.as_deref() == Some("node.kubernetes.io/not-ready");
        assert_eq!(tolerations.iter().find(stays).unwrap().effect.as_deref(), Some("NoExecute"));
        let text = serde_json::to_string(&pod.affinity).unwrap();
        assert!(text.contains("cp1") && text.contains("cp2") && text.contains("podAntiAffinity"), "{text}");
        assert_eq!(spec.selector.match_labels, spec.template.metadata.unwrap().labels);
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "pull");
        let probe = pod.containers[0].readiness_probe.clone().unwrap().http_get.unwrap();
        assert_eq!((probe.host.as_deref(), probe.path.as_deref()), (Some("127.0.0.1"), Some("/readyz")));
    }
}
