//! The transports of Raft and of the session, over the simulated network.
//!
//! Owns how a call becomes bytes: a frame that names the method and the call's deadline before the
//! request, and one byte that tells whether a service answered before the reply. What is between
//! is what production sends. Each of the two has a port of its own, so that faults can hit one of
//! them.
//!
//! As with gRPC, a handler is dropped wherever it is once its caller's deadline has passed on the
//! server's clock; the network drops it once its caller has hung up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::Rt;
use crate::node::front::{Absent, Fronts};
use crate::raft::{self, AsyncRuntime as _, Peer};
use crate::session;
use quorate_world::exec::{self, MachineId, ScopeId};
use quorate_world::net::{self, Failure, Port};

/// The port of Raft.
pub const RAFT: Port = 1;
/// The port of the session.
pub const SESSION: Port = 2;

const ANSWERED: u8 = 1;
const ABSENT: u8 = 0;

/// Where the nodes are: machines by the host in an address.
#[derive(Debug, Clone, Default)]
pub struct Book(Arc<BTreeMap<String, MachineId>>);

impl Book {
    /// The machines of these hosts.
    pub fn new(machines: impl IntoIterator<Item = (String, MachineId)>) -> Self {
        Self(Arc::new(machines.into_iter().collect()))
    }

    /// The machine that an address is on.
    pub fn find(&self, address: &str) -> Option<MachineId> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        self.0.get(host).copied()
    }
}

/// Calls other nodes. It serves as both transports.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    book: Book,
}

enum Failed {
    TimedOut,
    Unreachable(&'static str),
}

impl Wire {
    /// To the machines of this book.
    pub fn new(book: Book) -> Self {
        Self { book }
    }

    async fn call(
        &self,
        (address, port): (&str, Port),
        (method, name): (u8, &'static str),
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Failed> {
        let to = self.book.find(address).ok_or(Failed::Unreachable("no such host"))?;
        crate::trace(|| {
            format!("ask {address} {name} {} {:08x}", request.len(), crc32c::crc32c(&request))
        });
        let frame = Frame { method, deadline };
        let outcome = net::call(to, port, frame.before(&request), deadline).await;
        let outcome = match outcome {
            Ok(mut reply) => match reply.first() {
                Some(&ANSWERED) => Ok(reply.split_off(1)),
                _ => Err(Failed::Unreachable("this controller takes no part now")),
            },
            Err(Failure::TimedOut) => Err(Failed::TimedOut),
            Err(Failure::Refused) => Err(Failed::Unreachable("connection refused or reset")),
        };
        crate::trace(|| match &outcome {
            Ok(reply) => {
                let sum = crc32c::crc32c(reply);
                format!("answer of {address} {name} {} {sum:08x}", reply.len())
            }
            Err(Failed::TimedOut) => format!("no answer of {address} {name}"),
            Err(Failed::Unreachable(why)) => format!("no answer of {address} {name}: {why}"),
        });
        outcome
    }
}

const RAFT_METHODS: [(raft::Method, &str); 6] = [
    (raft::Method::Hello, "hello"),
    (raft::Method::Append, "append"),
    (raft::Method::Vote, "vote"),
    (raft::Method::PreVote, "pre-vote"),
    (raft::Method::Snapshot, "snapshot"),
    (raft::Method::TransferLeader, "transfer-leader"),
];

const SESSION_METHODS: [(session::Method, &str); 6] = [
    (session::Method::Register, "register"),
    (session::Method::Report, "report"),
    (session::Method::Poll, "poll"),
    (session::Method::Renew, "renew"),
    (session::Method::Catalogue, "catalogue"),
    (session::Method::Promise, "promise"),
];

fn number<M: Copy + PartialEq>(methods: &[(M, &'static str)], method: M) -> (u8, &'static str) {
    let at = methods.iter().position(|(m, _)| *m == method).unwrap_or(methods.len());
    (u8::try_from(at).unwrap_or(u8::MAX), methods.get(at).map_or("", |(_, name)| *name))
}

impl raft::Transport for Wire {
    async fn call(
        &self,
        target: &Peer,
        method: raft::Method,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, raft::TransportError> {
        let method = number(&RAFT_METHODS, method);
        let outcome = self.call((&target.address, RAFT), method, payload, deadline).await;
        outcome.map_err(|e| match e {
            Failed::TimedOut => raft::TransportError::Timeout,
            Failed::Unreachable(why) => raft::TransportError::Unreachable(why.to_owned()),
        })
    }
}

impl session::Transport for Wire {
    async fn call(
        &self,
        address: &str,
        method: session::Method,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, session::TransportError> {
        let method = number(&SESSION_METHODS, method);
        let outcome = self.call((address, SESSION), method, body, deadline).await;
        outcome.map_err(|e| match e {
            Failed::TimedOut => session::TransportError::TimedOut,
            Failed::Unreachable(why) => session::TransportError::Unreachable(why.to_owned()),
        })
    }
}

/// What stands before a request.
struct Frame {
    method: u8,
    deadline: Duration,
}

const FRAME_BYTES: usize = 9;

impl Frame {
    fn before(&self, request: &[u8]) -> Vec<u8> {
        let micros = u64::try_from(self.deadline.as_micros()).unwrap_or(u64::MAX);
        let mut bytes = Vec::with_capacity(request.len() + FRAME_BYTES);
        bytes.push(self.method);
        bytes.extend_from_slice(&micros.to_le_bytes());
        bytes.extend_from_slice(request);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (method, rest) = bytes.split_first()?;
        let (micros, request) = rest.split_first_chunk()?;
        let deadline = Duration::from_micros(u64::from_le_bytes(*micros));
        Some((Self { method: *method, deadline }, request))
    }
}

/// Serves a call until it is done, or its deadline has passed here.
async fn within(
    deadline: Duration,
    answer: impl Future<Output = Result<Vec<u8>, Absent>> + Send,
) -> Option<Vec<u8>> {
    framed(Rt::timeout(deadline, answer).await.ok()?)
}

fn framed(answer: Result<Vec<u8>, Absent>) -> Option<Vec<u8>> {
    Some(match answer {
        Ok(body) => {
            let mut reply = Vec::with_capacity(body.len() + 1);
            reply.push(ANSWERED);
            reply.extend_from_slice(&body);
            reply
        }
        Err(_) => vec![ABSENT],
    })
}

/// Answers at both ports of the scope's machine, with tasks of the scope, as long as that lives.
pub fn serve(scope: ScopeId, fronts: &Fronts) {
    debug_assert!(exec::is_alive(scope));
    let peers = fronts.clone();
    net::serve(
        scope,
        RAFT,
        Arc::new(move |_, request: Vec<u8>| {
            let fronts = peers.clone();
            Box::pin(async move {
                let (frame, body) = Frame::read(&request)?;
                let (method, _) = *RAFT_METHODS.get(usize::from(frame.method))?;
                within(frame.deadline, fronts.peer(method, body)).await
            })
        }),
    );
    let agents = fronts.clone();
    net::serve(
        scope,
        SESSION,
        Arc::new(move |_, request: Vec<u8>| {
            let fronts = agents.clone();
            Box::pin(async move {
                let (frame, body) = Frame::read(&request)?;
                let (method, _) = *SESSION_METHODS.get(usize::from(frame.method))?;
                within(frame.deadline, fronts.agent(method, body)).await
            })
        }),
    );
}
