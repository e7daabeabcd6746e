//! When a backup is due. Pure.

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use etcd_operator_api::backup::BackupPolicy;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Clocks of two controllers may differ by so much, ms.
pub(crate) const CLOCK_STEP_MS: u64 = 60_000;

/// When.
#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    /// One backup.
    Once,
    /// So many ms apart.
    Every(u64),
    /// As in cron, in a time zone.
    Cron(Box<Cron>, TimeZone),
}

/// What that comes to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Since then (ms since 1970): the last of the times that have passed.
    Since(u64),
    /// Then.
    At(u64),
    /// No more.
    Never,
}

/// What the policy says.
///
/// # Errors
/// With the field and the way out.
pub(crate) fn parse(policy: Option<&BackupPolicy>) -> Result<Schedule, String> {
    let Some(policy) = policy else { return Ok(Schedule::Once) };
    let Some(text) = &policy.schedule else {
        let seconds = policy.backup_interval_in_second.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        return Ok(if seconds == 0 { Schedule::Once } else { Schedule::Every(seconds.saturating_mul(1000)) });
    };
    // To the minute, as in cron.
    let cron = CronParser::builder().seconds(Seconds::Disallowed).build().parse(text).map_err(|error| {
        format!("spec.backupPolicy.schedule: {text:?} cannot be read ({error}); write minute, hour, day of the month, month and day of the week, such as \"0 3 * * *\", or @daily")
    })?;
    let zone = policy.time_zone.as_deref().unwrap_or("UTC");
    let zone = TimeZone::get(zone).map_err(|error| {
        format!("spec.backupPolicy.timeZone: {zone:?} is not known ({error}); write an IANA name, such as Europe/Berlin")
    })?;
    // One that never comes is a mistake.
    let schedule = Schedule::Cron(Box::new(cron), zone);
    match schedule.next(0) {
        Some(_) => Ok(schedule),
        None => Err(format!("spec.backupPolicy.schedule: {text:?} names a time that never comes")),
    }
}

impl Schedule {
    /// When the next backup is due, if the last was due then and the object is as old as that (ms since 1970).
    pub(crate) fn due(&self, created_ms: u64, last_ms: Option<u64>, now_ms: u64) -> Due {
        // Of a clock that was ahead: waiting for that time could take as long as it was.
        if last_ms.is_some_and(|last| last > now_ms.saturating_add(CLOCK_STEP_MS)) && !matches!(self, Self::Once) {
            return Due::Since(now_ms);
        }
        let last_ms = last_ms.map(|last| last.min(now_ms));
        match self {
            Self::Once => last_ms.map_or(Due::Since(created_ms), |_| Due::Never),
            Self::Every(ms) => match last_ms {
                None => Due::Since(created_ms),
                Some(last) if last.saturating_add(*ms) > now_ms => Due::At(last.saturating_add(*ms)),
                Some(last) => Due::Since(last.saturating_add((now_ms - last) / ms * ms)),
            },
            Self::Cron(..) => match self.next(last_ms.unwrap_or(created_ms.min(now_ms))) {
                None => Due::Never,
                Some(next) if next > now_ms => Due::At(next),
                Some(next) => Due::Since(self.last(now_ms).unwrap_or(next)),
            },
        }
    }

    /// When the first one after a success was or is due, or the first of all.
    pub(crate) fn first_after(&self, created_ms: u64, success_ms: Option<u64>) -> Option<u64> {
        match (self, success_ms) {
            (Self::Once, Some(_)) => None,
            (Self::Once | Self::Every(_), None) => Some(created_ms),
            (Self::Every(ms), Some(success)) => Some(success.saturating_add(*ms)),
            (Self::Cron(..), _) => self.next(success_ms.unwrap_or(created_ms)),
        }
    }

    /// The first time after this one.
    fn next(&self, after_ms: u64) -> Option<u64> {
        let Self::Cron(cron, zone) = self else { return None };
        let found = cron.find_next_occurrence(&at(after_ms)?.to_zoned(zone.clone()), false).ok()?;
        u64::try_from(found.timestamp().as_millisecond()).ok()
    }

