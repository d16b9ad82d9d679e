//! All arithmetic of leases: what a holder may do until when, and when a leader may take over.
//!
//! The holder counts from *before* it sent the renewal that was acknowledged, the leader from
//! *after* it received it, so the holder's end comes first whatever the network did. What remains
//! is the difference of the clocks' rates, which [`Timing::takeover_wait`] allows for. The proof
//! is in `docs/leases.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mutant::{self, Mutant};
use super::types::{BootTime, ClusterName, Epoch};

/// The times of the lease protocol. One set for a whole cluster, agreed on through Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// How often a lease is renewed, in milliseconds.
    pub renew_ms: u64,
    /// How long a lease runs from before its renewal was sent, in milliseconds.
    pub ttl_ms: u64,
    /// The agent stops PostgreSQL this long before the lease ends, in milliseconds.
    pub fence_margin_ms: u64,
    /// The kernel kills the process tree this long before the lease ends, in milliseconds.
    pub kill_margin_ms: u64,
    /// The leader closes an epoch after this long without a renewal, in milliseconds.
    pub suspect_ms: u64,
    /// Bound on the error of a clock's rate, in parts per million.
    pub clock_error_ppm: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            renew_ms: 500,
            ttl_ms: 3000,
            fence_margin_ms: 300,
            kill_margin_ms: 200,
            suspect_ms: 2200,
            clock_error_ppm: 10_000,
        }
    }
}

impl Timing {
    /// How often a lease is renewed.
    pub fn renew(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }

    /// After how long without a renewal a leader suspects the holder.
    pub fn suspect(&self) -> Duration {
        Duration::from_millis(self.suspect_ms)
    }

    /// How long a leader waits, by its own clock, until a lease has surely run out by any clock
    /// within the bound: `ttl * (1 + rho) / (1 - rho)`, rounded up.
    pub fn takeover_wait(&self) -> Duration {
        let million = 1_000_000u128;
        let rho = match mutant::without(Mutant::NoClockFactor) {
            true => 0,
            false => u128::from(self.clock_error_ppm).min(million - 1),
        };
        let ttl_us = u128::from(self.ttl_ms) * 1000;
        let us = (ttl_us * (million + rho)).div_ceil(million - rho);
        Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
    }
}

/// A holder's lease, by the holder's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderLease {
    /// The epoch that it is for.
    pub epoch: Epoch,
    /// When PostgreSQL is stopped by its agent.
    pub stop_at: BootTime,
    /// When the kernel kills the process tree.
    pub kill_at: BootTime,
}

impl HolderLease {
    /// The lease that an acknowledged renewal gives; `sent` was read before it was sent.
    pub fn from_renewal(epoch: Epoch, sent: BootTime, timing: &Timing) -> Self {
        let before_end =
            |margin_ms: u64| Duration::from_millis(timing.ttl_ms.saturating_sub(margin_ms));
        Self {
            epoch,
            stop_at: sent.plus(before_end(timing.fence_margin_ms)),
            kill_at: sent.plus(before_end(timing.kill_margin_ms)),
        }
    }

    /// When the renewal was sent that it is counted from.
    pub fn sent(&self, timing: &Timing) -> BootTime {
        let runs = Duration::from_millis(timing.ttl_ms.saturating_sub(timing.kill_margin_ms));
        let nanos = u64::try_from(runs.as_nanos()).unwrap_or(u64::MAX);
        BootTime::from_nanos(self.kill_at.as_nanos().saturating_sub(nanos))
    }

    /// Whether PostgreSQL may run as primary of `epoch` now. Asked again before each act, not only
    /// on a timer: timers do not run while a machine is suspended.
    pub fn may_write(&self, epoch: Epoch, now: BootTime) -> bool {
        self.epoch == epoch && (now < self.stop_at || mutant::without(Mutant::LeaseNeverEnds))
    }

    /// The later of two leases of one epoch; a newer epoch's where they differ.
    pub fn extend(self, other: HolderLease) -> HolderLease {
        if other.epoch > self.epoch || (other.epoch == self.epoch && other.kill_at > self.kill_at) {
            other
        } else {
            self
        }
    }
}

/// A renewal on its way through the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    term: u64,
    number: u64,
}

/// What a Raft leader remembers of the leases that it acknowledged. It begins empty at every
/// election, with a full window for everybody.
#[derive(Debug, Clone)]
pub struct LeaderLedger {
    term: u64,
    elected: BootTime,
    acknowledged: BTreeMap<ClusterName, (Epoch, BootTime)>,
    // Renewals that have arrived and are not answered yet. Each may still be acknowledged, however
    // late this process gets to run again, so each counts as if it were.
    pending: BTreeMap<Ticket, (ClusterName, Epoch, BootTime)>,
    next_ticket: u64,
}

impl LeaderLedger {
    /// The ledger of a leader that was elected at `now`, in this term of the Raft group. What is
    /// decided by it holds only for entries of the same term.
    pub fn new(term: u64, now: BootTime) -> Self {
        Self {
            term,
            elected: now,
            acknowledged: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_ticket: 0,
        }
    }

    /// The Raft term of this leadership.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// When this leadership began.
    pub fn elected(&self) -> BootTime {
        self.elected
    }

