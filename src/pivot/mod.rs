//! `etcd-operator pivot`: posts (or adopts) the EtcdCluster, shows what the controller does, and ends when boot is out. It plans nothing
//! itself: run again, it goes on where things are.

mod boot_command;
mod cluster;
mod outcome;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use etcd_operator_api::EtcdCluster;
use etcd_operator_client::ApiServers;
use kube::Api;

use crate::cli::ApiFlags;
use crate::clock;
use boot_command::Program;
pub use boot_command::{Attendant, BootCommand, Verb};
use outcome::{End, Judge};
use progress::Progress;

/// How often the status is read.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What took longer than this to be read is not acted upon: an order to stop boot is taken back after 10 s.
const ANSWER_IS_OLD: Duration = Duration::from_secs(3);

/// Moves the cluster's datastore from boot etcd to members on the control nodes.
///
/// Exit codes: 0 done (boot is out); 1 could not run, or the API did not answer; 2 bad usage; 3 held: reason and next step are printed, and
/// the pivot goes on by itself once the cause is gone; 4 timed out, boot is still in charge (holdBootRemoval was set: run the command again
/// to go on); 5 timed out after boot was stopped; 6 refused; 130 interrupted: the operator goes on without this command.
#[derive(Args, Clone, Debug)]
pub struct PivotArgs {
    #[command(flatten)]
    api: ApiFlags,
    /// Namespace of the operator.
    #[arg(short, long, default_value = "kube-system")]
    namespace: String,
    /// Name of the EtcdCluster.
    #[arg(long, default_value = "kube-etcd")]
    name: String,
    /// Client URL of boot etcd, https://<IP>:<port>. Needed unless the EtcdCluster exists.
    #[arg(long)]
    boot_endpoint: Option<String>,
    /// Program that stops and starts a boot that is no static pod, called as `<program> drain|kill|start`. `drain` sends SIGTERM and starts
    /// boot again after 10 s unless `kill` came; `kill` ends it for good. Without it such a boot is removed alive.
    #[arg(long, value_name = "PROGRAM")]
    boot_command: Option<PathBuf>,
    /// Number of members. Default: 3.
    #[arg(long)]
    size: Option<i32>,
    /// Version of etcd. Default: the API's.
    #[arg(long)]
    etcd_version: Option<String>,
    /// Repository of etcd's image. Default: the controller's --default-repository.
    #[arg(long)]
    repository: Option<String>,
    /// Secret with the CA that boot trusts. Default: etcd-ca.
    #[arg(long)]
    ca_secret: Option<String>,
    /// Only check whether it could be done; the EtcdCluster that is posted for it is taken back.
    #[arg(long, conflicts_with = "abort")]
    check: bool,
    /// Go back to boot alone; possible until boot has been removed.
    #[arg(long)]
    abort: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line per change.
    Text,
    /// One JSON object per change, on stdout.
    Json,
}

/// Why the command could not do its work.
#[derive(Debug, thiserror::Error)]
enum PivotError {
    #[error(transparent)]
    Client(#[from] etcd_operator_client::ClientError),
    #[error("{0}")]
    Usage(String),
    #[error("the API refused it: {0}")]
    Refused(String),
    #[error("the API does not answer: {0}")]
    Api(String),
}

/// Runs the command.
#[must_use]
pub fn main(args: PivotArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::cli::fail(&format!("cannot start: {error}")),
    };
    let output = args.output;
    let place = (!args.check).then(|| format!("-n {} etcd {}", args.namespace, args.name));
    match runtime.block_on(run(args)) {
        Ok(end) => {
            progress::last_words(output, &end, place.as_deref());
            ExitCode::from(end.exit_code())
        }
        Err(error) => {
            eprintln!("etcd-operator pivot: {error}");
            ExitCode::from(match error {
                PivotError::Usage(_) => 2,
                PivotError::Refused(_) => 6,
                PivotError::Client(_) | PivotError::Api(_) => 1,
            })
        }
    }
}

