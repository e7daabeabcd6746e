//! The other shapes of the pivot: one member, and boot on another node.

use etcd_operator_scenarios::pivot_that_loses_nothing;

fn pivot(boot_node: &str, size: u32, members: &[&str]) {
    let stage = pivot_that_loses_nothing(boot_node, size);
    assert_eq!(stage.members(), members);
}

#[test]
fn one_member_beside_boot_on_the_same_node() {
    pivot("cp1", 1, &["cp1-1"]);
}

#[test]
fn one_member_and_boot_on_another_node() {
    pivot("cp3", 1, &["cp1-1"]);
}

#[test]
fn three_members_and_boot_on_the_third_node() {
    pivot("cp3", 3, &["cp1-1", "cp2-1", "cp3-1"]);
}
