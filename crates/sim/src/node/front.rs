//! What of a daemon the outside reaches: its services, while they take part.
//!
//! Owns the places of the services behind the server of a node. As in production they are filled
//! once the store is open, and emptied when it has failed; the server answers all the while.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::controller::{self, Memory};
use crate::raft::{self, Handle};
use crate::session;
use crate::{Rt, SimClock};

/// The part that a controller takes in the group, from a start of its store on.
#[derive(Clone)]
pub struct Part {
    /// Raft.
    pub raft: Handle<Rt>,
    /// What it remembers while it leads.
    pub memory: Arc<Memory>,
}

#[derive(Default)]
struct Inner {
    peers: Option<raft::Service<Rt>>,
    agents: Option<controller::Service<Rt, SimClock>>,
    part: Option<Part>,
}

/// The services of one daemon. Clones share them.
#[derive(Clone, Default)]
pub struct Fronts {
    controller: Arc<Mutex<Inner>>,
    // The agent's own answers need no controller, and outlive its failures.
    promises: Arc<Mutex<Option<session::Promises>>>,
}

/// No service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent;

impl Fronts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on peers are answered: a controller greets before it takes part.
    pub fn greet(&self, peers: raft::Service<Rt>) {
        self.lock().peers = Some(peers);
    }

    /// From now on agents are answered too.
    pub fn take_part(&self, part: Part, agents: controller::Service<Rt, SimClock>) {
        let mut inner = self.lock();
        inner.part = Some(part);
        inner.agents = Some(agents);
    }

    /// From now on the node's agent answers others.
    pub fn promise(&self, promises: session::Promises) {
        *self.promises.lock().unwrap_or_else(PoisonError::into_inner) = Some(promises);
    }

    /// No controller answers any more.
    pub fn clear(&self) {
        *self.lock() = Inner::default();
    }

    /// The part that is taken now.
    pub fn part(&self) -> Option<Part> {
        self.lock().part.clone()
    }

    /// Answers a peer.
    ///
    /// # Errors
    /// The controller takes no part now.
    pub async fn peer(&self, method: raft::Method, body: &[u8]) -> Result<Vec<u8>, Absent> {
        let service = self.lock().peers.clone().ok_or(Absent)?;
        Ok(service.handle(method, body).await)
    }

    /// Answers an agent.
    ///
    /// # Errors
    /// The controller takes no part now, or its answer could not be written.
    pub async fn agent(&self, method: session::Method, body: &[u8]) -> Result<Vec<u8>, Absent> {
        if method == session::Method::Promise {
            let promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let question = session::wire::decode(body).map_err(|_| Absent)?;
            let reply = promises.ok_or(Absent)?(&question);
            return session::wire::encode(&reply).map_err(|_| Absent);
        }
        let service = self.lock().agents.clone().ok_or(Absent)?;
        service.handle(method, body).await.map_err(|_| Absent)
    }
}
