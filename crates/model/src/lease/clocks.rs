//! Time in the model: whole ticks of true time, turned into readings of clocks for the production
//! arithmetic.
//!
//! Every clock is as wrong as the bound allows, and in the worst direction: holders' clocks are
//! slow, controllers' are fast. That covers all clocks within the bound. Whatever may happen with
//! better clocks may happen with these: a holder's deadline only comes later, a controller's expiry
//! only earlier, and nobody is forced to act early.

use std::time::Duration;

use crate::domain::lease::{HolderLease, Timing};
use crate::domain::types::{BootTime, Epoch};

/// Ticks of true time since something happened. It stops growing where more makes no difference.
pub type Age = u8;

/// One tick of true time, in nanoseconds.
const TICK_NANOS: u64 = 1_000_000_000;
/// The reading of every clock now: ages count back from here.
const NOW_NANOS: u64 = 1_000_000 * TICK_NANOS;
/// The bound on the clocks' error, in parts per million.
const RHO_PPM: u64 = 100_000;

/// The clocks, and the times of the protocol in their unit.
#[derive(Debug, Clone)]
pub struct Clocks {
    /// The times that the cluster has agreed on.
    pub timing: Timing,
    /// Age of a renewal at which its lease's process tree is gone, whatever the agent does.
    pub dead: Age,
    /// Age at which nothing changes any more.
    pub old: Age,
}

impl Clocks {
    /// Clocks for leases of `ttl` ticks.
    pub fn new(ttl: u8) -> Self {
        let ttl_ms = u64::from(ttl) * TICK_NANOS / 1_000_000;
        let timing = Timing {
            renew_ms: ttl_ms / 4,
            ttl_ms,
            // The least that is allowed: whoever acts earlier is no danger.
            fence_margin_ms: 51,
            kill_margin_ms: 50,
            suspect_ms: ttl_ms / 2,
            clock_error_ppm: RHO_PPM,
        };
        let mut clocks = Self { timing, dead: 0, old: 0 };
        clocks.dead = (0..Age::MAX).find(|age| clocks.is_dead(*age)).unwrap_or(Age::MAX);
        let wait = timing.takeover_wait();
        let expired = |age: &Age| clocks.leader_now().since(clocks.leader_at(*age)) >= wait;
        let expired = (0..Age::MAX).find(expired).unwrap_or(Age::MAX);
        clocks.old = expired.max(clocks.dead);
        clocks
    }

    /// The holders' clocks now.
    pub fn holder_now(&self) -> BootTime {
        BootTime::from_nanos(NOW_NANOS)
    }

    /// What a holder's slow clock showed `age` ticks ago.
    pub fn holder_at(&self, age: Age) -> BootTime {
        let nanos = u64::from(age) * TICK_NANOS / 1_000_000 * (1_000_000 - RHO_PPM);
        BootTime::from_nanos(NOW_NANOS - nanos)
    }

    /// The controllers' clocks now.
    pub fn leader_now(&self) -> BootTime {
        BootTime::from_nanos(NOW_NANOS)
    }

    /// What a controller's fast clock showed `age` ticks ago.
    pub fn leader_at(&self, age: Age) -> BootTime {
        let nanos = u64::from(age) * TICK_NANOS / 1_000_000 * (1_000_000 + RHO_PPM);
        BootTime::from_nanos(NOW_NANOS - nanos)
    }

    /// The lease that a renewal of this age gives.
    pub fn lease(&self, epoch: u8, age: Age) -> HolderLease {
        HolderLease::from_renewal(Epoch(u64::from(epoch)), self.holder_at(age), &self.timing)
    }

    // The kernel's timer fires before; the margin is for what the kill itself takes.
    fn is_dead(&self, age: Age) -> bool {
        let margin = Duration::from_millis(self.timing.kill_margin_ms);
        self.holder_now() >= self.lease(0, age).kill_at.plus(margin)
    }

    /// One tick later.
    pub fn older(&self, age: Age) -> Age {
        (age + 1).min(self.old)
    }
}
