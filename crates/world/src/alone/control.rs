//! A controller: what it remembers while it leads, its answers to agents, and the loop that plans.
//!
//! What production's `controller` does, on the abstract consensus: a renewal is noted as arrived
//! before its barrier begins, judged by the state that the barrier gives, and settled in the ledger
//! before the answer leaves.

use std::rc::Rc;
use std::time::Duration;

use super::clock::{MS, Micros};
use super::queue::{Asked, Message, Timer};
use super::raft::Body;
use super::world::World;
use crate::domain::command::{Change, Command};
use crate::domain::lease::{LeaderLedger, Ticket};
use crate::domain::observation::{Condition, Observations, Progress, Report};
use crate::domain::plan::{self, plan};
use crate::domain::state::ClusterState;
use crate::domain::types::{Epoch, GuardId};

/// How often the planner looks without being woken.
const TICK: Micros = 100 * MS;
/// How long a barrier may take.
const BARRIER: Micros = 300 * MS;
/// How long a proposal may take.
const PROPOSAL: Micros = 2000 * MS;

/// What one leadership knows.
#[derive(Debug)]
pub struct Leadership {
    term: u64,
    pub(super) ledger: LeaderLedger,
    pub(super) observed: Observations,
}

/// Who waits for a barrier.
#[derive(Debug, Clone)]
enum Waits {
    Renewal { to: u8, run: u32, number: u32, claim: (Epoch, GuardId), ticket: Ticket },
    Poll { to: u8, run: u32, number: u32 },
}

#[derive(Debug, Clone)]
struct Barrier {
    number: u32,
    term: u64,
    mask: u8,
    until: Micros,
    /// Set once it is passed: whether the renewal is acknowledged.
    judged: Option<bool>,
    waits: Waits,
}

#[derive(Debug, Clone, Copy)]
struct Poller {
    to: u8,
    run: u32,
    number: u32,
    known: u32,
}

/// What a controller remembers; all of it is lost with its daemon.
#[derive(Debug, Default)]
pub struct Controller {
    pub(super) leadership: Option<Leadership>,
    barriers: Vec<Barrier>,
    pollers: Vec<Poller>,
    /// The entry that the planner waits for, once it is appended, and until when.
    proposed: Option<(Option<u32>, Micros)>,
    /// When the planner looks next.
    plan_at: Option<Micros>,
}

/// Whether the agreed state names this life of the guard and this epoch, and the epoch is open.
fn judge(state: &ClusterState, claim: &(Epoch, GuardId)) -> bool {
    state.open_tenure().is_some_and(|t| t.epoch == claim.0 && t.guard == claim.1)
}

impl World {
    /// The state that a controller has applied.
    pub(super) fn applied(&self, c: usize) -> Rc<ClusterState> {
        let commit = self.raft.nodes[c].commit;
        self.raft.entries[commit as usize].state.clone().expect("states in use are kept")
    }

    /// The daemon of a controller is gone.
    pub(super) fn forget_controller(&mut self, c: usize) {
        self.controllers[c] = Controller::default();
    }

    /// Makes the memory fit the role.
    pub(super) fn follow_role(&mut self, c: usize) {
        let term = self.raft.nodes[c].term;
        let now = self.clock(c);
        let established = self.established(c);
        let controller = &mut self.controllers[c];
        match &controller.leadership {
            Some(l) if established && l.term == term => return,
            _ if established => {
                let ledger = LeaderLedger::new(term, now);
                let observed = Observations::default();
                controller.leadership = Some(Leadership { term, ledger, observed });
                controller.proposed = None;
            }
            _ => {
                controller.leadership = None;
                controller.proposed = None;
                controller.barriers.clear();
                let pollers = std::mem::take(&mut controller.pollers);
                for p in pollers {
                    self.refuse(c, p.to, p.run, p.number, Asked::Poll);
                }
                return;
            }
        }
        self.wake_planner(c, 0);
    }

    fn refuse(&mut self, c: usize, to: u8, run: u32, number: u32, asked: Asked) {
        let node = &self.raft.nodes[c];
        let leads = matches!(node.role, super::raft::Role::Leader { .. });
        let hint = if leads { None } else { self.leader_hint(c) };
        let by = c as u8;
        self.send(c, to.into(), Message::NotLeader { by, run, number, hint, asked });
    }

