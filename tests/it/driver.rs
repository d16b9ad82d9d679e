//! The driver of a real database, directly: two members, each PostgreSQL under a guard of its own.
#![allow(clippy::disallowed_methods)] // tests of real processes wait in real time

mod full;
mod harness;
mod left;
mod life;
mod returns;
mod settings;
mod trouble;
mod upkeep;
