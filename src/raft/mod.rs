//! The replicated state of the control plane: openraft, its store, its network, and a handle.
//!
//! The only place that names openraft. It knows nothing about PostgreSQL: it carries the domain's
//! commands, applies them with `domain::apply`, and publishes the state. Everything is generic
//! over [`AsyncRuntime`], so that the simulator runs this very code.
//!
//! ```text
//! handle.propose -> core -> log_store -> kv (one writer, one sync a group)
//!                     |         network -> Transport -> service of the peers
//!                     v
//!               state_machine -> domain::apply -> watch<Applied>
//! ```
//!
//! May import the domain, the clock, `transport` and the generated code.

pub mod append_monitor;
mod barrier;
#[cfg(not(quorate_sim))]
pub mod disk;
pub mod error;
mod fitness;
mod formation;
mod generation;
#[cfg(not(quorate_sim))]
pub mod grpc;
mod handle;
pub(crate) mod identity;
pub mod kv;
#[cfg(test)]
mod kv_conformance;
pub mod kv_mem;
#[cfg(not(quorate_sim))]
pub mod kv_rocks;
pub mod log_store;
mod log_tail;
mod membership;
mod network;
#[cfg(not(quorate_sim))]
pub mod offline;
mod options;
mod quiet;
pub(crate) mod record;
mod removal;
mod role;
#[cfg(not(quorate_sim))]
pub mod runtime;
mod service;
mod snapshot;
mod start;
pub mod state_machine;
pub mod types;
pub(crate) mod wal_check;
mod watchdog;
pub mod wire;

#[cfg(not(quorate_sim))]
pub use disk::{Disk, Room};
pub use error::{BarrierError, FatalReason, Leader, ProposeError, StartError, TransferError};
pub use fitness::Fitness;
pub use formation::FormationError;
pub use handle::{Handle, Metrics};
pub use identity::IdentityError;
pub use membership::{Anchor, MembershipError};
pub use openraft::AsyncRuntime;
pub use options::Options;
pub use role::Role;
pub use service::Service;
pub use start::{Starting, open};
pub use state_machine::Applied;
pub use types::Peer;
pub use wire::{Method, Transport, TransportError};
