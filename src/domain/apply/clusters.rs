//! Which clusters there are.

use super::super::clusters::{ClustersChange, REMOVED_CLUSTERS_MAX, RemovedCluster};
use super::super::command::{Rejection, Reply};
use super::super::event::EventKind;
use super::super::invariants;
use super::super::membership::MembershipRefusal;
use super::super::state::{ClusterSpec, ClusterState, ControlState};
use super::super::types::{ClusterName, Epoch, WallMillis};
use super::{APPLIED, bounded, expect_epoch, record};

/// The first registration of a member creates its cluster, unless the operator has removed it.
pub(super) fn come(
    state: &mut ControlState,
    at: WallMillis,
    name: &ClusterName,
    spec: &ClusterSpec,
) -> Result<Reply, Rejection> {
    if state.clusters.contains_key(name) {
        return Ok(Reply::Nothing);
    }
    if state.is_removed(name) {
        return Err(MembershipRefusal::ClusterRemoved { cluster: name.clone() }.into());
    }
    insert(state, at, name, spec, EventKind::ClusterCreated)
}

pub(super) fn change(
    state: &mut ControlState,
    at: WallMillis,
    name: &ClusterName,
    change: &ClustersChange,
) -> Result<Reply, Rejection> {
    match change {
        ClustersChange::Create { spec, by } => {
            if state.clusters.contains_key(name) {
                return Err(MembershipRefusal::ClusterExists { cluster: name.clone() }.into());
            }
            let reply =
                insert(state, at, name, spec, EventKind::ClusterDefined { by: bounded(by) })?;
            for removed in state.removed_clusters.iter_mut().filter(|r| r.name == *name) {
                removed.lifted = true;
            }
            Ok(reply)
        }
        ClustersChange::Remove { expect_epoch, forced, by } => {
            remove(state, at, name, *expect_epoch, *forced, by)
        }
    }
}

fn insert(
    state: &mut ControlState,
    at: WallMillis,
    name: &ClusterName,
    spec: &ClusterSpec,
    event: EventKind,
) -> Result<Reply, Rejection> {
    if let Some(why) = invariants::spec_problem(spec) {
        return Err(Rejection::BadSpec { why });
    }
    let mut cluster = ClusterState::new(spec.clone());
    record(&mut cluster, at, event);
    state.clusters.insert(name.clone(), cluster);
    Ok(APPLIED)
}

fn remove(
    state: &mut ControlState,
    at: WallMillis,
    name: &ClusterName,
    epoch: Epoch,
    forced: bool,
    by: &str,
) -> Result<Reply, Rejection> {
    let Some(cluster) = state.clusters.get(name) else {
        return Err(Rejection::UnknownCluster { cluster: name.clone() });
    };
    expect_epoch(cluster, epoch)?;
    // Nobody is asked here who runs; but who was granted the role and has not proved its end may.
    if let Some(tenure) = cluster.tenure.as_ref().filter(|_| !forced)
        && !(tenure.closed.is_some() && tenure.stopped)
    {
        let (member, epoch) = (tenure.member.clone(), tenure.epoch);
        return Err(MembershipRefusal::NotStopped { member, epoch }.into());
    }
    let removed = RemovedCluster {
        name: name.clone(),
        system_id: cluster.system_id,
        epoch: cluster.epoch,
        members: u32::try_from(cluster.members.len()).unwrap_or(u32::MAX),
        by: bounded(by),
        at,
        forced,
        lifted: false,
    };
    state.clusters.remove(name);
    state.removed_clusters.push_back(removed);
    while state.removed_clusters.len() > REMOVED_CLUSTERS_MAX {
        let free = state.removed_clusters.iter().position(|r| r.lifted).unwrap_or(0);
        state.removed_clusters.remove(free);
    }
    Ok(APPLIED)
}
