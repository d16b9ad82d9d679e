//! The driver of a real database: PostgreSQL under its guard.
//!
//! Owns [`PgDatabase`], the production implementation of [`Database`]: it strings the steps of
//! `crate::postgres` and `crate::guard` together, and decides nothing. May import the domain, the
//! configuration (`settings.rs` only), PostgreSQL, the guard and the clock.
//!
//! ```text
//!   settings  error           what it is told, what it tells
//!   places  record            directories and files beside the data directory
//!   conf                      PostgreSQL's settings for what the member has to be
//!   specification  catalogue  the operator's part of them, whether PostgreSQL takes it; what it knows
//!   process                   guard and postmaster: start, attach, kill, prove, stop
//!   lead  hand_over  seal     changes of leadership
//!   replica                   initdb, follow, rewind, copy, and questions to the primary
//!   survey                    room on disks, and what is kept aside
//!   observe  health           what it is, and whether it works
//!   upkeep                    what changes slowly, looked after from time to time:
//!   objects                   roles, databases and extensions that have to exist
//!   slots  impostor  repair     slots of the other members, strangers, settings by hand
//!   next_start                  whether PostgreSQL would start again
//!   hooks                     programs of the operator
//!   wal                         what is kept too long: by slots, or since it is not archived
//! ```

// This module talks to the real machine only, so it may use tokio's tasks and timers directly.
#![allow(clippy::disallowed_methods)]

mod adopt;
mod catalogue;
mod conf;
mod error;
mod hand_over;
mod health;
mod hooks;
mod impostor;
mod lead;
mod next_start;
mod objects;
mod observe;
mod places;
mod process;
mod record;
mod repair;
mod replica;
mod seal;
mod settings;
mod slots;
mod specification;
mod survey;
mod upkeep;
mod wal;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::driver::{
    Asked, Attached, Care, CopyRoom, Database, Emptiness, Error, Examined, Position, Progress,
    Rewound, RunRole, RunState, Seen, StartMode, Started, Survey, Tree, Upkeep,
};
use super::hooks::Hooks;
use crate::domain::adoption::Adoptable;
use crate::domain::alarm::{NOTICES_MAX, NoticeCode};
use crate::domain::catalogue::Catalogue;
use crate::domain::desired::{FollowDuty, Upstream};
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::lineage::Lineage;
use crate::domain::observation::Data;
use crate::domain::record::MemberRecord;
use crate::domain::state::ClusterSpec;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, GuardId, Lsn, MemberName, SystemId};
use crate::postgres::barrier;
use crate::postgres::binaries::Binaries;
use crate::postgres::connect::Target;
use crate::postgres::os_user::OsUser;
use crate::postgres::sql::Session;
use crate::watch;
use error::Result;
use process::Guarded;
pub use settings::{Error as SettingsError, REPLICATION_USER, REWIND_USER, SUPERUSER, Settings};

/// How long a statement of ours may take where nothing else is said.
const STATEMENT: Duration = Duration::from_secs(2);

/// A member's PostgreSQL, its data directory and its guard.
pub struct PgDatabase {
    settings: Settings,
    /// The user that PostgreSQL runs as.
    user: OsUser,
    /// Ourselves: the owner of what PostgreSQL must not change.
    owner: OsUser,
    binaries: Binaries,
    tree: Arc<watch::Sender<Tree>>,
    /// The guard that runs, if one does. Arming and killing need nothing but it.
    guarded: Mutex<Option<Guarded>>,
    memory: Arc<Mutex<Memory>>,
    /// The order in which the member's record, and PostgreSQL's settings, are written.
    record_turn: Arc<Turn>,
    run_turn: Arc<Turn>,
    settings_turn: Arc<Turn>,
    worker: Held,
    observer: Held,
    probes: health::Probes,
    surveyor: Arc<survey::Surveyor>,
    hooks: Arc<hooks::Programs>,
}

