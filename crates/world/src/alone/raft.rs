//! Consensus in the abstract: elections, logs, commits and read barriers of Raft, each message
//! through the simulated network, and nothing of openraft.
//!
//! A log is named by its last entry; entries form a tree. Heartbeats are not sent: whether they
//! would arrive is looked at whenever that may have changed, and only who would not hear of the
//! leader gets a timer. What is committed is applied once for all nodes, since they agree.

use std::rc::Rc;

use super::clock::MS;
use super::queue::{Message, Timer};
use super::world::World;
use crate::domain::command::Command;
use crate::domain::state::{ClusterSpec, ClusterState};

/// Controllers, at most.
pub const NODES_MAX: usize = 8;

/// What an entry holds.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing: the first of a leadership.
    Nothing,
    /// A command.
    Command(Rc<Command>),
    /// Another specification. There is no command for it: only the simulator writes such entries.
    Spec(Box<ClusterSpec>),
}

/// An entry, and by it the log that ends with it.
#[derive(Debug)]
pub struct Entry {
    pub(super) parent: u32,
    /// Its index.
    pub depth: u32,
    /// The term of the leader that appended it.
    pub term: u64,
    pub(super) body: Body,
    /// The state after it, once it is committed.
    pub state: Option<Rc<ClusterState>>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It follows.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It believes to lead its term.
    Leader {
        /// Whether an entry of its own is committed.
        established: bool,
    },
}

/// A controller's part in it.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its term. On disk, and so is its vote and its log.
    pub term: u64,
    voted: Option<u8>,
    pub(super) log: u32,
    /// What it knows to be committed.
    pub commit: u32,
    /// What it is.
    pub role: Role,
    pub(super) leader: Option<u8>,
    votes: u8,
    would: u8,
    pub(super) matched: [u32; NODES_MAX],
    timer: Option<u32>,
    pub(super) resending: bool,
}

/// All of it.
#[derive(Debug)]
pub struct Raft {
    /// Every entry ever appended.
    pub entries: Vec<Entry>,
    /// One for each machine; those that are no controllers are never asked.
    pub nodes: Vec<Node>,
    pub(super) tip: u32,
    timers: u32,
    /// Numbers of barriers.
    pub barriers: u32,
}

impl Raft {
    /// Nobody leads, and `state` is agreed on.
    pub fn new(machines: usize, state: Rc<ClusterState>) -> Self {
        let root = Entry { parent: 0, depth: 0, term: 0, body: Body::Nothing, state: Some(state) };
        let node = Node {
            term: 0,
            voted: None,
            log: 0,
            commit: 0,
            role: Role::Follower,
            leader: None,
            votes: 0,
            would: 0,
            matched: [0; NODES_MAX],
            timer: None,
            resending: false,
        };
        let nodes = vec![node; machines];
        Self { entries: vec![root], nodes, tip: 0, timers: 0, barriers: 0 }
    }

    pub(super) fn ancestor(&self, log: u32, depth: u32) -> u32 {
        let mut at = log;
        while self.entries[at as usize].depth > depth {
            at = self.entries[at as usize].parent;
        }
        at
    }

    /// Whether the log `short` is the beginning of `long`.
    pub(super) fn begins(&self, short: u32, long: u32) -> bool {
        self.ancestor(long, self.entries[short as usize].depth) == short
    }

    pub(super) fn newest(&self, log: u32) -> (u64, u32) {
        let entry = &self.entries[log as usize];
        (entry.term, entry.depth)
    }

    /// The newest state that is agreed on.
    pub fn agreed(&self) -> &Rc<ClusterState> {
        let state = &self.entries[self.tip as usize].state;
        state.as_ref().expect("what is committed was applied")
    }
}

impl World {
    pub(super) fn controllers_of(&self) -> std::ops::Range<usize> {
        self.setup.machines - self.setup.controllers..self.setup.machines
    }

    fn majority(&self, mask: u8) -> bool {
        mask.count_ones() as usize * 2 > self.setup.controllers
    }

    fn election_us(&mut self) -> u64 {
        self.luck.within(500, 1000) * MS
    }

    /// The controller that believes to lead the highest term.
    pub(super) fn raft_leader(&self) -> Option<usize> {
        let leads = |c: &usize| matches!(self.raft.nodes[*c].role, Role::Leader { .. });
        self.controllers_of().filter(leads).max_by_key(|c| self.raft.nodes[*c].term)
    }

