//! The clock of this program, and times as text.

pub use etcd_operator_client::clock::{Instant, instant, now_ms, sleep, within};

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
