//! A server: a data directory, and the processes that run on it.
//!
//! Owns [`Server`], what can be asked of it from outside, and the order in which its processes do
//! what is due. What they do is in their own files.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::{Conn, Disk, Env, Event, Outcome, Pid, Span, Stopped};
use super::checkpoint::Checkpointer;
use super::conf::{Settings, Upstream};
use super::directory::{Control, DataDir, Pages};
use super::receiver::Receiver;
use super::sender::Sender;
use super::session::Session;
use super::startup::Startup;
use super::stop::Stopping;
use super::stream::Wire;
use super::syncrep::SyncRep;
use super::wal::{Kind, Record, Xid};

/// How long what nobody waits for stays unflushed: `wal_writer_delay`.
const LAZY: Span = Span::millis(200, 200);

/// What a server is doing.
#[derive(Debug, Clone)]
pub enum Phase {
    /// The postmaster runs, and recovery has not begun.
    Starting {
        /// When it will.
        until: BootTime,
    },
    /// It recovers, and takes no connections.
    Recovering,
    /// A standby that can be read.
    Standby,
    /// A primary.
    Primary,
    /// It stops in order.
    Stopping(Stopping),
}

/// The postmaster.
#[derive(Debug, Clone)]
pub struct Postmaster {
    /// Whether it is there. Without it nothing is started any more, and what runs ends in its time.
    pub alive: bool,
    /// The settings as it has read them last: what it starts has them from the first moment.
    pub conf: Arc<Settings>,
    /// When it was started, in microseconds since 1970.
    pub started_us: i64,
    /// When it last read its settings.
    pub loaded_at: BootTime,
    pub(super) reload_at: Option<BootTime>,
}

/// A flush to disk that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flush {
    pub upto: Lsn,
    /// `None` while the disk hangs.
    pub at: Option<BootTime>,
}

/// Where the log that this server writes ends: its own as a primary, what it is sent as a standby.
#[derive(Debug, Clone)]
pub struct LogEnd {
    /// Of which timeline.
    pub timeline: Timeline,
    /// The last record in memory.
    pub last: Option<Record>,
    /// The operating system has it to here: the death of the server does not lose it.
    pub written: Lsn,
    /// The disk says that it has it to here.
    pub flushed: Lsn,
    /// Whether recovery has found out where the log ends: before, nothing was written to it.
    pub(super) known: bool,
    pub(super) wanted: Lsn,
    pub(super) flush: Option<Flush>,
    pub(super) lazy_at: Option<BootTime>,
}

impl LogEnd {
    /// The end of what is in memory.
    pub fn inserted(&self) -> Lsn {
        self.last.map_or(self.written, |r| r.end.max(self.written))
    }
}

/// The processes of a running server, and their shared memory.
#[derive(Debug, Clone)]
pub struct Run {
    /// The postmaster.
    pub postmaster: Postmaster,
    /// What the server is doing.
    pub phase: Phase,
    /// Where its log ends.
    pub log: LogEnd,
    /// The rows.
    pub pages: Pages,
    /// Rows of commits that wait for standbys: nobody else sees them yet.
    pub hidden: BTreeMap<Xid, Vec<u64>>,
    /// What is recovered, where this is no primary: the startup process, and what of it is in
    /// shared memory.
    pub startup: Option<Startup>,
    /// Whether the startup process has ended with its postmaster. What is left of a standby stays
    /// one: that it recovers is in shared memory.
    pub(super) startup_ended: bool,
    /// The walreceiver.
    pub receiver: Option<Receiver>,
    /// Walsenders.
    pub senders: BTreeMap<Pid, Sender>,
    /// Sessions.
    pub sessions: BTreeMap<Pid, Session>,
    /// Who waits for standbys.
    pub sync: SyncRep,
    /// The timeline and the position that the walreceiver has last flushed, as it is shown.
    pub received: Option<(Timeline, Lsn)>,
    /// What the startup process was told to follow.
    pub(super) upstream: Option<Upstream>,
    /// Whether the last walreceiver ended with its timeline.
    pub(super) end_of_timeline: bool,
    pub(super) checkpointer: Checkpointer,
    /// When the rest of the processes sees that the postmaster is gone.
    pub(super) orphan_ends: Option<BootTime>,
}

/// What would come back if a disk that lies lost what it has said to have.
#[derive(Debug, Clone)]
pub(super) struct Shadow {
    /// The log that it really has.
    pub timeline: Timeline,
    pub end: Lsn,
    /// The control file and the rows that it really has, where they have changed since.
    pub files: Option<Box<(Control, Pages)>>,
}

/// The end of a log of which a disk that lies has lost nothing yet.
pub(super) const NOTHING: Lsn = Lsn(u64::MAX);

