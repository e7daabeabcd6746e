//! The verbs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use etcd_operator_bed::faults::{self, Direction, Process, Signal};
use etcd_operator_bed::layout::Node;
use etcd_operator_bed::{ApiServerEtcd, Bed, Error, Layout, Options, Result, State, cmd, down, node, node_init};

/// A real Kubernetes control plane on one Linux machine.
#[derive(Parser)]
#[command(name = "bed", about)]
pub struct Arguments {
    /// The bed's folder [default: target/bed of the checkout]
    #[arg(long, env = "BED_DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a bed: nodes Ready, a temporary control plane on one boot etcd
    Up(Up),
    /// Take it away, in whatever state it is; built programs and frozen copies stay
    Down,
    /// How it stands
    Status {
        /// Print JSON
        #[arg(short, long, value_enum)]
        output: Option<Output>,
    },
    /// Cut the power of nodes: everything in them dies in the same instant, disks stay
    PowerCut(Names),
    /// Switch nodes on
    Start {
        #[command(flatten)]
        names: Names,
        /// Wait for the API's /readyz and print how long it took
        #[arg(long)]
        wait: bool,
    },
    /// Give a node an empty disk; it is off afterwards
    Wipe {
        /// Node
        node: String,
    },
    /// Cut the link between two nodes, or a node and `lb`
    Partition {
        /// Node or `lb`
        a: String,
        /// Node or `lb`
        b: String,
        /// Only A no longer hears B
        #[arg(long)]
        one_way: bool,
    },
    /// Make a node's link bad, in both directions
    Link {
        /// Node
        node: String,
        /// Packets lost, e.g. 30%
        #[arg(long)]
        loss: Option<String>,
        /// Bits per second, e.g. 1mbit
        #[arg(long)]
        rate: Option<String>,
    },
    /// Take all network faults back
    Heal,
    /// Stop a process where it stands (SIGSTOP)
    Pause(Target),
    /// Let a paused process go on (SIGCONT)
    Resume(Target),
    /// Kill a process (SIGKILL)
    Kill {
        #[command(flatten)]
        target: Target,
        /// SIGTERM instead
        #[arg(long)]
        term: bool,
    },
    /// Run a command inside a node
    Exec {
        /// Node
        node: String,
        /// Command and arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Build the operator, load its image, kubectl apply -k
    Install,
    /// Replace the temporary control plane by one on each node, on the new etcd
    Handover {
        /// What the API servers list [default: what the operator published, else all seats]
        #[arg(long, value_delimiter = ',')]
        etcd_servers: Vec<String>,
    },
    /// Cut the power of all nodes and keep a copy of their disks
    Freeze {
        /// Name of the copy
        name: String,
    },
    /// Put frozen disks back and switch all nodes on
    Thaw {
        /// Name of the copy
        name: String,
    },
    #[command(hide = true)]
    NodeLaunch { node: String },
    #[command(hide = true)]
    NodeInit { node: String },
    #[command(hide = true)]
    NodeLoadOperator,
}

#[derive(Args)]
struct Up {
    /// Number of nodes, 1 to 5
    #[arg(long, env = "BED_NODES", default_value_t = 3)]
    nodes: u8,
    /// The node with boot etcd and the temporary control plane
    #[arg(long, env = "BOOT_NODE", default_value = "cp1")]
    boot_node: String,
    /// What the temporary API server lists in --etcd-servers
    #[arg(long, value_enum, default_value = "all")]
    api_server_etcd: EtcdList,
}

#[derive(Args)]
struct Names {
    /// Nodes
    nodes: Vec<String>,
    /// All nodes
    #[arg(long)]
    all: bool,
}

#[derive(Args)]
struct Target {
    /// Node
    node: String,
    /// etcd, boot-etcd, keeper, agent, controller, kube-apiserver, kubelet, kube-proxy or containerd
    process: Process,
}

#[derive(Clone, Copy, ValueEnum)]
enum EtcdList {
    All,
    BootOnly,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Json,
}

/// Runs a verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Verb::NodeLoadOperator = arguments.verb {
        // Runs inside a node, where there is no bed folder.
        return node_init::load_operator(Path::new("/run/bed/images")).map(|()| ExitCode::SUCCESS);
    }
    let layout = Layout::find(arguments.dir.as_deref())?;
    let open = || Bed::open(layout.clone());
    let done = match &arguments.verb {
        Verb::Up(up) => {
            cmd::catch_signals()?;
            let api_server_etcd = match up.api_server_etcd {
                EtcdList::All => ApiServerEtcd::All,
                EtcdList::BootOnly => ApiServerEtcd::BootOnly,
            };
            let options = Options { nodes: up.nodes, boot_node: up.boot_node.clone(), api_server_etcd, ..Options::default() };
            Bed::up(layout, options).map(|_| ())
        }
        Verb::Down => down(&layout),
        Verb::Status { output } => status(&open()?, *output),
        Verb::PowerCut(names) => {
            let bed = open()?;
            bed.power_cut(&bed.nodes(&names.nodes, names.all)?)
        }
        Verb::Start { names, wait } => {
            let bed = open()?;
            bed.start(&bed.nodes(&names.nodes, names.all)?)?;
            if *wait {
                println!("/readyz ok {:.1} s after the last node was switched on", bed.wait_api()?.as_secs_f32());
            }
            Ok(())
        }
        Verb::Wipe { node } => {
            let bed = open()?;
            bed.wipe(&bed.options().node(node)?)
        }
        Verb::Partition { a, b, one_way } => {
            let direction = if *one_way { Direction::FirstIsDeaf } else { Direction::Both };
            faults::partition(open()?.options(), a, b, direction)
        }
        Verb::Link { node, loss, rate } => {
            if loss.is_none() && rate.is_none() {
                return Err(Error::State("link: give --loss, --rate or both".into()));
            }
            faults::link(&open()?.options().node(node)?, loss.as_deref(), rate.as_deref())
        }
        Verb::Heal => faults::heal(open()?.options()),
        Verb::Pause(target) => signal(&open()?, target, Signal::Pause),
        Verb::Resume(target) => signal(&open()?, target, Signal::Resume),
        Verb::Kill { target, term } => signal(&open()?, target, if *term { Signal::Terminate } else { Signal::Kill }),
        Verb::Exec { node, command } => return exec(&open()?.options().node(node)?, command),
        Verb::Install => open()?.install(),
        Verb::Handover { etcd_servers } => open()?.handover(etcd_servers),
        Verb::Freeze { name } => open()?.freeze(name),
        Verb::Thaw { name } => {
            cmd::catch_signals()?;
            Bed::thaw(layout, name).map(|_| ())
        }
        Verb::NodeLaunch { node } => node::launch(&layout, &State::load(&layout)?.options.node(node)?),
        Verb::NodeInit { node } => {
            let options = State::load(&layout)?.options;
            node_init::main(&layout, &options, &options.node(node)?)
        }
        Verb::NodeLoadOperator => Ok(()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn signal(bed: &Bed, target: &Target, signal: Signal) -> Result<()> {
    let pids = faults::signal(&bed.options().node(&target.node)?, target.process, signal)?;
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    println!("{signal:?} {:?} on {}: PID {}", target.process, target.node, pids.join(" "));
    Ok(())
}

fn exec(node: &Node, command: &[String]) -> Result<ExitCode> {
    let error = node::inside(node)?.args(command).exec();
    Err(Error::State(format!("nsenter: {error}")))
}

fn status(bed: &Bed, output: Option<Output>) -> Result<()> {
    let status = bed.status()?;
    if output == Some(Output::Json) {
        let text = serde_json::to_string_pretty(&status).map_err(|source| Error::Json { what: "status".into(), source })?;
        println!("{text}");
        return Ok(());
    }
    let phase = if status.handed_over { "handed over" } else { "temporary control plane" };
    println!(
        "API {} {} ({phase}, boot node {})",
        bed.url(),
        if status.api_ready { "ready" } else { "NOT READY" },
        status.boot_node
    );
    println!("API servers in use: {}", status.api_servers.join(" "));
    for node in &status.nodes {
        let ready = match node.ready {
            Some(true) => "Ready",
            Some(false) => "NotReady",
            None => "unknown",
        };
        let on = if node.on { "on" } else { "off" };
        println!("{:5} {:12} {on:4} {ready:9} {}", node.name, node.ip, node.faults.join("; "));
    }
    Ok(())
}
