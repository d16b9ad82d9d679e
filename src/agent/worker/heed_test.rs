use std::future::pending;
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::agent::driver::{
    Asked, Attached, Care, CopyRoom, Emptiness, Position, Progress, Rewound, RunState, Seen,
    StartMode, Started, Survey, Upkeep,
};
use crate::agent::poll::Known;
use crate::agent::{Member, Options};
use crate::clock::BootClock;
use crate::domain::command::Change;
use crate::domain::fixture_test::{Bench, SYSTEM, cluster, follow_duty, guard, m};
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::lease::HolderLease;
use crate::domain::lineage::Lineage;
use crate::domain::observation::{Confirmed, Data};
use crate::domain::record::MemberRecord;
use crate::domain::state::{CloseReason, ClusterSpec, ClusterState, Tags};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{Epoch, GuardId, Lsn, NodeName, SystemId};
use crate::runtime::BootRuntime;
use crate::session::Client;
use crate::session::wire::{Method, TransportError};

type Outcome<T> = std::result::Result<T, Error>;

/// A database whose upkeep, and whose barrier, never end; everything else does at once.
struct Hangs {
    tree: watch::Sender<Tree>,
    begun: watch::Sender<u32>,
    /// What was asked for, and what was dropped before it ended.
    calls: Mutex<Vec<&'static str>>,
}

/// Notes that it was dropped.
struct Dropped<'a>(&'a Hangs);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.call("dropped");
    }
}

impl Hangs {
    fn call(&self, what: &'static str) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn hang<V>(&self) -> V {
        let _dropped = Dropped(self);
        self.begun.send_if_modified(|n| {
            *n += 1;
            true
        });
        pending().await
    }
}

fn no<V>() -> Outcome<V> {
    Err(Error::Failed("no test asks for it".to_owned()))
}

impl Database for Hangs {
    async fn load_record(&self) -> Outcome<Option<MemberRecord>> {
        no()
    }
    async fn save_record(&self, _: &MemberRecord) -> Outcome<()> {
        Ok(())
    }
    async fn save_run(&self, _: &RunState) -> Outcome<()> {
        Ok(())
    }
    async fn inspect(&self) -> Outcome<Data> {
        Ok(Data::Present { system_id: SYSTEM })
    }
    async fn attach(&self) -> Outcome<std::result::Result<Attached, Emptiness>> {
        no()
    }
    async fn initialise(&self, _: &ClusterSpec) -> Outcome<SystemId> {
        no()
    }
    async fn start(&self, _: &StartMode, _: &ClusterSpec) -> Outcome<Started> {
        no()
    }
    fn tree(&self) -> watch::Receiver<Tree> {
        self.tree.subscribe()
    }
    async fn arm(&self, _: &GuardId, _: BootTime) -> Outcome<()> {
        Ok(())
    }
    async fn kill(&self) -> Outcome<()> {
        self.call("kill");
        Ok(())
    }
    async fn stop(&self) -> Outcome<()> {
        self.call("stop");
        Ok(())
    }
    async fn prove_empty(&self) -> Outcome<Emptiness> {
        Ok(Emptiness::Proven)
    }
    async fn seal(&self, _: Epoch, _: &ClusterSpec) -> Outcome<Position> {
        no()
    }
    async fn follow(&self, _: &FollowDuty, _: &ClusterSpec) -> Outcome<()> {
        self.hang().await
    }
    async fn promote(&self, _: Epoch, _: &SyncConfig, _: &ClusterSpec) -> Outcome<Lineage> {
        no()
    }
    async fn confirm_sync(
        &self,
        _: Epoch,
        _: &SyncConfig,
        _: bool,
        _: &ClusterSpec,
    ) -> Outcome<i64> {
        self.hang().await
    }
    async fn open_writes(&self, _: Epoch, _: &SyncConfig, _: &ClusterSpec) -> Outcome<()> {
        no()
    }
    async fn hand_over(&self, _: &crate::domain::types::MemberName, _: &Asked) -> Outcome<()> {
        self.call("hand_over");
        Ok(())
    }
    async fn may_rewind(&self, _: &FollowDuty) -> Outcome<()> {
        no()
    }
    async fn rewind(&self, _: &FollowDuty, _: &ClusterSpec) -> Outcome<Rewound> {
        no()
    }
    async fn clone_from(&self, _: &FollowDuty, _: &ClusterSpec, _: Progress) -> Outcome<SystemId> {
        no()
    }
    async fn room_for_copy(&self, _: &FollowDuty) -> Outcome<CopyRoom> {
        no()
    }
    async fn survey(&self) -> Outcome<Survey> {
        no()
    }
    async fn said_no_room(&self) -> Outcome<bool> {
        Ok(false)
    }
    async fn primary_position(&self, _: &FollowDuty) -> Outcome<(Epoch, Lsn)> {
        no()
    }
    async fn observe(&self) -> Outcome<Seen> {
        no()
    }
    async fn ask(&self, _: Question, _: Duration) -> Answer {
        Answer::TimedOut
    }
    async fn vitals(&self, _: Option<BootTime>) -> Vitals {
        pending().await
    }
    async fn checkpointer(&self) -> (Activity, bool) {
        (Activity::Unknown, false)
    }
    async fn maintain(&self, _: &Care) -> Outcome<Upkeep> {
        self.hang().await
    }
}

