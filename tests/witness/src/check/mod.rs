//! The judgement: pure functions from a recorded history to figures and broken invariants.

mod etcd;
mod health;
mod membership;
mod watches;
mod writes;

use crate::history::History;
use crate::verdict::{Invariant, Verdict, seconds};

/// Judges a run. Invariants in `allow` are reported apart and don't spoil it.
pub fn judge(history: &History, allow: &[Invariant]) -> Verdict {
    let mut violations = Vec::new();
    let timeline = membership::timeline(history);
    let writes = writes::check(history, &mut violations);
    let watches = watches::check(history, &mut violations);
    let mut etcd = etcd::check(history, &timeline, &mut violations);
    membership::check(history, &timeline, &mut violations);
    etcd.lowest_tolerance = health::check(history, &timeline, &mut violations);
    violations.sort_by(|a, b| a.at.total_cmp(&b.at));
    let (allowed, violations): (Vec<_>, Vec<_>) =
        violations.into_iter().partition(|violation| allow.contains(&violation.invariant));
    let (begin, end) = history.writing.unwrap_or_default();
    Verdict {
        clean: violations.is_empty(),
        violations,
        allowed,
        started_unix_ms: history.started_unix_ms,
        writing_seconds: seconds(end.saturating_sub(begin)),
        writes,
        watches,
        etcd,
    }
}
