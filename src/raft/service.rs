//! The server side of Raft's RPCs.
//!
//! Owns who is heard and who is refused, and the pieces of snapshots on their way in. It is made
//! before the Raft core runs, because controllers that form a group greet each other first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, SnapshotResponse, TransferLeaderRequest, VoteRequest};
use openraft::{AsyncRuntime, Instant, Raft};
use serde::Serialize;

use super::identity::PeerStores;
use super::log_store::LogStore;
use super::network::Identity;
use super::state_machine::{Applied, StateMachine};
use super::types::{Peer, Snapshot, SnapshotMeta, TypeConfig, Vote};
use super::wire::{
    self, Chunk, ChunkReply, Hello, HelloReply, Message, Method, Refusal, SNAPSHOT_BYTES_MAX,
};
use crate::domain::generation::Generation;
use crate::domain::nodes::{Node, Nodes};
use crate::watch;

/// The Raft node of this crate.
pub(super) type Core<RT> = Raft<TypeConfig<RT>, StateMachine>;
type Reply = Result<Vec<u8>, Refusal>;
type SnapshotReply<RT> = ChunkReply<SnapshotResponse<TypeConfig<RT>>>;

/// Nothing is served longer than this; the caller has given up long before.
const SERVE_MAX: Duration = Duration::from_secs(30);

struct Incoming {
    about: Chunk<(Vote, SnapshotMeta)>,
    data: Vec<u8>,
}

struct Inner<RT: AsyncRuntime> {
    identity: Identity,
    members_digest: u32,
    peers: Arc<PeerStores>,
    log: LogStore<RT>,
    core: OnceLock<Core<RT>>,
    /// The state that is applied here, once the core runs.
    applied: OnceLock<watch::Receiver<Arc<Applied>>>,
    /// When a leader was heard of last.
    heard: Mutex<Option<RT::Instant>>,
    /// One snapshot on its way in for each peer.
    incoming: Mutex<BTreeMap<u64, Incoming>>,
}

/// Answers the requests of peers. Clones are handles of one service.
pub struct Service<RT: AsyncRuntime>(Arc<Inner<RT>>);

