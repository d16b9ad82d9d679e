//! Carries out what `domain::reconcile` asks for, one action at a time.

mod adopt;
mod care;
mod end;
mod generation;
mod heed;
mod hooks;
mod lead;
mod register;
mod replace;
mod retire;
mod room;
mod settings;
mod standby;
mod take_over;

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::driver::{Database, Error, RunRole, RunState, StartMode, Tree};
use super::hooks::end_of;
use super::poll::{Known, Snapshot};
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::desired::{Desired, bound_elsewhere, desired_on};
use crate::domain::observation::Data;
use crate::domain::reconcile::{Action, EndReason, Process, reconcile};
use crate::domain::record::MemberRecord;
use crate::domain::state::{ClusterState, Phase, Stage};
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId};
use crate::runtime::{self, Runtime};
use crate::session::{Client, Transport};
use crate::watch;

/// How often the worker looks without being woken.
const TICK: Duration = Duration::from_millis(500);
/// Pause after PostgreSQL was not ready.
const NOT_READY: Duration = Duration::from_millis(15);
/// First and longest pause after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// First and longest time for which no epoch is accepted after the operator's program has declined
/// a promotion.
const DECLINED_MIN: Duration = Duration::from_secs(2);
const DECLINED_MAX: Duration = Duration::from_secs(30);
/// How often slots are looked after.
const CARE_EVERY: Duration = Duration::from_secs(5);
/// The epoch of the timeline that `initdb` begins.
const FIRST_EPOCH: Epoch = Epoch(1);
/// How long the last report may take to leave.
const FAREWELL: Duration = Duration::from_millis(300);
/// How often in a row PostgreSQL may end before it was ready, until its data is given up.
const STARTUP_DEATHS_MAX: u32 = 5;
/// And for how long.
const STARTUP_TROUBLE: Duration = Duration::from_secs(60);
/// How long one attempt to seal may take, and all of them until the process tree is killed.
const SEAL: Duration = Duration::from_secs(10);
const SEAL_MAX: Duration = Duration::from_secs(5);
/// How long one registration may take.
const REGISTER: Duration = Duration::from_secs(4);
/// How long a quick action of the database may take.
const QUICK: Duration = Duration::from_secs(10);
/// How long an upstream may take to answer, right before it is followed.
const UPSTREAM: Duration = Duration::from_millis(1500);
/// How long starting, sealing, promoting, or stopping may take.
const SLOW: Duration = Duration::from_secs(60);
/// What becomes of a member that was removed.
const KEPT: &str = "PostgreSQL is stopped, and its data kept";

pub(super) async fn run<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: Arc<Shared<D, C>>,
    client: Client<T>,
    known: Known,
    stop: watch::Receiver<bool>,
) {
    let mut worker = Worker::<RT, T, D, C>::new(shared, client, &known, stop);
    worker.begin().await;
    let obeyed = worker.shared.lock().record.generation;
    known.raise(obeyed);
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
    /// As what it was last cared for.
    cared_as: Option<CaredAs>,
    /// The epoch that ended, and whether by itself, until its end is recorded.
    ending: Option<(Epoch, bool)>,
    /// How often in a row PostgreSQL ended before it was ready, and when it first did.
    startup_deaths: u32,
    dying_since: BootTime,
    /// Whether PostgreSQL has ended by itself, and nobody has looked why yet.
    ended_itself: bool,
    /// How often in a row it ended without room on its disks.
    starved: u32,
    /// The promise that is being sealed for, and since when.
    sealing: Option<Sealing>,
    /// The action that is under way, or was last.
    doing: Option<Action>,
    /// Standbys that a copy was begun from since the last one that was proven, and when: the next
    /// is taken from elsewhere.
    spent_sources: BTreeMap<MemberName, BootTime>,
    /// How late the running standby is known to apply WAL, in milliseconds.
    delay_ms: Option<u64>,
    /// What was remembered of what runs.
    run: Option<RunState>,
    /// How often in a row it was found to have turned to a timeline that is not agreed.
    astray: u32,
    /// The data that was taken over, in this life of the agent.
    adopted: Option<SystemId>,
    /// The leadership that was seen last: its epoch, whether it is closed, and how far it is.
    tenure: Option<(Epoch, bool, Stage)>,
    /// The epoch before whose promotion the operator's program has run.
    hooked: Option<Epoch>,
    /// How many promotions in a row that program has declined, and until when none is accepted.
    declined: u32,
    accept_at: BootTime,
    stop: watch::Receiver<bool>,
    runtime: PhantomData<fn() -> RT>,
}

/// Whether as a primary, by which revision of the specification, and who else was heard of.
type CaredAs = (bool, u64, Vec<(MemberName, bool)>);

/// An attempt to seal that goes on.
#[derive(Debug, Clone, Copy)]
struct Sealing {
    promise: Epoch,
    /// Since when nothing has moved.
    since: BootTime,
    /// How far replay was seen to be.
    replay: Lsn,
}

