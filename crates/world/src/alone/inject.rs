//! Faults as they begin and end.

use super::clock::{MS, Micros};
use super::queue::Ev;
use super::schedule::{Kind, Who};
use super::setup::{Class, name};
use super::world::World;
use crate::domain::command::Change;

/// What undoes a fault that goes on.
#[derive(Debug, Clone, Copy)]
pub enum Undo {
    Cut(usize, usize),
    Loss(usize, usize, u16),
    Late(usize, usize, Micros),
    Double(u16),
    Deaf(usize),
    Daemon(usize),
    Pause(usize),
    Power(usize),
    Suspend(usize),
    Hang(usize, u32),
    Slow(usize, Micros),
    Tasks(usize),
}

impl World {
    fn machine_of(&self, who: Who) -> usize {
        let agreed = self.raft.agreed();
        let holder = agreed.tenure.as_ref().and_then(|t| self.index(&t.member)).unwrap_or(0);
        match who {
            Who::Machine(i) => usize::from(i) % self.machines.len(),
            Who::Primary => holder,
            Who::Other(n) => {
                let others: Vec<usize> = (0..self.members.len()).filter(|i| *i != holder).collect();
                others[usize::from(n) % others.len()]
            }
            Who::Leader => self.raft_leader().unwrap_or(self.machines.len() - 1),
        }
    }

    fn member_of(&self, who: Who) -> usize {
        let machine = self.machine_of(who);
        machine % self.members.len()
    }

    /// A fault begins.
    pub(super) fn begin_fault(&mut self, number: u32) {
        let Some(fault) = self.faults.get(number as usize).copied() else { return };
        self.note(u64::from(number), 5);
        if self.story.on() {
            let whom = match fault.kind {
                Kind::Switchover { to: who, .. }
                | Kind::Failover { to: Some(who), .. }
                | Kind::Cut { from: who, .. }
                | Kind::Isolate { who, .. }
                | Kind::Deaf { who }
                | Kind::Daemon { who }
                | Kind::Pause { who }
                | Kind::Power { who }
                | Kind::Suspend { who }
                | Kind::Postmaster { who }
                | Kind::Hang { who }
                | Kind::Slow { who, .. }
                | Kind::Frozen { who }
                | Kind::Rate { who, .. }
                | Kind::Jump { who, .. }
                | Kind::Tasks { who, .. }
                | Kind::Election { who }
                | Kind::Wipe { who, .. }
                | Kind::Tags { who, .. }
                | Kind::Priority { who, .. }
                | Kind::Loss { who: Some(who), .. }
                | Kind::Late { who: Some(who), .. } => self.called(self.machine_of(who)),
                _ => "all".to_owned(),
            };
            let lasts = fault.lasts as f64 / 1e6;
            self.story.tell(self.now, || {
                format!("FAULT {number} ({whom}, {lasts:.3} s): {:?}", fault.kind)
            });
        }
        let mut undo = Vec::new();
        self.apply_fault(fault.kind, fault.lasts, &mut undo);
        self.undo[number as usize] = undo;
        self.review = true;
    }

    /// It ends.
    pub(super) fn end_fault(&mut self, number: u32) {
        self.note(u64::from(number), 6);
        let undo = std::mem::take(&mut self.undo[number as usize]);
        if !undo.is_empty() {
            self.story.tell(self.now, || format!("fault {number} is over"));
        }
        for one in undo {
            self.undo_one(one);
        }
        self.review = true;
    }

    fn cut(&mut self, from: usize, to: usize, undo: &mut Vec<Undo>) {
        if from == to {
            return;
        }
        self.net.cut(from, to, true);
        undo.push(Undo::Cut(from, to));
        let after = self.luck.within(6000, 10_000) * MS;
        self.queue.put(self.now + after, Ev::Stale { a: from as u8, b: to as u8 });
    }

