//! The state of a world, and its loop.
//!
//! Owns [`Core`], which world it is that a thread is in, and the order of events. No code of
//! somebody else (a future's poll or drop, a call, a hook) runs while any cell is borrowed.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::clock::{Nanos, nanos};
use super::machine::{Machine, Scope};
use super::options::Options;
use super::panics::{self, Caught, Panicked};
use super::rng::Stream;
use super::task::{self, BoxedTask, TaskId, Tasks};
use super::timers::{Action, Face, Key, Timers};
use super::trace::{Hash, Trace};
use super::{MachineId, ScopeId};

thread_local! {
    /// The world that this thread is in.
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
    /// All worlds of this thread, for wakers that are woken from another of them.
    static WORLDS: RefCell<Vec<Weak<Core>>> = const { RefCell::new(Vec::new()) };
    static LAST_SERIAL: Cell<u16> = const { Cell::new(0) };
}

/// Everything of a world.
pub(crate) struct Core {
    pub(super) serial: u16,
    pub(super) seed: u64,
    pub(super) options: Options,
    pub(super) now: Cell<Nanos>,
    /// The scope whose code runs.
    pub(super) scope: Cell<ScopeId>,
    pub(super) tasks: RefCell<Tasks>,
    pub(super) timers: RefCell<Timers>,
    pub(super) machines: RefCell<Vec<Machine>>,
    pub(super) scopes: RefCell<Vec<Scope>>,
    pub(super) trace: RefCell<Trace>,
    /// Who was polled when.
    pub(super) schedule: Cell<Hash>,
    pub(super) polls: Cell<u64>,
    pub(super) panics: RefCell<Vec<Panicked>>,
    /// What the panic said for which a future is dropped now.
    panicked: RefCell<Option<String>>,
    /// Polls at this instant.
    here: Cell<u64>,
    delays: RefCell<Stream>,
    locals: RefCell<Vec<(TypeId, Rc<dyn Any>)>>,
}

/// Wakes a task of a world of this thread. Elsewhere, and for the dead, it does nothing.
pub(crate) fn wake(world: u16, id: TaskId) {
    if let Some(core) = find(world) {
        core.tasks.borrow_mut().wake(id);
    }
}

/// The world of this thread with this number, if it still is.
pub(crate) fn find(world: u16) -> Option<Rc<Core>> {
    let current = Core::try_current().filter(|core| core.serial == world);
    current.or_else(|| {
        // A thread that ends has no worlds any more.
        let all = WORLDS.try_with(|worlds| {
            let worlds = worlds.borrow();
            worlds.iter().filter_map(Weak::upgrade).find(|core| core.serial == world)
        });
        all.ok().flatten()
    })
}

/// Puts the thread into a world, or into none, and returns the one it was in.
pub(super) fn enter(core: Option<Rc<Core>>) -> Option<Rc<Core>> {
    CURRENT.with(|current| current.replace(core))
}

/// The thread is in a world until this is dropped, and then in the one it was in before.
pub(super) struct Entered(Option<Rc<Core>>);

impl Drop for Entered {
    fn drop(&mut self) {
        drop(enter(self.0.take()));
    }
}

/// How a future that is no task is polled.
type PollIt<'a> = dyn FnMut(&mut Context<'_>) -> Poll<()> + 'a;

/// What a run is bound by, and who looks on.
#[derive(Default)]
pub(super) struct Run<'a> {
    /// True time at which it ends.
    pub(super) until: Nanos,
    /// The future of `block_on`: its task, and how it is polled.
    pub(super) outside: Option<(TaskId, &'a mut PollIt<'a>)>,
    /// After each poll; false ends the run.
    pub(super) on_step: Option<&'a mut dyn FnMut() -> bool>,
    /// Before time goes on; false ends the run.
    pub(super) on_instant: Option<&'a mut dyn FnMut() -> bool>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The time came.
    Reached,
    /// Nothing can happen any more.
    Idle,
    /// The future of `block_on` is done.
    Done,
    /// A hook said so.
    Stopped,
}

