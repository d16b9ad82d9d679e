//! The checkpointer: checkpoints, restartpoints, and whether anybody waits for standbys.

use std::sync::Arc;

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::{Outcome, Ticket};
use super::conf::Settings;
use super::directory::State;
use super::server::{Live, Phase};
use super::wal::{Kind, Record, segment_start};

/// What the checkpointer can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A checkpoint, or a restartpoint on a standby.
    Online,
    /// The one with which a server stops.
    Shutdown,
}

/// One that is being done.
#[derive(Debug, Clone)]
pub(super) struct Doing {
    work: Work,
    redo: Lsn,
    until: BootTime,
    record: Option<Record>,
    tickets: Vec<Ticket>,
}

/// The checkpointer.
#[derive(Debug, Clone)]
pub(super) struct Checkpointer {
    pub conf: Arc<Settings>,
    pub reload_at: Option<BootTime>,
    pub doing: Option<Doing>,
    /// Who waits for the next one.
    pub waiting: Vec<Ticket>,
    pub next_at: BootTime,
}

impl Checkpointer {
    pub(super) fn due(&self) -> Option<BootTime> {
        let doing = self.doing.as_ref().filter(|d| d.record.is_none()).map(|d| d.until);
        let next = self.doing.is_none().then_some(self.next_at);
        [doing, next, self.reload_at].into_iter().flatten().min()
    }

    /// Everybody who waits for a checkpoint.
    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let doing = self.doing.iter().flat_map(|d| d.tickets.iter());
        doing.chain(&self.waiting).copied()
    }
}