    fn undo_one(&mut self, undo: Undo) {
        match undo {
            Undo::Cut(from, to) => {
                self.net.cut(from, to, false);
                self.poke(from, to);
                self.poke(to, from);
            }
            Undo::Loss(from, to, permille) => self.net.lose(from, to, permille, false),
            Undo::Late(from, to, by) => self.net.delay(from, to, by, false),
            Undo::Deaf(i) => self.net.deafen(i, false),
            Undo::Double(permille) => self.net.double -= permille,
            Undo::Daemon(i) => self.start_daemon(i),
            Undo::Pause(i) => {
                self.machines[i].paused -= 1;
                if self.machines[i].paused == 0 {
                    self.release(i);
                }
            }
            Undo::Power(i) => self.power_on(i),
            Undo::Suspend(i) => {
                self.machines[i].suspended -= 1;
                if self.machines[i].suspended == 0 {
                    if i < self.members.len() {
                        self.deadline_after_suspend(i);
                    }
                    self.release(i);
                    if i < self.members.len() {
                        self.check_writers(i);
                    }
                }
            }
            Undo::Hang(m, life) => {
                if self.members[m].tree.life == life {
                    let hung = &mut self.members[m].tree.hung;
                    *hung = hung.saturating_sub(1);
                    self.release(m);
                    self.tree_changed(m);
                }
            }
            Undo::Slow(i, by) => {
                let slow = &mut self.machines[i].slow_us;
                *slow = slow.saturating_sub(by);
            }
            Undo::Tasks(i) => self.machines[i].tasks_us = 0,
        }
    }

