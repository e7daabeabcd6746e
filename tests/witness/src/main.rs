//! `witness`: see `etcd_operator_witness`.

use std::process::ExitCode;

use clap::Parser;
use etcd_operator_witness::cli::{Arguments, run};

#[tokio::main]
async fn main() -> ExitCode {
    run(Arguments::parse()).await
}
