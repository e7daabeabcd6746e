//! The start table: what to do with the data that lies here, given what the order and the peers say.
//!
//! A pure function of [`Facts`], asked each time before etcd starts. etcd has no guard of its own: a voter that lost its log and is
//! started on an empty directory joins under its old ID, and raft is broken (traps, "Membership"). Only this stands between.

use std::fmt;

/// What the decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the data directory is on the file system that it should be on.
    pub disk: Disk,
    /// What the order (or the copy of the last one) wants.
    pub order: OrderFact,
    /// Whose data this node is to serve.
    pub identity: IdentityFact,
    /// Whether that member was started on this node.
    pub history: History,
    /// Whose data lies here.
    pub data: DataFact,
    /// What a linearizable member list of the right cluster says.
    pub peers: PeersFact,
    /// How far its log reaches.
    pub log: LogFact,
    /// A permission that was not used yet.
    pub permission: PermissionFact,
    /// Whether the order wants the data of a removed member archived.
    pub archive: ArchiveFact,
}

macro_rules! fact {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $name {
            /// All of them, for the exhaustive tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}

fact!(
    /// The file system of the data directory.
    Disk {
        /// Marker there, and the file system recorded before.
        Right,
        /// No marker, or another file system: the disk is not mounted (yet).
        Missing,
    }
);
fact!(
    /// What the order wants.
    OrderFact {
        /// There is no order, and no copy of one.
        Absent,
        /// Not to run anything yet.
        Wait,
        /// Run etcd.
        Run,
        /// Stop, and stay stopped.
        Stop,
    }
);
fact!(
    /// The newest identity record: the order's, or the keeper's own.
    IdentityFact {
        /// None yet: this node was not added.
        Unknown,
        /// Cluster and member ID are known.
        Known,
        /// They are known, and the member is known to have been removed from the cluster.
        Removed,
    }
);
fact!(
    /// Whether the member was started here.
    History {
        /// The state file, which is older than the member, says that it never was.
        NeverRan,
        /// It was started here.
        RanHere,
        /// The state file is gone: nobody knows.
        Lost,
    }
);
fact!(
    /// Whose data lies here.
    DataFact {
        /// No data.
        Empty,
        /// Cluster and member ID in the log are those of the identity.
        Mine,
        /// The log is another member's or another cluster's.
        Foreign,
        /// A database without a log, a log without a database, an unreadable log.
        Damaged,
    }
);
fact!(
    /// What the members say. Anything but `NoAnswer` and `Superseded` is a linearizable answer from the right cluster.
    PeersFact {
        /// Nobody answered, or only members without a quorum, or another cluster.
        NoAnswer,
        /// Nobody of this cluster answered, and another one says that it was recovered from it ([`crate::lineage`]).
        Superseded,
        /// The member is not in the list.
        NotListed,
        /// It is listed, without a name.
        Unstarted,
        /// It is listed, with a name.
        Started,
    }
);
fact!(
    /// How far the log reaches, beside the mark that this member left with the others ([`crate::mark`]).
    LogFact {
        /// As far as the mark, or there is none; or nobody could be asked, and it was never found behind.
        Whole,
        /// Not as far as the mark, now or when it was compared last: entries that this member had, and promised to keep, are gone.
        Behind,
        /// Who answered for the members did not answer for the mark.
        Unread,
    }
);
fact!(
    /// A one-shot permission in the order.
    PermissionFact {
        /// None, or it was used.
        Absent,
        /// To start a new cluster.
        Bootstrap,
    }
);
fact!(
    /// An order to archive.
    ArchiveFact {
        /// None, or it was carried out.
        NotOrdered,
        /// The data of this member, once it is removed.
        Ordered,
        /// Also if it is not: the whole cluster is deleted.
        AlsoUnremoved,
    }
);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start etcd on the data that is here, with an initial cluster that could never join.
    Start(Reason),
    /// Start etcd on an empty directory, joining under the identity.
    Join(Reason),
    /// Start etcd on an empty directory as a new cluster.
    Bootstrap(Reason),
    /// Move the data into the archive, then decide again.
    Archive(Reason),
    /// Wait, and decide again when something changes.
    Wait(Reason),
    /// Never start on this: a human or the controller has to act.
    Refuse(Reason),
    /// Nothing to run any more.
    Stop(Reason),
    /// Write down that the member was removed, then decide again.
    RecordRemoval(Reason),
    /// Wait for the disk, then end the container so that the kubelet mounts it anew.
    AwaitDisk(Reason),
}

impl Decision {
    /// Its reason.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Start(r)
            | Self::Join(r)
            | Self::Bootstrap(r)
            | Self::Archive(r)
            | Self::Wait(r)
            | Self::Refuse(r)
            | Self::Stop(r)
            | Self::RecordRemoval(r)
            | Self::AwaitDisk(r) => r,
        }
    }
}

