//! A member: what its processes do, what its agent does, by the production `reconcile`, record and
//! lease.

use super::clocks::Age;
use super::logs::{LogId, UNKNOWN, guard_id, member_name};
use super::memo::Memo;
use super::planner::{lineage, position};
use super::state::{Claim, Member, Phase, Proc, Record, Renewal, State, Tree};
use super::{Action, Lease, Rule};
use crate::domain::lease::HolderLease;
use crate::domain::observation::{Data, Sealed};
use crate::domain::reconcile::{self, Local, Process, reconcile};
use crate::domain::record::MemberRecord;
use crate::domain::types::{Epoch, SystemId};

/// All that a step of the agent depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    member: u8,
    view: LogId,
    record: Record,
    guard: u8,
    process: Proc,
    lease: Option<(u8, Age)>,
}

/// What the agent does next: the production actions that come up here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Nothing,
    ProveEnd,
    EndEpoch(u8),
    StartSealed(u8),
    Seal(u8),
    Accept(u8),
    Promote(u8),
    Disown(u8),
    /// Something that the model does not know.
    Unexpected,
}

/// Answers to questions.
pub type Steps = Memo<Question, Act>;
/// Records after the end of an epoch.
pub type Ends = Memo<(Record, u8), Record>;

fn big(epoch: u8) -> Epoch {
    Epoch(u64::from(epoch))
}

fn small(epoch: Epoch) -> u8 {
    u8::try_from(epoch.0).unwrap_or(u8::MAX)
}

impl Lease {
    /// What may happen at a member next.
    pub fn member_actions(&self, state: &State, m: u8, actions: &mut Vec<Action>) {
        let member = &state.members[usize::from(m)];
        match member.tree.phase {
            // Where it cannot be started again, its end makes a difference only to an epoch.
            Phase::Running
                if self.bounds.deaths
                    && (member.tree.guard < self.bounds.guards
                        || member.tree.role != 0
                        || self.bounds.stepwise) =>
            {
                actions.push(Action::Die { member: m });
            }
            Phase::Running => {}
            Phase::Ending => actions.push(Action::Vanish { member: m }),
            Phase::Gone | Phase::Empty => {}
        }
        if member.tree.phase == Phase::Running && member.tree.promoting != 0 {
            actions.push(Action::Promoted { member: m });
        }
        if state.restarts > 0 {
            actions.push(Action::RestartAgent { member: m });
        }
        for (n, node) in (0..).zip(&state.nodes) {
            if node.ledger.is_some() && self.newer_view(member.view, node.commit, m).is_some() {
                let learn = match self.bounds.stepwise {
                    true => Action::Learn { member: m, from: n },
                    false => Action::LearnAndAct { member: m, from: n },
                };
                actions.push(learn);
            }
        }
        actions.push(Action::Agent { member: m });
        let same = Claim { age: 0, epoch: member.claim, guard: member.tree.guard };
        // A renewal that is on its way is given up for a new one.
        if member.claim != 0 && member.renewal.claim() != Some(same) {
            self.renewals(state, m, same, actions);
        }
        if let Renewal::Acknowledged { .. } = member.renewal {
            actions.push(Action::TakeLease { member: m });
        }
        if let Renewal::Judged { .. } = member.renewal
            && !self.bounds.stepwise
        {
            actions.push(Action::TakeLease { member: m });
        }
        if self.without(Rule::ArmBeforeLease)
            && member.lease.is_some_and(|(_, age)| member.tree.armed != Some(age))
        {
            actions.push(Action::ArmLate { member: m });
        }
        if self.without(Rule::StopFinal)
            && member.tree.phase == Phase::Gone
            && member.tree.guard < self.bounds.guards
            && self.leased(member, member.record.held)
        {
            actions.push(Action::RunAgain { member: m });
        }
    }

    fn renewals(&self, state: &State, m: u8, claim: Claim, actions: &mut Vec<Action>) {
        // One that is judged before it arrives has steps of its own.
        if self.bounds.stepwise || self.without(Rule::CheckAfterBarrier) {
            actions.push(Action::Renew { member: m });
        }
        if self.bounds.stepwise {
            return;
        }
        for (n, node) in (0..).zip(&state.nodes) {
            if node.ledger.is_some() && self.judge(node.commit, m, claim) {
                actions.push(Action::RenewAt { member: m, leader: n });
            }
        }
    }

