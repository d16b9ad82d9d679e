//! The executor: tasks, scopes, machines, and time.
//!
//! Owns [`World`], in which everything of one run happens on one thread, and [`SimRuntime`], the
//! runtime that production code is generic over. Nothing here reads a real clock or a real source
//! of randomness: one seed gives one run.
//!
//! - A *machine* has clocks and a stream of random numbers. Machine 0 is the world itself, whose
//!   clocks tell the truth.
//! - A *scope* is one life of a process: a group of tasks of one machine that can be stopped
//!   (SIGSTOP) and killed (SIGKILL) together. Nothing runs in a scope that was killed, not even
//!   the code that shuts things down; values are dropped.
//! - The next task is drawn from those that can run, so that a seed is an interleaving too.
//!
//! May import the clock and the domain's types.

mod clock;
mod join;
mod rng;
mod runtime;
mod sleep;
mod trace;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use clock::Clocks;

pub use clock::Nanos;
pub use join::{JoinError, JoinHandle};
pub use rng::Stream;
pub use runtime::{MachineClock, SimInstant, SimRuntime};
pub use sleep::{Elapsed, Sleep, Timeout};

/// Most polls at one instant of true time: more are a loop that never waits.
const POLLS_MAX: u32 = 2_000_000;

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(u32);

