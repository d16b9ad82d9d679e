//! The process tree: guard and postmaster.

use std::time::Duration;

use quorate_world::exec;
use quorate_world::pg::guard::Refusal;
use quorate_world::pg::{DataDir, Mode};

use super::machine::{Inner, Machine, TreeNews, timed_out};
use super::observe::Following;
use super::settings::Role;
use super::{Memory, SimDatabase};
use crate::agent::driver::{Attached, Emptiness, Error, StartMode, Started, Tree};
use crate::domain::observation::Fencing;
use crate::domain::types::{BootTime, GuardId, Timeline};
use crate::raft::AsyncRuntime as _;
use crate::{Rt, runtime};

/// Longest wait for the proof that a tree is empty.
const PROOF: Duration = Duration::from_secs(10);
/// How long a standby may take to stop in order.
const STOP: Duration = Duration::from_secs(5);
/// How long the guard may take to answer.
const GUARD: Duration = Duration::from_secs(1);
/// From a kill until no process is left: 14 to 22 ms were measured.
const DEATH_US: (u64, u64) = (8_000, 22_000);

/// Takes away histories that a starting server would take for its own although it has no WAL of
/// them (`remove_unwritten` of production's `postgres::history`).
fn remove_unwritten(dir: &mut DataDir) -> Vec<Timeline> {
    let own = dir.control.newest_timeline();
    let mut newest = dir.histories.newest(own);
    let mut removed = Vec::new();
    while newest > own && dir.wal.log(newest).is_none() {
        dir.histories.remove(newest);
        removed.push(newest);
        newest.0 -= 1;
    }
    removed
}

fn guard_id(inner: &Inner) -> Option<GuardId> {
    inner.host.guard().map(|g| g.id.clone())
}

impl SimDatabase {
    /// Whether the tree of our guard runs.
    pub(super) fn running(&self) -> Result<GuardId, Error> {
        let running = *self.tree.borrow() == Tree::Running;
        let guard = self.memory().guard.clone().filter(|_| running);
        guard.ok_or_else(|| Error::Failed("PostgreSQL does not run".to_owned()))
    }

    pub(super) fn refuse_running(&self) -> Result<(), Error> {
        match self.memory().guard {
            Some(_) => Err(Error::Failed("a process tree is there".to_owned())),
            None => Ok(()),
        }
    }

    /// Takes the guard as ours, and tells how its tree goes on from here.
    fn adopt(&self, guard: GuardId) {
        let mut news = self.machine.lock().tree.subscribe();
        self.memory().guard = Some(guard.clone());
        self.tree.send_replace(Tree::Running);
        let (tree, memory) = (self.tree.clone(), self.shared_memory());
        // Ends with the tree.
        drop(Rt::spawn(async move {
            let over = news.wait_for(|news| *news != TreeNews::Running).await;
            let how = match &over {
                Ok(TreeNews::Ended { how }) => how.clone(),
                _ => "the guard is lost".to_owned(),
            };
            tree.send_if_modified(|now| {
                let current = super::lock(&memory).guard.as_ref() == Some(&guard);
                let running = *now == Tree::Running && current;
                if running {
                    *now = Tree::Ending { how };
                }
                running
            });
        }));
    }

    /// Waits until the guard answers; one that is stopped does not.
    async fn ask_guard(&self) -> Result<(), Error> {
        self.machine.lag((60, 600)).await;
        let answers = || self.machine.lock().host.guard().is_none_or(|g| g.answers);
        if answers() {
            return Ok(());
        }
        Rt::sleep(GUARD).await;
        if answers() { Ok(()) } else { Err(timed_out("the guard's answer", GUARD)) }
    }

