//! Whose data this node is to serve, and the IDs that etcd gives to a new cluster.

use etcd_operator_etcd::ids::{ClusterId, MemberId};
use etcd_operator_etcd::wal::Owner;
use sha1::{Digest, Sha1};

use crate::contract::{Identity, Order, State};

/// The newest identity record: the order's, or the keeper's own (of this lineage and member name), whichever has the higher sequence.
#[must_use]
pub fn newest(order: &Order, state: &State) -> Option<Owner> {
    let ordered = owner(order.cluster_id.as_deref(), order.member_id.as_deref());
    let own = state
        .identity
        .as_ref()
        .filter(|own| own.lineage == order.lineage && (own.member_name.is_empty() || own.member_name == order.member_name))
        .and_then(|own| Some((own.sequence, owner(Some(&own.cluster_id), Some(&own.member_id))?)));
    match (ordered, own) {
        (Some(_), Some((sequence, own))) if sequence > order.sequence => Some(own),
        (Some(ordered), _) => Some(ordered),
        (None, own) => own.map(|(_, own)| own),
    }
}

/// The IDs of a record.
#[must_use]
pub fn of(record: &Identity) -> Option<Owner> {
    owner(Some(&record.cluster_id), Some(&record.member_id))
}

/// The cluster that the order or the identity names: only its answers count.
#[must_use]
pub fn cluster(order: &Order, identity: Option<Owner>) -> Option<ClusterId> {
    identity.map(|i| i.cluster).or_else(|| order.cluster_id.as_deref()?.parse().ok())
}

fn owner(cluster: Option<&str>, member: Option<&str>) -> Option<Owner> {
    Some(Owner { cluster: cluster?.parse().ok()?, member: member?.parse().ok()? })
}

/// The IDs that etcd gives to a new cluster of one member (`computeMemberID`, `genID`): they must be on disk before it starts, so
/// that a power cut cannot leave data that nobody owns.
#[must_use]
pub fn of_new_cluster(peer_url: &str, token: &str) -> Owner {
    let member = first_eight(&Sha1::digest(format!("{peer_url}{token}")));
    let cluster = first_eight(&Sha1::digest(member.to_be_bytes()));
    Owner { cluster: ClusterId(cluster), member: MemberId(member) }
}

fn first_eight(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::order::tests::order;

    fn own(lineage: u64, sequence: u64, name: &str) -> State {
        let identity = Identity { lineage, sequence, cluster_id: "c2".into(), member_id: "a2".into(), member_name: name.into() };
        State { identity: Some(identity), ..State::default() }
    }

    #[test]
    fn the_record_with_the_higher_sequence_of_the_same_lineage_and_member_counts() {
        let ordered = Owner { cluster: ClusterId(0xc1), member: MemberId(0xa1) };
        let mine = Owner { cluster: ClusterId(0xc2), member: MemberId(0xa2) };
        let order = order(2, 5);
        assert_eq!(newest(&order, &State::default()), Some(ordered));
        assert_eq!(newest(&order, &own(2, 5, "cp1-1")), Some(ordered));
        assert_eq!(newest(&order, &own(2, 6, "cp1-1")), Some(mine));
        assert_eq!(newest(&order, &own(1, 6, "cp1-1")), Some(ordered));
        assert_eq!(newest(&order, &own(2, 6, "cp1-0")), Some(ordered));
        let none = Order { member_id: None, cluster_id: None, ..order };
        assert_eq!(newest(&none, &own(2, 5, "cp1-1")), Some(mine));
        assert_eq!(newest(&none, &own(2, 5, "cp1-0")), None);
        assert_eq!(newest(&none, &State::default()), None);
    }
}
