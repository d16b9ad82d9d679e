//! What happened to a cluster, for operators: typed, ordered, kept in the replicated history.

use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, AlarmCode, NoticeCode};
use super::generation::Generation;
use super::rescue::Source;
use super::state::{CloseReason, OperationKind, Outcome};
use super::sync::{SyncConfig, Uncovered};
use super::types::{Epoch, Lsn, MemberName, NodeName, SystemId, WallMillis};

/// One change of state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number within the cluster, growing by one.
    pub id: u64,
    /// When, by the proposer's wall clock: for people, nothing is decided by it.
    pub at: WallMillis,
    /// The cluster's highest granted epoch after the change.
    pub epoch: Epoch,
    /// What.
    pub kind: EventKind,
}

/// What a grant without proof put at stake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtStake {
    /// Who accepted it: who asked for the operation, or the cluster's `max_lag_bytes`.
    pub by: String,
    /// The configurations whose acknowledged commits were not proven to be there.
    pub uncovered: Vec<Uncovered>,
    /// The last known position of the primary, where it was known.
    #[serde(default)]
    pub primary_end: Option<Lsn>,
}

impl EventKind {
    /// Whether it is what a member says of itself, not what was decided.
    pub fn is_said(&self) -> bool {
        matches!(self, Self::AlarmRaised { .. } | Self::AlarmCleared { .. } | Self::Noticed { .. })
    }
}

/// What can happen to a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The cluster was created from a configuration.
    ClusterCreated,
    /// A member registered for the first time.
    MemberRegistered {
        /// Who.
        member: MemberName,
        /// Where.
        node: NodeName,
        /// Its PostgreSQL address.
        address: String,
    },
    /// A member's address, priority or tag changed.
    MemberChanged {
        /// Who.
        member: MemberName,
    },
    /// `initdb` was entrusted to a member.
    BootstrapStarted {
        /// To whom.
        member: MemberName,
    },
    /// The data directory exists.
    BootstrapFinished {
        /// Who made it.
        member: MemberName,
        /// Its system identifier.
        system_id: SystemId,
    },
    /// The member that was to run `initdb` could not, and another may be asked.
    BootstrapAbandoned {
        /// Who.
        member: MemberName,
        /// Why.
        why: String,
    },
    /// An epoch ended.
    EpochClosed {
        /// Which.
        closed: Epoch,
        /// Whose.
        member: MemberName,
        /// Why.
        reason: CloseReason,
        /// Whether its stop was proven then.
        stopped: bool,
    },
    /// The holder of a closed epoch proved that it stopped.
    StopProven {
        /// Which epoch.
        closed: Epoch,
        /// Whose.
        member: MemberName,
    },
    /// The control plane was recovered by hand as a new generation.
    ControlPlaneRecovered {
        /// The new generation.
        generation: Generation,
        /// From what.
        source: Source,
        /// The controller that it began with.
        node: String,
        /// Who did it.
        by: String,
        /// Nodes that were stated to be off for ever.
        lost: Vec<String>,
        /// Nodes whose store was retired.
        retired: Vec<String>,
        /// Whether the state was proven to be the newest.
        proven: bool,
    },
    /// The epoch was raised above all that members know.
    EpochRaised {
        /// From which.
        from: Epoch,
        /// The highest that a member knows.
        known: Epoch,
        /// Members that did not say.
        unheard: Vec<MemberName>,
    },
    /// A member was granted a new epoch.
    Granted {
        /// Who.
        member: MemberName,
        /// Its last WAL epoch at that time.
        wal_epoch: Epoch,
        /// Its last position at that time.
        lsn: Lsn,
        /// Whether a proof was overridden by the operator: acknowledged commits may be lost.
        data_loss_accepted: bool,
        /// What was not proven, and on whose word it was done nevertheless.
        #[serde(default)]
        at_stake: Option<AtStake>,
        /// The synchronous configuration that came with it.
        sync: SyncConfig,
    },
    /// A member was promoted to the timeline of its epoch.
    Promoted {
        /// Who.
        member: MemberName,
        /// Where the timeline begins.
        start: Lsn,
    },
    /// A primary opened for writes.
    Activated {
        /// Who.
        member: MemberName,
    },
    /// A change of the synchronous configuration began: both are in force.
    SyncChanging {
        /// The new one.
        to: SyncConfig,
    },
    /// A change of the synchronous configuration ended.
    SyncChanged {
        /// The one in force.
        to: SyncConfig,
    },
    /// Something is wrong with a member.
    AlarmRaised {
        /// With whom.
        member: MemberName,
        /// What.
        alarm: Alarm,
    },
    /// An alarm holds no more.
    AlarmCleared {
        /// Whose.
        member: MemberName,
        /// What kind.
        code: AlarmCode,
        /// What it was about.
        subject: String,
    },
    /// Something happened to a member.
    Noticed {
        /// To whom.
        member: MemberName,
        /// What.
        code: NoticeCode,
        /// What, for a person.
        text: String,
    },
    /// An operation began.
    OperationStarted {
        /// Number.
        operation: u64,
        /// What.
        kind: OperationKind,
        /// Who asked.
        by: String,
    },
    /// The next step of a rolling restart: this member's turn.
    OperationStep {
        /// Number.
        operation: u64,
        /// Whose turn it is.
        member: MemberName,
        /// Who is primary after it, where it is the primary's turn.
        target: Option<MemberName>,
    },
    /// From here on nothing happens by itself.
    Paused {
        /// Who asked.
        by: String,
        /// When it ends by itself.
        until: Option<WallMillis>,
    },
    /// What has to be done is done by itself again.
    Resumed {
        /// Who asked; the name of who paused it, where the time was over.
        by: String,
    },
    /// An operation ended.
    OperationFinished {
        /// Number.
        operation: u64,
        /// How.
        outcome: Outcome,
    },
}
