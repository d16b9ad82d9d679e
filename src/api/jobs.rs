//! Restart, reload, reinitialisation, pause, and what was asked for: checked, then proposed.

use super::error::Error;
use super::operate::{Operator, check};
use super::request;
use super::status::find;
use crate::convert;
use crate::domain::command::Change;
use crate::domain::observation::Observations;
use crate::domain::operation::{Later, Restart};
use crate::domain::plan::{self, OperationProblem};
use crate::domain::types::{ClusterName, WallMillis};
use crate::pb::v1;

impl Operator {
    /// What the leader has seen of a cluster.
    pub(super) fn seen(&self, cluster: &ClusterName) -> Observations {
        let view = self.source.leader_view();
        view.clusters.get(cluster).map(|c| c.observations.clone()).unwrap_or_default()
    }

    pub(super) async fn restart(
        &self,
        request: v1::RestartRequest,
    ) -> Result<v1::RestartResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let member = request::member_or_all(&request.member)?;
        let by = request::requested_by(&request.requested_by)?;
        let wait = request::wait(request.timeout_ms)?;
        let deadline_ms = request::deadline(request.deadline_ms)?;
        let at = request::later(request.at_unix_ms, self.source.wall())?;
        if member.is_some() && request.pending_only {
            return Err(Error::Field {
                field: "pending_only",
                value: "true".to_owned(),
                problem: "it chooses among all members: name none".to_owned(),
            });
        }
        let (pending_only, in_place) = (request.pending_only, request.in_place);
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        let mut answer = v1::RestartResponse::default();
        if let Some(at) = at {
            if let Some(unknown) = member.as_ref().filter(|m| !agreed.members.contains_key(*m)) {
                return Err(Error::Checks(vec![OperationProblem::UnknownMember(unknown.clone())]));
            }
            answer.members = member.iter().map(ToString::to_string).collect();
            if !request.dry_run {
                let what = Later::Restart { member, pending_only, in_place };
                answer.operation = Some(self.schedule(cluster, at, what, by).await?);
            }
            return Ok(answer);
        }
        let now = self.source.leader_view().now;
        let seen = self.seen(&cluster);
        let checked =
            plan::restart_check(agreed, &seen, member.as_ref(), pending_only, in_place, now);
        let restart = match checked {
            Ok(restart) => restart,
            Err(problems) if request.dry_run => {
                answer.problems = problems.iter().map(check).collect();
                return Ok(answer);
            }
            Err(problems) => return Err(Error::Checks(problems)),
        };
        let (kind, about) = match &restart {
            Restart::Member { member, .. } => (v1::OperationKind::Restart, member.to_string()),
            Restart::Primary { member } => (v1::OperationKind::RestartPrimary, member.to_string()),
            Restart::Rolling { .. } => (v1::OperationKind::RollingRestart, String::new()),
        };
        answer.members = match &restart {
            Restart::Rolling { guards } => guards.keys().map(ToString::to_string).collect(),
            _ => vec![about.clone()],
        };
        if !request.dry_run {
            let expect_epoch = agreed.epoch;
            let begun = v1::Operation {
                kind: kind.into(),
                member: about,
                requested_by: by.clone(),
                epoch: expect_epoch.0,
                deadline_ms,
                ..Default::default()
            };
            let change = Change::StartRestart { expect_epoch, restart, deadline_ms, by };
            let wait = request.wait.then_some(wait);
            answer.operation = Some(self.start(cluster, change, begun, wait).await?);
        }
        Ok(answer)
    }

    /// Has something begin later.
    pub(super) async fn schedule(
        &self,
        cluster: ClusterName,
        at: WallMillis,
        what: Later,
        by: String,
    ) -> Result<v1::Operation, Error> {
        let begun = v1::Operation {
            kind: v1::OperationKind::Scheduled.into(),
            scheduled_unix_ms: at.0,
            requested_by: by.clone(),
            ..Default::default()
        };
        let change = Change::Schedule { at, what, by };
        let begun = self.start(cluster.clone(), change, begun, None).await?;
        let state = self.source.applied();
        let known = state.cluster(&cluster);
        let told = known.and_then(|c| convert::find_operation(&cluster, c, None, begun.id));
        Ok(told.unwrap_or(v1::Operation {
            state: v1::OperationState::Scheduled.into(),
            started_unix_ms: 0,
            ..begun
        }))
    }

    pub(super) async fn reload(
        &self,
        request: v1::ReloadRequest,
    ) -> Result<v1::ReloadResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let member = request::member_or_all(&request.member)?;
        let by = request::requested_by(&request.requested_by)?;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        let members = match member {
            Some(member) => vec![member],
            None => agreed.members.keys().cloned().collect(),
        };
        // All or none: what can be seen to be refused is refused before the first begins.
        let mut problems = Vec::new();
        for member in &members {
            match agreed.jobs.get(member) {
                _ if !agreed.members.contains_key(member) => {
                    problems.push(OperationProblem::UnknownMember(member.clone()));
                }
                Some(job) => {
                    problems.push(OperationProblem::Busy { member: member.clone(), id: job.id });
                }
                None => {}
            }
        }
        if !problems.is_empty() {
            return Err(Error::Checks(problems));
        }
        let mut operations = Vec::new();
        for member in members {
            let begun = v1::Operation {
                kind: v1::OperationKind::Reload.into(),
                member: member.to_string(),
                requested_by: by.clone(),
                epoch: agreed.epoch.0,
                ..Default::default()
            };
            let change = Change::StartReload { member, by: by.clone() };
            operations.push(self.start(cluster.clone(), change, begun, None).await?);
        }
        Ok(v1::ReloadResponse { operations })
    }

    pub(super) async fn reinitialise(
        &self,
        request: v1::ReinitialiseRequest,
    ) -> Result<v1::ReinitialiseResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let member = request::member(&request.member)?;
        let by = request::requested_by(&request.requested_by)?;
        let wait = request::wait(request.timeout_ms)?;
        let deadline_ms = request::deadline(request.deadline_ms)?;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        let now = self.source.leader_view().now;
        let mut answer = v1::ReinitialiseResponse::default();
        match plan::reinitialise_check(agreed, &self.seen(&cluster), &member, now) {
            Ok(()) => {}
            Err(problems) if request.dry_run => {
                answer.problems = problems.iter().map(check).collect();
            }
            Err(problems) => return Err(Error::Checks(problems)),
        }
        if !request.dry_run {
            let expect_epoch = agreed.epoch;
            let begun = v1::Operation {
                kind: v1::OperationKind::Reinitialise.into(),
                member: member.to_string(),
                requested_by: by.clone(),
                epoch: expect_epoch.0,
                deadline_ms,
                ..Default::default()
            };
            let change = Change::StartReinitialise { expect_epoch, member, deadline_ms, by };
            let wait = request.wait.then_some(wait);
            answer.operation = Some(self.start(cluster, change, begun, wait).await?);
        }
        Ok(answer)
    }

    pub(super) async fn pause(&self, request: v1::PauseRequest) -> Result<(), Error> {
        let cluster = request::cluster(&request.cluster)?;
        let by = request::requested_by(&request.requested_by)?;
        let until = request::later(request.until_unix_ms, self.source.wall())?;
        find(&*self.confirmed().await?, &cluster)?;
        self.apply(cluster, Change::Pause { until, by }).await.map(drop)
    }

    pub(super) async fn resume(&self, request: v1::ResumeRequest) -> Result<(), Error> {
        let cluster = request::cluster(&request.cluster)?;
        let by = request::requested_by(&request.requested_by)?;
        find(&*self.confirmed().await?, &cluster)?;
        self.apply(cluster, Change::Resume { over: None, by }).await.map(drop)
    }

    pub(super) async fn operations(
        &self,
        request: v1::ListOperationsRequest,
    ) -> Result<v1::ListOperationsResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let state = self.confirmed().await?;
        let cluster = find(&state, &name)?;
        let seen = self.seen(&name);
        let operations = convert::operations(&name, cluster, Some(&seen), request.ended);
        Ok(v1::ListOperationsResponse { operations })
    }

    pub(super) async fn operation(
        &self,
        request: v1::GetOperationRequest,
    ) -> Result<v1::Operation, Error> {
        let name = request::cluster(&request.cluster)?;
        let state = self.confirmed().await?;
        let cluster = find(&state, &name)?;
        let seen = self.seen(&name);
        let found = match request.operation {
            0 => convert::latest_operation(&name, cluster, Some(&seen)),
            id => convert::find_operation(&name, cluster, Some(&seen), id),
        };
        found.ok_or(Error::NoOperation { cluster: name, id: request.operation })
    }

    pub(super) async fn cancel(
        &self,
        request: v1::CancelOperationRequest,
    ) -> Result<v1::Operation, Error> {
        let name = request::cluster(&request.cluster)?;
        let by = request::requested_by(&request.requested_by)?;
        let id = request.operation;
        let state = self.confirmed().await?;
        let before = convert::find_operation(&name, find(&state, &name)?, None, id)
            .ok_or(Error::NoOperation { cluster: name.clone(), id })?;
        self.apply(name.clone(), Change::CancelOperation { operation: id, by }).await?;
        let state = self.source.applied();
        let after = state.cluster(&name).and_then(|c| convert::find_operation(&name, c, None, id));
        let cancelled = v1::OperationState::Cancelled.into();
        Ok(after.unwrap_or(v1::Operation { state: cancelled, ..before }))
    }
}
