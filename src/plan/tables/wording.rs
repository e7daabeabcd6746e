//! What a human reads: members by the ID that etcdctl takes, nodes by name.

use super::*;

#[test]
fn a_member_is_named_by_the_sixteen_hex_digits_that_etcdctl_takes() {
    let mut o = seated(3);
    members(&mut o).push(EtcdMember {
        id: MemberId(0x8e9e_05c5_2164_694d),
        name: String::new(),
        peer_urls: vec!["https://10.9.9.9:2380".into(), "https://10.9.9.10:2380".into()],
        is_learner: true,
        health: EtcdHealth::Unknown,
    });
    let seen = "8e9e05c52164694d (https://10.9.9.9:2380,https://10.9.9.10:2380)";
    holds(&o, HoldReason::UnknownMember, seen);
    // etcd prints no zeros in front of an ID, and takes it with and without them.
    assert_eq!(MemberId(0x66).to_string(), "0000000000000066");
}

#[test]
fn a_hold_names_the_node_that_has_to_be_looked_at() {
    let mut o = joined(3, 1);
    list(&mut o, 2, learner(EtcdHealth::Unknown));
    o.seats[1].keeper = KeeperView::Refused { reason: "DataInUse".into(), message: "another etcd has it".into() };
    holds(&o, HoldReason::MemberRefused, "the keeper on cp2 refuses to start etcd: DataInUse: another etcd has it");
}

#[test]
fn a_promotion_that_is_not_allowed_names_member_and_node() {
    let mut o = joined(3, 0);
    list(&mut o, 1, learner(follower()));
    members(&mut o)[0].health = EtcdHealth::Unknown;
    holds(&o, HoldReason::ToleranceTooLow, "promoting 0000000000000001 on cp1");
}
