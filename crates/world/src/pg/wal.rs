//! The write-ahead log of a data directory: records, by the timeline that they were written on.
//!
//! A record stands for its bytes: where a server would find no valid record at a position, the
//! model finds none. Segments matter only where PostgreSQL itself counts in segments: a standby
//! asks for WAL from the beginning of one, and WAL is removed in whole ones.

use std::collections::BTreeMap;

use crate::domain::types::{Lsn, Timeline};

use super::history::History;

/// Bytes of a segment, as `initdb` makes them where nothing else is said.
pub const SEGMENT: u64 = 16 << 20;

/// Number of a transaction.
pub type Xid = u64;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row is inserted by a transaction that has not committed yet.
    Insert {
        /// The transaction.
        xid: Xid,
        /// The row.
        value: u64,
    },
    /// A transaction commits.
    Commit {
        /// The transaction.
        xid: Xid,
    },
    /// A transaction gives up.
    Abort {
        /// The transaction.
        xid: Xid,
    },
    /// A checkpoint has been done.
    Checkpoint {
        /// Recovery from it begins here.
        redo: Lsn,
        /// Whether the server stopped with it.
        shutdown: bool,
        /// The next transaction's number.
        next_xid: Xid,
    },
    /// A standby was promoted: the first record of its timeline.
    EndOfRecovery {
        /// The timeline before.
        previous: Timeline,
    },
    /// The end of a base backup that began at `start`.
    BackupEnd {
        /// Its first position.
        start: Lsn,
    },
    /// `pg_logical_emit_message`, or the list of running transactions: it changes no row.
    Message,
    /// Work of no interest, of this many bytes.
    Bulk {
        /// How many.
        bytes: u64,
    },
}

impl Kind {
    /// Bytes that it takes in the log: about what PostgreSQL needs, without page headers.
    fn bytes(self) -> u64 {
        match self {
            Kind::Insert { .. } => 64,
            Kind::Commit { .. } | Kind::Abort { .. } | Kind::BackupEnd { .. } => 40,
            Kind::Checkpoint { .. } => 120,
            Kind::EndOfRecovery { .. } => 48,
            Kind::Message => 56,
            Kind::Bulk { bytes } => bytes.max(32).next_multiple_of(8),
        }
    }

