//! A write-ahead log of at most eight records, in one number.
//!
//! A record is a byte: the epoch that wrote it, and what it is. Positions are numbers of records.

use std::fmt;

use crate::domain::lineage::{Entry, Lineage};
use crate::domain::types::{Epoch, Lsn};

/// The log of one member: byte `i` is record `i`, and no record is zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log(u64);

/// Most records of a log.
pub const RECORDS_MAX: u8 = 8;

impl Log {
    /// The log of a fresh data directory.
    pub fn initial() -> Self {
        Log::default().with_start(1)
    }

    /// Number of records: the end of the log.
    pub fn len(self) -> u8 {
        (u64::BITS - self.0.leading_zeros()).div_ceil(8) as u8
    }

    fn get(self, at: u8) -> u8 {
        if at >= RECORDS_MAX { 0 } else { (self.0 >> (8 * at)) as u8 }
    }

    fn with(self, record: u8) -> Self {
        let len = self.len();
        assert!(len < RECORDS_MAX, "the bounds allow more records than a log can hold");
        Log(self.0 | u64::from(record) << (8 * len))
    }

    /// This log with the first record of an epoch.
    pub fn with_start(self, epoch: u8) -> Self {
        self.with(epoch << 4)
    }

    /// This log with a write of an epoch. Writes are numbered from 1.
    pub fn with_write(self, epoch: u8, write: u8) -> Self {
        self.with(epoch << 4 | write)
    }

    /// The first `len` records.
    pub fn prefix(self, len: u8) -> Self {
        if len >= RECORDS_MAX { self } else { Log(self.0 & ((1 << (8 * len)) - 1)) }
    }

    /// This log continued by what `source` has from there on, up to `len`: what PostgreSQL does
    /// once it has taken this log for a prefix, whether it is one or not.
    pub fn continued(self, source: Log, len: u8) -> Self {
        let own = self.prefix(self.len()).0;
        let shared = source.prefix(self.len()).0;
        Log(own | (source.prefix(len).0 & !shared))
    }

    /// The epoch of the last record; 0 of an empty log.
    pub fn epoch(self) -> u8 {
        match self.len() {
            0 => 0,
            len => self.get(len - 1) >> 4,
        }
    }

    /// The writes in it, one bit each.
    pub fn writes(self) -> u8 {
        let write = |at: u8| self.get(at) & 0xF;
        (0..self.len()).map(write).filter(|w| *w > 0).fold(0, |mask, w| mask | 1 << (w - 1))
    }

    /// The writes of `epoch` before position `len`, one bit each.
    pub fn writes_of(self, epoch: u8, len: u8) -> u8 {
        let records = (0..len.min(self.len())).map(|at| self.get(at));
        let own = records.filter(|r| r >> 4 == epoch && r & 0xF > 0);
        own.fold(0, |mask, r| mask | 1 << ((r & 0xF) - 1))
    }

    /// Where each epoch begins.
    pub fn lineage(self) -> Lineage {
        let mut entries: Vec<Entry> = Vec::new();
        for at in 0..self.len() {
            let epoch = Epoch(u64::from(self.get(at) >> 4));
            if entries.last().is_none_or(|e| e.epoch != epoch) {
                entries.push(Entry { epoch, start: Lsn(u64::from(at)) });
            }
        }
        Lineage(entries)
    }

    /// Whether two logs have, at some position, a record of one epoch and different histories up to
    /// it: two members wrote one timeline.
    pub fn forks_from(self, other: Log) -> bool {
        let both = self.len().min(other.len());
        let Some(last) = (0..both).rev().find(|at| self.get(*at) >> 4 == other.get(*at) >> 4)
        else {
            return false;
        };
        self.prefix(last + 1) != other.prefix(last + 1)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in 0..self.len() {
            let record = self.get(at);
            match record & 0xF {
                0 => write!(f, "{}", record >> 4)?,
                write => write!(f, "{}", char::from(b'w' + write - 1))?,
            }
        }
        Ok(())
    }
}