    pub(super) async fn take_over(&self) -> Result<Result<Attached, Emptiness>, Error> {
        let answered = self.ask_guard().await;
        let (guard, alive, kill_at) = {
            let inner = self.machine.lock();
            let guard = inner.host.guard().cloned();
            let running = inner.host.server.run().is_some_and(|run| run.postmaster.alive);
            let kill_at = guard.as_ref().and_then(|g| g.kill_at);
            (guard.map(|g| g.id), running && answered.is_ok(), kill_at)
        };
        match guard {
            Some(id) if alive => {
                let run = self.machine.lock().files.run(&id);
                {
                    let mut memory = self.memory();
                    *memory = Memory { guard: None, ..Memory::default() };
                    memory.following = run
                        .as_ref()
                        .and_then(|run| Following::of_run(&run.role, self.machine.now()));
                }
                self.adopt(id.clone());
                let fencing = Fencing::PidNamespace;
                Ok(Ok(Attached { guard: id, fencing, kill_at, run }))
            }
            Some(id) => {
                // Remains only: what has begun to end is never run again.
                self.memory().guard = Some(id);
                self.kill_tree().await?;
                Ok(Err(self.prove_tree_empty().await?))
            }
            None => Ok(Err(self.prove_without_guard().await?)),
        }
    }

