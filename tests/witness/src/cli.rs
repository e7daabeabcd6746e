//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::sleep;
use crate::history::History;
use crate::{Invariant, Options, Verdict, Witness, WitnessError, check, options};

/// Writes, watches and polls from outside the operator until SIGINT or SIGTERM, and says which invariant broke.
///
/// Exit code: 0 clean, 1 an invariant is broken, 2 it could not run.
#[derive(Parser)]
#[command(name = "witness", version)]
pub struct Arguments {
    /// The bed's description
    #[arg(long, default_value = "target/bed/bed.json")]
    bed: PathBuf,
    /// Kubeconfig of an admin [default: the one that the bed names]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Folder for journal.log, history.json, verdict.json, and `ready` once it writes
    #[arg(long, default_value = "target/witness")]
    out: PathBuf,
    /// Writes per second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Seconds to run [default: until SIGINT or SIGTERM]
    #[arg(long)]
    duration: Option<u64>,
    /// Seconds after which a write without an answer has failed
    #[arg(long, default_value_t = 10)]
    deadline: u64,
    /// Voters that must be there when boot goes
    #[arg(long)]
    size: Option<usize>,
    /// Invariants that this run breaks on purpose
    #[arg(long, value_enum, value_delimiter = ',')]
    allow: Vec<Invariant>,
    /// Judge a history.json of an earlier run instead
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// What to print to standard output; the table goes to standard error in any case
    #[arg(short, long, value_enum, default_value_t = Output::None)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    None,
    Json,
}

/// Does what the command line says.
pub async fn run(arguments: Arguments) -> ExitCode {
    let json = arguments.output == Output::Json;
    match verdict(arguments).await {
        Ok(verdict) => {
            eprint!("{verdict}");
            if json {
                println!("{}", serde_json::to_string_pretty(&verdict).unwrap_or_default());
            }
            ExitCode::from(u8::from(!verdict.clean))
        }
        Err(error) => {
            eprintln!("witness: {error}");
            ExitCode::from(2)
        }
    }
}

async fn verdict(arguments: Arguments) -> Result<Verdict, WitnessError> {
    let Arguments { bed, kubeconfig, out, rate, duration, deadline, size, allow, replay, output: _ } = arguments;
    if let Some(path) = replay {
        let history: History = serde_json::from_slice(&options::read(&path)?)
            .map_err(|error| WitnessError::Content { path, reason: format!("not a recorded history: {error}") })?;
        return Ok(check::judge(&history, &allow));
    }
    let ready = out.join("ready");
    let options = Options { kubeconfig, rate, deadline: Duration::from_secs(deadline), size, allow, ..Options::new(bed, &out) };
    let signals = |source| WitnessError::File { path: "signals".into(), source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    // Left over from an earlier run, it would tell a script to go on too early.
    drop(std::fs::remove_file(&ready));
    let running = Witness::start(options).await?;
    let (types, objects) = running.extent();
    eprintln!("witness: writing {rate}/s to {objects} objects of {types} resource types");
    std::fs::write(&ready, b"").map_err(|source| WitnessError::File { path: ready, source })?;
    let limit = async {
        match duration {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = limit => {}
    }
    running.stop().await
}
