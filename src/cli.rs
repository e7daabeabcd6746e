//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use etcd_operator_agent::AgentArgs;
use etcd_operator_client::ClientOptions;
use etcd_operator_keeper::{KeeperArgs, ProveArgs};

use crate::controller::{self, ControllerArgs, LeaseTimes};
use crate::pivot::PivotArgs;
use crate::recover::RecoverArgs;
use crate::snapshot::SnapshotArgs;
use crate::telemetry::{self, Metrics};

/// Self-hosted etcd for Kubernetes.
#[derive(Parser)]
#[command(name = "etcd-operator", version, about)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Subcommand)]
pub enum Command {
    /// Plans and carries out membership changes (a Deployment with two replicas).
    Controller(ControllerFlags),
    /// Carries orders out on one node (a DaemonSet on the control nodes).
    Agent(AgentFlags),
    /// PID 1 of the etcd static pod; not to be called by hand.
    Keeper(KeeperFlags),
    /// Runs the etcd of an image that is to be rolled out; not to be called by hand.
    Prove(ProveFlags),
    /// Moves the cluster's datastore from boot etcd to members on the control nodes.
    Pivot(PivotArgs),
    /// Takes, lists, proves and unpacks backups; needs no API.
    Snapshot(SnapshotArgs),
    /// For a node with no API: what lies on it, and which of several nodes has the most.
    Recover(RecoverArgs),
    /// Stands beside a member so that `kubectl drain` sees it; not to be called by hand.
    Guard,
    /// Writes the CRDs as YAML.
    Crds(CrdsFlags),
}

impl Command {
    /// Runs it to its end.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Keeper(flags) => {
                telemetry::start();
                flags.run()
            }
            Self::Prove(ProveFlags { dir, etcd, image }) => {
                telemetry::start();
                etcd_operator_keeper::prove(ProveArgs { dir, etcd, image })
            }
            Self::Controller(flags) => {
                telemetry::start();
                block_on(controller::run(flags.into()))
            }
            Self::Agent(flags) => {
                telemetry::start();
                block_on(etcd_operator_agent::run(flags.into()))
            }
            Self::Guard => block_on::<std::convert::Infallible>(async {
                telemetry::told_to_stop().await;
                Ok(())
            }),
            Self::Pivot(args) => crate::pivot::main(args),
            Self::Snapshot(args) => crate::snapshot::main(args),
            Self::Recover(args) => crate::recover::main(args),
            Self::Crds(flags) => flags.run(),
        }
    }
}

