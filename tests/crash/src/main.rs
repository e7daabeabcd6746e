//! The operator as the bed runs it in scenarios that break it at its calls.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use etcd_operator::cli::{self, Cli, Command};
use etcd_operator::controller::{self, ControllerArgs, ControllerError};
use etcd_operator::telemetry;
use etcd_operator_agent::{AgentArgs, AgentError};
use etcd_operator_client::{ApiServers, ClientOptions};
use etcd_operator_crash::door::Door;
use etcd_operator_crash::plan::{Role, Shared};
use etcd_operator_crash::{api, etcd, host};

/// Where the bed mounts the folder that scenarios and nodes share.
const SHARED: &str = "/run/bed/shared";

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Controller(flags) => {
            telemetry::start();
            cli::block_on(run_controller(flags.into()))
        }
        Command::Agent(flags) => {
            telemetry::start();
            cli::block_on(run_agent(flags.into()))
        }
        other @ (Command::Keeper(_)
        | Command::Prove(_)
        | Command::Pivot(_)
        | Command::Guard
        | Command::Snapshot(_)
        | Command::Recover(_)
        | Command::Crds(_)) => other.run(),
    }
}

async fn run_controller(args: ControllerArgs) -> Result<(), ControllerError> {
    let servers = ApiServers::connect(&args.api).await?;
    let door = Door::new(Role::Controller, Shared::at(SHARED));
    let client = api::client(servers.client(), door.clone());
    controller::serve(args, client, Arc::new(etcd::Doors(door)), telemetry::told_to_stop()).await;
    Ok(())
}

async fn run_agent(args: AgentArgs) -> Result<(), AgentError> {
    let servers =
        ApiServers::connect(&ClientOptions { api_servers: args.api_servers.clone(), kubeconfig: args.kubeconfig.clone() })
            .await?;
    let door = Door::new(Role::Agent, Shared::at(SHARED));
    let client = api::client(servers.client(), door.clone());
    let behind = ApiServers::one(&servers.current(), client, servers.namespace());
    tokio::select! {
        () = etcd_operator_agent::serve(args, behind, Arc::new(host::Node::new(door))) => {}
        () = telemetry::told_to_stop() => {}
    }
    Ok(())
}