    /// Carries out an action of a member; `None` where it is of no effect.
    pub fn member_step(&self, state: &mut State, action: Action) -> Option<()> {
        let m = action.member()?;
        if let Action::Agent { .. } = action {
            return self.agent_step(state, m);
        }
        if let Action::RestartAgent { .. } = action {
            state.restarts -= 1;
        }
        if let Action::TakeLease { .. } = action {
            // Nothing to be settled where it is on its way already.
            let _ = self.settle(state, m);
        }
        if let Action::LearnAndAct { from, .. } = action {
            let commit = state.nodes[usize::from(from)].commit;
            let mut informed = *state;
            let member = &mut informed.members[usize::from(m)];
            member.view = self.newer_view(member.view, commit, m)?;
            let before = informed;
            self.agent_step(&mut informed, m)?;
            *state = informed;
            return (informed != before).then_some(());
        }
        let commit = match action {
            Action::Learn { from, .. } => state.nodes[usize::from(from)].commit,
            _ => UNKNOWN,
        };
        let member = &mut state.members[usize::from(m)];
        match action {
            Action::Die { .. } if self.slow_ends() => member.tree.phase = Phase::Ending,
            Action::Die { .. } => self.end_tree(member),
            Action::Vanish { .. } => self.vanish(member),
            Action::Promoted { .. } => {
                member.tree.promoted = std::mem::take(&mut member.tree.promoting);
                if let Proc::Primary { epoch, promoted } = &mut member.process
                    && *epoch == member.tree.promoted
                {
                    *promoted = true;
                }
            }
            Action::RestartAgent { .. } => self.take_over(member),
            Action::Learn { .. } => member.view = self.newer_view(member.view, commit, m)?,
            Action::Renew { .. } => {
                let claim = Claim { age: 0, epoch: member.claim, guard: member.tree.guard };
                member.renewal = Renewal::Sent { claim };
            }
            Action::TakeLease { .. } => self.take_lease(member),
            Action::ArmLate { .. } => member.tree.armed = member.lease.map(|(_, age)| age),
            Action::RunAgain { .. } => {
                let epoch = member.record.held;
                self.start(member, epoch);
                member.tree.armed = member.lease.map(|(_, age)| age);
                member.tree.role = epoch;
                member.tree.promoted = epoch;
                member.process = Proc::Primary { epoch, promoted: true };
            }
            _ => return None,
        }
        Some(())
    }

    // ---- processes ----

    /// Whether the end of a tree takes several steps.
    fn slow_ends(&self) -> bool {
        self.bounds.stepwise || self.without(Rule::ProofBeforeReport)
    }

    /// Nothing of the tree is left, and where that is one step the agent has recorded it.
    pub fn end_tree(&self, member: &mut Member) {
        self.vanish(member);
        if !self.slow_ends() {
            self.notice_end(member);
            self.prove_end(member);
        }
    }

    /// Nothing of the tree is left.
    fn vanish(&self, member: &mut Member) {
        let guard = member.tree.guard;
        member.tree = Tree { phase: Phase::Empty, guard, ..Tree::none() };
    }

    // A new life of the guard, with PostgreSQL as a standby. What is about to run is on disk first.
    fn start(&self, member: &mut Member, promise: u8) {
        let guard = member.tree.guard + 1;
        member.record.promised = member.record.promised.max(promise);
        member.record.running = guard;
        member.tree = Tree { phase: Phase::Running, guard, ..Tree::none() };
    }

    // ---- the agent ----

    fn newer_view(&self, known: LogId, commit: LogId, m: u8) -> Option<LogId> {
        let view = self.logs.get(commit).views[usize::from(m)];
        let newer = known == UNKNOWN || self.logs.get(view).depth > self.logs.get(known).depth;
        newer.then_some(view)
    }

    fn holder_lease(&self, lease: Option<(u8, Age)>) -> Option<HolderLease> {
        lease.map(|(epoch, age)| self.clocks.lease(epoch, age))
    }

    fn leased(&self, member: &Member, epoch: u8) -> bool {
        let lease = self.holder_lease(member.lease);
        lease.is_some_and(|lease| lease.may_write(big(epoch), self.clocks.holder_now()))
    }

    /// An acknowledged renewal comes back: the guard arms the kernel's timer, and then the lease
    /// counts. The rules of arming are those of the guard.
    fn take_lease(&self, member: &mut Member) {
        let Renewal::Acknowledged { claim } = member.renewal else { return };
        member.renewal = Renewal::None;
        let age = if self.without(Rule::LeaseFromSending) { 0 } else { claim.age };
        let lease = self.clocks.lease(claim.epoch, age);
        let alive = matches!(member.tree.phase, Phase::Running | Phase::Ending);
        let passed = lease.kill_at <= self.clocks.holder_now();
        let backwards = member.tree.armed.is_some_and(|armed| age > armed);
        if !alive || claim.guard != member.tree.guard || passed || backwards {
            return;
        }
        if !self.without(Rule::ArmBeforeLease) {
            member.tree.armed = Some(age);
        }
        let longer = self.holder_lease(member.lease).map(|older| older.extend(lease));
        if longer.is_none_or(|longer| longer == lease) {
            member.lease = Some((claim.epoch, age));
        }
    }

