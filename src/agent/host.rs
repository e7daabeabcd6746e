//! What the agent does outside of files and the Kubernetes API, and the work it has under way.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_operator_client::clock;
use etcd_operator_etcd::dial::{Dial, Grpc};
use etcd_operator_etcd::wal::Owner;
use etcd_operator_keeper::ask::{self, Without};
use futures::future::BoxFuture;
use rustix::process::Signal;
use tokio::task::JoinSet;

use crate::binary::Binary;
use crate::boot::find;
use crate::node::AgentArgs;

pub use crate::boot::find::Signalled;

/// For the other members' answers before a pod is replaced.
const ASK: Duration = Duration::from_secs(2);
/// For one TCP connection of the preflight.
const REACH: Duration = Duration::from_secs(2);

/// The node around the agent.
pub trait Host: Send + Sync {
    /// The way to etcd.
    fn dial(&self) -> &dyn Dial;
    /// Signals boot's etcd, if the process with this PID still is it.
    ///
    /// # Errors
    /// When the signal may not be sent.
    fn signal(&self, proc: &Path, pid: i32, endpoint: SocketAddr, signal: Signal) -> std::io::Result<Signalled>;
    /// Whether an address takes connections; if not, why.
    fn reach<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// Whether an interface of the node has this address, so that a process could listen there.
    fn has_address(&self, ip: IpAddr) -> bool;
    /// Whether the other voters are a quorum without this one, as they say at these endpoints; if not, why.
    fn others_are_a_quorum<'a>(&'a self, pki: &'a Path, endpoints: &'a [String], own: Owner)
    -> BoxFuture<'a, Result<(), String>>;
}

/// The node that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

impl Host for Linux {
    fn dial(&self) -> &dyn Dial {
        &Grpc
    }

    fn signal(&self, proc: &Path, pid: i32, endpoint: SocketAddr, signal: Signal) -> std::io::Result<Signalled> {
        find::signal(proc, pid, endpoint, signal)
    }

    fn reach<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            match clock::within(REACH, tokio::net::TcpStream::connect(address)).await {
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(format!("cannot be reached: {error}")),
                None => Err(format!("did not answer within {} s", REACH.as_secs())),
            }
        })
    }

    fn has_address(&self, ip: IpAddr) -> bool {
        // Any other error says nothing about the address.
        !matches!(TcpListener::bind(SocketAddr::new(ip, 0)), Err(error) if error.kind() == ErrorKind::AddrNotAvailable)
    }

    fn others_are_a_quorum<'a>(
        &'a self,
        pki: &'a Path,
        endpoints: &'a [String],
        own: Owner,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(ask::others_are_a_quorum(pki, endpoints, own, Without::Down, ASK))
    }
}

/// What all parts of one agent share.
pub(crate) struct Agent {
    pub(crate) args: AgentArgs,
    pub(crate) host: Arc<dyn Host>,
    /// Its own binary, and what it knows of the keepers'.
    pub(crate) binary: Binary,
    /// One drain at a time: the one resumed at the agent's start must not run beside the one that the API asks for again.
    pub(crate) draining: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
}

impl Agent {
    pub(crate) fn new(args: AgentArgs, host: Arc<dyn Host>) -> Arc<Self> {
        let binary = Binary::new(args.keeper_binary.clone());
        Arc::new(Self { args, host, binary, draining: tokio::sync::Mutex::new(()), tasks: Mutex::default() })
    }

    /// Begins work that outlasts a pass, and whoever asked for it.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        // Nothing is left half-changed under this lock.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends all work of an agent when the agent ends. (The work itself knows its agent, so that the agent's own end would never come.)
pub(crate) struct EndsWith(pub(crate) Arc<Agent>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.tasks().abort_all();
    }
}
