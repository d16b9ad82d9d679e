//! Whole clusters: three daemons, three PostgreSQL, real clients, real faults.
//!
//! Each test has a cluster of its own and several scenarios on it, each of which ends in a healed
//! cluster whose rows are all judged. Run one at a time: two clusters on few cores would make each
//! other's leases run out.

// Tests of real processes wait in real time.
#![allow(clippy::disallowed_methods)]

mod adoption;
mod bootstrap;
mod chaos;
mod disks;
mod failsafe;
mod freezes;
mod full;
mod hooks;
mod hung;
mod jobs;
mod judging;
mod kills;
mod members;
mod modes;
mod nodes;
mod operators;
mod partitions;
mod refusals;
mod rescue;
mod restarts;
mod returns;
mod specification;
mod switchovers;
mod takeovers;
mod upkeep;