/// A server.
#[derive(Debug, Clone)]
pub struct Server {
    pub(super) env: Env,
    pub(super) dir: Option<DataDir>,
    pub(super) run: Option<Run>,
    pub(super) stopped: Stopped,
    /// What came while every process was stopped; `None` is the end of the connection.
    pub(super) inbox: VecDeque<(Conn, Option<Wire>)>,
    pub(super) shadow: Option<Shadow>,
}

/// A running server at a moment.
pub(super) struct Live<'a> {
    pub now: BootTime,
    pub env: &'a mut Env,
    pub dir: &'a mut DataDir,
    pub run: &'a mut Run,
    stopped: Stopped,
    shadow: &'a mut Option<Shadow>,
}

impl Live<'_> {
    pub(super) fn env_stopped(&self) -> Stopped {
        self.stopped
    }

    /// Before the control file or the rows on disk change.
    pub(super) fn keep_shadow(&mut self) {
        if let Some(shadow) = self.shadow
            && shadow.files.is_none()
        {
            shadow.files = Some(Box::new((self.dir.control.clone(), self.dir.pages.clone())));
        }
    }

    /// From here on the log grows: what a disk that lies says to have of it, it may not have.
    pub(super) fn begin_shadow(&mut self, timeline: Timeline, end: Lsn) {
        if let Some(shadow) = self.shadow
            && shadow.end == NOTHING
        {
            (shadow.timeline, shadow.end) = (timeline, end);
        }
    }

    /// Writes a record into the log's buffers.
    pub(super) fn append(&mut self, kind: Kind) -> Record {
        let log = &mut self.run.log;
        let record = self.dir.wal.append(log.last.as_ref(), log.written, log.timeline, kind);
        log.last = Some(record);
        self.run.pages.apply(kind);
        let lazy = self.now.plus(LAZY.least);
        log.lazy_at.get_or_insert(lazy);
        record
    }

    /// Has the log flushed up to `upto`.
    pub(super) fn want_flush(&mut self, upto: Lsn) {
        let log = &mut self.run.log;
        log.wanted = log.wanted.max(upto);
        if log.flush.is_some() || log.wanted <= log.flushed {
            return;
        }
        let upto = log.inserted();
        log.written = upto;
        log.lazy_at = None;
        let takes = self.env.dice.within(self.env.pace.fsync) + self.env.disk.slower;
        let at = (!self.env.disk.hung).then(|| self.now.plus(takes));
        self.run.log.flush = Some(Flush { upto, at });
    }

    fn step_flush(&mut self) -> Result<bool, String> {
        let now = self.now;
        let log = &mut self.run.log;
        let lazy = !self.stopped.walwriter && self.run.startup.is_none();
        if lazy && log.lazy_at.is_some_and(|at| at <= now) {
            log.lazy_at = None;
            let upto = log.inserted();
            self.want_flush(upto);
            return Ok(true);
        }
        let Some(Flush { upto, at: Some(at) }) = log.flush else { return Ok(false) };
        // On a standby it is the walreceiver that flushes.
        if at > now || (self.stopped.receiver && self.run.receiver.is_some()) {
            return Ok(false);
        }
        if let Some(why) = self.env.disk.refuses() {
            // What was not flushed may be gone: it does not try again (`data_sync_retry`).
            return Err(format!("PANIC: {why}"));
        }
        log.flush = None;
        log.flushed = log.flushed.max(upto);
        let wanted = log.wanted;
        self.sessions_flushed();
        self.receiver_flushed(upto);
        self.want_flush(wanted);
        Ok(true)
    }

    fn step_postmaster(&mut self) -> Result<bool, String> {
        let now = self.now;
        if let Phase::Starting { until } = self.run.phase
            && until <= now
        {
            self.run.phase = Phase::Recovering;
            self.begin_recovery()?;
            return Ok(true);
        }
        if self.run.postmaster.reload_at.is_some_and(|at| at <= now) {
            self.reload_all();
            return Ok(true);
        }
        Ok(false)
    }

    /// The postmaster reads the files, and has every process read them in its own time.
    fn reload_all(&mut self) {
        let (now, span) = (self.now, self.env.pace.reload);
        let postmaster = &mut self.run.postmaster;
        postmaster.reload_at = None;
        postmaster.loaded_at = now;
        postmaster.conf = Arc::new(self.dir.conf.clone());
        let dice = &mut self.env.dice;
        let mut at = || Some(now.plus(dice.within(span)));
        self.run.checkpointer.reload_at = at();
        if let Some(startup) = &mut self.run.startup {
            startup.conf_reload_at = at();
        }
        self.run.senders.values_mut().for_each(|s| s.reload_at = at());
        self.run.sessions.values_mut().for_each(|s| s.reload_at = at());
    }

    /// Lets every process do what is due. An error ends the server.
    pub(super) fn step(&mut self) -> Result<bool, String> {
        let mut did = false;
        if !self.stopped.postmaster && self.run.postmaster.alive {
            did |= self.step_postmaster()?;
        }
        did |= self.step_flush()?;
        did |= self.step_startup()?;
        if !self.stopped.receiver {
            did |= self.step_receiver();
        }
        let pids: Vec<Pid> = self.run.senders.keys().copied().collect();
        for pid in pids {
            did |= self.step_sender(pid);
        }
        let pids: Vec<Pid> = self.run.sessions.keys().copied().collect();
        for pid in pids {
            did |= self.step_session(pid);
        }
        if !self.stopped.checkpointer {
            did |= self.step_checkpointer();
        }
        Ok(did)
    }
}

