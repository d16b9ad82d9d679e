//! The parameters of the Raft layer.
//!
//! Owns [`Options`] and what they mean to openraft: elections, snapshots and bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

use super::types::Peer;
use crate::domain::mutant::{Mutant, without};

/// Parameters of one controller.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node. It must be one of `members`, and is never reused for another store.
    pub node_id: u64,
    /// The initial members, this node included; the same on all of them. Later it is only where
    /// their addresses are taken from.
    pub members: BTreeMap<u64, Peer>,
    /// Further members that this node has heard of: an empty store has to ask them, too.
    pub learned: BTreeMap<u64, Peer>,
    /// Whether this node may found the group. One that joins a group, or knows that there was one
    /// with others than `members`, must not.
    pub may_found: bool,
    /// Name of the control plane; strangers are refused.
    pub control_plane: String,
    /// Time between two heartbeats of a leader. Also bounds one append to a follower.
    pub heartbeat: Duration,
    /// Least time without a leader until an election.
    pub election_min: Duration,
    /// Most of it. Also the longest that a leader's own append may take before it steps down.
    pub election_max: Duration,
    /// A snapshot is made after so many entries.
    pub snapshot_entries: u64,
    /// So many entries are kept that a snapshot covers. Generous: openraft has a race between
    /// purging and applying under heavy writes, and a follower that is behind then needs no
    /// snapshot.
    pub keep_entries: u64,
    /// Longest serialised command, in bytes.
    pub command_bytes_max: usize,
}

impl Options {
    /// The default profile for `node_id` among `members`.
    pub fn new(
        node_id: u64,
        members: BTreeMap<u64, Peer>,
        control_plane: impl Into<String>,
    ) -> Self {
        Self {
            node_id,
            members,
            learned: BTreeMap::new(),
            may_found: true,
            control_plane: control_plane.into(),
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1000),
            snapshot_entries: 2000,
            keep_entries: 5000,
            command_bytes_max: 1 << 20,
        }
    }

    /// openraft's configuration. It checks the order of the times.
    pub(super) fn config(&self) -> Result<Arc<Config>, ConfigError> {
        let config = Config {
            cluster_name: self.control_plane.clone(),
            heartbeat_interval: millis(self.heartbeat),
            // openraft lets a follower wait for a leader's lease, which it takes to be the longest
            // timeout, and a random timeout after it. Halves make the sum what is asked for: never
            // less than `election_min`, never more than `election_max`.
            election_timeout_min: millis(self.election_min) / 2,
            election_timeout_max: millis(self.election_max) / 2,
            // A rejoining follower must not force a healthy leader out.
            enable_pre_vote: Some(true),
            // A leader that comes back as leader without an election may have lost an entry that
            // it had already sent, and would write another one under the same log id.
            enable_leader_restore: Some(without(Mutant::LeaderRestored)),
            allow_log_reversion: Some(false),
            install_snapshot_timeout: 10_000,
            max_payload_entries: 256,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_entries + self.keep_entries,
            purge_batch_size: 256,
            backoff: "100ms 200ms ...500ms".to_owned(),
            api_channel_size: Some(4096),
            notification_channel_size: Some(4096),
            state_machine_channel_size: Some(1024),
            ..Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }

    /// Digest of the initial members, for comparison between nodes.
    pub(super) fn members_digest(&self) -> u32 {
        let mut digest = 0;
        for (id, peer) in &self.members {
            digest = crc32c::crc32c_append(digest, &id.to_le_bytes());
            for text in [&peer.name, &peer.address] {
                digest = crc32c::crc32c_append(digest, text.as_bytes());
                digest = crc32c::crc32c_append(digest, &[0]);
            }
        }
        digest
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_valid_and_safe() {
        let options = Options::new(1, BTreeMap::new(), "cp");
        let config = options.config().unwrap();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        let wrong = Options { election_min: Duration::from_millis(50), ..options };
        assert!(wrong.config().is_err());
    }
}
