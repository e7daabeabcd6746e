//! What the planner answers.

use std::fmt;

use crate::{MemberId, NodeName};

/// The planner's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// Take this one step, then look again.
    Do(Step),
    /// Something is under way that needs no step of ours.
    Wait {
        /// What.
        what: WaitFor,
        /// How soon to look again, ms.
        look_again_ms: u64,
    },
    /// Going on would not be safe, or is not wanted. A human reads the reason and the next step in the status.
    Hold {
        /// The reason.
        reason: HoldReason,
        /// What was seen, and what the human can do.
        next_step: String,
    },
    /// Nothing to do.
    Done,
}

impl Plan {
    pub(crate) fn hold(reason: HoldReason, next_step: impl Into<String>) -> Self {
        Self::Hold { reason, next_step: next_step.into() }
    }

    pub(crate) fn wait(what: WaitFor) -> Self {
        Self::Wait { what, look_again_ms: crate::FAST_LOOK_MS }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Ask the agents to check their nodes.
    RunPreflight,
    /// Have boot's agent take a snapshot of boot.
    SnapshotBoot,
    /// Give seats to these nodes: their keepers start, prove the image and wait.
    AssignSeats {
        /// The nodes.
        nodes: Vec<NodeName>,
    },
    /// Write down who begins a new cluster, and then permit its keeper to.
    Found {
        /// Whose seat.
        node: NodeName,
    },
    /// MemberAdd as learner.
    AddLearner {
        /// Whose seat.
        node: NodeName,
    },
    /// Tell the keeper its member ID: it starts etcd.
    StartMember {
        /// Whose seat.
        node: NodeName,
        /// Its ID.
        member: MemberId,
    },
    /// Ask the agents to count the clients of boot and of the new members.
    CountClients,
    /// MemberPromote.
    Promote {
        /// Whose seat.
        node: NodeName,
        /// Its ID.
        member: MemberId,
    },
    /// Compare hashes; write and read through each new voter.
    CheckGate,
    /// MoveLeader, sent to the leader.
    MoveLeader {
        /// The leader.
        from: MemberId,
        /// Who is to lead.
        to: MemberId,
    },
    /// Remove the boot member.
    RemoveBoot {
        /// Its ID.
        boot: MemberId,
        /// How.
        how: Removal,
    },
    /// Take back an order to stop boot that no agent has carried out.
    WithdrawBootDrain,
    /// Put boot's manifest away and leave something that keeps its etcd from starting.
    TombstoneBoot,
    /// Remove a member of ours: drain, remove, kill; one that does not answer is removed only.
    RemoveMember {
        /// Whose seat.
        node: NodeName,
        /// Its ID.
        member: MemberId,
    },
    /// Remove a learner of ours that makes no progress or whose data is gone; remembered, so that another node is tried first.
    Evict {
        /// Whose seat.
        node: NodeName,
        /// Its ID.
        member: MemberId,
    },
    /// Take the seat from a node whose member is not listed (abort, more seats than `size`, or its member was removed). What the member
    /// left is archived on its node.
    Unseat {
        /// Whose seat.
        node: NodeName,
    },
    /// Give a seat whose node has another address its new URLs: MemberUpdate, then its order.
    Readdress {
        /// Whose seat.
        node: NodeName,
        /// Its member, if etcd lists one.
        member: Option<MemberId>,
    },
    /// Compare the stores of all members, one after the other.
    CompareStores,
    /// Remove a member whose store differs from those of a quorum.
    RemoveCorrupt {
        /// Whose seat.
        node: NodeName,
        /// Its ID.
        member: MemberId,
    },
    /// Take back etcd's alarm: whom it accuses is gone, serves nobody, or has the store that the others have.
    DisarmCorrupt {
        /// Whom it accuses.
        member: MemberId,
    },
    /// Ask the agents for what must be there before members are restarted with another image.
    PrepareRollOut,
    /// Have etcd convert its data for the minor version before its own.
    EnableDowngrade,
    /// Take that back.
    CancelDowngrade,
    /// Have etcd of a seat restarted with what the spec says.
    RollOut {
        /// Whose seat.
        node: NodeName,
        /// What its keeper must see right before.
        restart: Restart,
    },
    /// Give a member that did not come up with another pod the one before.
    RollBack {
        /// Whose seat.
        node: NodeName,
    },
    /// Take that order back before it is carried out.
    CallOffRollOut {
        /// Whose seat.
        node: NodeName,
    },
    /// Have the keeper of a seat hand over to the one of the operator's own version, while etcd runs on.
    HandOverKeeper {
        /// Whose seat.
        node: NodeName,
    },
    /// Take that order back before it is carried out.
    CallOffHandOver {
        /// Whose seat.
        node: NodeName,
    },
}

/// What a keeper must see before it restarts its etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restart {
    /// That the other voters are a quorum.
    WhileQuorum,
    /// Nothing: they cannot be, and a human wants it.
    Overruled,
}

