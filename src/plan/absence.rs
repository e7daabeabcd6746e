//! For how long voters have been down, and their nodes away (design D6, rule 4). No clock: whoever observes notes what he saw, and when.

use std::collections::BTreeMap;

use crate::MemberId;

/// Who is gone, since when, and when that was seen last, ms.
type Gone<K> = BTreeMap<K, (u64, u64)>;

/// What one round saw of a seat; `N` names its node.
#[derive(Clone, Copy, Debug)]
pub struct SeatSeen<N> {
    /// Its node.
    pub node: N,
    /// Whether that is NotReady or deleted.
    pub is_away: bool,
    /// The voter that its keeper was told.
    pub member: Option<MemberId>,
}

/// Absences by voter and by node. They are kept in memory only: an observer that begins anew counts anew, so that it replaces later and never sooner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absences<N> {
    down: Gone<MemberId>,
    away: Gone<N>,
}

impl<N> Default for Absences<N> {
    fn default() -> Self {
        Self { down: Gone::new(), away: Gone::new() }
    }
}

impl<N: Clone + Ord> Absences<N> {
    /// Notes a round that had a linearizable member list. Only what was looked at counts: after a break of a quarter of the grace it begins anew.
    ///
    /// A node that was away for the whole grace stays so until its member is healthy: else each flap of it would throw a successor away.
    pub fn note(&mut self, now_ms: u64, grace_ms: u64, down: &[MemberId], seats: &[SeatSeen<N>]) {
        let is_given_up = |node: &N| self.away.get(node).is_some_and(|(since, _)| now_ms.saturating_sub(*since) >= grace_ms);
        let is_down = |member: Option<MemberId>| member.is_some_and(|id| down.contains(&id));
        let is_away = |seat: &&SeatSeen<N>| seat.is_away || is_given_up(&seat.node) && is_down(seat.member);
        let away: Vec<N> = seats.iter().filter(is_away).map(|seat| seat.node.clone()).collect();
        keep(&mut self.down, now_ms, grace_ms, down);
        keep(&mut self.away, now_ms, grace_ms, &away);
    }

    /// Since when a voter has not been healthy, ms.
    #[must_use]
    pub fn down_since(&self, member: MemberId) -> Option<u64> {
        self.down.get(&member).map(|(since, _)| *since)
    }

    /// Since when a node has been away, ms.
    #[must_use]
    pub fn away_since(&self, node: &N) -> Option<u64> {
        self.away.get(node).map(|(since, _)| *since)
    }

    /// All of them: since when, and when seen last, ms.
    pub fn times(&self) -> (impl Iterator<Item = (&MemberId, u64, u64)>, impl Iterator<Item = (&N, u64, u64)>) {
        (self.down.iter().map(|(k, (a, b))| (k, *a, *b)), self.away.iter().map(|(k, (a, b))| (k, *a, *b)))
    }
}

fn keep<K: Clone + Ord>(gone: &mut Gone<K>, now_ms: u64, grace_ms: u64, seen: &[K]) {
    gone.retain(|who, (_, last)| seen.contains(who) && now_ms.saturating_sub(*last) <= grace_ms / 4);
    for who in seen {
        gone.entry(who.clone()).or_insert((now_ms, now_ms)).1 = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: u64 = 4_000;
    const ID: MemberId = MemberId(7);

    fn seat(is_away: bool) -> [SeatSeen<u8>; 1] {
        [SeatSeen { node: 1, is_away, member: Some(ID) }]
    }

    fn rounds(rounds: &[(u64, bool, bool)]) -> Absences<u8> {
        let mut absences = Absences::default();
        for (at, is_down, is_away) in rounds {
            absences.note(*at, GRACE, if *is_down { &[ID] } else { &[] }, &seat(*is_away));
        }
        absences
    }

    #[test]
    fn an_absence_counts_from_the_first_round_that_saw_it() {
        let seen = rounds(&[(0, false, false), (500, true, true), (1_500, true, true), (2_500, true, true)]);
        assert_eq!((seen.down_since(ID), seen.away_since(&1)), (Some(500), Some(500)));
        let (down, away) = seen.times();
        assert_eq!(down.collect::<Vec<_>>(), [(&ID, 500, 2_500)]);
        assert_eq!(away.collect::<Vec<_>>(), [(&1, 500, 2_500)]);
    }

    #[test]
    fn whoever_is_back_is_forgotten() {
        let seen = rounds(&[(0, true, true), (1_000, false, false)]);
        assert_eq!((seen.down_since(ID), seen.away_since(&1)), (None, None));
    }

    #[test]
    fn a_break_of_more_than_a_quarter_of_the_grace_begins_anew() {
        let seen = rounds(&[(0, true, true), (1_000, true, true), (2_001, true, true)]);
        assert_eq!((seen.down_since(ID), seen.away_since(&1)), (Some(2_001), Some(2_001)));
    }

    #[test]
    fn a_node_away_for_the_grace_stays_so_until_its_member_is_healthy() {
        let mut story: Vec<_> = (0..=4).map(|n| (n * 1_000, true, true)).collect();
        story.push((5_000, true, false));
        assert_eq!(rounds(&story).away_since(&1), Some(0));
        story.push((6_000, false, false));
        assert_eq!(rounds(&story).away_since(&1), None);
        // One flap before that is enough to begin anew.
        assert_eq!(rounds(&[(0, true, true), (1_000, true, false), (2_000, true, true)]).away_since(&1), Some(2_000));
    }
}
