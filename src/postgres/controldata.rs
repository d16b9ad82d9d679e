//! What a data directory says about itself without a server: `pg_control` and `PG_VERSION`.
//!
//! Owns the parser of `pg_controldata`'s output (PostgreSQL manual, "pg_controldata"); the output
//! is that of LC_MESSAGES=C.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::binaries::Binaries;
use super::files;
use super::os_user::{self, Command, OsUser};
use crate::domain::types::{Lsn, SystemId, Timeline};

const DEADLINE: Duration = Duration::from_secs(10);

/// Why nothing is known about a data directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line is missing or is not what it should be.
    #[error("pg_controldata printed no usable line {field:?} (found {found:?})")]
    Field {
        /// The name of the line.
        field: &'static str,
        /// Its value, if there was one.
        found: Option<String>,
    },
    /// The checksum of `pg_control` is wrong.
    #[error("the control file is corrupt: pg_controldata says {warning:?}")]
    Corrupt {
        /// Its warning.
        warning: String,
    },
    /// The program failed.
    #[error(transparent)]
    Run(#[from] os_user::Error),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// State of a database cluster as its control file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Never started.
    StartingUp,
    /// Stopped cleanly as a primary.
    ShutDown,
    /// Stopped cleanly as a standby.
    ShutDownInRecovery,
    /// Killed while it stopped.
    ShuttingDown,
    /// Killed during crash recovery, or in it.
    InCrashRecovery,
    /// Killed as a standby, or running as one.
    InArchiveRecovery,
    /// Killed as a primary, or running as one.
    InProduction,
}

impl ClusterState {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "starting up" => Self::StartingUp,
            "shut down" => Self::ShutDown,
            "shut down in recovery" => Self::ShutDownInRecovery,
            "shutting down" => Self::ShuttingDown,
            "in crash recovery" => Self::InCrashRecovery,
            "in archive recovery" => Self::InArchiveRecovery,
            "in production" => Self::InProduction,
            _ => return None,
        })
    }

    /// Whether the server was stopped cleanly, so that no recovery is needed.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}

/// The content of `pg_control`, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlData {
    /// Database system identifier.
    pub system_id: SystemId,
    /// Catalog version: two data directories with different ones cannot replicate.
    pub catalog_version: u64,
    /// State.
    pub state: ClusterState,
    /// Latest checkpoint.
    pub checkpoint: Lsn,
    /// Where recovery starts.
    pub redo: Lsn,
    /// Timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// The one before it, if the checkpoint ended a recovery; else the same.
    pub previous_timeline: Timeline,
    /// A standby must replay to here before it is consistent; 0/0 for a primary.
    pub min_recovery: Lsn,
    /// Timeline of that position; 0 for a primary.
    pub min_recovery_timeline: Timeline,
    /// Set while a copy has not reached the end of its backup.
    pub backup_end_required: bool,
    /// Whether hint bits are logged.
    pub wal_log_hints: bool,
    /// 0 without page checksums.
    pub checksum_version: u32,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// Settings that a standby must not have lower than they were when this WAL was written, with
    /// their values (PostgreSQL manual, section 27.4.3).
    pub floor: BTreeMap<&'static str, u64>,
}

/// The settings of [`ControlData::floor`], and how `pg_controldata` calls them.
pub const FLOOR: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

impl ControlData {
    /// Whether `pg_rewind` can work on this data directory.
    pub fn can_rewind(&self) -> bool {
        self.wal_log_hints || self.checksum_version != 0
    }

    /// The newest timeline that the control file knows: where PostgreSQL begins its search.
    pub fn newest_timeline(&self) -> Timeline {
        self.timeline.max(self.min_recovery_timeline)
    }
}

/// Parses what `pg_controldata` prints. Total: any text gives a value or an error.
pub fn parse(text: &str) -> Result<ControlData, Error> {
    let mut lines = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with("WARNING:") {
            return Err(Error::Corrupt { warning: line.to_owned() });
        }
        if let Some((name, value)) = line.split_once(':') {
            lines.entry(name.trim()).or_insert(value.trim());
        }
    }
    let lines = Lines(lines);
    let segment_bytes: u64 = lines.number("Bytes per WAL segment")?;
    if !super::wal::is_segment_size(segment_bytes) {
        return Err(lines.error("Bytes per WAL segment"));
    }
    let mut floor = BTreeMap::new();
    for (setting, line) in FLOOR {
        floor.insert(setting, lines.number(line)?);
    }
    let state = "Database cluster state";
    let lsn = |name| lines.number::<Lsn>(name);
    Ok(ControlData {
        system_id: SystemId(lines.number("Database system identifier")?),
        catalog_version: lines.number("Catalog version number")?,
        state: lines.get(state).and_then(ClusterState::parse).ok_or_else(|| lines.error(state))?,
        checkpoint: lsn("Latest checkpoint location")?,
        redo: lsn("Latest checkpoint's REDO location")?,
        timeline: Timeline(lines.number("Latest checkpoint's TimeLineID")?),
        previous_timeline: Timeline(lines.number("Latest checkpoint's PrevTimeLineID")?),
        min_recovery: lsn("Minimum recovery ending location")?,
        min_recovery_timeline: Timeline(lines.number("Min recovery ending loc's timeline")?),
        backup_end_required: lsn("Backup start location")? != Lsn(0)
            || lines.on_off("End-of-backup record required", "yes", "no")?,
        wal_log_hints: lines.on_off("wal_log_hints setting", "on", "off")?,
        checksum_version: lines.number("Data page checksum version")?,
        segment_bytes,
        floor,
    })
}

