//! Turning a diverged data directory back (PostgreSQL manual, "pg_rewind").
//!
//! Owns the order of things: look, crash recovery, save the WAL that only this member has, mark
//! the directory, rewind, unmark. A directory whose rewind was interrupted looks startable and is
//! not: it stays marked, and has to be copied anew.
//!
//! The source must be a primary that has done a checkpoint since its promotion. Before that its
//! control file names the old timeline, and `pg_rewind` says "no rewind required", does nothing and
//! ends with status 0. So whether a member has diverged is for the caller to know, by lineage.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::basebackup::Source;
use super::binaries::Binaries;
use super::controldata::{self, ControlData};
use super::files;
use super::history;
use super::layout::{self, Layout};
use super::os_user::{self, Command, OsUser, Output};
use super::start::{self, Signal};
use super::wal::Segment;
use crate::domain::types::{Lsn, SystemId, Timeline, WallMillis};

/// What went wrong around a rewind. A rewind that PostgreSQL refuses is an [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be run, or not to its end. The directory stays marked.
    #[error(transparent)]
    Run(#[from] os_user::Error),
    /// The control file is not readable.
    #[error(transparent)]
    Control(#[from] controldata::Error),
    /// Something with the places.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// Something with the files of the directory.
    #[error(transparent)]
    Start(#[from] start::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// What a rewind is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The primary. Its database is `postgres`.
    pub source: Source,
    /// The cluster's system identifier.
    pub expected: SystemId,
    /// Where this member left the lineage, if that is known: WAL from there on exists nowhere
    /// else and is saved, beside what was never archived.
    pub diverged_at: Option<Lsn>,
    /// The timelines of the primary's log, its own the last. WAL of others, and histories of later
    /// ones, are gone after the rewind: their numbers can be those of epochs to come.
    pub lineage: BTreeSet<Timeline>,
    /// How long crash recovery and the rewind may take, each.
    pub deadline: Duration,
    /// The time, for the name of the saved WAL.
    pub at: WallMillis,
}

/// How a rewind ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The directory is the source's as it was at a checkpoint before the divergence. All
    /// settings have to be written anew and slots be made again.
    Rewound {
        /// Where the two parted.
        diverged_at: Lsn,
        /// On which timeline.
        timeline: Timeline,
        /// Where the WAL was saved, if there was any.
        saved: Option<PathBuf>,
    },
    /// `pg_rewind` saw no divergence and changed nothing.
    NotRequired,
    /// It cannot be done.
    Failed {
        /// Why.
        reason: String,
        /// Whether the directory was changed, so that it cannot be started any more.
        touched: bool,
    },
}

/// Rewinds `layout.pgdata` to follow the source. The server there must be stopped, proven, and its
/// stale lock file removed.
pub async fn rewind(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    job: &Job,
) -> Result<Outcome, Error> {
    if let Some(why) = layout.incomplete()? {
        return Ok(refused(format!("an earlier change did not finish: {why}")));
    }
    let control = controldata::read(binaries, user, &layout.pgdata).await?;
    if let Some(reason) = impossible(layout, &control, job)? {
        return Ok(refused(reason));
    }
    let recovered = !control.state.is_clean();
    if recovered {
        // From here on it is not what it was, also where the rewind is not begun.
        layout.mark_incomplete("crash recovery before pg_rewind was running", user)?;
        // Single-user mode refuses a standby's signal file.
        start::set_signal(layout, user, Signal::None)?;
        let output = crash_recovery(binaries, user, layout, job.deadline).await?;
        if !output.success {
            layout.clear_incomplete()?;
            let reason = last_line(&output.stderr);
            return Ok(refused(format!("crash recovery failed: {reason}")));
        }
    }
    let saved = save_wal(layout, user, job, control.segment_bytes)?;
    layout.mark_incomplete("pg_rewind was running", user)?;
    let output = Command::new(&binaries.program("pg_rewind"), user, job.deadline)
        .args(["--no-ensure-shutdown", "--target-pgdata"])
        .arg(&layout.pgdata)
        .arg("--source-server")
        .arg(job.source.conninfo(Some("postgres"), "quorate_rewind"))
        .env("PGPASSFILE", &job.source.passfile)
        .run()
        .await?;
    let outcome = judge(&output, saved);
    if matches!(outcome, Outcome::Rewound { .. }) {
        remove_foreign(layout, &job.lineage, control.segment_bytes)?;
    }
    if !matches!(outcome, Outcome::Failed { touched: true, .. }) {
        start::set_signal(layout, user, Signal::None)?;
        layout.clear_incomplete()?;
    }
    // Its own recovery wrote a checkpoint of its own: it is not what it was before.
    Ok(match outcome {
        Outcome::Failed { reason, touched: false } => {
            Outcome::Failed { reason, touched: recovered }
        }
        other => other,
    })
}

fn refused(reason: String) -> Outcome {
    Outcome::Failed { reason, touched: false }
}

/// What rules a rewind out before anything is touched.
fn impossible(layout: &Layout, control: &ControlData, job: &Job) -> Result<Option<String>, Error> {
    let label = files::exists(&layout.pgdata.join("backup_label"))?;
    Ok(if control.system_id != job.expected {
        let (found, expected) = (control.system_id, job.expected);
        Some(format!("the system identifier is {found}, but this cluster's is {expected}"))
    } else if label || control.backup_end_required {
        // Crash recovery without the label would begin at the wrong place.
        Some("the directory is a copy that has not replayed to the end of its backup".into())
    } else if !control.can_rewind() {
        Some("neither page checksums nor wal_log_hints are on".into())
    } else {
        None
    })
}

/// Lets PostgreSQL replay its own WAL to the end and stop cleanly, in single-user mode.
async fn crash_recovery(
    binaries: &Binaries,
    user: &OsUser,
    layout: &Layout,
    deadline: Duration,
) -> Result<Output, Error> {
    let program = binaries.program("postgres");
    Ok(Command::new(&program, user, deadline)
        .arg("--single")
        .args(start::place_arguments(layout))
        // What it says must come to us, and nothing may be waited for or archived.
        .args(["-c", "logging_collector=off", "-c", "log_destination=stderr"])
        .args(["-c", "synchronous_standby_names=", "-c", "archive_mode=off"])
        .arg("template1")
        .run()
        .await?)
}

fn last_line(text: &str) -> String {
    let line =
        text.lines().rev().find(|l| ["FATAL:", "PANIC:", "error:"].iter().any(|m| l.contains(m)));
    line.or(text.lines().last()).unwrap_or("no message").trim().chars().take(500).collect()
}

/// Reads the outcome out of what `pg_rewind` printed.
fn judge(output: &Output, saved: Option<PathBuf>) -> Outcome {
    let text = format!("{}\n{}", output.stdout, output.stderr);
    // Printed just before the first change.
    let touched = text.contains("rewinding from last common checkpoint");
    if !output.success {
        return Outcome::Failed { reason: last_line(&output.stderr), touched };
    }
    if text.contains("no rewind required") {
        return Outcome::NotRequired;
    }
    match parse_divergence(&text) {
        Some((diverged_at, timeline)) if text.contains("Done!") => {
            Outcome::Rewound { diverged_at, timeline, saved }
        }
        _ => Outcome::Failed {
            reason: format!("unknown output of pg_rewind: {text}"),
            touched: true,
        },
    }
}

/// Finds `servers diverged at WAL location 0/3000060 on timeline 1`.
pub(crate) fn parse_divergence(text: &str) -> Option<(Lsn, Timeline)> {
    let rest = text.split_once("diverged at WAL location ")?.1.lines().next()?;
    let (lsn, timeline) = rest.split_once(" on timeline ")?;
    Some((lsn.parse().ok()?, Timeline(timeline.trim().parse().ok()?)))
}

/// Copies the WAL that only this member has: segments that were never archived, and those from
/// the divergence on. They are copied and not linked, since PostgreSQL re-uses segment files.
/// Returns where they are.
fn save_wal(
    layout: &Layout,
    user: &OsUser,
    job: &Job,
    segment_bytes: u64,
) -> Result<Option<PathBuf>, Error> {
    let wal = layout.wal_dir();
    let from = job.diverged_at.map(|lsn| lsn.0 / segment_bytes);
    let mut wanted = Vec::new();
    for entry in std::fs::read_dir(&wal).map_err(|e| files::Error::new("list", &wal, e))? {
        let entry = entry.map_err(|e| files::Error::new("list", &wal, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ready = files::exists(&wal.join("archive_status").join(format!("{name}.ready")))?;
        let newer = Segment::parse(&name, segment_bytes)
            .is_some_and(|s| from.is_some_and(|from| s.number >= from));
        let file = entry.file_type().is_ok_and(|t| t.is_file());
        if file && (ready || newer) {
            wanted.push((entry.path(), name));
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    let to = layout.aside_path(job.at, "wal")?;
    files::ensure_dir(&to, 0o700, user)?;
    for (path, name) in wanted {
        files::copy_file(&path, &to.join(name), user)?;
    }
    files::sync_dir(&to)?;
    Ok(Some(to))
}

/// Takes away what a promotion has left that is no part of the primary's log: segments of foreign
/// timelines, and histories of timelines later than its own. Whatever number such a timeline has, a
/// later epoch may get it: its promotion would find the number taken, or a standby would take old
/// WAL for that of the epoch.
fn remove_foreign(
    layout: &Layout,
    lineage: &BTreeSet<Timeline>,
    segment_bytes: u64,
) -> Result<(), Error> {
    let Some(newest) = lineage.last() else { return Ok(()) };
    let wal = layout.wal_dir();
    for entry in std::fs::read_dir(&wal).map_err(|e| files::Error::new("list", &wal, e))? {
        let entry = entry.map_err(|e| files::Error::new("list", &wal, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let whole = name.strip_suffix(".partial").unwrap_or(&name);
        let foreign = match (history::parse_file_name(&name), Segment::parse(whole, segment_bytes))
        {
            (Some(timeline), _) => timeline > *newest,
            (None, Some(segment)) => !lineage.contains(&segment.timeline),
            (None, None) => false,
        };
        if !foreign {
            continue;
        }
        files::remove_if_exists(&entry.path())?;
        for done in ["ready", "done"] {
            files::remove_if_exists(&wal.join("archive_status").join(format!("{name}.{done}")))?;
        }
    }
    Ok(files::sync_dir(&wal)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(success: bool, stderr: &str) -> Output {
        let status = String::new();
        Output { success, status, stdout: String::new(), stderr: stderr.into() }
    }

    #[test]
    fn outcomes_are_told_apart() {
        let done = "pg_rewind: servers diverged at WAL location 0/3000060 on timeline 1\n\
                    pg_rewind: rewinding from last common checkpoint at 0/2000060 on timeline 1\n\
                    pg_rewind: Done!\n";
        let (diverged_at, timeline) = (Lsn(0x300_0060), Timeline(1));
        assert_eq!(
            judge(&output(true, done), None),
            Outcome::Rewound { diverged_at, timeline, saved: None }
        );
        let not = "pg_rewind: source and target cluster are on the same timeline\n\
                   pg_rewind: no rewind required\n";
        assert_eq!(judge(&output(true, not), None), Outcome::NotRequired);
        let refused = "pg_rewind: error: could not connect to server: x\n";
        let Outcome::Failed { reason, touched } = judge(&output(false, refused), None) else {
            panic!()
        };
        assert!(reason.contains("could not connect") && !touched);
        let halfway = &done[..done.find("pg_rewind: Done!").unwrap()];
        for success in [true, false] {
            let outcome = judge(&output(success, halfway), None);
            assert!(matches!(outcome, Outcome::Failed { touched: true, .. }), "{outcome:?}");
        }
        assert!(matches!(judge(&output(true, ""), None), Outcome::Failed { touched: true, .. }));
    }

    const MIB: u64 = 1 << 20;

    fn layout(root: &std::path::Path) -> Layout {
        let layout = Layout::new(root.join("data"), root.join("r"), root.join("r"), root.join("l"));
        let layout = layout.unwrap();
        std::fs::create_dir_all(layout.wal_dir().join("archive_status")).unwrap();
        layout
    }

    fn names(dir: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn wal_that_only_it_has_is_saved() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let wal = layout.wal_dir();
        // An old one that was archived, an old one that was not, two from the divergence on.
        let segment = |n: u32| format!("0000000200000000000000{n:02X}");
        for n in [1, 2, 5, 6] {
            std::fs::write(wal.join(segment(n)), format!("segment {n}")).unwrap();
        }
        std::fs::write(wal.join("archive_status").join(segment(1) + ".done"), "").unwrap();
        std::fs::write(wal.join("archive_status").join(segment(2) + ".ready"), "").unwrap();
        let mut job = Job {
            source: Source {
                host: String::new(),
                port: 0,
                user: String::new(),
                passfile: PathBuf::new(),
                connection: Default::default(),
            },
            expected: SystemId(1),
            diverged_at: Some(Lsn(5 * MIB + 77)),
            lineage: BTreeSet::new(),
            deadline: Duration::ZERO,
            at: WallMillis(0),
        };
        let user = OsUser::current().unwrap();
        let saved = save_wal(&layout, &user, &job, MIB).unwrap().unwrap();
        assert_eq!(names(&saved), [2, 5, 6].map(segment));
        assert_eq!(std::fs::read_to_string(saved.join(segment(2))).unwrap(), "segment 2");
        assert_eq!(names(&wal).len(), 5, "it is copied");
        job.diverged_at = None;
        let saved = save_wal(&layout, &user, &job, MIB).unwrap().unwrap();
        assert_eq!(names(&saved), [segment(2)]);
    }

    #[test]
    fn nothing_of_foreign_timelines_is_left() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let wal = layout.wal_dir();
        let lineage = BTreeSet::from([Timeline(1), Timeline(5)]);
        let segment = |timeline: u32| format!("{timeline:08X}0000000000000003");
        let kept = [segment(1), segment(5), "00000003.history".into(), "00000005.history".into()];
        let gone = [
            segment(3),
            segment(6),
            segment(6) + ".partial",
            "00000006.history".into(),
            "0000000A.history".into(),
        ];
        for name in kept.iter().chain(&gone) {
            std::fs::write(wal.join(name), "").unwrap();
            std::fs::write(wal.join("archive_status").join(format!("{name}.ready")), "").unwrap();
        }
        remove_foreign(&layout, &lineage, MIB).unwrap();
        let mut want = kept.to_vec();
        want.sort();
        let status: Vec<_> = want.iter().map(|n| format!("{n}.ready")).collect();
        assert_eq!(names(&wal.join("archive_status")), status);
        want.push("archive_status".to_owned());
        assert_eq!(names(&wal), want);
    }
}
