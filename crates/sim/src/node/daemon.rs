//! One `hanode` process, composed as `src/node.rs` composes the real one: the agent with its
//! members, the controller, and the order in which they end.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::driver;
use crate::agent::{self, Member};
use crate::domain::alarm::Alarm;
use crate::domain::types::NodeName;
use crate::node::controller::{self, Controller};
use crate::node::front::Fronts;
use crate::node::{MakeDatabase, Place};
use crate::raft::AsyncRuntime as _;
use crate::runtime::{Boxed, first_of};
use crate::session::Client;
use crate::transport::Wire;
use crate::watch;
use crate::{Rt, SimClock};

// As in production, see `src/node.rs`.
const HUNG_AFTER: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(6);
const REPRIEVE: Duration = Duration::from_secs(10);
const LEADS_POLL: Duration = Duration::from_millis(500);

/// How a daemon is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// PostgreSQL goes on under its guard (SIGTERM).
    LeaveRunning,
    /// Everything stops (SIGINT).
    StopAll,
}

/// How a daemon ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// A member's database cannot be taken on.
    #[error("{member}: {source}")]
    Database {
        /// Whose.
        member: String,
        /// What is wrong.
        source: driver::Error,
    },
    /// Its controller failed for good.
    #[error(transparent)]
    Controller(#[from] controller::Error),
    /// A task of its agent ended.
    #[error("the agent ended")]
    Agent,
}

/// What a daemon is made of.
pub struct Daemon<M: MakeDatabase> {
    /// Name of the node.
    pub node: NodeName,
    /// The controller, where it has one.
    pub controller: Option<Controller>,
    /// The members that it runs.
    pub members: Vec<Member>,
    /// Makes their databases.
    pub databases: M,
    /// Where it runs.
    pub place: Place,
    /// Calls controllers.
    pub wire: Wire,
    /// Where it answers others.
    pub fronts: Fronts,
    /// Their addresses, its own first.
    pub controllers: Vec<String>,
    /// The clock of its machine.
    pub clock: Arc<SimClock>,
    /// Time between two reports.
    pub report_every: Duration,
    /// What is wrong with the node.
    pub alarms: watch::Receiver<Vec<Alarm>>,
    /// Turns true for the controller once the daemon ends.
    pub shutdown: watch::Sender<bool>,
    /// How it is asked to end.
    pub signal: watch::Receiver<Option<Signal>>,
}

type Task<T> = <Rt as crate::raft::AsyncRuntime>::JoinHandle<T>;

impl<M: MakeDatabase> Daemon<M> {
    /// Runs until it is told to end.
    ///
    /// # Errors
    /// It ended by itself.
    pub async fn run(mut self) -> Result<(), Failed> {
        let (stop, stopping) = watch::channel(false);
        let (mut agent, leads) = match self.start_agent(stopping).await? {
            Some((handle, leads)) => (Some(handle), leads),
            None => (None, Arc::new(|| false) as agent::Leads),
        };
        let controller = self.controller.take();
        let mut controller = controller.map(|controller| {
            Rt::spawn(async move {
                let ended = controller.run().await;
                if ended.is_err() {
                    // The other controllers renew the lease of what leads here.
                    Rt::sleep(REPRIEVE).await;
                    while leads() {
                        Rt::sleep(LEADS_POLL).await;
                    }
                }
                ended
            })
        });
        let (outcome, over) = self.supervise(&mut controller, &mut agent, stop).await;
        self.shutdown.send_replace(true);
        if let Some(controller) = controller
            && !over
        {
            drop(Rt::timeout(FAREWELL, controller).await);
        }
        outcome
    }

    /// Waits for a signal, or for a part that ends by itself. Tells whether the controller is over.
    async fn supervise(
        &mut self,
        controller: &mut Option<Task<Result<(), controller::Error>>>,
        agent: &mut Option<Task<()>>,
        stop: watch::Sender<bool>,
    ) -> (Result<(), Failed>, bool) {
        enum First {
            Asked(Signal),
            Controller(Result<(), Failed>),
            Agent,
        }
        let signal = &mut self.signal;
        let first = first_of(vec![
            Box::pin(async {
                let asked = signal.wait_for(Option::is_some).await.ok().flatten();
                match asked {
                    Some(signal) => First::Asked(signal),
                    None => std::future::pending().await,
                }
            }) as Boxed<'_, First>,
            Box::pin(async {
                match &mut *controller {
                    Some(handle) => match handle.await {
                        Ok(ended) => First::Controller(ended.map_err(Failed::from)),
                        Err(_) => First::Controller(Err(Failed::Controller(
                            controller::Error::Core(crate::raft::FatalReason::Panicked),
                        ))),
                    },
                    None => std::future::pending().await,
                }
            }),
            Box::pin(async {
                match &mut *agent {
                    Some(handle) => {
                        drop(handle.await);
                        First::Agent
                    }
                    None => std::future::pending().await,
                }
            }),
        ])
        .await;
        match first {
            First::Controller(ended) => (ended, true),
            First::Agent => (Err(Failed::Agent), false),
            First::Asked(signal) => {
                if signal == Signal::StopAll
                    && let Some(handle) = agent.take()
                {
                    // The controller goes on meanwhile: the ends of the members are to be known.
                    stop.send_replace(true);
                    if handle.await.is_err() {
                        return (Err(Failed::Agent), false);
                    }
                }
                (Ok(()), false)
            }
        }
    }

    async fn start_agent(
        &self,
        stopping: watch::Receiver<bool>,
    ) -> Result<Option<(Task<()>, agent::Leads)>, Failed> {
        if self.members.is_empty() {
            return Ok(None);
        }
        let mut members = Vec::new();
        for member in &self.members {
            let database =
                self.databases.open(&self.place, member).await.map_err(|source| {
                    Failed::Database { member: member.name.to_string(), source }
                })?;
            members.push((member.clone(), database));
        }
        let client = Client::new(Arc::new(self.wire.clone()), self.controllers.clone());
        let options = agent::Options {
            node: self.node.clone(),
            report_every: self.report_every,
            hung_after: HUNG_AFTER,
            node_alarms: self.alarms.clone(),
        };
        let agent = agent::Agent::new(options, members, self.clock.clone());
        let leads = agent.leads();
        self.fronts.promise(agent.promises());
        let running = agent::run::<Rt, _, _, _>(agent, client, stopping);
        Ok(Some((Rt::spawn(running), leads)))
    }
}
