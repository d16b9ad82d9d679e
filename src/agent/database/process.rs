//! The process tree: guard and postmaster.
//!
//! Owns the only handle on the guard. Arming and killing take it out of a lock that is held for a
//! clone, and wait for the guard alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use super::error::{self, Result, timed_out};
use super::observe::Following;
use super::specification::may_be_too_low;
use super::{PgDatabase, blocking, lock};
use crate::agent::driver::{Attached, Emptiness, Error, StartMode, Started, Tree};
use crate::domain::observation::Fencing;
use crate::domain::state::ClusterSpec;
use crate::domain::types::{BootTime, GuardId};
use crate::guard::{
    self, Credentials, FencingKind, GuardClient, Proof, ProofError, Refusal, StartSpec, TreeState,
};
use crate::postgres::conf;
use crate::postgres::controldata;
use crate::postgres::files;
use crate::postgres::start::{self, ServerIs, Signal};

/// Longest wait for a new guard.
const SPAWN: Duration = Duration::from_secs(10);
/// Longest wait for a guard that may live. No lease is longer than this without a renewal, and a
/// guard that cannot be asked cannot be armed.
const ATTACH: Duration = Duration::from_secs(5);
/// How long the guard may take to kill its tree, before it is killed itself: that ends the tree as
/// well, and nothing waits for the guard.
const KILL: Duration = Duration::from_millis(200);
/// Longest wait for the proof that a tree is empty.
const PROOF: Duration = Duration::from_secs(10);
/// How long a guard may take to see what the kernel has already said of its tree.
const DISMISSAL: Duration = Duration::from_millis(500);
/// How long a standby may take to stop in order.
const STOP: Duration = Duration::from_secs(5);
/// How long what is left may take where a proof can rest on a lock alone, see
/// [`PgDatabase::prove_without_guard`].
const SETTLE: Duration = Duration::from_secs(1);

/// A guard with the tree that it runs.
#[derive(Clone)]
pub(super) struct Guarded {
    pub client: GuardClient,
    pub fencing: FencingKind,
    /// Cleared when this tree is told as gone: what is heard of it later says nothing of the next.
    current: Arc<AtomicBool>,
}

impl Guarded {
    fn new(client: GuardClient, fencing: FencingKind) -> Self {
        Self { client, fencing, current: Arc::new(AtomicBool::new(true)) }
    }
}

impl PgDatabase {
    fn guarded(&self) -> Option<Guarded> {
        lock(&self.guarded).clone()
    }

    /// The guard that runs, where one does.
    pub(super) fn client(&self) -> Option<GuardClient> {
        self.guarded().map(|g| g.client)
    }

    pub(super) fn running(&self) -> Result<GuardClient> {
        let running = *self.tree.borrow() == Tree::Running;
        self.client()
            .filter(|_| running)
            .ok_or_else(|| Error::Failed("PostgreSQL does not run".to_owned()))
    }

    /// Takes the guard as ours, and tells how its tree goes on from here.
    fn adopt(&self, client: GuardClient, fencing: FencingKind) {
        let changes = client.watch();
        let guarded = Guarded::new(client, fencing);
        let current = guarded.current.clone();
        *lock(&self.guarded) = Some(guarded);
        self.tree.send_replace(Tree::Running);
        let tree = self.tree.clone();
        // Ends with the tree.
        tokio::spawn(async move {
            let how = ended(changes).await;
            tree.send_if_modified(|now| {
                let running = *now == Tree::Running && current.load(Ordering::SeqCst);
                if running {
                    *now = Tree::Ending { how };
                }
                running
            });
        });
    }

    pub(super) async fn take_over(&self) -> Result<std::result::Result<Attached, Emptiness>> {
        if let Some(held) = self.guarded() {
            let status = held.client.status().await.map_err(error::guard)?;
            return Ok(Ok(self.attached(&held, status.deadline).await));
        }
        let run_dir = &self.settings.guard_dir;
        let found = match GuardClient::attach(run_dir, ATTACH).await {
            Ok(Some(client)) => match client.status().await {
                Ok(status) => Some((client, status)),
                Err(e) => {
                    warn!(error = %e, "the guard does not answer: its process tree is ended");
                    None
                }
            },
            Ok(None) => None,
            Err(e) => {
                warn!(error = %e, "the guard does not answer: its process tree is ended");
                None
            }
        };
        let Some((client, status)) = found else {
            return Ok(Err(self.prove_without_guard().await?));
        };
        if let (TreeState::Running, Some(fencing)) = (status.tree, status.fencing) {
            info!(guard = %client.guard_id(), "a running PostgreSQL is taken over");
            self.forget_tree();
            self.mark_logs().await?;
            self.adopt(client.clone(), fencing);
            let held = Guarded::new(client, fencing);
            let attached = self.attached(&held, status.deadline).await;
            if let Some(run) = &attached.run {
                let mut memory = lock(&self.memory);
                memory.following = Following::of_run(&run.role);
                memory.taken_over = Some(run.role.clone());
            }
            return Ok(Ok(attached));
        }
        // Remains only: what has begun to end is never run again.
        let fencing = status.fencing.unwrap_or(FencingKind::BestEffort);
        *lock(&self.guarded) = Some(Guarded::new(client, fencing));
        self.kill_tree().await?;
        Ok(Err(self.prove_tree_empty().await?))
    }

