//! Carries out what `domain::reconcile` asks for, one action at a time.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::driver::{Database, Error, Rewound, RunRole, RunState, Seen, StartMode, Started, Tree};
use super::poll::{Known, Snapshot};
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::desired::{Desired, FollowDuty, desired};
use crate::domain::lease::HolderLease;
use crate::domain::observation::{Condition, Confirmed, Data, Fencing, Sealed};
use crate::domain::reconcile::{Action, EndReason, Process, reconcile};
use crate::domain::record::{DataMark, MemberRecord};
use crate::domain::state::ClusterState;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName};
use crate::runtime::{self, Runtime};
use crate::session::wire::{RegisterRequest, SessionError};
use crate::session::{Client, Failure, Transport};

/// How often the worker looks without being woken.
const TICK: Duration = Duration::from_millis(500);
/// Pause after PostgreSQL was not ready.
const NOT_READY: Duration = Duration::from_millis(15);
/// First and longest pause after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often slots are looked after.
const CARE_EVERY: Duration = Duration::from_secs(5);
/// The epoch of the timeline that `initdb` begins.
const FIRST_EPOCH: Epoch = Epoch(1);
/// How long the last report may take to leave.
const FAREWELL: Duration = Duration::from_millis(300);
/// How often in a row PostgreSQL may end before it was ready, until its data is given up.
const STARTUP_DEATHS_MAX: u32 = 5;
/// How long one registration may take.
const REGISTER: Duration = Duration::from_secs(4);
/// How long a quick action of the database may take.
const QUICK: Duration = Duration::from_secs(10);
/// How long starting, sealing, promoting, or stopping may take.
const SLOW: Duration = Duration::from_secs(60);

pub(super) async fn run<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: Arc<Shared<D, C>>,
    client: Client<T>,
    known: Known,
    stop: watch::Receiver<bool>,
) {
    let mut worker = Worker::<RT, T, D, C> {
        news: known.watch(),
        tree: shared.tree.clone(),
        shared,
        client,
        registered: None,
        register_at: BootTime::default(),
        failures: 0,
        care_at: BootTime::default(),
        cared_as: None,
        ending: None,
        startup_deaths: 0,
        stop,
        runtime: PhantomData,
    };
    worker.begin().await;
    loop {
        if *worker.stop.borrow_and_update() {
            if worker.stop().await {
                return;
            }
            RT::sleep(BACKOFF_MIN).await;
            continue;
        }
        let pause = worker.step().await;
        worker.wait(pause).await;
    }
}

struct Worker<RT, T, D, C> {
    shared: Arc<Shared<D, C>>,
    client: Client<T>,
    news: watch::Receiver<Arc<Snapshot>>,
    tree: watch::Receiver<Tree>,
    /// What was registered, once it was.
    registered: Option<Data>,
    register_at: BootTime,
    failures: u32,
    care_at: BootTime,
    cared_as: Option<(bool, Vec<MemberName>)>,
    /// The epoch that ended, and whether by itself, until its end is recorded.
    ending: Option<(Epoch, bool)>,
    /// How often in a row PostgreSQL ended before it was ready.
    startup_deaths: u32,
    stop: watch::Receiver<bool>,
    runtime: PhantomData<fn() -> RT>,
}

