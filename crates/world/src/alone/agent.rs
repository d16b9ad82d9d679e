//! An agent: its loops that poll, report, renew and fence. What its worker does is in `work`.

use std::rc::Rc;

use super::clock::{MS, Micros, SECOND};
use super::queue::{Asked, Message, Timer};
use super::renew::{RENEW_PAUSE, Renewing};
use super::server::{Phase, Role};
use super::work::{Task, Work};
use super::world::World;
use crate::domain::desired::{Desired, desired};
use crate::domain::lineage::Lineage;
use crate::domain::reconcile::{Local, Process};
use crate::domain::state::{ClusterState, Stage};
use crate::domain::types::{Epoch, GuardId};

/// How long a poll is waited with, and how much longer its answer may take.
const POLL: Micros = 500 * MS;
const POLL_GRACE: Micros = 400 * MS;
/// Pause after a failed one.
const POLL_PAUSE: Micros = 25 * MS;
/// How often is reported without news.
const REPORT: Micros = 500 * MS;
/// Pause after one that was not taken.
const REPORT_PAUSE: Micros = 50 * MS;
/// After how long a PostgreSQL that does nothing is given up.
pub const HUNG: Micros = 10 * SECOND;

/// What one run of an agent knows. Everything but the member's record is lost with it.
#[derive(Debug)]
pub struct Agent {
    /// Whether it has taken over what there was.
    pub loaded: bool,
    /// What its worker decides on.
    pub local: Local,
    /// The agreed state that it knows, and its index.
    pub view: Option<(u32, Rc<ClusterState>)>,
    /// What that asks of the member.
    pub want: Option<Desired>,
    /// The leadership in it.
    pub tenure: Option<(Epoch, bool, Stage)>,
    /// The epoch that is renewed.
    pub claim: Option<(Epoch, GuardId)>,
    /// The epoch that ends, and whether by itself.
    pub ending: Option<(Epoch, bool)>,
    /// Whether the last epoch that ended here ended by itself.
    pub crashed: bool,
    /// Where each epoch begins, once promoted.
    pub lineage: Option<Lineage>,
    /// What is under way, and its number.
    pub work: Option<Work>,
    pub works: u32,
    /// What was done last, and how often in a row.
    pub done: Option<Task>,
    pub repeats: u32,
    /// No work is begun before.
    pub not_before: Micros,
    pub failures: u32,
    /// Whether a look is on its way.
    pub waking: bool,
    /// Since when sealing does not succeed.
    pub sealing: Option<(Epoch, Micros)>,
    /// Which run this is, and how many reports it has sent.
    pub run: u64,
    pub reports: u64,
    /// When the next report leaves.
    pub report_at: Micros,
    /// The controller that is asked.
    pub(super) target: usize,
    /// The controller from which no answer to a report can come.
    unheard: Option<usize>,
    pub(super) renewals: u32,
    /// The renewal under way: its number, and when it was sent by the own clock.
    pub(super) renewing: Option<Renewing>,
    /// When the next is due.
    pub(super) renew_at: Micros,
    polls: u32,
    /// The poll under way: its number, whom, and since when.
    polling: Option<(u32, usize, Micros)>,
    /// When the upstream was left.
    pub upstream_lost_at: Micros,
}

impl World {
    /// A run of the daemon begins on a member's machine.
    pub(super) fn begin_agent(&mut self, m: usize) {
        let member = &self.members[m];
        let local = Local {
            record: member.record.clone(),
            data: member.dir.data.clone(),
            guard: None,
            process: Process::Down,
            lease: None,
            hung: false,
            rewind_failed: false,
            source_lacks_wal: false,
            unstartable: false,
            consistent: false,
            upstream_lost: false,
            no_part_until: Default::default(),
        };
        let agent = Agent {
            loaded: false,
            local,
            view: None,
            want: None,
            tenure: None,
            claim: None,
            ending: None,
            crashed: false,
            lineage: None,
            work: None,
            works: 0,
            done: None,
            repeats: 0,
            not_before: 0,
            failures: 0,
            waking: false,
            sealing: None,
            run: self.luck.bits() >> 1,
            reports: 0,
            report_at: 0,
            target: self.setup.machines - 1 - (m % self.setup.controllers),
            unheard: None,
            renewals: 0,
            renewing: None,
            renew_at: 0,
            polls: 0,
            polling: None,
            upstream_lost_at: 0,
        };
        self.members[m].agent = Some(Box::new(agent));
        self.wake(m);
        self.timer(m, 1, Timer::Poll);
        self.timer(m, 2, Timer::Report);
        self.timer(m, 3, Timer::Tick);
        self.timer(m, 4, Timer::Fence);
    }

