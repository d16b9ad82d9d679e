//! The walreceiver of a standby (PostgreSQL's walreceiver.c).

use std::sync::Arc;
use std::time::Duration;

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::{Conn, Event};
use super::conf::{Settings, Upstream};
use super::server::Live;
use super::stream::{Hello, Start, Wire};
use super::wal::segment_start;

/// How long it waits for a connection: `connect_timeout` as the product sets it.
const CONNECT: Duration = Duration::from_secs(2);

/// How far a walreceiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverState {
    /// It has no connection yet.
    Dialling,
    /// It is connected: the server shows it as streaming from here on.
    Connected,
}

/// A walreceiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Its connection.
    pub conn: Conn,
    /// Whom it was told to ask.
    pub upstream: Upstream,
    /// How far it is.
    pub state: ReceiverState,
    /// The timeline that it asked for.
    pub timeline: Timeline,
    /// Written to here.
    pub write: Lsn,
    /// Flushed to here. It begins with what was replayed, whatever it is being sent.
    pub flush: Lsn,
    /// How far the other side was when it last said so.
    pub primary_end: Option<Lsn>,
    conf: Arc<Settings>,
    reported: Option<(Lsn, Lsn, Lsn)>,
    heard: BootTime,
    pinged: bool,
    status_at: BootTime,
    /// Whether it was told to end while it was stopped: whoever told it waits for that.
    pub(super) told_to_end: bool,
}

impl Receiver {
    pub(super) fn due(&self) -> BootTime {
        if self.state == ReceiverState::Dialling {
            return self.heard.plus(CONNECT);
        }
        let timeout = self.conf.receiver_timeout;
        let silent = self.heard.plus(if self.pinged { timeout } else { timeout / 2 });
        silent.min(self.status_at)
    }
}

