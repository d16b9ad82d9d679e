//! A world, as whoever runs it sees it.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;

use super::clock::Nanos;
use super::core::{self, Core, End, Run};
use super::join::JoinHandle;
use super::options::Options;
use super::panics::Panicked;
use super::{MachineId, ScopeId, api};

/// Everything of one run. Dropping it drops all tasks. The code of a thread is in the world that
/// was made last; those of a thread are dropped in the reverse order.
pub struct World {
    core: Rc<Core>,
    outer: Option<Rc<Core>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.core.seed)
            .field("now", &self.core.now.get())
            .finish_non_exhaustive()
    }
}

impl World {
    /// An empty world at true time 0, with machine [`MachineId::WORLD`] and its scope.
    pub fn new(seed: u64) -> Self {
        Self::with_options(seed, Options::default())
    }

    /// The same with other rules.
    pub fn with_options(seed: u64, options: Options) -> Self {
        let core = Core::new(seed, options);
        let outer = core::enter(Some(core.clone()));
        let machine = core.add_machine("world", 0);
        let scope = core.add_scope(machine, "world");
        assert_eq!((machine, scope), (MachineId::WORLD, ScopeId::WORLD));
        Self { core, outer }
    }

    /// A new machine that was booted `uptime_ns` ago. Its name, which no other has, decides its
    /// random numbers.
    pub fn machine(&self, name: &str, uptime_ns: u64) -> MachineId {
        self.core.add_machine(name, uptime_ns)
    }

    /// A new scope on a machine.
    pub fn scope(&self, machine: MachineId, name: &str) -> ScopeId {
        self.core.add_scope(machine, name)
    }

    /// Starts a task in a scope.
    pub fn spawn<F>(&self, scope: ScopeId, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let _entered = self.core.enter();
        api::spawn_on(scope, future)
    }

    /// Runs until true time is `until`, with all that happens at it, or until `on_step`, which is
    /// called after each poll, returns false; returns whether the time came. It comes also where
    /// nothing is left to do.
    pub fn run_until(&self, until: Nanos, on_step: &mut dyn FnMut() -> bool) -> bool {
        let run = Run { until, on_step: Some(on_step), ..Run::default() };
        self.core.run(run) != End::Stopped
    }

    /// The same, but `on_instant` is called only before time goes on, once all that can happen at
    /// an instant has happened. What it changes happens at that instant too; it is called again.
    pub fn run_instants(&self, until: Nanos, on_instant: &mut dyn FnMut() -> bool) -> bool {
        let run = Run { until, on_instant: Some(on_instant), ..Run::default() };
        self.core.run(run) != End::Stopped
    }

    /// Runs until a future of the caller's is done, in the scope of the world. It may borrow, and
    /// need not be `Send`. Panics where nothing can happen any more: it waits for what never comes.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let core = &self.core;
        let id = core.tasks.borrow_mut().add(ScopeId::WORLD, None);
        let mut future = pin!(future);
        let mut value = None;
        let mut poll =
            |cx: &mut Context<'_>| future.as_mut().poll(cx).map(|done| value = Some(done));
        let outside = Some((id, &mut poll as _));
        core.run(Run { until: Nanos::MAX, outside, ..Run::default() });
        drop(core.tasks.borrow_mut().remove(id));
        value.unwrap_or_else(|| panic!("nothing can happen any more, and the future is not done"))
    }

    /// How often a task was polled.
    pub fn polls(&self) -> u64 {
        self.core.polls.get()
    }

    /// How many tasks there are.
    pub fn tasks(&self) -> usize {
        self.core.tasks.borrow().count()
    }

    /// Panics since this was asked last.
    pub fn take_panics(&self) -> Vec<Panicked> {
        std::mem::take(&mut self.core.panics.borrow_mut())
    }

    /// Keeps the lines of the trace, not their hash alone.
    pub fn keep_trace(&self, keep: bool) {
        self.core.trace.borrow_mut().keep = keep;
    }

    /// Prints the lines of the trace as they come.
    pub fn print_trace(&self) {
        self.core.trace.borrow_mut().print = true;
    }

    /// The hash of everything traced so far.
    pub fn trace_hash(&self) -> u64 {
        self.core.trace.borrow().hash.value()
    }

    /// The hash of the run so far: the trace, and which task was polled when. Runs that begin to
    /// differ differ here first.
    pub fn run_hash(&self) -> u64 {
        let mut hash = self.core.schedule.get();
        hash.number(self.trace_hash());
        hash.number(self.core.now.get());
        hash.value()
    }

    /// The lines that were kept since this was asked last.
    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.core.trace.borrow_mut().lines)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        {
            let _entered = self.core.enter();
            self.core.clear();
        }
        let current = Core::try_current();
        if current.is_some_and(|current| Rc::ptr_eq(&current, &self.core)) {
            drop(core::enter(self.outer.take()));
        }
    }
}
