//! A member's data directory, its guard with the process tree, and PostgreSQL in it: starting,
//! promotion, writing, flushing, ending. Replication is in `stream`, its effect on commits in
//! `commit`.

use std::rc::Rc;

use super::clock::{MS, Micros};
use super::queue::Server;
use super::stream::{Receiver, Sender};
use super::wal::Log;
use super::world::World;
use crate::domain::lineage::Lineage;
use crate::domain::observation::Data;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, GuardId};

/// A data directory.
#[derive(Debug, Clone)]
pub struct Directory {
    /// What lies there.
    pub data: Data,
    /// Its log: written, not all of it synced.
    pub log: Log,
    /// Up to where it is synced.
    pub flushed: u64,
}

impl Directory {
    /// Nothing.
    pub fn empty() -> Self {
        Self { data: Data::Empty, log: Log::empty(), flushed: 0 }
    }
}

/// How much of a process tree there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing.
    Gone,
    /// All of it.
    Running,
    /// The postmaster is dead; what it had started goes on.
    Orphaned,
    /// It was killed, and is not gone yet.
    Dying,
}

/// What PostgreSQL is.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// It starts.
    Starting,
    /// A standby.
    Standby,
    /// A standby that was told to promote itself.
    Promoting(Epoch),
    /// A primary, of this epoch, whose branch begins here.
    Primary { epoch: Epoch, branch: u32, start: u64 },
}

/// What was last made of the tree, remembered beside the guard as long as the machine is up.
#[derive(Debug, Clone, PartialEq)]
pub enum Remembered {
    /// A sealed standby.
    Sealed(Epoch),
    /// A follower.
    Following(Epoch, String),
    /// A primary or one on its way to be.
    Primary { epoch: Epoch, promoted: Option<Lineage>, writes_open: bool },
}

/// The process tree under its guard.
#[derive(Debug)]
pub struct Tree {
    /// Which life of the guard; 0 before the first.
    pub life: u32,
    /// Its identity.
    pub guard: Option<GuardId>,
    /// How much there is.
    pub phase: Phase,
    /// When the kernel kills it.
    pub armed: Option<BootTime>,
    /// What was remembered of it.
    pub remembered: Option<Remembered>,
    /// What PostgreSQL is.
    pub role: Role,
    /// Faults that make it do nothing.
    pub hung: u16,
    /// Since when.
    pub hung_at: Micros,
    /// Whether WAL is taken from somewhere: the epoch followed, and the member that serves it.
    pub follows: Option<(Epoch, usize)>,
    /// The connection to that.
    pub receiver: Option<Receiver>,
    /// The walsenders, by member.
    pub senders: Vec<Option<Sender>>,
    /// The configuration that new processes run with.
    pub config: Rc<SyncConfig>,
    /// Whether backends know that commits wait for somebody.
    pub defined: bool,
    /// Whether sessions may write without asking for it.
    pub open: bool,
    /// Whether it stops in order: nobody writes any more.
    pub stopping: bool,
    /// Whether a flush is under way.
    pub flushing: bool,
    /// How far commits of its branch were acknowledged.
    pub acknowledged: u64,
    /// When it was promoted: a checkpoint follows soon.
    pub promoted_at: Micros,
    /// The barrier under way.
    pub barrier: Option<Barrier>,
    /// The number of the connection that was asked for; 0 where the next try is on its way.
    pub connecting: Option<u32>,
    /// Whether it was killed where nothing of it can run any more before it is gone.
    pub still: bool,
    /// How often in a row that failed.
    pub refused: u32,
    /// When WAL last came from what it follows, or it began to follow that.
    pub heard_at: Micros,
}

/// A barrier under way.
#[derive(Debug, Clone)]
pub struct Barrier {
    /// The configuration to be confirmed.
    pub config: Rc<SyncConfig>,
    /// The position, once the record is written.
    pub at: Option<u64>,
    /// Whether it holds.
    pub passed: bool,
}

impl Tree {
    /// No tree was ever started.
    pub fn none(members: usize) -> Self {
        Self {
            life: 0,
            guard: None,
            phase: Phase::Gone,
            armed: None,
            remembered: None,
            role: Role::Starting,
            hung: 0,
            hung_at: 0,
            follows: None,
            receiver: None,
            senders: (0..members).map(|_| None).collect(),
            config: Rc::new(SyncConfig::asynchronous(Epoch(0), 0)),
            defined: false,
            open: false,
            stopping: false,
            flushing: false,
            acknowledged: 0,
            promoted_at: 0,
            barrier: None,
            connecting: None,
            still: false,
            refused: 0,
            heard_at: 0,
        }
    }

    /// Whether PostgreSQL runs as it should.
    pub fn runs(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether some process of it may still do something.
    pub fn lives(&self) -> bool {
        self.phase != Phase::Gone
    }

    /// The epoch that it is primary of.
    pub fn primary(&self) -> Option<Epoch> {
        match self.role {
            Role::Primary { epoch, .. } if self.lives() => Some(epoch),
            _ => None,
        }
    }
}

impl World {
    /// Whether a member's PostgreSQL could acknowledge a write now.
    pub(super) fn writes(&self, m: usize) -> bool {
        let machine = &self.machines[m];
        let tree = &self.members[m].tree;
        tree.primary().is_some() && machine.moves() && !tree.still
    }

