//! The guard with real processes: every claim about fencing is judged process by process.
#![allow(clippy::disallowed_methods)] // tests of real processes wait in real time

mod fencing;
mod harness;
mod kinds;
mod life;
mod postgres;
mod proof;