    /// Whom a controller takes for the leader.
    pub(super) fn leader_hint(&self, c: usize) -> Option<u8> {
        self.raft.nodes[c].leader
    }

    /// Whether a controller leads and has an entry of its own committed.
    pub(super) fn established(&self, c: usize) -> bool {
        self.raft.nodes[c].role == Role::Leader { established: true }
    }

    /// Whether heartbeats of its leader would arrive at a node.
    fn hears(&self, i: usize) -> bool {
        let node = &self.raft.nodes[i];
        let Some(leader) = node.leader.map(usize::from).filter(|l| *l != i) else { return false };
        let from = &self.raft.nodes[leader];
        matches!(from.role, Role::Leader { .. })
            && from.term == node.term
            && self.machines[leader].awake()
            && self.net.lively(leader, i)
    }

    /// Sees who does not hear of a leader any more, and who hears of a later term.
    pub(super) fn review_raft(&mut self) {
        for i in self.controllers_of() {
            if !self.machines[i].awake() {
                continue;
            }
            let node = &self.raft.nodes[i];
            match node.role {
                Role::Leader { .. } => {
                    let (term, log) = (node.term, node.log);
                    let mut behind = false;
                    let mut later = None;
                    for j in self.controllers_of().filter(|j| *j != i) {
                        let reachable = self.machines[j].awake()
                            && self.net.lively(i, j)
                            && self.net.lively(j, i);
                        if !reachable {
                            continue;
                        }
                        let other = &self.raft.nodes[j];
                        if other.term > term {
                            later = Some((j, other.term));
                        }
                        behind |= node.matched[j] != log || other.leader != Some(i as u8);
                    }
                    if let Some((j, term)) = later {
                        // By the answer to a heartbeat.
                        let after = self.luck.below(100 * MS);
                        let message = Box::new(Message::Deposed { term });
                        self.timer(j, after, Timer::Reply(i as u8, message));
                    }
                    if behind {
                        self.keep_sending(i);
                    }
                }
                Role::Follower | Role::Candidate => {
                    let hears = self.hears(i);
                    let armed = self.raft.nodes[i].timer.is_some();
                    if hears {
                        self.raft.nodes[i].timer = None;
                    } else if !armed {
                        let after = self.election_us();
                        self.arm_election(i, after);
                    }
                }
            }
        }
    }

    pub(super) fn arm_election(&mut self, i: usize, after: u64) {
        self.raft.timers += 1;
        let number = self.raft.timers;
        self.raft.nodes[i].timer = Some(number);
        self.timer(i, after, Timer::Elect(number));
    }

    pub(super) fn elect(&mut self, i: usize, number: u32) {
        let node = &self.raft.nodes[i];
        if node.timer != Some(number) || matches!(node.role, Role::Leader { .. }) {
            return;
        }
        let again = self.election_us();
        self.arm_election(i, again);
        let node = &mut self.raft.nodes[i];
        node.would = 1 << i;
        let term = node.term + 1;
        let (last_term, depth) = self.raft.newest(self.raft.nodes[i].log);
        for j in self.controllers_of().filter(|j| *j != i) {
            self.send(i, j, Message::PreVote { from: i as u8, term, last_term, depth });
        }
    }

    /// The daemon of a controller is gone: what is not on its disk is gone with it.
    pub(super) fn forget_raft(&mut self, i: usize) {
        let node = &mut self.raft.nodes[i];
        node.role = Role::Follower;
        node.leader = None;
        node.timer = None;
        node.resending = false;
        self.review = true;
    }

    pub(super) fn step_down(&mut self, i: usize, term: u64) {
        let node = &mut self.raft.nodes[i];
        let led = matches!(node.role, Role::Leader { .. });
        if term > node.term {
            node.term = term;
            node.voted = None;
            node.leader = None;
        }
        node.role = Role::Follower;
        if led {
            let after = self.pace.below(3 * MS);
            self.timer(i, after, Timer::Role);
            let called = self.called(i);
            self.story.tell(self.now, || format!("{called} leads the controllers no more"));
        }
        self.review = true;
    }

