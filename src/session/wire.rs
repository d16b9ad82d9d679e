//! Messages of the session, and the transport that carries them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::catalogue::Catalogue;
use crate::domain::command::Rejection;
use crate::domain::failsafe::{Denial, Question};
use crate::domain::generation::Generation;
use crate::domain::observation::Report;
use crate::domain::state::{ClusterSpec, ClusterState, Tags};
use crate::domain::types::{ClusterName, Epoch, GuardId, Lsn, MemberName, NodeName, SystemId};

/// Longest message that is sent or read, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// [`RegisterRequest`], answered by [`RegisterReply`].
    Register,
    /// [`ReportRequest`], answered by [`ReportReply`].
    Report,
    /// [`PollRequest`], answered by [`PollReply`].
    Poll,
    /// [`RenewRequest`], answered by [`RenewReply`].
    Renew,
    /// [`CatalogueRequest`], answered by [`CatalogueReply`].
    Catalogue,
    /// A [`Question`] of an agent to another agent, answered by a [`PromiseReply`].
    Promise,
}

/// Carries one request to a node and its answer back. The simulator has its own.
pub trait Transport: Send + Sync + 'static {
    /// Sends `body` to the node at `address`. Ends within `deadline`; never dials before it.
    fn call(
        &self,
        address: &str,
        method: Method,
        body: Vec<u8>,
        deadline: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, TransportError>> + Send;
}

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// It did not come in time: the request may or may not have been carried out.
    #[error("no answer in time")]
    TimedOut,
    /// The node cannot be reached, or broke the connection.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The node refused the caller.
    #[error("refused: {0}")]
    Refused(String),
    /// The message cannot be read.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// The answer of a node that is not, or not surely, the leader; or of one that refuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SessionError {
    /// Another node leads.
    #[error("not the leader")]
    NotLeader {
        /// The leader's address, where it is known.
        leader: Option<String>,
    },
    /// The leader could not confirm that it leads, or could not commit in time.
    #[error("the control plane cannot answer now: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
    /// The controller and the caller are of different generations of the control plane.
    #[error(
        "rule generation.current: generation {own} of the control plane counts here, and the call is \
         of generation {got}"
    )]
    Generation {
        /// The highest that the controller knows of.
        own: Generation,
        /// The caller's.
        got: Generation,
    },
    /// A rule refused it.
    #[error("{0}")]
    Rejected(Rejection),
    /// The message cannot be read.
    #[error("malformed request: {why}")]
    Malformed {
        /// Why.
        why: String,
    },
}

/// Registers a member, and its cluster where that is new.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Which cluster.
    pub cluster: ClusterName,
    /// What the operator asked for, as this node's configuration has it. Used only where the
    /// cluster is new.
    pub spec: ClusterSpec,
    /// Who.
    pub member: MemberName,
    /// Where.
    pub node: NodeName,
    /// `host:port` of its PostgreSQL.
    pub address: String,
    /// `host:port` of its agent, where other agents reach it.
    #[serde(default)]
    pub agent_address: Option<String>,
    /// Breaks ties between candidates.
    pub priority: i32,
    /// What the operator says of it.
    pub tags: Tags,
    /// The system identifier of the data that it holds.
    pub system_id: Option<SystemId>,
    /// Whether that data waits to be adopted where the cluster has none.
    #[serde(default)]
    pub adopt: bool,
    /// The highest generation of the control plane that the agent obeys. A controller of a lower one
    /// ends for good.
    #[serde(default)]
    pub generation: Generation,
}

/// The member is registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// Where the agreed specification differs from this node's configuration, key by key.
    pub differences: Vec<String>,
}

/// Says what a member is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Who.
    pub member: MemberName,
    /// From which node: a name that is bound to another is refused.
    pub node: NodeName,
    /// What.
    pub report: Report,
    /// The highest generation of the control plane that the agent obeys. A controller of a lower one
    /// ends for good.
    #[serde(default)]
    pub generation: Generation,
}

