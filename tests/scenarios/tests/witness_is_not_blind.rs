//! A pivot by hand that does not wait for the clients must be seen by the witness: else a clean verdict means nothing.

use etcd_operator_scenarios::Stage;

/// A gap between writes that no careful pivot has (by hand: 30 to 143 ms).
const BLUNT_GAP_MS: f64 = 1000.0;

#[test]
fn the_witness_sees_a_pivot_that_does_not_wait_for_clients() {
    let stage = Stage::with_boot_on("cp1");
    // The API server's channels to the seats must sit in a long backoff: a minute of refusals.
    std::thread::sleep(std::time::Duration::from_secs(60));
    let verdict = stage.under_witness(Some(3), |_| {}, || stage.by_hand(3, &[("BLUNT", "1"), ("PARALLEL", "1")]));
    let blind = verdict.writes.failed == 0 && verdict.writes.longest_gap_ms < BLUNT_GAP_MS;
    assert!(!blind, "the witness saw nothing: longest gap {} ms", verdict.writes.longest_gap_ms);
}
