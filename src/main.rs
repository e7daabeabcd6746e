//! The etcd operator: one binary for controller, agent, keeper and the pivot command.

use std::process::ExitCode;

use clap::Parser;
use etcd_operator::cli::{self, Command};

fn main() -> ExitCode {
    // ring is the one TLS provider; a second installation (tests) is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli::Cli::parse().command {
        Command::Keeper(args) => {
            etcd_operator::telemetry::start();
            args.run()
        }
        Command::Controller(args) => {
            etcd_operator::telemetry::start();
            cli::block_on(etcd_operator::controller::run(args.into()))
        }
        Command::Agent(args) => {
            etcd_operator::telemetry::start();
            cli::block_on(etcd_operator_agent::run(args.into()))
        }
        Command::Pivot(args) => etcd_operator::pivot::main(args),
        Command::Crds(args) => args.run(),
    }
}
