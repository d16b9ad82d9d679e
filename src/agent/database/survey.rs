//! Room on the member's disks, what is kept aside, and what PostgreSQL says of the want of room.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use tracing::{debug, warn};

use super::error::{self, Result};
use super::{PgDatabase, blocking, lock};
use crate::agent::driver::{CopyRoom, Error, Survey};
use crate::domain::desired::FollowDuty;
use crate::domain::space::{Aside, CRITICAL_BYTES_MIN, Disks, Level, Space};
use crate::postgres::distribution::{Machine, Starter};
use crate::postgres::layout::{self, Layout};
use crate::postgres::reserve;

/// How long the primary may take to count its files.
const COUNT: Duration = Duration::from_secs(9);
/// For how long that number is good: it is only waited for room.
const COUNTED_FOR: Duration = Duration::from_secs(60);
/// How often is looked for what would start a server beside us: there may be hundreds of units to
/// read.
const STARTERS_EVERY: Duration = Duration::from_secs(60);
/// How much of each log is read.
const LOG_BYTES_MAX: u64 = 64 << 10;
/// What the C library and PostgreSQL say where there is no room.
/// What PostgreSQL says with FATAL of single sessions, or where it is told to end.
const OF_CLIENTS: &[&str] = &[
    "the database system is",
    "administrator command",
    "authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "terminating connection",
    "sorry, too many clients",
    "remaining connection slots",
    "could not connect to the primary",
    "could not receive data from WAL stream",
];
const NO_ROOM: &[&[u8]] = &[b"No space left on device", b"Disk quota exceeded"];

/// How long each log was.
pub(super) type LogMarks = BTreeMap<PathBuf, u64>;

/// How many bytes a primary was found to have.
pub(super) struct CopyNeed {
    address: String,
    bytes: u64,
    at: Instant,
}

/// What is under way, and what was found. A look that hangs keeps its mark, so that no second one
/// begins.
#[derive(Default)]
pub(super) struct Surveyor {
    looking: AtomicBool,
    walking: AtomicBool,
    /// Sizes of what is kept aside.
    sizes: Mutex<BTreeMap<PathBuf, u64>>,
    seeking: AtomicBool,
    /// What would start a server beside us.
    sought: Mutex<Sought>,
    /// Whether data that waits for its adoption is looked at.
    pub(super) adopting: AtomicBool,
}

/// What would start a server beside us.
#[derive(Debug, Default)]
struct Sought {
    /// When it was looked for last.
    at: Option<Instant>,
    /// How often it was forgotten.
    round: u64,
    /// What turns each off.
    steps: Vec<String>,
    /// Why it is not known whether there is more, if so.
    unclear: Option<String>,
}

impl Sought {
    fn is_due(&self) -> bool {
        self.at.is_none_or(|at| at.elapsed() >= STARTERS_EVERY)
    }

    /// What was found by a look that began in `round`. What cannot be found out takes nothing back.
    fn take(&mut self, round: u64, found: std::result::Result<Vec<String>, String>) {
        if round != self.round {
            return;
        }
        self.at = Some(Instant::now());
        match found {
            Ok(steps) => (self.steps, self.unclear) = (steps, None),
            Err(why) => self.unclear = Some(why),
        }
    }
}

impl Surveyor {
    /// Forgets what would start a server beside us: it was changed by us.
    pub(super) fn forget_starters(&self) {
        let mut sought = lock(&self.sought);
        *sought = Sought { round: sought.round + 1, ..Sought::default() };
    }
}

/// Clears a mark, also where the work fails.
pub(super) struct Mark(Arc<Surveyor>, fn(&Surveyor) -> &AtomicBool);

impl Mark {
    pub(super) fn set(
        surveyor: &Arc<Surveyor>,
        which: fn(&Surveyor) -> &AtomicBool,
    ) -> Option<Mark> {
        let was = which(surveyor).swap(true, Ordering::SeqCst);
        (!was).then(|| Mark(surveyor.clone(), which))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        (self.1)(&self.0).store(false, Ordering::SeqCst);
    }
}

