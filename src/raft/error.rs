//! What can go wrong for those who use the Raft layer.
//!
//! Owns the errors of the handle. Each says whether to try again, and where.

use std::fmt;

use super::formation::FormationError;
use super::identity::IdentityError;
use super::kv;
use super::types::Peer;
use crate::domain::generation::Generation;

/// A leader, as a hint for where to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its node id.
    pub id: u64,
    /// Its name and address.
    pub peer: Peer,
}

struct Hint<'a>(&'a Option<Leader>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(leader) => write!(f, "the leader is {}", leader.peer),
            None => f.write_str("no leader is known"),
        }
    }
}

/// Why the Raft core of this node has ended. It takes no part any more; everything of it has to be
/// dropped before its store is opened anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalReason {
    /// It was shut down in order.
    #[error("the Raft core was stopped")]
    Stopped,
    /// It panicked.
    #[error("the Raft core panicked")]
    Panicked,
    /// The store failed.
    #[error("the Raft store failed: {0}")]
    Store(String),
    /// A higher generation of the control plane exists.
    #[error(
        "this controller is of generation {own} of the control plane, and generation {by} exists: \
         it never votes or leads again"
    )]
    Superseded {
        /// The own one.
        own: Generation,
        /// The one that exists.
        by: Generation,
    },
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the Raft settings are invalid: {0}")]
    Options(String),
    /// This node is not in the list of controllers.
    #[error("node {0} is not in the list of controllers")]
    NotAMember(u64),
    /// The store belongs to a node that was removed.
    #[error(
        "node {0} was removed from the control plane, and never comes back under this id: move its \
         Raft store away, and add the host anew with `hactl node add`, which gives it another id"
    )]
    Removed(u64),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] kv::Error),
    /// The store belongs to another node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The group refuses this node.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// The Raft core ended while it started.
    #[error(transparent)]
    Fatal(FatalReason),
}

/// Why a command was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none. The command was not and will not be applied.
    #[error("this controller does not lead the control plane: {}", Hint(.leader))]
    NotLeader {
        /// Where to go.
        leader: Option<Leader>,
    },
    /// No answer in time, or the leadership changed meanwhile: the command may have been applied,
    /// may be applied later, or never.
    #[error("it is unknown whether the command takes effect")]
    Unknown,
    /// The command is longer than the bound. It was not applied.
    #[error("the command has {bytes} bytes, more than the {bytes_max} that are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The Raft core has ended; it is unknown whether the command takes effect.
    #[error(transparent)]
    Fatal(FatalReason),
}

impl ProposeError {
    /// The same command may be proposed again, here or at the leader, without looking first.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::NotLeader { .. })
    }

    /// The command may still take effect.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown | Self::Fatal(_))
    }
}

/// Why a read barrier was not passed. Nothing was changed: it can always be tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// Another node leads, or none.
    #[error("this controller does not lead the control plane: {}", Hint(.leader))]
    NotLeader {
        /// Where to go.
        leader: Option<Leader>,
    },
    /// A majority did not confirm in time that this node still leads.
    #[error("a majority of controllers did not confirm the leadership in time")]
    NoQuorum,
    /// The deadline passed.
    #[error("the read barrier was not passed within its deadline")]
    Timeout,
    /// The own log has not been written for longer than an election timeout.
    #[error("this controller's disk is too slow to lead")]
    DiskStalled,
    /// The Raft core has ended.
    #[error(transparent)]
    Fatal(FatalReason),
}

impl BarrierError {
    /// It may be tried again: at the leader where one is named, else here or elsewhere.
    pub fn retryable(&self) -> bool {
        !matches!(self, Self::Fatal(_))
    }
}

/// Why the leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead.
    #[error("this controller does not lead the control plane: {}", Hint(.leader))]
    NotLeader {
        /// Where to go.
        leader: Option<Leader>,
    },
    /// The target is no voter, or is this node.
    #[error("node {0} cannot take the leadership over")]
    BadTarget(u64),
    /// The target is not up to date, and did not become so in time. Nothing was changed.
    #[error("node {0} is not up to date")]
    Behind(u64),
    /// The target did not become leader in time. An election goes on.
    #[error("the leadership did not move in time")]
    Timeout,
    /// Another node became leader.
    #[error("another controller became leader: {}", .0.peer)]
    Another(Leader),
    /// The Raft core has ended.
    #[error(transparent)]
    Fatal(FatalReason),
}
