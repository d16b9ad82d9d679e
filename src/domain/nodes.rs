//! The nodes of the control plane: who votes, who is on the way in or out, and who ever was.
//!
//! Owns the replicated part that belongs to no cluster. What the Raft group has agreed on as its
//! membership comes in through [`Nodes::note_membership`], which every node calls for the same
//! entry of the log; what an operator asks for comes in as a [`NodesCommand`]. A node id is used
//! once: `next_id` is above every id that was ever in a membership or handed out.
//!
//! ```text
//!   anew    a new generation begins with one node
//!   rules   what a command may change
//!   step    what the leader does next for the change that is under way
//! ```

mod anew;
mod rules;
mod step;
#[cfg(all(test, not(quorate_mutants)))]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::types::{NodeId, NodeName, WallMillis};

pub use rules::{NodesRejection, apply};
pub use step::{Group, LAG_ENTRIES_MAX, Step, next_step, waiting};

/// Most nodes of the control plane, learners included: more voters make every decision slower, and
/// survive no more than anybody needs.
pub const NODES_MAX: usize = 9;
/// Most removed nodes that are remembered by name. Their ids are never used again in any case.
const REMOVED_MAX: usize = 256;
/// Most events that are kept.
pub const NODE_EVENTS_MAX: usize = 200;

/// What is agreed on about the nodes of the control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// The next id that may be handed out: every smaller one is used, for ever. 0 before the first
    /// membership is applied.
    #[serde(default)]
    pub next_id: NodeId,
    /// The membership that was applied last: voters and learners.
    #[serde(default)]
    pub members: BTreeMap<NodeId, Node>,
    /// Whether two sets of voters are in force: the membership changes just now.
    #[serde(default)]
    pub joint: bool,
    /// The change under way, at most one.
    #[serde(default)]
    pub change: Option<NodeChange>,
    /// Nodes that were removed, by id; bounded, the oldest go first.
    #[serde(default)]
    pub removed: BTreeMap<NodeId, Removed>,
    /// What happened, oldest first; bounded by [`NODE_EVENTS_MAX`].
    #[serde(default)]
    pub history: VecDeque<NodeEvent>,
    /// Number of the next event.
    #[serde(default)]
    pub next_event: u64,
}

/// A node of the Raft group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it listens for the others, `host:port`.
    pub address: String,
    /// Whether it votes; a learner only follows the log.
    pub voter: bool,
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: String,
    /// When it was decided, by the proposer's wall clock.
    pub at: WallMillis,
}

/// A change of the nodes, decided and not yet done. The leader carries it on, whoever leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeChange {
    /// This node comes in: as a learner, then as a voter.
    Add {
        /// Its id, never used before.
        id: NodeId,
        /// Its name.
        name: NodeName,
        /// `host:port`.
        address: String,
        /// After this, by the leader's wall clock, it is given up where it does not vote yet.
        expires_at: WallMillis,
        /// Who asked.
        by: String,
    },
    /// This node goes.
    Remove {
        /// Which.
        id: NodeId,
        /// Its name.
        name: String,
        /// Who asked, or why.
        by: String,
    },
}

impl NodeChange {
    /// Which node.
    pub fn id(&self) -> NodeId {
        match self {
            Self::Add { id, .. } | Self::Remove { id, .. } => *id,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Add { name, .. } => name.as_str(),
            Self::Remove { name, .. } => name,
        }
    }
}

/// A command about the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesCommand {
    /// When it was proposed, by the proposer's wall clock.
    pub nodes_at: WallMillis,
    /// Who asks, or why.
    pub by: String,
    /// What to do.
    pub act: NodesAct,
}

/// What a command about the nodes does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodesAct {
    /// Begins to add a node.
    Add {
        /// Its id: the next one.
        id: NodeId,
        /// Its name.
        name: NodeName,
        /// `host:port`.
        address: String,
        /// When it is given up.
        expires_at: WallMillis,
    },
    /// Begins to remove a node, or gives up the one that is being added.
    Remove {
        /// Which.
        id: NodeId,
    },
    /// Keeps a voter after all, while its removal has not begun in the group.
    Keep {
        /// Which.
        id: NodeId,
    },
    /// Gives up a node that was to be added and did not come in time.
    Expire {
        /// Which.
        id: NodeId,
    },
}

/// Something that happened to the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// Number, growing by one.
    pub id: u64,
    /// When it was decided, by the proposer's wall clock: for people. 0 where only the log knows.
    pub at: WallMillis,
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What.
    pub kind: NodeEventKind,
}

