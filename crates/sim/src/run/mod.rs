//! Runs: one plan from its beginning to its verdict, and many of them.
//!
//! ```text
//!   play      one run: the world of a plan with clients in it, faults, heal phase, verdict
//!   control   what the agreed state tells of it
//!   outcome   what it came to, in numbers
//!   campaign  many seeds on some threads
//!   failure   a failing plan made small, told and kept
//!   bite      what it takes to find each rule that is left out
//! ```

pub mod bite;
pub mod campaign;
pub mod control;
pub mod failure;
pub mod outcome;
pub mod play;
