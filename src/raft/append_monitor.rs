//! How long the disk takes.
//!
//! Owns the measure of appends to the own log: how long the last one took, and since when the
//! oldest unfinished one waits. The watchdog of a leader reads it: heartbeats need no disk, so a
//! leader with a stuck disk would otherwise lead for ever.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::{AsyncRuntime, Instant};

struct State<I> {
    in_flight: VecDeque<(u64, I)>,
    last: Duration,
}

/// The measure, shared between the log store and those who watch it.
pub struct AppendMonitor<RT: AsyncRuntime>(Mutex<State<RT::Instant>>);

impl<RT: AsyncRuntime> Default for AppendMonitor<RT> {
    fn default() -> Self {
        Self(Mutex::new(State { in_flight: VecDeque::new(), last: Duration::ZERO }))
    }
}

impl<RT: AsyncRuntime> AppendMonitor<RT> {
    fn lock(&self) -> MutexGuard<'_, State<RT::Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Write `number` was submitted.
    pub(super) fn begin(&self, number: u64) {
        self.lock().in_flight.push_back((number, RT::Instant::now()));
    }

    /// Write `number` and those before it are done.
    pub(super) fn end(&self, number: u64) {
        let now = RT::Instant::now();
        let mut state = self.lock();
        while let Some((first, since)) = state.in_flight.front().copied()
            && first <= number
        {
            state.in_flight.pop_front();
            state.last = now.saturating_duration_since(since);
        }
    }

    /// How long the last finished append took until it was on disk.
    pub fn last_append_latency(&self) -> Duration {
        self.lock().last
    }

    /// Since when the oldest unfinished append waits. `None` where none does.
    pub fn append_in_flight_since(&self) -> Option<RT::Instant> {
        self.lock().in_flight.front().map(|(_, since)| *since)
    }
}