impl<RT: AsyncRuntime> Clone for Service<RT> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<RT: AsyncRuntime> Service<RT> {
    pub(super) fn new(
        identity: Identity,
        members_digest: u32,
        peers: Arc<PeerStores>,
        log: LogStore<RT>,
    ) -> Self {
        let (core, applied) = (OnceLock::new(), OnceLock::new());
        let (heard, incoming) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner {
            identity,
            members_digest,
            peers,
            log,
            core,
            applied,
            heard,
            incoming,
        }))
    }

    /// Whether a leader was heard of within this time.
    pub(super) fn heard_within(&self, time: Duration) -> bool {
        let heard = *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| RT::Instant::now().saturating_duration_since(at) <= time)
    }

    fn hear(&self) {
        let now = RT::Instant::now();
        *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether the group has agreed, here as well, that this node is out.
    fn is_gone(&self, node: u64) -> bool {
        let applied = self.0.applied.get();
        applied.is_some_and(|applied| applied.get().state.nodes.is_gone(node))
    }

    /// Who the members are and who was removed, by what is applied here.
    fn nodes(&self) -> Nodes {
        self.0.applied.get().map(|applied| applied.get().state.nodes.clone()).unwrap_or_default()
    }

    /// From now on Raft's requests are served too.
    pub(super) fn serve_core(&self, core: Core<RT>, applied: watch::Receiver<Arc<Applied>>) {
        // Set once by the one start of this node.
        let _ = self.0.applied.set(applied);
        let _ = self.0.core.set(core);
    }

    /// The control plane that this node belongs to.
    pub fn control_plane(&self) -> &str {
        &self.0.identity.control_plane
    }

    /// Answers one request. The answer is always a message; a refusal is inside it.
    pub async fn handle(&self, method: Method, request: &[u8]) -> Vec<u8> {
        let (caller, reply) = match wire::decode(request) {
            Ok(message) => {
                let serving = RT::timeout(SERVE_MAX, self.dispatch(method, &message));
                let reply = serving.await.unwrap_or_else(|_| {
                    Err(Refusal::NotReady("it took too long to answer".to_owned()))
                });
                (message.header.from, reply)
            }
            Err(refusal) => (0, Err(refusal)),
        };
        reply.or_else(|refusal| self.encode::<()>(caller, &Err(refusal))).unwrap_or_default()
    }

    fn encode<B: Serialize>(&self, to: u64, body: &Result<B, Refusal>) -> Reply {
        wire::encode(&self.0.identity.header(to), body, &[])
    }

    async fn dispatch(&self, method: Method, message: &Message<'_>) -> Reply {
        let header = &message.header;
        let own = &self.0.identity;
        if header.control_plane != own.control_plane {
            return Err(Refusal::ControlPlane { theirs: own.control_plane.clone() });
        }
        if header.to != own.node_id {
            return Err(Refusal::WrongNode { node: own.node_id });
        }
        // Who greets may have joined no group yet; whoever else says none is of the first.
        if method != Method::Hello || header.generation != Generation::NONE {
            own.standing.check(header.generation.or_first())?;
        }
        if method == Method::Hello {
            let _: Hello = message.body()?;
            let nodes = self.nodes();
            let peer = |(id, n): (&u64, &Node)| {
                (*id, Peer { name: n.name.clone(), address: n.address.clone() })
            };
            let reply = HelloReply {
                established: self.0.log.is_established(),
                known: self.0.peers.get(header.from),
                members: self.0.members_digest,
                generation: own.standing.own(),
                group: nodes.members.iter().map(peer).collect(),
                gone: nodes.removed.keys().copied().filter(|id| nodes.is_gone(*id)).collect(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            return self.encode(header.from, &Ok(reply));
        }
        let core = self
            .0
            .core
            .get()
            .ok_or_else(|| Refusal::NotReady("it has not joined the group yet".to_owned()))?;
        if self.is_gone(header.from) {
            return Err(Refusal::Removed { node: header.from });
        }
        self.0.peers.admit::<RT>(header.from, &header.store).await?;
        if matches!(method, Method::Append | Method::Snapshot) {
            self.hear();
        }
        let to = header.from;
        match method {
            Method::Hello => Err(Refusal::Malformed("hello".to_owned())),
            Method::Append => {
                let request: AppendEntriesRequest<TypeConfig<RT>> = message.body()?;
                self.encode(to, &Ok(core.append_entries(request).await.map_err(|e| raft(&e))?))
            }
            Method::Vote => {
                let request: VoteRequest<TypeConfig<RT>> = message.body()?;
                self.encode(to, &Ok(core.vote(request).await.map_err(|e| raft(&e))?))
            }
            Method::PreVote => {
                let request: VoteRequest<TypeConfig<RT>> = message.body()?;
                self.encode(to, &Ok(core.pre_vote(request).await.map_err(|e| raft(&e))?))
            }
            Method::TransferLeader => {
                let request: TransferLeaderRequest<TypeConfig<RT>> = message.body()?;
                let reply = core.handle_transfer_leader(request).await.map_err(|e| fatal(&e))?;
                self.encode(to, &Ok(reply))
            }
            Method::Snapshot => {
                let chunk: Chunk<(Vote, SnapshotMeta)> = message.body()?;
                self.encode(to, &Ok(self.take_chunk(core, to, chunk, message.raw).await?))
            }
        }
    }

    async fn take_chunk(
        &self,
        core: &Core<RT>,
        from: u64,
        chunk: Chunk<(Vote, SnapshotMeta)>,
        piece: &[u8],
    ) -> Result<SnapshotReply<RT>, Refusal> {
        if chunk.total > SNAPSHOT_BYTES_MAX {
            return Err(Refusal::Malformed("the snapshot exceeds its bound".to_owned()));
        }
        let (vote, meta) = chunk.about.clone();
        let data = {
            let mut incoming = self.0.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            if chunk.offset == 0 {
                incoming.insert(from, Incoming { about: chunk.clone(), data: Vec::new() });
            }
            let Some(whole) = incoming.get_mut(&from).filter(|i| {
                i.about.about == chunk.about
                    && (i.about.total, i.about.crc) == (chunk.total, chunk.crc)
                    && i.data.len() as u64 == chunk.offset
            }) else {
                incoming.remove(&from);
                return Ok(ChunkReply::Continue(0));
            };
            whole.data.extend_from_slice(piece);
            let have = whole.data.len() as u64;
            if have < chunk.total && !piece.is_empty() {
                return Ok(ChunkReply::Continue(have));
            }
            incoming.remove(&from).map(|i| i.data).unwrap_or_default()
        };
        if data.len() as u64 != chunk.total || crc32c::crc32c(&data) != chunk.crc {
            return Err(Refusal::Malformed("the snapshot arrived damaged".to_owned()));
        }
        let snapshot = Snapshot { meta, snapshot: data };
        core.install_full_snapshot(vote, snapshot)
            .await
            .map(ChunkReply::Done)
            .map_err(|e| fatal(&e))
    }
}

fn raft<RT: AsyncRuntime>(e: &RaftError<TypeConfig<RT>>) -> Refusal {
    Refusal::NotReady(e.to_string())
}

fn fatal<RT: AsyncRuntime>(e: &Fatal<TypeConfig<RT>>) -> Refusal {
    Refusal::NotReady(e.to_string())
}
