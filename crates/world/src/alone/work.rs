//! An agent's worker: asks production's `reconcile` what to do, and does it, one thing at a time.
//!
//! Each work goes through stages; between two of them anything may happen, the agent's death too.
//! What is written to the member's record is on disk before the next stage begins.

use super::clock::{MS, Micros, SECOND};
use super::queue::Timer;
use super::server::{Phase, Remembered};
use super::world::World;
use crate::domain::desired::Desired;
use crate::domain::reconcile::{Action, EndReason, Process, reconcile};
use crate::domain::record::MemberRecord;
use crate::domain::types::Epoch;

/// How often the worker looks without being woken.
const TICK: Micros = SECOND;
/// Pause after something was not ready.
pub const NOT_READY: Micros = 15 * MS;
/// First and longest pause after a failure.
const BACKOFF_MIN: Micros = 200 * MS;
const BACKOFF_MAX: Micros = 5 * SECOND;
/// What any step takes.
const PACE: Micros = 50;
/// How often the proof of a copy is looked at.
const PROOF: Micros = 100 * MS;

/// Something that is done.
// One a member at most.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// The beginning of a run: what there is is taken over.
    TakeOver,
    /// An action of `reconcile`.
    Action(Action),
    /// The data is not what the record says.
    DisownData(&'static str),
}

/// Something under way.
#[derive(Debug, Clone)]
pub struct Work {
    /// Its number in this run of the agent.
    pub number: u32,
    /// What.
    pub task: Task,
    /// How far it is.
    pub stage: u8,
    /// A record that is on its way to the disk.
    pub writing: Option<MemberRecord>,
    /// Until when it waits for what it waits for.
    pub until: Option<Micros>,
    /// Where data comes from.
    pub source: Option<usize>,
    /// A position that has to be confirmed.
    pub position: u64,
    /// Record to restore where a replacement touched nothing.
    pub kept: Option<MemberRecord>,
}

/// How a stage ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// After so long the next begins.
    After(Micros, u8),
    /// The same again once something has changed, at the latest after so long.
    Until(Micros),
    /// All is done: look at once what is next.
    Done,
    /// Nothing was ready: again soon.
    NotReady,
    /// It failed: again after a pause.
    Failed,
}

impl World {
    pub(super) fn worker(&mut self, m: usize, what: Timer) {
        match what {
            Timer::Wake => {
                if let Some(agent) = self.agent(m) {
                    agent.waking = false;
                }
                self.look(m);
            }
            Timer::Tick => {
                self.timer(m, TICK, Timer::Tick);
                self.look(m);
            }
            Timer::Work(number) => {
                let same = |w: &Work| w.number == number;
                if self.agent(m).is_some_and(|a| a.work.as_ref().is_some_and(same)) {
                    self.go_on(m);
                }
            }
            _ => {}
        }
    }

    /// What is under way looks whether what it waits for has come.
    pub(super) fn work_goes_on(&mut self, m: usize) {
        if let Some(agent) = self.agent(m)
            && let Some(work) = agent.work.as_ref().filter(|w| w.until.is_some())
        {
            let number = work.number;
            self.timer(m, 0, Timer::Work(number));
        }
    }

    /// One turn of the worker.
    fn look(&mut self, m: usize) {
        let (now, local_now) = (self.now, self.clock(m));
        let Some(agent) = self.agent(m) else { return };
        if agent.work.is_some() || agent.not_before > now {
            return;
        }
        if !agent.loaded {
            return self.begin_work(m, Task::TakeOver);
        }
        self.notice_end(m);
        let member = &self.members[m];
        let Some(agent) = member.agent.as_deref() else { return };
        let Some(want) = &agent.want else {
            return self.look_blindly(m);
        };
        match reconcile(&member.name, want, &agent.local, local_now) {
            Action::Nothing { .. } => {
                if let Some(agent) = self.agent(m) {
                    agent.failures = 0;
                }
                self.prove_copy(m);
            }
            action => self.begin_work(m, Task::Action(action)),
        }
    }

    /// Nothing is known of what is agreed: what runs goes on, as long as its lease.
    fn look_blindly(&mut self, m: usize) {
        let now = self.clock(m);
        let Some(agent) = self.agent(m) else { return };
        match agent.local.process {
            Process::Ending => self.begin_work(m, Task::Action(Action::ProveEnd)),
            Process::Primary { epoch, .. }
                if !agent.local.lease.is_some_and(|l| l.may_write(epoch, now)) =>
            {
                let why = EndReason::LeaseExpired;
                self.begin_work(m, Task::Action(Action::EndEpoch { epoch, why }));
            }
            _ => {}
        }
    }

