//! The session between agents and the leader of the control plane.
//!
//! Owns its messages, the transport that carries them, and the agents' client that follows the
//! leader. May import the domain, the generated code, the transport and the clock.
//!
//! Unary calls: an agent registers its members, reports what it sees, polls for the agreed
//! state (a long poll: the answer leaves as soon as there is news), and renews its leases;
//! asked for it, it tells what its PostgreSQL knows of settings. Unary calls alone make a lost
//! leader, a slow one and a simulated one look the same. One more is between agents: a primary that
//! no controller answers asks its peers to take no part in a grant.

pub mod client;
#[cfg(not(quorate_sim))]
pub mod grpc;
pub mod wire;

pub use client::{Client, Failure};
pub use wire::{Method, Promises, SessionError, Transport, TransportError};
