//! Replication: connections between servers, WAL on its way, and what comes back.
//!
//! A connection is ordered and loses nothing, as TCP does; what is cut waits until it is mended or
//! the connection is given up. A walsender reads the configuration in its own time.

use std::rc::Rc;

use super::clock::{MS, Micros};
use super::queue::{Ev, Server};
use super::server::Role;
use super::world::World;
use crate::domain::sync::SyncConfig;
use crate::domain::types::Epoch;

/// The primary's end of a connection.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The connection's number.
    pub session: u32,
    /// The configuration that the walsender runs with.
    pub config: Rc<SyncConfig>,
    /// What the standby has confirmed; `None` before its first answer.
    pub flushed: Option<u64>,
    /// Up to where WAL was sent.
    sent: u64,
    /// Whether some is on its way.
    flying: bool,
    /// Whether the standby knows that the connection stands: nothing comes before that.
    ready: bool,
}

/// The standby's end.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// The connection's number.
    pub session: u32,
    /// The server.
    pub source: usize,
    /// The furthest position that it has told.
    pub told: u64,
    /// Whether there is something to answer that could not be sent.
    owes: bool,
}

/// How often a walreceiver tries to connect (`wal_retrieve_retry_interval`).
const RETRY: Micros = 100 * MS;

impl World {
    /// Tries to connect to what is followed, after so long.
    pub(super) fn try_connect(&mut self, m: usize, after: Micros) {
        let tree = &mut self.members[m].tree;
        if tree.follows.is_some() && tree.receiver.is_none() && tree.connecting.is_none() {
            tree.connecting = Some(0);
            self.later(m, after, Server::Connect);
        }
    }

    /// What happens between servers.
    pub(super) fn replicate(&mut self, m: usize, what: Server) {
        match what {
            Server::Connect => self.connect(m),
            Server::Connects { from, life, session } => {
                self.accept(m, usize::from(from), life, session);
            }
            Server::Accepted { session } => self.accepted(m, session),
            Server::Refused { session } => self.refused(m, session),
            Server::Data { session, upto } => self.data(m, session, upto),
            Server::Ack { from, session, flushed } => self.ack(m, from.into(), session, flushed),
            Server::Closed { session } => self.closed(m, session),
            Server::Reload { of, session } => self.reload_sender(m, of.into(), session),
            Server::Defined => {
                let tree = &mut self.members[m].tree;
                tree.defined = tree.config.w > 0;
                self.acknowledge(m);
                self.look_at_barrier(m);
            }
            _ => {}
        }
    }

    /// Sends something to another member's server, whatever life of it runs now.
    fn send_to_server(&mut self, from: usize, to: usize, what: Server) -> bool {
        let Some(hop) = self.net.stream(&mut self.luck, from, to) else { return false };
        let life = self.members[to].tree.life;
        self.queue.put(self.now + hop, Ev::Server { member: to as u8, life, what });
        true
    }

    /// The far end of a connection hears that this end is gone, where it can.
    pub(super) fn close_far_end(&mut self, m: usize, far: usize, session: u32) {
        if !self.send_to_server(m, far, Server::Closed { session }) {
            let after = self.luck.within(5000, 10_000) * MS;
            self.queue.put(self.now + after, Ev::Stale { a: m as u8, b: far as u8 });
        }
    }

    fn connect(&mut self, m: usize) {
        let tree = &mut self.members[m].tree;
        let Some((_, source)) = tree.follows else {
            tree.connecting = None;
            return;
        };
        if tree.receiver.is_some() || tree.role != Role::Standby || !tree.runs() {
            tree.connecting = None;
            return;
        }
        let life = tree.life;
        self.sessions += 1;
        let session = self.sessions;
        tree.connecting = Some(session);
        let what = Server::Connects { from: m as u8, life, session };
        let there = self.members[source].tree.runs() && self.machines[source].up;
        if !there || !self.send_to_server(m, source, what) {
            return self.refused(m, session);
        }
        // Where no answer comes.
        self.later(m, 3000 * MS, Server::Refused { session });
    }

