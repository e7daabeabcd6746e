//! A narrow client of etcd, and a reader of its WAL. No Kubernetes here.

pub mod client;
pub mod dial;
pub mod error;
pub mod ids;
pub mod peer;
pub mod snapshot;
mod stub;
pub mod wal;
