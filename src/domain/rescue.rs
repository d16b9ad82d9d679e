//! The agreed state after the group of controllers was replaced by hand.
//!
//! Owns what an offline tool changes in the state that it hands to the new generation. Where it is
//! not proven that this state is the newest, it may lack epochs that were granted, synchronous
//! configurations, and whole lineages. So every cluster is then *verified* before anybody is
//! granted anything:
//!
//! 1. its epoch is closed;
//! 2. every member says which epochs it knows, and the epoch is raised above them all;
//! 3. all members that may lead have to be sealed for the one after it, and the one with the most
//!    WAL by (epoch, position) is granted it, until a primary is active again.
//!
//! Any synchronous configuration that was ever in force is covered where all members are sealed.
//! A member that is missing is the operator's decision: a failover that accepts data loss. So is one
//! that a state which is old has never heard of: nothing is granted before the operator has said that
//! the list of members is complete, or accepts data loss.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::alarm::bounded;
use super::apply::{close, record};
use super::event::EventKind;
use super::generation::Generation;
use super::state::{CloseReason, ClusterState, ControlState, Phase};
use super::types::{Epoch, MemberName, NodeName, WallMillis};

/// How far the epoch is raised above all that is known: what a member was granted alone, which does
/// not answer or has lost its record of it, must not be granted again. Each is a promotion that
/// nobody who is left remembers.
pub const UNSEEN_EPOCHS: u64 = 100;

/// Set while the state of a cluster is not proven to be the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Whether the epoch has been raised above all that members know.
    pub raised: bool,
    /// Members on nodes that are stated to be off for ever: they are not waited for.
    #[serde(default)]
    pub lost: BTreeSet<MemberName>,
    /// Whether the operator says that there are no other members than those of this state and those
    /// that register: one that joined later may be the only one with what was acknowledged.
    #[serde(default)]
    pub complete: bool,
}

/// By what a new generation was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The store of a controller that was left.
    Survivor,
    /// A saved snapshot.
    Snapshot,
}

/// How a new generation was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The new generation.
    pub generation: Generation,
    /// By what.
    pub source: Source,
    /// The controller that it begins with.
    pub node: String,
    /// Who did it.
    pub by: String,
    /// When, by the wall clock of that machine.
    pub at: WallMillis,
    /// Nodes that are stated to be off for ever.
    pub lost: Vec<String>,
    /// Nodes whose store is retired, by a receipt.
    pub retired: Vec<String>,
    /// Whether the state is proven to be the newest.
    pub proven: bool,
    /// Whether it is stated that its lists of members are complete.
    #[serde(default)]
    pub members_complete: bool,
}

/// Makes `state` the state that the new generation begins with.
pub fn recover(state: &mut ControlState, recovery: &Recovery) {
    for cluster in state.clusters.values_mut() {
        if !recovery.proven {
            doubt(cluster, recovery);
        }
        let event = EventKind::ControlPlaneRecovered {
            generation: recovery.generation,
            source: recovery.source,
            node: bounded(&recovery.node),
            by: bounded(&recovery.by),
            lost: recovery.lost.iter().map(|n| bounded(n)).collect(),
            retired: recovery.retired.iter().map(|n| bounded(n)).collect(),
            proven: recovery.proven,
            members_complete: recovery.members_complete,
        };
        record(cluster, recovery.at, event);
    }
}

fn doubt(cluster: &mut ClusterState, recovery: &Recovery) {
    if cluster.open_tenure().is_some() {
        close(cluster, recovery.at, CloseReason::Recovered, false);
    } else if let Some(tenure) = &mut cluster.tenure {
        // A stop that was proven is one of this epoch; a later one may have been granted since.
        tenure.stopped = false;
    }
    super::failsafe::doubt(cluster);
    // A switchover under way was one of an epoch that is over.
    super::apply::abandon_operation(cluster, recovery.at, "the control plane was recovered");
    let is_lost = |node: &NodeName| recovery.lost.iter().any(|lost| lost == node.as_str());
    let on_lost = cluster.members.iter().filter(|(_, m)| is_lost(&m.node));
    let lost = on_lost.map(|(name, _)| name.clone()).collect();
    cluster.verify = Some(Verify { raised: false, lost, complete: recovery.members_complete });
}

impl ClusterState {
    /// Members that have to be heard of before an epoch is raised: all that are not stated lost.
    pub fn to_be_heard(&self) -> impl Iterator<Item = &MemberName> {
        let lost = |m: &&MemberName| self.verify.as_ref().is_some_and(|v| v.lost.contains(*m));
        self.members.keys().filter(move |m| !lost(m))
    }

    /// Whether this is a cluster whose data is older than what its state says: it was taken before
    /// there was data, and a member knows of epochs that came after it.
    pub fn outlived(&self, known: Epoch) -> bool {
        self.verify.is_some() && self.phase != Phase::Running && known > Epoch(1)
    }
}