impl PgDatabase {
    pub(super) async fn survey_disks(&self) -> Result<Survey> {
        let Some(mark) = Mark::set(&self.surveyor, |s| &s.looking) else {
            return Err(Error::NotReady("an earlier look at the disks hangs".to_owned()));
        };
        let (layout, user) = (self.settings.layout.clone(), self.user.clone());
        let found = blocking(move || {
            let _mark = mark;
            let disks = disks(&layout);
            // Beside data only: an empty place must stay empty.
            let has_data = layout.pgdata.join("PG_VERSION").exists();
            if has_data
                && disks.level() > Level::Critical
                && let Err(error) = reserve::keep(&layout.pgdata, &user)
            {
                debug!(%error, "no reserve is kept in the data directory");
            }
            layout.list_aside_names().map(|aside| (disks, aside, has_data))
        });
        let (disks, aside, has_data) = found.await?.map_err(error::place)?;
        let (starters, starters_unclear) = if has_data { self.seek() } else { Default::default() };
        let known: Option<Vec<u64>> = {
            let sizes = lock(&self.surveyor.sizes);
            aside.iter().map(|a| sizes.get(&a.path).copied()).collect()
        };
        if known.is_none() {
            self.walk(&aside);
        }
        let known = known.unwrap_or_else(|| vec![0; aside.len()]);
        let shown = |(a, bytes): (layout::Aside, u64)| Aside {
            bytes,
            at_unix_ms: a.at_unix_ms(),
            path: a.path.display().to_string(),
            reason: a.reason,
        };
        let layout = &self.settings.layout;
        Ok(Survey {
            disks,
            data_path: layout.pgdata.display().to_string(),
            wal_path: layout.wal_dir().display().to_string(),
            aside: aside.into_iter().zip(known).map(shown).collect(),
            starters,
            starters_unclear,
        })
    }

    /// What is known of what would start a server beside us. It is looked for beside everything
    /// else: files that others than us may make are not worth the reading of room.
    fn seek(&self) -> (Vec<String>, Option<String>) {
        let (due, round) = {
            let sought = lock(&self.surveyor.sought);
            (sought.is_due(), sought.round)
        };
        if due && let Some(mark) = Mark::set(&self.surveyor, |s| &s.seeking) {
            let (pgdata, user) = (self.settings.layout.pgdata.clone(), self.user.clone());
            drop(tokio::task::spawn_blocking(move || {
                let found = Machine::default().starters(&pgdata, &user);
                let steps = found.map(|all| all.iter().map(Starter::step).collect());
                lock(&mark.0.sought).take(round, steps.map_err(|e| e.to_string()));
                drop(mark);
            }));
        }
        let sought = lock(&self.surveyor.sought);
        (sought.steps.clone(), sought.unclear.clone())
    }

    /// Counts what is kept aside, beside everything else: it can take minutes, and is done once for
    /// a list.
    fn walk(&self, aside: &[layout::Aside]) {
        if aside.is_empty() {
            return;
        }
        let Some(mark) = Mark::set(&self.surveyor, |s| &s.walking) else { return };
        let layout = self.settings.layout.clone();
        drop(tokio::task::spawn_blocking(move || {
            match layout.list_aside() {
                Ok(all) => {
                    let sizes = all.into_iter().map(|a| (a.path, a.bytes)).collect();
                    *lock(&mark.0.sizes) = sizes;
                }
                Err(error) => warn!(%error, "what is kept aside cannot be counted"),
            }
            drop(mark);
        }));
    }

