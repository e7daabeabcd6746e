//! Leadership by a Lease, as client-go does it: whoever holds it renews it; who sees it unchanged for its whole duration on his own
//! clock takes it with the resourceVersion he saw. Economy, not safety: two controllers at once are safe (design D10).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::telemetry::Metrics;

/// Name of the Lease.
const NAME: &str = "etcd-operator";

/// Times of the Lease. Defaults are client-go's: 15 s, 10 s, 2 s.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How long others wait before they take it.
    pub duration: Duration,
    /// How long the holder tries to renew before it stops acting.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), renew_deadline: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// Whether this replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// It does not.
    No,
    /// Nobody can: the API takes no writes, as etcd's alarm is raised (`corrupt.rs`).
    Refused,
    /// It does.
    Yes,
}

/// This replica's claim.
#[derive(Clone)]
pub(crate) struct Claim {
    held: watch::Receiver<Held>,
    turns: Arc<AtomicU64>,
    aside: watch::Sender<Option<clock::Instant>>,
    stop: watch::Sender<bool>,
    done: watch::Receiver<bool>,
    /// The renewing ends when the last handle goes.
    _task: Arc<JoinSet<()>>,
}

impl Claim {
    /// Starts to claim the Lease in the background.
    pub(crate) fn start(client: Client, namespace: &str, holder: &str, times: LeaseTimes, metrics: Metrics) -> Self {
        let (held_tx, held) = watch::channel(Held::No);
        let turns = Arc::new(AtomicU64::new(0));
        let (aside, stands_aside) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let (done_tx, done) = watch::channel(false);
        let keeper = Keeper { api: Api::namespaced(client, namespace), holder: holder.to_owned(), times, seen: None, metrics };
        let counts = Arc::clone(&turns);
        let mut task = JoinSet::new();
        task.spawn(async move {
            keeper.run(&held_tx, &counts, stands_aside, stopped).await;
            held_tx.send_replace(Held::No);
            done_tx.send_replace(true);
        });
        Self { held, turns, aside, stop, done, _task: Arc::new(task) }
    }

    /// Whether this replica holds it right now.
    pub(crate) fn is_held(&self) -> bool {
        *self.held.borrow() == Held::Yes && !is_aside(*self.aside.borrow())
    }

    /// Whether this replica may do what needs no Lease, or holds it.
    pub(crate) fn may_act(&self) -> bool {
        self.is_held() || *self.held.borrow() == Held::Refused
    }

    /// Which turn of leading this is: it goes up each time this replica gets the Lease after it did not have it.
    pub(crate) fn turn(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    /// Yields each time this replica gets it, or nobody can.
    pub(crate) fn acquired(&self) -> impl futures::Stream<Item = ()> + Send + 'static {
        futures::stream::unfold(self.held.clone(), |mut held| async move {
            loop {
                held.changed().await.ok()?;
                if *held.borrow_and_update() != Held::No {
                    return Some(((), held));
                }
            }
        })
    }

    /// Gives it back and does not claim it for a while: another replica may do better. Acts on nothing from this moment on.
    pub(crate) fn stand_aside(&self, duration: Duration) {
        self.aside.send_replace(Some(clock::instant() + duration));
    }

    /// Gives it back, so that the other replica need not wait.
    pub(crate) async fn release(&self) {
        self.stop.send_replace(true);
        let mut done = self.done.clone();
        let _ = clock::within(Duration::from_secs(2), done.wait_for(|done| *done)).await;
    }
}

/// The Lease as last seen: its version, and when we first saw it so.
struct Seen {
    version: String,
    since: clock::Instant,
}

struct Keeper {
    api: Api<Lease>,
    holder: String,
    times: LeaseTimes,
    seen: Option<Seen>,
    metrics: Metrics,
}

impl Keeper {
    async fn run(
        mut self,
        held: &watch::Sender<Held>,
        turns: &AtomicU64,
        mut aside: watch::Receiver<Option<clock::Instant>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut renewed = clock::instant();
        // What was said last, so that it is said once and not every 2 s.
        let mut said = String::new();
        let mut say = |text: String| {
            if said != text {
                tracing::info!("{text}");
                said = text;
            }
        };
        loop {
            let stands_aside = is_aside(*aside.borrow_and_update());
            let outcome = if stands_aside {
                set(held, Held::No);
                clock::within(self.times.renew_deadline, self.give_back()).await.map(|given| given.map(|()| false))
            } else {
                clock::within(self.times.renew_deadline, self.try_once()).await
            };
            let is_refused = !stands_aside && matches!(&outcome, Some(Err(error)) if super::corrupt::is_refusal(error));
            match outcome {
                Some(Ok(false)) if stands_aside => say("this replica stands aside for another".into()),
                Some(Ok(true)) => {
                    renewed = clock::instant();
                    if *held.borrow() != Held::Yes {
                        turns.fetch_add(1, Ordering::SeqCst);
                    }
                    set(held, Held::Yes);
                    say("this replica leads".into());
                }
                Some(Ok(false)) => {
                    set(held, Held::No);
                    say("another replica leads".into());
                }
                Some(Err(error)) => {
                    say(format!("the Lease {NAME} cannot be read or written, so this replica does nothing: {error}"))
                }
                None => say(format!("the API does not answer for the Lease {NAME}, so this replica does nothing")),
            }
            if renewed.elapsed() >= self.times.renew_deadline {
                set(held, if is_refused { Held::Refused } else { Held::No });
            }
            let leads = *held.borrow();
            self.metrics.set_leading(leads == Held::Yes, leads != Held::No);
            tokio::select! {
                () = clock::sleep(self.times.retry) => {}
                Ok(()) = aside.changed() => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        if *held.borrow() == Held::Yes {
            let _ = self.give_back().await;
        }
    }

    /// Renews or takes it. True = we hold it.
    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let lease =
                Lease { metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() }, spec: Some(self.spec(None)) };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.holder);
        let free = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        if !ours && !free && !self.expired(&lease) {
            return Ok(false);
        }
        let renewed = Lease { spec: Some(self.spec(ours.then_some(&spec))), ..lease };
        match self.api.replace(NAME, &PostParams::default(), &renewed).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it has not changed for its whole duration on our own clock.
    fn expired(&mut self, lease: &Lease) -> bool {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some(seen) if seen.version == version => seen.since.elapsed() >= self.times.duration,
            _ => {
                self.seen = Some(Seen { version, since: clock::instant() });
                false
            }
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff_now());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(self.times.duration.as_secs()).ok(),
            acquire_time: Some(old.and_then(|o| o.acquire_time.clone()).unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(old.and_then(|o| o.lease_transitions).unwrap_or(0)),
            ..LeaseSpec::default()
        }
    }

    async fn give_back(&self) -> Result<(), kube::Error> {
        let mut lease = self.api.get(NAME).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.holder) {
            spec.holder_identity = Some(String::new());
            self.api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }
}

fn is_aside(until: Option<clock::Instant>) -> bool {
    until.is_some_and(|until| clock::instant() < until)
}

fn jiff_now() -> jiff::Timestamp {
    i64::try_from(clock::now_ms()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

fn set(held: &watch::Sender<Held>, value: Held) {
    let changed = held.send_if_modified(|old| std::mem::replace(old, value) != value);
    if changed {
        tracing::info!(held = ?value, "leadership changed");
    }
}
