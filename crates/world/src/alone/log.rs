//! The log of the abstract consensus: entries are appended, sent, synced, committed and applied.

use std::rc::Rc;

use super::clock::MS;
use super::queue::{Message, Timer};
use super::raft::{Body, Entry, Role};
use super::world::World;
use crate::domain::apply::{Position, apply};
use crate::domain::command::{Change, Command, Reply};
use crate::domain::state::ClusterState;
use crate::domain::types::WallMillis;

impl World {
    /// A leader appends an entry, in its term of now. Returns its number.
    pub(super) fn append_entry(&mut self, i: usize, body: Body) -> u32 {
        let node = &self.raft.nodes[i];
        let parent = node.log;
        let depth = self.raft.entries[parent as usize].depth + 1;
        let entry = Entry { parent, depth, term: node.term, body, state: None };
        let number = self.raft.entries.len() as u32;
        self.raft.entries.push(entry);
        self.raft.nodes[i].log = number;
        let after = self.flush_us(i);
        self.timer(i, after, Timer::Synced(number));
        self.send_log(i);
        self.keep_sending(i);
        number
    }

    fn send_log(&mut self, i: usize) {
        let (term, log) = (self.raft.nodes[i].term, self.raft.nodes[i].log);
        for j in self.controllers_of().filter(|j| *j != i) {
            if self.raft.nodes[i].matched[j] != log || self.raft.nodes[j].leader != Some(i as u8) {
                self.send(i, j, Message::Append { from: i as u8, term, log });
            }
        }
    }

    pub(super) fn keep_sending(&mut self, i: usize) {
        if !std::mem::replace(&mut self.raft.nodes[i].resending, true) {
            self.timer(i, 100 * MS, Timer::Resend);
        }
    }

    pub(super) fn resend(&mut self, i: usize) {
        self.raft.nodes[i].resending = false;
        let node = &self.raft.nodes[i];
        if !matches!(node.role, Role::Leader { .. }) {
            return;
        }
        let log = node.log;
        let lacks = |j: &usize| {
            *j != i
                && (node.matched[*j] != log || self.raft.nodes[*j].leader != Some(i as u8))
                && self.net.open(i, *j)
                && self.machines[*j].awake()
        };
        if self.controllers_of().any(|j| lacks(&j)) {
            self.send_log(i);
            self.keep_sending(i);
        }
    }

    pub(super) fn synced(&mut self, i: usize, entry: u32) {
        let node = &mut self.raft.nodes[i];
        if matches!(node.role, Role::Leader { .. })
            && node.term == self.raft.entries[entry as usize].term
        {
            node.matched[i] = entry;
            self.advance_commit(i);
        }
    }

    pub(super) fn accept_log(&mut self, i: usize, from: u8, term: u64, log: u32) {
        let own = self.raft.nodes[i].term;
        if term < own {
            return self.send(i, from.into(), Message::Deposed { term: own });
        }
        if term > own || self.raft.nodes[i].role != Role::Follower {
            self.step_down(i, term);
        }
        if self.raft.nodes[i].leader != Some(from) {
            self.raft.nodes[i].leader = Some(from);
            self.review = true;
        }
        if !self.raft.begins(log, self.raft.nodes[i].log) {
            self.raft.nodes[i].log = log;
        }
        self.reply_after_disk(i, from, Message::Appended { from: i as u8, term, log });
    }

    pub(super) fn advance_commit(&mut self, i: usize) {
        let node = &self.raft.nodes[i];
        let mut depths: Vec<u32> = self
            .controllers_of()
            .map(|j| node.matched[j])
            .filter(|m| self.raft.begins(*m, node.log))
            .map(|m| self.raft.entries[m as usize].depth)
            .collect();
        depths.sort_unstable_by(|a, b| b.cmp(a));
        let Some(depth) = depths.get(self.setup.controllers / 2).copied() else { return };
        let entry = self.raft.ancestor(node.log, depth);
        let known = self.raft.entries[node.commit as usize].depth;
        if depth <= known || self.raft.entries[entry as usize].term != node.term {
            return;
        }
        self.raft.nodes[i].commit = entry;
        self.apply_up_to(entry);
        if self.raft.nodes[i].role == (Role::Leader { established: false }) {
            self.raft.nodes[i].role = Role::Leader { established: true };
            let after = self.pace.below(3 * MS);
            self.timer(i, after, Timer::Role);
        }
        self.committed(i);
    }

    /// Applies what is committed and was not applied yet.
    fn apply_up_to(&mut self, entry: u32) {
        if self.raft.begins(entry, self.raft.tip) {
            return;
        }
        assert!(self.raft.begins(self.raft.tip, entry), "two histories are committed");
        let mut path = Vec::new();
        let mut at = entry;
        while at != self.raft.tip {
            path.push(at);
            at = self.raft.entries[at as usize].parent;
        }
        for at in path.into_iter().rev() {
            self.apply_entry(at);
        }
        self.raft.tip = entry;
    }

    fn apply_entry(&mut self, at: u32) {
        let entry = &self.raft.entries[at as usize];
        let position = Position { term: entry.term, index: u64::from(entry.depth) };
        let parent = entry.parent;
        let state = match entry.body.clone() {
            Body::Nothing => self.raft.entries[parent as usize].state.clone(),
            Body::Spec(spec) => {
                let known = self.control.cluster(&self.cluster).map(|c| c.spec_revision);
                let change = Change::UpdateSpec {
                    expect_revision: known.unwrap_or_default(),
                    spec: *spec,
                    by: String::new(),
                };
                let cluster = self.cluster.clone();
                let command = Command { cluster, at: WallMillis::default(), change };
                match apply(&mut self.control, position, &command) {
                    Reply::Applied { .. } => self.keep_agreed(),
                    _ => self.raft.entries[parent as usize].state.clone(),
                }
            }
            Body::Command(command) => {
                self.counts.commands += 1;
                let reply = apply(&mut self.control, position, &command);
                self.note(u64::from(at), 8 + u64::from(matches!(reply, Reply::Rejected(_))));
                self.judge_command(&command, &reply);
                match reply {
                    Reply::Applied { .. } => self.keep_agreed(),
                    _ => self.raft.entries[parent as usize].state.clone(),
                }
            }
        };
        self.raft.entries[at as usize].state = state;
    }

    /// The agreed state of now, without histories, which decide nothing.
    fn keep_agreed(&mut self) -> Option<Rc<ClusterState>> {
        let cluster = self.control.clusters.get_mut(&self.cluster)?;
        cluster.history.clear();
        cluster.finished.clear();
        cluster.spec_history.clear();
        Some(Rc::new(cluster.clone()))
    }

    /// Lets go of agreed states that nobody can learn of any more.
    pub(super) fn forget_states(&mut self) {
        let keep = self.raft.entries.len().saturating_sub(64);
        for (number, entry) in self.raft.entries[..keep].iter_mut().enumerate() {
            let known = self.raft.nodes.iter().any(|n| n.commit as usize == number);
            if !known && number != self.raft.tip as usize {
                entry.state = None;
            }
        }
    }
}
