//! What a scenario can do with servers, be they real ones or those of the model.
//!
//! Owns the words of the scenarios and the ways to wait. A server is known by its name, which is
//! its `application_name` at the server that it follows, too. All servers of a test descend from
//! one data directory, so that they have one system identifier.

use std::collections::BTreeSet;
use std::time::Duration;

/// The name of a server.
pub type Name = &'static str;

/// A position in the WAL.
pub type Lsn = u64;

/// Longest time that anything here may take, by the clock of the servers.
const LONG: Duration = Duration::from_secs(15);

/// How long a thing that must not happen is waited for, where nothing that can be seen comes
/// after it.
const SETTLED: Duration = Duration::from_millis(400);

/// The setting `synchronous_commit` of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Waits for the standbys that `synchronous_standby_names` asks for.
    On,
    /// Waits for its own disk only.
    Local,
    /// Waits for nothing.
    Off,
}

/// A write in a session of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write(pub usize);

/// How a write ended, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The command completed, without a word beside it.
    Acknowledged,
    /// The command completed with a warning: the wait for the standbys was cancelled.
    Warned,
    /// The server reported an error: nothing was committed.
    Refused,
    /// The connection ended without an answer.
    Lost,
}

/// A walsender, as its server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Tells it from others that serve the same standby.
    pub id: i64,
    /// Whom it serves.
    pub standby: String,
    /// How far the standby said that it has flushed.
    pub flushed: Option<Lsn>,
    /// How far the standby said that it has replayed.
    pub replayed: Option<Lsn>,
    /// How far the walsender has sent.
    pub sent: Option<Lsn>,
    /// `sync_priority`: its own view of whether it is in the list.
    pub listed: bool,
    /// Whether it has sent all that there is.
    pub streaming: bool,
}

/// A process of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The walsender with this id.
    Sender(i64),
    /// The walreceiver.
    Receiver,
    /// The walwriter: who flushes what no commit waits for.
    Flusher,
    /// The checkpointer. It also tells the others whether `synchronous_standby_names` is empty.
    Checkpointer,
    /// The backend of a write.
    Backend(Write),
    /// The postmaster, who opens sessions.
    Postmaster,
}

/// What a control file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The timeline of the last checkpoint, or restartpoint.
    pub timeline: u32,
    /// Where the record of that checkpoint begins.
    pub checkpoint: Lsn,
    /// Whether the server was shut down in order (as a primary or as a standby).
    pub shut_down: bool,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The walsender that uses it.
    pub user: Option<i64>,
    /// The oldest WAL that it keeps.
    pub restart: Option<Lsn>,
}

/// How a rewind ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewound {
    /// It saw no divergence and changed nothing.
    NotRequired,
    /// The directory is the source's, to be recovered from the last common checkpoint.
    Done,
    /// It failed; what it said.
    Failed(String),
}

/// Servers with a common origin. Operations on a server that cannot serve them panic.
pub trait Servers {
    // --- a server's life -----------------------------------------------------------------

    /// Makes a primary with an empty table and starts it.
    fn primary(&mut self, name: Name);
    /// Makes a standby of `of` as the primary was when it was made, and starts it. WAL that came
    /// later is streamed.
    fn standby(&mut self, name: Name, of: Name);
    /// Starts a server and waits until it accepts sessions; why not, if it ends instead.
    fn start(&mut self, name: Name) -> Result<(), String>;
    /// Starts a server, which may accept sessions some time, or never.
    fn launch(&mut self, name: Name);
    /// Whether its postmaster runs.
    fn runs(&mut self, name: Name) -> bool;
    /// Whether a new session is opened. Unlike [`Servers::accepts`] it does not use one that is held.
    fn connects(&mut self, name: Name) -> bool;
    /// Whether it accepts sessions.
    fn accepts(&mut self, name: Name) -> bool;
    /// Whether a process of it is left.
    fn has_processes(&mut self, name: Name) -> bool;
    /// Asks for a fast shutdown and does not wait for it.
    fn stop(&mut self, name: Name);
    /// Kills all processes of it at once. What is on its disk stays.
    fn kill(&mut self, name: Name);
    /// Kills the postmaster alone.
    fn behead(&mut self, name: Name);
    /// Kills one process, that is not the postmaster.
    fn murder(&mut self, name: Name, process: Process);
    /// Sets `restart_after_crash` and reloads.
    fn set_restart_after_crash(&mut self, name: Name, on: bool);
    /// Sets `wal_keep_size` to nothing and reloads.
    fn keep_no_wal(&mut self, name: Name);
    /// Stops a process, as SIGSTOP does, while it holds no lock.
    fn freeze(&mut self, name: Name, process: Process);
    /// Lets a stopped process go on.
    fn thaw(&mut self, name: Name, process: Process);
    /// Ends a process in order, as SIGTERM does.
    fn end(&mut self, name: Name, process: Process);