/// What is remembered between calls. None of it is needed for safety.
#[derive(Default)]
struct Memory {
    /// Bytes of a WAL segment; 0 where not read yet.
    segment_bytes: u64,
    /// The operator's part of the settings, and what PostgreSQL says to it.
    trial: specification::Trial,
    /// The setting for which all walsenders of this life of the guard were begun anew.
    refreshed: Option<lead::Refreshed>,
    /// The setting for which they are being begun anew, and who began before it.
    refreshing: Option<(lead::Refreshed, barrier::Old)>,
    /// Whether the first checkpoint of this tree as a primary was asked for.
    checkpointed: bool,
    /// Whether this tree was started here, and whether the one before it never answered.
    started: bool,
    never_answered: bool,
    /// What the running standby follows, and how that goes.
    following: Option<observe::Following>,
    /// The settings of the running standby for when it has found its primary.
    settled: Option<conf::Files>,
    /// Whether the running server is known to take connections, and to be a primary.
    known: observe::Known,
    /// When a reload was asked for last, on the server's clock; 0 for none in this life of it.
    reloaded_us: i64,
    /// Whether files were written that the running server was not told to read yet.
    reload_due: bool,
    /// Settings that the start raises, on the command line: see `start::raise_to_floor`.
    raised: std::collections::BTreeMap<String, u64>,
    /// What our files were last made from.
    installed: Option<conf::Files>,
    /// What the server was when it was taken over.
    taken_over: Option<RunRole>,
    /// Why the primary's settings have to be confirmed again, though its own view of them is right.
    doubted: Option<String>,
    /// Slots of the other members.
    slots: slots::Watch,
    /// Roles, databases and extensions that have to exist.
    objects: objects::Watch,
    /// Whether PostgreSQL would start again.
    next_start: next_start::Watch,
    /// Who calls itself a member.
    impostors: impostor::Watch,
    /// Commits that were found to be weakened, and when that was looked for.
    weakened: upkeep::Weakened,
    /// What was done, to be told with the next upkeep.
    notices: VecDeque<(NoticeCode, String)>,
    /// How long PostgreSQL's logs were when it was started.
    log_marks: survey::LogMarks,
    /// What a copy of a primary was found to need of late.
    copy_need: Option<survey::CopyNeed>,
}

impl Memory {
    /// Who confirms commits was changed by somebody else. Walsenders may have seen that: all are
    /// begun anew, and a barrier follows.
    fn doubt(&mut self, why: &str) {
        self.doubted = Some(why.to_owned());
        (self.refreshed, self.refreshing) = (None, None);
    }

    /// Remembers what was done, for the next upkeep to tell.
    fn note(&mut self, code: NoticeCode, text: String) {
        self.notices.push_back((code, text));
        while self.notices.len() > NOTICES_MAX {
            self.notices.pop_front();
        }
    }
}

/// A place for a session that is kept open between calls. A call takes it out while it works, so
/// that no lock is held meanwhile; one that is dropped midway drops its connection with it.
#[derive(Default)]
struct Held(Mutex<Option<Session>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed by what runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    fn take(&self, target: impl FnOnce() -> Target) -> Session {
        lock(&self.0).take().unwrap_or_else(|| Session::new(target(), STATEMENT))
    }

    fn put(&self, session: Session) {
        *lock(&self.0) = Some(session);
    }

    fn close(&self) {
        *lock(&self.0) = None;
    }
}

/// Runs file operations, which can wait for the disk, where they hold up no task.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::Machine(format!("a file operation was not finished: {e}")))
}

/// Writes in the order in which they were asked for. A write that its caller has given up goes on
/// in its thread: it must not land after a later one.
#[derive(Default)]
struct Turn {
    newest: AtomicU64,
    writing: Mutex<()>,
}

impl Turn {
    async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let number = self.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let turn = self.clone();
        let done = blocking(move || {
            let _writing = lock(&turn.writing);
            (turn.newest.load(Ordering::SeqCst) == number).then(work)
        });
        done.await?.ok_or_else(|| Error::NotReady("a later write has overtaken this".to_owned()))
    }
}

impl PgDatabase {
    /// Looks for the user and the programs, and makes the directories beside the data directory.
    ///
    /// # Errors
    /// [`Error::Machine`]: the user, a program or a directory is missing or not usable.
    pub async fn new(settings: Settings) -> Result<Self> {
        let user = OsUser::resolve(settings.run_as.as_deref()).map_err(error::run)?;
        let owner = OsUser::current().map_err(error::run)?;
        let binaries = Binaries::find(settings.bin_dir.as_deref(), None, &user)
            .await
            .map_err(|e| Error::Machine(e.to_string()))?;
        let hooks = hooks::Programs::new(&settings, &user).map_err(error::run)?;
        let database = Self {
            settings,
            user,
            owner,
            binaries,
            tree: Arc::new(watch::Sender::new(Tree::None)),
            guarded: Mutex::new(None),
            memory: Arc::new(Mutex::new(Memory::default())),
            record_turn: Arc::default(),
            run_turn: Arc::default(),
            settings_turn: Arc::default(),
            worker: Held::default(),
            observer: Held::default(),
            probes: health::Probes::default(),
            surveyor: Arc::default(),
            hooks,
        };
        database.prepare().await?;
        Ok(database)
    }

    fn target(&self) -> Target {
        Target {
            socket_dir: self.settings.layout.socket_dir.clone(),
            port: self.settings.port,
            login: self.settings.credentials.superuser.clone(),
            dbname: "postgres".to_owned(),
        }
    }

    /// See [`Memory::note`].
    fn note(&self, code: NoticeCode, text: String) {
        lock(&self.memory).note(code, text);
    }

    /// The session for changes. Put it back where what was asked of it has ended.
    fn take_worker(&self) -> Session {
        self.worker.take(|| self.target())
    }

