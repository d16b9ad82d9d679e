//! The store of a controller that does not run: reading it, retiring it, and making it the
//! beginning of a new generation.
//!
//! Owns how a group with one voter is written so that openraft goes on from it: a snapshot of the
//! state that names the one voter, an empty log after it, a vote that is not older than it. All of
//! it is one synced batch, so that a store is never half of one generation and half of another.
//!
//! Every log entry that is there counts as committed. One that never was is like one that a new
//! leader finds in its log; one that was overwritten elsewhere belongs to a state that is in doubt
//! anyway, see `domain::rescue`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc;

use openraft::{EntryPayload, Membership};

use super::identity::{self, Beneficiary, Ended, IdentityError, Own, PeerStores};
use super::kv::{Batch, Error, KvEngine, Space};
use super::log_store::{COMMITTED, LogStore, PURGED, VOTE};
use super::record;
use super::removal;
use super::runtime::BootRuntime;
use super::snapshot::{self, SnapshotStore};
use super::state_machine::StateMachine;
use super::types::{Entry, LogId, Peer, Proposal, SnapshotMeta, StoredMembership, Vote, log_id};
use super::wire::StoreId;
use crate::domain::apply::Position;
use crate::domain::generation::Generation;
use crate::domain::{self, ControlState};

/// What a store holds.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Whose it is.
    pub node_id: u64,
    /// Of which control plane.
    pub control_plane: String,
    /// Its identity.
    pub store: StoreId,
    /// The generation of its group.
    pub generation: Generation,
    /// Why it never takes part again, where that is so.
    pub ended: Option<Ended>,
    /// Whether it knows that its group has taken it out.
    pub removed: bool,
    /// The highest term that it has voted in.
    pub vote_term: u64,
    /// Term and index of its last log entry.
    pub last: (u64, u64),
    /// The sets of voters, by its last membership: more than one while one is being changed.
    pub voters: Vec<BTreeSet<u64>>,
    /// The stores under which it knows the others.
    pub peers: BTreeMap<u64, StoreId>,
    /// Every node of that membership.
    pub nodes: BTreeMap<u64, Peer>,
    /// The state after the last entry.
    pub state: ControlState,
}

/// Why a store cannot be used offline.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// Its identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It holds nothing.
    #[error("the Raft store is empty: this node has never been a controller")]
    Empty,
    /// It has joined no group yet.
    #[error("this controller has not joined a group yet: its store holds no agreed state")]
    NoGroup,
    /// It was retired before, and not for this controller.
    #[error(
        "this store was retired for {} already, and a store is retired for one controller only: \
         recover there, or state this node to be lost", .0.as_deref().unwrap_or("nobody by name")
    )]
    RetiredBefore(Option<String>),
    /// It ended before.
    #[error(
        "generation {0} of the control plane exists: this store never votes or leads again, and its \
         receipt would serve nobody"
    )]
    Superseded(Generation),
    /// The membership is refused.
    #[error("the group cannot be written: {0}")]
    Membership(String),
}

/// Reads all of a store, and checks it as a start of the node would.
pub fn read(engine: &Arc<dyn KvEngine>) -> Result<Contents, OfflineError> {
    let own = Own::load(&**engine)?.ok_or(OfflineError::Empty)?;
    let log = LogStore::<BootRuntime>::open(engine.clone())?;
    log.check_vote()?;
    let (machine, _) = StateMachine::open(engine.clone())?;
    machine.check_reaches(&log)?;
    let mut state = ControlState::default();
    let mut applied: Option<LogId> = None;
    let mut membership = StoredMembership::default();
    if let Some(snapshot) = SnapshotStore::open(engine.clone())?.load()? {
        state = serde_json::from_slice(&snapshot.snapshot).map_err(|e| Error::Corrupt {
            what: "snapshot".to_owned(),
            reason: format!("it is no state of this version: {e}"),
        })?;
        applied = snapshot.meta.last_log_id;
        membership = snapshot.meta.last_membership;
    }
    let mut problem = None;
    engine.range(Space::Log, &[], None, &mut |raw_key, raw| {
        let entry = match record::decode::<Entry>(Space::Log, raw_key, raw) {
            Ok(entry) => entry,
            Err(e) => {
                problem = Some(e);
                return ControlFlow::Break(());
            }
        };
        let id = entry.log_id;
        if applied.is_some_and(|a| id.index <= a.index) {
            return ControlFlow::Continue(());
        }
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(proposal) => {
                let position = Position { term: id.leader_id.term, index: id.index };
                match &proposal {
                    Proposal::Cluster(command) => domain::apply(&mut state, position, command),
                    Proposal::Nodes(command) => domain::nodes::apply(&mut state.nodes, command),
                };
            }
            EntryPayload::Membership(m) => {
                let nodes = m.nodes().map(|(id, p)| (*id, (p.name.clone(), p.address.clone())));
                state.nodes.note_membership(m.get_joint_config(), &nodes.collect());
                membership = StoredMembership::new(Some(id), m);
            }
        }
        applied = Some(id);
        ControlFlow::Continue(())
    })?;
    if let Some(e) = problem {
        return Err(e.into());
    }
    let known = PeerStores::open(engine.clone())?;
    let vote: Option<Vote> = record::get(&**engine, Space::Meta, VOTE)?;
    let Some(last) = applied else { return Err(OfflineError::NoGroup) };
    if let Some(batch) = identity::founded_before(&**engine)? {
        write(&**engine, batch)?;
    }
    let Own { node_id, control_plane, store, generation, ended, .. } = own;
    let generation = generation.or_first();
    Ok(Contents {
        node_id,
        control_plane,
        store,
        generation,
        ended,
        removed: removal::is_marked(&**engine)?,
        vote_term: vote.map_or(0, |vote| vote.leader_id.term),
        last: (last.leader_id.term, last.index),
        peers: membership
            .membership()
            .nodes()
            .filter_map(|(id, _)| Some((*id, known.get(*id)?)))
            .collect(),
        voters: membership.membership().get_joint_config().clone(),
        nodes: membership.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        state,
    })
}

