//! The worker's way to being primary, what a primary does, and how it hands over.

use super::clock::{MS, Micros, SECOND};
use super::server::{Phase, Remembered, Role};
use super::work::{Then, Work};
use super::world::{SYSTEM, World};
use crate::domain::desired::FollowDuty;
use crate::domain::mutant::{Mutant, without};
use crate::domain::observation::{Confirmed, Data, Sealed};
use crate::domain::reconcile::{EndReason, Process};
use crate::domain::record::DataMark;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{Epoch, Lsn, MemberName};

/// How long a barrier may take.
const BARRIER: Micros = 10 * SECOND;
/// How long the target of a handover may take to confirm a record.
const TARGET: Micros = 2 * SECOND;
/// How long the others may hold an ordered stop up.
const STANDBYS: Micros = SECOND;
/// After how long an attempt to seal ends in a kill.
const SEAL_MAX: Micros = 5 * SECOND;

impl World {
    /// The member of this name.
    pub(super) fn index(&self, name: &MemberName) -> Option<usize> {
        self.members.iter().position(|m| m.name == *name)
    }

    /// The member at this address.
    pub(super) fn at_address(&self, address: &str) -> Option<usize> {
        let name = address.strip_suffix(":1")?;
        self.members.iter().position(|m| m.name.as_str() == name)
    }

    pub(super) fn initialise(&mut self, m: usize, stage: u8) -> Then {
        match stage {
            0 => self.write_record(m, 1, |r| r.data = DataMark::Initialising),
            1 => Then::After(self.pace.within(800, 2500) * MS, 2),
            2 => {
                let branch = self.oracle.first_branch();
                let dir = &mut self.members[m].dir;
                dir.data = Data::Present { system_id: SYSTEM };
                dir.log = super::wal::Log::fresh(branch);
                dir.flushed = dir.log.end;
                self.write_record(m, 3, |r| {
                    r.data = DataMark::Intact;
                    r.system_id = Some(SYSTEM);
                    (r.held, r.ended) = (Epoch(1), Epoch(1));
                })
            }
            _ => {
                if let Some(agent) = self.agent(m) {
                    agent.local.data = Data::Present { system_id: SYSTEM };
                }
                Then::Done
            }
        }
    }

    /// The promise is recorded, then PostgreSQL starts, then the life of its guard is recorded:
    /// before anybody hears of it.
    pub(super) fn start(
        &mut self,
        m: usize,
        promise: Epoch,
        duty: Option<&FollowDuty>,
        stage: u8,
    ) -> Then {
        match stage {
            0 => {
                if duty.is_some_and(|d| !self.upstream_serves(m, d)) {
                    return Then::Done;
                }
                self.write_record(m, 1, |r| r.promised = r.promised.max(promise))
            }
            1 => {
                let follows = duty.and_then(|d| {
                    let source = self.at_address(d.streams_from().1)?;
                    Some((d.epoch, source))
                });
                self.start_tree(m, follows);
                Then::After(self.pace.within(10, 120) * MS, 2)
            }
            2 => {
                let Some(guard) = self.members[m].tree.guard.clone() else { return Then::Failed };
                self.write_record(m, 3, |r| r.running = Some(guard))
            }
            _ => {
                let guard = self.members[m].tree.guard.clone();
                let (process, role) = match duty {
                    None => {
                        (Process::Sealed { promise, position: None }, Remembered::Sealed(promise))
                    }
                    Some(d) => {
                        let address = d.streams_from().1.to_owned();
                        let process =
                            Process::Following { epoch: d.epoch, address: address.clone() };
                        (process, Remembered::Following(d.epoch, address))
                    }
                };
                if let Some(agent) = self.agent(m) {
                    agent.local.guard = guard;
                    agent.local.lease = None;
                    agent.local.process = process;
                    agent.lineage = None;
                }
                self.remember(m, role);
                Then::Done
            }
        }
    }

    pub(super) fn seal(&mut self, m: usize, promise: Epoch, stage: u8) -> Then {
        let now = self.now;
        match stage {
            0 => self.write_record(m, 1, |r| r.promised = r.promised.max(promise)),
            1 => {
                let since = {
                    let Some(agent) = self.agent(m) else { return Then::Done };
                    agent.local.process = Process::Sealed { promise, position: None };
                    let since = agent.sealing.filter(|s| s.0 == promise).map_or(now, |s| s.1);
                    agent.sealing = Some((promise, since));
                    since
                };
                self.remember(m, Remembered::Sealed(promise));
                let tree = &self.members[m].tree;
                if tree.phase != Phase::Running {
                    return Then::NotReady;
                }
                if tree.role != Role::Standby || tree.hung > 0 {
                    if now - since >= SEAL_MAX && tree.hung > 0 {
                        // It may be hung. Started anew it is sealed from its first moment.
                        if let Some(agent) = self.agent(m) {
                            agent.sealing = None;
                            agent.local.process = Process::Ending;
                        }
                        return Then::Done;
                    }
                    return Then::NotReady;
                }
                if !without(Mutant::NoSeal) {
                    self.stop_receiving(m);
                }
                Then::After(self.pace.within(45, 110) * MS, 2)
            }
            _ => {
                if self.members[m].tree.phase != Phase::Running
                    || self.members[m].tree.role != Role::Standby
                {
                    return Then::NotReady;
                }
                self.note_position(m, promise)
            }
        }
    }

