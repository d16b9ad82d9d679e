//! Names of WAL segments, and which timeline a position was written on.
//!
//! Owns the arithmetic of segment file names (PostgreSQL manual, section 30.6) and the rule that
//! finds the *last WAL epoch* of a sealed standby from the files in `pg_wal`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{files, history};
use crate::domain::types::{Lsn, Timeline};

/// Bytes of a WAL page. It is a compile-time option of PostgreSQL that no package changes.
const PAGE_BYTES: u64 = 8192;
/// Bytes of the header of a segment's first page (`SizeOfXLogLongPHD`).
const FIRST_HEADER_BYTES: u64 = 40;

/// Why the timeline of a position is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No segment in `pg_wal` has the bytes before the position.
    #[error("no WAL segment in {} holds the bytes before {lsn}", wal_dir.display())]
    NoSegment {
        /// `pg_wal`.
        wal_dir: PathBuf,
        /// The position.
        lsn: Lsn,
    },
    /// A segment of a timeline is there, but not the timeline's history.
    #[error("WAL of timeline {timeline} is there, but not its history file")]
    NoHistory {
        /// The timeline.
        timeline: Timeline,
    },
    /// A history file is not readable.
    #[error(transparent)]
    History(#[from] history::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Whether PostgreSQL allows segments of this many bytes: a power of two, 1 MiB to 1 GiB.
pub fn is_segment_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

/// One WAL segment of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Its timeline.
    pub timeline: Timeline,
    /// Its number: the position of its first byte divided by the size of segments.
    pub number: u64,
}

impl Segment {
    /// The segment of `timeline` that holds the byte at `lsn`. `segment_bytes` must satisfy
    /// [`is_segment_size`].
    pub fn of(timeline: Timeline, lsn: Lsn, segment_bytes: u64) -> Self {
        Self { timeline, number: lsn.0 / segment_bytes.max(1) }
    }

    /// The position of its first byte.
    pub fn start(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number.saturating_mul(segment_bytes))
    }

    /// Its file name: 8 digits each of the timeline, the upper half of the position, and the
    /// number within it.
    pub fn file_name(self, segment_bytes: u64) -> String {
        let per_file = per_log_file(segment_bytes);
        let (high, low) = (self.number / per_file, self.number % per_file);
        format!("{:08X}{high:08X}{low:08X}", self.timeline.0)
    }

    /// Parses the name of a whole segment; `None` for any other file.
    pub fn parse(name: &str, segment_bytes: u64) -> Option<Self> {
        let upper = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        if name.len() != 24 || !upper {
            return None;
        }
        let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        let per_file = per_log_file(segment_bytes);
        if u64::from(low) >= per_file {
            return None;
        }
        let number = u64::from(high) * per_file + u64::from(low);
        Some(Self { timeline: Timeline(timeline), number })
    }
}

fn per_log_file(segment_bytes: u64) -> u64 {
    ((1 << 32) / segment_bytes.max(1)).max(1)
}

/// The timeline that wrote the last byte before `lsn`, on a server that has replayed exactly to
/// `lsn` and takes no more WAL.
///
/// It is the greatest timeline that has a segment with that byte and began before `lsn`. One that
/// began at `lsn` or later has no byte below it: following a switch without having a record from
/// behind it does not count. A segment counts only if the page is really in it: the name alone
/// can be that of an old file which PostgreSQL keeps for later use.
pub fn newest_timeline_at(wal_dir: &Path, lsn: Lsn, segment_bytes: u64) -> Result<Timeline, Error> {
    let no_segment = || Error::NoSegment { wal_dir: wal_dir.to_owned(), lsn };
    // Behind a boundary of segments replay can stand after the first page's header, before any
    // record: then the segment before it counts, and the next need not even exist.
    let beyond = lsn.0 % segment_bytes.max(1);
    let lsn = if beyond <= FIRST_HEADER_BYTES { Lsn(lsn.0 - beyond) } else { lsn };
    let Some(last) = lsn.0.checked_sub(1) else { return Err(no_segment()) };
    let entries = std::fs::read_dir(wal_dir).map_err(|e| files::Error::new("list", wal_dir, e))?;
    let wanted = Segment::of(Timeline(0), Lsn(last), segment_bytes).number;
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry.map_err(|e| files::Error::new("list", wal_dir, e))?;
        let name = entry.file_name();
        let segment = name.to_str().and_then(|n| Segment::parse(n, segment_bytes));
        if let Some(segment) = segment.filter(|s| s.number == wanted) {
            found.insert(segment.timeline, entry.path());
        }
    }
    for (timeline, path) in found.iter().rev() {
        let start = match history::read(wal_dir, *timeline)? {
            Some(history) => history.start(),
            // The first timeline of a cluster has none; an adopted one may have lost the old ones.
            None if found.keys().next() == Some(timeline) => Lsn(0),
            None => return Err(Error::NoHistory { timeline: *timeline }),
        };
        if start >= lsn {
            continue;
        }
        let held = holds_page(path, Lsn(last), segment_bytes)?
            || (lsn.0 % segment_bytes.max(1) == 0
                && ends_with_a_switch(path, start, Lsn(last), segment_bytes)?);
        if held {
            return Ok(*timeline);
        }
    }
    Err(no_segment())
}

