//! A raft log, as far as durability needs it: which term each index was written in. Two logs agree up to the last index at which
//! their terms are equal (raft's log matching), so that segments of one term are enough and a history of days stays small.

/// A raft log: segments `(term, last index)`, both rising.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log(Vec<(u64, u64)>);

impl Log {
    /// A log that holds `entries` entries of term 1: the data that is there when the story begins.
    #[must_use]
    pub fn with(entries: u64) -> Self {
        if entries == 0 { Self::default() } else { Self(vec![(1, entries)]) }
    }

    /// Index of the last entry; 0 = empty.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.0.last().map_or(0, |s| s.1)
    }

    /// `(last term, last index)`: what raft's elections compare.
    #[must_use]
    pub fn rank(&self) -> (u64, u64) {
        self.0.last().copied().unwrap_or((0, 0))
    }

    /// The term of the entry at `index`, if it is there.
    #[must_use]
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.0.iter().find(|s| s.1 >= index).map(|s| s.0)
    }

    /// Appends one entry; the answer is its index.
    pub(crate) fn append(&mut self, term: u64) -> u64 {
        match self.0.last_mut() {
            Some(last) if last.0 == term => {
                last.1 += 1;
                last.1
            }
            Some(_) | None => {
                let index = self.last_index() + 1;
                self.0.push((term, index));
                index
            }
        }
    }

    /// The last index up to which both logs hold the same entries.
    #[must_use]
    pub fn agrees_up_to(&self, other: &Self) -> u64 {
        let mut agreed = 0;
        for (mine, theirs) in self.0.iter().zip(&other.0) {
            if mine.0 != theirs.0 {
                break;
            }
            agreed = mine.1.min(theirs.1);
            if mine.1 != theirs.1 {
                break;
            }
        }
        agreed
    }

    /// Becomes a copy of the leader's log up to `budget` entries past the point of agreement; what disagrees is cut off.
    pub(crate) fn follow(&mut self, leader: &Self, budget: u64) {
        let agreed = self.agrees_up_to(leader);
        let until = leader.last_index().min(agreed.saturating_add(budget));
        let mut copied = Vec::new();
        for (term, last) in &leader.0 {
            if copied.last().is_some_and(|(_, l)| *l >= until) {
                break;
            }
            copied.push((*term, (*last).min(until)));
        }
        if until == 0 {
            copied.clear();
        }
        self.0 = copied;
    }
}

#[cfg(test)]
mod tests {
    use super::Log;

    #[test]
    fn a_follower_drops_what_the_leader_never_had() {
        let mut leader = Log::with(5);
        leader.append(2);
        let mut follower = Log::with(5);
        follower.append(1);
        follower.append(1);
        follower.follow(&leader, u64::MAX);
        assert_eq!(follower, leader);
        assert_eq!((leader.term_at(5), leader.term_at(6), leader.term_at(7)), (Some(1), Some(2), None));
    }

    #[test]
    fn a_learner_follows_as_fast_as_its_budget_lets_it() {
        let leader = Log::with(100);
        let mut learner = Log::default();
        learner.follow(&leader, 30);
        learner.follow(&leader, 30);
        assert_eq!(learner.last_index(), 60);
        learner.follow(&leader, 0);
        assert_eq!(learner.last_index(), 60);
    }
}
