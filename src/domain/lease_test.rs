//! The arithmetic of leases under any clocks within the bound, and a ledger under any order of
//! events.

use std::time::Duration;

use proptest::prelude::*;

use super::fixture_test::{at_ms, cluster};
use super::lease::{HolderLease, LeaderLedger, Timing};
use super::types::{BootTime, Epoch};

/// What a clock of this rate shows at a true time, in nanoseconds.
fn shows(true_ns: u64, ppm: i64) -> BootTime {
    let scaled = i128::from(true_ns) * i128::from(1_000_000 + ppm) / 1_000_000;
    BootTime::from_nanos(u64::try_from(scaled).unwrap())
}

proptest! {
    /// Whatever the clocks within the bound and the delays of the network: when the leader may
    /// take over, the holder's process tree has been killed.
    #[test]
    fn the_holder_is_dead_before_the_leader_takes_over(
        ttl_ms in 500u64..60_000, holder_ppm in -10_000i64..=10_000, leader_ppm in -10_000i64..=10_000,
        sent in 0u64..1_000_000_000_000, delay in 0u64..10_000_000_000, elected in 0u64..1_000_000_000_000,
    ) {
        let timing = Timing { ttl_ms, ..Timing::default() };
        prop_assume!(elected <= sent + delay);
        let mut ledger = LeaderLedger::new(1, shows(elected, leader_ppm));
        let ticket = ledger.arrive(cluster(), Epoch(2), shows(sent + delay, leader_ppm));
        prop_assert!(ledger.acknowledge(ticket));
        let lease = HolderLease::from_renewal(Epoch(2), shows(sent, holder_ppm), &timing);
        let takeover = ledger.expires(&cluster(), Epoch(2), &timing);
        // The true time of the takeover, and what the holder's clock shows then.
        let true_ns = i128::from(takeover.as_nanos()) * 1_000_000 / i128::from(1_000_000 + leader_ppm);
        let then = shows(u64::try_from(true_ns).unwrap(), holder_ppm);
        prop_assert!(then >= lease.kill_at, "{then:?} {lease:?}");
        prop_assert!(!lease.may_write(Epoch(2), then));
        prop_assert!(lease.stop_at < lease.kill_at);
    }

    /// The base of a lease is never below a renewal that was, or can still be, acknowledged.
    #[test]
    fn the_base_covers_every_renewal(
        events in proptest::collection::vec((0u8..3, 1u64..3, 0usize..8), 1..60),
    ) {
        let mut ledger = LeaderLedger::new(1, at_ms(0));
        let mut open = Vec::new();
        let (mut now_ms, mut acknowledged) = (0, [0u64; 3]);
        for (kind, epoch, which) in events {
            now_ms += 10;
            match kind {
                0 => open.push((ledger.arrive(cluster(), Epoch(epoch), at_ms(now_ms)), epoch, now_ms)),
                _ if open.is_empty() => {}
                1 => {
                    let (ticket, epoch, at) = open.remove(which % open.len());
                    prop_assert!(ledger.acknowledge(ticket));
                    acknowledged[epoch as usize] = acknowledged[epoch as usize].max(at);
                    prop_assert!(!ledger.acknowledge(ticket), "once");
                }
                _ => ledger.refuse(open.remove(which % open.len()).0),
            }
            // Only the newest epoch that was acknowledged matters: an older one is closed.
            let newest = if acknowledged[2] > 0 { 2 } else { 1 };
            for epoch in newest..3 {
                let pending = open.iter().filter(|(_, e, _)| *e == epoch).map(|(_, _, at)| *at);
                let floor = pending.max().unwrap_or(0).max(acknowledged[epoch as usize]);
                prop_assert!(ledger.base(&cluster(), Epoch(epoch)) >= at_ms(floor));
            }
        }
    }
}

#[test]
fn a_ticket_of_another_leadership_is_worth_nothing() {
    let mut old = LeaderLedger::new(1, at_ms(0));
    let stale = old.arrive(cluster(), Epoch(2), at_ms(100));
    let mut new = LeaderLedger::new(2, at_ms(200));
    let fresh = new.arrive(cluster(), Epoch(2), at_ms(300));
    new.refuse(stale);
    assert!(!new.acknowledge(stale), "the renewal must not be acknowledged");
    assert_eq!(new.base(&cluster(), Epoch(2)), at_ms(300), "ours still counts");
    assert!(new.acknowledge(fresh));
    assert_eq!(new.last_acknowledged(&cluster(), Epoch(2)), Some(at_ms(300)));
}

#[test]
fn a_holder_that_slept_finds_its_lease_over() {
    let lease = HolderLease::from_renewal(Epoch(2), at_ms(1_000), &Timing::default());
    assert!(lease.may_write(Epoch(2), at_ms(1_000)));
    assert!(!lease.may_write(Epoch(2), at_ms(3_600_000)));
    let wrapped = BootTime::from_nanos(u64::MAX - 1);
    let end = HolderLease::from_renewal(Epoch(2), wrapped, &Timing::default());
    assert!(end.stop_at <= end.kill_at);
    assert!(Timing::default().takeover_wait() > Duration::from_millis(3_000));
}
