//! Timeline history files (PostgreSQL manual, section 26.3.5).
//!
//! Owns their format and the *placeholders*. The number of a timeline is the epoch that writes
//! it. PostgreSQL takes the number after the newest one for which `pg_wal` has a history file,
//! counting up from its own without a gap (`findNewestTimeLine`). So before a promotion to epoch E
//! every missing number below E gets a file. Where the own history knows the number, its true
//! content is written; else it never existed and gets one line that names no usable parent:
//! timeline 1 that ended at 0/1. A running standby rejects such a timeline (it forked before what
//! is replayed), tools that read history files find a well-formed line, and standbys that fetch
//! all numbers up to E from their primary get them all.
//!
//! A server that *starts* does not reject: it takes the newest number and fails. So
//! [`remove_unwritten`] is called before every start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files;
use super::os_user::OsUser;
use super::wal::Segment;
use crate::domain::types::{Lsn, Timeline};

/// How we know a placeholder again.
const PLACEHOLDER_REASON: &str = "placeholder: this timeline was never written";

/// Longest history that is read. A timeline costs about 40 bytes.
const ENTRIES_MAX: usize = 100_000;

/// Largest distance between two timelines that is filled with placeholders: a wrong epoch must
/// not fill the disk.
const PLACEHOLDERS_MAX: u32 = 10_000;

/// What is wrong with a history file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line is not a parent and its end.
    #[error("the history of timeline {timeline} has an invalid line {line:?}: {why}")]
    Line {
        /// The timeline.
        timeline: Timeline,
        /// The line.
        line: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The number of the epoch is taken already.
    #[error("timeline {timeline} has a history file already; it cannot be written a second time")]
    Taken {
        /// The timeline.
        timeline: Timeline,
    },
    /// The wanted number is not above the own one, or too far above it.
    #[error("timeline {wanted} cannot follow timeline {own}")]
    Order {
        /// The server's timeline.
        own: Timeline,
        /// The wanted one.
        wanted: Timeline,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// One timeline that was left for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The timeline.
    pub timeline: Timeline,
    /// Where it was left: the first byte that is not its own.
    pub end: Lsn,
    /// Why, for people.
    pub reason: String,
}

/// The ancestors of a timeline, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The timeline.
    pub timeline: Timeline,
    /// Its ancestors.
    pub entries: Vec<Entry>,
}

impl History {
    /// Parses the content of `timeline`'s history file. Total: any text gives a value or an
    /// error. Like PostgreSQL it skips empty lines and comments.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let error = |why| Error::Line { timeline, line: line.chars().take(200).collect(), why };
            let (number, rest) =
                trimmed.split_once(char::is_whitespace).ok_or_else(|| error("no position"))?;
            let rest = rest.trim_start();
            let (end, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let entry = Entry {
                timeline: Timeline(number.parse().map_err(|_| error("no timeline number"))?),
                end: end.parse().map_err(|_| error("no position"))?,
                reason: reason.trim().to_owned(),
            };
            if entries.last().is_some_and(|last| last.timeline >= entry.timeline) {
                return Err(error("timelines do not grow"));
            }
            if entry.timeline >= timeline {
                return Err(error("an ancestor is not older than its descendant"));
            }
            if entries.len() >= ENTRIES_MAX {
                return Err(error("too many lines"));
            }
            entries.push(entry);
        }
        Ok(Self { timeline, entries })
    }

    /// The content of the file.
    pub fn render(&self) -> String {
        let line = |e: &Entry| format!("{}\t{}\t{}\n", e.timeline, e.end, e.reason);
        self.entries.iter().map(line).collect()
    }

    /// Where the timeline begins: the end of its parent. 0/0 for one without a parent.
    pub fn start(&self) -> Lsn {
        self.entries.last().map_or(Lsn(0), |e| e.end)
    }

    /// The timeline that it was made from.
    pub fn parent(&self) -> Option<Timeline> {
        self.entries.last().map(|e| e.timeline)
    }

    /// The timeline of this history to which the byte at `lsn` belongs.
    pub fn timeline_of(&self, lsn: Lsn) -> Timeline {
        // From the newest down, as PostgreSQL does: an ancestor that was followed but never
        // reached ends before it begins, and then owns no byte.
        let mut timeline = self.timeline;
        for entry in self.entries.iter().rev() {
            if lsn >= entry.end {
                break;
            }
            timeline = entry.timeline;
        }
        timeline
    }

    /// Whether this is a number that was never written.
    pub fn is_placeholder(&self) -> bool {
        self.entries.iter().any(|e| e.reason == PLACEHOLDER_REASON)
    }

    /// The history of an ancestor: the lines before its own. `None` if it is not one.
    fn of_ancestor(&self, timeline: Timeline) -> Option<History> {
        let at = self.entries.iter().position(|e| e.timeline == timeline)?;
        Some(History { timeline, entries: self.entries.get(..at)?.to_vec() })
    }

    fn placeholder(timeline: Timeline) -> Self {
        let reason = PLACEHOLDER_REASON.to_owned();
        Self { timeline, entries: vec![Entry { timeline: Timeline(1), end: Lsn(1), reason }] }
    }
}

