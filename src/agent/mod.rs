//! The agent: one member's desired state, made real.
//!
//! Owns the loop that reconciles a member, the renewal of its lease, the fence at the lease's end,
//! and what is reported of it. May import the domain, the session's client, the database drivers
//! and the clock. Nothing here decides who may be primary: `domain::reconcile` does.
//!
//! Several tasks serve one member, so that nothing slow holds up what is urgent:
//!
//! - the *worker* carries out one action at a time, and leaves one that can be begun anew as soon as
//!   another has to be done;
//! - the *renewer* renews the leases of all members of the node in one call;
//! - the *failsafe* asks the peers while no controller answers;
//! - the *fence* kills the process tree at the end of the lease, whatever the worker does;
//! - the *observer* asks PostgreSQL what it is, the *health check* whether it hangs;
//! - the *survey* looks at the file systems;
//! - the *upstream watch* asks the standby that a cascaded member streams from;
//! - the *reporter* tells the leader, and the *catalogue* is sent beside it;
//! - *hooks* run programs of the operator, where there are any.

mod catalogue;
#[cfg(not(quorate_sim))]
pub mod database;
pub mod driver;
mod failsafe;
mod fence;
mod health;
pub mod hooks;
mod observe;
mod poll;
mod renew;
mod report;
mod shared;
mod survey;
mod upstream;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::alarm::Alarm;
use crate::domain::state::{ClusterSpec, Tags};
use crate::domain::types::{ClusterName, MemberName, NodeName};
use crate::runtime::Runtime;
use crate::session::{Client, Promises, Transport};
use crate::watch;
use driver::Database;
use poll::Known;
pub use poll::Snapshot;
use shared::Shared;

/// One member that this node runs.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub name: MemberName,
    /// `host:port` where others reach its PostgreSQL.
    pub address: String,
    /// `host:port` where other agents reach this one; `None` where nobody listens.
    pub agent_address: Option<String>,
    /// Breaks ties between candidates.
    pub priority: i32,
    /// What the operator says of it.
    pub tags: Tags,
    /// Whether data of a server that was not ours may be taken over.
    pub adopt: bool,
    /// What this node's configuration asks of the cluster: used where the cluster is new.
    pub spec: ClusterSpec,
}

/// How the agent works.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node.
    pub node: NodeName,
    /// How often a member is observed and reported without being asked to.
    pub report_every: Duration,
    /// How long what has to answer may do nothing at all before PostgreSQL is given up as hung.
    pub hung_after: Duration,
    /// What is wrong with the node itself: every member reports it.
    pub node_alarms: watch::Receiver<Vec<Alarm>>,
}

/// The agent of a node.
pub struct Agent<D, C> {
    options: Options,
    members: Vec<Arc<Shared<D, C>>>,
    known: Known,
    clock: Arc<C>,
}

/// Tells whether a member of the node leads, while the agent runs.
pub type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

impl<D: Database, C: Clock> Agent<D, C> {
    /// An agent with these members, which does nothing yet.
    pub fn new(options: Options, members: Vec<(Member, Arc<D>)>, clock: Arc<C>) -> Self {
        let known = Known::new();
        let shared = |(member, database): (Member, Arc<D>)| {
            let (options, known) = (options.clone(), known.clone());
            Arc::new(Shared::new(member, options, database, known, clock.clone()))
        };
        let members = members.into_iter().map(shared).collect();
        Self { options, members, known, clock }
    }

    /// The newest agreed state that the agent has heard of.
    pub fn agreed(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.known.watch()
    }

    /// The answers to other agents, while the agent runs.
    pub fn promises(&self) -> Promises {
        let members = self.members.clone();
        Arc::new(move |question| failsafe::answer(&members, question))
    }

    /// Whether a member leads or is being copied, or is not known yet not to: what it runs may be
    /// about to be taken over.
    pub fn leads(&self) -> Leads {
        let members = self.members.clone();
        Arc::new(move || {
            members.iter().any(|m| {
                let inner = m.lock();
                !inner.loaded || inner.primary_epoch().is_some() || inner.busy.is_some()
            })
        })
    }
}

/// Runs the agent of a node, with all of its members. Once `stop` is true it stops every member in
/// order, tells the leader, and returns. A future that is dropped leaves PostgreSQL running under
/// its guards, for the next agent to take over within the lease.
pub async fn run<RT, T, D, C>(agent: Agent<D, C>, client: Client<T>, stop: watch::Receiver<bool>)
where
    RT: Runtime,
    T: Transport,
    D: Database,
    C: Clock,
{
    let Agent { options, members: all, known, clock } = agent;
    let mut workers = Vec::new();
    let mut tasks: Vec<crate::runtime::Boxed<'static, ()>> = Vec::new();
    let clusters = all.iter().map(|s| s.member.cluster.clone()).collect();
    tasks.push(Box::pin(poll::run::<RT, T>(client.clone(), clusters, known.clone())));
    tasks.push(Box::pin(renew::run::<RT, T, D, C>(
        options.node.clone(),
        all.clone(),
        client.clone(),
        known.clone(),
        clock,
    )));
    for shared in all {
        workers.push(RT::spawn(worker::run::<RT, T, D, C>(
            shared.clone(),
            client.clone(),
            known.clone(),
            stop.clone(),
        )));
        tasks.push(Box::pin(failsafe::run::<RT, T, D, C>(shared.clone(), client.clone())));
        tasks.push(Box::pin(fence::run::<RT, D, C>(shared.clone())));
        tasks.push(Box::pin(observe::run::<RT, D, C>(shared.clone())));
        tasks.push(Box::pin(health::run::<RT, D, C>(shared.clone())));
        tasks.push(Box::pin(survey::run::<RT, D, C>(shared.clone())));
        tasks.push(Box::pin(upstream::run::<RT, D, C>(shared.clone(), known.clone())));
        if shared.has_hooks() {
            tasks.push(Box::pin(hooks::run::<RT, D, C>(shared.clone())));
        }
        tasks.push(Box::pin(catalogue::run::<RT, T, D, C>(shared.clone(), client.clone())));
        tasks.push(Box::pin(report::run::<RT, T, D, C>(shared, client.clone())));
    }
    // Each on its own, so that none waits for another's turn.
    let handles: Vec<_> = tasks.into_iter().map(RT::spawn).collect();
    let watched = handles.into_iter().map(|handle| -> crate::runtime::Boxed<'static, ()> {
        Box::pin(async {
            // They never end: a panic in one must end the process, not a member's care alone.
            drop(handle.await);
            tracing::error!("a task of the agent failed: the daemon ends, and is to be restarted");
        })
    });
    let mut ends: Vec<crate::runtime::Boxed<'static, ()>> = watched.collect();
    ends.push(Box::pin(async {
        for worker in workers {
            if worker.await.is_err() {
                tracing::error!("a worker failed: the daemon ends, and is to be restarted");
            }
        }
    }));
    crate::runtime::first_of(ends).await;
}
