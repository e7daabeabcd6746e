//! Each row of the table, and what must be impossible over all facts.

use std::collections::BTreeSet;

use super::*;

const BASE: Facts = Facts {
    disk: Disk::Right,
    order: OrderFact::Run,
    identity: IdentityFact::Known,
    history: History::NeverRan,
    data: DataFact::Empty,
    peers: PeersFact::NoAnswer,
    log: LogFact::Whole,
    permission: PermissionFact::Absent,
    archive: ArchiveFact::NotOrdered,
};

/// All combinations, also those that cannot be observed.
fn all() -> impl Iterator<Item = Facts> {
    let mut all = vec![BASE];
    macro_rules! vary {
        ($($field:ident: $kind:ident),+) => {
            $(all = all.iter().flat_map(|f| $kind::ALL.iter().map(|v| Facts { $field: *v, ..*f })).collect();)+
        };
    }
    vary!(disk: Disk, order: OrderFact, identity: IdentityFact, history: History, data: DataFact, peers: PeersFact,
          log: LogFact, permission: PermissionFact, archive: ArchiveFact);
    assert_eq!(all.len(), 2 * 4 * 3 * 3 * 4 * 5 * 3 * 2 * 3);
    all.into_iter()
}

#[test]
fn each_row_of_the_table() {
    use DataFact::{Damaged, Empty, Foreign, Mine};
    use PeersFact::{NoAnswer, NotListed, Started, Unstarted};
    let rows = [
        (NoAnswer, Mine, History::RanHere, Decision::Start(Reason::ColdStart)),
        (NoAnswer, Mine, History::Lost, Decision::Start(Reason::ColdStart)),
        (NoAnswer, Empty, History::NeverRan, Decision::Wait(Reason::EmptyAndNoAnswer)),
        (NoAnswer, Empty, History::RanHere, Decision::Wait(Reason::EmptyAndNoAnswer)),
        (NoAnswer, Foreign, History::NeverRan, Decision::Wait(Reason::ForeignData)),
        (NoAnswer, Damaged, History::RanHere, Decision::Wait(Reason::DamagedData)),
        (Unstarted, Empty, History::NeverRan, Decision::Join(Reason::Joining)),
        (Unstarted, Empty, History::RanHere, Decision::Refuse(Reason::DataLost)),
        (Unstarted, Empty, History::Lost, Decision::Refuse(Reason::StateLost)),
        (Unstarted, Mine, History::RanHere, Decision::Start(Reason::Listed)),
        (Started, Mine, History::RanHere, Decision::Start(Reason::Listed)),
        (Started, Mine, History::Lost, Decision::Start(Reason::Listed)),
        (Started, Empty, History::NeverRan, Decision::Refuse(Reason::DataLost)),
        (Started, Empty, History::RanHere, Decision::Refuse(Reason::DataLost)),
        (Unstarted, Damaged, History::RanHere, Decision::Refuse(Reason::DataLost)),
        (Started, Damaged, History::RanHere, Decision::Refuse(Reason::DataLost)),
        (Unstarted, Foreign, History::NeverRan, Decision::Archive(Reason::ArchivingForeign)),
        (Started, Foreign, History::RanHere, Decision::Archive(Reason::ArchivingForeign)),
        (NotListed, Mine, History::RanHere, Decision::RecordRemoval(Reason::MemberRemoved)),
        (NotListed, Foreign, History::NeverRan, Decision::Wait(Reason::ForeignData)),
        (NotListed, Damaged, History::RanHere, Decision::Wait(Reason::DamagedData)),
        (NotListed, Empty, History::NeverRan, Decision::Wait(Reason::NotAddedYet)),
    ];
    for (peers, data, history, expected) in rows {
        assert_eq!(decide(&Facts { peers, data, history, ..BASE }), expected, "{peers:?} {data:?} {history:?}");
    }
    for peers in [Unstarted, Started] {
        let mine = Facts { peers, data: Mine, history: History::RanHere, ..BASE };
        assert_eq!(decide(&Facts { log: LogFact::Behind, ..mine }), Decision::Refuse(Reason::LogBehind));
        assert_eq!(decide(&Facts { log: LogFact::Unread, ..mine }), Decision::Wait(Reason::MarkUnread));
    }
    // Found behind before, while the others answered.
    let alone = Facts { peers: NoAnswer, data: Mine, history: History::RanHere, log: LogFact::Behind, ..BASE };
    assert_eq!(decide(&alone), Decision::Refuse(Reason::LogBehind));
    let permitted = Facts { identity: IdentityFact::Unknown, permission: PermissionFact::Bootstrap, ..BASE };
    assert_eq!(decide(&permitted), Decision::Bootstrap(Reason::Bootstrapping));
    assert_eq!(decide(&Facts { permission: PermissionFact::Absent, ..permitted }), Decision::Wait(Reason::NotAddedYet));
    for order in [OrderFact::Absent, OrderFact::Wait] {
        for data in DataFact::ALL {
            let decision = decide(&Facts { order, data: *data, ..BASE });
            assert!(matches!(decision, Decision::Wait(Reason::NoOrder | Reason::OrderedToWait)), "{decision:?}");
        }
    }
    assert_eq!(decide(&Facts { order: OrderFact::Stop, data: Mine, ..BASE }), Decision::Stop(Reason::OrderedToStop));
    let removed = Facts { identity: IdentityFact::Removed, data: Mine, ..BASE };
    assert_eq!(decide(&removed), Decision::Stop(Reason::MemberRemoved));
    assert_eq!(decide(&Facts { archive: ArchiveFact::Ordered, ..removed }), Decision::Archive(Reason::ArchivingRemoved));
    let retired = Facts { order: OrderFact::Stop, data: Mine, archive: ArchiveFact::AlsoUnremoved, ..BASE };
    assert_eq!(decide(&retired), Decision::Archive(Reason::Retiring));
    for data in [Foreign, Damaged] {
        assert_eq!(decide(&Facts { data, ..retired }), Decision::Stop(Reason::OthersDataStays));
    }
    assert_eq!(decide(&Facts { data: Empty, ..retired }), Decision::Stop(Reason::OrderedToStop));
}

