//! The controller of a simulated node, composed as `src/node/controller.rs` composes the real one:
//! the store is opened, Raft takes part on it, the planner and the services run; where the store
//! fails, everything on it is taken down, and it is opened anew in the same process.
//!
//! What is not here: the server (the simulated network calls the services), and the watch over the
//! room on the disk.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock as _;
use crate::controller::{self, Memory};
use crate::disk::{Disk, Engine};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::node::alarms::NodeAlarms;
use crate::node::front::{Fronts, Part};
use crate::raft::{self, AsyncRuntime as _, Handle};
use crate::runtime::{Boxed, first_of};
use crate::transport::Wire;
use crate::watch;
use crate::world::Observer;
use crate::{Rt, SimClock};

// As in production, see `src/node/controller.rs`.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
const STEADY: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(5);
const LET_GO: Duration = Duration::from_secs(20);
const LET_GO_POLL: Duration = Duration::from_millis(20);
const HAND_OVER: Duration = Duration::from_millis(700);

/// Why a controller takes no part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] raft::kv::Error),
    /// Raft does not start, or the group refuses this node.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
    /// The Raft core ended.
    #[error("{0}")]
    Core(raft::FatalReason),
}

impl Error {
    /// Whether the same controller may be well again in this process.
    fn may_pass(&self) -> bool {
        match self {
            Error::Store(_) | Error::Core(_) => true,
            Error::Raft(error) => {
                matches!(error, raft::StartError::Store(_) | raft::StartError::Fatal(_))
            }
        }
    }

    fn is_damage(&self) -> bool {
        matches!(
            self,
            Error::Store(raft::kv::Error::Corrupt { .. })
                | Error::Raft(raft::StartError::Store(raft::kv::Error::Corrupt { .. }))
        )
    }
}

/// What a controller is made of.
pub struct Controller {
    /// Its Raft settings: who it is, and who the others are.
    pub options: raft::Options,
    /// Name of its node.
    pub node: String,
    /// Whether members run on the node, too.
    pub has_agent: bool,
    /// Under its store.
    pub disk: Disk,
    /// Calls peers.
    pub wire: Wire,
    /// The clock of its machine.
    pub clock: Arc<SimClock>,
    /// Where it is reached.
    pub fronts: Fronts,
    /// What is wrong with it.
    pub alarms: NodeAlarms,
    /// Who watches it.
    pub observer: Observer,
    /// True once the node is to end.
    pub ending: watch::Receiver<bool>,
}

enum End {
    InOrder,
    Failed { error: Error, let_go: bool },
}

async fn ended(mut ending: watch::Receiver<bool>) {
    drop(ending.wait_for(|ending| *ending).await);
}

impl Controller {
    /// Runs until the node ends, or until the controller fails for a reason that does not pass.
    ///
    /// # Errors
    /// That reason.
    pub async fn run(self) -> Result<(), Error> {
        let mut backoff = BACKOFF_MIN;
        loop {
            let begun = self.clock.now();
            let (error, let_go) = match self.take_part().await {
                End::InOrder => return Ok(()),
                End::Failed { error, let_go } => (error, let_go),
            };
            let passes = let_go && error.may_pass() && (self.has_agent || !error.is_damage());
            let what = if passes { "it is tried again" } else { "it is not tried again" };
            let text = format!("the controller takes no part: {error}; {what}");
            tracing::error!(%error, passes, "this node's controller takes no part");
            let alarm = Alarm::new(AlarmCode::ControllerDown, text);
            self.alarms.set(AlarmCode::ControllerDown, vec![alarm]);
            if !passes {
                return Err(error);
            }
            if self.clock.now().since(begun) >= STEADY {
                backoff = BACKOFF_MIN;
            }
            let over = first_of(vec![
                Box::pin(async {
                    ended(self.ending.clone()).await;
                    true
                }) as Boxed<'_, bool>,
                Box::pin(async {
                    Rt::sleep(backoff).await;
                    false
                }),
            ]);
            if over.await {
                return Ok(());
            }
            backoff = (2 * backoff).min(BACKOFF_MAX);
        }
    }

