//! The driver of a simulated database: the modelled PostgreSQL under the modelled guard.
//!
//! Owns [`SimDatabase`], the simulator's implementation of [`Database`]. It strings the steps
//! together that production does (`src/agent/database`), in the same order and with the same
//! bounds, and decides nothing. What runs outlives the daemon: it belongs to a [`Machine`].
//! [`Databases`] has all machines, and is told what happens to their power.
//!
//! ```text
//!   registry                  who is where, and what travels as a value
//!   machine  links  files     guard, PostgreSQL, connections, files beside the data
//!   remote  servers           questions of other members; sessions of applications
//!   faults                    what can be done to a machine
//!   settings  process  seal  lead  replica  observe  upkeep
//!                             the steps of the driver, as production has them
//! ```

mod faults;
mod files;
mod lead;
mod links;
mod machine;
mod observe;
mod process;
mod registry;
mod remote;
mod replica;
mod seal;
mod servers;
mod settings;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_world::exec;
use quorate_world::pg::{Settings, Tail};
use quorate_world::schedule::{self, Node, Topology};

use crate::agent::Member;
use crate::agent::driver::{
    Asked, Attached, Care, CopyRoom, Database, Emptiness, Error, Examined, Position, Progress,
    Rewound, RunState, Seen, StartMode, Started, Survey, Tree, Upkeep,
};
use crate::domain::alarm::NoticeCode;
use crate::domain::desired::{FollowDuty, Upstream};
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::lineage::Lineage;
use crate::domain::observation::Data;
use crate::domain::record::MemberRecord;
use crate::domain::state::ClusterSpec;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId};
use crate::node::{MakeDatabase, Place, Surroundings};
use crate::watch;

pub use machine::Machine;

type Result<T> = std::result::Result<T, Error>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed by what runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is remembered between calls, in one life of the daemon. None of it is needed for safety.
#[derive(Default)]
struct Memory {
    /// The guard that is ours.
    guard: Option<GuardId>,
    /// The guard and the setting with which all its walsenders run.
    refreshed: Option<(GuardId, String)>,
    /// Whether the first checkpoint of this tree as a primary was asked for.
    checkpointed: bool,
    following: Option<observe::Following>,
    /// The settings of the running standby for when it has found its primary.
    settled: Option<Settings>,
    installed: Option<Settings>,
    known_primary: bool,
    slots: upkeep::Watch,
    notices: Vec<(NoticeCode, String)>,
}

/// A member's database, in one life of its daemon.
pub struct SimDatabase {
    member: MemberName,
    machine: Machine,
    tree: Arc<watch::Sender<Tree>>,
    memory: Arc<Mutex<Memory>>,
    turn: Arc<files::Turn>,
}

