//! Client sessions: one backend each.

use std::sync::Arc;

use crate::domain::types::{BootTime, Lsn};

use super::base::{Event, Outcome, Pid, Refused, Ticket};
use super::conf::{Level, Settings};
use super::server::{Live, Phase};
use super::syncrep::Mode;
use super::wal::{Kind, Xid};

/// What a backend does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It waits for its client.
    Idle,
    /// It has written a commit, and has it flushed.
    Flushing {
        /// Whom to answer.
        ticket: Ticket,
        /// The transaction.
        xid: Option<Xid>,
        /// The end of its commit.
        end: Lsn,
    },
    /// It waits for standbys.
    Waiting {
        /// Whom to answer.
        ticket: Ticket,
        /// The transaction.
        xid: Option<Xid>,
        /// Until they have this.
        lsn: Lsn,
    },
}

/// A session.
#[derive(Debug, Clone)]
pub struct Session {
    /// What the client calls itself.
    pub name: String,
    /// When it was begun.
    pub begun: BootTime,
    /// The settings as it has read them last.
    pub conf: Arc<Settings>,
    /// Its `synchronous_commit`.
    pub level: Level,
    /// Its own `default_transaction_read_only`, where it has set one.
    pub read_only: Option<bool>,
    /// What it does.
    pub doing: Doing,
    /// Whether it is stopped, as by SIGSTOP.
    pub frozen: bool,
    /// What it was sent while it was stopped.
    sent: Option<(u64, Ticket)>,
    /// Whether its postmaster was gone when it was sent that: it sees that first.
    sent_late: bool,
    /// Whether it was told to give its wait up while it was stopped.
    cancelled: bool,
    /// Whether its wait is over, and it has not seen that yet.
    woken: bool,
    xid: Option<Xid>,
    /// Whether it was told to end.
    ended: bool,
    pub(super) reload_at: Option<BootTime>,
    pub(super) orphan_ends: Option<BootTime>,
}

impl Session {
    pub(super) fn due(&self) -> Option<BootTime> {
        if self.frozen {
            return None;
        }
        [self.reload_at, self.orphan_ends].into_iter().flatten().min()
    }

    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self.doing {
            Doing::Idle => self.sent.map(|(_, ticket)| ticket),
            Doing::Flushing { ticket, .. } | Doing::Waiting { ticket, .. } => Some(ticket),
        }
    }
}