    /// The last time up to this one.
    fn last(&self, until_ms: u64) -> Option<u64> {
        let Self::Cron(cron, zone) = self else { return None };
        let found = cron.find_previous_occurrence(&at(until_ms)?.to_zoned(zone.clone()), true).ok()?;
        u64::try_from(found.timestamp().as_millisecond()).ok()
    }
}

fn at(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn cron(schedule: &str, zone: Option<&str>) -> Result<Schedule, String> {
        let policy =
            BackupPolicy { schedule: Some(schedule.into()), time_zone: zone.map(str::to_owned), ..BackupPolicy::default() };
        parse(Some(&policy))
    }

    #[test]
    fn one_backup_is_due_at_once_and_never_again() {
        let once = parse(None).unwrap();
        assert_eq!(once.due(5, None, 7), Due::Since(5));
        assert_eq!(once.due(5, Some(5), 7), Due::Never);
        let zero = BackupPolicy { backup_interval_in_second: Some(0), ..BackupPolicy::default() };
        assert!(matches!(parse(Some(&zero)), Ok(Schedule::Once)));
    }

    #[test]
    fn intervals_go_on_from_the_last_and_what_was_missed_is_made_up_for_once() {
        let every = parse(Some(&BackupPolicy { backup_interval_in_second: Some(60), ..BackupPolicy::default() })).unwrap();
        assert_eq!(every.due(1_000, None, 2_000), Due::Since(1_000), "the first at once");
        assert_eq!(every.due(0, Some(1_000), 60_999), Due::At(61_000));
        assert_eq!(every.due(0, Some(1_000), 61_000), Due::Since(61_000));
        assert_eq!(every.due(0, Some(1_000), 200_000), Due::Since(181_000));
        // Taken while the clock was a year ahead: now, and from then on as ever.
        assert_eq!(every.due(0, Some(31_536_000_000), 1_000), Due::Since(1_000));
        assert_eq!(every.due(0, Some(1_500), 1_000), Due::At(61_000), "another controller's clock");
        let utc = cron("@daily", None).unwrap();
        assert_eq!(utc.due(0, Some(31_536_000_000), 1_000), Due::Since(1_000));
    }

    #[test]
    fn a_schedule_is_of_its_time_zone_through_the_change_to_summer_time() {
        let berlin = cron("30 3 * * *", Some("Europe/Berlin")).unwrap();
        let created = ms("2026-03-28T00:00:00Z");
        assert_eq!(berlin.due(created, None, created), Due::At(ms("2026-03-28T02:30:00Z")));
        let last = ms("2026-03-28T02:30:00Z");
        assert_eq!(berlin.due(created, Some(last), last), Due::At(ms("2026-03-29T01:30:00Z")), "an hour earlier by UTC");
        // The hour from 2 to 3 is not there on that day: it is taken none the less, and once.
        let gap = cron("30 2 * * *", Some("Europe/Berlin")).unwrap();
        let last = ms("2026-03-28T01:30:00Z");
        let Due::At(next) = gap.due(created, Some(last), last) else { panic!() };
        assert!(next > last && next <= ms("2026-03-30T00:30:00Z"));
        // Days that were missed: the last of them.
        assert_eq!(berlin.due(created, Some(last), ms("2026-04-02T12:00:00Z")), Due::Since(ms("2026-04-02T01:30:00Z")));
        let utc = cron("@daily", None).unwrap();
        assert_eq!(utc.due(created, None, created), Due::At(ms("2026-03-29T00:00:00Z")));
    }

    #[test]
    fn what_cannot_be_read_names_the_field_and_an_example() {
        for bad in ["", "every day", "61 * * * *", "* * * *", "* * * * * *", "0 0 30 2 *", "\u{0}"] {
            let why = cron(bad, None).unwrap_err();
            assert!(why.starts_with("spec.backupPolicy.schedule: "), "{why}");
        }
        let why = cron("0 3 * * *", Some("Europe/Atlantis")).unwrap_err();
        assert!(why.starts_with("spec.backupPolicy.timeZone: ") && why.contains("Europe/Berlin"), "{why}");
    }
}
