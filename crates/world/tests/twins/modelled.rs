//! Servers of the model, in their laboratory: a network that takes no time.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use quorate_world::domain::types::{self, Timeline};
use quorate_world::pg::sender::SenderState;
use quorate_world::pg::session::Doing;
use quorate_world::pg::stop::Mode;
use quorate_world::pg::view::Status;
use quorate_world::pg::wal::SEGMENT;
use quorate_world::pg::{self, DataDir, Lab, Level, Server, SyncNames, Ticket};

use crate::servers::{Commit, Control, Lsn, Name, Outcome, Play, Process, Rewound};
use crate::servers::{Sender, Servers, Slot, Write};

/// What a time-out is set to where nothing is to time out.
const NEVER: Duration = Duration::from_secs(86_400);

/// Servers of the model.
pub struct Modelled {
    lab: Lab,
    /// What `initdb` made: every server descends from it.
    template: DataDir,
    writes: Vec<Statement>,
}

/// A write, with its session.
struct Statement {
    client: pg::lab::Client,
    row: u64,
    ticket: Option<Ticket>,
}

impl Modelled {
    /// No server yet.
    pub fn new() -> Self {
        let mut lab = Lab::new();
        lab.initdb("template");
        let mut template = lab.server_mut("template").set_dir(None).expect("a directory");
        template.conf.sender_timeout = NEVER;
        template.conf.receiver_timeout = NEVER;
        Self { lab, template, writes: Vec::new() }
    }

    fn add(&mut self, name: Name) {
        self.lab.add(name);
        self.lab.server_mut(name).set_dir(Some(self.template.clone()));
    }

    fn status(&self, name: Name) -> Status {
        self.lab.status(name).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Changes a server past the lab.
    fn with<T>(&mut self, name: Name, act: impl FnOnce(&mut Server, types::BootTime) -> T) -> T {
        let now = self.lab.now();
        let done = act(self.lab.server_mut(name), now);
        self.lab.settle();
        done
    }

    fn freeze_one(&mut self, name: Name, process: Process, frozen: bool) {
        let mut stopped = self.lab.server(name).stopped();
        match process {
            Process::Sender(id) => {
                return self.with(name, |server, now| server.freeze(now, id as u64, frozen));
            }
            Process::Backend(write) => {
                let pid = self.writes[write.0].client.session;
                return self.with(name, |server, now| server.freeze(now, pid, frozen));
            }
            Process::Receiver => stopped.receiver = frozen,
            Process::Flusher => stopped.walwriter = frozen,
            Process::Checkpointer => stopped.checkpointer = frozen,
            Process::Postmaster => stopped.postmaster = frozen,
        }
        self.lab.set_stopped(name, stopped);
    }
}

impl Servers for Modelled {
    fn primary(&mut self, name: Name) {
        self.add(name);
        self.start(name).unwrap();
    }

    fn standby(&mut self, name: Name, of: Name) {
        self.add(name);
        self.follow(name, Some(of));
        self.start(name).unwrap();
    }

    fn start(&mut self, name: Name) -> Result<(), String> {
        let standby = self.lab.dir(name).standby_signal;
        self.lab.start(name, standby)?;
        self.until("the server starts or ends", |s| {
            if !s.runs(name) {
                return Some(Err(s.lab.said().join("\n")));
            }
            s.accepts(name).then_some(Ok(()))
        })
    }

    fn launch(&mut self, name: Name) {
        let standby = self.lab.dir(name).standby_signal;
        self.lab.start(name, standby).unwrap();
    }

    fn runs(&mut self, name: Name) -> bool {
        self.lab.server(name).run().is_some_and(|run| run.postmaster.alive)
    }

    fn connects(&mut self, name: Name) -> bool {
        self.lab.connect(name).is_ok()
    }

    fn accepts(&mut self, name: Name) -> bool {
        self.runs(name) && self.lab.rows(name).is_ok()
    }

    fn has_processes(&mut self, name: Name) -> bool {
        self.lab.is_running(name)
    }

    fn stop(&mut self, name: Name) {
        self.lab.stop(name, Mode::Fast);
    }

    fn kill(&mut self, name: Name) {
        self.lab.kill_all(name);
    }

    fn behead(&mut self, name: Name) {
        self.lab.kill_postmaster(name);
    }

    fn murder(&mut self, name: Name, _process: Process) {
        self.lab.crash_backend(name);
    }

    fn set_restart_after_crash(&mut self, name: Name, on: bool) {
        self.lab.configure(name, |conf| conf.restart_after_crash = on);
    }