/// The table of design §3.
#[must_use]
pub fn decide(facts: &Facts) -> Decision {
    match facts.disk {
        Disk::Missing => return Decision::AwaitDisk(Reason::DiskMissing),
        Disk::Right => {}
    }
    match (facts.identity, facts.data, facts.archive) {
        // Also without an order: a removed member never runs again, whatever happens to the order file.
        (IdentityFact::Removed, DataFact::Mine, ArchiveFact::Ordered | ArchiveFact::AlsoUnremoved) => {
            return Decision::Archive(Reason::ArchivingRemoved);
        }
        (IdentityFact::Removed, ..) => return Decision::Stop(Reason::MemberRemoved),
        (IdentityFact::Unknown | IdentityFact::Known, ..) => {}
    }
    match facts.order {
        OrderFact::Absent => return Decision::Wait(Reason::NoOrder),
        OrderFact::Wait | OrderFact::Run | OrderFact::Stop => {}
    }
    let mine = (facts.identity, facts.data) == (IdentityFact::Known, DataFact::Mine);
    if mine && facts.peers == PeersFact::NotListed {
        return Decision::RecordRemoval(Reason::MemberRemoved);
    }
    match facts.order {
        OrderFact::Absent | OrderFact::Wait => return Decision::Wait(Reason::OrderedToWait),
        OrderFact::Stop if facts.archive == ArchiveFact::AlsoUnremoved => {
            return match facts.data {
                DataFact::Mine if mine => Decision::Archive(Reason::Retiring),
                DataFact::Empty => Decision::Stop(Reason::OrderedToStop),
                DataFact::Mine | DataFact::Foreign | DataFact::Damaged => Decision::Stop(Reason::OthersDataStays),
            };
        }
        OrderFact::Stop => return Decision::Stop(Reason::OrderedToStop),
        OrderFact::Run => {}
    }
    match facts.identity {
        IdentityFact::Known => known(facts),
        IdentityFact::Unknown | IdentityFact::Removed => unknown(facts),
    }
}

/// This node is to serve a certain member's data.
fn known(facts: &Facts) -> Decision {
    match (facts.peers, facts.data) {
        (PeersFact::NoAnswer, DataFact::Mine) => match facts.log {
            // Nobody could be asked: what is known is what stands on this disk.
            LogFact::Whole | LogFact::Unread => Decision::Start(Reason::ColdStart),
            LogFact::Behind => Decision::Refuse(Reason::LogBehind),
        },
        (PeersFact::Superseded, _) => Decision::Wait(Reason::Superseded),
        (PeersFact::NoAnswer, DataFact::Empty) => Decision::Wait(Reason::EmptyAndNoAnswer),
        (PeersFact::NoAnswer | PeersFact::NotListed, DataFact::Foreign) => Decision::Wait(Reason::ForeignData),
        (PeersFact::NoAnswer | PeersFact::NotListed, DataFact::Damaged) => Decision::Wait(Reason::DamagedData),
        (PeersFact::NotListed, DataFact::Empty) => Decision::Wait(Reason::NotAddedYet),
        (PeersFact::NotListed, DataFact::Mine) => Decision::RecordRemoval(Reason::MemberRemoved),
        (PeersFact::Unstarted | PeersFact::Started, DataFact::Mine) => match facts.log {
            LogFact::Whole => Decision::Start(Reason::Listed),
            LogFact::Behind => Decision::Refuse(Reason::LogBehind),
            LogFact::Unread => Decision::Wait(Reason::MarkUnread),
        },
        (PeersFact::Unstarted | PeersFact::Started, DataFact::Foreign) => Decision::Archive(Reason::ArchivingForeign),
        (PeersFact::Unstarted | PeersFact::Started, DataFact::Damaged) => Decision::Refuse(Reason::DataLost),
        (PeersFact::Started, DataFact::Empty) => Decision::Refuse(Reason::DataLost),
        (PeersFact::Unstarted, DataFact::Empty) => match facts.history {
            History::NeverRan => Decision::Join(Reason::Joining),
            History::RanHere => Decision::Refuse(Reason::DataLost),
            History::Lost => Decision::Refuse(Reason::StateLost),
        },
    }
}

