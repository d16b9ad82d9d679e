//! Who may be primary, and everything that rests on it: pure code over explicit state and time.
//!
//! Owns the vocabulary, the replicated state, every rule by which it changes, the arithmetic of
//! leases, and what each member has to do. Imports `std`, `serde`, `thiserror` and itself, nothing
//! else: no clock, no input or output, no randomness. Production, tests, simulator and model
//! checker all run this code.
//!
//! ```text
//! command -> apply -> ControlState -> desired -> reconcile -> one action of an agent
//! observations + ControlState + ledger + now -> plan -> commands, and a report of why or why not
//! ```

pub mod adoption;
pub mod alarm;
pub mod apply;
pub mod candidate;
pub mod cascade;
pub mod catalogue;
pub mod clusters;
pub mod command;
pub mod desired;
pub mod doctor;
pub mod event;
pub mod failsafe;
pub mod generation;
pub mod health;
pub mod invariants;
pub mod lease;
pub mod libraries;
pub mod lineage;
pub mod membership;
pub mod mutant;
pub mod nodes;
pub mod observation;
pub mod operation;
pub mod plan;
pub mod reconcile;
pub mod record;
pub mod rescue;
pub mod space;
pub mod specification;
pub mod state;
pub mod sync;
pub mod types;

pub use apply::{Position, apply};
pub use command::{Command, Rejection, Reply};
pub use state::{ClusterState, ControlState};

#[cfg(all(test, not(quorate_mutants)))]
mod adoption_test;
#[cfg(all(test, not(quorate_mutants)))]
mod apply_test;
#[cfg(all(test, not(quorate_mutants)))]
mod candidate_property_test;
#[cfg(all(test, not(quorate_mutants)))]
mod candidate_test;
#[cfg(all(test, not(quorate_mutants)))]
mod desired_test;
#[cfg(all(test, not(quorate_mutants)))]
mod doctor_test;
#[cfg(all(test, not(quorate_mutants)))]
mod failsafe_peers_test;
#[cfg(all(test, not(quorate_mutants)))]
mod failsafe_test;
#[cfg(all(test, not(quorate_mutants)))]
mod failsafe_walk_test;
#[cfg(all(test, not(quorate_mutants)))]
pub(crate) mod fixture_test;
#[cfg(all(test, not(quorate_mutants)))]
mod health_test;
#[cfg(all(test, not(quorate_mutants)))]
mod invariants_test;
#[cfg(all(test, not(quorate_mutants)))]
mod jobs_test;
#[cfg(all(test, not(quorate_mutants)))]
mod lease_test;
#[cfg(all(test, not(quorate_mutants)))]
mod membership_test;
#[cfg(all(test, not(quorate_mutants)))]
mod operation_test;
#[cfg(all(test, not(quorate_mutants)))]
mod plan_modes_test;
#[cfg(all(test, not(quorate_mutants)))]
mod plan_test;
#[cfg(all(test, not(quorate_mutants)))]
mod reconcile_test;
#[cfg(all(test, not(quorate_mutants)))]
mod rescue_test;
#[cfg(all(test, not(quorate_mutants)))]
mod room_test;
#[cfg(all(test, not(quorate_mutants)))]
mod spec_test;
#[cfg(all(test, not(quorate_mutants)))]
mod sync_property_test;
#[cfg(all(test, not(quorate_mutants)))]
mod sync_test;
#[cfg(all(test, not(quorate_mutants)))]
mod walk_member_test;
#[cfg(all(test, not(quorate_mutants)))]
mod walk_test;
