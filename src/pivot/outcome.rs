//! When the command ends, and how.

use std::time::Duration;

use etcd_operator_api::EtcdCluster;
use etcd_operator_plan::HoldReason;

use crate::clock::Instant;

/// How long a hold must last before it counts: one that passes by itself is no outcome.
const HOLD_COUNTS_AFTER: Duration = Duration::from_secs(5);
/// The same for a datastore that does not answer.
const SILENCE_COUNTS_AFTER: Duration = Duration::from_secs(30);

/// How the command ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Boot is out (or, with --abort, alone again; with --check, all checks passed).
    Done { what: &'static str },
    /// The operator holds.
    Held { reason: String, next_step: String },
    /// Boot is still a member.
    TimedOutBootInCharge {
        /// The last that was waited for.
        waiting_for: String,
        /// Whether the removal of boot is held from now on.
        is_held: bool,
    },
    /// Boot was stopped, and what follows is not finished.
    TimedOutBootStopped { waiting_for: String },
    /// The API or the operator does not take it.
    Refused { why: String },
    /// By a signal.
    Interrupted,
}

impl End {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Done { .. } => 0,
            Self::Held { .. } => 3,
            Self::TimedOutBootInCharge { .. } => 4,
            Self::TimedOutBootStopped { .. } => 5,
            Self::Refused { .. } => 6,
            // As a shell counts a command that SIGINT ended.
            Self::Interrupted => 130,
        }
    }
}

/// Judges one status after the other.
pub(super) struct Judge {
    check: bool,
    abort: bool,
    generation: i64,
    deadline: Instant,
    held: Option<(String, Instant)>,
    boot_stopped: bool,
    waiting_for: String,
}

impl Judge {
    pub(super) fn new(check: bool, abort: bool, generation: i64, now: Instant, timeout: Duration) -> Self {
        let waiting_for = "the controller has not looked at the EtcdCluster yet; is it running?".to_owned();
        Self { check, abort, generation, deadline: now + timeout, held: None, boot_stopped: false, waiting_for }
    }

    pub(super) fn judge(&mut self, cluster: &EtcdCluster) -> Option<End> {
        let status = cluster.status.clone().unwrap_or_default();
        if status.observed_generation < self.generation {
            return None;
        }
        if status.reason == "WrongNamespace" {
            return Some(End::Refused { why: status.message });
        }
        let pivot = status.pivot.clone().unwrap_or_default();
        self.boot_stopped = Self::is_boot_stopped(cluster);
        self.waiting_for =
            format!("{}: {}", pivot.phase, if status.message.is_empty() { &status.reason } else { &status.message });
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let boot = cluster.spec.self_hosted.as_ref().map(|s| s.boot_member_client_endpoint.clone()).unwrap_or_default();
        match pivot.phase.as_str() {
            "PreflightPassed" if self.check => return Some(End::Done { what: "all checks passed; nothing was changed" }),
            "Aborted" if self.abort => return Some(End::Done { what: "boot is alone again" }),
            "Complete" if self.abort => {
                return Some(End::Refused { why: "boot has been removed already: there is nothing to go back to".into() });
            }
            // Not by the phase alone: boot is out of the member list and of the published endpoints, and all members serve.
            "Complete" if ready && pivot.boot_removed.is_some() && !status.endpoints.contains(&boot) => {
                return Some(End::Done { what: "boot is out; the members on the nodes serve alone" });
            }
            "BootKept" if cluster.spec.self_hosted.as_ref().is_some_and(|s| s.skip_boot_member_removal) => {
                return Some(End::Done {
                    what: "all members serve; boot stays a member, as selfHosted.skipBootMemberRemoval says",
                });
            }
            _ => {}
        }
        self.held(&status.reason, &status.message)
    }

    /// Whether boot is out.
    pub(super) fn is_boot_removed(cluster: &EtcdCluster) -> bool {
        cluster.status.as_ref().and_then(|s| s.pivot.as_ref()).is_some_and(|p| p.boot_removed.is_some())
    }

