//! Waiting for a clock.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::{Due, MachineId, core};

/// Sleeps until the CLOCK_BOOTTIME of a machine reaches a value, however that clock is changed
/// meanwhile.
pub struct Sleep {
    machine: MachineId,
    deadline: u64,
    key: Option<u64>,
}

impl Sleep {
    pub(super) fn until(machine: MachineId, deadline: u64) -> Self {
        Self { machine, deadline, key: None }
    }

    fn clear(&mut self) {
        if let Some(key) = self.key.take() {
            core().clear_timer(self.machine, self.deadline, key);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.clear();
        let core = core();
        if core.boot(self.machine) >= self.deadline {
            return Poll::Ready(());
        }
        let key = core.set_timer(self.machine, self.deadline, Due::Wake(cx.waker().clone()));
        self.key = Some(key);
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
    /// A future with a deadline.
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
