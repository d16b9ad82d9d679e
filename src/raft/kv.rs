//! What the Raft store needs from a database.
//!
//! Owns the [`KvEngine`] trait and its vocabulary. RocksDB implements it in `kv_rocks`, memory in
//! `kv_mem`; one conformance suite (`kv_conformance`) holds for both.
//!
//! Writes are submitted and complete later, in the order of submission. That order is the whole
//! safety argument of the log store: what a crash leaves is always a prefix of what was submitted,
//! and at least everything up to the last synced batch that was reported done.

use std::io;
use std::ops::ControlFlow;

/// A part of the database. Keys of different parts never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Single values: vote, committed, last purged, identities.
    Meta,
    /// Log entries by index, big-endian.
    Log,
    /// The snapshot of the state machine.
    State,
}

impl Space {
    /// The first byte of each of its keys on disk. Never reuse one for another meaning.
    pub const fn tag(self) -> u8 {
        match self {
            Space::Meta => b'm',
            Space::Log => b'l',
            Space::State => b's',
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets `key` to `value`.
    Put(Space, Vec<u8>, Vec<u8>),
    /// Removes `key`; nothing happens where it does not exist.
    Delete(Space, Vec<u8>),
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch(Vec<Write>);

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, space: Space, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.0.push(Write::Put(space, key.into(), value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, space: Space, key: impl Into<Vec<u8>>) {
        self.0.push(Write::Delete(space, key.into()));
    }

    /// The changes, in order.
    pub fn writes(&self) -> &[Write] {
        &self.0
    }
}

/// Why the database did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("the Raft store in {path} cannot be opened: {reason}")]
    Open {
        /// Its directory.
        path: String,
        /// What the database says.
        reason: String,
    },
    /// It is damaged. The node must not go on with it.
    #[error(
        "the Raft store is damaged ({what}): {reason}; stop this node, check its disk, and bring \
         it back as a new controller under a new node id"
    )]
    Corrupt {
        /// The place.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("the Raft store failed: {0}")]
    Io(String),
    /// It was closed before the write was done.
    #[error("the Raft store is closed")]
    Closed,
}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        let kind = match e {
            Error::Corrupt { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, e)
    }
}

/// Told once how a write ended. It must not block: it runs on the engine's writer.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Is shown keys and values, and tells whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A small ordered key-value database with asynchronous, ordered writes.
pub trait KvEngine: Send + Sync + 'static {
    /// Queues `batch`, never blocking on a disk, and calls `done` once it is readable and, with
    /// `sync`, on stable storage together with everything submitted before. Batches take effect in
    /// the order of submission. After an error every later write fails too. `done` is dropped
    /// unused only where the process or the simulated node dies. In a simulator it has to be
    /// called from a task, since it reads the runtime's clock.
    fn submit(&self, batch: Batch, sync: bool, done: Done);

    /// The value of `key`, as far as writes are done.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Shows `visit` the keys of `from..to` in order, as they were when the call began, until it
    /// breaks.
    fn range(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error>;

    /// The greatest key of `space`, with its value.
    fn last(&self, space: Space) -> Result<Option<Pair>, Error>;
}