    /// Sees whether the process tree has ended by itself.
    fn notice_end(&mut self, m: usize) {
        let now = self.clock(m);
        let phase = self.members[m].tree.phase;
        let Some(agent) = self.agent(m) else { return };
        if phase == Phase::Running || matches!(agent.local.process, Process::Down | Process::Ending)
        {
            return;
        }
        if let Process::Primary { epoch, .. } = agent.local.process {
            let leased = agent.local.lease.is_some_and(|l| l.may_write(epoch, now));
            agent.ending = Some((epoch, agent.local.hung || leased && agent.claim.is_some()));
        }
        agent.claim = None;
        agent.local.process = Process::Ending;
        self.tell_news(m);
    }

    fn begin_work(&mut self, m: usize, task: Task) {
        let called = self.called(m);
        if self.story.on() && !matches!(task, Task::Action(Action::ConfirmSync { .. })) {
            let text = match &task {
                Task::Action(action) => super::story::action(action),
                other => format!("{other:?}"),
            };
            self.story.begins(self.now, m, &called, text);
        }
        let Some(agent) = self.agent(m) else { return };
        agent.works += 1;
        let number = agent.works;
        agent.work = Some(Work {
            number,
            task,
            stage: 0,
            writing: None,
            until: None,
            source: None,
            position: 0,
            kept: None,
        });
        self.go_on(m);
    }

    /// The next stage of what is under way.
    fn go_on(&mut self, m: usize) {
        let now = self.now;
        self.keep_written(m);
        let Some(work) = self.agent(m).and_then(|a| a.work.clone()) else { return };
        let then = match &work.task {
            Task::TakeOver => self.take_over(m, work.stage),
            Task::DisownData(why) => self.disown_data(m, why, work.stage),
            Task::Action(action) => self.act(m, action, &work),
        };
        let Some(agent) = self.agent(m) else { return };
        let Some(under_way) = agent.work.as_mut().filter(|w| w.number == work.number) else {
            return;
        };
        let number = work.number;
        match then {
            Then::After(pause, stage) => {
                under_way.stage = stage;
                under_way.until = None;
                self.timer(m, pause, Timer::Work(number));
            }
            Then::Until(pause) => {
                if under_way.until.is_none_or(|until| until <= now) {
                    under_way.until = Some(now + pause);
                    self.timer(m, pause, Timer::Work(number));
                }
            }
            Then::Done => {
                let done = agent.work.take().map(|w| w.task);
                agent.failures = 0;
                // Nothing takes no time at all, and what does nothing is not done all the time.
                agent.repeats = if agent.done == done { agent.repeats + 1 } else { 0 };
                agent.done = done;
                let pace = if agent.repeats > 20 { 100 * MS } else { PACE };
                let waking = std::mem::replace(&mut agent.waking, true);
                self.tell_news(m);
                if !waking {
                    self.timer(m, pace, Timer::Wake);
                }
            }
            Then::NotReady => self.rest(m, NOT_READY),
            Then::Failed => {
                agent.failures = (agent.failures + 1).min(8);
                let pause = (BACKOFF_MIN << (agent.failures - 1)).min(BACKOFF_MAX);
                self.rest(m, pause);
            }
        }
    }

    fn rest(&mut self, m: usize, pause: Micros) {
        let at = self.now + pause;
        if let Some(agent) = self.agent(m) {
            agent.work = None;
            agent.not_before = at;
            self.timer(m, pause, Timer::Wake);
        }
    }

    /// What was on its way to the disk is there.
    fn keep_written(&mut self, m: usize) {
        let Some(agent) = self.agent(m) else { return };
        let Some(record) = agent.work.as_mut().and_then(|w| w.writing.take()) else { return };
        agent.local.record = record.clone();
        let member = &mut self.members[m];
        member.record_before = std::mem::replace(&mut member.record, record);
    }

    /// The daemon is gone in the middle of something: a record may or may not be on the disk.
    pub(super) fn interrupt(&mut self, m: usize) {
        let there = self.luck.one_in(2);
        let member = &mut self.members[m];
        if let Some(agent) = member.agent.take()
            && let Some(record) = agent.work.and_then(|w| w.writing)
            && there
        {
            member.record_before = std::mem::replace(&mut member.record, record);
        }
    }

    /// Changes the record: on disk first, in memory after. The next stage begins then.
    pub(super) fn write_record(
        &mut self,
        m: usize,
        stage: u8,
        change: impl FnOnce(&mut MemberRecord),
    ) -> Then {
        let Some(agent) = self.agent(m) else { return Then::Done };
        let mut record = agent.local.record.clone();
        change(&mut record);
        if record == agent.local.record {
            return Then::After(0, stage);
        }
        if let Some(work) = &mut agent.work {
            work.writing = Some(record);
        }
        let after = self.flush_us(m);
        Then::After(after, stage)
    }

