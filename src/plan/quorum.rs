//! Quorum arithmetic: which membership steps are allowed (design D6, rule 1).

use crate::{EtcdHealth, EtcdMember, MemberId, Observed};

/// Votes needed among `voters`.
#[must_use]
pub fn quorum_of(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many more voters may fail: healthy voters − quorum. Negative = no quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tolerance(pub i64);

impl Tolerance {
    /// The tolerance of a set of members.
    #[must_use]
    pub fn of(members: &[EtcdMember]) -> Self {
        let voters = members.iter().filter(|m| !m.is_learner);
        let (count, healthy) = voters.fold((0, 0), |(n, h), m| (n + 1, h + usize::from(is_healthy(m))));
        Self(to_i64(healthy) - to_i64(quorum_of(count)))
    }

    /// The best tolerance that a set of this many voters can have.
    #[must_use]
    pub fn best(voters: usize) -> Self {
        Self(to_i64(voters) - to_i64(quorum_of(voters)))
    }
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Whether a member answered in this round, knows a leader and raises no alarm.
#[must_use]
pub fn is_healthy(member: &EtcdMember) -> bool {
    match member.health {
        EtcdHealth::Healthy { .. } => true,
        EtcdHealth::Unhealthy | EtcdHealth::Unknown => false,
    }
}

/// The members as a voluntary step has to take them (rule 7): one whose node is cordoned or NotReady counts as down, as somebody is about to
/// take it down, or something has; so does one that is about to be restarted, or whose new keeper has yet to prove itself.
pub(crate) fn voluntary(o: &Observed, members: &[EtcdMember]) -> Vec<EtcdMember> {
    let is_going = |s: &crate::Seat| {
        s.is_leaving || s.runs_with == crate::RunsWith::UnderWay || s.binary == crate::KeeperBinary::HandingOver
    };
    let goes_down = |m: &EtcdMember| o.seats.iter().any(|s| is_going(s) && m.peer_urls.contains(&s.peer_url));
    let mut seen = members.to_vec();
    seen.iter_mut().filter(|m| goes_down(m)).for_each(|m| m.health = EtcdHealth::Unknown);
    seen
}

/// Whether a membership step is allowed, judged by the state after it: tolerance after ≥ 0 and ≥ min(1, before, best at that size).
fn allowed(before: &[EtcdMember], after: &[EtcdMember]) -> bool {
    let voters_after = after.iter().filter(|m| !m.is_learner).count();
    let (before, after) = (Tolerance::of(before), Tolerance::of(after));
    after >= Tolerance(0) && after >= Tolerance(1).min(before).min(Tolerance::best(voters_after))
}

/// Whether `id` may be promoted: it becomes a voter, healthy if it is healthy now.
#[must_use]
pub fn may_promote(members: &[EtcdMember], id: MemberId) -> bool {
    let after: Vec<_> = members
        .iter()
        .cloned()
        .map(|mut m| {
            if m.id == id {
                m.is_learner = false;
            }
            m
        })
        .collect();
    allowed(members, &after)
}

/// Whether a quorum is left without `id`: what no human overrules.
pub(crate) fn leaves_a_quorum(members: &[EtcdMember], id: MemberId) -> bool {
    let after: Vec<_> = members.iter().filter(|m| m.id != id).cloned().collect();
    Tolerance::of(&after) >= Tolerance(0)
}

/// Whether `id` may be down for a while: a quorum is there without its vote. One that is down already costs nothing.
pub(crate) fn may_be_down(members: &[EtcdMember], id: MemberId) -> bool {
    let mut during = members.to_vec();
    during.iter_mut().filter(|m| m.id == id).for_each(|m| m.health = EtcdHealth::Unknown);
    Tolerance::of(&during) >= Tolerance(0)
}

/// Whether `id` may be removed.
#[must_use]
pub fn may_remove(members: &[EtcdMember], id: MemberId) -> bool {
    let after: Vec<_> = members.iter().filter(|m| m.id != id).cloned().collect();
    allowed(members, &after)
}

/// Whether etcd takes a learner now (its strict check, `mayAddMember`): it counts it as a voter that is down. So beside one of three that is
/// down it takes none; beside one of five it does, from 3.5.30 and 3.6.11 on.
pub(crate) fn takes_a_learner(o: &Observed, members: &[EtcdMember]) -> bool {
    let voters = members.iter().filter(|m| !m.is_learner);
    let (count, healthy) = voters.fold((0, 0), |(n, h), m| (n + 1, h + usize::from(is_healthy(m))));
    healthy == count || (o.adds_beside_dead && healthy >= quorum_of(count + 1))
}
