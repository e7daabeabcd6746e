//! The open loop: a write every 20 ms whatever became of the ones before, each timed from the moment it was due.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::catalog::VALUE;
use crate::clock::{Micros, micros};
use crate::history::{Outcome, Write};
use crate::http::{HttpError, Pool};
use crate::journal::Ack;
use crate::recorder::Recorder;

/// A write that could not be handed to a connection this long after it was due is dropped and counts as not sent:
/// the witness itself was stalled, and says so instead of measuring itself.
const TOO_LATE: Duration = Duration::from_secs(1);

/// What the writer needs.
pub struct Writer {
    /// Connections.
    pub pool: Arc<Pool>,
    /// Records.
    pub recorder: Recorder,
    /// To the journal.
    pub journal: Sender<Ack>,
    /// Names and API paths of the objects, in the order of `History::objects`.
    pub objects: Vec<(String, String)>,
    /// Writes per second.
    pub rate: u32,
    /// Longest wait for an answer, from the due time.
    pub deadline: Duration,
}

impl Writer {
    /// Writes until told to stop, then waits for what is in flight.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let clock = self.recorder.clock();
        let begin = clock.now();
        let interval = 1_000_000 / u64::from(self.rate.max(1));
        let mut flights = JoinSet::new();
        for number in 0_usize.. {
            let due = begin + interval * u64::try_from(number).unwrap_or(u64::MAX);
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                () = clock.sleep_until(due) => {}
            }
            let object = number % self.objects.len().max(1);
            let late = clock.now() > due + micros(TOO_LATE);
            let outcome = if late { Outcome::NotSent } else { Outcome::Pending };
            self.recorder.with(|history| history.writes.push(Write { object, due, outcome }));
            if let (false, Some((name, path))) = (late, self.objects.get(object)) {
                flights.spawn(write(
                    self.pool.clone(),
                    self.recorder.clone(),
                    self.journal.clone(),
                    number,
                    due,
                    self.deadline,
                    name.clone(),
                    path.clone(),
                ));
            }
            while flights.try_join_next().is_some() {}
        }
        let end = clock.now();
        self.recorder.with(|history| history.writing = Some((begin, end)));
        while flights.join_next().await.is_some() {}
    }
}

#[expect(clippy::too_many_arguments, reason = "the state of one flight, used here only")]
async fn write(
    pool: Arc<Pool>,
    recorder: Recorder,
    journal: Sender<Ack>,
    number: usize,
    due: Micros,
    deadline: Duration,
    object: String,
    path: String,
) {
    let body = format!(r#"{{"metadata":{{"annotations":{{"{VALUE}":"{number}"}}}}}}"#).into_bytes();
    let query = format!("{path}?fieldManager=etcd-witness");
    let call = pool.call(Method::PATCH, &query, Some(("application/merge-patch+json", body)));
    let answer = recorder.clock().by(due + micros(deadline), call).await.unwrap_or(Err(HttpError::Timeout(deadline)));
    let at = recorder.now();
    let failed = match answer.and_then(|body| resource_version(&body)) {
        Ok(rv) => journal
            .send(Ack { write: number, object, at, rv })
            .err()
            .map(|_| "acknowledged, but the journal could not be written".to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = failed {
        recorder.with(|history| {
            if let Some(write) = history.writes.get_mut(number) {
                write.outcome = Outcome::Failed { at, error };
            }
        });
    }
}

/// Resource version of an object of the API.
pub fn resource_version(body: &[u8]) -> Result<u64, HttpError> {
    Ok(Head::read(body)?.rv)
}

/// The part of an object that the witness reads.
pub struct Head {
    /// Its name.
    pub name: String,
    /// Its resource version.
    pub rv: u64,
    /// The value written, if the witness wrote one.
    pub value: Option<usize>,
}

impl Head {
    /// Reads it from an object's JSON.
    pub fn read(body: &[u8]) -> Result<Self, HttpError> {
        let object: Raw =
            serde_json::from_slice(body).map_err(|error| HttpError::Transport(format!("the answer is no object: {error}")))?;
        Head::of(object)
    }

    /// Reads it from a parsed object.
    pub fn of(object: Raw) -> Result<Self, HttpError> {
        let RawMetadata { name, resource_version, annotations } = object.metadata;
        let rv = resource_version
            .parse()
            .map_err(|error| HttpError::Transport(format!("resourceVersion {resource_version:?}: {error}")))?;
        Ok(Head { name, rv, value: annotations.get(VALUE).and_then(|value| value.parse().ok()) })
    }
}

/// An object's JSON.
#[derive(Deserialize)]
pub struct Raw {
    metadata: RawMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    #[serde(default)]
    name: String,
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}