    /// An agent asks something.
    pub(super) fn serve(&mut self, c: usize, message: Message) {
        match message {
            Message::Renew { from, run, number, claim } => {
                let now = self.clock(c);
                let name = self.cluster.clone();
                let Some(leadership) = &mut self.controllers[c].leadership else {
                    return self.refuse(c, from, run, number, Asked::Renewal);
                };
                let ticket = leadership.ledger.arrive(name, claim.0, now);
                let waits = Waits::Renewal { to: from, run, number, claim: *claim, ticket };
                self.begin_barrier(c, waits);
            }
            Message::Report { from, report } => {
                let now = self.clock(c);
                let name = self.members[usize::from(from)].name.clone();
                let established = self.established(c);
                let leadership = self.controllers[c].leadership.as_mut();
                let Some(leadership) = leadership.filter(|_| established) else {
                    let run = self.machines[usize::from(from)].run;
                    return self.refuse(c, from, run, 0, Asked::Report);
                };
                let before = leadership.observed.members.get(&name).map(|o| &o.report);
                let news = before.is_none_or(|b| is_news(b, &report));
                leadership.observed.record(name, *report, now);
                if news {
                    self.wake_planner(c, 0);
                }
            }
            Message::Poll { from, run, number, known } => {
                if !self.established(c) {
                    return self.refuse(c, from, run, number, Asked::Poll);
                }
                if known == 0 {
                    return self.begin_barrier(c, Waits::Poll { to: from, run, number });
                }
                let controller = &mut self.controllers[c];
                controller.pollers.retain(|p| p.to != from);
                controller.pollers.push(Poller { to: from, run, number, known });
                self.answer_pollers(c);
            }
            _ => {}
        }
    }

    /// Whether a poll is still waited with here.
    pub(super) fn is_polled(&self, c: usize, by: usize, run: u32, number: u32) -> bool {
        self.machines[c].awake()
            && self.controllers[c]
                .pollers
                .iter()
                .any(|p| usize::from(p.to) == by && p.run == run && p.number == number)
    }

    fn answer_pollers(&mut self, c: usize) {
        let index = self.raft.entries[self.raft.nodes[c].commit as usize].depth;
        let controller = &mut self.controllers[c];
        if controller.pollers.iter().all(|p| p.known >= index) {
            return;
        }
        let (answered, left): (Vec<Poller>, Vec<Poller>) =
            controller.pollers.drain(..).partition(|p| p.known < index);
        controller.pollers = left;
        let state = self.applied(c);
        for Poller { to, run, number, .. } in answered {
            let state = state.clone();
            self.send(c, to.into(), Message::State { run, number, index, state });
        }
    }

    fn begin_barrier(&mut self, c: usize, waits: Waits) {
        self.drop_late_barriers(c);
        self.raft.barriers += 1;
        let number = self.raft.barriers;
        let term = self.raft.nodes[c].term;
        let until = self.now + BARRIER;
        let mask = 1 << c;
        self.controllers[c].barriers.push(Barrier {
            number,
            term,
            mask,
            until,
            judged: None,
            waits,
        });
        for j in self.controllers_of().filter(|j| *j != c) {
            self.send(c, j, Message::Ping { from: c as u8, term, number });
        }
    }

    /// Nobody waits for a barrier for ever: what it held is refused, and counts no more.
    fn drop_late_barriers(&mut self, c: usize) {
        let now = self.now;
        let controller = &mut self.controllers[c];
        if controller.barriers.iter().all(|b| b.judged.is_some() || b.until >= now) {
            return;
        }
        let late = |b: &Barrier| b.judged.is_none() && b.until < now;
        for barrier in controller.barriers.iter().filter(|b| late(b)) {
            if let (Waits::Renewal { ticket, .. }, Some(leadership)) =
                (&barrier.waits, &mut controller.leadership)
            {
                leadership.ledger.refuse(*ticket);
            }
        }
        controller.barriers.retain(|b| !late(b));
    }

