//! What is to be done for an EtcdBackup. Pure.

use etcd_operator_api::backup::{Copy, Run};
use etcd_operator_api::member::BackupReport;

use super::Reason;
use super::schedule::{CLOCK_STEP_MS, Due, Schedule};

/// For the agent to see the order, and to say that it took too long.
const GRACE_MS: u64 = 60_000;
/// After a run without a backup; doubled each time.
const AGAIN_MS: u64 = 60_000;
/// And at most, ms.
const AGAIN_AT_MOST_MS: u64 = 3_600_000;

/// A node that carries a member.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) node: String,
    /// Votes, answers and reports nothing wrong.
    pub(crate) is_fit: bool,
    pub(crate) is_leader: bool,
    /// The run that its order is of.
    pub(crate) ordered: Option<String>,
    /// What its agent says of that.
    pub(crate) report: Option<BackupReport>,
}

/// What is known without asking anybody.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub(crate) created_ms: u64,
    /// For when the last run was due.
    pub(crate) last_ms: Option<u64>,
    pub(crate) succeeded: bool,
    /// Not before then is one that failed tried again.
    pub(crate) not_before_ms: Option<u64>,
    pub(crate) suspend: bool,
}

/// Whether a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Now, for what was due then.
    Now(u64),
    /// Not before then.
    At(u64),
    /// Not by itself.
    No,
}

/// Whether one begins, where none is under way.
pub(crate) fn begin(past: &Past, schedule: &Schedule, now_ms: u64) -> Begin {
    if past.suspend {
        return Begin::No;
    }
    let due = schedule.due(past.created_ms, past.last_ms, now_ms);
    if let Due::Since(due) = due {
        return Begin::Now(due);
    }
    let scheduled = match due {
        Due::At(at) => Begin::At(at),
        Due::Since(_) | Due::Never => Begin::No,
    };
    let Some(last) = past.last_ms.filter(|_| !past.succeeded) else { return scheduled };
    // One that lies further ahead than it ever would was written by a clock that was ahead.
    let again = past.not_before_ms.filter(|at| *at <= now_ms.saturating_add(AGAIN_AT_MOST_MS)).unwrap_or(now_ms);
    match scheduled {
        _ if again <= now_ms => Begin::Now(last),
        Begin::At(at) => Begin::At(at.min(again)),
        Begin::Now(_) | Begin::No => Begin::At(again),
    }
}

/// When a run that failed is tried again.
pub(crate) fn again(failures: i64, now_ms: u64) -> u64 {
    let doubled = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    now_ms.saturating_add(AGAIN_MS.saturating_mul(1 << doubled).min(AGAIN_AT_MOST_MS))
}

/// What comes next in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This node is asked, which the status says first.
    Ask(String),
    /// Its order is written: the status says so already.
    Order(String),
    /// An agent is at it, until then at most.
    Wait(u64),
    /// It is over.
    End(End),
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) copies: Vec<Copy>,
    /// Of the nodes that took none: name, reason, message.
    pub(crate) failed: Vec<(String, String, String)>,
}

/// What comes next in a run. One node at a time, so that not all members are busy at once: followers first, and the leader only where there are
/// not enough of them.
pub(crate) fn next(run: &Run, sources: &[Source], copies: usize, timeout_ms: u64, asked_ms: Option<u64>, now_ms: u64) -> Next {
    let mut end = End::default();
    for source in sources.iter().filter(|source| source.ordered.as_ref() == Some(&run.id)) {
        let Some(report) = source.report.as_ref().filter(|report| report.id == run.id) else { continue };
        match &report.taken {
            Some(taken) => end.copies.push(Copy { node: source.node.clone(), taken: taken.clone() }),
            None => end.failed.push((source.node.clone(), report.reason.clone(), report.message.clone())),
        }
    }
    let answered = |node: &str| end.copies.iter().any(|c| c.node == node) || end.failed.iter().any(|(n, ..)| n == node);
    if let Some(node) = run.node.as_ref().filter(|node| !answered(node)) {
        // Of a clock that was ahead: nobody knows how long ago that was.
        let asked_ms = asked_ms.filter(|at| *at <= now_ms.saturating_add(CLOCK_STEP_MS)).unwrap_or(0);
        let until = asked_ms.saturating_add(timeout_ms).saturating_add(GRACE_MS);
        match sources.iter().find(|source| source.node == *node).filter(|_| now_ms < until) {
            Some(source) if source.ordered.as_ref() == Some(&run.id) => return Next::Wait(until),
            Some(_) => return Next::Order(node.clone()),
            // Its agent is away, or the node carries no member any more.
            None => {}
        }
    }
    if end.copies.len() >= copies {
        return Next::End(end);
    }
    let was_asked = |source: &&Source| source.ordered.as_ref() == Some(&run.id) || Some(&source.node) == run.node.as_ref();
    if let Some(source) = best(sources.iter().filter(|source| !was_asked(source)), 0) {
        return Next::Ask(source.node.clone());
    }
    let mut silent: Vec<String> =
        sources.iter().filter(was_asked).map(|source| source.node.clone()).chain(run.node.clone()).collect();
    silent.retain(|node| !answered(node));
    silent.sort();
    silent.dedup();
    let why = "its agent did not answer in time: is it running, and does the node still carry a member?";
    end.failed.extend(silent.into_iter().map(|node| (node, Reason::AgentSilent.to_string(), why.to_owned())));
    Next::End(end)
}

