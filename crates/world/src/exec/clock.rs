//! The clocks of a simulated machine.
//!
//! Owns the map from true time to a machine's CLOCK_BOOTTIME, CLOCK_MONOTONIC and wall clock, and
//! back from the first. All times are nanoseconds.

/// Nanoseconds of true time since the run began.
pub type Nanos = u64;

const MILLION: i128 = 1_000_000;

/// The wall-clock time at which every run begins, in milliseconds since 1970: a fixed day.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// The clocks of one machine, linear since the last time something changed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clocks {
    /// True time, and boot time, of the last change.
    at: Nanos,
    boot_at: u64,
    /// How much faster than true time it runs, in parts per million.
    ppm: i64,
    /// How much of boot time CLOCK_MONOTONIC did not count.
    suspended: u64,
    /// Since which boot time the machine is suspended.
    suspended_since: Option<u64>,
    /// How far its wall clock is from the truth.
    wall_offset_ms: i64,
    boots: u64,
}

impl Clocks {
    /// A machine that was booted `uptime` before true time `now`.
    pub fn new(now: Nanos, uptime: u64) -> Self {
        Self {
            at: now,
            boot_at: uptime,
            ppm: 0,
            suspended: 0,
            suspended_since: None,
            wall_offset_ms: 0,
            boots: 1,
        }
    }

    /// CLOCK_BOOTTIME at a true time that is not before the last change.
    pub fn boot(&self, now: Nanos) -> u64 {
        let passed = i128::from(now.saturating_sub(self.at));
        let counted = passed * (MILLION + i128::from(self.ppm)) / MILLION;
        self.boot_at.saturating_add(u64::try_from(counted).unwrap_or(0))
    }

    /// The first true time at which CLOCK_BOOTTIME is `boot` or later, as things are now.
    pub fn truth(&self, boot: u64) -> Nanos {
        let left = i128::from(boot.saturating_sub(self.boot_at)) * MILLION;
        let rate = (MILLION + i128::from(self.ppm)).max(1);
        let wait = left.div_euclid(rate) + i128::from(left.rem_euclid(rate) != 0);
        self.at.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// CLOCK_MONOTONIC: boot time without what the machine was suspended.
    pub fn monotonic(&self, now: Nanos) -> u64 {
        let boot = self.boot(now);
        let current = self.suspended_since.map_or(0, |since| boot.saturating_sub(since));
        boot.saturating_sub(self.suspended).saturating_sub(current)
    }

    /// The wall clock in milliseconds since 1970.
    pub fn wall_ms(&self, now: Nanos) -> u64 {
        let truth = i64::try_from(now / 1_000_000).unwrap_or(i64::MAX);
        u64::try_from(EPOCH_MS.saturating_add(truth).saturating_add(self.wall_offset_ms))
            .unwrap_or(0)
    }

    /// From now on it runs at this rate.
    pub fn set_rate(&mut self, now: Nanos, ppm: i64) {
        (self.boot_at, self.at) = (self.boot(now), now);
        self.ppm = ppm;
    }

    /// Boot time goes forward at once, as after a suspend.
    pub fn jump(&mut self, now: Nanos, by: u64) {
        (self.boot_at, self.at) = (self.boot(now).saturating_add(by), now);
        self.suspended = self.suspended.saturating_add(by);
    }

    /// The machine is suspended, or wakes.
    pub fn suspend(&mut self, now: Nanos, is: bool) {
        let boot = self.boot(now);
        match (is, self.suspended_since) {
            (true, None) => self.suspended_since = Some(boot),
            (false, Some(since)) => {
                self.suspended += boot.saturating_sub(since);
                self.suspended_since = None;
            }
            _ => {}
        }
    }

    /// The wall clock is set.
    pub fn step_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms = self.wall_offset_ms.saturating_add(by_ms);
    }

    /// The machine is booted: its boot time begins anew.
    pub fn reboot(&mut self, now: Nanos) {
        let (ppm, wall_offset_ms, boots) = (self.ppm, self.wall_offset_ms, self.boots + 1);
        // A kernel needs a moment until anything runs.
        *self = Self { ppm, wall_offset_ms, boots, ..Self::new(now, 2_000_000_000) };
    }

    /// How often it was booted.
    pub fn boots(&self) -> u64 {
        self.boots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_the_first_instant_that_reaches_a_boot_time() {
        for ppm in [-400_000, -250, 0, 1, 333, 250_000] {
            let mut clocks = Clocks::new(0, 5_000);
            clocks.set_rate(77, ppm);
            for boot in [5_077, 5_078, 6_001, 1_000_000_007] {
                let truth = clocks.truth(boot);
                assert!(clocks.boot(truth) >= boot, "{ppm} {boot}");
                assert!(truth <= 77 || clocks.boot(truth - 1) < boot, "{ppm} {boot}");
            }
        }
    }

    #[test]
    fn monotonic_time_stands_still_in_a_suspend() {
        let mut clocks = Clocks::new(0, 0);
        clocks.suspend(100, true);
        assert_eq!((clocks.boot(150), clocks.monotonic(150)), (150, 100));
        clocks.suspend(200, false);
        assert_eq!((clocks.boot(250), clocks.monotonic(250)), (250, 150));
        clocks.jump(250, 1_000);
        assert_eq!((clocks.boot(250), clocks.monotonic(250)), (1_250, 150));
        clocks.reboot(300);
        assert_eq!((clocks.boot(300), clocks.boots()), (2_000_000_000, 2));
    }
}
