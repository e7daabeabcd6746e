//! At the end: reads every object back through the API.
//!
//! A read without a resource version is a quorum read, so what it returns is what the cluster holds. It may retry:
//! the question here is what is there, not how fast it is told.

use std::time::Duration;

use hyper::Method;

use crate::clock::{micros, sleep};
use crate::history::{Outcome, ReadBack};
use crate::http::{HttpError, Pool};
use crate::recorder::Recorder;
use crate::writer::Head;

/// Longest that the whole read-back may take. An API that does not come back in this time leaves objects unread,
/// and unread is not verified.
const PATIENCE: Duration = Duration::from_secs(120);
const ATTEMPT: Duration = Duration::from_secs(10);

/// Reads all objects.
pub async fn read_back(pool: &Pool, recorder: &Recorder, paths: &[(String, String)]) {
    let give_up = recorder.now() + micros(PATIENCE);
    for (object, (_, path)) in paths.iter().enumerate() {
        let found = loop {
            let error = match pool.call_within(ATTEMPT, Method::GET, path, None).await.and_then(|body| Head::read(&body)) {
                Ok(head) => break ReadBack::Found { value: head.value, rv: head.rv },
                Err(error @ HttpError::Status { code: 404, .. }) if error.is_not_found() => {
                    break ReadBack::Missing;
                }
                Err(error) => error,
            };
            if recorder.now() > give_up || error.is_distrust() {
                break ReadBack::Unread { error: error.to_string() };
            }
            sleep(Duration::from_millis(200)).await;
        };
        recorder.with(|history| history.read_back.insert(object, found));
    }
}

/// Waits until the watches have brought what was acknowledged, 15 s at most.
pub async fn settle(recorder: &Recorder) {
    let give_up = recorder.now() + micros(Duration::from_secs(15));
    while recorder.now() < give_up {
        let behind = recorder.with(|history| {
            let mut last = vec![0_u64; history.objects.len()];
            for write in &history.writes {
                if let (Outcome::Acked { rv, .. }, Some(last)) = (&write.outcome, last.get_mut(write.object)) {
                    *last = (*last).max(*rv);
                }
            }
            history.watches.iter().any(|watch| {
                let seen = watch.events.last().map_or(watch.from, |event| event.rv);
                history.objects.iter().zip(&last).any(|(object, last)| object.resource == watch.resource && *last > seen)
            })
        });
        if !behind {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
