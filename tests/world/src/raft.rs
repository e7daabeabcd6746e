//! etcd as the operator meets it: one committed configuration, processes with their logs, elections, and the checks that etcd makes
//! before a membership change. A change commits with a quorum of the configuration before it (raft's simple change); what it does to
//! the configuration after it is for the checks in `checks.rs` to judge.
//!
//! Left out: partitions of voters. All living voters of one cluster reach each other; what a controller cannot see is `observe.rs`'s matter.
//! A learner may be on a slow or dead link.

use std::collections::{BTreeMap, BTreeSet};

use etcd_operator_plan::{MemberId, NOBODY, quorum_of};

use crate::Ms;
use crate::log::Log;

/// etcd's election timeout, ms (`--election-timeout`).
pub const ELECTION_MS: Ms = 1_000;
/// How long every voter must have been connected before etcd accepts a MemberAdd, ms (etcd: `HealthInterval`).
pub const STRICT_CHECK_MS: Ms = 5_000;
/// How long etcd's drain after SIGTERM lasts while a client's stream is open on it, ms (measured, testbed).
pub const DRAIN_MS: Ms = 7_000;
/// Entries per ms that a learner receives: 50,000 entries take 2.5 s.
const LEARNER_ENTRIES_PER_MS: u64 = 20;
/// A learner may be promoted when it has this share of the leader's log, in tenths (etcd: `readyPercentThreshold`).
const PROMOTE_TENTHS: u64 = 9;

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It does not.
    Down,
    /// It runs.
    Up {
        /// Since when.
        since: Ms,
    },
    /// It got SIGTERM: it votes as long as a stream is open on it, but takes no new client.
    Draining {
        /// When etcd gives up waiting for the streams.
        until: Ms,
    },
}

/// A data directory, and the process on it if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its log on disk: survives power cuts.
    pub log: Log,
    /// Whether it runs.
    pub life: Life,
}

/// A member as listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listed {
    /// Its ID.
    pub id: MemberId,
    /// Its name, empty until published.
    pub name: String,
    /// Its peer URL.
    pub peer_url: String,
    /// Whether it has no vote.
    pub learner: bool,
}

/// Why etcd refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No leader or no quorum: the call times out and was not applied.
    NoQuorum,
    /// `unhealthy cluster`: the strict reconfiguration check.
    Unhealthy,
    /// A member with this peer URL exists.
    PeerUrlExists,
    /// `--max-learners`.
    TooManyLearners,
    /// The learner is not in sync with the leader.
    LearnerNotReady,
    /// No such member, or not of the kind that the call needs.
    NotFound,
}

/// The etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    /// The committed configuration.
    pub config: Vec<Listed>,
    /// All data directories that belong to it, also those of removed members.
    pub processes: BTreeMap<MemberId, Process>,
    /// The leader.
    pub leader: Option<MemberId>,
    /// The commit index.
    pub commit: u64,
    /// Names that members publish when they start; others get one of their peer URL.
    pub names: BTreeMap<MemberId, String>,
    /// Versions of etcd, where members run others than the World's own.
    pub versions: BTreeMap<MemberId, String>,
    /// The version that the data is of: with it an older etcd cannot read it.
    pub data_version: String,
    /// Since when all voters run a newer etcd and none holds it down, ms.
    pub rises_since: Option<Ms>,
    /// The version that etcd was told to convert it for, and when (ms).
    pub downgrade: Option<(String, Ms)>,
    /// Peer URLs on whose link a learner gets so many entries per second: 0 = a dead link.
    pub slow: BTreeMap<String, u64>,
    /// Members whose store is not the one that their log makes.
    pub corrupt: BTreeSet<MemberId>,
    /// Whom the alarms CORRUPT accuse: no write passes.
    pub alarms: BTreeSet<MemberId>,
    /// Whether they say who it is: from 3.6 on.
    pub alarms_name: bool,
    /// `--strict-reconfig-check`, as far as removals go: a red case takes it away.
    pub strict: bool,
    /// `--max-learners`, the same everywhere.
    pub max_learners: usize,
    pub(crate) term: u64,
    pub(crate) leaderless_since: Ms,
    pub(crate) changed_at: Ms,
    pub(crate) next_id: u64,
}

