//! A data directory: what is on disk, and what would be lost.

use std::collections::BTreeMap;

use crate::check::Rows;
use crate::domain::types::{Lsn, SystemId, Timeline};

use super::conf::Settings;
use super::history::{Histories, History};
use super::wal::{Kind, Record, Wal, Xid};

/// Where the log of a fresh data directory begins.
const FIRST: Lsn = Lsn(SEGMENT_ONE + 40);
const SEGMENT_ONE: u64 = super::wal::SEGMENT;

/// What a data directory was last seen to do (`pg_control`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Stopped in order as a primary.
    ShutDown,
    /// Stopped in order as a standby.
    ShutDownInRecovery,
    /// Killed while it stopped.
    ShuttingDown,
    /// In crash recovery, or killed in it.
    InCrashRecovery,
    /// A standby, running or killed.
    InArchiveRecovery,
    /// A primary, running or killed.
    InProduction,
}

/// The control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Whose directory it is.
    pub system_id: SystemId,
    /// What it does.
    pub state: State,
    /// Where the latest checkpoint's record begins.
    pub checkpoint: Lsn,
    /// Where recovery starts.
    pub redo: Lsn,
    /// Timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// A standby is consistent from here on; 0/0 for a primary.
    pub min_recovery: Lsn,
    /// The timeline of that position; 0 for a primary.
    pub min_recovery_timeline: Timeline,
    /// Where the backup began of which the end was not replayed yet; 0/0 for none.
    pub backup_start: Lsn,
    /// Where that backup ends, where it was taken from a standby.
    pub backup_end: Lsn,
}

impl Control {
    /// The newest timeline that it knows: where the search for a newer one begins.
    pub fn newest_timeline(&self) -> Timeline {
        self.timeline.max(self.min_recovery_timeline)
    }

    /// Whether it was stopped in order.
    pub fn is_clean(&self) -> bool {
        matches!(self.state, State::ShutDown | State::ShutDownInRecovery)
    }
}

/// The rows, and what is not committed yet.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    rows: Rows,
    open: BTreeMap<Xid, Vec<u64>>,
    next_xid: Xid,
}

impl Pages {
    /// All committed rows.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The number of the next transaction.
    pub fn next_xid(&self) -> Xid {
        self.next_xid
    }

    /// Does what a record says. Doing it twice is doing it once, as long as nothing else comes
    /// between.
    pub fn apply(&mut self, kind: Kind) {
        match kind {
            Kind::Insert { xid, value } => {
                self.next_xid = self.next_xid.max(xid + 1);
                self.open.entry(xid).or_default().push(value);
            }
            Kind::Commit { xid } => {
                self.next_xid = self.next_xid.max(xid + 1);
                for value in self.open.remove(&xid).unwrap_or_default() {
                    self.rows.insert(value);
                }
            }
            Kind::Abort { xid } => _ = self.open.remove(&xid),
            Kind::Checkpoint { shutdown, next_xid, .. } => {
                self.next_xid = self.next_xid.max(next_xid);
                if shutdown {
                    self.open.clear();
                }
            }
            Kind::EndOfRecovery { .. } => self.open.clear(),
            Kind::BackupEnd { .. } | Kind::Message | Kind::Bulk { .. } => {}
        }
    }

    /// What a transaction has inserted so far.
    pub fn open(&self, xid: Xid) -> &[u64] {
        self.open.get(&xid).map(Vec::as_slice).unwrap_or_default()
    }

    /// Nobody is left who could commit what is not committed.
    pub fn forget_open(&mut self) {
        self.open.clear();
    }
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// WAL is kept from here on; `None` where it was never used.
    pub restart: Option<Lsn>,
    /// The same as it is on disk: what is left after a crash.
    pub saved: Option<Lsn>,
    /// The process that uses it.
    pub active: Option<u64>,
    /// Whether it goes with its connection.
    pub temporary: bool,
    /// Whether it holds back the removal of dead rows.
    pub holds_xmin: bool,
}

/// `backup_label`: the directory is a copy, or was rewound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The checkpoint from which recovery begins.
    pub checkpoint: Lsn,
    /// Where replay begins.
    pub redo: Lsn,
    /// The timeline of both.
    pub timeline: Timeline,
    /// Whether a [`Kind::BackupEnd`] tells the end; else the control file's minimum recovery point
    /// does.
    pub end_by_record: bool,
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDir {
    /// `pg_control`.
    pub control: Control,
    /// `pg_wal`.
    pub wal: Wal,
    /// History files.
    pub histories: Histories,
    /// `standby.signal`.
    pub standby_signal: bool,
    /// `backup_label`.
    pub label: Option<Label>,
    /// Slots, by name.
    pub slots: BTreeMap<String, Slot>,
    /// The settings as they are in the files.
    pub conf: Settings,
    /// The rows as they were flushed by the latest checkpoint or restartpoint, or copied.
    pub pages: Pages,
    /// Why it is no data directory, where a copy or a rewind was interrupted in it. Nothing stops
    /// anybody from starting it; what comes of it is nobody's guess.
    pub garbage: Option<String>,
}

impl DataDir {
    /// `initdb`: one timeline, a checkpoint, no rows.
    pub fn initdb(system_id: SystemId) -> Self {
        let mut wal = Wal::default();
        let timeline = Timeline(1);
        let first = Kind::Checkpoint { redo: FIRST, shutdown: true, next_xid: 3 };
        let record: Record = wal.append(None, FIRST, timeline, first);
        let mut pages = Pages::default();
        pages.apply(record.kind);
        let control = Control {
            system_id,
            state: State::ShutDown,
            checkpoint: record.start,
            redo: record.start,
            timeline,
            min_recovery: Lsn(0),
            min_recovery_timeline: Timeline(0),
            backup_start: Lsn(0),
            backup_end: Lsn(0),
        };
        Self {
            control,
            wal,
            histories: Histories::default(),
            standby_signal: false,
            label: None,
            slots: BTreeMap::new(),
            conf: Settings::default(),
            pages,
            garbage: None,
        }
    }

    /// The history of a timeline.
    pub fn history(&self, timeline: Timeline) -> History {
        self.histories.of(timeline)
    }
}
