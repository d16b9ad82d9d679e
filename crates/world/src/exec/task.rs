//! Tasks, their wakers, and which of them are runnable.
//!
//! Owns the table of tasks and the ready queue. A waker is two numbers: it costs no allocation and
//! no count, finds its world through the thread it is woken on, and does nothing once its task or
//! its world is gone.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::ScopeId;
use super::rng::Stream;

pub(crate) type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

/// One life of one place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId {
    pub(crate) index: u32,
    /// Only the low 24 bits are told apart: a waker that outlives 16 million lives of one place
    /// wakes somebody else, which every task has to stand.
    pub(crate) life: u32,
}

const LIFE_BITS: u32 = 24;
const INDEX_BITS: u32 = 24;

struct Slot {
    life: u32,
    scope: ScopeId,
    used: bool,
    /// In the ready queue, parked in its scope, or held back by a timer.
    queued: bool,
    /// Absent while it is polled, and for a task that is polled by `block_on`.
    future: Option<BoxedTask>,
}

/// The table of tasks and the ready queue.
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: VecDeque<TaskId>,
    /// Orders the runnable; absent for first come, first served.
    pick: Option<Stream>,
}

impl Tasks {
    pub(crate) fn new(pick: Option<Stream>) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ready: VecDeque::new(), pick }
    }

    /// Adds a runnable task.
    pub(crate) fn add(&mut self, scope: ScopeId, future: Option<BoxedTask>) -> TaskId {
        let index = self.free.pop().unwrap_or_else(|| {
            let slot = Slot { life: 0, scope, used: false, queued: false, future: None };
            self.slots.push(slot);
            assert!(self.slots.len() < 1 << INDEX_BITS, "too many tasks");
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.life = (slot.life + 1) & ((1 << LIFE_BITS) - 1);
        (slot.scope, slot.used, slot.queued, slot.future) = (scope, true, true, future);
        let id = TaskId { index, life: slot.life };
        self.ready.push_back(id);
        id
    }

    fn slot(&mut self, id: TaskId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.used && slot.life == id.life)
    }

    /// Makes a task runnable, if it lives and is not waiting for its turn already.
    pub(crate) fn wake(&mut self, id: TaskId) {
        let Some(slot) = self.slot(id) else { return };
        if !std::mem::replace(&mut slot.queued, true) {
            self.ready.push_back(id);
        }
    }

    /// Puts a task that is marked as queued back into the queue.
    pub(crate) fn requeue(&mut self, id: TaskId) {
        if self.slot(id).is_some() {
            self.ready.push_back(id);
        }
    }

    /// How many may be runnable.
    pub(crate) fn runnable(&self) -> usize {
        self.ready.len()
    }

    /// Picks a runnable task, which leaves the queue, and tells its scope.
    pub(crate) fn pick(&mut self) -> Option<(TaskId, ScopeId)> {
        loop {
            let id = match &mut self.pick {
                Some(rng) if self.ready.len() > 1 => {
                    let at = rng.below(self.ready.len() as u64) as usize;
                    self.ready.swap_remove_back(at)?
                }
                _ => self.ready.pop_front()?,
            };
            // Those of the dead are left in the queue when they die.
            if let Some(slot) = self.slot(id) {
                return Some((id, slot.scope));
            }
        }
    }

    /// Takes the future of a picked task out, to poll it: from here on it can be woken again.
    pub(crate) fn begin(&mut self, id: TaskId) -> Option<BoxedTask> {
        let slot = self.slot(id)?;
        slot.queued = false;
        slot.future.take()
    }

    /// Puts the future back after a poll. Returns it if the task was killed meanwhile.
    pub(crate) fn end(&mut self, id: TaskId, future: BoxedTask) -> Option<BoxedTask> {
        match self.slot(id) {
            Some(slot) => {
                slot.future = Some(future);
                None
            }
            None => Some(future),
        }
    }

    /// Ends a task, and returns its future unless it is being polled.
    pub(crate) fn remove(&mut self, id: TaskId) -> Option<BoxedTask> {
        let slot = self.slot(id)?;
        slot.used = false;
        let future = slot.future.take();
        self.free.push(id.index);
        future
    }

    /// The scope of a task that lives.
    pub(crate) fn scope_of(&mut self, id: TaskId) -> Option<ScopeId> {
        self.slot(id).map(|slot| slot.scope)
    }

    /// The tasks of a scope, in the order of their places.
    pub(crate) fn of_scope(&self, scope: ScopeId) -> Vec<TaskId> {
        let live = self.slots.iter().enumerate().filter(|(_, s)| s.used && s.scope == scope);
        live.map(|(index, s)| TaskId { index: index as u32, life: s.life }).collect()
    }

    /// How many tasks live.
    pub(crate) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// The waker of a task of the world with this number.
pub(crate) fn waker(world: u16, id: TaskId) -> Waker {
    let packed = (u64::from(world) << (LIFE_BITS + INDEX_BITS))
        | (u64::from(id.life) << INDEX_BITS)
        | u64::from(id.index);
    // SAFETY: the functions of `VTABLE` take their argument for a number and never for an address,
    // so that there is nothing to keep alive, to count or to free. They may be called on any
    // thread: they reach only what belongs to the thread they run on.
    unsafe { Waker::from_raw(raw(packed as usize as *const ())) }
}

const _: () = assert!(size_of::<usize>() == 8, "a waker packs 64 bits into an address");

static VTABLE: RawWakerVTable = RawWakerVTable::new(raw, wake, wake, |_| {});

fn raw(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

fn wake(data: *const ()) {
    let packed = data as usize as u64;
    let index = (packed & ((1 << INDEX_BITS) - 1)) as u32;
    let life = ((packed >> INDEX_BITS) & ((1 << LIFE_BITS) - 1)) as u32;
    let world = (packed >> (LIFE_BITS + INDEX_BITS)) as u16;
    super::core::wake(world, TaskId { index, life });
}
