//! Machines, their daemons and their disks as faults meet them: clocks, processes, power, data.

use super::agent::Agent;
use super::clock::{MS, SECOND};
use super::inject::Undo;
use super::queue::{Ev, Timer};
use super::server::Directory;
use super::setup::Class;
use super::work::Task;
use super::world::World;
use crate::domain::reconcile::Action;
use crate::domain::record::{DataMark, MemberRecord};

impl World {
    /// Timers that were set by the clock of before look again.
    pub(super) fn clock_changed(&mut self, i: usize) {
        if i < self.members.len() {
            self.watch_deadline(i);
            self.timer(i, 0, Timer::Fence);
        }
    }

    pub(super) fn stop_daemon(&mut self, i: usize) -> bool {
        let machine = &mut self.machines[i];
        if !machine.up || !machine.daemon {
            return false;
        }
        machine.daemon = false;
        if i < self.members.len() {
            self.interrupt(i);
        }
        self.forget_raft(i);
        self.forget_controller(i);
        true
    }

    pub(super) fn start_daemon(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        if !machine.up || machine.daemon {
            return;
        }
        machine.daemon = true;
        machine.run += 1;
        if i < self.members.len() && !self.members[i].lost {
            self.begin_agent(i);
        }
    }

    pub(super) fn power_off(&mut self, i: usize) -> bool {
        if !self.machines[i].up {
            return false;
        }
        self.stop_daemon(i);
        self.machines[i].up = false;
        self.drop_deferred(i);
        if i < self.members.len() {
            self.gone(i, false);
            for j in (0..self.members.len()).filter(|j| *j != i) {
                let after = self.luck.within(5000, 10_000) * MS;
                self.queue.put(self.now + after, Ev::Stale { a: i as u8, b: j as u8 });
            }
            self.lose_unsynced(i);
        }
        true
    }

    /// What was not synced is gone; on a disk that lies, more.
    fn lose_unsynced(&mut self, m: usize) {
        let lies = self.setup.class == Class::Lying && self.luck.one_in(2);
        let more = if lies { self.luck.below(30) } else { 0 };
        let member = &mut self.members[m];
        let kept = member.dir.flushed.saturating_sub(more).max(1).min(member.dir.log.end);
        if !member.dir.log.pieces().is_empty() {
            member.dir.log.truncate(kept);
            member.dir.flushed = kept;
        }
        if lies && self.luck.one_in(2) {
            let member = &mut self.members[m];
            member.record = member.record_before.clone();
        }
    }

    pub(super) fn power_on(&mut self, i: usize) {
        if self.machines[i].up {
            return;
        }
        self.machines[i].up = true;
        if i < self.members.len() {
            self.poke_all(i);
        }
        self.start_daemon(i);
    }

    fn poke_all(&mut self, i: usize) {
        for j in 0..self.members.len() {
            if i != j {
                self.poke(i, j);
                self.poke(j, i);
            }
        }
    }

    /// Whether another member than this one has whole data, and is not giving that up just now.
    pub(super) fn others_are_whole(&self, m: usize) -> bool {
        let replaces = |agent: &Agent| {
            let task = agent.work.as_ref().map(|w| &w.task);
            matches!(task, Some(Task::Action(Action::Rewind(_) | Action::Clone(_))))
        };
        let mut others = self.members.iter().enumerate().filter(|(i, _)| *i != m);
        others.any(|(_, other)| {
            let kept = !other.agent.as_deref().is_some_and(replaces);
            kept && other.record.data == DataMark::Intact && other.dir.log.end > 1
        })
    }

    /// A disk is replaced: its machine comes back without data.
    pub(super) fn wipe(&mut self, m: usize, record: bool, undo: &mut Vec<Undo>) {
        // Not the last data that there is: nobody could do anything about that.
        if !self.others_are_whole(m) || !self.power_off(m) {
            return;
        }
        let member = &mut self.members[m];
        member.dir = Directory::empty();
        if record {
            member.record = MemberRecord::new(self.cluster.clone(), member.name.clone());
            member.record_before = member.record.clone();
        }
        undo.push(Undo::Power(m));
        // It is back a little later, whatever the schedule says of it.
        let back = self.luck.within(1, 5) * SECOND;
        let number = self.undo.len() as u32;
        self.undo.push(std::mem::take(undo));
        self.queue.put(self.now + back, Ev::Over(number));
    }

    /// The disk with a member's data is gone for good, and nobody replaces it; what else is on its
    /// machine goes on.
    pub(super) fn lose_for_good(&mut self, m: usize) {
        let called = self.called(m);
        self.story.tell(self.now, || format!("{called} is lost for good"));
        self.interrupt(m);
        self.gone(m, true);
        let member = &mut self.members[m];
        member.lost = true;
        member.dir = Directory::empty();
        self.review = true;
    }
}
