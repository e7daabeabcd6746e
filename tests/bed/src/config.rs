//! Configuration of containerd, the pod network, kubelet, kube-proxy and the kubeconfigs.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{At, Result};
use crate::layout::{API_URL, BOOT_API_PORT, Layout, NAMESPACE, Node, Operator, Options, PAUSE_IMAGE, POD_CIDR, write};

/// Writes a node's configuration to its disk.
///
/// # Errors
/// The file that could not be written.
pub fn create_for_node(layout: &Layout, options: &Options, node: &Node) -> Result<()> {
    let kubernetes = layout.disk(node, "etc/kubernetes");
    write_kubelet_conf(layout, node, &format!("https://{}:{BOOT_API_PORT}", options.boot()?.ip()))?;
    for (file, user, key) in [
        ("controller-manager.conf", "controller-manager", "controller-manager"),
        ("scheduler.conf", "scheduler", "scheduler"),
        ("kube-proxy.conf", "kube-proxy", "kube-proxy"),
    ] {
        write(&kubernetes.join(file), pretty(&of_component(user, key, API_URL)), 0o600)?;
    }
    write(&kubernetes.join("kubelet.yaml"), pretty(&kubelet(options, node)), 0o644)?;
    write(&kubernetes.join("kube-proxy.yaml"), pretty(&kube_proxy(node)), 0o644)?;
    write(&kubernetes.join("containerd.toml"), containerd(), 0o644)?;
    write(&kubernetes.join("cni/10-bed.conflist"), pretty(&cni(node)), 0o644)?;
    write(&kubernetes.join("audit.yaml"), pretty(&audit_policy()), 0o644)?;
    let manifests = kubernetes.join("manifests");
    std::fs::create_dir_all(&manifests).at(&manifests)
}

/// The kubelet's kubeconfig, with one API server rather than the load balancer: a server that is down refuses at once, while a load
/// balancer without servers accepts and closes, which client-go tries again for 10 s. A kubelet that starts with pods from before asks
/// for its node in the loop that mounts the volumes of all pods, static ones too: a cold start took 30 s instead of 6.
pub(crate) fn write_kubelet_conf(layout: &Layout, node: &Node, server: &str) -> Result<()> {
    let path = layout.disk(node, "etc/kubernetes/kubelet.conf");
    write(&path, pretty(&of_component("kubelet", "kubelet-client", server)), 0o600)
}

fn of_component(user: &str, key: &str, server: &str) -> Value {
    let pki = "/etc/kubernetes/pki";
    kubeconfig(
        user,
        server,
        json!({ "certificate-authority": format!("{pki}/ca.crt") }),
        &json!({ "client-certificate": format!("{pki}/{key}.crt"), "client-key": format!("{pki}/{key}.key") }),
    )
}

/// The admin's kubeconfig on the host, with the certificates inside, so that it can be copied.
///
/// # Errors
/// The file that could not be read or written.
pub fn create_admin(layout: &Layout) -> Result<()> {
    let encode = |name: &str| -> Result<String> {
        let path = layout.path("pki").join(name);
        Ok(base64(&std::fs::read(&path).at(&path)?))
    };
    let config = kubeconfig(
        "kubernetes-admin",
        API_URL,
        json!({ "certificate-authority-data": encode("ca.crt")? }),
        &json!({ "client-certificate-data": encode("admin.crt")?, "client-key-data": encode("admin.key")? }),
    );
    write(&layout.kubeconfig(), pretty(&config), 0o600)
}

fn kubeconfig(user: &str, server: &str, mut cluster: Value, credentials: &Value) -> Value {
    if let Some(cluster) = cluster.as_object_mut() {
        cluster.insert("server".into(), json!(server));
    }
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bed",
        "clusters": [{ "name": "bed", "cluster": cluster }],
        "users": [{ "name": user, "user": credentials }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": user } }],
    })
}

fn kubelet(options: &Options, node: &Node) -> Value {
    // A container that dies ten times in one pivot would be waited for 5 min each time in the end.
    let restart_within = match options.operator {
        Operator::Shipped => "300s",
        Operator::Crashing => "2s",
    };
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true, "cacheTTL": "10s" },
            "x509": { "clientCAFile": "/etc/kubernetes/pki/ca.crt" },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": "/etc/kubernetes/pki/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/pki/kubelet.key",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "staticPodPath": "/etc/kubernetes/manifests",
        "fileCheckFrequency": "1s",
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "crashLoopBackOff": { "maxContainerRestartPeriod": restart_within },
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "registerWithTaints": [{ "key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule" }],
        "address": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1",
        // A developer's full disk must not evict the control plane, nor collect images that nobody can pull again.
        "evictionHard": { "memory.available": "50Mi" },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "rotateCertificates": false,
        "serializeImagePulls": true,
        "providerID": format!("bed://{}", node.name),
        "logging": { "verbosity": 2 },
    })
}

/// Who wrote what: of the operator's two service accounts alone, as a record of everybody's requests would slow the API down.
fn audit_policy() -> Value {
    let users = ["controller", "agent"].map(|part| format!("system:serviceaccount:{NAMESPACE}:etcd-operator-{part}"));
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "Metadata", "users": users, "verbs": ["create", "update", "patch", "delete", "deletecollection"] },
            { "level": "None" },
        ],
    })
}

fn kube_proxy(node: &Node) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": { "kubeconfig": "/etc/kubernetes/kube-proxy.conf" },
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": node.name,
        // Conntrack's limits belong to the whole machine.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    })
}

fn cni(node: &Node) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "bed",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": node.pod_cidr() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn containerd() -> String {
    let cni = crate::prereq::cni_dir().unwrap_or("/opt/cni/bin");
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "/etc/kubernetes/cni"
"#
    )
}

/// JSON as a file's text. JSON is YAML, so it may stand where YAML is expected.
#[must_use]
pub fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Standard base64 with padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4_usize {
            let index = (word >> (18 - 6 * i)) & 63;
            let letter = usize::try_from(index).ok().and_then(|i| ALPHABET.get(i)).copied().unwrap_or(b'=');
            text.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Reads a JSON file.
///
/// # Errors
/// If it is not there or no JSON.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).at(path)?;
    serde_json::from_slice(&text).map_err(|source| crate::error::Error::Json { what: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_pads() {
        assert_eq!(super::base64(b""), "");
        assert_eq!(super::base64(b"M"), "TQ==");
        assert_eq!(super::base64(b"Ma"), "TWE=");
        assert_eq!(super::base64(b"Man"), "TWFu");
    }
}
