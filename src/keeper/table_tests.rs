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
          permission: PermissionFact, archive: ArchiveFact);
    assert_eq!(all.len(), 2 * 4 * 3 * 3 * 4 * 4 * 2 * 2);
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
                || facts.archive != ArchiveFact::Ordered =>
        {
            Some("archived a member's data without an order, or while it is a member")
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
        (Facts { peers: PeersFact::Unstarted, history: History::RanHere, ..BASE }, Decision::Join(Reason::Joining)),
    ];
    for (facts, decision) in cases {
        assert!(catastrophe(&facts, decision).is_some(), "{facts:?} {decision:?}");
    }
}

#[test]
fn a_member_with_its_data_starts_unless_the_cluster_says_that_it_is_gone() {
    for facts in all() {
        let healthy = facts.disk == Disk::Right
            && facts.order == OrderFact::Run
            && facts.identity == IdentityFact::Known
            && facts.data == DataFact::Mine
            && facts.peers != PeersFact::NotListed;
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