impl Core {
    pub(super) fn new(seed: u64, options: Options) -> Rc<Self> {
        let serial = LAST_SERIAL.get().checked_add(1).unwrap_or(1);
        LAST_SERIAL.set(serial);
        let choices = (!options.fifo).then(|| Stream::new(seed, "choices"));
        let core = Rc::new(Self {
            serial,
            seed,
            now: Cell::new(0),
            scope: Cell::new(ScopeId::WORLD),
            tasks: RefCell::new(Tasks::new(choices)),
            timers: RefCell::new(Timers::new()),
            machines: RefCell::default(),
            scopes: RefCell::default(),
            trace: RefCell::new(Trace::new()),
            schedule: Cell::new(Hash::new()),
            polls: Cell::new(0),
            panics: RefCell::default(),
            panicked: RefCell::default(),
            here: Cell::new(0),
            delays: RefCell::new(Stream::new(seed, "delays")),
            locals: RefCell::default(),
            options,
        });
        WORLDS.with(|worlds| {
            let mut worlds = worlds.borrow_mut();
            worlds.retain(|world| world.strong_count() > 0);
            worlds.push(Rc::downgrade(&core));
        });
        core
    }

    pub(crate) fn try_current() -> Option<Rc<Self>> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    #[track_caller]
    pub(crate) fn current() -> Rc<Self> {
        Self::try_current().unwrap_or_else(|| {
            panic!("this code runs in a simulated world only, and there is none on this thread")
        })
    }

    /// Puts the thread into this world for a while.
    pub(super) fn enter(self: &Rc<Self>) -> Entered {
        Entered(enter(Some(self.clone())))
    }

    /// Sets a timer on a clock of a machine.
    pub(super) fn set_timer(&self, machine: MachineId, face: Face, at: u64, act: Action) -> Key {
        let machines = self.machines.borrow();
        let clocks = &machines[machine.index()].clocks;
        self.timers.borrow_mut().set(machine, face, at, clocks, act)
    }

    /// Takes a timer away.
    pub(super) fn clear_timer(&self, machine: MachineId, face: Face, key: Key) {
        let cleared = {
            let machines = self.machines.borrow();
            let clocks = &machines[machine.index()].clocks;
            self.timers.borrow_mut().clear(machine, face, key, clocks)
        };
        drop(cleared);
    }

    fn waker(&self, id: TaskId) -> Waker {
        task::waker(self.serial, id)
    }

    /// The world's one value of a type.
    pub(super) fn local<T: Any>(&self, new: impl FnOnce() -> T) -> Rc<T> {
        let key = TypeId::of::<T>();
        let found = {
            let locals = self.locals.borrow();
            locals.iter().find(|(id, _)| *id == key).map(|(_, value)| value.clone())
        };
        let value = found.unwrap_or_else(|| {
            let value: Rc<dyn Any> = Rc::new(new());
            self.locals.borrow_mut().push((key, value.clone()));
            value
        });
        value.downcast().unwrap_or_else(|_| unreachable!("values are kept by their type"))
    }

    /// Runs `f` as code of a scope.
    fn as_scope<T>(&self, scope: ScopeId, f: impl FnOnce() -> T) -> T {
        let before = self.scope.replace(scope);
        let value = f();
        self.scope.set(before);
        value
    }

    /// Runs `f` as the world's own code.
    pub(super) fn as_world<T>(&self, f: impl FnOnce() -> T) -> T {
        self.as_scope(ScopeId::WORLD, || panics::uncaught(f))
    }

    /// Adds a task; where the scope is dead its future is dropped.
    pub(super) fn add_task(&self, scope: ScopeId, future: BoxedTask) -> Option<TaskId> {
        let alive = self.scopes.borrow()[scope.index()].alive;
        if !alive {
            self.drop_future(scope, future, None);
            return None;
        }
        Some(self.tasks.borrow_mut().add(scope, Some(future)))
    }