/// Whether the segment file, which holds the byte at `last` as its own last one, ends with padding:
/// behind a record that switches segments PostgreSQL (since 11) writes pages without a header. A
/// timeline that began at `start` within this segment must have a record of its own there: its file
/// begins as a copy of its parent's, and is empty behind that.
fn ends_with_a_switch(
    path: &Path,
    start: Lsn,
    last: Lsn,
    segment_bytes: u64,
) -> Result<bool, Error> {
    let first = last.0 - last.0 % segment_bytes.max(1);
    let file = File::open(path).map_err(|e| files::Error::new("open", path, e))?;
    let read = |at: u64, into: &mut [u8]| match file.read_exact_at(into, at - first) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(files::Error::new("read", path, e)),
    };
    if start.0 >= first {
        let mut record = [0; 64];
        let room = (last.0 + 1 - start.0).min(record.len() as u64) as usize;
        let own = read(start.0, record.get_mut(..room).unwrap_or_default())?;
        if !own || record.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
    }
    let mut page = last.0 - last.0 % PAGE_BYTES;
    loop {
        let mut address = [0; 8];
        if !read(page + 8, &mut address)? {
            return Ok(false);
        }
        match u64::from_ne_bytes(address) {
            0 if page > first => page -= PAGE_BYTES,
            found => return Ok(found == page),
        }
    }
}

/// Whether the segment file has the page with the byte at `lsn`, by the address in the page's
/// header (`XLogPageHeaderData.xlp_pageaddr`, eight bytes at offset 8, in the machine's order).
fn holds_page(path: &Path, lsn: Lsn, segment_bytes: u64) -> Result<bool, Error> {
    let page = lsn.0 - lsn.0 % PAGE_BYTES;
    let mut address = [0; 8];
    let file = File::open(path).map_err(|e| files::Error::new("open", path, e))?;
    match file.read_exact_at(&mut address, page % segment_bytes.max(1) + 8) {
        Ok(()) => Ok(u64::from_ne_bytes(address) == page),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(files::Error::new("read", path, e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// A segment of 1 MiB whose pages up to `until` are written.
    fn write(dir: &Path, timeline: u32, number: u64, until: Lsn) {
        let segment = Segment { timeline: Timeline(timeline), number };
        let file = File::create(dir.join(segment.file_name(MIB))).unwrap();
        file.set_len(MIB).unwrap();
        let mut page = segment.start(MIB).0;
        while page < until.0 && page < (number + 1) * MIB {
            file.write_at(&page.to_ne_bytes(), page % MIB + 8).unwrap();
            page += PAGE_BYTES;
        }
    }

    #[test]
    fn the_timeline_of_a_position_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let switch = Lsn(3 * MIB + 0x9000);
        write(dir, 1, 3, Lsn(4 * MIB));
        std::fs::write(dir.join("00000005.history"), format!("1\t{switch}\tx\n")).unwrap();
        // Only the switch was seen: the new timeline has the segment, but no byte of its own.
        write(dir, 5, 3, switch);
        assert_eq!(newest_timeline_at(dir, switch, MIB).unwrap(), Timeline(1));
        // A record of it.
        let record = Lsn(switch.0 + 0x100);
        assert_eq!(newest_timeline_at(dir, record, MIB).unwrap(), Timeline(5));
        // A recycled file, whose name claims more than it has.
        let later = Lsn(3 * MIB + 0x20_000);
        assert_eq!(newest_timeline_at(dir, later, MIB).unwrap(), Timeline(1));
        assert!(matches!(newest_timeline_at(dir, Lsn(9 * MIB), MIB), Err(Error::NoSegment { .. })));
        // At a boundary of segments the byte before it counts.
        assert_eq!(newest_timeline_at(dir, Lsn(4 * MIB), MIB).unwrap(), Timeline(1));
        std::fs::remove_file(dir.join("00000005.history")).unwrap();
        assert!(matches!(
            newest_timeline_at(dir, record, MIB),
            Err(Error::NoHistory { timeline: Timeline(5) })
        ));
    }

    #[test]
    fn a_segment_that_was_switched_counts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, 1, 3, Lsn(3 * MIB + 0x5000));
        for lsn in [4 * MIB, 4 * MIB + FIRST_HEADER_BYTES] {
            assert_eq!(newest_timeline_at(dir, Lsn(lsn), MIB).unwrap(), Timeline(1), "{lsn:x}");
        }
        // A timeline that began there and has nothing of its own does not.
        let start = Lsn(3 * MIB + 0x2000);
        std::fs::write(dir.join("00000005.history"), format!("1\t{start}\tx\n")).unwrap();
        write(dir, 5, 3, start);
        assert_eq!(newest_timeline_at(dir, Lsn(4 * MIB), MIB).unwrap(), Timeline(1));
        write(dir, 5, 3, Lsn(start.0 + 0x3000));
        assert_eq!(newest_timeline_at(dir, Lsn(4 * MIB), MIB).unwrap(), Timeline(5));
    }

    #[test]
    fn names_are_those_of_postgresql() {
        let segment = Segment::of(Timeline(2), Lsn(0x1_0300_0148), 16 << 20);
        assert_eq!(segment.file_name(16 << 20), "000000020000000100000003");
        for bad in ["", "000000020000000100000003.partial", "00000002000000010000010", "x"] {
            assert_eq!(Segment::parse(bad, 16 << 20), None);
        }
        assert_eq!(Segment::parse("000000020000000100000100", 16 << 20), None);
    }

    proptest! {
        #[test]
        fn names_round_trip(timeline: u32, lsn: u64, size in 20_u32..31) {
            let bytes = 1 << size;
            let segment = Segment::of(Timeline(timeline), Lsn(lsn), bytes);
            prop_assert_eq!(Segment::parse(&segment.file_name(bytes), bytes), Some(segment));
            prop_assert!(segment.start(bytes).0 <= lsn);
        }
    }
}