    fn refused(&mut self, m: usize, session: u32) {
        let tree = &mut self.members[m].tree;
        if tree.connecting != Some(session) {
            return;
        }
        tree.connecting = None;
        if tree.receiver.is_none() {
            tree.refused += 1;
            let pause = if tree.refused < 50 { RETRY } else { 10 * RETRY };
            self.try_connect(m, pause);
        }
    }

    /// A standby asks to stream.
    fn accept(&mut self, m: usize, from: usize, life: u32, session: u32) {
        let (own, other) = (&self.members[m], &self.members[from]);
        let asks = other.tree.life == life && other.tree.runs();
        let serves = own.tree.runs() && !own.tree.stopping;
        let right = match own.tree.role {
            Role::Primary { .. } => true,
            // A cascaded standby is served by one that is served itself.
            Role::Standby => own.tree.receiver.is_some(),
            _ => false,
        };
        let fits = other.dir.log.streams_from(&own.dir.log, own.dir.flushed).is_ok();
        if !asks || !serves || !right || !fits {
            self.send_to_server(m, from, Server::Refused { session });
            return;
        }
        let sender = Sender {
            session,
            config: own.tree.config.clone(),
            flushed: None,
            sent: other.dir.log.end,
            flying: false,
            ready: false,
        };
        if let Some(old) = self.members[m].tree.senders[from].replace(sender) {
            // The slot has one user: the walsender of before is ended.
            self.close_far_end(m, from, old.session);
        }
        if !self.send_to_server(m, from, Server::Accepted { session }) {
            self.members[m].tree.senders[from] = None;
        }
    }

    fn accepted(&mut self, m: usize, session: u32) {
        let tree = &mut self.members[m].tree;
        let Some((_, source)) = tree.follows else { return };
        let stands = |s: &Option<Sender>| s.as_ref().is_some_and(|s| s.session == session);
        if !stands(&self.members[source].tree.senders[m]) {
            return self.refused(m, session);
        }
        let tree = &mut self.members[m].tree;
        if tree.connecting != Some(session) {
            return;
        }
        tree.connecting = None;
        tree.refused = 0;
        tree.heard_at = self.now;
        tree.receiver = Some(Receiver { session, source, told: 0, owes: false });
        if let Some(sender) = &mut self.members[source].tree.senders[m] {
            sender.ready = true;
        }
        self.answer(m);
        self.pump(source, m);
        self.tree_changed(m);
    }

    /// Sends a standby what it has not got yet.
    pub(super) fn pump(&mut self, m: usize, j: usize) {
        let upto = self.members[m].dir.flushed;
        let Some(sender) = &mut self.members[m].tree.senders[j] else { return };
        if sender.flying || !sender.ready || sender.sent >= upto {
            return;
        }
        let session = sender.session;
        let Some(hop) = self.net.stream(&mut self.luck, m, j) else { return };
        if let Some(sender) = &mut self.members[m].tree.senders[j] {
            sender.flying = true;
            sender.sent = upto;
        }
        let life = self.members[j].tree.life;
        let what = Server::Data { session, upto };
        self.queue.put(self.now + hop, Ev::Server { member: j as u8, life, what });
    }

    fn data(&mut self, m: usize, session: u32, upto: u64) {
        let tree = &mut self.members[m].tree;
        let Some(receiver) = tree.receiver.as_mut().filter(|r| r.session == session) else {
            return;
        };
        let source = receiver.source;
        receiver.told = receiver.told.max(upto);
        tree.heard_at = self.now;
        if m == source {
            return;
        }
        let [own, from] = self.members.get_disjoint_mut([m, source]).expect("two members");
        let sender = from.tree.senders[m].as_mut().filter(|s| s.session == session);
        let Some(sender) = sender else { return };
        sender.flying = false;
        own.dir.log.extend_from(&from.dir.log, upto);
        self.flush_soon(m);
        self.pump(source, m);
    }

