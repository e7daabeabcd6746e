//! What a run showed: figures, and each broken invariant by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::{Micros, rfc3339};

/// What the witness asserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Invariant {
    /// I1: each acknowledged write, or a later one, is there at the end.
    I1,
    /// I3: no revision goes back: of an etcd, of a watch, of the writes to an object.
    I3,
    /// I4: one cluster ID.
    I4,
    /// I5: at most one membership change in flight, learners first.
    I5,
    /// I5, its second half: healthy voters never below quorum.
    Tolerance,
    /// I7: a member ID that left the list never comes back.
    I7,
    /// I8: boot is removed once, and only when the others can stand alone.
    I8,
    /// A watch brings every acknowledged write.
    LostEvent,
    /// Every write is acknowledged.
    FailedWrite,
    /// At least 95 % of the due writes were sent: fewer means that the witness was not looking.
    TooFewWrites,
    /// The witness saw what it must see: acks on every type, etcd's answers. A blind run is no clean run.
    Blind,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When, in seconds since the start of the run.
    pub at: f64,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// A violation seen at a moment of the run.
    pub fn new(invariant: Invariant, at: Micros, what: String) -> Self {
        Violation { invariant, at: seconds(at), what }
    }
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Whether no invariant broke, save those that the run was told to expect.
    pub clean: bool,
    /// Broken invariants.
    pub violations: Vec<Violation>,
    /// Broken invariants that the run was told to expect (`--allow`).
    pub allowed: Vec<Violation>,
    /// When the run started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it wrote, in seconds.
    pub writing_seconds: f64,
    /// The writes.
    pub writes: Writes,
    /// The watches.
    pub watches: Watches,
    /// The etcds.
    pub etcd: Etcd,
}

/// Figures of the writes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Writes {
    /// Due per second.
    pub rate: u32,
    /// Resource types written to.
    pub types: usize,
    /// Due in all.
    pub due: usize,
    /// Sent in time.
    pub sent: usize,
    /// Acknowledged and in the journal.
    pub acked: usize,
    /// Sent and not acknowledged.
    pub failed: usize,
    /// Median latency from the due time, of the acknowledged ones.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Longest.
    pub max_ms: f64,
    /// Longest time between two acknowledgements in a row, of whatever objects.
    pub longest_gap_ms: f64,
    /// When that gap began, in seconds since the start of the run.
    pub longest_gap_at: f64,
    /// The first failures.
    pub failures: Vec<Failure>,
}

/// A failed write.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// When it was due, in seconds since the start of the run.
    pub due: f64,
    /// How long it took to fail.
    pub after_ms: f64,
    /// Resource and name.
    pub object: String,
    /// Why.
    pub error: String,
}

/// Figures of the watches.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watches {
    /// How many.
    pub open: usize,
    /// Events of our objects.
    pub events: usize,
    /// Longest time from an acknowledgement to its event: how long a watch was silent while it had something to say.
    pub longest_silence_ms: f64,
    /// When that silence began, in seconds since the start of the run.
    pub longest_silence_at: f64,
    /// Whose.
    pub longest_silence_of: String,
    /// 99th percentile of the time from acknowledgement to event.
    pub p99_lag_ms: f64,
    /// Streams that ended before the run did.
    pub broken: usize,
    /// How many of them with 410.
    pub gone: u32,
    /// Attempts to open one that failed.
    pub refused: u32,
    /// The first ends, as time, type and reason.
    pub ends: Vec<(f64, String, String)>,
}

/// What etcd did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    /// Cluster IDs seen, in hex.
    pub cluster_ids: Vec<String>,
    /// Member ID of boot, in hex, if it answered.
    pub boot: Option<String>,
    /// Highest revision seen.
    pub revision: i64,
    /// Lowest tolerance seen: healthy voters − quorum.
    pub lowest_tolerance: Option<i64>,
    /// Longest time without an answer to `Status` from any member: what happened in it was not seen.
    pub longest_blind_ms: f64,
    /// Member lists in order.
    pub membership: Vec<Phase>,
    /// Leaders in order.
    pub leaders: Vec<Leader>,
}