impl Live<'_> {
    /// Starts a walreceiver for what comes at `replay` (`RequestXLogStreaming`).
    pub(super) fn start_receiver(&mut self, upstream: &Upstream, timeline: Timeline, replay: Lsn) {
        let conn = self.env.conn();
        let conf = self.run.postmaster.conf.clone();
        let hello = Hello {
            name: upstream.name.clone(),
            timeline,
            has: self.dir.histories.iter().map(|h| h.timeline).collect(),
        };
        if self.run.received.is_none_or(|(received, _)| received != timeline) {
            self.run.received = Some((timeline, segment_start(replay)));
        }
        self.run.receiver = Some(Receiver {
            conn,
            upstream: upstream.clone(),
            state: ReceiverState::Dialling,
            timeline,
            write: replay,
            flush: replay,
            primary_end: None,
            status_at: self.now.plus(conf.status_interval),
            conf,
            reported: None,
            heard: self.now,
            pinged: false,
            told_to_end: false,
        });
        let address = upstream.address.clone();
        self.env.out.push(Event::Dial { conn, address, hello });
    }

    /// Whether the walreceiver has to end and cannot, since it is stopped. Whoever needs its end
    /// waits for it (`ShutdownWalRcv`).
    pub(super) fn awaits_receiver(&mut self) -> bool {
        let stopped = self.env_stopped().receiver;
        match self.run.receiver.as_mut().filter(|_| stopped) {
            Some(receiver) => {
                receiver.told_to_end = true;
                true
            }
            None => false,
        }
    }

    /// Ends the walreceiver. What it has written it flushes first. `tell` is whether the other side
    /// has yet to hear of it.
    pub(super) fn end_receiver(&mut self, tell: bool) {
        let Some(receiver) = self.run.receiver.take() else { return };
        if tell {
            self.env.out.push(Event::Close { conn: receiver.conn });
        }
        self.want_flush(self.run.log.written);
    }

    /// Lets the walreceiver do what it can do now. Returns whether it did anything.
    pub(super) fn step_receiver(&mut self) -> bool {
        let now = self.now;
        let Some(receiver) = &mut self.run.receiver else { return false };
        if receiver.due() > now {
            return false;
        }
        if receiver.state == ReceiverState::Dialling {
            self.end_receiver(true);
            return true;
        }
        let timeout = receiver.conf.receiver_timeout;
        if receiver.heard.plus(timeout) <= now {
            self.env.say("the walreceiver ends: nothing was heard of the primary");
            self.end_receiver(true);
            return true;
        }
        let ping = receiver.heard.plus(timeout / 2) <= now;
        receiver.pinged |= ping;
        receiver.status_at = now.plus(receiver.conf.status_interval);
        self.report(true, ping);
        true
    }

    /// Tells the other side how far it is, if it does not know (`XLogWalRcvSendReply`).
    pub(super) fn report(&mut self, force: bool, reply: bool) {
        let apply = self.run.startup.as_ref().map_or(Lsn(0), |s| s.replay);
        let now = self.now;
        let Some(receiver) = &mut self.run.receiver else { return };
        if receiver.state != ReceiverState::Connected {
            return;
        }
        let (write, flush) = (receiver.write, receiver.flush);
        let known = receiver.reported.map(|(w, f, _)| (w, f)) == Some((write, flush));
        if known && !force {
            return;
        }
        receiver.reported = Some((write, flush, apply));
        receiver.status_at = now.plus(receiver.conf.status_interval);
        self.env.send(receiver.conn, Wire::Reply { write, flush, apply, reply });
    }

    /// Something came from the other side.
    pub(super) fn receiver_hears(&mut self, wire: Wire) {
        let last = self.run.startup.as_ref().and_then(|s| s.last);
        let replay = self.run.startup.as_ref().map_or(Lsn(0), |s| s.replay);
        let Some(receiver) = &mut self.run.receiver else { return };
        (receiver.heard, receiver.pinged) = (self.now, false);
        match wire {
            Wire::Welcome { system_id, timeline, histories } => {
                let own = self.dir.control.system_id;
                if system_id != own {
                    self.env.say(format!("the primary's identifier {system_id} is not {own}"));
                    return self.end_receiver(true);
                }
                if timeline < receiver.timeline {
                    let wanted = receiver.timeline;
                    let why = format!(
                        "highest timeline {timeline} of the primary is behind recovery timeline \
                         {wanted}"
                    );
                    self.env.say(why);
                    return self.end_receiver(true);
                }
                for history in histories {
                    self.dir.histories.put(history);
                }
                receiver.state = ReceiverState::Connected;
                self.env.out.push(Event::Streams { timeline: receiver.timeline });
                let start = Start {
                    slot: receiver.upstream.slot.clone(),
                    timeline: receiver.timeline,
                    from: segment_start(replay),
                    have: last.filter(|r| r.end == replay).map(|r| (r.end, r.chain)),
                    feedback: true,
                };
                self.env.send(receiver.conn, Wire::Start(start));
            }
            Wire::Wal { records, upto, end } => {
                let timeline = receiver.timeline;
                receiver.primary_end = Some(end);
                receiver.write = upto;
                let more = receiver.write > receiver.flush;
                let log = &mut self.run.log;
                if log.timeline != timeline {
                    log.timeline = timeline;
                    log.written = replay;
                    log.flushed = replay;
                }
                for record in records {
                    self.dir.wal.put(record);
                }
                log.written = log.written.max(upto);
                if self.env.disk.hung || !self.env.disk.slower.is_zero() || !more {
                    self.report(false, false);
                }
                if more {
                    self.want_flush(upto);
                }
            }
            Wire::Keepalive { end, reply } => {
                receiver.primary_end = Some(end);
                if reply {
                    self.report(true, false);
                }
            }
            Wire::EndOfTimeline { .. } => {
                self.run.end_of_timeline = true;
                self.end_receiver(true);
            }
            Wire::Refused { why } => {
                self.env.say(format!("the primary refuses to send WAL: {why}"));
                self.end_receiver(true);
            }
            Wire::Start(_) | Wire::Reply { .. } => {}
        }
    }

    /// WAL was flushed to `upto`: the walreceiver says so, and replay goes on.
    pub(super) fn receiver_flushed(&mut self, upto: Lsn) {
        let Some(receiver) = &mut self.run.receiver else { return };
        if receiver.write > receiver.flush {
            receiver.flush = receiver.flush.max(upto.min(receiver.write));
            let timeline = receiver.timeline;
            let flush = receiver.flush;
            self.run.received = Some((timeline, flush));
            self.report(false, false);
            self.arrived(flush);
        }
    }
}
