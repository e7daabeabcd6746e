//! What the planner is told. Each value was read in this round, or is `Unknown`.

use std::fmt;

/// ID of an etcd member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// ID of an etcd cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterId(pub u64);

/// Name of a Kubernetes node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that one round of observation saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// The clock of this round, ms; only differences count.
    pub now_ms: u64,
    /// What is wanted.
    pub spec: Spec,
    /// Nodes that may carry a member.
    pub nodes: Vec<Node>,
    /// Our EtcdMembers with the role Member.
    pub seats: Vec<Seat>,
    /// The boot member.
    pub boot: Boot,
    /// The beginning of a cluster that has none.
    pub founding: Founding,
    /// etcd's own view.
    pub etcd: Etcd,
    /// Who is connected to boot and to the new members.
    pub clients: ClientCounts,
    /// The last check of the gate before boot's removal.
    pub gate: Gate,
    /// Checks on the nodes before anything is changed.
    pub preflight: Preflight,
    /// How long a learner that is behind may make no progress before it is evicted, ms.
    pub learner_patience_ms: u64,
    /// How long a voter must be away, with its node, before its place is given to another node, ms.
    pub replace_after_ms: u64,
    /// Whether etcd takes a learner while a voter is down: from 3.5.30 and 3.6.11 on.
    pub adds_beside_dead: bool,
    /// Why what the spec wants the members to run with must not be carried out.
    pub roll_out_refused: Option<String>,
    /// What was rolled out, did not come up and was taken back, where the spec still wants it.
    pub rolled_back: Option<String>,
    /// What must be there before the first member is restarted with another image.
    pub roll_out: Preparation,
    /// Whether etcd was told to convert its data for an older version.
    pub downgrade: Downgrade,
    /// The API servers that can be seen.
    pub api_servers: Vec<ApiServer>,
    /// Whom etcd's alarms CORRUPT accuse ([`crate::NOBODY`]: it cannot tell).
    pub accused: Vec<MemberId>,
    /// What comparing the members' stores has shown lately.
    pub stores: crate::Stores,
}

/// What must be there before the first member is restarted with another image: the proof of it on each node; a snapshot, where the version changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Preparation {
    /// All is there, or nothing is needed.
    Ready,
    /// Not all has been asked for.
    NotAsked,
    /// Not all answers are there.
    Pending {
        /// Whose are missing.
        missing: String,
        /// Since when, ms, as far as this observer has looked.
        since_ms: u64,
    },
    /// All is there, but an etcd of the wanted version could not read the data: etcd has not been told to convert it.
    Unconverted,
    /// The image is no good on a node.
    Failed {
        /// Where, and why.
        why: String,
    },
}

/// Whether etcd was told to convert its data for an older version. While it is, no member can join: etcd takes none whose version is not the one above
/// the cluster's (`allowedVersionRange`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Downgrade {
    /// It was not, as far as its members say.
    None,
    /// For the version that the spec says.
    Wanted,
    /// For another one.
    Unwanted,
}

/// An API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApiServer {
    /// The node that it runs on.
    pub node: NodeName,
    /// The members that it lists in `--etcd-servers`.
    pub lists: Vec<MemberId>,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// `spec.size`.
    pub size: u32,
    /// `spec.paused`.
    pub paused: bool,
    /// `selfHosted.holdBootRemoval`.
    pub hold_boot_removal: bool,
    /// `selfHosted.skipBootMemberRemoval`.
    pub skip_boot_removal: bool,
    /// `selfHosted.abort`.
    pub abort: bool,
    /// `selfHosted.preflightOnly`.
    pub preflight_only: bool,
    /// The reason to hold that a human has overruled by annotation, where it may be.
    pub overruled: Option<HoldReason>,
}

/// A node that may carry a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its zone (`topology.kubernetes.io/zone`), empty if it has none.
    pub zone: String,
    /// Its Ready condition.
    pub readiness: Readiness,
    /// `spec.unschedulable`: somebody is about to take it down.
    pub cordoned: bool,
    /// Whether its agent answered lately.
    pub agent: AgentView,
    /// When a learner of this node was evicted last, ms; forgotten once a member of it votes.
    pub evicted_ms: Option<u64>,
    /// How many learners of it were evicted since a member of it voted.
    pub evictions: u32,
    /// The peer URL that a seat here would have is that of another node's seat, or of a member that is none of this node's.
    pub is_taken: bool,
}

/// The Ready condition of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// Ready.
    Ready,
    /// NotReady only because the network is not set up yet: doesn't count during a pivot.
    NoNetworkYet,
    /// NotReady or Unknown.
    NotReady,
}

/// What is known of a node's agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AgentView {
    /// It has echoed the last nonce, whenever that was.
    Fresh,
    /// It has not.
    Silent,
}