async fn run(args: PivotArgs) -> Result<End, PivotError> {
    cluster::check_arguments(&args)?;
    let program = args.boot_command.as_deref().map(Program::at).transpose()?;
    let servers = ApiServers::connect(&args.api.clone().into()).await?;
    let api: Api<EtcdCluster> = Api::namespaced(servers.client(), &args.namespace);
    let wanted_generation = cluster::post(&api, &args).await?;
    let mut progress = Progress::new(args.output);
    let boot = match program {
        Some(program) => Boot::Attended(Attendant::new(Arc::new(program))),
        None => Boot::LeftToOthers,
    };
    let stops_boot = AtomicBool::new(false);
    let end = {
        let watching = watch(&api, &args, wanted_generation, boot, &stops_boot, &mut progress);
        let mut watching = std::pin::pin!(watching);
        let mut told = 0;
        loop {
            tokio::select! {
                end = &mut watching => break end,
                () = interrupted() => {
                    told += 1;
                    if told > 1 || !stops_boot.load(Ordering::SeqCst) {
                        break End::Interrupted;
                    }
                    eprintln!("boot is being stopped: this command ends when that is done (interrupt it once more to end it now; then run it again soon)");
                }
            }
        }
    };
    progress.end_line();
    if args.check {
        for line in cluster::checks(&args, servers.client()).await? {
            progress.note(&line);
        }
        cluster::take_back(&api, &args, servers.client()).await?;
    }
    match end {
        End::TimedOutBootInCharge { waiting_for, .. } if !args.check && !args.abort => {
            Ok(cluster::hold(&api, &args, waiting_for).await)
        }
        end => Ok(end),
    }
}

/// Ctrl-C, or the end of whoever started this command.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Who stops boot.
enum Boot {
    /// This command does, by its program.
    Attended(Attendant),
    /// The agent of its node, or nobody: not known yet.
    LeftToOthers,
    /// That has been said.
    Known,
}

/// Reads the status until there is an outcome. A lost API is waited out: it may be the very thing that is being moved.
/// `stops_boot` is true as long as nobody else would end what this command has begun with boot.
async fn watch(
    api: &Api<EtcdCluster>,
    args: &PivotArgs,
    generation: i64,
    mut boot: Boot,
    stops_boot: &AtomicBool,
    progress: &mut Progress,
) -> End {
    let mut judge = Judge::new(args.check, args.abort, generation, clock::instant(), Duration::from_secs(args.timeout));
    loop {
        let asked = clock::instant();
        match api.get_opt(&args.name).await {
            // An order that was on its way for so long may be taken back by now.
            Ok(Some(_)) if asked.elapsed() > ANSWER_IS_OLD => {}
            Ok(Some(cluster)) => {
                progress.show(&cluster);
                let note = attend(&mut boot, api, args, generation, &cluster).await;
                if let Some(note) = note {
                    progress.note(&note);
                }
                let is_busy = matches!(&boot, Boot::Attended(attendant) if attendant.is_draining() || boot_command::is_to_be_killed(&cluster));
                stops_boot.store(is_busy, Ordering::SeqCst);
                match (judge.judge(&cluster), &boot) {
                    (Some(End::Held { .. }), _) if is_busy => {}
                    (Some(End::Done { .. }), Boot::Attended(_)) if boot_command::is_to_be_killed(&cluster) => {}
                    (Some(End::Done { .. }), Boot::Attended(_)) if Judge::is_boot_removed(&cluster) => {
                        return End::Done { what: boot_command::DONE };
                    }
                    (Some(end), _) => return end,
                    (None, _) => {}
                }
            }
            Ok(None) => return End::Refused { why: format!("EtcdCluster {} was deleted while this command waited", args.name) },
            Err(error) => {
                progress.note(&format!("the API did not answer: {error}"));
                if let Boot::Attended(attendant) = &mut boot
                    && let Some(note) = attendant.look_without_api().await
                {
                    progress.note(&note);
                }
            }
        }
        let is_draining = matches!(&boot, Boot::Attended(attendant) if attendant.is_draining());
        if let Some(end) = judge.out_of_time().filter(|_| !is_draining) {
            return end;
        }
        clock::sleep(LOOK_EVERY).await;
    }
}

/// Carries out what is ordered of boot; or says, once, that nobody will.
async fn attend(
    boot: &mut Boot,
    api: &Api<EtcdCluster>,
    args: &PivotArgs,
    generation: i64,
    cluster: &EtcdCluster,
) -> Option<String> {
    match boot {
        Boot::Attended(attendant) => attendant.look(api, &args.name, cluster).await,
        Boot::LeftToOthers => {
            let is_alive = cluster::is_removed_alive(api.clone().into_client(), args, generation, cluster).await?;
            *boot = Boot::Known;
            is_alive.then(|| {
                "boot is on no node of this cluster, so nobody stops it before it is removed: a write in flight may fail, and you have to keep it from starting again. --boot-command names a program that does both".into()
            })
        }
        Boot::Known => None,
    }
}
