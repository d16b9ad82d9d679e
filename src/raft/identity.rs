//! Who is who: the identity of stores.
//!
//! Owns this node's store identity and the memory of the peers'. A controller whose disk was wiped
//! has forgotten its vote and its acknowledgements; as a voter under its old node id it could help
//! to elect a leader without entries that it once acknowledged. So every store has a random
//! identity, every message carries it, and a peer durably remembers the first one that it saw for
//! a node id and refuses another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::AsyncRuntime;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::kv::{Batch, Error, KvEngine, Space};
use super::log_store::write_synced;
use super::record;
use super::wire::{Refusal, StoreId};
use crate::domain::generation::Generation;
use crate::domain::mutant::{Mutant, without};

const OWN: &[u8] = b"identity";
const PEER_PREFIX: &[u8] = b"peer/";
/// Version of everything in the store.
const FORMAT: u32 = 1;

/// What the store says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) format: u32,
    pub(super) node_id: u64,
    pub(super) control_plane: String,
    pub(super) store: StoreId,
    /// Of which generation its group is; none before it has joined one.
    #[serde(default)]
    pub(super) generation: Generation,
    /// Set once it never takes part again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Ended>,
}

/// Why a store never takes part in its group again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The operator retired it, for nobody by name: it proves nothing to anybody.
    Retired,
    /// The operator retired it for the recovery on another controller. It never counts for any
    /// other, so that at most one recovery of a generation is ever proven.
    RetiredFor(Beneficiary),
    /// A higher generation of the control plane exists.
    Superseded {
        /// Which.
        by: Generation,
    },
}

/// The controller for whose recovery a store is retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beneficiary {
    /// Its number.
    pub id: u64,
    /// Its node's name.
    pub name: String,
}

impl Own {
    pub(super) fn new(node_id: u64, control_plane: &str, store: StoreId) -> Self {
        let control_plane = control_plane.to_owned();
        let (generation, ended) = (Generation::NONE, None);
        Self { format: FORMAT, node_id, control_plane, store, generation, ended }
    }

    pub(super) fn load(engine: &dyn KvEngine) -> Result<Option<Self>, IdentityError> {
        match record::get::<Self>(engine, Space::Meta, OWN)? {
            Some(own) if own.format != FORMAT => Err(IdentityError::Format { got: own.format }),
            own => Ok(own),
        }
    }

    pub(super) fn put(&self, batch: &mut Batch) -> Result<(), Error> {
        record::put(batch, Space::Meta, OWN, self)
    }
}

/// Notes durably that the store's group is of this generation.
pub(super) async fn join<RT: AsyncRuntime>(
    engine: &dyn KvEngine,
    generation: Generation,
) -> Result<(), IdentityError> {
    change::<RT>(engine, |own| own.generation = generation).await
}

/// Notes durably that the store never takes part again.
pub(super) async fn end<RT: AsyncRuntime>(
    engine: &dyn KvEngine,
    ended: Ended,
) -> Result<(), IdentityError> {
    change::<RT>(engine, |own| own.ended = Some(ended)).await
}

async fn change<RT: AsyncRuntime>(
    engine: &dyn KvEngine,
    change: impl FnOnce(&mut Own),
) -> Result<(), IdentityError> {
    let Some(mut own) = Own::load(engine)? else { return Ok(()) };
    change(&mut own);
    let mut batch = Batch::new();
    own.put(&mut batch)?;
    Ok(write_synced::<RT>(engine, batch).await?)
}

/// Notes that a store with a log is of the first generation, where it says none: its group was
/// founded before there were generations. `None` where nothing has to be written.
pub(super) fn founded_before(engine: &dyn KvEngine) -> Result<Option<Batch>, IdentityError> {
    let Some(mut own) = Own::load(engine)? else { return Ok(None) };
    if own.generation != Generation::NONE {
        return Ok(None);
    }
    own.generation = Generation::FIRST;
    let mut batch = Batch::new();
    own.put(&mut batch)?;
    Ok(Some(batch))
}

