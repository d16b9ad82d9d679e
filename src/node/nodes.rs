//! The controllers as the API shows them.

use std::collections::BTreeMap;

use crate::api::{ControllerInfo, JoinTerms};
use crate::config::Config;
use crate::raft::{self, Peer};

/// Some members of the Raft group, with what this node knows of them.
pub(super) fn infos(
    metrics: &raft::Metrics,
    members: &BTreeMap<u64, Peer>,
    leader: Option<u64>,
) -> Vec<ControllerInfo> {
    let info = |(id, peer): (&u64, &Peer)| ControllerInfo {
        id: *id,
        name: peer.name.clone(),
        address: peer.address.clone(),
        is_leader: leader == Some(*id),
        last_contact: metrics.contacts.get(id).copied(),
        lag_entries: metrics.lag_entries.get(id).copied().flatten(),
    };
    members.iter().map(info).collect()
}

/// The times of this node, which a new one has to have as well.
pub(super) fn join_terms(config: &Config) -> JoinTerms {
    let map = |pairs: &[(&str, u64)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    let (raft, timing) = (&config.raft, &config.timing);
    JoinTerms {
        raft: map(&[
            ("heartbeat_ms", raft.heartbeat_ms),
            ("election_min_ms", raft.election_min_ms),
            ("election_max_ms", raft.election_max_ms),
        ]),
        timing: map(&[
            ("renew_ms", timing.renew_ms),
            ("ttl_ms", timing.ttl_ms),
            ("fence_margin_ms", timing.fence_margin_ms),
            ("kill_margin_ms", timing.kill_margin_ms),
            ("suspect_ms", timing.suspect_ms),
            ("clock_error_ppm", timing.clock_error_ppm),
            ("report_ms", timing.report_ms),
        ]),
    }
}
