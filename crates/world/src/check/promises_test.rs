//! Every rule about rows has a history that breaks it alone, and one beside it that does not.

use super::promises::{Asked, Guard, Outcome, Promises, Read, Session};
use super::rows::Value;
use super::violation::{Micros, Rule};
use crate::schedule::Node;

struct Play {
    promises: Promises,
    now: Micros,
}

impl Play {
    fn new() -> Self {
        Self::asked(true, true)
    }

    fn asked(durable: bool, one_writer: bool) -> Self {
        Self { promises: Promises::new(Asked { durable, one_writer }), now: 0 }
    }

    fn tick(&mut self) -> Micros {
        self.now += 10;
        self.now
    }

    fn begin(&mut self, session: Session) -> Value {
        let at = self.tick();
        self.promises.begin(at, session)
    }

    fn end(&mut self, value: Value, outcome: Outcome) {
        let at = self.tick();
        self.promises.end(at, value, outcome);
    }

    /// A write that is acknowledged on a connection of its own.
    fn ack(&mut self, node: Node, epoch: u64) -> Value {
        let session = self.promises.connect();
        let value = self.begin(session);
        self.end(value, Outcome::Acknowledged { node, epoch });
        value
    }

    /// A write of which nothing is heard.
    fn unknown(&mut self) -> Value {
        let session = self.promises.connect();
        let value = self.begin(session);
        self.end(value, Outcome::Unknown);
        value
    }

    /// What a new connection sees; returns the rules that it breaks.
    fn read(&mut self, node: Node, open: Option<u64>, values: &[Value]) -> Vec<Rule> {
        let session = self.promises.connect();
        self.read_in(session, node, open, values)
    }

    fn read_in(
        &mut self,
        session: Session,
        node: Node,
        open: Option<u64>,
        values: &[Value],
    ) -> Vec<Rule> {
        let (begun, ended) = (self.tick(), self.tick());
        let rows = values.iter().map(|v| (*v, *v)).collect();
        self.promises.read(&Read { session, node, begun, ended, open, rows });
        self.promises.take().iter().map(|v| v.rule).collect()
    }
}

const NONE: [Rule; 0] = [];

#[test]
fn a_good_history_breaks_nothing() {
    let mut p = Play::new();
    let session = p.promises.connect();
    let a = p.ack(0, 2);
    let b = p.unknown();
    assert_eq!(p.read_in(session, 0, Some(2), &[a]), NONE);
    assert_eq!(p.read_in(session, 0, Some(2), &[b, a]), NONE);
    // A standby may be behind.
    assert_eq!(p.read(1, None, &[]), NONE);
    assert_eq!(p.read(1, None, &[a]), NONE);
    let c = p.ack(1, 3);
    assert_eq!(p.read(1, Some(3), &[a, b, c]), NONE);
    let counts = p.promises.counts();
    assert_eq!((counts.acknowledged, counts.refused, counts.unknown), (2, 0, 1));
    assert!(p.promises.kept().iter().eq([a, c]));
}

#[test]
fn an_acknowledged_write_that_is_gone_is_found() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    let b = p.ack(0, 2);
    assert_eq!(p.read(1, Some(3), &[a]), [Rule::AcknowledgedKept]);
    assert_eq!(p.read(1, Some(3), &[a, b]), NONE);
    // Nothing was promised of it: disks lie.
    let mut p = Play::asked(false, false);
    p.ack(0, 2);
    assert_eq!(p.read(1, Some(3), &[]), NONE);
}

#[test]
fn a_write_acknowledged_during_a_read_need_not_be_in_it() {
    let mut p = Play::new();
    let session = p.promises.connect();
    let value = p.begin(session);
    let begun = p.tick();
    p.end(value, Outcome::Acknowledged { node: 0, epoch: 2 });
    let ended = p.tick();
    let read = Read { session: 9, node: 0, begun, ended, open: Some(2), rows: vec![] };
    p.promises.read(&read);
    assert_eq!(p.promises.take(), vec![]);
}

#[test]
fn what_was_read_and_is_gone_is_found() {
    let mut p = Play::new();
    let b = p.unknown();
    assert_eq!(p.read(0, Some(2), &[b]), NONE);
    assert_eq!(p.read(1, Some(3), &[]), [Rule::ReadKept]);
    // It was only seen on a standby, or where writes are held back.
    let mut p = Play::new();
    let b = p.unknown();
    assert_eq!(p.read(0, None, &[b]), NONE);
    assert_eq!(p.read(1, Some(3), &[]), NONE);
    // Its wait had been cancelled.
    let mut p = Play::new();
    let b = p.unknown();
    p.promises.wait_cancelled(b);
    assert_eq!(p.read(0, Some(2), &[b]), NONE);
    assert_eq!(p.read(1, Some(3), &[]), NONE);
}

#[test]
fn a_standby_that_leaves_a_write_out_is_found() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    let b = p.ack(0, 2);
    assert_eq!(p.read(1, None, &[b]), [Rule::InOrder]);
    // Two at one time may be in any order in the log.
    let mut p = Play::new();
    let (s, t) = (p.promises.connect(), p.promises.connect());
    let (c, d) = (p.begin(s), p.begin(t));
    p.end(c, Outcome::Acknowledged { node: 0, epoch: 2 });
    p.end(d, Outcome::Acknowledged { node: 0, epoch: 2 });
    assert_eq!(p.read(1, None, &[d]), NONE);
    assert_eq!((a, c), (0, 0));
}