/// Name of a history file, such as `00000002.history`.
pub fn file_name(timeline: Timeline) -> String {
    format!("{:08X}.history", timeline.0)
}

/// Parses the name of a history file.
pub fn parse_file_name(name: &str) -> Option<Timeline> {
    let digits = name.strip_suffix(".history")?;
    let upper = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if digits.len() != 8 || !upper {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().map(Timeline)
}

fn path(wal_dir: &Path, timeline: Timeline) -> PathBuf {
    wal_dir.join(file_name(timeline))
}

/// Reads the history of a timeline from `pg_wal`; `None` where there is no file. Timeline 1 never
/// has one.
pub fn read(wal_dir: &Path, timeline: Timeline) -> Result<Option<History>, Error> {
    match files::read_if_exists(&path(wal_dir, timeline))? {
        Some(content) => History::parse(timeline, &String::from_utf8_lossy(&content)).map(Some),
        None => Ok(None),
    }
}

/// The timelines that have a history file.
pub fn list(wal_dir: &Path) -> Result<BTreeSet<Timeline>, Error> {
    let entries = std::fs::read_dir(wal_dir).map_err(|e| files::Error::new("list", wal_dir, e))?;
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|e| files::Error::new("list", wal_dir, e))?;
        found.extend(entry.file_name().to_str().and_then(parse_file_name));
    }
    Ok(found)
}

/// Makes sure that a standby of timeline `own` takes the number `wanted` when it is promoted:
/// writes a history file, durably, for every number from 2 to `wanted - 1` that has none. Returns
/// the numbers written. Refuses where `wanted` has a file already.
pub fn fill_below(
    wal_dir: &Path,
    own: Timeline,
    wanted: Timeline,
    user: &OsUser,
) -> Result<Vec<Timeline>, Error> {
    if wanted <= own || wanted.0 - own.0 > PLACEHOLDERS_MAX {
        return Err(Error::Order { own, wanted });
    }
    let present = list(wal_dir)?;
    if present.contains(&wanted) {
        return Err(Error::Taken { timeline: wanted });
    }
    // A number names one timeline for ever, so any true history that has it knows its content.
    let mut lineages = Vec::new();
    for timeline in present.iter().rev() {
        lineages.extend(read(wal_dir, *timeline)?.filter(|h| !h.is_placeholder()));
    }
    let first = wanted.0.saturating_sub(PLACEHOLDERS_MAX).max(2);
    let mut contents = BTreeMap::new();
    for timeline in (first..wanted.0).map(Timeline).filter(|t| !present.contains(t)) {
        if timeline == own {
            // Its own history is not to be invented. PostgreSQL does not look for it here.
            continue;
        }
        let known = lineages.iter().find_map(|lineage| lineage.of_ancestor(timeline));
        contents.insert(timeline, known.unwrap_or_else(|| History::placeholder(timeline)));
    }
    // In ascending order: a crash between two leaves no gap that a later call would not fill.
    for (timeline, history) in &contents {
        files::write_atomic(&path(wal_dir, *timeline), history.render().as_bytes(), 0o600, user)?;
    }
    Ok(contents.into_keys().collect())
}

/// What `pg_wal` has of timelines.
struct Present {
    /// History files.
    histories: BTreeSet<Timeline>,
    /// Timelines of which a segment is there.
    written: BTreeSet<Timeline>,
}

impl Present {
    fn look(wal_dir: &Path, segment_bytes: u64) -> Result<Self, Error> {
        let error = |e| files::Error::new("list", wal_dir, e);
        let (mut histories, mut written) = (BTreeSet::new(), BTreeSet::new());
        for entry in std::fs::read_dir(wal_dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let name = name.to_str().unwrap_or_default();
            histories.extend(parse_file_name(name));
            written.extend(Segment::parse(name, segment_bytes).map(|s| s.timeline));
        }
        Ok(Self { histories, written })
    }
}