/// Where the API is.
#[derive(Args, Clone, Debug)]
pub struct ApiFlags {
    /// URLs of the API servers, by IP (comma-separated or repeated). Default: the address in the pod's environment or the kubeconfig.
    #[arg(long = "api-server", env = "ETCD_OPERATOR_API_SERVERS", value_delimiter = ',')]
    api_servers: Vec<String>,
    /// A kubeconfig. Default: the pod's service account.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

impl From<ApiFlags> for ClientOptions {
    fn from(flags: ApiFlags) -> Self {
        Self { api_servers: flags.api_servers.into_iter().filter(|s| !s.is_empty()).collect(), kubeconfig: flags.kubeconfig }
    }
}

/// Flags of the controller.
#[derive(Args)]
pub struct ControllerFlags {
    #[command(flatten)]
    api: ApiFlags,
    /// The namespace in which EtcdClusters are honoured.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// Name of this replica.
    #[arg(long, env = "POD_NAME")]
    holder: String,
    /// Repository of etcd's image where spec.repository is empty.
    #[arg(long, env = "ETCD_OPERATOR_DEFAULT_REPOSITORY", default_value = "")]
    default_repository: String,
    /// How long a learner that is behind may receive nothing before it is evicted and another node is tried, in seconds.
    #[arg(long, env = "ETCD_OPERATOR_LEARNER_PATIENCE", default_value_t = 300, value_parser = clap::value_parser!(u64).range(60..))]
    learner_patience: u64,
    /// How long a voter must be down, and its node gone or NotReady, before another node takes its place, in seconds.
    #[arg(long, env = "ETCD_OPERATOR_REPLACE_AFTER", default_value_t = 300, value_parser = clap::value_parser!(u64).range(60..))]
    replace_after: u64,
    /// Where /metrics, /livez and /readyz are served, plain HTTP. Replicas that share a node take the next of four ports. "off" = nowhere.
    #[arg(long, env = "ETCD_OPERATOR_METRICS_ADDRESS", default_value = "0.0.0.0:23791", value_parser = metrics_address)]
    metrics_address: MetricsAddress,
    /// Hosts EtcdClusters without spec.selfHosted, too ("true"): needs the rights of deploy/standalone.yaml.
    #[arg(long, env = "ETCD_OPERATOR_STANDALONE")]
    standalone: bool,
    /// How long other replicas wait before they take over, in seconds.
    #[arg(long, default_value_t = 15)]
    lease_duration: u64,
    /// How long to try to renew before giving up leadership, in seconds.
    #[arg(long, default_value_t = 10)]
    lease_renew_deadline: u64,
    /// Pause between tries to renew, in seconds.
    #[arg(long, default_value_t = 2)]
    lease_retry: u64,
}

#[derive(Clone, Copy, Debug)]
struct MetricsAddress(Option<SocketAddr>);

fn metrics_address(text: &str) -> Result<MetricsAddress, String> {
    match text {
        "off" => Ok(MetricsAddress(None)),
        address => {
            address.parse().map(|address| MetricsAddress(Some(address))).map_err(|_| "expected <IP>:<port>, or off".into())
        }
    }
}

impl From<ControllerFlags> for ControllerArgs {
    fn from(flags: ControllerFlags) -> Self {
        Self {
            namespace: flags.namespace,
            holder: flags.holder,
            api: flags.api.into(),
            default_repository: flags.default_repository,
            learner_patience: Duration::from_secs(flags.learner_patience),
            replace_after: Duration::from_secs(flags.replace_after),
            lease: LeaseTimes {
                duration: Duration::from_secs(flags.lease_duration),
                renew_deadline: Duration::from_secs(flags.lease_renew_deadline),
                retry: Duration::from_secs(flags.lease_retry),
            },
            metrics: Metrics::default(),
            metrics_address: flags.metrics_address.0,
            standalone: flags.standalone,
            binary: None,
        }
    }
}

/// Flags of the agent.
#[derive(Args)]
pub struct AgentFlags {
    #[command(flatten)]
    api: ApiFlags,
    /// The node.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// The namespace in which EtcdMembers are honoured.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// The kubelet's folder of static pods.
    #[arg(long, env = "ETCD_OPERATOR_STATIC_POD_PATH", default_value = "/etc/kubernetes/manifests")]
    static_pod_path: PathBuf,
    /// Where orders, state, keys and binaries lie on the node.
    #[arg(long, env = "ETCD_OPERATOR_ROOT", default_value = "/var/lib/etcd-operator")]
    operator_root: PathBuf,
    /// Where etcd's data lies on the node.
    #[arg(long, env = "ETCD_OPERATOR_DATA_ROOT", default_value = "/var/lib/etcd")]
    data_root: PathBuf,
    /// UID of the controller, whose connections are left out when clients are counted. 23790 is what deploy/ uses.
    #[arg(long, default_value_t = 23790)]
    controller_uid: u32,
    /// Prefixes of images that may run as etcd on this node (comma-separated or repeated).
    #[arg(long = "allowed-image", env = "ETCD_OPERATOR_ALLOWED_IMAGES", value_delimiter = ',')]
    allowed_images: Vec<String>,
    /// How much of a node's file system backups leave free, in hundredths. (Kubelets remove images where less than 15 is free.)
    #[arg(long, env = "ETCD_OPERATOR_BACKUP_RESERVE", default_value_t = etcd_operator_backup::DiskRoom::PERCENT, value_parser = clap::value_parser!(u64).range(1..=90))]
    backup_reserve: u64,
}

impl From<AgentFlags> for AgentArgs {
    fn from(flags: AgentFlags) -> Self {
        let api: ClientOptions = flags.api.into();
        Self {
            node_name: flags.node_name,
            namespace: flags.namespace,
            api_servers: api.api_servers,
            kubeconfig: api.kubeconfig,
            static_pod_path: flags.static_pod_path,
            operator_root: flags.operator_root,
            data_root: flags.data_root,
            controller_uid: flags.controller_uid,
            backup_reserve: flags.backup_reserve,
            allowed_image_prefixes: flags.allowed_images.into_iter().filter(|s| !s.is_empty()).collect(),
            ..Self::default()
        }
    }
}

/// Flags of the keeper.
#[derive(Args)]
pub struct KeeperFlags {
    /// `/var/lib/etcd-operator/<namespace>/<cluster>`.
    #[arg(long)]
    dir: PathBuf,
    /// `/var/lib/etcd/<namespace>/<cluster>`.
    #[arg(long)]
    data: PathBuf,
    /// etcd's binary in the image.
    #[arg(long, default_value = "/usr/local/bin/etcd")]
    etcd: PathBuf,
    /// Loopback port of the probes.
    #[arg(long)]
    probe_port: u16,
    /// Only read the files, say what would be done, and end.
    #[arg(long)]
    self_check: bool,
}

impl KeeperFlags {
    /// Runs it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let args = KeeperArgs {
            dir: self.dir,
            data: self.data,
            etcd: self.etcd,
            probe_port: self.probe_port,
            archive_limit: etcd_operator_keeper::ARCHIVE_LIMIT,
            timing: etcd_operator_keeper::clock::Timing::default(),
        };
        if self.self_check { etcd_operator_keeper::self_check(args) } else { etcd_operator_keeper::run(args) }
    }
}

/// Flags of `prove`.
#[derive(Args)]
pub struct ProveFlags {
    /// `/var/lib/etcd-operator/<namespace>/<cluster>`.
    #[arg(long)]
    dir: PathBuf,
    /// etcd's binary in the image.
    #[arg(long)]
    etcd: PathBuf,
    /// The image that this runs in.
    #[arg(long)]
    image: String,
}

/// Flags of `crds`.
#[derive(Args)]
pub struct CrdsFlags {
    /// The folder to write to.
    #[arg(long, default_value = "crds")]
    out: PathBuf,
}

impl CrdsFlags {
    /// Writes the files.
    #[must_use]
    pub fn run(self) -> ExitCode {
        for (name, crd) in etcd_operator_api::crds() {
            let path = self.out.join(name);
            let text = match serde_yaml_ng::to_string(&crd) {
                Ok(text) => format!("# Generated by `etcd-operator crds`; do not edit.\n{text}"),
                Err(error) => return fail(&format!("{}: {error}", path.display())),
            };
            if let Err(error) = std::fs::write(&path, text) {
                return fail(&format!("{}: {error}", path.display()));
            }
        }
        ExitCode::SUCCESS
    }
}

/// Runs a part of the operator to its end.
pub fn block_on<E: std::fmt::Display>(part: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match runtime.block_on(part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// The last words of a command.
#[must_use]
pub fn fail(message: &str) -> ExitCode {
    eprintln!("etcd-operator: {message}");
    ExitCode::FAILURE
}