    pub(super) fn agent(&mut self, m: usize) -> Option<&mut Agent> {
        self.members[m].agent.as_deref_mut()
    }

    /// Has the worker look.
    pub(super) fn wake(&mut self, m: usize) {
        if let Some(agent) = self.agent(m)
            && !std::mem::replace(&mut agent.waking, true)
        {
            self.timer(m, 0, Timer::Wake);
        }
    }

    /// The process tree or its connections have changed: worker and leader hear of it.
    pub(super) fn tree_changed(&mut self, m: usize) {
        self.wake(m);
        self.work_goes_on(m);
        self.tell_news(m);
    }

    /// A report leaves soon.
    pub(super) fn tell_news(&mut self, m: usize) {
        self.report_again(m, MS);
    }

    fn report_again(&mut self, m: usize, after: Micros) {
        let now = self.now;
        if let Some(agent) = self.agent(m)
            && agent.report_at > now + 2 * after
        {
            agent.report_at = now + after;
            self.timer(m, after, Timer::Report);
        }
    }

    /// The next controller is asked, or the one that was named, unless another than the one that
    /// failed is asked already.
    pub(super) fn turn_from(&mut self, m: usize, failed: usize, hint: Option<u8>) {
        let (first, count) = (self.setup.machines - self.setup.controllers, self.setup.controllers);
        if let Some(agent) = self.agent(m).filter(|a| a.target == failed) {
            agent.target = match hint.map(usize::from) {
                Some(named) if named != agent.target => named,
                _ => first + (agent.target - first + 1) % count,
            };
        }
    }

    // ---- what is agreed ----

    pub(super) fn poller(&mut self, m: usize) {
        let Some(agent) = self.members[m].agent.as_deref() else { return };
        if let Some((number, target, since)) = agent.polling {
            // An answer without news would have come where the way there and back is free.
            let there = self.is_polled(target, m, self.machines[m].run, number)
                && self.net.lively(m, target)
                && self.net.lively(target, m);
            if there {
                return self.timer(m, POLL, Timer::Poll);
            }
            let left = (since + POLL + POLL_GRACE).saturating_sub(self.now);
            if left > 0 {
                return self.timer(m, left, Timer::Poll);
            }
            self.turn_from(m, target, None);
        }
        self.poll(m);
        self.timer(m, POLL, Timer::Poll);
    }

    fn poll(&mut self, m: usize) {
        let (run, now) = (self.machines[m].run, self.now);
        let Some(agent) = self.agent(m) else { return };
        agent.polls += 1;
        let (number, target) = (agent.polls, agent.target);
        agent.polling = Some((number, target, now));
        let known = agent.view.as_ref().map_or(0, |v| v.0);
        self.send(m, target, Message::Poll { from: m as u8, run, number, known });
    }

