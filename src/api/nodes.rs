//! Nodes of the control plane: list, add, remove. Checks what only the leader knows, then proposes;
//! the leader's loop does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::Error;
use super::operate::{Operator, PROPOSAL_MAX};
use super::request;
use super::source::LeaderView;
use super::timer::within;
use crate::convert::millis;
use crate::domain::nodes::{NodeChange, Nodes, NodesAct, NodesCommand, waiting};
use crate::domain::plan::FRESH;
use crate::domain::types::{NodeId, NodeName, WallMillis};
use crate::domain::{ControlState, Reply};
use crate::pb::v1;

const EXPIRES_DEFAULT_MS: u64 = 86_400_000;
const EXPIRES_MIN_MS: u64 = 60_000;
const EXPIRES_MAX_MS: u64 = 604_800_000;
const ADDRESS_BYTES_MAX: usize = 260;
/// Longest wait for the versions of the others.
const VERSIONS_MAX: Duration = Duration::from_secs(2);

/// Why a node is not added or removed, where that is not the agreed state's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeProblem {
    /// No such node.
    #[error("the control plane has no controller named {name}; controllers are {}", .known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It is not being removed, and was to be kept.
    #[error("node {name} is not being removed")]
    NotLeaving {
        /// Its name.
        name: String,
    },
    /// Members of clusters are registered on it.
    #[error("node {name} still has members of clusters: {}", .members.join(", "))]
    HasMembers {
        /// Its name.
        name: String,
        /// As cluster/member.
        members: Vec<String>,
    },
    /// It is alive, and was to be removed by force.
    #[error("node {name} answers: only a dead node is removed by force")]
    Alive {
        /// Its name.
        name: String,
    },
    /// Those that answer would be no majority any more.
    #[error(
        "without node {name} the control plane has {voters} voters, and {reachable} of them \
         answer: that is no majority, so nothing could be decided any more"
    )]
    Majority {
        /// Its name.
        name: String,
        /// How many would vote.
        voters: usize,
        /// How many of them answer now.
        reachable: usize,
    },
    /// A member of the group does not answer.
    #[error(
        "{} does not answer: a new node has to greet every controller before it takes part",
        .silent.join(", ")
    )]
    Silent {
        /// Who.
        silent: Vec<String>,
    },
}

impl NodeProblem {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "node.exists",
            Self::NotLeaving { .. } => "node.leaving",
            Self::HasMembers { .. } => "node.no-members",
            Self::Alive { .. } => "node.force-dead-only",
            Self::Majority { .. } => "node.majority",
            Self::Silent { .. } => "node.all-answer",
        }
    }
}

/// The members of clusters that are registered on each node, as cluster/member.
fn members_by_node(state: &ControlState) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (cluster, c) in &state.clusters {
        for (name, member) in &c.members {
            out.entry(member.node.to_string()).or_default().push(format!("{cluster}/{name}"));
        }
    }
    out
}

/// Whether a member on this node has reported just now.
fn reports(state: &ControlState, view: &LeaderView, node: &str) -> bool {
    state.clusters.iter().any(|(cluster, c)| {
        let own = c.members.iter().filter(|(_, m)| m.node.as_str() == node);
        let seen = view.clusters.get(cluster).map(|v| &v.observations.members);
        let at = |name| seen.and_then(|seen| seen.get(name)).map(|o| view.now.since(o.at));
        own.filter_map(|(name, _)| at(name)).any(|age| age <= FRESH)
    })
}

/// Whether the group could go on deciding without this voter.
fn majority_without(
    voters: &BTreeSet<NodeId>,
    reachable: &BTreeSet<NodeId>,
    id: NodeId,
    name: &str,
) -> Result<(), NodeProblem> {
    let left: BTreeSet<NodeId> = voters.iter().copied().filter(|v| *v != id).collect();
    let answer = left.intersection(reachable).count();
    if voters.contains(&id) && !left.is_empty() && 2 * answer <= left.len() {
        let (name, voters) = (name.to_owned(), left.len());
        return Err(NodeProblem::Majority { name, voters, reachable: answer });
    }
    Ok(())
}

fn node_name(name: &str) -> Result<NodeName, Error> {
    NodeName::new(name).map_err(|e| request::refused("name", e))
}

fn address(text: &str) -> Result<String, Error> {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    let fits = text.len() <= ADDRESS_BYTES_MAX && text.chars().all(plain);
    let parts = text.rsplit_once(':').filter(|(host, _)| fits && !host.is_empty());
    match parts.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err(Error::Field {
            field: "address",
            value: text.to_owned(),
            problem: "host:port is wanted, as the other nodes reach the new one".to_owned(),
        }),
    }
}

