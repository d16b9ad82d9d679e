//! Catches real time and real randomness while a world runs.
//!
//! Owns the switch: whether simulated code runs on this thread.

use std::cell::Cell;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
}

/// Restores the switch when it is dropped.
pub(crate) struct Switched(bool);

impl Drop for Switched {
    fn drop(&mut self) {
        ARMED.set(self.0);
    }
}

/// Arms the wire for this thread.
pub(crate) fn arm() -> Switched {
    Switched(ARMED.replace(true))
}

/// Runs code of whoever runs the world, which may read real clocks.
pub(crate) fn disarmed<T>(f: impl FnOnce() -> T) -> T {
    let _switched = Switched(ARMED.replace(false));
    f()
}

/// Whether simulated code runs on this thread.
pub fn is_armed() -> bool {
    ARMED.get()
}
