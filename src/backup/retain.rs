//! Which backups are more than is wanted. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::manifest::Name;

/// What is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many; 0 = any number.
    pub count: usize,
    /// So old; `None` = any age.
    pub age: Option<Duration>,
}

impl Keep {
    /// As a spec has it: 0 seconds or less = any age.
    #[must_use]
    pub fn of(count: usize, age_seconds: i64) -> Self {
        Self { count, age: u64::try_from(age_seconds).ok().filter(|s| *s > 0).map(Duration::from_secs) }
    }
}

/// Names of what is more than wanted, the oldest first. The newest of each etcd cluster is never among them: after a recovery the newest of the
/// cluster before it is the last that has that data. Nor is
/// `spare`, which was taken just now, whatever its name says: the clock may have been ahead when others were.
#[must_use]
pub fn surplus<'a>(
    backups: impl IntoIterator<Item = (&'a Name, &'a str)>,
    keep: Keep,
    spare: Option<&Name>,
    now: Timestamp,
) -> Vec<Name> {
    let mut newest_first: Vec<(&Name, &str)> = backups.into_iter().collect();
    newest_first.sort_by(|a, b| b.0.cmp(a.0));
    let mut newest = BTreeMap::new();
    for (name, cluster) in &newest_first {
        newest.entry(*cluster).or_insert(*name);
    }
    let too_old = |name: &Name| {
        let age = Duration::try_from(now.duration_since(name.taken)).unwrap_or_default();
        keep.age.is_some_and(|most| age > most)
    };
    let too_many = |place: usize| keep.count > 0 && place >= keep.count;
    let mut surplus: Vec<Name> = newest_first
        .iter()
        .enumerate()
        .filter(|(place, (name, _))| too_many(*place) || too_old(name))
        .filter(|(_, (name, cluster))| newest.get(cluster) != Some(name) && spare != Some(name))
        .map(|(_, (name, _))| (*name).clone())
        .collect();
    surplus.reverse();
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn name(day: i64) -> Name {
        let taken = Timestamp::from_second(1_700_000_000 + day * 86_400).unwrap();
        Name { taken, id: format!("run-{day}") }
    }

    fn days(of: &[(i64, &str)], keep: Keep, today: i64) -> Vec<i64> {
        let names: Vec<(Name, &str)> = of.iter().map(|(day, cluster)| (name(*day), *cluster)).collect();
        let gone = surplus(names.iter().map(|(name, cluster)| (name, *cluster)), keep, None, name(today).taken);
        gone.iter().map(|name| name.id.trim_start_matches("run-").parse().unwrap()).collect()
    }

    #[test]
    fn the_oldest_go_and_the_newest_never_does() {
        let all = [(9, "a"), (1, "a"), (10, "a"), (2, "a")];
        assert_eq!(days(&all, Keep { count: 2, age: None }, 10), [1, 2]);
        assert_eq!(days(&all, Keep { count: 0, age: None }, 10), Vec::<i64>::new());
        assert_eq!(days(&all, Keep { count: 0, age: Some(DAY * 2) }, 10), [1, 2]);
        assert_eq!(days(&all, Keep { count: 3, age: Some(DAY / 2) }, 20), [1, 2, 9], "all too old: the newest stays");
        assert_eq!(days(&all, Keep { count: 9, age: Some(DAY) }, -5), Vec::<i64>::new(), "a clock that was set back");
    }

    #[test]
    fn what_was_taken_just_now_stays_though_a_clock_was_ahead_before() {
        let ahead = [(name(100), "a"), (name(101), "a"), (name(1), "a")];
        let all = || ahead.iter().map(|(name, cluster)| (name, *cluster));
        for count in [1, 2] {
            let gone = surplus(all(), Keep { count, age: None }, Some(&name(1)), name(1).taken);
            assert!(!gone.contains(&name(1)), "{gone:?}");
        }
        assert!(surplus(all(), Keep { count: 2, age: None }, None, name(1).taken).contains(&name(1)));
    }

    #[test]
    fn the_newest_of_an_earlier_cluster_stays() {
        let all = [(1, "before"), (2, "before"), (3, "after"), (4, "after"), (5, "after")];
        assert_eq!(days(&all, Keep { count: 2, age: None }, 5), [1, 3]);
    }
}
