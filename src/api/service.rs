//! The gRPC service: one method each, over [`Source`].

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;
use tonic::{Request, Response, Status};

use super::error::Error;
use super::operate::Operator;
use super::source::Source;
use super::status::{find, status};
use super::watch::{self, Base, Boxed};
use super::{WATCHES_MAX, doctor, request};
use crate::convert;
use crate::pb::v1;
use v1::control_plane_server::ControlPlane;

/// The service `quorate.v1.ControlPlane`.
pub struct Api {
    source: Arc<dyn Source>,
    operator: Operator,
    watches: Arc<Semaphore>,
    shutdown: Receiver<bool>,
}

impl Api {
    /// The service over `source`. Watches end once `shutdown` is true.
    pub fn new(source: Arc<dyn Source>, shutdown: Receiver<bool>) -> Self {
        let operator = Operator { source: source.clone(), shutdown: shutdown.clone() };
        Self { source, operator, watches: Arc::new(Semaphore::new(WATCHES_MAX)), shutdown }
    }

    fn base(&self) -> Result<Base, Error> {
        let permit = self
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::TooManyWatches { max: WATCHES_MAX })?;
        Ok(Base { source: self.source.clone(), shutdown: self.shutdown.clone(), _permit: permit })
    }

    async fn status(&self, request: v1::GetStatusRequest) -> Result<v1::Status, Error> {
        let cluster = request::cluster_or_all(&request.cluster)?;
        if request.linearizable {
            self.operator.confirmed().await?;
        }
        status(self.source.as_ref(), cluster.as_ref())
    }

    async fn events(&self, request: &v1::HistoryRequest) -> Result<v1::HistoryResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let limit = request::limit(request.limit)?;
        let state = match request.linearizable {
            true => self.operator.confirmed().await?,
            false => self.source.applied(),
        };
        let history = &find(&state, &name)?.history;
        let wanted = history.iter().filter(|e| e.id > request.after_event);
        let skip = if request.after_event == 0 { history.len().saturating_sub(limit) } else { 0 };
        Ok(v1::HistoryResponse {
            events: wanted.skip(skip).take(limit).map(convert::event).collect(),
            oldest_event: history.front().map_or(0, |e| e.id),
        })
    }

    async fn explanation(&self, request: v1::ExplainRequest) -> Result<v1::ExplainResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let state = self.operator.confirmed().await?;
        let cluster = find(&state, &name)?;
        let view = self.source.leader_view();
        let findings = view.clusters.get(&name).map(|c| c.findings.as_slice()).unwrap_or_default();
        let findings = findings.iter().map(|f| v1::Finding {
            rule: f.rule().to_owned(),
            text: f.to_string(),
            todo: f.todo().to_owned(),
            member: f.member().map(ToString::to_string).unwrap_or_default(),
            epoch: cluster.epoch.0,
        });
        Ok(v1::ExplainResponse {
            cluster: name.to_string(),
            epoch: cluster.epoch.0,
            summary: convert::summary(cluster),
            findings: findings.collect(),
            leader: self.source.node_name().to_owned(),
        })
    }

    async fn diagnosis(
        &self,
        request: &v1::DiagnoseRequest,
    ) -> Result<v1::DiagnoseResponse, Error> {
        let cluster = request::cluster_or_all(&request.cluster)?;
        let state = self.operator.confirmed().await?;
        doctor::diagnose(self.source.as_ref(), &state, cluster.as_ref())
    }

    fn connection(
        &self,
        request: &v1::GetConnectionRequest,
    ) -> Result<v1::GetConnectionResponse, Error> {
        let name = request::cluster(&request.cluster)?;
        let state = self.source.applied();
        let cluster = find(&state, &name)?;
        Ok(v1::GetConnectionResponse { cluster: name.to_string(), hosts: convert::hosts(cluster) })
    }
}

