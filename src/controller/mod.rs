//! The leader's loop: observe, plan, propose.
//!
//! Owns the leader's memory (observations and the ledger of leases), the loop that plans, and the
//! answers to agents. Every controller runs it; it acts only while its node leads the Raft group,
//! and forgets everything when it gains that anew. May import the domain, the session's messages,
//! the Raft handle, the runtime and the clock.

mod memory;
mod nodes;
mod service;
mod task;

pub use memory::{ClusterView, Memory, View};
pub use nodes::run as change_nodes;
pub use service::Service;
pub use task::{Options, run};