    pub(super) async fn start_under_guard(&self, mode: &StartMode) -> Result<Started, Error> {
        self.refuse_running()?;
        let (role, following) = match mode {
            StartMode::Sealed { promise } => (Role::Sealed(*promise), None),
            StartMode::Following(duty) => {
                let following = Following::new(duty.streams_from().1, self.machine.now());
                (Role::Standby(duty, false), Some(following))
            }
        };
        self.machine.lag((8_000, 40_000)).await;
        self.machine.write_disk(true).await?;
        let settings = self.settings(&role);
        {
            let mut inner = self.machine.lock();
            let expected = inner.files.record().and_then(|r| r.system_id);
            if let Some(why) = &inner.files.incomplete {
                return Err(Error::Failed(format!("it cannot be started: {why}")));
            }
            let disk = inner.host.server.env().disk;
            let Some(dir) = inner.host.server.dir_mut() else {
                return Err(Error::Failed("there is no data directory".to_owned()));
            };
            let found = dir.control.system_id;
            if let Some(expected) = expected.filter(|e| *e != found) {
                return Err(Error::Failed(format!("{found} is not of this cluster {expected}")));
            }
            if disk.full {
                return Err(Error::Machine("No space left on device".to_owned()));
            }
            let removed = remove_unwritten(dir);
            dir.conf = settings.clone();
            // It never starts as a primary.
            dir.standby_signal = true;
            drop(inner);
            if !removed.is_empty() {
                self.machine.trace(|| format!("histories {removed:?} were never written"));
            }
        }
        self.forget_tree();
        if let StartMode::Following(duty) = mode {
            self.note_followed(duty);
        }
        {
            let mut memory = self.memory();
            memory.following = following;
            memory.installed = Some(settings);
        }
        // The guard is spawned, and starts the init and the postmaster.
        self.machine.lag((10_000, 50_000)).await;
        let started_us = (exec::now() / 1_000) as i64;
        let started = self.machine.with(|inner, now| {
            let id = GuardId::from_bytes(exec::with_rng(self.machine.id(), |rng| {
                let (a, b) = (rng.draw(), rng.draw());
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&a.to_le_bytes());
                bytes[8..].copy_from_slice(&b.to_le_bytes());
                bytes
            }));
            inner.said_no_room = false;
            inner.files.ran = true;
            let started = inner.host.start(now, id.clone(), started_us);
            if started.is_ok() {
                inner.tree.send_replace(TreeNews::Running);
            }
            started.map(|()| id)
        });
        match started {
            Ok(guard) => {
                self.machine.trace(|| format!("PostgreSQL starts under {guard:?}"));
                self.adopt(guard.clone());
                Ok(Started { guard, fencing: Fencing::PidNamespace })
            }
            Err(why) => {
                // It is adopted all the same, so that the caller's proof finds what is left of it.
                let guard = guard_id(&self.machine.lock());
                self.memory().guard = guard;
                self.tree.send_replace(Tree::Ending { how: why.clone() });
                self.kill_tree().await?;
                self.prove_tree_empty().await?;
                Err(Error::Machine(why))
            }
        }
    }

    /// Moves the kernel's deadline.
    pub(super) async fn move_deadline(&self, guard: &GuardId, at: BootTime) -> Result<(), Error> {
        if self.memory().guard.as_ref() != Some(guard) {
            return Err(Error::Failed(format!("no process tree of {guard:?} is there")));
        }
        self.ask_guard().await?;
        match self.machine.with(|inner, _| inner.host.arm(guard, at)) {
            // A later renewal has overtaken this one.
            Ok(()) | Err(Refusal::Backwards) => Ok(()),
            Err(why) => Err(Error::Failed(why.to_string())),
        }
    }

    /// Kills the tree through the guard; with the guard where that does not answer.
    pub(super) async fn kill_tree(&self) -> Result<(), Error> {
        if self.memory().guard.is_none() {
            return Ok(());
        }
        self.machine.lag((60, 600)).await;
        self.machine.with(|inner, _| {
            if inner.host.guard().is_some_and(|g| g.answers) {
                inner.host.kill();
            } else {
                inner.host.kill_guard();
            }
        });
        Ok(())
    }

    pub(super) async fn prove_tree_empty(&self) -> Result<Emptiness, Error> {
        if self.memory().guard.is_none() {
            let emptiness = self.prove_without_guard().await?;
            self.tree.send_replace(Tree::None);
            return Ok(emptiness);
        }
        self.machine.lag(DEATH_US).await;
        let gone = |server: &quorate_world::pg::Server, _| server.run().is_none().then_some(());
        if self.machine.until(PROOF, gone).await.is_none() {
            return Err(timed_out("the end of the process tree", PROOF));
        }
        self.dismiss();
        Ok(Emptiness::Proven)
    }

    fn dismiss(&self) {
        self.machine.with(|inner, _| {
            inner.host.dismiss();
            inner.tree.send_replace(TreeNews::Empty);
        });
        self.memory().guard = None;
        self.forget_tree();
        self.tree.send_replace(Tree::None);
    }

    /// Where no guard can be asked: what it has written tells whether anything ever ran.
    async fn prove_without_guard(&self) -> Result<Emptiness, Error> {
        self.machine.lag((200, 2_000)).await;
        let (ran, runs) = {
            let inner = self.machine.lock();
            (inner.files.ran, inner.host.server.run().is_some())
        };
        if runs {
            // The guard is dead, and so its tree has to be.
            self.machine.with(|inner, _| inner.host.kill());
            self.machine.lag(DEATH_US).await;
        }
        Ok(if ran { Emptiness::Proven } else { Emptiness::Assumed })
    }

    /// Waits until the postmaster has ended. Returns whether it has.
    pub(super) async fn ends_within(&self, wait: Duration) -> bool {
        let mut tree = self.tree.subscribe();
        runtime::first_of(vec![
            Box::pin(async { tree.wait_for(|t| *t != Tree::Running).await.is_ok() })
                as runtime::Boxed<'_, _>,
            Box::pin(async {
                Rt::sleep(wait).await;
                false
            }),
        ])
        .await
    }

    pub(super) async fn stop_standby(&self) -> Result<(), Error> {
        if self.running().is_err() {
            return Ok(());
        }
        if self.ask_guard().await.is_ok() {
            self.machine.with(|inner, now| inner.host.server.stop(now, Mode::Fast));
            if self.ends_within(STOP).await {
                return Ok(());
            }
        }
        self.kill_and_wait().await
    }

    /// Kills the tree and waits until the postmaster has ended.
    pub(super) async fn kill_and_wait(&self) -> Result<(), Error> {
        self.kill_tree().await?;
        match self.ends_within(PROOF).await {
            true => Ok(()),
            false => Err(timed_out("the end of the postmaster", PROOF)),
        }
    }
}

impl Machine {
    /// Whether the guard's process tree runs, for who watches from outside.
    pub fn runs(&self) -> bool {
        self.lock().host.server.run().is_some()
    }
}