/// The newest timeline that a server on `own` finds (`findNewestTimeLine`).
fn newest_after(own: Timeline, histories: &BTreeSet<Timeline>) -> Timeline {
    let mut newest = own;
    while let Some(next) = newest.0.checked_add(1).map(Timeline)
        && histories.contains(&next)
    {
        newest = next;
    }
    newest
}

/// Timelines to which a running standby may have turned, that `lineage` does not have: it follows
/// nobody else from then on (`rescanLatestTimeLine`: "new timeline is not a child of database system
/// timeline"), until it is started anew after [`remove_unwritten`]. Such a timeline is one whose
/// history it fetched from a primary that was gone before it had sent anything of it.
pub fn astray(
    wal_dir: &Path,
    lineage: &BTreeSet<Timeline>,
    segment_bytes: u64,
) -> Result<Vec<Timeline>, Error> {
    let Present { histories, written } = Present::look(wal_dir, segment_bytes)?;
    let Some(own) = written.intersection(lineage).max().copied() else {
        return Ok(Vec::new());
    };
    let newest = newest_after(own, &histories);
    let mut found = Vec::new();
    for timeline in (own.0 + 1..=newest.0).map(Timeline) {
        let unknown = !lineage.contains(&timeline) && !written.contains(&timeline);
        if unknown && read(wal_dir, timeline)?.is_some_and(|h| !h.is_placeholder()) {
            found.push(timeline);
        }
    }
    Ok(found)
}

/// Takes away histories that a starting server would take for its own although it has no WAL of
/// them, from the newest that it would find down to one of which a segment is there, or to `own`.
///
/// A placeholder would stop the start. A true history would falsify the next one: the server would
/// name as its parent a timeline of which it never had a byte, perhaps one that it has diverged
/// from. Placeholders are removed, true histories renamed to `*.unused`; a server that follows
/// fetches them again. `own` is [`super::controldata::ControlData::newest_timeline`]. Returns the
/// numbers.
pub fn remove_unwritten(
    wal_dir: &Path,
    own: Timeline,
    segment_bytes: u64,
) -> Result<Vec<Timeline>, Error> {
    let Present { histories, written } = Present::look(wal_dir, segment_bytes)?;
    let mut newest = newest_after(own, &histories);
    let mut removed = Vec::new();
    while newest > own && !written.contains(&newest) {
        let from = path(wal_dir, newest);
        // One that cannot be parsed would stop the start as well.
        if read(wal_dir, newest).is_ok_and(|h| h.is_some_and(|h| h.is_placeholder())) {
            files::remove_if_exists(&from)?;
        } else {
            files::rename(&from, &from.with_extension("history.unused"))?;
        }
        removed.push(newest);
        newest.0 -= 1;
    }
    Ok(removed)
}

