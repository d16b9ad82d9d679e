//! Leases: that at most one member writes.
//!
//! Three controllers with a Raft group in the abstract, two or three members with guard, agent and
//! record. What production decides by pure code is decided by that code here: `apply`, `plan` with
//! the ledger, `desired`, `reconcile`, the record, the lease arithmetic. The rest is written down
//! as production does it: Raft, the read barrier, the answer to a renewal, the guard, the steps of
//! the agent's worker.
//!
//! Any message may be lost or late, any process may be slow: whatever can happen next may also
//! never happen. Terms, epochs, lives of guards and restarts of agents are bounded; true time is
//! not, since only differences are kept.

mod clocks;
mod heal;
mod logs;
mod member;
mod memo;
mod planner;
mod raft;
mod runs;
mod state;
mod told;

use std::sync::Arc;

use stateright::{Model, Property};

use clocks::Clocks;
use heal::Heal;
use logs::{Cmd, Entry, FIRST_EPOCH, Logs, ROOT};
use state::{Ledger, Member, Node, Phase, Proc, Record, Renewal, State, Tree};

pub use runs::{mutations, run};

/// A rule that lives outside of the domain code, and can be left out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A proven stop is final: the epoch is never run again.
    StopFinal,
    /// A stop is reported only once the process tree is proven empty.
    ProofBeforeReport,
    /// A leader acknowledges only after an entry of its own term is committed.
    OwnTermBeforeAnswer,
    /// Raft: a new leader appends an entry of its own at once.
    FirstEntry,
    /// Raft: a leader counts replicas of entries of its own term only.
    OwnTermCommit,
    /// Epoch and closed are checked in the state that the barrier gives.
    CheckAfterBarrier,
    /// The barrier begins after the renewal's arrival.
    BarrierAfterArrival,
    /// The acknowledgement waits for the barrier.
    WaitForBarrier,
    /// A renewal names the life of the guard, and that is compared.
    GuardInRenewal,
    /// A lease counts from before its renewal was sent.
    LeaseFromSending,
    /// A grant gives no lease: the first renewal does.
    LeaseByRenewal,
    /// A grant is decided on a close that is committed.
    CloseCommitted,
    /// The kernel's timer kills the process tree at the end of the lease.
    GuardTimer,
    /// A lease counts only once the kernel's timer is armed with it.
    ArmBeforeLease,
}

/// Where an exploration starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From the grant of [`FIRST_EPOCH`]; and from two states that follow from it, which makes what
    /// comes after them shorter.
    Anywhere,
    /// Where that epoch is closed already, and its holder has not heard of it.
    Closed,
}

/// How far an exploration goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Members.
    pub members: u8,
    /// Highest Raft term. The first leader leads term 1.
    pub terms: u8,
    /// Highest epoch. [`FIRST_EPOCH`] is granted at the start.
    pub epochs: u8,
    /// Lives of each member's guard.
    pub guards: u8,
    /// Restarts of agents, all together.
    pub restarts: u8,
    /// Length of a lease, in ticks.
    pub ttl: u8,
    /// Where it starts.
    pub start: Start,
    /// Whether a grant that a leader decides on may be late, and appended by a later leadership of
    /// the same node.
    pub late: bool,
    /// Whether process trees may die for no reason.
    pub deaths: bool,
    /// Whether also those steps are apart that lose nothing when they are taken together. In short:
    ///
    /// - A renewal arrives when it is sent: a later one of the same holder gives more.
    /// - Its acknowledgement leaves when the agent has it: until then it is pending, which counts
    ///   as much. A leader that is deposed has acknowledged all that it could.
    /// - A process tree dies, is proven empty, and that is recorded: nobody has to hear of it.
    /// - An agent acts when it hears something, and a standby is sealed when it is granted an
    ///   epoch.
    pub stepwise: bool,
}