impl MachineId {
    /// The world itself: its clocks tell the truth.
    pub const WORLD: Self = Self(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// One life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(u32);

impl ScopeId {
    /// The world's own tasks.
    pub const WORLD: Self = Self(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A panic of a task. Its scope was killed: a daemon aborts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// True time.
    pub at: Nanos,
    /// Machine and scope, by name.
    pub scope: String,
    /// What it said.
    pub text: String,
}

struct Machine {
    name: String,
    clocks: Clocks,
    rng: Stream,
    /// By boot time, and the order in which they were set.
    timers: BTreeMap<(u64, u64), Due>,
    suspended: bool,
}

/// What is done when a timer fires.
enum Due {
    Wake(Waker),
    Run(Box<dyn FnOnce()>),
}

struct Scope {
    name: String,
    machine: MachineId,
    alive: bool,
    paused: bool,
    tasks: BTreeSet<u64>,
    /// Tasks that could run if it did.
    parked: Vec<u64>,
}

type Future_ = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    scope: ScopeId,
    /// Gone while it is polled.
    future: Option<Future_>,
    wake: Arc<TaskWake>,
    waker: Waker,
}

#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

struct TaskWake {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

struct State {
    seed: u64,
    choices: Stream,
    machines: Vec<Machine>,
    scopes: Vec<Scope>,
    tasks: BTreeMap<u64, Task>,
    next_task: u64,
    next_timer: u64,
    queue: VecDeque<u64>,
    panics: Vec<Panicked>,
    trace: trace::Trace,
}

pub(crate) struct Core {
    state: RefCell<State>,
    ready: Arc<Ready>,
    now: Cell<Nanos>,
    scope: Cell<ScopeId>,
    polls: Cell<u64>,
    /// Polls at this instant.
    here: Cell<u32>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

fn core() -> Rc<Core> {
    CURRENT.with_borrow(|core| core.clone()).unwrap_or_else(|| {
        panic!("this code runs in a simulated world only, and there is none on this thread")
    })
}

/// Everything of one run. Dropping it drops all tasks. The code of a thread is in the world that
/// was made last; those of a thread are dropped in the reverse order.
pub struct World {
    core: Rc<Core>,
    outer: Option<Rc<Core>>,
}

impl World {
    /// An empty world at true time 0, with machine [`MachineId::WORLD`] and its scope.
    pub fn new(seed: u64) -> Self {
        let ready = Arc::new(Ready::default());
        let state = State {
            seed,
            choices: Stream::new(seed, "choices"),
            machines: Vec::new(),
            scopes: Vec::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            next_timer: 0,
            queue: VecDeque::new(),
            panics: Vec::new(),
            trace: trace::Trace::default(),
        };
        let core = Rc::new(Core {
            state: RefCell::new(state),
            ready,
            now: Cell::new(0),
            scope: Cell::new(ScopeId::WORLD),
            polls: Cell::new(0),
            here: Cell::new(0),
        });
        let outer = CURRENT.with_borrow_mut(|current| current.replace(core.clone()));
        let world = Self { core, outer };
        let machine = world.machine("world", 0);
        let scope = world.scope(machine, "world");
        assert_eq!((machine, scope), (MachineId::WORLD, ScopeId::WORLD));
        world
    }

    /// A new machine that was booted `uptime_ns` ago.
    pub fn machine(&self, name: &str, uptime_ns: u64) -> MachineId {
        let mut state = self.core.state.borrow_mut();
        let id = MachineId(u32::try_from(state.machines.len()).unwrap_or(u32::MAX));
        let rng = Stream::new(state.seed, name);
        let clocks = Clocks::new(self.core.now.get(), uptime_ns);
        let timers = BTreeMap::new();
        state.machines.push(Machine {
            name: name.to_owned(),
            clocks,
            rng,
            timers,
            suspended: false,
        });
        id
    }

    /// A new scope on a machine.
    pub fn scope(&self, machine: MachineId, name: &str) -> ScopeId {
        self.core.new_scope(machine, name)
    }

    /// Starts a task in a scope.
    pub fn spawn<F>(&self, scope: ScopeId, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.core.spawn(scope, future)
    }

    /// Runs until true time is `until`, or `on_step`, which is called after each poll, returns
    /// false; returns whether the time came. It comes also where nothing is left to do.
    pub fn run_until(&self, until: Nanos, on_step: &mut dyn FnMut() -> bool) -> bool {
        loop {
            if self.core.poll_one() {
                if !on_step() {
                    return false;
                }
                continue;
            }
            match self.core.next_timer() {
                Some(at) if at <= until => self.core.advance(at),
                _ => {
                    self.core.set_now(until);
                    return true;
                }
            }
        }
    }

    /// Runs until a future of the caller's is done, in the scope of the world. Panics where
    /// nothing can happen any more: it waits for what never comes.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        // Its id is no task's: that it is ready is told by its flag.
        let (queued, ready) = (AtomicBool::new(true), Arc::new(Ready::default()));
        let wake = Arc::new(TaskWake { id: u64::MAX, queued, ready });
        let waker = Waker::from(wake.clone());
        loop {
            if wake.queued.swap(false, Ordering::Relaxed)
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return value;
            }
            if self.core.poll_one() || wake.queued.load(Ordering::Relaxed) {
                continue;
            }
            match self.core.next_timer() {
                Some(at) => self.core.advance(at),
                None => panic!("nothing can happen any more, and the future is not done"),
            }
        }
    }

    /// How often a task was polled.
    pub fn polls(&self) -> u64 {
        self.core.polls.get()
    }

    /// Panics since this was asked last.
    pub fn take_panics(&self) -> Vec<Panicked> {
        std::mem::take(&mut self.core.state.borrow_mut().panics)
    }

    /// Keeps the lines of the trace, not their hash alone.
    pub fn keep_trace(&self, keep: bool) {
        self.core.state.borrow_mut().trace.keep = keep;
    }

    /// The hash of everything traced so far.
    pub fn trace_hash(&self) -> u64 {
        self.core.state.borrow().trace.hash
    }

    /// The lines that were kept since this was asked last.
    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.core.state.borrow_mut().trace.lines)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Tasks first, while their code still finds the world.
        loop {
            let tasks = std::mem::take(&mut self.core.state.borrow_mut().tasks);
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        let timers: Vec<_> = {
            let mut state = self.core.state.borrow_mut();
            state.machines.iter_mut().map(|m| std::mem::take(&mut m.timers)).collect()
        };
        drop(timers);
        CURRENT.with_borrow_mut(|current| *current = self.outer.take());
    }
}

impl Core {
    fn new_scope(&self, machine: MachineId, name: &str) -> ScopeId {
        let mut state = self.state.borrow_mut();
        let id = ScopeId(u32::try_from(state.scopes.len()).unwrap_or(u32::MAX));
        state.scopes.push(Scope {
            name: name.to_owned(),
            machine,
            alive: true,
            paused: false,
            tasks: BTreeSet::new(),
            parked: Vec::new(),
        });
        id
    }