fn expiry(expires_in_ms: u64) -> Result<u64, Error> {
    match expires_in_ms {
        0 => Ok(EXPIRES_DEFAULT_MS),
        ms @ EXPIRES_MIN_MS..=EXPIRES_MAX_MS => Ok(ms),
        ms => Err(Error::Field {
            field: "expires_in_ms",
            value: ms.to_string(),
            problem: format!("{EXPIRES_MIN_MS} to {EXPIRES_MAX_MS} is allowed"),
        }),
    }
}

fn change_text(change: &NodeChange) -> String {
    match change {
        NodeChange::Add { id, name, address, .. } => {
            format!("node {name} (id {id}) is being added at {address}")
        }
        NodeChange::Remove { id, name, .. } => format!("node {name} (id {id}) is being removed"),
    }
}

impl Operator {
    /// The nodes, from the leader, which has confirmed that it is.
    pub(super) async fn list_nodes(&self) -> Result<v1::ListNodesResponse, Error> {
        let state = self.confirmed().await?;
        let versions = within(VERSIONS_MAX, self.source.versions()).await.unwrap_or_default();
        let mut members = members_by_node(&state);
        let mut nodes = self.group(&state.nodes, &mut members);
        for node in &mut nodes {
            if let Some(version) = versions.get(&node.id) {
                node.version.clone_from(version);
            }
        }
        nodes.extend(members.into_iter().map(|(name, members)| v1::Node {
            name,
            roles: vec!["agent".to_owned()],
            members,
            ..Default::default()
        }));
        let events = state.nodes.history.iter().map(|e| v1::NodeEvent {
            id: e.id,
            at_unix_ms: e.at.0,
            node: e.node,
            name: e.name.clone(),
            text: e.kind.to_string(),
        });
        Ok(v1::ListNodesResponse {
            control_plane: self.source.control_plane().to_owned(),
            nodes,
            change: self.change_text(&state.nodes),
            events: events.collect(),
        })
    }

    fn change_text(&self, nodes: &Nodes) -> String {
        let text = nodes.change.as_ref().map(change_text).unwrap_or_default();
        match self.source.group().and_then(|group| waiting(&group, nodes)) {
            Some(why) => format!("{text}; it waits: {why}"),
            None => text,
        }
    }

    /// The nodes of the Raft group, and the one that is on its way in.
    fn group(&self, nodes: &Nodes, members: &mut BTreeMap<String, Vec<String>>) -> Vec<v1::Node> {
        let own = self.source.node_id();
        let mut out = Vec::new();
        let voters = self.source.controllers().into_iter().map(|c| (c, "voter"));
        for (c, role) in voters.chain(self.source.learners().into_iter().map(|c| (c, "learner"))) {
            let change = match &nodes.change {
                Some(NodeChange::Add { id, .. }) if *id == c.id => "joining",
                Some(NodeChange::Remove { id, .. }) if *id == c.id => "leaving",
                _ => "",
            };
            let members = members.remove(&c.name).unwrap_or_default();
            let agent = (!members.is_empty()).then(|| "agent".to_owned());
            out.push(v1::Node {
                id: c.id,
                name: c.name,
                address: c.address,
                roles: std::iter::once(role.to_owned()).chain(agent).collect(),
                leader: c.id == own,
                last_contact_ms: c.last_contact.map(millis),
                lag_entries: c.lag_entries,
                version: if c.id == own {
                    env!("CARGO_PKG_VERSION").to_owned()
                } else {
                    String::new()
                },
                members,
                change: change.to_owned(),
            });
        }
        if let Some(NodeChange::Add { id, name, address, .. }) = &nodes.change
            && out.iter().all(|n| n.id != *id)
        {
            out.push(v1::Node {
                id: *id,
                name: name.to_string(),
                address: address.clone(),
                change: "joining".to_owned(),
                ..Default::default()
            });
        }
        out.sort_by_key(|n| n.id);
        out
    }

    pub(super) async fn add_node(
        &self,
        request: v1::AddNodeRequest,
    ) -> Result<v1::AddNodeResponse, Error> {
        let name = node_name(&request.name)?;
        let address = address(&request.address)?;
        let by = request::requested_by(&request.requested_by)?;
        let expires_in_ms = expiry(request.expires_in_ms)?;
        let state = self.confirmed().await?;
        let same = |change: &NodeChange| match change {
            NodeChange::Add { id, name: n, address: a, expires_at, .. }
                if *n == name && *a == address =>
            {
                Some((*id, *expires_at))
            }
            _ => None,
        };
        let (id, expires_at) = match state.nodes.change.as_ref().and_then(same) {
            Some(known) => known,
            None => {
                let members: Vec<_> =
                    self.source.controllers().into_iter().chain(self.source.learners()).collect();
                let reachable = self.source.reachable();
                let silent = members.iter().filter(|c| !reachable.contains(&c.id));
                let silent: Vec<String> = silent.map(|c| c.name.clone()).collect();
                let id = state.nodes.free_id(members.iter().map(|c| c.id));
                let expires_at = WallMillis(self.source.wall().0.saturating_add(expires_in_ms));
                // What is refused by the agreed state in any case says so first.
                if state.nodes.change.is_none() && !silent.is_empty() {
                    return Err(NodeProblem::Silent { silent }.into());
                }
                let act =
                    NodesAct::Add { id, name: name.clone(), address: address.clone(), expires_at };
                self.propose_nodes(by, act).await?;
                (id, expires_at)
            }
        };
        let terms = self.source.join_terms();
        let setting = |(name, value): (String, u64)| v1::Setting { name, value };
        let mut none = BTreeMap::new();
        let controllers = self.group(&state.nodes, &mut none);
        Ok(v1::AddNodeResponse {
            id,
            name: name.to_string(),
            address,
            control_plane: self.source.control_plane().to_owned(),
            controllers: controllers.into_iter().filter(|n| n.id != id).collect(),
            expires_unix_ms: expires_at.0,
            raft: terms.raft.into_iter().map(setting).collect(),
            timing: terms.timing.into_iter().map(setting).collect(),
        })
    }

