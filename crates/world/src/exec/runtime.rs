//! The runtime that production code sees.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};

use super::channel::{SimMpsc, SimMutex, SimOneshot};
use super::clock::nanos;
use super::core::Core;
use super::watch::SimWatch;
use super::{Elapsed, JoinError, JoinHandle, MachineId, Sleep, Stream, Timeout, World, api};
use crate::clock::Clock;
use crate::domain::types::{BootTime, WallMillis};

/// CLOCK_BOOTTIME of the machine that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(u64);

impl Add<Duration> for SimInstant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(nanos(d)))
    }
}
impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}
impl Sub<Duration> for SimInstant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(d)))
    }
}
impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}
impl Sub for SimInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
impl openraft_rt::Instant for SimInstant {
    fn now() -> Self {
        let core = Core::current();
        Self(core.boot(core.machine_now()))
    }
}

/// The clocks of a machine, for production code on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineClock(pub MachineId);

impl Clock for MachineClock {
    fn now(&self) -> BootTime {
        BootTime::from_nanos(api::boot_time(self.0))
    }

    fn wall(&self) -> WallMillis {
        let core = Core::current();
        let machines = core.machines.borrow();
        WallMillis(machines[self.0.index()].clocks.wall_ms(core.now.get()))
    }
}

/// The simulated runtime. Its tasks belong to the scope that starts them, its timers to that
/// scope's machine, its random numbers to that machine's stream.
pub struct SimRuntime(World);

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRuntime")
    }
}

impl AsyncRuntime for SimRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Stream;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        api::spawn_on(api::current_scope(), future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Self::sleep_until(<SimInstant as openraft_rt::Instant>::now() + duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Sleep::of_runtime(&Core::current(), deadline.0)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future, sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Timeout { future, sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        matches!(join_error, JoinError::Panicked(_))
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let machine = Core::current().machine_now();
        Stream::new(api::with_rng(machine, Stream::draw), "thread")
    }

    type Mpsc = SimMpsc;
    type Watch = SimWatch;
    type Oneshot = SimOneshot;
    type Mutex<T: OptionalSend + 'static> = SimMutex<T>;

    /// A world of its own, for suites that bring their main task with them.
    fn new(_threads: usize) -> Self {
        Self(World::new(0))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// Runs it where it is, after a short time as if a thread did it.
    fn spawn_blocking<F, T>(act: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let machine = Core::current().machine_now();
        let micros = api::with_rng(machine, |rng| rng.between(20, 500));
        let wait = Self::sleep(Duration::from_micros(micros));
        async move {
            wait.await;
            Ok(act())
        }
    }
}