/// This node has no identity yet: it was not added.
fn unknown(facts: &Facts) -> Decision {
    match (facts.data, facts.permission, facts.peers) {
        (DataFact::Foreign | DataFact::Mine, ..) => Decision::Wait(Reason::ForeignData),
        (DataFact::Damaged, ..) => Decision::Wait(Reason::DamagedData),
        (DataFact::Empty, PermissionFact::Bootstrap, PeersFact::NoAnswer) => Decision::Bootstrap(Reason::Bootstrapping),
        // The cluster that the order names is alive: a second one beside it is never what was meant.
        (
            DataFact::Empty,
            PermissionFact::Absent | PermissionFact::Bootstrap,
            PeersFact::Superseded | PeersFact::NotListed | PeersFact::Unstarted | PeersFact::Started,
        ) => Decision::Wait(Reason::NotAddedYet),
        (DataFact::Empty, PermissionFact::Absent, PeersFact::NoAnswer) => Decision::Wait(Reason::NotAddedYet),
    }
}

/// Why, as one word for the state file. Each has a section in the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Data is this member's, nobody answers.
    ColdStart,
    /// Data is this member's, and it is listed.
    Listed,
    /// First start of a new member.
    Joining,
    /// First start of a new cluster.
    Bootstrapping,
    /// No order yet.
    NoOrder,
    /// The order says wait.
    OrderedToWait,
    /// The order says stop.
    OrderedToStop,
    /// Not a member yet.
    NotAddedYet,
    /// No data, nobody answers.
    EmptyAndNoAnswer,
    /// Another member's data.
    ForeignData,
    /// Incomplete data.
    DamagedData,
    /// A listed member without its data.
    DataLost,
    /// A listed member, no data, no state.
    StateLost,
    /// A listed member whose log lacks entries that it had.
    LogBehind,
    /// etcd says that it cannot run on the data here, or that it differs from its peers'.
    DataCorrupt,
    /// How far the log should reach could not be read.
    MarkUnread,
    /// The cluster was recovered on another node.
    Superseded,
    /// A recovery that a human ordered is under way.
    Recovering,
    /// The member was removed.
    MemberRemoved,
    /// Another member's data is moved away.
    ArchivingForeign,
    /// A removed member's data is moved away.
    ArchivingRemoved,
    /// Its cluster is deleted: its data is moved into the archive.
    Retiring,
    /// Its cluster is deleted, and what lies here is not its member's.
    OthersDataStays,
    /// The data disk is not there.
    DiskMissing,
    /// The archive has reached its bound.
    ArchiveFull,
    /// Moving data into the archive failed.
    ArchiveFailed,
    /// Another process holds etcd's locks.
    DataInUse,
    /// The data directory cannot be read.
    DiskUnreadable,
    /// The state file cannot be written.
    StateUnwritable,
    /// etcd's binary does not run.
    EtcdNotRunnable,
    /// A certificate or key is missing.
    CertificatesMissing,
    /// The list has another peer URL than the order.
    PeerUrlDiffers,
    /// etcd ended by itself.
    EtcdExited,
    /// etcd is being stopped for other settings.
    SettingsChanged,
    /// etcd is being stopped because its member is being removed.
    Removing,
    /// The keeper was told to end.
    Terminated,
    /// The keeper has just started.
    KeeperStarted,
    /// Another keeper took over; etcd went on.
    TakenOver,
}

