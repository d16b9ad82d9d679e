//! The worker's way to being a standby: following, rewinding, copying; and the beginning of a run,
//! which takes over what there is.

use super::clock::{MS, SECOND};
use super::server::{Phase, Remembered, Role};
use super::wal::Log;
use super::work::{Task, Then, Work};
use super::world::{SYSTEM, World};
use crate::domain::desired::{Desired, FollowDuty};
use crate::domain::lease::HolderLease;
use crate::domain::mutant::{Mutant, without};
use crate::domain::observation::Data;
use crate::domain::reconcile::{Action, Process};
use crate::domain::record::DataMark;
use crate::domain::types::{Epoch, Lsn, MemberName};

impl World {
    /// Whether a member's server is the primary of this epoch, and can be reached.
    fn reaches_primary(&self, m: usize, p: usize, epoch: Epoch) -> bool {
        let tree = &self.members[p].tree;
        self.machines[p].moves()
            && tree.runs()
            && tree.hung == 0
            && tree.primary() == Some(epoch)
            && self.net.open(m, p)
            && self.net.open(p, m)
    }

    /// Where the log of an epoch's primary ends, asked of it.
    pub(super) fn position_of(&self, m: usize, primary: &MemberName, epoch: Epoch) -> Option<Lsn> {
        let p = self.index(primary)?;
        self.reaches_primary(m, p, epoch).then(|| Lsn(self.members[p].dir.log.end))
    }

    /// Whether the duty's upstream, if it has one, may be followed: WAL is only ever taken from a
    /// standby that has itself promised the epoch.
    pub(super) fn upstream_serves(&mut self, m: usize, duty: &FollowDuty) -> bool {
        let Some(upstream) = &duty.upstream else { return true };
        let now = self.now;
        let serves = self.index(&upstream.member).is_some_and(|u| {
            let other = &self.members[u];
            u != m
                && other.tree.runs()
                && other.tree.follows.is_some_and(|(e, _)| e == duty.epoch)
                && other.tree.receiver.is_some()
                && other.record.promised >= duty.epoch
                && self.net.open(m, u)
                && self.net.open(u, m)
        });
        if !serves && let Some(agent) = self.agent(m) {
            agent.local.upstream_lost = true;
            agent.upstream_lost_at = now;
        }
        serves
    }

    pub(super) fn follow(&mut self, m: usize, duty: &FollowDuty, stage: u8) -> Then {
        match stage {
            0 => self.write_record(m, 1, |r| {
                // What was known of a copy was known of another primary's log.
                if let DataMark::Copied { source, until } = &mut r.data
                    && *source != duty.epoch
                {
                    (*source, *until) = (duty.epoch, None);
                }
            }),
            1 => {
                let Some(agent) = self.agent(m) else { return Then::Done };
                let promise = agent.local.record.promised;
                agent.local.process = Process::Sealed { promise, position: None };
                Then::After(self.pace.within(5, 40) * MS, 2)
            }
            _ => {
                let tree = &self.members[m].tree;
                if tree.phase != Phase::Running || tree.role != Role::Standby || tree.hung > 0 {
                    return Then::NotReady;
                }
                let address = duty.streams_from().1.to_owned();
                let Some(source) = self.at_address(&address) else { return Then::Failed };
                if !self.upstream_serves(m, duty) {
                    return Then::Done;
                }
                self.begin_receiving(m, duty.epoch, source);
                let epoch = duty.epoch;
                self.remember(m, Remembered::Following(epoch, address.clone()));
                if let Some(agent) = self.agent(m) {
                    agent.local.source_lacks_wal = false;
                    agent.local.process = Process::Following { epoch, address };
                }
                Then::Done
            }
        }
    }

    /// Where a copy is taken from: a standby that may be copied, else the primary.
    fn copy_source(&self, m: usize, duty: &FollowDuty, primary: usize) -> usize {
        let fit = |s: &usize| {
            let member = &self.members[*s];
            member.tree.runs()
                && member.tree.role == Role::Standby
                && member.tree.follows.is_some_and(|(e, _)| e == duty.epoch)
                && member.record.data == DataMark::Intact
                && self.net.open(m, *s)
                && self.net.open(*s, m)
        };
        let sources = duty.sources.iter().filter_map(|s| self.index(&s.member));
        sources.filter(|s| *s != m).find(fit).unwrap_or(primary)
    }