    /// Forgets what was true of the process tree that is gone.
    fn forget_tree(&self) {
        for held in [&self.worker, &self.observer] {
            held.close();
        }
        self.probes.forget();
        let mut memory = lock(&self.memory);
        let started = std::mem::take(&mut memory.started);
        memory.never_answered = started && !memory.known.answered;
        memory.refreshed = None;
        memory.refreshing = None;
        memory.checkpointed = false;
        memory.following = None;
        memory.settled = None;
        memory.known = observe::Known::default();
        memory.installed = None;
        memory.reloaded_us = 0;
        memory.reload_due = false;
        memory.taken_over = None;
        memory.doubted = None;
        memory.slots = slots::Watch::default();
        memory.next_start = next_start::Watch::default();
        memory.impostors = impostor::Watch::default();
        memory.weakened = upkeep::Weakened::default();
    }
}

impl Database for PgDatabase {
    async fn load_record(&self) -> Result<Option<MemberRecord>> {
        self.read_record().await
    }

    async fn save_record(&self, record: &MemberRecord) -> Result<()> {
        self.write_record(record).await
    }

    async fn save_run(&self, run: &RunState) -> Result<()> {
        self.write_run(run).await
    }

    async fn inspect(&self) -> Result<Data> {
        self.look().await
    }

    async fn attach(&self) -> Result<std::result::Result<Attached, Emptiness>> {
        self.take_over().await
    }

    async fn initialise(&self, spec: &ClusterSpec) -> Result<SystemId> {
        self.make_data(spec).await
    }

    async fn adoptable(&self) -> Result<Adoptable> {
        self.look_for_adoption().await
    }

    async fn keep_configuration(&self) -> Result<()> {
        self.put_aside().await
    }

    async fn turn_off_starters(&self) -> Result<Option<String>> {
        self.turn_off().await
    }

    async fn holds_wal_from(&self, timeline: Epoch, lsn: Lsn) -> Result<bool> {
        self.look_for_wal(timeline, lsn).await
    }

    async fn adopt(&self, system_id: SystemId, epoch: Epoch) -> Result<()> {
        self.take_on(system_id, epoch).await
    }

    async fn stranger(&self) -> Result<Option<i32>> {
        self.look_for_stranger().await
    }

    async fn examine(&self) -> Result<Examined> {
        self.look_into().await
    }

    async fn start(&self, mode: &StartMode, spec: &ClusterSpec) -> Result<Started> {
        self.start_under_guard(mode, spec).await
    }

    fn version(&self) -> String {
        self.binaries.version().full.clone()
    }

    fn hooks(&self) -> Arc<dyn Hooks> {
        self.hooks.clone()
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

    async fn seal(&self, promise: Epoch, spec: &ClusterSpec) -> Result<Position> {
        self.seal_standby(promise, spec).await
    }

    async fn check_standby(
        &self,
        duty: &FollowDuty,
        standby: &Upstream,
        spec: &ClusterSpec,
    ) -> Result<()> {
        self.ask_standby(duty, standby, spec).await
    }

    async fn follow(&self, duty: &FollowDuty, spec: &ClusterSpec) -> Result<()> {
        self.follow_primary(duty, spec).await
    }

    async fn reload(&self, _spec: &ClusterSpec) -> Result<Option<String>> {
        self.read_again().await
    }

    async fn promote(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        spec: &ClusterSpec,
    ) -> Result<Lineage> {
        self.promote_standby(epoch, sync, spec).await
    }

    async fn confirm_sync(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        writes_open: bool,
        spec: &ClusterSpec,
    ) -> Result<i64> {
        self.confirm(epoch, sync, writes_open, spec).await
    }

    async fn open_writes(&self, epoch: Epoch, sync: &SyncConfig, spec: &ClusterSpec) -> Result<()> {
        self.lift_hold(epoch, sync, spec).await
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

    async fn room_for_copy(&self, duty: &FollowDuty) -> Result<CopyRoom> {
        self.look_for_room(duty).await
    }

    async fn survey(&self) -> Result<Survey> {
        self.survey_disks().await
    }

    async fn settings_to_blame(&self) -> Result<bool> {
        PgDatabase::settings_to_blame(self).await
    }

    async fn said_no_room(&self) -> Result<bool> {
        self.last_words().await
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

    async fn vitals(&self, since: Option<BootTime>) -> Vitals {
        self.see_vitals(since).await
    }

    async fn checkpointer(&self) -> (Activity, bool) {
        self.see_checkpointer().await
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        self.read_catalogue().await
    }

    async fn advance_slots(&self, members: &[(MemberName, Lsn)]) -> Result<()> {
        self.release_wal(members).await
    }

    async fn maintain(&self, care: &Care) -> Result<Upkeep> {
        // Large, and seldom run: it is not to make every future around it as large.
        Box::pin(self.look_after(care)).await
    }
}
