use etcd_operator_api::member::{EtcdMemberStatus, Role};

use super::*;

fn pod(version: &str) -> Pod {
    Pod { image: format!("registry.example/etcd:v{version}"), ..Pod::default() }
}

/// A member whose order has `ordered`, on whose node the manifest is of `there`.
fn member(ordered: &str, there: &str, runs: Option<bool>, roll_out: Option<&str>) -> EtcdMember {
    let mut member = EtcdMember::new("c-cp1", members::blank("c", "cp1", Role::Member, 1));
    let seat = serde_json::json!({"image": pod(ordered).image, "probePort": 1, "order": {"sequence": 1, "run": "Run",
        "memberName": "cp1-1", "peerURL": "", "clientURL": "", "metricsPort": 1, "clientHttpPort": 1}});
    member.spec.seat = Some(serde_json::from_value(seat).unwrap());
    let order = |id: &str| RollOut { id: id.into(), overruled: false, before: Some(pod("3.6.16")), stays: false };
    member.spec.seat.as_mut().unwrap().roll_out = roll_out.map(order);
    let status = PodStatus { pod: pod(there), runs, message: String::new(), put_away: false };
    member.metadata.generation = Some(1);
    member.status = Some(EtcdMemberStatus { pod: Some(status), observed_generation: Some(1), ..EtcdMemberStatus::default() });
    member
}

#[test]
fn what_the_pod_runs_counts_unless_another_is_ordered() {
    use RunsWith::{Current, Outdated, UnderWay, Unknown};
    let (old, new) = ("3.6.16", "3.6.17");
    let seen = |ordered, there, runs, roll_out| view(&member(ordered, there, runs, roll_out), &pod(new));
    assert_eq!(seen(new, new, Some(true), None), Current);
    assert_eq!(seen(new, new, None, None), Current);
    assert_eq!(seen(old, old, Some(true), None), Outdated);
    // Ordered; brought, and not there yet; there, and not seen to be well.
    assert_eq!(seen(new, old, Some(true), Some("pod-1-x")), UnderWay);
    assert_eq!(seen(new, new, Some(false), Some("pod-1-x")), UnderWay);
    assert_eq!(seen(new, new, Some(true), Some("pod-1-x")), UnderWay);
    // Taken back, but the kubelet may still be at it.
    assert_eq!(seen(old, new, Some(false), None), UnderWay);
    // A keeper that does not say what it runs in is handed over first: else its restart could come while the next one is down.
    assert_eq!(seen(old, old, None, None), Unknown);
    // An agent from before there were roll-outs.
    let mut silent = member(old, old, None, None);
    silent.status = None;
    assert_eq!((view(&silent, &pod(new)), view(&silent, &pod(old))), (Unknown, Current));
    // Nor does one that says nothing, in the middle of it, mean that it is done.
    let mut silent = member(new, old, None, Some("pod-1-x"));
    silent.status = None;
    assert_eq!(view(&silent, &pod(new)), UnderWay);
    // Given back, and the spec is another one by now.
    let mut back = member(old, old, Some(true), Some("pod-1-x"));
    assert_eq!(view(&back, &pod(new)), UnderWay);
    back.spec.seat.as_mut().unwrap().roll_out.as_mut().unwrap().before = None;
    assert_eq!(view(&back, &pod(new)), Outdated);
    // One that has not read what its order is now may still bring the one before.
    let mut behind = member(old, old, Some(true), None);
    behind.metadata.generation = Some(2);
    assert_eq!(view(&behind, &pod(new)), UnderWay);
}

#[test]
fn an_order_is_open_until_the_manifest_is_of_it() {
    assert_eq!(ordered_ms(&member("3.6.17", "3.6.16", Some(true), Some("pod-3e8-x"))), Some(1_000));
    // The kubelet has not acted on it.
    assert_eq!(ordered_ms(&member("3.6.17", "3.6.17", Some(false), Some("pod-3e8-x"))), Some(1_000));
    assert_eq!(ordered_ms(&member("3.6.17", "3.6.17", Some(true), Some("pod-3e8-x"))), None);
    assert_eq!(replaced_ms(&member("3.6.17", "3.6.17", Some(true), Some("pod-3e8-x"))), Some(1_000));
    assert_eq!(replaced_ms(&member("3.6.17", "3.6.16", Some(true), Some("pod-3e8-x"))), None);
    assert_eq!(ordered_ms(&member("3.6.16", "3.6.16", Some(true), None)), None);
}