    // --- replication ---------------------------------------------------------------------

    /// Sets whom a standby follows, or that it follows nobody; takes effect at once where it
    /// runs. A server that is stopped starts as a standby from now on.
    fn follow(&mut self, name: Name, of: Option<Name>);
    /// Takes a base backup of a running server for a new one, with the WAL that it needs, and
    /// gives the position of its end. The copy is stopped, and follows nobody.
    fn backup(&mut self, name: Name, of: Name) -> Lsn;
    /// Tells a server to promote itself, as `pg_ctl promote` does, and does not wait.
    fn ask_promotion(&mut self, name: Name);
    /// Promotes a standby, waits until it is a primary, and gives its timeline.
    fn promote(&mut self, name: Name) -> u32;
    /// Sets `synchronous_standby_names` and reloads. Returns when new sessions see it; other
    /// processes may see it later.
    fn set_names(&mut self, name: Name, names: &str);
    /// Sets `synchronous_standby_names`, asks for a reload, and does not wait for it.
    fn set_names_later(&mut self, name: Name, names: &str);
    /// Makes replay stop before the next record.
    fn pause_replay(&mut self, name: Name);
    /// Lets replay go on.
    fn resume_replay(&mut self, name: Name);
    /// Makes a slot for a standby at the server that it follows, and lets it use the slot.
    fn use_slot(&mut self, standby: Name, of: Name);
    /// The slot of a standby.
    fn slot(&mut self, name: Name, standby: Name) -> Slot;
    /// Its walsenders.
    fn senders(&mut self, name: Name) -> Vec<Sender>;
    /// Whether a walreceiver is there.
    fn receives(&mut self, name: Name) -> bool;
    /// How far the WAL is on the own disk: of a primary what it wrote, of a standby what it
    /// received since it started.
    fn flushed(&mut self, name: Name) -> Option<Lsn>;
    /// How far a primary has written records, flushed or not.
    fn inserted(&mut self, name: Name) -> Lsn;
    /// How far a standby has replayed.
    fn replayed(&mut self, name: Name) -> Lsn;
    /// Whether it is a standby.
    fn in_recovery(&mut self, name: Name) -> bool;

    // --- the disk ------------------------------------------------------------------------

    /// Does a checkpoint (a restartpoint on a standby) and waits for it.
    fn checkpoint(&mut self, name: Name);
    /// The timeline of the last checkpoint of a running server.
    fn checkpoint_timeline(&mut self, name: Name) -> u32;
    /// The control file of a server that is stopped.
    fn control(&mut self, name: Name) -> Control;
    /// Zeroes the WAL of a stopped server from one position up to another, or up to its end.
    fn tear(&mut self, name: Name, from: Lsn, to: Option<Lsn>);
    /// The timelines whose history files it has.
    fn histories(&mut self, name: Name) -> BTreeSet<u32>;
    /// Puts a history file in its place that says that `timeline` began at `fork` of timeline 1.
    fn place_history(&mut self, name: Name, timeline: u32, fork: Lsn);
    /// Rewinds a stopped server to a running one.
    fn rewind(&mut self, name: Name, source: Name) -> Rewound;
    /// Begins to rewind a stopped server to a running one, and kills it while data is copied.
    fn rewind_halfway(&mut self, name: Name, source: Name);

    // --- sessions ------------------------------------------------------------------------

    /// Opens a session that is to insert a row.
    fn prepare(&mut self, name: Name, row: i64, commit: Commit) -> Write;
    /// Lets a session that was opened write although its transactions are read-only by default.
    fn override_read_only(&mut self, write: Write);
    /// Sends the insertion, and does not wait for the answer.
    fn send(&mut self, write: Write);
    /// Inserts rows in one transaction, waiting for no standby. A thousand of them fill somewhat
    /// more than one segment of WAL.
    fn fill(&mut self, name: Name, rows: std::ops::Range<i64>);
    /// Sets `default_transaction_read_only` and reloads.
    fn set_read_only(&mut self, name: Name, on: bool);
    /// How a write ended; `None` while there is no answer.
    fn outcome(&mut self, write: Write) -> Option<Outcome>;
    /// Whether a write waits for standbys.
    fn waits(&mut self, write: Write) -> bool;
    /// Cancels a write, as a client does.
    fn cancel(&mut self, write: Write);
    /// The rows that a new session reads.
    fn rows(&mut self, name: Name) -> BTreeSet<i64>;
    /// Writes a WAL record that is flushed, and waits for no standby.
    fn nudge(&mut self, name: Name);

    // --- time ----------------------------------------------------------------------------

