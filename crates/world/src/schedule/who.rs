//! Whom and what a fault can hit: nodes by their number or their role, links, disks, processes.
//!
//! Owns these words, and how a role is looked up. Imports nothing.

use serde::{Deserialize, Serialize};

/// Index of a node in the topology.
pub type Node = usize;

/// Whom a fault hits. A role is looked up when the fault begins, so that a plan can follow a
/// cluster whose roles move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// This node.
    Node(Node),
    /// The holder of the highest granted epoch, open or closed.
    Holder,
    /// The leader of the control plane.
    Leader,
    /// The standby of this number, counted from 0 over the nodes with members other than the
    /// holder's, modulo their count.
    Standby(usize),
    /// The controller of this number, counted the same way over those that do not lead.
    Follower(usize),
}

/// Who has which role at an instant, as an observer who sees everything would say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Nodes with a member.
    pub members: Vec<Node>,
    /// Nodes whose controller votes.
    pub controllers: Vec<Node>,
    /// Where the holder of the highest granted epoch is.
    pub holder: Option<Node>,
    /// Where the leader of the highest Raft term is.
    pub leader: Option<Node>,
}

impl Who {
    /// The node that is meant now. Where nobody has the role it is the first node that could.
    pub fn resolve(self, roles: &Roles) -> Node {
        let nth = |all: &[Node], but: Node, n: usize| {
            let others: Vec<Node> = all.iter().copied().filter(|x| *x != but).collect();
            if others.is_empty() { but } else { others[n % others.len()] }
        };
        let holder = roles.holder.or(roles.members.first().copied()).unwrap_or(0);
        let leader = roles.leader.or(roles.controllers.first().copied()).unwrap_or(0);
        match self {
            Who::Node(node) => node,
            Who::Holder => holder,
            Who::Leader => leader,
            Who::Standby(n) => nth(&roles.members, holder, n),
            Who::Follower(n) => nth(&roles.controllers, leader, n),
        }
    }
}

/// What travels over a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Everything.
    #[default]
    All,
    /// Between controllers.
    Raft,
    /// Between agents and the leader.
    Session,
    /// Replication and all other connections between PostgreSQL servers, rewinds and copies too.
    Replication,
}

/// Links between nodes, in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Who sends; empty for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Who>,
    /// Who receives; empty for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Who>,
    /// What of their messages.
    #[serde(default)]
    pub traffic: Traffic,
}

/// Which disk of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// That of the Raft store.
    Raft,
    /// That of PostgreSQL's data and of the member's record.
    Data,
    /// Both, being one.
    Both,
}

impl Disk {
    /// Whether that of the Raft store is meant.
    pub fn raft(self) -> bool {
        self != Disk::Data
    }

    /// Whether that of PostgreSQL is meant.
    pub fn data(self) -> bool {
        self != Disk::Raft
    }
}

/// What of a machine's disks is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wipe {
    /// PostgreSQL's data directory; the member's record beside it stays.
    Data,
    /// The data directory and the member's record.
    Member,
    /// The Raft store.
    Raft,
    /// All of it: the machine comes back with new disks.
    Machine,
}

/// Which processes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// `hanode`.
    Daemon,
    /// The guard: the kernel's timer on it goes on.
    Guard,
    /// The postmaster alone: sessions that are open go on.
    Postmaster,
    /// Every process of PostgreSQL.
    Postgres,
    /// All of these.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_looked_up() {
        let roles = Roles {
            members: vec![0, 1, 2],
            controllers: vec![0, 1, 2, 3],
            holder: Some(1),
            leader: Some(3),
        };
        assert_eq!(Who::Node(7).resolve(&roles), 7);
        assert_eq!(Who::Holder.resolve(&roles), 1);
        assert_eq!(Who::Leader.resolve(&roles), 3);
        assert_eq!([0, 1, 2].map(|n| Who::Standby(n).resolve(&roles)), [0, 2, 0]);
        assert_eq!([0, 1, 2].map(|n| Who::Follower(n).resolve(&roles)), [0, 1, 2]);
        let nobody = Roles { holder: None, leader: None, ..roles };
        assert_eq!(Who::Holder.resolve(&nobody), 0);
        assert_eq!(Who::Standby(0).resolve(&nobody), 1);
    }
}
