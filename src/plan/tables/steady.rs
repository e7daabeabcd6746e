//! After the pivot, and without one.

use super::*;

#[test]
fn the_largest_size_is_nine() {
    let mut o = after_the_pivot(3);
    o.nodes = (1..=9).map(node).collect();
    o.spec.size = 9;
    does(&o, Step::AssignSeats { nodes: (4..=9).map(name).collect() });
}

#[test]
fn a_learner_that_has_caught_up_is_promoted_at_once_as_no_pivot_waits_for_it() {
    for size in [2, 3, 4] {
        let mut o = after_the_pivot(size - 1);
        o.spec.size = size;
        o.seats.push(seat(size as usize));
        list(&mut o, size as usize, learner(lagging(500, Some(500))));
        waits(&o, WaitFor::LearnerCatchesUp);
        member(&mut o, size as usize).health = follower();
        does(&o, Step::Promote { node: name(size as usize), member: id(size as usize) });
    }
}
