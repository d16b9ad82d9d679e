//! The loop that plans and proposes.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Memory;
use crate::clock::Clock;
use crate::domain::clusters::ClustersChange;
use crate::domain::command::{Change, Command, Reply};
use crate::domain::membership::MembershipChange;
use crate::domain::observation::Condition;
use crate::domain::plan::{self, Finding};
use crate::domain::state::Stage;
use crate::domain::types::{BootTime, ClusterName};
use crate::raft::{Handle, ProposeError};
use crate::runtime::{self, Runtime};

/// Most log entries that the next Raft leader may lack.
const LAG_ENTRIES_MAX: u64 = 10;
/// How long moving Raft leadership may take.
const TRANSFER_DEADLINE: Duration = Duration::from_millis(1000);

/// How the controller works.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often the planner looks without being woken.
    pub tick: Duration,
    /// How long a proposal may take.
    pub propose_deadline: Duration,
    /// Name of this node: the Raft leader moves away from the node of a primary.
    pub node: String,
    /// How long everything must be at rest before Raft leadership is moved.
    pub settle: Duration,
}

impl Options {
    /// The usual times, for the node of this name.
    pub fn new(node: String) -> Self {
        Self {
            tick: Duration::from_millis(100),
            propose_deadline: Duration::from_secs(2),
            node,
            settle: Duration::from_secs(5),
        }
    }
}

/// Runs until the future is dropped.
pub async fn run<RT: Runtime, C: Clock>(
    options: Options,
    raft: Handle<RT>,
    memory: Arc<Memory>,
    clock: Arc<C>,
) {
    let mut role = raft.role();
    let mut applied = raft.applied();
    let mut task = Task { options, raft, memory, clock, at_rest_since: None };
    loop {
        let now_role = role.get();
        task.memory.follow_role(&now_role, &*task.clock);
        if now_role.established {
            if task.pass().await {
                // Something was proposed: look at its effect at once.
                continue;
            }
        } else {
            // Nothing is to be done but to wait for leadership.
            task.at_rest_since = None;
            if role.changed().await.is_err() {
                return;
            }
            continue;
        }
        let tick = RT::sleep(task.options.tick);
        runtime::first_of(vec![
            Box::pin(async { task.memory.wake.notified().await }),
            Box::pin(role.another()),
            Box::pin(applied.another()),
            Box::pin(tick),
        ])
        .await;
    }
}

struct Task<RT: Runtime, C> {
    options: Options,
    raft: Handle<RT>,
    memory: Arc<Memory>,
    clock: Arc<C>,
    at_rest_since: Option<BootTime>,
}

impl<RT: Runtime, C: Clock> Task<RT, C> {
    /// One pass over all clusters; `true` where something was proposed.
    async fn pass(&mut self) -> bool {
        let state = self.raft.applied().get().state.clone();
        let mut proposals: Vec<(ClusterName, Change, String)> = Vec::new();
        {
            let mut memory = self.memory.lock();
            let Some(leadership) = memory.as_mut() else { return false };
            let now = self.clock.now();
            let wall = self.clock.wall();
            leadership.observations.retain(|name, _| state.clusters.contains_key(name));
            leadership.findings.retain(|name, _| state.clusters.contains_key(name));
            for (name, cluster) in &state.clusters {
                let observed = leadership.observations.entry(name.clone()).or_default();
                observed.note_state(cluster, now);
                let plan = plan::plan(name, cluster, observed, &leadership.ledger, now, wall);
                if let Some(change) = plan.proposal {
                    let why: Vec<String> = plan
                        .findings
                        .iter()
                        .filter(|f| decisive(f))
                        .map(Finding::to_string)
                        .collect();
                    proposals.push((name.clone(), change, why.join("; ")));
                }
                let mut findings = leadership.refusals(name, now);
                findings.extend(plan.findings);
                leadership.findings.insert(name.clone(), findings);
            }
        }
        if proposals.is_empty() {
            self.consider_moving(&state).await;
            return false;
        }
        // What is only noted changes nothing: neither is the cluster moving, nor is there more to do.
        let noted =
            |c: &Change| matches!(c, Change::NoteHealth { .. } | Change::NotePosition { .. });
        let moving = proposals.iter().any(|(_, change, _)| !noted(change));
        if moving {
            self.at_rest_since = None;
        }
        let mut progress = false;
        for (cluster, change, why) in proposals {
            let only_noted = noted(&change);
            progress |= self.propose(cluster, change, &why).await && !only_noted;
        }
        if !moving {
            self.consider_moving(&state).await;
        }
        progress
    }

    async fn propose(&self, cluster: ClusterName, change: Change, why: &str) -> bool {
        let kind = change_name(&change);
        let noted = matches!(change, Change::NotePosition { .. });
        let command = Command { cluster: cluster.clone(), at: self.clock.wall(), change };
        match self.raft.propose(command, self.options.propose_deadline).await {
            Ok(Reply::Applied { .. }) => {
                if noted {
                    tracing::debug!(%cluster, change = kind, why, "noted");
                } else {
                    info!(%cluster, change = kind, why, "decided");
                }
                true
            }
            Ok(Reply::Nothing) => true,
            Ok(Reply::Rejected(rejection)) => {
                warn!(%cluster, change = kind, rule = rejection.rule(), %rejection, "rejected");
                false
            }
            Err(ProposeError::NotLeader { .. }) => false,
            Err(error) => {
                warn!(%cluster, change = kind, %error, "not decided");
                false
            }
        }
    }

