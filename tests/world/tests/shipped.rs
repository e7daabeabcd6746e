//! The shipped controller and agents, killed in their calls: before one, after it, with its answer lost, with the power of all nodes.
//!
//! `make test` plays a sample (`WORLD_SEED` replays it), `make soak` all of them (`WORLD_ALL=1`). Between two calls that change something
//! it makes no difference which of many equal looks a process dies in: of each kind the first is taken.
#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "a test ends by it")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use etcd_operator_world::histories::seed;
use etcd_operator_world::shipped::{After, BootIs, Ending, Meanwhile, Tale, When, Who, Wrong, tell};
use etcd_operator_world::{BootHost, Ms, Setup};

/// Tales of one group in the sample.
const SAMPLE: usize = 5;

fn undisturbed(tale: &Tale) -> Ending {
    let ending = tell(tale);
    assert!(ending.complete, "{}", ending.story);
    assert!(ending.violations.is_empty(), "{:?}\n{}", ending.violations, ending.story);
    assert_eq!(ending.failed_writes, 0, "{}", ending.story);
    assert!(ending.restless.is_empty(), "{:?}", ending.restless);
    ending
}

/// Calls at which something is to go wrong: each that changes something; of those that look, the first of each kind in between.
fn points(calls: &[String]) -> Vec<(usize, bool)> {
    let mut kinds = BTreeSet::new();
    let mut points = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let looks = call.starts_with('?');
        if !looks {
            kinds.clear();
        }
        if !looks || kinds.insert(call.clone()) {
            points.push((number, looks));
        }
    }
    points
}

/// Plays tales side by side; each must end well.
fn play(name: &str, mut tales: Vec<Tale>) {
    let all = tales.len();
    if std::env::var_os("WORLD_ALL").is_none() {
        let seed = seed(name);
        let key = |t: &Tale| {
            let text = format!("{seed} {:?} {} {:?}", t.who, t.call, t.wrong);
            text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        };
        tales.sort_by_key(key);
        tales.truncate(SAMPLE);
    }
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let slowest = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(tale) = tales.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ending = tell(tale);
                    slowest.fetch_max(usize::try_from(ending.at).unwrap_or(usize::MAX), Ordering::Relaxed);
                    if let Some(why) = wrong(&ending) {
                        let name = ending.calls.get(&tale.who).and_then(|c| c.get(tale.call)).cloned().unwrap_or_default();
                        let told =
                            format!("{:?} call {} ({name}) {:?}: {why}\n{}", tale.who, tale.call, tale.wrong, ending.story);
                        failed.lock().expect("not poisoned").push(told);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("not poisoned");
    println!("{name}: {} of {all} tales, the longest {} ms", tales.len(), slowest.into_inner());
    assert!(failed.is_empty(), "{} of {} tales end badly; the first:\n{}", failed.len(), tales.len(), failed[0]);
}

fn wrong(ending: &Ending) -> Option<String> {
    if !ending.complete {
        return Some("it never completes".into());
    }
    if !ending.violations.is_empty() {
        return Some(format!("{:?}", ending.violations));
    }
    if at_once(ending) > 1 {
        return Some(format!("keepers of several nodes hand over at once: {:?}", ending.hand_overs));
    }
    (!ending.restless.is_empty()).then(|| format!("no rest: {:?}", ending.restless))
}

fn deaths(reference: &Ending, who: Who, base: &Tale) -> Vec<Tale> {
    let calls = &reference.calls[&who];
    let tales = points(calls).into_iter().flat_map(|(call, looks)| {
        let whens: &[When] = if looks { &[When::Before] } else { &When::ALL };
        whens.iter().map(move |when| (call, *when)).collect::<Vec<_>>()
    });
    tales.map(|(call, when)| Tale { who, call, wrong: Wrong::Process(when), ..base.clone() }).collect()
}

fn power_cuts(reference: &Ending, who: Who, base: &Tale) -> Vec<Tale> {
    let calls = &reference.calls[&who];
    points(calls).into_iter().map(|(call, _)| Tale { who, call, wrong: Wrong::PowerOfAll, ..base.clone() }).collect()
}

/// The pivots to 1 and to 3, undisturbed.
fn pivots() -> &'static [(u32, Tale, Ending)] {
    static PIVOTS: OnceLock<Vec<(u32, Tale, Ending)>> = OnceLock::new();
    PIVOTS.get_or_init(|| {
        let played = |size| {
            let base = Tale::of(Setup::of(3, size));
            let reference = undisturbed(&base);
            let writes = reference.calls[&Who::Controller(0)].iter().filter(|c| c.starts_with("PUT etcdclusters")).count();
            println!("to {size}: the controller writes the EtcdCluster's status {writes} times");
            (size, base, reference)
        };
        [1, 3].map(played).into()
    })
}