    /// A rewind or a copy: the directory is marked before it is touched.
    pub(super) fn replace(
        &mut self,
        m: usize,
        duty: &FollowDuty,
        work: &Work,
        rewind: bool,
    ) -> Then {
        let Some(primary) = self.index(&duty.primary) else { return Then::Failed };
        let there = self.reaches_primary(m, primary, duty.epoch);
        let held_up = self.members[primary].tree.promoted_at + 300 * MS > self.now;
        match work.stage {
            0 => {
                // A source that is not fit is found out before anything is touched; a rewind needs
                // a checkpoint of the primary's epoch.
                if !there || rewind && held_up {
                    return Then::Failed;
                }
                let source = if rewind { primary } else { self.copy_source(m, duty, primary) };
                if let Some(agent) = self.agent(m) {
                    if let Some(work) = &mut agent.work {
                        work.source = Some(source);
                    }
                    if agent.local.process == Process::Down {
                        return Then::After(0, 2);
                    }
                    agent.local.process = Process::Ending;
                }
                self.stop_receiving(m);
                let after = self.pace.within(40, 300) * MS;
                self.kill_tree(m);
                Then::After(after, 1)
            }
            1 => {
                if self.members[m].tree.lives() {
                    return Then::Until(60 * SECOND);
                }
                if let Some(agent) = self.agent(m) {
                    agent.local.process = Process::Down;
                    agent.local.guard = None;
                }
                self.write_record(m, 2, |r| r.note_ended(true))
            }
            2 => {
                let kept = self.agent(m).map(|a| a.local.record.clone());
                if let Some(work) = self.agent(m).and_then(|a| a.work.as_mut()) {
                    work.kept = kept;
                }
                self.write_record(m, 3, |r| {
                    r.data = DataMark::Replacing;
                    r.held = Epoch(0);
                    r.promised = r.promised.max(duty.epoch);
                })
            }
            3 => {
                let Some(agent) = self.agent(m) else { return Then::Done };
                agent.local.consistent = false;
                if !there {
                    return self.replacement_failed(m, work, rewind);
                }
                // From here on what lies there is worth nothing.
                let source = work.source.unwrap_or(primary);
                let log = Log::stump(&self.members[source].dir.log);
                let dir = &mut self.members[m].dir;
                dir.flushed = log.end;
                dir.log = log;
                if !rewind {
                    dir.data = Data::Incomplete;
                }
                let long = if rewind { (200, 2500) } else { (800, 9000) };
                Then::After(self.pace.within(long.0, long.1) * MS, 4)
            }
            4 => self.replaced(m, duty, work, primary, rewind),
            _ => {
                if let Some(agent) = self.agent(m) {
                    agent.local.rewind_failed = false;
                    agent.local.source_lacks_wal = false;
                    agent.local.unstartable = false;
                }
                Then::Done
            }
        }
    }

    fn replacement_failed(&mut self, m: usize, work: &Work, rewind: bool) -> Then {
        let kept = work.kept.clone();
        let untouched = self.luck.one_in(2);
        let Some(agent) = self.agent(m) else { return Then::Done };
        if rewind
            && untouched
            && let Some(kept) = kept
        {
            // Nothing was begun: it is what it has been.
            agent.local.record = kept.clone();
            let member = &mut self.members[m];
            member.record_before = std::mem::replace(&mut member.record, kept);
        } else {
            agent.local.rewind_failed = rewind;
        }
        Then::Failed
    }

    fn replaced(
        &mut self,
        m: usize,
        duty: &FollowDuty,
        work: &Work,
        primary: usize,
        rewind: bool,
    ) -> Then {
        let source = work.source.unwrap_or(primary);
        let from = &self.members[source];
        let fit = match source == primary {
            true => self.reaches_primary(m, primary, duty.epoch),
            false => {
                from.tree.runs()
                    && from.tree.role == Role::Standby
                    && self.net.open(source, m)
                    && self.machines[source].moves()
            }
        };
        if !fit {
            if let Some(agent) = self.agent(m) {
                agent.local.rewind_failed = rewind;
                agent.local.data =
                    if rewind { Data::Present { system_id: SYSTEM } } else { Data::Incomplete };
            }
            return Then::Failed;
        }
        self.counts.replaced += 1;
        let mut log = from.dir.log.clone();
        log.truncate(from.dir.flushed);
        let dir = &mut self.members[m].dir;
        dir.flushed = log.end;
        dir.log = log;
        dir.data = Data::Present { system_id: SYSTEM };
        if let Some(agent) = self.agent(m) {
            agent.local.data = Data::Present { system_id: SYSTEM };
        }
        let (source, until) = (duty.epoch, None);
        let at_once = without(Mutant::CopyCountsAtOnce);
        self.write_record(m, 5, |r| {
            r.data = if at_once { DataMark::Intact } else { DataMark::Copied { source, until } };
            r.system_id = Some(SYSTEM);
        })
    }