#[test]
fn a_missing_disk_is_awaited_whatever_else_is_known() {
    // The facts of a directory that is not on its disk are those of another one.
    for facts in all().filter(|f| f.disk == Disk::Missing) {
        assert_eq!(decide(&facts), Decision::AwaitDisk(Reason::DiskMissing), "{facts:?}");
    }
}

#[test]
fn a_removed_member_is_over_whatever_is_ordered_and_only_its_own_data_is_archived() {
    for facts in all().filter(|f| f.disk == Disk::Right && f.identity == IdentityFact::Removed) {
        let archived = facts.data == DataFact::Mine && facts.archive != ArchiveFact::NotOrdered;
        let expected = if archived { Decision::Archive(Reason::ArchivingRemoved) } else { Decision::Stop(Reason::MemberRemoved) };
        assert_eq!(decide(&facts), expected, "{facts:?}");
    }
}

#[test]
fn a_member_of_a_life_that_is_over_does_nothing_whatever_lies_here() {
    for facts in all().filter(|f| f.peers == PeersFact::Superseded) {
        let decision = decide(&facts);
        assert!(!matches!(decision, Decision::Start(_) | Decision::Join(_) | Decision::Bootstrap(_)), "{facts:?}");
        if facts.disk == Disk::Right && facts.identity == IdentityFact::Known && facts.order == OrderFact::Run {
            assert_eq!(decision, Decision::Wait(Reason::Superseded), "{facts:?}");
        }
    }
}

#[test]
fn without_an_order_a_node_waits_for_one() {
    for facts in all().filter(|f| f.disk == Disk::Right && f.identity != IdentityFact::Removed && f.order == OrderFact::Absent) {
        assert_eq!(decide(&facts), Decision::Wait(Reason::NoOrder), "{facts:?}");
    }
}

#[test]
fn a_removal_is_written_down_also_where_the_order_says_to_wait_or_to_stop() {
    // The cluster may not answer any more when the order says to run again; then its data would look like a cold start.
    for order in [OrderFact::Wait, OrderFact::Run, OrderFact::Stop] {
        for history in History::ALL {
            let facts = Facts { order, history: *history, data: DataFact::Mine, peers: PeersFact::NotListed, ..BASE };
            assert_eq!(decide(&facts), Decision::RecordRemoval(Reason::MemberRemoved), "{facts:?}");
        }
    }
}