    fn apply_fault(&mut self, kind: Kind, lasts: Micros, undo: &mut Vec<Undo>) {
        let all = 0..self.machines.len();
        match kind {
            Kind::Cut { from, to, both } => {
                let (from, to) = (self.machine_of(from), self.machine_of(to));
                self.cut(from, to, undo);
                if both {
                    self.cut(to, from, undo);
                }
            }
            Kind::Isolate { who, sends, hears } => {
                let i = self.machine_of(who);
                for j in all {
                    if sends {
                        self.cut(i, j, undo);
                    }
                    if hears {
                        self.cut(j, i, undo);
                    }
                }
            }
            Kind::Deaf { who } => {
                let i = self.member_of(who);
                self.net.deafen(i, true);
                undo.push(Undo::Deaf(i));
            }
            Kind::Split { mask } => {
                let side = |i: usize| mask & (1 << i) != 0;
                self.cut_pairs(undo, |i, j| side(i) != side(j));
            }
            Kind::Ring => {
                let n = self.machines.len();
                self.cut_pairs(undo, |i, j| (i + 1) % n != j && (j + 1) % n != i);
            }
            Kind::Bridge { over } => {
                let over = usize::from(over);
                self.cut_pairs(undo, |i, j| i != over && j != over && i % 2 != j % 2);
            }
            Kind::Loss { who, permille } => {
                for (i, j) in self.pairs(who) {
                    self.net.lose(i, j, permille, true);
                    undo.push(Undo::Loss(i, j, permille));
                }
            }
            Kind::Late { who, by } => {
                for (i, j) in self.pairs(who) {
                    self.net.delay(i, j, by, true);
                    undo.push(Undo::Late(i, j, by));
                }
            }
            Kind::Double { permille } => {
                self.net.double += permille;
                undo.push(Undo::Double(permille));
            }
            Kind::Daemon { who } => {
                let i = self.machine_of(who);
                if self.stop_daemon(i) {
                    undo.push(Undo::Daemon(i));
                }
            }
            Kind::Pause { who } => {
                let i = self.machine_of(who);
                self.machines[i].paused += 1;
                undo.push(Undo::Pause(i));
            }
            Kind::Power { who } => {
                let i = self.machine_of(who);
                if self.power_off(i) {
                    undo.push(Undo::Power(i));
                }
            }
            Kind::Suspend { who } => {
                let i = self.machine_of(who);
                self.machines[i].suspended += 1;
                undo.push(Undo::Suspend(i));
            }
            Kind::Postmaster { who } => {
                let m = self.member_of(who);
                self.crash_postmaster(m);
            }
            Kind::Hang { who } => {
                let m = self.member_of(who);
                let now = self.now;
                let tree = &mut self.members[m].tree;
                tree.hung += 1;
                tree.hung_at = now;
                undo.push(Undo::Hang(m, tree.life));
            }
            Kind::Slow { who, by } => {
                let i = self.machine_of(who);
                self.machines[i].slow_us += by;
                undo.push(Undo::Slow(i, by));
            }
            Kind::Frozen { who } => {
                let i = self.machine_of(who);
                let until = self.now + lasts;
                let machine = &mut self.machines[i];
                if machine.frozen_until <= self.now {
                    machine.frozen_at = self.now;
                }
                machine.frozen_until = machine.frozen_until.max(until);
            }
            Kind::Rate { who, ppm } => {
                let i = self.machine_of(who);
                let now = self.now;
                self.machines[i].clock.set_rate(now, ppm);
                self.clock_changed(i);
            }
            Kind::Jump { who, by } => {
                let i = self.machine_of(who);
                let now = self.now;
                self.machines[i].clock.jump(now, by * 1000);
                self.clock_changed(i);
            }
            Kind::Tasks { who, by } => {
                let i = self.machine_of(who);
                self.machines[i].tasks_us = by;
                undo.push(Undo::Tasks(i));
            }
            Kind::Election { who } => {
                let i = self.machine_of(who);
                if self.setup.controls(i) && self.machines[i].awake() {
                    self.stand(i);
                }
            }
            Kind::Wipe { who, record } => self.wipe(self.member_of(who), record, undo),
            Kind::Switchover { to, checked } => {
                let target = name(self.member_of(to));
                let expect_epoch = self.raft.agreed().epoch;
                let by = "operator".to_owned();
                self.operate(Change::StartSwitchover { expect_epoch, target, by }, checked);
            }
            Kind::Failover { to, accept, checked } => {
                let target = to.map(|to| name(self.member_of(to)));
                let expect_epoch = self.raft.agreed().epoch;
                let by = "operator".to_owned();
                let accept_data_loss = accept;
                let change = Change::StartFailover { expect_epoch, target, accept_data_loss, by };
                self.operate(change, checked);
            }
            Kind::Spec(change) => self.change_spec(change),
            Kind::Tags { who, to } => self.change_tags(self.member_of(who), to),
            Kind::Priority { who, to } => {
                let m = self.member_of(who);
                let tags = self.raft.agreed().members.get(&name(m)).map(|x| x.tags.clone());
                if let Some(tags) = tags {
                    self.register(m, to, tags);
                }
            }
            Kind::Join { member } => self.join(usize::from(member)),
        }
    }

    fn pairs(&self, who: Option<Who>) -> Vec<(usize, usize)> {
        let n = self.machines.len();
        let one = who.map(|who| self.machine_of(who));
        let all = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
        all.filter(|(i, j)| i != j && one.is_none_or(|o| o == *i || o == *j)).collect()
    }

    fn cut_pairs(&mut self, undo: &mut Vec<Undo>, cut: impl Fn(usize, usize) -> bool) {
        for (i, j) in self.pairs(None) {
            if cut(i, j) {
                self.cut(i, j, undo);
            }
        }
    }

    /// Every fault has ended, clocks are right again, and the operator takes back what keeps
    /// members out.
    pub(super) fn end_all_faults(&mut self) {
        self.story.tell(self.now, || "all faults are over".to_owned());
        for number in 0..self.undo.len() {
            for one in std::mem::take(&mut self.undo[number]) {
                self.undo_one(one);
            }
        }
        let now = self.now;
        for i in 0..self.machines.len() {
            if self.setup.class == Class::Clocks {
                self.machines[i].clock.set_rate(now, 0);
                self.clock_changed(i);
            }
            self.power_on(i);
            self.start_daemon(i);
        }
        self.review = true;
    }
}