/// The model.
#[derive(Debug)]
pub struct Lease {
    /// How far to go.
    bounds: Bounds,
    /// The rule that is left out.
    left_out: Option<Rule>,
    /// How it is checked that nothing is stuck.
    heal: Option<Heal>,
    clocks: Clocks,
    logs: Arc<Logs>,
    steps: member::Steps,
    ends: member::Ends,
    passes: planner::Passes,
    settlings: planner::Settlings,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// True time passes.
    Tick,
    /// A node is elected with the vote of another.
    Elect { node: u8, voter: u8 },
    /// A node takes over the leader's log, with `part` all but its last entry.
    Replicate { leader: u8, to: u8, part: bool },
    /// A leader learns what is committed.
    Commit { leader: u8 },
    /// A leader appends a command.
    Append { leader: u8, cmd: Cmd },
    /// A leader decides on a command, which it has still to append.
    Decide { leader: u8, cmd: Cmd },
    /// A leader passes a barrier that nobody waits for.
    EarlyBarrier { leader: u8, by: u8 },
    /// A controller judges a renewal before it notes its arrival.
    Prejudge { member: u8, leader: u8 },
    /// The agent sends a renewal, and it arrives at once.
    RenewAt { member: u8, leader: u8 },
    /// The agent hears of the agreed state, and acts on it.
    LearnAndAct { member: u8, from: u8 },
    /// A renewal arrives, and its barrier begins.
    Arrive { member: u8, leader: u8 },
    /// Another node confirms the leadership, and the renewal is judged.
    Confirm { member: u8, by: u8 },
    /// The controller settles the renewal, and its answer leaves.
    Settle { member: u8 },
    /// The acknowledgement arrives: the guard is armed, the lease counts.
    TakeLease { member: u8 },
    /// The guard is armed with the lease that counts already.
    ArmLate { member: u8 },
    /// The agent sends a renewal.
    Renew { member: u8 },
    /// The agent hears of the agreed state.
    Learn { member: u8, from: u8 },
    /// One turn of the agent's worker.
    Agent { member: u8 },
    /// The promotion that was asked for takes effect.
    Promoted { member: u8 },
    /// The postmaster dies.
    Die { member: u8 },
    /// The last process of the tree is gone.
    Vanish { member: u8 },
    /// The agent's process is replaced by a new one, which takes over what runs.
    RestartAgent { member: u8 },
    /// The agent runs an epoch again whose end it has reported.
    RunAgain { member: u8 },
}

impl Action {
    /// The member that it is about, where it happens at one.
    fn member(&self) -> Option<u8> {
        match self {
            Action::TakeLease { member }
            | Action::ArmLate { member }
            | Action::Renew { member }
            | Action::Learn { member, .. }
            | Action::LearnAndAct { member, .. }
            | Action::Agent { member }
            | Action::Promoted { member }
            | Action::Die { member }
            | Action::Vanish { member }
            | Action::RestartAgent { member }
            | Action::RunAgain { member } => Some(*member),
            _ => None,
        }
    }
}

impl Lease {
    /// A model within `bounds`. Of every `heal_every` states one is checked for whether it heals,
    /// with 0 none.
    fn new(bounds: Bounds, left_out: Option<Rule>, heal_every: u64) -> Self {
        let clocks = Clocks::new(bounds.ttl);
        let logs = Arc::new(Logs::new(bounds.members, clocks.timing));
        let model = |bounds, heal| Self {
            bounds,
            left_out,
            heal,
            clocks: clocks.clone(),
            logs: logs.clone(),
            steps: member::Steps::default(),
            ends: member::Ends::default(),
            passes: planner::Passes::default(),
            settlings: planner::Settlings::default(),
        };
        let heal = (heal_every > 0).then(|| {
            let unbounded = Bounds { terms: 14, epochs: 14, guards: 14, restarts: 0, ..bounds };
            Heal { every: heal_every, unbounded: Box::new(model(unbounded, None)) }
        });
        model(bounds, heal)
    }

    fn without(&self, rule: Rule) -> bool {
        self.left_out == Some(rule)
    }

    /// The first leader has granted [`FIRST_EPOCH`] to the first member, and everybody knows. Nobody
    /// has accepted it yet.
    fn beginning(&self) -> State {
        let node = |name: u8| Node {
            term: 1,
            log: ROOT,
            commit: ROOT,
            leads: name == 0,
            ledger: (name == 0).then_some(Ledger { elected: self.clocks.old, acked: None }),
            early: false,
            intent: None,
            name,
        };
        let member = |m: usize| {
            let exists = m < usize::from(self.bounds.members);
            let promised = FIRST_EPOCH;
            let before = if m == 0 { FIRST_EPOCH - 1 } else { 0 };
            let record = Record { promised, held: before, ended: before, running: 1, emptied: 0 };
            Member {
                record,
                reported: (record.ended, record.emptied),
                tree: Tree {
                    phase: if exists { Phase::Running } else { Phase::Gone },
                    guard: 1,
                    ..Tree::none()
                },
                view: self.logs.get(ROOT).views.get(m).copied().unwrap_or(ROOT),
                process: Proc::Sealed { promise: FIRST_EPOCH, settled: true },
                lease: None,
                claim: 0,
                renewal: Renewal::None,
            }
        };
        State {
            nodes: [0, 1, 2].map(node),
            members: [0, 1, 2].map(member),
            restarts: self.bounds.restarts,
            unexpected: false,
        }
        .sorted()
    }

