//! The handle: all that the rest of the daemon sees of Raft.
//!
//! Owns proposing, read barriers, the view of state and role, and the end of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{AsyncRuntime, Instant};

use super::append_monitor::AppendMonitor;
use super::barrier::Barriers;
use super::error::{BarrierError, FatalReason, Leader, ProposeError, TransferError};
use super::fitness::{self, Fitness};
use super::generation::Standing;
use super::record;
use super::removal::Greeter;
use super::role::{Role, fatal_reason};
use super::service::Core;
use super::state_machine::Applied;
use super::types::{Peer, Proposal};
use crate::domain::generation::Generation;
use crate::domain::mutant::{Mutant, without};
use crate::domain::nodes::NodesCommand;
use crate::domain::{Command, Reply};
use crate::watch;

const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
const CATCH_UP_POLL: Duration = Duration::from_millis(10);

pub(super) struct Shared<RT: AsyncRuntime> {
    pub(super) node_id: u64,
    pub(super) command_bytes_max: usize,
    pub(super) core: Core<RT>,
    pub(super) members: BTreeMap<u64, Peer>,
    pub(super) applied: watch::Receiver<Arc<Applied>>,
    pub(super) role: watch::Receiver<Role>,
    pub(super) barriers: Arc<Barriers<RT>>,
    pub(super) monitor: Arc<AppendMonitor<RT>>,
    pub(super) fitness: fitness::Shared,
    pub(super) standing: Standing,
    pub(super) greet: Greeter,
    pub(super) removed: watch::Receiver<bool>,
    /// Who has not answered for longer is not there.
    pub(super) contact_max: Duration,
}

/// A running Raft node. Cheap to clone. Dropping it does not stop the node:
/// [`shutdown`](Self::shutdown) does.
pub struct Handle<RT: AsyncRuntime>(pub(super) Arc<Shared<RT>>);

impl<RT: AsyncRuntime> Clone for Handle<RT> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Numbers of one node, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// What this node is: leader, follower, candidate, learner.
    pub state: String,
    /// The Raft term.
    pub term: u64,
    /// Index of the last entry of the own log.
    pub last_log: Option<u64>,
    /// Index of the last entry that this node knows to be committed.
    pub committed: Option<u64>,
    /// Index of the last entry that was applied.
    pub last_applied: Option<u64>,
    /// Index up to which the log is covered by a snapshot.
    pub snapshot: Option<u64>,
    /// Index up to which the log is gone.
    pub purged: Option<u64>,
    /// The voters.
    pub voters: BTreeMap<u64, Peer>,
    /// Members without a vote.
    pub learners: BTreeMap<u64, Peer>,
    /// On a leader: how long ago each other member has answered; left out where it never did.
    pub contacts: BTreeMap<u64, Duration>,
    /// On a leader: how many entries each other member is behind; `None` is not known yet.
    pub lag_entries: BTreeMap<u64, Option<u64>>,
    /// How long the last append to the own log took until it was on disk.
    pub append_latency: Duration,
    /// An append has been waiting for the disk for longer than an election timeout.
    pub disk_stalled: bool,
}

impl<RT: AsyncRuntime> Handle<RT> {
    /// This node.
    pub fn node_id(&self) -> u64 {
        self.0.node_id
    }

    /// Of which generation of the control plane this node is.
    pub fn generation(&self) -> Generation {
        self.0.standing.own()
    }

    /// Takes note of somebody's generation. A higher one than the own ends this node for good, at
    /// once: from here on it proposes and confirms nothing.
    pub fn hear(&self, generation: Generation) {
        self.0.standing.hear(generation);
    }

    /// Why this node ends, once it has heard of a higher generation.
    pub fn superseded(&self) -> Option<FatalReason> {
        let by = self.0.standing.superseded()?;
        Some(FatalReason::Superseded { own: self.generation(), by })
    }

