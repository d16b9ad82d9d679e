//! The state machine: thin.
//!
//! Owns the state in memory, its publication and its snapshots. What a command means is the
//! domain's: this file decodes, calls `domain::apply`, and publishes.
//!
//! The state is not written to disk for each entry. The log is durable, the committed position is
//! stored with it, and the log is never purged beyond the last snapshot: a restart loads the
//! snapshot and applies the log after it again. `apply` is pure, so this gives the same state.

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, Membership, OptionalSend, RaftSnapshotBuilder};

use super::kv::{Error, KvEngine};
use super::log_store::LogStore;
use super::log_tail::next;
use super::record;
use super::snapshot::SnapshotStore;
use super::types::{
    Entry, LogId, Peer, Proposal, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::domain::apply::Position;
use crate::domain::{self, ControlState, Reply};
use crate::watch;

/// Publish at least once in so many entries, so that a long catch-up is seen to progress.
const PUBLISH_ENTRIES_MAX: usize = 64;

/// The state after an entry.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The state.
    pub state: Arc<ControlState>,
    /// Index of the entry that was applied last; zero also before the first.
    pub index: u64,
    /// Raft term of that entry. Never a fencing token.
    pub term: u64,
}

/// The state machine.
pub struct StateMachine {
    state: Arc<ControlState>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
    publish: watch::Sender<Arc<Applied>>,
}

impl StateMachine {
    /// An empty one over `engine`. openraft installs the stored snapshot and applies the committed
    /// log after it before it does anything else.
    pub fn open(engine: Arc<dyn KvEngine>) -> Result<(Self, watch::Receiver<Arc<Applied>>), Error> {
        let (publish, applied) = watch::channel(Arc::default());
        let machine = Self {
            state: Arc::default(),
            last_applied: None,
            membership: StoredMembership::default(),
            snapshots: SnapshotStore::open(engine)?,
            publish,
        };
        Ok((machine, applied))
    }

    /// Checks that the stored snapshot has all that is gone from `log`. Without it openraft would
    /// begin with an empty state.
    pub fn check_reaches<RT: AsyncRuntime>(&self, log: &LogStore<RT>) -> Result<(), Error> {
        let (covered, begins) = (self.snapshots.covered(), next(log.purged()));
        if covered >= begins {
            return Ok(());
        }
        let reason = format!("it covers {covered} entries, and the log begins with entry {begins}");
        Err(Error::Corrupt { what: "snapshot".to_owned(), reason })
    }

    fn apply_one(&mut self, entry: Entry) -> Reply {
        let LogId { leader_id, index } = entry.log_id;
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Reply::default(),
            EntryPayload::Normal(proposal) => {
                // Copies the state once after each publication, not once an entry.
                let position = Position { term: leader_id.term, index };
                let state = Arc::make_mut(&mut self.state);
                match &proposal {
                    Proposal::Cluster(command) => domain::apply(state, position, command),
                    Proposal::Nodes(command) => domain::nodes::apply(&mut state.nodes, command),
                }
            }
            EntryPayload::Membership(membership) => {
                note_membership(Arc::make_mut(&mut self.state), &membership);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Reply::default()
            }
        }
    }

    /// Publishes the state, then answers: who reads after the answer finds its own write.
    fn publish<RT: AsyncRuntime>(
        &mut self,
        answers: &mut Vec<(ApplyResponder<TypeConfig<RT>>, Reply)>,
    ) {
        self.publish.send_replace(Arc::new(Applied {
            state: self.state.clone(),
            index: self.last_applied.map_or(0, |id| id.index),
            term: self.last_applied.map_or(0, |id| id.leader_id.term),
        }));
        for (responder, reply) in answers.drain(..) {
            responder.send(reply);
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }
}

fn note_membership(state: &mut ControlState, membership: &Membership<u64, Peer>) {
    let nodes = membership.nodes();
    let nodes = nodes.map(|(id, p)| (*id, (p.name.clone(), p.address.clone())));
    state.nodes.note_membership(membership.get_joint_config(), &nodes.collect());
}

impl<RT: AsyncRuntime> RaftStateMachine<TypeConfig<RT>> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = SnapshotBuilder<RT>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig<RT>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut unpublished = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = match next {
                Ok(next) => next,
                Err(e) => {
                    self.publish(&mut answers);
                    return Err(e);
                }
            };
            let reply = self.apply_one(entry);
            answers.extend(responder.map(|responder| (responder, reply)));
            unpublished += 1;
            if unpublished == PUBLISH_ENTRIES_MAX {
                self.publish(&mut answers);
                unpublished = 0;
            }
        }
        if unpublished > 0 {
            self.publish(&mut answers);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<RT> {
        SnapshotBuilder {
            state: self.state.clone(),
            meta: self.meta(),
            snapshots: self.snapshots.clone(),
            runtime: std::marker::PhantomData,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        let mut state: ControlState = serde_json::from_slice(&snapshot)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.snapshots.save::<RT>(meta, &snapshot).await?;
        if state.nodes.members.is_empty() {
            // It is of a version that did not keep them; every node takes the same from it.
            note_membership(&mut state, meta.last_membership.membership());
        }
        self.state = Arc::new(state);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish::<RT>(&mut Vec::new());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.load()?)
    }
}

/// Serialises and stores the state as it was when this was made.
pub struct SnapshotBuilder<RT> {
    state: Arc<ControlState>,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
    runtime: std::marker::PhantomData<fn() -> RT>,
}

impl<RT: AsyncRuntime> RaftSnapshotBuilder<TypeConfig<RT>> for SnapshotBuilder<RT> {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let data = record::encode(&*self.state)?;
        self.snapshots.save::<RT>(&self.meta, &data).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: data })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::kv_mem::KvMem;
    use super::super::runtime::BootRuntime;
    use super::super::types::log_id;
    use super::*;

    #[tokio::test]
    async fn a_snapshot_from_before_nodes_were_kept_gives_them_by_its_membership() {
        let peer = |id: u64| Peer { name: format!("n{id}"), address: format!("h{id}:1") };
        let nodes: BTreeMap<u64, Peer> = (1..=4).map(|id| (id, peer(id))).collect();
        let membership =
            Membership::new(vec![BTreeSet::from([1, 2, 3])], nodes).expect("a membership");
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 9)),
            last_membership: StoredMembership::new(Some(log_id(1, 4)), membership),
        };
        let (mut machine, applied) = StateMachine::open(Arc::new(KvMem::new())).unwrap();
        let data = serde_json::to_vec(&ControlState::default()).unwrap();
        RaftStateMachine::<TypeConfig<BootRuntime>>::install_snapshot(&mut machine, &meta, data)
            .await
            .unwrap();
        let state = applied.get().state.clone();
        let voters: Vec<_> = state.nodes.voters().map(|(id, n)| (*id, n.name.as_str())).collect();
        assert_eq!(voters, [(1, "n1"), (2, "n2"), (3, "n3")]);
        assert_eq!((state.nodes.members.len(), state.nodes.next_id), (4, 5));
        // What is kept already stays as it is.
        let mut kept = (*state).clone();
        kept.nodes.members.remove(&4);
        let data = serde_json::to_vec(&kept).unwrap();
        RaftStateMachine::<TypeConfig<BootRuntime>>::install_snapshot(&mut machine, &meta, data)
            .await
            .unwrap();
        assert_eq!(*applied.get().state, kept);
    }
}