    fn keep_no_wal(&mut self, name: Name) {
        self.lab.configure(name, |conf| conf.wal_keep = 0);
    }

    fn freeze(&mut self, name: Name, process: Process) {
        self.freeze_one(name, process, true);
    }

    fn thaw(&mut self, name: Name, process: Process) {
        self.freeze_one(name, process, false);
    }

    fn end(&mut self, name: Name, process: Process) {
        let pid = match process {
            Process::Sender(id) => id as u64,
            Process::Backend(write) => self.writes[write.0].client.session,
            _ => panic!("the model does not end {process:?} alone"),
        };
        self.with(name, |server, now| assert!(server.terminate(now, pid)));
    }

    fn follow(&mut self, name: Name, of: Option<Name>) {
        if !self.runs(name) {
            self.lab.server_mut(name).dir_mut().expect("a directory").standby_signal = true;
        }
        match of {
            Some(of) => {
                let slot = self.lab.dir(of).slots.contains_key(name);
                self.lab.follow(name, of, slot.then_some(name));
            }
            None => self.lab.unfollow(name),
        }
    }

    fn backup(&mut self, name: Name, of: Name) -> Lsn {
        self.add(name);
        self.lab.copy(name, of).unwrap();
        self.follow(name, None);
        self.status(of).flushed.0
    }

    fn ask_promotion(&mut self, name: Name) {
        self.with(name, |server, now| server.signal_promotion(now, None).unwrap());
    }

    fn promote(&mut self, name: Name) -> u32 {
        self.with(name, |server, now| server.promote(now, None).unwrap());
        self.await_that("the standby is a primary", |s| !s.in_recovery(name));
        self.status(name).timeline.0
    }

    fn set_names(&mut self, name: Name, names: &str) {
        self.lab.synchronous(name, parse_names(names));
    }

    fn set_names_later(&mut self, name: Name, names: &str) {
        self.set_names(name, names);
    }

    fn pause_replay(&mut self, name: Name) {
        self.lab.pause_replay(name, true);
    }

    fn resume_replay(&mut self, name: Name) {
        self.lab.pause_replay(name, false);
    }

    fn use_slot(&mut self, standby: Name, of: Name) {
        self.lab.create_slot(of, standby).unwrap();
        self.lab.follow(standby, of, Some(standby));
    }

    fn slot(&mut self, name: Name, standby: Name) -> Slot {
        let slot = self.lab.slot(name, standby).expect("a slot");
        Slot { user: slot.active.map(|pid| pid as i64), restart: slot.restart.map(|lsn| lsn.0) }
    }

    fn senders(&mut self, name: Name) -> Vec<Sender> {
        let position = |lsn: types::Lsn| (lsn.0 > 0).then_some(lsn.0);
        let senders = self.status(name).walsenders.into_iter();
        senders
            .map(|s| Sender {
                id: s.pid as i64,
                standby: s.name,
                flushed: position(s.flush),
                replayed: position(s.apply),
                sent: position(s.sent),
                listed: s.priority > 0,
                streaming: s.state == SenderState::Streaming,
            })
            .collect()
    }

    fn receives(&mut self, name: Name) -> bool {
        self.status(name).has_receiver
    }

    fn flushed(&mut self, name: Name) -> Option<Lsn> {
        let status = self.status(name);
        if status.in_recovery { status.receive.map(|lsn| lsn.0) } else { Some(status.flushed.0) }
    }

    fn inserted(&mut self, name: Name) -> Lsn {
        self.lab.server(name).run().expect("a running server").log.inserted().0
    }

    fn replayed(&mut self, name: Name) -> Lsn {
        self.status(name).replay.0
    }

    fn in_recovery(&mut self, name: Name) -> bool {
        self.status(name).in_recovery
    }

    fn checkpoint(&mut self, name: Name) {
        assert!(self.lab.checkpoint(name));
    }

    fn checkpoint_timeline(&mut self, name: Name) -> u32 {
        self.lab.control(name).timeline.0
    }

    fn control(&mut self, name: Name) -> Control {
        let control = self.lab.control(name);
        Control {
            timeline: control.timeline.0,
            checkpoint: control.checkpoint.0,
            shut_down: control.is_clean(),
        }
    }

    fn tear(&mut self, name: Name, from: Lsn, to: Option<Lsn>) {
        let dir = self.lab.server_mut(name).dir_mut().expect("a directory");
        let newest = dir.wal.logs().filter(|(_, log)| log.end().is_some_and(|end| end.0 > from));
        let timeline = newest.map(|(timeline, _)| timeline).max().expect("WAL behind it");
        dir.wal.tear(timeline, types::Lsn(from), types::Lsn(to.unwrap_or(Lsn::MAX)));
    }

