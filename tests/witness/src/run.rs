//! Starts the tasks of a run, and ends them in order.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::check;
use crate::clock::Clock;
use crate::etcd::poller;
use crate::history::{History, Watch};
use crate::http::{Api, Pool};
use crate::journal::Journal;
use crate::kubeconfig::Access;
use crate::options::{Bed, Options, WitnessError};
use crate::readback;
use crate::recorder::Recorder;
use crate::setup;
use crate::verdict::Verdict;
use crate::watcher::Watcher;
use crate::writer::Writer;

/// Connections that writes go over: a handful, so that one that breaks is seen and does not stop the rest.
const CONNECTIONS: usize = 4;

/// The witness.
pub struct Witness;

/// A run that is writing and watching.
pub struct Running {
    options: Options,
    recorder: Recorder,
    pool: Arc<Pool>,
    paths: Vec<(String, String)>,
    journal: Journal,
    writer: JoinHandle<()>,
    others: JoinSet<()>,
    stop_writing: watch::Sender<bool>,
    stop_watching: watch::Sender<bool>,
}

impl Witness {
    /// Prepares the objects, opens the watches, and starts to write. Returns when writing has begun.
    pub async fn start(options: Options) -> Result<Running, WitnessError> {
        // Another part of the process may have installed it; either way there is one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let bed = Bed::read(&options.bed)?;
        let kubeconfig = options.kubeconfig.clone().or_else(|| bed.kubeconfig.clone());
        let kubeconfig = kubeconfig.ok_or_else(|| WitnessError::Content {
            path: options.bed.clone(),
            reason: "it names no kubeconfig: give --kubeconfig".into(),
        })?;
        let access = Access::read(&kubeconfig)?;
        let credentials = poller::credentials(&bed.etcd_client)?;
        let api = Api::new(&access).map_err(|reason| WitnessError::Content { path: kubeconfig, reason })?;
        let api = Arc::new(api);
        std::fs::create_dir_all(&options.out).map_err(|source| WitnessError::File { path: options.out.clone(), source })?;

        let recorder = Recorder::new(Clock::start());
        let pool = Arc::new(Pool::new(api.clone(), CONNECTIONS));
        let prepared = setup::prepare(&pool, api.authority(), recorder.clock(), options.objects_per_type).await?;
        write_file(&options, "setup.log", prepared.log.as_bytes())?;

        recorder.with(|history| {
            history.rate = options.rate;
            history.size = options.size;
            history.boot_endpoint = Some(bed.boot.client_endpoint.clone());
            history.objects = prepared.objects.iter().map(|(object, _)| object.clone()).collect();
            history.watches = prepared
                .kinds
                .iter()
                .map(|(kind, from)| Watch { resource: kind.resource(), from: *from, ..Watch::default() })
                .collect();
        });
        let paths: Vec<(String, String)> = prepared
            .objects
            .iter()
            .map(|(object, path)| (format!("{}/{}", object.resource, object.name), path.clone()))
            .collect();

        let (stop_writing, writing) = watch::channel(false);
        let (stop_watching, watching) = watch::channel(false);
        let mut others = JoinSet::new();
        let left_alone = options.leave_boot_alone.then(|| bed.boot.client_endpoint.trim_end_matches('/').to_owned());
        others.spawn(poller::poll_all(
            bed.etcd_endpoints(),
            left_alone,
            credentials,
            recorder.clone(),
            options.poll,
            watching.clone(),
        ));
        for (index, (kind, from)) in prepared.kinds.into_iter().enumerate() {
            let watcher = Watcher { api: api.clone(), pool: pool.clone(), recorder: recorder.clone(), kind, index, from };
            others.spawn(watcher.run(watching.clone()));
        }
        let (journal, acks) = Journal::create(&options.out.join("journal.log"), recorder.clone())?;
        let writer = Writer {
            pool: pool.clone(),
            recorder: recorder.clone(),
            journal: acks,
            objects: paths.clone(),
            rate: options.rate,
            deadline: options.deadline,
        };
        let writer = tokio::spawn(writer.run(writing));
        Ok(Running { options, recorder, pool, paths, journal, writer, others, stop_writing, stop_watching })
    }
}

impl Running {
    /// How many resource types and objects are written to.
    pub fn extent(&self) -> (usize, usize) {
        self.recorder.with(|history| (history.watches.len(), history.objects.len()))
    }

    /// What was recorded so far.
    pub fn so_far(&self) -> History {
        self.recorder.with(|history| history.clone())
    }

    /// Stops writing, lets the watches catch up, reads everything back, and judges. Writes `history.json` and
    /// `verdict.json` into the run's folder.
    pub async fn stop(self) -> Result<Verdict, WitnessError> {
        let Running { options, recorder, pool, paths, journal, writer, mut others, stop_writing, stop_watching } = self;
        // The receivers may be gone if a task died; its absence shows in the verdict.
        let _ = stop_writing.send(true);
        drop(writer.await);
        journal.finish(&options.out.join("journal.log"))?;
        readback::read_back(&pool, &recorder, &paths).await;
        readback::settle(&recorder).await;
        let _ = stop_watching.send(true);
        while others.join_next().await.is_some() {}
        let history = recorder.with(std::mem::take);
        write_json(&options, "history.json", &history)?;
        let verdict = check::judge(&history, &options.allow);
        write_json(&options, "verdict.json", &verdict)?;
        Ok(verdict)
    }
}

fn write_json<T: serde::Serialize>(options: &Options, name: &str, value: &T) -> Result<(), WitnessError> {
    let text = serde_json::to_vec(value)
        .map_err(|error| WitnessError::Content { path: options.out.join(name), reason: error.to_string() })?;
    write_file(options, name, &text)
}

fn write_file(options: &Options, name: &str, bytes: &[u8]) -> Result<(), WitnessError> {
    let path: PathBuf = options.out.join(name);
    std::fs::write(&path, bytes).map_err(|source| WitnessError::File { path, source })
}
