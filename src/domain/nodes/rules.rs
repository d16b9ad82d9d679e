//! What a command about the nodes may change.

use serde::{Deserialize, Serialize};

use super::{NODES_MAX, NodeChange, NodeEventKind, Nodes, NodesAct, NodesCommand};
use crate::domain::command::{Rejection, Reply};
use crate::domain::types::NodeId;

/// Why a command about the nodes was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum NodesRejection {
    /// Another change is under way.
    #[error("node {name} (id {id}) is being {what}: one node is changed at a time")]
    ChangeUnderWay {
        /// Which node.
        id: NodeId,
        /// Its name.
        name: String,
        /// "added" or "removed".
        what: String,
    },
    /// The id was used before, or is not the next one.
    #[error("node id {id} cannot be handed out: the next one is {next}, and no id is used twice")]
    IdUsed {
        /// The id.
        id: NodeId,
        /// The next one.
        next: NodeId,
    },
    /// A node has this name.
    #[error("node {name} is there already, with id {id}: remove it first, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// Its id.
        id: NodeId,
    },
    /// A node has this address.
    #[error("address {address} is that of node {name}: every node has its own")]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        name: String,
    },
    /// There are enough.
    #[error("the control plane has {max} nodes, and more are not allowed")]
    TooMany {
        /// How many there may be.
        max: usize,
    },
    /// No such node.
    #[error("the control plane has no node with id {id}")]
    Unknown {
        /// The id.
        id: NodeId,
    },
    /// It is not being removed.
    #[error("node {id} is not being removed")]
    NotLeaving {
        /// The id.
        id: NodeId,
    },
    /// The group has begun with it.
    #[error("the removal of node {name} has begun, and goes on")]
    Begun {
        /// Its name.
        name: String,
    },
    /// It would be the end of the control plane.
    #[error("node {name} is the last one that votes: the control plane would be gone")]
    Last {
        /// Its name.
        name: String,
    },
}

impl NodesRejection {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::ChangeUnderWay { .. } => "node.one-change",
            Self::IdUsed { .. } => "node.id-unused",
            Self::NameTaken { .. } => "node.name-free",
            Self::AddressTaken { .. } => "node.address-free",
            Self::TooMany { .. } => "node.bound",
            Self::Unknown { .. } => "node.exists",
            Self::NotLeaving { .. } => "node.leaving",
            Self::Begun { .. } => "node.removal-not-begun",
            Self::Last { .. } => "node.not-last",
        }
    }
}

/// Applies a command about the nodes. Total and deterministic; a refusal changes nothing.
pub fn apply(nodes: &mut Nodes, command: &NodesCommand) -> Reply {
    let outcome = match &command.act {
        NodesAct::Add { .. } => add(nodes, command),
        NodesAct::Remove { id } => remove(nodes, command, *id),
        NodesAct::Keep { id } => keep(nodes, command, *id),
        NodesAct::Expire { id } => expire(nodes, command, *id),
    };
    match outcome {
        Ok(reply) => reply,
        Err(rejection) => Reply::Rejected(Rejection::Nodes(rejection)),
    }
}

const APPLIED: Reply = Reply::Applied { operation: None };

fn under_way(change: &NodeChange) -> NodesRejection {
    let what = match change {
        NodeChange::Add { .. } => "added",
        NodeChange::Remove { .. } => "removed",
    };
    let (id, name) = (change.id(), change.name().to_owned());
    NodesRejection::ChangeUnderWay { id, name, what: what.to_owned() }
}

