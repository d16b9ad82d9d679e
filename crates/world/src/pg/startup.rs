//! Recovery: the startup process (PostgreSQL's xlogrecovery.c and xlog.c).
//!
//! Replays what is there, follows a primary, looks for newer timelines, and ends recovery where the
//! server is promoted.

use std::collections::VecDeque;

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::{Refused, Ticket};
use super::checkpoint::Work;
use super::directory::State;
use super::history::History;
use super::server::{Live, Phase};
use super::wal::{Kind, Record};

/// Where the startup process looks for WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In `pg_wal`.
    Local,
    /// From a walreceiver.
    Stream,
    /// It found none, and looks again then (`RecoveryRetrieveRetryInterval`).
    Sleeping {
        /// When.
        until: BootTime,
    },
}

/// How far a promotion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promotion {
    /// It was asked for.
    Asked,
    /// Recovery has ended; the new timeline's history is written then.
    Ending { at: BootTime, timeline: Timeline },
}

/// The checkpoint that was replayed last: a restartpoint can be made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replayed {
    pub start: Lsn,
    pub redo: Lsn,
    pub timeline: Timeline,
}

/// The startup process.
#[derive(Debug, Clone)]
pub struct Startup {
    /// The timeline that it means to reach (`recoveryTargetTLI`).
    pub target: Timeline,
    /// The timeline of what was replayed last.
    pub replay_timeline: Timeline,
    /// Everything before this was replayed.
    pub replay: Lsn,
    /// The last record replayed.
    pub last: Option<Record>,
    /// Whether the rows make sense, so that they may be read.
    pub consistent: bool,
    /// Where it looks.
    pub source: Source,
    /// Whether it replays nothing (`pg_wal_replay_pause`, or a session that is in its way).
    pub paused: bool,
    pub(super) standby: bool,
    /// Whether it recovers as a standby: at first it may be in crash recovery.
    pub(super) archive: bool,
    pub(super) expected: History,
    pub(super) checkpoint: Option<Replayed>,
    pub(super) promotion: Option<Promotion>,
    pub(super) promoted: Option<Ticket>,
    /// What has been flushed and is replayed at a time.
    arrivals: VecDeque<(BootTime, Lsn)>,
    pub(super) conf_reload_at: Option<BootTime>,
}

impl Startup {
    pub(super) fn due(&self) -> Option<BootTime> {
        if let Some(Promotion::Ending { at, .. }) = self.promotion {
            return Some(at);
        }
        let sleep = match self.source {
            // One that is paused does not wake for what it could not replay.
            Source::Sleeping { until } if !self.paused || self.promotion.is_some() => Some(until),
            _ => None,
        };
        let arrival = self.arrivals.front().filter(|_| !self.paused).map(|(at, _)| *at);
        [sleep, arrival, self.conf_reload_at].into_iter().flatten().min()
    }
}

