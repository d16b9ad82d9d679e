//! Walsenders: one for each replication connection (PostgreSQL's walsender.c).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::{Conn, Pid};
use super::conf::Settings;
use super::server::{Live, Phase};
use super::stream::{Hello, Start, Wire};
use super::syncrep;

/// What a walsender does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderState {
    /// It has not been told what to send.
    Startup,
    /// It sends what was written before.
    Catchup,
    /// It has sent everything at least once, and goes on.
    Streaming,
    /// The server stops: it sends the rest.
    Stopping,
}

/// A walsender.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Its connection.
    pub conn: Conn,
    /// What the other side calls itself. It proves nothing.
    pub name: String,
    /// The slot that it holds.
    pub slot: Option<String>,
    /// What it does.
    pub state: SenderState,
    /// When it was begun.
    pub begun: BootTime,
    /// The settings as it has read them last.
    pub conf: Arc<Settings>,
    /// Its priority as a synchronous standby, published for the others to see.
    pub priority: u32,
    /// Sent to here.
    pub sent: Lsn,
    /// Written there to here.
    pub write: Lsn,
    /// Flushed there to here.
    pub flush: Lsn,
    /// Applied there to here.
    pub apply: Lsn,
    /// Whether it does nothing at all: it reads neither settings nor confirmations, and what it has
    /// published stays.
    pub stuck: bool,
    pub(super) reload_at: Option<BootTime>,
    pub(super) orphan_ends: Option<BootTime>,
    timeline: Timeline,
    /// Where the timeline ends that it sends, and the next one.
    historic: Option<(Lsn, Timeline)>,
    cascading: bool,
    greeted: bool,
    done: bool,
    ended: bool,
    lost: bool,
    heard: BootTime,
    asked: bool,
    inbox: VecDeque<Wire>,
}

impl Sender {
    pub(super) fn due(&self) -> Option<BootTime> {
        if self.stuck {
            return None;
        }
        let timeout = self.conf.sender_timeout;
        let patience = if self.asked { timeout } else { timeout / 2 };
        let silent = (!timeout.is_zero()).then(|| self.heard.plus(patience));
        [self.reload_at, self.orphan_ends, silent].into_iter().flatten().min()
    }
}

