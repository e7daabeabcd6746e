//! The etcd operator: one binary for controller, agent, keeper and the pivot command.

use std::process::ExitCode;

use clap::Parser;
use etcd_operator::cli::Cli;

fn main() -> ExitCode {
    // ring is the one TLS provider; a second installation (tests) is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Cli::parse().command.run()
}
