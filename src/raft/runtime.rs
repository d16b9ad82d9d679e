//! The runtime of production: tokio, with CLOCK_BOOTTIME as its time.
//!
//! Owns [`BootRuntime`]. tokio's own timers run on CLOCK_MONOTONIC, which stands still while the
//! machine is suspended; every timer here re-checks CLOCK_BOOTTIME whenever it is polled, so that
//! an election timeout or a lease measured by openraft counts the suspend.

// This is the wrapper that everything else has to use instead of tokio.
#![allow(clippy::disallowed_methods)]

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The runtime that everything which waits is generic over.
pub use openraft::AsyncRuntime;
use openraft::OptionalSend;
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};

use crate::clock::boot_now;
use crate::domain::types::BootTime;

/// An instant on CLOCK_BOOTTIME. Its arithmetic saturates instead of panicking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(BootTime);

impl BootInstant {
    fn remaining(self) -> Duration {
        self.0.since(boot_now())
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.plus(d))
    }
}
impl AddAssign<Duration> for BootInstant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}
impl Sub<Duration> for BootInstant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Self(BootTime::from_nanos(self.0.as_nanos().saturating_sub(nanos)))
    }
}
impl SubAssign<Duration> for BootInstant {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}
impl Sub for BootInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}
impl openraft::Instant for BootInstant {
    fn now() -> Self {
        Self(boot_now())
    }
}

/// Sleeps until an instant of CLOCK_BOOTTIME.
pub struct BootSleep {
    deadline: BootInstant,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl BootSleep {
    fn until(deadline: BootInstant) -> Self {
        Self { deadline, timer: Box::pin(tokio::time::sleep(deadline.remaining())) }
    }
}

impl Future for BootSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let left = self.deadline.remaining();
            if left.is_zero() {
                return Poll::Ready(());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // tokio rounds to milliseconds and counts another clock: the rest is slept again.
            self.timer.as_mut().reset(tokio::time::Instant::now() + left);
        }
    }
}

/// The deadline came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

/// A future with a deadline on CLOCK_BOOTTIME.
pub struct BootTimeout<F> {
    future: Pin<Box<F>>,
    sleep: BootSleep,
}

impl<F: Future> Future for BootTimeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// tokio with CLOCK_BOOTTIME. Channels and locks are tokio's.
pub struct BootRuntime(TokioRuntime);

impl fmt::Debug for BootRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootRuntime")
    }
}

impl AsyncRuntime for BootRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = BootSleep;
    type Instant = BootInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = BootTimeout<T>;
    type ThreadLocalRng = rand::rngs::ThreadRng;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::task::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        BootSleep::until(BootInstant(boot_now().plus(duration)))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        BootSleep::until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        BootTimeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        BootTimeout { future: Box::pin(future), sleep: BootSleep::until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        rand::rng()
    }

    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
