//! What will happen, in the order of true time; of one instant in the order in which it was put.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::clock::Micros;
use crate::domain::command::Change;
use crate::domain::observation::Report;
use crate::domain::state::ClusterState;
use crate::domain::types::{Epoch, GuardId};

/// Something that happens at one instant.
#[derive(Debug, Clone)]
pub enum Ev {
    /// A fault of the schedule begins.
    Fault(u32),
    /// It ends.
    Over(u32),
    /// A timer of one run of a daemon.
    Daemon {
        /// Where.
        machine: u8,
        /// Which run.
        run: u32,
        /// What.
        what: Timer,
    },
    /// A message arrives at whatever daemon runs there.
    Call {
        /// Where.
        to: u8,
        /// What.
        message: Message,
    },
    /// Something that the kernel does for a process tree, whoever is stopped.
    Kernel {
        /// Whose.
        member: u8,
        /// Of which life of the guard.
        life: u32,
        /// What.
        what: Kernel,
    },
    /// Something in a running PostgreSQL.
    Server {
        /// Whose.
        member: u8,
        /// Of which life of the guard.
        life: u32,
        /// What.
        what: Server,
    },
    /// A connection between two servers that is not heard of any more is given up.
    Stale {
        /// One end.
        a: u8,
        /// The other.
        b: u8,
    },
}

/// A timer of a daemon.
#[derive(Debug, Clone)]
pub enum Timer {
    /// The agent's worker looks.
    Wake,
    /// The work under way goes on.
    Work(u32),
    /// The worker looks although nothing woke it.
    Tick,
    /// A renewal is due.
    Renew,
    /// The renewal of this number has had no answer.
    RenewLate(u32),
    /// A report is due.
    Report,
    /// The agent looks whether its poll is still answered.
    Poll,
    /// The lease may have run out.
    Fence,
    /// The controller's loop sees what role its node has.
    Role,
    /// The planner looks.
    Plan,
    /// A proposal that was decided on is appended.
    Append(Box<Change>),
    /// The renewal whose barrier is passed is settled.
    Settle(u32),
    /// The node has not heard of a leader for too long.
    Elect(u32),
    /// Entries are sent again to those that lack them.
    Resend,
    /// The node's own log is on its disk up to here.
    Synced(u32),
    /// A reply that waited for the disk leaves.
    Reply(u8, Box<Message>),
}

/// A message between daemons. Entries of the log are named by their number.
#[derive(Debug, Clone)]
pub enum Message {
    /// Would you vote?
    PreVote { from: u8, term: u64, last_term: u64, depth: u32 },
    /// I would.
    PreVoted { from: u8, term: u64 },
    /// Vote.
    Vote { from: u8, term: u64, last_term: u64, depth: u32 },
    /// I do.
    Voted { from: u8, term: u64 },
    /// The log of a leader.
    Append { from: u8, term: u64, log: u32 },
    /// It is on my disk.
    Appended { from: u8, term: u64, log: u32 },
    /// There is a later term.
    Deposed { term: u64 },
    /// Do you still follow me?
    Ping { from: u8, term: u64, number: u32 },
    /// I do.
    Pong { from: u8, term: u64, number: u32 },
    /// A member renews its lease.
    Renew { from: u8, run: u32, number: u32, claim: Box<(Epoch, GuardId)> },
    /// The answer.
    Renewed { run: u32, number: u32, acknowledged: bool },
    /// A member says what it is.
    Report { from: u8, report: Box<Report> },
    /// A member asks for agreed state, and what it knows.
    Poll { from: u8, run: u32, number: u32, known: u32 },
    /// The agreed state.
    State { run: u32, number: u32, index: u32, state: Rc<ClusterState> },
    /// Ask somebody else.
    NotLeader { by: u8, run: u32, number: u32, hint: Option<u8>, asked: Asked },
}

/// What an agent asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To be renewed.
    Renewal,
    /// For the agreed state.
    Poll,
    /// To take its report.
    Report,
}

/// What the kernel does.
#[derive(Debug, Clone, Copy)]
pub enum Kernel {
    /// The guard's timer.
    Deadline,
    /// Nothing of the tree is left.
    Empty,
}

/// What happens in a server.
#[derive(Debug, Clone, Copy)]
pub enum Server {
    /// It takes connections.
    Ready,
    /// A client writes.
    Client,
    /// A client writes at once, and no other time for it.
    Burst,
    /// What was written is on the disk.
    Flushed,
    /// The walreceiver tries to connect.
    Connect,
    /// A standby asks to stream: who, its life, its connection's number.
    Connects { from: u8, life: u32, session: u32 },
    /// The connection stands.
    Accepted { session: u32 },
    /// The connection is refused.
    Refused { session: u32 },
    /// WAL up to here arrives from the server that is followed.
    Data { session: u32, upto: u64 },
    /// A standby has flushed.
    Ack { from: u8, session: u32, flushed: u64 },
    /// The other end is gone.
    Closed { session: u32 },
    /// A walsender reads its configuration.
    Reload { of: u8, session: u32 },
    /// Backends see whether commits wait for anybody.
    Defined,
    /// It is promoted.
    Promoted,
    /// The ordered stop has written its last checkpoint.
    Stopped,
}

#[derive(Debug)]
struct Item {
    at: Micros,
    number: u64,
    ev: Ev,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    // The heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Item>,
    next: u64,
}

impl Queue {
    /// Puts an event.
    pub fn put(&mut self, at: Micros, ev: Ev) {
        let number = self.next;
        self.next += 1;
        self.heap.push(Item { at, number, ev });
    }

    /// When the next event is.
    pub fn next_at(&self) -> Option<Micros> {
        self.heap.peek().map(|item| item.at)
    }

    /// Takes the next event.
    pub fn take(&mut self) -> Option<(Micros, Ev)> {
        self.heap.pop().map(|item| (item.at, item.ev))
    }
}
