//! Where the files of one PostgreSQL instance are, and the directories that are kept aside.
//!
//! Owns the paths, their modes and owners, and the marker of an unfinished change. Nothing is
//! destroyed silently: a data directory that is replaced is renamed to
//! `<pgdata>.aside-<UTC time>-<reason>`, and only the bounds given to [`Layout::prune_aside`]
//! remove it. Renames need the data directory and its neighbours on one file system, so it must
//! not itself be a mount point.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files;
use super::os_user::OsUser;
use crate::domain::types::WallMillis;

/// Longest path of a directory for sockets: Linux allows 107 bytes for the whole address, and
/// PostgreSQL appends `/.s.PGSQL.<port>`.
const SOCKET_DIR_BYTES_MAX: usize = 90;

/// What is wrong with the places.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The data directory cannot be renamed.
    #[error(
        "{} is a mount point, so it cannot be replaced as a whole; \
         use a directory below it as the data directory", path.display()
    )]
    MountPoint {
        /// The data directory.
        path: PathBuf,
    },
    /// Paths must be absolute and have a last component.
    #[error("{} is not a usable path: it must be absolute and name a directory", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The socket's address would not fit.
    #[error(
        "the socket directory {} is too long: at most {SOCKET_DIR_BYTES_MAX} bytes", path.display()
    )]
    SocketDirTooLong {
        /// The directory.
        path: PathBuf,
    },
}

/// The places of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The data directory (PGDATA). It is made by us, mode 0700.
    pub pgdata: PathBuf,
    /// Directory of the Unix socket. It is in the run directory, so that only we get there.
    pub socket_dir: PathBuf,
    /// Directory for password files and the like, mode 0700.
    pub run_dir: PathBuf,
    /// Directory of PostgreSQL's logs.
    pub log_dir: PathBuf,
}

/// A data directory, or some WAL, that was kept aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Where it is.
    pub path: PathBuf,
    /// When it was put there, such as `20260131T235959Z`. It sorts by age.
    pub stamp: String,
    /// Why, such as `diverged`.
    pub reason: String,
    /// Its size in bytes, symbolic links not followed.
    pub bytes: u64,
}

impl Layout {
    /// Checks the paths; touches nothing.
    pub fn new(
        pgdata: PathBuf,
        socket_dir: PathBuf,
        run_dir: PathBuf,
        log_dir: PathBuf,
    ) -> Result<Self, Error> {
        for path in [&pgdata, &socket_dir, &run_dir, &log_dir] {
            let plain = path.to_str().is_some_and(|s| !s.contains(['\n', '\r', '\0', ',']));
            if !path.is_absolute() || path.file_name().is_none() || !plain {
                return Err(Error::Path { path: path.clone() });
            }
        }
        if socket_dir.as_os_str().len() > SOCKET_DIR_BYTES_MAX {
            return Err(Error::SocketDirTooLong { path: socket_dir });
        }
        Ok(Self { pgdata, socket_dir, run_dir, log_dir })
    }

    /// Makes the directories beside the data directory, with their owner and mode. The parents
    /// must exist.
    pub fn prepare(&self, user: &OsUser) -> Result<(), Error> {
        if let (Ok(own), Some(parent)) = (std::fs::symlink_metadata(&self.pgdata), self.parent()) {
            let above =
                std::fs::metadata(parent).map_err(|e| files::Error::new("look at", parent, e))?;
            if own.is_dir() && own.dev() != above.dev() {
                return Err(Error::MountPoint { path: self.pgdata.clone() });
            }
        }
        files::ensure_dir(&self.run_dir, 0o700, user)?;
        files::ensure_dir(&self.socket_dir, 0o750, user)?;
        files::ensure_dir(&self.log_dir, 0o750, user)?;
        Ok(())
    }

    fn parent(&self) -> Option<&Path> {
        self.pgdata.parent()
    }

    /// `<pgdata><suffix>`: a neighbour of the data directory.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.pgdata.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Where a new data directory is made before it replaces the old one. Whatever has this name
    /// is unfinished.
    pub fn new_dir(&self) -> PathBuf {
        self.beside(".new")
    }

    /// Makes the new data directory, empty, after it removed an unfinished one. So the user that
    /// PostgreSQL runs as needs no right to write beside its data.
    pub fn make_new_dir(&self, user: &OsUser) -> Result<PathBuf, Error> {
        self.remove_new_dir()?;
        let new = self.new_dir();
        files::ensure_dir(&new, 0o700, user)?;
        Ok(new)
    }

    /// Removes an unfinished new data directory.
    pub fn remove_new_dir(&self) -> Result<(), Error> {
        remove_tree(&self.new_dir())
    }

    /// `pg_wal` of the data directory.
    pub fn wal_dir(&self) -> PathBuf {
        self.pgdata.join("pg_wal")
    }

    /// The marker of an unfinished change of the data directory. It stands beside the directory,
    /// because `pg_rewind` removes files in it that the source does not have.
    pub fn incomplete_marker(&self) -> PathBuf {
        self.beside(".incomplete")
    }

