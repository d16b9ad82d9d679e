//! What was promised to clients, and whether it is kept.
//!
//! Owns the history of writes and reads, as clients know it, and the rules about rows. Nothing here
//! looks into a server: a write is what its client sent and was told, a read is what came back.
//! What is unknown may be there or not. The rules are checked as reads arrive, so that a run keeps no
//! reads.
//!
//! Two facts of a server are told beside, since no client can know them: an operator's acceptance of
//! a loss, and a wait for standbys that was cancelled. PostgreSQL shows the rows of such a commit to
//! others though no standby may have them (`SyncRepCancelWait` in `syncrep.c`), so nobody may rely on
//! having read them.

use std::collections::BTreeMap;

use super::required::Required;
use super::rows::{Rows, Value};
use super::violation::{Micros, Rule, Violation};
use crate::schedule::Node;

/// What became of a write, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The commit was acknowledged, without any notice.
    Acknowledged {
        /// By the server of this node.
        node: Node,
        /// In this epoch: the timeline of the server that answered.
        epoch: u64,
    },
    /// The server has done it, and says with a notice that no standby may have it.
    Unconfirmed,
    /// It was not done, and never will be.
    Refused,
    /// It was sent and no clear answer came.
    Unknown,
}

/// A connection of a client, from its opening to its end.
pub type Session = u64;

#[derive(Debug, Clone)]
struct Write {
    session: Session,
    begun: Micros,
    outcome: Option<Outcome>,
}

/// What a client saw in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// On which connection.
    pub session: Session,
    /// Of which server.
    pub node: Node,
    /// Before it was sent.
    pub begun: Micros,
    /// When the answer had arrived.
    pub ended: Micros,
    /// The epoch in which the server said that it is open for writes, in this transaction; `None`
    /// where it is a standby, or holds writes back.
    pub open: Option<u64>,
    /// All rows, as ranges in any order: first and last of each.
    pub rows: Vec<(Value, Value)>,
}

/// What may be asked of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Whether acknowledged writes are kept at all.
    pub durable: bool,
    /// Whether there is one writer at an instant. Else a server of an old epoch may lack what a newer
    /// one has acknowledged.
    pub one_writer: bool,
}

/// The history of a run as clients know it, and its judge.
#[derive(Debug, Clone)]
pub struct Promises {
    asked: Asked,
    /// By value.
    writes: Vec<Write>,
    sessions: Session,
    /// What every session has written, oldest first.
    written: BTreeMap<Session, Vec<Value>>,
    /// What every session has seen last.
    seen_by: BTreeMap<Session, Rows>,
    acknowledged: Required,
    refused: Rows,
    /// What was read on open primaries.
    read: Required,
    read_rows: Rows,
    /// Rows of commits whose wait was cancelled: their having been read promises nothing.
    cancelled: Rows,
    /// The latest epoch whose grant gave up what its member did not have.
    gave_up: u64,
    waivers: Vec<(u64, Vec<Guard>)>,
    /// The latest epoch that acknowledged a write, or was seen open for writes.
    newest: u64,
    /// Writes that were done without a standby's confirmation.
    unconfirmed: Vec<Value>,
    found: Vec<Violation>,
}

/// A synchronous configuration that was in force when something was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The epoch that made it.
    pub epoch: u64,
    /// Whether all that was acknowledged under it is proven to be there.
    pub covered: bool,
}

/// Whether what was acknowledged in an epoch was given up: it is guarded by the oldest configuration
/// in force that is not older.
fn waived(waivers: &[(u64, Vec<Guard>)], epoch: u64) -> bool {
    waivers.iter().filter(|(by, _)| epoch < *by).any(|(_, guards)| {
        let guard = guards.iter().map(|g| g.epoch).filter(|of| *of >= epoch).min();
        guard.is_none_or(|of| guards.iter().any(|g| g.epoch == of && !g.covered))
    })
}

/// How many writes ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Refused.
    pub refused: u64,
    /// Everything else.
    pub unknown: u64,
}

impl Promises {
    /// An empty history.
    pub fn new(asked: Asked) -> Self {
        Self {
            asked,
            writes: Vec::new(),
            sessions: 0,
            written: BTreeMap::new(),
            seen_by: BTreeMap::new(),
            acknowledged: Required::default(),
            refused: Rows::default(),
            read: Required::default(),
            read_rows: Rows::default(),
            cancelled: Rows::default(),
            gave_up: 0,
            waivers: Vec::new(),
            newest: 0,
            unconfirmed: Vec::new(),
            found: Vec::new(),
        }
    }

