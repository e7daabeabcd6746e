//! Whether this process still hears of the API: the liveness of the controller, and what it lacks to be ready.

use std::collections::BTreeMap;
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
/// A watch lives for [`WATCH_SECONDS`], and is then begun anew. No new one for three times as long, while the API answers all the time, is a watch that
/// hangs.
const WATCHED: Duration = Duration::from_secs(3 * WATCH_SECONDS as u64);

/// When something was heard of last.
#[derive(Clone, Debug)]
struct Heard {
    /// Since when the API has answered without a break of [`ANSWERED`], and when it did last.
    answers: Option<(Instant, Instant)>,
    /// When the newest watch was begun, by resource.
    watches: BTreeMap<String, Instant>,
    began: Instant,
}

/// Contact with the API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contact(Arc<Mutex<Heard>>);

impl Default for Contact {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Heard { answers: None, watches: BTreeMap::new(), began: instant() })))
    }
}

impl Contact {
    fn heard(&self) -> Heard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a call.
    pub fn note(&self, call: &ApiCall) {
        self.note_at(instant(), call);
    }

    fn note_at(&self, now: Instant, call: &ApiCall) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (call.verb, call.code) {
            ("watch", Some(200)) => drop(heard.watches.insert(call.resource.clone(), now)),
            // An API server whose etcd is away turns watches down (429), and one that starts turns everybody down (403): that is no answer.
            ("watch", _) => {}
            (_, Some(200..=299 | 404 | 409)) => {
                let since = heard.answers.filter(|(_, last)| now - *last < ANSWERED).map_or(now, |(since, _)| since);
                heard.answers = Some((since, now));
            }
            _ => {}
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
    /// The watch that was begun the longest ago. Before there is any a process has as long for its first as for any other.
    fn oldest(&self) -> (Instant, &str) {
        let oldest = self.watches.iter().min_by_key(|(_, at)| **at);
        oldest.map_or((self.began, "anything"), |(resource, at)| (*at, resource.as_str()))
    }

    fn live(&self, now: Instant) -> Result<(), String> {
        let (watched, resource) = self.oldest();
        // From when it could have been begun on.
        let stalled = self.answers.filter(|(_, last)| now - *last < ANSWERED).map(|(since, _)| now - since.max(watched));
        match stalled {
            Some(age) if age > WATCHED => {
                Err(format!("the API answers, and no watch on {resource} was begun for {} s", age.as_secs()))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn ready(&self, now: Instant) -> Result<(), String> {
        match self.answers {
            None => Err("the API has not answered yet".into()),
            Some((_, last)) if now - last >= ANSWERED => {
                Err(format!("the API has not answered for {} s", (now - last).as_secs()))
            }
            Some(_) => self.live(now),
        }
    }
}

impl Collector for Contact {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How long ago the oldest of the watches on the API was begun; each lives for 200 s";
        let metric = encoder.encode_descriptor("watch_age_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.heard().oldest().0.elapsed().as_secs_f64()).encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(verb: &'static str, code: Option<u16>) -> ApiCall {
        ApiCall { verb, resource: "etcdclusters".into(), code, took: Duration::ZERO }
    }

    /// An answer every 20 s in this time.
    fn answers(contact: &Contact, from: Instant, to: Instant) {
        let mut at = from;
        while at <= to {
            contact.note_at(at, &call("get", Some(404)));
            at += Duration::from_secs(20);
        }
    }

    #[test]
    fn a_watch_that_hangs_while_the_api_answers_is_a_reason_to_start_anew() {
        let contact = Contact::default();
        let begun = instant();
        let verdict = |at| (contact.heard().live(at), contact.heard().ready(at));
        assert_eq!(verdict(begun), (Ok(()), Err("the API has not answered yet".into())));
        contact.note_at(begun, &call("watch", Some(200)));
        let later = begun + WATCHED + Duration::from_secs(1);
        answers(&contact, begun, later);
        let hangs = Err("the API answers, and no watch on etcdclusters was begun for 601 s".to_owned());
        assert_eq!(verdict(later), (hangs.clone(), hangs.clone()));
        // Of another resource.
        contact.note_at(later, &ApiCall { resource: "etcdmembers".into(), ..call("watch", Some(200)) });
        contact.note_at(later, &call("watch", Some(410)));
        assert_eq!(verdict(later).0, hangs);
        contact.note_at(later, &call("watch", Some(200)));
        assert_eq!(verdict(later), (Ok(()), Ok(())));
    }

    #[test]
    fn an_api_that_is_gone_or_just_back_is_none() {
        let contact = Contact::default();
        let begun = instant();
        contact.note_at(begun, &call("watch", Some(200)));
        contact.note_at(begun, &call("get", Some(200)));
        let later = begun + 2 * WATCHED;
        for code in [None, Some(500), Some(503), Some(429), Some(403)] {
            contact.note_at(later, &call("get", code));
            contact.note_at(later, &call("watch", code));
        }
        assert_eq!(contact.heard().live(later), Ok(()));
        assert_eq!(contact.heard().ready(later), Err("the API has not answered for 1200 s".into()));
        // Back: whoever asks for the Lease is faster than a watch.
        contact.note_at(later, &call("get", Some(200)));
        assert_eq!((contact.heard().live(later), contact.heard().ready(later)), (Ok(()), Ok(())));
        let end = later + WATCHED + Duration::from_secs(1);
        answers(&contact, later, end);
        assert!(contact.heard().live(end).is_err());
    }
}
