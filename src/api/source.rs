//! What the API needs of the node that it runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::catalogue::Catalogue;
use crate::domain::nodes::NodesCommand;
use crate::domain::observation::Observations;
use crate::domain::plan::Finding;
use crate::domain::state::ClusterSpec;
use crate::domain::types::{BootTime, ClusterName, NodeId, WallMillis};
use crate::domain::{Command, ControlState, Reply};

/// The node, as the API sees it. Object-safe: the API holds an `Arc<dyn Source>`.
#[tonic::async_trait]
pub trait Source: Send + Sync + 'static {
    /// Name of the control plane.
    fn control_plane(&self) -> &str;
    /// Name of this node.
    fn node_name(&self) -> &str;
    /// This node's number in the Raft group.
    fn node_id(&self) -> u64;
    /// The state that this node has applied.
    fn applied(&self) -> Arc<ControlState>;
    /// The same with its log index, and news of every change.
    fn applied_watch(&self) -> watch::Receiver<(u64, Arc<ControlState>)>;
    /// Who leads, as far as this node knows.
    fn leadership(&self) -> Leadership;
    /// What the leader has seen. Without meaning on other nodes.
    fn leader_view(&self) -> Arc<LeaderView>;
    /// The voters of the Raft group.
    fn controllers(&self) -> Vec<ControllerInfo>;
    /// Proposes a command and waits until it is applied.
    async fn propose(&self, command: Command) -> Result<Reply, ProposeError>;
    /// Returns once this node is confirmed to be the leader by a quorum, after the call began, and
    /// has applied all that was committed before.
    async fn read_barrier(&self) -> Result<(), ProposeError>;
    /// Reads what an operator asks of a new cluster of that name, as TOML; an error says all that is
    /// wrong.
    fn specification(&self, name: &ClusterName, text: &str) -> Result<ClusterSpec, String>;
    /// Of which generation of the control plane this node is; 0 where that is not known.
    fn generation(&self) -> u64 {
        0
    }
    /// The state as it is applied here, as the content of a file.
    fn snapshot(&self) -> Result<Vec<u8>, ProposeError> {
        Err(ProposeError::Unavailable { why: "this node holds no agreed state".to_owned() })
    }
    /// Wall-clock time, for histories.
    fn wall(&self) -> WallMillis;
    /// Members of the Raft group without a vote.
    fn learners(&self) -> Vec<ControllerInfo> {
        Vec::new()
    }
    /// Members of the Raft group that answer this node now, itself included. Of the leader.
    fn reachable(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }
    /// The Raft group as this node leads it; `None` where it does not.
    fn group(&self) -> Option<crate::domain::nodes::Group> {
        None
    }
    /// Versions of the other members of the Raft group that answer.
    async fn versions(&self) -> BTreeMap<NodeId, String> {
        BTreeMap::new()
    }
    /// Times that a new node has to have in common with the others.
    fn join_terms(&self) -> JoinTerms {
        JoinTerms::default()
    }
    /// Proposes a command about the nodes and waits until it is applied.
    async fn propose_nodes(&self, _command: NodesCommand) -> Result<Reply, ProposeError> {
        Err(ProposeError::Unavailable { why: "this node cannot change nodes".to_owned() })
    }
}

/// Times that all nodes have in common, by their keys; milliseconds where the key says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinTerms {
    /// Of section `[raft]`.
    pub raft: BTreeMap<String, u64>,
    /// Of section `[timing]`.
    pub timing: BTreeMap<String, u64>,
}

/// Who leads the control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Whether this node is the leader.
    pub is_leader: bool,
    /// Whether it may act: it has committed an entry of its own term.
    pub established: bool,
    /// The leader, where one is known.
    pub leader: Option<Leader>,
    /// The current Raft term.
    pub term: u64,
}

/// The leader of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its number in the Raft group.
    pub id: u64,
    /// Its node's name.
    pub name: String,
    /// `host:port` of its API.
    pub address: String,
}

/// What the leader has seen.
#[derive(Debug, Clone, Default)]
pub struct LeaderView {
    /// The leader's clock when this was put together.
    pub now: BootTime,
    /// By cluster.
    pub clusters: BTreeMap<ClusterName, ClusterView>,
}

/// What the leader has seen of one cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// Reports of the members.
    pub observations: Observations,
    /// What the planner said in its last pass.
    pub findings: Vec<Finding>,
    /// Time since this leader acknowledged a renewal of the lease; `None` where it never did.
    pub lease_age: Option<Duration>,
    /// What PostgreSQL of the cluster knows of its settings; `None` where no member has told it.
    pub catalogue: Option<Arc<Catalogue>>,
}

/// A voter of the Raft group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControllerInfo {
    /// Its number in the Raft group.
    pub id: u64,
    /// Its node's name.
    pub name: String,
    /// `host:port` of its API.
    pub address: String,
    /// Whether it is the leader.
    pub is_leader: bool,
    /// How long ago it answered the leader; known on the leader.
    pub last_contact: Option<Duration>,
    /// How many log entries it lacks; known on the leader.
    pub lag_entries: Option<u64>,
}

/// Why a proposal or a barrier gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node is not the leader. Nothing was proposed.
    #[error("this node is not the leader of the control plane")]
    NotLeader {
        /// Who is, where known.
        leader: Option<Leader>,
    },
    /// It was proposed, and nobody knows yet whether it will be applied.
    #[error("the outcome is unknown")]
    Unknown,
    /// Nothing was proposed.
    #[error("the control plane is not available: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
}