    /// The agent starts anew: what it knew is gone, and it takes over what runs.
    fn take_over(&self, member: &mut Member) {
        member.view = UNKNOWN;
        member.lease = None;
        member.claim = 0;
        member.renewal = Renewal::None;
        let Record { held, ended, running, .. } = member.record;
        let left = if held > ended { held } else { 0 };
        member.process = match (member.tree.phase, member.tree.role) {
            (Phase::Running, 0) => Proc::Sealed { promise: member.record.promised, settled: false },
            (Phase::Running, epoch) if ended < epoch && held == epoch => {
                member.lease = member.tree.armed.map(|age| (epoch, age));
                member.claim = epoch;
                Proc::Primary { epoch, promoted: member.tree.promoted == epoch }
            }
            // What it was is not remembered, or it must not run: it ends.
            (Phase::Running | Phase::Ending, _) => {
                member.process = Proc::Ending(left);
                self.prove_end(member);
                member.process
            }
            (Phase::Gone | Phase::Empty, _) => {
                if left != 0 || running != 0 {
                    self.record_end(member, left);
                }
                Proc::Down
            }
        };
    }

    /// One turn of the agent's worker: it sees whether the tree has ended, asks what to do, and does
    /// it.
    fn agent_step(&self, state: &mut State, m: u8) -> Option<()> {
        let member = &mut state.members[usize::from(m)];
        self.notice_end(member);
        match self.next_act(member, m) {
            Act::Nothing => {}
            Act::ProveEnd => self.prove_end(member),
            Act::EndEpoch(epoch) => {
                member.claim = 0;
                member.process = Proc::Ending(epoch);
                self.prove_end(member);
            }
            Act::StartSealed(promise) => {
                if member.tree.guard >= self.bounds.guards {
                    return None;
                }
                self.start(member, promise);
                member.process = Proc::Sealed { promise, settled: true };
            }
            // Taken together with the grant.
            Act::Seal(_)
                if !self.bounds.stepwise
                    && matches!(member.process, Proc::Sealed { settled: true, .. }) =>
            {
                return None;
            }
            Act::Seal(promise) => {
                member.record.promised = member.record.promised.max(promise);
                member.process = Proc::Sealed { promise, settled: true };
            }
            Act::Accept(epoch) => {
                member.record.held = member.record.held.max(epoch);
                member.record.promised = member.record.promised.max(epoch);
                member.process = Proc::Primary { epoch, promoted: false };
                member.tree.role = epoch;
                member.claim = epoch;
                if self.without(Rule::LeaseByRenewal) {
                    member.lease = Some((epoch, 0));
                    member.tree.armed = Some(0);
                }
            }
            // From here on nothing is asked any more: however long it takes, it happens.
            Act::Promote(epoch) => member.tree.promoting = epoch,
            Act::Disown(epoch) => {
                member.record.ended = member.record.ended.max(epoch);
                member.claim = 0;
                member.reported.0 = member.record.ended;
            }
            Act::Unexpected => state.unexpected = true,
        }
        Some(())
    }

    fn notice_end(&self, member: &mut Member) {
        let ended = matches!(member.tree.phase, Phase::Ending | Phase::Empty);
        if ended && !matches!(member.process, Proc::Down | Proc::Ending(_)) {
            member.process = match member.process {
                Proc::Primary { epoch, .. } => Proc::Ending(epoch),
                _ => Proc::Ending(0),
            };
            member.claim = 0;
        }
    }

    /// Kills what is left, and once nothing is, records that.
    fn prove_end(&self, member: &mut Member) {
        let Proc::Ending(epoch) = member.process else { return };
        match member.tree.phase {
            Phase::Running if !self.slow_ends() => {
                self.vanish(member);
                self.prove_end(member);
            }
            Phase::Running => member.tree.phase = Phase::Ending,
            Phase::Ending if self.without(Rule::ProofBeforeReport) => {
                let guard = member.tree.guard;
                member.reported = (member.record.ended.max(epoch), 1 << guard);
            }
            Phase::Ending => {}
            Phase::Empty | Phase::Gone => {
                self.record_end(member, epoch);
                member.process = Proc::Down;
                member.claim = 0;
            }
        }
    }

