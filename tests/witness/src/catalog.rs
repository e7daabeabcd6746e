//! The resource types that are written to, and an inert object of each.
//!
//! The API server keeps one etcd client per type, each with channels and a backoff of its own, so a witness that
//! writes one type is blind to what happens to the others. No object here makes anything run: zero replicas,
//! suspended, gated, or pointing at what does not exist.

#![expect(clippy::indexing_slicing, reason = "JSON objects written here; indexing one by a name never panics")]

use serde_json::{Value, json};

/// Namespace of the namespaced objects.
pub const NAMESPACE: &str = "etcd-witness";
/// Label on every object, and what the watches select.
pub const LABEL: &str = "etcd-witness";
/// Annotation that carries the value written: the index of the write.
pub const VALUE: &str = "etcd-witness/value";
/// API group of the witness's own two types.
pub const OWN_GROUP: &str = "witness.etcd.test";
/// Fewest types that make a run worth its name (issue 3).
pub const FEWEST_TYPES: usize = 30;

/// A resource type.
#[derive(Clone, Copy)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
    /// Kind, as in manifests.
    pub kind: &'static str,
    scope: Scope,
    body: fn() -> Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

impl Kind {
    /// `deployments.apps`; core types have no group.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Path of the type's collection in the API.
    pub fn collection(&self) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match self.scope {
            Scope::Namespaced => format!("{root}/namespaces/{NAMESPACE}/{}", self.plural),
            Scope::Cluster => format!("{root}/{}", self.plural),
        }
    }

    /// The manifest of one object.
    pub fn manifest(&self, name: &str) -> Value {
        let mut object = (self.body)();
        let mut metadata = json!({"name": name, "labels": {LABEL: "true"}, "annotations": {VALUE: "none"}});
        if self.scope == Scope::Namespaced {
            metadata["namespace"] = json!(NAMESPACE);
        }
        if self.kind == "Endpoints" {
            // Or a controller copies it, labels included, into an EndpointSlice.
            metadata["labels"]["endpointslice.kubernetes.io/skip-mirror"] = json!("true");
        }
        let version = if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) };
        object["apiVersion"] = json!(version);
        object["kind"] = json!(self.kind);
        object["metadata"] = metadata;
        object
    }
}

/// Name of the n-th object of a type.
pub fn name(index: usize) -> String {
    format!("etcd-witness-{index}")
}

/// The witness's own types, so that the channels of custom resources are watched too.
pub fn own_definitions() -> Vec<Value> {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    [("probes", "Probe", "Namespaced"), ("beacons", "Beacon", "Cluster")]
        .into_iter()
        .map(|(plural, kind, scope)| {
            json!({
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{plural}.{OWN_GROUP}"), "labels": {LABEL: "true"}},
                "spec": {
                    "group": OWN_GROUP,
                    "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
                    "scope": scope,
                    "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema.clone()}],
                },
            })
        })
        .collect()
}