impl Server {
    /// A server without a data directory. `number` is its own in the world; `seed` decides what is
    /// random about it.
    pub fn new(number: u32, seed: u64) -> Self {
        let env = Env::new(number, seed);
        let (stopped, inbox) = (Stopped::default(), VecDeque::new());
        Self { env, dir: None, run: None, stopped, inbox, shadow: None }
    }

    /// The data directory.
    pub fn dir(&self) -> Option<&DataDir> {
        self.dir.as_ref()
    }

    /// The data directory, to be changed by hand. Not while it runs, but for settings and files.
    pub fn dir_mut(&mut self) -> Option<&mut DataDir> {
        self.dir.as_mut()
    }

    /// Replaces the data directory; the server must not run.
    pub fn set_dir(&mut self, dir: Option<DataDir>) -> Option<DataDir> {
        self.shadow = None;
        std::mem::replace(&mut self.dir, dir)
    }

    /// The processes, while it runs.
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Its number, pace, disk.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The same, to be changed. For the disk use [`Server::set_disk`].
    pub fn env_mut(&mut self) -> &mut Env {
        &mut self.env
    }

    /// What it has told since the last time.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.env.out)
    }

    /// What of it is stopped.
    pub fn stopped(&self) -> Stopped {
        self.stopped
    }

    /// Stops processes with SIGSTOP, or lets them go on.
    pub fn set_stopped(&mut self, now: BootTime, stopped: Stopped) {
        if self.run.is_none() {
            return;
        }
        self.stopped = stopped;
        if !stopped.receiver {
            self.with(now, |live| {
                if live.run.receiver.as_ref().is_some_and(|r| r.told_to_end) {
                    live.end_receiver(true);
                }
            });
        }
        // What still finds nobody who reads it goes back to the end, in the same order.
        for (conn, wire) in std::mem::take(&mut self.inbox) {
            match wire {
                Some(wire) => self.receive(now, conn, wire),
                None => self.closed(now, conn),
            }
        }
        self.tick(now);
    }

    /// Changes how the disk behaves.
    pub fn set_disk(&mut self, now: BootTime, disk: Disk) {
        let before = std::mem::replace(&mut self.env.disk, disk);
        if disk.lies && !before.lies {
            let (timeline, end) = match (&self.run, &self.dir) {
                (Some(run), _) => (run.log.timeline, run.log.flushed),
                (None, _) => (Timeline(u32::MAX), NOTHING),
            };
            self.shadow = Some(Shadow { timeline, end, files: None });
        } else if !disk.lies {
            self.shadow = None;
        }
        let takes = self.env.dice.within(self.env.pace.fsync);
        if let Some(flush) = self.run.as_mut().and_then(|r| r.log.flush.as_mut()) {
            flush.at = (!disk.hung).then(|| flush.at.unwrap_or(now.plus(takes)));
        }
    }

    pub(super) fn live(&mut self, now: BootTime) -> Option<Live<'_>> {
        let stopped = self.stopped;
        let Self { env, dir, run, shadow, .. } = self;
        Some(Live { now, env, dir: dir.as_mut()?, run: run.as_mut()?, stopped, shadow })
    }

    /// Starts the postmaster, with the settings that are in the files.
    ///
    /// # Errors
    /// Why it ends at once, as its log would say.
    pub fn start(&mut self, now: BootTime, started_us: i64) -> Result<(), String> {
        if self.run.is_some() {
            return Err("FATAL: pre-existing shared memory block is still in use".to_owned());
        }
        let Some(dir) = &mut self.dir else {
            return Err("FATAL: there is no data directory".to_owned());
        };
        for slot in dir.slots.values_mut() {
            slot.restart = slot.saved;
        }
        let conf = Arc::new(dir.conf.clone());
        let until = self.env.after(now, self.env.pace.start);
        let until = self.env.after(until, self.env.pace.recover);
        let log = LogEnd {
            timeline: dir.control.timeline,
            last: None,
            written: Lsn(0),
            flushed: Lsn(0),
            known: false,
            wanted: Lsn(0),
            flush: None,
            lazy_at: None,
        };
        let checkpointer = Checkpointer {
            conf: conf.clone(),
            reload_at: None,
            doing: None,
            waiting: Vec::new(),
            next_at: now.plus(conf.checkpoint_timeout),
        };
        let postmaster = Postmaster {
            alive: true,
            conf: conf.clone(),
            started_us,
            loaded_at: now,
            reload_at: None,
        };
        self.run = Some(Run {
            postmaster,
            phase: Phase::Starting { until },
            log,
            pages: Pages::default(),
            hidden: BTreeMap::new(),
            startup: None,
            startup_ended: false,
            receiver: None,
            senders: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sync: SyncRep::default(),
            received: None,
            upstream: conf.primary.clone(),
            end_of_timeline: false,
            checkpointer,
            orphan_ends: None,
        });
        if let Some(mut live) = self.live(now) {
            live.define_sync();
        }
        Ok(())
    }

    /// When something is due next, if nothing happens before.
    pub fn due(&self) -> Option<BootTime> {
        let run = self.run.as_ref()?;
        if self.stopped.all {
            return None;
        }
        let postmaster = run.postmaster.alive && !self.stopped.postmaster;
        let starting = match run.phase {
            Phase::Starting { until } if postmaster => Some(until),
            _ => None,
        };
        // A server that stops replays nothing any more, nor one whose startup process has ended.
        let stops = matches!(run.phase, Phase::Stopping(_)) || run.startup_ended;
        let primary = run.startup.is_none();
        // The rest waits for sessions and walsenders to end.
        let alone = run.sessions.is_empty() && run.senders.is_empty();
        let held = self.stopped.receiver && run.receiver.is_some();
        let awaits = run.receiver.as_ref().is_some_and(|r| r.told_to_end);
        let mut times = vec![
            starting,
            run.postmaster.reload_at.filter(|_| postmaster),
            run.log.flush.and_then(|f| f.at).filter(|_| !held),
            run.log.lazy_at.filter(|_| primary && !self.stopped.walwriter),
            run.startup.as_ref().filter(|_| !awaits && !stops).and_then(Startup::due),
            run.receiver.as_ref().filter(|_| !self.stopped.receiver).map(Receiver::due),
            run.orphan_ends.filter(|_| alone && !self.holds_memory()),
        ];
        if !self.stopped.checkpointer {
            times.push(run.checkpointer.due());
        }
        times.extend(run.senders.values().map(Sender::due));
        times.extend(run.sessions.values().map(Session::due));
        times.into_iter().flatten().min()
    }

    /// Does everything that is due at `now`.
    pub fn tick(&mut self, now: BootTime) {
        while !self.stopped.all {
            let Some(mut live) = self.live(now) else { return };
            let did = match live.step() {
                Ok(did) => did,
                Err(why) => {
                    self.end(&why, false);
                    return;
                }
            };
            if !self.step_stop(now) && !did {
                return;
            }
        }
    }

    /// Something happens to the running server; then it does what follows from that.
    pub(super) fn with<T>(
        &mut self,
        now: BootTime,
        act: impl FnOnce(&mut Live<'_>) -> T,
    ) -> Option<T> {
        let done = self.live(now).map(|mut live| act(&mut live));
        self.tick(now);
        done
    }

    /// Every process is gone at once. What the log had in its buffers is lost. `silent` is whether
    /// nobody is told, since the machine itself is gone.
    pub(super) fn end(&mut self, how: &str, silent: bool) {
        let Some(run) = self.run.take() else { return };
        self.stopped = Stopped::default();
        self.inbox.clear();
        if let Some(dir) = &mut self.dir {
            if run.startup.is_none() && run.log.known {
                dir.wal.cut(run.log.timeline, run.log.written);
            }
            dir.slots.retain(|_, slot| !slot.temporary);
            dir.slots.values_mut().for_each(|slot| slot.active = None);
        }
        for (pid, session) in &run.sessions {
            if let Some(ticket) = session.ticket() {
                self.env.answer(ticket, Outcome::Lost);
            }
            self.env.out.push(Event::SessionEnded { session: *pid });
        }
        for ticket in run.checkpointer.tickets() {
            self.env.answer(ticket, Outcome::Lost);
        }
        if let Some(ticket) = run.startup.as_ref().and_then(|s| s.promoted) {
            self.env.answer(ticket, Outcome::Lost);
        }
        if !silent {
            let receiver = run.receiver.iter().map(|r| r.conn);
            for conn in run.senders.values().map(|s| s.conn).chain(receiver) {
                self.env.out.push(Event::Close { conn });
            }
        }
        if run.postmaster.alive {
            self.env.out.push(Event::Ended { how: how.to_owned() });
        }
        self.env.out.push(Event::Empty);
    }
}