    /// Proposes a command and waits until it is applied here. [`ProposeError::Unknown`] after
    /// `deadline`: the command may still take effect.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Reply, ProposeError> {
        self.propose_any(Proposal::Cluster(command), deadline).await
    }

    /// The same with a command about the nodes of the control plane.
    pub async fn propose_nodes(
        &self,
        command: NodesCommand,
        deadline: Duration,
    ) -> Result<Reply, ProposeError> {
        self.propose_any(Proposal::Nodes(command), deadline).await
    }

    async fn propose_any(
        &self,
        proposal: Proposal,
        deadline: Duration,
    ) -> Result<Reply, ProposeError> {
        let shared = &self.0;
        if let Some(reason) = self.superseded() {
            return Err(ProposeError::Fatal(reason));
        }
        if shared.fitness.get().disk_stalled {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let bytes_max = shared.command_bytes_max;
        let bytes = record::encode(&proposal).map_or(usize::MAX, |encoded| encoded.len());
        if bytes > bytes_max {
            return Err(ProposeError::TooLong { bytes, bytes_max });
        }
        let write = RT::timeout(deadline, shared.core.client_write(proposal));
        match write.await {
            Err(_) => Err(ProposeError::Unknown),
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader { leader: self.leader(to.leader_id, to.leader_node) })
            }
            Ok(Err(RaftError::APIError(_))) => Err(ProposeError::Unknown),
            Ok(Err(RaftError::Fatal(e))) => Err(ProposeError::Fatal(fatal_reason(&e))),
        }
    }

    /// The state that contains everything that was acknowledged anywhere before this call.
    ///
    /// A majority confirms this node's leadership by a heartbeat that is sent after this call, an
    /// entry of this leadership is committed, and the state is applied up to the read index. No
    /// clock and no disk takes part.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<Arc<Applied>, BarrierError> {
        if without(Mutant::BarrierSkipped) {
            return Ok(self.0.applied.get());
        }
        let stalled = || self.0.fitness.get().disk_stalled;
        if stalled() {
            return Err(BarrierError::DiskStalled);
        }
        if self.0.fitness.get().quiet {
            return Err(BarrierError::NoQuorum);
        }
        let passed = RT::timeout(deadline, self.0.barriers.pass()).await;
        let outcome = passed.unwrap_or(Err(BarrierError::Timeout));
        if let Some(reason) = self.superseded() {
            return Err(BarrierError::Fatal(reason));
        }
        match outcome {
            Ok(_) if stalled() => Err(BarrierError::DiskStalled),
            Err(BarrierError::NotLeader { leader: hint }) => {
                let known = hint.or_else(|| self.0.role.get().leader);
                let leader = known.and_then(|l| self.leader(Some(l.id), Some(l.peer)));
                Err(BarrierError::NotLeader { leader })
            }
            outcome => outcome,
        }
    }

    /// Follows the state.
    pub fn applied(&self) -> watch::Receiver<Arc<Applied>> {
        self.0.applied.clone()
    }

    /// Follows who leads.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.0.role.clone()
    }

    /// Whether this node could lead: see [`fitness`](Self::fitness).
    pub fn is_fit(&self) -> bool {
        self.0.fitness.get().is_fit()
    }

    /// Follows whether this node could lead. A leader that is not fit may be deposed for long
    /// without knowing it: nobody is to rely on what it answers.
    pub fn fitness(&self) -> watch::Receiver<Fitness> {
        self.0.fitness.follow()
    }

    /// Hands the leadership to `to`, which must be up to date. While it moves, nothing is
    /// accepted; where the target fails, an election follows.
    pub async fn transfer_leadership(
        &self,
        to: u64,
        deadline: Duration,
    ) -> Result<(), TransferError> {
        if to == self.0.node_id || !self.metrics().voters.contains_key(&to) {
            return Err(TransferError::BadTarget(to));
        }
        let until = RT::Instant::now() + deadline;
        let caught_up = async {
            loop {
                let role = self.0.role.get();
                if let Some(reason) = role.ended {
                    return Err(TransferError::Fatal(reason));
                }
                if !role.is_leader {
                    return Err(TransferError::NotLeader { leader: role.leader });
                }
                if self.metrics().lag_entries.get(&to) == Some(&Some(0)) {
                    return Ok(());
                }
                RT::sleep(CATCH_UP_POLL).await;
            }
        };
        RT::timeout_at(until, caught_up).await.map_err(|_| TransferError::Behind(to))??;
        let moved = async {
            let trigger = self.0.core.trigger().transfer_leader(to).await;
            trigger.map_err(|e| TransferError::Fatal(fatal_reason(&e)))?;
            let mut role = self.0.role.clone();
            let other = |r: &Role| {
                r.ended.is_some()
                    || r.leader.as_ref().is_some_and(|l| l.id != self.0.node_id && !r.is_leader)
            };
            let role = role.wait_for(other).await;
            role.map_err(|_| TransferError::Fatal(FatalReason::Stopped))
        };
        let role = RT::timeout_at(until, moved).await.map_err(|_| TransferError::Timeout)??;
        match (role.ended, role.leader) {
            (Some(reason), _) => Err(TransferError::Fatal(reason)),
            (None, Some(leader)) if leader.id != to => Err(TransferError::Another(leader)),
            _ => Ok(()),
        }
    }

    /// The numbers of now.
    pub fn metrics(&self) -> Metrics {
        let now = RT::Instant::now();
        let metrics = self.0.core.metrics();
        let m = metrics.borrow_watched();
        let membership = m.membership_config.membership();
        let address = |id: u64| {
            let configured = self.0.members.get(&id).or_else(|| membership.get_node(&id));
            (id, configured.cloned().unwrap_or_default())
        };
        let end = m.last_log_index.map_or(0, |i| i + 1);
        let lag = |matched: &Option<super::types::LogId>| {
            matched.map(|id| end.saturating_sub(id.index + 1))
        };
        Metrics {
            state: format!("{:?}", m.state).to_lowercase(),
            term: m.current_term,
            last_log: m.last_log_index,
            committed: m.local_committed.map(|id| id.index),
            last_applied: m.last_applied.map(|id| id.index),
            snapshot: m.snapshot.map(|id| id.index),
            purged: m.purged.map(|id| id.index),
            voters: membership.voter_ids().map(address).collect(),
            learners: membership.learner_ids().map(address).collect(),
            contacts: m
                .heartbeat
                .iter()
                .flatten()
                .filter(|(id, _)| **id != m.id)
                .filter_map(|(id, at)| Some((*id, now.saturating_duration_since(*at.as_deref()?))))
                .collect(),
            lag_entries: m
                .replication
                .iter()
                .flatten()
                .filter(|(id, _)| **id != m.id)
                .map(|(id, matched)| (*id, lag(matched)))
                .collect(),
            append_latency: self.0.monitor.last_append_latency(),
            disk_stalled: self.0.fitness.get().disk_stalled,
        }
    }

    /// Stops the Raft core. It may hang on a stuck disk, so it is left behind after 5 s; then the
    /// process has to end.
    pub async fn shutdown(&self) {
        if RT::timeout(SHUTDOWN_MAX, self.0.core.shutdown()).await.is_err() {
            tracing::warn!("the Raft core does not stop; it is left behind");
        }
    }

    /// Waits until the Raft core has ended, and tells why. The caller drops everything of it, and
    /// opens the store anew or ends the process.
    pub async fn fatal(&self) -> FatalReason {
        let mut role = self.0.role.clone();
        let ended = role.wait_for(|r| r.ended.is_some()).await;
        ended.ok().and_then(|r| r.ended).unwrap_or(FatalReason::Panicked)
    }

    /// Waits until this node is told that it was removed from the control plane. It may end for
    /// other reasons without that: then this waits for ever.
    pub async fn removed(&self) {
        let mut removed = self.0.removed.clone();
        if removed.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The versions of the other members that answer within a second.
    pub async fn versions(&self) -> BTreeMap<u64, String> {
        let answers = (self.0.greet)().await;
        answers.into_iter().map(|(id, reply)| (id, reply.version)).collect()
    }

    /// Asks openraft for a snapshot now, beside its own policy.
    pub async fn snapshot(&self) -> Result<(), FatalReason> {
        self.0.core.trigger().snapshot().await.map_err(|e| fatal_reason(&e))
    }

    pub(super) fn leader(&self, id: Option<u64>, node: Option<Peer>) -> Option<Leader> {
        let id = id.filter(|id| *id != self.0.node_id)?;
        let peer = self.0.members.get(&id).cloned().or(node)?;
        Some(Leader { id, peer })
    }
}
