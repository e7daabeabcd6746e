//! Every word of the status has a situation behind it: here, or in the shell that the list names.

use super::*;

/// What only the shell says: before there is anything to plan with, or in a preflight that it puts together.
const SHELL_REASONS: &[HoldReason] = &[
    HoldReason::CaNotTrustedByBoot,
    HoldReason::BootNotAlone,
    HoldReason::BootTooOld,
    HoldReason::BootPeerUrlLoopback,
    HoldReason::PreflightFailed,
    HoldReason::CaSecretUnusable,
];
const SHELL_WAITS: &[WaitFor] = &[WaitFor::MemberDrain];

#[test]
fn every_reason_is_tested_here_or_left_to_the_shell() {
    let tests = [
        include_str!("start.rs"),
        include_str!("joining.rs"),
        include_str!("eviction.rs"),
        include_str!("clients.rs"),
        include_str!("removal.rs"),
        include_str!("abort.rs"),
        include_str!("hand_over.rs"),
        include_str!("heal.rs"),
        include_str!("shrink.rs"),
        include_str!("roll_out.rs"),
        include_str!("found.rs"),
    ];
    let tested = |word: String| tests.iter().any(|t| t.contains(&word));
    for reason in HoldReason::ALL {
        let here = tested(format!("HoldReason::{reason},")) || tested(format!("HoldReason::{reason}]"));
        assert!(here || SHELL_REASONS.contains(reason), "no test holds for {reason}");
    }
    for what in WaitFor::ALL {
        let here = tested(format!("WaitFor::{what})")) || tested(format!("WaitFor::{what},"));
        assert_ne!(here, SHELL_WAITS.contains(what), "{what}: tested and left to the shell, or neither");
    }
}