    fn parts(self) -> [u64; 3] {
        match self {
            Kind::Insert { xid, value } => [1, xid, value],
            Kind::Commit { xid } => [2, xid, 0],
            Kind::Abort { xid } => [3, xid, 0],
            Kind::Checkpoint { redo, shutdown, next_xid } => {
                [4 + u64::from(shutdown), redo.0, next_xid]
            }
            Kind::EndOfRecovery { previous } => [6, u64::from(previous.0), 0],
            Kind::BackupEnd { start } => [7, start.0, 0],
            Kind::Message => [8, 0, 0],
            Kind::Bulk { bytes } => [9, bytes, 0],
        }
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its first byte.
    pub start: Lsn,
    /// The first byte behind it.
    pub end: Lsn,
    /// Where the record before it begins (`xl_prev`).
    pub prev: Lsn,
    /// The timeline that it was written on.
    pub timeline: Timeline,
    /// What it says.
    pub kind: Kind,
    /// A digest of this record and of all before it: equal where two logs are equal up to here.
    pub chain: u64,
}

fn mix(chain: u64, part: u64) -> u64 {
    let mut z = (chain ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Record {
    /// The record that follows `last` on `timeline`; at `at` where there is none before it.
    pub fn after(last: Option<&Record>, at: Lsn, timeline: Timeline, kind: Kind) -> Record {
        let (start, prev, chain) = match last {
            Some(last) => (last.end, last.start, last.chain),
            None => (at, Lsn(0), 0),
        };
        let parts = kind.parts().into_iter().chain([start.0, u64::from(timeline.0)]);
        let chain = parts.fold(chain, mix);
        Record { start, end: Lsn(start.0 + kind.bytes()), prev, timeline, kind, chain }
    }
}

/// Number of the segment that holds the byte at `lsn`.
pub fn segment(lsn: Lsn) -> u64 {
    lsn.0 / SEGMENT
}

/// The first byte of the segment that holds the byte at `lsn`.
pub fn segment_start(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 - lsn.0 % SEGMENT)
}

/// The records of one timeline, in their order. Between two there can be garbage.
#[derive(Debug, Clone, Default)]
pub struct Log {
    records: Vec<Record>,
}

impl Log {
    /// All records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The record that begins at `lsn`.
    pub fn at(&self, lsn: Lsn) -> Option<&Record> {
        let i = self.records.partition_point(|r| r.start < lsn);
        self.records.get(i).filter(|r| r.start == lsn)
    }

    /// The record that ends at `lsn`.
    pub fn ending_at(&self, lsn: Lsn) -> Option<&Record> {
        let i = self.records.partition_point(|r| r.end < lsn);
        self.records.get(i).filter(|r| r.end == lsn)
    }

    /// The records that end behind `lsn`.
    pub fn behind(&self, lsn: Lsn) -> &[Record] {
        let i = self.records.partition_point(|r| r.end <= lsn);
        self.records.get(i..).unwrap_or_default()
    }

    /// The end of the last record.
    pub fn end(&self) -> Option<Lsn> {
        self.records.last().map(|r| r.end)
    }

    /// Whether anything of a segment was written.
    fn has_segment(&self, number: u64) -> bool {
        self.behind(Lsn(number * SEGMENT)).first().is_some_and(|r| segment(r.start) <= number)
    }

    /// Whether the byte before `lsn` is of this timeline.
    fn has_byte_before(&self, lsn: Lsn) -> bool {
        let i = self.records.partition_point(|r| r.end < lsn);
        self.records.get(i).is_some_and(|r| r.start < lsn)
    }

    /// Writes a record where it belongs, over whatever is there.
    fn put(&mut self, record: Record) {
        if self.end().is_none_or(|end| end <= record.start) {
            self.records.push(record);
            return;
        }
        let from = self.records.partition_point(|r| r.end <= record.start);
        let to = self.records.partition_point(|r| r.start < record.end);
        if self.records.get(from) != Some(&record) {
            self.records.splice(from..to, [record]);
        }
    }

    /// Removes what ends behind `end`.
    fn cut(&mut self, end: Lsn) {
        let keep = self.records.partition_point(|r| r.end <= end);
        self.records.truncate(keep);
    }
}

/// All WAL of a data directory (`pg_wal`).
#[derive(Debug, Clone, Default)]
pub struct Wal {
    logs: BTreeMap<Timeline, Log>,
    /// WAL before this was removed.
    oldest: Lsn,
}

impl Wal {
    /// The log of one timeline.
    pub fn log(&self, timeline: Timeline) -> Option<&Log> {
        self.logs.get(&timeline)
    }

    /// All logs.
    pub fn logs(&self) -> impl Iterator<Item = (Timeline, &Log)> {
        self.logs.iter().map(|(timeline, log)| (*timeline, log))
    }

    /// WAL before this was removed.
    pub fn oldest(&self) -> Lsn {
        self.oldest
    }

    /// Writes a record, over whatever is there.
    pub fn put(&mut self, record: Record) {
        self.logs.entry(record.timeline).or_default().put(record);
    }

    /// Appends a record to `timeline` behind `last`, and returns it.
    pub fn append(
        &mut self,
        last: Option<&Record>,
        at: Lsn,
        timeline: Timeline,
        kind: Kind,
    ) -> Record {
        let record = Record::after(last, at, timeline, kind);
        self.put(record);
        record
    }

    /// Removes what ends behind `end` on one timeline: it was never written, or got lost.
    pub fn cut(&mut self, timeline: Timeline, end: Lsn) {
        if let Some(log) = self.logs.get_mut(&timeline) {
            log.cut(end);
        }
        self.logs.retain(|_, log| !log.records.is_empty());
    }

    /// Overwrites what is between two positions of a timeline with zeros: a tear, or a hole.
    pub fn tear(&mut self, timeline: Timeline, from: Lsn, to: Lsn) {
        if let Some(log) = self.logs.get_mut(&timeline) {
            log.records.retain(|r| r.end <= from || r.start >= to);
        }
        self.logs.retain(|_, log| !log.records.is_empty());
    }

    /// Removes what ends behind `end` on all timelines but `kept`, as a promotion does
    /// (`RemoveNonParentXlogFiles`, and the last segment becomes a `.partial`).
    pub fn cut_parents(&mut self, kept: Timeline, end: Lsn) {
        for (timeline, log) in &mut self.logs {
            if *timeline != kept {
                log.cut(end);
            }
        }
        self.logs.retain(|_, log| !log.records.is_empty());
    }

    /// Removes whole timelines.
    pub fn retain(&mut self, mut keep: impl FnMut(Timeline) -> bool) {
        self.logs.retain(|timeline, _| keep(*timeline));
    }

    /// Removes the segments before the one that holds `lsn`.
    pub fn remove_before(&mut self, lsn: Lsn) {
        let from = segment_start(lsn);
        if from <= self.oldest {
            return;
        }
        self.oldest = from;
        for log in self.logs.values_mut() {
            let gone = log.records.partition_point(|r| r.end <= from);
            log.records.drain(..gone);
        }
        self.logs.retain(|_, log| !log.records.is_empty());
    }

    /// Whether a segment with the byte at `lsn` is there, of whatever timeline.
    pub fn has_segment(&self, lsn: Lsn) -> bool {
        self.logs.values().any(|log| log.has_segment(segment(lsn)))
    }

    /// The record at `lsn` that recovery along `expected` reads: of each segment it takes the
    /// newest timeline of which there is one, but none older than what it has read last
    /// (`XLogFileReadAnyTLI` in PostgreSQL's xlogrecovery.c).
    pub fn read(&self, expected: &History, oldest: Timeline, lsn: Lsn) -> Option<&Record> {
        for (timeline, begin) in expected.newest_first() {
            if timeline < oldest {
                return None;
            }
            let number = segment(lsn);
            let Some(log) = self.logs.get(&timeline).filter(|log| log.has_segment(number)) else {
                continue;
            };
            if lsn >= begin {
                return log.at(lsn);
            }
            if segment(begin) == number {
                // The first segment of a timeline begins as a copy of its parent's.
                return self.logs.get(&expected.timeline_of(lsn))?.at(lsn);
            }
        }
        None
    }

    /// The timeline that wrote the last byte before `lsn`, judged as the product does it: the
    /// greatest that has that byte.
    pub fn newest_timeline_at(&self, lsn: Lsn) -> Option<Timeline> {
        let found = self.logs.iter().rev().find(|(_, log)| log.has_byte_before(lsn));
        found.map(|(timeline, _)| *timeline)
    }

    /// The records of `history` that end behind `from` and not behind `upto`, in their order, up to
    /// the first that is missing.
    pub fn along(&self, history: &History, from: Lsn, upto: Lsn) -> Vec<Record> {
        let mut found: Vec<Record> = Vec::new();
        for (timeline, begin, end) in history.oldest_first() {
            let Some(log) = self.logs.get(&timeline) else { continue };
            if end <= from || begin >= upto {
                continue;
            }
            for record in log.behind(from.max(begin)) {
                if record.end > upto || record.end > end {
                    break;
                }
                if found.last().is_some_and(|last| last.end != record.start) {
                    return found;
                }
                found.push(*record);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(from: Option<Record>, timeline: u32, values: &[u64]) -> Vec<Record> {
        let mut last = from;
        let mut all = Vec::new();
        for value in values {
            let kind = Kind::Insert { xid: 3, value: *value };
            let record = Record::after(last.as_ref(), Lsn(8), Timeline(timeline), kind);
            all.push(record);
            last = Some(record);
        }
        all
    }

    #[test]
    fn what_is_written_over_is_gone() {
        let mut wal = Wal::default();
        let old = records(None, 1, &[1, 2, 3, 4]);
        old.iter().for_each(|r| wal.put(*r));
        let new = records(Some(old[0]), 1, &[9]);
        wal.put(new[0]);
        let values: Vec<_> =
            wal.log(Timeline(1)).unwrap().records().iter().map(|r| r.kind).collect();
        assert_eq!(values.len(), 4);
        assert_eq!(values[1], Kind::Insert { xid: 3, value: 9 });
        assert_ne!(old[1].chain, new[0].chain);
        // The one behind it is still there, and does not follow it.
        assert_eq!(wal.log(Timeline(1)).unwrap().at(old[2].start), Some(&old[2]));
    }

    #[test]
    fn the_newest_timeline_with_a_segment_is_read() {
        let mut wal = Wal::default();
        let one = records(None, 1, &[1, 2, 3]);
        one.iter().for_each(|r| wal.put(*r));
        let two = records(Some(one[1]), 2, &[8]);
        wal.put(two[0]);
        let root = History::root(Timeline(1));
        let child = root.child(Timeline(2), one[1].end);
        let value = |r: Option<&Record>| match r.map(|r| r.kind) {
            Some(Kind::Insert { value, .. }) => value,
            _ => 0,
        };
        assert_eq!(value(wal.read(&root, Timeline(1), one[2].start)), 3);
        assert_eq!(value(wal.read(&child, Timeline(1), one[2].start)), 8);
        assert_eq!(value(wal.read(&child, Timeline(1), one[1].start)), 2);
        assert_eq!(wal.newest_timeline_at(two[0].end), Some(Timeline(2)));
        assert_eq!(wal.newest_timeline_at(one[1].end), Some(Timeline(1)));
        let along: Vec<_> =
            wal.along(&child, Lsn(0), Lsn(u64::MAX)).iter().map(|r| r.end).collect();
        assert_eq!(along, [one[0].end, one[1].end, two[0].end]);
    }
}