    /// An answer of a controller.
    pub(super) fn answered(&mut self, m: usize, message: Message) {
        match message {
            Message::Renewed { run, number, acknowledged } if run == self.machines[m].run => {
                self.renewed(m, number, acknowledged);
            }
            Message::State { run, number, index, state } if run == self.machines[m].run => {
                let Some(agent) = self.agent(m) else { return };
                if agent.view.as_ref().is_none_or(|v| v.0 < index) {
                    self.learn(m, index, state);
                }
                if self.agent(m).is_some_and(|a| a.polling.is_some_and(|p| p.0 == number)) {
                    self.poll(m);
                }
            }
            Message::NotLeader { by, run, number, hint, asked } if run == self.machines[m].run => {
                let Some(agent) = self.agent(m) else { return };
                let by = usize::from(by);
                let renewing = agent.renewing.as_ref().is_some_and(|r| r.number == number);
                let polling = agent.polling.is_some_and(|p| p.0 == number);
                match asked {
                    Asked::Renewal if renewing => {
                        agent.renewing = None;
                        self.turn_from(m, by, hint);
                        self.timer(m, RENEW_PAUSE, Timer::Renew);
                    }
                    Asked::Poll if polling => {
                        agent.polling = None;
                        self.turn_from(m, by, hint);
                        self.timer(m, POLL_PAUSE, Timer::Poll);
                    }
                    Asked::Report => {
                        let turned = agent.target == by;
                        self.turn_from(m, by, hint);
                        if turned {
                            self.report_again(m, REPORT_PAUSE);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, m: usize, index: u32, state: Rc<ClusterState>) {
        let want = desired(&state, &self.members[m].name);
        let Some(agent) = self.agent(m) else { return };
        let tenure = state.tenure.as_ref().map(|t| (t.epoch, t.closed.is_some(), t.stage));
        if tenure != agent.tenure {
            // What failed under one leadership says nothing of the next.
            if tenure.map(|t| t.0) != agent.tenure.map(|t| t.0) {
                agent.local.rewind_failed = false;
                agent.local.source_lacks_wal = false;
                agent.local.upstream_lost = false;
            }
            agent.failures = 0;
            agent.not_before = 0;
            agent.tenure = tenure;
        }
        agent.want = Some(want);
        agent.view = Some((index, state));
        self.overtaken(m);
        self.wake(m);
    }

    // ---- reports ----

    pub(super) fn reporter(&mut self, m: usize) {
        let now = self.now;
        let Some(agent) = self.agent(m) else { return };
        if agent.report_at > now {
            return;
        }
        agent.report_at = now + REPORT;
        self.timer(m, REPORT, Timer::Report);
        self.watch_server(m);
        if let Some(report) = self.report_of(m) {
            let Some(agent) = self.agent(m) else { return };
            if let Some(unheard) = agent.unheard.take() {
                self.turn_from(m, unheard, None);
            }
            let target = self.agent(m).map_or(0, |a| a.target);
            let there = self.machines[target].awake()
                && self.net.lively(m, target)
                && self.net.lively(target, m);
            if let Some(agent) = self.agent(m).filter(|_| !there) {
                agent.unheard = Some(target);
            }
            let report = Box::new(report);
            self.send(m, target, Message::Report { from: m as u8, report });
        }
    }

    /// What the agent's questions to PostgreSQL find out in time.
    fn watch_server(&mut self, m: usize) {
        let now = self.now;
        let machine = &self.machines[m];
        let tree = &self.members[m].tree;
        let hung = tree.hung > 0 && now >= tree.hung_at + HUNG;
        let frozen = machine.frozen_until > now && now >= machine.frozen_at + HUNG;
        let quiet = now.saturating_sub(tree.heard_at);
        let streams = tree.receiver.is_some();
        let gone = self.setup.spec.slot_ttl_ms * MS;
        let primary = matches!(tree.role, Role::Primary { .. }) && tree.phase == Phase::Running;
        let Some(agent) = self.agent(m) else { return };
        if primary && (hung || frozen) && !agent.local.hung {
            agent.local.hung = true;
            return self.wake(m);
        }
        let cascaded = match (&agent.local.process, &agent.want) {
            (Process::Following { address, .. }, Some(Desired::Follow(duty))) => {
                duty.upstream.as_ref().is_some_and(|u| u.address == *address)
            }
            _ => false,
        };
        if cascaded && !streams && quiet > 4 * SECOND && !agent.local.upstream_lost {
            agent.local.upstream_lost = true;
            agent.upstream_lost_at = now;
            self.wake(m);
        } else if agent.local.upstream_lost && now - agent.upstream_lost_at > 8 * SECOND {
            agent.local.upstream_lost = false;
            self.wake(m);
        } else if !cascaded
            && !streams
            && quiet > gone
            && matches!(agent.local.process, Process::Following { .. })
            && self.source_lives(m)
        {
            // Its slot is dropped, and the WAL that it needs is gone.
            if let Some(agent) = self.agent(m) {
                agent.local.source_lacks_wal = true;
            }
            self.wake(m);
        }
    }

    fn source_lives(&self, m: usize) -> bool {
        let Some((_, source)) = self.members[m].tree.follows else { return false };
        self.members[source].tree.primary().is_some()
            && self.net.open(m, source)
            && self.net.open(source, m)
    }
}
