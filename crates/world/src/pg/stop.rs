//! How servers end: in order, by signals, with their machine.

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::Event;
use super::checkpoint::Work;
use super::directory::{DataDir, State};
use super::sender::SenderState;
use super::server::{NOTHING, Phase, Server, Shadow};

/// How a server is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Once the clients have gone (SIGTERM).
    Smart,
    /// At once, in order (SIGINT).
    Fast,
    /// At once, without a checkpoint (SIGQUIT).
    Immediate,
}

/// A server that stops in order.
#[derive(Debug, Clone)]
pub struct Stopping {
    mode: Mode,
    /// Whether its sessions have ended, and the last checkpoint was begun.
    begun: bool,
    /// Whether that was done.
    pub(super) checkpointed: bool,
}

/// How much of what is not surely on disk survives a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// So many records of it; the next one is torn.
    pub records: usize,
}

impl Tail {
    /// Nothing.
    pub const NONE: Tail = Tail { records: 0 };
    /// Everything.
    pub const ALL: Tail = Tail { records: usize::MAX };
}

impl Server {
    /// Tells the postmaster to stop. Without effect where none runs.
    pub fn stop(&mut self, now: BootTime, mode: Mode) {
        let Some(run) = &mut self.run else { return };
        if !run.postmaster.alive || self.stopped.all || self.stopped.postmaster {
            return;
        }
        if mode == Mode::Immediate {
            return self.end("received immediate shutdown request", false);
        }
        match &mut run.phase {
            // The startup process ends before it has read anything (`StartupProcShutdownHandler`),
            // and there is no checkpointer yet that could write where recovery is to begin.
            Phase::Starting { .. } => return self.end("the database system is shut down", false),
            Phase::Stopping(stopping) => stopping.mode = mode,
            phase => *phase = Phase::Stopping(Stopping { mode, begun: false, checkpointed: false }),
        }
        self.tick(now);
    }

    /// Goes on with a stop, and with the end of orphans. Returns whether anything was done.
    pub(super) fn step_stop(&mut self, now: BootTime) -> bool {
        let Some(run) = &self.run else { return false };
        if !run.postmaster.alive {
            return self.step_orphans(now);
        }
        let Phase::Stopping(stopping) = &run.phase else { return false };
        let (mode, begun, checkpointed) = (stopping.mode, stopping.begun, stopping.checkpointed);
        if !begun {
            if mode == Mode::Smart && !run.sessions.is_empty() {
                return false;
            }
            let Some(mut live) = self.live(now) else { return false };
            let sessions: Vec<_> = live.run.sessions.keys().copied().collect();
            for pid in &sessions {
                live.terminate(*pid);
            }
            if !live.run.sessions.is_empty() {
                // One that is in the middle of a flush ends after it.
                return false;
            }
            if live.awaits_receiver() {
                return false;
            }
            live.end_receiver(true);
            if live.run.startup.as_ref().is_some_and(|s| s.promotion.is_some()) {
                live.run.startup.iter_mut().for_each(|s| s.promotion = None);
            }
            if let Phase::Stopping(stopping) = &mut live.run.phase {
                stopping.begun = true;
            }
            live.run.upstream = None;
            live.begin_checkpoint(Work::Shutdown, true);
            return true;
        }
        if !checkpointed {
            return false;
        }
        let Some(mut live) = self.live(now) else { return false };
        let drained: Vec<_> = live
            .run
            .senders
            .iter()
            .filter(|(_, s)| s.state == SenderState::Startup || s.state == SenderState::Stopping)
            .filter(|(_, s)| live.is_drained(s))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in &drained {
            live.drop_sender(*pid, true);
        }
        if live.run.senders.is_empty() {
            self.end("the database system is shut down", false);
            return true;
        }
        !drained.is_empty()
    }

