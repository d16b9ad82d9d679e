//! The domain alone: production's `plan`, `apply`, `desired`, `reconcile`, ledger and lease for a
//! whole cluster, event by event, with consensus and PostgreSQL in the abstract.
//!
//! A seed gives a cluster (`setup`) and an explicit list of faults (`schedule`). Time goes from one
//! event to the next (`queue`), so a quiet hour costs little. What production decides by pure code
//! is decided by that code; the rest is written down as production does it: the controller
//! (`control`), the agent (`agent`, `work`), its reports. Raft (`raft`) has elections, logs, late
//! and lost entries, deposed leaders that do not know it, and read barriers; PostgreSQL (`server`,
//! `stream`, `commit`) has logs with branches, flushes, walsenders that read their configuration in
//! their own time, seals, promotions, rewinds and copies. The `oracle` sees only what clients see.
//!
//! Deterministic: one seed, one run. May import the domain and `std`.
//!
//! ```text
//! schedule -> inject ----------------------------.
//!                                                v
//! raft <-> control (plan, ledger) <-> agent (desired, reconcile) -> server <-> stream -> commit
//!            |                                                                   |
//!            '-> apply -> agreed state                              oracle <-----'
//! ```
//!
//! What the stand-in takes for granted: SIGKILL ends a process tree within 22 ms; on a machine that
//! was suspended the kernel's timers fire before any process runs; a disk keeps what it has synced
//! (but in seeds of [`Class::Lying`]); clocks stay within 1 % (but in seeds of [`Class::Clocks`]).

mod agent;
mod campaign;
mod clock;
mod combine;
mod commit;
mod control;
mod derive;
mod dispatch;
mod guard;
mod inject;
mod last;
mod log;
mod machine;
mod net;
mod operator;
mod oracle;
mod queue;
mod raft;
mod renew;
mod report;
mod rest;
mod rng;
mod run;
mod schedule;
mod server;
mod setup;
mod shrink;
mod story;
mod stream;
mod teeth;
mod wal;
mod work;
mod work_follow;
mod work_lead;
mod world;

pub use campaign::{Campaign, Failure, Tally, campaign};
pub use clock::{Micros, SECOND};
pub use run::{Job, Outcome, run, schedule};
pub use schedule::{Fault, describe};
pub use setup::{Class, Setup};
pub use shrink::shrink;
pub use teeth::{Found, MUTANTS, search};
pub use world::{Broken, Counts};
