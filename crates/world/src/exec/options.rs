//! How a world schedules.

use std::time::Duration;

/// How a world schedules. The default draws the next task from those that can run, and adds
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// First come, first served, instead of a draw among those that can run.
    pub fifo: bool,
    /// One poll in so many goes behind the others that can run; 0 for none.
    pub yield_one_in: u32,
    /// One poll in so many is put off by up to `stall_max` of true time, as on a busy machine; 0
    /// for none.
    pub stall_one_in: u32,
    /// The longest of these delays.
    pub stall_max: Duration,
    /// How late timers of machines fire at most. tokio rounds up to a millisecond.
    pub timer_slack: Duration,
    /// Timers of the runtime run on CLOCK_MONOTONIC, as tokio's do on a real machine: what was left
    /// to sleep when the machine was suspended is slept after it, and a deadline that passed
    /// meanwhile is seen that much later. Otherwise they fire as soon as boot time reaches them.
    pub timers_stop_in_suspend: bool,
    /// More polls than this at one instant of true time are a loop that never waits: the scope is
    /// killed, and this is noted as its panic.
    pub polls_per_instant_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fifo: false,
            yield_one_in: 0,
            stall_one_in: 0,
            stall_max: Duration::from_millis(2),
            timer_slack: Duration::ZERO,
            timers_stop_in_suspend: false,
            polls_per_instant_max: 1_000_000,
        }
    }
}