/// What can happen to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeEventKind {
    /// It is to be added.
    AddStarted {
        /// Its address.
        address: String,
        /// Who asked.
        by: String,
    },
    /// It votes.
    Added,
    /// It is to be removed.
    RemoveStarted {
        /// Who asked.
        by: String,
    },
    /// It is no node of the control plane any more, and never will be under this id.
    Removed,
    /// It stays after all.
    Kept {
        /// Who asked.
        by: String,
    },
    /// It did not come in time, and is given up.
    Expired,
}

impl std::fmt::Display for NodeEventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddStarted { address, by } => {
                write!(f, "is to be added at {address}, asked for by {by}")
            }
            Self::Added => f.write_str("votes from now on"),
            Self::RemoveStarted { by } => write!(f, "is to be removed, asked for by {by}"),
            Self::Removed => f.write_str("is removed; its id is never used again"),
            Self::Kept { by } => write!(f, "stays after all, asked for by {by}"),
            Self::Expired => f.write_str("did not come in time, and is given up"),
        }
    }
}

impl Nodes {
    /// The smallest id that may be handed out, given the members of the group as this node knows
    /// them: the state may be of a version that did not note memberships.
    pub fn free_id(&self, group: impl Iterator<Item = NodeId>) -> NodeId {
        let highest = group.chain(self.members.keys().copied()).max().unwrap_or(0);
        self.next_id.max(highest.saturating_add(1)).max(1)
    }

    /// Whether it was decided that this id goes, or was given up before it came in.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.contains_key(&id)
    }

    /// Whether it is gone: the membership without it is agreed on. Until then it still counts.
    pub fn is_gone(&self, id: NodeId) -> bool {
        self.is_removed(id) && !self.members.contains_key(&id)
    }

    /// The nodes that an agent or a client can ask: the voters.
    pub fn voters(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.members.iter().filter(|(_, node)| node.voter)
    }

    /// Takes a membership in that the log has agreed on. `configs` are its sets of voters, more
    /// than one while it changes; `nodes` all members with name and address. A change that it
    /// completes is done.
    pub fn note_membership(
        &mut self,
        configs: &[BTreeSet<NodeId>],
        nodes: &BTreeMap<NodeId, (String, String)>,
    ) {
        let voter = |id: &NodeId| configs.iter().any(|config| config.contains(id));
        let member = |(id, (name, address)): (&NodeId, &(String, String))| {
            (*id, Node { name: name.clone(), address: address.clone(), voter: voter(id) })
        };
        let before = std::mem::take(&mut self.members);
        self.members = nodes.iter().map(member).collect();
        self.joint = configs.len() > 1;
        let highest = self.members.keys().max().map_or(0, |id| id.saturating_add(1));
        self.next_id = self.next_id.max(highest);
        let uniform = !self.joint;
        match &self.change {
            Some(NodeChange::Add { id, name, .. })
                if uniform && self.members.get(id).is_some_and(|node| node.voter) =>
            {
                let (id, name) = (*id, name.to_string());
                self.change = None;
                self.record(WallMillis(0), id, name, NodeEventKind::Added);
            }
            Some(NodeChange::Remove { id, .. }) if uniform && !self.members.contains_key(id) => {
                self.finish_removal(WallMillis(0));
            }
            _ => {}
        }
        // Whoever is out is out for ever, also where it was to be kept and the change of the
        // membership had been proposed before that.
        for (id, node) in before {
            if !self.members.contains_key(&id) && !self.is_removed(id) {
                let at = self.history.back().map_or(WallMillis(0), |last| last.at);
                self.forget(id, node.name.clone(), at);
                self.record(at, id, node.name, NodeEventKind::Removed);
            }
        }
    }

    /// The node that is being removed is gone.
    fn finish_removal(&mut self, at: WallMillis) {
        let Some(NodeChange::Remove { id, name, .. }) = self.change.take() else { return };
        self.record(at, id, name, NodeEventKind::Removed);
    }

    fn record(&mut self, at: WallMillis, node: NodeId, name: String, kind: NodeEventKind) {
        let id = self.next_event.max(1);
        self.next_event = id + 1;
        // What the log alone knows happened no earlier than what was decided before it.
        let at = at.max(self.history.back().map_or(at, |last| last.at));
        self.history.push_back(NodeEvent { id, at, node, name, kind });
        while self.history.len() > NODE_EVENTS_MAX {
            self.history.pop_front();
        }
    }

    fn forget(&mut self, id: NodeId, name: String, at: WallMillis) {
        self.removed.insert(id, Removed { name, at });
        while self.removed.len() > REMOVED_MAX {
            self.removed.pop_first();
        }
    }
}
