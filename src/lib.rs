//! The etcd operator: controller, pivot command, and what they share. The agent, the keeper, the planner, the API types and the
//! etcd client are crates of their own beside this one, so that their dependencies are Cargo's to check.

pub mod cli;
pub mod clock;
pub mod controller;
pub mod pivot;
pub mod pki;
pub mod recover;
pub mod retry;
pub mod snapshot;
pub mod telemetry;
