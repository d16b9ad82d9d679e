//! What can be asked of a server from outside: by clients, by other servers, by whoever runs it.
//!
//! Every call does what follows from it at once, as far as that takes no time; the rest is due
//! later, see [`Server::due`].

use crate::check::Rows;
use crate::domain::types::{BootTime, Lsn};

use super::base::{Conn, Pid, Refused, Ticket};
use super::conf::{Level, Settings};
use super::directory::Slot;
use super::server::{Phase, Server};
use super::stream::{Hello, Wire};

type Result<T> = std::result::Result<T, Refused>;

/// Sessions.
impl Server {
    /// Opens a session.
    ///
    /// # Errors
    /// Nothing listens, or it takes no connections now.
    pub fn connect(&mut self, now: BootTime, name: &str) -> Result<Pid> {
        self.with(now, |live| live.open_session(name)).unwrap_or(Err(Refused::NotRunning))
    }

    /// Closes a session. One that waits for standbys ends with its wait.
    pub fn disconnect(&mut self, now: BootTime, session: Pid) {
        self.with(now, |live| live.disconnect(session));
    }

    /// Sets a session's `synchronous_commit`.
    ///
    /// # Errors
    /// There is no such session.
    pub fn set_level(&mut self, session: Pid, level: Level) -> Result<()> {
        self.session_mut(session).map(|s| s.level = level)
    }

    /// Sets a session's own `default_transaction_read_only`.
    ///
    /// # Errors
    /// There is no such session.
    pub fn set_read_only(&mut self, session: Pid, read_only: bool) -> Result<()> {
        self.session_mut(session).map(|s| s.read_only = Some(read_only))
    }

    fn session_mut(&mut self, session: Pid) -> Result<&mut super::session::Session> {
        let run = self.run.as_mut().ok_or(Refused::NotRunning)?;
        run.sessions.get_mut(&session).ok_or(Refused::NoSession)
    }

    /// `INSERT`, in the session's transaction.
    ///
    /// # Errors
    /// It is read-only, busy or gone.
    pub fn insert(&mut self, now: BootTime, session: Pid, value: u64) -> Result<()> {
        self.with(now, |live| live.insert(session, value)).unwrap_or(Err(Refused::NotRunning))
    }

    /// `COMMIT`. Answered by an event with this ticket.
    ///
    /// # Errors
    /// The session is busy or gone: nothing was done.
    pub fn commit(&mut self, now: BootTime, session: Pid, ticket: Ticket) -> Result<()> {
        self.with(now, |live| live.commit(session, ticket)).unwrap_or(Err(Refused::NotRunning))
    }

    /// `INSERT` and `COMMIT` in one message, answered by an event with this ticket whatever becomes
    /// of it. A backend that is stopped does it when it goes on.
    pub fn write(&mut self, now: BootTime, session: Pid, value: u64, ticket: Ticket) {
        let sent = self.with(now, |live| live.write(session, value, ticket));
        if sent.is_none() {
            self.env.answer(ticket, super::base::Outcome::Lost);
        }
    }

    /// `ROLLBACK`.
    ///
    /// # Errors
    /// The session is busy or gone.
    pub fn rollback(&mut self, now: BootTime, session: Pid) -> Result<()> {
        self.with(now, |live| live.rollback(session)).unwrap_or(Err(Refused::NotRunning))
    }

    /// `pg_logical_emit_message(true, ...)` in a transaction of its own. Answered by an event with
    /// this ticket; returns the end of its record.
    ///
    /// # Errors
    /// The server is a standby, or the session is busy or gone.
    pub fn emit(&mut self, now: BootTime, session: Pid, ticket: Ticket) -> Result<Lsn> {
        self.with(now, |live| live.emit(session, ticket)).unwrap_or(Err(Refused::NotRunning))
    }

    /// `pg_cancel_backend`. Returns whether there was such a session.
    pub fn cancel(&mut self, now: BootTime, session: Pid) -> bool {
        self.with(now, |live| live.cancel(session)).unwrap_or(false)
    }

    /// `pg_terminate_backend`, of a session or a walsender. Returns whether there was one.
    pub fn terminate(&mut self, now: BootTime, pid: Pid) -> bool {
        self.with(now, |live| live.terminate(pid) || live.terminate_sender(pid)).unwrap_or(false)
    }

    /// `CHECKPOINT`; a restartpoint on a standby. Answered by an event with this ticket.
    ///
    /// # Errors
    /// It does not run, or takes no statements now.
    pub fn checkpoint(&mut self, now: BootTime, ticket: Ticket) -> Result<()> {
        self.open_for_statements()?;
        self.with(now, |live| live.ask_checkpoint(ticket)).ok_or(Refused::NotRunning)
    }

