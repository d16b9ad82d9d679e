//! What is done to the servers of a lab, and asked of them.

use crate::domain::types::{Lsn, Timeline};

use super::Lab;
use crate::pg::base::{Disk, Outcome, Pid, Refused, Stopped, Ticket};
use crate::pg::conf::{Level, Settings, SyncNames, Upstream};
use crate::pg::directory::{Control, DataDir, Slot};
use crate::pg::history::History;
use crate::pg::stop::{Mode, Tail};
use crate::pg::tools::{self, Rewound};
use crate::pg::view::{Status, Walsender};

/// A client's session with a server of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The server.
    pub server: String,
    /// The session there.
    pub session: Pid,
}

/// Running and ending.
impl Lab {
    /// Starts a server as a primary, or as a standby (with `standby.signal`).
    ///
    /// # Errors
    /// What its log says, where it ends at once.
    pub fn start(&mut self, name: &str, standby: bool) -> Result<(), String> {
        let now = self.now;
        self.dir_mut(name).standby_signal = standby;
        let said = self.said.len();
        let us = (now.as_nanos() / 1000) as i64;
        self.server_mut(name).start(now, us)?;
        self.settle();
        match self.server(name).run() {
            Some(_) => Ok(()),
            None => Err(self.said.get(said..).unwrap_or_default().join("; ")),
        }
    }

    /// Whether any process of it is there.
    pub fn is_running(&self, name: &str) -> bool {
        self.server(name).run().is_some()
    }

    /// Stops it. Where somebody holds it up, it stops later.
    pub fn stop(&mut self, name: &str, mode: Mode) {
        let now = self.now;
        self.server_mut(name).stop(now, mode);
        self.settle();
    }

    /// SIGKILL of the postmaster alone.
    pub fn kill_postmaster(&mut self, name: &str) {
        let now = self.now;
        self.server_mut(name).kill_postmaster(now);
        self.settle();
    }

    /// SIGKILL of one of its processes.
    pub fn crash_backend(&mut self, name: &str) {
        let now = self.now;
        self.server_mut(name).crash_backend(now);
        self.settle();
    }

    /// SIGKILL of all processes at once.
    pub fn kill_all(&mut self, name: &str) {
        self.server_mut(name).kill_all();
        self.settle();
    }

    /// Crash of its machine. `tail` of what was not flushed survives.
    pub fn crash(&mut self, name: &str, tail: Tail) {
        self.server_mut(name).crash(tail);
        self.settle();
    }

    /// SIGSTOP and SIGCONT.
    pub fn set_stopped(&mut self, name: &str, stopped: Stopped) {
        let now = self.now;
        self.server_mut(name).set_stopped(now, stopped);
        self.settle();
    }

    /// Changes how its disk behaves.
    pub fn set_disk(&mut self, name: &str, disk: Disk) {
        let now = self.now;
        self.server_mut(name).set_disk(now, disk);
        self.settle();
    }
}

/// Settings and files.
impl Lab {
    /// Changes the settings' files, and reloads a server that runs.
    pub fn configure(&mut self, name: &str, change: impl FnOnce(&mut Settings)) {
        let now = self.now;
        change(&mut self.dir_mut(name).conf);
        self.server_mut(name).reload(now);
        self.settle();
    }

    /// Sets `synchronous_standby_names`; `None` empties it.
    pub fn synchronous(&mut self, name: &str, names: Option<SyncNames>) {
        self.configure(name, |conf| conf.synchronous = names);
    }

    /// Has `standby` follow `primary` under its own name, by a slot where one is named.
    pub fn follow(&mut self, standby: &str, primary: &str, slot: Option<&str>) {
        let upstream = Upstream {
            address: primary.to_owned(),
            name: standby.to_owned(),
            slot: slot.map(str::to_owned),
        };
        self.configure(standby, |conf| conf.primary = Some(upstream));
    }

    /// Has a standby follow nobody.
    pub fn unfollow(&mut self, standby: &str) {
        self.configure(standby, |conf| conf.primary = None);
    }

    /// The control file.
    pub fn control(&self, name: &str) -> Control {
        self.dir(name).control.clone()
    }

    /// The data directory.
    pub fn dir(&self, name: &str) -> &DataDir {
        self.server(name).dir().unwrap_or_else(|| panic!("{name} has no data directory"))
    }

    /// A history file; `None` where there is none.
    pub fn history(&self, name: &str, timeline: u32) -> Option<History> {
        self.dir(name).histories.file(Timeline(timeline)).cloned()
    }

