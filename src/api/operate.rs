//! Switchover and failover: check, propose, and follow to the end where the caller waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;

use super::error::Error;
use super::request;
use super::source::Source;
use super::status::find;
use super::timer::within;
use super::watch::stopped;
use crate::convert;
use crate::domain::command::Change;
use crate::domain::operation::Later;
use crate::domain::plan::{self, OperationProblem};
use crate::domain::types::{ClusterName, MemberName};
use crate::domain::{Command, ControlState, Reply};
use crate::pb::v1;

/// Longest wait for a barrier. It needs one round trip to a quorum.
const BARRIER_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a proposal. Past it the outcome is unknown.
pub(super) const PROPOSAL_MAX: Duration = Duration::from_secs(5);

/// The part of the API that changes something, or has to be sure of what it reads.
#[derive(Clone)]
pub(super) struct Operator {
    pub(super) source: Arc<dyn Source>,
    pub(super) shutdown: Receiver<bool>,
}

impl Operator {
    /// The state, once this node is confirmed as the leader after this call began.
    pub(super) async fn confirmed(&self) -> Result<Arc<ControlState>, Error> {
        let leadership = self.source.leadership();
        if !leadership.is_leader {
            return Err(Error::NotLeader { leader: leadership.leader });
        }
        let late = || Error::Unavailable {
            why: "the other controllers do not confirm that this node still leads".to_owned(),
        };
        match within(BARRIER_MAX, self.source.read_barrier()).await {
            // A barrier changes nothing, so that there is no outcome to be unknown.
            None | Some(Err(super::ProposeError::Unknown)) => Err(late()),
            Some(result) => {
                result?;
                Ok(self.source.applied())
            }
        }
    }

    pub(super) async fn switchover(
        &self,
        request: v1::SwitchoverRequest,
    ) -> Result<v1::SwitchoverResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let wanted = request::target(&request.target)?;
        let by = request::requested_by(&request.requested_by)?;
        let wait = request::wait(request.timeout_ms)?;
        let at = request::later(request.at_unix_ms, self.source.wall())?;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        if let Some(at) = at {
            if let Some(unknown) = wanted.as_ref().filter(|m| !agreed.members.contains_key(*m)) {
                return Err(Error::Checks(vec![OperationProblem::UnknownMember(unknown.clone())]));
            }
            let target = wanted.as_ref().map(ToString::to_string).unwrap_or_default();
            let mut answer = v1::SwitchoverResponse { target, ..Default::default() };
            if !request.dry_run {
                let what = Later::Switchover { target: wanted };
                answer.operation = Some(self.schedule(cluster, at, what, by).await?);
            }
            return Ok(answer);
        }

