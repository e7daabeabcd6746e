//! Nodes that have got another address, or that of another's member.

use super::*;

const TO: &str = "https://10.0.9.3:2380";

fn to(url: &str) -> Address {
    Address::Moved { to: url.into() }
}

fn readdresses(o: &Observed) {
    does(o, Step::Readdress { node: name(3), member: Some(id(3)) });
}

/// Of so many voters, of which the first leads, the third is down for as long: its node is elsewhere.
fn moved(size: u32, down_for_ms: u64) -> Observed {
    let mut o = after_the_pivot(size);
    member(&mut o, 3).health = EtcdHealth::Unknown;
    (o.seats[2].address, o.seats[2].down_since_ms) = (to(TO), Some(NOW - down_for_ms));
    o.seats[2].keeper = KeeperView::Waiting { reason: "EtcdExited".into() };
    o
}

/// A fourth node's seat has no member yet, and is at this URL.
fn with_a_fourth_at(o: &mut Observed, url: &str) {
    o.spec.size = 4;
    o.seats.push(Seat { peer_url: url.into(), ..seat(4) });
}

#[test]
fn a_voter_goes_with_its_node_once_it_has_been_down_for_ten_seconds() {
    readdresses(&moved(3, 10_000));
    waits(&moved(3, 9_999), WaitFor::VotersHealthy);
    let mut o = moved(3, 60_000);
    // etcd has been told already.
    member(&mut o, 3).peer_urls = vec![TO.into()];
    o.seats[2].peer_url = TO.into();
    readdresses(&o);
    o.seats[2].address = Address::Right;
    waits(&o, WaitFor::VotersHealthy);
}

#[test]
fn one_that_answers_is_left_alone() {
    let mut o = moved(3, 60_000);
    member(&mut o, 3).health = EtcdHealth::Unhealthy;
    waits(&o, WaitFor::VotersHealthy);
    member(&mut o, 3).health = follower();
    assert_eq!(plan(&o), Plan::Done);
}

#[test]
fn etcds_list_is_put_right_where_a_member_is_not_where_it_says() {
    // etcd was told, and then the node had its address again; or a human has told it something else.
    for health in [follower(), EtcdHealth::Unknown] {
        let mut o = moved(3, 60_000);
        o.seats[2].address = Address::Mislisted;
        member(&mut o, 3).health = health;
        readdresses(&o);
        member(&mut o, 3).is_learner = true;
        assert!(!matches!(plan(&o), Plan::Do(Step::Readdress { .. })), "a learner would be taken for a voter");
    }
}

#[test]
fn not_without_its_agent_nor_without_a_quorum_of_the_others() {
    let mut o = moved(3, 60_000);
    o.nodes[2].agent = AgentView::Silent;
    waits(&o, WaitFor::VotersHealthy);
    let mut o = moved(3, 60_000);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    waits(&o, WaitFor::VotersHealthy);
    // Two of five.
    let mut o = moved(5, 60_000);
    member(&mut o, 2).health = EtcdHealth::Unknown;
    readdresses(&o);
}

#[test]
fn a_learner_is_never_updated_and_gives_up_its_place_after_its_patience() {
    let mut o = moved(3, 60_000);
    member(&mut o, 3).is_learner = true;
    waits(&o, WaitFor::LearnerStarts);
    o.seats[2].no_progress_since_ms = Some(NOW - o.learner_patience_ms);
    does(&o, Step::Evict { node: name(3), member: id(3) });
}

#[test]
fn a_seat_that_no_member_has_yet_is_corrected_before_its_learner_is_added() {
    let mut o = after_the_pivot(3);
    with_a_fourth_at(&mut o, "https://10.0.0.4:2380");
    o.seats[3].address = to("https://10.0.9.4:2380");
    does(&o, Step::Readdress { node: name(4), member: None });
    o.seats[3].address = Address::Right;
    does(&o, Step::AddLearner { node: name(4) });
}

#[test]
fn a_seat_is_never_told_to_run_as_the_member_of_another() {
    // The node has got the address of a member that is off.
    let mut o = moved(3, 60_000);
    o.seats[2].address = Address::Right;
    with_a_fourth_at(&mut o, "https://10.0.0.4:2380");
    o.seats[3].address = to(&url(3));
    // Held only where nothing else would be done: etcd takes no learner beside one of three that is down.
    holds(&o, HoldReason::MemberDown, "https://10.0.0.3:2380 is that of 0000000000000003");
    // Or had it first, as an order that is out of date.
    let mut o = after_the_pivot(3);
    with_a_fourth_at(&mut o, &url(3));
    o.seats[3].url_of = Some(id(3));
    holds(&o, HoldReason::MemberDown, "which etcd lists for 0000000000000003 on another node");
    // It holds up no other.
    o.spec.size = 5;
    o.seats.push(seat(5));
    does(&o, Step::AddLearner { node: name(5) });
    // Nor is a seat given there.
    let mut o = after_the_pivot(3);
    o.spec.size = 4;
    o.nodes[3].is_taken = true;
    does(&o, Step::AssignSeats { nodes: vec![name(5)] });
}

#[test]
fn an_address_that_another_has_is_held_and_holds_up_no_other() {
    let mut o = moved(3, 60_000);
    member(&mut o, 2).peer_urls.push(TO.into());
    holds(&o, HoldReason::MemberDown, "https://10.0.9.3:2380 is that of 0000000000000002");
    // A seat that waits, with an order that is out of date.
    let mut o = moved(3, 60_000);
    with_a_fourth_at(&mut o, TO);
    holds(&o, HoldReason::MemberDown, "https://10.0.9.3:2380 is that of the seat of cp4");
    // Nor the next one that has moved.
    let mut o = moved(5, 60_000);
    member(&mut o, 3).peer_urls.push("https://10.0.9.2:2380".into());
    member(&mut o, 2).health = EtcdHealth::Unknown;
    (o.seats[1].address, o.seats[1].down_since_ms) = (to("https://10.0.9.2:2380"), Some(NOW - 60_000));
    readdresses(&o);
    // What is lost is replaced beside it.
    let mut o = moved(5, 60_000);
    member(&mut o, 5).health = EtcdHealth::Unknown;
    o.seats[4].keeper = KeeperView::Refused { reason: "DataLost".into(), message: "gone".into() };
    does(&o, Step::RemoveMember { node: name(5), member: id(5) });
}