fn tenure_of(state: Option<&Arc<ClusterState>>) -> Option<(Epoch, bool, Stage)> {
    let tenure = state?.tenure.as_ref()?;
    Some((tenure.epoch, tenure.closed.is_some(), tenure.stage))
}

/// What a step leaves to wait for.
enum Pause {
    /// Look again at once.
    None,
    /// Look again after this long, or when something changes.
    For(Duration),
    /// Look again after this long, or when the leadership changes.
    Firmly(Duration),
}

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    fn new(
        shared: Arc<Shared<D, C>>,
        client: Client<T>,
        known: &Known,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
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
            dying_since: BootTime::default(),
            ended_itself: false,
            starved: 0,
            sealing: None,
            doing: None,
            spent_sources: BTreeMap::new(),
            delay_ms: None,
            run: None,
            astray: 0,
            adopted: None,
            tenure: None,
            hooked: None,
            declined: 0,
            accept_at: BootTime::default(),
            stop,
            runtime: PhantomData,
        }
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
            // Deaf to what failed, not to a state that asks for something else.
            let (cluster, before) = (self.shared.member.cluster.clone(), self.tenure);
            let Self { tree, news, stop, .. } = self;
            runtime::first_of(vec![
                Box::pin(tree.another()),
                Box::pin(stop.another()),
                Box::pin(async {
                    loop {
                        news.another().await;
                        let snapshot = news.borrow_and_update().clone();
                        if tenure_of(snapshot.clusters.get(&cluster)) != before {
                            return;
                        }
                    }
                }),
                Box::pin(RT::sleep(limit)),
            ])
            .await;
            return;
        }
        let Self { tree, news, shared, stop, .. } = self;
        runtime::first_of(vec![
            Box::pin(stop.another()),
            Box::pin(tree.another()),
            Box::pin(news.another()),
            Box::pin(shared.wake.notified()),
            Box::pin(RT::sleep(limit)),
        ])
        .await;
    }

    async fn step(&mut self) -> Pause {
        self.notice_end();
        let cluster = self.shared.member.cluster.clone();
        let state = self.news.borrow().clusters.get(&cluster).cloned();
        self.register(state.as_deref()).await;
        let snapshot = self.news.borrow_and_update().clone();
        let state = match self.obeys(snapshot.generation).await {
            true => snapshot.clusters.get(&cluster).cloned(),
            false => None,
        };
        self.notice_tenure(tenure_of(state.as_ref()));
        let by_hand = {
            let inner = &mut *self.shared.lock();
            if std::mem::take(&mut inner.drifted)
                && let Process::Primary { confirmed, .. } = &mut inner.process
            {
                // Written, reloaded, and confirmed by a barrier once more.
                *confirmed = None;
            }
            inner.promoted_by_hand.then(|| "somebody promoted it by hand".to_owned())
        };
        let polluted = self.shared.lock().polluted.clone();
        if let Some(why) = by_hand.clone().or(polluted) {
            let outcome = self.disown_data(&why).await;
            if outcome.is_ok() {
                // Not before it is on disk: what is not trusted must not be forgotten.
                let inner = &mut *self.shared.lock();
                (inner.promoted_by_hand, inner.polluted) = (false, None);
            }
            if by_hand.is_some() && outcome.is_ok() {
                self.shared.notice(NoticeCode::PromotedByHand, why);
            }
            return self.after(outcome);
        }
        let now = self.shared.clock.now();
        if let Some(pause) = self.heed_stranger().await
            && state.as_ref().is_none_or(|s| s.phase != Phase::AwaitingMembers)
        {
            return pause;
        }
        let Some(state) = state else {
            if snapshot.removed.contains(&cluster) {
                let why = format!("cluster {cluster} was removed from the control plane: {KEPT}");
                return self.leave(why, now).await;
            }
            // Nothing is known of the control plane yet: what runs goes on, as long as its lease.
            return self.step_blindly(now).await;
        };
        let (name, node) = (&self.shared.member.name, &self.shared.options.node);
        let wanted = desired_on(&state, name, node);
        if wanted == Desired::Removed {
            let why = match bound_elsewhere(&state, name, node) {
                Some(other) => format!(
                    "member {name} of cluster {cluster} belongs to node {other}, and this is node \
                     {node}: {KEPT}; give the member of this node another name, or remove the \
                     other one first"
                ),
                None => format!("this member was removed from cluster {cluster}: {KEPT}"),
            };
            return self.leave(why, now).await;
        }
        self.shared.problem("membership", None);
        self.forget_another_life(&state).await;
        if let Some(pause) = self.enter_life(&state).await {
            return pause;
        }
        if let Some(pause) = self.look_at_adoptable(&state).await {
            return pause;
        }
        // Not in the condition: the lock would be held through the body, which takes it again.
        let data = self.shared.lock().data.clone();
        if let Some(foreign) = foreign(&state, &data) {
            self.shared.problem("data", Some(foreign));
            return Pause::For(TICK);
        }
        self.remember_ready().await;
        if let Err(error) = self.record_bootstrap_hook().await {
            tracing::debug!(%error, "it is not recorded yet that a hook has run");
        }
        self.note_upstream(&wanted, now);
        let action = reconcile(&self.shared.member.name, &wanted, &self.shared.local(), now);
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

    /// Nothing is known of an upstream that was not asked in this epoch.
    fn note_upstream(&self, wanted: &Desired, now: BootTime) {
        let Desired::Follow(duty) = wanted else { return };
        let mut inner = self.shared.lock();
        let Some(upstream) = &duty.upstream else { return inner.upstream.forget() };
        let there = Process::Following { epoch: duty.epoch, address: upstream.address.clone() };
        let there = inner.process == there;
        inner.upstream.ask(duty.epoch, upstream, there, now);
    }

    /// What failed under one leadership says nothing of the next.
    fn notice_tenure(&mut self, tenure: Option<(Epoch, bool, Stage)>) {
        if tenure == self.tenure {
            return;
        }
        let epoch = |t: &Option<(Epoch, bool, Stage)>| t.as_ref().map(|t| t.0);
        if epoch(&tenure) != epoch(&self.tenure) {
            let mut inner = self.shared.lock();
            inner.rewind_failed = false;
            inner.source_lacks_wal = false;
        }
        self.failures = 0;
        self.tenure = tenure;
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
            // A tree that the fence or the kernel's timer killed did not crash.
            let now = self.shared.clock.now();
            let leased = inner.lease.is_some_and(|lease| lease.may_write(epoch, now));
            self.ending = Some((epoch, inner.hung || (leased && inner.claim.is_some())));
            inner.role_ended = Some(end_of(epoch, inner.lease, now));
        }
        let unready = inner.primary_epoch().is_none() && !inner.was_ready;
        let now = self.shared.clock.now();
        if self.startup_deaths == 0 {
            self.dying_since = now;
        }
        self.startup_deaths = if unready { self.startup_deaths.saturating_add(1) } else { 0 };
        self.ended_itself = true;
        inner.claim = None;
        inner.process = Process::Ending;
        drop(inner);
        self.shared.survey.notify_one();
        self.shared.notice(NoticeCode::Ended, how);
    }

    async fn carry_out(
        &mut self,
        action: Action,
        state: &ClusterState,
        snapshot: &Snapshot,
    ) -> Pause {
        let spec = &state.spec;
        self.doing = Some(action.clone());
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
            Action::Accept { epoch } => {
                let wait = self.accept_at.since(self.shared.clock.now());
                if !wait.is_zero() {
                    // Others are tried meanwhile.
                    return Pause::For(wait.min(TICK));
                }
                self.accept(epoch).await
            }
            Action::Promote { epoch, sync } => {
                let outcome = match self.before_promotion(epoch).await {
                    hooks::Verdict::LookAgain => return Pause::None,
                    hooks::Verdict::GiveUp(why) => {
                        self.hold_back();
                        Err(Error::Failed(why))
                    }
                    hooks::Verdict::GoOn => {
                        self.declined = 0;
                        self.promote(epoch, &sync, state).await
                    }
                };
                return match outcome {
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
            Action::Adopt { system_id, epoch } => return self.adopt(system_id, epoch, state).await,
            Action::Retire => return self.retire().await,
            Action::Follow(duty) => self.follow(&duty, state).await,
            Action::Rewind(duty) => {
                let work = self.rewind(&duty, spec).await;
                self.shared.update(|inner| inner.busy = None);
                work
            }
            Action::Restart => {
                let text = "it is restarted, as the operator asked".to_owned();
                self.shared.notice(NoticeCode::Restarted, text);
                self.stop_standby().await
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
    async fn remember(&mut self, role: RunRole) -> Result<(), Error> {
        let (guard, ready) = {
            let inner = self.shared.lock();
            (inner.guard.clone(), inner.was_ready)
        };
        let Some(guard) = guard else { return Ok(()) };
        let run = RunState { guard, role, ready };
        self.bounded("writing what runs", QUICK, self.shared.database.save_run(&run)).await?;
        self.run = Some(run);
        Ok(())
    }

    /// An agent that takes over what runs has to know that it did answer: else it would take a
    /// server that hangs for one that starts, for ever.
    async fn remember_ready(&mut self) {
        let role = {
            let inner = self.shared.lock();
            let told = |run: &&RunState| !run.ready && inner.guard.as_ref() == Some(&run.guard);
            self.run.as_ref().filter(told).filter(|_| inner.was_ready).map(|run| run.role.clone())
        };
        if let Some(role) = role
            && let Err(error) = self.remember(role).await
        {
            tracing::debug!(%error, "it is not remembered that PostgreSQL answers");
        }
    }

    fn guard(&self) -> Option<GuardId> {
        self.shared.lock().guard.clone()
    }
}

/// Data of another cluster, which must not be touched.
fn foreign(state: &ClusterState, data: &Data) -> Option<String> {
    match (state.system_id, data) {
        (Some(expected), Data::Present { system_id }) if expected != *system_id => Some(format!(
            "the data directory has system identifier {system_id}, and the cluster's is {expected}: \
             move it away, or join the cluster that it belongs to"
        )),
        _ => None,
    }
}
