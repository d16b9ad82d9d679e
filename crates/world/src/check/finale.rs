//! The end of a run: faults are over, writers have stopped, and every member is asked for all rows.
//!
//! Owns what "healed" means to a client. Imports the rules.

use super::rows::Rows;
use super::violation::{Micros, Rule, Violation};
use crate::schedule::Node;

/// What a member said when it was asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Final {
    /// Who.
    pub node: Node,
    /// The epoch in which it is open for writes, where it is; or why there was no answer.
    pub answer: Result<(Option<u64>, Rows), String>,
}

/// Whether a cluster has healed: one primary is open for writes, every member answers, and all hold
/// the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It has.
    Healed,
    /// All is well but for these: members hold different rows.
    Differs {
        /// Who differs from the primary.
        nodes: Vec<Node>,
        /// Which rows only one of two holds.
        rows: Rows,
    },
    /// It has not.
    Ill {
        /// What is wrong, for a person.
        why: Vec<String>,
    },
}

impl Health {
    /// Judges what the members said.
    pub fn of(finals: &[Final]) -> Health {
        let mut why = Vec::new();
        let mut open = Vec::new();
        let mut held: Vec<(Node, &Rows)> = Vec::new();
        for last in finals {
            match &last.answer {
                Err(problem) => why.push(format!("m{} does not answer: {problem}", last.node)),
                Ok((epoch, rows)) => {
                    open.extend(epoch.map(|_| (last.node, rows)));
                    held.push((last.node, rows));
                }
            }
        }
        let primary = match open[..] {
            [(_, rows)] => rows,
            [] => {
                why.push("no member is open for writes".to_owned());
                return Health::Ill { why };
            }
            _ => {
                let nodes: Vec<Node> = open.iter().map(|(node, _)| *node).collect();
                why.push(format!("members on nodes {nodes:?} are open for writes"));
                return Health::Ill { why };
            }
        };
        if !why.is_empty() {
            return Health::Ill { why };
        }
        held.retain(|(_, rows)| *rows != primary);
        if held.is_empty() {
            return Health::Healed;
        }
        let apart = |rows: &Rows| rows.without(primary).union(&primary.without(rows));
        let rows = held.iter().fold(Rows::default(), |all, (_, rows)| all.union(&apart(rows)));
        Health::Differs { nodes: held.iter().map(|(node, _)| *node).collect(), rows }
    }
}

/// Judges the end of a run that has to heal; `kept` are the writes that have to be there.
pub fn finale(at: Micros, finals: &[Final], kept: &Rows) -> Vec<Violation> {
    let mut found = Vec::new();
    match Health::of(finals) {
        Health::Healed => {}
        Health::Differs { nodes, rows } => {
            let what = format!("members on nodes {nodes:?} differ from the primary by {rows}");
            found.push(Violation::new(Rule::SameInTheEnd, at, &nodes, what).about(rows.iter()));
        }
        Health::Ill { why } => {
            found.push(Violation::new(Rule::Heals, at, &[], why.join("; ")));
        }
    }
    for last in finals {
        let Ok((_, rows)) = &last.answer else { continue };
        let lost = kept.without(rows);
        // A standby that is merely behind differs from the primary, which is told above.
        if !lost.is_empty() && found.is_empty() {
            let what = format!("m{} does not have what was acknowledged: {lost}", last.node);
            let violation = Violation::new(Rule::AcknowledgedKept, at, &[last.node], what);
            found.push(violation.about(lost.iter()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(node: Node, open: Option<u64>, rows: &[u64]) -> Final {
        Final { node, answer: Ok((open, rows.iter().copied().collect())) }
    }

    fn rules(finals: &[Final], kept: &[u64]) -> Vec<Rule> {
        let kept = kept.iter().copied().collect();
        finale(9, finals, &kept).iter().map(|v| v.rule).collect()
    }

    #[test]
    fn a_healed_cluster_is_right() {
        let finals = [says(0, None, &[1, 2, 3]), says(1, Some(4), &[1, 2, 3])];
        assert_eq!(Health::of(&finals), Health::Healed);
        assert_eq!(rules(&finals, &[1, 3]), vec![]);
    }

    #[test]
    fn no_primary_two_primaries_and_no_answer_are_found() {
        let none = [says(0, None, &[1]), says(1, None, &[1])];
        assert_eq!(rules(&none, &[1]), [Rule::Heals]);
        let two = [says(0, Some(3), &[1]), says(1, Some(4), &[1])];
        assert_eq!(rules(&two, &[1]), [Rule::Heals]);
        let silent = Final { node: 1, answer: Err("no route".to_owned()) };
        assert_eq!(rules(&[says(0, Some(3), &[1]), silent], &[1]), [Rule::Heals]);
    }

    #[test]
    fn a_member_that_differs_is_found() {
        let finals = [says(0, Some(3), &[1, 2]), says(1, None, &[1]), says(2, None, &[1, 2, 5])];
        let found = finale(9, &finals, &[1].into_iter().collect());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].rule, &found[0].nodes), (Rule::SameInTheEnd, &vec![1, 2]));
        assert!(found[0].values.iter().eq([2, 5]));
    }

    #[test]
    fn a_write_that_all_have_lost_is_found() {
        let finals = [says(0, Some(3), &[1, 2]), says(1, None, &[1, 2])];
        assert_eq!(rules(&finals, &[1, 2, 3]), [Rule::AcknowledgedKept]);
    }
}