struct Lines<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Lines<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    fn error(&self, field: &'static str) -> Error {
        Error::Field { field, found: self.get(field).map(str::to_owned) }
    }

    fn number<T: FromStr>(&self, name: &'static str) -> Result<T, Error> {
        self.get(name).and_then(|v| v.parse().ok()).ok_or_else(|| self.error(name))
    }

    fn on_off(&self, name: &'static str, on: &str, off: &str) -> Result<bool, Error> {
        match self.get(name) {
            Some(v) if v == on => Ok(true),
            Some(v) if v == off => Ok(false),
            _ => Err(self.error(name)),
        }
    }
}

/// Reads the control file of `pgdata`.
pub async fn read(binaries: &Binaries, user: &OsUser, pgdata: &Path) -> Result<ControlData, Error> {
    let program = binaries.program("pg_controldata");
    let output = Command::new(&program, user, DEADLINE).arg("-D").arg(pgdata).run_ok().await?;
    parse(&output.stdout)
}

/// Offset of the state in `pg_control`: behind the system identifier and two version numbers. It
/// has been there in every version (PostgreSQL's `ControlFileData`).
const STATE_OFFSET: u64 = 16;
/// `DB_SHUTDOWNED`.
const STATE_SHUT_DOWN: u32 = 1;

/// Whether the control file says that a primary was stopped cleanly: its shutdown checkpoint is
/// written. Reads the file itself and starts no program, so it can be asked again and again.
pub fn is_shut_down(pgdata: &Path) -> Result<bool, files::Error> {
    use std::os::unix::fs::FileExt;
    let path = pgdata.join("global/pg_control");
    let mut state = [0; 4];
    std::fs::File::open(&path)
        .and_then(|file| file.read_exact_at(&mut state, STATE_OFFSET))
        .map_err(|e| files::Error::new("read", &path, e))?;
    Ok(u32::from_ne_bytes(state) == STATE_SHUT_DOWN)
}

/// What is at the place of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// Nothing.
    Absent,
    /// An empty directory.
    Empty,
    /// Something else: nothing may be made here, and nothing be removed.
    Foreign {
        /// What it lacks.
        why: String,
    },
    /// A data directory of another major version.
    OtherVersion {
        /// The content of its `PG_VERSION`.
        found: String,
    },
    /// A data directory of ours.
    Present(ControlData),
}

/// Looks at what is at `pgdata`.
pub async fn inspect(
    binaries: &Binaries,
    user: &OsUser,
    pgdata: &Path,
) -> Result<DataDirectory, Error> {
    match presence(pgdata)? {
        Presence::Absent => Ok(DataDirectory::Absent),
        Presence::Empty => Ok(DataDirectory::Empty),
        Presence::Foreign(why) => Ok(DataDirectory::Foreign { why }),
        Presence::Version(found) if found != binaries.major().to_string() => {
            Ok(DataDirectory::OtherVersion { found })
        }
        Presence::Version(_) => Ok(DataDirectory::Present(read(binaries, user, pgdata).await?)),
    }
}

/// What the names in a directory say.
enum Presence {
    Absent,
    Empty,
    Foreign(String),
    Version(String),
}

fn presence(pgdata: &Path) -> Result<Presence, Error> {
    let entries = match std::fs::read_dir(pgdata) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Presence::Absent),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            return Ok(Presence::Foreign("it is not a directory".into()));
        }
        Err(e) => return Err(files::Error::new("list", pgdata, e).into()),
    };
    if entries.into_iter().next().is_none() {
        return Ok(Presence::Empty);
    }
    let Some(version) = files::read_if_exists(&pgdata.join("PG_VERSION"))? else {
        return Ok(Presence::Foreign("it is not empty and has no file PG_VERSION".into()));
    };
    let control: PathBuf = pgdata.join("global/pg_control");
    if !files::exists(&control)? {
        return Ok(Presence::Foreign("it has no file global/pg_control".into()));
    }
    Ok(Presence::Version(String::from_utf8_lossy(&version).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7412345678901234567
Database cluster state:               in archive recovery
pg_control last modified:             Sun Nov 22 01:00:00 2026
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's REDO WAL file:    000000020000000000000003
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   1
Minimum recovery ending location:     0/3000148
Min recovery ending loc's timeline:   2
Backup start location:                0/0
Backup end location:                  0/0
End-of-backup record required:        no
wal_log_hints setting:                on
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn the_output_is_parsed() {
        let data = parse(TEXT).unwrap();
        assert_eq!(data.system_id, SystemId(7_412_345_678_901_234_567));
        assert_eq!(data.state, ClusterState::InArchiveRecovery);
        assert_eq!((data.timeline, data.previous_timeline), (Timeline(2), Timeline(1)));
        assert_eq!(data.min_recovery, Lsn(0x300_0148));
        assert!(data.can_rewind() && !data.backup_end_required);
    }

    #[test]
    fn each_line_is_needed() {
        for line in TEXT.lines().filter(|l| {
            !["pg_control", "REDO WAL", "Backup end"].iter().any(|skip| l.contains(skip))
        }) {
            assert!(parse(&TEXT.replace(line, "")).is_err(), "{line}");
        }
        assert!(parse(&format!("WARNING: Calculated CRC\n{TEXT}")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*", at in 0..TEXT.len(), with in "\\PC{0,8}") {
            let _ = parse(&text);
            let _ = parse(&format!("{}{with}{}", &TEXT[..at], &TEXT[at..]));
        }
    }
}
