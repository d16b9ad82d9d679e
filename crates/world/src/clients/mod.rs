//! Clients: applications that write and read all the time, and remember what they were told.
//!
//! Owns the tasks of clients on a machine of their own, how they find the server that takes writes
//! (as libpq does with several hosts and `target_session_attrs=read-write`), and the place on each
//! server's machine where their connections end. What a server is comes behind [`Servers`]. All of it
//! is told to the judge as clients know it. May import the executor, the network, plans and checkers.
//!
//! ```text
//!   writer  reader     what applications do
//!   link               one connection, from the client's side
//!   front              the other side of it, on the server's machine
//!   wire               what is said on it
//! ```

mod front;
mod link;
mod reader;
mod wire;
mod writer;

#[cfg(test)]
mod toy_test;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::check::{Final, Judge, Rows, Value};
use crate::exec::{self, MachineId, ScopeId};
use crate::schedule::{Node, Workload};

pub use front::attend;
pub use wire::Role;

/// The port of PostgreSQL.
pub const PORT: u16 = 5432;

/// A session of a server, by a number that the server gives.
pub type Backend = u64;

/// Why a server does not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It says why. Nothing was done.
    Said(String),
    /// Who would have to answer is stopped: ask again.
    Silent,
    /// The session is gone.
    Gone,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Without any notice, on this timeline.
    Acknowledged(u64),
    /// Done, and the wait for standbys was given up, as a notice says.
    Unconfirmed,
    /// Not done, for this reason.
    Refused(String),
}

/// PostgreSQL servers, as those who are connected to them know them. Every method is called where
/// and when a statement arrives at the server.
pub trait Servers: Clone + Send + Sync + 'static {
    /// Opens a session. `rude` ones set `default_transaction_read_only` off for themselves.
    ///
    /// # Errors
    /// Nothing listens, or it takes no connections now.
    fn open(&self, node: Node, rude: bool) -> Result<Backend, Refused>;

    /// What the server says of itself in this session: `pg_is_in_recovery()`,
    /// `SHOW transaction_read_only`, and the number of its timeline.
    ///
    /// # Errors
    /// The session is gone.
    fn role(&self, node: Node, session: Backend) -> Result<Role, Refused>;

    /// All rows that a transaction of now sees, as ranges, with the role in that transaction.
    ///
    /// # Errors
    /// The session is gone, or takes no statements.
    #[allow(clippy::type_complexity)]
    fn rows(&self, node: Node, session: Backend) -> Result<(Role, Vec<(Value, Value)>), Refused>;

    /// Inserts a row and commits. Does not end where the session does not answer.
    fn insert(
        &self,
        node: Node,
        session: Backend,
        value: Value,
    ) -> impl Future<Output = Result<Commit, Refused>> + Send;

    /// Cancels what a session does.
    fn cancel(&self, node: Node, session: Backend);

    /// Closes a session.
    fn close(&self, node: Node, session: Backend);

    /// Ends when the server has ended the session, by itself or with its processes.
    fn ended(&self, node: Node, session: Backend) -> impl Future<Output = ()> + Send;
}

/// Where clients note what they were told.
pub trait Notes: Clone + Send + Sync + 'static {
    /// Tells the judge.
    fn judge<R>(&self, tell: impl FnOnce(&mut Judge) -> R) -> R;

    /// Tells a person, where one listens.
    fn tell(&self, node: Option<Node>, row: Option<Value>, text: impl FnOnce() -> String);
}

/// True time in microseconds.
fn now() -> u64 {
    exec::now() / 1000
}

/// What all clients share.
pub(crate) struct Shared<N> {
    pub(crate) notes: N,
    /// Servers that have a member: their nodes and machines.
    pub(crate) servers: Vec<(Node, MachineId)>,
    pub(crate) workload: Workload,
    stop: AtomicBool,
    /// Writes that were acknowledged.
    acknowledged: AtomicU64,
    /// Writers that are still at work.
    writing: AtomicU64,
}

impl<N> Shared<N> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.workload.timeout_ms)
    }
}

/// All clients of a run.
pub struct Clients<N> {
    shared: Arc<Shared<N>>,
    scope: ScopeId,
}

impl<N: Notes> Clients<N> {
    /// Starts the clients of a workload in a scope of a machine of their own.
    pub fn start(
        scope: ScopeId,
        workload: &Workload,
        servers: &[(Node, MachineId)],
        notes: N,
    ) -> Self {
        let shared = Arc::new(Shared {
            notes,
            servers: servers.to_vec(),
            workload: workload.clone(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            writing: AtomicU64::new(0),
        });
        let clients = Self { shared, scope };
        clients.start_writers();
        if workload.readers {
            for (i, (node, machine)) in servers.iter().enumerate() {
                let task = reader::run(clients.shared.clone(), *node, *machine, i as u64);
                drop(exec::spawn_on(scope, task));
            }
        }
        clients
    }

    fn start_writers(&self) {
        let workload = &self.shared.workload;
        let mut kinds = vec![writer::Kind::Fresh; workload.fresh_writers as usize];
        kinds.extend(vec![writer::Kind::Held; workload.held_writers as usize]);
        if workload.probes {
            let servers = 0..self.shared.servers.len();
            kinds.extend(servers.map(|server| writer::Kind::Probe { server, rude: workload.rude }));
        }
        self.shared.writing.store(kinds.len() as u64, Ordering::Relaxed);
        for (i, kind) in kinds.into_iter().enumerate() {
            let task = writer::run(self.shared.clone(), kind, i as u64);
            drop(exec::spawn_on(self.scope, task));
        }
    }

    /// Tells writers to begin no further row.
    pub fn stop_writers(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// How many writers have not come to their end yet.
    pub fn writing(&self) -> u64 {
        self.shared.writing.load(Ordering::Relaxed)
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Asks every member once for all rows. Runs on the clients' machine.
    pub fn ask_all(&self) -> oneshot::Receiver<Vec<Final>> {
        let shared = self.shared.clone();
        let (answer, answered) = oneshot::channel();
        drop(exec::spawn_on(self.scope, async move {
            let asks = shared.servers.iter().map(|(node, machine)| {
                let ask = reader::once(*machine, shared.patience());
                let node = *node;
                exec::spawn_on(exec::current_scope(), async move {
                    let answer = ask.await.and_then(|(role, ranges)| {
                        let rows = Rows::of_ranges(ranges)
                            .map_err(|twice| format!("write {twice} is there twice"))?;
                        Ok((role.open(), rows))
                    });
                    Final { node, answer }
                })
            });
            let asks: Vec<_> = asks.collect();
            let mut finals = Vec::new();
            for ask in asks {
                finals.extend(ask.await.ok());
            }
            // Nobody waits any more where the run has ended.
            drop(answer.send(finals));
        }));
        answered
    }
}