    /// Whether boot was told to stop, or is out.
    pub(super) fn is_boot_stopped(cluster: &EtcdCluster) -> bool {
        let pivot = cluster.status.clone().unwrap_or_default().pivot.unwrap_or_default();
        pivot.boot_removed.is_some() || pivot.phase == "RemovingBoot"
    }

    fn held(&mut self, reason: &str, message: &str) -> Option<End> {
        let Some(hold) = HoldReason::ALL.iter().find(|r| r.as_str() == reason) else {
            self.held = None;
            return None;
        };
        let now = crate::clock::instant();
        let since = match &self.held {
            Some((known, since)) if known == reason => *since,
            _ => {
                self.held = Some((reason.to_owned(), now));
                now
            }
        };
        let silence = matches!(hold, HoldReason::EtcdUnreachable | HoldReason::BootUnreachable | HoldReason::ToleranceTooLow);
        let limit = if silence { SILENCE_COUNTS_AFTER } else { HOLD_COUNTS_AFTER };
        (now - since >= limit).then(|| End::Held { reason: reason.to_owned(), next_step: message.to_owned() })
    }

    pub(super) fn out_of_time(&self) -> Option<End> {
        if crate::clock::instant() < self.deadline {
            return None;
        }
        let waiting_for = self.waiting_for.clone();
        Some(if self.boot_stopped {
            End::TimedOutBootStopped { waiting_for }
        } else {
            End::TimedOutBootInCharge { waiting_for, is_held: false }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd_operator_api::cluster::{EtcdClusterStatus, PivotStatus};
    use etcd_operator_api::condition::Condition;

    fn cluster(phase: &str, ready: bool, removed: bool) -> EtcdCluster {
        let text = r#"{"apiVersion":"etcd.database.coreos.com/v1beta2","kind":"EtcdCluster","metadata":{"name":"e"},"spec":{"size":3,"selfHosted":{"bootMemberClientEndpoint":"https://10.0.0.1:12379"}}}"#;
        let mut cluster: EtcdCluster = serde_json::from_str(text).unwrap();
        let condition = Condition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            reason: "x".into(),
            message: String::new(),
            last_transition_time: String::new(),
            observed_generation: 1,
        };
        cluster.status = Some(EtcdClusterStatus {
            observed_generation: 1,
            pivot: Some(PivotStatus { phase: phase.into(), boot_removed: removed.then(|| "t".into()), ..PivotStatus::default() }),
            conditions: vec![condition],
            ..EtcdClusterStatus::default()
        });
        cluster
    }

    fn judge() -> Judge {
        Judge::new(false, false, 1, crate::clock::instant(), Duration::from_secs(60))
    }

    #[test]
    fn it_is_done_only_when_boot_is_out_and_all_serve() {
        assert_eq!(judge().judge(&cluster("Complete", false, true)), None);
        assert_eq!(judge().judge(&cluster("Complete", true, false)), None);
        assert_eq!(judge().judge(&cluster("Complete", true, true)).unwrap().exit_code(), 0);
        let mut published = cluster("Complete", true, true);
        published.status.as_mut().unwrap().endpoints = vec!["https://10.0.0.1:12379".into()];
        assert_eq!(judge().judge(&published), None);
    }

    #[test]
    fn a_status_of_an_older_generation_is_no_outcome() {
        let mut judge = Judge::new(false, false, 2, crate::clock::instant(), Duration::from_secs(60));
        assert_eq!(judge.judge(&cluster("Complete", true, true)), None);
    }

    #[test]
    fn a_timeout_says_whether_boot_was_stopped() {
        for (phase, removed, code) in [("Joining", false, 4), ("RemovingBoot", false, 5), ("Tombstone", true, 5)] {
            let mut judge = Judge::new(false, false, 1, crate::clock::instant(), Duration::ZERO);
            assert_eq!(judge.judge(&cluster(phase, false, removed)), None);
            assert_eq!(judge.out_of_time().unwrap().exit_code(), code, "{phase}");
        }
    }
}