#[test]
fn an_order_to_wait_or_to_stop_is_obeyed_whatever_lies_here() {
    let gone = |f: &Facts| f.identity == IdentityFact::Known && f.data == DataFact::Mine && f.peers == PeersFact::NotListed;
    for facts in all().filter(|f| f.disk == Disk::Right && f.identity != IdentityFact::Removed && !gone(f)) {
        match facts.order {
            OrderFact::Wait => assert_eq!(decide(&facts), Decision::Wait(Reason::OrderedToWait), "{facts:?}"),
            OrderFact::Stop => {
                let retires = facts.archive == ArchiveFact::AlsoUnremoved;
                let expected = match (facts.identity, facts.data) {
                    _ if !retires => Decision::Stop(Reason::OrderedToStop),
                    (IdentityFact::Known, DataFact::Mine) => Decision::Archive(Reason::Retiring),
                    (_, DataFact::Empty) => Decision::Stop(Reason::OrderedToStop),
                    _ => Decision::Stop(Reason::OthersDataStays),
                };
                assert_eq!(decide(&facts), expected, "{facts:?}");
            }
            OrderFact::Absent | OrderFact::Run => {}
        }
    }
}

#[test]
fn a_node_that_was_not_added_touches_no_data_and_founds_no_cluster_beside_one_that_answers() {
    for facts in all().filter(|f| f.disk == Disk::Right && f.identity == IdentityFact::Unknown && f.order == OrderFact::Run) {
        let expected = match facts.data {
            DataFact::Foreign | DataFact::Mine => Decision::Wait(Reason::ForeignData),
            DataFact::Damaged => Decision::Wait(Reason::DamagedData),
            DataFact::Empty if (facts.permission, facts.peers) == (PermissionFact::Bootstrap, PeersFact::NoAnswer) => {
                Decision::Bootstrap(Reason::Bootstrapping)
            }
            DataFact::Empty => Decision::Wait(Reason::NotAddedYet),
        };
        assert_eq!(decide(&facts), expected, "{facts:?}");
    }
}

/// With this, the rows above stand for all facts.
#[test]
fn history_counts_at_a_first_start_the_log_of_a_listed_member_a_permission_without_an_identity_an_order_to_archive_after_a_removal()
 {
    for facts in all() {
        let decision = decide(&facts);
        let first_start =
            facts.identity == IdentityFact::Known && facts.data == DataFact::Empty && facts.peers == PeersFact::Unstarted;
        if !first_start {
            for history in History::ALL {
                assert_eq!(decide(&Facts { history: *history, ..facts }), decision, "{history:?} instead of {facts:?}");
            }
        }
        let mine = (facts.identity, facts.data) == (IdentityFact::Known, DataFact::Mine);
        if !mine || facts.peers == PeersFact::NotListed {
            for log in LogFact::ALL {
                assert_eq!(decide(&Facts { log: *log, ..facts }), decision, "{log:?} instead of {facts:?}");
            }
        }
        if facts.identity != IdentityFact::Unknown {
            for permission in PermissionFact::ALL {
                assert_eq!(decide(&Facts { permission: *permission, ..facts }), decision, "{permission:?} instead of {facts:?}");
            }
        }
        if facts.identity != IdentityFact::Removed && facts.order != OrderFact::Stop {
            for archive in ArchiveFact::ALL {
                assert_eq!(decide(&Facts { archive: *archive, ..facts }), decision, "{archive:?} instead of {facts:?}");
            }
        }
    }
}