    /// Records that nothing of the tree is left: on disk first, then it may be reported.
    fn record_end(&self, member: &mut Member, epoch: u8) {
        let before = member.record;
        member.record = self.ends.get((before, epoch), || {
            let mut record = full_record(0, &before);
            record.ended = record.ended.max(big(epoch));
            record.note_ended(true);
            let emptied = |g: &u8| record.emptied.contains(&guard_id(0, *g));
            Record {
                ended: small(record.ended),
                running: 0,
                emptied: (1..16).filter(emptied).map(|g| 1 << g).sum(),
                ..before
            }
        });
        member.reported = (member.record.ended, member.record.emptied);
        member.tree = Tree { guard: member.tree.guard, ..Tree::none() };
    }

    fn next_act(&self, member: &Member, m: u8) -> Act {
        let known = member.tree.phase != Phase::Gone;
        let question = Question {
            member: m,
            view: member.view,
            record: member.record,
            guard: if known { member.tree.guard } else { 0 },
            process: member.process,
            lease: member.lease,
        };
        self.steps.get(question, || self.ask(question))
    }

    fn ask(&self, q: Question) -> Act {
        let now = self.clocks.holder_now();
        let lease = self.holder_lease(q.lease);
        if q.view == UNKNOWN {
            // As the worker does without any view of the state.
            let may = |epoch| lease.is_some_and(|lease| lease.may_write(big(epoch), now));
            return match q.process {
                Proc::Ending(_) => Act::ProveEnd,
                Proc::Primary { epoch, .. } if !may(epoch) => Act::EndEpoch(epoch),
                _ => Act::Nothing,
            };
        }
        let local = Local {
            record: full_record(q.member, &q.record),
            data: Data::Present { system_id: SystemId(7) },
            guard: (q.guard != 0).then(|| guard_id(q.member, q.guard)),
            process: full_process(&q),
            lease,
            hung: false,
            rewind_failed: false,
            source_lacks_wal: false,
            unstartable: false,
            consistent: true,
            upstream_lost: false,
            no_part_until: Default::default(),
        };
        let log = self.logs.get(q.view);
        let wanted = &log.desired[usize::from(q.member)];
        match reconcile(&member_name(q.member), wanted, &local, now) {
            reconcile::Action::Nothing { .. } => Act::Nothing,
            reconcile::Action::ProveEnd => Act::ProveEnd,
            reconcile::Action::EndEpoch { epoch, .. } => Act::EndEpoch(small(epoch)),
            reconcile::Action::StartSealed { promise } => Act::StartSealed(small(promise)),
            reconcile::Action::Seal { promise } => Act::Seal(small(promise)),
            reconcile::Action::Accept { epoch } => Act::Accept(small(epoch)),
            reconcile::Action::Promote { epoch, .. } => Act::Promote(small(epoch)),
            reconcile::Action::Disown { epoch } => Act::Disown(small(epoch)),
            // The barrier after a promotion: what comes of it is the other model's.
            reconcile::Action::ConfirmSync { .. } => Act::Nothing,
            _ => Act::Unexpected,
        }
    }
}

fn full_record(member: u8, record: &Record) -> MemberRecord {
    let mut full = MemberRecord::new(super::logs::cluster(), member_name(member));
    full.system_id = Some(SystemId(7));
    full.promised = big(record.promised);
    full.held = big(record.held);
    full.ended = big(record.ended);
    full.running = (record.running != 0).then(|| guard_id(member, record.running));
    let lives = (1..16).filter(|g| record.emptied & (1 << g) != 0);
    full.emptied = lives.map(|g| guard_id(member, g)).collect();
    full
}

fn full_process(q: &Question) -> Process {
    match q.process {
        Proc::Down => Process::Down,
        Proc::Ending(_) => Process::Ending,
        Proc::Sealed { promise, settled } => Process::Sealed {
            promise: big(promise),
            position: settled.then(|| Sealed {
                no_room: false,
                member: member_name(q.member),
                guard: guard_id(q.member, q.guard),
                promised: big(q.record.promised),
                wal_epoch: Epoch(1),
                lsn: position(),
                held: big(q.record.held),
                lineage: lineage(),
            }),
        },
        Proc::Primary { epoch, promoted } => {
            let epoch = big(epoch);
            Process::Primary { epoch, promoted, confirmed: None, writes_open: false }
        }
    }
}

impl Tree {
    /// Nothing runs.
    pub const fn none() -> Self {
        Tree { phase: Phase::Gone, guard: 0, armed: None, role: 0, promoting: 0, promoted: 0 }
    }
}