    /// The same a little later: the first member is primary, by a lease that it has just got. It
    /// follows from the beginning, and shortens what comes after it.
    fn settled(&self) -> State {
        let mut state = self.beginning();
        let epoch = FIRST_EPOCH;
        for node in state.nodes.iter_mut().filter(|n| n.leads) {
            node.ledger = Some(Ledger { elected: self.clocks.old, acked: Some((epoch, 0)) });
        }
        let [member, ..] = &mut state.members;
        member.record.held = epoch;
        member.tree.role = epoch;
        member.tree.promoted = epoch;
        member.tree.armed = Some(0);
        member.process = Proc::Primary { epoch, promoted: true };
        member.claim = epoch;
        member.lease = Some((epoch, 0));
        state.sorted()
    }

    /// The same a little later: the epoch is closed, and nobody has accepted it.
    fn closed(&self) -> State {
        let mut state = self.beginning();
        let cmd = Cmd::Close { epoch: FIRST_EPOCH, stopped: false };
        let log = self.logs.append(ROOT, Entry { term: 1, cmd });
        for node in &mut state.nodes {
            node.log = log;
            if node.leads {
                node.commit = log;
            }
        }
        state.sorted()
    }

    /// One tick later: everything is older, and the kernel's timers have fired.
    fn tick(&self, state: &mut State) {
        let older = |age| self.clocks.older(age);
        for node in &mut state.nodes {
            if let Some(ledger) = &mut node.ledger {
                ledger.elected = older(ledger.elected);
                ledger.acked = ledger.acked.map(|(epoch, age)| (epoch, older(age)));
            }
        }
        for member in &mut state.members {
            member.lease = member.lease.map(|(epoch, age)| (epoch, older(age)));
            member.tree.armed = member.tree.armed.map(older);
            if member.tree.armed.is_some_and(|age| age >= self.clocks.dead)
                && !self.without(Rule::GuardTimer)
            {
                self.end_tree(member);
            }
            match &mut member.renewal {
                Renewal::None => {}
                Renewal::Arrived { claim, since, .. } | Renewal::Judged { claim, since, .. } => {
                    claim.age = older(claim.age);
                    *since = older(*since);
                }
                Renewal::Sent { claim }
                | Renewal::Prejudged { claim, .. }
                | Renewal::Acknowledged { claim } => claim.age = older(claim.age),
            }
        }
    }

    /// Forgets what can make no difference any more.
    fn tidy(&self, state: &mut State) {
        for node in &mut state.nodes {
            let Some(ledger) = &mut node.ledger else { continue };
            let epoch = self.logs.get(node.commit).tenure.epoch;
            ledger.acked = ledger.acked.filter(|(e, age)| *e >= epoch && *age < ledger.elected);
        }
        for member in &mut state.members {
            let over = |age| age >= self.clocks.dead;
            if member.lease.is_some_and(|(epoch, age)| {
                let counts = matches!(member.process, Proc::Primary { epoch: e, .. } if e == epoch);
                over(age) && !counts
            }) {
                member.lease = None;
            }
            // Given up at both ends: no lease could come of it.
            if member.renewal.claim().is_some_and(|c| over(c.age))
                && !self.without(Rule::LeaseFromSending)
            {
                member.renewal = Renewal::None;
            }
        }
    }

    /// What follows an action, before it is brought into order.
    fn step(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Tick => self.tick(&mut state),
            _ if action.member().is_some() => self.member_step(&mut state, action)?,
            _ => self.raft_step(&mut state, action)?,
        }
        self.tidy(&mut state);
        Some(state)
    }

    fn all_actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        self.raft_actions(state, actions);
        for m in 0..self.bounds.members {
            self.member_actions(state, m, actions);
        }
    }
}

const ONE_WRITER: &str = "one writer";
const INVARIANTS: &str = "invariants of the agreed state";
const RAFT: &str = "committed logs agree";
const KNOWN: &str = "only modelled actions";
const HEALS: &str = "it heals";

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        match self.bounds.start {
            Start::Anywhere => vec![self.beginning(), self.settled(), self.closed()],
            Start::Closed => vec![self.closed()],
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.all_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let next = self.step(last, action)?.sorted();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_WRITER, |_, state: &State| {
                state.members.iter().filter(|m| m.writes()).count() <= 1
            }),
            Property::always(INVARIANTS, |model: &Lease, state: &State| {
                state.nodes.iter().all(|n| model.logs.get(n.commit).broken.is_none())
            }),
            Property::always(RAFT, |model: &Lease, state: &State| {
                let [a, b, c] = state.nodes.map(|n| n.commit);
                let agree = |a, b| a == b || model.logs.agree(a, b);
                agree(a, b) && agree(b, c) && agree(a, c)
            }),
            Property::always(KNOWN, |_, state: &State| !state.unexpected),
            Property::always(HEALS, |model: &Lease, state: &State| model.heals_if_asked(state)),
        ]
    }
}
