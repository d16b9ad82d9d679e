//! The guard: a tiny process that fences PostgreSQL.
//!
//! ```text
//!   hanode (agent) --unix socket--> guard --clone(NEWPID)--> init (pid 1) --> postmaster (pid 2)
//!                                     |                        ^                 |
//!                       kernel timer: SIGKILL to itself        |             backends ...
//!                                     +-- PR_SET_PDEATHSIG ----+
//! ```
//!
//! The agent moves the guard's kernel timer at each renewal of the lease. If it does not, the
//! kernel kills the guard, the guard's death kills the init, and the init's death kills every
//! process of its PID namespace: no code of ours has to run for that, so it makes no difference
//! whether agent, guard and init are busy, stopped or dead. The guard survives the agent, so that
//! a restarted `hanode` takes the running PostgreSQL over.
//!
//! Owns: the guard process ([`main`]), its protocol, its client ([`GuardClient`]) and the proof
//! that a process tree is empty ([`prove_empty`]). May import `std`, `libc`, `nix`, `serde`,
//! `thiserror`, `domain::types` and `clock`; `tokio` in `client.rs` only, since the guard itself
//! has no runtime.

mod cgroup;
mod client;
mod daemon;
mod init;
mod prepared;
mod proof;
pub(crate) mod protocol;
mod record;
mod refusal;
mod server;
mod socket;
mod spec;
pub(crate) mod status;
mod sys;
mod timer;
mod tree;

pub use client::{Error, GuardClient, prove_empty};
pub use daemon::main;
pub use proof::{Proof, ProofError};
pub use refusal::{Refusal, Stage};
pub use spec::{Credentials, StartSpec};
pub use status::{Exit, FencingKind, Status, TreeState};

/// Name of the guard's socket in its run directory.
pub const SOCKET_FILE: &str = "guard.sock";
/// Name of the file in the run directory that says which processes belong to the guard.
pub const RECORD_FILE: &str = "guard.json";
/// Name of the file that guard and init hold locked for as long as either lives.
pub const LOCK_FILE: &str = "guard.lock";
/// Name of the guard's log in its run directory: a few lines in a guard's life.
pub const LOG_FILE: &str = "guard.log";
