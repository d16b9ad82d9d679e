//! A rule that is left out is found by what clients see. In a file of its own: a rule is left out in
//! the whole process.

use quorate_world::alone::{Campaign, search};
use quorate_world::domain::mutant::Mutant;

#[test]
fn a_rule_that_is_left_out_is_found_and_those_that_are_kept_twice_are_not() {
    let plan = Campaign {
        from: 1,
        seeds: 40,
        fault_seconds: 600,
        jobs: 1,
        verify: false,
        stop_at_first: true,
        black_box: true,
    };
    let found = search(Mutant::NoReadQuorum, &plan);
    let (seed, failure) = found.failure.expect("writes are lost without a read quorum");
    assert_eq!(found.seeds, seed);
    assert_eq!(failure.broken.promise, "nothing acknowledged or read is lost");
    let few = Campaign { seeds: 2, ..plan };
    let spare = search(Mutant::LeaseNeverEnds, &few);
    assert!(spare.failure.is_none(), "{:?}", spare.failure);
    assert_eq!(spare.seeds, 2);
}
