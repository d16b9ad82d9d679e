//! Members and clusters that come and go.

use crate::domain::clusters::RemovedCluster;
use crate::domain::membership::Removed;
use crate::domain::state::ClusterState;
use crate::domain::types::{ClusterName, MemberName};
use crate::pb::v1;

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A cluster in short.
pub fn cluster_summary(name: &ClusterName, state: &ClusterState) -> v1::ClusterSummary {
    v1::ClusterSummary {
        name: name.to_string(),
        summary: super::summary(state),
        system_id: state.system_id.map(|id| id.to_string()).unwrap_or_default(),
        epoch: state.epoch.0,
        primary: state.active_primary().map(ToString::to_string).unwrap_or_default(),
        members: count(state.members.len()),
    }
}

/// A cluster that was removed.
pub fn removed_cluster(removed: &RemovedCluster) -> v1::RemovedCluster {
    v1::RemovedCluster {
        name: removed.name.to_string(),
        system_id: removed.system_id.map(|id| id.to_string()).unwrap_or_default(),
        epoch: removed.epoch.0,
        members: removed.members,
        by: removed.by.clone(),
        at_unix_ms: removed.at.0,
        forced: removed.forced,
        lifted: removed.lifted,
    }
}

/// A member that was removed.
pub(super) fn removed_member(name: &MemberName, removed: &Removed) -> v1::RemovedMember {
    v1::RemovedMember {
        name: name.to_string(),
        node: removed.node.to_string(),
        address: removed.address.clone(),
        by: removed.by.clone(),
        at_unix_ms: removed.at.0,
    }
}