struct Nobody;

impl Transport for Nobody {
    async fn call(
        &self,
        _: &str,
        _: Method,
        _: Vec<u8>,
        _: Duration,
    ) -> std::result::Result<Vec<u8>, TransportError> {
        Err(TransportError::TimedOut)
    }
}

type OneWorker = Worker<BootRuntime, Nobody, Hangs, BootClock>;

/// Member `a`, with its worker and what moves it.
struct World {
    bench: Bench,
    database: Arc<Hangs>,
    shared: Arc<Shared<Hangs, BootClock>>,
    known: Known,
    stop: watch::Sender<bool>,
    index: u64,
}

impl World {
    /// `a` is the primary that is open in epoch 2, with a lease of an hour.
    fn primary() -> (Self, OneWorker) {
        let bench = Bench::active("a b c", 1);
        let state = bench.state();
        let registered = &state.members[&m("a")];
        let member = Member {
            cluster: cluster(),
            name: m("a"),
            address: registered.address.clone(),
            agent_address: None,
            priority: 0,
            tags: Tags::default(),
            adopt: false,
            spec: state.spec.clone(),
        };
        let (_, node_alarms) = watch::channel(Vec::new());
        let options = Options {
            node: NodeName::new("node-a").unwrap(),
            report_every: Duration::from_secs(1),
            hung_after: Duration::from_secs(5),
            node_alarms,
        };
        let database = Arc::new(Hangs {
            tree: watch::Sender::new(Tree::Running),
            begun: watch::Sender::new(0),
            calls: Mutex::default(),
        });
        let (known, clock) = (Known::new(), Arc::new(BootClock));
        let shared =
            Arc::new(Shared::new(member, options, database.clone(), known.clone(), clock.clone()));
        {
            let mut inner = shared.lock();
            inner.record.held = Epoch(2);
            inner.record.promised = Epoch(2);
            inner.record.system_id = Some(SYSTEM);
            inner.data = Data::Present { system_id: SYSTEM };
            inner.guard = Some(guard(b'a'));
            inner.loaded = true;
            inner.was_ready = true;
            inner.claim = Some((Epoch(2), guard(b'a')));
            let confirmed = Confirmed { syncs: state.syncs.clone(), postmaster_start_us: 1 };
            inner.process = Process::Primary {
                epoch: Epoch(2),
                promoted: true,
                confirmed: Some(confirmed),
                writes_open: true,
            };
        }
        let (stop, stopping) = watch::channel(false);
        let client = Client::new(Arc::new(Nobody), vec!["nobody:1".to_owned()]);
        let worker = OneWorker::new(shared.clone(), client, &known, stopping);
        let mut world = Self { bench, database, shared, known, stop, index: 0 };
        world.lease_for(Duration::from_secs(3600));
        world.publish();
        (world, worker)
    }

    fn lease_for(&self, left: Duration) {
        let at = self.shared.clock.now().plus(left);
        let lease = HolderLease { epoch: Epoch(2), stop_at: at, kill_at: at };
        self.shared.lock().lease = Some(lease);
        self.shared.wake.notify_one();
    }

    /// The agent hears of what the bench agrees on.
    fn publish(&mut self) {
        self.publish_state(self.bench.state().clone());
    }

    fn publish_state(&mut self, state: ClusterState) {
        self.index += 1;
        let clusters = [(cluster(), Arc::new(state))].into();
        self.known.take(Snapshot { index: self.index, clusters, ..Snapshot::default() });
    }

    /// Takes a step of the worker in which its work hangs, and has `change` happen meanwhile.
    async fn step_overtaken(&mut self, worker: &mut OneWorker, change: impl FnOnce(&mut Self)) {
        let mut begun = self.database.begun.subscribe();
        let mut pause = None;
        let step = async {
            pause = Some(worker.step().await);
        };
        tokio::join!(step, async {
            begun.another().await;
            change(self);
        });
        assert!(matches!(pause, Some(super::super::Pause::None | super::super::Pause::For(_))));
        assert_eq!(self.database.calls(), ["dropped"]);
        // What runs out of its time is told: this did not.
        assert_eq!(self.shared.lock().problems.get("maintenance"), None);
        assert_eq!(self.shared.lock().problems.get("action"), None);
    }