impl Live<'_> {
    /// The timeline that is sent, and how far it can be (`GetFlushRecPtr`, `GetStandbyFlushRecPtr`).
    fn sendable(&self) -> (Timeline, Lsn) {
        match &self.run.startup {
            Some(startup) => {
                let received = self.run.log.timeline == startup.replay_timeline;
                let flushed = if received { self.run.log.flushed } else { Lsn(0) };
                (startup.replay_timeline, startup.replay.max(flushed))
            }
            None => (self.run.log.timeline, self.run.log.flushed),
        }
    }

    /// Somebody wants to be sent WAL.
    pub(super) fn accept(&mut self, conn: Conn, hello: &Hello) {
        let why = match &self.run.phase {
            Phase::Starting { .. } | Phase::Recovering => {
                Some("the database system is starting up")
            }
            Phase::Stopping(_) => Some("the database system is shutting down"),
            Phase::Standby | Phase::Primary => None,
        };
        if let Some(why) = why {
            return self.refuse(conn, why.to_owned());
        }
        let (timeline, _) = self.sendable();
        let mut histories = Vec::new();
        for number in hello.timeline.0.max(2)..=timeline.0 {
            let number = Timeline(number);
            if hello.has.contains(&number) {
                continue;
            }
            match self.dir.histories.file(number) {
                Some(history) => histories.push(history.clone()),
                None => {
                    let why = format!("could not open file \"{:08X}.history\"", number.0);
                    return self.refuse(conn, why);
                }
            }
        }
        let cascading = self.run.startup.is_some();
        let conf = self.run.postmaster.conf.clone();
        let names = conf.synchronous.as_ref().filter(|_| !cascading);
        let sender = Sender {
            conn,
            name: hello.name.clone(),
            slot: None,
            state: SenderState::Startup,
            begun: self.now,
            priority: names.map_or(0, |n| n.priority(&hello.name)),
            conf,
            sent: Lsn(0),
            write: Lsn(0),
            flush: Lsn(0),
            apply: Lsn(0),
            stuck: false,
            reload_at: None,
            orphan_ends: None,
            timeline: hello.timeline,
            historic: None,
            cascading,
            greeted: false,
            done: false,
            ended: false,
            lost: false,
            heard: self.now,
            asked: false,
            inbox: VecDeque::new(),
        };
        let pid = self.env.pid();
        self.run.senders.insert(pid, sender);
        let system_id = self.dir.control.system_id;
        self.env.send(conn, Wire::Welcome { system_id, timeline, histories });
    }

    pub(super) fn refuse(&mut self, conn: Conn, why: String) {
        self.env.send(conn, Wire::Refused { why });
        self.env.out.push(super::base::Event::Close { conn });
    }

    /// Puts what came into the walsender's socket.
    pub(super) fn sender_hears(&mut self, pid: Pid, wire: Wire) {
        if let Some(sender) = self.run.senders.get_mut(&pid) {
            sender.inbox.push_back(wire);
        }
    }

    /// Ends a walsender. `tell` is whether the other side has yet to hear of it.
    pub(super) fn drop_sender(&mut self, pid: Pid, tell: bool) {
        let Some(sender) = self.run.senders.remove(&pid) else { return };
        if let Some(name) = sender.slot {
            let slot = self.dir.slots.get_mut(&name).filter(|s| s.active == Some(pid));
            if slot.map(|s| (s.active = None, s.temporary).1) == Some(true) {
                self.dir.slots.remove(&name);
            }
        }
        if tell {
            self.env.out.push(super::base::Event::Close { conn: sender.conn });
        }
    }

    /// Its connection is gone. One that is stopped finds out when it goes on.
    pub(super) fn sender_loses(&mut self, pid: Pid) {
        match self.run.senders.get_mut(&pid) {
            Some(sender) if sender.stuck => sender.lost = true,
            _ => self.drop_sender(pid, false),
        }
    }

    /// `pg_terminate_backend` of a walsender.
    pub(super) fn terminate_sender(&mut self, pid: Pid) -> bool {
        match self.run.senders.get_mut(&pid) {
            Some(sender) => {
                sender.ended = true;
                true
            }
            None => false,
        }
    }

    /// Lets a walsender do what it can do now. Returns whether it did anything.
    pub(super) fn step_sender(&mut self, pid: Pid) -> bool {
        let now = self.now;
        let Some(sender) = self.run.senders.get_mut(&pid) else { return false };
        if sender.stuck {
            return false;
        }
        if sender.lost {
            self.drop_sender(pid, false);
            return true;
        }
        if sender.ended || sender.orphan_ends.is_some_and(|at| at <= now) {
            self.drop_sender(pid, true);
            return true;
        }
        if sender.reload_at.is_some_and(|at| at <= now) {
            sender.reload_at = None;
            sender.conf = self.run.postmaster.conf.clone();
            let names = sender.conf.synchronous.as_ref().filter(|_| !sender.cascading);
            sender.priority = names.map_or(0, |n| n.priority(&sender.name));
            return true;
        }
        if let Some(wire) = sender.inbox.pop_front() {
            (sender.heard, sender.asked) = (now, false);
            self.sender_handles(pid, wire);
            return true;
        }
        if sender.due().is_some_and(|at| at <= now) {
            if sender.asked {
                self.env.say(format!("a walsender for {} ends: no answer", sender.name));
                self.drop_sender(pid, true);
                return true;
            }
            sender.asked = true;
            let conn = sender.conn;
            let (_, end) = self.sendable();
            self.env.send(conn, Wire::Keepalive { end, reply: true });
            return true;
        }
        self.pump(pid)
    }

    fn sender_handles(&mut self, pid: Pid, wire: Wire) {
        let Some(sender) = self.run.senders.get_mut(&pid) else { return };
        match wire {
            Wire::Start(start) => {
                if let Err(why) = self.begin_sending(pid, &start)
                    && let Some(conn) = self.run.senders.get(&pid).map(|s| s.conn)
                {
                    self.drop_sender(pid, false);
                    self.refuse(conn, why);
                }
            }
            Wire::Reply { write, flush, apply, reply } => {
                (sender.write, sender.flush, sender.apply) = (write, flush, apply);
                let (conn, cascading) = (sender.conn, sender.cascading);
                if let Some(slot) = sender.slot.as_ref().and_then(|s| self.dir.slots.get_mut(s)) {
                    slot.restart = Some(flush);
                }
                if reply {
                    let (_, end) = self.sendable();
                    self.env.send(conn, Wire::Keepalive { end, reply: false });
                }
                if !cascading {
                    let run = &mut *self.run;
                    for session in syncrep::release(&mut run.sync, pid, &run.senders) {
                        self.released(session);
                    }
                }
            }
            Wire::Welcome { .. }
            | Wire::Refused { .. }
            | Wire::Wal { .. }
            | Wire::EndOfTimeline { .. }
            | Wire::Keepalive { .. } => {}
        }
    }

    /// `START_REPLICATION` (`StartReplication`). What is asked for is compared by positions that
    /// were rounded down to the beginning of a segment, and by the number of the timeline alone:
    /// who wrote it is not looked at.
    fn begin_sending(&mut self, pid: Pid, start: &Start) -> Result<(), String> {
        let (current, flushed) = self.sendable();
        let Some(sender) = self.run.senders.get_mut(&pid) else { return Ok(()) };
        if let Some(name) = &start.slot {
            let Some(slot) = self.dir.slots.get_mut(name) else {
                return Err(format!("replication slot \"{name}\" does not exist"));
            };
            if let Some(holder) = slot.active.filter(|holder| *holder != pid) {
                return Err(format!("replication slot \"{name}\" is active for PID {holder}"));
            }
            slot.active = Some(pid);
            slot.holds_xmin |= start.feedback;
            sender.slot = Some(name.clone());
        }
        let history = self.dir.histories.of(current);
        let mut historic = None;
        if start.timeline != current {
            let Some((switch, next)) = history.switch_point(start.timeline) else {
                let timeline = start.timeline;
                return Err(format!(
                    "requested timeline {timeline} is not in this server's history"
                ));
            };
            if switch < start.from {
                return Err(format!(
                    "requested starting point {} on timeline {} is not in this server's history",
                    start.from, start.timeline
                ));
            }
            historic = Some((switch, next));
        }
        if historic.is_none() && flushed < start.from {
            return Err(format!(
                "requested starting point {} is ahead of the WAL flush position of this server {}",
                start.from, flushed
            ));
        }
        if start.from < self.dir.wal.oldest() {
            return Err("requested WAL segment has already been removed".to_owned());
        }
        let own = self.dir.histories.of(start.timeline);
        let same = |(lsn, chain): &(Lsn, u64)| {
            let owner = own.timeline_of(Lsn(lsn.0.saturating_sub(1)));
            let record = self.dir.wal.log(owner).and_then(|log| log.ending_at(*lsn));
            *lsn >= start.from && record.is_some_and(|r| r.chain == *chain)
        };
        sender.sent = start.have.filter(same).map_or(start.from, |(lsn, _)| lsn);
        sender.timeline = start.timeline;
        sender.historic = historic;
        sender.state = SenderState::Catchup;
        Ok(())
    }

    /// Sends what there is to send.
    fn pump(&mut self, pid: Pid) -> bool {
        let (current, flushed) = self.sendable();
        let stopping = matches!(self.run.phase, Phase::Stopping(_));
        let Some(sender) = self.run.senders.get_mut(&pid) else { return false };
        if sender.state == SenderState::Startup || sender.done {
            return false;
        }
        if sender.historic.is_none() && sender.timeline != current {
            // It sent the end of a timeline that its own server has left.
            let Some(left) = self.dir.histories.of(current).switch_point(sender.timeline) else {
                self.drop_sender(pid, true);
                return true;
            };
            sender.historic = Some(left);
        }
        let upto = sender.historic.map_or(flushed, |(switch, _)| switch);
        let mut did = false;
        if sender.sent < upto || !sender.greeted {
            sender.greeted = true;
            did = true;
            if sender.sent < self.dir.wal.oldest() {
                let conn = sender.conn;
                self.drop_sender(pid, false);
                self.refuse(conn, "requested WAL segment has already been removed".to_owned());
                return true;
            }
            let history = self.dir.histories.of(sender.timeline);
            let records = self.dir.wal.along(&history, sender.sent, upto);
            sender.sent = sender.sent.max(upto);
            let wire = Wire::Wal { records, upto: sender.sent, end: flushed };
            self.env.send(sender.conn, wire);
        }
        if sender.sent >= upto {
            if sender.state == SenderState::Catchup {
                sender.state = SenderState::Streaming;
                did = true;
            }
            if let Some((at, next)) = sender.historic {
                sender.done = true;
                did = true;
                self.env.send(sender.conn, Wire::EndOfTimeline { at, next });
            }
        }
        if stopping && sender.state == SenderState::Streaming {
            sender.state = SenderState::Stopping;
            did = true;
        }
        did
    }

    /// Whether a walsender has nothing more to do for a server that stops: all is sent and
    /// confirmed (`WalSndDone`).
    pub(super) fn is_drained(&self, sender: &Sender) -> bool {
        let (_, flushed) = self.sendable();
        if sender.state == SenderState::Startup || sender.done {
            return true;
        }
        let confirmed = if sender.flush > Lsn(0) { sender.flush } else { sender.write };
        !sender.stuck && sender.sent >= flushed && confirmed == sender.sent
    }
}
