//! The proof of an image on a node before a running etcd is restarted with it: the kubelet has pulled it, and its etcd runs there. Runs in a pod
//! of that image, and stays: while it does, the kubelet does not take the image for unused.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::child::{Event, Events, version};
use crate::clock::now;
use crate::contract::{Paths, Proof};
use crate::files;

/// Pause before it is tried again after a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// Pause after it has succeeded.
const LONG: Duration = Duration::from_secs(3600);

/// What it is told on its command line.
#[derive(Clone, Debug)]
pub struct ProveArgs {
    /// `/var/lib/etcd-operator/<namespace>/<cluster>`.
    pub dir: PathBuf,
    /// etcd's binary in the image.
    pub etcd: PathBuf,
    /// The image, as the pod has it.
    pub image: String,
}

/// Runs `etcd --version`, writes down what came of it, and waits to be ended.
pub async fn prove(args: ProveArgs) -> ExitCode {
    let mut events = match Events::listen() {
        Ok(events) => events,
        Err(error) => {
            tracing::error!(%error, "the proof cannot begin");
            return ExitCode::FAILURE;
        }
    };
    let file = Paths { dir: args.dir, data: PathBuf::new() }.proof();
    loop {
        let version = version(&args.etcd).await.map(|version| version.to_string());
        let pause = if version.is_ok() { LONG } else { AGAIN };
        tracing::info!(image = args.image, ?version, "the image was run");
        let proof = Proof { image: args.image.clone(), version };
        if let Err(error) = files::write(&file, &proof) {
            tracing::error!(%error, file = %file.display(), "the proof cannot be written");
        }
        let until = now() + pause;
        // Its own child is reaped where it was run.
        while now() < until {
            if events.next(until).await == Event::Terminate {
                return ExitCode::SUCCESS;
            }
        }
    }
}
