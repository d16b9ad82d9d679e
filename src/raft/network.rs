//! The client side of Raft's RPCs.
//!
//! Owns how openraft's requests become messages to a peer and what each failure means to openraft.
//! Every call ends within the soft limit that openraft gives; nothing here dials.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::Select2;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::errors::{Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fitness;
use super::generation::Standing;
use super::identity::PeerStores;
use super::types::{Peer, Snapshot, SnapshotMeta, TypeConfig, Vote};
use super::wire::{
    self, CHUNK_BYTES, Chunk, ChunkReply, Header, Method, Refusal, SNAPSHOT_BYTES_MAX, StoreId,
    Transport, TransportError,
};
use crate::domain::generation::Generation;
use crate::domain::mutant::{Mutant, without};

/// Who this node is, in every message that it sends.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the control plane.
    pub control_plane: String,
    /// This node.
    pub node_id: u64,
    /// Its store.
    pub store: StoreId,
    /// Its generation.
    pub(super) standing: Standing,
}

impl Identity {
    /// The header of a message to `to`.
    pub fn header(&self, to: u64) -> Header {
        let Self { control_plane, node_id, store, standing } = self.clone();
        Header { control_plane, from: node_id, store, to, generation: standing.own() }
    }
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No reply came.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// One side refused the other.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks peers.
pub struct Caller<T> {
    transport: T,
    identity: Identity,
    peers: Arc<PeerStores>,
    members: BTreeMap<u64, Peer>,
    /// Peers whose refusal was logged: it comes again with every heartbeat.
    warned: Mutex<BTreeSet<u64>>,
    fitness: fitness::Shared,
}

impl<T: Transport> Caller<T> {
    /// A caller for this node. `members` are the configured addresses.
    pub fn new(
        transport: T,
        identity: Identity,
        peers: Arc<PeerStores>,
        members: BTreeMap<u64, Peer>,
    ) -> Self {
        Self {
            transport,
            identity,
            peers,
            members,
            warned: Mutex::default(),
            fitness: fitness::Shared::default(),
        }
    }

    /// While it is quiet, nothing is sent that a follower could take for a heartbeat.
    pub(super) fn fitness(&self) -> fitness::Shared {
        self.fitness.clone()
    }

    /// Asks `target`, and knows after it with which store it answers.
    pub async fn ask<RT: AsyncRuntime, B: Serialize + Sync, R: DeserializeOwned>(
        &self,
        (target, peer): (u64, &Peer),
        method: Method,
        (body, raw): (&B, &[u8]),
        deadline: Duration,
    ) -> Result<(StoreId, R), AskError> {
        let request = wire::encode(&self.identity.header(target), body, raw)?;
        // The transport has the deadline too; this one holds where it does not keep it.
        let call = self.transport.call(peer, method, request, deadline);
        let reply = RT::timeout(deadline, call).await.map_err(|_| TransportError::Timeout)??;
        let result = self.read::<RT, R>(target, method, &reply).await;
        if let Err(refusal) = &result {
            self.warn_once(target, refusal);
        } else {
            self.warned.lock().unwrap_or_else(PoisonError::into_inner).remove(&target);
        }
        Ok(result?)
    }

    async fn read<RT: AsyncRuntime, R: DeserializeOwned>(
        &self,
        target: u64,
        method: Method,
        reply: &[u8],
    ) -> Result<(StoreId, R), Refusal> {
        let message = wire::decode(reply)?;
        let Header { control_plane, from, store, generation, .. } = message.header.clone();
        if control_plane != self.identity.control_plane {
            return Err(Refusal::ControlPlane { theirs: control_plane });
        }
        if from != target {
            return Err(Refusal::WrongNode { node: from });
        }
        let undecided = method == Method::Hello && generation == Generation::NONE;
        let theirs = if undecided { generation } else { generation.or_first() };
        if let Err(refusal) = self.identity.standing.check(theirs)
            && !undecided
        {
            // The refusal of the peer says more.
            message.body::<Result<R, Refusal>>()??;
            return Err(refusal);
        }
        let body = message.body::<Result<R, Refusal>>()??;
        if method != Method::Hello {
            // Its vote or acknowledgement is about to count.
            self.peers.admit::<RT>(from, &store).await?;
        }
        Ok((store, body))
    }