impl Live<'_> {
    /// Begins a checkpoint where none is being done. `hurry` is whether somebody waits for it.
    pub(super) fn begin_checkpoint(&mut self, work: Work, hurry: bool) {
        let span = match (work, hurry) {
            (Work::Shutdown, _) => self.env.pace.stop,
            (Work::Online, true) => self.env.pace.checkpoint,
            (Work::Online, false) => self.env.pace.spread,
        };
        let until = self.env.after(self.now, span);
        let redo = self.run.log.inserted();
        let checkpointer = &mut self.run.checkpointer;
        checkpointer.next_at = self.now.plus(checkpointer.conf.checkpoint_timeout);
        let tickets = match checkpointer.doing.take() {
            // The stop does not wait for what was begun before it.
            Some(doing) if work == Work::Shutdown => doing.tickets,
            Some(doing) => {
                checkpointer.doing = Some(doing);
                return;
            }
            None => Vec::new(),
        };
        checkpointer.doing = Some(Doing { work, redo, until, record: None, tickets });
    }

    /// `CHECKPOINT`: one that begins from now on. One that nobody waited for is hurried up.
    pub(super) fn ask_checkpoint(&mut self, ticket: Ticket) {
        if self.run.checkpointer.doing.is_none() {
            self.begin_checkpoint(Work::Online, true);
            if let Some(doing) = &mut self.run.checkpointer.doing {
                doing.tickets.push(ticket);
            }
            return;
        }
        let soon = self.env.after(self.now, self.env.pace.checkpoint);
        self.run.checkpointer.waiting.push(ticket);
        if let Some(doing) = &mut self.run.checkpointer.doing {
            doing.until = doing.until.min(soon);
        }
    }

    /// Lets the checkpointer do what it can do now. Returns whether it did anything.
    pub(super) fn step_checkpointer(&mut self) -> bool {
        let now = self.now;
        let primary = self.run.startup.is_none();
        let checkpointer = &mut self.run.checkpointer;
        if checkpointer.reload_at.is_some_and(|at| at <= now) {
            checkpointer.reload_at = None;
            checkpointer.conf = self.run.postmaster.conf.clone();
            self.define_sync();
            return true;
        }
        let Some(doing) = &mut checkpointer.doing else {
            if checkpointer.next_at > now {
                return false;
            }
            checkpointer.next_at = now.plus(checkpointer.conf.checkpoint_timeout);
            self.begin_checkpoint(Work::Online, false);
            return true;
        };
        match doing.record {
            None if doing.until > now => false,
            None if !primary => {
                self.finish_restartpoint();
                true
            }
            None => {
                let (work, redo) = (doing.work, doing.redo);
                let shutdown = work == Work::Shutdown;
                if shutdown {
                    self.dir.control.state = State::ShuttingDown;
                } else {
                    self.append(Kind::Message);
                }
                let redo = if shutdown { self.run.log.inserted() } else { redo };
                let next_xid = self.run.pages.next_xid();
                let record = self.append(Kind::Checkpoint { redo, shutdown, next_xid });
                if let Some(doing) = &mut self.run.checkpointer.doing {
                    doing.record = Some(record);
                    doing.redo = redo;
                }
                self.want_flush(record.end);
                true
            }
            Some(record) if record.end <= self.run.log.flushed => {
                self.finish_checkpoint(record);
                true
            }
            Some(_) => false,
        }
    }

    fn finish_checkpoint(&mut self, record: Record) {
        let Some(doing) = self.run.checkpointer.doing.take() else { return };
        self.keep_shadow();
        let control = &mut self.dir.control;
        control.checkpoint = record.start;
        control.redo = doing.redo;
        control.timeline = record.timeline;
        (control.min_recovery, control.min_recovery_timeline) = (Lsn(0), Timeline(0));
        if doing.work == Work::Shutdown {
            control.state = State::ShutDown;
        }
        let keep = self.run.postmaster.conf.wal_keep;
        self.flush_pages(doing.redo, record.end, keep);
        self.checkpoint_done(doing);
    }

    /// A restartpoint: recovery can begin at the last checkpoint that was replayed
    /// (`CreateRestartPoint`).
    fn finish_restartpoint(&mut self) {
        let Some(doing) = self.run.checkpointer.doing.take() else { return };
        let Some(startup) = &self.run.startup else { return };
        let (checkpoint, replay, timeline) =
            (startup.checkpoint, startup.replay, startup.replay_timeline);
        let archive = startup.archive;
        self.keep_shadow();
        let control = &mut self.dir.control;
        if archive {
            if control.min_recovery < replay {
                (control.min_recovery, control.min_recovery_timeline) = (replay, timeline);
            }
            if doing.work == Work::Shutdown {
                control.state = State::ShutDownInRecovery;
            }
            if let Some(last) = checkpoint.filter(|c| c.redo > control.redo) {
                control.checkpoint = last.start;
                control.redo = last.redo;
                control.timeline = last.timeline;
                let keep = self.run.postmaster.conf.wal_keep;
                self.flush_pages(last.redo, replay, keep);
            }
        }
        self.checkpoint_done(doing);
    }

    /// Everything that has changed is on disk, and WAL that nobody needs any more is removed.
    fn flush_pages(&mut self, redo: Lsn, end: Lsn, keep: u64) {
        self.dir.pages = self.run.pages.clone();
        let mut oldest = redo.min(Lsn(end.0.saturating_sub(keep)));
        for slot in self.dir.slots.values_mut() {
            slot.saved = slot.restart;
            oldest = slot.restart.map_or(oldest, |restart| oldest.min(restart));
        }
        self.dir.wal.remove_before(segment_start(oldest));
    }

    fn checkpoint_done(&mut self, doing: Doing) {
        for ticket in doing.tickets {
            self.env.answer(ticket, Outcome::Acknowledged);
        }
        if doing.work == Work::Shutdown {
            if let Phase::Stopping(stopping) = &mut self.run.phase {
                stopping.checkpointed = true;
            }
            return;
        }
        let waiting = std::mem::take(&mut self.run.checkpointer.waiting);
        if !waiting.is_empty() {
            self.begin_checkpoint(Work::Online, true);
            if let Some(doing) = &mut self.run.checkpointer.doing {
                doing.tickets = waiting;
            }
        }
    }

    /// Whether anybody waits for standbys is what the checkpointer last read.
    pub(super) fn define_sync(&mut self) {
        let defined = self.run.checkpointer.conf.synchronous.is_some();
        for session in self.run.sync.define(defined) {
            self.released(session);
        }
    }
}