/// What a step leaves to wait for.
enum Pause {
    /// Look again at once.
    None,
    /// Look again after this long, or when something changes.
    For(Duration),
    /// Look again after this long, whatever changes.
    Firmly(Duration),
}

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    // ---- the beginning ----

    /// Reads the record, and takes over what runs.
    async fn begin(&mut self) {
        loop {
            match self.take_over().await {
                Ok(()) => break,
                Err(error) => {
                    error!(member = %self.shared.member.name, %error, "the member cannot be taken on");
                    self.shared
                        .problem("start", Some(format!("the member cannot be taken on: {error}")));
                    RT::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        self.shared.problem("start", None);
        self.shared.claims.notify_one();
        self.shared.news.notify_one();
    }

    async fn take_over(&mut self) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let member = &self.shared.member;
        let fresh = || MemberRecord::new(member.cluster.clone(), member.name.clone());
        let mut record = match database.load_record().await? {
            Some(record) => record,
            None => {
                let mut record = fresh();
                if database.inspect().await? != Data::Empty {
                    // Data without a record: what was promised of it, or done to it, is not known,
                    // so it counts in no quorum until it has caught up with a primary.
                    record.data = DataMark::Copied { source: Epoch(0), until: None };
                }
                record
            }
        };
        if record.cluster != member.cluster || record.member != member.name {
            return Err(Error::Machine(format!(
                "the record in this member's directory belongs to member {} of cluster {}: this \
                 directory is another member's",
                record.member, record.cluster
            )));
        }
        let mut attached = database.attach().await?;
        let known_run = attached.as_ref().is_some_and(|a| {
            a.run.as_ref().is_some_and(|run| match run.role {
                RunRole::Primary { epoch, .. } => record.ended < epoch && record.held == epoch,
                _ => true,
            })
        });
        if attached.is_some() && !known_run {
            // What it was is not remembered, or it must not run: it ends.
            warn!(member = %member.name, "a process tree that is not known is ended");
            database.kill().await?;
            database.prove_empty().await?;
            attached = None;
        }
        if attached.is_none() && (record.held > record.ended || record.running.is_some()) {
            // The tree that ran last is gone, by proof: what it held is over.
            record.ended = record.ended.max(record.held);
            record.note_emptied();
            database.save_record(&record).await?;
        }
        let data = database.inspect().await?;
        let mut inner = self.shared.lock();
        inner.record = record;
        inner.data = data;
        inner.process = Process::Down;
        if let Some(attached) = attached
            && let Some(run) = attached.run
        {
            info!(member = %member.name, guard = ?attached.guard, "took over the running PostgreSQL");
            inner.guard = Some(attached.guard.clone());
            inner.fencing = attached.fencing;
            inner.process = match run.role {
                RunRole::Sealed { promise } => Process::Sealed { promise, position: None },
                RunRole::Following { epoch, address } => Process::Following { epoch, address },
                RunRole::Primary { epoch, promoted, writes_open } => {
                    let kill_at = attached.kill_at;
                    // The kernel's deadline bounds it from above; the next renewal says more.
                    inner.lease =
                        kill_at.map(|kill_at| HolderLease { epoch, stop_at: kill_at, kill_at });
                    inner.claim = Some((epoch, attached.guard));
                    let is_promoted = promoted.is_some();
                    inner.lineage = promoted;
                    Process::Primary { epoch, promoted: is_promoted, confirmed: None, writes_open }
                }
            };
        }
        inner.loaded = true;
        Ok(())
    }

    // ---- the loop ----

    async fn wait(&mut self, pause: Pause) {
        let now = self.shared.clock.now();
        let (limit, firm) = match pause {
            Pause::None => return,
            Pause::For(limit) => (limit, false),
            Pause::Firmly(limit) => (limit, true),
        };
        let lease_end = {
            let inner = self.shared.lock();
            inner.lease.filter(|l| inner.primary_epoch() == Some(l.epoch)).map(|l| l.stop_at)
        };
        let limit = match lease_end {
            Some(end) => limit.min(end.since(now).max(Duration::from_millis(1))),
            None => limit,
        };
        if firm {
            let Self { tree, .. } = self;
            runtime::first_of(vec![
                Box::pin(async { drop(tree.changed().await) }),
                Box::pin(RT::sleep(limit)),
            ])
            .await;
            return;
        }
        let Self { tree, news, shared, stop, .. } = self;
        runtime::first_of(vec![
            Box::pin(async { drop(stop.changed().await) }),
            Box::pin(async { drop(tree.changed().await) }),
            Box::pin(async { drop(news.changed().await) }),
            Box::pin(shared.wake.notified()),
            Box::pin(RT::sleep(limit)),
        ])
        .await;
    }

    async fn step(&mut self) -> Pause {
        self.notice_end();
        let snapshot = self.news.borrow_and_update().clone();
        let state = snapshot.clusters.get(&self.shared.member.cluster).cloned();
        self.register(state.as_deref()).await;
        let now = self.shared.clock.now();
        let wanted = match &state {
            Some(state) => desired(state, &self.shared.member.name),
            // Nothing is known of the control plane yet: what runs goes on, as long as its lease.
            None => return self.step_blindly(now).await,
        };
        if let Some(foreign) = foreign(state.as_deref(), &self.shared.lock().data) {
            self.shared.problem("data", Some(foreign));
            return Pause::For(TICK);
        }
        let action = reconcile(&self.shared.member.name, &wanted, &self.shared.local(), now);
        let Some(state) = state else { return Pause::For(TICK) };
        self.carry_out(action, &state, &snapshot).await
    }

    async fn step_blindly(&mut self, now: BootTime) -> Pause {
        let (process, lease) = {
            let inner = self.shared.lock();
            (inner.process.clone(), inner.lease)
        };
        match process {
            Process::Ending => self.prove_end().await,
            Process::Primary { epoch, .. } => match lease {
                Some(lease) if lease.may_write(epoch, now) => Pause::For(TICK),
                _ => self.end_epoch(epoch, EndReason::LeaseExpired).await,
            },
            _ => Pause::For(TICK),
        }
    }

    /// Sees whether the process tree has ended by itself.
    fn notice_end(&mut self) {
        let tree = self.tree.borrow_and_update().clone();
        let Tree::Ending { how } = tree else { return };
        let mut inner = self.shared.lock();
        if matches!(inner.process, Process::Down | Process::Ending) {
            return;
        }
        warn!(member = %self.shared.member.name, %how, "PostgreSQL has ended");
        if let Some(epoch) = inner.primary_epoch() {
            self.ending = Some((epoch, true));
        }
        let unready = match &inner.process {
            Process::Sealed { position, .. } => position.is_none(),
            Process::Following { .. } => inner.seen.is_none(),
            _ => false,
        };
        self.startup_deaths = if unready { self.startup_deaths + 1 } else { 0 };
        if self.startup_deaths >= STARTUP_DEATHS_MAX {
            error!(member = %self.shared.member.name, "PostgreSQL cannot start from this data");
            inner.unstartable = true;
        }
        inner.claim = None;
        inner.process = Process::Ending;
    }

    async fn carry_out(
        &mut self,
        action: Action,
        state: &ClusterState,
        snapshot: &Snapshot,
    ) -> Pause {
        let spec = &state.spec;
        if !matches!(
            action,
            Action::Nothing { .. } | Action::ConfirmSync { .. } | Action::Seal { .. }
        ) {
            info!(member = %self.shared.member.name, ?action, "acting");
        }
        let outcome = match action {
            Action::Nothing { .. } => {
                self.failures = 0;
                return self.care(state, snapshot).await;
            }
            Action::Initialise => return self.initialise(state).await,
            Action::ProveEnd => return self.prove_end().await,
            Action::EndEpoch { epoch, why } => return self.end_epoch(epoch, why).await,
            Action::Disown { epoch } => self.disown(epoch).await,
            Action::StartSealed { promise } => {
                self.start(StartMode::Sealed { promise }, promise, state).await
            }
            Action::StartFollowing(duty) => {
                let promise = duty.epoch;
                self.start(StartMode::Following(duty), promise, state).await
            }
            Action::Seal { promise } => self.seal(promise, state).await,
            Action::Accept { epoch } => self.accept(epoch).await,
            Action::Promote { epoch, sync } => {
                return match self.promote(epoch, &sync, state).await {
                    Ok(()) => Pause::None,
                    Err(error) => {
                        error!(member = %self.shared.member.name, %epoch, %error, "promotion failed");
                        self.shared
                            .problem("promotion", Some(format!("promotion failed: {error}")));
                        self.end_epoch(epoch, EndReason::PromotionFailed).await
                    }
                };
            }
            Action::ConfirmSync { syncs } => {
                let outcome = self.confirm_sync(syncs, state).await;
                // Standbys may need a moment: no failure, and no backoff.
                match outcome {
                    Err(Error::TimedOut { .. } | Error::NotReady(_)) => {
                        return Pause::For(NOT_READY);
                    }
                    other => other,
                }
            }
            Action::OpenWrites { epoch } => self.open_writes(epoch, state).await,
            Action::HandOver { epoch, target } => return self.hand_over(epoch, &target).await,
            Action::Follow(duty) => self.follow(&duty, state).await,
            Action::Rewind(duty) => {
                let work = self.rewind(&duty, spec).await;
                self.shared.update(|inner| inner.busy = None);
                work
            }
            Action::Clone(duty) => {
                let work = self.clone_from(&duty, spec).await;
                self.shared.update(|inner| inner.busy = None);
                work
            }
        };
        self.after(outcome)
    }

    fn after(&mut self, outcome: Result<(), Error>) -> Pause {
        match outcome {
            Ok(()) => {
                self.failures = 0;
                self.shared.problem("action", None);
                Pause::None
            }
            Err(Error::NotReady(why)) => {
                self.shared.problem("action", None);
                tracing::debug!(member = %self.shared.member.name, %why, "not ready");
                Pause::For(NOT_READY)
            }
            Err(error) => {
                warn!(member = %self.shared.member.name, %error, "an action failed");
                self.shared.problem("action", Some(error.to_string()));
                let pause = BACKOFF_MIN.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_MAX);
                self.failures += 1;
                Pause::Firmly(pause)
            }
        }
    }

    // ---- helpers ----

    async fn bounded<V>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = Result<V, Error>> + Send,
    ) -> Result<V, Error> {
        match RT::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::TimedOut { what: what.to_owned(), seconds: limit.as_secs() }),
        }
    }

    /// Changes the durable record: on disk first, in memory after.
    async fn record(&self, change: impl FnOnce(&mut MemberRecord)) -> Result<(), Error> {
        let mut record = self.shared.lock().record.clone();
        let before = record.clone();
        change(&mut record);
        if record == before {
            return Ok(());
        }
        let database = &self.shared.database;
        self.bounded("writing the member's record", QUICK, database.save_record(&record)).await?;
        self.shared.lock().record = record;
        Ok(())
    }

    /// Remembers what runs, for an agent that takes it over.
    async fn remember(&self, role: RunRole) -> Result<(), Error> {
        let Some(guard) = self.shared.lock().guard.clone() else { return Ok(()) };
        let run = RunState { guard, role };
        self.bounded("writing what runs", QUICK, self.shared.database.save_run(&run)).await
    }

    fn guard(&self) -> Option<GuardId> {
        self.shared.lock().guard.clone()
    }

    // ---- registration ----

    async fn register(&mut self, state: Option<&ClusterState>) {
        let data = self.shared.lock().data.clone();
        let member = &self.shared.member;
        let listed = state.and_then(|s| s.members.get(&member.name)).is_some_and(|m| {
            m.address == member.address
                && m.priority == member.priority
                && m.nofailover == member.nofailover
                && m.node == self.shared.options.node
        });
        let now = self.shared.clock.now();
        if (listed && self.registered.as_ref() == Some(&data)) || now < self.register_at {
            return;
        }
        // A running primary is not held up by a control plane that is slow to answer.
        let urgent = self.shared.lock().primary_epoch().is_some();
        if urgent && listed {
            return;
        }
        self.register_at = now.plus(Duration::from_millis(300));
        let request = RegisterRequest {
            cluster: member.cluster.clone(),
            spec: member.spec.clone(),
            member: member.name.clone(),
            node: self.shared.options.node.clone(),
            address: member.address.clone(),
            priority: member.priority,
            nofailover: member.nofailover,
            system_id: match &data {
                Data::Present { system_id } => Some(*system_id),
                _ => None,
            },
        };
        match self.client.register(&request, REGISTER).await {
            Ok(reply) => {
                self.registered = Some(data);
                self.shared.problem("registration", None);
                let differences = (!reply.differences.is_empty()).then(|| {
                    format!(
                        "this node's configuration differs from what the cluster agreed on, which \
                         holds: {}",
                        reply.differences.join(", ")
                    )
                });
                self.shared.problem("configuration", differences);
            }
            Err(Failure::Session { error: SessionError::Rejected(rejection), .. }) => {
                error!(member = %member.name, rule = rejection.rule(), %rejection, "registration refused");
                self.shared
                    .problem("registration", Some(format!("registration refused: {rejection}")));
                self.register_at = now.plus(Duration::from_secs(2));
            }
            Err(failure) => {
                tracing::debug!(member = %member.name, %failure, "not registered yet");
            }
        }
    }

    // ---- ends ----

    async fn prove_end(&mut self) -> Pause {
        let database = self.shared.database.clone();
        let ending = self.ending;
        let outcome = async {
            self.bounded("proving that PostgreSQL has ended", SLOW, database.prove_empty()).await?;
            self.record(|r| {
                if let Some((epoch, _)) = ending {
                    r.ended = r.ended.max(epoch);
                }
                r.note_emptied();
            })
            .await
        }
        .await;
        match outcome {
            Ok(()) => {
                self.ending = None;
                self.shared.update(|inner| {
                    if let Some((_, crashed)) = ending {
                        inner.crashed = crashed;
                    }
                    inner.process = Process::Down;
                    inner.guard = None;
                    inner.fencing = Fencing::Unknown;
                    inner.claim = None;
                    inner.lineage = None;
                    inner.seen = None;
                    inner.hung = false;
                });
                Pause::None
            }
            Err(error) => self.after(Err(error)),
        }
    }

    /// Ends an epoch: no renewal of it leaves any more, then the tree is killed, then its end is
    /// proven and recorded. Only after that is it reported.
    async fn end_epoch(&mut self, epoch: Epoch, why: EndReason) -> Pause {
        warn!(member = %self.shared.member.name, %epoch, ?why, "ending the epoch");
        {
            let mut inner = self.shared.lock();
            inner.claim = None;
            inner.process = Process::Ending;
        }
        self.ending = Some((epoch, why == EndReason::Hung));
        if let Err(error) =
            self.bounded("killing PostgreSQL", QUICK, self.shared.database.kill()).await
        {
            warn!(%error, "the guard was not reached: waiting for its timer");
        }
        self.prove_end().await
    }

    async fn disown(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.record(|r| r.ended = r.ended.max(epoch)).await?;
        self.shared.update(|inner| {
            inner.claim = None;
            inner.crashed = false;
        });
        Ok(())
    }

    async fn hand_over(&mut self, epoch: Epoch, target: &MemberName) -> Pause {
        let database = self.shared.database.clone();
        let work = self.bounded(
            "stopping PostgreSQL for the switchover",
            SLOW,
            database.hand_over(target),
        );
        if let Err(error) = work.await {
            warn!(%epoch, %error, "the ordered stop failed: PostgreSQL is killed");
            if let Err(error) = self.bounded("killing PostgreSQL", QUICK, database.kill()).await {
                warn!(%error, "the guard was not reached: waiting for its timer");
            }
        }
        {
            let mut inner = self.shared.lock();
            inner.claim = None;
            inner.process = Process::Ending;
        }
        self.ending = Some((epoch, false));
        self.prove_end().await
    }

    /// Stops the member for good, in order, and tells the leader; `true` once that is done.
    async fn stop(&mut self) -> bool {
        self.notice_end();
        let process = self.shared.lock().process.clone();
        match process {
            Process::Down => {
                // The reporter tells the leader, which need not wait for the lease then.
                self.shared.news.notify_one();
                RT::sleep(FAREWELL).await;
                return true;
            }
            Process::Ending => {}
            Process::Primary { epoch, .. } => {
                let work = self.shared.database.stop();
                if let Err(error) = self.bounded("stopping PostgreSQL", SLOW, work).await {
                    warn!(%error, "the ordered stop failed: PostgreSQL is killed");
                    if let Err(error) =
                        self.bounded("killing", QUICK, self.shared.database.kill()).await
                    {
                        warn!(%error, "the guard was not reached: waiting for its timer");
                    }
                }
                self.ending = Some((epoch, false));
                let mut inner = self.shared.lock();
                inner.claim = None;
                inner.process = Process::Ending;
            }
            Process::Sealed { .. } | Process::Following { .. } => {
                if let Err(error) = self.stop_standby().await {
                    warn!(%error, "the standby was not stopped in order");
                }
                return false;
            }
        }
        self.prove_end().await;
        false
    }

    /// Stops a standby, for what needs a stopped data directory.
    async fn stop_standby(&mut self) -> Result<(), Error> {
        if self.shared.lock().process == Process::Down {
            return Ok(());
        }
        let database = self.shared.database.clone();
        self.shared.lock().process = Process::Ending;
        self.bounded("stopping the standby", SLOW, database.stop()).await?;
        self.bounded("proving that PostgreSQL has ended", SLOW, database.prove_empty()).await?;
        self.record(MemberRecord::note_emptied).await?;
        self.shared.update(|inner| {
            inner.process = Process::Down;
            inner.guard = None;
            inner.fencing = Fencing::Unknown;
            inner.seen = None;
        });
        Ok(())
    }

    // ---- beginnings ----

    async fn initialise(&mut self, state: &ClusterState) -> Pause {
        let begun = self.record(|r| r.data = DataMark::Initialising).await;
        self.shared.update(|inner| inner.busy = Some(Condition::Initialising));
        let database = self.shared.database.clone();
        let made = match begun {
            Ok(()) => {
                self.bounded("initdb", SLOW.saturating_mul(5), database.initialise(&state.spec))
                    .await
            }
            Err(error) => Err(error),
        };
        let recorded = match made {
            Ok(system_id) => {
                let done = self.record(|r| {
                    r.data = DataMark::Intact;
                    r.system_id = Some(system_id);
                    // Nobody led the first epoch, and all that there is of it is here.
                    r.held = FIRST_EPOCH;
                    r.ended = FIRST_EPOCH;
                });
                done.await.map(|()| system_id)
            }
            Err(error) => Err(error),
        };
        match recorded {
            Ok(system_id) => {
                self.shared.update(|inner| {
                    inner.data = Data::Present { system_id };
                    inner.busy = None;
                });
                Pause::None
            }
            Err(error) => {
                error!(member = %self.shared.member.name, %error, "initdb failed");
                let why = error.to_string();
                self.shared.update(|inner| inner.busy = Some(Condition::BootstrapFailed { why }));
                Pause::Firmly(BACKOFF_MAX)
            }
        }
    }

    async fn start(
        &mut self,
        mode: StartMode,
        promise: Epoch,
        state: &ClusterState,
    ) -> Result<(), Error> {
        self.record(|r| r.promised = r.promised.max(promise)).await?;
        let database = self.shared.database.clone();
        let started =
            self.bounded("starting PostgreSQL", SLOW, database.start(&mode, &state.spec)).await;
        let Started { guard, fencing } = match started {
            Ok(started) => started,
            Err(error) => {
                // What is left of the attempt, if anything, has to go before the next.
                self.shared.lock().process = Process::Ending;
                return Err(error);
            }
        };
        let (process, role) = match mode {
            StartMode::Sealed { promise } => {
                (Process::Sealed { promise, position: None }, RunRole::Sealed { promise })
            }
            StartMode::Following(duty) => {
                let FollowDuty { epoch, address, .. } = duty;
                let process = Process::Following { epoch, address: address.clone() };
                (process, RunRole::Following { epoch, address })
            }
        };
        // On disk before anybody hears of this life of the guard: no epoch can be granted to it
        // whose end could not be proven.
        let running = Some(guard.clone());
        if let Err(error) = self.record(|r| r.running = running).await {
            self.shared.lock().process = Process::Ending;
            return Err(error);
        }
        self.shared.update(|inner| {
            inner.guard = Some(guard);
            inner.fencing = fencing;
            inner.process = process;
            inner.seen = None;
            inner.lineage = None;
        });
        self.care_at = BootTime::default();
        self.remember(role).await
    }

    async fn seal(&mut self, promise: Epoch, state: &ClusterState) -> Result<(), Error> {
        self.record(|r| r.promised = r.promised.max(promise)).await?;
        // From here on it is no follower any more, whatever becomes of the attempt.
        let changed = {
            let mut inner = self.shared.lock();
            let sealed = Process::Sealed { promise, position: None };
            let changed = inner.process != sealed;
            inner.process = sealed;
            changed
        };
        if changed {
            self.remember(RunRole::Sealed { promise }).await?;
        }
        let database = self.shared.database.clone();
        let position = self.bounded("sealing", SLOW, database.seal(promise, &state.spec)).await?;
        let Some(guard) = self.guard() else {
            return Err(Error::NotReady("PostgreSQL has ended".to_owned()));
        };
        self.shared.update(|inner| {
            let sealed = Sealed {
                member: self.shared.member.name.clone(),
                guard,
                promised: inner.record.promised,
                wal_epoch: position.wal_epoch,
                lsn: position.lsn,
                held: inner.record.held,
                lineage: position.lineage,
            };
            inner.process = Process::Sealed { promise, position: Some(sealed) };
        });
        Ok(())
    }

    async fn accept(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.record(|r| {
            r.held = r.held.max(epoch);
            r.promised = r.promised.max(epoch);
        })
        .await?;
        let Some(guard) = self.guard() else {
            return Err(Error::NotReady("PostgreSQL has ended".to_owned()));
        };
        self.shared.update(|inner| {
            inner.process =
                Process::Primary { epoch, promoted: false, confirmed: None, writes_open: false };
            inner.claim = Some((epoch, guard));
            inner.lineage = None;
            inner.seen = None;
            inner.crashed = false;
        });
        self.shared.claims.notify_one();
        self.remember(RunRole::Primary { epoch, promoted: None, writes_open: false }).await
    }

    async fn promote(
        &mut self,
        epoch: Epoch,
        sync: &SyncConfig,
        state: &ClusterState,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        // Again, right before the act: time may have passed.
        let leased = self.shared.lock().lease;
        if !leased.is_some_and(|l| l.may_write(epoch, self.shared.clock.now())) {
            return Err(Error::Failed("the lease ran out before the promotion".to_owned()));
        }
        let work = database.promote(epoch, sync, &state.spec);
        let lineage = self.bounded("promotion", SLOW, work).await?;
        let role = RunRole::Primary { epoch, promoted: Some(lineage.clone()), writes_open: false };
        self.shared.update(|inner| {
            if let Process::Primary { promoted, .. } = &mut inner.process {
                *promoted = true;
            }
            inner.lineage = Some(lineage);
        });
        self.shared.problem("promotion", None);
        self.remember(role).await
    }

    async fn confirm_sync(
        &mut self,
        syncs: Vec<SyncConfig>,
        state: &ClusterState,
    ) -> Result<(), Error> {
        let (epoch, writes_open) = match &self.shared.lock().process {
            Process::Primary { epoch, writes_open, .. } => (*epoch, *writes_open),
            _ => return Ok(()),
        };
        let Some(newest) = syncs.last().cloned() else { return Ok(()) };
        let database = self.shared.database.clone();
        let work = database.confirm_sync(epoch, &newest, writes_open, &state.spec);
        let postmaster_start_us = self.bounded("the barrier", QUICK, work).await?;
        self.shared.update(|inner| {
            if let Process::Primary { confirmed, .. } = &mut inner.process {
                *confirmed = Some(Confirmed { syncs, postmaster_start_us });
            }
        });
        Ok(())
    }

    async fn open_writes(&mut self, epoch: Epoch, state: &ClusterState) -> Result<(), Error> {
        let Some(sync) = state.current_sync() else { return Ok(()) };
        let leased = self.shared.lock().lease;
        if !leased.is_some_and(|l| l.may_write(epoch, self.shared.clock.now())) {
            return Err(Error::Failed("the lease ran out before writes were opened".to_owned()));
        }
        let database = self.shared.database.clone();
        let work = database.open_writes(epoch, sync, &state.spec);
        self.bounded("opening for writes", QUICK, work).await?;
        let lineage = self.shared.update(|inner| {
            if let Process::Primary { writes_open, .. } = &mut inner.process {
                *writes_open = true;
            }
            inner.lineage.clone()
        });
        self.care_at = BootTime::default();
        self.remember(RunRole::Primary { epoch, promoted: lineage, writes_open: true }).await
    }

    async fn follow(&mut self, duty: &FollowDuty, state: &ClusterState) -> Result<(), Error> {
        let database = self.shared.database.clone();
        // It takes WAL from here on: what was reported of its position is final no more.
        self.shared.update(|inner| {
            let (epoch, address) = (duty.epoch, duty.address.clone());
            inner.process = Process::Following { epoch, address };
            inner.seen = None;
        });
        self.care_at = BootTime::default();
        let (epoch, address) = (duty.epoch, duty.address.clone());
        self.remember(RunRole::Following { epoch, address }).await?;
        self.bounded("following the primary", QUICK, database.follow(duty, &state.spec)).await
    }

    // ---- replacing data ----

    /// Ends when the state no longer asks for `duty`.
    async fn overtaken(
        mut news: watch::Receiver<Arc<Snapshot>>,
        member: super::Member,
        duty: FollowDuty,
    ) {
        loop {
            let snapshot = news.borrow_and_update().clone();
            let wanted = snapshot.clusters.get(&member.cluster).map(|s| desired(s, &member.name));
            let same = matches!(
                &wanted,
                Some(Desired::Follow(now)) if now.epoch == duty.epoch && now.address == duty.address
            );
            if (wanted.is_some() && !same) || news.changed().await.is_err() {
                return;
            }
        }
    }

    async fn unless_overtaken<V: Send>(
        &self,
        duty: &FollowDuty,
        work: impl Future<Output = Result<V, Error>> + Send,
    ) -> Result<V, Error> {
        let overtaken =
            Self::overtaken(self.news.clone(), self.shared.member.clone(), duty.clone());
        runtime::first_of(vec![
            Box::pin(work),
            Box::pin(async {
                overtaken.await;
                Err(Error::NotReady("the primary has changed".to_owned()))
            }),
        ])
        .await
    }

    async fn rewind(
        &mut self,
        duty: &FollowDuty,
        spec: &crate::domain::state::ClusterSpec,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        // A source that cannot be reached is found out before anything is touched.
        self.bounded("asking the primary", QUICK, database.primary_position(duty)).await?;
        self.shared.update(|inner| inner.busy = Some(Condition::Rewinding));
        self.stop_standby().await?;
        self.record(|r| {
            r.data = DataMark::Replacing;
            r.held = Epoch(0);
            r.promised = r.promised.max(duty.epoch);
        })
        .await?;
        match self.unless_overtaken(duty, database.rewind(duty, spec)).await? {
            Rewound::Done => {
                let source = duty.epoch;
                self.record(|r| r.data = DataMark::Copied { source, until: None }).await
            }
            Rewound::Impossible { why } => {
                warn!(member = %self.shared.member.name, %why, "rewind is impossible: copying instead");
                self.shared.lock().rewind_failed = true;
                Ok(())
            }
        }
    }

    async fn clone_from(
        &mut self,
        duty: &FollowDuty,
        spec: &crate::domain::state::ClusterSpec,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        self.bounded("asking the primary", QUICK, database.primary_position(duty)).await?;
        let source = duty.primary.clone();
        let cloning = move |done_bytes, total_bytes| Condition::Cloning {
            source: source.clone(),
            done_bytes,
            total_bytes,
        };
        self.shared.update(|inner| inner.busy = Some(cloning(0, 0)));
        self.stop_standby().await?;
        self.record(|r| {
            r.data = DataMark::Replacing;
            r.held = Epoch(0);
            r.promised = r.promised.max(duty.epoch);
        })
        .await?;
        let shared = self.shared.clone();
        let progress = Arc::new(move |done, total| {
            shared.update(|inner| inner.busy = Some(cloning(done, total)));
        });
        let copied = self.unless_overtaken(duty, D::clone_from(&database, duty, spec, progress)).await;
        let data = database.inspect().await.unwrap_or(Data::Unknown);
        self.shared.lock().data = data;
        let system_id = copied?;
        self.record(|r| {
            r.data = DataMark::Copied { source: duty.epoch, until: None };
            r.system_id = Some(system_id);
        })
        .await?;
        self.startup_deaths = 0;
        self.shared.update(|inner| {
            inner.unstartable = false;
            inner.rewind_failed = false;
            inner.source_lacks_wal = false;
        });
        Ok(())
    }

    // ---- care ----

    /// What is done while nothing is asked for.
    async fn care(&mut self, state: &ClusterState, snapshot: &Snapshot) -> Pause {
        let wanted = desired(state, &self.shared.member.name);
        let (process, mark, seen) = {
            let inner = self.shared.lock();
            (inner.process.clone(), inner.record.data, inner.seen.clone())
        };
        if let (Desired::Follow(duty), Process::Following { .. }) = (&wanted, &process)
            && let DataMark::Copied { source, until } = mark
            && let Err(error) =
                self.prove_copy(duty, source, until, seen.as_ref().map(|(s, _)| s)).await
        {
            tracing::debug!(%error, "the copy is not proven yet");
        }
        let (primary, others) = match (&wanted, &process) {
            (Desired::Primary(duty), Process::Primary { promoted: true, .. }) => {
                (true, duty.others.clone())
            }
            (Desired::Follow(duty), Process::Following { .. }) => (false, duty.others.clone()),
            _ => return Pause::For(TICK),
        };
        let now = self.shared.clock.now();
        let as_before = self.cared_as.as_ref() == Some(&(primary, others.clone()));
        if now < self.care_at && as_before {
            return Pause::For(TICK);
        }
        let positions =
            snapshot.positions.get(&self.shared.member.cluster).cloned().unwrap_or_default();
        let database = self.shared.database.clone();
        match self
            .bounded("looking after slots", QUICK, database.maintain(&others, &positions))
            .await
        {
            Ok(problems) => {
                self.care_at = now.plus(CARE_EVERY);
                self.cared_as = Some((primary, others));
                let text = (!problems.is_empty()).then(|| problems.join("; "));
                self.shared.problem("maintenance", text);
            }
            Err(Error::NotReady(_)) => self.care_at = now.plus(TICK),
            Err(error) => {
                self.care_at = now.plus(CARE_EVERY);
                self.shared.problem("maintenance", Some(error.to_string()));
            }
        }
        Pause::For(TICK)
    }

    /// A copy counts once it has flushed past a position that the primary had after it ended.
    async fn prove_copy(
        &mut self,
        duty: &FollowDuty,
        source: Epoch,
        until: Option<Lsn>,
        seen: Option<&Seen>,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let Some(Seen::Standby { flushed, replay, streaming: Some(timeline), .. }) = seen else {
            return Ok(());
        };
        match until {
            // A position of an older epoch says nothing of this one.
            Some(lsn) if source == duty.epoch => {
                if timeline.epoch() == duty.epoch && *flushed >= lsn && *replay >= lsn {
                    info!(member = %self.shared.member.name, "the copy is proven: it counts again");
                    self.record(|r| r.data = DataMark::Intact).await?;
                    self.shared.news.notify_one();
                }
                Ok(())
            }
            _ => {
                let work = database.primary_position(duty);
                let (source, lsn) = self.bounded("asking the primary", QUICK, work).await?;
                self.record(|r| r.data = DataMark::Copied { source, until: Some(lsn) }).await?;
                self.shared.wake.notify_one();
                Ok(())
            }
        }
    }
}

/// Data of another cluster, which must not be touched.
fn foreign(state: Option<&ClusterState>, data: &Data) -> Option<String> {
    match (state?.system_id, data) {
        (Some(expected), Data::Present { system_id }) if expected != *system_id => Some(format!(
            "the data directory has system identifier {system_id}, and the cluster's is {expected}: \
             move it away, or join the cluster that it belongs to"
        )),
        _ => None,
    }
}
