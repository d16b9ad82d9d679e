//! Clusters that come and go, as the operator asks: what is remembered of those that were removed.

use serde::{Deserialize, Serialize};

use super::state::{ClusterSpec, ControlState};
use super::types::{ClusterName, Epoch, SystemId, WallMillis};

/// Most removed clusters that are remembered. Those whose name may be used again go first.
pub const REMOVED_CLUSTERS_MAX: usize = 200;

/// A cluster that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedCluster {
    /// Its name.
    pub name: ClusterName,
    /// Its system identifier, where it had data.
    pub system_id: Option<SystemId>,
    /// Its highest granted epoch.
    pub epoch: Epoch,
    /// How many members it had.
    pub members: u32,
    /// Who asked.
    pub by: String,
    /// When, by the proposer's wall clock.
    pub at: WallMillis,
    /// Whether it was removed though members ran.
    pub forced: bool,
    /// Whether the operator has created a cluster of that name again since: members may register
    /// with it.
    #[serde(default)]
    pub lifted: bool,
}

/// What a command changes of which clusters there are.
// Few are made, and none is kept.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClustersChange {
    /// Creates a cluster before any member comes. The name of a removed one is free again by it.
    Create {
        /// What the operator asks for.
        spec: ClusterSpec,
        /// Who asks.
        by: String,
    },
    /// Forgets a cluster. No renewal of its lease is acknowledged any more, its agents stop
    /// PostgreSQL and keep the data, and do not create it anew.
    Remove {
        /// The highest granted epoch.
        expect_epoch: Epoch,
        /// Whether it may be done though members run.
        forced: bool,
        /// Who asks.
        by: String,
    },
}

impl ControlState {
    /// Whether a cluster of that name was removed, and may not come back by itself.
    pub fn is_removed(&self, name: &ClusterName) -> bool {
        !self.clusters.contains_key(name)
            && self.removed_clusters.iter().any(|r| r.name == *name && !r.lifted)
    }
}
