//! The clocks of a simulated machine: arithmetic only.
//!
//! Owns the map from true time to a machine's CLOCK_BOOTTIME, CLOCK_MONOTONIC and wall clock, and
//! back from the first two. All times are nanoseconds.

use std::time::Duration;

/// Nanoseconds of true time since the run began.
pub type Nanos = u64;

/// A million, which rates (in parts per million) and the split of products below speak of.
const MILLION: u64 = 1_000_000;

/// The wall-clock time at which every run begins, in milliseconds since 1970: a fixed day.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// CLOCK_BOOTTIME when the first process of a machine that was just booted runs: a kernel needs a
/// moment.
const KERNEL_STARTS: u64 = 2_000_000_000;

/// `d` in nanoseconds; the end of time where it does not fit.
pub(crate) fn nanos(d: Duration) -> Nanos {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The clocks of one machine, linear since the last time something changed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clocks {
    /// The true time at which `boot` and `mono` were shown.
    at: Nanos,
    boot: u64,
    mono: u64,
    /// How much faster than true time both go, in parts per million.
    ppm: i64,
    /// CLOCK_MONOTONIC stands still, CLOCK_BOOTTIME goes on.
    suspended: bool,
    /// How far its wall clock is from the truth.
    wall_offset_ms: i64,
    boots: u64,
}

impl Clocks {
    /// A machine that was booted `uptime` before true time `now`.
    pub(crate) fn new(now: Nanos, uptime: u64) -> Self {
        let (boot, mono) = (uptime, uptime);
        Self { at: now, boot, mono, ppm: 0, suspended: false, wall_offset_ms: 0, boots: 1 }
    }

    fn passed(&self, now: Nanos) -> u64 {
        scale(now.saturating_sub(self.at), self.ppm)
    }

    /// CLOCK_BOOTTIME at a true time that is not before the last change.
    pub(crate) fn boot(&self, now: Nanos) -> u64 {
        self.boot.saturating_add(self.passed(now))
    }

    /// CLOCK_MONOTONIC: boot time without what the machine was suspended.
    pub(crate) fn monotonic(&self, now: Nanos) -> u64 {
        if self.suspended { self.mono } else { self.mono.saturating_add(self.passed(now)) }
    }

    /// The first true time at which CLOCK_BOOTTIME is `boot` or later, as things are now.
    pub(crate) fn truth_of_boot(&self, boot: u64) -> Nanos {
        self.at.saturating_add(unscale(boot.saturating_sub(self.boot), self.ppm))
    }

    /// The first true time at which CLOCK_MONOTONIC is `mono` or later, as things are now: the end
    /// of time while the machine is suspended.
    pub(crate) fn truth_of_monotonic(&self, mono: u64) -> Nanos {
        let left = mono.saturating_sub(self.mono);
        if self.suspended && left > 0 {
            return Nanos::MAX;
        }
        self.at.saturating_add(unscale(left, self.ppm))
    }

    /// The wall clock in milliseconds since 1970. Something keeps it right but for its steps.
    pub(crate) fn wall_ms(&self, now: Nanos) -> u64 {
        let truth = i64::try_from(now / MILLION).unwrap_or(i64::MAX);
        u64::try_from(EPOCH_MS.saturating_add(truth).saturating_add(self.wall_offset_ms))
            .unwrap_or(0)
    }

    fn rebase(&mut self, now: Nanos) {
        (self.boot, self.mono, self.at) = (self.boot(now), self.monotonic(now), now);
    }

    /// From now on it runs at this rate.
    pub(crate) fn set_rate(&mut self, now: Nanos, ppm: i64) {
        assert!(ppm > -(MILLION as i64), "a clock has to go: {ppm} ppm");
        self.rebase(now);
        self.ppm = ppm;
    }

    /// Boot time goes forward at once, as after a suspend.
    pub(crate) fn jump(&mut self, now: Nanos, by: u64) {
        self.rebase(now);
        self.boot = self.boot.saturating_add(by);
    }

    /// The machine is suspended, or wakes.
    pub(crate) fn suspend(&mut self, now: Nanos, is: bool) {
        self.rebase(now);
        self.suspended = is;
    }

    /// The wall clock is set.
    pub(crate) fn step_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms = self.wall_offset_ms.saturating_add(by_ms);
    }

    /// The machine is booted: its boot time begins anew. The crystal is the one of before.
    pub(crate) fn reboot(&mut self, now: Nanos) {
        let (ppm, wall_offset_ms, boots) = (self.ppm, self.wall_offset_ms, self.boots + 1);
        *self = Self { ppm, wall_offset_ms, boots, ..Self::new(now, KERNEL_STARTS) };
    }

    /// How often it was booted.
    pub(crate) fn boots(&self) -> u64 {
        self.boots
    }
}