/// What must never happen, whatever is observed.
fn catastrophe(facts: &Facts, decision: Decision) -> Option<&'static str> {
    let listed = matches!(facts.peers, PeersFact::Unstarted | PeersFact::Started);
    let starts = matches!(decision, Decision::Start(_) | Decision::Join(_) | Decision::Bootstrap(_));
    if starts && (facts.disk == Disk::Missing || facts.order != OrderFact::Run) {
        return Some("started without its disk or without an order to run");
    }
    if starts && facts.identity == IdentityFact::Removed {
        return Some("a removed member runs again");
    }
    if starts && facts.peers == PeersFact::NotListed {
        return Some("a member that the cluster does not list was started");
    }
    match decision {
        Decision::Start(_) if facts.log == LogFact::Behind || listed && facts.log != LogFact::Whole => {
            Some("started on a log that lacks what it held")
        }
        Decision::Start(_) if facts.data != DataFact::Mine || facts.identity != IdentityFact::Known => {
            Some("started on data that is not this member's")
        }
        Decision::Join(_) if facts.data != DataFact::Empty => Some("joined on top of data"),
        Decision::Join(_) if facts.history != History::NeverRan => Some("joined under an ID that ran, or may have run, here"),
        Decision::Join(_) if facts.peers != PeersFact::Unstarted || facts.identity != IdentityFact::Known => {
            Some("joined without being listed as unstarted")
        }
        Decision::Bootstrap(_) if facts.permission != PermissionFact::Bootstrap => Some("a new cluster without a permission"),
        Decision::Bootstrap(_) if facts.data != DataFact::Empty => Some("a new cluster on top of data"),
        Decision::Bootstrap(_) if facts.peers != PeersFact::NoAnswer || facts.identity != IdentityFact::Unknown => {
            Some("a second cluster beside a living one")
        }
        Decision::Archive(Reason::ArchivingForeign) if facts.data != DataFact::Foreign || !listed => {
            Some("archived what is not foreign, or without being asked for by the cluster")
        }
        Decision::Archive(Reason::ArchivingRemoved)
            if facts.identity != IdentityFact::Removed
                || facts.data != DataFact::Mine
                || facts.archive == ArchiveFact::NotOrdered =>
        {
            Some("archived a member's data without an order, or while it is a member")
        }
        Decision::Archive(Reason::Retiring)
            if facts.order != OrderFact::Stop
                || facts.archive != ArchiveFact::AlsoUnremoved
                || (facts.identity, facts.data) != (IdentityFact::Known, DataFact::Mine) =>
        {
            Some("retired a member that is not to stop, or without an order that says so, or other data")
        }
        Decision::Archive(_) if facts.disk == Disk::Missing => Some("archived on a disk that is missing"),
        Decision::RecordRemoval(_) if facts.peers != PeersFact::NotListed || facts.data != DataFact::Mine => {
            Some("took a member for removed without a linearizable answer")
        }
        Decision::Start(_)
        | Decision::Join(_)
        | Decision::Bootstrap(_)
        | Decision::Archive(_)
        | Decision::Wait(_)
        | Decision::Refuse(_)
        | Decision::Stop(_)
        | Decision::RecordRemoval(_)
        | Decision::AwaitDisk(_) => None,
    }
}

#[test]
fn no_facts_lead_to_a_catastrophe() {
    for facts in all() {
        let decision = decide(&facts);
        assert_eq!(catastrophe(&facts, decision), None, "{decision:?} from {facts:?}");
    }
}

#[test]
fn the_check_for_catastrophes_sees_them() {
    let cases = [
        (BASE, Decision::Join(Reason::Joining)),
        (BASE, Decision::Start(Reason::ColdStart)),
        (BASE, Decision::Bootstrap(Reason::Bootstrapping)),
        (Facts { data: DataFact::Foreign, ..BASE }, Decision::Archive(Reason::ArchivingForeign)),
        (Facts { data: DataFact::Mine, identity: IdentityFact::Removed, ..BASE }, Decision::Start(Reason::Listed)),
        (
            Facts { peers: PeersFact::Started, data: DataFact::Mine, log: LogFact::Behind, ..BASE },
            Decision::Start(Reason::Listed),
        ),
        (Facts { peers: PeersFact::Unstarted, history: History::RanHere, ..BASE }, Decision::Join(Reason::Joining)),
    ];
    for (facts, decision) in cases {
        assert!(catastrophe(&facts, decision).is_some(), "{facts:?} {decision:?}");
    }
}

#[test]
fn a_member_with_its_data_starts_unless_the_cluster_says_that_it_is_gone_or_was_further() {
    for facts in all() {
        let healthy = facts.disk == Disk::Right
            && facts.order == OrderFact::Run
            && facts.identity == IdentityFact::Known
            && facts.data == DataFact::Mine
            && !matches!(facts.peers, PeersFact::NotListed | PeersFact::Superseded)
            && facts.log == LogFact::Whole;
        if healthy {
            assert!(matches!(decide(&facts), Decision::Start(_)), "{facts:?}");
        }
    }
}

#[test]
fn each_reason_has_its_own_word_and_message() {
    let words: BTreeSet<String> = Reason::ALL.iter().map(ToString::to_string).collect();
    let messages: BTreeSet<&str> = Reason::ALL.iter().map(|r| r.message()).collect();
    assert_eq!((words.len(), messages.len()), (Reason::ALL.len(), Reason::ALL.len()));
    for facts in all() {
        assert!(Reason::ALL.contains(&decide(&facts).reason()));
    }
}
