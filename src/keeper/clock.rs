//! The only place where time passes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long things take. The defaults are the product's; tests shorten what they must wait for.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How often the order file is looked at. The controller has added a learner when it changes: until etcd runs, nothing moves.
    pub order_poll: Duration,
    /// How often a waiting keeper asks the peers again.
    pub decide_again: Duration,
    /// How long the peers may take to answer, in all.
    pub ask: Duration,
    /// How often etcd's readiness is looked at.
    pub ready_poll: Duration,
    /// How often a running member looks who the others are.
    pub members_poll: Duration,
    /// How often a running member leaves its mark with the others ([`crate::mark`]).
    pub mark: Duration,
    /// How long to wait for a missing disk before the container ends.
    pub disk_wait: Duration,
    /// How long a drained member waits to be removed before it is started again (design D7.5).
    pub drain: Duration,
    /// How often the others are asked whether it is removed.
    pub drain_poll: Duration,
    /// From the confirmed removal to SIGKILL: the drain keeps watches open on a member that no longer hears anything.
    pub drain_kill: Duration,
    /// How long etcd may take to stop before it is killed. Its own drain takes up to 7 s.
    pub stop: Duration,
    /// Longest pause between two starts of an etcd that ends by itself.
    pub backoff: Duration,
    /// How long the self-check of another keeper may take. It asks the peers as well ([`Timing::ask`]).
    pub self_check: Duration,
    /// How long no quorum must have answered before a recovery is begun: an election takes a second or two.
    pub quiet: Duration,
    /// How long a keeper that took over must have run before a cold start may meet it.
    pub prove: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            order_poll: Duration::from_millis(100),
            decide_again: Duration::from_secs(2),
            ask: Duration::from_secs(2),
            ready_poll: Duration::from_secs(1),
            members_poll: Duration::from_secs(30),
            mark: Duration::from_secs(60),
            disk_wait: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            drain_poll: Duration::from_millis(50),
            drain_kill: Duration::from_millis(200),
            stop: Duration::from_secs(30),
            backoff: Duration::from_secs(30),
            self_check: Duration::from_secs(10),
            quiet: Duration::from_secs(10),
            prove: Duration::from_secs(60),
        }
    }
}

/// Now, for measuring.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Sleeps without blocking the thread.
pub async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Milliseconds since 1970, for names that must differ.
#[must_use]
pub fn unix_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_millis()).unwrap_or_default()
}

/// Stands still for a moment: where nothing else can be done.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
