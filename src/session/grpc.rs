//! The session over gRPC.

// The place that talks to the real network.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::wire::{MESSAGE_BYTES_MAX, Method, Promises, Transport, TransportError, decode, encode};
use crate::clock::Clock;
use crate::controller;
use crate::pb::internal::v1 as pb;
use crate::runtime::Runtime;
use crate::transport::{ClientOptions, Identity, IdentityCheck, lazy_channel};
use pb::agent_client::AgentClient;
use pb::agent_server::{Agent, AgentServer};

/// Calls controllers by gRPC. Polls wait long, so they have a connection of their own: they never
/// stand before a renewal.
pub struct GrpcTransport {
    identity: Identity,
    options: ClientOptions,
    channels: Mutex<BTreeMap<(String, Method), Channel>>,
}

impl GrpcTransport {
    /// A transport that shows `identity` to every controller.
    pub fn new(identity: Identity, options: ClientOptions) -> Self {
        Self { identity, options, channels: Mutex::default() }
    }

    fn forget(&self, address: &str, method: Method) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.remove(&(address.to_owned(), lane(method)));
    }

    fn channel(&self, address: &str, method: Method) -> Result<Channel, TransportError> {
        let key = (address.to_owned(), lane(method));
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = lazy_channel(address, &self.options)
            .map_err(|e| TransportError::Unreachable(e.to_string()))?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

/// Renewals have a connection of their own, and so have questions to peers.
fn lane(method: Method) -> Method {
    match method {
        Method::Renew | Method::Promise => method,
        Method::Register | Method::Report | Method::Poll | Method::Catalogue => Method::Report,
    }
}

impl Transport for GrpcTransport {
    async fn call(
        &self,
        address: &str,
        method: Method,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let channel = self.channel(address, method)?;
        let mut client = AgentClient::with_interceptor(channel, self.identity.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let sent = method;
        let method = match method {
            Method::Register => pb::AgentMethod::Register,
            Method::Report => pb::AgentMethod::Report,
            Method::Poll => pb::AgentMethod::Poll,
            Method::Renew => pb::AgentMethod::Renew,
            Method::Catalogue => pb::AgentMethod::Catalogue,
            Method::Promise => pb::AgentMethod::Promise,
        };
        let mut request = Request::new(pb::AgentRequest { method: method.into(), body });
        request.set_timeout(deadline);
        // The header tells the other side; this bound holds where nobody answers at all.
        let answer = match tokio::time::timeout(deadline, client.call(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        if matches!(&answer, Err(status) if status.code() == Code::DeadlineExceeded) {
            // The connection may be waiting for TCP's next retransmission, long after the network
            // is well again: the next attempt dials anew.
            self.forget(address, sent);
        }
        answer.map(|reply| reply.into_inner().body).map_err(|status| match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => TransportError::TimedOut,
            Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
                TransportError::Refused(status.message().to_owned())
            }
            Code::ResourceExhausted | Code::OutOfRange => {
                TransportError::Malformed(status.message().to_owned())
            }
            _ => TransportError::Unreachable(status.message().to_owned()),
        })
    }
}

/// The controller's answers, while it takes part in the Raft group. Clones share the place.
pub struct Answers<RT: Runtime, C>(Arc<Mutex<Option<controller::Service<RT, C>>>>);

impl<RT: Runtime, C> Clone for Answers<RT, C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<RT: Runtime, C> Default for Answers<RT, C> {
    /// Nobody answers yet.
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<RT: Runtime, C> Answers<RT, C> {
    /// From now on this service answers, or none.
    pub fn set(&self, service: Option<controller::Service<RT, C>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = service;
    }

    fn get(&self) -> Option<controller::Service<RT, C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves agents by gRPC: the answers of the node's controller, and those of its own agent.
pub struct GrpcService<RT: Runtime, C> {
    controller: Answers<RT, C>,
    promises: Option<Promises>,
}

/// The service as a server takes it.
pub type GrpcServer<RT, C> = InterceptedService<AgentServer<GrpcService<RT, C>>, IdentityCheck>;

/// The service with its identity check and its bounds, for `Server::add_service`. `promises` are
/// those of the node's agent, where it has one.
pub fn server<RT: Runtime, C: Clock>(
    controller: Answers<RT, C>,
    promises: Option<Promises>,
    identity: &Identity,
) -> GrpcServer<RT, C> {
    let server = AgentServer::new(GrpcService { controller, promises })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    InterceptedService::new(server, identity.check())
}

impl<RT: Runtime, C: Clock> GrpcService<RT, C> {
    /// The agent's own answer: it needs no controller, and waits for nothing.
    fn promise(&self, body: &[u8]) -> Result<Response<pb::AgentReply>, Status> {
        let Some(promises) = &self.promises else {
            return Err(Status::unavailable("this node has no agent"));
        };
        let question = decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let body =
            encode(&promises(&question)).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(pb::AgentReply { body }))
    }
}

#[tonic::async_trait]
impl<RT: Runtime, C: Clock> Agent for GrpcService<RT, C> {
    async fn call(
        &self,
        request: Request<pb::AgentRequest>,
    ) -> Result<Response<pb::AgentReply>, Status> {
        let request = request.into_inner();
        let method = match request.method() {
            pb::AgentMethod::Register => Method::Register,
            pb::AgentMethod::Report => Method::Report,
            pb::AgentMethod::Poll => Method::Poll,
            pb::AgentMethod::Renew => Method::Renew,
            pb::AgentMethod::Catalogue => Method::Catalogue,
            pb::AgentMethod::Promise => return self.promise(&request.body),
            pb::AgentMethod::Unspecified => {
                return Err(Status::invalid_argument("method: not set"));
            }
        };
        let Some(service) = self.controller.get() else {
            return Err(Status::unavailable("this controller takes no part now"));
        };
        match service.handle(method, &request.body).await {
            Ok(body) => Ok(Response::new(pb::AgentReply { body })),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }
}