    fn spawn<F>(&self, scope: ScopeId, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (task, handle) = join::pair(future);
        let mut state = self.state.borrow_mut();
        if !state.scopes[scope.index()].alive {
            drop(state);
            drop(task);
            return handle;
        }
        let id = state.next_task;
        state.next_task += 1;
        let queued = AtomicBool::new(true);
        let wake = Arc::new(TaskWake { id, queued, ready: self.ready.clone() });
        let waker = Waker::from(wake.clone());
        state.scopes[scope.index()].tasks.insert(id);
        let future: Future_ = Box::pin(task);
        state.tasks.insert(id, Task { scope, future: Some(future), wake, waker });
        drop(state);
        self.ready.0.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        handle
    }

    /// Polls one of the tasks that can run; false where there is none.
    fn poll_one(&self) -> bool {
        let (id, scope, mut future, waker) = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            {
                let mut ready = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
                state.queue.extend(ready.drain(..));
            }
            loop {
                let n = state.queue.len() as u64;
                if n == 0 {
                    return false;
                }
                let chosen = if n == 1 { 0 } else { state.choices.below(n) };
                let Some(id) = state.queue.swap_remove_back(chosen as usize) else { continue };
                let Some(task) = state.tasks.get_mut(&id) else { continue };
                let scope = &mut state.scopes[task.scope.index()];
                if scope.paused || state.machines[scope.machine.index()].suspended {
                    scope.parked.push(id);
                    continue;
                }
                task.wake.queued.store(false, Ordering::Relaxed);
                let Some(future) = task.future.take() else { continue };
                break (id, task.scope, future, task.waker.clone());
            }
        };
        self.polls.set(self.polls.get() + 1);
        self.here.set(self.here.get() + 1);
        assert!(
            self.here.get() < POLLS_MAX,
            "{} never waits: {POLLS_MAX} polls at {} ns",
            self.describe(scope),
            self.now.get()
        );
        let before = self.scope.replace(scope);
        let outcome = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.scope.set(before);
        let finished = {
            let mut state = self.state.borrow_mut();
            match state.tasks.get_mut(&id) {
                Some(task) if outcome.is_pending() => {
                    task.future = Some(future);
                    None
                }
                // Its scope was killed meanwhile.
                None => Some(future),
                Some(_) => {
                    state.tasks.remove(&id);
                    state.scopes[scope.index()].tasks.remove(&id);
                    Some(future)
                }
            }
        };
        drop(finished);
        true
    }

    /// The true time at which the next timer fires.
    fn next_timer(&self) -> Option<Nanos> {
        let state = self.state.borrow();
        let first = |m: &Machine| Some(m.clocks.truth(m.timers.first_key_value()?.0.0));
        let at = state.machines.iter().filter_map(first).min()?;
        Some(at.max(self.now.get()))
    }

    fn set_now(&self, at: Nanos) {
        if at > self.now.get() {
            self.now.set(at);
            self.here.set(0);
        }
    }

    /// Goes to a true time, and fires what is due.
    fn advance(&self, at: Nanos) {
        self.set_now(at);
        let mut due = Vec::new();
        for machine in &mut self.state.borrow_mut().machines {
            let boot = machine.clocks.boot(at);
            while let Some(entry) = machine.timers.first_entry()
                && entry.key().0 <= boot
            {
                due.push(entry.remove());
            }
        }
        for due in due {
            match due {
                Due::Wake(waker) => waker.wake(),
                Due::Run(act) => {
                    let before = self.scope.replace(ScopeId::WORLD);
                    act();
                    self.scope.set(before);
                }
            }
        }
    }

    fn set_timer(&self, machine: MachineId, boot: u64, due: Due) -> u64 {
        let mut state = self.state.borrow_mut();
        state.next_timer += 1;
        let key = state.next_timer;
        state.machines[machine.index()].timers.insert((boot, key), due);
        key
    }

