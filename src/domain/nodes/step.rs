//! What the leader does next for the change that is under way.
//!
//! Pure: it is asked again after every step, by whoever leads then, and each answer rests on the
//! agreed state and on the membership that is in force. So a change survives the leader that began
//! it, in the middle of a joint membership as well.

use std::collections::BTreeSet;

use super::{NodeChange, Nodes};
use crate::domain::types::{NodeId, WallMillis};

/// Most log entries that a learner may lack to be made a voter.
pub const LAG_ENTRIES_MAX: u64 = 50;

/// The Raft group as its leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// The leader.
    pub own: NodeId,
    /// The sets of voters in force: two while they change.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
    /// The membership in force is committed, and so is an entry of this leadership.
    pub settled: bool,
    /// Those that have answered just now and lack at most [`LAG_ENTRIES_MAX`] entries.
    pub caught_up: BTreeSet<NodeId>,
}

impl Group {
    /// Whether these voters could decide at once: a joint membership that they cannot commit is
    /// never left again, and blocks everything else.
    fn can_decide(&self, voters: &BTreeSet<NodeId>) -> bool {
        let there = |id: &&NodeId| **id == self.own || self.caught_up.contains(id);
        2 * voters.iter().filter(there).count() > voters.len()
    }
}

/// One step of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Adds the node of the change as a learner.
    AddLearner(NodeId),
    /// Makes a learner a voter: joint, then uniform.
    Promote(NodeId),
    /// Takes a voter out: joint, then uniform.
    RemoveVoter(NodeId),
    /// Takes a learner out.
    RemoveLearner(NodeId),
    /// Ends a joint membership that another leader has left.
    Flatten,
    /// Hands the leadership over, since this node is the one that goes.
    HandOver,
    /// Gives up a node that did not come in time.
    Expire(NodeId),
}

/// The next step, if any. `now` is the leader's wall clock.
pub fn next_step(group: &Group, nodes: &Nodes, now: WallMillis) -> Option<Step> {
    // A change of a membership that is not committed, or by a leader that has committed nothing
    // itself, could agree on two memberships without a common majority.
    if !group.settled {
        return None;
    }
    let last = group.configs.last()?;
    let going = match &nodes.change {
        Some(NodeChange::Remove { id, .. }) => Some(*id),
        _ => None,
    };
    // Never by its own hand: a leader that takes itself out leads a group that it is not in.
    let is_voter = group.configs.iter().any(|config| config.contains(&group.own));
    if !is_voter {
        return None;
    }
    if !last.contains(&group.own) {
        return Some(Step::HandOver);
    }
    if going == Some(group.own) {
        // Where it could not be taken out after, it leads on.
        let joint = group.configs.len() > 1;
        let ready = joint || group.can_decide(&without(last, group.own));
        return ready.then_some(Step::HandOver);
    }
    if group.configs.len() > 1 {
        return Some(Step::Flatten);
    }
    match &nodes.change {
        Some(NodeChange::Add { id, expires_at, .. }) => {
            let late = now > *expires_at;
            if last.contains(id) {
                None
            } else if group.learners.contains(id)
                && group.caught_up.contains(id)
                && group.can_decide(&with(last, *id))
            {
                Some(Step::Promote(*id))
            } else if late {
                Some(Step::Expire(*id))
            } else {
                (!group.learners.contains(id)).then_some(Step::AddLearner(*id))
            }
        }
        Some(NodeChange::Remove { id, .. }) if last.contains(id) => {
            let left = without(last, *id);
            (!left.is_empty() && group.can_decide(&left)).then_some(Step::RemoveVoter(*id))
        }
        Some(NodeChange::Remove { id, .. }) if group.learners.contains(id) => {
            Some(Step::RemoveLearner(*id))
        }
        // One that was added while it was given up.
        _ => group
            .learners
            .iter()
            .find(|id| nodes.is_removed(**id))
            .copied()
            .map(Step::RemoveLearner),
    }
}

/// What the change under way waits for, where that is those that vote: for people.
pub fn waiting(group: &Group, nodes: &Nodes) -> Option<String> {
    let [last] = group.configs.as_slice() else { return None };
    let voters = match nodes.change.as_ref()? {
        NodeChange::Remove { id, .. } if last.contains(id) => without(last, *id),
        NodeChange::Add { id, .. } if group.learners.contains(id) => with(last, *id),
        _ => return None,
    };
    if group.can_decide(&voters) {
        return None;
    }
    let lacking = voters.iter().filter(|id| **id != group.own && !group.caught_up.contains(id));
    let name = |id: &NodeId| nodes.members.get(id).map_or(id.to_string(), |n| n.name.clone());
    let lacking: Vec<String> = lacking.map(name).collect();
    Some(format!(
        "of the {} voters there would be then, these do not answer or have not caught up: {}",
        voters.len(),
        lacking.join(", ")
    ))
}

fn without(voters: &BTreeSet<NodeId>, id: NodeId) -> BTreeSet<NodeId> {
    voters.iter().copied().filter(|v| *v != id).collect()
}

fn with(voters: &BTreeSet<NodeId>, id: NodeId) -> BTreeSet<NodeId> {
    voters.iter().copied().chain([id]).collect()
}
