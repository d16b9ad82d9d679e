//! Keeps the agreed state at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use crate::domain::state::ClusterState;
use crate::domain::types::{ClusterName, MemberName};
use crate::runtime::Runtime;
use crate::session::wire::{PollRequest, Presence};
use crate::session::{Client, Transport};
use crate::watch;

/// How long an answer may wait for news.
const WAIT: Duration = Duration::from_millis(500);
/// How much longer an answer may take.
const GRACE: Duration = Duration::from_millis(400);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(25);

/// The newest agreed state that this node has heard of. It never goes back: an answer from a
/// leader that was deposed, or from one that has not caught up, has a lower index.
#[derive(Clone)]
pub(super) struct Known(Arc<watch::Sender<Arc<Snapshot>>>);

/// Agreed state with its index.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub index: u64,
    pub clusters: BTreeMap<ClusterName, Arc<ClusterState>>,
    /// Those asked for that were removed.
    pub removed: BTreeSet<ClusterName>,
    pub presence: BTreeMap<ClusterName, BTreeMap<MemberName, Presence>>,
}

impl Known {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(Snapshot::default()))))
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }

    pub fn get(&self) -> Arc<Snapshot> {
        self.0.borrow().clone()
    }

    fn take(&self, mut snapshot: Snapshot) {
        self.0.send_if_modified(|held| {
            let newer = snapshot.index > held.index;
            if snapshot.index == held.index {
                // No news but of presence, which wakes nobody.
                snapshot.clusters.clone_from(&held.clusters);
                snapshot.removed.clone_from(&held.removed);
            }
            if snapshot.index >= held.index {
                *held = Arc::new(snapshot);
            }
            newer
        });
    }
}

pub(super) async fn run<RT: Runtime, T: Transport>(
    client: Client<T>,
    clusters: Vec<ClusterName>,
    known: Known,
) {
    loop {
        let request = PollRequest {
            clusters: clusters.clone(),
            known_index: known.get().index,
            wait_ms: WAIT.as_millis() as u64,
        };
        match client.poll(&request, WAIT + GRACE).await {
            Ok(reply) => {
                client.learn(reply.controllers);
                let clusters = reply.clusters.into_iter().map(|(k, v)| (k, Arc::new(v))).collect();
                let (index, removed, presence) = (reply.index, reply.removed, reply.presence);
                known.take(Snapshot { index, clusters, removed, presence });
            }
            Err(failure) => {
                debug!(%failure, "no news from the control plane");
                RT::sleep(PAUSE).await;
            }
        }
    }
}