    fn histories(&mut self, name: Name) -> BTreeSet<u32> {
        self.lab.dir(name).histories.iter().map(|h| h.timeline.0).collect()
    }

    fn place_history(&mut self, name: Name, timeline: u32, fork: Lsn) {
        let history = pg::History::root(Timeline(1)).child(Timeline(timeline), types::Lsn(fork));
        self.lab.write_history(name, history);
    }

    fn rewind(&mut self, name: Name, source: Name) -> Rewound {
        if !self.lab.control(name).is_clean() {
            self.lab.recover_alone(name).unwrap();
        }
        match self.lab.rewind(name, source).unwrap() {
            pg::Rewound::Done { .. } => Rewound::Done,
            pg::Rewound::NotRequired => Rewound::NotRequired,
            pg::Rewound::Refused(why) => Rewound::Failed(why),
        }
    }

    fn rewind_halfway(&mut self, name: Name, source: Name) {
        let source = self.lab.server(source).rewind_source().unwrap();
        let dir = self.lab.server_mut(name).dir_mut().expect("a directory");
        pg::tools::rewind_halfway(dir, &source);
    }

    fn prepare(&mut self, name: Name, row: i64, commit: Commit) -> Write {
        let client = self.lab.connect(name).unwrap();
        let level = match commit {
            Commit::On => Level::On,
            Commit::Local => Level::Local,
            Commit::Off => Level::Off,
        };
        self.lab.level(&client, level).unwrap();
        self.writes.push(Statement { client, row: row as u64, ticket: None });
        Write(self.writes.len() - 1)
    }

    fn override_read_only(&mut self, write: Write) {
        self.lab.read_only(&self.writes[write.0].client, false).unwrap();
    }

    fn send(&mut self, write: Write) {
        let statement = &mut self.writes[write.0];
        statement.ticket = Some(self.lab.send(&statement.client, statement.row));
    }

    fn fill(&mut self, name: Name, rows: Range<i64>) {
        let client = self.lab.connect(name).unwrap();
        self.lab.level(&client, Level::Local).unwrap();
        let bytes = (rows.end - rows.start) as u64 * (SEGMENT / 900);
        for row in rows {
            self.lab.insert(&client, row as u64).unwrap();
        }
        self.with(name, |server, now| server.bulk(now, bytes));
        let ticket = self.lab.commit(&client).unwrap();
        assert_eq!(self.lab.outcome(ticket), Some(pg::Outcome::Acknowledged));
    }

    fn set_read_only(&mut self, name: Name, on: bool) {
        self.lab.configure(name, |conf| conf.read_only = on);
    }

    fn outcome(&mut self, write: Write) -> Option<Outcome> {
        let statement = &self.writes[write.0];
        let outcome = self.lab.outcome(statement.ticket?)?;
        Some(match outcome {
            pg::Outcome::Acknowledged => Outcome::Acknowledged,
            pg::Outcome::AckedWithWarning => Outcome::Warned,
            pg::Outcome::Refused(_) => Outcome::Refused,
            pg::Outcome::Lost => Outcome::Lost,
        })
    }

    fn waits(&mut self, write: Write) -> bool {
        let client = &self.writes[write.0].client;
        let run = self.lab.server(&client.server).run();
        let session = run.and_then(|run| run.sessions.get(&client.session));
        session.is_some_and(|s| matches!(s.doing, Doing::Waiting { .. }))
    }

    fn cancel(&mut self, write: Write) {
        self.lab.cancel(&self.writes[write.0].client);
    }

    fn rows(&mut self, name: Name) -> BTreeSet<i64> {
        let rows = self.lab.rows(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        rows.into_iter().map(|row| row as i64).collect()
    }

    fn nudge(&mut self, name: Name) {
        self.lab.emit_local(name).unwrap();
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.lab.now().as_nanos())
    }

    fn pass(&mut self) {
        self.lab.advance(Duration::from_millis(5));
    }
}

/// Reads `ANY 2 (b, c)`; nothing is nobody.
fn parse_names(text: &str) -> Option<SyncNames> {
    let (method, rest) = text.split_once(' ')?;
    let (count, names) = rest.split_once(" (").expect("a list");
    let names = names.trim_end_matches(')').split(", ");
    let count = count.parse().expect("a number");
    Some(match method {
        "ANY" => SyncNames::any(count, names),
        "FIRST" => SyncNames::first(count, names),
        _ => panic!("no method: {method}"),
    })
}

impl Drop for Modelled {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what was said\n{}", self.lab.said().join("\n"));
        }
    }
}
