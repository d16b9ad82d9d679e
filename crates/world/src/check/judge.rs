//! All checkers behind one door.
//!
//! Owns the order in which they are asked, and which of them a plan allows. Imports the checkers.

use std::sync::Arc;

use super::agreement::Agreement;
use super::finale::{Final, finale};
use super::promises::{Asked, Counts, Guard, Outcome, Promises, Read, Session};
use super::rows::Value;
use super::violation::{Micros, Rule, Violation};
use super::writers::{Acknowledged, Writers};
use crate::domain::state::ControlState;
use crate::schedule::{Guarantees, Node};

/// Judges one run. Everything is told in the order of true time.
#[derive(Debug, Clone)]
pub struct Judge {
    guarantees: Guarantees,
    promises: Promises,
    writers: Writers,
    agreement: Agreement,
    begun: Vec<Micros>,
    /// Whether nobody was in trouble so far who led the control plane.
    calm: bool,
    found: Vec<Violation>,
}

impl Judge {
    /// For a run of which this is to be asked.
    pub fn new(guarantees: Guarantees) -> Self {
        let Guarantees { one_writer, durable, .. } = guarantees;
        Self {
            guarantees,
            promises: Promises::new(Asked { durable, one_writer }),
            writers: Writers::default(),
            agreement: Agreement::default(),
            begun: Vec::new(),
            calm: true,
            found: Vec::new(),
        }
    }

    /// A client has a new connection.
    pub fn connect(&mut self) -> Session {
        self.promises.connect()
    }

    /// A client's connection has ended.
    pub fn disconnect(&mut self, session: Session) {
        self.promises.disconnect(session);
    }

    /// A client is about to send a write; returns its number.
    pub fn begin_write(&mut self, at: Micros, session: Session) -> Value {
        self.begun.push(at);
        self.promises.begin(at, session)
    }

    /// A client knows what it will ever know of a write.
    pub fn end_write(&mut self, at: Micros, value: Value, outcome: Outcome) {
        self.promises.end(at, value, outcome);
        if let Outcome::Acknowledged { node, epoch } = outcome
            && let Some(begun) = self.begun.get(value as usize)
        {
            let write = Acknowledged { value, begun: *begun, ended: at, node, epoch };
            let violation = self.writers.acknowledged(&write);
            self.found.extend(violation.filter(|_| self.guarantees.one_writer));
        }
    }

    /// A client has seen rows.
    pub fn read(&mut self, read: &Read) {
        self.promises.read(read);
        self.found.extend(self.promises.take());
    }

    /// A server gave up the wait for standbys of this write's commit: told by the server.
    pub fn wait_cancelled(&mut self, value: Value) {
        self.promises.wait_cancelled(value);
    }

    /// The grant of this epoch gives up what its member does not have: told by the agreed state.
    pub fn gave_up(&mut self, epoch: u64, guards: &[Guard]) {
        self.promises.gave_up(epoch, guards);
    }

    /// These servers would accept and acknowledge a write at this instant, with their epochs: told
    /// by the servers.
    pub fn look_at_writers(&mut self, at: Micros, writers: &[(Node, u64)]) {
        let violation = self.writers.look(at, writers);
        self.found.extend(violation.filter(|_| self.guarantees.one_writer));
    }

    /// A controller has applied everything up to `index`.
    pub fn applied(&mut self, at: Micros, node: Node, index: u64, state: &Arc<ControlState>) {
        let found = self.agreement.applied(at, node, index, state);
        self.found.extend(found.into_iter().filter(|_| self.guarantees.agreed));
    }

    /// An epoch was closed: told by the agreed state.
    pub fn closed(&mut self, at: Micros, epoch: u64) {
        if let Some(node) = self.guarantees.calm.filter(|_| self.calm) {
            let found = format!(
                "epoch {epoch} was ended, and nothing was wrong but n{node}'s part in the control plane"
            );
            self.found.push(Violation::new(Rule::Calm, at, &[node], found));
        }
    }

    /// The process of a controller has ended.
    pub fn controller_ended(&mut self, node: Node) {
        self.agreement.ended(node);
    }

    /// A controller says that it leads a term.
    pub fn leads(&mut self, at: Micros, node: Node, term: u64) {
        // What hits it then hits the leader.
        self.calm &= self.guarantees.calm != Some(node);
        let violation = self.agreement.leads(at, node, term);
        self.found.extend(violation.filter(|_| self.guarantees.agreed));
    }

    /// A process has ended by a defect of its own.
    pub fn panicked(&mut self, at: Micros, node: Node, what: &str) {
        self.found.push(Violation::new(Rule::NoPanic, at, &[node], format!("n{node}: {what}")));
    }

    /// The run has ended, and clients were not served again.
    pub fn unhealed(&mut self, at: Micros, why: &str) {
        if self.guarantees.heals {
            self.found.push(Violation::new(Rule::Heals, at, &[], why));
        }
    }

    /// The run has ended; this is what all members said at last.
    pub fn end(&mut self, at: Micros, finals: &[Final]) {
        if self.guarantees.heals {
            let kept = match self.guarantees.durable {
                true => self.promises.kept(),
                false => Default::default(),
            };
            self.found.extend(finale(at, finals, &kept));
        }
    }

    /// What was found first. A run may go on, but what comes after may only follow from it.
    pub fn violation(&self) -> Option<&Violation> {
        self.found.first()
    }

    /// How many writes ended how, by now.
    pub fn counts(&self) -> Counts {
        self.promises.counts()
    }

    /// The history of the writes, to tell about single ones.
    pub fn promises(&self) -> &Promises {
        &self.promises
    }

    /// What controllers agree on.
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarantees(one_writer: bool) -> Guarantees {
        Guarantees { one_writer, durable: true, heals: true, agreed: true, calm: None }
    }

    #[test]
    fn two_writers_are_told_only_where_clocks_keep_their_bound() {
        for (one_writer, rule) in [(true, Some(Rule::OneWriter)), (false, None)] {
            let mut judge = Judge::new(guarantees(one_writer));
            judge.look_at_writers(5, &[(0, 2), (1, 3)]);
            assert_eq!(judge.violation().map(|v| v.rule), rule);
        }
    }

    #[test]
    fn what_comes_first_counts() {
        let mut judge = Judge::new(guarantees(true));
        let session = judge.connect();
        let value = judge.begin_write(1, session);
        judge.end_write(2, value, Outcome::Acknowledged { node: 0, epoch: 2 });
        let empty = Read { session, node: 0, begun: 3, ended: 4, open: Some(2), rows: Vec::new() };
        judge.read(&empty);
        judge.panicked(5, 1, "index out of bounds");
        let first = judge.violation().unwrap();
        assert_eq!((first.rule, first.at), (Rule::AcknowledgedKept, 4));
        assert_eq!(judge.counts().acknowledged, 1);
        let silent = Final { node: 0, answer: Err("no route".to_owned()) };
        judge.end(9, &[silent]);
        assert_eq!(judge.violation().map(|v| v.at), Some(4));
    }
}
