//! Quorate: high availability for PostgreSQL, one binary per node, Raft inside.
//!
//! One way for everything that is decided:
//!
//! ```text
//! gRPC request -> raft::Handle::propose(Command) -> log -> domain::apply
//!    -> ControlState -> domain::desired -> agent -> domain::reconcile -> actions on PostgreSQL
//! observations -> leader's memory -> domain::plan -> proposals (the same way in)
//! ```
//!
//! Who may be primary is decided in [`domain`] alone. What each module owns and may import stands
//! at its head, and a test holds it.

pub mod agent;
pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod controller;
pub mod convert;
pub mod domain;
pub mod guard;
pub mod node;
pub mod pb;
pub mod postgres;
pub mod raft;
pub mod rescue;
pub mod runtime;
pub mod service_manager;
pub mod session;
pub mod stop;
pub mod transport;
pub mod watch;
