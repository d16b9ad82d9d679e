//! What the agreed state asks of one member.

use super::lineage::Lineage;
use super::state::{ClusterState, Phase, Stage};
use super::sync::SyncConfig;
use super::types::{Epoch, GuardId, MemberName, NodeName, SystemId};

/// What one member has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// It is not registered yet.
    Register,
    /// It makes data that exists ready to be led.
    Adopt {
        /// The system identifier.
        system_id: SystemId,
        /// Its timeline, which nobody leads.
        epoch: Epoch,
    },
    /// It was removed, or its name belongs to another node: its PostgreSQL is stopped, and its data
    /// kept.
    Removed,
    /// Nothing, for now.
    Wait {
        /// Why.
        why: &'static str,
    },
    /// It makes the data directory.
    Bootstrap,
    /// It takes no WAL of an epoch below `promise`.
    Sealed {
        /// The epoch that will be granted next.
        promise: Epoch,
    },
    /// It is primary, or on its way to be.
    Primary(PrimaryDuty),
    /// It follows a primary.
    Follow(FollowDuty),
}

/// What a primary has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryDuty {
    /// The epoch granted.
    pub epoch: Epoch,
    /// The life of the guard that it was granted to.
    pub guard: GuardId,
    /// How far the control plane knows it to be.
    pub stage: Stage,
    /// All synchronous configurations in force; it runs with the last.
    pub syncs: Vec<SyncConfig>,
    /// Set where it has to stop in order and leave the role to this member.
    pub handover: Option<MemberName>,
    /// All other members: each has a slot.
    pub others: Vec<MemberName>,
}

/// What a follower has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowDuty {
    /// The epoch to follow.
    pub epoch: Epoch,
    /// Its primary.
    pub primary: MemberName,
    /// The primary's `host:port`.
    pub address: String,
    /// Where each epoch of the primary's log begins.
    pub lineage: Lineage,
    /// Whether the primary is open for writes.
    pub active: bool,
    /// Whether the primary waits for this member's confirmations.
    pub counted: bool,
    /// All other members: each has a slot.
    pub others: Vec<MemberName>,
    /// Whom it streams from where it can, instead of the primary.
    pub upstream: Option<Upstream>,
    /// Standbys that it is copied from where it can be, instead of the primary.
    pub sources: Vec<Upstream>,
    /// How late it applies WAL, in milliseconds; 0 for at once.
    pub delay_ms: u64,
    /// The life of its guard that is to end, since the operator wants a restart.
    pub restart: Option<GuardId>,
    /// The operation by which its data is to be copied anew. Any copy does, whatever it was made
    /// for.
    pub copy_anew: Option<u64>,
    /// Whether its data may be given up for that: nothing counts on it any more.
    pub expendable: bool,
}

impl FollowDuty {
    /// The same without an upstream: everything is taken from the primary.
    pub fn from_primary(&self) -> Self {
        Self { upstream: None, ..self.clone() }
    }

    /// Whom WAL is taken from: the upstream where there is one, else the primary. With its
    /// `host:port`.
    pub fn streams_from(&self) -> (&MemberName, &str) {
        match &self.upstream {
            Some(upstream) => (&upstream.member, &upstream.address),
            None => (&self.primary, &self.address),
        }
    }
}

/// A standby that serves others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Who.
    pub member: MemberName,
    /// Its `host:port`.
    pub address: String,
}

/// The other node that the name of `member` is bound to, where it is. What runs under this name on
/// `node` is not the member that the agreed state means: its data is another's, and whatever it
/// confirmed would count for that one.
pub fn bound_elsewhere<'a>(
    state: &'a ClusterState,
    member: &MemberName,
    node: &NodeName,
) -> Option<&'a NodeName> {
    state.members.get(member).map(|m| &m.node).filter(|bound| *bound != node)
}

/// What `state` asks of what runs as `member` on `node`. This is what an agent obeys.
pub fn desired_on(state: &ClusterState, member: &MemberName, node: &NodeName) -> Desired {
    match bound_elsewhere(state, member, node) {
        Some(_) => Desired::Removed,
        None => desired(state, member),
    }
}

