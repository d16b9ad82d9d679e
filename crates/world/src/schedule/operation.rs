//! What an operator does, and what faults and operators can wait for, as data.
//!
//! Owns these words. Imports the domain's tags.

use serde::{Deserialize, Serialize};

use super::who::{Node, Who};
use crate::domain::types::Tags;

/// Something that happens in a run, and that a fault can wait for. Faults between two steps of the
/// protocol that are milliseconds apart would not be hit by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A controller begins to lead.
    Elected,
    /// An epoch is closed.
    Closed,
    /// A standby is sealed, by its PostgreSQL.
    Sealed,
    /// An epoch is granted.
    Granted,
    /// PostgreSQL has left recovery.
    Promoted,
    /// The promotion is recorded in the agreed state.
    Recorded,
    /// An epoch is open for writes.
    Active,
    /// A synchronous configuration is put beside another.
    SyncChangeBegun,
    /// The older one ends.
    SyncChangeEnded,
    /// A standby begins to stream from a primary.
    Streams,
    /// A rewind begins to change files.
    RewindBegun,
    /// A rewind is done.
    RewindDone,
    /// A copy begins.
    CopyBegun,
    /// A copy is done.
    CopyDone,
    /// The primary begins its orderly stop for a switchover.
    HandOver,
}

/// What a fault waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// The first of these at or after the fault's `at_ms`.
    pub event: Event,
    /// How long after it the fault begins.
    pub after_ms: u64,
}

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Asks for a switchover.
    Switchover {
        /// To whom.
        target: Who,
    },
    /// Asks for a failover.
    Failover {
        /// To whom; to the best where it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<Who>,
        /// Whether acknowledged commits may be lost.
        accept_data_loss: bool,
    },
    /// Asks for a restart of a member; where it leads, in its place.
    Restart {
        /// Whose.
        node: Who,
    },
    /// Asks for a restart of all members, one after the other.
    Roll,
    /// Asks for a standby to be copied anew.
    Reinitialise {
        /// Which.
        node: Who,
    },
    /// Asks for a pause that ends by itself.
    Pause {
        /// After so long, in milliseconds.
        length_ms: u64,
    },
    /// Removes a standby from the cluster, and lets it come back with what it has.
    Leave {
        /// Whose.
        node: Who,
        /// How long after it is forgotten it may come back, in milliseconds.
        away_ms: u64,
    },
    /// Changes the tags in a member's configuration, and starts its `hanode` anew.
    Retag {
        /// Whose.
        node: Who,
        /// To what.
        tags: Tags,
    },
    /// Starts a `hanode` anew, in order.
    RestartDaemon {
        /// Where.
        node: Who,
    },
    /// Moves the leadership of the control plane.
    TransferLeadership {
        /// To whom.
        to: Who,
    },
    /// Makes a node's controller a voter, under an identity that was never used.
    AddController {
        /// Which.
        node: Node,
    },
    /// Removes a node's controller.
    RemoveController {
        /// Which.
        node: Who,
    },
    /// Replaces a controller whose store was wiped: removes its old identity, adds a new one.
    ReplaceController {
        /// Where.
        node: Who,
    },
}

/// One act of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// When, in milliseconds of true time since the run began; with `on`, when it begins to wait.
    pub at_ms: u64,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Trigger>,
    /// What.
    pub what: Act,
}