#[test]
fn a_session_out_of_order_is_found() {
    let mut p = Play::new();
    let session = p.promises.connect();
    let a = p.begin(session);
    p.end(a, Outcome::Unconfirmed);
    let b = p.begin(session);
    p.end(b, Outcome::Unknown);
    assert_eq!(p.read(1, None, &[b]), [Rule::SessionInOrder]);
    assert_eq!(p.read(1, None, &[a, b]), NONE);
    assert_eq!(p.read(1, None, &[a]), NONE);
    // Another session's says nothing.
    let c = p.unknown();
    assert_eq!(p.read(1, None, &[c]), NONE);
}

#[test]
fn a_session_that_goes_back_is_found() {
    let mut p = Play::new();
    let b = p.unknown();
    let session = p.promises.connect();
    assert_eq!(p.read_in(session, 1, None, &[b]), NONE);
    assert_eq!(p.read_in(session, 1, None, &[]), [Rule::SessionMonotonic]);
    // Another connection to a standby may.
    assert_eq!(p.read_in(session, 1, None, &[b]), NONE);
    p.promises.disconnect(session);
    assert_eq!(p.read_in(session, 1, None, &[]), NONE);
}

#[test]
fn a_refused_write_that_appears_is_found() {
    let mut p = Play::new();
    let session = p.promises.connect();
    let a = p.begin(session);
    // Before the answer it may be anything.
    assert_eq!(p.read(1, None, &[a]), NONE);
    p.end(a, Outcome::Refused);
    assert_eq!(p.read(1, None, &[a]), [Rule::RefusedAbsent]);
    assert_eq!(p.read(1, None, &[]), NONE);
}

#[test]
fn a_row_that_nobody_wrote_is_found() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    assert_eq!(p.read(0, Some(2), &[a, a + 1]), [Rule::NothingInvented]);
}

#[test]
fn a_row_that_is_there_twice_is_found() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    assert_eq!(p.read(0, Some(2), &[a, a]), [Rule::Once]);
}

#[test]
fn exactly_what_was_given_up_may_be_gone() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    let b = p.ack(0, 2);
    assert_eq!(p.read(0, Some(2), &[a, b]), NONE);
    p.promises.gave_up(3, &[Guard { epoch: 2, covered: false }]);
    // The first is there, the second is given up, with its having been read.
    assert_eq!(p.read(1, Some(3), &[a]), NONE);
    assert_eq!(p.read(2, None, &[]), NONE);
    // From then on all is kept again: what was read, and what is acknowledged.
    assert_eq!(p.read(1, Some(3), &[]), [Rule::ReadKept]);
    let c = p.ack(1, 3);
    assert_eq!(p.read(1, Some(3), &[a]), [Rule::AcknowledgedKept]);
    assert!(p.promises.kept().iter().eq([c]));
    // An answer of the old epoch that comes late.
    let session = p.promises.connect();
    let late = p.begin(session);
    p.end(late, Outcome::Acknowledged { node: 0, epoch: 2 });
    assert_eq!(p.read(1, Some(3), &[a, c]), NONE);
}

#[test]
fn what_other_configurations_guard_is_not_given_up() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    let b = p.ack(1, 3);
    let c = p.ack(2, 5);
    // Epoch 4 was never open; what it guards is there, and what the fifth acknowledged is not.
    let guards = [Guard { epoch: 4, covered: true }, Guard { epoch: 5, covered: false }];
    p.promises.gave_up(6, &guards);
    assert_eq!(p.read(0, Some(6), &[a, b]), NONE);
    assert_eq!(p.read(0, Some(6), &[a]), [Rule::AcknowledgedKept]);
    assert!(p.promises.kept().iter().eq([a, b]));
    // Of two configurations of one epoch both have to be covered.
    let mut p = Play::new();
    p.ack(0, 2);
    let guards = [Guard { epoch: 2, covered: true }, Guard { epoch: 2, covered: false }];
    p.promises.gave_up(3, &guards);
    assert_eq!(p.read(1, Some(3), &[]), NONE);
    assert_eq!(c, 2);
}

#[test]
fn with_two_writers_only_the_newest_is_asked() {
    let mut p = Play::asked(true, false);
    let a = p.ack(0, 2);
    let b = p.ack(1, 3);
    assert_eq!(p.read(0, Some(2), &[a]), NONE);
    assert_eq!(p.read(2, None, &[b]), NONE);
    assert_eq!(p.read(1, Some(3), &[b]), [Rule::AcknowledgedKept]);
    // With one writer a server of an old epoch that is still open is found, too.
    let mut p = Play::new();
    let a = p.ack(0, 2);
    p.ack(1, 3);
    assert_eq!(p.read(0, Some(2), &[a]), [Rule::AcknowledgedKept]);
}

#[test]
fn a_story_is_told_of_every_write() {
    let mut p = Play::new();
    let a = p.ack(0, 2);
    let session = p.promises.connect();
    let b = p.begin(session);
    assert!(p.promises.story(a).contains("acknowledged by m0 in epoch 2"));
    assert!(p.promises.story(b).contains("no answer yet"));
    assert!(p.promises.story(77).contains("no client"));
}