impl Raft {
    /// A cluster of boot alone, with data in it.
    #[must_use]
    pub fn of_boot(boot: MemberId, peer_url: &str, entries: u64) -> Self {
        let listed = Listed { id: boot, name: "boot".into(), peer_url: peer_url.into(), learner: false };
        Self {
            config: vec![listed],
            processes: BTreeMap::from([(boot, Process { log: Log::with(entries), life: Life::Up { since: 0 } })]),
            leader: Some(boot),
            commit: entries,
            names: BTreeMap::new(),
            versions: BTreeMap::new(),
            data_version: "3.6.0".into(),
            rises_since: None,
            downgrade: None,
            slow: BTreeMap::new(),
            corrupt: BTreeSet::new(),
            alarms: BTreeSet::new(),
            alarms_name: true,
            strict: true,
            max_learners: 9,
            term: 1,
            leaderless_since: 0,
            changed_at: 0,
            next_id: boot.0 + 1,
        }
    }

    /// No cluster yet.
    #[must_use]
    pub fn nothing() -> Self {
        let raft = Self::of_boot(MemberId(0), "", 0);
        Self { config: Vec::new(), processes: BTreeMap::new(), leader: None, ..raft }
    }

    /// A new cluster of one member; on an empty disk, and never beside another one.
    pub fn found(&mut self, now: Ms, id: MemberId, peer_url: &str) {
        self.config.push(Listed { id, name: String::new(), peer_url: peer_url.into(), learner: false });
        self.processes.insert(id, Process { log: Log::with(1), life: Life::Down });
        (self.commit, self.next_id) = (1, id.0.wrapping_add(1).max(2));
        self.changed(now);
        self.start(now, id);
    }

    /// The check of a compaction (`CompactHashCheck`): the leader accuses who differs from a quorum.
    pub fn compare(&mut self) {
        let is_bad = |id: &MemberId| self.corrupt.contains(id) && self.runs(*id);
        let good = self.voters().filter(|id| !self.corrupt.contains(id) && self.runs(*id)).count();
        if self.leader.is_some() && good >= quorum_of(self.voters().count()) {
            let bad: Vec<MemberId> = self.config.iter().map(|m| m.id).filter(is_bad).collect();
            let accused = |id| if self.alarms_name { id } else { NOBODY };
            self.alarms.extend(bad.into_iter().map(accused));
        }
    }

    /// A member as listed.
    #[must_use]
    pub fn listed(&self, id: MemberId) -> Option<&Listed> {
        self.config.iter().find(|m| m.id == id)
    }

