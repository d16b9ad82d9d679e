//! Operations: what each kind means to the one who leads, to a member, and to its own end.
//!
//! Leading operations change who is primary, or restart everybody: at most one of a cluster is
//! under way. Jobs concern one member, which stays what it is: at most one a member. What is to
//! begin later is scheduled.

use serde::{Deserialize, Serialize};

use super::state::{ClusterState, Operation, OperationKind, Outcome};
use super::types::{GuardId, MemberName, WallMillis};

/// Most operations that may be scheduled at once.
pub const SCHEDULED_MAX: usize = 32;
/// How far ahead one may be scheduled, in milliseconds: a year.
pub const AHEAD_MS_MAX: u64 = 366 * 86_400_000;
/// How long after its time a scheduled operation may still begin, in milliseconds. Past it the
/// hour that the operator chose is over.
pub const GRACE_MS: u64 = 300_000;
/// Longest deadline of an operation, in milliseconds: a week.
pub const DEADLINE_MS_MAX: u64 = 7 * 86_400_000;

/// What is to begin later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Later {
    /// A switchover.
    Switchover {
        /// To whom; `None` for the best then.
        target: Option<MemberName>,
    },
    /// A restart.
    Restart {
        /// Of whom; `None` for all, one after the other.
        member: Option<MemberName>,
        /// Of all only those that wait for a restart.
        pending_only: bool,
        /// The primary where it is, not by a switchover.
        in_place: bool,
    },
}

/// A restart that is to begin now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Of a standby.
    Member {
        /// Which.
        member: MemberName,
        /// The life of its guard that is to end by it.
        guard: GuardId,
    },
    /// Of the primary, which is granted the next epoch after it.
    Primary {
        /// Which.
        member: MemberName,
    },
    /// Of these members, one after the other, the primary last.
    Rolling {
        /// With the life of each one's guard that is to end by it.
        guards: std::collections::BTreeMap<MemberName, GuardId>,
    },
}

/// The next step of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// This standby is restarted.
    Restart(MemberName),
    /// The primary stops, and this member, which may be itself, is primary after it.
    HandOver(MemberName),
    /// No commit waits for the member any more: its data may be given up for a copy.
    Copy,
}

impl OperationKind {
    /// To whom the primary leaves its role in order, where it is to do so now.
    pub fn handover(&self) -> Option<&MemberName> {
        match self {
            Self::Switchover { target } => Some(target),
            Self::RestartPrimary { member } => Some(member),
            Self::RollingRestart { target, .. } => target.as_ref(),
            _ => None,
        }
    }

    /// The member whose job it is.
    pub fn job_of(&self) -> Option<&MemberName> {
        match self {
            Self::Restart { member, .. } | Self::Reload { member } => Some(member),
            Self::Reinitialise { member, .. } => Some(member),
            _ => None,
        }
    }

    /// How long it may take where nothing was said, in milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        match self {
            Self::Switchover { .. } => 15_000,
            Self::Failover { .. } | Self::RestartPrimary { .. } | Self::Reload { .. } => 60_000,
            Self::Restart { .. } => 600_000,
            Self::RollingRestart { .. } => 3_600_000,
            Self::Reinitialise { .. } => 86_400_000,
            Self::Later { .. } => 0,
        }
    }
}

impl Operation {
    /// How long it may take, in milliseconds. A leader counts from when it first saw it.
    pub fn deadline_ms(&self) -> u64 {
        match self.deadline_ms {
            0 => self.kind.deadline_ms(),
            ms => ms,
        }
    }

    /// When it is to begin, where it is scheduled.
    pub fn scheduled_for(&self) -> Option<WallMillis> {
        match &self.kind {
            OperationKind::Later { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// Whom the operator wants as primary.
pub fn wished(operation: &Operation) -> Option<MemberName> {
    match &operation.kind {
        OperationKind::Failover { target, .. } => target.clone(),
        kind => kind.handover().cloned(),
    }
}

/// How a leading operation ends once `primary` is active in a later epoch than it began in.
pub fn outcome(operation: &Operation, primary: &MemberName) -> Outcome {
    match (&operation.kind, wished(operation)) {
        (OperationKind::RollingRestart { .. }, None) => Outcome::Failed {
            why: format!(
                "{primary} became primary before all members were restarted; begin it anew"
            ),
        },
        (OperationKind::RestartPrimary { member }, _) if member != primary => {
            Outcome::Failed { why: format!("{primary} became primary while {member} restarted") }
        }
        (_, Some(target)) if target != *primary => Outcome::Failed {
            why: format!("{primary} held more than {target} and became primary instead"),
        },
        _ => Outcome::Done { primary: primary.clone() },
    }
}

impl ClusterState {
    /// Everything under way: the leading operation first, then jobs by member.
    pub fn under_way(&self) -> impl Iterator<Item = &Operation> {
        self.operation.iter().chain(self.jobs.values())
    }

    /// The life of the guard of `member` that an operation asks to end now, where it is a standby.
    pub fn restart_of(&self, member: &MemberName) -> Option<&GuardId> {
        if let Some(Operation { kind: OperationKind::Restart { guard, .. }, .. }) =
            self.jobs.get(member)
        {
            return Some(guard);
        }
        match self.operation.as_ref().map(|op| &op.kind) {
            Some(OperationKind::RollingRestart { guards, at, target: None })
                if at.as_ref() == Some(member) =>
            {
                guards.get(member)
            }
            _ => None,
        }
    }

    /// The number of the operation by which `member` is to be copied anew.
    pub fn reinitialisation_of(&self, member: &MemberName) -> Option<u64> {
        let job = self.jobs.get(member)?;
        matches!(job.kind, OperationKind::Reinitialise { .. }).then_some(job.id)
    }

    /// Whether the data of `member` may be given up for a copy, or is already: it must confirm
    /// nothing from then on.
    pub fn is_given_up(&self, member: &MemberName) -> bool {
        let job = self.jobs.get(member).map(|job| &job.kind);
        matches!(job, Some(OperationKind::Reinitialise { begun: true, .. }))
    }

    /// The number of the operation by which `member` is to read its configuration again.
    pub fn reload_of(&self, member: &MemberName) -> Option<u64> {
        let job = self.jobs.get(member)?;
        matches!(job.kind, OperationKind::Reload { .. }).then_some(job.id)
    }
}