    pub(super) fn barrier_confirmed(&mut self, c: usize, from: u8, number: u32) {
        if self.controllers[c].barriers.is_empty() {
            return;
        }
        self.drop_late_barriers(c);
        let established = self.established(c);
        let (term, half) = (self.raft.nodes[c].term, self.setup.controllers as u32);
        let barriers = &mut self.controllers[c].barriers;
        let Some(at) = barriers.iter().position(|b| b.number == number) else { return };
        let barrier = &mut barriers[at];
        barrier.mask |= 1 << from;
        let passed = barrier.mask.count_ones() * 2 > half && barrier.term == term && established;
        if !passed || barrier.judged.is_some() {
            return;
        }
        match barrier.waits.clone() {
            Waits::Poll { to, run, number } => {
                self.controllers[c].barriers.remove(at);
                let index = self.raft.entries[self.raft.nodes[c].commit as usize].depth;
                let state = self.applied(c);
                self.send(c, to.into(), Message::State { run, number, index, state });
            }
            Waits::Renewal { claim, .. } => {
                let commit = self.raft.nodes[c].commit as usize;
                let state = self.raft.entries[commit].state.as_ref();
                let good = state.is_some_and(|s| judge(s, &claim));
                self.controllers[c].barriers[at].judged = Some(good);
                let late = self.machines[c].tasks_us;
                let after = if late > 0 { self.pace.below(late) } else { 0 };
                if after == 0 {
                    self.settle(c, number);
                } else {
                    self.timer(c, after, Timer::Settle(number));
                }
            }
        }
    }

    /// The ledger notes how a renewal ended, and the answer leaves.
    pub(super) fn settle(&mut self, c: usize, number: u32) {
        let controller = &mut self.controllers[c];
        let Some(at) = controller.barriers.iter().position(|b| b.number == number) else { return };
        let Barrier { term, judged, waits, .. } = controller.barriers.remove(at);
        let Waits::Renewal { to, run, number, ticket, .. } = waits else { return };
        let leadership = controller.leadership.as_mut().filter(|l| l.term == term);
        let known = leadership.map(|l| match judged {
            Some(true) => l.ledger.acknowledge(ticket),
            _ => {
                l.ledger.refuse(ticket);
                true
            }
        });
        match (known, judged) {
            (Some(true), Some(acknowledged)) => {
                self.send(c, to.into(), Message::Renewed { run, number, acknowledged });
            }
            _ => self.refuse(c, to, run, number, Asked::Renewal),
        }
    }

    // ---- the planner ----

    /// The planner looks after so long, unless it does so before.
    pub(super) fn wake_planner(&mut self, c: usize, after: Micros) {
        let at = self.now + after;
        let controller = &mut self.controllers[c];
        if controller.plan_at.is_some_and(|due| due <= at) {
            return;
        }
        controller.plan_at = Some(at);
        self.timer(c, after, Timer::Plan);
    }

    pub(super) fn plan_due(&mut self, c: usize) {
        let controller = &mut self.controllers[c];
        if controller.plan_at.is_none_or(|at| at > self.now) {
            // Another look came first.
            return;
        }
        controller.plan_at = None;
        if controller.leadership.is_none() || !self.established(c) {
            return;
        }
        self.drop_late_barriers(c);
        self.plan_once(c);
        self.wake_planner(c, TICK);
    }

    fn plan_once(&mut self, c: usize) {
        let (now, wall) = (self.clock(c), self.wall());
        let commit = self.raft.nodes[c].commit as usize;
        let Some(state) = self.raft.entries[commit].state.as_ref() else { return };
        let controller = &mut self.controllers[c];
        if controller.proposed.is_some_and(|(_, until)| until > self.now) {
            return;
        }
        controller.proposed = None;
        let Some(leadership) = &mut controller.leadership else { return };
        self.counts.passes += 1;
        leadership.observed.note_state(state, now);
        let Leadership { ledger, observed, .. } = &*leadership;
        let plan = plan(&self.cluster, state, observed, ledger, now, wall);
        if let Some(change) = plan.proposal {
            controller.proposed = Some((None, self.now + PROPOSAL));
            // It may also be late to be appended: whoever waits for it gives up before.
            let late = self.machines[c].tasks_us;
            let late = if late > 0 && self.pace.one_in(2) { late } else { 300 };
            let after = self.pace.below(late);
            self.timer(c, after, Timer::Append(Box::new(change)));
        }
    }