impl Live<'_> {
    /// Begins recovery. An error ends the server.
    pub(super) fn begin_recovery(&mut self) -> Result<(), String> {
        if let Some(why) = self.env.disk.refuses() {
            return Err(format!("FATAL: could not write lock file \"postmaster.pid\": {why}"));
        }
        if let Some(why) = &self.dir.garbage {
            return Err(format!("PANIC: the directory is no whole one: {why}"));
        }
        let standby = self.dir.standby_signal;
        let label = self.dir.label;
        let control = &self.dir.control;
        let known = control.newest_timeline();
        let target = if standby { self.dir.histories.newest(known) } else { known };
        let expected = self.dir.histories.of(target);
        let (checkpoint, redo, timeline) = match label {
            Some(label) => (label.checkpoint, label.redo, label.timeline),
            None => (control.checkpoint, control.redo, control.timeline),
        };
        if expected.timeline_of(checkpoint) != timeline {
            let left = expected.switch_point(timeline).map(|(at, _)| at);
            return Err(format!(
                "FATAL: requested timeline {target} is not a child of this server's history: latest \
                 checkpoint is at {checkpoint} on timeline {timeline}, which the requested timeline \
                 left at {left:?}"
            ));
        }
        let record = self.dir.wal.read(&expected, Timeline(0), checkpoint).copied();
        let Some(record) = record.filter(|r| matches!(r.kind, Kind::Checkpoint { .. })) else {
            return Err("PANIC: could not locate a valid checkpoint record".to_owned());
        };
        let (min, min_timeline) = (control.min_recovery, control.min_recovery_timeline);
        if label.is_none() && min > Lsn(0) && expected.timeline_of(Lsn(min.0 - 1)) != min_timeline {
            return Err(format!(
                "FATAL: requested timeline {target} does not contain minimum recovery point {min} \
                 on timeline {min_timeline}"
            ));
        }
        let needs = min > Lsn(0) || control.backup_start > Lsn(0);
        let archive = label.is_some() || (standby && (needs || control.state == State::ShutDown));
        let control = &mut self.dir.control;
        (control.checkpoint, control.redo, control.timeline) = (checkpoint, redo, timeline);
        control.state = if archive { State::InArchiveRecovery } else { State::InCrashRecovery };
        if let Some(label) = self.dir.label.take() {
            control.backup_start = label.redo;
            control.backup_end = if label.end_by_record { Lsn(0) } else { control.min_recovery };
        }
        if archive && control.min_recovery < redo {
            (control.min_recovery, control.min_recovery_timeline) = (redo, timeline);
        }
        self.run.pages = self.dir.pages.clone();
        self.run.pages.apply(record.kind);
        let shutdown = redo == checkpoint;
        self.run.startup = Some(Startup {
            target,
            replay_timeline: timeline,
            replay: if shutdown { record.end } else { redo },
            last: shutdown.then_some(record),
            consistent: false,
            source: Source::Local,
            paused: false,
            standby,
            archive,
            expected,
            checkpoint: None,
            promotion: None,
            promoted: None,
            arrivals: VecDeque::new(),
            conf_reload_at: None,
        });
        self.replay_local()?;
        if !standby {
            return self.open_after_crash();
        }
        self.note_log_end();
        Ok(())
    }

    /// What is in `pg_wal` ends where replay does: what follows is not valid, and is written over.
    fn note_log_end(&mut self) {
        let Some(startup) = &self.run.startup else { return };
        let log = &mut self.run.log;
        log.timeline = startup.replay_timeline;
        log.known = true;
        (log.written, log.flushed) = (startup.replay, startup.replay);
        let (timeline, end) = (startup.replay_timeline, startup.replay);
        self.begin_shadow(timeline, end);
    }

    /// The end of crash recovery of a server without `standby.signal`: it opens on the timeline
    /// that it had, with every commit that it finds, whoever confirmed it.
    fn open_after_crash(&mut self) -> Result<(), String> {
        self.end_of_wal_is_enough()?;
        let Some(startup) = self.run.startup.take() else { return Ok(()) };
        self.take_log(startup.last, startup.replay_timeline, startup.replay);
        self.run.pages.forget_open();
        self.dir.control.state = State::InProduction;
        self.dir.control.min_recovery = Lsn(0);
        self.dir.control.min_recovery_timeline = Timeline(0);
        self.run.phase = Phase::Primary;
        self.begin_checkpoint(Work::Online, true);
        Ok(())
    }

    /// From here on this server writes the log, behind `last`.
    fn take_log(&mut self, last: Option<Record>, timeline: Timeline, end: Lsn) {
        self.dir.wal.cut(timeline, end);
        let log = &mut self.run.log;
        log.timeline = timeline;
        log.last = last;
        log.known = true;
        (log.written, log.flushed) = (end, end);
        (log.wanted, log.flush) = (end, None);
        self.begin_shadow(timeline, end);
    }

    fn end_of_wal_is_enough(&self) -> Result<(), String> {
        let Some(startup) = &self.run.startup else { return Ok(()) };
        let control = &self.dir.control;
        if control.backup_start > Lsn(0) {
            return Err("FATAL: WAL ends before end of online backup".to_owned());
        }
        if startup.standby && startup.archive && startup.replay < control.min_recovery {
            return Err("FATAL: WAL ends before consistent recovery point".to_owned());
        }
        Ok(())
    }

    /// Replays what is in `pg_wal`, and enters archive recovery where that is to follow.
    fn replay_local(&mut self) -> Result<(), String> {
        self.replay_to(Lsn(u64::MAX))?;
        let Some(startup) = &mut self.run.startup else { return Ok(()) };
        if startup.standby && !startup.archive {
            startup.archive = true;
            let control = &mut self.dir.control;
            control.state = State::InArchiveRecovery;
            if control.min_recovery < startup.replay {
                control.min_recovery = startup.replay;
                control.min_recovery_timeline = startup.replay_timeline;
            }
        }
        self.check_consistency();
        Ok(())
    }

    /// Replays records that end at `upto` or before, as long as there are valid ones.
    fn replay_to(&mut self, upto: Lsn) -> Result<(), String> {
        loop {
            let Some(startup) = &mut self.run.startup else { return Ok(()) };
            let oldest = startup.last.map_or(Timeline(0), |r| r.timeline);
            let read = self.dir.wal.read(&startup.expected, oldest, startup.replay);
            // A record says where the one before it begins: one that followed another is invalid.
            let follows = |r: &&Record| startup.last.is_none_or(|last| last.start == r.prev);
            let Some(record) = read.filter(follows).filter(|r| r.end <= upto).copied() else {
                return Ok(());
            };
            let switches = matches!(
                record.kind,
                Kind::EndOfRecovery { .. } | Kind::Checkpoint { shutdown: true, .. }
            );
            if switches && record.timeline != startup.replay_timeline {
                let (old, new) = (startup.replay_timeline, record.timeline);
                let of_target = startup.expected.newest_first().any(|(t, _)| t == new);
                if new < old || !of_target {
                    return Err(format!("PANIC: unexpected timeline ID {new} (after {old})"));
                }
                startup.replay_timeline = new;
            }
            startup.replay = record.end;
            startup.last = Some(record);
            self.run.pages.apply(record.kind);
            match record.kind {
                Kind::Checkpoint { redo, .. } => {
                    let timeline = record.timeline;
                    startup.checkpoint = Some(Replayed { start: record.start, redo, timeline });
                }
                Kind::BackupEnd { start } if start == self.dir.control.backup_start => {
                    self.end_of_backup();
                }
                _ => {}
            }
        }
    }

    fn end_of_backup(&mut self) {
        let Some(startup) = &self.run.startup else { return };
        let control = &mut self.dir.control;
        (control.backup_start, control.backup_end) = (Lsn(0), Lsn(0));
        if control.min_recovery < startup.replay {
            control.min_recovery = startup.replay;
            control.min_recovery_timeline = startup.replay_timeline;
        }
    }

    /// Opens for reading once the rows make sense (`CheckRecoveryConsistency`).
    fn check_consistency(&mut self) {
        let Some(startup) = &self.run.startup else { return };
        let control = &self.dir.control;
        if control.backup_end > Lsn(0) && startup.replay >= control.backup_end {
            self.end_of_backup();
        }
        let control = &self.dir.control;
        let Some(startup) = &mut self.run.startup else { return };
        if startup.archive
            && !startup.consistent
            && control.backup_start == Lsn(0)
            && startup.replay >= control.min_recovery
        {
            startup.consistent = true;
            if matches!(self.run.phase, Phase::Recovering | Phase::Starting { .. }) {
                self.run.phase = Phase::Standby;
            }
        }
    }

    /// WAL up to `upto` was flushed by the walreceiver: it is replayed in its time.
    pub(super) fn arrived(&mut self, upto: Lsn) {
        let delay = self.run.postmaster.conf.apply_delay;
        let at = self.env.after(self.now, self.env.pace.apply).plus(delay);
        let Some(startup) = &mut self.run.startup else { return };
        let at = startup.arrivals.back().map_or(at, |(last, _)| at.max(*last));
        startup.arrivals.push_back((at, upto));
    }

    /// Asks for a promotion (`pg_promote`).
    pub(super) fn ask_promotion(&mut self, ticket: Option<Ticket>) -> Result<(), Refused> {
        let Some(startup) = &mut self.run.startup else { return Err(Refused::NotInRecovery) };
        startup.promotion.get_or_insert(Promotion::Asked);
        startup.promoted = ticket.or(startup.promoted);
        Ok(())
    }

    /// Lets the startup process do what it can do now. Returns whether it did anything; an error
    /// ends the server.
    pub(super) fn step_startup(&mut self) -> Result<bool, String> {
        let now = self.now;
        if matches!(self.run.phase, Phase::Stopping(_) | Phase::Starting { .. })
            || self.run.startup_ended
        {
            return Ok(false);
        }
        let Some(startup) = &mut self.run.startup else { return Ok(false) };
        if self.run.receiver.as_ref().is_some_and(|r| r.told_to_end) {
            return Ok(false);
        }
        if let Some(Promotion::Ending { at, timeline }) = startup.promotion {
            if at > now {
                return Ok(false);
            }
            self.open_after_promotion(timeline);
            return Ok(true);
        }
        if startup.conf_reload_at.is_some_and(|at| at <= now) {
            startup.conf_reload_at = None;
            self.reread_upstream();
            return Ok(true);
        }
        if startup.paused && startup.promotion.is_none() {
            return Ok(false);
        }
        match startup.source {
            Source::Sleeping { until } => {
                if until > now && startup.promotion.is_none() {
                    return Ok(false);
                }
                startup.source = Source::Local;
                Ok(true)
            }
            Source::Local => {
                self.replay_local()?;
                let Some(startup) = &mut self.run.startup else { return Ok(true) };
                startup.arrivals.clear();
                if startup.promotion.is_some() {
                    if self.awaits_receiver() {
                        return Ok(false);
                    }
                    self.end_receiver(true);
                    return self.end_recovery().map(|()| true);
                }
                let (timeline, replay) =
                    (startup.expected.timeline_of(startup.replay), startup.replay);
                match self.run.upstream.clone() {
                    Some(upstream) => {
                        startup.source = Source::Stream;
                        self.start_receiver(&upstream, timeline, replay);
                    }
                    None => self.found_nothing(),
                }
                Ok(true)
            }
            Source::Stream => self.replay_stream(),
        }
    }

    fn replay_stream(&mut self) -> Result<bool, String> {
        let now = self.now;
        let Some(startup) = &mut self.run.startup else { return Ok(false) };
        if startup.promotion.is_some() || self.run.receiver.is_none() {
            // What has come is in `pg_wal`, and is replayed from there.
            if startup.promotion.is_none() && !self.run.end_of_timeline {
                self.replay_local()?;
                self.found_nothing();
            } else {
                startup.source = Source::Local;
                if std::mem::take(&mut self.run.end_of_timeline) {
                    self.replay_local()?;
                    if !self.rescan() {
                        self.found_nothing();
                    }
                }
            }
            return Ok(true);
        }
        let Some((at, upto)) = startup.arrivals.front().copied() else { return Ok(false) };
        if at > now {
            return Ok(false);
        }
        startup.arrivals.pop_front();
        self.replay_to(upto)?;
        self.check_consistency();
        let Some(startup) = &self.run.startup else { return Ok(true) };
        if startup.replay < upto && self.reads_garbage(upto) {
            // What was sent is not the continuation of what was replayed.
            self.env.say("invalid record: the walreceiver is ended");
            self.end_receiver(true);
        }
        Ok(true)
    }

    /// Whether there is WAL up to `upto` behind what was replayed that is no valid continuation.
    fn reads_garbage(&self, upto: Lsn) -> bool {
        let Some(startup) = &self.run.startup else { return false };
        let oldest = startup.last.map_or(Timeline(0), |r| r.timeline);
        match self.dir.wal.read(&startup.expected, oldest, startup.replay) {
            Some(record) if record.end <= upto => true,
            Some(_) => false,
            None => true,
        }
    }

    /// There is no WAL anywhere: it looks for newer timelines, and sleeps.
    fn found_nothing(&mut self) {
        if self.rescan() {
            return;
        }
        let retry = self.run.postmaster.conf.retry;
        let until = self.now.plus(retry.max(std::time::Duration::from_millis(1)));
        if let Some(startup) = &mut self.run.startup {
            startup.arrivals.clear();
            startup.source = Source::Sleeping { until };
        }
    }

    /// Looks for a newer timeline than the one that it means to reach, and takes it where that is a
    /// child of this one which was not left before what was replayed (`rescanLatestTimeLine`).
    /// Returns whether it did.
    fn rescan(&mut self) -> bool {
        let Some(startup) = &mut self.run.startup else { return false };
        let newest = self.dir.histories.newest(startup.target);
        if newest == startup.target {
            return false;
        }
        let history = self.dir.histories.of(newest);
        let Some((left, _)) = history.switch_point(startup.target) else {
            let target = startup.target;
            let text = format!("new timeline {newest} is not a child of timeline {target}");
            self.env.say(text);
            return false;
        };
        if left < startup.replay {
            let text = format!(
                "new timeline {newest} forked off timeline {} before {}",
                startup.target, startup.replay
            );
            self.env.say(text);
            return false;
        }
        startup.target = newest;
        startup.expected = history;
        startup.source = Source::Local;
        true
    }

    /// The settings were read anew: another upstream needs another walreceiver
    /// (`StartupRequestWalReceiverRestart`).
    fn reread_upstream(&mut self) {
        let conf = self.run.postmaster.conf.clone();
        if conf.apply_delay.is_zero()
            && let Some(startup) = &mut self.run.startup
        {
            let now = self.now;
            startup.arrivals.iter_mut().for_each(|(at, _)| *at = (*at).min(now));
        }
        if self.run.upstream == conf.primary {
            return;
        }
        self.run.upstream.clone_from(&conf.primary);
        if self.run.receiver.is_some() {
            if !self.awaits_receiver() {
                self.end_receiver(true);
            }
            if let Some(startup) = &mut self.run.startup {
                startup.source = Source::Local;
            }
            self.rescan();
        }
    }

    /// All WAL is replayed, and a promotion was asked for: the new timeline gets the number after
    /// the newest one for which there is a history file, and its own history.
    fn end_recovery(&mut self) -> Result<(), String> {
        self.end_of_wal_is_enough()?;
        let at = self.env.after(self.now, self.env.pace.promote);
        let Some(startup) = &mut self.run.startup else { return Ok(()) };
        let timeline = Timeline(self.dir.histories.newest(startup.target).0 + 1);
        // Its parent is the timeline that was meant to be reached, whoever wrote its last record.
        let history = self.dir.histories.of(startup.target).child(timeline, startup.replay);
        self.dir.histories.put(history);
        startup.promotion = Some(Promotion::Ending { at, timeline });
        Ok(())
    }

    fn open_after_promotion(&mut self, timeline: Timeline) {
        let Some(startup) = self.run.startup.take() else { return };
        self.dir.wal.cut_parents(timeline, startup.replay);
        self.take_log(startup.last, timeline, startup.replay);
        self.run.pages.forget_open();
        self.dir.standby_signal = false;
        let record = self.append(Kind::EndOfRecovery { previous: startup.replay_timeline });
        let log = &mut self.run.log;
        (log.written, log.flushed) = (record.end, record.end);
        let control = &mut self.dir.control;
        control.min_recovery = record.end;
        control.min_recovery_timeline = timeline;
        control.state = State::InProduction;
        self.run.phase = Phase::Primary;
        if let Some(ticket) = startup.promoted {
            self.env.answer(ticket, super::base::Outcome::Acknowledged);
        }
        self.begin_checkpoint(Work::Online, false);
    }
}
