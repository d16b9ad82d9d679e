//! The CLOCK_BOOTTIME of one machine as a function of true time.
//!
//! True time is in microseconds since the run began. A clock has a beginning of its own and a rate
//! that may change; it never goes back by itself.

use crate::domain::types::BootTime;

/// Microseconds of true time.
pub type Micros = u64;

/// One millisecond.
pub const MS: Micros = 1000;
/// One second.
pub const SECOND: Micros = 1_000_000;

/// The clock of a machine.
#[derive(Debug, Clone)]
pub struct MachineClock {
    true_us: Micros,
    local_ns: u64,
    /// Its rate, in parts per million of true time's.
    rate: u64,
}

impl MachineClock {
    /// A clock that shows `local_ns` at the beginning, and runs `ppm` fast.
    pub fn new(local_ns: u64, ppm: i64) -> Self {
        Self { true_us: 0, local_ns, rate: rate(ppm) }
    }

    /// What it shows.
    pub fn at(&self, now: Micros) -> BootTime {
        BootTime::from_nanos(self.local_ns + (now - self.true_us) * self.rate / 1000)
    }

    /// The first microsecond, not before `now`, at which it shows `local` or more.
    pub fn when(&self, local: BootTime, now: Micros) -> Micros {
        let left = local.as_nanos().saturating_sub(self.local_ns);
        let due = self.true_us + (left * 1000).div_ceil(self.rate);
        due.max(now)
    }

    /// From `now` on it runs `ppm` fast.
    pub fn set_rate(&mut self, now: Micros, ppm: i64) {
        self.local_ns = self.at(now).as_nanos();
        self.true_us = now;
        self.rate = rate(ppm);
    }

    /// It jumps forward: a machine that was stopped and whose clock has not seen it does the
    /// opposite, which a rate below true time's stands for.
    pub fn jump(&mut self, now: Micros, by_ns: u64) {
        self.local_ns = self.at(now).as_nanos() + by_ns;
        self.true_us = now;
    }
}

fn rate(ppm: i64) -> u64 {
    u64::try_from(1_000_000 + ppm.max(-900_000)).unwrap_or(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_met_to_the_microsecond() {
        for ppm in [-10_000, -37, 0, 41, 10_000, 700_000] {
            let mut clock = MachineClock::new(123_456_789, 7);
            clock.set_rate(5_000_001, ppm);
            for ahead in [1, 999, 1_000_000, 3_060_607_123] {
                let now = 6_000_000;
                let deadline = BootTime::from_nanos(clock.at(now).as_nanos() + ahead);
                let due = clock.when(deadline, now);
                assert!(clock.at(due) >= deadline, "{ppm} {ahead}");
                assert!(due == now || clock.at(due - 1) < deadline, "{ppm} {ahead}");
            }
        }
    }
}
