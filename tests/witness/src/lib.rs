//! Watches the invariants from outside the operator: writes, watches and polls while something else changes the
//! cluster underneath, then says what broke.
//!
//! ```text
//! start ─▶ setup ─▶ writer ─▶ journal          ┐
//!                   watcher (one per type)     ├─▶ History ─▶ check::judge ─▶ Verdict
//!                   poller (one per etcd)      │
//! stop  ─▶ settle ─▶ readback                  ┘
//! ```
//!
//! Collecting and judging are apart: [`check::judge`] is a pure function of the recorded [`history::History`].

mod catalog;
pub mod check;
pub mod cli;
mod clock;
mod etcd;
pub mod history;
mod http;
mod journal;
mod kubeconfig;
pub mod options;
mod readback;
mod recorder;
mod run;
mod setup;
pub mod verdict;
mod watcher;
mod writer;

pub use options::{Options, WitnessError};
pub use run::{Running, Witness};
pub use verdict::{Invariant, Verdict, Violation};

/// Sleeps; for callers that limit a run's time.
pub async fn sleep(duration: std::time::Duration) {
    clock::sleep(duration).await;
}