    /// Marks the data directory as unusable until [`Layout::clear_incomplete`], durably.
    pub fn mark_incomplete(&self, why: &str, user: &OsUser) -> Result<(), Error> {
        Ok(files::write_atomic(&self.incomplete_marker(), why.as_bytes(), 0o600, user)?)
    }

    /// Why the data directory is unusable, if it is.
    pub fn incomplete(&self) -> Result<Option<String>, Error> {
        let content = files::read_if_exists(&self.incomplete_marker())?;
        Ok(content.map(|c| String::from_utf8_lossy(&c).into_owned()))
    }

    /// Removes the marker, durably. The data directory must be synced before.
    pub fn clear_incomplete(&self) -> Result<(), Error> {
        files::remove_if_exists(&self.incomplete_marker())?;
        Ok(())
    }

    /// Renames the data directory aside. Returns where it went; `None` if there was none.
    /// `reason` is cut to letters, digits and `_`.
    pub fn keep_aside(&self, at: WallMillis, reason: &str) -> Result<Option<PathBuf>, Error> {
        if !files::exists(&self.pgdata)? {
            return Ok(None);
        }
        // An empty directory is nothing to keep: a package or an operator made it.
        if std::fs::remove_dir(&self.pgdata).is_ok() {
            return Ok(None);
        }
        let to = self.aside_path(at, reason)?;
        files::rename(&self.pgdata, &to)?;
        Ok(Some(to))
    }

    /// A name for something that is kept aside, not taken yet.
    pub fn aside_path(&self, at: WallMillis, reason: &str) -> Result<PathBuf, Error> {
        let mut reason: String =
            reason.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        reason.truncate(40);
        for seconds in 0.. {
            let stamp = utc_stamp(WallMillis(at.0.saturating_add(seconds * 1000)));
            let to = self.beside(&format!(".aside-{stamp}-{reason}"));
            if !files::exists(&to)? {
                return Ok(to);
            }
        }
        Err(Error::Path { path: self.pgdata.clone() })
    }

    /// Moves the finished new directory to the data directory's place, and the one that was there
    /// aside. Returns where the old one went.
    pub fn install_new(&self, at: WallMillis, reason: &str) -> Result<Option<PathBuf>, Error> {
        let old = self.keep_aside(at, reason)?;
        files::rename(&self.new_dir(), &self.pgdata)?;
        Ok(old)
    }

    /// What is kept aside, oldest first.
    pub fn list_aside(&self) -> Result<Vec<Aside>, Error> {
        let mut all = self.list_aside_names()?;
        for aside in &mut all {
            aside.bytes = tree_bytes(&aside.path);
        }
        Ok(all)
    }

    /// The same without looking into it: every size is 0.
    pub fn list_aside_names(&self) -> Result<Vec<Aside>, Error> {
        let (Some(parent), Some(name)) = (self.parent(), self.pgdata.file_name()) else {
            return Ok(Vec::new());
        };
        let prefix = format!("{}.aside-", name.to_string_lossy());
        let entries =
            std::fs::read_dir(parent).map_err(|e| files::Error::new("list", parent, e))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| files::Error::new("list", parent, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((stamp, reason)) =
                name.strip_prefix(&prefix).and_then(|rest| rest.split_once('-'))
            else {
                continue;
            };
            let stamped = stamp.len() == 16 && stamp.ends_with('Z');
            if stamped {
                found.push(Aside {
                    bytes: 0,
                    path: entry.path(),
                    stamp: stamp.to_owned(),
                    reason: reason.to_owned(),
                });
            }
        }
        found.sort_by(|a, b| (&a.stamp, &a.path).cmp(&(&b.stamp, &b.path)));
        Ok(found)
    }

    /// Removes the oldest of what is kept aside until `enough` says so, but none that would still
    /// be kept, at most `count_max` of them, if one more were put there. Returns what was removed.
    pub fn make_room(
        &self,
        count_max: usize,
        enough: impl Fn() -> bool,
    ) -> Result<Vec<PathBuf>, Error> {
        let all = self.list_aside_names()?;
        let kept = count_max.max(1) - 1;
        let mut removed = Vec::new();
        for aside in all.iter().take(all.len().saturating_sub(kept)) {
            if enough() {
                break;
            }
            remove_tree(&aside.path)?;
            removed.push(aside.path.clone());
        }
        Ok(removed)
    }

    /// Removes the oldest of what is kept aside until at most `count_max` are left and they hold
    /// at most `bytes_max`. The newest is never removed. Returns what was.
    pub fn prune_aside(&self, count_max: usize, bytes_max: u64) -> Result<Vec<Aside>, Error> {
        let all = self.list_aside()?;
        let mut bytes: u64 = all.iter().map(|a| a.bytes).sum();
        let mut count = all.len();
        let mut removed = Vec::new();
        for aside in all {
            if count <= 1 || (count <= count_max && bytes <= bytes_max) {
                break;
            }
            remove_tree(&aside.path)?;
            count -= 1;
            bytes -= aside.bytes.min(bytes);
            removed.push(aside);
        }
        Ok(removed)
    }
}

