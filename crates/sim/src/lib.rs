//! Production code in the simulated world.
//!
//! Compiles the agent, the controller, the session and the Raft part from the product's sources,
//! with the rules that can be taken away (`domain::mutant`), and without what talks to a real
//! machine: RocksDB, gRPC, the guard and PostgreSQL have simulated stand-ins.
//!
//! ```text
//!   world      builds everything from a plan, and runs it
//!   faults     does what the plan says
//!   operator   asks for switchovers and the like, by the path of the API
//!   node       machines with their processes: composed as `src/node.rs` composes the real ones
//!   transport  Raft's and the session's calls over the simulated network
//!   disk       under the Raft store
//!   database   guard and PostgreSQL, and the driver of both
//!   log        what production code logs
//! ```

pub use quorate_world::{clock, domain, watch};

// Production code, of which only part is used here.
#[allow(dead_code)]
#[path = "../../../src/agent/mod.rs"]
pub mod agent;
#[allow(dead_code)]
#[path = "../../../src/controller/mod.rs"]
pub mod controller;
#[allow(dead_code)]
#[path = "../../../src/raft/mod.rs"]
pub mod raft;
#[allow(dead_code)]
#[path = "../../../src/runtime.rs"]
pub mod runtime;
#[allow(dead_code)]
#[path = "../../../src/session/mod.rs"]
pub mod session;

pub mod database;
pub mod disk;
pub mod faults;
pub mod log;
pub mod node;
pub mod operator;
pub mod run;
pub mod teeth;
pub mod transport;
pub mod world;

/// The runtime of all simulated code.
pub type Rt = quorate_world::exec::SimRuntime;
/// The clock of a simulated machine.
pub type SimClock = quorate_world::exec::MachineClock;

/// Adds a line to the trace of the world of this thread, where there is one.
pub fn trace(line: impl FnOnce() -> String) {
    if quorate_world::exec::is_there() {
        quorate_world::exec::trace(&line());
    }
}
