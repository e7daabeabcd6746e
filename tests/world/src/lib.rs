//! One simulated World for the planner: etcd's membership with real quorum semantics, boot under its kubelet, agents, keepers, API
//! servers as clients with their backoff, and controllers that crash, lose answers and see stale things. No IO, no threads, no
//! randomness, time as a number: a history always ends in the same World.
//!
//! Where to read: [`World::advance`] is how time passes; [`observe`](observe()) and [`execute`](execute()) are the controller's two
//! sides; [`Run`] drives; `checks.rs` holds the invariants. The properties stand in `tests/properties.rs`, the wrong planners that
//! each check must catch in `tests/red_cases.rs`.
#![allow(clippy::indexing_slicing, reason = "node indexes come from the world itself; a wrong one is a bug of the test's own")]

pub mod api;
pub mod boot;
pub mod checks;
pub mod clients;
pub mod drive;
pub mod execute;
pub mod histories;
pub mod log;
pub mod model;
pub mod nodes;
pub mod observe;
pub mod raft;
pub mod rest;
pub mod shape;
pub mod shipped;
pub mod world;

pub use boot::BootHost;
pub use checks::{Trace, Violation};
pub use drive::{AtSignal, Edit, Event, Fault, Planner, Rest, Run};
pub use execute::{Failure, Interrupt, execute};
pub use observe::{Controller, Observation, Sight, observe};
pub use world::{BOOT, Setup, World};

pub(crate) use world::peer_url;

/// Milliseconds, on a clock that begins with the World.
pub type Ms = u64;
