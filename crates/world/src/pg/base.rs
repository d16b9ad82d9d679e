//! What a server is made of: numbers, how long things take, and what it tells the world.

use std::time::Duration;

use crate::domain::types::{BootTime, Timeline};

use super::stream::{Hello, Wire};

/// A process of a server. Never used twice.
pub type Pid = u64;

/// What a client calls a request, to know its answer again.
pub type Ticket = u64;

/// A replication connection. Unique in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conn {
    /// The number of the server that dialled.
    pub dialler: u32,
    /// Which of its connections.
    pub number: u64,
}

/// How long something takes: from `least` to `most`, evenly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl Span {
    /// From `least` to `most` milliseconds.
    pub const fn millis(least: u64, most: u64) -> Self {
        Self { least: Duration::from_millis(least), most: Duration::from_millis(most) }
    }

    /// From `least` to `most` microseconds.
    pub const fn micros(least: u64, most: u64) -> Self {
        Self { least: Duration::from_micros(least), most: Duration::from_micros(most) }
    }
}

/// How long the work of a server takes. By default nothing takes any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// From the start of the postmaster to the beginning of recovery.
    pub start: Span,
    /// Replay of what is there at a start.
    pub recover: Span,
    /// From a reload to the postmaster's having read the files, and again until each process has.
    pub reload: Span,
    /// Flushing WAL to disk.
    pub fsync: Span,
    /// From the flush of a record on a standby to its replay.
    pub apply: Span,
    /// A checkpoint that is asked for.
    pub checkpoint: Span,
    /// A checkpoint that nobody waits for.
    pub spread: Span,
    /// Each of the two steps of a promotion.
    pub promote: Span,
    /// From the signal to stop to the checkpoint with which a server stops.
    pub stop: Span,
    /// How long a process goes on after its postmaster was killed.
    pub orphan: Span,
}

/// The randomness that a server was given.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A stream of numbers that the seed decides.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time within `span`.
    pub fn within(&mut self, span: Span) -> Duration {
        let room = span.most.saturating_sub(span.least).as_nanos() as u64;
        if room == 0 {
            return span.least;
        }
        span.least + Duration::from_nanos(self.roll() % (room + 1))
    }
}

/// The disk under a data directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Whether it answers nothing at all.
    pub hung: bool,
    /// Whether it says that it has flushed what it has not.
    pub lies: bool,
    /// Whether there is no room on it.
    pub full: bool,
    /// Whether everything that is written to it fails.
    pub fails: bool,
    /// How much longer a flush takes.
    pub slower: Duration,
}

impl Disk {
    /// What the server says when it writes, where that does not work.
    pub(super) fn refuses(&self) -> Option<&'static str> {
        match (self.full, self.fails) {
            (true, _) => Some(NO_ROOM),
            (false, true) => Some("could not fsync file: Input/output error"),
            (false, false) => None,
        }
    }
}

/// What is said where there is no room.
pub const NO_ROOM: &str = "could not write to file: No space left on device";

/// What of a server was stopped with SIGSTOP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Every process.
    pub all: bool,
    /// The postmaster: nothing is started or reloaded any more.
    pub postmaster: bool,
    /// The checkpointer.
    pub checkpointer: bool,
    /// The walwriter: what nobody waits for stays unflushed.
    pub walwriter: bool,
    /// The walreceiver: what comes stays unread.
    pub receiver: bool,
}

/// How a client's request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, without any warning.
    Acknowledged,
    /// It was done here, and the wait for standbys was given up: the client is told so by a
    /// warning. Nobody may rely on it.
    AckedWithWarning,
    /// It was not done.
    Refused(Refused),
    /// The connection is gone: nobody knows.
    Lost,
}

/// Why a server does not do what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing listens.
    #[error("connection refused")]
    NotRunning,
    /// The processes that would have to answer are stopped: there is no answer, ever.
    #[error("no answer")]
    Silent,
    /// It starts, or is not consistent yet.
    #[error("the database system is starting up")]
    Starting,
    /// It stops.
    #[error("the database system is shutting down")]
    ShuttingDown,
    /// The transaction is read-only.
    #[error("cannot execute INSERT in a read-only transaction")]
    ReadOnly,
    /// There is no such session any more.
    #[error("the connection is closed")]
    NoSession,
    /// The session has not ended what it was asked before.
    #[error("another command is already in progress")]
    Busy,
    /// It is a primary.
    #[error("recovery is not in progress")]
    NotInRecovery,
    /// There is one of that name already.
    #[error("it already exists")]
    Exists,
    /// There is none of that name.
    #[error("it does not exist")]
    Missing,
    /// It is used by a process.
    #[error("it is in use")]
    InUse,
}

/// What a server tells the world.
#[derive(Debug, Clone)]
pub enum Event {
    /// It opens a replication connection.
    Dial {
        /// Which.
        conn: Conn,
        /// To which address.
        address: String,
        /// What it says first.
        hello: Hello,
    },
    /// It sends something on one.
    Send {
        /// Which.
        conn: Conn,
        /// What.
        wire: Wire,
    },
    /// Its end of a connection was closed: the other side is told by the kernel.
    Close {
        /// Which.
        conn: Conn,
    },
    /// A request was answered, or its connection broke.
    Answered {
        /// Which.
        ticket: Ticket,
        /// How.
        outcome: Outcome,
    },
    /// A session was ended by the server.
    SessionEnded {
        /// Which.
        session: Pid,
    },
    /// The postmaster has ended.
    Ended {
        /// How, for a person.
        how: String,
    },
    /// No process of it is left.
    Empty,
    /// The wait of a commit for standbys was given up: its rows are visible from now on.
    GivenUp {
        /// They.
        rows: Vec<u64>,
    },
    /// A standby is connected to what it streams from.
    Streams {
        /// On which timeline.
        timeline: Timeline,
    },
    /// Something worth a line in a log.
    Said {
        /// What.
        text: String,
    },
}

/// What all processes of a server share with the machine.
#[derive(Debug, Clone)]
pub struct Env {
    /// The server's number.
    pub number: u32,
    /// How long its work takes.
    pub pace: Pace,
    /// Its randomness.
    pub dice: Dice,
    /// Its disk.
    pub disk: Disk,
    /// What it has to tell.
    pub out: Vec<Event>,
    /// Numbers that were given out.
    pub(super) conns: u64,
    pub(super) pids: u64,
}

impl Env {
    pub(super) fn new(number: u32, seed: u64) -> Self {
        Self {
            number,
            pace: Pace::default(),
            dice: Dice::new(seed),
            disk: Disk::default(),
            out: Vec::new(),
            conns: 0,
            pids: 0,
        }
    }

    pub(super) fn pid(&mut self) -> Pid {
        self.pids += 1;
        self.pids
    }

    pub(super) fn conn(&mut self) -> Conn {
        self.conns += 1;
        Conn { dialler: self.number, number: self.conns }
    }

    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.out.push(Event::Said { text: text.into() });
    }

    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Outcome) {
        self.out.push(Event::Answered { ticket, outcome });
    }

    pub(super) fn send(&mut self, conn: Conn, wire: Wire) {
        self.out.push(Event::Send { conn, wire });
    }

    /// When something that begins now will have ended.
    pub(super) fn after(&mut self, now: BootTime, span: Span) -> BootTime {
        now.plus(self.dice.within(span))
    }
}