    /// A new connection.
    pub fn connect(&mut self) -> Session {
        self.sessions += 1;
        self.sessions
    }

    /// A connection has ended.
    pub fn disconnect(&mut self, session: Session) {
        self.seen_by.remove(&session);
    }

    /// A write is about to be sent; returns its number.
    pub fn begin(&mut self, at: Micros, session: Session) -> Value {
        let value = self.writes.len() as Value;
        self.writes.push(Write { session, begun: at, outcome: None });
        self.written.entry(session).or_default().push(value);
        value
    }

    /// The client knows what it will ever know of a write. The first word counts.
    pub fn end(&mut self, at: Micros, value: Value, outcome: Outcome) {
        let Some(write) = self.writes.get_mut(value as usize) else { return };
        if write.outcome.is_some() {
            return;
        }
        write.outcome = Some(outcome);
        match outcome {
            Outcome::Acknowledged { epoch, .. } => {
                self.newest = self.newest.max(epoch);
                if !waived(&self.waivers, epoch) {
                    self.acknowledged.add(at, value);
                }
            }
            Outcome::Unconfirmed => self.unconfirmed.push(value),
            Outcome::Refused => self.refused.insert(value),
            Outcome::Unknown => {}
        }
    }

    /// A server gave up the wait for standbys of this write's commit.
    pub fn wait_cancelled(&mut self, value: Value) {
        self.cancelled.insert(value);
        self.read.forget(|v| v == value);
    }

    /// The grant of `epoch` gives up what its member does not have: an operator accepted that, or
    /// allows so much lag. What later epochs acknowledge, and what is read in them, is kept again.
    pub fn gave_up(&mut self, epoch: u64, guards: &[Guard]) {
        if epoch <= self.gave_up {
            return;
        }
        self.gave_up = epoch;
        self.waivers.push((epoch, guards.to_vec()));
        let (writes, waivers) = (&self.writes, &self.waivers);
        let old = |value: Value| match writes.get(value as usize).and_then(|w| w.outcome) {
            Some(Outcome::Acknowledged { epoch: of, .. }) => waived(waivers, of),
            _ => true,
        };
        self.acknowledged.forget(old);
        if self.newest < epoch {
            self.read.forget(|_| true);
            self.read_rows = Rows::default();
        }
    }

    /// Judges what a client saw.
    pub fn read(&mut self, read: &Read) {
        let rows = match Rows::of_ranges(read.rows.clone()) {
            Ok(rows) => rows,
            Err(twice) => {
                let found = format!("m{} shows write {twice} twice", read.node);
                self.tell(read, Rule::Once, found, [twice]);
                read.rows.iter().flat_map(|(first, last)| *first..=*last).collect()
            }
        };
        self.nothing_invented(read, &rows);
        self.refused_absent(read, &rows);
        self.session_monotonic(read, &rows);
        self.session_in_order(read, &rows);
        if self.asked.durable {
            self.kept_on(read, &rows);
            self.in_order(read, &rows);
        }
        if let Some(epoch) = read.open {
            self.newest = self.newest.max(epoch);
            self.note_read(read.ended, epoch, &rows);
        }
        self.seen_by.insert(read.session, rows);
    }