impl Reason {
    /// All of them, for the tests and the runbook.
    pub const ALL: &'static [Self] = &[
        Self::ColdStart,
        Self::Listed,
        Self::Joining,
        Self::Bootstrapping,
        Self::NoOrder,
        Self::OrderedToWait,
        Self::OrderedToStop,
        Self::NotAddedYet,
        Self::EmptyAndNoAnswer,
        Self::ForeignData,
        Self::DamagedData,
        Self::DataLost,
        Self::StateLost,
        Self::LogBehind,
        Self::DataCorrupt,
        Self::MarkUnread,
        Self::Superseded,
        Self::Recovering,
        Self::MemberRemoved,
        Self::ArchivingForeign,
        Self::ArchivingRemoved,
        Self::Retiring,
        Self::OthersDataStays,
        Self::DiskMissing,
        Self::ArchiveFull,
        Self::ArchiveFailed,
        Self::DataInUse,
        Self::DiskUnreadable,
        Self::StateUnwritable,
        Self::EtcdNotRunnable,
        Self::CertificatesMissing,
        Self::PeerUrlDiffers,
        Self::EtcdExited,
        Self::SettingsChanged,
        Self::Removing,
        Self::Terminated,
        Self::KeeperStarted,
        Self::TakenOver,
    ];

    /// What it means and what comes next, for a human.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::ColdStart => "the data is this member's and no quorum answers: started on it",
            Self::Listed => "the data is this member's and the cluster lists it: started on it",
            Self::Joining => "the cluster lists this member, which never ran: started to join",
            Self::Bootstrapping => "started as a new cluster, by the order's permission",
            Self::NoOrder => {
                "there is no order yet: the agent of this node writes one when the controller has planned this member"
            }
            Self::OrderedToWait => "prepared; the order says to wait until the controller has added this member",
            Self::OrderedToStop => "stopped by order",
            Self::NotAddedYet => "waiting to be added: the cluster does not list this member yet",
            Self::EmptyAndNoAnswer => {
                "there is no data here and no quorum of the cluster answers: waiting for the other members. A new cluster is never \
                 started by itself; if the others are lost for good, see the runbook (EmptyAndNoAnswer)"
            }
            Self::ForeignData => {
                "the data here is another member's or another cluster's, and the cluster does not ask for this member: nothing is \
                 touched. Mount the right disk, or let the controller give this node a new member"
            }
            Self::DamagedData => {
                "the data here is incomplete, and no cluster lists this member: nothing is touched. Mount the right disk, or let the \
                 controller give this node a new member"
            }
            Self::DataLost => {
                "the cluster lists this member but its data is gone or damaged. It must not come back under its old ID, which may have \
                 promised what it no longer knows: the controller must remove the member and add a new one"
            }
            Self::StateLost => {
                "the cluster lists this member, there is no data, and the keeper's state file is gone, so nobody knows whether it ran \
                 here: the controller must remove the member and add a new one"
            }
            Self::LogBehind => {
                "the log here ends before entries that this member had: the disk is an older copy, or was cut short. It must not come back \
                 under its ID, which promised to keep them: the controller must remove the member and add a new one"
            }
            Self::DataCorrupt => {
                "etcd does not run on the data here: the controller replaces this member once it has seen that the stores of all others are \
                 equal. Tried again every 10 min, and with each order"
            }
            Self::MarkUnread => {
                "the members answer, but how far this member's log should reach could not be read from them: asking again"
            }
            Self::Superseded => {
                "the cluster was recovered on another node, and this member is of its life before that: it does not start. Its data stays; the \
                 controller gives this node a new member"
            }
            Self::Recovering => "the recovery that was ordered on this node is under way; it goes on after a restart",
            Self::MemberRemoved => {
                "the member was removed from the cluster: it never runs again. Its data stays until it is archived on order"
            }
            Self::ArchivingForeign => "another member's data is moved into the archive, since the cluster waits for this member",
            Self::Retiring => "the cluster is deleted: the data of its member is moved into the archive",
            Self::OthersDataStays => {
                "the cluster is deleted; the data here is another member's, or damaged: it stays where it is"
            }
            Self::ArchivingRemoved => "the data of the removed member is moved into the archive",
            Self::DiskMissing => {
                "the data directory is not on its disk (no marker file, or another file system): mount the disk. The container ends \
                 after a minute so that the kubelet mounts it anew"
            }
            Self::ArchiveFull => "the archive has reached its bound: a human must look through it and delete what is not needed",
            Self::ArchiveFailed => "the data could not be moved into the archive",
            Self::DataInUse => "another process holds etcd's locks on this data: waiting until it ends",
            Self::DiskUnreadable => "the data directory cannot be read",
            Self::StateUnwritable => {
                "the state file cannot be written, and etcd must not start for the first time before it is: free disk space or repair the file system"
            }
            Self::EtcdNotRunnable => "the image's etcd does not run",
            Self::CertificatesMissing => "a certificate or key is missing: the agent writes it when the controller has signed it",
            Self::PeerUrlDiffers => {
                "the cluster lists another peer URL than the order has: the controller must update the member first"
            }
            Self::EtcdExited => "etcd ended by itself; looking at order, data and peers again before it is started",
            Self::SettingsChanged => "restarting etcd with other settings",
            Self::Removing => "the member is being removed: etcd finishes its requests and ends",
            Self::Terminated => "the keeper was told to end",
            Self::KeeperStarted => "the keeper has started and looks at order, disk and peers",
            Self::TakenOver => "another keeper took over; etcd went on",
        }
    }
}

/// The word in the state file: the variant's name.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
