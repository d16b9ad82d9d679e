//! Fuzzing of production code.
//!
//! Each *target* takes any bytes, feeds them to a part of the product, and panics where that part
//! breaks its word: a panic of its own, too much memory, a value that is read back differently, a
//! broken invariant. The engine (`src/bin/fuzz.rs`) makes the bytes and is guided by the code that
//! they reach; the test in `tests/` replays what is checked in. See `docs/fuzzing.md`.
//!
//! Production code is compiled in by path, without RocksDB, the gRPC server and the mutants.

mod alloc;
mod generate;
mod input;
mod judge;
mod postgresql;
mod run;
mod seeds;
mod states;
mod target;

pub use seeds::seeds;
pub use target::{TARGETS, Target, find};

// Production code, of which only part is used here.
#[allow(dead_code)]
mod api;
#[allow(dead_code)]
#[path = "../../../src/clock.rs"]
pub mod clock;
#[allow(dead_code)]
#[path = "../../../src/config/mod.rs"]
pub mod config;
#[allow(dead_code)]
#[path = "../../../src/convert/mod.rs"]
pub mod convert;
#[allow(dead_code)]
#[path = "../../../src/domain/mod.rs"]
pub mod domain;
#[allow(dead_code)]
#[path = "../../../src/guard/mod.rs"]
pub mod guard;
#[allow(dead_code)]
#[path = "../../../src/pb.rs"]
pub mod pb;
#[allow(dead_code)]
#[path = "../../../src/postgres/mod.rs"]
pub mod postgres;
#[allow(dead_code)]
#[path = "../../../src/raft/mod.rs"]
pub mod raft;
#[allow(dead_code)]
#[path = "../../../src/runtime.rs"]
pub mod runtime;
#[allow(dead_code)]
#[path = "../../../src/session/mod.rs"]
pub mod session;
#[path = "../../../src/node/spec.rs"]
mod spec;
#[allow(dead_code)]
#[path = "../../../src/watch.rs"]
pub mod watch;
