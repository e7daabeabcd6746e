//! Whether this process still hears of the API: the liveness of the controller, and what it lacks to be ready.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_operator_client::{ApiCall, WATCH_SECONDS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::clock::{Instant, instant};

/// An API that has not answered for longer does not answer: the Lease is asked for every 2 s.
const ANSWERED: Duration = Duration::from_secs(30);
/// A watch lives for [`WATCH_SECONDS`], and is then begun anew. No new one for three times as long, while the API answers, is a watch that hangs.
const WATCHED: Duration = Duration::from_secs(3 * WATCH_SECONDS as u64);

/// When something was heard of last.
#[derive(Clone, Copy, Debug)]
struct Heard {
    answer: Option<Instant>,
    watch: Instant,
}

/// Contact with the API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contact(Arc<Mutex<Heard>>);

impl Default for Contact {
    fn default() -> Self {
        // A process that begins has as long for its first watch as for any other.
        Self(Arc::new(Mutex::new(Heard { answer: None, watch: instant() })))
    }
}

impl Contact {
    fn heard(&self) -> Heard {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call.
    pub fn note(&self, call: &ApiCall) {
        self.note_at(instant(), call);
    }

    fn note_at(&self, now: Instant, call: &ApiCall) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if call.code.is_some_and(|code| code < 500) {
            heard.answer = Some(now);
        }
        if call.verb == "watch" && call.code == Some(200) {
            heard.watch = now;
        }
    }

    /// Why this process should be started anew. That the API is gone is no reason: a restart would not bring it back.
    ///
    /// # Errors
    /// The reason.
    pub fn live(&self) -> Result<(), String> {
        self.heard().live(instant())
    }

    /// What is missing for this process to work.
    ///
    /// # Errors
    /// What.
    pub fn ready(&self) -> Result<(), String> {
        self.heard().ready(instant())
    }
}

impl Heard {
    fn live(&self, now: Instant) -> Result<(), String> {
        let age = now - self.watch;
        let answers = self.answer.is_some_and(|at| now - at < ANSWERED);
        if answers && age > WATCHED {
            return Err(format!("the API answers, and no watch was begun for {} s", age.as_secs()));
        }
        Ok(())
    }

    fn ready(&self, now: Instant) -> Result<(), String> {
        match self.answer {
            None => Err("the API has not answered yet".into()),
            Some(at) if now - at >= ANSWERED => Err(format!("the API has not answered for {} s", (now - at).as_secs())),
            Some(_) => self.live(now),
        }
    }
}

impl Collector for Contact {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How long ago a watch on the API was begun; each lives for 200 s";
        let metric = encoder.encode_descriptor("watch_age_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.heard().watch.elapsed().as_secs_f64()).encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(verb: &'static str, code: Option<u16>) -> ApiCall {
        ApiCall { verb, resource: String::new(), code, took: Duration::ZERO }
    }

    #[test]
    fn an_api_that_is_gone_is_no_reason_to_start_anew_a_watch_that_hangs_is() {
        let contact = Contact::default();
        let begun = instant();
        let verdict = |at| (contact.heard().live(at), contact.heard().ready(at));
        assert_eq!(verdict(begun), (Ok(()), Err("the API has not answered yet".into())));
        contact.note_at(begun, &call("watch", Some(200)));
        assert_eq!(verdict(begun), (Ok(()), Ok(())));
        let later = begun + WATCHED + Duration::from_secs(1);
        // It may well be gone.
        contact.note_at(later, &call("get", None));
        contact.note_at(later, &call("get", Some(503)));
        assert_eq!(verdict(later), (Ok(()), Err("the API has not answered for 601 s".into())));
        contact.note_at(later, &call("get", Some(404)));
        let hangs = Err("the API answers, and no watch was begun for 601 s".to_owned());
        assert_eq!(verdict(later), (hangs.clone(), hangs.clone()));
        contact.note_at(later, &call("watch", Some(410)));
        assert_eq!(verdict(later).0, hangs);
        contact.note_at(later, &call("watch", Some(200)));
        assert_eq!(verdict(later), (Ok(()), Ok(())));
    }
}