    /// SIGKILL of the postmaster alone: backends that are busy go on until they notice, which is
    /// where they wait for something: for a command, for standbys.
    pub fn kill_postmaster(&mut self, now: BootTime) {
        let Some(run) = &mut self.run else { return };
        if !run.postmaster.alive {
            return;
        }
        run.postmaster.alive = false;
        let (dice, span) = (&mut self.env.dice, self.env.pace.orphan);
        let mut ends = || Some(now.plus(dice.within(span)));
        run.sessions.values_mut().for_each(|s| s.orphan_ends = ends());
        // All others wait for something most of the time, and see it where they wait.
        run.senders.values_mut().for_each(|s| s.orphan_ends = Some(now));
        run.orphan_ends = Some(now);
        let how = "the postmaster was killed".to_owned();
        self.env.out.push(Event::Ended { how });
        self.tick(now);
    }

    /// Whether a process is stopped that would end with the others, and so holds the server's
    /// shared memory.
    pub(super) fn holds_memory(&self) -> bool {
        let stopped = self.stopped;
        let receives = self.run.as_ref().is_some_and(|run| run.receiver.is_some());
        stopped.checkpointer || stopped.walwriter || (stopped.receiver && receives)
    }

    fn step_orphans(&mut self, now: BootTime) -> bool {
        let Some(run) = &self.run else { return false };
        let rest = run.orphan_ends.is_some_and(|at| at <= now);
        if rest && !self.holds_memory() && run.sessions.is_empty() && run.senders.is_empty() {
            self.end("the last process has ended", false);
            return true;
        }
        let recovers = run.startup.is_some() && !run.startup_ended;
        if rest && (recovers || run.receiver.is_some()) {
            let Some(mut live) = self.live(now) else { return false };
            if live.awaits_receiver() {
                return false;
            }
            live.end_receiver(true);
            live.run.upstream = None;
            if let Some(run) = &mut self.run {
                run.startup_ended = true;
            }
            return true;
        }
        false
    }

    /// SIGKILL of one process that is not the postmaster: shared memory may be broken, so all end.
    /// With `restart_after_crash` the server then opens again by itself.
    pub fn crash_backend(&mut self, now: BootTime) {
        let Some(run) = &self.run else { return };
        let again = run.postmaster.conf.restart_after_crash && run.postmaster.alive;
        let started_us = run.postmaster.started_us;
        self.end("a server process was terminated by signal 9", false);
        if again {
            // The postmaster itself has not ended.
            self.env.out.retain(|e| !matches!(e, Event::Ended { .. } | Event::Empty));
            if let Err(why) = self.start(now, started_us) {
                self.env.say(why);
            }
            self.tick(now);
        }
    }

    /// SIGKILL of every process: the death of its PID namespace.
    pub fn kill_all(&mut self) {
        self.end("every process was killed", false);
    }

    /// The machine goes down: nobody is told, and what was not flushed is lost but for `tail`. What
    /// a disk that lies has said to have flushed is lost as well.
    pub fn crash(&mut self, tail: Tail) {
        let known = self.run.as_ref().filter(|run| run.log.known);
        let at = known.map(|run| (run.log.timeline, run.log.flushed));
        self.end("the machine went down", true);
        let Some(dir) = &mut self.dir else { return };
        if let Some((timeline, flushed)) = at {
            cut(dir, timeline, flushed, tail);
        }
        if let Some(shadow) = self.shadow.take() {
            if shadow.end < NOTHING {
                let newer = dir.wal.logs().any(|(t, _)| t > shadow.timeline);
                let tail = if newer { Tail::NONE } else { tail };
                cut(dir, shadow.timeline, shadow.end, tail);
                dir.wal.retain(|t| t <= shadow.timeline);
                dir.histories.retain(|t| t <= shadow.timeline);
            }
            if let Some(files) = shadow.files {
                (dir.control, dir.pages) = *files;
                if dir.control.state != State::InProduction {
                    dir.standby_signal = true;
                }
            }
        }
        if self.env.disk.lies {
            self.shadow = Some(Shadow { timeline: Timeline(u32::MAX), end: NOTHING, files: None });
        }
    }
}

fn cut(dir: &mut DataDir, timeline: Timeline, flushed: Lsn, tail: Tail) {
    let Some(log) = dir.wal.log(timeline) else { return };
    let behind = log.behind(flushed);
    let end = match behind.get(tail.records) {
        Some(torn) => torn.start,
        None => return,
    };
    dir.wal.cut(timeline, end);
}