impl SimDatabase {
    fn new(member: MemberName, machine: Machine) -> Self {
        Self {
            member,
            machine,
            tree: Arc::new(watch::Sender::new(Tree::None)),
            memory: Arc::default(),
            turn: Arc::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    fn shared_memory(&self) -> Arc<Mutex<Memory>> {
        self.memory.clone()
    }

    /// Forgets what was true of the process tree that is gone.
    fn forget_tree(&self) {
        let mut memory = self.memory();
        let (guard, notices) = (memory.guard.take(), std::mem::take(&mut memory.notices));
        *memory = Memory { guard, notices, ..Memory::default() };
    }

    fn note(&self, code: NoticeCode, text: String) {
        self.memory().notices.push((code, text));
    }
}

/// All machines with a member. Clones are handles of the same machines.
#[derive(Clone, Default)]
pub struct Databases {
    registry: registry::Registry,
    machines: Arc<Mutex<BTreeMap<Node, Machine>>>,
}

impl Databases {
    /// No machine yet: they come with the world.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine of a node that has a member.
    pub fn machine(&self, node: Node) -> Option<Machine> {
        lock(&self.machines).get(&node).cloned()
    }
}

impl MakeDatabase for Databases {
    type Database = SimDatabase;

    async fn open(&self, place: &Place, member: &Member) -> Result<Arc<SimDatabase>> {
        let Some(machine) = self.machine(place.node) else {
            return Err(Error::Machine(format!("there is no place for {}", member.name)));
        };
        machine.lag((1_000, 20_000)).await;
        Ok(Arc::new(SimDatabase::new(member.name.clone(), machine)))
    }

    fn machine_died(&self, place: &Place, torn: bool) {
        if let Some(machine) = self.machine(place.node) {
            // Of what was not synced a part can have come to the disk by itself.
            let most = if torn { 8 } else { 0 };
            let records = exec::with_rng(place.machine, |rng| rng.between(0, most)) as usize;
            machine.power_lost(Tail { records });
        }
    }

    fn machine_started(&self, place: &Place) {
        if let Some(machine) = self.machine(place.node) {
            machine.power_back();
        }
    }

    fn begin(&self, place: &Place, number: usize, fault: &schedule::Kind) {
        if let Some(machine) = self.machine(place.node) {
            machine.begin_fault(number, fault);
        }
    }

    fn end(&self, place: &Place, number: usize, _: &schedule::Kind) {
        if let Some(machine) = self.machine(place.node) {
            machine.end_fault(number);
        }
    }

    fn built(&self, surroundings: &Surroundings) {
        for node in surroundings.plan.topology.members() {
            let Some(place) = surroundings.places.get(node) else { continue };
            self.registry.host(Topology::node_name(node).as_str(), place.machine);
            let observer = surroundings.observer.clone();
            let machine = Machine::new(place, observer, self.registry.clone());
            lock(&self.machines).insert(node, machine);
        }
    }
}

impl Database for SimDatabase {
    async fn load_record(&self) -> Result<Option<MemberRecord>> {
        self.machine.lag((100, 1_000)).await;
        Ok(self.machine.lock().files.record().cloned())
    }

    async fn save_record(&self, record: &MemberRecord) -> Result<()> {
        self.machine.write_record(&self.turn, record).await
    }

    async fn save_run(&self, run: &RunState) -> Result<()> {
        self.machine.write_run(run).await
    }

    async fn inspect(&self) -> Result<Data> {
        self.look().await
    }

    async fn attach(&self) -> Result<std::result::Result<Attached, Emptiness>> {
        self.take_over().await
    }

    async fn initialise(&self, _spec: &ClusterSpec) -> Result<SystemId> {
        self.make_data().await
    }

    async fn examine(&self) -> Result<Examined> {
        self.look_into().await
    }

    async fn start(&self, mode: &StartMode, _spec: &ClusterSpec) -> Result<Started> {
        self.start_under_guard(mode).await
    }

    fn tree(&self) -> watch::Receiver<Tree> {
        self.tree.subscribe()
    }

    async fn arm(&self, guard: &GuardId, kill_at: BootTime) -> Result<()> {
        self.move_deadline(guard, kill_at).await
    }

    async fn kill(&self) -> Result<()> {
        self.kill_tree().await
    }

    async fn stop(&self) -> Result<()> {
        self.stop_standby().await
    }

    async fn prove_empty(&self) -> Result<Emptiness> {
        self.prove_tree_empty().await
    }

    async fn seal(&self, promise: Epoch, _spec: &ClusterSpec) -> Result<Position> {
        self.seal_standby(promise).await
    }

    async fn check_standby(
        &self,
        duty: &FollowDuty,
        standby: &Upstream,
        spec: &ClusterSpec,
    ) -> Result<()> {
        self.ask_standby(duty, standby, spec).await
    }

    async fn follow(&self, duty: &FollowDuty, _spec: &ClusterSpec) -> Result<()> {
        self.follow_primary(duty).await
    }

    async fn promote(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        _spec: &ClusterSpec,
    ) -> Result<Lineage> {
        self.promote_standby(epoch, sync).await
    }

    async fn confirm_sync(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        writes_open: bool,
        _spec: &ClusterSpec,
    ) -> Result<i64> {
        self.confirm(epoch, sync, writes_open).await
    }

    async fn open_writes(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        _spec: &ClusterSpec,
    ) -> Result<()> {
        self.lift_hold(epoch, sync).await
    }

    async fn hand_over(&self, target: &MemberName, asked: &Asked) -> Result<()> {
        self.stop_for(target, asked).await
    }

    async fn may_rewind(&self, duty: &FollowDuty) -> Result<()> {
        self.await_primary(duty, true).await.map(drop)
    }

    async fn rewind(&self, duty: &FollowDuty, _spec: &ClusterSpec) -> Result<Rewound> {
        self.turn_back(duty).await
    }

    async fn clone_from(
        &self,
        duty: &FollowDuty,
        _spec: &ClusterSpec,
        progress: Progress,
    ) -> Result<SystemId> {
        self.copy_member(duty, progress).await
    }

    async fn room_for_copy(&self, _duty: &FollowDuty) -> Result<CopyRoom> {
        self.look_for_room().await
    }

    async fn survey(&self) -> Result<Survey> {
        self.survey_disks().await
    }

    async fn said_no_room(&self) -> Result<bool> {
        Ok(self.machine.lock().said_no_room)
    }

    async fn primary_position(&self, duty: &FollowDuty) -> Result<(Epoch, Lsn)> {
        self.ask_primary(duty).await
    }

    async fn observe(&self) -> Result<Seen> {
        self.see().await
    }

    async fn ask(&self, question: Question, patience: Duration) -> Answer {
        self.ask_question(question, patience).await
    }

    async fn vitals(&self, _since: Option<BootTime>) -> Vitals {
        self.see_vitals().await
    }

    async fn checkpointer(&self) -> (Activity, bool) {
        self.see_checkpointer()
    }

    async fn advance_slots(&self, members: &[(MemberName, Lsn)]) -> Result<()> {
        self.release_wal(members).await
    }

    async fn maintain(&self, care: &Care) -> Result<Upkeep> {
        self.look_after(care).await
    }
}