#[test]
fn the_controller_dies_in_each_of_its_calls() {
    for (size, base, reference) in pivots() {
        play(&format!("controller, to {size}"), deaths(reference, Who::Controller(0), base));
    }
}

#[test]
fn the_agent_of_boots_node_dies_in_each_of_its_calls() {
    for (size, base, reference) in pivots() {
        play(&format!("boot's agent, to {size}"), deaths(reference, Who::Agent(0), base));
    }
}

#[test]
fn all_nodes_lose_power_at_each_call() {
    for (size, base, reference) in pivots() {
        let mut tales = power_cuts(reference, Who::Controller(0), base);
        tales.extend(power_cuts(reference, Who::Agent(0), base));
        play(&format!("power, to {size}"), tales);
    }
}

#[test]
fn two_controllers_lead_and_one_dies() {
    let base = Tale { two_controllers: true, ..Tale::of(Setup::of(3, 3)) };
    let reference = undisturbed(&base);
    play("two controllers", deaths(&reference, Who::Controller(0), &base));
}

#[test]
fn a_boot_that_is_a_plain_process_is_stopped_by_its_command_whoever_dies() {
    for (size, boot) in [(1, BootHost::Node(0)), (3, BootHost::Node(0)), (3, BootHost::Elsewhere)] {
        let base = Tale { boot_is: BootIs::Process, ..Tale::of(Setup { boot, ..Setup::of(3, size) }) };
        let reference = undisturbed(&base);
        let calls: Vec<&String> = reference.calls[&Who::Installer].iter().filter(|call| !call.starts_with('?')).collect();
        let patch = format!("PATCH etcdclusters/{}", etcd_operator_world::shipped::CLUSTER);
        assert_eq!(calls, ["drain", &patch, "kill", &patch], "{}", reference.story);
        assert!(!reference.story.contains("started again"), "{}", reference.story);
        // Where nobody counts boot's clients a pivot takes minutes of simulated time, and does the same else.
        if boot != BootHost::Elsewhere {
            play(&format!("the pivot command, to {size}"), deaths(&reference, Who::Installer, &base));
            play(&format!("the controller of a boot by command, to {size}"), deaths(&reference, Who::Controller(0), &base));
        }
    }
}

#[test]
fn a_boot_whose_command_nobody_runs_stays_and_is_held_with_the_way_out() {
    for size in [1, 3] {
        let ending = tell(&Tale { boot_is: BootIs::ForgottenProcess, ..Tale::of(Setup::of(3, size)) });
        assert!(!ending.complete && ending.violations.is_empty(), "{:?}\n{}", ending.violations, ending.story);
        assert!(ending.story.contains("BootCommandMissing") && ending.story.contains("--boot-command"), "{}", ending.story);
        assert_eq!(ending.failed_writes, 0, "{}", ending.story);
        // One order, and no end of tries.
        let calls = &ending.calls[&Who::Controller(0)];
        let writes = calls.iter().filter(|call| call.starts_with("PUT etcdclusters")).count();
        assert!(writes < 100, "{writes} writes of the status: {}", ending.story);
        assert_eq!(calls.iter().filter(|call| *call == "MemberRemove").count(), usize::from(size == 1), "{}", ending.story);
    }
}

