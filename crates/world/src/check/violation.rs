//! What was found wrong in a run.
//!
//! Owns the rules' names and the words for a person. Imports the sets of rows.

use std::fmt;

use super::rows::{Rows, Value};
use crate::schedule::Node;

/// True time since the run began, in microseconds.
pub type Micros = u64;

/// A rule that every run has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged write is in every later state of whoever is open for writes.
    AcknowledgedKept,
    /// What was read on an open primary never vanishes.
    ReadKept,
    /// A server that shows a write shows all that were acknowledged before that one was begun.
    InOrder,
    /// A server that shows a write shows all that its session had done before it.
    SessionInOrder,
    /// A session never goes back.
    SessionMonotonic,
    /// What was refused never appears.
    RefusedAbsent,
    /// Nothing appears that was not submitted.
    NothingInvented,
    /// No write is there twice.
    Once,
    /// At most one server would acknowledge a write at an instant.
    OneWriter,
    /// Writes of an epoch are acknowledged by one server alone, and none is begun and acknowledged in
    /// an epoch once a later one has acknowledged a write.
    EpochsInOrder,
    /// Agreed state keeps the invariants of the domain.
    Invariants,
    /// What is applied at one index is the same on all controllers, and none goes back.
    Agreement,
    /// A term has one leader.
    OneLeader,
    /// Once faults have ended, the cluster heals.
    Heals,
    /// All members hold the same rows in the end.
    SameInTheEnd,
    /// Trouble of one controller that does not lead ends no epoch.
    Calm,
    /// No process ends by a defect of its own.
    NoPanic,
}

impl Rule {
    /// All rules.
    pub const ALL: &[Rule] = &[
        Rule::AcknowledgedKept,
        Rule::ReadKept,
        Rule::InOrder,
        Rule::SessionInOrder,
        Rule::SessionMonotonic,
        Rule::RefusedAbsent,
        Rule::NothingInvented,
        Rule::Once,
        Rule::OneWriter,
        Rule::EpochsInOrder,
        Rule::Invariants,
        Rule::Agreement,
        Rule::OneLeader,
        Rule::Heals,
        Rule::SameInTheEnd,
        Rule::Calm,
        Rule::NoPanic,
    ];

    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Rule::AcknowledgedKept => "acknowledged-kept",
            Rule::ReadKept => "read-kept",
            Rule::InOrder => "in-order",
            Rule::SessionInOrder => "session-in-order",
            Rule::SessionMonotonic => "session-monotonic",
            Rule::RefusedAbsent => "refused-absent",
            Rule::NothingInvented => "nothing-invented",
            Rule::Once => "once",
            Rule::OneWriter => "one-writer",
            Rule::EpochsInOrder => "epochs-in-order",
            Rule::Invariants => "invariants",
            Rule::Agreement => "agreement",
            Rule::OneLeader => "one-leader",
            Rule::Heals => "heals",
            Rule::SameInTheEnd => "same-in-the-end",
            Rule::Calm => "calm",
            Rule::NoPanic => "no-panic",
        }
    }

    /// The rule of a name.
    pub fn named(name: &str) -> Option<Rule> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }

    /// What it says, for a person.
    pub fn says(self) -> &'static str {
        match self {
            Rule::AcknowledgedKept => {
                "a write that was acknowledged is in every later state of whoever is open for writes"
            }
            Rule::ReadKept => "what was read on an open primary never vanishes",
            Rule::InOrder => {
                "a server that shows a write shows all that were acknowledged before it was begun"
            }
            Rule::SessionInOrder => {
                "a server that shows a write shows all that its session had done before"
            }
            Rule::SessionMonotonic => "a session never sees less than it saw before",
            Rule::RefusedAbsent => "a write that was refused never appears",
            Rule::NothingInvented => "nothing appears that no client has submitted",
            Rule::Once => "no write is there twice",
            Rule::OneWriter => "at most one server would acknowledge a write at an instant",
            Rule::EpochsInOrder => "an epoch has one writer, and ends before a later one begins",
            Rule::Invariants => "agreed state keeps the invariants of the domain",
            Rule::Agreement => "all controllers apply the same, in the same order",
            Rule::OneLeader => "a term of the control plane has one leader",
            Rule::Heals => {
                "once faults have ended, one primary takes writes and all members follow"
            }
            Rule::SameInTheEnd => "in the end all members hold the same rows",
            Rule::Calm => "trouble of one controller that does not lead ends no epoch",
            Rule::NoPanic => "no process ends by a defect of its own",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When it was found.
    pub at: Micros,
    /// Where, where that makes sense.
    pub nodes: Vec<Node>,
    /// The writes concerned.
    pub values: Rows,
    /// What was found, for a person.
    pub found: String,
}

impl Violation {
    /// One that concerns no writes.
    pub fn new(rule: Rule, at: Micros, nodes: &[Node], found: impl Into<String>) -> Self {
        let nodes = nodes.to_vec();
        Self { rule, at, nodes, values: Rows::default(), found: found.into() }
    }

    /// That concerns these writes.
    pub fn about(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.values = values.into_iter().collect();
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at as f64 / 1e6;
        write!(f, "{} at {seconds:.3} s: {}", self.rule, self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_names_of_their_own() {
        for rule in Rule::ALL {
            assert_eq!(Rule::named(rule.name()), Some(*rule));
            assert!(!rule.says().is_empty());
        }
        assert_eq!(Rule::named("nothing"), None);
    }
}
