//! The only place that reads a clock or sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A monotonic instant.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}

/// Now, RFC 3339 with seconds, UTC.
#[must_use]
pub fn now_rfc3339() -> String {
    rfc3339(now_ms())
}

/// A time in ms since 1970 as RFC 3339, UTC, with milliseconds.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// Milliseconds since 1970 of an RFC 3339 time.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    text.parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_millisecond()).ok())
}

/// Waits.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The future's outcome, or none if it takes longer.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
