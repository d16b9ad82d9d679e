//! The simulation of the domain alone: some seeds keep every promise, and each does the same twice.

use quorate_world::alone::{Campaign, campaign};

fn seeds(from: u64, seeds: u64) -> Campaign {
    Campaign {
        from,
        seeds,
        fault_seconds: 120,
        jobs: 1,
        verify: true,
        stop_at_first: false,
        black_box: false,
    }
}

#[test]
fn every_class_of_seeds_keeps_its_promises_and_repeats() {
    // One of each class, which follows from the remainder of 16.
    let tally = campaign(&seeds(1, 16), |_, _| ());
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(tally.seeds, 16);
    assert!(tally.counts.failovers > 50, "{:?}", tally.counts);
    assert!(tally.counts.switchovers > 0 && tally.counts.replaced > 0, "{:?}", tally.counts);
}

#[test]
fn the_seeds_decide_and_not_the_threads() {
    let one = campaign(&seeds(100, 4), |_, _| ());
    let two = campaign(&Campaign { jobs: 2, ..seeds(100, 4) }, |_, _| ());
    assert_eq!(one.hash, two.hash);
    assert_ne!(one.hash, campaign(&seeds(104, 4), |_, _| ()).hash);
}