fn add(nodes: &mut Nodes, command: &NodesCommand) -> Result<Reply, NodesRejection> {
    let NodesAct::Add { id, name, address, expires_at } = &command.act else {
        return Ok(Reply::Nothing);
    };
    if let Some(change) = &nodes.change {
        return Err(under_way(change));
    }
    let next = nodes.free_id(std::iter::empty());
    if *id < next || nodes.is_removed(*id) || *id == NodeId::MAX {
        return Err(NodesRejection::IdUsed { id: *id, next });
    }
    if let Some((id, node)) = nodes.members.iter().find(|(_, n)| n.name == name.as_str()) {
        return Err(NodesRejection::NameTaken { name: node.name.clone(), id: *id });
    }
    if let Some(node) = nodes.members.values().find(|n| n.address == *address) {
        let (address, name) = (address.clone(), node.name.clone());
        return Err(NodesRejection::AddressTaken { address, name });
    }
    if nodes.members.len() >= NODES_MAX {
        return Err(NodesRejection::TooMany { max: NODES_MAX });
    }
    nodes.next_id = *id + 1;
    let by = command.by.clone();
    let kind = NodeEventKind::AddStarted { address: address.clone(), by: by.clone() };
    nodes.record(command.nodes_at, *id, name.to_string(), kind);
    nodes.change = Some(NodeChange::Add {
        id: *id,
        name: name.clone(),
        address: address.clone(),
        expires_at: *expires_at,
        by,
    });
    Ok(APPLIED)
}

fn remove(nodes: &mut Nodes, command: &NodesCommand, id: NodeId) -> Result<Reply, NodesRejection> {
    match &nodes.change {
        Some(NodeChange::Remove { id: going, .. }) if *going == id => return Ok(Reply::Nothing),
        Some(change) if change.id() != id => return Err(under_way(change)),
        _ => {}
    }
    let member = nodes.members.get(&id);
    let coming = nodes.change.as_ref().map(|change| change.name().to_owned());
    let Some(name) = member.map(|node| node.name.clone()).or(coming) else {
        return Err(NodesRejection::Unknown { id });
    };
    let votes = member.is_some_and(|node| node.voter);
    if votes && nodes.voters().all(|(other, _)| *other == id) {
        return Err(NodesRejection::Last { name });
    }
    let by = command.by.clone();
    let kind = NodeEventKind::RemoveStarted { by: by.clone() };
    nodes.record(command.nodes_at, id, name.clone(), kind);
    begin_removal(nodes, command, id, name, by);
    Ok(APPLIED)
}

fn keep(nodes: &mut Nodes, command: &NodesCommand, id: NodeId) -> Result<Reply, NodesRejection> {
    let name = match &nodes.change {
        Some(NodeChange::Remove { id: going, name, .. }) if *going == id => name.clone(),
        _ => return Err(NodesRejection::NotLeaving { id }),
    };
    if nodes.joint || !nodes.members.get(&id).is_some_and(|node| node.voter) {
        return Err(NodesRejection::Begun { name });
    }
    nodes.change = None;
    nodes.removed.remove(&id);
    nodes.record(command.nodes_at, id, name, NodeEventKind::Kept { by: command.by.clone() });
    Ok(APPLIED)
}

fn expire(nodes: &mut Nodes, command: &NodesCommand, id: NodeId) -> Result<Reply, NodesRejection> {
    let name = match &nodes.change {
        Some(NodeChange::Add { id: coming, name, .. }) if *coming == id => name.to_string(),
        _ => return Ok(Reply::Nothing),
    };
    // It made it after all, or is about to: voters are removed by an operator only.
    if nodes.members.get(&id).is_some_and(|node| node.voter) {
        return Ok(Reply::Nothing);
    }
    nodes.record(command.nodes_at, id, name.clone(), NodeEventKind::Expired);
    begin_removal(nodes, command, id, name, command.by.clone());
    Ok(APPLIED)
}

fn begin_removal(nodes: &mut Nodes, command: &NodesCommand, id: NodeId, name: String, by: String) {
    nodes.next_id = nodes.next_id.max(id.saturating_add(1));
    // From the decision on: a node that goes must not be taken for one that may come back.
    nodes.forget(id, name.clone(), command.nodes_at);
    nodes.change = Some(NodeChange::Remove { id, name, by });
    if !nodes.members.contains_key(&id) {
        nodes.finish_removal(command.nodes_at);
    }
}
