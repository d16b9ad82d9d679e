//! At most one writer.
//!
//! Owns two checkers. One is shown, at every instant that matters, which servers would acknowledge a
//! write. The other looks at acknowledgements alone, as a client could. Imports nothing but words
//! for what is found.

use std::collections::BTreeMap;

use super::rows::Value;
use super::violation::{Micros, Rule, Violation};
use crate::schedule::Node;

/// Watches who writes.
#[derive(Debug, Clone, Default)]
pub struct Writers {
    /// By epoch: who acknowledged, and the earliest end of an acknowledged write.
    epochs: BTreeMap<u64, (Node, Micros, Value)>,
    /// Who would acknowledge, as last shown; equal looks are common.
    shown: Vec<(Node, u64)>,
}

/// An acknowledged write, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// Which.
    pub value: Value,
    /// Before it was sent.
    pub begun: Micros,
    /// When the answer had arrived.
    pub ended: Micros,
    /// Who answered.
    pub node: Node,
    /// In which epoch: the timeline of the server that answered.
    pub epoch: u64,
}

impl Writers {
    /// Shows which servers would accept and acknowledge a write at this instant, with their epochs.
    pub fn look(&mut self, at: Micros, writers: &[(Node, u64)]) -> Option<Violation> {
        if self.shown == writers {
            return None;
        }
        self.shown = writers.to_vec();
        let [(a, of_a), (b, of_b), ..] = writers else { return None };
        let found =
            format!("m{a} in epoch {of_a} and m{b} in epoch {of_b} would both acknowledge a write");
        Some(Violation::new(Rule::OneWriter, at, &[*a, *b], found))
    }

    /// Takes a write that was acknowledged.
    pub fn acknowledged(&mut self, write: &Acknowledged) -> Option<Violation> {
        let Acknowledged { value, begun, ended, node, epoch } = *write;
        let first = self.epochs.entry(epoch).or_insert((node, ended, value));
        if first.0 != node {
            let found = format!(
                "epoch {epoch} was written by m{} ({}) and by m{node} ({value})",
                first.0, first.2
            );
            let both = [first.0, node];
            let violation = Violation::new(Rule::EpochsInOrder, ended, &both, found);
            return Some(violation.about([first.2, value]));
        }
        if ended < first.1 {
            *first = (node, ended, value);
        }
        let newer = self.epochs.range(epoch + 1..).min_by_key(|(_, first)| first.1);
        let (newer, (by, when, other)) = newer?;
        if begun <= *when {
            return None;
        }
        let found = format!(
            "write {value} was begun on m{node} in epoch {epoch}, and acknowledged there, {} ms after \
             write {other} was acknowledged by m{by} in epoch {newer}",
            (begun - when) / 1000
        );
        let violation = Violation::new(Rule::EpochsInOrder, ended, &[node, *by], found);
        Some(violation.about([value, *other]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(value: Value, begun: Micros, ended: Micros, node: Node, epoch: u64) -> Acknowledged {
        Acknowledged { value, begun, ended, node, epoch }
    }

    #[test]
    fn one_after_the_other_is_right() {
        let mut writers = Writers::default();
        assert_eq!(writers.look(1, &[(0, 2)]), None);
        assert_eq!(writers.look(2, &[]), None);
        assert_eq!(writers.look(3, &[(1, 3)]), None);
        for write in [
            ack(1, 10, 20, 0, 2),
            // On its way when the next epoch began.
            ack(3, 30, 90, 1, 3),
            ack(2, 25, 95, 0, 2),
            ack(4, 90, 99, 1, 3),
        ] {
            assert_eq!(writers.acknowledged(&write), None);
        }
    }

    #[test]
    fn two_at_one_instant_are_found() {
        let mut writers = Writers::default();
        let found = writers.look(5, &[(0, 2), (1, 3)]).unwrap();
        assert_eq!((found.rule, found.at, found.nodes), (Rule::OneWriter, 5, vec![0, 1]));
        // Told once for as long as it lasts.
        assert_eq!(writers.look(6, &[(0, 2), (1, 3)]), None);
    }

    #[test]
    fn a_late_write_of_an_old_epoch_is_found() {
        let mut writers = Writers::default();
        assert_eq!(writers.acknowledged(&ack(1, 10, 20, 0, 2)), None);
        assert_eq!(writers.acknowledged(&ack(2, 30, 40, 1, 3)), None);
        let found = writers.acknowledged(&ack(3, 41, 50, 0, 2)).unwrap();
        assert_eq!(found.rule, Rule::EpochsInOrder);
        assert!(found.values.iter().eq([2, 3]));
    }

    #[test]
    fn an_epoch_of_two_servers_is_found() {
        let mut writers = Writers::default();
        assert_eq!(writers.acknowledged(&ack(1, 10, 20, 0, 2)), None);
        let found = writers.acknowledged(&ack(2, 10, 20, 1, 2)).unwrap();
        assert_eq!((found.rule, found.nodes), (Rule::EpochsInOrder, vec![0, 1]));
    }
}