/// A member list and when it held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// When it was first read, in seconds since the start of the run.
    pub at: f64,
    /// Names (IDs where there is none); learners in brackets.
    pub members: String,
    /// What changed.
    pub change: String,
}

/// A leader and since when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leader {
    /// When it was first reported, in seconds since the start of the run.
    pub at: f64,
    /// Its name, or its ID in hex.
    pub member: String,
    /// Raft term.
    pub term: u64,
}

/// Microseconds as seconds.
pub fn seconds(at: Micros) -> f64 {
    // Exact up to 2^53 µs, which is 285 years.
    at as f64 / 1e6
}

/// Microseconds as milliseconds.
pub fn millis(at: Micros) -> f64 {
    at as f64 / 1e3
}

impl Verdict {
    /// Whether an invariant broke, expected or not.
    pub fn broke(&self, invariant: Invariant) -> bool {
        self.violations.iter().chain(&self.allowed).any(|violation| violation.invariant == invariant)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Writes { rate, types, due, sent, acked, failed, p50_ms, p99_ms, max_ms, longest_gap_ms, longest_gap_at, failures } =
            &self.writes;
        writeln!(
            f,
            "witness: started {}, wrote {:.1} s at {rate}/s to {types} resource types",
            rfc3339(self.started_unix_ms),
            self.writing_seconds
        )?;
        writeln!(f, "  writes    {due} due, {sent} sent, {acked} acknowledged, {failed} failed")?;
        writeln!(f, "  latency   p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms (from the due time)")?;
        writeln!(f, "  gap       {longest_gap_ms:.0} ms between two acknowledged writes, at +{longest_gap_at:.2} s")?;
        for Failure { due, after_ms, object, error } in failures.iter().take(5) {
            writeln!(f, "  failed    +{due:.2} s {object} after {after_ms:.0} ms: {error}")?;
        }
        let Watches {
            open,
            events,
            longest_silence_ms,
            longest_silence_at,
            longest_silence_of,
            p99_lag_ms,
            broken,
            gone,
            refused,
            ends,
        } = &self.watches;
        writeln!(
            f,
            "  watches   {open} open, {events} events, {broken} broken ({gone} with 410), {refused} attempts to open one refused"
        )?;
        writeln!(
            f,
            "  silence   {longest_silence_ms:.0} ms ({longest_silence_of}, at +{longest_silence_at:.2} s), p99 {p99_lag_ms:.1} ms from ack to event"
        )?;
        for (at, resource, reason) in ends.iter().take(5) {
            writeln!(f, "  ended     +{at:.2} s {resource}: {reason}")?;
        }
        let Etcd { cluster_ids, boot, revision, lowest_tolerance, longest_blind_ms, membership, leaders } = &self.etcd;
        let tolerance = lowest_tolerance.map_or("unknown".to_string(), |lowest| lowest.to_string());
        writeln!(
            f,
            "  etcd      cluster {}, boot {}, revision {revision}, lowest tolerance {tolerance}, no answer for {longest_blind_ms:.0} ms at most",
            cluster_ids.join(" and "),
            boot.as_deref().unwrap_or("not seen")
        )?;
        for Phase { at, members, change } in membership {
            writeln!(f, "  members   +{at:.2} s {members}  {change}")?;
        }
        for Leader { at, member, term } in leaders {
            writeln!(f, "  leader    +{at:.2} s {member} in term {term}")?;
        }
        for (word, list) in [("allowed", &self.allowed), ("BROKEN", &self.violations)] {
            for Violation { invariant, at, what } in list {
                writeln!(f, "  {word:9} {invariant:?} at +{at:.2} s: {what}")?;
            }
        }
        writeln!(f, "{}", if self.clean { "witness: clean" } else { "witness: an invariant is broken" })
    }
}
