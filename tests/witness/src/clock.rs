//! The only place that reads a clock or sleeps.
//!
//! Everything the witness records is in microseconds since its start, on the monotonic clock: a clock that jumps
//! during a run must not turn into a gap between two writes.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Microseconds since the start of the run.
pub type Micros = u64;

/// The clock of one run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    started_unix_ms: u64,
}

impl Clock {
    /// Starts the run's clock.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { start: Instant::now(), started_unix_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }

    /// When the run started, in milliseconds since 1970.
    pub fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    /// Now.
    pub fn now(&self) -> Micros {
        micros(self.start.elapsed())
    }

    /// Sleeps until a moment of the run; returns at once if it has passed.
    pub async fn sleep_until(&self, at: Micros) {
        tokio::time::sleep_until(self.start + Duration::from_micros(at)).await;
    }

    /// The future's result, or nothing if the moment passes first.
    pub async fn by<F: Future>(&self, at: Micros, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.start + Duration::from_micros(at), future).await.ok()
    }
}

/// A duration in the unit of the records.
pub fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Sleeps.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The future's result, or nothing if it takes longer.
pub async fn within<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(duration, future).await.ok()
}

/// Milliseconds since 1970 as `2026-01-02T03:04:05.678Z`, to lay the witness's times beside logs.
pub fn rfc3339(unix_ms: u64) -> String {
    let (days, in_day) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Civil date from days since 1970 (Howard Hinnant's algorithm, years from March).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_time_stamp_reads_as_the_date_it_is() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(super::rfc3339(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
    }
}
