//! A state of the model: three controllers, the members, and what is on its way between them.
//!
//! Everything is a small number, and every time is an age, so that equal situations are equal.

use std::hash::{Hash, Hasher};

use super::clocks::Age;
use super::logs::{Cmd, LogId};

/// Controllers.
pub const NODES: usize = 3;
/// Most members.
pub const MEMBERS_MAX: usize = 3;

/// What is of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// The Raft group. Their order means nothing: states are kept with the nodes sorted.
    pub nodes: [Node; NODES],
    /// The members. Those beyond the bounds of the exploration stay as they are.
    pub members: [Member; MEMBERS_MAX],
    /// How many restarts of agents may still happen.
    pub restarts: u8,
    /// Set where production code asked for something that the model does not know.
    pub unexpected: bool,
}

/// A controller.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Raft's current term. Durable, and so is the log.
    pub term: u8,
    /// Its log.
    pub log: LogId,
    /// What it knows to be committed, and has applied.
    pub commit: LogId,
    /// Whether it believes to lead its term.
    pub leads: bool,
    /// The memory of its leadership, once an entry of its own term is committed.
    pub ledger: Option<Ledger>,
    /// Where one barrier may serve later renewals: whether it has passed one.
    pub early: bool,
    /// Where grants may be late: the one that it has decided on.
    pub intent: Option<Cmd>,
    /// Which node it is. For a reader: no part of the state.
    pub name: u8,
}

/// What there is of a production `LeaderLedger` apart from the pending renewals, which are found
/// in [`Renewal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ledger {
    /// How long ago it began.
    pub elected: Age,
    /// The last acknowledged renewal: its epoch, and how long ago it arrived.
    pub acked: Option<(u8, Age)>,
}

/// A member: its machine, its guard, its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// On disk.
    pub record: Record,
    /// What the controllers may have heard of `ended` and `emptied`. The same as the record, but
    /// where a rule about reports is left out.
    pub reported: (u8, u16),
    /// What really runs.
    pub tree: Tree,
    /// The agreed state that the agent knows.
    pub view: LogId,
    /// What the agent takes it to be.
    pub process: Proc,
    /// The lease that the agent counts on: its epoch, and the age of its renewal.
    pub lease: Option<(u8, Age)>,
    /// The epoch that the agent renews; 0 for none.
    pub claim: u8,
    /// Its renewal on the way. A second one is sent only after the first was given up.
    pub renewal: Renewal,
}

/// What there is of a production `MemberRecord`. Epochs, lives of the guard, and a bit for each
/// life that was proven empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    pub promised: u8,
    pub held: u8,
    pub ended: u8,
    pub running: u8,
    pub emptied: u16,
}

/// How much of a process tree is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing, and the agent has recorded it.
    Gone,
    /// PostgreSQL runs.
    Running,
    /// The postmaster is dead or about to die. Its backends may go on writing.
    Ending,
    /// Nothing, but the agent does not know.
    Empty,
}

/// A process tree, the guard above it, and what it remembers for the next run of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tree {
    pub phase: Phase,
    /// Which life of the guard this is or was.
    pub guard: u8,
    /// The age of the renewal that the kernel's timer was armed with.
    pub armed: Option<Age>,
    /// The epoch that it was accepted for as primary; 0 for a standby.
    pub role: u8,
    /// The epoch that it is being promoted to; 0 for none.
    pub promoting: u8,
    /// The epoch that it is promoted to; 0 for none.
    pub promoted: u8,
}

/// What the agent takes its member to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proc {
    Down,
    /// Ending, and this epoch with it; 0 for none.
    Ending(u8),
    /// Sealed; `settled` once the position is known.
    Sealed {
        promise: u8,
        settled: bool,
    },
    Primary {
        epoch: u8,
        promoted: bool,
    },
}

/// A renewal on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Renewal {
    None,
    /// Sent `age` ago, by the holder of `epoch` in this life of its guard.
    Sent {
        claim: Claim,
    },
    /// Judged by a controller before it was noted as arrived: only where that rule is left out.
    Prejudged {
        claim: Claim,
        node: u8,
    },
    /// Arrived `since` ago, and waits for a barrier. `good`: the state of that time allows it.
    Arrived {
        claim: Claim,
        node: u8,
        since: Age,
        good: bool,
    },
    /// The barrier is passed and the verdict is yes, but the controller has not settled it yet.
    Judged {
        claim: Claim,
        node: u8,
        since: Age,
    },
    /// Acknowledged, and on its way back.
    Acknowledged {
        claim: Claim,
    },
}

/// What a renewal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub age: Age,
    pub epoch: u8,
    pub guard: u8,
}

impl Renewal {
    /// The claim, where there is one.
    pub fn claim(&self) -> Option<Claim> {
        match self {
            Renewal::None => None,
            Renewal::Sent { claim }
            | Renewal::Prejudged { claim, .. }
            | Renewal::Arrived { claim, .. }
            | Renewal::Judged { claim, .. }
            | Renewal::Acknowledged { claim } => Some(*claim),
        }
    }

    /// The controller that has it.
    pub fn node(&self) -> Option<u8> {
        match self {
            Renewal::Prejudged { node, .. }
            | Renewal::Arrived { node, .. }
            | Renewal::Judged { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Its epoch and how long ago it arrived, while that counts as pending at `at`.
    pub fn pending(&self, at: u8) -> Option<(u8, Age)> {
        match self {
            Renewal::Arrived { claim, node, since, .. }
            | Renewal::Judged { claim, node, since }
                if *node == at =>
            {
                Some((claim.epoch, *since))
            }
            _ => None,
        }
    }
}

impl Member {
    /// Whether its PostgreSQL may acknowledge a write now.
    pub fn writes(&self) -> bool {
        matches!(self.tree.phase, Phase::Running | Phase::Ending) && self.tree.promoted != 0
    }
}

impl Node {
    fn key(&self) -> impl Ord + Hash + use<> {
        (self.term, self.log, self.commit, self.leads, self.ledger, self.early, self.intent)
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

impl State {
    /// The same situation with the nodes in order: which of them is which makes no difference.
    pub fn sorted(mut self) -> Self {
        // Nodes that are alike are told apart by what they have in hand.
        let in_hand =
            |node: u8| self.members.map(|m| (m.renewal.node() == Some(node)).then_some(m.renewal));
        let mut order: [u8; NODES] = [0, 1, 2];
        order.sort_by_key(|n| (self.nodes[usize::from(*n)].key(), in_hand(*n)));
        self.nodes = order.map(|n| self.nodes[usize::from(n)]);
        for member in &mut self.members {
            if let Renewal::Prejudged { node, .. }
            | Renewal::Arrived { node, .. }
            | Renewal::Judged { node, .. } = &mut member.renewal
            {
                let place = order.iter().position(|n| n == node).unwrap_or(0);
                *node = u8::try_from(place).unwrap_or(0);
            }
        }
        self
    }
}
