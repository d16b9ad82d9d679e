//! Panics of simulated code: findings, not the end of the simulator.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::clock::Nanos;

/// A panic of a task. Its scope was killed: a daemon aborts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// True time.
    pub at: Nanos,
    /// Machine and scope, by name.
    pub scope: String,
    /// What it said.
    pub text: String,
    /// File and line; empty for what the executor says.
    pub place: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} panicked at {} ns: {} ({})", self.scope, self.at, self.text, self.place)
    }
}

/// What a caught panic said, and where.
#[derive(Debug, Clone)]
pub(super) struct Caught {
    pub(super) text: String,
    pub(super) place: String,
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Has panics that are caught here told by their text instead of printed.
fn install() {
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CATCHING.get() {
                return others(info);
            }
            let text = info.payload_as_str().unwrap_or("(no message)").to_owned();
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            let place = place.unwrap_or_default();
            // The first one: what panics while that one unwinds only follows from it.
            CAUGHT
                .with_borrow_mut(|caught| caught.get_or_insert(Caught { text, place }).text.len());
        }));
    });
}

/// Runs `f`; a panic gives what it said.
pub(super) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Caught> {
    install();
    let before = CATCHING.replace(true);
    // Whoever was in the middle of something when a task panics dies with the task's scope, or
    // meets a poisoned lock, as the threads of a process do.
    let result = catch_unwind(AssertUnwindSafe(f));
    CATCHING.set(before);
    result.map_err(|_| {
        let caught = CAUGHT.with_borrow_mut(Option::take);
        caught.unwrap_or_else(|| Caught { text: "(no message)".into(), place: String::new() })
    })
}

/// Runs the world's own code, whose panics are the simulator's and are printed as everywhere.
pub(super) fn uncaught<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            CATCHING.set(self.0);
        }
    }
    let _restore = Restore(CATCHING.replace(false));
    f()
}