/// The generation of the store's group.
pub(super) fn generation(engine: &dyn KvEngine) -> Result<Generation, IdentityError> {
    Ok(Own::load(engine)?.map_or(Generation::NONE, |own| own.generation))
}

/// The store belongs to someone else, or to another version.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// The store was made for another node or control plane.
    #[error(
        "the Raft store belongs to node {node_id} of control plane {control_plane:?}: check the \
         node id, the name of the control plane and the data directory in the configuration"
    )]
    Foreign {
        /// The node that it belongs to.
        node_id: u64,
        /// The control plane that it belongs to.
        control_plane: String,
    },
    /// The operator retired it.
    #[error(
        "this controller's store was retired by `hactl retire`: it never votes or leads again. Move \
         its raft directory away, and add this node to the control plane of today as a new \
         controller"
    )]
    Retired,
    /// A higher generation of the control plane exists.
    #[error(
        "this controller is of generation {own} of the control plane, and generation {by} exists: \
         it was recovered without this controller, which never votes or leads again. Move its raft \
         directory away, and add this node to the control plane of today as a new controller"
    )]
    Superseded {
        /// Its own.
        own: Generation,
        /// The one that exists.
        by: Generation,
    },
    /// The store was made by a version that this one cannot read.
    #[error("the Raft store has format {got}, and this version reads {FORMAT}")]
    Format {
        /// Its format.
        got: u32,
    },
}

/// Reads the identity of the store, or draws one where the store is new. It is on disk before this
/// returns.
pub async fn load_or_create<RT: AsyncRuntime>(
    engine: &dyn KvEngine,
    node_id: u64,
    control_plane: &str,
) -> Result<StoreId, IdentityError> {
    if let Some(own) = Own::load(engine)? {
        if own.node_id != node_id || own.control_plane != control_plane {
            let Own { node_id, control_plane, .. } = own;
            return Err(IdentityError::Foreign { node_id, control_plane });
        }
        return match own.ended {
            None => Ok(own.store),
            Some(Ended::Retired | Ended::RetiredFor(_)) => Err(IdentityError::Retired),
            Some(Ended::Superseded { by }) => {
                Err(IdentityError::Superseded { own: own.generation, by })
            }
        };
    }
    if engine.last(Space::Log)?.is_some() {
        return Err(IdentityError::Store(Error::Corrupt {
            what: "identity".to_owned(),
            reason: "it is gone, and there is a log".to_owned(),
        }));
    }
    let mut bytes = [0; 16];
    RT::thread_rng().fill_bytes(&mut bytes);
    let store = StoreId::from_bytes(bytes);
    let mut batch = Batch::new();
    Own::new(node_id, control_plane, store.clone()).put(&mut batch)?;
    write_synced::<RT>(engine, batch).await?;
    Ok(store)
}

struct Known {
    store: StoreId,
    on_disk: bool,
}

/// The stores of the peers, as first seen.
pub struct PeerStores {
    engine: Arc<dyn KvEngine>,
    known: Mutex<BTreeMap<u64, Known>>,
}