#[tonic::async_trait]
impl ControlPlane for Api {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let status = Some(self.status(request.into_inner()).await?);
        Ok(Response::new(v1::GetStatusResponse { status }))
    }

    type WatchStatusStream = Boxed<v1::WatchStatusResponse>;

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let request = request.into_inner();
        let cluster = request::cluster_or_all(&request.cluster)?;
        let heartbeat = request::heartbeat(request.heartbeat_ms)?;
        // Refused here and not within the stream, so that a client goes on to the leader at once.
        watch::look(self.source.as_ref(), cluster.as_ref(), request.from_leader)?;
        let base = self.base()?;
        let stream = watch::statuses(base, cluster, request.from_leader, heartbeat);
        Ok(Response::new(stream))
    }

    async fn switchover(
        &self,
        request: Request<v1::SwitchoverRequest>,
    ) -> Result<Response<v1::SwitchoverResponse>, Status> {
        Ok(Response::new(self.operator.switchover(request.into_inner()).await?))
    }

    async fn failover(
        &self,
        request: Request<v1::FailoverRequest>,
    ) -> Result<Response<v1::FailoverResponse>, Status> {
        Ok(Response::new(self.operator.failover(request.into_inner()).await?))
    }

    async fn restart(
        &self,
        request: Request<v1::RestartRequest>,
    ) -> Result<Response<v1::RestartResponse>, Status> {
        Ok(Response::new(self.operator.restart(request.into_inner()).await?))
    }

    async fn reload(
        &self,
        request: Request<v1::ReloadRequest>,
    ) -> Result<Response<v1::ReloadResponse>, Status> {
        Ok(Response::new(self.operator.reload(request.into_inner()).await?))
    }

    async fn reinitialise(
        &self,
        request: Request<v1::ReinitialiseRequest>,
    ) -> Result<Response<v1::ReinitialiseResponse>, Status> {
        Ok(Response::new(self.operator.reinitialise(request.into_inner()).await?))
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::PauseResponse>, Status> {
        self.operator.pause(request.into_inner()).await?;
        Ok(Response::new(v1::PauseResponse {}))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        self.operator.resume(request.into_inner()).await?;
        Ok(Response::new(v1::ResumeResponse {}))
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        Ok(Response::new(self.operator.operations(request.into_inner()).await?))
    }

    async fn cancel_operation(
        &self,
        request: Request<v1::CancelOperationRequest>,
    ) -> Result<Response<v1::CancelOperationResponse>, Status> {
        let operation = Some(self.operator.cancel(request.into_inner()).await?);
        Ok(Response::new(v1::CancelOperationResponse { operation }))
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::GetOperationResponse>, Status> {
        let operation = Some(self.operator.operation(request.into_inner()).await?);
        Ok(Response::new(v1::GetOperationResponse { operation }))
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        Ok(Response::new(self.events(request.get_ref()).await?))
    }

    type WatchHistoryStream = Boxed<v1::WatchHistoryResponse>;

    async fn watch_history(
        &self,
        request: Request<v1::WatchHistoryRequest>,
    ) -> Result<Response<Self::WatchHistoryStream>, Status> {
        let request = request.into_inner();
        let cluster = request::cluster(&request.cluster)?;
        find(&self.source.applied(), &cluster)?;
        let base = self.base()?;
        Ok(Response::new(watch::events(base, cluster, request.after_event)))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        Ok(Response::new(self.explanation(request.into_inner()).await?))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        if !request.get_ref().stale {
            self.operator.confirmed().await?;
        }
        let file = self.source.snapshot().map_err(Error::from)?;
        Ok(Response::new(v1::GetSnapshotResponse { file }))
    }

    async fn diagnose(
        &self,
        request: Request<v1::DiagnoseRequest>,
    ) -> Result<Response<v1::DiagnoseResponse>, Status> {
        Ok(Response::new(self.diagnosis(request.get_ref()).await?))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Ok(Response::new(self.operator.list_nodes().await?))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        Ok(Response::new(self.operator.add_node(request.into_inner()).await?))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        Ok(Response::new(self.operator.remove_node(request.into_inner()).await?))
    }

    async fn get_spec(
        &self,
        request: Request<v1::GetSpecRequest>,
    ) -> Result<Response<v1::GetSpecResponse>, Status> {
        Ok(Response::new(self.operator.spec(request.into_inner()).await?))
    }

    async fn update_spec(
        &self,
        request: Request<v1::UpdateSpecRequest>,
    ) -> Result<Response<v1::UpdateSpecResponse>, Status> {
        Ok(Response::new(self.operator.update_spec(request.into_inner()).await?))
    }

    async fn spec_history(
        &self,
        request: Request<v1::SpecHistoryRequest>,
    ) -> Result<Response<v1::SpecHistoryResponse>, Status> {
        Ok(Response::new(self.operator.spec_revisions(request.into_inner()).await?))
    }

    async fn get_connection(
        &self,
        request: Request<v1::GetConnectionRequest>,
    ) -> Result<Response<v1::GetConnectionResponse>, Status> {
        Ok(Response::new(self.connection(request.get_ref())?))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        Ok(Response::new(self.operator.remove_member(request.into_inner()).await?))
    }

    async fn permit_member(
        &self,
        request: Request<v1::PermitMemberRequest>,
    ) -> Result<Response<v1::PermitMemberResponse>, Status> {
        Ok(Response::new(self.operator.permit_member(request.into_inner()).await?))
    }

    async fn create_cluster(
        &self,
        request: Request<v1::CreateClusterRequest>,
    ) -> Result<Response<v1::CreateClusterResponse>, Status> {
        Ok(Response::new(self.operator.create_cluster(request.into_inner()).await?))
    }

    async fn remove_cluster(
        &self,
        request: Request<v1::RemoveClusterRequest>,
    ) -> Result<Response<v1::RemoveClusterResponse>, Status> {
        Ok(Response::new(self.operator.remove_cluster(request.into_inner()).await?))
    }

    async fn adopt_cluster(
        &self,
        request: Request<v1::AdoptClusterRequest>,
    ) -> Result<Response<v1::AdoptClusterResponse>, Status> {
        Ok(Response::new(self.operator.adopt_cluster(request.into_inner()).await?))
    }

    async fn list_clusters(
        &self,
        _: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        Ok(Response::new(self.operator.list_clusters().await?))
    }
}