#[test]
fn taken_back_the_pod_is_the_one_before() {
    let mut seat = member("3.6.17", "3.6.16", Some(true), Some("pod-1-x")).spec.seat.unwrap();
    call_off(&mut seat, None);
    assert_eq!((seat.pod.clone(), seat.roll_out.clone()), (pod("3.6.16"), None));
    call_off(&mut seat, None);
    assert_eq!(seat.pod, pod("3.6.16"));
    // The way back: what runs stays, too.
    let member = member("3.6.16", "3.6.17", Some(true), Some("pod-1-x"));
    let mut seat = member.spec.seat.unwrap();
    seat.roll_out.as_mut().unwrap().before = None;
    call_off(&mut seat, member.status.unwrap().pod.as_ref());
    assert_eq!((seat.pod, seat.roll_out), (pod("3.6.17"), None));
}

#[test]
fn versions_go_up_by_one_minor_and_down_only_where_the_cluster_has_not_gone_up() {
    assert_eq!(skew(&["3.6.16", "3.6.16", "3.6.16"], "3.6.17"), None);
    assert_eq!(skew(&["3.6.17", "3.6.17"], "3.6.16"), None, "a patch back");
    assert_eq!(skew(&["3.5.33"; 3], "3.6.16"), None);
    assert_eq!(skew(&["3.6.16", "3.5.33", "3.6.16"], "3.6.17"), None, "in the middle of it");
    assert_eq!(skew(&["3.6.16", "3.5.33", "3.6.16"], "3.5.33"), None, "the cluster is a 3.5 as long as one member is");
    assert_eq!(skew(&["3.6.16"; 3], "3.7.1"), None);
    let refused = |running: &[&str], wanted| skew(running, wanted).unwrap();
    assert!(refused(&["3.5.33"; 3], "3.7.1").contains("set spec.version to 3.6.x first"));
    assert!(refused(&["3.7.1", "3.5.33"], "3.7.1").contains("3.6.x first"));
    assert_eq!(skew(&["3.7.1", "3.7.1", "3.7.3"], "3.6.16"), None, "down by one, once the data is converted");
    assert_eq!(skew(&["3.6.16"; 3], "3.5.33"), None);
    assert!(refused(&["3.7.1"; 3], "3.5.33").contains("set spec.version to 3.6.x"));
    assert!(refused(&["3.7.1", "3.6.16"], "3.5.33").contains("set spec.version to 3.6.x first"), "not two at once");
    assert!(refused(&["3.6.16"; 3], "4.0.0").contains("3.7.x first"));
    assert!(refused(&["3.5.21"; 3], "3.6.16").contains("3.5.26 or a later patch of it first"));
    assert!(refused(&["3.5.33"; 3], "3.5.9").contains("oldest"));
    assert!(refused(&["3.5.33"; 3], "latest").contains("such as 3.6.16"));
    assert_eq!(skew(&[], "3.6.16"), None, "nobody answers: no restart either");
}

#[test]
fn data_is_read_by_an_etcd_that_is_not_older_than_it() {
    let status = |version: &str, storage: &str, downgrade: Option<&str>| {
        let ids = (etcd_operator_etcd::ids::ClusterId(1), MemberId(2));
        MemberStatus {
            cluster_id: ids.0,
            member_id: ids.1,
            version: version.into(),
            leader: None,
            raft_term: 1,
            raft_index: 1,
            applied_index: 1,
            revision: 1,
            db_size: 0,
            is_learner: false,
            errors: Vec::new(),
            storage_version: storage.into(),
            downgrade: downgrade.map(str::to_owned),
        }
    };
    let reads = |wanted: &str, version: &str, storage: &str, downgrade: Option<&str>, pinned: bool| {
        reads(wanted, &status(version, storage, downgrade), pinned)
    };
    assert!(reads("3.6.16", "3.6.17", "3.6.0", None, true), "a patch back");
    assert!(reads("3.7.1", "3.6.17", "3.6.0", None, true));
    for (downgrade, pinned) in [(None, false), (None, true), (Some("3.6.0"), false)] {
        assert!(!reads("3.6.16", "3.7.1", "3.7.0", downgrade, pinned));
        let stays = pinned || downgrade.is_some();
        assert_eq!(reads("3.6.16", "3.7.1", "3.6.0", downgrade, pinned), stays, "it may go up in the next moment");
    }
    assert!(!reads("3.6.16", "3.7.1", "3.6.0", Some("3.5.0"), false));
    assert!(!reads("3.5.33", "3.6.16", "", None, true), "what is not known is not read");
    assert!(reads("3.5.33", "3.5.30", "", None, true));
}