        let view = self.source.leader_view();
        let seen = view.clusters.get(&cluster).map(|c| c.observations.clone()).unwrap_or_default();
        let checked = plan::switchover_check(agreed, &seen, wanted.as_ref(), view.now);
        let target = match checked {
            Ok(target) => target,
            Err(problems) if request.dry_run => {
                let target = wanted.map(|t| t.to_string()).unwrap_or_default();
                let problems = problems.iter().map(check).collect();
                return Ok(v1::SwitchoverResponse { operation: None, target, problems });
            }
            Err(problems) => return Err(Error::Checks(problems)),
        };
        let mut answer = v1::SwitchoverResponse {
            operation: None,
            target: target.to_string(),
            problems: Vec::new(),
        };
        if !request.dry_run {
            let change =
                Change::StartSwitchover { expect_epoch: agreed.epoch, target, by: by.clone() };
            let begun = v1::Operation {
                kind: v1::OperationKind::Switchover.into(),
                target: answer.target.clone(),
                requested_by: by,
                epoch: agreed.epoch.0,
                ..Default::default()
            };
            let wait = request.wait.then_some(wait);
            answer.operation = Some(self.start(cluster, change, begun, wait).await?);
        }
        Ok(answer)
    }

    pub(super) async fn failover(
        &self,
        request: v1::FailoverRequest,
    ) -> Result<v1::FailoverResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let target: Option<MemberName> = request::target(&request.target)?;
        let by = request::requested_by(&request.requested_by)?;
        let wait = request::wait(request.timeout_ms)?;
        let accept_data_loss = request.accept_data_loss;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;

        let view = self.source.leader_view();
        let seen = view.clusters.get(&cluster).cloned().unwrap_or_default();
        let mut answer = v1::FailoverResponse {
            operation: None,
            target: target.as_ref().map(ToString::to_string).unwrap_or_default(),
            problems: Vec::new(),
        };
        let checked = plan::failover_check(
            agreed,
            &seen.observations,
            seen.lease_age,
            target.as_ref(),
            accept_data_loss,
            view.now,
        );
        match checked {
            Ok(()) => {}
            Err(problems) if request.dry_run => {
                answer.problems = problems.iter().map(check).collect();
            }
            Err(problems) => return Err(Error::Checks(problems)),
        }
        if !request.dry_run {
            let begun = v1::Operation {
                kind: v1::OperationKind::Failover.into(),
                target: answer.target.clone(),
                accept_data_loss,
                requested_by: by.clone(),
                epoch: agreed.epoch.0,
                ..Default::default()
            };
            let change =
                Change::StartFailover { expect_epoch: agreed.epoch, target, accept_data_loss, by };
            let wait = request.wait.then_some(wait);
            answer.operation = Some(self.start(cluster, change, begun, wait).await?);
        }
        Ok(answer)
    }

    /// Proposes the change that starts an operation. `begun` is what is known of it before.
    pub(super) async fn start(
        &self,
        cluster: ClusterName,
        change: Change,
        begun: v1::Operation,
        wait: Option<Duration>,
    ) -> Result<v1::Operation, Error> {
        let at = self.source.wall();
        let id = self.apply(cluster.clone(), change).await?.ok_or(Error::NoEffect)?;
        // The state that this node publishes may be a moment behind the reply.
        let begun = v1::Operation {
            id,
            cluster: cluster.to_string(),
            started_unix_ms: at.0,
            state: v1::OperationState::Running.into(),
            ..begun
        };
        Ok(match wait {
            None => begun,
            Some(limit) => self.follow(&cluster, begun, limit).await,
        })
    }

    /// Proposes a change: the number of the operation that it started, if one.
    pub(super) async fn apply(
        &self,
        cluster: ClusterName,
        change: Change,
    ) -> Result<Option<u64>, Error> {
        let command = Command { cluster, at: self.source.wall(), change };
        match within(PROPOSAL_MAX, self.source.propose(command)).await {
            None => Err(Error::UnknownOutcome),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Reply::Rejected(rejection))) => Err(rejection.into()),
            Some(Ok(Reply::Applied { operation })) => Ok(operation),
            Some(Ok(Reply::Nothing)) => Ok(None),
        }
    }

    /// Waits for the end of an operation, for `limit` at most: what is then known of it. The node
    /// need not be the leader any more.
    async fn follow(
        &self,
        cluster: &ClusterName,
        begun: v1::Operation,
        limit: Duration,
    ) -> v1::Operation {
        let mut applied = self.source.applied_watch();
        let mut shutdown = self.shutdown.clone();
        let mut known = begun;
        let running = i32::from(v1::OperationState::Running);
        let end = async {
            loop {
                let state = applied.borrow_and_update().1.clone();
                let found = state
                    .cluster(cluster)
                    .and_then(|c| convert::find_operation(cluster, c, None, known.id));
                if let Some(operation) = found {
                    known = operation;
                }
                if known.state != running {
                    return;
                }
                tokio::select! {
                    () = stopped(&mut shutdown) => return,
                    changed = applied.changed() => if changed.is_err() { return },
                }
            }
        };
        let _ = within(limit, end).await;
        known
    }
}

pub(super) fn check(problem: &OperationProblem) -> v1::Check {
    v1::Check { rule: problem.rule().to_owned(), message: problem.to_string() }
}