/// How boot is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// Drain, remove, kill; the attempt counts from 1.
    Drain {
        /// Which attempt.
        attempt: u32,
    },
    /// Nobody can signal it: removed alive, a write in flight may fail.
    Alive,
}

impl Step {
    /// Its kind, as one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RunPreflight => "RunPreflight",
            Self::SnapshotBoot => "SnapshotBoot",
            Self::AssignSeats { .. } => "AssignSeats",
            Self::Found { .. } => "Found",
            Self::AddLearner { .. } => "AddLearner",
            Self::StartMember { .. } => "StartMember",
            Self::CountClients => "CountClients",
            Self::Promote { .. } => "Promote",
            Self::CheckGate => "CheckGate",
            Self::MoveLeader { .. } => "MoveLeader",
            Self::RemoveBoot { .. } => "RemoveBoot",
            Self::WithdrawBootDrain => "WithdrawBootDrain",
            Self::TombstoneBoot => "TombstoneBoot",
            Self::RemoveMember { .. } => "RemoveMember",
            Self::Evict { .. } => "Evict",
            Self::Unseat { .. } => "Unseat",
            Self::Readdress { .. } => "Readdress",
            Self::CompareStores => "CompareStores",
            Self::RemoveCorrupt { .. } => "RemoveCorrupt",
            Self::DisarmCorrupt { .. } => "DisarmCorrupt",
            Self::PrepareRollOut => "PrepareRollOut",
            Self::EnableDowngrade => "EnableDowngrade",
            Self::CancelDowngrade => "CancelDowngrade",
            Self::RollBack { .. } => "RollBack",
            Self::RollOut { .. } => "RollOut",
            Self::CallOffRollOut { .. } => "CallOffRollOut",
            Self::HandOverKeeper { .. } => "HandOverKeeper",
            Self::CallOffHandOver { .. } => "CallOffHandOver",
        }
    }

    /// Whether the step changes the membership or its seats, or takes something down, so that it needs a recorded intent and a guard.
    #[must_use]
    pub fn is_disruptive(&self) -> bool {
        match self {
            Self::RunPreflight
            | Self::SnapshotBoot
            | Self::AssignSeats { .. }
            // What keeps a second one away is a compare-and-swap of its own.
            | Self::Found { .. }
            | Self::StartMember { .. }
            | Self::CountClients
            | Self::CheckGate
            | Self::PrepareRollOut
            | Self::CompareStores
            // Nothing could be announced: see `corrupt.rs`.
            | Self::RemoveCorrupt { .. }
            | Self::DisarmCorrupt { .. }
            | Self::WithdrawBootDrain
            | Self::CallOffHandOver { .. }
            | Self::CallOffRollOut { .. }
            | Self::TombstoneBoot => false,
            // A keeper that is no good costs its member a restart: no other controller may take a member down or change the membership
            // on the strength of what was seen before it.
            Self::HandOverKeeper { .. }
            // Giving a seat back races with the learner that another controller adds for it: the member would be nobody's.
            | Self::Unseat { .. }
            | Self::AddLearner { .. }
            | Self::Readdress { .. }
            | Self::EnableDowngrade
            | Self::CancelDowngrade
            | Self::RollOut { .. }
            | Self::RollBack { .. }
            | Self::Promote { .. }
            | Self::MoveLeader { .. }
            | Self::RemoveBoot { .. }
            | Self::Evict { .. }
            | Self::RemoveMember { .. } => true,
        }
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The one that this word names.
            #[must_use]
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }

            /// The word that stands in conditions.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why the planner holds. Each has a section in `docs/runbooks.md`.
    HoldReason {
        /// A field of the spec cannot be carried out.
        InvalidSpec,
        /// No node has the labels of `spec.pod.nodeSelector`.
        NoControlNode,
        /// Fewer eligible nodes than `spec.size`.
        NotEnoughNodes,
        /// No linearizable answer from etcd.
        EtcdUnreachable,
        /// Boot does not answer at `selfHosted.bootMemberClientEndpoint`.
        BootUnreachable,
        /// Boot's certificate is not signed by the CA in the Secret, or it refuses ours.
        CaNotTrustedByBoot,
        /// Boot is not the only member of its cluster.
        BootNotAlone,
        /// Boot runs an etcd older than 3.5.26.
        BootTooOld,
        /// Boot's peer URL is a loopback address: no member could reach it.
        BootPeerUrlLoopback,
        /// A check on a node failed.
        PreflightFailed,
        /// A keeper refuses to start etcd on what it found.
        MemberRefused,
        /// A client is connected to boot and to no new member: it would lose its etcd.
        ApiServerOnBootMember,
        /// `selfHosted.holdBootRemoval` is set.
        HoldBootRemoval,
        /// The members' stores differ.
        HashMismatch,
        /// The step would leave fewer healthy voters than is safe.
        ToleranceTooLow,
        /// Boot was signalled, but had to be started again, more than once.
        BootCameBack,
        /// Boot's process or manifest was not found on its node.
        BootProcessNotFound,
        /// Boot is stopped by a command, and no pivot command runs that would run it.
        BootCommandMissing,
        /// Members that are neither boot nor ours.
        UnknownMember,
        /// A voter is gone for good, as far as can be seen, and no node can take its place.
        MemberDown,
        /// A keeper does not stop a member that is to go.
        MemberNotStopped,
        /// An API server lists no other healthy voter than the one that would be removed.
        ApiServerWouldLoseEtcd,
        /// The CA Secret is missing or unusable.
        CaSecretUnusable,
        /// An image that is to be rolled out is not proven on all nodes, or no snapshot was taken.
        RollOutNotPrepared,
        /// A member did not come up with what was rolled out, and was given back what it had.
        RollOutFailed,
        /// A node refused the keeper of this version of the operator.
        KeeperHandOverFailed,
    }
}

reasons! {
    /// What the planner waits for.
    WaitFor {
        /// `spec.paused`.
        Unpause,
        /// Agents that have not answered yet.
        Agents,
        /// Preflight checks under way.
        PreflightChecks,
        /// The snapshot of boot.
        BootSnapshot,
        /// Keepers that have not proven their image, or have no certificate yet.
        MembersPrepared,
        /// The first member of a new cluster is starting.
        FirstMember,
        /// A learner that has been added is starting.
        LearnerStarts,
        /// A learner is receiving the data.
        LearnerCatchesUp,
        /// All remaining voters to be healthy.
        VotersHealthy,
        /// The API servers to open connections to the new members.
        ApiServersConnect,
        /// The gate before boot's removal.
        BootRemovalGate,
        /// Boot, which was told to stop.
        BootDrain,
        /// The tombstone.
        BootTombstone,
        /// API servers to try members again that came, or came back, lately.
        ApiServersReconnect,
        /// A member that was told to stop.
        MemberDrain,
        /// The nodes to have pulled and run another image, and a snapshot.
        RollOutPrepared,
        /// A member that is restarted with what the spec says.
        MemberRestart,
        /// A keeper that hands over to another.
        KeeperHandOver,
    }
}