    pub(super) async fn remove_node(
        &self,
        request: v1::RemoveNodeRequest,
    ) -> Result<v1::RemoveNodeResponse, Error> {
        let name = node_name(&request.name)?.to_string();
        let by = request::requested_by(&request.requested_by)?;
        let state = self.confirmed().await?;
        if request.cancel {
            let id = match &state.nodes.change {
                Some(NodeChange::Remove { id, name: going, .. }) if *going == name => *id,
                _ => return Err(NodeProblem::NotLeaving { name }.into()),
            };
            self.propose_nodes(by, NodesAct::Keep { id }).await?;
            return Ok(v1::RemoveNodeResponse { id });
        }
        let coming = state.nodes.change.as_ref().filter(|c| c.name() == name).map(NodeChange::id);
        let voters = self.source.controllers();
        let group: Vec<_> = voters.iter().cloned().chain(self.source.learners()).collect();
        let known = group.iter().find(|c| c.name == name).map(|c| c.id).or(coming);
        let Some(id) = known else {
            let known = group.into_iter().map(|c| c.name).collect();
            return Err(NodeProblem::Unknown { name, known }.into());
        };
        let reachable = self.source.reachable();
        let votes = voters.iter().any(|c| c.id == id);
        if votes {
            let members = members_by_node(&state).remove(&name).unwrap_or_default();
            let alive =
                reachable.contains(&id) || reports(&state, &self.source.leader_view(), &name);
            if request.force && alive {
                return Err(NodeProblem::Alive { name }.into());
            }
            if !members.is_empty() && !request.force {
                return Err(NodeProblem::HasMembers { name, members }.into());
            }
            let voters = voters.iter().map(|c| c.id).collect();
            majority_without(&voters, &reachable, id, &name)?;
        }
        self.propose_nodes(by, NodesAct::Remove { id }).await?;
        Ok(v1::RemoveNodeResponse { id })
    }

    async fn propose_nodes(&self, by: String, act: NodesAct) -> Result<(), Error> {
        let command = NodesCommand { nodes_at: self.source.wall(), by, act };
        match within(PROPOSAL_MAX, self.source.propose_nodes(command)).await {
            None => Err(Error::UnknownOutcome),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Reply::Rejected(rejection))) => Err(rejection.into()),
            Some(Ok(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[NodeId]) -> BTreeSet<NodeId> {
        ids.iter().copied().collect()
    }

    #[test]
    fn who_is_left_must_be_a_majority() {
        let refused = |voters: &[NodeId], reachable: &[NodeId], id| {
            majority_without(&ids(voters), &ids(reachable), id, "x").is_err()
        };
        assert!(!refused(&[1, 2, 3], &[1, 2, 3], 3));
        assert!(!refused(&[1, 2, 3], &[1, 2], 3), "the dead one goes");
        assert!(refused(&[1, 2, 3], &[1, 2], 2), "a live one beside a dead one does not");
        assert!(refused(&[1, 2, 3, 4, 5], &[1, 2, 3], 3));
        assert!(!refused(&[1, 2, 3, 4, 5], &[1, 2, 3], 4));
        assert!(!refused(&[1, 2], &[1], 2));
        assert!(refused(&[1, 2], &[1], 1));
        assert!(!refused(&[1, 2], &[1], 7), "a learner has no vote to lose");
    }

    #[test]
    fn addresses_and_expiries_are_checked() {
        for good in ["10.0.0.4:7400", "[::1]:7400", "db-4.example.org:1"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "a", ":1", "a:0", "a:70000", "a b:1", "a/b:1"] {
            assert!(matches!(address(bad), Err(Error::Field { field: "address", .. })), "{bad}");
        }
        assert_eq!(expiry(0).unwrap(), EXPIRES_DEFAULT_MS);
        assert!(expiry(59_999).is_err() && expiry(60_000).is_ok() && expiry(u64::MAX).is_err());
    }
}
