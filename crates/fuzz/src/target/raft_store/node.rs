//! A node that works as Raft has it, and remembers what it has written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Membership};

use super::{CONTROL_PLANE, Rt, Started, Types};
use crate::domain::apply::Position;
use crate::domain::{ControlState, apply, nodes};
use crate::generate;
use crate::input::Input;
use crate::raft::identity::{PeerStores, load_or_create};
use crate::raft::kv_mem::KvMem;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{
    Entry, LeaderId, LogId, Peer, Proposal, SnapshotMeta, StoredMembership, Vote, log_id,
};
use crate::raft::wire::StoreId;
use crate::states;

pub struct Node {
    pub engine: KvMem,
    pub vote: Option<Vote>,
    store: StoreId,
    log: LogStore<Rt>,
    machine: StateMachine,
    peers: PeerStores,
    term: u64,
    /// What the log holds, and what it ever held.
    entries: BTreeMap<u64, Entry>,
    ever: BTreeMap<u64, Vec<Entry>>,
    last: Option<LogId>,
    committed: Option<LogId>,
    /// The state after each entry that was committed.
    states: BTreeMap<Option<u64>, ControlState>,
    /// Up to where the state is in a snapshot.
    snapshot: Option<u64>,
}

fn index(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

fn membership() -> Membership<u64, Peer> {
    let peers =
        (1..=3).map(|id| (id, Peer { name: format!("n{id}"), address: format!("n{id}:7400") }));
    Membership::new(vec![BTreeSet::from([1, 2, 3])], peers.collect::<BTreeMap<_, _>>())
        .expect("a valid membership")
}

impl Node {
    pub async fn new() -> Self {
        let engine = KvMem::new();
        let shared = || Arc::new(engine.clone());
        let store = load_or_create::<Rt>(&engine, 1, CONTROL_PLANE).await.expect("a new store");
        Self {
            vote: None,
            store,
            log: LogStore::open(shared()).expect("a new log"),
            machine: StateMachine::open(shared()).expect("a new state").0,
            peers: PeerStores::open(shared()).expect("no peers yet"),
            term: 0,
            entries: BTreeMap::new(),
            ever: BTreeMap::new(),
            last: None,
            committed: None,
            states: [(None, ControlState::default())].into(),
            snapshot: None,
            engine,
        }
    }

    pub async fn does(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0 => self.votes(input).await,
            1..=4 => self.appends(input).await,
            5..=7 => self.commits(input).await,
            8 => self.truncates(input).await,
            9 => self.snapshots(input).await,
            10 => self.installs(input).await,
            _ => {
                let peer = 2 + input.below(3) as u64;
                let store = StoreId::from_bytes([peer as u8; 16]);
                self.peers.admit::<Rt>(peer, &store).await.expect("one store a peer");
            }
        }
    }

    async fn votes(&mut self, input: &mut Input<'_>) {
        self.term += 1;
        let leader_id = LeaderId { term: self.term, voted_for: 1 + input.below(3) as u64 };
        let vote = Vote { leader_id, committed: input.flag() };
        self.log.save_vote(&vote).await.expect("saved");
        self.vote = Some(vote);
    }

    /// Entries of the term's leader; the first of all is the membership, of nobody's term.
    async fn appends(&mut self, input: &mut Input<'_>) {
        let mut new = Vec::new();
        let state = self.states.values().next_back().cloned().unwrap_or_default();
        for _ in 0..1 + input.below(4) {
            let next = index(self.last).map_or(0, |last| last + 1);
            let payload = match next {
                0 => EntryPayload::Membership(membership()),
                _ if input.below(4) == 1 => EntryPayload::Blank,
                _ => {
                    let command = generate::command(input, &state, states::REACHED, self.term);
                    EntryPayload::Normal(Proposal::Cluster(command))
                }
            };
            // No leader has ever been: only the first entry can be there.
            if next > 0 && self.term == 0 {
                break;
            }
            let log_id = log_id(if next == 0 { 0 } else { self.term }, next);
            let entry = Entry { log_id, payload };
            self.last = Some(log_id);
            self.entries.insert(next, entry.clone());
            self.ever.entry(next).or_default().push(entry.clone());
            new.push(entry);
        }
        self.log.append(new, IOFlushed::noop()).await.expect("appended");
    }

    async fn commits(&mut self, input: &mut Input<'_>) {
        let from = index(self.committed).map_or(0, |i| i + 1);
        let upto = self.entries.range(from..).nth(input.below(6)).map(|(_, e)| e.log_id);
        let Some(upto) = upto else { return };
        self.log.save_committed(Some(upto)).await.expect("queued");
        let entries: Vec<Entry> =
            self.entries.range(from..=upto.index).map(|(_, e)| e.clone()).collect();
        for entry in &entries {
            let mut state = self.states[&index(self.committed)].clone();
            let position =
                Position { term: entry.log_id.leader_id.term, index: entry.log_id.index };
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(Proposal::Cluster(command)) => {
                    apply(&mut state, position, command);
                }
                EntryPayload::Normal(Proposal::Nodes(command)) => {
                    nodes::apply(&mut state.nodes, command);
                }
                EntryPayload::Membership(members) => {
                    let named = members.nodes();
                    let named = named.map(|(id, p)| (*id, (p.name.clone(), p.address.clone())));
                    state.nodes.note_membership(members.get_joint_config(), &named.collect());
                }
            }
            self.committed = Some(entry.log_id);
            self.states.insert(Some(entry.log_id.index), state);
        }
        let items = entries.into_iter().map(|entry| Ok((entry, None)));
        let items = stream::iter(items);
        RaftStateMachine::<Types>::apply(&mut self.machine, items).await.expect("applied");
    }

    /// A new leader has another opinion of what is not committed.
    async fn truncates(&mut self, input: &mut Input<'_>) {
        let from = index(self.committed).map_or(0, |i| i + 1);
        let keep = self.entries.range(from..).nth(input.below(4)).map(|(i, _)| *i);
        let Some(keep) = keep else { return };
        let Some(kept) = self.entries.get(&keep).map(|e| e.log_id) else { return };
        self.votes(input).await;
        self.log.truncate_after(Some(kept)).await.expect("queued");
        self.entries.split_off(&(keep + 1));
        self.last = Some(kept);
    }

    async fn snapshots(&mut self, input: &mut Input<'_>) {
        let Some(committed) = self.committed else { return };
        let mut builder = RaftStateMachine::<Types>::get_snapshot_builder(&mut self.machine).await;
        builder.build_snapshot().await.expect("built");
        self.snapshot = self.snapshot.max(Some(committed.index));
        // The log before it may go, now or later.
        if input.flag() {
            self.purges(committed).await;
        }
    }

    async fn purges(&mut self, upto: LogId) {
        self.log.purge(upto).await.expect("queued");
        self.entries = self.entries.split_off(&(upto.index + 1));
        if index(self.last) <= Some(upto.index) {
            self.last = Some(upto);
        }
    }

    /// The leader is so far ahead that it sends a snapshot.
    async fn installs(&mut self, input: &mut Input<'_>) {
        self.votes(input).await;
        let ahead = index(self.last).unwrap_or(0) + 1 + input.below(5) as u64;
        let upto = log_id(self.term, ahead);
        let mut state = self.states.values().next_back().cloned().unwrap_or_default();
        let command = generate::command(input, &state, states::REACHED, self.term);
        apply(&mut state, Position { term: self.term, index: ahead }, &command);
        if state.nodes.members.is_empty() {
            // What is installed is never without the nodes of its membership.
            let members = membership();
            let named = members.nodes().map(|(id, p)| (*id, (p.name.clone(), p.address.clone())));
            state.nodes.note_membership(members.get_joint_config(), &named.collect());
        }
        let meta = SnapshotMeta {
            last_log_id: Some(upto),
            last_membership: StoredMembership::new(Some(log_id(0, 0)), membership()),
        };
        let data = serde_json::to_vec(&state).expect("written");
        RaftStateMachine::<Types>::install_snapshot(&mut self.machine, &meta, data)
            .await
            .expect("installed");
        self.states.insert(Some(ahead), state);
        self.committed = Some(upto);
        self.snapshot = Some(ahead);
        self.purges(upto).await;
    }

    /// After a crash alone: all that was on disk, and with `all` everything that was written.
    pub fn judges(&self, started: &Started, all: bool) {
        assert_eq!(started.store, self.store, "another identity");
        assert_eq!(started.vote, self.vote, "another vote");
        self.invents_nothing(started);
        // Every append is on disk before anybody hears of it.
        for (index, entry) in &self.entries {
            assert_eq!(started.entries.get(index), Some(entry), "an entry is gone");
        }
        assert!(started.applied >= self.snapshot, "a snapshot is gone");
        assert_eq!(*started.state, self.states[&started.applied], "another state");
        if all {
            assert_eq!(started.applied, index(self.committed), "the committed position is gone");
            assert_eq!(started.entries, self.entries, "another log");
        }
    }

    pub fn invents_nothing(&self, started: &Started) {
        for (index, entry) in &started.entries {
            let known = self.ever.get(index).is_some_and(|ever| ever.contains(entry));
            assert!(known, "nobody ever wrote {entry:?}");
        }
        if let Some(state) = self.states.get(&started.applied) {
            assert!(*started.state == *state, "another state at {:?}", started.applied);
        }
    }

    pub fn kept_what_was_committed(&self, started: &Started) {
        self.invents_nothing(started);
        assert_eq!(*started.state, self.states[&started.applied], "another state");
        let Some(committed) = self.committed else { return };
        let missing = (0..=committed.index)
            .find(|index| Some(*index) > started.applied && !started.entries.contains_key(index));
        assert_eq!(missing, None, "a committed entry is gone, and the node starts without it");
    }
}