#[test]
fn a_boot_that_advertises_a_name_is_held_and_nothing_is_joined_to_it() {
    let ending = tell(&Tale { boot_peer_url: Some("https://boot.example:12380"), ..Tale::of(Setup::of(3, 3)) });
    assert!(!ending.complete);
    let words = "boot's peer URL is https://boot.example:12380; it must be https://<IP>:<port>";
    assert!(ending.story.contains(words) && ending.story.contains("etcdctl member update"), "{}", ending.story);
    assert!(ending.calls.values().flatten().all(|call| !call.starts_with("Member")), "{:?}", ending.calls);
}

/// What a tale with a slow learner must say of it.
fn evictions(ending: &Ending) -> Vec<&String> {
    ending.events.iter().filter(|e| e.starts_with("EvictLearner")).collect()
}

#[test]
fn a_learner_on_a_dead_link_is_given_up_for_another_node() {
    let ending = undisturbed(&Tale { slow: Some((1, 0, Ms::MAX)), ..Tale::of(Setup::of(4, 3)) });
    assert_eq!(ending.members, ["cp1-1", "cp3-1", "cp4-1"], "{}", ending.story);
    assert!(matches!(evictions(&ending)[..], [e] if e.contains("cp2") && e.contains("port 2380")), "{:?}", ending.events);
    assert!((120_000..300_000).contains(&ending.at), "{} ms", ending.at);
}

#[test]
fn a_learner_on_the_only_node_that_is_left_is_tried_there_again_under_a_new_name() {
    for size in [1, 3] {
        let nodes = size as usize;
        let node = nodes.min(2) - 1;
        let ending = undisturbed(&Tale { slow: Some((node, 0, 165_000)), ..Tale::of(Setup::of(nodes, size)) });
        let wanted: &[&str] = if size == 1 { &["cp1-2"] } else { &["cp1-1", "cp2-2", "cp3-1"] };
        let members: BTreeSet<&str> = ending.members.iter().map(String::as_str).collect();
        assert_eq!(members, wanted.iter().copied().collect(), "{}", ending.story);
        assert_eq!(evictions(&ending).len(), 1, "{:?}", ending.events);
        assert!(!ending.story.contains("\"evicted\""), "who votes is forgiven: {}", ending.story);
    }
}

#[test]
fn a_learner_whose_data_grows_is_waited_for_however_long_it_takes() {
    // 120 entries a second, of which 20 are new ones: the 20,000 take 200 s, in which its etcd says nothing.
    let ending = undisturbed(&Tale { slow: Some((1, 120, Ms::MAX)), ..Tale::of(Setup::of(4, 3)) });
    assert_eq!(ending.members, ["cp1-1", "cp2-1", "cp3-1"], "{}", ending.story);
    assert!(evictions(&ending).is_empty() && ending.at > 200_000, "{} ms: {:?}", ending.at, ending.events);
}

#[test]
fn the_controller_dies_in_each_call_around_an_eviction() {
    let base = Tale { slow: Some((1, 0, Ms::MAX)), ..Tale::of(Setup::of(4, 3)) };
    let reference = undisturbed(&base);
    let calls = &reference.calls[&Who::Controller(0)];
    let first = calls.iter().position(|c| c == "MemberRemove").expect("an eviction");
    let around = first.saturating_sub(3)..first + 12;
    let tales = deaths(&reference, Who::Controller(0), &base).into_iter().filter(|t| around.contains(&t.call)).collect();
    play("eviction", tales);
}

/// The operator is upgraded after a pivot to 3.
fn upgrade() -> &'static (Tale, Ending) {
    static UPGRADE: OnceLock<(Tale, Ending)> = OnceLock::new();
    UPGRADE.get_or_init(|| {
        let base = Tale { after: After::Upgrade, ..Tale::of(Setup::of(3, 3)) };
        let reference = undisturbed(&base);
        (base, reference)
    })
}

