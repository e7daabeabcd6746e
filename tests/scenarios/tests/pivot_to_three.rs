//! Three members take over from boot; nobody who uses the API notices; all nodes lose power and come back.

use std::time::Duration;

use etcd_operator_scenarios::{Stage, is_sampled, pivot_that_loses_nothing};

#[test]
fn a_pivot_to_three_loses_no_write_and_survives_a_power_cut() {
    let stage = pivot_that_loses_nothing("cp1", 3);
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);

    // Run again it says that all is done.
    stage.pivot(3);
    println!("/readyz {:.1} s after all nodes were switched on again", stage.power_cut_and_back().as_secs_f32());
    assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
    stage.wait_for("Ready", Duration::from_secs(120));
}

#[test]
fn the_same_power_cut_with_plain_static_pods() {
    if !is_sampled("the_same_power_cut_with_plain_static_pods") {
        return;
    }
    // Twice each, as a start takes some seconds more or less.
    let mut lines = Vec::new();
    for (name, pivot) in [
        ("the operator's members", Stage::pivot as fn(&Stage, u32)),
        ("plain static pods", |s, size| s.by_hand(size, &[("WAIT_CLIENTS", "1")])),
    ] {
        let stage = Stage::with_boot_on("cp1");
        pivot(&stage, 3);
        let took = [stage.power_cut_and_back(), stage.power_cut_and_back()].map(|d| d.as_secs_f32());
        assert_eq!(stage.members(), ["cp1-1", "cp2-1", "cp3-1"]);
        lines.push(format!("power cut of all nodes, then /readyz: {name}: {:.1} s and {:.1} s", took[0], took[1]));
    }
    println!("{}", lines.join("\n"));
}
