//! The agents' client: finds the leader, and follows it when it changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{
    CatalogueReply, CatalogueRequest, Controller, Method, PollReply, PollRequest, PromiseReply,
    RegisterReply, RegisterRequest, RenewReply, RenewRequest, ReportReply, ReportRequest,
    SessionError, Transport, TransportError, decode, encode,
};
use crate::domain::failsafe::Question;
use crate::domain::generation::Generation;
use crate::domain::mutant::{Mutant, without};
use crate::watch;

/// Why a call had no success.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// No answer.
    #[error("controller {address}: {error}")]
    Transport {
        /// Who was asked.
        address: String,
        /// Why none came.
        error: TransportError,
    },
    /// An answer that is none.
    #[error("controller {address}: {error}")]
    Session {
        /// Who was asked.
        address: String,
        /// What it said.
        error: SessionError,
    },
}

/// Clones share what they learn of the leader.
pub struct Client<T> {
    transport: Arc<T>,
    controllers: Arc<Mutex<Addresses>>,
    told: Arc<watch::Sender<Vec<Controller>>>,
    // Who is asked next: an index into `controllers`, or an address that a controller named.
    next: Arc<Mutex<Next>>,
}

#[derive(Debug)]
struct Addresses {
    // Those that it was given, which it never forgets: the log may know addresses of before.
    given: Vec<String>,
    // All, in the order in which they are asked.
    all: Vec<String>,
    // Of which state the leader told last.
    told_at: (Generation, u64),
}

#[derive(Debug, Clone)]
struct Next {
    address: String,
    turn: usize,
}

impl<T> Clone for Client<T> {
    fn clone(&self) -> Self {
        Self {
            transport: self.transport.clone(),
            controllers: self.controllers.clone(),
            told: self.told.clone(),
            next: self.next.clone(),
        }
    }
}

impl<T: Transport> Client<T> {
    /// A client of the controllers at these addresses, of which there is at least one.
    pub fn new(transport: Arc<T>, controllers: Vec<String>) -> Self {
        let address = controllers.first().cloned().unwrap_or_default();
        Self {
            transport,
            controllers: Arc::new(Mutex::new(Addresses {
                given: controllers.clone(),
                all: controllers,
                told_at: (Generation(0), 0),
            })),
            told: Arc::default(),
            next: Arc::new(Mutex::new(Next { address, turn: 0 })),
        }
    }

    /// How many controllers there are: how many attempts meet each of them once.
    pub fn controllers(&self) -> usize {
        self.addresses().all.len()
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a leader says of the controllers, as of this generation and index; what is
    /// older than what was taken in before is left. Those that it was given and that are no
    /// controllers any more by that are asked last: what the log knows may be older than the files
    /// of the controllers. Nobody is asked otherwise than before where the leader says nothing.
    pub fn learn(&self, told: Vec<Controller>, at: (Generation, u64)) {
        if told.is_empty() {
            return;
        }
        {
            let known = &mut *self.addresses();
            if at < known.told_at {
                return;
            }
            known.told_at = at;
            if *self.told.borrow() == told {
                return;
            }
            known.all.retain(|address| told.iter().any(|c| c.address == *address));
            let told = told.iter().map(|c| &c.address);
            for address in told.chain(&known.given) {
                if !known.all.contains(address) {
                    known.all.push(address.clone());
                }
            }
        }
        self.told.send_replace(told);
    }

    /// Follows what the leader says of the controllers; empty before it has said something.
    pub fn told(&self) -> watch::Receiver<Vec<Controller>> {
        self.told.subscribe()
    }

    fn target(&self) -> String {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).address.clone()
    }

