//! A copy of another member's data directory (PostgreSQL manual, "pg_basebackup").
//!
//! Owns that an unfinished copy is never taken for a data directory: it is made in
//! `<pgdata>.new`, and only a copy that `pg_basebackup` has finished and synced, and that has the
//! expected system identifier, is renamed to its place. What was there is kept aside.
//!
//! A copy is not yet a member that counts: it does so only after it has flushed WAL past a
//! position that the primary had after the copy ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::binaries::Binaries;
use super::conf::conninfo;
use super::controldata::{self, ControlData};
use super::layout::{self, Layout};
use super::os_user::{self, Command, OsUser};
use crate::domain::types::{Lsn, SystemId, Timeline, WallMillis};

/// `application_name` of a copy's connections. No member can have this name, so a copy never counts
/// as a synchronous standby.
pub const APPLICATION_NAME: &str = "quorate copy";

/// How often the remains of a failed copy are removed until that succeeds, and the pause between.
const REMOVALS: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source belongs to another cluster.
    #[error("the source has system identifier {found}, but this cluster's is {expected}")]
    Foreign {
        /// The source's.
        found: SystemId,
        /// The cluster's.
        expected: SystemId,
    },
    /// The positions of the copy were not printed.
    #[error("pg_basebackup did not print where its copy begins and ends: {output}")]
    Positions {
        /// What it printed.
        output: String,
    },
    /// The program failed.
    #[error(transparent)]
    Run(#[from] os_user::Error),
    /// The copy is not readable.
    #[error(transparent)]
    Control(#[from] controldata::Error),
    /// Something with the places.
    #[error(transparent)]
    Layout(#[from] layout::Error),
}

/// Where to copy from, and how to log in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User: that of replication for a copy, that of rewind for a rewind.
    pub user: String,
    /// The password file.
    pub passfile: PathBuf,
    /// More parameters, such as `sslmode`.
    pub connection: BTreeMap<String, String>,
}

impl Source {
    /// The connection string. Connections give up within seconds when the source is gone.
    pub fn conninfo(&self, dbname: Option<&str>, application_name: &str) -> String {
        let port = self.port.to_string();
        let passfile = self.passfile.to_string_lossy();
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::from([
            ("connect_timeout", "5"),
            ("keepalives", "1"),
            ("keepalives_count", "3"),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "2"),
            ("tcp_user_timeout", "20000"),
        ]);
        parameters.extend(self.connection.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        parameters.extend([
            ("host", self.host.as_str()),
            ("port", port.as_str()),
            ("user", self.user.as_str()),
            ("passfile", passfile.as_ref()),
            ("application_name", application_name),
        ]);
        parameters.extend(dbname.map(|name| ("dbname", name)));
        conninfo(parameters)
    }
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes copied.
    pub bytes_done: u64,
    /// Bytes to copy, as estimated when it began; it can grow.
    pub bytes_total: u64,
}

/// What a copy is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Where from.
    pub source: Source,
    /// The cluster's system identifier.
    pub expected: SystemId,
    /// The slot that keeps the WAL that the copy needs; without one PostgreSQL makes a temporary
    /// one, and WAL written between the copy and the first start can be gone.
    pub slot: Option<String>,
    /// Whether that slot does not exist yet and is to be made there.
    pub create_slot: bool,
    /// Places of tablespaces: the source's directory and ours.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// How long it may take.
    pub deadline: Duration,
    /// The time, for the name of what is kept aside.
    pub at: WallMillis,
    /// Why the old directory is replaced, for its name.
    pub reason: String,
}

/// A copy that is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The timeline that the source had when the copy began.
    pub timeline: Timeline,
    /// Where the copy's WAL begins.
    pub start: Lsn,
    /// It is consistent from here on. The caller takes a later position from the primary.
    pub end: Lsn,
    /// Its control file.
    pub control: ControlData,
    /// Where the old data directory went.
    pub kept_aside: Option<PathBuf>,
}