    pub(super) async fn look_for_room(&self, duty: &FollowDuty) -> Result<CopyRoom> {
        let bytes = self.bytes_of(duty).await;
        let (layout, count_max) = (self.settings.layout.clone(), self.settings.aside_count_max);
        let looked = blocking(move || {
            // An unfinished copy takes room, and is worth nothing.
            layout.remove_new_dir()?;
            let place = layout.pgdata.parent().unwrap_or(Path::new("/"));
            let free = || space(place).map_or(u64::MAX, |s| s.free_bytes);
            // What has to stay free, and the WAL that is written meanwhile.
            let reserve = space(place).map_or(0, |s| s.critical_bytes()) + CRITICAL_BYTES_MIN;
            let needed_bytes = bytes.saturating_add(reserve);
            let removed = layout.make_room(count_max, || free() >= needed_bytes)?;
            Ok::<_, layout::Error>(CopyRoom {
                needed_bytes,
                free_bytes: free(),
                path: place.display().to_string(),
                removed: removed.iter().map(|p| p.display().to_string()).collect(),
            })
        });
        looked.await?.map_err(error::place)
    }

    /// How much the primary has; 0 where it does not tell, since the want of a number is no want of
    /// room.
    async fn bytes_of(&self, duty: &FollowDuty) -> u64 {
        let known = lock(&self.memory)
            .copy_need
            .as_ref()
            .filter(|n| n.address == duty.address && n.at.elapsed() < COUNTED_FOR)
            .map(|n| n.bytes);
        if let Some(bytes) = known {
            return bytes;
        }
        let asked = match self.remote(&duty.address) {
            Ok(remote) => remote.data_bytes(COUNT).await.map_err(error::sql),
            Err(e) => Err(e),
        };
        match asked {
            Ok(bytes) => {
                let (address, at) = (duty.address.clone(), Instant::now());
                lock(&self.memory).copy_need = Some(CopyNeed { address, bytes, at });
                bytes
            }
            Err(error) => {
                warn!(%error, "how much room a copy needs is not known");
                0
            }
        }
    }

    /// Notes how long the logs are before a start.
    pub(super) async fn mark_logs(&self) -> Result<()> {
        let dir = self.settings.layout.log_dir.clone();
        let marks = blocking(move || log_sizes(&dir)).await?;
        lock(&self.memory).log_marks = marks;
        Ok(())
    }

    pub(super) async fn last_words(&self) -> Result<bool> {
        let dir = self.settings.layout.log_dir.clone();
        let marks = lock(&self.memory).log_marks.clone();
        blocking(move || said_no_room(&dir, &marks)).await
    }
}

/// The file systems of the data directory, and of `pg_wal` where that is another one.
fn disks(layout: &Layout) -> Disks {
    let parent = layout.pgdata.parent().unwrap_or(Path::new("/"));
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    // Before there is data, its place counts.
    let place = if layout.pgdata.exists() { layout.pgdata.as_path() } else { parent };
    let wal = layout.wal_dir();
    let other = device(&wal).is_some_and(|d| device(place) != Some(d));
    Disks { data: space(place), wal: space(&wal).filter(|_| other) }
}

/// Room on the file system of `path`, for users without privileges.
fn space(path: &Path) -> Option<Space> {
    let found = statvfs(path).ok()?;
    let unit = found.fragment_size();
    let (free, all) = (found.blocks_available(), found.blocks());
    let kept_back = found.blocks_free().saturating_sub(free);
    Some(Space { free_bytes: free * unit, total_bytes: all.saturating_sub(kept_back) * unit })
}

fn log_sizes(dir: &Path) -> LogMarks {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let size = |e: std::io::Result<std::fs::DirEntry>| {
        let entry = e.ok()?;
        Some((entry.path(), entry.metadata().ok().filter(std::fs::Metadata::is_file)?.len()))
    };
    entries.filter_map(size).collect()
}

/// Whether the want of room is in what the logs have grown by since `marks`.
fn said_no_room(dir: &Path, marks: &LogMarks) -> bool {
    log_sizes(dir).into_iter().any(|(path, now)| {
        let before = marks.get(&path).copied().unwrap_or(0);
        // Also one that was cut off and begun anew.
        let from = if now < before { 0 } else { before };
        now > from && appended(&path, from, now).is_ok_and(|text| speaks_of_room(&text))
    })
}

