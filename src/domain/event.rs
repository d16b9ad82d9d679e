//! What happened to a cluster, for operators: typed, ordered, kept in the replicated history.

use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, AlarmCode, NoticeCode};
use super::generation::Generation;
use super::rescue::Source;
use super::specification::SpecChange;
use super::state::{CloseReason, Operation, OperationKind, Outcome};
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
    /// The operation that it is a step of, where one was under way.
    #[serde(default)]
    pub operation: Option<u64>,
    /// Who asked for that operation; empty where there is none.
    #[serde(default)]
    pub by: String,
    /// What.
    pub kind: EventKind,
}

impl Event {
    /// An event that belongs to no operation.
    pub fn new(id: u64, at: WallMillis, epoch: Epoch, kind: EventKind) -> Self {
        Self { id, at, epoch, operation: None, by: String::new(), kind }
    }

    /// The same as a step of that operation, where its kind can be one. A kind that names an
    /// operation is a step of that and of no other.
    pub fn within(mut self, operation: Option<&Operation>) -> Self {
        let (named, by) = self.kind.asked();
        let by = by.map(str::to_owned);
        self.operation = named;
        let fits = |op: &&Operation| match named {
            Some(id) => op.id == id,
            None => self.kind.is_step(),
        };
        match (by, operation.filter(fits)) {
            (Some(by), _) => self.by = by,
            (None, Some(operation)) => {
                self.operation = Some(operation.id);
                self.by = operation.by.clone();
            }
            (None, None) => {}
        }
        self
    }
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

    /// Whether it is a step of the operation under way. What members say of themselves, and who
    /// registers, happens beside it.
    pub fn is_step(&self) -> bool {
        let beside = matches!(
            self,
            Self::ClusterCreated
                | Self::MemberRegistered { .. }
                | Self::MemberChanged { .. }
                | Self::Paused { .. }
                | Self::Resumed { .. }
        );
        !beside && !self.is_said()
    }

    /// The operation that it names itself, and who asked as far as it says.
    fn asked(&self) -> (Option<u64>, Option<&str>) {
        match self {
            Self::OperationStarted { operation, by, .. } => (Some(*operation), Some(by)),
            Self::OperationStep { operation, .. } | Self::OperationFinished { operation, .. } => {
                (Some(*operation), None)
            }
            Self::Paused { by, .. } | Self::Resumed { by } => (None, Some(by)),
            _ => (None, None),
        }
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
    /// Data that exists is to be taken over.
    AdoptionStarted {
        /// Whose data is the primary's.
        member: MemberName,
        /// Its system identifier.
        system_id: SystemId,
        /// Its timeline.
        epoch: Epoch,
        /// Whether the operator named the member.
        named: bool,
        /// Who asked.
        by: String,
    },
    /// Data that existed is the cluster's.
    Adopted {
        /// Whose it was.
        member: MemberName,
        /// Its system identifier.
        system_id: SystemId,
        /// Its timeline.
        epoch: Epoch,
    },
    /// The operator created the cluster.
    ClusterDefined {
        /// Who asked.
        by: String,
    },
    /// A member is to be removed.
    MemberRemovalStarted {
        /// Who.
        member: MemberName,
        /// Who asked.
        by: String,
    },
    /// A member that was to be removed stays.
    MemberRemovalAbandoned {
        /// Who.
        member: MemberName,
        /// Why.
        why: String,
    },
    /// A member was removed.
    MemberRemoved {
        /// Who.
        member: MemberName,
        /// Who asked.
        by: String,
    },
    /// The name of a removed member may register again.
    MemberPermitted {
        /// Who.
        member: MemberName,
        /// Who asked.
        by: String,
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
        /// Whether it was stated that its lists of members are complete.
        #[serde(default)]
        members_complete: bool,
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
    /// The specification was changed.
    SpecChanged {
        /// Its new number.
        revision: u64,
        /// Who asked.
        by: String,
        /// What changed, at most `CHANGES_MAX`.
        changes: Vec<SpecChange>,
        /// How many more changes there were.
        #[serde(default)]
        more: u64,
    },
    /// A specification that PostgreSQL refused was taken back.
    SpecRolledBack {
        /// The new number.
        revision: u64,
        /// The one that was refused.
        refused: u64,
        /// The one whose parameters and rules are in force again.
        to: u64,
        /// Whose PostgreSQL refused it.
        member: MemberName,
        /// The setting that it named; may be empty.
        setting: String,
        /// What it said.
        why: String,
        /// What changed.
        changes: Vec<SpecChange>,
        /// How many more changes there were.
        #[serde(default)]
        more: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        let kind = OperationKind::Failover { target: None, accept_data_loss: false };
        let (epoch, at) = (Epoch(3), WallMillis(5));
        Operation { id: 7, kind, epoch, by: "ada@ops".to_owned(), at, deadline_ms: 0 }
    }

    fn event(kind: EventKind) -> Event {
        Event::new(1, WallMillis(6), Epoch(3), kind).within(Some(&operation()))
    }

    #[test]
    fn steps_of_an_operation_carry_who_asked_and_what_happens_beside_it_does_not() {
        let member = MemberName::new("a").unwrap();
        let step = event(EventKind::Activated { member: member.clone() });
        assert_eq!((step.operation, step.by.as_str()), (Some(7), "ada@ops"));
        let beside = [
            EventKind::MemberChanged { member: member.clone() },
            EventKind::Noticed { member, code: NoticeCode::Rewound, text: String::new() },
        ];
        for kind in beside {
            let event = event(kind);
            assert_eq!((event.operation, event.by.as_str()), (None, ""));
        }
    }

    #[test]
    fn what_names_an_operation_is_a_step_of_no_other() {
        let finished = |operation| {
            event(EventKind::OperationFinished { operation, outcome: Outcome::Completed })
        };
        assert_eq!((finished(7).operation, finished(7).by.as_str()), (Some(7), "ada@ops"));
        assert_eq!((finished(8).operation, finished(8).by.as_str()), (Some(8), ""));
        let by = "bob@ops".to_owned();
        let paused = event(EventKind::Paused { by, until: None });
        assert_eq!((paused.operation, paused.by.as_str()), (None, "bob@ops"));
    }

    #[test]
    fn events_of_older_versions_belong_to_no_operation() {
        let old = r#"{"id":4,"at":9,"epoch":2,"kind":{"activated":{"member":"a"}}}"#;
        let event: Event = serde_json::from_str(old).unwrap();
        assert_eq!((event.id, event.operation, event.by.as_str()), (4, None, ""));
    }
}
