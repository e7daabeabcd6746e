//! Three members take over from boot; nobody who uses the API notices; all nodes lose power and come back.

use std::time::Duration;

use etcd_operator_scenarios::pivot_that_loses_nothing;

#[test]
fn a_pivot_to_three_loses_no_write_and_survives_a_power_cut() {
    let stage = pivot_that_loses_nothing("cp1", 3);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);

    // Run again it says that all is done.
    stage.pivot(3);
    let nodes = stage.bed.options().all();
    stage.bed.power_cut(&nodes).unwrap();
    stage.bed.start(&nodes).unwrap();
    let took = stage.bed.wait_api().unwrap();
    println!("/readyz {:.1} s after all nodes were switched on again", took.as_secs_f32());
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    stage.wait_for("Ready", Duration::from_secs(120));
}