    /// Writes a history file by hand.
    pub fn write_history(&mut self, name: &str, history: History) {
        self.dir_mut(name).histories.put(history);
    }

    /// Removes a history file by hand.
    pub fn remove_history(&mut self, name: &str, timeline: u32) {
        self.dir_mut(name).histories.remove(Timeline(timeline));
    }
}

/// Copies.
impl Lab {
    /// `pg_basebackup` of a running server into that of `to`, which must not run; it is added where
    /// it is not there. It keeps its settings where it had any.
    ///
    /// # Errors
    /// Why there is no copy.
    pub fn copy(&mut self, to: &str, from: &str) -> Result<(), String> {
        self.checkpoint(from);
        let backup = self.server(from).begin_backup().map_err(|e| e.to_string())?;
        let now = self.now;
        let mut copy = self.server_mut(from).end_backup(now, &backup)?;
        if !self.servers.contains_key(to) {
            self.add(to);
        }
        if let Some(dir) = self.server(to).dir() {
            copy.conf = dir.conf.clone();
        }
        self.server_mut(to).set_dir(Some(copy));
        self.settle();
        Ok(())
    }

    /// A new standby of `primary`: copied, with a slot of its own name there, running.
    pub fn add_standby(&mut self, name: &str, primary: &str) {
        let slot = format!("slot_{name}");
        self.create_slot(primary, &slot).unwrap_or_else(|e| panic!("no slot: {e}"));
        self.copy(name, primary).unwrap_or_else(|e| panic!("no copy: {e}"));
        self.dir_mut(name).conf = Settings::default();
        self.follow(name, primary, Some(&slot));
        self.start(name, true).unwrap_or_else(|e| panic!("{name} does not start: {e}"));
    }

    /// `pg_rewind` of the stopped `target`, with the running `source`.
    ///
    /// # Errors
    /// The source takes no connections.
    pub fn rewind(&mut self, target: &str, source: &str) -> Result<Rewound, Refused> {
        let source = self.server(source).rewind_source()?;
        Ok(tools::rewind(self.dir_mut(target), &source))
    }

    /// `postgres --single` on the stopped server: its own crash recovery, and an orderly stop.
    ///
    /// # Errors
    /// What it says.
    pub fn recover_alone(&mut self, name: &str) -> Result<(), String> {
        let now = self.now;
        let dir = tools::recover_alone(self.dir(name).clone(), now)?;
        self.server_mut(name).set_dir(Some(dir));
        Ok(())
    }

    /// `CHECKPOINT`. Returns whether it is done.
    pub fn checkpoint(&mut self, name: &str) -> bool {
        let (now, ticket) = (self.now, self.ticket());
        let asked = self.server_mut(name).checkpoint(now, ticket);
        self.settle();
        asked.is_ok() && self.outcome(ticket) == Some(Outcome::Acknowledged)
    }

    /// `pg_promote`. Returns whether it is a primary now.
    pub fn promote(&mut self, name: &str) -> bool {
        let (now, ticket) = (self.now, self.ticket());
        let asked = self.server_mut(name).promote(now, Some(ticket));
        self.settle();
        asked.is_ok() && self.outcome(ticket) == Some(Outcome::Acknowledged)
    }
}

/// Slots and walsenders.
impl Lab {
    /// Makes a physical slot that keeps WAL from now on.
    ///
    /// # Errors
    /// It exists, or no statements are taken.
    pub fn create_slot(&mut self, name: &str, slot: &str) -> Result<(), Refused> {
        self.server_mut(name).create_slot(slot, true)
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// It does not exist, is in use, or no statements are taken.
    pub fn drop_slot(&mut self, name: &str, slot: &str) -> Result<(), Refused> {
        self.server_mut(name).drop_slot(slot)
    }

    /// A slot.
    pub fn slot(&self, name: &str, slot: &str) -> Option<Slot> {
        self.dir(name).slots.get(slot).cloned()
    }

    /// The walsender for a standby of this name.
    pub fn walsender(&self, server: &str, standby: &str) -> Option<Walsender> {
        let status = self.server(server).status().ok()?;
        status.walsenders.into_iter().find(|w| w.name == standby)
    }

    /// Has the walsender for a standby do nothing at all, or go on.
    pub fn stick(&mut self, server: &str, standby: &str, stuck: bool) {
        let now = self.now;
        self.server_mut(server).stick_senders(now, stuck, |name| name == standby);
        self.settle();
    }

    /// Ends the walsender for a standby.
    pub fn end_walsender(&mut self, server: &str, standby: &str) {
        let now = self.now;
        if let Some(walsender) = self.walsender(server, standby) {
            self.server_mut(server).terminate(now, walsender.pid);
        }
        self.settle();
    }

    /// Has a standby replay nothing, or go on.
    pub fn pause_replay(&mut self, name: &str, paused: bool) {
        let now = self.now;
        self.server_mut(name).pause_replay(now, paused);
        self.settle();
    }
}

/// Clients.
impl Lab {
    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    /// How a request ended; `None` while it has not.
    pub fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        self.answers.get(&ticket).cloned()
    }