    /// What was found since the last call.
    pub fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.found)
    }

    /// How many writes ended how, by now.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for write in &self.writes {
            match write.outcome {
                Some(Outcome::Acknowledged { .. }) => counts.acknowledged += 1,
                Some(Outcome::Refused) => counts.refused += 1,
                _ => counts.unknown += 1,
            }
        }
        counts
    }

    /// Writes that are acknowledged and not given up.
    pub fn kept(&self) -> Rows {
        self.acknowledged.all()
    }

    /// What is known of a write, for a person.
    pub fn story(&self, value: Value) -> String {
        let Some(write) = self.writes.get(value as usize) else {
            return format!("write {value}: no client has submitted it");
        };
        let outcome = match write.outcome {
            None => "no answer yet".to_owned(),
            Some(Outcome::Acknowledged { node, epoch }) => {
                format!("acknowledged by m{node} in epoch {epoch}")
            }
            Some(Outcome::Unconfirmed) => "done, without a standby's confirmation".to_owned(),
            Some(Outcome::Refused) => "refused".to_owned(),
            Some(Outcome::Unknown) => "no clear answer".to_owned(),
        };
        let begun = write.begun as f64 / 1e6;
        format!("write {value}: begun at {begun:.3} s in session {}, {outcome}", write.session)
    }

    fn tell(
        &mut self,
        read: &Read,
        rule: Rule,
        found: String,
        values: impl IntoIterator<Item = Value>,
    ) {
        self.found.push(Violation::new(rule, read.ended, &[read.node], found).about(values));
    }

    fn nothing_invented(&mut self, read: &Read, rows: &Rows) {
        let submitted = self.writes.partition_point(|w| w.begun <= read.ended) as Value;
        if let Some(last) = rows.last().filter(|last| *last >= submitted) {
            let found = format!("m{} shows write {last}, which nobody had submitted", read.node);
            self.tell(read, Rule::NothingInvented, found, [last]);
        }
    }

    fn refused_absent(&mut self, read: &Read, rows: &Rows) {
        let absent = self.refused.without(rows);
        if absent.len() != self.refused.len() {
            let there = self.refused.without(&absent);
            let found = format!("m{} shows what was refused: {there}", read.node);
            self.tell(read, Rule::RefusedAbsent, found, there.iter());
        }
    }

    fn session_monotonic(&mut self, read: &Read, rows: &Rows) {
        let Some(before) = self.seen_by.get(&read.session) else { return };
        let gone = before.without(rows);
        if !gone.is_empty() {
            let found = format!("a session on m{} no longer sees {gone}", read.node);
            self.tell(read, Rule::SessionMonotonic, found, gone.iter());
        }
    }

    /// A session runs one statement after the other, so their commits are in that order in any log.
    /// Of acknowledged writes the rules below ask more.
    fn session_in_order(&mut self, read: &Read, rows: &Rows) {
        let later_of = |value: &Value| {
            let values = &self.written[&self.writes[*value as usize].session];
            values.iter().rev().take_while(|v| *v > value).find(|v| rows.contains(**v)).copied()
        };
        let absent = self.unconfirmed.iter().filter(|value| !rows.contains(**value));
        let Some((earlier, later)) = absent.filter_map(|v| Some((*v, later_of(v)?))).next() else {
            return;
        };
        let found = format!(
            "m{} shows write {later}, and not write {earlier}, which its session had done before",
            read.node
        );
        self.tell(read, Rule::SessionInOrder, found, [earlier, later]);
    }

    fn kept_on(&mut self, read: &Read, rows: &Rows) {
        // With two writers, one of an old epoch may lack what a newer one has.
        let least = if self.asked.one_writer { self.gave_up } else { self.newest };
        let Some(epoch) = read.open.filter(|epoch| *epoch >= least) else { return };
        let lost = self.acknowledged.missing(read.begun, rows);
        if !lost.is_empty() {
            let found = format!(
                "m{} is open for writes in epoch {epoch} and does not have what was acknowledged: {lost}",
                read.node
            );
            self.tell(read, Rule::AcknowledgedKept, found, lost.iter());
        }
        let vanished = self.read.missing(read.begun, rows).without(&lost);
        if !vanished.is_empty() {
            let found = format!(
                "m{} is open for writes in epoch {epoch} and does not show what was read before: \
                 {vanished}",
                read.node
            );
            self.tell(read, Rule::ReadKept, found, vanished.iter());
        }
    }

    /// Any log that has a write has all that were acknowledged before that write was begun: whoever
    /// took it had them.
    fn in_order(&mut self, read: &Read, rows: &Rows) {
        // What an open primary lacks is told already.
        if read.open.is_some() || !self.asked.one_writer {
            return;
        }
        let Some(last) = rows.last() else { return };
        // Writes are numbered in the order in which they were begun.
        let begun = self.writes.get(last as usize).map_or(0, |w| w.begun);
        let missing = self.acknowledged.missing(begun, rows);
        if !missing.is_empty() {
            let found = format!(
                "m{} shows write {last}, and not what was acknowledged before that was begun: {missing}",
                read.node
            );
            self.tell(read, Rule::InOrder, found, missing.iter().chain([last]));
        }
    }

    fn note_read(&mut self, at: Micros, epoch: u64, rows: &Rows) {
        if epoch < self.gave_up {
            return;
        }
        let new = rows.without(&self.read_rows);
        if new.is_empty() {
            return;
        }
        for value in new.without(&self.cancelled).iter() {
            self.read.add(at, value);
        }
        self.read_rows = self.read_rows.union(&new);
    }
}
