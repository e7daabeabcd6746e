//! The bed: a real Kubernetes control plane on one Linux machine, on one boot etcd, for the operator to pivot.
//!
//! Each node is a set of namespaces with its own containerd and kubelet; faults come from the host. Everything on the
//! machine that belongs to a bed carries its prefix ([`layout::PREFIX`], [`layout::VETH`]) and goes with [`down`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod bed;
pub mod binaries;
pub mod cgroup;
pub mod cmd;
mod config;
mod error;
pub mod faults;
mod freeze;
mod handover;
mod images;
mod install;
pub mod layout;
pub mod lb;
pub mod manifests;
mod network;
pub mod node;
pub mod node_init;
mod pki;
mod prereq;
pub mod s3;
mod state;

pub use bed::{Bed, TestBed, down};
pub use error::{Error, Result};
pub use layout::{ApiServerEtcd, Layout, Operator, Options};
pub use pki::rfc3339_now as now;
pub use state::{NodeStatus, State, Status};
