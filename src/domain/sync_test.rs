//! Read quorums: tables for the usual sizes, and the property that everything rests on.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::fixture_test::{any, holder, sealed};
use super::observation::Sealed;
use super::sync::{SyncConfig, to_cover, uncovered};
use super::types::{Epoch, MemberName};

fn covered(in_force: &[SyncConfig], who: &[Sealed]) -> bool {
    uncovered(in_force, &who.iter().collect::<Vec<_>>()).is_empty()
}

/// Sealed members with old WAL only: they count by their number alone.
fn plain(list: &str) -> Vec<Sealed> {
    list.split_whitespace().map(|n| sealed(n, 9, 1, 100)).collect()
}

#[test]
fn how_many_sealed_members_cover() {
    // (W, N, sealed, covered)
    let table = [
        (1, "b", "b", true),
        (1, "b", "", false),
        (1, "b", "a c", false),
        (1, "b c", "b c", true),
        (1, "b c", "b", false),
        (1, "b c", "a c", false),
        (2, "b c", "b", true),
        (2, "b c", "c", true),
        (2, "b c", "a", false),
        (1, "b c d e", "b c d e", true),
        (1, "b c d e", "b c d", false),
        (2, "b c d e", "b c d", true),
        (2, "b c d e", "b c", false),
        (2, "b c d e", "a b c", false),
        (4, "b c d e", "e", true),
        (0, "", "a b c d e", false),
    ];
    for (w, n, who, want) in table {
        assert_eq!(covered(&[any(5, w, n)], &plain(who)), want, "ANY {w} ({n}) by {who}");
    }
}

#[test]
fn the_stopped_holder_covers_its_epoch_and_older_ones() {
    for (held, want) in [(4, false), (5, true), (6, true)] {
        let who = [holder("a", 9, 1, 100, held)];
        assert_eq!(covered(&[any(5, 1, "b c")], &who), want, "held {held}");
        assert_eq!(covered(&[any(5, 0, "")], &who), want, "asynchronous, held {held}");
    }
    assert!(!covered(&[any(0, 1, "b c")], &[holder("a", 9, 0, 100, 0)]), "0 is no epoch");
}

#[test]
fn a_record_of_a_later_epoch_covers_older_ones() {
    for (wal_epoch, want) in [(4, false), (5, false), (6, true)] {
        let who = [sealed("x", 9, wal_epoch, 100)];
        assert_eq!(covered(&[any(5, 1, "b c")], &who), want, "WAL of epoch {wal_epoch}");
    }
}

#[test]
fn a_change_under_way_needs_the_loosest_mixture_too() {
    // ANY 2 (b c) to ANY 1 (c): c's walsender may run with W = 1 while b still has a priority.
    let change = [any(5, 2, "b c"), any(5, 1, "c")];
    assert_eq!(to_cover(&change)[2], any(5, 1, "b c"), "the number does not matter");
    assert!(!covered(&change, &plain("c")), "c alone covers both, and not their mixture");
    assert!(covered(&change, &plain("b c")));
    // From asynchronous only the holder will do, even for the mixture.
    assert!(!covered(&[any(5, 0, ""), any(5, 1, "b")], &plain("b")));
}

#[test]
fn configurations_of_different_epochs_are_not_mixed() {
    let both = [any(5, 2, "b c"), any(6, 1, "c")];
    assert_eq!(to_cover(&both), both);
    assert!(covered(&both, &plain("c")));
    assert!(!covered(&both, &plain("b")), "every one has to be covered");
}

#[test]
fn what_is_missing_is_named() {
    let who = plain("b");
    let missing = uncovered(&[any(5, 1, "b c d")], &who.iter().collect::<Vec<_>>());
    assert_eq!(missing.len(), 1);
    assert_eq!((missing[0].have, missing[0].need), (1, Some(3)));
    let names: Vec<&str> = missing[0].missing.iter().map(MemberName::as_str).collect();
    assert_eq!(names, ["c", "d"]);
}

fn config(epoch: u64) -> impl Strategy<Value = SyncConfig> {
    (0u32..32, 1u32..6).prop_map(move |(bits, w)| {
        let list: Vec<&str> = ["a", "b", "c", "d", "e"]
            .iter()
            .enumerate()
            .filter(|(i, _)| bits & (1 << i) != 0)
            .map(|(_, n)| *n)
            .collect();
        let w = w.min(list.len() as u32);
        any(epoch, w, &list.join(" "))
    })
}

/// Every set of members, as a bit mask over five names.
fn subset(bits: u32) -> BTreeSet<MemberName> {
    let list = ["a", "b", "c", "d", "e"];
    let chosen = (0..5).filter(|i| bits & (1 << i) != 0).map(|i| list[i]);
    chosen.map(|n| MemberName::new(n).unwrap()).collect()
}

proptest! {
    /// Whoever could have acknowledged a commit under any configuration to cover, or under any
    /// mixture of those of one epoch, is met by every read quorum that is accepted.
    #[test]
    fn read_quorums_meet_write_quorums(
        first in config(5), second in config(5), third in config(6), n in 1usize..4, bits in 0u32..32,
    ) {
        let in_force = &[first, second, third][..n];
        let read = subset(bits);
        let who: Vec<Sealed> = read.iter().map(|x| sealed(x.as_str(), 9, 1, 100)).collect();
        prop_assume!(covered(in_force, &who));
        for write in (0u32..32).map(subset) {
            for epoch in [5u64, 6] {
                let of: Vec<&SyncConfig> =
                    in_force.iter().filter(|c| c.epoch == Epoch(epoch)).collect();
                let union: BTreeSet<_> = of.iter().flat_map(|c| c.members.iter()).collect();
                let Some(w) = of.iter().map(|c| c.w).min() else { continue };
                let flushed = write.iter().filter(|x| union.contains(x)).count();
                if flushed >= w as usize {
                    prop_assert!(
                        read.intersection(&write).next().is_some(),
                        "{read:?} misses {write:?} under {in_force:?}"
                    );
                }
            }
        }
    }

    /// What is left out of the list because of a newer one is covered with it.
    #[test]
    fn what_is_implied_is_covered(
        older in config(5), newer in config(6), bits in 0u32..32,
        held in 0u64..8, wal_epoch in 1u64..8,
    ) {
        prop_assume!(older.implied_by(&newer));
        let mut who: Vec<Sealed> =
            subset(bits).iter().map(|x| sealed(x.as_str(), 9, 1, 100)).collect();
        who.push(holder("x", 9, wal_epoch, 100, held));
        if covered(std::slice::from_ref(&newer), &who) {
            prop_assert!(covered(std::slice::from_ref(&older), &who), "{older:?} by {newer:?}");
        }
    }

    /// Sealing more members never loses coverage.
    #[test]
    fn coverage_grows(first in config(5), second in config(5), bits in 0u32..32, more in 0u32..32) {
        let in_force = [first, second];
        let plain = |bits| -> Vec<Sealed> {
            subset(bits).iter().map(|x| sealed(x.as_str(), 9, 1, 100)).collect()
        };
        if covered(&in_force, &plain(bits)) {
            prop_assert!(covered(&in_force, &plain(bits | more)));
        }
    }
}