    fn clear_timer(&self, machine: MachineId, boot: u64, key: u64) {
        let due = self.state.borrow_mut().machines[machine.index()].timers.remove(&(boot, key));
        drop(due);
    }

    fn machine_now(&self) -> MachineId {
        self.state.borrow().scopes[self.scope.get().index()].machine
    }

    fn boot(&self, machine: MachineId) -> u64 {
        self.state.borrow().machines[machine.index()].clocks.boot(self.now.get())
    }

    fn kill(&self, scope: ScopeId) {
        let dropped: Vec<Task> = {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let dead = &mut state.scopes[scope.index()];
            dead.alive = false;
            dead.parked.clear();
            let ids = std::mem::take(&mut dead.tasks);
            ids.iter().filter_map(|id| state.tasks.remove(id)).collect()
        };
        // What they own may wake others, and look at the world.
        drop(dropped);
    }

    fn unpark(&self, which: impl Fn(&Scope, &[Machine]) -> bool) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        for scope in &mut state.scopes {
            if which(scope, &state.machines) {
                state.queue.extend(scope.parked.drain(..));
            }
        }
    }

    fn describe(&self, scope: ScopeId) -> String {
        let state = self.state.borrow();
        let scope = &state.scopes[scope.index()];
        format!("{}/{}", state.machines[scope.machine.index()].name, scope.name)
    }

    fn panicked(&self, text: String) {
        let (at, scope) = (self.now.get(), self.scope.get());
        let panicked = Panicked { at, scope: self.describe(scope), text };
        self.state.borrow_mut().panics.push(panicked);
        self.kill(scope);
    }
}

// ---- for code inside ----

/// Whether there is a world on this thread.
pub fn is_there() -> bool {
    CURRENT.with_borrow(|core| core.is_some())
}

/// True time.
pub fn now() -> Nanos {
    core().now.get()
}

/// The scope that runs.
pub fn current_scope() -> ScopeId {
    core().scope.get()
}

/// The machine of a scope.
pub fn machine_of(scope: ScopeId) -> MachineId {
    core().state.borrow().scopes[scope.index()].machine
}

/// Whether nobody has killed a scope.
pub fn is_alive(scope: ScopeId) -> bool {
    core().state.borrow().scopes[scope.index()].alive
}

/// Whether a scope runs: it is alive, not stopped, and its machine is not suspended.
pub fn is_running(scope: ScopeId) -> bool {
    let core = core();
    let state = core.state.borrow();
    let scope = &state.scopes[scope.index()];
    scope.alive && !scope.paused && !state.machines[scope.machine.index()].suspended
}

/// A new scope on a machine.
pub fn scope(machine: MachineId, name: &str) -> ScopeId {
    core().new_scope(machine, name)
}

/// Starts a task in a scope; in one that was killed it is dropped at once.
pub fn spawn_on<F>(scope: ScopeId, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    core().spawn(scope, future)
}

/// Drops all tasks of a scope, for ever. A task may kill its own scope: it is dropped at its next
/// wait.
pub fn kill(scope: ScopeId) {
    core().kill(scope);
}

/// Stops a scope: its timers fire, and nothing of it runs.
pub fn pause(scope: ScopeId) {
    core().state.borrow_mut().scopes[scope.index()].paused = true;
}

/// Lets a scope run again.
pub fn resume(scope: ScopeId) {
    let core = core();
    core.state.borrow_mut().scopes[scope.index()].paused = false;
    core.unpark(|scope, machines| !scope.paused && !machines[scope.machine.index()].suspended);
}

/// Sleeps in true time.
pub fn sleep(duration: Duration) -> Sleep {
    let core = core();
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Sleep::until(MachineId::WORLD, core.now.get().saturating_add(nanos))
}

/// Does something at a true time, or at once where that is over.
pub fn at(when: Nanos, act: impl FnOnce() + 'static) {
    let core = core();
    let when = when.max(core.now.get());
    core.set_timer(MachineId::WORLD, when, Due::Run(Box::new(act)));
}