/// The report is taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportReply {
    /// Whether the leader lacks what this member's PostgreSQL knows of its settings.
    #[serde(default)]
    pub wants_catalogue: bool,
}

/// Says what a member's PostgreSQL knows of its settings. It stays in the leader's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogueRequest {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Who.
    pub member: MemberName,
    /// From which node.
    pub node: NodeName,
    /// What.
    pub catalogue: Catalogue,
}

/// The catalogue is taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogueReply {}

/// Asks for the agreed state of clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PollRequest {
    /// Which.
    pub clusters: Vec<ClusterName>,
    /// The index of the state that the agent has; 0 for none. The answer waits for a later one.
    pub known_index: u64,
    /// How long the answer may wait for news, in milliseconds.
    pub wait_ms: u64,
    /// The highest generation of the control plane that the agent obeys. A controller of a lower one
    /// ends for good.
    #[serde(default)]
    pub generation: Generation,
}

/// The agreed state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PollReply {
    /// The log index up to which it is applied: an answer with a lower one than another is older.
    pub index: u64,
    /// The clusters asked for that exist, their histories left out. Empty where the index is the
    /// one that the agent has: there is no news.
    pub clusters: BTreeMap<ClusterName, ClusterState>,
    /// The clusters asked for that were removed; empty where there is no news.
    #[serde(default)]
    pub removed: BTreeSet<ClusterName>,
    /// What the leader knows of the members of each.
    pub presence: BTreeMap<ClusterName, BTreeMap<MemberName, Presence>>,
    /// Of which generation of the control plane the state is. A higher one is newer, whatever its
    /// index.
    #[serde(default)]
    pub generation: Generation,
    /// The controllers that vote, as of that index. Empty from a version that does not tell.
    #[serde(default)]
    pub controllers: Vec<Controller>,
}

/// A controller, as agents are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Its id in the Raft group.
    pub id: u64,
    /// Its node's name.
    pub name: String,
    /// Where it is asked, `host:port`.
    pub address: String,
}

/// What a leader knows of a member: nothing is decided by it but what is kept for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// How far it has replayed or flushed, as last reported.
    pub position: Option<Lsn>,
    /// Whether it has reported since the leader's election.
    pub heard: bool,
    /// For how long it has not, in milliseconds; since the election where it never did.
    pub silent_ms: u64,
    /// Libraries of `shared_preload_libraries` that its PostgreSQL runs with, as last reported.
    #[serde(default)]
    pub preloaded: Vec<String>,
}

/// Renews leases: all of a node in one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// From which node.
    pub node: NodeName,
    /// What it claims.
    pub claims: Vec<Claim>,
    /// The highest generation of the control plane that the agent obeys. A controller of a lower one
    /// ends for good.
    #[serde(default)]
    pub generation: Generation,
}

/// A claim to a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Who.
    pub member: MemberName,
    /// In which life of its guard.
    pub guard: GuardId,
    /// In which epoch.
    pub epoch: Epoch,
}

/// The answers, in the order of the claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenewReply {
    /// One for each claim.
    pub renewals: Vec<Renewal>,
    /// Of which generation the leader is.
    #[serde(default)]
    pub generation: Generation,
}

/// The answer to one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewal {
    /// The lease runs to the time-to-live after the renewal was sent.
    Acknowledged,
    /// It is not the claimant's.
    Refused {
        /// Why.
        why: String,
    },
}

/// A peer's answer to a primary that no controller answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromiseReply {
    /// It takes no part in a grant for as long as it was asked to, from the question's arrival on.
    Promised,
    /// It may do so at any time.
    Denied(Denial),
}

/// The agent's answers to others, at once: nothing in it waits.
pub type Promises = Arc<dyn Fn(&Question) -> PromiseReply + Send + Sync>;

/// Writes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, TransportError> {
    serde_json::to_vec(message).map_err(|e| TransportError::Malformed(e.to_string()))
}

/// Reads a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TransportError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(TransportError::Malformed(format!("{} bytes are too many", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|e| TransportError::Malformed(e.to_string()))
}
