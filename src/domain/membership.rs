//! Members that come and go: who leaves a cluster, who was removed, and every reason against it.
//!
//! # Why no acknowledged commit is lost by a removal
//!
//! A takeover has to cover every synchronous configuration in force, and nothing else. A member is
//! removed only while an epoch is active and while it is in no configuration in force, so no
//! takeover could ever need it. It comes to be in none by the joint change that every change of a
//! configuration is: the planner puts one without it in force beside the others, and the others end
//! only once a barrier has shown that W members of the new one have flushed all that was written
//! before. So whatever the leaving member alone had confirmed is on W others by then. Until that
//! barrier it counts, and is waited for, like everybody else. The primary itself, which alone has
//! what an asynchronous configuration acknowledged, is never removed.

use serde::{Deserialize, Serialize};

use super::types::{ClusterName, Epoch, MemberName, NodeName, WallMillis};

/// Most removed names that a cluster remembers; the oldest is forgotten first.
pub const REMOVED_MAX: usize = 256;

/// A member that is to be removed, and still counts as long as it has to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Who asked.
    pub by: String,
    /// When, by the proposer's wall clock.
    pub at: WallMillis,
}

/// A member that was removed. Its agent stops PostgreSQL, keeps the data, and is not registered
/// again until the operator permits the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The node that it was bound to.
    pub node: NodeName,
    /// `host:port` of its PostgreSQL.
    pub address: String,
    /// Who asked.
    pub by: String,
    /// When, by the proposer's wall clock.
    pub at: WallMillis,
}

/// What a command changes of who belongs to a cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipChange {
    /// The member is to leave: it is taken out of the synchronous configurations first.
    BeginRemoval {
        /// The epoch that must be active.
        expect_epoch: Epoch,
        /// Who.
        member: MemberName,
        /// Who asks.
        by: String,
    },
    /// The member stays.
    AbandonRemoval {
        /// Who.
        member: MemberName,
        /// Why.
        why: String,
    },
    /// The member is in no synchronous configuration any more, and is forgotten.
    FinishRemoval {
        /// The epoch that must be active.
        expect_epoch: Epoch,
        /// Who.
        member: MemberName,
    },
    /// A removed name may register again; one that is leaving stays.
    Permit {
        /// Who.
        member: MemberName,
        /// Who asks.
        by: String,
    },
}

/// Why a member is not removed, registered, or permitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum MembershipRefusal {
    /// The primary is never removed.
    #[error("{member} is the primary: switch over to another member before it is removed")]
    Primary {
        /// Who.
        member: MemberName,
    },
    /// No epoch is active: who holds what is not settled.
    #[error(
        "the cluster has no active primary now: what each member has to confirm is settled only \
         while there is one"
    )]
    NotActive,
    /// It is the only one.
    #[error("{member} is the last member of the cluster: remove the cluster instead")]
    Last {
        /// Who.
        member: MemberName,
    },
    /// It is to leave already.
    #[error("{member} is to leave already")]
    LeavingAlready {
        /// Who.
        member: MemberName,
    },
    /// Nobody asked for it to leave.
    #[error("{member} is not to leave")]
    NotLeaving {
        /// Who.
        member: MemberName,
    },
    /// Nobody could follow the primary, were it lost for good.
    #[error(
        "{member} is the last peer of {holder} in epoch {epoch}, which has failsafe, that answers: \
         without it nobody else could ever take over from {holder}"
    )]
    LastPeer {
        /// Who.
        member: MemberName,
        /// The primary.
        holder: MemberName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A takeover may need what it holds.
    #[error("{member} still counts in a synchronous configuration that is in force")]
    StillCounts {
        /// Who.
        member: MemberName,
    },
    /// Too few would be left to confirm commits.
    #[error(
        "without {member} only {left} other members can confirm commits, and write_quorum_min is \
         {floor}"
    )]
    WriteQuorum {
        /// Who.
        member: MemberName,
        /// How many others may confirm.
        left: u32,
        /// The least.
        floor: u32,
    },
    /// Too few others stream to confirm commits in its place.
    #[error(
        "without {member} only {streaming} other members that may confirm commits stream from the \
         primary, and write_quorum_min is {floor}"
    )]
    OthersStream {
        /// Who.
        member: MemberName,
        /// How many others stream.
        streaming: u32,
        /// The least.
        floor: u32,
    },
    /// Members of the cluster run.
    #[error("these members run: {}", list(members))]
    MembersRun {
        /// Who.
        members: Vec<MemberName>,
    },
    /// Members of the cluster were not heard of just now.
    #[error("these members have not reported just now, and may run: {}", list(members))]
    MembersSilent {
        /// Who.
        members: Vec<MemberName>,
    },
    /// The cluster is led, or it is not proven that its last primary has stopped.
    #[error("member {member} was granted {epoch}, and has not proved that it stopped")]
    NotStopped {
        /// Who.
        member: MemberName,
        /// In which epoch.
        epoch: Epoch,
    },
    /// It was removed.
    #[error(
        "member {member} was removed from this cluster: permit it again with `hactl member add \
         {member}`"
    )]
    Removed {
        /// Who.
        member: MemberName,
    },
    /// Nothing forbids it.
    #[error(
        "{member} was not removed: it needs no permission. Name it in a [[member]] of its node's \
         configuration, and it registers by itself"
    )]
    NothingToPermit {
        /// Who.
        member: MemberName,
    },
    /// It is a member.
    #[error("{member} is a member already")]
    MemberAlready {
        /// Who.
        member: MemberName,
    },
    /// The cluster was removed.
    #[error(
        "cluster {cluster} was removed: create it again with `hactl cluster create {cluster}` before \
         members register"
    )]
    ClusterRemoved {
        /// Which.
        cluster: ClusterName,
    },
    /// The cluster exists.
    #[error("there is a cluster named {cluster} already")]
    ClusterExists {
        /// Which.
        cluster: ClusterName,
    },
}

fn list(members: &[MemberName]) -> String {
    members.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}

impl MembershipRefusal {
    /// The name of the rule, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Primary { .. } => "member.remove-standby",
            Self::NotActive => "member.remove-while-active",
            Self::Last { .. } => "member.last",
            Self::LeavingAlready { .. } | Self::NotLeaving { .. } => "member.leaving",
            Self::LastPeer { .. } => "failsafe.last-peer",
            Self::StillCounts { .. } => "member.counts",
            Self::WriteQuorum { .. } => "member.write-quorum",
            Self::OthersStream { .. } => "member.others-stream",
            Self::MembersRun { .. } => "cluster.members-run",
            Self::MembersSilent { .. } => "cluster.members-silent",
            Self::NotStopped { .. } => "cluster.not-stopped",
            Self::Removed { .. } => "member.removed",
            Self::NothingToPermit { .. } => "member.nothing-to-permit",
            Self::MemberAlready { .. } => "member.new",
            Self::ClusterRemoved { .. } => "cluster.removed",
            Self::ClusterExists { .. } => "cluster.new",
        }
    }
}
