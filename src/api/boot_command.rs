//! What the pivot command says of boot's command: an annotation of the EtcdCluster, as the status is the controller's and the EtcdMembers'
//! status the agents'.

use std::fmt;
use std::str::FromStr;

use kube::ResourceExt as _;

use crate::EtcdCluster;

/// The annotation; its value is `<id of the order>/<step>`.
pub const BOOT_COMMAND: &str = "etcd.database.coreos.com/boot-command";

/// How far the command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandStep {
    /// The order was withdrawn before anybody ran the command; now somebody would.
    Ready,
    /// Boot was sent SIGTERM.
    Signalled,
    /// Boot was still a member 10 s after the signal, and was started again.
    StartedAgain,
    /// The command failed.
    Failed,
    /// Boot was removed, and killed.
    Gone,
}

impl CommandStep {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ready, Self::Signalled, Self::StartedAgain, Self::Failed, Self::Gone];

    /// The word in the annotation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Signalled => "Signalled",
            Self::StartedAgain => "StartedAgain",
            Self::Failed => "Failed",
            Self::Gone => "Gone",
        }
    }
}

/// An answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAnswer {
    /// The order's ID; empty where boot was removed without one.
    pub id: String,
    /// How far.
    pub step: CommandStep,
}

impl CommandAnswer {
    /// The answer that stands in an EtcdCluster.
    #[must_use]
    pub fn of(cluster: &EtcdCluster) -> Option<Self> {
        cluster.annotations().get(BOOT_COMMAND)?.parse().ok()
    }
}

impl fmt::Display for CommandAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.step.as_str())
    }
}

/// The annotation's value is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

impl FromStr for CommandAnswer {
    type Err = NoAnswer;

    fn from_str(text: &str) -> Result<Self, NoAnswer> {
        let (id, word) = text.rsplit_once('/').ok_or(NoAnswer)?;
        let step = CommandStep::ALL.into_iter().find(|step| step.as_str() == word).ok_or(NoAnswer)?;
        Ok(Self { id: id.to_owned(), step })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written_and_nothing_else_is() {
        for step in CommandStep::ALL {
            let answer = CommandAnswer { id: "drain-1f-2".into(), step };
            assert_eq!(answer.to_string().parse(), Ok(answer));
        }
        for text in ["", "drain-1", "drain-1/", "drain-1/signalled", "Signalled"] {
            assert_eq!(text.parse::<CommandAnswer>(), Err(NoAnswer), "{text:?}");
        }
    }
}
