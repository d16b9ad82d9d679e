//! Waiting for a clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use super::MachineId;
use super::clock::nanos;
use super::core::{self, Core};
use super::timers::{Action, Face, Key};

/// Sleeps until the CLOCK_BOOTTIME of a machine reaches a value, however that clock is changed
/// meanwhile. That of [`MachineId::WORLD`] is true time.
#[derive(Debug)]
pub struct Sleep {
    machine: MachineId,
    deadline: u64,
    /// The clock that the timer runs on.
    face: Face,
    /// The world, the timer, and whom it wakes.
    set: Option<(u16, Key, Waker)>,
}

impl Sleep {
    /// As a kernel timer on CLOCK_BOOTTIME: it expires also while the machine is suspended.
    pub(super) fn until(machine: MachineId, deadline: u64) -> Self {
        Self { machine, deadline, face: Face::Boot, set: None }
    }

    /// As the runtime of production: see [`super::Options::timers_stop_in_suspend`].
    pub(super) fn of_runtime(core: &Core, deadline: u64) -> Self {
        let face = if core.options.timers_stop_in_suspend { Face::Mono } else { Face::Boot };
        Self { machine: core.machine_now(), deadline, face, set: None }
    }

    fn clear(&mut self) {
        if let Some((world, key, _)) = self.set.take()
            && let Some(core) = core::find(world)
        {
            core.clear_timer(self.machine, self.face, key);
        }
    }

    /// How late the timer fires: none has the world's own.
    fn lateness(&self, core: &Core) -> u64 {
        let slack = nanos(core.options.timer_slack);
        if slack == 0 || self.machine == MachineId::WORLD {
            return 0;
        }
        core.machines.borrow_mut()[self.machine.index()].lateness.below(slack)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = Core::current();
        let (boot, shown) = {
            let machines = core.machines.borrow();
            let clocks = &machines[self.machine.index()].clocks;
            let (now, boot) = (core.now.get(), clocks.boot(core.now.get()));
            let shown = if self.face == Face::Boot { boot } else { clocks.monotonic(now) };
            (boot, shown)
        };
        let left = self.deadline.saturating_sub(boot);
        if left == 0 {
            self.clear();
            return Poll::Ready(());
        }
        // One that has not fired is kept: most polls of a sleep come from something else.
        let mut running = None;
        if let Some((world, (at, _), waker)) = &self.set
            && *world == core.serial
            && *at > shown
        {
            if waker.will_wake(cx.waker()) {
                return Poll::Pending;
            }
            running = Some(*at);
        }
        self.clear();
        let at = running.unwrap_or_else(|| {
            let late = self.lateness(&core);
            shown.saturating_add(left).saturating_add(late)
        });
        let action = Action::Wake(cx.waker().clone());
        let key = core.set_timer(self.machine, self.face, at, action);
        self.set = Some((core.serial, key, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The deadline came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

pin_project! {
    /// A future with a deadline. Where both are there at once, the future's value counts.
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        pub(super) future: F,
        #[pin]
        pub(super) sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        this.sleep.poll(cx).map(|()| Err(Elapsed))
    }
}
