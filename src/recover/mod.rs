//! `etcd-operator recover`: what an engineer on a node needs when there is no API. Reads files of the node and asks the members; what is to be done it leaves to the
//! keeper, in a file of its own. Needs no agent.

mod begin;
mod compare;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use etcd_operator_keeper::contract::Paths;

use crate::cli::{block_on, fail};
use crate::snapshot::{Format, Output, table};
pub use compare::{Verdict, compare};
pub use report::{Data, Report, inspect};

/// `etcd-operator recover …`.
#[derive(Args)]
pub struct RecoverArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Says whose data lies on this node and how far its log reaches; or, given such reports of several nodes (`-o json`), which of them has the most
    /// and what would be lost with it. Changes nothing.
    Inspect(Inspect),
    /// Begins the cluster anew on this node, from the data of its member, with every entry of its log. For a cluster that has lost its quorum for good.
    FromSurvivor(begin::FromSurvivor),
    /// Begins the cluster anew on this node, from a backup or snapshot. For a cluster that has lost all of its data.
    FromSnapshot(begin::FromSnapshot),
    /// Makes this node wait for a member of the recovered cluster: its old data stays, and never serves again. For every other node that is there, before the
    /// cluster is begun anew.
    Retire(begin::Retire),
    /// Says what became of the last recovery on this node.
    Status(begin::Status),
}

/// Which cluster, and where it lies on this node.
#[derive(Args)]
struct Here {
    /// The EtcdCluster.
    #[arg(long, default_value = "kube-etcd")]
    cluster: String,
    /// Its namespace.
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    /// What this node is called. Default: its host name.
    #[arg(long)]
    node: Option<String>,
    /// Where orders, state and keys lie.
    #[arg(long, env = "ETCD_OPERATOR_ROOT", default_value = "/var/lib/etcd-operator")]
    operator_root: PathBuf,
    /// Where etcd's data lies.
    #[arg(long, env = "ETCD_OPERATOR_DATA_ROOT", default_value = "/var/lib/etcd")]
    data_root: PathBuf,
}

impl Here {
    fn paths(&self) -> Paths {
        Paths::new(&self.operator_root, &self.data_root, &self.namespace, &self.cluster)
    }

    async fn inspect(&self) -> Result<Report, String> {
        let node = self.node.clone().unwrap_or_else(host_name);
        inspect(&self.paths(), &node, &self.namespace, &self.cluster).await
    }
}

#[derive(Args)]
struct Inspect {
    /// Reports of nodes, as `-o json` prints them. None: this node is looked at.
    reports: Vec<PathBuf>,
    #[command(flatten)]
    here: Here,
    #[command(flatten)]
    format: Format,
}

/// Runs it to its end.
#[must_use]
pub fn main(args: RecoverArgs) -> ExitCode {
    // What is in etcd is for whoever runs this.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    match args.what {
        What::Inspect(args) => look(&args),
        What::FromSurvivor(args) => block_on(args.run()),
        What::FromSnapshot(args) => block_on(args.run()),
        What::Retire(args) => block_on(args.run()),
        What::Status(args) => args.run(),
    }
}

fn look(args: &Inspect) -> ExitCode {
    if args.reports.is_empty() {
        return block_on(async {
            let report = args.here.inspect().await?;
            match args.format.output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?),
                Output::Table => print_reports(std::slice::from_ref(&report)),
            }
            Ok::<_, String>(())
        });
    }
    let reports = match read_reports(&args.reports) {
        Ok(reports) => reports,
        Err(why) => return fail(&why),
    };
    let verdict = compare(&reports);
    match args.format.output {
        Output::Json => println!("{}", serde_json::json!(verdict)),
        Output::Table => {
            print_reports(&reports);
            println!("\n{}", verdict.words());
        }
    }
    if verdict.survivor.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_reports(files: &[PathBuf]) -> Result<Vec<Report>, String> {
    let read = |path: &PathBuf| {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Report::read(&text).map_err(|why| format!("{}: {why}", path.display()))
    };
    files.iter().map(read).collect()
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn print_reports(reports: &[Report]) {
    let mut rows = vec![
        ["NODE", "DATA", "CLUSTER ID", "MEMBER ID", "LINEAGE", "LAST TERM", "LAST INDEX", "COMMIT", "MIB", "NOTE"]
            .map(str::to_owned),
    ];
    for report in reports {
        let note = |data: &Data| {
            let own = if data.is_own { "" } else { "not this node's member" };
            [own, data.problem.as_str()].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join("; ")
        };
        rows.extend(report.data.iter().map(|data| {
            [
                report.node.clone(),
                data.name.clone(),
                data.cluster_id.clone(),
                data.member_id.clone(),
                report.lineage.to_string(),
                data.last_term.to_string(),
                data.last_index.to_string(),
                data.commit.to_string(),
                data.db_mib.to_string(),
                note(data),
            ]
        }));
    }
    print!("{}", table(&rows));
    for report in reports {
        if report.data.is_empty() {
            println!("{}: no data of {}/{}", report.node, report.namespace, report.cluster);
        }
        println!("{}: keeper: {} {}: {}", report.node, report.phase, report.reason, report.message);
        println!("{}: {}", report.node, report.quorum_words());
    }
}