/// Whom to ask: a follower before the leader; after so many failures in a row the next one.
pub(crate) fn best<'a>(sources: impl IntoIterator<Item = &'a Source>, failures: i64) -> Option<&'a Source> {
    let mut fit: Vec<&Source> = sources.into_iter().filter(|source| source.is_fit).collect();
    fit.sort_by_key(|source| (source.is_leader, &source.node));
    let turn = usize::try_from(failures).unwrap_or(0).checked_rem(fit.len())?;
    fit.get(turn).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_operator_api::member::BackupTaken;

    const TIMEOUT: u64 = 600_000;

    fn source(node: &str, is_leader: bool) -> Source {
        Source { node: node.into(), is_fit: true, is_leader, ordered: None, report: None }
    }

    fn report(taken: bool) -> Option<BackupReport> {
        let (reason, message) = if taken { ("", "") } else { ("NoRoom", "full") };
        let taken = taken.then(BackupTaken::default);
        Some(BackupReport { name: "nightly".into(), id: "run-1".into(), taken, reason: reason.into(), message: message.into() })
    }

    fn run(node: Option<&str>) -> Run {
        Run { id: "run-1".into(), due: String::new(), node: node.map(str::to_owned), asked: None }
    }

    /// Each node answers as it does, the controller is started anew after each step: the nodes that were asked, and how it ended.
    fn play(mut sources: Vec<Source>, copies: usize, answers: impl Fn(&str) -> Option<bool>) -> (Vec<String>, End) {
        let (mut asked, mut node, mut now, mut since) = (Vec::new(), None::<String>, 1_000_000, 0);
        for _ in 0..100 {
            match next(&run(node.as_deref()), &sources, copies, TIMEOUT, Some(since), now) {
                Next::Ask(next) => {
                    since = now;
                    node = Some(next);
                }
                Next::Order(next) => {
                    assert_eq!(node.as_ref(), Some(&next));
                    let source = sources.iter_mut().find(|source| source.node == next).unwrap();
                    source.ordered = Some("run-1".into());
                    source.report = answers(&next).map(|taken| report(taken).unwrap());
                    asked.push(next);
                }
                Next::Wait(until) => now = until,
                Next::End(end) => return (asked, end),
            }
        }
        panic!("no end")
    }

    #[test]
    fn followers_are_asked_one_after_the_other_and_the_leader_last() {
        let three = || vec![source("cp1", true), source("cp2", false), source("cp3", false)];
        for (copies, wanted) in
            [(1, &["cp2"][..]), (2, &["cp2", "cp3"]), (3, &["cp2", "cp3", "cp1"]), (9, &["cp2", "cp3", "cp1"])]
        {
            let (asked, end) = play(three(), copies, |_| Some(true));
            assert_eq!(
                (asked, end.copies.len(), end.failed.len()),
                (wanted.iter().map(|n| (*n).to_owned()).collect(), wanted.len(), 0)
            );
        }
        let (asked, _) = play(vec![source("cp1", true)], 2, |_| Some(true));
        assert_eq!(asked, ["cp1"]);
    }

    #[test]
    fn where_one_fails_or_is_silent_another_is_asked() {
        let three = || vec![source("cp1", true), source("cp2", false), source("cp3", false)];
        for answer in [Some(false), None] {
            let (asked, end) = play(three(), 2, |node| if node == "cp2" { answer } else { Some(true) });
            assert_eq!(asked, ["cp2", "cp3", "cp1"]);
            assert_eq!(end.copies.len(), 2);
            let (asked, end) = play(three(), 2, |_| answer);
            assert_eq!((asked.len(), end.copies.len(), end.failed.len()), (3, 0, 3), "{end:?}");
        }
    }

    #[test]
    fn a_member_that_is_not_well_is_not_asked() {
        let sick = Source { is_fit: false, ..source("cp2", false) };
        let (asked, end) = play(vec![source("cp1", true), sick.clone()], 2, |_| Some(true));
        assert_eq!((asked, end.copies.len()), (vec!["cp1".to_owned()], 1));
        assert_eq!(play(vec![sick], 2, |_| Some(true)), (Vec::new(), End::default()));
    }

    #[test]
    fn each_failure_has_the_next_one_asked() {
        let three = [source("cp1", true), source("cp2", false), source("cp3", false)];
        let of = |failures| best(&three, failures).map(|source| source.node.as_str());
        assert_eq!([0, 1, 2, 3].map(of), [Some("cp2"), Some("cp3"), Some("cp1"), Some("cp2")]);
        assert!(best(&[], 1).is_none());
    }

    #[test]
    fn what_an_agent_said_of_another_run_does_not_count() {
        let mut old = source("cp2", false);
        old.ordered = Some("run-0".into());
        old.report = report(true).map(|report| BackupReport { id: "run-0".into(), ..report });
        assert_eq!(next(&run(None), &[old.clone()], 1, TIMEOUT, None, 5), Next::Ask("cp2".into()));
        old.ordered = Some("run-1".into());
        assert_eq!(next(&run(Some("cp2")), &[old], 1, TIMEOUT, Some(5), 5), Next::Wait(5 + TIMEOUT + GRACE_MS));
    }

    #[test]
    fn a_node_whose_member_went_meanwhile_is_not_waited_for() {
        let left = [source("cp3", false)];
        assert_eq!(next(&run(Some("cp2")), &left, 1, TIMEOUT, Some(5), 6), Next::Ask("cp3".into()));
        // Nor one that was asked by a clock that was ahead.
        let asked = Source { ordered: Some("run-1".into()), ..source("cp2", false) };
        let later = 5 + 31_536_000_000;
        assert_eq!(
            next(&run(Some("cp2")), &[asked, source("cp3", false)], 1, TIMEOUT, Some(later), 6_000_000),
            Next::Ask("cp3".into())
        );
        let Next::End(end) = next(&run(Some("cp2")), &[], 1, TIMEOUT, Some(5), 6) else { panic!() };
        assert_eq!((end.copies.len(), end.failed.len()), (0, 1));
    }

    #[test]
    fn one_that_failed_is_tried_again_with_pauses_and_at_the_next_time_in_any_case() {
        let past = |succeeded, not_before_ms| Past { created_ms: 0, last_ms: Some(0), succeeded, not_before_ms, suspend: false };
        let (once, every) = (Schedule::Once, Schedule::Every(100_000));
        assert_eq!(begin(&past(true, None), &once, 5), Begin::No);
        assert_eq!(begin(&past(false, Some(60_000)), &once, 5), Begin::At(60_000));
        assert_eq!(begin(&past(false, Some(60_000)), &once, 60_000), Begin::Now(0));
        assert_eq!(begin(&past(false, Some(60_000)), &every, 5), Begin::At(60_000));
        assert_eq!(begin(&past(false, Some(600_000)), &every, 5), Begin::At(100_000));
        assert_eq!(begin(&past(false, Some(600_000)), &every, 100_000), Begin::Now(100_000));
        assert_eq!(begin(&past(false, Some(u64::MAX)), &once, 5), Begin::Now(0), "of a clock that was ahead");
        assert_eq!(begin(&Past { suspend: true, ..past(false, None) }, &every, 500_000), Begin::No);
        assert_eq!([1, 2, 3, 99].map(|failures| again(failures, 0)), [60_000, 120_000, 240_000, 3_600_000]);
    }
}
