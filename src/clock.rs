//! Time: the one place that reads a clock.
//!
//! Owns the `Clock` trait and the clock of a real machine. Everything that decides takes a
//! [`BootTime`] as a parameter instead.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::types::{BootTime, WallMillis};

/// A source of time. Production reads the kernel's; the simulator has its own.
pub trait Clock: Send + Sync + 'static {
    /// CLOCK_BOOTTIME: monotonic, counts suspend.
    fn now(&self) -> BootTime;

    /// Wall-clock time, for people and histories only. Nothing is decided by it.
    fn wall(&self) -> WallMillis;
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> BootTime {
        boot_now()
    }

    #[allow(clippy::disallowed_methods)] // the place that owns wall-clock time
    fn wall(&self) -> WallMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Reads CLOCK_BOOTTIME.
pub fn boot_now() -> BootTime {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec; CLOCK_BOOTTIME exists on every Linux since 2.6.39.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut ts) };
    assert_eq!(rc, 0, "CLOCK_BOOTTIME cannot be read: this kernel is not supported");
    BootTime::from_nanos(ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
}
