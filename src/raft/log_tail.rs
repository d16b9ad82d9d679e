//! What the log store knows without the disk.
//!
//! Owns the bounds of the log, the vote, and the newest entries in memory. Entries whose write is
//! not done are always here, since the database cannot show them yet; beyond them a bounded number
//! is kept, so that replication and apply rarely read the disk. No I/O happens here.

use std::collections::BTreeMap;
use std::ops::Range;

use super::types::{Entry, LogId, Vote};

/// Bounds of what is kept of entries that are on disk.
const KEEP_ENTRIES_MAX: usize = 1024;
const KEEP_BYTES_MAX: usize = 1 << 20;

struct Kept {
    entry: Entry,
    bytes: usize,
    write: u64,
}

/// An append that does not continue the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entry with index {got} does not continue the log: {expected} is next")]
pub struct Hole {
    got: u64,
    expected: u64,
}

/// The bounds and the newest part of the log.
#[derive(Default)]
pub struct LogTail {
    /// The vote, as far as it is on disk.
    pub vote: Option<Vote>,
    /// The last entry known to be committed.
    pub committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Index of the first entry, or of the next one where there is none.
    first: u64,
    anywhere: bool,
    kept: BTreeMap<u64, Kept>,
    kept_bytes: usize,
    written: u64,
}

impl LogTail {
    /// The bounds as they were found on disk. `held` is the first and the last entry of a log that
    /// is not empty.
    pub fn new(purged: Option<LogId>, held: Option<(LogId, LogId)>) -> Self {
        let first = held.map_or(next(purged), |(first, _)| first.index);
        Self { purged, last: held.map(|(_, last)| last).or(purged), first, ..Self::default() }
    }

    /// Lets a log that was always empty begin with any index instead of 0.
    pub fn begin_anywhere(mut self) -> Self {
        self.anywhere = true;
        self
    }

    /// The last entry that was purged.
    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, or the last purged one where the log is empty.
    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    /// The indexes that the log holds.
    pub fn held(&self) -> Range<u64> {
        self.first..next(self.last).max(self.first)
    }

    /// Adds `entry`, of `bytes` serialised, as part of write number `write`.
    pub fn append(&mut self, entry: Entry, bytes: usize, write: u64) -> Result<(), Hole> {
        let expected = next(self.last);
        let got = entry.log_id.index;
        let begins = self.last.is_none() && self.anywhere;
        if got != expected && !begins {
            return Err(Hole { got, expected });
        }
        if self.held().is_empty() {
            self.first = got;
        }
        self.last = Some(entry.log_id);
        self.kept_bytes += bytes;
        self.kept.insert(got, Kept { entry, bytes, write });
        Ok(())
    }

    /// Removes everything after `keep`; returns the indexes that are gone.
    pub fn truncate_after(&mut self, keep: Option<LogId>) -> Range<u64> {
        let end = self.held().end;
        let from = next(keep).clamp(self.held().start, end);
        if from < end {
            self.last = keep.max(self.purged);
            self.forget(from..end);
        }
        from..end
    }

    /// Removes everything up to `upto`; returns the indexes that are gone.
    pub fn purge(&mut self, upto: LogId) -> Range<u64> {
        let held = self.held();
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return held.start..held.start;
        }
        let gone = held.start..held.end.min(upto.index + 1).max(held.start);
        self.forget(gone.clone());
        self.purged = Some(upto);
        self.first = self.first.max(upto.index + 1);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
        gone
    }

    /// Write number `write`, and so all before it, can be read from the database now.
    pub fn done(&mut self, write: u64) {
        self.written = self.written.max(write);
        while (self.kept.len() > KEEP_ENTRIES_MAX || self.kept_bytes > KEEP_BYTES_MAX)
            && let Some(first) = self.kept.first_entry()
            && first.get().write <= self.written
        {
            self.kept_bytes -= first.remove().bytes;
        }
    }

    /// The entries of `range` from memory with their sizes in bytes, and the part before them that
    /// only the database has.
    pub fn read(&self, range: Range<u64>) -> (Range<u64>, Vec<(Entry, usize)>) {
        let first_kept = self.kept.first_key_value().map_or(range.end, |(index, _)| *index);
        let split = first_kept.clamp(range.start, range.end.max(range.start));
        let entries =
            self.kept.range(split..range.end.max(split)).map(|(_, k)| (k.entry.clone(), k.bytes));
        (range.start..split, entries.collect())
    }

    fn forget(&mut self, gone: Range<u64>) {
        let mut tail = self.kept.split_off(&gone.start);
        let mut rest = tail.split_off(&gone.end);
        self.kept_bytes -= tail.values().map(|k| k.bytes).sum::<usize>();
        self.kept.append(&mut rest);
    }
}

/// The index after `log_id`; zero where there is none.
pub fn next(log_id: Option<LogId>) -> u64 {
    log_id.map_or(0, |id| id.index + 1)
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::super::types::log_id;
    use super::*;

    fn id(index: u64) -> LogId {
        log_id(1, index)
    }

    fn tail(upto: u64) -> LogTail {
        let mut tail = LogTail::new(None, None);
        for index in 0..upto {
            let entry = Entry { log_id: id(index), payload: EntryPayload::Blank };
            tail.append(entry, 100, index + 1).unwrap();
        }
        tail
    }

    #[test]
    fn a_hole_is_refused() {
        let mut tail = tail(3);
        for index in [0, 2, 4] {
            let entry = Entry { log_id: id(index), payload: EntryPayload::Blank };
            assert_eq!(tail.append(entry, 1, 9), Err(Hole { got: index, expected: 3 }));
        }
    }

    #[test]
    fn unwritten_entries_are_never_dropped() {
        let mut tail = tail(3000);
        assert_eq!(tail.read(0..3000), (0..0, tail.read(0..3000).1));
        tail.done(10);
        assert_eq!(tail.read(0..3000).0, 0..10);
        tail.done(3000);
        let (from_disk, entries) = tail.read(5..2999);
        assert_eq!(from_disk, 5..1976);
        assert_eq!(entries.len(), 2999 - 1976);
    }

    #[test]
    fn bounds_follow_truncate_and_purge() {
        let mut tail = tail(10);
        assert_eq!(tail.truncate_after(Some(id(6))), 7..10);
        assert_eq!((tail.held(), tail.last()), (0..7, Some(id(6))));
        assert_eq!(tail.purge(id(3)), 0..4);
        assert_eq!(tail.purge(id(2)), 4..4);
        assert_eq!(tail.held(), 4..7);
        assert_eq!(tail.truncate_after(Some(id(1))), 4..7);
        assert_eq!((tail.held(), tail.last()), (4..4, Some(id(3))));
        assert_eq!(tail.purge(id(20)), 4..4);
        assert_eq!((tail.held(), tail.last()), (21..21, Some(id(20))));
    }
}
