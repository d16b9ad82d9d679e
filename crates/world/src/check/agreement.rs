//! What controllers agree on.
//!
//! Owns the rules about replicated state: every state keeps the domain's invariants, what is applied
//! at one index is the same everywhere, and a term has one leader. Imports the domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::violation::{Micros, Rule, Violation};
use crate::domain::invariants;
use crate::domain::state::ControlState;
use crate::schedule::Node;

/// So many of the latest states are remembered. One that lags further is compared from where it has
/// caught up.
const REMEMBERED: u64 = 20_000;

/// Watches all controllers.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    /// By index: who applied it first, and the state after it.
    states: BTreeMap<u64, (Node, Arc<ControlState>)>,
    /// How far each has come, in this life of its process.
    applied: BTreeMap<Node, u64>,
    leaders: BTreeMap<u64, Node>,
}

impl Agreement {
    /// A controller has applied everything up to `index`, and its state is this now.
    pub fn applied(
        &mut self,
        at: Micros,
        node: Node,
        index: u64,
        state: &Arc<ControlState>,
    ) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut tell = |rule, nodes: &[Node], what: String| {
            found.push(Violation::new(rule, at, nodes, what));
        };
        let before = self.applied.insert(node, index).unwrap_or(0);
        if index < before {
            let what = format!("n{node} went back from index {before} to {index}");
            tell(Rule::Agreement, &[node], what);
        }
        match self.states.get(&index) {
            Some((first, known)) => {
                if !Arc::ptr_eq(known, state) && known != state {
                    let what = format!(
                        "n{first} and n{node} have applied up to index {index}, and differ: {}",
                        difference(known, state)
                    );
                    tell(Rule::Agreement, &[*first, node], what);
                }
            }
            None => {
                for violation in invariants::check(state) {
                    let what = format!("at index {index}: {violation}");
                    tell(Rule::Invariants, &[node], what);
                }
                let earlier = self.states.range(..index).next_back();
                if let Some((_, (_, earlier))) = earlier {
                    for violation in invariants::check_step(earlier, state) {
                        let what = format!("at index {index}: {violation}");
                        tell(Rule::Invariants, &[node], what);
                    }
                }
                self.states.insert(index, (node, state.clone()));
                if let Some((newest, _)) = self.states.last_key_value() {
                    let oldest = newest.saturating_sub(REMEMBERED);
                    self.states = self.states.split_off(&oldest);
                }
            }
        }
        found
    }

    /// A controller's process has ended. Its next life may begin at an earlier index: what it had
    /// applied need not have been on its disk.
    pub fn ended(&mut self, node: Node) {
        self.applied.remove(&node);
    }

    /// A controller says that it leads a term.
    pub fn leads(&mut self, at: Micros, node: Node, term: u64) -> Option<Violation> {
        let leader = *self.leaders.entry(term).or_insert(node);
        (leader != node).then(|| {
            let found = format!("n{leader} and n{node} both lead term {term}");
            Violation::new(Rule::OneLeader, at, &[leader, node], found)
        })
    }

    /// The newest state that any controller has applied.
    pub fn newest(&self) -> Option<(u64, &Arc<ControlState>)> {
        self.states.last_key_value().map(|(index, (_, state))| (*index, state))
    }
}

/// Where two states differ first, as text.
fn difference(a: &ControlState, b: &ControlState) -> String {
    let text = |s: &ControlState| serde_json::to_string(s).unwrap_or_default();
    let (a, b) = (text(a), text(b));
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let part = |s: &str| {
        let from = s.char_indices().map(|(i, _)| i).rfind(|i| *i <= same.saturating_sub(40));
        s[from.unwrap_or(0)..].chars().take(120).collect::<String>()
    };
    format!("...{}... and ...{}...", part(&a), part(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::apply::{Position, apply};
    use crate::domain::command::{Change, Command};
    use crate::domain::state::ClusterSpec;
    use crate::domain::types::{ClusterName, Epoch, MemberName, WallMillis};

    fn states() -> Vec<Arc<ControlState>> {
        let spec = ClusterSpec::of(vec![MemberName::new("m0").unwrap()]);
        let mut state = ControlState::default();
        let mut all = vec![Arc::new(state.clone())];
        for name in ["a", "b"] {
            let command = Command {
                cluster: ClusterName::new(name).unwrap(),
                at: WallMillis(1),
                change: Change::CreateCluster { spec: spec.clone() },
            };
            apply(&mut state, Position { index: 1, term: 1 }, &command);
            all.push(Arc::new(state.clone()));
        }
        all
    }

    #[test]
    fn equal_states_in_any_pace_are_right() {
        let states = states();
        let mut agreement = Agreement::default();
        for (index, state) in states.iter().enumerate() {
            assert_eq!(agreement.applied(1, 0, index as u64, state), vec![]);
        }
        // Another jumps, as with a snapshot; a third starts again at an older one.
        let copy = Arc::new(ControlState::clone(&states[2]));
        assert_eq!(agreement.applied(2, 1, 2, &copy), vec![]);
        agreement.ended(1);
        assert_eq!(agreement.applied(3, 1, 1, &states[1]), vec![]);
        assert_eq!(agreement.newest().map(|(index, _)| index), Some(2));
        assert_eq!(agreement.leads(4, 0, 1), None);
        assert_eq!(agreement.leads(5, 0, 1), None);
        assert_eq!(agreement.leads(5, 1, 2), None);
    }

    #[test]
    fn different_states_at_one_index_are_found() {
        let states = states();
        let mut agreement = Agreement::default();
        assert_eq!(agreement.applied(1, 0, 7, &states[1]), vec![]);
        let found = agreement.applied(2, 1, 7, &states[2]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].rule, &found[0].nodes[..]), (Rule::Agreement, &[0, 1][..]));
    }

    #[test]
    fn going_back_is_found() {
        let states = states();
        let mut agreement = Agreement::default();
        assert_eq!(agreement.applied(1, 0, 2, &states[2]), vec![]);
        let found = agreement.applied(2, 0, 1, &states[1]);
        assert_eq!(found.iter().map(|v| v.rule).collect::<Vec<_>>(), [Rule::Agreement]);
    }

    #[test]
    fn broken_invariants_are_found() {
        let states = states();
        let mut agreement = Agreement::default();
        let mut bad = ControlState::clone(&states[1]);
        bad.clusters.values_mut().for_each(|c| c.next_event = 100);
        let found = agreement.applied(1, 0, 1, &Arc::new(bad));
        assert!(found.iter().all(|v| v.rule == Rule::Invariants) && found.len() == 1, "{found:?}");
        // From one state to the next.
        let mut agreement = Agreement::default();
        let mut later = ControlState::clone(&states[1]);
        later.clusters.values_mut().for_each(|c| c.epoch = Epoch(3));
        assert_eq!(agreement.applied(1, 0, 1, &Arc::new(later)), vec![]);
        let found = agreement.applied(1, 0, 2, &states[2]);
        assert!(found.iter().all(|v| v.rule == Rule::Invariants) && found.len() == 1, "{found:?}");
    }

    #[test]
    fn two_leaders_of_a_term_are_found() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.leads(1, 0, 3), None);
        assert_eq!(agreement.leads(2, 2, 3).map(|v| v.rule), Some(Rule::OneLeader));
    }
}
