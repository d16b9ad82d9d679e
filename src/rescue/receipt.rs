//! The receipt of a retired controller: the proof that its store never votes or leads again.

use serde::{Deserialize, Serialize};

use super::sealed::{self, SealError};
use crate::domain::generation::Generation;
use crate::domain::types::WallMillis;
use crate::raft::offline::Contents;
use crate::raft::wire::StoreId;

const KIND: &str = "receipt";

/// What `hactl retire` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Name of the control plane.
    pub control_plane: String,
    /// Of which generation it was a controller.
    pub generation: Generation,
    /// Its number.
    pub id: u64,
    /// Its node's name.
    pub node: String,
    /// The identity of its store.
    pub store: StoreId,
    /// The highest term that it has voted in.
    pub vote_term: u64,
    /// Term and index of its last log entry.
    pub last: (u64, u64),
    /// When it was retired, by that machine's wall clock.
    pub at: WallMillis,
}

impl Receipt {
    /// The receipt of this store, which is retired.
    pub fn of(contents: &Contents, at: WallMillis) -> Self {
        let peer = contents.nodes.get(&contents.node_id);
        Self {
            control_plane: contents.control_plane.clone(),
            generation: contents.generation,
            id: contents.node_id,
            node: peer.map_or_else(|| contents.node_id.to_string(), |p| p.name.clone()),
            store: contents.store.clone(),
            vote_term: contents.vote_term,
            last: contents.last,
            at,
        }
    }

    /// Its text.
    pub fn encode(&self) -> Result<Vec<u8>, SealError> {
        sealed::seal(KIND, self)
    }

    /// Reads its text.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        sealed::unseal(KIND, bytes)
    }
}