    async fn attached(&self, held: &Guarded, kill_at: Option<BootTime>) -> Attached {
        let guard = held.client.guard_id().clone();
        let run = self.read_run(&guard).await;
        Attached { guard, fencing: fencing(held.fencing), kill_at, run }
    }

    pub(super) async fn start_under_guard(
        &self,
        mode: &StartMode,
        spec: &ClusterSpec,
    ) -> Result<Started> {
        if self.client().is_some() {
            return Err(Error::Failed("a process tree is there already".to_owned()));
        }
        let expected = self.read_record().await?.and_then(|r| r.system_id);
        let (role, following) = match mode {
            StartMode::Sealed { promise } => (conf::Role::Sealed { promised: *promise }, None),
            StartMode::Following(duty) => {
                (self.standby_role(duty, false)?, Some(Following::new(duty.streams_from().1)))
            }
        };
        let settings = &self.settings;
        let (control, removed) = start::preflight(
            &self.binaries,
            &self.user,
            &settings.layout,
            expected,
            &settings.listen_addresses,
            settings.port,
        )
        .await
        .map_err(error::start)?;
        if !removed.is_empty() {
            info!(?removed, "history files of timelines that were never written are removed");
        }
        self.prepare().await?;
        let died = std::mem::take(&mut lock(&self.memory).never_answered);
        if died {
            self.note_death().await?;
        }
        let files = self.files_at_start(role, self.standby_sync(), spec).await?;
        let (layout, user) = (settings.layout.clone(), self.user.clone());
        let (installed, operator) = (files.clone(), files.operator());
        let install = move || {
            // It never starts as a primary.
            start::set_signal(&layout, &user, Signal::Standby)?;
            start::install(&layout, &user, &files.settings, &files.rules, ServerIs::Stopped)
        };
        self.settings_turn.write(install).await?.map_err(error::start)?;
        let floor = settings.layout.pgdata.join(conf::FLOOR_FILE);
        let raised = blocking(move || files::read_if_exists(&floor)).await?.map_err(error::file)?;
        // What was raised once is judged anew: the operator may want more by now.
        let raised = raised.is_some_and(|text| text != conf::HEADER.as_bytes());
        let auto = settings.layout.pgdata.join("postgresql.auto.conf");
        let auto = blocking(move || files::read_if_exists(&auto)).await?.map_err(error::file)?;
        // ALTER SYSTEM has precedence over every file of ours.
        let by_hand = names_any(&auto.unwrap_or_default(), control.floor.keys().copied());
        lock(&self.memory).raised = Default::default();
        if died || raised || by_hand || may_be_too_low(&control.floor, &operator) {
            // A standby must not have less than its WAL allows: it would not start, or stop
            // replaying.
            let work =
                start::raise_to_floor(&self.binaries, &self.user, &settings.layout, &control);
            let raised = work.await.map_err(error::start)?;
            if !raised.is_empty() {
                warn!(?raised, "settings are raised: a standby of this data needs as much");
            }
            lock(&self.memory).raised = raised;
        }

        self.forget_tree();
        self.mark_logs().await?;
        self.note_start(operator);
        {
            let mut memory = lock(&self.memory);
            memory.segment_bytes = control.segment_bytes;
            memory.following = following;
            memory.installed = Some(installed);
            memory.started = true;
        }
        let client = GuardClient::spawn(&settings.guard_program, &settings.guard_dir, SPAWN)
            .await
            .map_err(error::guard)?;
        let status = match client.start(&self.guard_spec()?).await {
            Ok(status) => status,
            Err(e) => {
                // It is adopted all the same, so that the caller's proof finds what is left of it.
                let fencing = FencingKind::BestEffort;
                *lock(&self.guarded) = Some(Guarded::new(client, fencing));
                self.tree.send_replace(Tree::Ending { how: e.to_string() });
                if let Err(e) = self.kill_tree().await {
                    warn!(error = %e, "a process tree that did not start could not be killed");
                }
                if let Err(e) = self.prove_tree_empty().await {
                    warn!(error = %e, "a process tree that did not start is not proven empty");
                }
                return Err(error::guard(e));
            }
        };
        let guard = client.guard_id().clone();
        let kind = status.fencing.unwrap_or(FencingKind::BestEffort);
        self.adopt(client, kind);
        Ok(Started { guard, fencing: fencing(kind) })
    }

