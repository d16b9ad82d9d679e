//! The types that openraft is used with.
//!
//! Owns the type configuration, generic over the runtime, and the short names of the concrete
//! types that follow from it. May import the domain's command and reply.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::impls::leader_id_std;
use openraft::impls::{BoxedErrorSource, InlineBatch, ProgressResponder};
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use crate::domain::nodes::NodesCommand;
use crate::domain::{Command, Reply};

/// The Raft type configuration on runtime `RT`: the same for production and simulation.
pub struct TypeConfig<RT>(PhantomData<fn() -> RT>);

impl<RT> fmt::Debug for TypeConfig<RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<RT> Clone for TypeConfig<RT> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<RT> Copy for TypeConfig<RT> {}
impl<RT> Default for TypeConfig<RT> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<RT> PartialEq for TypeConfig<RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<RT> Eq for TypeConfig<RT> {}
impl<RT> PartialOrd for TypeConfig<RT> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<RT> Ord for TypeConfig<RT> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<RT: AsyncRuntime> RaftTypeConfig for TypeConfig<RT> {
    type D = Proposal;
    type R = Reply;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload<Proposal, u64, Peer>;
    type Entry = Entry;
    type AsyncRuntime = RT;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// Who is or wants to be leader of a term. A term has at most one leader, so that the term alone
/// names a leadership: commands rely on it.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// The leader of a term, once elected: the term.
pub type Leadership = <LeaderId as RaftLeaderId>::Committed;
/// A vote, given or held.
pub type Vote = openraft::Vote<LeaderId>;
/// The identity of a log entry.
pub type LogId = openraft::LogId<Leadership>;
/// A log entry.
pub type Entry = openraft::Entry<Leadership, EntryPayload<Proposal, u64, Peer>>;
/// A membership with the entry that set it.
pub type StoredMembership = openraft::StoredMembership<Leadership, u64, Peer>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<Leadership, u64, Peer>;
/// A snapshot: the serialised state and what it covers.
pub type Snapshot = openraft::Snapshot<Leadership, u64, Peer, Vec<u8>>;

/// The log id of entry `index` of `term`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: Leadership::new(term), index }
}

/// A controller as the others see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Name of the node, for people.
    pub name: String,
    /// Where it listens for its peers, `host:port`.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// A command on its way into the log. Written as the command itself, so that logs of before there
/// were commands about nodes are read as they are: no field of the two is the same.
// Nearly all are commands to a cluster.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Proposal {
    /// To a cluster.
    Cluster(Command),
    /// About the nodes of the control plane.
    Nodes(NodesCommand),
}

impl fmt::Display for Proposal {
    /// Says only that it is a command: openraft logs entries, and a command may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("command")
    }
}
