//! The simulated world: what production code runs in when it runs in a simulation.
//!
//! Everything here is deterministic: one seed gives one run, byte for byte. It holds no production
//! code but the domain, whose types it speaks.

pub mod alone;
pub mod check;
pub mod clients;
pub mod exec;
pub mod net;
pub mod pg;
pub mod schedule;
pub mod shrink;
pub mod timeline;

// Production code, of which only part is used here.
#[allow(dead_code)]
#[path = "../../../src/clock.rs"]
pub mod clock;
#[allow(dead_code)]
#[path = "../../../src/domain/mod.rs"]
pub mod domain;
#[allow(dead_code)]
#[path = "../../../src/watch.rs"]
pub mod watch;