/// A seat: an EtcdMember with the role Member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    /// Its node.
    pub node: NodeName,
    /// `<node>-<generation>`.
    pub member_name: String,
    /// Its peer URL: as etcd lists it for the ID in its order, or else as ordered.
    pub peer_url: String,
    /// Whether that is an address of its node.
    pub address: Address,
    /// The member of another seat that etcd lists at this URL, while this seat has none.
    pub url_of: Option<MemberId>,
    /// The member ID in its order, if it was told one.
    pub ordered: Option<MemberId>,
    /// What its keeper says.
    pub keeper: KeeperView,
    /// Which binary its keeper is.
    pub binary: KeeperBinary,
    /// Whether its etcd runs with what is wanted: the settings, the pod.
    pub runs_with: RunsWith,
    /// When the restart that is under way was ordered, ms; `None` = none is, or it was carried out.
    pub restart_ordered_ms: Option<u64>,
    /// When the pod that is there was ordered, ms, while its member has not been seen to be well.
    pub replaced_ms: Option<u64>,
    /// Whether the pod before that can be put back.
    pub may_go_back: bool,
    /// The problem that its agent reports, if any.
    pub problem: Option<String>,
    /// Since when its learner has made no progress, ms ([`crate::Progress`]); `None` = it has none, or nobody has looked yet.
    pub no_progress_since_ms: Option<u64>,
    /// Since when its listed member has not been healthy, ms, as far as this observer has looked; `None` = it is.
    pub down_since_ms: Option<u64>,
    /// Since when its listed member has been healthy without a break, ms; `None` = it is not.
    pub up_since_ms: Option<u64>,
    /// Since when its node has been NotReady or deleted, ms, as far as this observer has looked; `None` = it is there. A node that was away for
    /// [`Observed::replace_after_ms`] stays so until its member is healthy: else each flap would throw a successor away.
    pub away_since_ms: Option<u64>,
    /// Somebody is about to take its node down, or something has: cordoned, NotReady or deleted.
    pub is_leaving: bool,
    /// How often in a row its keeper was told to stop a member that is to go, and did not.
    pub drains_in_vain: u32,
}

/// Whether the URLs of a seat are its node's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// They are, as far as is known.
    Right,
    /// The node does not have the address any more. Of a seat whose member etcd lists: as its agent has said when it was asked for that, since the member has been down.
    Moved {
        /// The peer URL that it is to have.
        to: String,
    },
    /// The node has the address of the order, and etcd lists another one.
    Mislisted,
}

/// What a keeper says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeeperView {
    /// Not heard of yet: no pod, no image, no certificate.
    NotPrepared {
        /// What is missing.
        why: String,
    },
    /// The image was proven by running it, certificates are there; etcd does not run.
    Waiting {
        /// The keeper's reason.
        reason: String,
    },
    /// etcd runs.
    Running,
    /// The keeper refuses to start etcd on what it found.
    Refused {
        /// The keeper's reason.
        reason: String,
        /// The keeper's message.
        message: String,
    },
    /// Stopped: on order, or because it was removed.
    Stopped,
}

/// What a member's etcd runs with, beside what the spec says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunsWith {
    /// Its keeper, or its agent, does not say.
    Unknown,
    /// As wanted; or it does not run, and its order is as wanted.
    Current,
    /// Others, and no restart is ordered.
    Outdated,
    /// It is about to be restarted, or just is.
    UnderWay,
}

/// Which binary a keeper is, beside the controller's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeeperBinary {
    /// It does not say, or there is no agent to bring the controller's.
    Unknown,
    /// The controller's.
    Current,
    /// Another one; its agent offers the controller's.
    Outdated,
    /// A hand-over was ordered, and has not begun.
    Ordered,
    /// A hand-over has begun, and has not come to its end.
    HandingOver,
    /// The controller's was refused.
    Refused {
        /// Why.
        message: String,
    },
}

/// The boot member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Boot {
    /// The cluster was not seeded from a boot member.
    None,
    /// It is to be removed.
    Member {
        /// Its member ID, once it was seen.
        id: Option<MemberId>,
        /// Where it runs.
        host: BootHost,
        /// The snapshot taken of it.
        snapshot: Snapshot,
        /// Its removal.
        drain: BootDrain,
        /// What keeps it from coming back.
        tombstone: Tombstone,
    },
}

impl Boot {
    /// Whether this cluster is (or was) seeded from a boot member.
    #[must_use]
    pub fn is_pivot(&self) -> bool {
        matches!(self, Self::Member { .. })
    }

    /// Boot's entry in the member list.
    #[must_use]
    pub fn listed<'a>(&self, members: &'a [EtcdMember]) -> Option<&'a EtcdMember> {
        match self {
            Self::None => None,
            Self::Member { id, .. } => id.and_then(|id| members.iter().find(|m| m.id == id)),
        }
    }
}

