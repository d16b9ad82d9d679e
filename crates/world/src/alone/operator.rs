//! What an operator does besides asking for operations: the specification, tags, members.

use super::raft::Body;
use super::schedule::{SpecChange, TagChange};
use super::setup::name;
use super::world::{World, registration};
use crate::domain::invariants::spec_problem;
use crate::domain::state::Tags;

impl World {
    pub(super) fn change_spec(&mut self, change: SpecChange) {
        let Some(c) = self.raft_leader().filter(|c| self.machines[*c].awake()) else { return };
        let mut spec = self.raft.agreed().spec.clone();
        match change {
            SpecChange::Mode(mode) => spec.synchronous = mode,
            SpecChange::WriteQuorum(w) => {
                spec.write_quorum = w;
                spec.write_quorum_min = spec.write_quorum_min.min(w);
            }
            SpecChange::Floor(floor) => spec.write_quorum_min = floor.min(spec.write_quorum),
            SpecChange::Strict => spec.write_quorum_min = spec.write_quorum,
            SpecChange::ShrinkAfter(ms) => spec.shrink_after_ms = ms,
            SpecChange::LagMax(bytes) => spec.sync_lag_bytes_max = bytes,
            SpecChange::MaxLag(bytes) => spec.max_lag_bytes = bytes,
            SpecChange::Crashes(max) => spec.crash_failovers_max = max,
        }
        if spec_problem(&spec).is_none() {
            self.append_entry(c, Body::Spec(Box::new(spec)));
        }
    }

    pub(super) fn change_tags(&mut self, m: usize, to: TagChange) {
        let agreed = self.raft.agreed().clone();
        let Some(member) = agreed.members.get(&name(m)) else { return };
        let (mut tags, priority) = (member.tags.clone(), member.priority);
        match to {
            TagChange::NoFailover(on) => tags.nofailover = on,
            TagChange::NoSync(on) => tags.nosync = on,
            TagChange::Delay(on) => tags.delay_ms = if on { 5000 } else { 0 },
            TagChange::CloneFrom(on) => tags.clonefrom = on,
            TagChange::ReplicateFrom(from) => {
                tags.replicatefrom = from.map(usize::from).filter(|f| *f != m).map(name);
            }
        }
        self.register(m, priority, tags);
    }

    pub(super) fn register(&mut self, m: usize, priority: i32, tags: Tags) {
        let change = registration(m, priority, tags);
        self.operate(change, false);
    }

    /// A member that the cluster does not have yet is registered.
    pub(super) fn join(&mut self, m: usize) {
        if !self.raft.agreed().members.contains_key(&name(m)) {
            let priority = self.setup.priorities[m];
            self.register(m, priority, Tags::default());
        }
    }

    /// The operator takes back what keeps members out, until that is agreed on.
    pub(super) fn take_back_settings(&mut self) {
        let agreed = self.raft.agreed().clone();
        let floor = agreed.spec.write_quorum_min > 1;
        if floor {
            self.change_spec(SpecChange::Floor(1));
        }
        for m in 0..self.members.len() {
            match agreed.members.get(&name(m)) {
                Some(member) if member.tags != Tags::default() => {
                    self.register(m, member.priority, Tags::default());
                }
                Some(_) => {}
                None => self.join(m),
            }
        }
    }
}
