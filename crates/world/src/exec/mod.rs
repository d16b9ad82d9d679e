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
//!   the code that shuts things down; values are dropped, as code of that scope, which can start
//!   nothing any more.
//! - The next task is drawn from those that can run, so that a seed is an interleaving too.
//! - A panic of a task is a finding: it is noted, and kills the scope, as a daemon aborts.
//!
//! ```
//! use std::time::Duration;
//! use quorate_world::exec::{self, World};
//!
//! let world = World::new(42);
//! let daemon = world.scope(world.machine("a", 0), "daemon");
//! let task = world.spawn(daemon, async {
//!     exec::sleep(Duration::from_secs(1)).await;
//!     exec::now()
//! });
//! assert_eq!(world.block_on(task), Ok(1_000_000_000));
//! ```
//!
//! May import the clock and the domain's types.

mod api;
mod channel;
mod clock;
mod core;
mod join;
mod machine;
mod options;
mod panics;
mod rng;
mod runtime;
mod sleep;
mod task;
mod timers;
mod trace;
pub mod tripwire;
mod watch;
mod world;

pub use api::*;
pub use channel::{SimMpsc, SimMutex, SimOneshot};
pub use clock::Nanos;
pub use join::{JoinError, JoinHandle};
pub use options::Options;
pub use panics::Panicked;
pub use rng::Stream;
pub use runtime::{MachineClock, SimInstant, SimRuntime};
pub use sleep::{Elapsed, Sleep, Timeout};
pub use watch::SimWatch;
pub use world::World;

pub(crate) use clock::nanos;

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(u32);

impl MachineId {
    /// The world itself: its clocks tell the truth.
    pub const WORLD: Self = Self(0);

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(u32);

impl ScopeId {
    /// The world's own tasks.
    pub const WORLD: Self = Self(0);

    const fn index(self) -> usize {
        self.0 as usize
    }
}