/// `passed * (1 + ppm / 1e6)`, rounded down, exactly, and without a wide division.
fn scale(passed: u64, ppm: i64) -> u64 {
    if ppm == 0 {
        return passed;
    }
    let (millions, rest) = (passed / MILLION, passed % MILLION);
    // A million nanoseconds drift by exactly `ppm` nanoseconds.
    let drift =
        (millions as i64).saturating_mul(ppm) + (rest as i64 * ppm).div_euclid(MILLION as i64);
    passed.saturating_add_signed(drift)
}

/// The shortest span whose [`scale`] is at least `shown`.
fn unscale(shown: u64, ppm: i64) -> u64 {
    if ppm == 0 {
        return shown;
    }
    let rate = (MILLION as i64 + ppm) as u128;
    u64::try_from((u128::from(shown) * u128::from(MILLION)).div_ceil(rate)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_the_first_instant_that_reaches_a_time() {
        for ppm in [-900_000, -400_000, -250, -1, 0, 1, 333, 250_000, 3_000_000] {
            let mut clocks = Clocks::new(0, 5_000);
            clocks.set_rate(77, ppm);
            for boot in [5_077, 5_078, 6_001, 1_000_000_007, 86_400_000_000_000] {
                let truth = clocks.truth_of_boot(boot);
                assert_eq!(truth, clocks.truth_of_monotonic(boot));
                assert!(clocks.boot(truth) >= boot, "{ppm} {boot}");
                assert!(truth <= 77 || clocks.boot(truth - 1) < boot, "{ppm} {boot}");
            }
        }
    }

    #[test]
    fn a_rate_counts_from_when_it_is_set() {
        let mut clocks = Clocks::new(0, 5_000_000);
        clocks.set_rate(10_000_000, 100_000);
        assert_eq!(clocks.boot(10_000_000), 15_000_000);
        assert_eq!(clocks.boot(20_000_000), 26_000_000);
        // What has passed is never taken back.
        assert_eq!(clocks.truth_of_boot(1), 10_000_000);
    }

    #[test]
    fn monotonic_time_stands_still_in_a_suspend() {
        let mut clocks = Clocks::new(0, 0);
        clocks.suspend(100, true);
        assert_eq!((clocks.boot(150), clocks.monotonic(150)), (150, 100));
        assert_eq!(clocks.truth_of_monotonic(101), Nanos::MAX);
        clocks.suspend(200, false);
        assert_eq!((clocks.boot(250), clocks.monotonic(250)), (250, 150));
        assert_eq!(clocks.truth_of_monotonic(151), 251);
        clocks.jump(250, 1_000);
        assert_eq!((clocks.boot(250), clocks.monotonic(250)), (1_250, 150));
        clocks.suspend(260, true);
        clocks.reboot(300);
        assert_eq!((clocks.boot(300), clocks.boots()), (2_000_000_000, 2));
        assert_eq!(clocks.monotonic(310), 2_000_000_010);
    }

    #[test]
    fn the_wall_clock_steps_and_is_kept_over_a_boot() {
        let mut clocks = Clocks::new(0, 77);
        clocks.step_wall(-5_000);
        clocks.reboot(2_000_000);
        assert_eq!(clocks.wall_ms(3_000_000), EPOCH_MS as u64 + 3 - 5_000);
    }
}
