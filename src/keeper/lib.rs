//! The keeper: PID 1 of the etcd static pod. Needs nothing but the disk. Decides at every start, supervises etcd, carries out orders.
//!
//! - [`table`]: what to do with the data that lies here, as a pure function.
//! - [`look`]: from where its facts come. [`supervise`]: the loop around it.
//! - [`mark`]: how far a log has reached, so that an older disk is found out.
//! - [`start`] and [`running`]: etcd as a child. [`drain`]: how a living member is removed.
//! - [`hand_over`] and [`take_over`]: another keeper in the place of this one, while etcd runs on.
//! - [`prove`]: the proof of an image, in a pod of its own.
//! - [`recover`] and [`rebuild`]: a recovery that a human orders on the node. [`lineage`]: how members of the life before learn of it.
//! - [`contract`]: the files it shares with the agent and the recovery command.

pub mod ask;
pub mod binary;
pub mod child;
pub mod clock;
pub mod contract;
pub mod disk;
mod drain;
pub mod files;
pub mod first_start;
mod hand_over;
pub mod identity;
mod last_words;
mod left_behind;
pub mod lineage;
pub mod look;
mod mark;
pub mod order;
pub mod probe;
mod prove;
mod ready;
mod rebuild;
pub mod recover;
pub mod render;
mod running;
mod start;
pub mod supervise;
pub mod table;
mod take_over;

use std::path::PathBuf;
use std::process::ExitCode;

use clock::Timing;
pub use prove::ProveArgs;

/// Bound of the archive unless set otherwise: some full-size databases (etcd's quota is 2 to 8 GiB).
pub const ARCHIVE_LIMIT: u64 = 32 << 30;

/// What the keeper is told on its command line.
#[derive(Clone, Debug)]
pub struct KeeperArgs {
    /// `/var/lib/etcd-operator/<namespace>/<cluster>`: order, state, PKI.
    pub dir: PathBuf,
    /// `/var/lib/etcd/<namespace>/<cluster>`: one directory per member, the archive, the marker.
    pub data: PathBuf,
    /// etcd's binary in the image.
    pub etcd: PathBuf,
    /// Loopback port of the pod's probes.
    pub probe_port: u16,
    /// Bytes that the archive may hold, see [`ARCHIVE_LIMIT`].
    pub archive_limit: u64,
    /// How long things take.
    pub timing: Timing,
}

/// Runs the keeper until it is told to end. Its exit code is 0 unless the data disk is missing or it cannot begin at all.
#[must_use]
pub fn run(args: KeeperArgs) -> ExitCode {
    with_runtime(async {
        match supervise::Keeper::new(args) {
            Ok(mut keeper) => keeper.run().await,
            Err(error) => {
                tracing::error!(%error, "the keeper cannot begin");
                ExitCode::FAILURE
            }
        }
    })
}

/// `--self-check`: reads what this keeper would have to read and prints what it would decide, as JSON. Changes nothing. Exit code 1 if
/// it cannot read the state or the order: then it must not take over.
#[must_use]
pub fn self_check(args: KeeperArgs) -> ExitCode {
    with_runtime(async {
        let paths = contract::Paths { dir: args.dir, data: args.data };
        let (store, at_start) = files::Store::load(paths.state());
        let loaded = order::load(&paths.order(), &store.state);
        let look = look::look(&paths, &store.state, loaded.order.as_ref(), None, &args.timing).await;
        let unreadable_state = at_start == files::StateAtStart::Lost && paths.state().exists();
        let report = serde_json::json!({
            "stateReadable": !unreadable_state,
            "orderRefused": loaded.refused,
            "decision": format!("{:?}", look.decision),
            "message": look.decision.reason().message(),
            "detail": look.detail,
            hand_over::TAKES_OVER: true,
        });
        println!("{report}");
        if unreadable_state || loaded.refused.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}

/// Proves an image: see [`ProveArgs`].
#[must_use]
pub fn prove(args: ProveArgs) -> ExitCode {
    with_runtime(prove::prove(args))
}

fn with_runtime(future: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(future);
            // `etcd --version` on a disk that hangs must not hold up the end.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            tracing::error!(%error, "no async runtime");
            ExitCode::FAILURE
        }
    }
}
