//! Production code in the simulated world.
//!
//! Compiles the agent, the controller, the session and the Raft part from the product's sources,
//! with the rules that can be taken away (`domain::mutant`), and without what talks to a real
//! machine: RocksDB, gRPC, the guard and PostgreSQL have simulated stand-ins.

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
pub mod teeth;