    /// Opens the store, takes part until that ends, and lets go of everything.
    async fn take_part(&self) -> End {
        let opened = first_of(vec![
            Box::pin(async {
                ended(self.ending.clone()).await;
                None
            }) as Boxed<'_, Option<Result<Arc<Engine>, raft::kv::Error>>>,
            Box::pin(async { Some(self.disk.open().await) }),
        ]);
        let engine = match opened.await {
            None => return End::InOrder,
            Some(Err(error)) => return End::Failed { error: error.into(), let_go: true },
            Some(Ok(engine)) => engine,
        };
        let started = first_of(vec![
            Box::pin(async {
                ended(self.ending.clone()).await;
                Ok(None)
            }) as Boxed<'_, Result<Option<Handle<Rt>>, Error>>,
            Box::pin(async { self.start(&engine).await.map(Some) }),
        ]);
        let (raft, error) = match started.await {
            Ok(None) => (None, None),
            Err(error) => (None, Some(error)),
            Ok(Some(raft)) => {
                let error = self.stay(&raft).await;
                (Some(raft), error)
            }
        };
        if let Some(raft) = &raft {
            if error.is_none() {
                leave_leadership(raft).await;
            }
            raft.shutdown().await;
        }
        self.fronts.clear();
        drop(raft);
        match error {
            None => End::InOrder,
            Some(error) => End::Failed { error, let_go: self.close(engine).await },
        }
    }

    /// Plans, until the core ends or the node does.
    async fn stay(&self, raft: &Handle<Rt>) -> Option<Error> {
        let part = self.fronts.part()?;
        let options = controller::Options::new(self.node.clone());
        let clock = self.clock.clone();
        let planning = controller::run::<Rt, _>(options, raft.clone(), part.memory, clock);
        // Aborted once this ends: the sender is dropped then.
        let (_stop, stopped) = watch::channel(false);
        drop(Rt::spawn(async move {
            first_of(vec![Box::pin(ended(stopped)) as Boxed<'_, ()>, Box::pin(planning)]).await;
        }));
        first_of(vec![
            Box::pin(async { Some(Error::Core(raft.fatal().await)) }) as Boxed<'_, Option<Error>>,
            Box::pin(async {
                ended(self.ending.clone()).await;
                None
            }),
            Box::pin(async {
                Rt::sleep(SETTLE).await;
                self.alarms.set(AlarmCode::ControllerDown, Vec::new());
                std::future::pending().await
            }),
        ])
        .await
    }

    async fn start(&self, engine: &Arc<Engine>) -> Result<Handle<Rt>, Error> {
        let (options, wire) = (self.options.clone(), self.wire.clone());
        let clock = self.clock.clone();
        let starting = raft::open::<Rt, _>(options, engine.clone(), wire, clock.clone()).await?;
        // The peers have to reach this node before it can take part.
        self.fronts.greet(starting.service());
        let raft = starting.start().await?;
        let memory = Arc::new(Memory::default());
        let service = controller::Service::new(raft.clone(), memory.clone(), clock);
        self.fronts.take_part(Part { raft: raft.clone(), memory }, service);
        drop(Rt::spawn(self.observer.clone().watch_role(raft.role())));
        drop(Rt::spawn(self.observer.clone().watch_applied(raft.applied())));
        Ok(raft)
    }

    /// Closes a store that has failed, once nobody else holds it.
    async fn close(&self, engine: Arc<Engine>) -> bool {
        let alone = async {
            while Arc::strong_count(&engine) > 1 {
                Rt::sleep(LET_GO_POLL).await;
            }
        };
        if Rt::timeout(LET_GO, alone).await.is_err() {
            tracing::error!(holders = Arc::strong_count(&engine) - 1, "the store is not let go of");
            return false;
        }
        drop(engine);
        let closed = async {
            while self.disk.is_open() {
                Rt::sleep(LET_GO_POLL).await;
            }
        };
        Rt::timeout(LET_GO, closed).await.is_ok()
    }
}

/// A leader that ends in order hands its leadership over first.
async fn leave_leadership(raft: &Handle<Rt>) {
    if !raft.role().get().is_leader {
        return;
    }
    let metrics = raft.metrics();
    let caught_up = metrics.lag_entries.iter().find(|(_, lag)| lag.is_some_and(|n| n < 10));
    if let Some((id, _)) = caught_up
        && let Err(error) = raft.transfer_leadership(*id, HAND_OVER).await
    {
        tracing::warn!(%error, "Raft leadership was not handed over");
    }
}
