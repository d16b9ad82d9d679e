//! What code inside a world may ask and do.
//!
//! Every function panics on a thread that has no world.

use std::any::Any;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::clock::{Clocks, Nanos, nanos};
use super::core::Core;
use super::join::{self, JoinHandle};
use super::rng::Stream;
use super::sleep::Sleep;
use super::timers::{Action, Face};
use super::{MachineId, ScopeId};

/// Whether there is a world on this thread.
pub fn is_there() -> bool {
    Core::try_current().is_some()
}

/// True time.
#[track_caller]
pub fn now() -> Nanos {
    Core::current().now.get()
}

/// The scope that runs; [`ScopeId::WORLD`] outside of tasks.
#[track_caller]
pub fn current_scope() -> ScopeId {
    Core::current().scope.get()
}

/// The machine of a scope.
#[track_caller]
pub fn machine_of(scope: ScopeId) -> MachineId {
    Core::current().machine_of(scope)
}

/// Machine and scope, by name.
#[track_caller]
pub fn describe(scope: ScopeId) -> String {
    Core::current().describe(scope)
}

/// A machine's name.
#[track_caller]
pub fn name_of(machine: MachineId) -> String {
    Core::current().name_of(machine)
}

/// Whether nobody has killed a scope.
#[track_caller]
pub fn is_alive(scope: ScopeId) -> bool {
    Core::current().scopes.borrow()[scope.index()].alive
}

/// Whether a scope runs: it is alive, not stopped, and its machine is not suspended.
#[track_caller]
pub fn is_running(scope: ScopeId) -> bool {
    let core = Core::current();
    let scopes = core.scopes.borrow();
    scopes[scope.index()].alive && !scopes[scope.index()].held
}

/// A new scope on a machine.
#[track_caller]
pub fn scope(machine: MachineId, name: &str) -> ScopeId {
    Core::current().add_scope(machine, name)
}

/// Starts a task in a scope; in one that was killed it is dropped at once.
#[track_caller]
pub fn spawn_on<F>(scope: ScopeId, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let core = Core::current();
    let (task, mut handle) = join::pair(future);
    if let Some(id) = core.add_task(scope, Box::pin(task)) {
        handle.bind(core.serial, id);
    }
    handle
}

/// Drops all tasks of a scope, for ever. A task may kill its own scope: it is dropped at its next
/// wait.
#[track_caller]
pub fn kill(scope: ScopeId) {
    Core::current().kill(scope);
}

/// Has `exit` called after a scope was killed, as its code, which can start nothing any more; at
/// once if it is dead already. What somebody keeps on behalf of a process (a port, a lock on a
/// disk) is taken back so.
#[track_caller]
pub fn on_exit(scope: ScopeId, exit: impl FnOnce() + 'static) {
    Core::current().on_exit(scope, Box::new(exit));
}

/// Stops a scope: its timers fire, and nothing of it runs.
#[track_caller]
pub fn pause(scope: ScopeId) {
    Core::current().set_paused(scope, true);
}

/// Lets a scope run again.
#[track_caller]
pub fn resume(scope: ScopeId) {
    Core::current().set_paused(scope, false);
}

/// Sleeps in true time.
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    Sleep::until(MachineId::WORLD, now().saturating_add(nanos(duration)))
}

/// Sleeps until the CLOCK_BOOTTIME of a machine reaches a value, in nanoseconds, as a timer of its
/// kernel does.
pub fn sleep_until_boot(machine: MachineId, boot: u64) -> Sleep {
    Sleep::until(machine, boot)
}

/// Does something at a true time, as the world's code; where that time is over, at once, but not
/// before this returns. What is due at one time is done in the order of asking.
#[track_caller]
pub fn at(when: Nanos, act: impl FnOnce() + 'static) {
    let core = Core::current();
    let when = when.max(core.now.get());
    core.set_timer(MachineId::WORLD, Face::Boot, when, Action::Call(Box::new(act)));
}