    /// Opens a session.
    ///
    /// # Errors
    /// Nothing listens, or it takes no connections.
    pub fn connect(&mut self, server: &str) -> Result<Client, Refused> {
        let now = self.now;
        let session = self.server_mut(server).connect(now, "client")?;
        Ok(Client { server: server.to_owned(), session })
    }

    /// Sets a session's `synchronous_commit`.
    ///
    /// # Errors
    /// There is no such session.
    pub fn level(&mut self, client: &Client, level: Level) -> Result<(), Refused> {
        self.server_mut(&client.server).set_level(client.session, level)
    }

    /// Sets a session's own `default_transaction_read_only`.
    ///
    /// # Errors
    /// There is no such session.
    pub fn read_only(&mut self, client: &Client, read_only: bool) -> Result<(), Refused> {
        self.server_mut(&client.server).set_read_only(client.session, read_only)
    }

    /// `INSERT`, in the session's transaction.
    ///
    /// # Errors
    /// It is read-only, busy or gone.
    pub fn insert(&mut self, client: &Client, value: u64) -> Result<(), Refused> {
        let now = self.now;
        let done = self.server_mut(&client.server).insert(now, client.session, value);
        self.settle();
        done
    }

    /// `COMMIT`; see [`Lab::outcome`].
    ///
    /// # Errors
    /// The session is busy or gone.
    pub fn commit(&mut self, client: &Client) -> Result<Ticket, Refused> {
        let (now, ticket) = (self.now, self.ticket());
        self.server_mut(&client.server).commit(now, client.session, ticket)?;
        self.settle();
        Ok(ticket)
    }

    /// `INSERT` and `COMMIT`; see [`Lab::outcome`].
    ///
    /// # Errors
    /// It is read-only, busy or gone.
    pub fn write(&mut self, client: &Client, value: u64) -> Result<Ticket, Refused> {
        self.insert(client, value)?;
        self.commit(client)
    }

    /// `INSERT` and `COMMIT` in one message, which a backend that is stopped does when it goes on;
    /// see [`Lab::outcome`].
    pub fn send(&mut self, client: &Client, value: u64) -> Ticket {
        let (now, ticket) = (self.now, self.ticket());
        self.server_mut(&client.server).write(now, client.session, value, ticket);
        self.settle();
        ticket
    }

    /// Writes a row on a session of its own. `None` means that it is not answered yet.
    pub fn put(&mut self, server: &str, value: u64) -> Option<Outcome> {
        let asked = self.connect(server).and_then(|client| self.write(&client, value));
        match asked {
            Ok(ticket) => self.outcome(ticket),
            Err(why) => Some(Outcome::Refused(why)),
        }
    }

    /// `pg_logical_emit_message(true, ...)` on a session of its own that waits for no standby.
    pub fn emit_local(&mut self, server: &str) -> Result<Lsn, Refused> {
        let client = self.connect(server)?;
        self.level(&client, Level::Local)?;
        let (now, ticket) = (self.now, self.ticket());
        let lsn = self.server_mut(server).emit(now, client.session, ticket)?;
        self.settle();
        Ok(lsn)
    }

    /// `pg_cancel_backend`.
    pub fn cancel(&mut self, client: &Client) {
        let now = self.now;
        self.server_mut(&client.server).cancel(now, client.session);
        self.settle();
    }

    /// `pg_terminate_backend`.
    pub fn terminate(&mut self, client: &Client) {
        let now = self.now;
        self.server_mut(&client.server).terminate(now, client.session);
        self.settle();
    }

    /// All rows that a new session sees.
    ///
    /// # Errors
    /// It does not run, or takes no statements now.
    pub fn rows(&self, server: &str) -> Result<Vec<u64>, Refused> {
        self.server(server).rows().map(|rows| rows.iter().collect())
    }

    /// What a server shows.
    ///
    /// # Errors
    /// It does not run, or takes no statements now.
    pub fn status(&self, server: &str) -> Result<Status, Refused> {
        self.server(server).status()
    }
}
