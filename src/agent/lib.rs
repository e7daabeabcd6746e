//! The agent: the API side of a node. It carries the spec of the node's EtcdMembers out on disk (keys, orders, manifest), and reports
//! what it sees there in their status. It needs the API and is absent in a cold start; etcd does not need it.
//!
//! **Invariant:** without the API it changes nothing (but a removal of boot that was begun is ended, by the word of the other members).
//! **Invariant:** nothing is ever deleted but temporary files and backups that are more than a human wants; manifests are archived, data is renamed.
//! **Invariant:** nothing of a spec reaches the disk before [`validate::validate`] passed it.
//! **Invariant:** it reads no Secret; keys are made here and stay here.

mod backups;
mod binary;
mod boot;
mod disk;
mod files;
pub mod host;
mod jobs;
mod manifest;
mod measure;
mod memo;
mod node;
mod pki;
mod preflight;
mod problem;
mod proof;
mod reconcile;
mod seat;
pub mod sockets;
mod status;
mod validate;
mod watch;

#[cfg(test)]
mod testing;

pub use backups::report as backup_report;
pub use node::AgentArgs;
pub use problem::{Problem, Reason};
pub use validate::{validate, validate_pod};

use std::sync::Arc;

use etcd_operator_client::{ApiServers, ClientError, ClientOptions};

/// Why the agent could not start. Whatever happens later is waited out or reported in a status.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A flag that is missing or makes no sense.
    #[error("{flag}: {why}")]
    Argument {
        /// The flag.
        flag: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Credentials or URLs of the API.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Signal handlers.
    #[error("cannot wait for signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT. A rustls provider must have been installed.
///
/// # Errors
/// If it cannot start; never because the API or a disk fails later.
pub async fn run(args: AgentArgs) -> Result<(), AgentError> {
    check(&args)?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let options = ClientOptions { api_servers: args.api_servers.clone(), kubeconfig: args.kubeconfig.clone() };
    let servers = ApiServers::connect(&options).await?;
    tracing::info!(node = %args.node_name, namespace = %args.namespace, servers = ?servers.urls(), "agent started");
    tokio::select! {
        () = serve(args, servers, Arc::new(host::Linux)) => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: the agent ends, etcd goes on"),
        _ = interrupt.recv() => tracing::info!("SIGINT: the agent ends, etcd goes on"),
    }
    Ok(())
}

/// The agent itself; never ends. When it is dropped, all that it has under way ends with it: what is written down makes the next agent go
/// on where this one stops.
pub async fn serve(args: AgentArgs, servers: ApiServers, host: Arc<dyn host::Host>) {
    let agent = host::Agent::new(args, host);
    let _ends = host::EndsWith(Arc::clone(&agent));
    // A removal of boot that was begun waits for nobody, the API least of all.
    boot::resume(&agent);
    watch::run(agent, servers).await;
}

fn check(args: &AgentArgs) -> Result<(), AgentError> {
    let bad = |flag, why: &str| Err(AgentError::Argument { flag, why: why.to_owned() });
    if args.node_name.is_empty() {
        return bad("--node-name", "must be set, in a pod from spec.nodeName (NODE_NAME)");
    }
    if args.namespace.is_empty() {
        return bad("--namespace", "must be set, in a pod from metadata.namespace");
    }
    for (flag, path) in
        [("--static-pod-path", &args.static_pod_path), ("--operator-root", &args.operator_root), ("--data-root", &args.data_root)]
    {
        if !path.is_absolute() {
            return bad(flag, "must be an absolute path");
        }
    }
    if args.allowed_image_prefixes.is_empty() {
        tracing::warn!("no image is allowed: every member will be refused; set --allowed-image");
    }
    Ok(())
}