/// Draws from the stream of a machine.
#[track_caller]
pub fn with_rng<R>(machine: MachineId, draw: impl FnOnce(&mut Stream) -> R) -> R {
    draw(&mut Core::current().machines.borrow_mut()[machine.index()].rng)
}

/// A stream of its own, told from others by its name. Who asks for one name twice gets the same
/// numbers twice.
#[track_caller]
pub fn stream(name: &str) -> Stream {
    Stream::new(Core::current().seed, name)
}

/// The world's one value of a type, made when it is first asked for. It lives as long as the world:
/// the state of what is simulated belongs there.
#[track_caller]
pub fn local<T: Any>(new: impl FnOnce() -> T) -> Rc<T> {
    Core::current().local(new)
}

/// Writes a line into the trace: its hash tells whether two runs are one.
#[track_caller]
pub fn trace(text: &str) {
    let core = Core::current();
    let scope = core.scope.get();
    core.trace.borrow_mut().line(core.now.get(), scope.0, || core.describe(scope), text);
}

/// Whether somebody reads the lines of the trace: without that nobody needs long ones.
#[track_caller]
pub fn is_traced() -> bool {
    let core = Core::current();
    let trace = core.trace.borrow();
    trace.keep || trace.print
}

// ---- clocks ----

fn with_clocks<R>(machine: MachineId, read: impl FnOnce(&Clocks, Nanos) -> R) -> R {
    let core = Core::current();
    let machines = core.machines.borrow();
    read(&machines[machine.index()].clocks, core.now.get())
}

/// CLOCK_BOOTTIME of a machine, in nanoseconds.
#[track_caller]
pub fn boot_time(machine: MachineId) -> u64 {
    with_clocks(machine, Clocks::boot)
}

/// CLOCK_MONOTONIC of a machine, in nanoseconds: without the time that it was suspended.
#[track_caller]
pub fn monotonic(machine: MachineId) -> u64 {
    with_clocks(machine, Clocks::monotonic)
}

/// The first true time at which CLOCK_BOOTTIME of a machine reaches a value, as things are now.
#[track_caller]
pub fn truth_of_boot(machine: MachineId, boot: u64) -> Nanos {
    with_clocks(machine, |clocks, now| clocks.truth_of_boot(boot).max(now))
}

/// How often a machine was booted.
#[track_caller]
pub fn boots(machine: MachineId) -> u64 {
    with_clocks(machine, |clocks, _| clocks.boots())
}

/// From now on the clocks of a machine run faster than the truth by this many parts per million.
#[track_caller]
pub fn set_rate(machine: MachineId, ppm: i64) {
    Core::current().change_clocks(machine, |clocks, now| clocks.set_rate(now, ppm));
}

/// CLOCK_BOOTTIME of a machine goes forward at once: what a very short suspend looks like.
#[track_caller]
pub fn jump_boot(machine: MachineId, by: Duration) {
    Core::current().change_clocks(machine, |clocks, now| clocks.jump(now, nanos(by)));
}

/// The wall clock of a machine is set forward, or back.
#[track_caller]
pub fn step_wall(machine: MachineId, by_ms: i64) {
    Core::current().change_clocks(machine, |clocks, _| clocks.step_wall(by_ms));
}

/// Suspends a machine, or wakes it: meanwhile nothing runs on it, CLOCK_BOOTTIME goes on, and
/// CLOCK_MONOTONIC does not.
#[track_caller]
pub fn suspend(machine: MachineId, is: bool) {
    Core::current().set_suspended(machine, is);
}

/// Whether a machine is suspended.
#[track_caller]
pub fn is_suspended(machine: MachineId) -> bool {
    Core::current().is_suspended(machine)
}

/// Whether the scopes of a machine are being killed because it crashes: what is told by code that
/// runs now does not get out.
#[track_caller]
pub fn is_crashing(machine: MachineId) -> bool {
    Core::current().is_crashing(machine)
}

/// Kills all scopes of a machine, and begins its boot time anew.
#[track_caller]
pub fn crash(machine: MachineId) {
    Core::current().crash(machine);
}
