//! The receipt of a retired controller: the proof that its store never votes or leads again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::recover::Refusal;
use super::sealed::{self, SealError};
use crate::domain::generation::Generation;
use crate::domain::types::WallMillis;
use crate::raft::identity::Beneficiary;
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
    /// For whose recovery: it proves nothing to another. None by versions that did not ask.
    #[serde(default)]
    pub beneficiary: Option<Beneficiary>,
    /// When it was retired, by that machine's wall clock.
    pub at: WallMillis,
}

impl Receipt {
    /// The controller of this name, for whose recovery the store can be retired.
    pub fn beneficiary(contents: &Contents, name: &str) -> Result<Beneficiary, Refusal> {
        let voters: BTreeSet<u64> = contents.voters.iter().flatten().copied().collect();
        let others = || contents.nodes.iter().filter(|(id, _)| voters.contains(id));
        match others().find(|(_, peer)| peer.name == name) {
            Some((id, _)) if *id == contents.node_id => Err(Refusal::Itself(name.to_owned())),
            Some((id, peer)) => Ok(Beneficiary { id: *id, name: peer.name.clone() }),
            None => Err(Refusal::UnknownNode {
                name: name.to_owned(),
                known: others().map(|(_, peer)| peer.name.clone()).collect(),
            }),
        }
    }

    /// The receipt of this store, which is retired for `beneficiary`.
    pub fn of(contents: &Contents, beneficiary: Beneficiary, at: WallMillis) -> Self {
        let peer = contents.nodes.get(&contents.node_id);
        Self {
            control_plane: contents.control_plane.clone(),
            generation: contents.generation,
            id: contents.node_id,
            node: peer.map_or_else(|| contents.node_id.to_string(), |p| p.name.clone()),
            store: contents.store.clone(),
            vote_term: contents.vote_term,
            last: contents.last,
            beneficiary: Some(beneficiary),
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