    /// Whether a statement would be answered.
    fn open_for_statements(&self) -> Result<()> {
        if self.stopped.all {
            return Err(Refused::Silent);
        }
        match self.run.as_ref().map(|r| &r.phase) {
            None => Err(Refused::NotRunning),
            Some(Phase::Starting { .. } | Phase::Recovering) => Err(Refused::Starting),
            Some(Phase::Stopping(_)) => Err(Refused::ShuttingDown),
            Some(Phase::Standby | Phase::Primary) => Ok(()),
        }
    }

    /// All rows that a new transaction sees.
    ///
    /// # Errors
    /// It does not run, or takes no statements now.
    pub fn rows(&self) -> Result<Rows> {
        self.open_for_statements()?;
        let run = self.run.as_ref().ok_or(Refused::NotRunning)?;
        let mut rows = run.pages.rows().clone();
        run.hidden.values().flatten().for_each(|value| rows.remove(*value));
        Ok(rows)
    }

    /// `pg_promote(false)`. Answered by an event with this ticket, once it is a primary.
    ///
    /// # Errors
    /// It is no standby, or takes no statements now.
    pub fn promote(&mut self, now: BootTime, ticket: Option<Ticket>) -> Result<()> {
        self.open_for_statements()?;
        self.signal_promotion(now, ticket)
    }

    /// The same by a signal, which needs no session.
    ///
    /// # Errors
    /// It does not recover.
    pub fn signal_promotion(&mut self, now: BootTime, ticket: Option<Ticket>) -> Result<()> {
        self.with(now, |live| live.ask_promotion(ticket)).unwrap_or(Err(Refused::NotRunning))
    }
}

/// Settings, slots, and what is done by hand.
impl Server {
    /// Writes the settings' files. They are read at a start and with [`Server::reload`].
    pub fn write_conf(&mut self, conf: Settings) {
        if let Some(dir) = &mut self.dir {
            dir.conf = conf;
        }
    }

    /// `pg_reload_conf`: returns before anybody has read the files.
    pub fn reload(&mut self, now: BootTime) {
        let at = self.env.after(now, self.env.pace.reload);
        if let Some(run) = self.run.as_mut().filter(|r| r.postmaster.alive) {
            run.postmaster.reload_at = Some(at);
        }
        self.tick(now);
    }

    /// `pg_create_physical_replication_slot`. `reserve` is whether it keeps WAL from now on; else
    /// it does from its first use on.
    ///
    /// # Errors
    /// It exists, or no statements are taken.
    pub fn create_slot(&mut self, name: &str, reserve: bool) -> Result<()> {
        self.open_for_statements()?;
        let (Some(dir), Some(run)) = (&mut self.dir, &self.run) else {
            return Err(Refused::NotRunning);
        };
        if dir.slots.contains_key(name) {
            return Err(Refused::Exists);
        }
        // On a standby from the last restartpoint on: replay does not go back before it.
        let from = if run.startup.is_some() { dir.control.redo } else { run.log.inserted() };
        let restart = reserve.then_some(from);
        let slot =
            Slot { restart, saved: restart, active: None, temporary: false, holds_xmin: false };
        dir.slots.insert(name.to_owned(), slot);
        Ok(())
    }

    /// `pg_drop_replication_slot`.
    ///
    /// # Errors
    /// It does not exist, is in use, or no statements are taken.
    pub fn drop_slot(&mut self, name: &str) -> Result<()> {
        self.slot_mut(name)?;
        if let Some(dir) = &mut self.dir {
            dir.slots.remove(name);
        }
        Ok(())
    }

    /// `pg_replication_slot_advance`: never backwards, and never beyond what is there.
    ///
    /// # Errors
    /// It does not exist, is in use, or no statements are taken.
    pub fn advance_slot(&mut self, name: &str, to: Lsn) -> Result<()> {
        let end = self.position();
        let slot = self.slot_mut(name)?;
        slot.restart = slot.restart.map(|restart| restart.max(to.min(end)));
        slot.saved = slot.restart;
        Ok(())
    }

    /// Has a slot that nobody uses hold no dead rows back any more.
    ///
    /// # Errors
    /// It does not exist, is in use, or no statements are taken.
    pub fn release_slot(&mut self, name: &str) -> Result<()> {
        self.slot_mut(name).map(|slot| slot.holds_xmin = false)
    }