#[test]
fn the_pod_before_is_put_back_only_where_its_etcd_can_still_read_the_data() {
    let version = |text: &str| Version::parse(text).unwrap();
    let back = |before, now, others: &[&str]| reads_data(&version(before), &version(now), others.iter().copied());
    assert!(back("3.6.16", "3.6.17", &[]));
    assert!(back("3.6.16", "3.5.33", &["3.5.33"]), "upwards it always can");
    assert!(back("3.5.33", "3.6.17", &["3.6.17", "3.5.33"]));
    assert!(!back("3.5.33", "3.6.17", &["3.6.17", "3.6.17"]), "with the last one the cluster has gone up");
    assert!(!back("3.5.33", "3.6.17", &[]));
}

#[test]
fn an_order_that_is_done_with_goes_and_one_to_go_back_stays() {
    let (old, new) = ("3.6.16", "3.6.17");
    let right = |member: &EtcdMember, is_well| put_right(member, &pod(new), is_well, true, false);
    let at_it = member(new, new, Some(true), Some("pod-1-x"));
    assert_eq!(right(&at_it, false), None);
    assert_eq!(right(&at_it, true).unwrap().roll_out, None);
    // Given back, while the agent still says what did not come up.
    let mut back = member(old, new, Some(true), Some("pod-2-x"));
    let seat = back.spec.seat.as_mut().unwrap();
    (seat.rolled_back, seat.roll_out.as_mut().unwrap().before) = (Some(pod(new)), None);
    assert_eq!(right(&back, false), None);
    // The spec is another one: it is forgiven.
    assert_eq!(put_right(&back, &pod("3.6.18"), false, true, false).unwrap().rolled_back, None);
    // The spec was set back while an order to something else was open: nothing is restarted, and the order is known until it was read.
    let open = member("3.6.18", new, Some(true), Some("pod-1-x"));
    let seat = right(&open, false).unwrap();
    assert_eq!((seat.pod.clone(), seat.roll_out.as_ref().map(|order| order.before.clone())), (pod(new), Some(None)));
    assert!(seat.roll_out.as_ref().unwrap().stays, "it is no leave to replace anything");
    let mut stays = open.clone();
    stays.spec.seat = Some(seat);
    assert_eq!(view(&stays, &pod(new)), RunsWith::UnderWay);
    assert_eq!(right(&stays, false).unwrap().roll_out, None, "read, and that is what runs");
    stays.metadata.generation = Some(2);
    assert_eq!(right(&stays, false), None);
    // It came first.
    stays.metadata.generation = Some(1);
    stays.status.as_mut().unwrap().pod.as_mut().unwrap().pod = pod("3.6.18");
    let came = right(&stays, false).unwrap();
    assert_eq!((came.pod, came.roll_out), (pod("3.6.18"), None));
    // Neither wanted any more, nor well, nor can it go back: the next one takes its place.
    let stuck = member("3.6.18", "3.6.18", Some(false), Some("pod-1-x"));
    assert_eq!(right(&stuck, false), None, "it can go back");
    let given_up = put_right(&stuck, &pod(new), false, false, false).unwrap();
    assert_eq!(given_up.roll_out.as_ref().unwrap().before, None);
    let mut stuck = stuck;
    stuck.spec.seat = Some(given_up);
    assert_eq!(view(&stuck, &pod(new)), RunsWith::Outdated);
    // What was asked for a roll-out goes with it, or with its image.
    let mut asked = member(old, old, Some(true), None);
    let seat = asked.spec.seat.as_mut().unwrap();
    (seat.prove, seat.snapshot) = (Some(pod(new).image), Some("snapshot-1-x".into()));
    assert_eq!(right(&asked, false), None);
    let over = put_right(&asked, &pod(new), false, true, true).unwrap();
    assert_eq!((over.prove, over.snapshot), (None, None));
    let other = put_right(&asked, &pod("3.6.18"), false, true, false).unwrap();
    assert_eq!((other.prove, other.snapshot), (None, None));
}
