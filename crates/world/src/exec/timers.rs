//! Timers on many clocks.
//!
//! Owns one queue per clock of each machine, and knows which of them is due first in true time.

use std::collections::BTreeMap;
use std::task::Waker;

use super::MachineId;
use super::clock::{Clocks, Nanos};
use super::task::TaskId;

/// Which clock of a machine a queue runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    /// CLOCK_BOOTTIME.
    Boot,
    /// CLOCK_MONOTONIC.
    Mono,
}

/// What a timer does.
pub(crate) enum Action {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
    /// Makes a task runnable that was held back.
    Requeue(TaskId),
}

/// The time on its clock, and a number which orders timers of one time by their setting.
pub(crate) type Key = (u64, u64);

struct Queue {
    timers: BTreeMap<Key, Action>,
    /// The true time at which the first is due; the end of time if there is none.
    next: Nanos,
}

/// All timers of a world.
pub(crate) struct Timers {
    /// Two a machine: boot time, then monotonic.
    queues: Vec<Queue>,
    /// The least `next`.
    earliest: Nanos,
    set: u64,
}

fn index(machine: MachineId, face: Face) -> usize {
    machine.index() * 2 + usize::from(face == Face::Mono)
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self { queues: Vec::new(), earliest: Nanos::MAX, set: 0 }
    }

    /// Room for one more machine.
    pub(crate) fn add_machine(&mut self) {
        for _ in 0..2 {
            self.queues.push(Queue { timers: BTreeMap::new(), next: Nanos::MAX });
        }
    }

    /// The true time at which the next timer is due; the end of time if there is none.
    pub(crate) fn earliest(&self) -> Nanos {
        self.earliest
    }

    fn refresh(&mut self, queue: usize, clocks: &Clocks) {
        let first = self.queues[queue].timers.first_key_value().map(|((at, _), _)| *at);
        let next = match first {
            None => Nanos::MAX,
            Some(at) if queue.is_multiple_of(2) => clocks.truth_of_boot(at),
            Some(at) => clocks.truth_of_monotonic(at),
        };
        let before = std::mem::replace(&mut self.queues[queue].next, next);
        if next <= self.earliest {
            self.earliest = next;
        } else if before == self.earliest {
            self.earliest = self.queues.iter().map(|q| q.next).min().unwrap_or(Nanos::MAX);
        }
    }

    /// The clocks of a machine changed.
    pub(crate) fn clocks_changed(&mut self, machine: MachineId, clocks: &Clocks) {
        self.refresh(index(machine, Face::Boot), clocks);
        self.refresh(index(machine, Face::Mono), clocks);
    }

    /// Sets a timer for when the clock shows `at`.
    pub(crate) fn set(
        &mut self,
        machine: MachineId,
        face: Face,
        at: u64,
        clocks: &Clocks,
        action: Action,
    ) -> Key {
        let queue = index(machine, face);
        self.set += 1;
        let key = (at, self.set);
        let timers = &mut self.queues[queue].timers;
        let first = timers.first_key_value().is_none_or(|(head, _)| key < *head);
        timers.insert(key, action);
        if first {
            self.refresh(queue, clocks);
        }
        key
    }

    /// Takes a timer away, if it has not fired. The caller drops it when it holds no borrow.
    pub(crate) fn clear(
        &mut self,
        machine: MachineId,
        face: Face,
        key: Key,
        clocks: &Clocks,
    ) -> Option<Action> {
        let queue = index(machine, face);
        let timers = &mut self.queues[queue].timers;
        let first = timers.first_key_value().is_some_and(|(head, _)| *head == key);
        let action = timers.remove(&key);
        if first {
            self.refresh(queue, clocks);
        }
        action
    }

    /// Takes the next timer that is due at the true time `now`: machines in their order, and those
    /// of one clock by their time.
    pub(crate) fn due(
        &mut self,
        now: Nanos,
        clocks_of: impl Fn(MachineId) -> Clocks,
    ) -> Option<Action> {
        if self.earliest > now {
            return None;
        }
        let queue = self.queues.iter().position(|q| q.next <= now)?;
        let (_, action) = self.queues[queue].timers.pop_first()?;
        self.refresh(queue, &clocks_of(MachineId((queue / 2) as u32)));
        Some(action)
    }

    /// Takes everything away.
    pub(crate) fn drain(&mut self) -> Vec<Action> {
        self.earliest = Nanos::MAX;
        let take = |q: &mut Queue| {
            q.next = Nanos::MAX;
            std::mem::take(&mut q.timers).into_values()
        };
        self.queues.iter_mut().flat_map(take).collect()
    }
}