    fn slot_mut(&mut self, name: &str) -> Result<&mut Slot> {
        self.open_for_statements()?;
        let dir = self.dir.as_mut().ok_or(Refused::NotRunning)?;
        let slot = dir.slots.get_mut(name).ok_or(Refused::Missing)?;
        if slot.active.is_some() { Err(Refused::InUse) } else { Ok(slot) }
    }

    /// How far it is: flushed on a primary, replayed on a standby.
    pub fn position(&self) -> Lsn {
        match &self.run {
            Some(run) => run.startup.as_ref().map_or(run.log.flushed, |s| s.replay),
            None => Lsn(0),
        }
    }

    /// Has replay stand still, or go on.
    pub fn pause_replay(&mut self, now: BootTime, paused: bool) {
        self.with(now, |live| {
            if let Some(startup) = &mut live.run.startup {
                startup.paused = paused;
            }
        });
    }

    /// Has walsenders do nothing at all, or go on: those for whom the other side gave a name that
    /// is `wanted`.
    pub fn stick_senders(&mut self, now: BootTime, stuck: bool, wanted: impl Fn(&str) -> bool) {
        self.with(now, |live| {
            let senders = live.run.senders.values_mut();
            senders.filter(|s| wanted(&s.name)).for_each(|s| s.stuck = stuck);
        });
    }

    /// Stops one process as SIGSTOP does, a walsender or a backend, or lets it go on.
    pub fn freeze(&mut self, now: BootTime, pid: Pid, frozen: bool) {
        self.with(now, |live| {
            if let Some(sender) = live.run.senders.get_mut(&pid) {
                sender.stuck = frozen;
            } else {
                live.freeze_session(pid, frozen);
            }
        });
    }

    /// Writes a record of no interest, of this many bytes: a load of data.
    pub fn bulk(&mut self, now: BootTime, bytes: u64) {
        self.with(now, |live| {
            if live.run.startup.is_none() {
                let record = live.append(super::wal::Kind::Bulk { bytes });
                live.want_flush(record.end);
            }
        });
    }
}

/// Replication connections.
impl Server {
    /// Somebody dials. Without anybody who listens the connection is refused by the machine.
    ///
    /// # Errors
    /// Nothing listens, or nobody answers.
    pub fn accept(&mut self, now: BootTime, conn: Conn, hello: &Hello) -> Result<()> {
        if self.stopped.all || self.stopped.postmaster {
            return Err(Refused::Silent);
        }
        if !self.run.as_ref().is_some_and(|r| r.postmaster.alive) {
            return Err(Refused::NotRunning);
        }
        self.with(now, |live| live.accept(conn, hello)).ok_or(Refused::NotRunning)
    }

    /// A message has come. Processes that are stopped find it when they go on.
    pub fn receive(&mut self, now: BootTime, conn: Conn, wire: Wire) {
        if self.reads_nothing(conn) {
            self.inbox.push_back((conn, Some(wire)));
            return;
        }
        self.with(now, |live| {
            let sender = live.run.senders.iter().find(|(_, s)| s.conn == conn).map(|(p, _)| *p);
            if let Some(pid) = sender {
                live.sender_hears(pid, wire);
            } else if live.run.receiver.as_ref().is_some_and(|r| r.conn == conn) {
                live.receiver_hears(wire);
            }
        });
    }

    /// Whether the process at this connection is stopped.
    fn reads_nothing(&self, conn: Conn) -> bool {
        let receives = |run: &super::server::Run| {
            run.receiver.as_ref().is_some_and(|receiver| receiver.conn == conn)
        };
        self.stopped.all || (self.stopped.receiver && self.run.as_ref().is_some_and(receives))
    }

    /// Whether a message on this connection would find somebody. If not, the machine answers that
    /// there is no such connection.
    pub fn knows(&self, conn: Conn) -> bool {
        let Some(run) = &self.run else { return false };
        run.senders.values().any(|s| s.conn == conn)
            || run.receiver.as_ref().is_some_and(|r| r.conn == conn)
    }

    /// The other side, or the network, has closed a connection.
    pub fn closed(&mut self, now: BootTime, conn: Conn) {
        if self.reads_nothing(conn) {
            self.inbox.push_back((conn, None));
            return;
        }
        self.with(now, |live| {
            let sender = live.run.senders.iter().find(|(_, s)| s.conn == conn).map(|(p, _)| *p);
            if let Some(pid) = sender {
                live.sender_loses(pid);
            } else if live.run.receiver.as_ref().is_some_and(|r| r.conn == conn) {
                live.end_receiver(false);
            }
        });
    }
}