#[test]
fn after_an_upgrade_keepers_hand_over_one_at_a_time_and_no_etcd_restarts() {
    let (_, ending) = upgrade();
    assert_eq!(ending.etcd_restarts, 0, "{}", ending.story);
    let spells: Vec<&Vec<usize>> = ending.hand_overs.iter().filter(|nodes| !nodes.is_empty()).collect();
    assert_eq!(spells, [&vec![0], &vec![1], &vec![2]], "{}", ending.story);
}

#[test]
fn whoever_dies_during_an_upgrade_all_keepers_are_handed_over_one_at_a_time() {
    let (base, reference) = upgrade();
    let mut tales = deaths(reference, Who::Controller(0), base);
    tales.extend(deaths(reference, Who::Agent(1), base));
    tales.extend(power_cuts(reference, Who::Controller(0), base));
    play("upgrade, to 3", tales);
}

#[test]
fn two_controllers_hand_over_one_keeper_at_a_time() {
    let ending = undisturbed(&Tale { after: After::Upgrade, two_controllers: true, ..Tale::of(Setup::of(3, 3)) });
    assert_eq!((ending.etcd_restarts, at_once(&ending)), (0, 1), "{:?}", ending.hand_overs);
}

/// How many keepers handed over at the same time.
fn at_once(ending: &Ending) -> usize {
    ending.hand_overs.iter().map(Vec::len).max().unwrap_or(0)
}

/// What happens after the pivot, with so many nodes and this size before.
const CHANGES: [(usize, u32, After); 15] = [
    (3, 1, After::Scale(3)),
    (3, 3, After::Scale(1)),
    (3, 3, After::Settings),
    (3, 3, After::Version),
    (3, 3, After::BadVersion),
    (3, 3, After::Downgrade(None)),
    (4, 3, After::Gone(1)),
    (3, 3, After::Wipe(0)),
    (3, 3, After::Wipe(2)),
    (3, 3, After::Corrupt { node: 0, is_named: true }),
    (3, 3, After::Corrupt { node: 2, is_named: false }),
    (3, 3, After::Moved(2)),
    (3, 3, After::Restored { earlier_members: false }),
    (3, 3, After::Restored { earlier_members: true }),
    (3, 3, After::Blank),
];

#[test]
fn while_etcd_refuses_every_write_the_member_with_another_store_goes_and_an_event_tells_of_it() {
    for is_named in [true, false] {
        let ending = tell(&Tale { after: After::Corrupt { node: 1, is_named }, ..Tale::of(Setup::of(3, 3)) });
        assert_eq!(wrong(&ending), None, "{}", ending.story);
        assert_eq!(ending.members.iter().filter(|name| *name == "cp2-2").count(), 1, "{:?}", ending.members);
        for reason in ["RemoveCorrupt", "DisarmCorrupt"] {
            assert_eq!(ending.events.iter().filter(|event| event.starts_with(reason)).count(), 1, "{:?}", ending.events);
        }
        let calls = &ending.calls[&Who::Controller(0)];
        let count = |call: &str| calls.iter().filter(|one| *one == call).count();
        assert_eq!((count("MemberRemove"), count("Alarm")), (1, 1), "{calls:?}");
    }
}

#[test]
fn a_member_whose_node_has_another_address_stays_the_one_that_it_was() {
    for node in [1, 2] {
        let ending = tell(&Tale { after: After::Moved(node), ..Tale::of(Setup::of(3, 3)) });
        assert_eq!(wrong(&ending), None, "{}", ending.story);
        assert_eq!(ending.members, ["cp1-1", "cp2-1", "cp3-1"], "{}", ending.story);
        let changes = |call: &&String| call.starts_with("Member") && !call.starts_with("MemberList");
        assert_eq!(ending.calls[&Who::Controller(0)].iter().filter(changes).collect::<Vec<_>>(), ["MemberUpdate"]);
        assert_eq!(ending.events.iter().filter(|event| event.starts_with("Readdress")).count(), 1, "{:?}", ending.events);
    }
}

