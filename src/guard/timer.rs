//! The deadline: a kernel timer of the guard that kills the guard.

use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use super::refusal::Refusal;
use crate::domain::types::BootTime;

/// A deadline further away than this is taken for a mistake in a unit.
const DEADLINE_AHEAD_MAX: Duration = Duration::from_secs(3600);

/// The deadline in force and the timer that holds it. The kernel sends SIGKILL when it comes: no
/// code of the guard has to run, so that a stopped or stuck guard dies as well.
pub struct Deadline {
    timer: Timer,
    in_force: Option<BootTime>,
}

impl Deadline {
    /// Makes the timer, not armed. It belongs to this process: a fork does not inherit it.
    pub fn new() -> nix::Result<Deadline> {
        let event =
            SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        Ok(Deadline { timer: Timer::new(ClockId::CLOCK_BOOTTIME, event)?, in_force: None })
    }

    /// When the guard will be killed.
    pub fn in_force(&self) -> Option<BootTime> {
        self.in_force
    }

    /// Moves the deadline forward to `deadline`. It never moves back: a lease that was promised
    /// until then cannot be shortened by a request that was delayed.
    pub fn arm(&mut self, deadline: BootTime, now: BootTime) -> Result<BootTime, Refusal> {
        if deadline <= now {
            return Err(Refusal::DeadlinePassed);
        }
        if deadline.since(now) > DEADLINE_AHEAD_MAX {
            return Err(Refusal::DeadlineTooFar);
        }
        if let Some(in_force) = self.in_force.filter(|in_force| deadline < *in_force) {
            return Err(Refusal::DeadlineBackwards { in_force });
        }
        self.set(Duration::from_nanos(deadline.as_nanos()))
            .map_err(|e| Refusal::System { errno: e as i32 })?;
        self.in_force = Some(deadline);
        Ok(deadline)
    }

    /// Takes the deadline away: the tree is empty and there is nothing left to fence.
    pub fn disarm(&mut self) {
        // Should the kernel refuse, the guard dies at its deadline: safe.
        let _ = self.set(Duration::ZERO);
        self.in_force = None;
    }

    /// An absolute time; zero disarms, see timer_settime(2).
    fn set(&mut self, at: Duration) -> nix::Result<()> {
        let at = Expiration::OneShot(TimeSpec::from_duration(at));
        self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::boot_now;

    #[test]
    fn a_deadline_moves_forward_only_and_stays_near() {
        let mut deadline = Deadline::new().unwrap();
        let now = boot_now();
        let far = now.plus(Duration::from_secs(600));
        assert_eq!(deadline.arm(now, now), Err(Refusal::DeadlinePassed));
        let too_far = now.plus(Duration::from_secs(3601));
        assert_eq!(deadline.arm(too_far, now), Err(Refusal::DeadlineTooFar));
        assert_eq!(deadline.in_force(), None);
        assert_eq!(deadline.arm(far, now), Ok(far));
        assert_eq!(deadline.arm(far, now), Ok(far));
        let earlier = now.plus(Duration::from_secs(599));
        assert_eq!(deadline.arm(earlier, now), Err(Refusal::DeadlineBackwards { in_force: far }));
        assert_eq!(deadline.in_force(), Some(far));
        deadline.disarm();
        assert_eq!(deadline.in_force(), None);
    }
}
