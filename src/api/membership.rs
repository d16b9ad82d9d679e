//! Members and clusters that come and go.

use super::error::Error;
use super::operate::Operator;
use super::request;
use super::source::LeaderView;
use super::status::find;
use crate::convert;
use crate::domain::clusters::ClustersChange;
use crate::domain::command::Change;
use crate::domain::membership::MembershipChange;
use crate::domain::observation::{Condition, Observations, Observed};
use crate::domain::state::Phase;
use crate::domain::types::{ClusterName, MemberName};
use crate::domain::{Command, ControlState, Position, Rejection, Reply, apply, plan};
use crate::pb::v1;

/// Where a dry run is applied: no entry of the log stands there.
const NOWHERE: Position = Position { term: 0, index: 0 };

fn observations(view: &LeaderView, cluster: &ClusterName) -> Observations {
    view.clusters.get(cluster).map(|c| c.observations.clone()).unwrap_or_default()
}

/// What the agreed state would answer, now.
fn trial(state: &ControlState, command: &Command) -> Result<(), Rejection> {
    match apply(&mut state.clone(), NOWHERE, command) {
        Reply::Rejected(rejection) => Err(rejection),
        Reply::Applied { .. } | Reply::Nothing => Ok(()),
    }
}

/// What is turned off on the machines of all who hold data.
fn steps(seen: &Observations) -> Vec<String> {
    let of = |(member, observed): (&MemberName, &Observed)| match &observed.report.condition {
        Condition::Adoptable(found) => {
            found.steps.iter().map(|step| format!("{member}: {step}")).collect()
        }
        _ => Vec::new(),
    };
    seen.members.iter().flat_map(of).collect()
}

fn check(rejection: &Rejection) -> v1::Check {
    v1::Check { rule: rejection.rule().to_owned(), message: rejection.to_string() }
}

