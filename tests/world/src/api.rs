//! The API objects, as far as the planner's inputs need them. Spec is the controller's, status the agents'; `changed_at` lets an
//! agent see an order only after its watch has brought it.

use etcd_operator_plan::{BootDrain, KeeperView, MemberId, Snapshot, Spec, Tombstone};

use crate::Ms;

/// What the API holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Api {
    /// The EtcdCluster's spec.
    pub spec: Spec,
    /// The settings of etcd that the spec wants, as a number.
    pub settings: u8,
    /// Counts the intents: a disruptive step compares and swaps it.
    pub version: u64,
    /// EtcdMembers with the role Member.
    pub seats: Vec<SeatObject>,
    /// The EtcdMember of boot.
    pub boot: BootObject,
    /// When preflight was asked for.
    pub preflight_at: Option<Ms>,
    /// Nodes (by index) that answered preflight.
    pub preflight_answers: Vec<usize>,
    /// Since when clients are to be counted.
    pub count_at: Option<Ms>,
    /// Per node (by index): the counts that its agent reported last.
    pub counts: Vec<Option<Counted>>,
    /// Per node (by index): when a learner of it was evicted last.
    pub evicted: Vec<Option<Ms>>,
    /// How many were since a member of it voted.
    pub evictions: Vec<u32>,
}

/// What one agent counted on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counted {
    /// Connections to boot, per API server (by index); empty where boot doesn't run.
    pub to_boot: Vec<u32>,
    /// Connections to the member on this node, per API server; empty if it doesn't listen.
    pub to_member: Vec<u32>,
    /// Since when the member listens.
    pub listening_since: Option<Ms>,
}

/// A seat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeatObject {
    /// Its node, by index.
    pub node: usize,
    /// When its spec changed.
    pub changed_at: Ms,
    /// The member ID in the order.
    pub ordered: Option<MemberId>,
    /// The settings in its order.
    pub settings: u8,
    /// An order to restart etcd with them.
    pub restart: Option<Restart>,
    /// The settings with which its etcd runs, as the agent reported.
    pub runs_with: Option<u8>,
    /// The order to restart that its keeper has done with, as the agent reported.
    pub restarted: Option<u64>,
    /// What the agent reported.
    pub keeper: KeeperView,
}

/// An order to restart etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Restart {
    /// Unique.
    pub id: u64,
    /// The faults up to the observation that it rests on, for the checks.
    pub faults_seen: u64,
}

/// Boot's EtcdMember.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BootObject {
    /// Whether its agent finds its process.
    pub found: bool,
    /// Whether a snapshot was asked for, and the agent's answer.
    pub snapshot: Snapshot,
    /// The order to drain that stands in the spec.
    pub drain_order: Option<DrainOrder>,
    /// What the agent reported last, and on which order.
    pub drain_report: Option<(u64, BootDrain)>,
    /// Whether a tombstone was asked for, and the agent's answer.
    pub tombstone: Tombstone,
    /// When its spec changed.
    pub changed_at: Ms,
}

/// An order to drain boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DrainOrder {
    /// Unique.
    pub id: u64,
    /// Counts the attempts, from 1.
    pub attempt: u32,
}

impl BootObject {
    /// Order and report together, as the controller reads them. A withdrawn order takes its report with it, save a signal that was
    /// sent or a process that is gone: these are facts.
    #[must_use]
    pub fn drain(&self) -> BootDrain {
        match (self.drain_order, self.drain_report) {
            (_, Some((_, fact @ (BootDrain::Gone | BootDrain::Signalled { .. })))) => fact,
            (Some(order), Some((id, report))) if id == order.id => report,
            (Some(order), _) => BootDrain::Ordered { attempt: order.attempt },
            (None, _) => BootDrain::None,
        }
    }
}