    /// Moves Raft leadership away from the node of a primary once all is at rest, so that the loss
    /// of one node does not cost an election and a lease one after the other.
    async fn consider_moving(&mut self, state: &crate::domain::ControlState) {
        let now = self.clock.now();
        let primaries_at = |node: &str| {
            let clusters = state.clusters.values();
            clusters
                .filter(|c| {
                    let primary = c.active_primary().and_then(|m| c.members.get(m));
                    primary.is_some_and(|m| m.node.as_str() == node)
                })
                .count()
        };
        let here = primaries_at(&self.options.node);
        let at_rest = state.clusters.values().all(|c| {
            c.operation.is_none()
                && c.syncs.len() <= 1
                && c.open_tenure().is_some_and(|t| matches!(t.stage, Stage::Active { .. }))
        });
        if here == 0 || !at_rest {
            self.at_rest_since = None;
            return;
        }
        let since = *self.at_rest_since.get_or_insert(now);
        if now.since(since) < self.options.settle {
            return;
        }
        self.at_rest_since = None;
        let metrics = self.raft.metrics();
        let near = |lag: &Option<u64>| lag.is_some_and(|entries| entries <= LAG_ENTRIES_MAX);
        let candidates = metrics.lag_entries.iter().filter(|(_, lag)| near(lag));
        let best = candidates
            .filter_map(|(id, _)| Some((*id, metrics.voters.get(id)?.name.clone())))
            .map(|(id, node)| (primaries_at(&node), id, node))
            .min_by_key(|(count, id, _)| (*count, *id));
        if let Some((count, id, node)) = best
            && count < here
            && self.members_are_quiet()
        {
            info!(to = %node, "moving Raft leadership away from the node of a primary");
            if let Err(error) = self.raft.transfer_leadership(id, TRANSFER_DEADLINE).await {
                warn!(to = %node, %error, "Raft leadership was not moved");
            }
        }
    }

    /// Whether no member is being made or rewound.
    fn members_are_quiet(&self) -> bool {
        let memory = self.memory.lock();
        let Some(leadership) = &*memory else { return false };
        let now = self.clock.now();
        let reports = leadership.observations.values().flat_map(|o| o.members.values());
        reports.filter(|o| now.since(o.at) <= plan::FRESH).all(|o| {
            !matches!(
                o.report.condition,
                Condition::Rewinding | Condition::Initialising | Condition::BootstrapFailed { .. }
            )
        })
    }
}

/// Whether a finding says why something was proposed, and not only that something is amiss.
fn decisive(finding: &Finding) -> bool {
    !matches!(
        finding,
        Finding::MemberSilent { .. }
            | Finding::SpecRefused { .. }
            | Finding::MemberProblem { .. }
            | Finding::RegistrationRefused { .. }
    )
}

fn change_name(change: &Change) -> &'static str {
    match change {
        Change::CreateCluster { .. } => "create cluster",
        Change::RegisterMember { .. } => "register member",
        Change::BeginBootstrap { .. } => "begin bootstrap",
        Change::AbandonBootstrap { .. } => "abandon bootstrap",
        Change::FinishBootstrap { .. } => "finish bootstrap",
        Change::Close { .. } => "close epoch",
        Change::RecordStop { .. } => "record stop",
        Change::RaiseEpoch { .. } => "raise epoch",
        Change::Grant(_) => "grant epoch",
        Change::RecordPromotion { .. } => "record promotion",
        Change::Activate { .. } => "activate",
        Change::BeginSyncChange { .. } => "begin change of synchronous standbys",
        Change::FinishSyncChange { .. } => "finish change of synchronous standbys",
        Change::StartSwitchover { .. } => "start switchover",
        Change::StartFailover { .. } => "start failover",
        Change::StartRestart { .. } => "start restart",
        Change::StartReload { .. } => "start reload",
        Change::StartReinitialise { .. } => "start reinitialisation",
        Change::StepOperation { .. } => "take the next step of a rolling restart",
        Change::Schedule { .. } => "schedule an operation",
        Change::StartScheduled { .. } => "start a scheduled operation",
        Change::CancelOperation { .. } => "cancel an operation",
        Change::Pause { .. } => "pause",
        Change::Resume { .. } => "resume",
        Change::NotePosition { .. } => "note position",
        Change::NoteHealth { .. } => "note health",
        Change::UpdateSpec { .. } => "change the specification",
        Change::RollBackSpec { .. } => "roll the specification back",
        Change::FinishOperation { .. } => "finish operation",
        Change::Adopt(_) => "begin adoption",
        Change::Membership(MembershipChange::BeginRemoval { .. }) => "begin removal",
        Change::Membership(MembershipChange::AbandonRemoval { .. }) => "abandon removal",
        Change::Membership(MembershipChange::FinishRemoval { .. }) => "remove member",
        Change::Membership(MembershipChange::Permit { .. }) => "permit member",
        Change::Clusters(ClustersChange::Create { .. }) => "create cluster",
        Change::Clusters(ClustersChange::Remove { .. }) => "remove cluster",
    }
}
