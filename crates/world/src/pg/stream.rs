//! What a walreceiver and a walsender say to each other (PostgreSQL manual, section 55.4).
//!
//! Several messages of the real protocol are one here where nothing can come between them.

use crate::domain::types::{Lsn, SystemId, Timeline};

use super::history::History;
use super::wal::Record;

/// The first words of a walreceiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// What it calls itself.
    pub name: String,
    /// The timeline that it is going to ask for.
    pub timeline: Timeline,
    /// The history files that it has.
    pub has: Vec<Timeline>,
}

/// What it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The slot that it uses.
    pub slot: Option<String>,
    /// The timeline.
    pub timeline: Timeline,
    /// From here on: always the beginning of a segment.
    pub from: Lsn,
    /// Where its own log of that timeline ends, and the digest of that log. A walsender with the
    /// same log leaves out what would be written over itself, which changes nothing.
    pub have: Option<(Lsn, u64)>,
    /// Whether it tells which rows its sessions still need (`hot_standby_feedback`).
    pub feedback: bool,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    /// Walsender: who it is, with the history files that the other side lacks.
    Welcome {
        /// Whose data it has.
        system_id: SystemId,
        /// The newest timeline of its log.
        timeline: Timeline,
        /// History files, from the asked timeline on.
        histories: Vec<History>,
    },
    /// Walreceiver: what it wants.
    Start(Start),
    /// Walsender: it will not serve, and says why. It closes the connection.
    Refused {
        /// Why.
        why: String,
    },
    /// Walsender: WAL.
    Wal {
        /// The records, in their order.
        records: Vec<Record>,
        /// All before this was sent.
        upto: Lsn,
        /// Where the sender's flushed log ends.
        end: Lsn,
    },
    /// Walsender: the asked timeline ends here.
    EndOfTimeline {
        /// Where.
        at: Lsn,
        /// The one that follows it.
        next: Timeline,
    },
    /// Walsender: it is there.
    Keepalive {
        /// Where its flushed log ends.
        end: Lsn,
        /// Whether it wants an answer.
        reply: bool,
    },
    /// Walreceiver: how far it is.
    Reply {
        /// Written.
        write: Lsn,
        /// Flushed.
        flush: Lsn,
        /// Applied.
        apply: Lsn,
        /// Whether it wants an answer.
        reply: bool,
    },
}