    /// Asks another controller next, unless somebody else has moved on from `failed` already.
    fn turn_from(&self, failed: &str, hint: Option<&str>) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.address != failed || without(Mutant::AsksOneController) {
            return;
        }
        match hint {
            Some(leader) if leader != failed => next.address = leader.to_owned(),
            _ => {
                let known = self.addresses();
                next.turn = (next.turn + 1) % known.all.len().max(1);
                if let Some(address) = known.all.get(next.turn) {
                    next.address.clone_from(address);
                }
            }
        }
    }

    /// One attempt. A failure turns the client to the next controller, so that a caller who tries
    /// again meets another one.
    async fn attempt<Q: Serialize, R: DeserializeOwned>(
        &self,
        method: Method,
        request: &Q,
        deadline: Duration,
    ) -> Result<R, Failure> {
        let address = self.target();
        let outcome = match encode(request) {
            Ok(body) => self.transport.call(&address, method, body, deadline).await,
            Err(error) => Err(error),
        };
        let reply: Result<Result<R, SessionError>, TransportError> =
            outcome.and_then(|bytes| decode(&bytes));
        match reply {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => {
                match &error {
                    SessionError::NotLeader { leader } => {
                        self.turn_from(&address, leader.as_deref());
                    }
                    SessionError::Unavailable { .. } | SessionError::Generation { .. } => {
                        self.turn_from(&address, None);
                    }
                    SessionError::Rejected(_) | SessionError::Malformed { .. } => {}
                }
                Err(Failure::Session { address, error })
            }
            Err(error) => {
                self.turn_from(&address, None);
                Err(Failure::Transport { address, error })
            }
        }
    }

    /// Registers a member.
    pub async fn register(
        &self,
        request: &RegisterRequest,
        deadline: Duration,
    ) -> Result<RegisterReply, Failure> {
        self.attempt(Method::Register, request, deadline).await
    }

    /// Reports what a member is.
    pub async fn report(
        &self,
        request: &ReportRequest,
        deadline: Duration,
    ) -> Result<ReportReply, Failure> {
        self.attempt(Method::Report, request, deadline).await
    }

    /// Asks for the agreed state.
    pub async fn poll(
        &self,
        request: &PollRequest,
        deadline: Duration,
    ) -> Result<PollReply, Failure> {
        self.attempt(Method::Poll, request, deadline).await
    }

    /// Tells what PostgreSQL knows of its settings.
    pub async fn catalogue(
        &self,
        request: &CatalogueRequest,
        deadline: Duration,
    ) -> Result<CatalogueReply, Failure> {
        self.attempt(Method::Catalogue, request, deadline).await
    }

    /// Asks another agent, not a controller, to take no part in a grant. Whatever comes of it, the
    /// client's way to the controllers stays as it is.
    pub async fn ask(
        &self,
        address: &str,
        question: &Question,
        deadline: Duration,
    ) -> Result<PromiseReply, TransportError> {
        let body = encode(question)?;
        decode(&self.transport.call(address, Method::Promise, body, deadline).await?)
    }

    /// Renews leases.
    pub async fn renew(
        &self,
        request: &RenewRequest,
        deadline: Duration,
    ) -> Result<RenewReply, Failure> {
        self.attempt(Method::Renew, request, deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Transport for Nobody {
        async fn call(
            &self,
            _: &str,
            _: Method,
            _: Vec<u8>,
            _: Duration,
        ) -> Result<Vec<u8>, TransportError> {
            Err(TransportError::TimedOut)
        }
    }

    fn told(list: &[&str]) -> Vec<Controller> {
        let of = |(id, address): (u64, &&str)| Controller {
            id,
            name: format!("n{id}"),
            address: (*address).to_owned(),
        };
        (1..).zip(list).map(of).collect()
    }

    #[test]
    fn addresses_that_were_given_are_never_forgotten() {
        let given = ["new1", "new2", "new3"].map(str::to_owned).to_vec();
        let client = Client::new(Arc::new(Nobody), given);
        let all = || client.addresses().all.join(" ");
        // The log knows the addresses from before the controllers were renumbered, but the leader's.
        client.learn(told(&["new1", "old2", "old3"]), (Generation(1), 10));
        assert_eq!(all(), "new1 old2 old3 new2 new3");
        // One that was told of and is gone is asked no longer.
        client.learn(told(&["new1", "new2"]), (Generation(1), 11));
        assert_eq!(all(), "new1 new2 new3");
        // What an older state says does not count, nor does a generation of before.
        client.learn(told(&["old1"]), (Generation(1), 9));
        client.learn(told(&["old1"]), (Generation(0), 99));
        assert_eq!(all(), "new1 new2 new3");
        assert_eq!(client.told().get(), told(&["new1", "new2"]));
        client.learn(told(&["x4"]), (Generation(2), 1));
        assert_eq!(all(), "x4 new1 new2 new3");
        client.learn(Vec::new(), (Generation(3), 1));
        assert_eq!(client.controllers(), 4);
    }
}
