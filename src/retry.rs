//! The one place that uses the crate `backoff`, which is unmaintained (see deny.toml for the exception and the way out).

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Backoff of the watches: from 200 ms, doubled, at most 5 s. One is shared by all watches of a controller, so the cap is what a
/// recovered API server waits for us at most.
pub struct WatchBackoff(ExponentialBackoff);

impl Default for WatchBackoff {
    fn default() -> Self {
        Self(ExponentialBackoff {
            initial_interval: Duration::from_millis(200),
            current_interval: Duration::from_millis(200),
            multiplier: 2.0,
            max_interval: Duration::from_secs(5),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next_backoff()
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0.reset();
    }
}
