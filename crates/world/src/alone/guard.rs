//! A member's process tree under its guard: begun, armed, killed, gone.

use super::clock::MS;
use super::queue::{Ev, Kernel, Server};
use super::server::{Phase, Tree};
use super::stream::Sender;
use super::world::World;
use crate::domain::types::{BootTime, Epoch, GuardId};

impl World {
    /// A new life of the guard, with PostgreSQL as a standby that may follow somebody.
    pub(super) fn start_tree(&mut self, m: usize, follows: Option<(Epoch, usize)>) {
        self.lives += 1;
        let life = self.lives;
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&life.to_be_bytes());
        bytes[15] = m as u8;
        let tree = Tree::none(self.members.len());
        let guard = Some(GuardId::from_bytes(bytes));
        self.members[m].tree =
            Tree { life, guard, phase: Phase::Running, follows, heard_at: self.now, ..tree };
        let after = self.pace.within(40, 400) * MS + self.flush_us(m);
        self.later(m, after, Server::Ready);
    }

    /// Kills the process tree. It is gone a little later.
    pub(super) fn kill_tree(&mut self, m: usize) {
        let tree = &mut self.members[m].tree;
        if !matches!(tree.phase, Phase::Running | Phase::Orphaned) {
            return;
        }
        tree.phase = Phase::Dying;
        let life = tree.life;
        // Processes that wait for the disk are not gone before it answers.
        let frozen = self.machines[m].frozen_until.saturating_sub(self.now);
        self.members[m].tree.still |= frozen > 0;
        let after = frozen + self.pace.within(3 * MS, 22 * MS);
        let what = Kernel::Empty;
        self.queue.put(self.now + after, Ev::Kernel { member: m as u8, life, what });
    }

    /// The guard arms the kernel's timer; `false` where it refuses.
    pub(super) fn arm(&mut self, m: usize, guard: &GuardId, kill_at: BootTime) -> bool {
        let now = self.clock(m);
        let tree = &mut self.members[m].tree;
        if !tree.runs() || tree.guard.as_ref() != Some(guard) {
            return false;
        }
        if kill_at <= now || tree.armed.is_some_and(|armed| kill_at < armed) {
            return false;
        }
        let first = tree.armed.is_none();
        tree.armed = Some(kill_at);
        if first {
            self.watch_deadline(m);
        }
        true
    }

    /// Has the kernel's timer looked at when it is due by the clock of now.
    pub(super) fn watch_deadline(&mut self, m: usize) {
        let tree = &self.members[m].tree;
        let Some(armed) = tree.armed.filter(|_| tree.lives()) else { return };
        let (life, what) = (tree.life, Kernel::Deadline);
        let at = self.machines[m].clock.when(armed, self.now);
        self.queue.put(at, Ev::Kernel { member: m as u8, life, what });
    }

    pub(super) fn guard_deadline(&mut self, m: usize) {
        let now = self.clock(m);
        let tree = &self.members[m].tree;
        match tree.armed {
            Some(armed) if now < armed => self.watch_deadline(m),
            Some(_) if matches!(tree.phase, Phase::Running | Phase::Orphaned) => {
                let called = self.called(m);
                self.story.tell(self.now, || format!("{called}: the kernel's timer fires"));
                self.kill_tree(m);
                self.tree_changed(m);
            }
            _ => {}
        }
    }

    /// A machine goes on that was suspended: timers of the kernel fire before any process runs.
    pub(super) fn deadline_after_suspend(&mut self, m: usize) {
        let now = self.clock(m);
        if self.members[m].tree.armed.is_some_and(|armed| armed <= now) {
            self.guard_deadline(m);
            self.members[m].tree.still |= self.members[m].tree.phase == Phase::Dying;
        }
    }

    /// Nothing of the tree is left.
    pub(super) fn tree_empty(&mut self, m: usize) {
        if self.members[m].tree.phase != Phase::Dying {
            return;
        }
        if self.machines[m].frozen_until > self.now {
            self.members[m].tree.still = true;
            let after = self.machines[m].frozen_until - self.now + 5 * MS;
            let (life, what) = (self.members[m].tree.life, Kernel::Empty);
            self.queue.put(self.now + after, Ev::Kernel { member: m as u8, life, what });
            return;
        }
        self.gone(m, true);
        self.tree_changed(m);
    }

    /// The tree is gone; `heard`: the other ends of its connections hear of that.
    pub(super) fn gone(&mut self, m: usize, heard: bool) {
        let tree = &mut self.members[m].tree;
        tree.phase = Phase::Gone;
        tree.follows = None;
        tree.barrier = None;
        tree.open = false;
        tree.remembered = None;
        let receiver = tree.receiver.take();
        let senders: Vec<(usize, Sender)> =
            tree.senders.iter_mut().enumerate().filter_map(|(j, s)| Some((j, s.take()?))).collect();
        if !heard {
            return;
        }
        if let Some(receiver) = receiver {
            self.close_far_end(m, receiver.source, receiver.session);
        }
        for (j, sender) in senders {
            self.close_far_end(m, j, sender.session);
        }
    }
}