    fn warn_once(&self, target: u64, refusal: &Refusal) {
        if matches!(refusal, Refusal::NotReady(_)) {
            return;
        }
        if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(target) {
            tracing::warn!(peer = target, %refusal, "a controller and this one refuse each other");
        }
    }
}

/// Makes clients for openraft.
pub struct NetworkFactory<T>(pub Arc<Caller<T>>);

impl<RT: AsyncRuntime, T: Transport> RaftNetworkFactory<TypeConfig<RT>> for NetworkFactory<T> {
    type Network = Client<T>;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Client<T> {
        // The configured address wins over the one in the log: a moved controller is reached where
        // it is now.
        let peer = self.0.members.get(&target).unwrap_or(node).clone();
        Client { caller: self.0.clone(), target, peer }
    }
}

/// Talks to one peer.
pub struct Client<T> {
    caller: Arc<Caller<T>>,
    target: u64,
    peer: Peer,
}

impl<T: Transport> Client<T> {
    fn refuse_in_silence<RT: AsyncRuntime>(&self) -> Result<(), RPCError<TypeConfig<RT>>> {
        if self.caller.fitness.get().quiet {
            let why = "this leader is quiet, so that another can be elected";
            return Err(RPCError::Unreachable(Unreachable::from_string(why)));
        }
        Ok(())
    }

    async fn ask<RT: AsyncRuntime, B: Serialize + Sync, R: DeserializeOwned>(
        &self,
        method: Method,
        body: &B,
        option: &RPCOption,
        action: RPCTypes,
    ) -> Result<R, RPCError<TypeConfig<RT>>> {
        let peer = (self.target, &self.peer);
        let answer = self.caller.ask::<RT, _, _>(peer, method, (body, &[]), option.soft_ttl());
        answer.await.map(|(_, reply)| reply).map_err(|e| self.rpc_error(e, option, action))
    }

    fn rpc_error<RT: AsyncRuntime>(
        &self,
        e: AskError,
        option: &RPCOption,
        action: RPCTypes,
    ) -> RPCError<TypeConfig<RT>> {
        match e {
            AskError::Transport(TransportError::Timeout) => RPCError::Timeout(Timeout {
                action,
                id: self.caller.identity.node_id,
                target: self.target,
                timeout: option.soft_ttl(),
            }),
            // openraft waits a little before it tries again.
            AskError::Transport(e) => RPCError::Unreachable(Unreachable::new(&e)),
            AskError::Refused(Refusal::Malformed(m)) => {
                RPCError::Network(NetworkError::from_string(m))
            }
            AskError::Refused(e) => RPCError::Unreachable(Unreachable::new(&e)),
        }
    }

    async fn send_snapshot<RT: AsyncRuntime>(
        &self,
        vote: Vote,
        snapshot: &Snapshot,
        option: &RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        let data = &snapshot.snapshot;
        let total = data.len() as u64;
        let fail = |m: &str| RPCError::Network(NetworkError::from_string(m));
        if total > SNAPSHOT_BYTES_MAX {
            return Err(fail("the snapshot exceeds its bound"));
        }
        let mut chunk: Chunk<(Vote, SnapshotMeta)> = Chunk {
            about: (vote, snapshot.meta.clone()),
            total,
            crc: crc32c::crc32c(data),
            offset: 0,
        };
        // The receiver may ask to begin again once where it has forgotten the beginning.
        for _ in 0..2 * (data.len() / CHUNK_BYTES + 2) {
            let from = usize::try_from(chunk.offset).unwrap_or(usize::MAX).min(data.len());
            let piece = &data[from..data.len().min(from + CHUNK_BYTES)];
            let peer = (self.target, &self.peer);
            let reply: ChunkReply<SnapshotResponse<TypeConfig<RT>>> = self
                .caller
                .ask::<RT, _, _>(peer, Method::Snapshot, (&chunk, piece), option.soft_ttl())
                .await
                .map_err(|e| self.rpc_error(e, option, RPCTypes::InstallSnapshot))?
                .1;
            match reply {
                ChunkReply::Continue(offset) => chunk.offset = offset,
                ChunkReply::Done(response) => return Ok(response),
            }
        }
        Err(fail("the peer does not take the snapshot"))
    }
}

impl<RT: AsyncRuntime, T: Transport> RaftNetworkV2<TypeConfig<RT>> for Client<T> {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        self.refuse_in_silence()?;
        self.ask::<RT, _, _>(Method::Append, &rpc, &option, RPCTypes::AppendEntries).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        self.ask::<RT, _, _>(Method::Vote, &rpc, &option, RPCTypes::Vote).await
    }

    /// The trait's default grants without asking anybody, which would make Pre-Vote a formality.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        if without(Mutant::PreVoteGranted) {
            return Ok(VoteResponse::new(rpc.vote, None, true));
        }
        self.ask::<RT, _, _>(Method::PreVote, &rpc, &option, RPCTypes::Vote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<RT>>, StreamingError<TypeConfig<RT>>> {
        self.refuse_in_silence()?;
        let cancel = pin!(cancel);
        let sending = pin!(self.send_snapshot::<RT>(vote, &snapshot, &option));
        match RT::select2(cancel, sending).await {
            Select2::First(closed) => Err(StreamingError::Closed(closed)),
            Select2::Second(result) => Ok(result?),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig<RT>>, RPCError<TypeConfig<RT>>> {
        self.ask::<RT, _, _>(Method::TransferLeader, &req, &option, RPCTypes::TransferLeader).await
    }
}