    async fn then(&self, worker: &mut OneWorker, call: &str) {
        worker.step().await;
        assert_eq!(self.database.calls()[1], call);
    }
}

#[tokio::test]
async fn upkeep_is_left_for_a_switchover() {
    let (mut world, mut worker) = World::primary();
    world
        .step_overtaken(&mut worker, |world| {
            world.bench.ok(Change::StartSwitchover {
                expect_epoch: Epoch(2),
                target: m("b"),
                by: "test".to_owned(),
            });
            world.publish();
        })
        .await;
    world.then(&mut worker, "hand_over").await;
}

#[tokio::test]
async fn upkeep_is_left_when_the_epoch_is_closed() {
    let (mut world, mut worker) = World::primary();
    world
        .step_overtaken(&mut worker, |world| {
            world.bench.close(CloseReason::Failover, false);
            world.publish();
        })
        .await;
    world.then(&mut worker, "kill").await;
}

#[tokio::test]
async fn upkeep_is_left_when_the_tree_ends() {
    let (mut world, mut worker) = World::primary();
    world
        .step_overtaken(&mut worker, |world| {
            world.database.tree.send_replace(Tree::Ending { how: "a test".to_owned() });
        })
        .await;
    world.then(&mut worker, "kill").await;
    assert_eq!(world.shared.lock().process, Process::Down);
    // Its end, which is handled, overtakes nothing any more.
    assert!(worker.unless_ended(async {}).await.is_some());
}

#[tokio::test]
async fn upkeep_is_left_when_the_lease_runs_out() {
    let (mut world, mut worker) = World::primary();
    world.step_overtaken(&mut worker, |world| world.lease_for(Duration::from_millis(20))).await;
    world.then(&mut worker, "kill").await;
}

#[tokio::test]
async fn upkeep_is_left_when_postgresql_is_given_up() {
    let (mut world, mut worker) = World::primary();
    world
        .step_overtaken(&mut worker, |world| {
            world.shared.lock().hung = true;
            world.shared.wake.notify_one();
        })
        .await;
    world.then(&mut worker, "kill").await;
}

#[tokio::test]
async fn upkeep_is_left_when_the_agent_stops() {
    let (mut world, mut worker) = World::primary();
    world.step_overtaken(&mut worker, |world| _ = world.stop.send_replace(true)).await;
}

#[tokio::test]
async fn a_barrier_is_left_when_the_epoch_is_closed() {
    let (mut world, mut worker) = World::primary();
    if let Process::Primary { confirmed, .. } = &mut world.shared.lock().process {
        *confirmed = None;
    }
    world
        .step_overtaken(&mut worker, |world| {
            world.bench.close(CloseReason::Failover, false);
            world.publish();
        })
        .await;
    world.then(&mut worker, "kill").await;
}

#[tokio::test]
async fn what_puts_a_drift_right_is_not_left_for_it() {
    let (world, worker) = World::primary();
    let now = world.shared.clock.now();
    if let Process::Primary { confirmed, .. } = &mut world.shared.lock().process {
        *confirmed = None;
    }
    let syncs = world.bench.state().syncs.clone();
    let mut heed = worker.heed(Some(Action::ConfirmSync { syncs }));
    assert!(!heed.is_overtaken(now));
    world.shared.lock().drifted = true;
    assert!(!heed.is_overtaken(now));
    assert!(worker.heed(Some(Action::Nothing { why: "a test" })).is_overtaken(now));
}

#[tokio::test]
async fn news_that_ask_for_nothing_else_leave_the_work_alone() {
    let (mut world, mut worker) = World::primary();
    let mut heed = worker.heed(Some(Action::Nothing { why: "a test" }));
    assert!(!heed.is_overtaken(world.shared.clock.now()));
    let mut state = world.bench.state().clone();
    state.spec_revision += 1;
    world.publish_state(state);
    world.shared.wake.notify_one();
    let quiet = BootRuntime::timeout(Duration::from_millis(50), heed.overtaken::<BootRuntime>());
    assert!(quiet.await.is_err());
    // Who was woken is the worker: it is told again.
    drop(heed);
    let woken = BootRuntime::timeout(Duration::from_secs(60), world.shared.wake.notified());
    assert!(woken.await.is_ok());
    // It may still be asked to follow under its duty; another epoch overtakes that.
    let following = Some(Action::Follow(follow_duty(2)));
    assert!(worker.heed(following).is_overtaken(world.shared.clock.now()), "it leads itself");
    worker.doing = None;
    assert!(!worker.is_overtaken());
}
