//! Which of several nodes has the most, and what would be lost with it. Pure.

use std::collections::BTreeSet;

use serde::Serialize;

use super::report::{Data, Report};

/// What the reports say together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The node to recover from; `None` = none, or nothing is to be recovered.
    pub survivor: Option<String>,
    /// Whether it has every write that was ever acknowledged.
    pub complete: bool,
    /// Why.
    pub because: String,
    /// What else a human must know.
    pub notes: Vec<String>,
}

impl Verdict {
    /// For a human.
    #[must_use]
    pub fn words(&self) -> String {
        let head = match &self.survivor {
            Some(node) => format!("survivor: {node}: {}", self.because),
            None => format!("no survivor: {}", self.because),
        };
        std::iter::once(head).chain(self.notes.iter().cloned()).collect::<Vec<_>>().join("\n")
    }

    fn none(because: String) -> Self {
        Self { because, ..Self::default() }
    }
}

/// Compares reports of the nodes of one cluster.
///
/// Of two logs the one with the later last term has the more, and of the same term the longer one: raft lets only such a member lead. What was
/// acknowledged is in the logs of a majority of the voters, each change of who votes among it; so where the logs of so many voters are compared that every
/// majority must meet one of them, the one with the most has it all. Who votes is what that log itself says, with whatever it does not know to be committed.
/// The commit index that a log has saved is only a lower bound.
#[must_use]
pub fn compare(reports: &[Report]) -> Verdict {
    let mut names: Vec<(&str, &str)> = reports.iter().map(|r| (r.namespace.as_str(), r.cluster.as_str())).collect();
    names.dedup();
    if names.len() > 1 {
        return Verdict::none("the reports are of different EtcdClusters".into());
    }
    let mut nodes: Vec<&str> = reports.iter().map(|report| report.node.as_str()).collect();
    nodes.sort_unstable();
    if let Some([twice, _]) = nodes.windows(2).find_map(|pair| <&[&str; 2]>::try_from(pair).ok().filter(|[a, b]| a == b)) {
        return Verdict::none(format!("there are two reports of {twice}: keep the newer one"));
    }
    if let Some(report) = reports.iter().find(|report| report.quorum.is_some()) {
        return Verdict::none(format!("on {} {}", report.node, report.quorum_words()));
    }
    let lineage = reports.iter().map(|report| report.lineage).max().unwrap_or(0);
    let mut notes: Vec<String> = reports
        .iter()
        .filter(|report| report.lineage < lineage)
        .map(|report| {
            format!(
                "{} is of lineage {}, before the last recovery (lineage {lineage}): it is left out",
                report.node, report.lineage
            )
        })
        .collect();
    let newest: Vec<&Report> = reports.iter().filter(|report| report.lineage == lineage).collect();
    let mut whole: Vec<(&Report, &Data)> = newest.iter().filter_map(|report| Some((*report, report.own()?))).collect();
    for report in newest.iter().filter(|report| report.own().is_none()) {
        let why = match report.data.iter().find(|data| data.is_own) {
            _ if report.removed => "its member was removed from the cluster".to_owned(),
            Some(data) => data.problem.clone(),
            None => "it has no data of a member".to_owned(),
        };
        notes.push(format!("{} is left out: {why}", report.node));
    }
    let mut clusters: Vec<&str> = whole.iter().map(|(report, _)| report.cluster_id.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 {
        return Verdict {
            notes,
            ..Verdict::none(format!("the nodes have data of different etcd clusters: {}", clusters.join(", ")))
        };
    }
    // The most first; of equal ones the first by name.
    whole.sort_by(|(a, x), (b, y)| {
        (y.last_term, y.last_index).cmp(&(x.last_term, x.last_index)).then_with(|| a.node.cmp(&b.node))
    });
    let Some((survivor, data)) = whole.first() else {
        return Verdict { notes, ..Verdict::none("none of the nodes has whole data of its member: restore a backup".into()) };
    };
    // Each member once, and only where nothing says that it lacks what it once had.
    let counted: BTreeSet<&str> =
        whole.iter().filter(|(_, data)| data.suspect.is_empty()).map(|(_, data)| data.member_id.as_str()).collect();
    for (report, data) in whole.iter().filter(|(_, data)| !data.suspect.is_empty()) {
        notes.push(format!("{} does not count for what may be lost: {}", report.node, data.suspect));
    }
    let present = |voters: &Vec<String>| voters.iter().filter(|id| counted.contains(id.as_str())).count();
    let meets_all = |voters: &Vec<String>| present(voters) > voters.len() - (voters.len() / 2 + 1);
    let complete = !data.voters.is_empty() && data.voters.iter().all(meets_all);
    let last = format!("its log reaches term {} and index {}", data.last_term, data.last_index);
    let because = match data.voters.iter().min_by_key(|voters| (meets_all(voters), present(voters))) {
        Some(voters) if complete => format!(
            "{last}; the logs of {} of {} voters were compared, so that every write that was acknowledged is in it",
            present(voters),
            voters.len()
        ),
        Some(voters) => format!(
            "{last}; only the logs of {} of {} voters were compared: writes that were acknowledged by the others alone may be missing. Report from more of them if any disk is left",
            present(voters),
            voters.len()
        ),
        None => format!("{last}; it does not say who votes: whether writes are missing in it is not known"),
    };
    Verdict { survivor: Some(survivor.node.clone()), complete, because, notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, last_term: u64, last_index: u64) -> Report {
        let voters = vec![["cp1", "cp2", "cp3"].map(str::to_owned).into()];
        let data = Data {
            name: format!("{node}-1"),
            is_own: true,
            member_id: node.into(),
            last_term,
            last_index,
            voters,
            ..Data::default()
        };
        Report {
            format: 1,
            node: node.into(),
            namespace: "kube-system".into(),
            cluster: "kube-etcd".into(),
            cluster_id: "c1".into(),
            data: vec![data],
            ..Report::default()
        }
    }

    #[test]
    fn the_later_term_wins_over_the_longer_log_and_the_commit_index_counts_for_nothing() {
        let mut behind = report("cp1", 4, 900);
        behind.data[0].commit = 900;
        let verdict = compare(&[behind, report("cp2", 5, 800), report("cp3", 5, 801)]);
        assert_eq!((verdict.survivor.as_deref(), verdict.complete), (Some("cp3"), true), "{verdict:?}");
    }

    #[test]
    fn what_may_be_lost_is_said() {
        let two = compare(&[report("cp1", 5, 800), report("cp2", 5, 801)]);
        assert_eq!((two.survivor.as_deref(), two.complete), (Some("cp2"), true), "every majority of three meets two of them");
        let one = compare(&[report("cp1", 5, 800)]);
        assert_eq!((one.survivor.as_deref(), one.complete), (Some("cp1"), false));
        assert!(one.because.contains("only the logs of 1 of 3 voters"), "{one:?}");
        let five = |node: &str, index| {
            let mut report = report(node, 5, index);
            report.data[0].voters = vec![(1..=5).map(|n| format!("cp{n}")).collect()];
            report
        };
        assert!(!compare(&[five("cp1", 800), five("cp2", 1)]).complete, "a majority of five may not have met these two");
        assert!(compare(&[five("cp1", 800), five("cp2", 1), five("cp3", 1)]).complete);
    }

    #[test]
    fn only_voters_count_each_once_and_as_the_longest_log_knows_them() {
        let of = |node: &str, index, voters: &[&[&str]]| {
            let mut report = report(node, 5, index);
            report.data[0].voters = voters.iter().map(|all| all.iter().map(|id| (*id).to_owned()).collect()).collect();
            report
        };
        let now: &[&[&str]] = &[&["cp2", "cp3", "cp4"]];
        // cp1 was replaced by cp4, and never learned of it.
        let verdict = compare(&[of("cp1", 700, &[&["cp1", "cp2", "cp3"]]), of("cp2", 800, now)]);
        assert_eq!((verdict.survivor.as_deref(), verdict.complete), (Some("cp2"), false), "{verdict:?}");
        // A learner's log.
        let verdict = compare(&[of("cp3", 800, &[&["cp1", "cp2", "cp3"]]), of("cp4", 700, &[&["cp1", "cp2", "cp3"]])]);
        assert!(!verdict.complete, "{verdict:?}");
        // A change that may have been committed: both majorities must be met.
        let changing: &[&[&str]] = &[&["cp1", "cp2", "cp3"], &["cp1", "cp2", "cp3", "cp4", "cp5"]];
        assert!(!compare(&[of("cp1", 800, changing), of("cp2", 700, changing)]).complete);
        assert!(compare(&[of("cp1", 800, changing), of("cp2", 700, changing), of("cp3", 700, changing)]).complete);
        // The same disk under two names.
        let mut clone = report("cp9", 5, 800);
        clone.data[0].member_id = "cp1".into();
        assert!(!compare(&[report("cp1", 5, 800), clone]).complete);
        // A log that does not say.
        let verdict = compare(&[of("cp1", 800, &[]), of("cp2", 700, &[]), of("cp3", 700, &[])]);
        assert!(!verdict.complete && verdict.because.contains("not known"), "{verdict:?}");
    }

    #[test]
    fn a_disk_that_is_an_older_copy_does_not_count() {
        let mut older = report("cp1", 5, 800);
        older.data[0].suspect = "its log reached index 900 before".into();
        let verdict = compare(&[older.clone(), report("cp2", 5, 100)]);
        assert_eq!((verdict.survivor.as_deref(), verdict.complete), (Some("cp1"), false), "{verdict:?}");
        assert!(verdict.words().contains("index 900 before"));
        assert!(compare(&[older, report("cp2", 5, 100), report("cp3", 5, 100)]).complete);
    }

    #[test]
    fn while_a_quorum_answers_nothing_is_recovered() {
        let verdict = compare(&[report("cp1", 5, 800), Report { quorum: Some(3), ..report("cp2", 5, 800) }]);
        assert!(verdict.survivor.is_none() && verdict.because.contains("nothing to recover"), "{verdict:?}");
    }

    #[test]
    fn data_that_must_not_come_back_is_left_out_and_named() {
        let removed = Report { removed: true, ..report("cp1", 9, 900) };
        let mut damaged = report("cp2", 9, 900);
        damaged.data[0].problem = "a WAL without a database".into();
        let none = Report { data: Vec::new(), ..report("cp4", 0, 0) };
        let verdict = compare(&[removed.clone(), damaged, report("cp3", 5, 1), none]);
        assert_eq!(verdict.survivor.as_deref(), Some("cp3"));
        assert!(verdict.words().contains("cp1 is left out: its member was removed"), "{}", verdict.words());
        assert!(verdict.words().contains("cp2 is left out: a WAL without a database"), "{}", verdict.words());
        assert!(compare(&[removed]).survivor.is_none());
        assert!(compare(&[]).survivor.is_none());
    }

    #[test]
    fn what_was_before_the_last_recovery_does_not_count() {
        let after = Report { lineage: 1, cluster_id: "c2".into(), ..report("cp1", 2, 10) };
        let verdict = compare(&[report("cp2", 9, 900), after]);
        assert_eq!(verdict.survivor.as_deref(), Some("cp1"));
        assert!(verdict.words().contains("before the last recovery"), "{}", verdict.words());
    }

    #[test]
    fn reports_that_do_not_belong_together_are_refused() {
        let other = Report { cluster: "events".into(), ..report("cp2", 5, 1) };
        assert!(compare(&[report("cp1", 5, 1), other]).because.contains("different EtcdClusters"));
        let foreign = Report { cluster_id: "c9".into(), ..report("cp2", 5, 1) };
        assert!(compare(&[report("cp1", 5, 1), foreign]).because.contains("different etcd clusters: c1, c9"));
        assert!(compare(&[report("cp1", 5, 1), report("cp1", 5, 2)]).because.contains("two reports of cp1"));
    }
}
