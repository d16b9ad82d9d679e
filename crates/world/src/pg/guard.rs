//! The guard of a process tree, the kernel's timer on it, and the machine that both live on.
//!
//! Owns what the product's guard is relied on for (`src/guard`): a deadline by CLOCK_BOOTTIME after
//! which no process of the tree is left, whoever is stopped or killed meanwhile; that its life has a
//! number of its own; and the proof that nothing is left.

use std::time::Duration;

use crate::domain::mutant::{Mutant, without};
use crate::domain::types::{BootTime, GuardId};

use super::server::Server;
use super::stop::Tail;

/// A life of the guard, with the tree that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Which life.
    pub id: GuardId,
    /// When the kernel kills the tree, where that was armed.
    pub kill_at: Option<BootTime>,
    /// Whether the guard's own process is there. Without it its tree is dead.
    pub alive: bool,
    /// Whether the guard answers: it may be stopped. The kernel's timer works all the same.
    pub answers: bool,
}

/// Why the guard does not take a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no tree of that guard.
    #[error("no process tree of that guard is there")]
    NoTree,
    /// It does not answer.
    #[error("the guard does not answer")]
    NoAnswer,
    /// The deadline that is armed is later.
    #[error("a later deadline is armed")]
    Backwards,
}

/// A machine with one server on it.
#[derive(Debug, Clone)]
pub struct Host {
    /// The server.
    pub server: Server,
    /// The guard that was started last, until it is dismissed.
    guard: Option<Guard>,
    /// The number of this boot.
    boot: u64,
}

impl Host {
    /// A machine where nothing runs.
    pub fn new(server: Server) -> Self {
        Self { server, guard: None, boot: 0 }
    }

    /// The guard that was started last, until it is dismissed.
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// The number of this boot: another one after a crash of the machine.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Starts a guard, and the server under it.
    ///
    /// # Errors
    /// A guard is there already, or the server's log says why it ends at once.
    pub fn start(&mut self, now: BootTime, id: GuardId, started_us: i64) -> Result<(), String> {
        if self.guard.is_some() || self.server.run().is_some() {
            return Err("a process tree is there already".to_owned());
        }
        self.guard = Some(Guard { id, kill_at: None, alive: true, answers: true });
        self.server.start(now, started_us)
    }

    /// Moves the kernel's deadline.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn arm(&mut self, id: &GuardId, kill_at: BootTime) -> Result<(), Refusal> {
        let running = self.server.run().is_some_and(|run| run.postmaster.alive);
        let guard = self.guard.as_mut().filter(|g| g.id == *id && g.alive && running);
        let guard = guard.ok_or(Refusal::NoTree)?;
        if !guard.answers {
            return Err(Refusal::NoAnswer);
        }
        if guard.kill_at.is_some_and(|armed| armed > kill_at) {
            return Err(Refusal::Backwards);
        }
        guard.kill_at = Some(kill_at);
        Ok(())
    }

    /// When the machine has something to do next.
    pub fn due(&self) -> Option<BootTime> {
        let running = self.server.run().is_some();
        let kill_at = self.guard.as_ref().and_then(|g| g.kill_at).filter(|_| running);
        [self.server.due(), kill_at].into_iter().flatten().min()
    }

    /// Does what is due. The kernel's timer comes first.
    pub fn tick(&mut self, now: BootTime) {
        if self.is_over(now) {
            self.kill();
        }
        self.server.tick(now);
    }

    /// Whether the kernel's timer has expired. It kills before anything else of the machine runs,
    /// also where that was suspended.
    pub fn is_over(&self, now: BootTime) -> bool {
        self.guard.as_ref().and_then(|g| g.kill_at).is_some_and(|at| at <= now)
    }

    /// The machine goes on after it was suspended for so long. CLOCK_BOOTTIME has counted that time:
    /// the kernel's timer is not moved by it.
    pub fn woke(&mut self, slept: Duration) {
        if without(Mutant::GuardCountsMonotonic)
            && let Some(at) = self.guard.as_mut().and_then(|g| g.kill_at.as_mut())
        {
            *at = at.plus(slept);
        }
    }

    /// Kills the tree, whatever of it is stopped.
    pub fn kill(&mut self) {
        self.server.kill_all();
    }

    /// SIGKILL of the guard itself: its tree dies with it.
    pub fn kill_guard(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.alive = false;
        }
        self.kill();
    }

    /// Stops the guard, or lets it go on.
    pub fn set_guard_answers(&mut self, answers: bool) {
        if let Some(guard) = &mut self.guard {
            guard.answers = answers;
        }
    }

    /// Dismisses the guard of a tree of which nothing is left. Returns whether that is so.
    pub fn dismiss(&mut self) -> bool {
        let empty = self.server.run().is_none();
        if empty {
            self.guard = None;
        }
        empty
    }

    /// The machine goes down and comes up again: everything ends, nobody is told.
    pub fn crash(&mut self, tail: Tail) {
        self.guard = None;
        self.boot += 1;
        self.server.crash(tail);
    }
}
