//! Conditions, as Kubernetes' API conventions want them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Available, Progressing, Degraded, PivotComplete, Ready, KeepersCurrent or FieldIgnored.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, one CamelCase word.
    pub reason: String,
    /// The same for a human, with the next step.
    #[serde(default)]
    pub message: String,
    /// When the status last changed, RFC 3339.
    pub last_transition_time: String,
    /// metadata.generation that it belongs to.
    #[serde(default)]
    pub observed_generation: i64,
}

/// Reasons that conditions carry besides the planner's. Each has a section in `docs/runbooks.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Available.
    QuorumHealthy,
    /// Not available: etcd was asked, and has no healthy majority.
    NoQuorum,
    /// Degraded: voters that do not answer, or complain.
    MembersUnready,
    /// The pivot is not complete: boot is a member.
    BootIsMember,
    /// The pivot is complete.
    BootRemoved,
    /// Progressing.
    StepUnderWay,
    /// Not ready yet, and nothing is wrong.
    NotYet,
    /// Neither degraded nor progressing.
    AsExpected,
    /// Ready.
    AsWanted,
    /// Keepers that are not of the operator's version.
    KeepersOutdated,
    /// Fields without effect.
    FieldIgnored,
    /// Not in the operator's namespace.
    WrongNamespace,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::QuorumHealthy,
        Self::NoQuorum,
        Self::MembersUnready,
        Self::BootIsMember,
        Self::BootRemoved,
        Self::StepUnderWay,
        Self::NotYet,
        Self::AsExpected,
        Self::AsWanted,
        Self::KeepersOutdated,
        Self::FieldIgnored,
        Self::WrongNamespace,
    ];

    /// The word in the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuorumHealthy => "QuorumHealthy",
            Self::NoQuorum => "NoQuorum",
            Self::MembersUnready => "MembersUnready",
            Self::BootIsMember => "BootIsMember",
            Self::BootRemoved => "BootRemoved",
            Self::StepUnderWay => "StepUnderWay",
            Self::NotYet => "NotYet",
            Self::AsExpected => "AsExpected",
            Self::AsWanted => "AsWanted",
            Self::KeepersOutdated => "KeepersOutdated",
            Self::FieldIgnored => "FieldIgnored",
            Self::WrongNamespace => "WrongNamespace",
        }
    }
}

/// Sets a condition; its time changes only when its status does. Returns whether anything changed.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) -> bool {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            let time = if old.status == new.status { old.last_transition_time.clone() } else { new.last_transition_time.clone() };
            let new = Condition { last_transition_time: time, ..new };
            let changed = *old != new;
            *old = new;
            changed
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: &str, time: &str) -> Condition {
        Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: "R".into(),
            message: String::new(),
            last_transition_time: time.into(),
            observed_generation: 1,
        }
    }

    #[test]
    fn the_time_of_a_condition_changes_only_with_its_status() {
        let mut all = Vec::new();
        assert!(set(&mut all, condition("False", "1")));
        assert!(!set(&mut all, condition("False", "2")));
        assert_eq!(all[0].last_transition_time, "1");
        assert!(set(&mut all, condition("True", "3")));
        assert_eq!(all[0].last_transition_time, "3");
    }
}