impl PeerStores {
    /// Reads what is remembered.
    pub fn open(engine: Arc<dyn KvEngine>) -> Result<Self, Error> {
        let mut known = BTreeMap::new();
        let mut problem = None;
        let mut end = PEER_PREFIX.to_vec();
        end.push(0xff);
        engine.range(Space::Meta, PEER_PREFIX, Some(&end), &mut |key, raw| {
            match record::decode::<(u64, StoreId)>(Space::Meta, key, raw) {
                Ok((node, store)) => {
                    known.insert(node, Known { store, on_disk: true });
                }
                Err(e) => problem = Some(e),
            }
            std::ops::ControlFlow::Continue(())
        })?;
        match problem {
            Some(e) => Err(e),
            None => Ok(Self { engine, known: Mutex::new(known) }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store under which `node` is known.
    pub fn get(&self, node: u64) -> Option<StoreId> {
        self.lock().get(&node).map(|k| k.store.clone())
    }

    /// Lets `node` with `store` take part, or refuses it. The first store seen is on disk before
    /// this returns: from then on its votes and acknowledgements may count.
    pub async fn admit<RT: AsyncRuntime>(&self, node: u64, store: &StoreId) -> Result<(), Refusal> {
        {
            let mut known = self.lock();
            let entry =
                known.entry(node).or_insert_with(|| Known { store: store.clone(), on_disk: false });
            if entry.store != *store && !without(Mutant::OtherStoreAdmitted) {
                return Err(Refusal::OtherStore {
                    node,
                    known: entry.store.clone(),
                    got: store.clone(),
                });
            }
            if entry.on_disk {
                return Ok(());
            }
        }
        let not_ready = |e: Error| Refusal::NotReady(e.to_string());
        let mut batch = Batch::new();
        let key = [PEER_PREFIX, &node.to_be_bytes()].concat();
        record::put(&mut batch, Space::Meta, &key, &(node, store)).map_err(not_ready)?;
        write_synced::<RT>(&*self.engine, batch).await.map_err(not_ready)?;
        if let Some(entry) = self.lock().get_mut(&node) {
            entry.on_disk = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::kv_mem::KvMem;
    use super::super::runtime::BootRuntime;
    use super::*;

    type Rt = BootRuntime;

    #[test]
    fn a_store_keeps_its_identity_and_serves_one_node() {
        Rt::new(1).block_on(async {
            let engine = KvMem::new();
            let own = load_or_create::<Rt>(&engine, 1, "cp").await.unwrap();
            assert_eq!(engine.losable(), 0, "it is on disk before anybody hears of it");
            assert_eq!(load_or_create::<Rt>(&engine, 1, "cp").await.unwrap(), own);
            for (node, control_plane) in [(2, "cp"), (1, "other")] {
                let refused = load_or_create::<Rt>(&engine, node, control_plane).await;
                assert!(matches!(refused, Err(IdentityError::Foreign { node_id: 1, .. })));
            }
            let other = load_or_create::<Rt>(&KvMem::new(), 1, "cp").await.unwrap();
            assert_ne!(own, other);
        });
    }

    #[test]
    fn a_log_without_an_identity_is_damage() {
        Rt::new(1).block_on(async {
            let engine = KvMem::new();
            load_or_create::<Rt>(&engine, 1, "cp").await.unwrap();
            let mut batch = Batch::new();
            batch.put(Space::Log, [0; 8], Vec::new());
            batch.delete(Space::Meta, OWN);
            write_synced::<Rt>(&engine, batch).await.unwrap();
            let refused = load_or_create::<Rt>(&engine, 1, "cp").await;
            assert!(matches!(refused, Err(IdentityError::Store(Error::Corrupt { .. }))));
        });
    }

    #[test]
    fn the_first_store_of_a_peer_is_remembered_over_a_crash() {
        Rt::new(1).block_on(async {
            let (first, second) = (StoreId::from_bytes([1; 16]), StoreId::from_bytes([2; 16]));
            let engine = KvMem::new();
            let peers = PeerStores::open(Arc::new(engine.clone())).unwrap();
            assert_eq!(peers.get(7), None);
            peers.admit::<Rt>(7, &first).await.unwrap();
            peers.admit::<Rt>(7, &first).await.unwrap();
            assert!(matches!(
                peers.admit::<Rt>(7, &second).await,
                Err(Refusal::OtherStore { node: 7, .. })
            ));
            let peers = PeerStores::open(Arc::new(engine.crash(0))).unwrap();
            assert_eq!(peers.get(7), Some(first));
            assert!(peers.admit::<Rt>(7, &second).await.is_err());
            peers.admit::<Rt>(8, &second).await.unwrap();
        });
    }
}