/// The beginning of a cluster that is not seeded from a boot member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Founding {
    /// It is over: etcd was seen; or it is a pivot's cluster, and its beginning was not here.
    Over,
    /// It must not be, or cannot be as the spec wants it.
    NotAllowed {
        /// The reason, as one word.
        reason: HoldReason,
        /// Why, and the way out.
        why: String,
    },
    /// Not all agents have said what is on their nodes.
    Unheard,
    /// Nobody has been chosen.
    Open,
    /// Who begins is written down.
    Chosen {
        /// Its node.
        node: NodeName,
        /// Whether its keeper was permitted to.
        is_permitted: bool,
    },
}

/// Where the boot member runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootHost {
    /// As a static pod on a node whose agent has found its process and its manifest.
    StaticPod,
    /// On a node of the cluster, but the agent has not found the process or the manifest.
    NotFound,
    /// Not on a node of the cluster, or not as a pod: it is removed alive.
    Elsewhere,
    /// Wherever it is, no static pod: a command that the pivot command runs stops and starts it.
    Command,
}

/// The snapshot of boot before the first change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// Not asked for.
    None,
    /// Asked for.
    Pending,
    /// On the node's disk, verified.
    Taken,
    /// Cannot be taken on a node: boot runs elsewhere.
    Impossible,
}

/// Boot's removal as its node's agent, or whoever runs its command, reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootDrain {
    /// None was ordered.
    None,
    /// Ordered, not answered.
    Ordered {
        /// Counts the attempts, from 1.
        attempt: u32,
    },
    /// SIGTERM was sent.
    Signalled {
        /// Counts the attempts, from 1.
        attempt: u32,
    },
    /// It was started again since it was still listed 10 s after the signal.
    StartedAgain {
        /// Counts the attempts, from 1.
        attempt: u32,
    },
    /// It could not be found or signalled.
    Failed {
        /// Counts the attempts, from 1.
        attempt: u32,
    },
    /// Ordered, not carried out by anybody, and taken back: no pivot command runs that would run boot's command. One that begins says so,
    /// and it is `None` again.
    Unanswered,
    /// Its process is gone after the removal.
    Gone,
}

/// What keeps boot from coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tombstone {
    /// Not asked for.
    None,
    /// Asked for.
    Pending,
    /// In place.
    Set,
    /// Boot runs where no agent is: nothing can be set.
    Impossible,
}

/// etcd's own view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Etcd {
    /// No linearizable answer in this round.
    Unknown {
        /// Why not.
        why: String,
    },
    /// A linearizable member list of this round.
    Known {
        /// The cluster.
        cluster: ClusterId,
        /// Its members.
        members: Vec<EtcdMember>,
    },
}

impl Etcd {
    pub(crate) fn why_unknown(&self) -> &str {
        match self {
            Self::Unknown { why } => why,
            Self::Known { .. } => "",
        }
    }
}

/// A member as listed, with what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EtcdMember {
    /// Its ID.
    pub id: MemberId,
    /// Its name; empty until it has published it.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// What it says of itself.
    pub health: EtcdHealth,
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EtcdHealth {
    /// Not answered, or another cluster answered: counts as unhealthy.
    Unknown,
    /// It answers and raises an alarm or knows no leader.
    Unhealthy,
    /// It answers, knows a leader, raises no alarm.
    Healthy {
        /// Whether it is the leader.
        is_leader: bool,
        /// Entries that it lags behind the leader's commit index: in this round, and in the one before (`None`: not known yet).
        lag: (u64, Option<u64>),
    },
}

/// Who is connected to boot and to the new members, our own connections left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientCounts {
    /// Not asked for, or not all agents have answered.
    Unknown {
        /// Which are missing.
        missing: String,
    },
    /// Counted.
    Known {
        /// Since when all new members have been listening, ms on the clock of [`Observed::now_ms`].
        listening_since_ms: u64,
        /// Per remote address that has a connection to boot.
        remotes: Vec<RemoteClient>,
    },
}

/// A remote address that has connections to boot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteClient {
    /// Its address.
    pub ip: String,
    /// Connections to boot.
    pub to_boot: u32,
    /// Connections to each new member, in the order of the seats.
    pub to_members: Vec<u32>,
}

/// The gate before boot's removal: hashes equal; a write and a read through each voter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Not checked, or the members changed since.
    NotChecked,
    /// Passed.
    Passed {
        /// When, ms on the clock of [`Observed::now_ms`].
        at_ms: u64,
    },
    /// Failed in a way that may pass: it is checked again.
    NotYet {
        /// When, ms.
        at_ms: u64,
        /// What failed.
        why: String,
    },
    /// The stores differ: no step may be taken.
    HashMismatch {
        /// Which hashes.
        what: String,
    },
}

/// Checks on the nodes before anything is changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Preflight {
    /// Not asked for.
    NotRun,
    /// Asked for, not all answers are there.
    Pending {
        /// Whose answers are missing.
        missing: String,
    },
    /// All passed.
    Passed,
    /// Some failed.
    Failed {
        /// Why, as it stands in the status.
        reason: HoldReason,
        /// What failed where, and the way out.
        message: String,
    },
}

use crate::HoldReason;