/// Removes a directory with its content, if it is there. Links in it are removed, not followed.
fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(files::sync_parent(path)?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(files::Error::new("remove", path, e).into()),
    }
}

/// Bytes used below `path`. What cannot be read counts as nothing: it is for bounds only.
fn tree_bytes(path: &Path) -> u64 {
    let mut total = 0;
    let mut todo = vec![path.to_owned()];
    while let Some(next) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&next) else { continue };
        total += meta.blocks() * 512;
        if meta.is_dir() {
            let entries = std::fs::read_dir(&next).into_iter().flatten();
            todo.extend(entries.filter_map(|e| Some(e.ok()?.path())));
        }
    }
    total
}

impl Aside {
    /// When it was put there, in milliseconds since 1970; 0 where its name does not tell.
    pub fn at_unix_ms(&self) -> u64 {
        let number =
            |range: std::ops::Range<usize>| -> Option<u64> { self.stamp.get(range)?.parse().ok() };
        let millis = || {
            let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
            let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
            if year < 1970 || !(1..=12).contains(&month) || day == 0 {
                return None;
            }
            // Days since 1970, with years that begin in March.
            let year_from_march = if month <= 2 { year - 1 } else { year };
            let month_from_march = (month + 9) % 12;
            let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
            let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
            let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
            let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
            Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
        };
        millis().unwrap_or(0)
    }
}

/// Wall-clock time as `YYYYMMDDTHHMMSSZ` (proleptic Gregorian calendar, UTC).
pub fn utc_stamp(at: WallMillis) -> String {
    let seconds = at.0 / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 0000-03-01, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(root: &Path) -> Layout {
        Layout::new(root.join("data"), root.join("run"), root.join("run"), root.join("log"))
            .unwrap()
    }

    #[test]
    fn stamps_are_dates() {
        for (millis, text) in [
            (0, "19700101T000000Z"),
            (951_782_400_000, "20000229T000000Z"),
            (1_709_251_199_999, "20240229T235959Z"),
            (1_798_761_600_000, "20270101T000000Z"),
        ] {
            assert_eq!(utc_stamp(WallMillis(millis)), text);
            let (path, reason) = (PathBuf::new(), String::new());
            let aside = Aside { path, stamp: text.to_owned(), reason, bytes: 0 };
            assert_eq!(aside.at_unix_ms(), millis / 1000 * 1000);
        }
    }

    #[test]
    fn the_newest_aside_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        for n in 0..4_u64 {
            std::fs::create_dir(&layout.pgdata).unwrap();
            std::fs::write(layout.pgdata.join("x"), vec![1; 10_000]).unwrap();
            // Twice the same second: the names differ all the same.
            let kept = layout.keep_aside(WallMillis(n / 2 * 1000), "di verged/").unwrap();
            assert!(kept.unwrap().to_str().unwrap().ends_with("Z-di_verged_"));
        }
        assert_eq!(layout.keep_aside(WallMillis(0), "x").unwrap(), None);
        let all = layout.list_aside().unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(layout.prune_aside(3, u64::MAX).unwrap(), all[..1]);
        assert_eq!(layout.prune_aside(0, 0).unwrap(), all[1..3]);
        assert_eq!(layout.list_aside().unwrap(), all[3..]);
    }

    #[test]
    fn room_is_made_of_what_the_bounds_would_remove_anyway() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        for n in 0..4_u64 {
            std::fs::create_dir(&layout.pgdata).unwrap();
            std::fs::write(layout.pgdata.join("x"), "x").unwrap();
            layout.keep_aside(WallMillis(n * 1000), "x").unwrap();
        }
        assert_eq!(layout.make_room(2, || true).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(layout.make_room(9, || false).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(layout.make_room(3, || false).unwrap().len(), 2);
        assert_eq!(layout.make_room(3, || false).unwrap().len(), 0);
        assert_eq!(layout.make_room(0, || false).unwrap().len(), 2);
        assert_eq!(layout.list_aside().unwrap(), Vec::new());
    }

    #[test]
    fn new_replaces_old() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        std::fs::create_dir(layout.new_dir()).unwrap();
        std::fs::write(layout.new_dir().join("1"), "").unwrap();
        assert_eq!(layout.install_new(WallMillis(0), "x").unwrap(), None);
        std::fs::create_dir(layout.new_dir()).unwrap();
        let old = layout.install_new(WallMillis(0), "x").unwrap().unwrap();
        assert!(old.join("1").exists() && !layout.pgdata.join("1").exists());
        let user = OsUser::current().unwrap();
        layout.mark_incomplete("rewind", &user).unwrap();
        assert_eq!(layout.incomplete().unwrap().as_deref(), Some("rewind"));
        layout.clear_incomplete().unwrap();
        assert_eq!(layout.incomplete().unwrap(), None);
    }
}
