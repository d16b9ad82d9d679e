//! `grpc.health.v1.Health`: SERVING until the node shuts down.

use std::sync::Arc;

use futures_util::stream;
use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::WATCHES_MAX;
use super::error::Error;
use super::service::Api;
use super::watch::{Boxed, stopped};
use crate::pb::v1::control_plane_server::ControlPlaneServer;

/// Health of the process. A watch of it ends after the shutdown was told, so that it does not hold
/// the shutdown up.
pub(super) struct Health {
    shutdown: Receiver<bool>,
    watches: Arc<Semaphore>,
}

impl Health {
    pub(super) fn new(shutdown: Receiver<bool>) -> Self {
        Self { shutdown, watches: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }

    fn now(&self) -> ServingStatus {
        if *self.shutdown.borrow() { ServingStatus::NotServing } else { ServingStatus::Serving }
    }
}

/// The process as a whole, or the one service that it is here for.
fn known(service: &str) -> bool {
    service.is_empty() || service == <ControlPlaneServer<Api> as NamedService>::NAME
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !known(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service here"));
        }
        Ok(Response::new(answer(self.now())))
    }

    type WatchStream = Boxed<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let permit = self
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::TooManyWatches { max: WATCHES_MAX })?;
        let first = if known(&request.get_ref().service) {
            self.now()
        } else {
            ServingStatus::ServiceUnknown
        };
        let told = first == ServingStatus::NotServing;
        let steps = (Some(first), told, self.shutdown.clone(), permit);
        let stream = stream::unfold(steps, |(next, told, mut shutdown, permit)| async move {
            match next {
                Some(status) => Some((Ok(answer(status)), (None, told, shutdown, permit))),
                None if told => None,
                None => {
                    stopped(&mut shutdown).await;
                    Some((Ok(answer(ServingStatus::NotServing)), (None, true, shutdown, permit)))
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