    pub(super) fn raft_message(&mut self, i: usize, message: Message) {
        match message {
            Message::PreVote { from, term, last_term, depth } => {
                let own = self.raft.newest(self.raft.nodes[i].log);
                let knows = (last_term, depth) >= own;
                if knows && term > self.raft.nodes[i].term && !self.hears_or_leads(i) {
                    self.send(i, from.into(), Message::PreVoted { from: i as u8, term });
                }
            }
            Message::PreVoted { from, term } => {
                let node = &mut self.raft.nodes[i];
                if term != node.term + 1 || matches!(node.role, Role::Leader { .. }) {
                    return;
                }
                node.would |= 1 << from;
                if self.majority(self.raft.nodes[i].would) && !self.hears(i) {
                    self.stand(i);
                }
            }
            Message::Vote { from, term, last_term, depth } => {
                if term > self.raft.nodes[i].term {
                    self.step_down(i, term);
                }
                let own = self.raft.newest(self.raft.nodes[i].log);
                let node = &mut self.raft.nodes[i];
                let free = node.voted.is_none_or(|v| v == from);
                if term == node.term && free && (last_term, depth) >= own {
                    node.voted = Some(from);
                    self.reply_after_disk(i, from, Message::Voted { from: i as u8, term });
                }
            }
            Message::Voted { from, term } => {
                let node = &mut self.raft.nodes[i];
                if term == node.term && node.role == Role::Candidate {
                    node.votes |= 1 << from;
                    if self.majority(self.raft.nodes[i].votes) {
                        self.lead(i);
                    }
                }
            }
            Message::Append { from, term, log } => self.accept_log(i, from, term, log),
            Message::Appended { from, term, log } => {
                let node = &mut self.raft.nodes[i];
                if term == node.term && matches!(node.role, Role::Leader { .. }) {
                    let known = node.matched[usize::from(from)];
                    let deeper = self.raft.entries[log as usize].depth
                        >= self.raft.entries[known as usize].depth;
                    if deeper || !self.raft.begins(known, self.raft.nodes[i].log) {
                        self.raft.nodes[i].matched[usize::from(from)] = log;
                    }
                    self.advance_commit(i);
                }
            }
            Message::Deposed { term } if term > self.raft.nodes[i].term => {
                self.step_down(i, term);
            }
            Message::Ping { from, term, number } => {
                let own = self.raft.nodes[i].term;
                let answer = match own.cmp(&term) {
                    std::cmp::Ordering::Greater => Message::Deposed { term: own },
                    std::cmp::Ordering::Equal => Message::Pong { from: i as u8, term, number },
                    std::cmp::Ordering::Less => {
                        self.step_down(i, term);
                        self.raft.nodes[i].leader = Some(from);
                        Message::Pong { from: i as u8, term, number }
                    }
                };
                self.send(i, from.into(), answer);
            }
            Message::Pong { from, term, number } if term == self.raft.nodes[i].term => {
                self.barrier_confirmed(i, from, number);
            }
            _ => {}
        }
    }

    fn hears_or_leads(&self, i: usize) -> bool {
        matches!(self.raft.nodes[i].role, Role::Leader { .. }) || self.hears(i)
    }

    pub(super) fn reply_after_disk(&mut self, i: usize, to: u8, message: Message) {
        let after = self.flush_us(i);
        self.timer(i, after, Timer::Reply(to, Box::new(message)));
    }

    /// Asks for votes.
    pub(super) fn stand(&mut self, i: usize) {
        let node = &mut self.raft.nodes[i];
        node.term += 1;
        node.voted = Some(i as u8);
        node.votes = 1 << i;
        node.role = Role::Candidate;
        node.leader = None;
        let (term, log) = (node.term, node.log);
        let (last_term, depth) = self.raft.newest(log);
        let vote = Message::Vote { from: i as u8, term, last_term, depth };
        for j in self.controllers_of().filter(|j| *j != i) {
            self.reply_after_disk(i, j as u8, vote.clone());
        }
        self.review = true;
    }

    fn lead(&mut self, i: usize) {
        let node = &mut self.raft.nodes[i];
        node.role = Role::Leader { established: false };
        node.leader = Some(i as u8);
        node.timer = None;
        node.matched = [0; NODES_MAX];
        let term = node.term;
        self.counts.leaders += 1;
        let called = self.called(i);
        self.story.tell(self.now, || format!("{called} leads the controllers in term {term}"));
        self.append_entry(i, Body::Nothing);
        self.review = true;
    }
}