    /// Notes a renewal's arrival, *before* the read barrier that it waits for begins.
    pub fn arrive(&mut self, cluster: ClusterName, epoch: Epoch, now: BootTime) -> Ticket {
        let ticket = Ticket { term: self.term, number: self.next_ticket };
        self.next_ticket += 1;
        self.pending.insert(ticket, (cluster, epoch, now));
        ticket
    }

    /// The renewal is being acknowledged. It was sent before it arrived, so its arrival bounds the
    /// lease from above. `false` where the ticket is not of this ledger: then the renewal must not
    /// be acknowledged.
    #[must_use]
    pub fn acknowledge(&mut self, ticket: Ticket) -> bool {
        let Some((cluster, epoch, at)) = self.pending.remove(&ticket) else { return false };
        let entry = self.acknowledged.entry(cluster).or_insert((epoch, at));
        if epoch > entry.0 || (epoch == entry.0 && at > entry.1) {
            *entry = (epoch, at);
        }
        true
    }

    /// The renewal was refused, or given up before an answer left.
    pub fn refuse(&mut self, ticket: Ticket) {
        self.pending.remove(&ticket);
    }

    /// The latest time from which a lease of `epoch` may have been counted.
    pub fn base(&self, cluster: &ClusterName, epoch: Epoch) -> BootTime {
        let acknowledged =
            self.acknowledged.get(cluster).filter(|(e, _)| *e == epoch).map(|(_, at)| *at);
        let counts = !mutant::without(Mutant::PendingNotCounted);
        let pending = self
            .pending
            .values()
            .filter(|(c, e, _)| counts && c == cluster && *e == epoch)
            .map(|p| p.2);
        let begin = match mutant::without(Mutant::NoFullWindow) {
            true => BootTime::default(),
            false => self.elected,
        };
        pending.chain(acknowledged).fold(begin, BootTime::max)
    }

    /// When the last renewal of `epoch` was acknowledged by this leader.
    pub fn last_acknowledged(&self, cluster: &ClusterName, epoch: Epoch) -> Option<BootTime> {
        self.acknowledged.get(cluster).filter(|(e, _)| *e == epoch).map(|(_, at)| *at)
    }

    /// From when on a closed `epoch` can hurt nobody any more.
    pub fn expires(&self, cluster: &ClusterName, epoch: Epoch, timing: &Timing) -> BootTime {
        self.base(cluster, epoch).plus(timing.takeover_wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> BootTime {
        BootTime::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn takeover_wait_allows_for_both_clocks() {
        let timing = Timing::default();
        // 3 s * 1.01 / 0.99, rounded up to a microsecond.
        assert_eq!(timing.takeover_wait(), Duration::from_micros(3_060_607));
        // A holder whose clock is slow by rho still stops before a leader whose clock is fast.
        let real_ttl = 3.0 / 0.99;
        let real_wait = timing.takeover_wait().as_secs_f64() / 1.01;
        assert!(real_wait >= real_ttl);
    }

    #[test]
    fn holder_counts_from_before_sending() {
        let lease = HolderLease::from_renewal(Epoch(2), ms(1000), &Timing::default());
        assert_eq!(lease.stop_at, ms(3700));
        assert_eq!(lease.kill_at, ms(3800));
        assert!(lease.may_write(Epoch(2), ms(3699)));
        assert!(!lease.may_write(Epoch(2), ms(3700)));
        assert!(!lease.may_write(Epoch(3), ms(1000)));
    }

    #[test]
    fn a_late_acknowledgement_never_shortens() {
        let t = Timing::default();
        let a = HolderLease::from_renewal(Epoch(2), ms(1000), &t);
        let b = HolderLease::from_renewal(Epoch(2), ms(1500), &t);
        assert_eq!(a.extend(b), b);
        assert_eq!(b.extend(a), b);
    }

    #[test]
    fn a_new_leader_gives_a_full_window() {
        let main = ClusterName::new("main").unwrap();
        let ledger = LeaderLedger::new(1, ms(10_000));
        assert_eq!(ledger.base(&main, Epoch(1)), ms(10_000));
    }

    #[test]
    fn pending_renewals_count_until_answered() {
        let main = ClusterName::new("main").unwrap();
        let mut ledger = LeaderLedger::new(1, ms(0));
        let a = ledger.arrive(main.clone(), Epoch(1), ms(100));
        assert_eq!(ledger.base(&main, Epoch(1)), ms(100));
        assert!(ledger.acknowledge(a));
        let b = ledger.arrive(main.clone(), Epoch(1), ms(600));
        assert_eq!(ledger.base(&main, Epoch(1)), ms(600));
        ledger.refuse(b);
        assert_eq!(ledger.base(&main, Epoch(1)), ms(100));
        assert_eq!(ledger.base(&main, Epoch(2)), ms(0));
    }

    #[test]
    fn acknowledgements_out_of_order_keep_the_latest() {
        let main = ClusterName::new("main").unwrap();
        let mut ledger = LeaderLedger::new(1, ms(0));
        let a = ledger.arrive(main.clone(), Epoch(1), ms(100));
        let b = ledger.arrive(main.clone(), Epoch(1), ms(200));
        assert!(ledger.acknowledge(b));
        assert!(ledger.acknowledge(a));
        assert_eq!(ledger.last_acknowledged(&main, Epoch(1)), Some(ms(200)));
    }
}