/// What `state` asks of `member`, on the node that its name is bound to.
pub fn desired(state: &ClusterState, member: &MemberName) -> Desired {
    if !state.members.contains_key(member) {
        return match state.removed.contains_key(member) {
            true => Desired::Removed,
            false => Desired::Register,
        };
    }
    match &state.phase {
        Phase::AwaitingMembers => return Desired::Wait { why: "the cluster has no data yet" },
        Phase::Bootstrapping { member: chosen } if chosen == member => return Desired::Bootstrap,
        Phase::Bootstrapping { .. } => {
            return Desired::Wait { why: "another member makes the data directory" };
        }
        Phase::Adopting { member: chosen, system_id, epoch, .. } if chosen == member => {
            return Desired::Adopt { system_id: *system_id, epoch: *epoch };
        }
        Phase::Adopting { .. } => {
            return Desired::Wait { why: "the data of another member is taken over" };
        }
        Phase::Running => {}
    }
    let Some(tenure) = &state.tenure else {
        return Desired::Wait { why: "nobody has led the cluster yet" };
    };
    if state.verify.as_ref().is_some_and(|v| !v.raised) {
        let why = "the control plane was recovered: what all members know is asked first";
        return Desired::Wait { why };
    }
    if tenure.closed.is_some() {
        return Desired::Sealed { promise: tenure.epoch.next() };
    }
    let others = || state.members.keys().filter(|m| *m != member).cloned().collect();
    if tenure.member == *member {
        let handover = state
            .operation
            .as_ref()
            .filter(|op| op.epoch == tenure.epoch && matches!(tenure.stage, Stage::Active { .. }));
        return Desired::Primary(PrimaryDuty {
            epoch: tenure.epoch,
            guard: tenure.guard.clone(),
            stage: tenure.stage,
            syncs: state.syncs.clone(),
            handover: handover.and_then(|op| op.kind.handover()).cloned(),
            others: others(),
        });
    }
    match tenure.stage {
        // Until it is promoted the granted member may only have WAL of older epochs to give.
        Stage::Granted => Desired::Sealed { promise: tenure.epoch },
        Stage::Promoted | Stage::Active { .. } => match state.members.get(&tenure.member) {
            Some(primary) => Desired::Follow(FollowDuty {
                epoch: tenure.epoch,
                primary: tenure.member.clone(),
                address: primary.address.clone(),
                lineage: state.lineage.clone(),
                active: matches!(tenure.stage, Stage::Active { .. }),
                counted: state.current_sync().is_some_and(|c| c.members.contains(member)),
                others: others(),
                upstream: upstream(state, member, &tenure.member),
                sources: sources(state, member, &tenure.member),
                delay_ms: state.members.get(member).map_or(0, |m| m.tags.delay_ms),
                restart: state.restart_of(member).cloned(),
                copy_anew: state.reinitialisation_of(member),
                expendable: expendable(state, member),
            }),
            None => Desired::Wait { why: "the primary is not a member any more" },
        },
    }
}

/// Whether nothing rests on the data of `member`: it was agreed to give it up, the primary is open
/// for writes, and no synchronous configuration in force names the member.
fn expendable(state: &ClusterState, member: &MemberName) -> bool {
    state.is_given_up(member)
        && state.active_primary().is_some_and(|primary| primary != member)
        && state.syncs.iter().all(|config| !config.members.contains(member))
}

/// Whom `member` streams from instead of the primary. A chain that comes back to the member, or
/// that begins at the primary, is none.
fn upstream(state: &ClusterState, member: &MemberName, primary: &MemberName) -> Option<Upstream> {
    let next = |m: &MemberName| state.members.get(m)?.tags.replicatefrom.clone();
    let wanted = next(member).filter(|m| m != primary)?;
    let mut seen = std::collections::BTreeSet::from([member.clone()]);
    let mut at = Some(wanted.clone());
    while let Some(m) = at {
        if !seen.insert(m.clone()) {
            return None;
        }
        at = next(&m).filter(|n| n != primary);
    }
    let address = state.members.get(&wanted)?.address.clone();
    Some(Upstream { member: wanted, address })
}

fn sources(state: &ClusterState, member: &MemberName, primary: &MemberName) -> Vec<Upstream> {
    let serves = |(name, m): &(&MemberName, &super::state::Member)| {
        m.tags.clonefrom && *name != member && *name != primary
    };
    let source = |(name, m): (&MemberName, &super::state::Member)| Upstream {
        member: name.clone(),
        address: m.address.clone(),
    };
    state.members.iter().filter(serves).map(source).collect()
}
