//! Static pods: boot etcd, the temporary control plane on the boot node, and the one that stays.

use serde_json::{Value, json};

use crate::layout::{
    API_PORT, ApiServerEtcd, BOOT_API_PORT, BOOT_CLIENT_PORT, BOOT_PEER_PORT, ETCD_IMAGE, KUBE_IMAGE, MAX_LEARNERS, NAMESPACE,
    Node, Options, SERVICE_CIDR,
};

/// A manifest's file name and content.
pub type Manifest = (&'static str, Value);

const PKI: &str = "/etc/kubernetes/pki";
/// What the API servers record: the operator's own requests ([`crate::config`]).
pub const AUDIT_POLICY: &str = "/etc/kubernetes/audit.yaml";
/// Where they record it: `audit.log`.
pub const AUDIT_LOGS: &str = "/var/log/kube-apiserver";

/// The manifests of boot etcd and of the temporary control plane.
#[must_use]
pub fn boot(options: &Options, node: &Node) -> Vec<Manifest> {
    let servers = match options.api_server_etcd {
        ApiServerEtcd::All => {
            let mut servers = vec![boot_client_url(node)];
            servers.extend(seats(options));
            servers
        }
        ApiServerEtcd::BootOnly => vec![boot_client_url(node)],
    };
    vec![
        ("boot-etcd.yaml", boot_etcd(node)),
        ("boot-kube-apiserver.yaml", api_server("boot-kube-apiserver", node, BOOT_API_PORT, &servers)),
        ("boot-kube-controller-manager.yaml", controller_manager("boot-kube-controller-manager", 20_257)),
        ("boot-kube-scheduler.yaml", scheduler("boot-kube-scheduler", 20_259)),
    ]
}

/// The manifests of the control plane that stays.
#[must_use]
pub fn permanent(node: &Node, etcd_servers: &[String]) -> Vec<Manifest> {
    vec![
        ("kube-apiserver.yaml", api_server("kube-apiserver", node, API_PORT, etcd_servers)),
        ("kube-controller-manager.yaml", controller_manager("kube-controller-manager", 10_257)),
        ("kube-scheduler.yaml", scheduler("kube-scheduler", 10_259)),
    ]
}

/// Boot etcd's client URL.
#[must_use]
pub fn boot_client_url(node: &Node) -> String {
    format!("https://{}:{BOOT_CLIENT_PORT}", node.ip())
}

/// The client URLs that the operator's members will have.
#[must_use]
pub fn seats(options: &Options) -> Vec<String> {
    options.all().iter().map(|n| format!("https://{}:2379", n.ip())).collect()
}

fn boot_etcd(node: &Node) -> Value {
    let ip = node.ip();
    let command = vec![
        "/usr/local/bin/etcd".to_owned(),
        "--name=boot".into(),
        "--data-dir=/var/lib/etcd-boot".into(),
        format!("--listen-client-urls=https://{ip}:{BOOT_CLIENT_PORT},https://127.0.0.1:{BOOT_CLIENT_PORT}"),
        format!("--advertise-client-urls=https://{ip}:{BOOT_CLIENT_PORT}"),
        format!("--listen-peer-urls=https://{ip}:{BOOT_PEER_PORT}"),
        format!("--initial-advertise-peer-urls=https://{ip}:{BOOT_PEER_PORT}"),
        format!("--initial-cluster=boot=https://{ip}:{BOOT_PEER_PORT}"),
        "--initial-cluster-state=new".into(),
        format!("--max-learners={MAX_LEARNERS}"),
        format!("--trusted-ca-file={PKI}/etcd/ca.crt"),
        format!("--cert-file={PKI}/etcd/server.crt"),
        format!("--key-file={PKI}/etcd/server.key"),
        "--client-cert-auth=true".into(),
        format!("--peer-trusted-ca-file={PKI}/etcd/ca.crt"),
        format!("--peer-cert-file={PKI}/etcd/peer.crt"),
        format!("--peer-key-file={PKI}/etcd/peer.key"),
        "--peer-client-cert-auth=true".into(),
    ];
    let mounts = [("pki", "/etc/kubernetes/pki/etcd", true), ("data", "/var/lib/etcd-boot", false)];
    pod("boot-etcd", ETCD_IMAGE, &command, &mounts, None)
}

fn api_server(name: &str, node: &Node, port: u16, etcd_servers: &[String]) -> Value {
    let ip = node.ip();
    let command = vec![
        "/usr/local/bin/kube-apiserver".to_owned(),
        format!("--advertise-address={ip}"),
        format!("--secure-port={port}"),
        format!("--etcd-servers={}", etcd_servers.join(",")),
        format!("--etcd-cafile={PKI}/etcd/ca.crt"),
        format!("--etcd-certfile={PKI}/apiserver-etcd-client.crt"),
        format!("--etcd-keyfile={PKI}/apiserver-etcd-client.key"),
        format!("--client-ca-file={PKI}/ca.crt"),
        format!("--tls-cert-file={PKI}/apiserver.crt"),
        format!("--tls-private-key-file={PKI}/apiserver.key"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={PKI}/sa.pub"),
        format!("--service-account-signing-key-file={PKI}/sa.key"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        format!("--kubelet-certificate-authority={PKI}/ca.crt"),
        format!("--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt"),
        format!("--kubelet-client-key={PKI}/apiserver-kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--profiling=false".into(),
        // Long enough for the load balancer to see that it is no longer ready.
        "--shutdown-delay-duration=4s".into(),
        format!("--audit-policy-file={AUDIT_POLICY}"),
        format!("--audit-log-path={AUDIT_LOGS}/audit.log"),
    ];
    let mounts = [("pki", PKI, true), ("audit-policy", AUDIT_POLICY, true), ("audit-logs", AUDIT_LOGS, false)];
    pod(name, KUBE_IMAGE, &command, &mounts, Some((port, "/livez")))
}

fn controller_manager(name: &str, port: u16) -> Value {
    let config = "/etc/kubernetes/controller-manager.conf";
    let command = vec![
        "/usr/local/bin/kube-controller-manager".to_owned(),
        format!("--kubeconfig={config}"),
        format!("--authentication-kubeconfig={config}"),
        format!("--authorization-kubeconfig={config}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        "--leader-elect=true".into(),
        "--use-service-account-credentials=true".into(),
        format!("--root-ca-file={PKI}/ca.crt"),
        format!("--service-account-private-key-file={PKI}/sa.key"),
        "--allocate-node-cidrs=false".into(),
        "--profiling=false".into(),
    ];
    pod(name, KUBE_IMAGE, &command, &[("pki", PKI, true), ("config", config, true)], None)
}

fn scheduler(name: &str, port: u16) -> Value {
    let config = "/etc/kubernetes/scheduler.conf";
    let command = vec![
        "/usr/local/bin/kube-scheduler".to_owned(),
        format!("--kubeconfig={config}"),
        format!("--authentication-kubeconfig={config}"),
        format!("--authorization-kubeconfig={config}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        "--leader-elect=true".into(),
        "--profiling=false".into(),
    ];
    pod(name, KUBE_IMAGE, &command, &[("pki", PKI, true), ("config", config, true)], None)
}

/// A static pod in the host's network. `mounts`: name, path (the same inside), read-only.
fn pod(name: &str, image: &str, command: &[String], mounts: &[(&str, &str, bool)], liveness: Option<(u16, &str)>) -> Value {
    let kind = |path: &str| match path {
        p if p.ends_with(".conf") || p.ends_with(".yaml") => "File",
        "/var/lib/etcd-boot" | AUDIT_LOGS => "DirectoryOrCreate",
        _ => "Directory",
    };
    let volumes: Vec<_> =
        mounts.iter().map(|(name, path, _)| json!({ "name": name, "hostPath": { "path": path, "type": kind(path) } })).collect();
    let mounts: Vec<_> =
        mounts.iter().map(|(name, path, read_only)| json!({ "name": name, "mountPath": path, "readOnly": read_only })).collect();
    let component = name.strip_prefix("boot-").unwrap_or(name);
    let mut container = json!({
        "name": component,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "volumeMounts": mounts,
        "resources": { "requests": { "cpu": "50m", "memory": "50Mi" } },
    });
    if let (Some((port, path)), Some(container)) = (liveness, container.as_object_mut()) {
        let probe = json!({
            "httpGet": { "host": "127.0.0.1", "port": port, "path": path, "scheme": "HTTPS" },
            "initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 15, "failureThreshold": 8,
        });
        container.insert("livenessProbe".into(), probe);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": { "component": component, "tier": "control-plane" },
        },
        "spec": {
            "hostNetwork": true,
            "priorityClassName": "system-node-critical",
            "priority": 2_000_001_000,
            "terminationGracePeriodSeconds": 30,
            "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [container],
            "volumes": volumes,
        },
    })
}
