//! Programs that work on data directories: `pg_basebackup`, `pg_rewind`, single-user mode.

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::Refused;
use super::directory::{DataDir, Label, State};
use super::history::History;
use super::server::Server;
use super::wal::{Kind, segment_start};

/// A base backup that has begun.
#[derive(Debug, Clone)]
pub struct Backup {
    label: Label,
    /// The timeline that the source wrote, or replayed, when it began.
    pub timeline: Timeline,
    from_standby: bool,
}

/// How a rewind ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewound {
    /// The directory is the source's, as far as the common log; it has yet to replay.
    Done {
        /// Where the two parted.
        diverged_at: Lsn,
        /// On which timeline.
        timeline: Timeline,
    },
    /// Nothing was changed: it sees no divergence.
    NotRequired,
    /// It refused before it changed anything.
    Refused(String),
}

impl Server {
    /// Begins a base backup of this server (`pg_backup_start`): of its last checkpoint, which the
    /// caller has asked for just before where the server is a primary.
    ///
    /// # Errors
    /// It takes no connections.
    pub fn begin_backup(&self) -> Result<Backup, Refused> {
        let (Some(dir), Some(run)) = (&self.dir, &self.run) else {
            return Err(Refused::NotRunning);
        };
        self.rows()?;
        let control = &dir.control;
        let from_standby = run.startup.is_some();
        let label = Label {
            checkpoint: control.checkpoint,
            redo: control.redo,
            timeline: control.timeline,
            end_by_record: !from_standby,
        };
        let timeline = run.startup.as_ref().map_or(run.log.timeline, |s| s.replay_timeline);
        Ok(Backup { label, timeline, from_standby })
    }

    /// Ends it: returns the copy, which needs all WAL up to here to be consistent, and has it.
    ///
    /// # Errors
    /// The server was promoted meanwhile, or is gone, or WAL that is needed was removed.
    pub fn end_backup(&mut self, now: BootTime, backup: &Backup) -> Result<DataDir, String> {
        let Some(run) = &self.run else { return Err("the connection is lost".to_owned()) };
        if backup.from_standby && run.startup.is_none() {
            return Err("the standby was promoted during online backup".to_owned());
        }
        if self.env.disk.hung {
            return Err("the source does not answer".to_owned());
        }
        if !backup.from_standby {
            let start = backup.label.redo;
            self.with(now, |live| {
                let record = live.append(Kind::BackupEnd { start });
                // It waits for no standby, and for the disk no longer than the copy takes.
                let log = &mut live.run.log;
                log.written = log.written.max(record.end);
                log.flushed = log.flushed.max(record.end);
                live.sessions_flushed();
            });
        }
        let (Some(dir), Some(run)) = (&self.dir, &self.run) else {
            return Err("the connection is lost".to_owned());
        };
        if dir.wal.oldest() > segment_start(backup.label.redo) {
            return Err("requested WAL segment has already been removed".to_owned());
        }
        let mut copy = dir.clone();
        copy.pages = run.pages.clone();
        copy.slots.clear();
        copy.label = Some(backup.label);
        copy.standby_signal = false;
        let (end, timeline) = match &run.startup {
            Some(startup) => (startup.replay, startup.replay_timeline),
            None => (run.log.flushed, run.log.timeline),
        };
        if let Some(startup) = &run.startup {
            // Pages are never ahead of what the control file says, which is copied last.
            copy.control.min_recovery = copy.control.min_recovery.max(startup.replay);
            copy.control.min_recovery_timeline = startup.replay_timeline;
        } else {
            copy.control.min_recovery = Lsn(0);
            copy.control.min_recovery_timeline = Timeline(0);
        }
        copy.wal.remove_before(backup.label.redo);
        copy.wal.retain(|t| t <= timeline);
        copy.wal.cut(timeline, end);
        // With the streamed WAL comes the history of its own timeline, and no other.
        copy.histories.retain(|t| t == timeline);
        Ok(copy)
    }
}

/// A starting point for a rewind: what `pg_rewind` reads of its source.
#[derive(Debug, Clone)]
pub struct Source {
    dir: DataDir,
    pages: super::directory::Pages,
    end: Lsn,
    timeline: Timeline,
}