    /// IDs of the voters.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.config.iter().filter(|m| !m.learner).map(|m| m.id)
    }

    /// Whether its process runs, draining or not.
    #[must_use]
    pub fn runs(&self, id: MemberId) -> bool {
        self.processes.get(&id).is_some_and(|p| p.life != Life::Down)
    }

    /// Whether a new client gets an answer from it: it runs, is not draining, and knows a leader.
    #[must_use]
    pub fn serves(&self, id: MemberId) -> bool {
        let up = self.processes.get(&id).is_some_and(|p| matches!(p.life, Life::Up { .. }));
        up && self.leader.is_some() && self.listed(id).is_some()
    }

    /// Voters that run, less those that a quorum needs. Negative = no quorum.
    #[must_use]
    pub fn spare_voters(&self) -> i64 {
        let (all, up) = self.voters().fold((0, 0_i64), |(n, up), id| (n + 1, up + i64::from(self.runs(id))));
        up - i64::try_from(quorum_of(all)).unwrap_or(i64::MAX)
    }

    /// Entries that a member lags behind the commit index.
    #[must_use]
    pub fn lag(&self, id: MemberId) -> u64 {
        let own = self.processes.get(&id).map_or(0, |p| self.matched(&p.log));
        self.commit.saturating_sub(own)
    }

    fn matched(&self, log: &Log) -> u64 {
        let leader = self.leader.and_then(|l| self.processes.get(&l));
        leader.map_or(log.last_index(), |l| l.log.agrees_up_to(log))
    }

    fn works(&self) -> bool {
        self.leader.is_some_and(|l| self.runs(l)) && self.spare_voters() >= 0
    }

    /// Lets `ms` pass: the leader steps down or is elected, members follow it. Whether a new leader was elected.
    pub(crate) fn tick(&mut self, now: Ms, ms: Ms) -> bool {
        if self.leader.is_some() && !(self.works() && self.leader.is_some_and(|l| self.listed(l).is_some())) {
            self.leader = None;
            self.leaderless_since = now;
        }
        let elected = self.leader.is_none() && now.saturating_sub(self.leaderless_since) >= ELECTION_MS && self.elect();
        self.follow(ms);
        self.publish_names();
        elected
    }

    fn elect(&mut self) -> bool {
        if self.spare_voters() < 0 {
            return false;
        }
        let draining = |id: &MemberId| matches!(self.processes.get(id).map(|p| p.life), Some(Life::Draining { .. }));
        let candidates = self.voters().filter(|id| self.runs(*id));
        let best = candidates.max_by_key(|id| (self.processes.get(id).map(|p| p.log.rank()), !draining(id), *id));
        if let Some(winner) = best {
            self.lead(winner);
        }
        best.is_some()
    }

    /// A new leader begins its term with an empty entry: only entries of its own term are committed by counting (raft §5.4.2).
    fn lead(&mut self, winner: MemberId) {
        self.term += 1;
        self.leader = Some(winner);
        let term = self.term;
        if let Some(process) = self.processes.get_mut(&winner) {
            process.log.append(term);
        }
        self.follow(0);
    }

    /// Voters follow at once; learners by what their link carries in so many ms, unless they have caught up.
    fn follow(&mut self, ms: Ms) {
        let Some(leader) = self.leader.and_then(|l| self.processes.get(&l)).map(|p| p.log.clone()) else { return };
        for member in &self.config {
            let Some(process) = self.processes.get_mut(&member.id).filter(|p| p.life != Life::Down) else { continue };
            let behind = leader.last_index().saturating_sub(leader.agrees_up_to(&process.log));
            let budget = match self.slow.get(&member.peer_url).filter(|_| member.learner) {
                Some(per_second) => per_second * ms / 1_000,
                None if member.learner && behind > LEARNER_ENTRIES_PER_MS => ms.saturating_mul(LEARNER_ENTRIES_PER_MS),
                None => u64::MAX,
            };
            process.log.follow(&leader, budget);
        }
        self.advance_commit(&leader);
    }

    fn advance_commit(&mut self, leader: &Log) {
        let mut stored: Vec<u64> =
            self.voters().map(|id| self.processes.get(&id).map_or(0, |p| leader.agrees_up_to(&p.log))).collect();
        stored.sort_unstable_by(|a, b| b.cmp(a));
        let quorum = quorum_of(stored.len());
        if let Some(index) = quorum.checked_sub(1).and_then(|i| stored.get(i)).copied()
            && index > self.commit
            && leader.term_at(index) == Some(self.term)
        {
            self.commit = index;
        }
    }

    fn publish_names(&mut self) {
        if !self.works() {
            return;
        }
        // A learner serves nobody before it has the data; on a link of full speed that is soon enough not to matter here.
        let starves = |m: &Listed| self.slow.contains_key(&m.peer_url) && m.learner && self.lag(m.id) > 0;
        let ready: Vec<MemberId> = self.config.iter().filter(|m| self.runs(m.id) && !starves(m)).map(|m| m.id).collect();
        for member in self.config.iter_mut().filter(|m| m.name.is_empty() && ready.contains(&m.id)) {
            member.name = self.names.get(&member.id).cloned().unwrap_or_else(|| format!("{}-1", member.peer_url));
        }
    }

    /// One write. `(index, term)` if it was committed.
    pub(crate) fn propose(&mut self) -> Option<(u64, u64)> {
        if !self.works() || !self.alarms.is_empty() {
            return None;
        }
        let leader = self.leader?;
        let term = self.term;
        let index = self.processes.get_mut(&leader)?.log.append(term);
        self.follow(0);
        (self.commit >= index).then_some((index, term))
    }

    /// MemberAdd as learner.
    ///
    /// # Errors
    /// etcd's own refusals.
    pub fn add_learner(&mut self, now: Ms, peer_url: &str) -> Result<MemberId, Refusal> {
        self.quorum()?;
        if self.config.iter().any(|m| m.peer_url == peer_url) {
            return Err(Refusal::PeerUrlExists);
        }
        let connected = |id: MemberId| {
            self.processes
                .get(&id)
                .is_some_and(|p| matches!(p.life, Life::Up { since } if now.saturating_sub(since) >= STRICT_CHECK_MS))
        };
        // The learner is counted as a voter that is down (`mayAddMember`, from 3.5.30 and 3.6.11 on).
        let (voters, up) = self.voters().fold((0, 0), |(n, up), id| (n + 1, up + usize::from(connected(id))));
        let enough = voters == 1 || up >= quorum_of(voters + 1);
        if now.saturating_sub(self.changed_at) < STRICT_CHECK_MS || !enough {
            return Err(Refusal::Unhealthy);
        }
        if self.config.iter().filter(|m| m.learner).count() >= self.max_learners {
            return Err(Refusal::TooManyLearners);
        }
        let id = MemberId(self.next_id);
        self.next_id += 1;
        // It gets the leader's store.
        if self.leader.is_some_and(|leader| self.corrupt.contains(&leader)) {
            self.corrupt.insert(id);
        }
        self.config.push(Listed { id, name: String::new(), peer_url: peer_url.into(), learner: true });
        self.changed(now);
        Ok(id)
    }

    /// MemberUpdate.
    ///
    /// # Errors
    /// etcd's own refusals.
    pub fn update(&mut self, id: MemberId, peer_url: &str) -> Result<(), Refusal> {
        self.quorum()?;
        if self.config.iter().any(|m| m.id != id && m.peer_url == peer_url) {
            return Err(Refusal::PeerUrlExists);
        }
        let listed = self.config.iter_mut().find(|m| m.id == id).ok_or(Refusal::NotFound)?;
        peer_url.clone_into(&mut listed.peer_url);
        Ok(())
    }

    /// MemberPromote.
    ///
    /// # Errors
    /// etcd's own refusals.
    pub fn promote(&mut self, now: Ms, id: MemberId) -> Result<(), Refusal> {
        self.quorum()?;
        if !self.listed(id).is_some_and(|m| m.learner) {
            return Err(Refusal::NotFound);
        }
        let last = self.leader.and_then(|l| self.processes.get(&l)).map_or(0, |p| p.log.last_index());
        let own = self.processes.get(&id).map_or(0, |p| self.matched(&p.log));
        if !self.runs(id) || own * 10 < last * PROMOTE_TENTHS {
            return Err(Refusal::LearnerNotReady);
        }
        if let Some(member) = self.config.iter_mut().find(|m| m.id == id) {
            member.learner = false;
        }
        self.changed(now);
        Ok(())
    }

    /// MemberRemove. etcd itself refuses only what would leave too few started members.
    ///
    /// # Errors
    /// etcd's own refusals.
    pub fn remove(&mut self, now: Ms, id: MemberId) -> Result<(), Refusal> {
        self.quorum()?;
        let Some(member) = self.listed(id) else { return Err(Refusal::NotFound) };
        let started = |m: &&Listed| !m.learner && !m.name.is_empty() && m.id != id;
        let left = self.config.iter().filter(|m| !m.learner && m.id != id).count();
        if !member.learner && (left == 0 || self.config.iter().filter(started).count() < quorum_of(left)) {
            return Err(Refusal::Unhealthy);
        }
        // One that is down is safe to remove; a living one must leave a quorum of living ones (`mayRemoveMember`).
        let (voters, up) = self.voters().fold((0, 0), |(n, up), v| (n + 1, up + usize::from(self.runs(v))));
        if self.strict && !member.learner && self.runs(id) && up - 1 < quorum_of(voters - 1) {
            return Err(Refusal::Unhealthy);
        }
        self.config.retain(|m| m.id != id);
        if self.leader == Some(id) {
            self.leader = None;
            self.leaderless_since = now;
        }
        self.changed(now);
        Ok(())
    }

    /// MoveLeader, sent to the leader `from`.
    ///
    /// # Errors
    /// etcd's own refusals.
    pub fn move_leader(&mut self, from: MemberId, to: MemberId) -> Result<(), Refusal> {
        self.quorum()?;
        let is_voter = self.listed(to).is_some_and(|m| !m.learner);
        if self.leader != Some(from) || !is_voter || !self.runs(to) {
            return Err(Refusal::NotFound);
        }
        self.lead(to);
        Ok(())
    }

    fn quorum(&self) -> Result<(), Refusal> {
        if self.works() { Ok(()) } else { Err(Refusal::NoQuorum) }
    }

    fn changed(&mut self, now: Ms) {
        self.changed_at = now;
        self.propose();
    }

    /// The process of a member stops.
    pub(crate) fn stop(&mut self, id: MemberId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.life = Life::Down;
        }
    }

    /// A member's data directory is emptied under its process.
    pub(crate) fn wipe(&mut self, id: MemberId) {
        self.processes.remove(&id);
    }

    /// The process of a member starts on its data, or on an empty directory.
    pub fn start(&mut self, now: Ms, id: MemberId) {
        // It compares its store with its peers' (`InitialCorruptCheck`), where a quorum answers; else nobody does.
        if self.corrupt.contains(&id) && self.leader.is_some() {
            return;
        }
        let process = self.processes.entry(id).or_insert(Process { log: Log::default(), life: Life::Down });
        if process.life == Life::Down {
            process.life = Life::Up { since: now };
        }
    }
}