    /// Where the sealed standby's log ends.
    fn note_position(&mut self, m: usize, promise: Epoch) -> Then {
        let member = &mut self.members[m];
        // The walreceiver flushes what it has when it ends.
        member.dir.flushed = member.dir.log.end;
        let (wal_epoch, lsn) = (member.dir.log.epoch(), Lsn(member.dir.log.end));
        let lineage = member.dir.log.lineage();
        let (name, guard) = (member.name.clone(), member.tree.guard.clone());
        let Some(agent) = self.agent(m) else { return Then::Done };
        agent.sealing = None;
        agent.local.consistent = true;
        if wal_epoch > agent.local.record.promised {
            if let Some(work) = &mut agent.work {
                work.task = super::work::Task::DisownData("WAL of an epoch never promised");
            }
            return Then::After(0, 0);
        }
        let Some(guard) = guard else { return Then::NotReady };
        let sealed = Sealed {
            member: name,
            guard,
            promised: agent.local.record.promised,
            wal_epoch,
            lsn,
            held: agent.local.record.held,
            lineage,
            no_room: false,
        };
        agent.local.process = Process::Sealed { promise, position: Some(sealed) };
        Then::Done
    }

    pub(super) fn accept_epoch(&mut self, m: usize, epoch: Epoch, stage: u8) -> Then {
        if stage == 0 {
            return self.write_record(m, 1, |r| {
                r.held = r.held.max(epoch);
                r.promised = r.promised.max(epoch);
            });
        }
        let guard = self.members[m].tree.guard.clone();
        let Some(guard) = guard.filter(|_| self.members[m].tree.runs()) else {
            return Then::NotReady;
        };
        let Some(agent) = self.agent(m) else { return Then::Done };
        agent.local.process =
            Process::Primary { epoch, promoted: false, confirmed: None, writes_open: false };
        agent.claim = Some((epoch, guard));
        agent.lineage = None;
        agent.crashed = false;
        self.remember(m, Remembered::Primary { epoch, promoted: None, writes_open: false });
        self.renew(m);
        Then::Done
    }

    pub(super) fn promote(&mut self, m: usize, epoch: Epoch, sync: &SyncConfig, stage: u8) -> Then {
        let now = self.clock(m);
        match stage {
            0 => {
                let no_lease = without(Mutant::NoLease);
                let Some(agent) = self.agent(m) else { return Then::Done };
                if !no_lease && !agent.local.lease.is_some_and(|l| l.may_write(epoch, now)) {
                    return self.end_by_failure(m, epoch);
                }
                match self.members[m].tree.role {
                    Role::Standby if self.members[m].tree.runs() => {
                        self.begin_promotion(m, epoch, sync.clone());
                        Then::After(0, 1)
                    }
                    Role::Promoting(e) | Role::Primary { epoch: e, .. } if e == epoch => {
                        Then::After(0, 1)
                    }
                    _ => self.end_by_failure(m, epoch),
                }
            }
            _ => {
                let tree = &self.members[m].tree;
                if !tree.runs() {
                    return self.end_by_failure(m, epoch);
                }
                if tree.primary() != Some(epoch) {
                    return Then::Until(60 * SECOND);
                }
                let lineage = self.members[m].dir.log.lineage();
                let promoted = Some(lineage.clone());
                let Some(agent) = self.agent(m) else { return Then::Done };
                if let Process::Primary { promoted, .. } = &mut agent.local.process {
                    *promoted = true;
                }
                agent.lineage = Some(lineage);
                self.remember(m, Remembered::Primary { epoch, promoted, writes_open: false });
                Then::Done
            }
        }
    }

    fn end_by_failure(&mut self, m: usize, epoch: Epoch) -> Then {
        let why = EndReason::PromotionFailed;
        if let Some(agent) = self.agent(m)
            && let Some(work) = &mut agent.work
        {
            let action = crate::domain::reconcile::Action::EndEpoch { epoch, why };
            work.task = super::work::Task::Action(action);
        }
        Then::After(0, 0)
    }

