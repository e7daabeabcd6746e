//! The only place that reads a clock or waits, for controller, agent and pivot command.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use tokio::time::Instant;

/// When a simulated story began, on the monotonic clock.
static STORY: OnceLock<std::time::Instant> = OnceLock::new();
/// The wall clock at that moment, ms since 1970: 2026-01-01.
const STORY_BEGINS_MS: u64 = 1_767_225_600_000;

/// From here on the wall clock follows tokio's, which a simulation pauses and moves; for the whole process, and not to be undone.
pub fn simulate() {
    let _ = STORY.get_or_init(std::time::Instant::now);
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = match STORY.get() {
        Some(began) => Instant::now().into_std().saturating_duration_since(*began) + Duration::from_millis(STORY_BEGINS_MS),
        None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A monotonic instant.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}

/// Waits.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The future's outcome, or none if it takes longer.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