impl Operator {
    pub(super) async fn remove_member(
        &self,
        request: v1::RemoveMemberRequest,
    ) -> Result<v1::RemoveMemberResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let member = request::member(&request.member)?;
        let by = request::requested_by(&request.requested_by)?;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        let view = self.source.leader_view();
        let seen = observations(&view, &cluster);
        let change = Change::Membership(MembershipChange::BeginRemoval {
            expect_epoch: agreed.epoch,
            member: member.clone(),
            by,
        });
        let command = Command { cluster, at: self.source.wall(), change };
        let outcome = trial(&state, &command).and_then(|()| {
            plan::member_removal_check(agreed, &seen, &member, view.now).map_err(Rejection::from)
        });
        let problems = self.decide(command, outcome, request.dry_run).await?;
        Ok(v1::RemoveMemberResponse { problems })
    }

    pub(super) async fn permit_member(
        &self,
        request: v1::PermitMemberRequest,
    ) -> Result<v1::PermitMemberResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let member = request::member(&request.member)?;
        let by = request::requested_by(&request.requested_by)?;
        let state = self.confirmed().await?;
        find(&state, &cluster)?;
        let change = Change::Membership(MembershipChange::Permit { member, by });
        self.apply(cluster, change).await?;
        Ok(v1::PermitMemberResponse {})
    }

    pub(super) async fn create_cluster(
        &self,
        request: v1::CreateClusterRequest,
    ) -> Result<v1::CreateClusterResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let by = request::requested_by(&request.requested_by)?;
        let read = self.source.specification(&cluster, &request.specification);
        let spec = read.map_err(|problem| Error::Field {
            field: "specification",
            value: String::new(),
            problem,
        })?;
        self.confirmed().await?;
        let change = Change::Clusters(ClustersChange::Create { spec, by });
        self.apply(cluster, change).await?;
        Ok(v1::CreateClusterResponse {})
    }

    pub(super) async fn remove_cluster(
        &self,
        request: v1::RemoveClusterRequest,
    ) -> Result<v1::RemoveClusterResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let by = request::requested_by(&request.requested_by)?;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        let view = self.source.leader_view();
        let not_down = plan::members_not_down(agreed, &observations(&view, &cluster), view.now);
        let change = Change::Clusters(ClustersChange::Remove {
            expect_epoch: agreed.epoch,
            forced: request.force,
            by,
        });
        let command = Command { cluster, at: self.source.wall(), change };
        let known_down = if request.force { Ok(()) } else { not_down.check() };
        let outcome = known_down.map_err(Rejection::from).and_then(|()| trial(&state, &command));
        let problems = self.decide(command, outcome, request.dry_run).await?;
        Ok(v1::RemoveClusterResponse { problems })
    }

    pub(super) async fn adopt_cluster(
        &self,
        request: v1::AdoptClusterRequest,
    ) -> Result<v1::AdoptClusterResponse, Error> {
        let cluster = request::cluster(&request.cluster)?;
        let named = match request.primary.as_str() {
            "" => None,
            name => Some(request::member(name)?),
        };
        let by = request::requested_by(&request.requested_by)?;
        let state = self.confirmed().await?;
        let agreed = find(&state, &cluster)?;
        let view = self.source.leader_view();
        let seen = observations(&view, &cluster);
        let checked = match &agreed.phase {
            Phase::AwaitingMembers => {
                plan::adoption_check(agreed, &seen, named.as_ref(), by, view.now)
            }
            // The agreed state alone says why not.
            _ => Err(Vec::new()),
        };
        let adoption = match checked {
            Ok(adoption) => adoption,
            Err(refusals) if request.dry_run && !refusals.is_empty() => {
                let problems = refusals.into_iter().map(|r| check(&r.into())).collect();
                return Ok(v1::AdoptClusterResponse { problems, ..Default::default() });
            }
            Err(refusals) => {
                let first = refusals.into_iter().next().map(Rejection::from);
                let phase = convert::summary(agreed);
                return Err(first.unwrap_or(Rejection::WrongPhase { phase }).into());
            }
        };
        let report = seen.members.get(&adoption.member).map(|o| &o.report.condition);
        let left_out = match report {
            Some(Condition::Adoptable(found)) => found.left_out.clone(),
            _ => Vec::new(),
        };
        let mut answer = v1::AdoptClusterResponse {
            member: adoption.member.to_string(),
            system_id: adoption.system_id.to_string(),
            timeline: adoption.epoch.0,
            parameters: adoption.parameters.clone().into_iter().collect(),
            hba: adoption.hba.clone(),
            ident: adoption.ident.clone(),
            left_out,
            problems: Vec::new(),
            steps: steps(&seen),
            first_epoch: adoption.base.max(adoption.epoch).next().0,
        };
        let command = Command { cluster, at: self.source.wall(), change: Change::Adopt(adoption) };
        let outcome = trial(&state, &command);
        answer.problems = self.decide(command, outcome, request.dry_run).await?;
        Ok(answer)
    }

    pub(super) async fn list_clusters(&self) -> Result<v1::ListClustersResponse, Error> {
        let state = self.confirmed().await?;
        let clusters = state.clusters.iter().map(|(n, c)| convert::cluster_summary(n, c));
        Ok(v1::ListClustersResponse {
            clusters: clusters.collect(),
            removed: state.removed_clusters.iter().map(convert::removed_cluster).collect(),
        })
    }

    /// Proposes what was found to be in order. A dry run only tells what was found.
    async fn decide(
        &self,
        command: Command,
        outcome: Result<(), Rejection>,
        dry_run: bool,
    ) -> Result<Vec<v1::Check>, Error> {
        match outcome {
            Err(rejection) if dry_run => return Ok(vec![check(&rejection)]),
            Err(rejection) => return Err(rejection.into()),
            Ok(()) if dry_run => {}
            Ok(()) => drop(self.apply(command.cluster, command.change).await?),
        }
        Ok(Vec::new())
    }
}