    /// The time since the test began, by the clock of the servers.
    fn now(&self) -> Duration;
    /// Lets a moment go by.
    fn pass(&mut self);
}

/// Ways to wait, and short words for what scenarios do often.
pub trait Play: Servers + Sized {
    /// Waits until `seen` gives a value.
    fn until<T>(&mut self, what: &str, mut seen: impl FnMut(&mut Self) -> Option<T>) -> T {
        let began = self.now();
        loop {
            if let Some(value) = seen(self) {
                return value;
            }
            assert!(self.now() - began < LONG, "waited in vain until {what}");
            self.pass();
        }
    }

    /// Waits until `holds`.
    fn await_that(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        self.until(what, |s| holds(s).then_some(()));
    }

    /// Sees to it that `holds` does so for a while.
    fn stays(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let began = self.now();
        while self.now() - began < SETTLED {
            assert!(holds(self), "did not stay: {what}");
            self.pass();
        }
    }

    /// Waits for the answer to a write.
    fn answer(&mut self, write: Write) -> Outcome {
        self.until("the write has its answer", |s| s.outcome(write))
    }

    /// Opens a session and inserts a row; does not wait for the answer.
    fn insert(&mut self, name: Name, row: i64, commit: Commit) -> Write {
        let write = self.prepare(name, row, commit);
        self.send(write);
        write
    }

    /// Waits for the answer to a write, while WAL goes on to be written: walsenders look at
    /// waiters when their standbys reply.
    fn answer_with_traffic(&mut self, name: Name, write: Write) -> Outcome {
        self.until("the write has its answer", |s| {
            s.nudge(name);
            s.outcome(write)
        })
    }

    /// Sees to it that a write goes on to wait while WAL goes on to be written.
    fn waits_on(&mut self, name: Name, write: Write) {
        self.stays("the write waits", |s| {
            s.nudge(name);
            s.waits(write)
        });
    }

    /// Waits until a server has ended.
    fn ends(&mut self, name: Name) {
        self.await_that("the server has ended", |s| !s.runs(name) && !s.has_processes(name));
    }

    /// Waits until a standby shows these rows.
    fn shows(&mut self, name: Name, rows: &[i64]) {
        let wanted: BTreeSet<i64> = rows.iter().copied().collect();
        self.await_that("the server shows the rows", |s| s.rows(name) == wanted);
    }

    /// Inserts a row and waits for its acknowledgement.
    fn put(&mut self, name: Name, row: i64) {
        let write = self.insert(name, row, Commit::On);
        assert_eq!(self.answer(write), Outcome::Acknowledged, "row {row} on {name}");
    }

    /// Inserts a row without waiting for standbys.
    fn put_local(&mut self, name: Name, row: i64) {
        let write = self.insert(name, row, Commit::Local);
        assert_eq!(self.answer(write), Outcome::Acknowledged, "row {row} on {name}");
    }

    /// Inserts a row and waits until it waits for standbys.
    fn put_waiting(&mut self, name: Name, row: i64) -> Write {
        let write = self.insert(name, row, Commit::On);
        self.await_that("the write waits for standbys", |s| s.waits(write));
        write
    }

    /// The one walsender at `name` that serves `standby`.
    fn sender(&mut self, name: Name, standby: Name) -> Sender {
        let mut all = self.senders(name);
        all.retain(|s| s.standby == standby);
        assert_eq!(all.len(), 1, "walsenders of {standby} at {name}: {all:?}");
        all.remove(0)
    }

    /// Waits until `name` knows that `standby` has flushed all that `name` has.
    fn caught_up(&mut self, name: Name, standby: Name) {
        let target = self.flushed(name);
        self.await_that("the standby has flushed all", |s| {
            s.senders(name)
                .iter()
                .any(|w| w.standby == standby && w.streaming && w.flushed >= target)
        });
    }

    /// Waits until `standby` has replayed all that `name` has.
    fn replayed_all(&mut self, name: Name, standby: Name) {
        let target = self.flushed(name).expect("a primary has a position");
        self.await_that("the standby has replayed all", |s| s.replayed(standby) >= target);
    }

    /// Makes a primary `a` with these standbys, all caught up.
    fn cluster(&mut self, standbys: &[Name]) {
        self.primary("a");
        for standby in standbys {
            self.standby(standby, "a");
        }
        for standby in standbys {
            self.caught_up("a", standby);
        }
    }

    /// Sets the names and waits until the walsenders of exactly `listed` say that they are in
    /// the list.
    fn names(&mut self, name: Name, names: &str, listed: &[Name]) {
        self.set_names(name, names);
        self.await_that("the walsenders have the new list", |s| {
            s.senders(name).iter().all(|w| w.listed == listed.contains(&w.standby.as_str()))
        });
    }
}

impl<S: Servers> Play for S {}
