//! Random histories: what happens, in which order, to which setup. A failing one is shrunk, and told with its seed.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::{AtSignal, BootHost, Edit, Event, Fault, Interrupt, Setup, Sight};

/// How a history may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishaps {
    /// Everything: power, agents, killed processes, crashes, lost answers, stale caches, two controllers, edits.
    All,
    /// Two controllers, stale caches, muted members, edits; but nothing dies.
    OnlyConfusion,
}

/// The runner of a property: `WORLD_CASES` histories (default `cases`), from `WORLD_SEED` (default: the time, printed).
#[must_use]
pub fn runner(name: &str, cases: u32) -> TestRunner {
    let number = |key: &str| std::env::var(key).ok().and_then(|v| v.parse::<u64>().ok());
    let cases = number("WORLD_CASES").and_then(|n| u32::try_from(n).ok()).unwrap_or(cases);
    println!("{name}: WORLD_CASES={cases}");
    let seed = seed(name);
    let mut bytes = [0_u8; 32];
    for (byte, value) in bytes.iter_mut().zip(seed.to_le_bytes()) {
        *byte = value;
    }
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 3_000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// The seed of a sample: `WORLD_SEED`, else a fresh one; printed.
#[must_use]
pub fn seed(name: &str) -> u64 {
    let seed = std::env::var("WORLD_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or_else(fresh_seed);
    println!("{name}: WORLD_SEED={seed}");
    seed
}

fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 16
}

/// Setups of 1 to 5 nodes, any size that fits, boot on any node or on none.
pub fn setups() -> impl Strategy<Value = Setup> {
    (1_usize..=5).prop_flat_map(|nodes| {
        let top = u32::try_from(nodes).unwrap_or(5);
        let boot = prop_oneof![5 => (0..nodes).prop_map(BootHost::Node), 1 => Just(BootHost::Elsewhere)];
        (1..=top, boot, 0_u32..10).prop_map(move |(size, boot, refused_before)| Setup {
            boot,
            refused_before,
            ..Setup::of(nodes, size)
        })
    })
}

/// Histories of 10 to 80 events.
pub fn histories(mishaps: Mishaps) -> impl Strategy<Value = Vec<Event>> {
    let event = match mishaps {
        Mishaps::All => all().boxed(),
        Mishaps::OnlyConfusion => confusion().boxed(),
    };
    prop::collection::vec(event, 10..80)
}

fn all() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => confusion(),
        2 => (50_u64..1_500).prop_map(|ms| Event::Wait { ms }),
        3 => (who(), sights(), interrupts()).prop_map(|(who, sight, interrupt)| Event::Pass { who, sight, interrupt }),
        2 => at_signal().prop_map(Event::AtSignal),
        1 => who().prop_map(|who| Event::Crash { who }),
        2 => faults().prop_map(Event::Fault),
    ]
}

fn confusion() -> impl Strategy<Value = Event> {
    prop_oneof![
        24 => who().prop_map(|who| Event::Pass { who, sight: Sight::default(), interrupt: Interrupt::None }),
        3 => (who(), sights()).prop_map(|(who, sight)| Event::Pass { who, sight, interrupt: Interrupt::None }),
        2 => (who(), 10_u32..200).prop_map(|(who, passes)| Event::ToRemoval { who, passes }),
        2 => (who(), sights()).prop_map(|(who, sight)| Event::Think { who, sight }),
        2 => who().prop_map(|who| Event::Act { who }),
        5 => waits(),
        1 => edits().prop_map(Event::Edit),
    ]
}

fn who() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0_usize), 1 => Just(1_usize)]
}

fn waits() -> impl Strategy<Value = Event> {
    prop_oneof![4 => 50_u64..1_000, 3 => 1_000_u64..8_000, 1 => 8_000_u64..150_000].prop_map(|ms| Event::Wait { ms })
}

fn sights() -> impl Strategy<Value = Sight> {
    (prop::bool::weighted(0.2), prop_oneof![1 => Just(0_u8), 2 => 0_u8..64], any::<bool>())
        .prop_map(|(no_etcd, mute, stale_api)| Sight { no_etcd, mute, stale_api })
}

fn interrupts() -> impl Strategy<Value = Interrupt> {
    prop_oneof![Just(Interrupt::AnswerLost), Just(Interrupt::CrashBefore), Just(Interrupt::CrashAfter)]
}

fn at_signal() -> impl Strategy<Value = AtSignal> {
    prop_oneof![
        Just(AtSignal::Crash),
        (100_u64..15_000).prop_map(AtSignal::Pause),
        faults().prop_map(AtSignal::CrashAnd),
        faults().prop_map(AtSignal::And),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => (0_usize..5).prop_map(Fault::PowerCut),
        4 => (0_usize..5).prop_map(Fault::PowerOn),
        1 => Just(Fault::PowerCutAll),
        2 => Just(Fault::KillBoot),
        2 => (0_usize..5).prop_map(Fault::KillEtcd),
        1 => (0_usize..5).prop_map(Fault::AgentDies),
        2 => (0_usize..5).prop_map(Fault::AgentBack),
        1 => (0_usize..5).prop_map(Fault::Cordon),
        1 => (0_usize..5).prop_map(Fault::NotReady),
        2 => (0_usize..5).prop_map(Fault::Wipe),
        3 => (0_usize..5).prop_map(Fault::Starve),
        1 => (0_usize..5).prop_map(Fault::Feed),
    ]
}

fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![3 => (1_u32..=5).prop_map(Edit::Size), 2 => Just(Edit::Hold), 1 => Just(Edit::Skip), 2 => Just(Edit::Abort), 2 => (0_u8..3).prop_map(Edit::Settings)]
}