    /// What happens in a server that is there and not held still.
    pub(super) fn serve_clients(&mut self, m: usize, what: Server) {
        let tree = &self.members[m].tree;
        match what {
            Server::Burst => {
                if tree.runs() && matches!(tree.role, Role::Primary { .. }) {
                    self.write(m);
                }
            }
            Server::Client => self.client(m),
            Server::Flushed => self.flushed(m),
            Server::Ready if tree.runs() => {
                let dir = &mut self.members[m].dir;
                // It syncs its data directory before it replays (`SyncDataDirectory`).
                dir.flushed = dir.log.end;
                self.members[m].tree.role = Role::Standby;
                self.try_connect(m, 0);
                self.tree_changed(m);
            }
            Server::Promoted => self.promoted(m),
            Server::Stopped => self.stopped(m),
            Server::Ready => {}
            _ => self.replicate(m, what),
        }
    }

    // ---- a primary ----

    /// The sealed standby promotes itself.
    pub(super) fn begin_promotion(&mut self, m: usize, epoch: Epoch, sync: SyncConfig) {
        let tree = &mut self.members[m].tree;
        tree.role = Role::Promoting(epoch);
        tree.config = Rc::new(sync);
        tree.defined = tree.config.w > 0;
        tree.receiver = None;
        tree.follows = None;
        // The walsenders of before are ended first.
        let ended: Vec<(usize, u32)> = tree
            .senders
            .iter_mut()
            .enumerate()
            .filter_map(|(j, s)| Some((j, s.take()?.session)))
            .collect();
        for (j, session) in ended {
            self.close_far_end(m, j, session);
        }
        let after = self.pace.within(20, 180) * MS + self.flush_us(m);
        self.later(m, after, Server::Promoted);
    }

    fn promoted(&mut self, m: usize) {
        let member = &mut self.members[m];
        let Role::Promoting(epoch) = member.tree.role else { return };
        if !member.tree.runs() {
            return;
        }
        let start = member.dir.log.end;
        let branch = self.oracle.branch(epoch, start, &member.dir.log);
        member.dir.log.begin(epoch, branch);
        member.dir.flushed = member.dir.log.end;
        let tree = &mut member.tree;
        tree.role = Role::Primary { epoch, branch, start };
        tree.acknowledged = start + 1;
        tree.promoted_at = self.now;
        let called = self.called(m);
        self.story.tell(self.now, || format!("{called} is promoted to epoch {epoch} at {start}"));
        self.check_writers(m);
        let after = self.clients.below(self.setup.write_gap);
        self.later(m, after, Server::Client);
        self.work_goes_on(m);
    }

    fn client(&mut self, m: usize) {
        let tree = &self.members[m].tree;
        if !tree.runs() || !matches!(tree.role, Role::Primary { .. }) {
            return;
        }
        // Most sessions heed the hold on writes; it is no fence.
        if tree.open || self.clients.one_in(3) {
            self.write(m);
        }
        let gap = self.setup.write_gap;
        let after = self.clients.within(gap / 4, gap * 7 / 4);
        self.later(m, after, Server::Client);
    }

    /// A record is written, and is on its way to the disk.
    pub(super) fn write(&mut self, m: usize) {
        if self.members[m].tree.stopping {
            return;
        }
        self.members[m].dir.log.end += 1;
        self.flush_soon(m);
    }

    pub(super) fn flush_soon(&mut self, m: usize) {
        if !std::mem::replace(&mut self.members[m].tree.flushing, true) {
            let after = self.flush_us(m);
            self.later(m, after, Server::Flushed);
        }
    }

    fn flushed(&mut self, m: usize) {
        if self.machines[m].frozen_until > self.now {
            self.members[m].tree.still = true;
            let after = self.flush_us(m);
            return self.later(m, after, Server::Flushed);
        }
        let member = &mut self.members[m];
        member.tree.flushing = false;
        member.dir.flushed = member.dir.log.end;
        if matches!(member.tree.role, Role::Primary { .. }) {
            self.acknowledge(m);
        } else {
            self.answer(m);
        }
        for j in 0..self.members.len() {
            self.pump(m, j);
        }
        self.look_at_barrier(m);
    }

    /// The last checkpoint of an ordered stop is written: it is gone once its standbys have it.
    fn stopped(&mut self, m: usize) {
        let tree = &self.members[m].tree;
        if !tree.runs() || !tree.stopping {
            return;
        }
        self.kill_tree(m);
        self.tree_changed(m);
    }

    /// The postmaster is dead. Its agent sees that a little later.
    pub(super) fn crash_postmaster(&mut self, m: usize) {
        let tree = &mut self.members[m].tree;
        if tree.phase == Phase::Running {
            tree.phase = Phase::Orphaned;
            let called = self.called(m);
            self.story.tell(self.now, || format!("{called}: the postmaster is dead"));
            self.tree_changed(m);
        }
    }
}