/// Whether there is an identity: a store that was ever used.
pub fn is_used(engine: &dyn KvEngine) -> Result<bool, OfflineError> {
    Ok(Own::load(engine)?.is_some())
}

/// Marks a store: it never votes or leads again, and that serves a recovery on `beneficiary` alone.
/// Done where it is marked so already; a mark for another is never changed, since the receipt that
/// was made with it may have been used.
pub fn retire(engine: &dyn KvEngine, beneficiary: &Beneficiary) -> Result<(), OfflineError> {
    let mut own = Own::load(engine)?.ok_or(OfflineError::Empty)?;
    match &own.ended {
        None => {}
        Some(Ended::RetiredFor(before)) if before == beneficiary => return Ok(()),
        Some(Ended::RetiredFor(before)) => {
            return Err(OfflineError::RetiredBefore(Some(before.name.clone())));
        }
        Some(Ended::Retired) => return Err(OfflineError::RetiredBefore(None)),
        Some(Ended::Superseded { by }) => return Err(OfflineError::Superseded(*by)),
    }
    own.ended = Some(Ended::RetiredFor(beneficiary.clone()));
    let mut batch = Batch::new();
    own.put(&mut batch)?;
    Ok(write(engine, batch)?)
}

/// The beginning of a generation.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The one voter.
    pub node_id: u64,
    /// Its name and address.
    pub peer: Peer,
    /// Name of the control plane.
    pub control_plane: String,
    /// The identity of the store.
    pub store: StoreId,
    /// The generation.
    pub generation: Generation,
    /// Term and index that the state stands for: after all that is known of older generations.
    pub at: (u64, u64),
    /// The state.
    pub state: ControlState,
}

/// Makes the store the only voter of a new generation. Whatever it held is replaced.
pub fn begin(engine: &dyn KvEngine, beginning: &Beginning) -> Result<(), OfflineError> {
    let Beginning { node_id, peer, control_plane, store, generation, at, state } = beginning;
    let (term, index) = *at;
    let at = log_id(term, index);
    let nodes = BTreeMap::from([(*node_id, peer.clone())]);
    let membership = Membership::new(vec![BTreeSet::from([*node_id])], nodes)
        .map_err(|e| OfflineError::Membership(e.to_string()))?;
    let meta = SnapshotMeta {
        last_log_id: Some(at),
        last_membership: StoredMembership::new(Some(at), membership),
    };
    let mut batch = Batch::new();
    // Peers, marks, and whatever else was known of the old group.
    for space in [Space::Meta, Space::Log] {
        engine.range(space, &[], None, &mut |raw_key, _| {
            batch.delete(space, raw_key);
            ControlFlow::Continue(())
        })?;
    }
    let mut own = Own::new(*node_id, control_plane, store.clone());
    own.generation = *generation;
    own.put(&mut batch)?;
    record::put(&mut batch, Space::Meta, VOTE, &Vote::new(term, *node_id))?;
    record::put(&mut batch, Space::Meta, COMMITTED, &at)?;
    record::put(&mut batch, Space::Meta, PURGED, &at)?;
    snapshot::put(&mut batch, &meta, &record::encode(state)?)?;
    Ok(write(engine, batch)?)
}

/// Writes with a sync, and waits without a runtime.
fn write(engine: &dyn KvEngine, batch: Batch) -> Result<(), Error> {
    let (done, ended) = mpsc::channel();
    engine.submit(batch, true, Box::new(move |result| drop(done.send(result))));
    ended.recv().unwrap_or(Err(Error::Closed))
}

#[cfg(test)]
mod tests {
    use super::super::kv_mem::KvMem;
    use super::*;

    #[test]
    fn nothing_that_was_known_of_the_old_group_is_kept() {
        let engine: Arc<dyn KvEngine> = Arc::new(KvMem::new());
        let mut batch = Batch::new();
        for key in [&b"removed"[..], b"peer/12345678", b"a later version's"] {
            record::put(&mut batch, Space::Meta, key, &true).unwrap();
        }
        write(&*engine, batch).unwrap();
        assert!(removal::is_marked(&*engine).unwrap());
        let beginning = Beginning {
            node_id: 1,
            peer: Peer { name: "n1".to_owned(), address: "h1:1".to_owned() },
            control_plane: "cp".to_owned(),
            store: StoreId::from_bytes([1; 16]),
            generation: Generation(9),
            at: (5, 41),
            state: ControlState::default(),
        };
        begin(&*engine, &beginning).unwrap();
        let mut keys = Vec::new();
        let mut note = |key: &[u8], _: &[u8]| {
            keys.push(String::from_utf8_lossy(key).into_owned());
            ControlFlow::Continue(())
        };
        engine.range(Space::Meta, &[], None, &mut note).unwrap();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(!read(&engine).unwrap().removed);
    }
}
