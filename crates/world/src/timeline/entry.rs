//! What happened in a run, one thing at a time.
//!
//! Owns how much each kind of thing matters to a reader. Imports nothing but the names of rows.

use crate::check::{Micros, Value};
use crate::schedule::Node;

/// Kinds of things, in the order in which they are left out: the last ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A rule was found broken.
    Violation,
    /// A fault began or ended.
    Fault,
    /// An operator did something.
    Operator,
    /// An epoch was closed, granted, recorded, opened; a configuration changed.
    Control,
    /// A server's role changed.
    Server,
    /// A member was sealed, rewound, copied; a process began or ended.
    Member,
    /// A controller began or ceased to lead.
    Leader,
    /// Clients could write again, or no longer.
    Clients,
    /// A single write or read.
    Row,
    /// What else was logged.
    Log,
}

impl Class {
    /// The word before the text.
    pub fn name(self) -> &'static str {
        match self {
            Class::Violation => "VIOLATION",
            Class::Fault => "fault",
            Class::Operator => "operator",
            Class::Control => "control",
            Class::Server => "server",
            Class::Member => "member",
            Class::Leader => "leader",
            Class::Clients => "clients",
            Class::Row => "row",
            Class::Log => "log",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Micros,
    /// Where, where it has a place.
    pub node: Option<Node>,
    /// What kind of thing.
    pub class: Class,
    /// What, in a line.
    pub text: String,
    /// The row that it is about.
    pub row: Option<Value>,
}

/// All that happened, in the order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    entries: Vec<Entry>,
}

impl Timeline {
    /// Notes something.
    pub fn note(&mut self, at: Micros, node: Option<Node>, class: Class, text: impl Into<String>) {
        self.entries.push(Entry { at, node, class, text: text.into(), row: None });
    }

    /// Notes something about a row.
    pub fn row(&mut self, at: Micros, node: Option<Node>, row: Value, text: impl Into<String>) {
        let (class, text, row) = (Class::Row, text.into(), Some(row));
        self.entries.push(Entry { at, node, class, text, row });
    }

    /// Everything that was noted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}