impl Server {
    /// What `pg_rewind` finds on this server, which runs.
    ///
    /// # Errors
    /// It takes no connections.
    pub fn rewind_source(&self) -> Result<Source, Refused> {
        let (Some(dir), Some(run)) = (&self.dir, &self.run) else {
            return Err(Refused::NotRunning);
        };
        self.rows()?;
        let mut dir = dir.clone();
        // What is needed to be consistent: up to `pg_current_wal_insert_lsn()` of a primary, since
        // pages may have what is in no file of its log yet.
        let end = run.startup.as_ref().map_or(run.log.inserted(), |s| s.replay);
        dir.wal.cut(run.log.timeline, run.log.written);
        let timeline = dir.control.timeline;
        Ok(Source { dir, pages: run.pages.clone(), end, timeline })
    }
}

/// `pg_rewind` of version 15, on a stopped directory. What it compares are the timelines of the two
/// *control files*: a source that was promoted and has done no checkpoint since looks as if it were
/// still on its old timeline.
pub fn rewind(target: &mut DataDir, source: &Source) -> Rewound {
    let refused = |why: &str| Rewound::Refused(why.to_owned());
    let theirs = &source.dir.control;
    if target.control.system_id != theirs.system_id {
        return refused("source and target clusters are from different systems");
    }
    if !target.control.is_clean() {
        return refused("target server must be shut down cleanly");
    }
    if target.control.timeline == theirs.timeline {
        return Rewound::NotRequired;
    }
    let own = target.history(target.control.timeline);
    let other = source.dir.history(theirs.timeline);
    let Some((diverged_at, timeline)) = own.common(&other) else {
        return refused(
            "could not find common ancestor of the source and target cluster's timelines",
        );
    };
    let checkpoint = target.wal.read(&own, Timeline(0), target.control.checkpoint);
    let Some(checkpoint) = checkpoint else {
        return refused("could not read WAL record of the target's last checkpoint");
    };
    let end = checkpoint.end.max(target.control.min_recovery);
    if end <= diverged_at {
        return Rewound::NotRequired;
    }
    let Some(found) = last_checkpoint(target, &own, diverged_at) else {
        return refused("could not find previous WAL record: no common checkpoint");
    };
    let mut dir = source.dir.clone();
    dir.pages = source.pages.clone();
    dir.slots.clear();
    dir.label = Some(Label { end_by_record: false, ..found });
    dir.control.state = State::InArchiveRecovery;
    dir.control.min_recovery = source.end;
    dir.control.min_recovery_timeline = source.timeline;
    dir.conf = target.conf.clone();
    *target = dir;
    Rewound::Done { diverged_at, timeline }
}

/// `pg_rewind` that was killed while it copied. The control file is what it was, since it is
/// written last; the WAL that it names is gone, since what only the target has is removed first.
pub fn rewind_halfway(target: &mut DataDir, source: &Source) {
    if matches!(rewind(&mut target.clone(), source), Rewound::Done { .. }) {
        target.garbage = Some("pg_rewind was interrupted".to_owned());
    }
}

/// The last checkpoint of the target that begins before the two parted (`findLastCheckpoint`).
fn last_checkpoint(target: &DataDir, own: &History, before: Lsn) -> Option<Label> {
    let mut found = None;
    for (timeline, _, end) in own.oldest_first() {
        let Some(log) = target.wal.log(timeline) else { continue };
        for record in log.records() {
            let Kind::Checkpoint { redo, .. } = record.kind else { continue };
            if record.start < before && record.start < end {
                let checkpoint = record.start;
                found = Some(Label { checkpoint, redo, timeline, end_by_record: false });
            }
        }
    }
    found
}

/// `postgres --single`: crash recovery to the end of its own log, and an orderly stop. Whatever it
/// replays stays, also what no standby has.
///
/// # Errors
/// What the program says.
pub fn recover_alone(dir: DataDir, now: BootTime) -> Result<DataDir, String> {
    let mut server = Server::new(u32::MAX, 0);
    let conf = dir.conf.clone();
    let mut dir = dir;
    dir.conf = super::conf::Settings { synchronous: None, primary: None, ..conf.clone() };
    dir.standby_signal = false;
    server.set_dir(Some(dir));
    server.start(now, 0)?;
    server.tick(now);
    server.stop(now, super::stop::Mode::Fast);
    let said = server.take_events();
    let Some(mut dir) = server.set_dir(None).filter(|d| d.control.is_clean()) else {
        let why = said.iter().find_map(|e| match e {
            super::base::Event::Ended { how } => Some(how.clone()),
            _ => None,
        });
        return Err(why.unwrap_or_else(|| "it did not stop".to_owned()));
    };
    dir.conf = conf;
    Ok(dir)
}