    /// Remembers what runs, beside the guard.
    pub(super) fn remember(&mut self, m: usize, what: Remembered) {
        self.members[m].tree.remembered = Some(what);
    }

    fn act(&mut self, m: usize, action: &Action, work: &Work) -> Then {
        let stage = work.stage;
        match action {
            Action::Nothing { .. } => Then::Done,
            Action::Initialise => self.initialise(m, stage),
            // No operator of this world removes or adopts anybody.
            Action::Adopt { .. } => Then::Done,
            Action::ProveEnd | Action::Retire => self.prove_end(m, stage),
            Action::EndEpoch { epoch, why } => {
                if stage == 0
                    && let Some(agent) = self.agent(m)
                {
                    agent.ending = Some((*epoch, *why == EndReason::Hung));
                    agent.claim = None;
                    agent.local.process = Process::Ending;
                }
                self.prove_end(m, stage)
            }
            Action::Restart => {
                if stage == 0
                    && let Some(agent) = self.agent(m)
                {
                    agent.local.process = Process::Ending;
                }
                self.prove_end(m, stage)
            }
            Action::Disown { epoch } => self.disown(m, *epoch, stage),
            Action::StartSealed { promise } => self.start(m, *promise, None, stage),
            Action::StartFollowing(duty) => self.start(m, duty.epoch, Some(duty), stage),
            Action::Seal { promise } => self.seal(m, *promise, stage),
            Action::Accept { epoch } => self.accept_epoch(m, *epoch, stage),
            Action::Promote { epoch, sync } => self.promote(m, *epoch, sync, stage),
            Action::ConfirmSync { syncs } => self.confirm_sync(m, syncs, work),
            Action::OpenWrites { epoch } => self.open_writes(m, *epoch, stage),
            Action::HandOver { epoch, target } => self.hand_over(m, *epoch, target, work),
            Action::Follow(duty) => self.follow(m, duty, stage),
            Action::Rewind(duty) => self.replace(m, duty, work, true),
            Action::Clone(duty) => self.replace(m, duty, work, false),
        }
    }

    // ---- ends ----

    /// Kills what is left, proves that nothing is, and records that.
    pub(super) fn prove_end(&mut self, m: usize, stage: u8) -> Then {
        match stage {
            0 if self.members[m].tree.lives() => {
                self.kill_tree(m);
                Then::Until(60 * SECOND)
            }
            0 => {
                let ending = self.agent(m).and_then(|a| a.ending);
                self.write_record(m, 1, |r| {
                    if let Some((epoch, _)) = ending {
                        r.ended = r.ended.max(epoch);
                    }
                    r.note_ended(true);
                })
            }
            _ => {
                let called = self.called(m);
                self.story.tell(self.now, || format!("{called} is down, proven and recorded"));
                let Some(agent) = self.agent(m) else { return Then::Done };
                if let Some((_, crashed)) = agent.ending.take() {
                    agent.crashed = crashed;
                }
                agent.local.process = Process::Down;
                agent.local.guard = None;
                agent.local.hung = false;
                agent.claim = None;
                agent.lineage = None;
                Then::Done
            }
        }
    }

    fn disown(&mut self, m: usize, epoch: Epoch, stage: u8) -> Then {
        if stage == 0 {
            return self.write_record(m, 1, |r| r.ended = r.ended.max(epoch));
        }
        if let Some(agent) = self.agent(m) {
            agent.claim = None;
            agent.crashed = false;
        }
        Then::Done
    }

    // ---- the proof of a copy ----

    fn prove_copy(&mut self, m: usize) {
        use crate::domain::record::DataMark;
        let Some(agent) = self.agent(m) else { return };
        let DataMark::Copied { source, until } = agent.local.record.data else { return };
        let (Some(Desired::Follow(duty)), Process::Following { epoch, .. }) =
            (&agent.want, &agent.local.process)
        else {
            return;
        };
        let (wanted, follows) = (duty.epoch, *epoch);
        let primary = duty.primary.clone();
        self.timer(m, PROOF, Timer::Wake);
        let streams = self.members[m].tree.receiver.is_some() && follows == wanted;
        if !streams {
            return;
        }
        let data = match until {
            Some(lsn) if source == wanted => {
                if self.members[m].dir.flushed < lsn.0 {
                    return;
                }
                DataMark::Intact
            }
            _ => {
                let Some(lsn) = self.position_of(m, &primary, wanted) else { return };
                DataMark::Copied { source: wanted, until: Some(lsn) }
            }
        };
        // A question and a flush take their time; what they find is as good a little later.
        let Some(agent) = self.agent(m) else { return };
        agent.local.record.data = data;
        let record = agent.local.record.clone();
        let member = &mut self.members[m];
        member.record_before = std::mem::replace(&mut member.record, record);
        self.tell_news(m);
    }
}