    /// What was decided on is appended, in whatever term the node leads by then.
    pub(super) fn append_change(&mut self, c: usize, change: Change) {
        if !matches!(self.raft.nodes[c].role, super::raft::Role::Leader { .. }) {
            self.controllers[c].proposed = None;
            return;
        }
        let command = Command { cluster: self.cluster.clone(), at: self.wall(), change };
        let entry = self.append_entry(c, Body::Command(Rc::new(command)));
        if let Some((waited, _)) = &mut self.controllers[c].proposed {
            waited.get_or_insert(entry);
        }
    }

    /// A controller learns that more is committed.
    pub(super) fn committed(&mut self, c: usize) {
        self.answer_pollers(c);
        let commit = self.raft.nodes[c].commit;
        let controller = &mut self.controllers[c];
        if let Some((Some(entry), _)) = controller.proposed
            && self.raft.entries[entry as usize].depth <= self.raft.entries[commit as usize].depth
        {
            controller.proposed = None;
        }
        if self.raft.entries.len().is_multiple_of(64) {
            self.forget_states();
        }
        self.wake_planner(c, 0);
    }

    /// The operator asks for something, as the API does: at the leader, with its checks.
    pub(super) fn operate(&mut self, change: Change, checked: bool) {
        let Some(c) = self.raft_leader().filter(|c| self.machines[*c].awake()) else { return };
        if checked && !self.may_operate(c, &change) {
            return;
        }
        self.timer(c, 0, Timer::Append(Box::new(change)));
    }

    fn may_operate(&self, c: usize, change: &Change) -> bool {
        let Some(leadership) = &self.controllers[c].leadership else { return false };
        let (state, now) = (self.applied(c), self.clock(c));
        let observed = &leadership.observed;
        match change {
            Change::StartSwitchover { target, .. } => {
                plan::switchover_check(&state, observed, Some(target), now).is_ok()
            }
            Change::StartFailover { target, accept_data_loss, .. } => {
                let renewed = leadership.ledger.last_acknowledged(&self.cluster, state.epoch);
                let silence: Option<Duration> = renewed.map(|at| now.since(at));
                let target = target.as_ref();
                plan::failover_check(&state, observed, silence, target, *accept_data_loss, now)
                    .is_ok()
            }
            _ => true,
        }
    }
}

/// Whether a report says anything that the planner should not wait with for its next look.
fn is_news(before: &Report, now: &Report) -> bool {
    if before.ended != now.ended || before.guard != now.guard || before.crashed != now.crashed {
        return true;
    }
    match (&before.condition, &now.condition) {
        (Condition::Standby(a), Condition::Standby(b)) => {
            a.sealed.is_some() != b.sealed.is_some()
                || a.streaming != b.streaming
                || a.counts != b.counts
        }
        (Condition::Primary(a), Condition::Primary(b)) => {
            let promoted = |p: &Progress| matches!(p, Progress::Promoted { .. });
            a.epoch != b.epoch
                || promoted(&a.progress) != promoted(&b.progress)
                || a.confirmed != b.confirmed
                || a.standbys.len() != b.standbys.len()
                || a.standbys.iter().zip(&b.standbys).any(|(x, y)| x.1.streaming != y.1.streaming)
        }
        (a, b) => std::mem::discriminant(a) != std::mem::discriminant(b),
    }
}

impl World {
    /// What the planner of a leader finds now, for a person.
    pub(super) fn findings(&self, c: usize) -> Option<String> {
        let leadership = self.controllers[c].leadership.as_ref()?;
        let state = self.applied(c);
        let (now, wall) = (self.clock(c), self.wall());
        let Leadership { ledger, observed, .. } = leadership;
        let plan = plan(&self.cluster, &state, observed, ledger, now, wall);
        let findings: Vec<String> = plan.findings.iter().map(ToString::to_string).collect();
        Some(findings.join("; "))
    }
}