    /// Ends one task.
    pub(super) fn abort(&self, id: TaskId) {
        let removed = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.scope_of(id).zip(tasks.remove(id))
        };
        if let Some((scope, future)) = removed {
            self.drop_future(scope, future, None);
        }
    }

    /// Drops a future as its scope's code, because of a panic or not.
    pub(super) fn drop_future(&self, scope: ScopeId, future: BoxedTask, panicked: Option<&str>) {
        let before = self.panicked.replace(panicked.map(str::to_owned));
        self.run_last(scope, move || drop(future));
        self.panicked.replace(before);
    }

    /// Runs what nobody waits for as code of a scope. A panic is noted.
    pub(super) fn run_last(&self, scope: ScopeId, last: impl FnOnce()) {
        if let Err(caught) = self.as_scope(scope, || panics::catch(last)) {
            self.note_panic(scope, caught);
        }
    }

    /// What the panic said for which a future is dropped now.
    pub(super) fn dropping_panicked(&self) -> Option<String> {
        self.panicked.borrow().clone()
    }

    fn note_panic(&self, scope: ScopeId, caught: Caught) {
        let (at, place) = (self.now.get(), caught.place);
        let panicked = Panicked { at, scope: self.describe(scope), text: caught.text, place };
        self.panics.borrow_mut().push(panicked);
    }

    fn fire_due(&self) {
        loop {
            let action = {
                let machines = self.machines.borrow();
                let clocks_of = |machine: MachineId| machines[machine.index()].clocks.clone();
                self.timers.borrow_mut().due(self.now.get(), clocks_of)
            };
            match action {
                None => return,
                Some(Action::Wake(waker)) => waker.wake(),
                Some(Action::Call(call)) => self.as_world(call),
                Some(Action::Requeue(id)) => self.tasks.borrow_mut().requeue(id),
            }
        }
    }

    /// Whether a task that was picked is put off, as a busy machine does.
    fn put_off(&self, id: TaskId) -> bool {
        let (stall, give_way) = (self.options.stall_one_in, self.options.yield_one_in);
        if stall == 0 && give_way == 0 {
            return false;
        }
        let mut delays = self.delays.borrow_mut();
        if stall != 0 && delays.below(u64::from(stall)) == 0 {
            let at = self.now.get() + 1 + delays.below(nanos(self.options.stall_max));
            self.set_timer(MachineId::WORLD, Face::Boot, at, Action::Requeue(id));
            return true;
        }
        let mut tasks = self.tasks.borrow_mut();
        if give_way != 0 && tasks.runnable() > 0 && delays.below(u64::from(give_way)) == 0 {
            tasks.requeue(id);
            return true;
        }
        false
    }

    /// Polls one task. False where none can run.
    fn step(&self, run: &mut Run<'_>) -> bool {
        let (id, scope) = loop {
            let Some((id, scope)) = self.tasks.borrow_mut().pick() else { return false };
            let mut scopes = self.scopes.borrow_mut();
            let owner = &mut scopes[scope.index()];
            if owner.held {
                owner.parked.push(id);
            } else if !self.put_off(id) {
                break (id, scope);
            }
        };
        let mut schedule = self.schedule.get();
        schedule.number(self.now.get() ^ (u64::from(id.index) << 40));
        self.schedule.set(schedule);
        self.polls.set(self.polls.get() + 1);

        let future = self.tasks.borrow_mut().begin(id);
        let waker = self.waker(id);
        let mut cx = Context::from_waker(&waker);
        let Some(mut future) = future else {
            // Only the future of `block_on` is kept elsewhere. Its panics are its caller's.
            if let Some((outside, poll)) = &mut run.outside
                && *outside == id
                && self.as_world(|| poll(&mut cx)).is_ready()
            {
                drop(self.tasks.borrow_mut().remove(id));
            }
            return true;
        };
        let polled = self.as_scope(scope, || panics::catch(|| future.as_mut().poll(&mut cx)));
        match polled {
            Ok(Poll::Pending) => {
                let killed = self.tasks.borrow_mut().end(id, future);
                if let Some(future) = killed {
                    self.drop_future(scope, future, None);
                }
            }
            Ok(Poll::Ready(())) => {
                drop(self.tasks.borrow_mut().remove(id));
                self.drop_future(scope, future, None);
            }
            Err(caught) => {
                drop(self.tasks.borrow_mut().remove(id));
                let text = caught.text.clone();
                self.note_panic(scope, caught);
                self.drop_future(scope, future, Some(&text));
                self.end_daemon(scope);
            }
        }
        true
    }

    /// A daemon ends at a panic. The world's own code goes on without the task.
    fn end_daemon(&self, scope: ScopeId) {
        if scope != ScopeId::WORLD {
            self.kill(scope);
        }
    }

    /// Kills who can run at one instant without end.
    fn break_loop(&self) {
        self.here.set(0);
        // Who can run now, in the order of being drawn.
        let mut seen: Vec<(TaskId, ScopeId)> = Vec::new();
        while let Some(picked) = self.tasks.borrow_mut().pick() {
            seen.push(picked);
        }
        for (id, _) in &seen {
            self.tasks.borrow_mut().requeue(*id);
        }
        let Some((_, scope)) = seen.first().copied() else { return };
        let polls = self.options.polls_per_instant_max;
        let text = format!("never waits: {polls} polls at one instant");
        assert_ne!(scope, ScopeId::WORLD, "the world's own task {text}");
        self.note_panic(scope, Caught { text, place: String::new() });
        self.end_daemon(scope);
    }

    /// Runs until the time comes, or something ends the run before.
    pub(super) fn run(self: &Rc<Self>, mut run: Run<'_>) -> End {
        let _entered = self.enter();
        let _armed = super::tripwire::arm();
        loop {
            if self.timers.borrow().earliest() <= self.now.get() {
                self.fire_due();
            }
            if self.step(&mut run) {
                if let Some((outside, _)) = &run.outside
                    && self.tasks.borrow_mut().scope_of(*outside).is_none()
                {
                    return End::Done;
                }
                if let Some(hook) = &mut run.on_step
                    && !super::tripwire::disarmed(hook)
                {
                    return End::Stopped;
                }
                self.here.set(self.here.get() + 1);
                if self.here.get() > self.options.polls_per_instant_max {
                    self.break_loop();
                }
                continue;
            }
            if let Some(hook) = &mut run.on_instant
                && !super::tripwire::disarmed(hook)
            {
                return End::Stopped;
            }
            let next = self.timers.borrow().earliest();
            if self.tasks.borrow().runnable() > 0 || next <= self.now.get() {
                // The hook made something runnable or due.
                continue;
            }
            if next > run.until {
                self.set_now(run.until);
                return End::Reached;
            }
            if next == Nanos::MAX {
                return End::Idle;
            }
            self.set_now(next);
        }
    }

    fn set_now(&self, at: Nanos) {
        if at > self.now.get() {
            self.now.set(at);
            self.here.set(0);
        }
    }

    /// Drops everything, while its code still finds the world.
    pub(super) fn clear(&self) {
        let mut ended = 0;
        // What ends may begin something else.
        while ended < self.scopes.borrow().len() {
            let scopes = self.scopes.borrow().len();
            // The world's own tasks last: they look after the others.
            for scope in (0..scopes).rev() {
                self.kill(ScopeId(scope as u32));
            }
            ended = scopes;
        }
        let timers = self.timers.borrow_mut().drain();
        drop(timers);
        let locals = std::mem::take(&mut *self.locals.borrow_mut());
        drop(locals);
    }
}