    pub(super) fn confirm_sync(&mut self, m: usize, syncs: &[SyncConfig], work: &Work) -> Then {
        let Some(newest) = syncs.last() else { return Then::Done };
        if !self.members[m].tree.runs() || self.members[m].tree.primary().is_none() {
            return Then::NotReady;
        }
        if work.stage == 0 {
            self.write_config(m, newest.clone());
            self.begin_barrier_of(m);
            return Then::After(self.pace.within(2, 12) * MS, 1);
        }
        let barrier = &self.members[m].tree.barrier;
        if !barrier.as_ref().is_some_and(|b| b.passed) {
            if work.until.is_some_and(|until| until <= self.now) {
                self.members[m].tree.barrier = None;
                return Then::NotReady;
            }
            return Then::Until(BARRIER);
        }
        self.members[m].tree.barrier = None;
        let started = i64::from(self.members[m].tree.life);
        let done = Confirmed { syncs: syncs.to_vec(), postmaster_start_us: started };
        if let Some(agent) = self.agent(m)
            && let Process::Primary { confirmed, .. } = &mut agent.local.process
        {
            *confirmed = Some(done);
        }
        Then::Done
    }

    pub(super) fn open_writes(&mut self, m: usize, epoch: Epoch, stage: u8) -> Then {
        if stage == 0 {
            return Then::After(self.pace.within(3, 20) * MS, 1);
        }
        let now = self.clock(m);
        let Some(agent) = self.agent(m) else { return Then::Done };
        if !agent.local.lease.is_some_and(|l| l.may_write(epoch, now)) {
            return Then::Failed;
        }
        if !self.members[m].tree.runs() || self.members[m].tree.primary() != Some(epoch) {
            return Then::NotReady;
        }
        let Some(agent) = self.agent(m) else { return Then::Done };
        if let Process::Primary { writes_open, .. } = &mut agent.local.process {
            *writes_open = true;
        }
        let promoted = agent.lineage.clone();
        self.members[m].tree.open = true;
        self.remember(m, Remembered::Primary { epoch, promoted, writes_open: true });
        self.opened(m);
        Then::Done
    }

    /// Checkpoint, a record that the target confirms, and an ordered stop.
    pub(super) fn hand_over(
        &mut self,
        m: usize,
        epoch: Epoch,
        target: &MemberName,
        work: &Work,
    ) -> Then {
        let Some(to) = self.index(target) else { return Then::Failed };
        match work.stage {
            0 => Then::After(self.pace.within(40, 350) * MS + self.flush_us(m), 1),
            1 => {
                if !self.members[m].tree.runs() {
                    return self.handed_over(m, epoch);
                }
                self.members[m].dir.log.end += 1;
                let at = self.members[m].dir.log.end;
                self.flush_soon(m);
                if let Some(work) = self.agent(m).and_then(|a| a.work.as_mut()) {
                    work.position = at;
                }
                Then::After(2 * MS, 2)
            }
            2 => {
                if !self.members[m].tree.runs() {
                    return self.handed_over(m, epoch);
                }
                let at = work.position;
                let sender = self.members[m].tree.senders[to].as_ref();
                if sender.is_some_and(|s| s.flushed.is_some_and(|f| f >= at)) {
                    return Then::After(MS, 3);
                }
                if work.until.is_some_and(|until| until <= self.now) {
                    // Nothing was stopped: the primary goes on.
                    return Then::Failed;
                }
                self.look_again(m, 20 * MS);
                Then::Until(TARGET)
            }
            3 => {
                let tree = &mut self.members[m].tree;
                tree.stopping = true;
                self.members[m].dir.log.end += 1;
                self.flush_soon(m);
                let stop = self.pace.within(60, 500) * MS;
                self.later(m, stop + STANDBYS, super::queue::Server::Stopped);
                Then::After(stop, 4)
            }
            4 => {
                let member = &self.members[m];
                let end = member.dir.log.end;
                let all = member
                    .tree
                    .senders
                    .iter()
                    .flatten()
                    .all(|s| s.flushed.is_some_and(|f| f >= end));
                if member.tree.lives() && member.dir.flushed >= end && all {
                    self.later(m, 0, super::queue::Server::Stopped);
                }
                if !self.members[m].tree.lives() {
                    return self.handed_over(m, epoch);
                }
                self.look_again(m, 10 * MS);
                Then::Until(10 * SECOND)
            }
            _ => Then::Done,
        }
    }

    fn look_again(&mut self, m: usize, after: Micros) {
        let number = self.agent(m).and_then(|a| a.work.as_ref().map(|w| w.number));
        if let Some(number) = number {
            self.timer(m, after, super::queue::Timer::Work(number));
        }
    }

    fn handed_over(&mut self, m: usize, epoch: Epoch) -> Then {
        if let Some(agent) = self.agent(m) {
            agent.ending = Some((epoch, false));
            agent.claim = None;
            agent.local.process = Process::Ending;
        }
        Then::Done
    }
}
