//! Keeps the agreed state at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::domain::generation::Generation;
use crate::domain::state::ClusterState;
use crate::domain::types::{ClusterName, MemberName};
use crate::runtime::Runtime;
use crate::session::wire::{PollReply, PollRequest, Presence};
use crate::session::{Client, Failure, SessionError, Transport};
use crate::watch;

/// How long an answer may wait for news.
const WAIT: Duration = Duration::from_millis(500);
/// How much longer an answer may take.
const GRACE: Duration = Duration::from_millis(400);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(25);

/// The newest agreed state that this node has heard of. It never goes back: an answer from a
/// leader that was deposed, or from one that has not caught up, has a lower index; one from a
/// control plane that was replaced a lower generation, whatever its index.
#[derive(Clone)]
pub(super) struct Known(Arc<watch::Sender<Arc<Snapshot>>>);

/// Agreed state with its index.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Of which generation of the control plane it is.
    pub generation: Generation,
    /// The log index up to which it is applied; 0 where nothing is known.
    pub index: u64,
    /// The clusters that this node has members of, their histories left out.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterState>>,
    /// Those asked for that were removed.
    pub removed: BTreeSet<ClusterName>,
    /// What the leader knew of the members of each.
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

    /// Nothing of a generation below this one is taken in any more.
    pub fn raise(&self, generation: Generation) {
        self.0.send_if_modified(|held| {
            let higher = generation > held.generation;
            if higher {
                *held = Arc::new(Snapshot { generation, ..Snapshot::default() });
            }
            higher
        });
    }

    pub fn take(&self, mut snapshot: Snapshot) {
        self.0.send_if_modified(|held| {
            let (new, old) = ((snapshot.generation, snapshot.index), (held.generation, held.index));
            let newer = new > old;
            if new == old {
                // No news but of presence, which wakes nobody.
                snapshot.clusters.clone_from(&held.clusters);
                snapshot.removed.clone_from(&held.removed);
            }
            if new >= old {
                *held = Arc::new(snapshot);
            }
            newer
        });
    }
}

fn say_once(said: &mut Option<String>, text: String) {
    if said.as_ref() != Some(&text) {
        warn!(%text, "a controller of another generation");
        *said = Some(text);
    }
}

pub(super) async fn run<RT: Runtime, T: Transport>(
    client: Client<T>,
    clusters: Vec<ClusterName>,
    known: Known,
) {
    // What is refused is said once, not with every attempt.
    let mut said = None;
    loop {
        let held = known.get();
        let request = PollRequest {
            clusters: clusters.clone(),
            generation: held.generation,
            known_index: held.index,
            wait_ms: WAIT.as_millis() as u64,
        };
        match client.poll(&request, WAIT + GRACE).await {
            Ok(reply) => {
                let reply = PollReply { generation: reply.generation.or_first(), ..reply };
                if reply.generation < known.get().generation {
                    let (theirs, own) = (reply.generation, known.get().generation);
                    let text = format!(
                        "rule generation.current: a state of generation {theirs} is refused, since \
                         generation {own} is obeyed"
                    );
                    say_once(&mut said, text);
                    RT::sleep(PAUSE).await;
                    continue;
                }
                // Only who is obeyed tells whom to ask.
                client.learn(reply.controllers, (reply.generation, reply.index));
                let clusters = reply.clusters.into_iter().map(|(k, v)| (k, Arc::new(v))).collect();
                let PollReply { index, generation, removed, presence, .. } = reply;
                known.take(Snapshot { generation, index, clusters, removed, presence });
            }
            Err(failure) => {
                if let Failure::Session { error: SessionError::Generation { .. }, .. } = &failure {
                    say_once(&mut said, failure.to_string());
                }
                debug!(%failure, "no news from the control plane");
                RT::sleep(PAUSE).await;
            }
        }
    }
}