/// Hands history files to the archiver, as PostgreSQL does with the one that it writes itself
/// (`archive_status/*.ready`). Without the placeholders in the archive, a recovery from it to
/// `latest` would stop at the gap. To be called after the promotion, where archiving is on, and only
/// for numbers that no member was ever promoted to: an archive that has the true file refuses
/// another one of the same name, and the archiver then stands still.
pub fn mark_for_archive(
    wal_dir: &Path,
    timelines: &[Timeline],
    user: &OsUser,
) -> Result<(), Error> {
    let status = wal_dir.join("archive_status");
    for timeline in timelines {
        let name = file_name(*timeline);
        let ready = status.join(format!("{name}.ready"));
        if !files::exists(&ready)? && !files::exists(&status.join(format!("{name}.done")))? {
            files::write_atomic(&ready, b"", 0o600, user)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(dir: &Path, timeline: u32, text: &str) {
        std::fs::write(path(dir, Timeline(timeline)), text).unwrap();
    }

    fn numbers(list: Vec<Timeline>) -> Vec<u32> {
        list.into_iter().map(|t| t.0).collect()
    }

    #[test]
    fn files_are_parsed() {
        let text = "# comment\n\n1\t0/3000148\tno recovery target specified\n\n4\t0/5000000\tx\n";
        let history = History::parse(Timeline(6), text).unwrap();
        assert_eq!(history.start(), Lsn(0x500_0000));
        assert_eq!(history.parent(), Some(Timeline(4)));
        for (lsn, timeline) in [(0, 1), (0x300_0147, 1), (0x300_0148, 4), (0x500_0000, 6)] {
            assert_eq!(history.timeline_of(Lsn(lsn)), Timeline(timeline));
        }
        assert_eq!(History::parse(Timeline(6), &history.render()).unwrap(), history);
        for bad in ["x", "1", "1\tx", "2\t0/1\n1\t0/2", "6\t0/1", "-1\t0/1"] {
            assert!(History::parse(Timeline(6), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn missing_numbers_are_filled() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let user = OsUser::current().unwrap();
        write(dir, 5, "1\t0/3000000\ta\n3\t0/4000000\tb\n");
        let filled = fill_below(dir, Timeline(5), Timeline(8), &user).unwrap();
        assert_eq!(numbers(filled), [2, 3, 4, 6, 7]);
        let three = read(dir, Timeline(3)).unwrap().unwrap();
        assert_eq!((three.parent(), three.start()), (Some(Timeline(1)), Lsn(0x300_0000)));
        assert!(!three.is_placeholder());
        for placeholder in [2, 4, 6, 7] {
            assert!(read(dir, Timeline(placeholder)).unwrap().unwrap().is_placeholder());
        }
        assert!(fill_below(dir, Timeline(5), Timeline(8), &user).unwrap().is_empty());
        assert!(matches!(
            fill_below(dir, Timeline(5), Timeline(7), &user),
            Err(Error::Taken { timeline: Timeline(7) })
        ));
        for wrong in [5, 4, 5 + PLACEHOLDERS_MAX + 1] {
            assert!(fill_below(dir, Timeline(5), Timeline(wrong), &user).is_err());
        }
    }

    #[test]
    fn histories_without_wal_are_taken_away() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let user = OsUser::current().unwrap();
        let remove = || numbers(remove_unwritten(dir, Timeline(2), MIB).unwrap());
        fill_below(dir, Timeline(2), Timeline(5), &user).unwrap();
        write(dir, 5, "2\t0/3000000\ta\n");
        let segment = dir.join("000000050000000000000030");
        std::fs::write(&segment, "").unwrap();
        assert!(remove().is_empty());
        fill_below(dir, Timeline(5), Timeline(8), &user).unwrap();
        write(dir, 8, "garbage");
        assert_eq!(remove(), [8, 7, 6]);
        std::fs::remove_file(segment).unwrap();
        assert_eq!(remove(), [5, 4, 3]);
        assert!(dir.join("00000005.history.unused").exists());
        write(dir, u32::MAX, "garbage");
        let own = Timeline(u32::MAX - 1);
        assert_eq!(numbers(remove_unwritten(dir, own, MIB).unwrap()), [u32::MAX]);
        // What the history of 5 knew of 2 is no placeholder.
        assert_eq!(numbers(list(dir).unwrap().into_iter().collect()), [2]);
    }

    #[test]
    fn a_timeline_that_was_turned_to_in_vain_is_found() {
        const MIB: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let user = OsUser::current().unwrap();
        let lineage = |of: &[u32]| of.iter().copied().map(Timeline).collect();
        let astray = |of: &[u32]| numbers(astray(dir, &lineage(of), MIB).unwrap());
        write(dir, 2, "1\t0/2000000\ta\n");
        std::fs::write(dir.join("000000020000000000000030"), "").unwrap();
        assert!(astray(&[1, 2, 4]).is_empty());
        write(dir, 3, "1\t0/2000000\ta\n2\t0/3000000\tb\n");
        assert_eq!(astray(&[1, 2, 4]), [3]);
        assert!(astray(&[1, 2, 3, 4]).is_empty(), "it is agreed");
        // Behind a gap nobody looks.
        write(dir, 6, "1\t0/2000000\ta\n2\t0/3000000\tb\n");
        assert_eq!(astray(&[1, 2, 7]), [3]);
        // Once it is started anew it is gone.
        assert_eq!(numbers(remove_unwritten(dir, Timeline(2), MIB).unwrap()), [3]);
        assert!(astray(&[1, 2, 7]).is_empty());
        fill_below(dir, Timeline(2), Timeline(5), &user).unwrap();
        assert!(astray(&[1, 2, 7]).iter().all(|t| *t == 6), "placeholders turn nobody");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(timeline: u32, text in "[0-9A-F/\t\n #a-]{0,60}|\\PC*") {
            if let Ok(history) = History::parse(Timeline(timeline), &text) {
                let again = History::parse(Timeline(timeline), &history.render()).unwrap();
                prop_assert_eq!(again, history);
            }
            let _ = parse_file_name(&text);
        }
    }
}
