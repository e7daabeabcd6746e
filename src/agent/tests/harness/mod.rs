//! A real kube-apiserver and real etcds on loopback, for the agent to work against. Everything lies in one temporary directory; each
//! process is ended by the handle that started it.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use std::time::{Duration, Instant};

use etcd_operator_agent::AgentArgs;
use etcd_operator_api::member::{Certificates, EtcdMember, EtcdMemberSpec};
use etcd_operator_client::{ApiServers, ClientOptions};
use etcd_operator_etcd::client::{EtcdClient, Tls};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, CustomResourceExt as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use serde_json::{Value, json};

pub const NAMESPACE: &str = "etcd-system";
pub const NODE: &str = "cp1";
pub const CLUSTER: &str = "kube-etcd";

/// Kills its process when dropped.
pub struct Process {
    pub child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    fn start(dir: &Path, name: &str, program: &Path, args: &[String]) -> Self {
        let path = dir.join(format!("{name}.log"));
        let log = File::create(&path).unwrap();
        let child = Command::new(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        Self { child, name: name.to_owned(), log: path }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process ends by SIGKILL too.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the end of {}'s log\n{}", self.name, lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}

fn tool(variable: &str, what: &str, name: &str) -> PathBuf {
    let folder = std::env::var(variable)
        .unwrap_or_else(|_| panic!("set {variable} to the folder with {name}: {variable}=$(tests/bed/go/build.sh {what}) cargo test -p etcd-operator-agent"));
    let path = Path::new(&folder).join(name);
    assert!(path.exists(), "{} does not exist: {variable} must be what tests/bed/go/build.sh {what} prints", path.display());
    path
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The etcd CA, as the controller has it.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key for a server and client on loopback.
    pub fn leaf(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// Signs a CSR as the controller does: for a client, without SANs.
    pub fn sign(&self, csr: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.0).unwrap().pem()
    }
}

/// One etcd with TLS.
pub struct Etcd {
    pub process: Process,
    pub endpoint: String,
    pub peer: String,
}

pub struct Bed {
    pub ca: Ca,
    pub tls: Tls,
    pub api_server: Process,
    pub admin: kube::Client,
    agent_config: PathBuf,
    api_port: u16,
    store_url: String,
    // Ended after the API server, which needs it; the logs are read before the directory goes.
    _store: Process,
    pub root: tempfile::TempDir,
}

impl Bed {
    /// API server, CRD, namespace and the agent's rights.
    pub async fn up() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ = tracing_subscriber_if_wanted();
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().to_owned();
        let ca = Ca::new();
        let (cert, key) = ca.leaf();
        for (name, text) in [("ca.crt", ca.pem()), ("leaf.crt", cert.clone()), ("leaf.key", key.clone())] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let tls = Tls { ca: ca.pem().into(), cert: cert.into(), key: key.into() };

        let (store_port, store_peer) = (free_port(), free_port());
        let store_url = format!("http://127.0.0.1:{store_port}");
        let store_args = [
            "--name=store".to_owned(),
            format!("--data-dir={}", dir.join("store").display()),
            format!("--listen-client-urls={store_url}"),
            format!("--advertise-client-urls={store_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{store_peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{store_peer}"),
            format!("--initial-cluster=store=http://127.0.0.1:{store_peer}"),
            "--unsafe-no-fsync".to_owned(),
        ];
        let store = Process::start(&dir, "store", &tool("ETCD_BIN", "etcd", "etcd"), &store_args);

        let port = free_port();
        let api_server = start_api_server(&dir, port, &store_url);
        let server = format!("https://127.0.0.1:{port}");
        let admin_config = kubeconfig(&dir, "admin", &server);
        let agent_config = kubeconfig(&dir, "agent", &server);
        let servers =
            ApiServers::connect(&ClientOptions { api_servers: Vec::new(), kubeconfig: Some(admin_config) }).await.unwrap();
        let admin = servers.client();
        let bed = Self { root, ca, tls, api_server, admin, agent_config, api_port: port, store_url, _store: store };
        bed.install().await;
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Starts the API server again after it was killed.
    pub async fn restart_api_server(&mut self) {
        self.api_server = start_api_server(self.root.path(), self.api_port, &self.store_url);
        self.api_is_ready().await;
    }

    async fn api_is_ready(&self) {
        let ready = || async {
            let request = http_get("/readyz");
            self.admin.request_text(request).await.is_ok()
        };
        eventually("the API server is ready", Duration::from_secs(30), ready).await;
    }

    async fn install(&self) {
        self.api_is_ready().await;
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        namespaces.create(&PostParams::default(), &from(json!({ "metadata": { "name": NAMESPACE } }))).await.unwrap();
        let crds: Api<CustomResourceDefinition> = Api::all(self.admin.clone());
        crds.create(&PostParams::default(), &EtcdMember::crd()).await.unwrap();
        // What the agent needs, and no more.
        let roles: Api<ClusterRole> = Api::all(self.admin.clone());
        let rules = json!([
            { "apiGroups": ["etcd.database.coreos.com"], "resources": ["etcdmembers"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["etcd.database.coreos.com"], "resources": ["etcdmembers/status"], "verbs": ["patch"] },
        ]);
        roles.create(&PostParams::default(), &from(json!({ "metadata": { "name": "agent" }, "rules": rules }))).await.unwrap();
        let bindings: Api<ClusterRoleBinding> = Api::all(self.admin.clone());
        let binding = json!({
            "metadata": { "name": "agent" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "agent" },
            "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "agent" }],
        });
        bindings.create(&PostParams::default(), &from(binding)).await.unwrap();
        let served = || async { self.members().list(&kube::api::ListParams::default()).await.is_ok() };
        eventually("the API server serves EtcdMembers", Duration::from_secs(20), served).await;
    }

    pub fn members(&self) -> Api<EtcdMember> {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    pub async fn create(&self, name: &str, spec: EtcdMemberSpec) {
        self.members().create(&PostParams::default(), &EtcdMember::new(name, spec)).await.unwrap();
    }

    pub async fn patch(&self, name: &str, spec: Value) {
        let patch = json!({ "spec": spec });
        self.members().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Waits until the object looks as wanted.
    pub async fn wait(&self, name: &str, what: &str, limit: Duration, wanted: impl Fn(&EtcdMember) -> bool) -> EtcdMember {
        let members = self.members();
        let started = Instant::now();
        loop {
            let last = members.get(name).await;
            if let Ok(member) = &last
                && wanted(member)
            {
                return last.unwrap();
            }
            assert!(started.elapsed() < limit, "not within {limit:?}: {what}; last seen: {last:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Signs what the agent asks for and puts it into the spec, as the controller does.
    pub async fn certify(&self, name: &str) {
        let member = self
            .wait(name, "CSRs in the status", Duration::from_secs(20), |member| {
                member.status.as_ref().is_some_and(|status| status.csr.is_some())
            })
            .await;
        let csr = member.status.unwrap().csr.unwrap();
        let certificates = Certificates {
            ca: self.ca.pem(),
            peer: csr.peer.as_deref().map(|csr| self.ca.sign(csr)),
            server: csr.server.as_deref().map(|csr| self.ca.sign(csr)),
            client: self.ca.sign(&csr.client),
        };
        self.patch(name, json!({ "certificates": certificates })).await;
    }

    pub fn agent_args(&self) -> AgentArgs {
        let static_pod_path = self.path("manifests");
        std::fs::create_dir_all(&static_pod_path).unwrap();
        AgentArgs {
            node_name: NODE.into(),
            namespace: NAMESPACE.into(),
            kubeconfig: Some(self.agent_config.clone()),
            static_pod_path,
            operator_root: self.path("operator"),
            data_root: self.path("data"),
            allowed_image_prefixes: vec!["registry.example/etcd".into()],
            ..AgentArgs::default()
        }
    }

    /// Starts an agent in a runtime of its own, so that it can be "killed" with all of its tasks.
    pub fn agent(&self) -> Agent {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(etcd_operator_agent::run(self.agent_args()));
        Agent(Some(runtime))
    }

    /// Boot: an etcd of one member, and the static manifest that would have started it.
    pub async fn boot(&self) -> Etcd {
        let (client, peer) = (free_port(), free_port());
        let boot = self.etcd("boot", client, peer, &format!("boot=https://127.0.0.1:{peer}"), "new");
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "boot-etcd", "namespace": "kube-system" },
            "spec": {
                "hostNetwork": true,
                "containers": [{
                    "name": "etcd", "image": "registry.example/etcd:v3.6.16",
                    "command": ["etcd", format!("--listen-client-urls={}", boot.endpoint), "--data-dir=/data"],
                    "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                }],
                "volumes": [{ "name": "data", "hostPath": { "path": self.path("boot") } }],
            },
        });
        let folder = self.agent_args().static_pod_path;
        std::fs::write(folder.join("boot-etcd.yaml"), serde_yaml_ng::to_string(&manifest).unwrap()).unwrap();
        let connected = self.client(&boot).await;
        eventually("boot answers", Duration::from_secs(20), || async {
            connected.member_list(Duration::from_secs(1)).await.is_ok()
        })
        .await;
        boot
    }

    /// A second voter beside boot.
    pub async fn second(&self, boot: &Etcd) -> Etcd {
        let (client, peer) = (free_port(), free_port());
        let at_boot = self.client(boot).await;
        let id = at_boot.member_add_learner(&format!("https://127.0.0.1:{peer}")).await.unwrap();
        let all = format!("boot={},second=https://127.0.0.1:{peer}", boot.peer);
        let second = self.etcd("second", client, peer, &all, "existing");
        eventually("the learner is promoted", Duration::from_secs(20), || async { at_boot.member_promote(id).await.is_ok() })
            .await;
        let at_second = self.client(&second).await;
        eventually("the second member answers", Duration::from_secs(20), || async {
            at_second.member_list(Duration::from_secs(1)).await.is_ok()
        })
        .await;
        // etcd's strict check: no removal before all voters were connected for 5 s. No call tells when that is.
        tokio::time::sleep(Duration::from_millis(5500)).await;
        second
    }

    pub async fn client(&self, etcd: &Etcd) -> EtcdClient {
        EtcdClient::new(&etcd.endpoint, &self.tls).await.unwrap()
    }

    fn etcd(&self, name: &str, client: u16, peer: u16, initial: &str, state: &str) -> Etcd {
        let (endpoint, peer) = (format!("https://127.0.0.1:{client}"), format!("https://127.0.0.1:{peer}"));
        let file = |name: &str| self.path(name).display().to_string();
        let mut args = vec![
            format!("--name={name}"),
            format!("--data-dir={}", file(name)),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
            "--client-cert-auth".into(),
            "--peer-client-cert-auth".into(),
            "--unsafe-no-fsync".into(),
        ];
        for prefix in ["--", "--peer-"] {
            args.push(format!("{prefix}cert-file={}", file("leaf.crt")));
            args.push(format!("{prefix}key-file={}", file("leaf.key")));
            args.push(format!("{prefix}trusted-ca-file={}", file("ca.crt")));
        }
        let process = Process::start(self.root.path(), name, &tool("ETCD_BIN", "etcd", "etcd"), &args);
        Etcd { process, endpoint, peer }
    }

    /// Whether a plain etcd with this data directory, told to make a new cluster, gives up at once.
    pub fn refuses_to_start(&self, data: &Path) -> bool {
        let url = format!("--listen-client-urls=http://127.0.0.1:{}", free_port());
        let advertised = url.replace("listen", "advertise");
        let peer = format!("--listen-peer-urls=http://127.0.0.1:{}", free_port());
        let data = format!("--data-dir={}", data.display());
        let mut etcd =
            Process::start(self.root.path(), "again", &tool("ETCD_BIN", "etcd", "etcd"), &[url, advertised, peer, data]);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if let Some(status) = etcd.child.try_wait().unwrap() {
                return !status.success();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Asks etcdutl whether a file is a whole snapshot.
    pub fn snapshot_is_whole(&self, file: &Path) -> bool {
        let output = Command::new(tool("ETCD_BIN", "etcd", "etcdutl"))
            .args(["snapshot", "status", "-w", "json"])
            .arg(file)
            .output()
            .unwrap();
        output.status.success()
    }
}

/// An agent; dropping it is a kill.
pub struct Agent(Option<tokio::runtime::Runtime>);

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn start_api_server(dir: &Path, port: u16, store: &str) -> Process {
    std::fs::write(dir.join("tokens.csv"), "admin-token,admin,admin,system:masters\nagent-token,agent,agent\n").unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let args = [
        format!("--etcd-servers={store}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        "--endpoint-reconciler-type=none".into(),
        format!("--tls-cert-file={}", file("leaf.crt")),
        format!("--tls-private-key-file={}", file("leaf.key")),
        format!("--cert-dir={}", file("apiserver")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=RBAC".into(),
        "--service-account-issuer=https://test.invalid".into(),
        format!("--service-account-key-file={}", file("leaf.crt")),
        format!("--service-account-signing-key-file={}", file("leaf.key")),
        "--service-cluster-ip-range=10.255.0.0/24".into(),
        "--disable-admission-plugins=ServiceAccount".into(),
    ];
    Process::start(dir, "kube-apiserver", &tool("KUBE_BIN", "kubernetes", "kube-apiserver"), &args)
}

fn kubeconfig(dir: &Path, user: &str, server: &str) -> PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": server, "certificate-authority": dir.join("ca.crt") } }],
        "users": [{ "name": user, "user": { "token": format!("{user}-token") } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": user, "namespace": NAMESPACE } }],
    });
    let path = dir.join(format!("{user}.kubeconfig"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

pub fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).unwrap()
}

/// `RUST_LOG`-like output of the agent, for someone who looks for a failure.
fn tracing_subscriber_if_wanted() -> Option<()> {
    std::env::var_os("AGENT_TEST_LOG")?;
    tracing_subscriber::fmt().with_test_writer().try_init().ok()
}

/// Waits for a condition, by asking again and again.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, condition: impl Fn() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
