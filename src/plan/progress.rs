//! Whether a learner gets on (design D6, rule 2). No clock: whoever observes notes what he saw, and when.

use crate::grow::CAUGHT_UP_ENTRIES;

/// What one round saw of a learner. `None` = not known in this round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Size of its data on disk, in whatever unit its agent rounds to. It grows while a snapshot is received, of which its etcd says
    /// nothing: before it has the data it serves no client.
    pub size: Option<u64>,
    /// Its applied index.
    pub applied: Option<u64>,
    /// Entries that it lags behind the leader's commit index.
    pub lag: Option<u64>,
}

/// The progress of one learner, by member ID. It is kept in memory only: an observer that begins anew counts anew, so that it evicts later
/// and never sooner.
///
/// Growth is what goes beyond the most that was ever seen: a snapshot that breaks off and begins again, time after time, is none.
///
/// What is not known is no growth, and no reset either. So a node that lost its power while it joined is given up like a starved one,
/// or the pivot would hang on it for ever. A learner whose agent alone is away may be given up, too, in the middle of a snapshot of more than the
/// patience: it has no vote, so this costs a copy of the data and never safety; and the next try is a longer and longer time away (`evict.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    size: Option<u64>,
    applied: Option<u64>,
    since_ms: u64,
    seen_ms: u64,
}

impl Progress {
    /// The first sight of a learner.
    #[must_use]
    pub fn begin(now_ms: u64, sample: Sample) -> Self {
        Self { size: sample.size, applied: sample.applied, since_ms: now_ms, seen_ms: now_ms }
    }

    /// Notes what a later round saw. Rounds in which the learner was not looked at, as etcd or the API did not answer, say nothing about it: after a
    /// break of a quarter of the patience the count begins anew. What it could not receive then was not its fault.
    pub fn note(&mut self, now_ms: u64, sample: Sample, patience_ms: u64) {
        let was_away = now_ms.saturating_sub(self.seen_ms) > patience_ms / 4;
        let has_grown = sample.size > self.size || sample.applied > self.applied;
        if was_away || has_grown || sample.lag.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES) {
            self.since_ms = now_ms;
        }
        self.size = self.size.max(sample.size);
        self.applied = self.applied.max(sample.applied);
        self.seen_ms = now_ms;
    }

    /// Since when it has made no progress, ms.
    #[must_use]
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// The most that was seen: size of the data, applied index.
    #[must_use]
    pub fn most(&self) -> (Option<u64>, Option<u64>) {
        (self.size, self.applied)
    }

    /// When it was looked at last, ms.
    #[must_use]
    pub fn seen_ms(&self) -> u64 {
        self.seen_ms
    }
}
