//! gRPC: the transport of production.
//!
//! Owns the adapter between `Transport` and the service `quorate.internal.v1.Raft`, on both sides.
//! It knows nothing of the messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::AsyncRuntime;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::service::Service;
use super::types::Peer;
use super::wire::{MESSAGE_BYTES_MAX, Method, Transport, TransportError};
use crate::pb::internal::v1 as pb;
use crate::transport::{ClientOptions, Identity, IdentityCheck, lazy_channel};

/// Calls peers by gRPC, over one cached connection each, and a second one for snapshots, which
/// would hold heartbeats up.
pub struct GrpcTransport {
    identity: Identity,
    options: ClientOptions,
    channels: Mutex<BTreeMap<(String, bool), Channel>>,
}

impl GrpcTransport {
    /// A transport that shows `identity` to every peer.
    pub fn new(identity: Identity, options: ClientOptions) -> Self {
        Self { identity, options, channels: Mutex::default() }
    }

    fn channel(&self, peer: &Peer, method: Method) -> Result<Channel, TransportError> {
        let key = (peer.address.clone(), method == Method::Snapshot);
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = lazy_channel(&peer.address, &self.options)
            .map_err(|e| TransportError::Unreachable(e.to_string()))?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

impl Transport for GrpcTransport {
    async fn call(
        &self,
        target: &Peer,
        method: Method,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let channel = self.channel(target, method)?;
        let mut client =
            pb::raft_client::RaftClient::with_interceptor(channel, self.identity.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(pb::Payload { data: payload });
        request.set_timeout(deadline);
        let reply = match method {
            Method::Hello => client.hello(request).await,
            Method::Append => client.append(request).await,
            Method::Vote => client.vote(request).await,
            Method::PreVote => client.pre_vote(request).await,
            Method::Snapshot => client.snapshot(request).await,
            Method::TransferLeader => client.transfer_leader(request).await,
        };
        reply.map(|r| r.into_inner().data).map_err(|status| match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => TransportError::Timeout,
            Code::Unavailable | Code::Unknown => {
                TransportError::Unreachable(status.message().to_owned())
            }
            code => TransportError::Refused(format!("{code:?}: {}", status.message())),
        })
    }
}

/// The place of a service behind a server that is served longer: a store that failed is opened
/// anew, and its service with it. Clones share it.
pub struct Front<RT: AsyncRuntime>(Arc<Mutex<Option<Service<RT>>>>);

impl<RT: AsyncRuntime> Clone for Front<RT> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<RT: AsyncRuntime> Default for Front<RT> {
    /// Nobody answers yet.
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<RT: AsyncRuntime> From<Service<RT>> for Front<RT> {
    fn from(service: Service<RT>) -> Self {
        Self(Arc::new(Mutex::new(Some(service))))
    }
}

impl<RT: AsyncRuntime> Front<RT> {
    /// From now on this service answers, or none.
    pub fn set(&self, service: Option<Service<RT>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = service;
    }

    fn get(&self) -> Option<Service<RT>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves peers by gRPC.
pub struct GrpcService<RT: AsyncRuntime>(Front<RT>);

/// The service as a server takes it.
pub type GrpcServer<RT> =
    InterceptedService<pb::raft_server::RaftServer<GrpcService<RT>>, IdentityCheck>;

/// The service with its identity check and its bounds, for `Server::add_service`.
pub fn server<RT: AsyncRuntime>(
    service: impl Into<Front<RT>>,
    identity: &Identity,
) -> GrpcServer<RT> {
    let server = pb::raft_server::RaftServer::new(GrpcService(service.into()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    InterceptedService::new(server, identity.check())
}

type Answer = Result<Response<pb::Payload>, Status>;

impl<RT: AsyncRuntime> GrpcService<RT> {
    async fn answer(&self, method: Method, request: Request<pb::Payload>) -> Answer {
        let Some(service) = self.0.get() else {
            return Err(Status::unavailable("this controller takes no part now"));
        };
        let data = service.handle(method, &request.into_inner().data).await;
        Ok(Response::new(pb::Payload { data }))
    }
}

#[tonic::async_trait]
impl<RT: AsyncRuntime> pb::raft_server::Raft for GrpcService<RT> {
    async fn hello(&self, request: Request<pb::Payload>) -> Answer {
        self.answer(Method::Hello, request).await
    }
    async fn append(&self, request: Request<pb::Payload>) -> Answer {
        self.answer(Method::Append, request).await
    }
    async fn vote(&self, request: Request<pb::Payload>) -> Answer {
        self.answer(Method::Vote, request).await
    }
    async fn pre_vote(&self, request: Request<pb::Payload>) -> Answer {
        self.answer(Method::PreVote, request).await
    }
    async fn snapshot(&self, request: Request<pb::Payload>) -> Answer {
        self.answer(Method::Snapshot, request).await
    }
    async fn transfer_leader(&self, request: Request<pb::Payload>) -> Answer {
        self.answer(Method::TransferLeader, request).await
    }
}