/// Copies, then replaces `layout.pgdata`. The server there must be stopped, proven. Call
/// [`super::start::install`] before the copy is started: its settings are the source's. Nothing of
/// a copy that failed is left: it may have failed for want of the room that it took.
pub async fn copy(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    job: &Job,
    on_progress: impl FnMut(Progress),
) -> Result<Copied, Error> {
    let copied = copy_new(binaries, user, layout, job, on_progress).await;
    if copied.is_err() {
        // The process that received WAL is told to end when its parent ends, and may write until
        // then. What is left all the same is removed before the next copy.
        for _ in 0..REMOVALS {
            let layout = layout.clone();
            let removed = tokio::task::spawn_blocking(move || layout.remove_new_dir()).await;
            if matches!(removed, Ok(Ok(()))) {
                break;
            }
            tokio::time::sleep(REMOVAL_PAUSE).await;
        }
    }
    copied
}

async fn copy_new(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    job: &Job,
    mut on_progress: impl FnMut(Progress),
) -> Result<Copied, Error> {
    let new = layout.make_new_dir(user)?;
    let program = binaries.program("pg_basebackup");
    let mut command = Command::new(&program, user, job.deadline)
        .args(["--format=plain", "--wal-method=stream", "--checkpoint=fast", "--no-password"])
        .args(["--progress", "--verbose", "--no-manifest", "--pgdata"])
        .arg(&new)
        .arg("--dbname")
        .arg(job.source.conninfo(None, APPLICATION_NAME));
    if let Some(slot) = &job.slot {
        command = command.arg("--slot").arg(slot);
        if job.create_slot {
            command = command.arg("--create-slot");
        }
    }
    for (theirs, ours) in &job.tablespaces {
        let escape = |p: &PathBuf| p.to_string_lossy().replace('=', "\\=");
        let mapping = format!("{}={}", escape(theirs), escape(ours));
        command = command.arg("--tablespace-mapping").arg(mapping);
    }
    let mut line = Vec::new();
    let output = command
        .run_with(|piece| {
            for byte in piece {
                if !matches!(byte, b'\r' | b'\n') {
                    line.push(*byte);
                    continue;
                }
                if let Some(progress) = parse_progress(&String::from_utf8_lossy(&line)) {
                    on_progress(progress);
                }
                line.clear();
            }
        })
        .await?;
    let output = os_user::check("pg_basebackup", output)?;
    let Some((start, timeline, end)) = parse_positions(&output.stderr) else {
        return Err(Error::Positions { output: output.stderr });
    };
    let control = controldata::read(binaries, user, &new).await?;
    if control.system_id != job.expected {
        return Err(Error::Foreign { found: control.system_id, expected: job.expected });
    }
    let kept_aside = layout.install_new(job.at, &job.reason)?;
    // Whatever was unfinished before is aside now.
    layout.clear_incomplete()?;
    Ok(Copied { timeline, start, end, control, kept_aside })
}

/// Parses a line of progress, such as `12345/67890 kB (18%), 0/1 tablespace`. Total.
pub fn parse_progress(line: &str) -> Option<Progress> {
    let (done, rest) = line.trim_start().split_once('/')?;
    let (total, unit) = rest.split_once(' ')?;
    if !unit.starts_with("kB") {
        return None;
    }
    let bytes = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
    Some(Progress { bytes_done: bytes(done)?, bytes_total: bytes(total)? })
}

/// Finds start, timeline and end in what `pg_basebackup --verbose` prints. Total.
pub fn parse_positions(text: &str) -> Option<(Lsn, Timeline, Lsn)> {
    let after = |mark: &str| Some(text.split_once(mark)?.1.lines().next()?.trim());
    let (start, timeline) = after("write-ahead log start point: ")?.split_once(" on timeline ")?;
    let end = after("write-ahead log end point: ")?;
    Some((start.parse().ok()?, Timeline(timeline.parse().ok()?), end.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn output_is_parsed() {
        let progress = parse_progress("  1024/2048 kB (50%), 0/1 tablespace (/x)").unwrap();
        assert_eq!(progress, Progress { bytes_done: 1 << 20, bytes_total: 2 << 20 });
        let text = "pg_basebackup: write-ahead log start point: 0/2000028 on timeline 3\n\
                    pg_basebackup: starting\n\
                    pg_basebackup: write-ahead log end point: 0/2000100\n";
        let found = parse_positions(text).unwrap();
        assert_eq!(found, (Lsn(0x200_0028), Timeline(3), Lsn(0x200_0100)));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*|[0-9/ kB(%]*") {
            let _ = parse_progress(&text);
            let _ = parse_positions(&text);
        }
    }
}