/// A cluster that begins anew, beside the API.
fn standalone(nodes: usize, size: u32, after: After) -> Tale {
    Tale { standalone: true, after, ..Tale::of(Setup::of(nodes, size)) }
}

#[test]
fn a_cluster_without_boot_begins_once_and_ends_in_the_archives() {
    for size in [1, 3] {
        let ending = undisturbed(&standalone(3, size, After::Deleted));
        let calls = &ending.calls[&Who::Controller(0)];
        assert!(calls.iter().all(|call| !call.starts_with("Member") || call.starts_with("MemberList")), "{calls:?}");
    }
}

#[test]
fn whoever_dies_a_cluster_without_boot_begins_once() {
    for after in [After::Nothing, After::Scale(1), After::Wipe(1), After::Deleted] {
        let base = standalone(3, 3, after);
        let reference = tell(&base);
        assert_eq!(wrong(&reference), None, "{after:?}: {}", reference.story);
        let mut tales = deaths(&reference, Who::Controller(0), &base);
        tales.extend(deaths(&reference, Who::Agent(0), &base));
        tales.extend(power_cuts(&reference, Who::Controller(0), &base));
        play(&format!("without boot, {after:?}"), tales);
        let ending = tell(&Tale { two_controllers: true, ..base });
        assert_eq!(wrong(&ending), None, "{after:?}: {}", ending.story);
    }
}

#[test]
fn etcd_members_from_a_backup_stop_nothing_and_say_what_is_there_again() {
    for after in [After::Restored { earlier_members: false }, After::Restored { earlier_members: true }, After::Blank] {
        let ending = undisturbed(&Tale { after, ..Tale::of(Setup::of(3, 3)) });
        assert_eq!(ending.members, ["cp1-1", "cp2-1", "cp3-1"], "{after:?}: {}", ending.story);
        assert_eq!(ending.etcd_restarts, 0, "{after:?}: {}", ending.story);
    }
}

#[test]
fn a_downgrade_that_is_disturbed_ends_with_members_that_can_read_their_data() {
    // Looked at before and after the conversion, and between two restarts (each 150 s after the one before).
    for at in [3_000, 12_000, 20_000, 30_000, 100_000, 170_000, 300_000] {
        for what in [Meanwhile::Back, Meanwhile::Wipe(1), Meanwhile::Wipe(2)] {
            let ending = tell(&Tale { after: After::Downgrade(Some((at, what))), ..Tale::of(Setup::of(3, 3)) });
            assert_eq!(wrong(&ending), None, "{at} ms, {what:?}: {}", ending.story);
        }
    }
}

#[test]
fn a_change_of_size_and_a_lost_member_end_as_wanted_whoever_dies() {
    // By its name, for whoever works on one of them.
    let only = std::env::var("WORLD_CHANGE").unwrap_or_default();
    for (nodes, size, after) in CHANGES.into_iter().filter(|(.., after)| format!("{after:?}").contains(&only)) {
        let base = Tale { after, ..Tale::of(Setup::of(nodes, size)) };
        let reference = tell(&base);
        assert_eq!(wrong(&reference), None, "{after:?}: {}", reference.story);
        // A member that dies takes its connections with it.
        let dies = matches!(after, After::Gone(_) | After::Wipe(_) | After::Corrupt { .. } | After::Moved(_));
        assert!(dies || reference.failed_writes == 0, "{after:?}: {}", reference.story);
        let mut tales = deaths(&reference, Who::Controller(0), &base);
        tales.extend(deaths(&reference, Who::Agent(2), &base));
        tales.extend(power_cuts(&reference, Who::Controller(0), &base));
        play(&format!("{after:?}, from {size}"), tales);
    }
}

#[test]
fn two_controllers_change_the_size_and_replace_members_together() {
    for (nodes, size, after) in CHANGES {
        let ending = tell(&Tale { after, two_controllers: true, ..Tale::of(Setup::of(nodes, size)) });
        assert_eq!(wrong(&ending), None, "{after:?}: {}", ending.story);
    }
}