/// Draws from the stream of a machine.
pub fn with_rng<R>(machine: MachineId, draw: impl FnOnce(&mut Stream) -> R) -> R {
    draw(&mut core().state.borrow_mut().machines[machine.index()].rng)
}

/// A stream of its own, told from others by its name.
pub fn stream(name: &str) -> Stream {
    Stream::new(core().state.borrow().seed, name)
}

/// Writes a line into the trace: its hash tells whether two runs are one.
pub fn trace(text: &str) {
    let core = core();
    let scope = core.scope.get();
    let keep = core.state.borrow().trace.keep;
    let place = if keep { core.describe(scope) } else { String::new() };
    core.state.borrow_mut().trace.line(core.now.get(), scope.0, &place, text);
}

/// Whether somebody reads the lines of the trace: without that nobody needs long ones.
pub fn is_traced() -> bool {
    core().state.borrow().trace.keep
}

// ---- clocks ----

/// CLOCK_BOOTTIME of a machine, in nanoseconds.
pub fn boot_time(machine: MachineId) -> u64 {
    core().boot(machine)
}

/// CLOCK_MONOTONIC of a machine, in nanoseconds: without the time that it was suspended.
pub fn monotonic(machine: MachineId) -> u64 {
    let core = core();
    core.state.borrow().machines[machine.index()].clocks.monotonic(core.now.get())
}

/// The first true time at which CLOCK_BOOTTIME of a machine reaches a value, as things are now.
pub fn truth_of_boot(machine: MachineId, boot: u64) -> Nanos {
    let core = core();
    let truth = core.state.borrow().machines[machine.index()].clocks.truth(boot);
    truth.max(core.now.get())
}

/// How often a machine was booted.
pub fn boots(machine: MachineId) -> u64 {
    core().state.borrow().machines[machine.index()].clocks.boots()
}

fn with_clocks<R>(machine: MachineId, change: impl FnOnce(&mut Clocks, Nanos) -> R) -> R {
    let core = core();
    let mut state = core.state.borrow_mut();
    change(&mut state.machines[machine.index()].clocks, core.now.get())
}

/// From now on the clocks of a machine run faster than the truth by this many parts per million.
pub fn set_rate(machine: MachineId, ppm: i64) {
    with_clocks(machine, |clocks, now| clocks.set_rate(now, ppm));
}

/// CLOCK_BOOTTIME of a machine goes forward at once: what a very short suspend looks like.
pub fn jump_boot(machine: MachineId, by: Duration) {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    with_clocks(machine, |clocks, now| clocks.jump(now, by));
}

/// The wall clock of a machine is set forward, or back.
pub fn step_wall(machine: MachineId, by_ms: i64) {
    with_clocks(machine, |clocks, _| clocks.step_wall(by_ms));
}

/// Suspends a machine, or wakes it: meanwhile nothing runs on it, CLOCK_BOOTTIME goes on, and
/// CLOCK_MONOTONIC does not.
pub fn suspend(machine: MachineId, is: bool) {
    with_clocks(machine, |clocks, now| clocks.suspend(now, is));
    let core = core();
    core.state.borrow_mut().machines[machine.index()].suspended = is;
    if !is {
        core.unpark(|scope, machines| !scope.paused && !machines[scope.machine.index()].suspended);
    }
}

/// Kills all scopes of a machine, and begins its boot time anew.
pub fn crash(machine: MachineId) {
    let core = core();
    let scopes: Vec<ScopeId> = {
        let state = core.state.borrow();
        let all = state.scopes.iter().enumerate().filter(|(_, s)| s.machine == machine && s.alive);
        all.map(|(i, _)| ScopeId(u32::try_from(i).unwrap_or(u32::MAX))).collect()
    };
    for scope in scopes {
        core.kill(scope);
    }
    let timers = std::mem::take(&mut core.state.borrow_mut().machines[machine.index()].timers);
    drop(timers);
    suspend(machine, false);
    with_clocks(machine, Clocks::reboot);
}