    /// What is under way for a primary that is none any more is given up.
    pub(super) fn overtaken(&mut self, m: usize) {
        let Some(agent) = self.agent(m) else { return };
        let Some(work) = &agent.work else { return };
        let Task::Action(Action::Rewind(duty) | Action::Clone(duty)) = &work.task else { return };
        let same = matches!(&agent.want, Some(Desired::Follow(now))
            if now.epoch == duty.epoch && now.address == duty.address);
        // A record that is being written is written.
        if same || work.stage < 4 || work.writing.is_some() {
            return;
        }
        agent.local.rewind_failed = matches!(&work.task, Task::Action(Action::Rewind(_)));
        agent.work = None;
        agent.not_before = 0;
        let data = self.members[m].dir.data.clone();
        if let Some(agent) = self.agent(m) {
            agent.local.data = data;
        }
        self.wake(m);
    }

    pub(super) fn disown_data(&mut self, m: usize, why: &str, stage: u8) -> Then {
        if stage == 0 {
            let called = self.called(m);
            self.story.tell(self.now, || format!("{called}: its data is not trusted: {why}"));
            if let Some(agent) = self.agent(m)
                && agent.local.process != Process::Down
            {
                agent.local.process = Process::Ending;
            }
            return self.write_record(m, 1, |r| {
                r.data = DataMark::Foreign;
                r.held = Epoch(0);
            });
        }
        Then::Done
    }

    /// The beginning of a run: what runs is taken over where it is known, and ended where not.
    pub(super) fn take_over(&mut self, m: usize, stage: u8) -> Then {
        let tree = &self.members[m].tree;
        let Some(agent) = self.members[m].agent.as_deref() else { return Then::Done };
        let record = agent.local.record.clone();
        let known = tree.phase == Phase::Running
            && match &tree.remembered {
                Some(Remembered::Primary { epoch, .. }) => {
                    record.ended < *epoch && record.held == *epoch
                }
                Some(_) => record.data != DataMark::Foreign,
                None => false,
            };
        match stage {
            0 if !known && tree.lives() => {
                self.kill_tree(m);
                Then::Until(60 * SECOND)
            }
            0 if !tree.lives() && (record.held > record.ended || record.running.is_some()) => {
                // The tree that ran last is gone, by proof: what it held is over.
                self.write_record(m, 1, |r| {
                    r.ended = r.ended.max(r.held);
                    r.note_ended(true);
                })
            }
            0 => Then::After(self.pace.within(1, 20) * MS, 1),
            _ if tree.phase == Phase::Running && !known => Then::After(0, 0),
            _ => self.taken_over(m),
        }
    }

    fn taken_over(&mut self, m: usize) -> Then {
        let member = &self.members[m];
        let (data, tree) = (member.dir.data.clone(), &member.tree);
        let run = tree.remembered.clone().filter(|_| tree.phase == Phase::Running);
        let (guard, armed) = (tree.guard.clone(), tree.armed);
        let Some(agent) = self.agent(m) else { return Then::Done };
        agent.loaded = true;
        agent.local.data = data;
        // A copied directory that needs no more of its source says so in its control file.
        agent.local.consistent = false;
        agent.local.process = match run {
            None => Process::Down,
            Some(Remembered::Sealed(promise)) => Process::Sealed { promise, position: None },
            Some(Remembered::Following(epoch, address)) => Process::Following { epoch, address },
            Some(Remembered::Primary { epoch, promoted, writes_open }) => {
                // The kernel's deadline bounds it from above; the next renewal says more.
                agent.local.lease =
                    armed.map(|kill_at| HolderLease { epoch, stop_at: kill_at, kill_at });
                agent.claim = guard.clone().map(|g| (epoch, g));
                let is_promoted = promoted.is_some();
                agent.lineage = promoted;
                Process::Primary { epoch, promoted: is_promoted, confirmed: None, writes_open }
            }
        };
        if agent.local.process != Process::Down {
            agent.local.guard = guard;
        }
        self.timer(m, 0, super::queue::Timer::Fence);
        self.renew(m);
        Then::Done
    }
}