    /// A standby tells what it has flushed.
    pub(super) fn answer(&mut self, m: usize) {
        let flushed = self.members[m].dir.flushed;
        let Some(receiver) = &mut self.members[m].tree.receiver else { return };
        receiver.owes = false;
        let (session, source) = (receiver.session, receiver.source);
        let what = Server::Ack { from: m as u8, session, flushed };
        if !self.send_to_server(m, source, what)
            && let Some(receiver) = &mut self.members[m].tree.receiver
        {
            receiver.owes = true;
        }
    }

    fn ack(&mut self, m: usize, from: usize, session: u32, flushed: u64) {
        let sender = &mut self.members[m].tree.senders[from];
        let Some(sender) = sender.as_mut().filter(|s| s.session == session) else { return };
        let first = sender.flushed.is_none();
        if sender.flushed.is_some_and(|known| known >= flushed) {
            return;
        }
        sender.flushed = Some(flushed);
        if matches!(self.members[m].tree.role, Role::Primary { .. }) {
            self.acknowledge(m);
            self.look_at_barrier(m);
            if first {
                self.tell_news(m);
            }
        }
    }

    /// The other end is gone.
    fn closed(&mut self, m: usize, session: u32) {
        let tree = &mut self.members[m].tree;
        if tree.receiver.as_ref().is_some_and(|r| r.session == session) {
            tree.receiver = None;
            self.try_connect(m, RETRY / 2);
            self.tree_changed(m);
        }
        let tree = &mut self.members[m].tree;
        let gone = |s: &Option<Sender>| s.as_ref().is_some_and(|s| s.session == session);
        if let Some(j) = tree.senders.iter().position(gone) {
            tree.senders[j] = None;
            self.look_at_barrier(m);
            self.tell_news(m);
        }
    }

    /// A standby takes WAL from nobody any more.
    pub(super) fn stop_receiving(&mut self, m: usize) {
        let tree = &mut self.members[m].tree;
        tree.follows = None;
        if let Some(receiver) = tree.receiver.take() {
            self.close_far_end(m, receiver.source, receiver.session);
        }
    }

    /// A standby takes WAL from this server from now on.
    pub(super) fn begin_receiving(&mut self, m: usize, epoch: Epoch, source: usize) {
        self.stop_receiving(m);
        let now = self.now;
        let tree = &mut self.members[m].tree;
        tree.follows = Some((epoch, source));
        tree.refused = 0;
        tree.heard_at = now;
        if tree.role == Role::Standby {
            self.try_connect(m, 0);
        }
    }

    /// What waited for a link goes on.
    pub(super) fn poke(&mut self, a: usize, b: usize) {
        if a >= self.members.len() || b >= self.members.len() {
            return;
        }
        self.pump(a, b);
        let owes = |r: &Receiver| r.owes && r.source == b;
        if self.members[a].tree.receiver.as_ref().is_some_and(owes) {
            self.answer(a);
        }
    }

    /// Connections between two machines that do not hear each other are given up.
    pub(super) fn give_up_connections(&mut self, a: usize, b: usize) {
        if a >= self.members.len() || b >= self.members.len() {
            return;
        }
        for (m, far) in [(a, b), (b, a)] {
            let silent = !self.net.open(far, m) || !self.machines[far].up;
            let other = &self.members[far].tree;
            let known = |session: u32| {
                other.receiver.as_ref().is_some_and(|r| r.session == session)
                    || other.senders[m].as_ref().is_some_and(|s| s.session == session)
            };
            let tree = &self.members[m].tree;
            let own = tree.receiver.as_ref().filter(|r| r.source == far).map(|r| r.session);
            let served = tree.senders[far].as_ref().map(|s| s.session);
            let lost = [own, served].into_iter().flatten();
            let lost: Vec<u32> = lost.filter(|s| silent || !known(*s)).collect();
            for session in lost {
                if self.machines[m].moves() {
                    self.closed(m, session);
                }
            }
        }
    }
}
