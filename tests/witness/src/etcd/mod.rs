//! The etcd side: every member polled directly, beside the API server.

pub mod poller;
mod wire;