impl Live<'_> {
    /// A client connects. Sessions of a standby can read.
    pub(super) fn open_session(&mut self, name: &str) -> Result<Pid, Refused> {
        if self.env_stopped().postmaster || self.env_stopped().all {
            return Err(Refused::Silent);
        }
        if !self.run.postmaster.alive {
            return Err(Refused::NotRunning);
        }
        match &self.run.phase {
            Phase::Starting { .. } | Phase::Recovering => return Err(Refused::Starting),
            Phase::Stopping(_) => return Err(Refused::ShuttingDown),
            Phase::Standby | Phase::Primary => {}
        }
        let pid = self.env.pid();
        let session = Session {
            name: name.to_owned(),
            begun: self.now,
            conf: self.run.postmaster.conf.clone(),
            level: Level::default(),
            read_only: None,
            doing: Doing::Idle,
            frozen: false,
            sent: None,
            sent_late: false,
            cancelled: false,
            woken: false,
            xid: None,
            ended: false,
            reload_at: None,
            orphan_ends: None,
        };
        self.run.sessions.insert(pid, session);
        Ok(pid)
    }

    fn idle(&mut self, pid: Pid) -> Result<&mut Session, Refused> {
        if self.env_stopped().all {
            return Err(Refused::Silent);
        }
        let session = self.run.sessions.get_mut(&pid).ok_or(Refused::NoSession)?;
        if session.doing == Doing::Idle { Ok(session) } else { Err(Refused::Busy) }
    }

    /// `INSERT`, within a transaction that it begins where there is none.
    pub(super) fn insert(&mut self, pid: Pid, value: u64) -> Result<(), Refused> {
        let recovering = self.run.startup.is_some();
        let next = self.run.pages.next_xid();
        let session = self.idle(pid)?;
        let read_only = session.read_only.unwrap_or(session.conf.read_only);
        if recovering || (session.xid.is_none() && read_only) {
            return Err(Refused::ReadOnly);
        }
        let xid = *session.xid.get_or_insert(next);
        self.append(Kind::Insert { xid, value });
        Ok(())
    }

    /// `ROLLBACK`.
    pub(super) fn rollback(&mut self, pid: Pid) -> Result<(), Refused> {
        if let Some(xid) = self.idle(pid)?.xid.take() {
            self.append(Kind::Abort { xid });
        }
        Ok(())
    }

    /// `COMMIT`: answered later, by its ticket.
    pub(super) fn commit(&mut self, pid: Pid, ticket: Ticket) -> Result<(), Refused> {
        let session = self.idle(pid)?;
        let level = session.level;
        let Some(xid) = session.xid.take() else {
            self.env.answer(ticket, Outcome::Acknowledged);
            return Ok(());
        };
        let values = self.run.pages.open(xid).to_vec();
        let record = self.append(Kind::Commit { xid });
        if level == Level::Off {
            self.env.answer(ticket, Outcome::Acknowledged);
            return Ok(());
        }
        self.run.hidden.insert(xid, values);
        self.flush_then_wait(pid, ticket, Some(xid), record.end);
        Ok(())
    }

    /// `pg_logical_emit_message(true, ...)`: a commit without rows, answered by its ticket. Returns
    /// its end.
    pub(super) fn emit(&mut self, pid: Pid, ticket: Ticket) -> Result<Lsn, Refused> {
        if self.run.startup.is_some() {
            return Err(Refused::ReadOnly);
        }
        self.idle(pid)?;
        let end = self.append(Kind::Message).end;
        self.flush_then_wait(pid, ticket, None, end);
        Ok(end)
    }

    fn flush_then_wait(&mut self, pid: Pid, ticket: Ticket, xid: Option<Xid>, end: Lsn) {
        if let Some(session) = self.run.sessions.get_mut(&pid) {
            session.doing = Doing::Flushing { ticket, xid, end };
        }
        self.want_flush(end);
    }

    /// WAL was flushed: whoever waited for that goes on to wait for standbys.
    pub(super) fn sessions_flushed(&mut self) {
        let flushed = self.run.log.flushed;
        let ready = |(pid, s): (&Pid, &Session)| match s.doing {
            _ if s.frozen => None,
            Doing::Flushing { ticket, xid, end } if end <= flushed => {
                Some((*pid, ticket, xid, end, s.level))
            }
            _ => None,
        };
        let ready: Vec<_> = self.run.sessions.iter().filter_map(ready).collect();
        for (pid, ticket, xid, lsn, level) in ready {
            let waits = Mode::of(level).is_some_and(|mode| self.run.sync.join(pid, lsn, mode));
            let Some(session) = self.run.sessions.get_mut(&pid) else { continue };
            session.doing = Doing::Waiting { ticket, xid, lsn };
            if !waits {
                self.released(pid);
            } else if session.ended {
                self.give_up_wait(pid);
                self.close_session(pid);
            }
        }
    }

    /// `INSERT` and `COMMIT`.
    pub(super) fn write(&mut self, pid: Pid, value: u64, ticket: Ticket) {
        match self.run.sessions.get_mut(&pid) {
            None => return self.env.answer(ticket, Outcome::Lost),
            Some(session) if session.frozen => {
                session.sent = Some((value, ticket));
                session.sent_late = !self.run.postmaster.alive;
                return;
            }
            Some(_) => {}
        }
        let done = self.insert(pid, value).and_then(|()| self.commit(pid, ticket));
        if let Err(why) = done {
            self.env.answer(ticket, Outcome::Refused(why));
        }
    }

    /// Stops a backend, or lets it go on. First it sees that it was released, then that it was
    /// told to give its wait up or to end. What it was sent meanwhile it does, also where its
    /// postmaster has gone since: it sees that where it waits.
    pub(super) fn freeze_session(&mut self, pid: Pid, frozen: bool) {
        let Some(session) = self.run.sessions.get_mut(&pid) else { return };
        session.frozen = frozen;
        if frozen {
            return;
        }
        let sent = session.sent.take();
        let late = std::mem::take(&mut session.sent_late);
        let cancelled = std::mem::take(&mut session.cancelled);
        if std::mem::take(&mut session.woken) {
            self.released(pid);
        } else if cancelled {
            self.cancel(pid);
        }
        if self.run.sessions.get(&pid).is_some_and(|s| s.ended) {
            self.terminate(pid);
        }
        match sent {
            Some((_, ticket)) if late => {
                self.env.answer(ticket, Outcome::Lost);
                self.close_session(pid);
            }
            Some((value, ticket)) => self.write(pid, value, ticket),
            None => {}
        }
    }

    /// A commit waits no more: it is visible, and its client is told.
    pub(super) fn released(&mut self, pid: Pid) {
        let Some(session) = self.run.sessions.get_mut(&pid) else { return };
        if session.frozen {
            session.woken = true;
            return;
        }
        if let Doing::Waiting { ticket, xid, .. } = session.doing {
            session.doing = Doing::Idle;
            let ended = session.ended;
            if let Some(xid) = xid {
                self.run.hidden.remove(&xid);
            }
            self.env.answer(ticket, Outcome::Acknowledged);
            if ended {
                self.close_session(pid);
            }
        }
    }

    /// A wait is given up. The commit is visible here from now on, whatever the standbys have.
    fn give_up_wait(&mut self, pid: Pid) {
        self.run.sync.leave(pid);
        let Some(session) = self.run.sessions.get(&pid) else { return };
        if let Doing::Waiting { xid: Some(xid), .. } | Doing::Flushing { xid: Some(xid), .. } =
            session.doing
            && let Some(rows) = self.run.hidden.remove(&xid)
        {
            self.env.out.push(Event::GivenUp { rows });
        }
    }

    /// `pg_cancel_backend`: a wait for standbys ends with a warning, and as a success.
    pub(super) fn cancel(&mut self, pid: Pid) -> bool {
        let Some(session) = self.run.sessions.get_mut(&pid) else { return false };
        if session.frozen {
            session.cancelled = true;
            return true;
        }
        let Doing::Waiting { ticket, .. } = session.doing else { return true };
        self.give_up_wait(pid);
        if let Some(session) = self.run.sessions.get_mut(&pid) {
            session.doing = Doing::Idle;
        }
        self.env.answer(ticket, Outcome::AckedWithWarning);
        true
    }

    /// `pg_terminate_backend`: what it has written to the log stays.
    pub(super) fn terminate(&mut self, pid: Pid) -> bool {
        let Some(session) = self.run.sessions.get_mut(&pid) else { return false };
        match session.doing {
            _ if session.frozen => session.ended = true,
            Doing::Idle => self.close_session(pid),
            // A flush is not interrupted.
            Doing::Flushing { .. } => session.ended = true,
            Doing::Waiting { .. } => {
                self.give_up_wait(pid);
                self.close_session(pid);
            }
        }
        true
    }

    /// A session ends by the server's will: an open transaction is gone, and its client is not
    /// answered any more.
    pub(super) fn close_session(&mut self, pid: Pid) {
        let Some(session) = self.run.sessions.remove(&pid) else { return };
        if let Some(xid) = session.xid {
            self.append(Kind::Abort { xid });
        }
        if let Some(ticket) = session.ticket() {
            self.env.answer(ticket, Outcome::Lost);
        }
        self.env.out.push(Event::SessionEnded { session: pid });
    }

    /// A client goes.
    pub(super) fn disconnect(&mut self, pid: Pid) {
        // A backend that waits for standbys does not notice that its client has gone.
        let waits = self.run.sessions.get(&pid).is_some_and(|s| s.doing != Doing::Idle);
        if !waits {
            self.close_session(pid);
        } else if let Some(session) = self.run.sessions.get_mut(&pid) {
            session.ended = true;
        }
    }

    /// Lets a backend do what it can do now. Returns whether it did anything.
    pub(super) fn step_session(&mut self, pid: Pid) -> bool {
        let now = self.now;
        let flushed = self.run.log.flushed;
        let Some(session) = self.run.sessions.get_mut(&pid) else { return false };
        if session.frozen {
            return false;
        }
        let flushing = matches!(session.doing, Doing::Flushing { end, .. } if end > flushed);
        let waits = matches!(session.doing, Doing::Waiting { .. });
        if matches!(session.doing, Doing::Flushing { .. }) && !flushing {
            self.sessions_flushed();
            return true;
        }
        let orphan = session.orphan_ends.is_some_and(|at| at <= now || waits);
        if orphan && !flushing {
            // It sees that its postmaster is gone.
            self.give_up_wait(pid);
            self.close_session(pid);
            return true;
        }
        if session.reload_at.is_some_and(|at| at <= now) {
            session.reload_at = None;
            session.conf = self.run.postmaster.conf.clone();
            return true;
        }
        false
    }
}
