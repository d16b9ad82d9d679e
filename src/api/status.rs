//! Puts a status together from what the node knows.

use super::error::Error;
use super::source::Source;
use crate::convert::{self, Seen, millis};
use crate::domain::types::ClusterName;
use crate::domain::{ClusterState, ControlState};
use crate::pb::v1;

/// The cluster of that name in `state`.
pub(super) fn find<'a>(
    state: &'a ControlState,
    name: &ClusterName,
) -> Result<&'a ClusterState, Error> {
    state.cluster(name).ok_or_else(|| Error::NoCluster {
        name: name.clone(),
        known: state.clusters.keys().cloned().collect(),
    })
}

/// The status of one cluster or of all, as this node knows it.
pub(super) fn status(source: &dyn Source, only: Option<&ClusterName>) -> Result<v1::Status, Error> {
    let state = source.applied();
    let leadership = source.leadership();
    let view = leadership.is_leader.then(|| source.leader_view());
    let one = |name: &ClusterName, cluster: &ClusterState| {
        let seen = view.as_ref().and_then(|v| {
            v.clusters.get(name).map(|c| Seen {
                observations: &c.observations,
                lease_age: c.lease_age,
                now: v.now,
            })
        });
        convert::cluster(name, cluster, seen)
    };
    let clusters = match only {
        Some(name) => vec![one(name, find(&state, name)?)],
        None => state.clusters.iter().map(|(n, c)| one(n, c)).collect(),
    };
    let (leader, leader_address) = match leadership.leader {
        Some(leader) => (leader.name, leader.address),
        None if leadership.is_leader => (source.node_name().to_owned(), String::new()),
        None => Default::default(),
    };
    let controllers = source.controllers().into_iter().map(|c| v1::Controller {
        id: c.id,
        name: c.name,
        address: c.address,
        leader: c.is_leader,
        last_contact_ms: c.last_contact.map(millis),
        lag_entries: c.lag_entries,
    });
    Ok(v1::Status {
        control_plane: source.control_plane().to_owned(),
        node: source.node_name().to_owned(),
        at_unix_ms: source.wall().0,
        raft: Some(v1::Raft {
            term: leadership.term,
            leader,
            leader_address,
            established: leadership.established,
            generation: source.generation(),
            controllers: controllers.collect(),
        }),
        clusters,
        from_leader: leadership.is_leader,
    })
}

/// The same status without what changes by the mere passing of time.
pub(super) fn timeless(status: &v1::Status) -> v1::Status {
    let mut status = status.clone();
    status.at_unix_ms = 0;
    for controller in status.raft.iter_mut().flat_map(|r| &mut r.controllers) {
        controller.last_contact_ms = None;
    }
    for cluster in &mut status.clusters {
        cluster.lease_age_ms = cluster.lease_age_ms.map(|_| 0);
        for member in &mut cluster.members {
            member.report_age_ms = member.report_age_ms.map(|_| 0);
        }
    }
    status
}
