//! The node behind the door.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use etcd_operator_agent::host::{Host, Linux, Signalled};
use etcd_operator_etcd::dial::Dial;
use etcd_operator_etcd::wal::Owner;
use futures::future::BoxFuture;
use rustix::process::Signal;

use crate::door::Door;
use crate::etcd::Doors;

/// A node's processes, through the door.
#[derive(Clone, Debug)]
pub struct Node {
    door: Door,
    dial: Doors,
}

impl Node {
    /// The node of this process.
    #[must_use]
    pub fn new(door: Door) -> Self {
        Self { dial: Doors(door.clone()), door }
    }
}

impl Host for Node {
    fn dial(&self) -> &dyn Dial {
        &self.dial
    }

    fn signal(&self, proc: &Path, pid: i32, endpoint: SocketAddr, signal: Signal) -> std::io::Result<Signalled> {
        let name = match signal {
            Signal::TERM => "signal TERM",
            Signal::KILL => "signal KILL",
            _ => "signal",
        };
        self.door.at_once(name, || Linux.signal(proc, pid, endpoint, signal))
    }

    fn reach<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Linux.reach(address)
    }

    fn has_address(&self, ip: IpAddr) -> bool {
        Linux.has_address(ip)
    }

    fn others_are_a_quorum<'a>(
        &'a self,
        pki: &'a Path,
        endpoints: &'a [String],
        own: Owner,
    ) -> BoxFuture<'a, Result<(), String>> {
        Linux.others_are_a_quorum(pki, endpoints, own)
    }
}