/// All types, in the order in which their objects are made (pods need their service account).
pub fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut add = |scope, group, version, plural, kind, body| kinds.push(Kind { group, version, plural, kind, scope, body });
    use Scope::{Cluster, Namespaced};

    add(Namespaced, "", "v1", "configmaps", "ConfigMap", || json!({"data": {"a": "b"}}));
    add(Namespaced, "", "v1", "secrets", "Secret", || json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    add(Namespaced, "", "v1", "serviceaccounts", "ServiceAccount", || json!({"automountServiceAccountToken": false}));
    add(Namespaced, "", "v1", "services", "Service", || json!({"spec": {"clusterIP": "None"}}));
    add(Namespaced, "", "v1", "endpoints", "Endpoints", || json!({"subsets": []}));
    add(
        Namespaced,
        "",
        "v1",
        "events",
        "Event",
        || json!({"involvedObject": {"kind": "Namespace", "namespace": NAMESPACE, "name": NAMESPACE}, "reason": "Witness", "message": "written by the witness", "type": "Normal"}),
    );
    add(Namespaced, "", "v1", "limitranges", "LimitRange", || json!({"spec": {"limits": []}}));
    add(Namespaced, "", "v1", "resourcequotas", "ResourceQuota", || json!({"spec": {}}));
    add(Namespaced, "", "v1", "podtemplates", "PodTemplate", || json!({"template": pod_template("Always")}));
    add(
        Namespaced,
        "",
        "v1",
        "replicationcontrollers",
        "ReplicationController",
        || json!({"spec": {"replicas": 0, "selector": labels(), "template": pod_template("Always")}}),
    );
    add(Namespaced, "", "v1", "pods", "Pod", || {
        let mut spec = pod_template("Always")["spec"].clone();
        spec["schedulingGates"] = json!([{"name": "etcd-witness/never"}]);
        spec["serviceAccountName"] = json!(name(0));
        spec["automountServiceAccountToken"] = json!(false);
        json!({"spec": spec})
    });
    add(
        Namespaced,
        "",
        "v1",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        || json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "etcd-witness-none", "volumeName": "etcd-witness-none", "resources": {"requests": {"storage": "1Mi"}}}}),
    );
    add(
        Cluster,
        "",
        "v1",
        "persistentvolumes",
        "PersistentVolume",
        || json!({"spec": {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "etcd-witness-unused", "hostPath": {"path": "/nonexistent"}}}),
    );
    add(Cluster, "", "v1", "namespaces", "Namespace", || json!({}));

    add(
        Namespaced,
        "apps",
        "v1",
        "deployments",
        "Deployment",
        || json!({"spec": {"replicas": 0, "paused": true, "selector": {"matchLabels": labels()}, "template": pod_template("Always")}}),
    );
    add(
        Namespaced,
        "apps",
        "v1",
        "replicasets",
        "ReplicaSet",
        || json!({"spec": {"replicas": 0, "selector": {"matchLabels": labels()}, "template": pod_template("Always")}}),
    );
    add(
        Namespaced,
        "apps",
        "v1",
        "statefulsets",
        "StatefulSet",
        || json!({"spec": {"replicas": 0, "serviceName": name(0), "selector": {"matchLabels": labels()}, "template": pod_template("Always")}}),
    );
    add(Namespaced, "apps", "v1", "daemonsets", "DaemonSet", || {
        let mut template = pod_template("Always");
        template["spec"]["nodeSelector"] = json!({"etcd-witness/never": "true"});
        json!({"spec": {"selector": {"matchLabels": labels()}, "template": template}})
    });
    add(Namespaced, "apps", "v1", "controllerrevisions", "ControllerRevision", || json!({"revision": 1, "data": {}}));
    add(Namespaced, "batch", "v1", "jobs", "Job", || json!({"spec": {"suspend": true, "template": pod_template("Never")}}));
    add(
        Namespaced,
        "batch",
        "v1",
        "cronjobs",
        "CronJob",
        || json!({"spec": {"suspend": true, "schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": pod_template("Never")}}}}),
    );
    add(
        Namespaced,
        "networking.k8s.io",
        "v1",
        "ingresses",
        "Ingress",
        || json!({"spec": {"ingressClassName": "etcd-witness-none", "defaultBackend": {"service": {"name": name(0), "port": {"number": 80}}}}}),
    );
    add(
        Namespaced,
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        || json!({"spec": {"podSelector": {"matchLabels": {"etcd-witness": "never"}}, "policyTypes": ["Ingress"]}}),
    );
    add(
        Cluster,
        "networking.k8s.io",
        "v1",
        "ingressclasses",
        "IngressClass",
        || json!({"spec": {"controller": "etcd.test/none"}}),
    );
    add(
        Namespaced,
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        || json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"etcd-witness": "never"}}}}),
    );
    add(Namespaced, "rbac.authorization.k8s.io", "v1", "roles", "Role", || json!({"rules": []}));
    add(
        Namespaced,
        "rbac.authorization.k8s.io",
        "v1",
        "rolebindings",
        "RoleBinding",
        || json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name(0)}, "subjects": []}),
    );
    add(Cluster, "rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", || json!({"rules": []}));
    add(
        Cluster,
        "rbac.authorization.k8s.io",
        "v1",
        "clusterrolebindings",
        "ClusterRoleBinding",
        || json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name(0)}, "subjects": []}),
    );
    add(Namespaced, "coordination.k8s.io", "v1", "leases", "Lease", || json!({"spec": {}}));
    add(
        Namespaced,
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        || json!({"addressType": "IPv4", "endpoints": [], "ports": []}),
    );
    add(
        Cluster,
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        || json!({"value": 1, "description": "of the witness, unused"}),
    );
    add(Cluster, "node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", || json!({"handler": "none"}));
    add(Cluster, "storage.k8s.io", "v1", "storageclasses", "StorageClass", || json!({"provisioner": "etcd.test/none"}));
    add(Cluster, "storage.k8s.io", "v1", "csidrivers", "CSIDriver", || json!({"spec": {"attachRequired": false}}));
    add(
        Cluster,
        "storage.k8s.io",
        "v1",
        "volumeattributesclasses",
        "VolumeAttributesClass",
        || json!({"driverName": "etcd.test/none", "parameters": {"a": "b"}}),
    );
    add(
        Namespaced,
        "storage.k8s.io",
        "v1",
        "csistoragecapacities",
        "CSIStorageCapacity",
        || json!({"storageClassName": "etcd-witness-none"}),
    );
    add(
        Cluster,
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "flowschemas",
        "FlowSchema",
        || json!({"spec": {"priorityLevelConfiguration": {"name": "global-default"}, "matchingPrecedence": 9999, "rules": []}}),
    );
    add(
        Cluster,
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        || json!({"spec": {"failurePolicy": "Ignore", "matchConstraints": {"resourceRules": [{"apiGroups": ["never.etcd.test"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["*"]}]}, "validations": [{"expression": "true"}]}}),
    );
    add(
        Cluster,
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        || json!({"webhooks": []}),
    );
    add(
        Cluster,
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        || json!({"webhooks": []}),
    );

    add(Namespaced, OWN_GROUP, "v1", "probes", "Probe", || json!({}));
    add(Cluster, OWN_GROUP, "v1", "beacons", "Beacon", || json!({}));
    kinds
}

fn labels() -> Value {
    json!({"app": "etcd-witness"})
}

fn pod_template(restart_policy: &str) -> Value {
    json!({
        "metadata": {"labels": labels()},
        "spec": {"restartPolicy": restart_policy, "containers": [{"name": "none", "image": "etcd.test/none:never"}]},
    })
}
