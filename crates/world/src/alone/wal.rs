//! Write-ahead logs as who wrote what: pieces of branches, not records.
//!
//! A promotion begins a *branch*, which has a number that no other has, whatever epoch it carries.
//! Only one server ever writes to a branch, so a log is known by where its pieces begin and where
//! it ends. PostgreSQL itself knows timelines only, whose numbers are the epochs: it takes two
//! branches of one epoch for one.

use std::rc::Rc;

use crate::domain::lineage::{Entry, Lineage};
use crate::domain::types::{Epoch, Lsn};

/// A part of a log: from `start` up to the next piece, or to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The epoch whose timeline it is.
    pub epoch: u64,
    /// The branch.
    pub branch: u32,
    /// Where it begins in the log.
    pub start: u64,
}

/// A log. One position for each record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pieces: Rc<Vec<Piece>>,
    /// Its end: the position after the last record.
    pub end: u64,
}

/// Why PostgreSQL does not let a standby stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The standby has more than the server, or another history.
    Diverged,
}

impl Log {
    /// No log.
    pub fn empty() -> Self {
        Self { pieces: Rc::new(Vec::new()), end: 0 }
    }

    /// The log of a fresh data directory, with one record.
    pub fn fresh(branch: u32) -> Self {
        Self { pieces: Rc::new(vec![Piece { epoch: 1, branch, start: 0 }]), end: 1 }
    }

    /// Its pieces, oldest first.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Each piece with its end.
    pub fn spans(&self) -> impl DoubleEndedIterator<Item = (Piece, u64)> + '_ {
        let ends = self.pieces.iter().skip(1).map(|p| p.start).chain(std::iter::once(self.end));
        let all: Vec<(Piece, u64)> = self.pieces.iter().copied().zip(ends).collect();
        all.into_iter()
    }

    /// The epoch of its last record; 0 where it is empty.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.pieces.last().map_or(0, |p| p.epoch))
    }

    /// Where each epoch begins.
    pub fn lineage(&self) -> Lineage {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.pieces.len());
        for p in self.pieces.iter() {
            if entries.last().is_none_or(|e| e.epoch.0 != p.epoch) {
                entries.push(Entry { epoch: Epoch(p.epoch), start: Lsn(p.start) });
            }
        }
        Lineage(entries)
    }

    /// A promotion: a branch begins, with one record.
    pub fn begin(&mut self, epoch: Epoch, branch: u32) {
        let start = self.end;
        Rc::make_mut(&mut self.pieces).push(Piece { epoch: epoch.0, branch, start });
        self.end += 1;
    }

    /// Forgets everything from `end` on.
    pub fn truncate(&mut self, end: u64) {
        if end < self.end {
            self.end = end;
            if self.pieces.last().is_some_and(|p| p.start >= end) {
                Rc::make_mut(&mut self.pieces).retain(|p| p.start < end);
            }
        }
    }

    /// Whether it has all of a branch that begins at `start`, up to `upto`.
    pub fn has(&self, branch: u32, start: u64, upto: u64) -> bool {
        let mut pieces = self.pieces.iter().enumerate();
        pieces.any(|(i, p)| {
            let end = self.pieces.get(i + 1).map_or(self.end, |next| next.start);
            p.branch == branch && p.start == start && end >= upto
        })
    }

    /// Up to where it has a branch that begins at `start`; `start` where it has nothing of it.
    pub fn upto(&self, branch: u32, start: u64) -> u64 {
        let of = |(p, _): &(Piece, u64)| p.branch == branch && p.start == start;
        self.spans().find(of).map_or(start, |(_, end)| end)
    }

    /// Whether both end with the same branch and share where it begins: then one is the other's
    /// beginning.
    pub fn same_branch(&self, other: &Log) -> bool {
        Rc::ptr_eq(&self.pieces, &other.pieces) || self.pieces.last() == other.pieces.last()
    }

    /// Whether a standby with this log may stream from `source`, by numbers of timelines, which is
    /// all that PostgreSQL compares (`src/backend/replication/walsender.c`, `StartReplication`, and
    /// `rescanLatestTimeLine` in `xlogrecovery.c`).
    pub fn streams_from(&self, source: &Log, upto: u64) -> Result<(), Mismatch> {
        let Some(last) = self.pieces.last() else { return Err(Mismatch::Diverged) };
        let Some(at) = source.pieces.iter().rposition(|p| p.epoch == last.epoch) else {
            return Err(Mismatch::Diverged);
        };
        match source.pieces.get(at + 1) {
            Some(next) if self.end > next.start => Err(Mismatch::Diverged),
            None if self.end > upto => Err(Mismatch::Diverged),
            _ => Ok(()),
        }
    }

    /// Takes what `source` has, up to `upto`. What is here already stays as it is, right or wrong.
    pub fn extend_from(&mut self, source: &Log, upto: u64) {
        if upto <= self.end {
            return;
        }
        if !self.same_branch(source) {
            let own = self.end;
            let pieces = Rc::make_mut(&mut self.pieces);
            for (i, p) in source.pieces.iter().enumerate() {
                let end = source.pieces.get(i + 1).map_or(source.end, |next| next.start);
                let start = p.start.max(own);
                if end <= own || start >= upto {
                    continue;
                }
                if pieces.last().is_none_or(|l| l.branch != p.branch) {
                    pieces.push(Piece { start, ..*p });
                }
            }
        }
        self.end = upto;
    }

    /// The first piece of `source` alone: what can be read of a directory that is half replaced.
    pub fn stump(source: &Log) -> Self {
        let mut log = source.clone();
        log.truncate(source.pieces.get(1).map_or(source.end.min(1), |p| p.start));
        log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_takes_over_what_a_primary_has() {
        let mut primary = Log::fresh(1);
        primary.end = 10;
        let mut standby = Log::fresh(1);
        assert_eq!(standby.streams_from(&primary, primary.end), Ok(()));
        standby.extend_from(&primary, 7);
        primary.begin(Epoch(2), 2);
        primary.end = 20;
        assert_eq!(standby.streams_from(&primary, primary.end), Ok(()));
        standby.extend_from(&primary, 15);
        assert_eq!(standby.lineage(), primary.lineage());
        assert!(standby.has(1, 0, 10) && standby.has(2, 10, 15) && !standby.has(2, 10, 16));
        standby.truncate(9);
        assert!(standby.has(1, 0, 9) && standby.epoch() == Epoch(1));
    }

    #[test]
    fn one_number_for_two_branches_is_taken_for_one() {
        let mut root = Log::fresh(1);
        root.end = 10;
        let (mut a, mut b) = (root.clone(), root);
        a.begin(Epoch(2), 2);
        b.begin(Epoch(2), 3);
        (a.end, b.end) = (15, 20);
        assert_eq!(a.streams_from(&b, b.end), Ok(()));
        a.extend_from(&b, 20);
        assert!(!a.has(3, 10, 12), "what the primary wrote before is missing");
        let mut c = Log::fresh(1);
        c.end = 12;
        assert_eq!(c.streams_from(&b, b.end), Err(Mismatch::Diverged));
    }
}