    fn guard_spec(&self) -> Result<StartSpec> {
        let spec = start::spec(&self.binaries, &self.user, &self.settings.layout);
        let text = |s: &std::ffi::OsStr| {
            s.to_str().map(str::to_owned).ok_or_else(|| {
                Error::Machine(format!("{} is not valid UTF-8", s.to_string_lossy()))
            })
        };
        let mut argv = vec![text(spec.program.as_os_str())?];
        for arg in &spec.args {
            argv.push(text(arg)?);
        }
        for (name, value) in &lock(&self.memory).raised {
            // The file of the floor would give way to postgresql.auto.conf.
            argv.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let mut env = Vec::new();
        for (name, value) in &spec.env {
            env.push((text(name)?, text(value)?));
        }
        let credentials =
            spec.user.map(|u| Credentials { uid: u.uid, gid: u.gid, groups: u.groups });
        Ok(StartSpec {
            program: spec.program,
            argv,
            env,
            credentials,
            working_dir: spec.dir,
            log_file: spec.log_file,
            umask: spec.umask,
            cgroup: None,
            best_effort: self.settings.best_effort,
            only: None,
        })
    }

    pub(super) async fn move_deadline(&self, guard: &GuardId, kill_at: BootTime) -> Result<()> {
        let Some(client) = self.client().filter(|client| client.guard_id() == guard) else {
            return Err(Error::Failed(format!("no process tree of {guard:?} is there")));
        };
        match client.arm(kill_at).await {
            Ok(_) => Ok(()),
            // A later renewal has overtaken this one.
            Err(guard::Error::Refused(Refusal::DeadlineBackwards { .. })) => Ok(()),
            Err(e) => Err(error::guard(e)),
        }
    }

    pub(super) async fn kill_tree(&self) -> Result<()> {
        let Some(client) = self.client() else { return Ok(()) };
        let asked = tokio::time::timeout(KILL, client.kill()).await;
        match asked.unwrap_or(Err(guard::Error::TimedOut { after: KILL })) {
            Ok(()) | Err(guard::Error::Refused(Refusal::NotRunning | Refusal::TreeEnded)) => Ok(()),
            Err(e) => {
                warn!(error = %e, "the guard does not answer: it is killed with its tree");
                let killed =
                    guard::prove_empty(&self.settings.guard_dir, true, Duration::ZERO).await;
                match killed {
                    // Signalled; whether they are gone is for the proof to tell.
                    Ok(_) | Err(ProofError::TreeAlive { .. } | ProofError::GuardAlive { .. }) => {
                        Ok(())
                    }
                    Err(e) => Err(Error::Machine(e.to_string())),
                }
            }
        }
    }

    pub(super) async fn prove_tree_empty(&self) -> Result<Emptiness> {
        let Some(Guarded { client, fencing, .. }) = self.guarded() else {
            let emptiness = self.prove_without_guard().await?;
            self.tell_no_tree();
            return Ok(emptiness);
        };
        let mut emptiness = if fencing.is_fence() { Emptiness::Proven } else { Emptiness::Assumed };
        match client.empty(PROOF).await {
            Ok(()) => {
                // The kernel has said so. The guard hears it in its own time.
                let begun = Instant::now();
                loop {
                    match client.exit().await {
                        Ok(()) | Err(guard::Error::Lost) => break,
                        Err(guard::Error::Refused(Refusal::TreeAlive))
                            if begun.elapsed() < DISMISSAL =>
                        {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        // It may be stopped. Its tree is empty for good, so it can be killed.
                        Err(_) => {
                            emptiness = self.prove_without_guard().await?;
                            break;
                        }
                    }
                }
                self.remove_stale_locks().await?;
            }
            Err(guard::Error::NotEmpty { after }) => {
                return Err(timed_out("the end of the process tree", after));
            }
            Err(e) => {
                warn!(error = %e, "the guard cannot tell whether its tree is empty");
                emptiness = self.prove_without_guard().await?;
            }
        }
        if let Some(gone) = lock(&self.guarded).take() {
            gone.current.store(false, Ordering::SeqCst);
        }
        self.forget_tree();
        self.tell_no_tree();
        Ok(emptiness)
    }

    /// That there still is no tree is no news: whoever failed after an earlier proof would be woken
    /// to fail again at once.
    fn tell_no_tree(&self) {
        let told = |now: &mut Tree| std::mem::replace(now, Tree::None) != Tree::None;
        self.tree.send_if_modified(told);
    }

    /// Where no guard can be asked: kills what is left of it, and proves its tree empty from what
    /// it left on disk.
    async fn prove_without_guard(&self) -> Result<Emptiness> {
        let dir = &self.settings.guard_dir;
        match guard::prove_empty(dir, true, PROOF).await {
            Ok(Proof::Empty) => self.remove_stale_locks().await.map(|()| Emptiness::Proven),
            // PostgreSQL's own lock is left alone: it is all that would stop a second server.
            Ok(Proof::NeverRan) => Ok(Emptiness::Assumed),
            Ok(Proof::Assumed) => {
                // The fence was best-effort, which the operator has accepted; or guard and init
                // lived in a PID namespace that is gone. The kernel then kills what was below that
                // init just after it drops the init's lock.
                tokio::time::sleep(SETTLE).await;
                warn!(dir = %dir.display(), "the end of an earlier process tree is assumed");
                Ok(Emptiness::Assumed)
            }
            Err(ProofError::TreeAlive { .. } | ProofError::GuardAlive { .. }) => {
                Err(timed_out("the end of the process tree", PROOF))
            }
            Err(e) => Err(Error::Machine(e.to_string())),
        }
    }

    /// Only after a proof.
    async fn remove_stale_locks(&self) -> Result<()> {
        let (layout, port) = (self.settings.layout.clone(), self.settings.port);
        blocking(move || start::remove_stale_locks(&layout, port))
            .await?
            .map(drop)
            .map_err(error::start)
    }

    /// Waits until the postmaster has ended. Returns whether it has.
    pub(super) async fn ends_within(&self, wait: Duration) -> bool {
        let mut tree = self.tree.subscribe();
        let ended = tree.wait_for(|t| *t != Tree::Running);
        tokio::time::timeout(wait, ended).await.is_ok()
    }

    pub(super) async fn stop_standby(&self) -> Result<()> {
        let Ok(client) = self.running() else { return Ok(()) };
        if client.signal(libc::SIGINT).await.is_ok() && self.ends_within(STOP).await {
            return Ok(());
        }
        self.kill_and_wait().await
    }

    /// Kills the tree and waits until the postmaster has ended.
    pub(super) async fn kill_and_wait(&self) -> Result<()> {
        self.kill_tree().await?;
        if self.ends_within(PROOF).await {
            Ok(())
        } else {
            Err(timed_out("the end of the postmaster", PROOF))
        }
    }

    /// Bytes of a WAL segment of the data directory.
    pub(super) async fn segment_bytes(&self) -> Result<u64> {
        let known = lock(&self.memory).segment_bytes;
        if known != 0 {
            return Ok(known);
        }
        let pgdata = &self.settings.layout.pgdata;
        let control =
            controldata::read(&self.binaries, &self.user, pgdata).await.map_err(error::control)?;
        lock(&self.memory).segment_bytes = control.segment_bytes;
        Ok(control.segment_bytes)
    }
}

/// Waits until the tree does not run any more, and says why.
async fn ended(mut changes: watch::Receiver<TreeState>) -> String {
    let over = |state: &TreeState| {
        matches!(state, TreeState::PostmasterExited(_) | TreeState::Empty(_) | TreeState::Lost)
    };
    match changes.wait_for(over).await.as_deref() {
        Ok(TreeState::PostmasterExited(exit) | TreeState::Empty(Some(exit))) => {
            format!("the postmaster ended with {exit}")
        }
        Ok(TreeState::Empty(None)) => "the process tree was killed".to_owned(),
        _ => "the guard is lost".to_owned(),
    }
}

/// Whether a file of settings names any of these.
fn names_any<'a>(text: &[u8], mut names: impl Iterator<Item = &'a str>) -> bool {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    names.any(|name| text.contains(name))
}

fn fencing(kind: FencingKind) -> Fencing {
    match kind {
        FencingKind::PidNamespace => Fencing::PidNamespace,
        FencingKind::Cgroup => Fencing::Cgroup,
        FencingKind::BestEffort => Fencing::BestEffort,
    }
}
