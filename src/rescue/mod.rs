//! A control plane whose majority is lost, and copies of its state: the work of `hactl` on files.
//!
//! Owns the file of a snapshot, the receipt of a retired controller, the lock that keeps an offline
//! tool and `hanode` apart, and every rule of who may begin a new generation from what. The store
//! itself is written by `raft::offline`, the state is changed by `domain::rescue`.
//!
//! ```text
//! place     a node's data directory, locked, with its store open
//! file      a snapshot of the agreed state, as a file
//! receipt   the proof that a store never votes again
//! recover   a new generation from the store of a controller that is left
//! restore   a new generation from a snapshot
//! ```

pub mod file;
mod lock;
pub mod place;
pub mod receipt;
pub mod recover;
pub mod restore;
mod sealed;

#[cfg(test)]
mod tests;

pub use lock::{LockError, lock};
pub use sealed::SealError;

use crate::domain::generation::Generation;
use crate::domain::types::WallMillis;

/// The generation that follows `last`: the time in seconds, so that two recoveries by mistake are
/// never of one number, and the later one wins; never less than one more.
pub fn generation_after(last: Generation, at: WallMillis) -> Generation {
    Generation(at.0 / 1000).max(last.next())
}
