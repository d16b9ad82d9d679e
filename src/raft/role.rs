//! Who leads.
//!
//! Owns [`Role`] and the task that derives it from openraft's metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{AsyncRuntime, RaftMetrics};

use super::error::{FatalReason, Leader};
use super::generation::Standing;
use super::service::Core;
use super::types::{Peer, TypeConfig};
use crate::clock::Clock;
use crate::domain::types::BootTime;
use crate::watch;

/// What this node is in the Raft group, as far as it knows. A leader that is cut off does not know
/// that it is deposed: only a read barrier proves a leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The leader that this node knows, perhaps itself.
    pub leader: Option<Leader>,
    /// This node leads.
    pub is_leader: bool,
    /// This node leads and an entry of its own leadership is committed.
    pub established: bool,
    /// The Raft term. Never a fencing token.
    pub term: u64,
    /// When this node noticed that it leads, or where it does not lead when that began. Never
    /// earlier than the election itself.
    pub since: BootTime,
    /// Why the Raft core ended, once it has.
    pub ended: Option<FatalReason>,
}

pub(super) fn fatal_reason<RT: AsyncRuntime>(e: &Fatal<TypeConfig<RT>>) -> FatalReason {
    match e {
        Fatal::StorageError(e) => FatalReason::Store(e.to_string()),
        Fatal::Panicked => FatalReason::Panicked,
        Fatal::Stopped => FatalReason::Stopped,
    }
}

/// The role before anything is known.
pub(super) fn initial(now: BootTime) -> Role {
    let (leader, is_leader, established) = (None, false, false);
    Role { leader, is_leader, established, term: 0, since: now, ended: None }
}

/// The term that this node leads by the metrics.
pub(super) fn own_leadership<RT: AsyncRuntime>(m: &RaftMetrics<TypeConfig<RT>>) -> Option<u64> {
    (m.running_state.is_ok() && m.state.is_leader()).then_some(m.vote.leader_id.term)
}

fn derive<RT: AsyncRuntime>(
    m: &RaftMetrics<TypeConfig<RT>>,
    members: &BTreeMap<u64, Peer>,
    since: BootTime,
) -> Role {
    let own = own_leadership(m);
    let known = m.current_leader.filter(|id| own.is_some() || *id != m.id);
    let peer = |id: &u64| {
        members.get(id).cloned().or_else(|| m.membership_config.membership().get_node(id).cloned())
    };
    Role {
        leader: known.and_then(|id| Some(Leader { id, peer: peer(&id)? })),
        is_leader: own.is_some(),
        established: own.is_some()
            && m.local_committed.is_some_and(|id| Some(id.leader_id.term) == own),
        term: m.current_term,
        since,
        ended: m.running_state.as_ref().err().map(fatal_reason),
    }
}

/// Follows the metrics until the core ends.
pub(super) async fn follow<RT: AsyncRuntime>(
    core: Core<RT>,
    members: BTreeMap<u64, Peer>,
    clock: Arc<dyn Clock>,
    publish: watch::Sender<Role>,
    standing: Standing,
) {
    let mut metrics = core.metrics();
    drop(core);
    let mut leadership = None;
    let mut since = clock.now();
    loop {
        let role = {
            let m = metrics.borrow_and_update();
            if own_leadership(&m) != leadership {
                leadership = own_leadership(&m);
                since = clock.now();
            }
            derive(&m, &members, since)
        };
        if role.ended.is_some() && standing.superseded().is_some() {
            // Told below, with its reason.
            break;
        }
        if publish.get() != role {
            publish.send_replace(role);
        }
        if metrics.changed().await.is_err() {
            break;
        }
    }
    let mut last = publish.get();
    if let Some(by) = standing.superseded() {
        last.ended = Some(FatalReason::Superseded { own: standing.own(), by });
    }
    if last.ended.is_none() {
        // The core vanished without a word.
        last.ended = Some(FatalReason::Panicked);
    }
    if last.is_leader {
        last.since = clock.now();
    }
    (last.leader, last.is_leader, last.established) = (None, false, false);
    publish.send_replace(last);
}