/// Why PostgreSQL gave up, by what its logs have grown by since `marks`: the last FATAL of its own,
/// not one of a client's, with its hint.
pub(super) fn fatal_words(dir: &Path, marks: &LogMarks) -> Option<String> {
    let mut last = None;
    for (path, now) in log_sizes(dir) {
        let before = marks.get(&path).copied().unwrap_or(0);
        let from = if now < before { 0 } else { before };
        let Ok(text) = appended(&path, from, now) else { continue };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some((_, said)) = line.split_once("FATAL:") else { continue };
            if OF_CLIENTS.iter().any(|words| said.contains(words)) {
                continue;
            }
            let mut words = said.trim().to_owned();
            while let Some(more) = lines.next_if(|l| l.contains("DETAIL:") || l.contains("HINT:")) {
                let at = more.find("DETAIL:").or_else(|| more.find("HINT:")).unwrap_or(0);
                words.push_str("; ");
                words.push_str(more.get(at..).unwrap_or_default().trim());
            }
            last = Some(words);
        }
    }
    last
}

/// The end of what was written to a log from `from` on.
fn appended(path: &Path, from: u64, to: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from.max(to.saturating_sub(LOG_BYTES_MAX))))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn speaks_of_room(text: &[u8]) -> bool {
    NO_ROOM.iter().any(|words| text.windows(words.len()).any(|w| w == *words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_news_count_as_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let say = |text: &str| {
            let mut file = files_of(&path);
            file.write_all(text.as_bytes()).unwrap();
        };
        say("PANIC: could not write: No space left on device\n");
        assert!(said_no_room(dir.path(), &LogMarks::new()));
        let marks = log_sizes(dir.path());
        assert!(!said_no_room(dir.path(), &marks));
        say("LOG: starting PostgreSQL\n");
        assert!(!said_no_room(dir.path(), &marks));
        say(&"x".repeat(2 * LOG_BYTES_MAX as usize));
        say("FATAL: could not extend file: Disk quota exceeded\n");
        assert!(said_no_room(dir.path(), &marks));
        let other = dir.path().join("b.log");
        std::fs::write(other, "No space left on device").unwrap();
        assert!(said_no_room(dir.path(), &log_sizes(Path::new("/nonexistent"))));
    }

    fn files_of(path: &Path) -> std::fs::File {
        std::fs::File::options().create(true).append(true).open(path).unwrap()
    }

    #[test]
    fn room_is_found() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.total_bytes >= space.free_bytes && space.total_bytes > 0);
        assert_eq!(super::space(Path::new("/nonexistent")), None);
    }

    #[test]
    fn what_would_start_a_server_stays_known_until_it_is_known_better() {
        let surveyor = Surveyor::default();
        let known = || {
            let sought = lock(&surveyor.sought);
            (sought.steps.len(), sought.unclear.is_some(), sought.is_due())
        };
        assert_eq!(known(), (0, false, true));
        lock(&surveyor.sought).take(0, Ok(vec!["a step".to_owned()]));
        assert_eq!(known(), (1, false, false), "also a find is not looked for each time");
        lock(&surveyor.sought).take(0, Err("denied".to_owned()));
        assert_eq!(known(), (1, true, false));
        // We have turned it off while somebody looked.
        surveyor.forget_starters();
        lock(&surveyor.sought).take(0, Ok(vec!["a step".to_owned()]));
        assert_eq!(known(), (0, false, true));
    }

    #[test]
    fn one_look_at_a_time() {
        let surveyor = Arc::new(Surveyor::default());
        let first = Mark::set(&surveyor, |s| &s.looking);
        assert!(first.is_some());
        assert!(Mark::set(&surveyor, |s| &s.looking).is_none());
        assert!(Mark::set(&surveyor, |s| &s.walking).is_some());
        drop(first);
        assert!(Mark::set(&surveyor, |s| &s.looking).is_some());
    }
}
