//! The snapshot: the state of the control plane on disk.
//!
//! Owns its format and the rule that a newer one is never replaced by an older one: a snapshot
//! that is being built while a newer one arrives from the leader comes too late, and the log
//! before the newer one may already be gone.

use std::sync::{Arc, Mutex, PoisonError};

use openraft::AsyncRuntime;

use super::kv::{Batch, Error, KvEngine, Space};
use super::log_store::submit_synced;
use super::log_tail::next;
use super::record;
use super::types::{Snapshot, SnapshotMeta};

const KEY: &[u8] = b"snapshot";

/// The place of the one snapshot. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore {
    engine: Arc<dyn KvEngine>,
    /// One more than the index that the newest submitted snapshot covers.
    newest: Arc<Mutex<u64>>,
}

impl SnapshotStore {
    /// The place on `engine`.
    pub fn open(engine: Arc<dyn KvEngine>) -> Result<Self, Error> {
        let store = Self { engine, newest: Arc::default() };
        let covered = store.load()?.map_or(0, |s| next(s.meta.last_log_id));
        *store.newest.lock().unwrap_or_else(PoisonError::into_inner) = covered;
        Ok(store)
    }

    /// One more than the index up to which the newest snapshot covers the log.
    pub fn covered(&self) -> u64 {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stored snapshot.
    pub fn load(&self) -> Result<Option<Snapshot>, Error> {
        let Some(raw) = self.engine.get(Space::State, KEY)? else { return Ok(None) };
        let bytes = record::unseal(Space::State, KEY, &raw)?;
        let corrupt = |reason: String| Error::Corrupt { what: "snapshot".to_owned(), reason };
        let (meta, data) = split(bytes).ok_or_else(|| corrupt("it is too short".to_owned()))?;
        let meta: SnapshotMeta =
            serde_json::from_slice(meta).map_err(|e| corrupt(e.to_string()))?;
        Ok(Some(Snapshot { meta, snapshot: data.to_vec() }))
    }

    /// Stores a snapshot and waits until it is on disk. Does nothing where a newer one is stored.
    pub async fn save<RT: AsyncRuntime>(
        &self,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), Error> {
        let mut batch = Batch::new();
        put(&mut batch, meta, data)?;
        let done = {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            if next(meta.last_log_id) < *newest {
                return Ok(());
            }
            *newest = next(meta.last_log_id);
            // Submitted under the lock: the order of submission is the order on disk.
            submit_synced::<RT>(&*self.engine, batch)
        };
        done.await.unwrap_or(Err(Error::Closed))
    }
}

/// Adds a snapshot to `batch`, in place of whatever is stored.
pub(super) fn put(batch: &mut Batch, meta: &SnapshotMeta, data: &[u8]) -> Result<(), Error> {
    batch.put(Space::State, KEY, record::seal(Space::State, KEY, &join(meta, data)?));
    Ok(())
}

/// Length of the description, description, state.
fn join(meta: &SnapshotMeta, data: &[u8]) -> Result<Vec<u8>, Error> {
    let meta = record::encode(meta)?;
    let length = u32::try_from(meta.len()).map_err(|e| Error::Io(e.to_string()))?;
    let mut bytes = Vec::with_capacity(4 + meta.len() + data.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&meta);
    bytes.extend_from_slice(data);
    Ok(bytes)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}
