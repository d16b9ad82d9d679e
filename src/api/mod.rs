//! The control API over gRPC: what `hactl` and other programs talk to.
//!
//! Owns the service `quorate.v1.ControlPlane`, its errors, and the assembly with health and
//! reflection. It decides nothing: it validates, asks the domain's checks, proposes, and shows.
//! Imports `domain`, `pb`, `convert`, and `config` for the rules
//! of a specification; everything else comes through [`Source`].
//!
//! ```text
//! request -> request.rs (validate) -> service.rs -> Source::propose / applied / leader_view
//!                                        |
//!                error.rs  <- refusal ---+--- answer -> convert
//! ```

mod doctor;
mod error;
mod health;
mod jobs;
mod nodes;
mod operate;
mod request;
mod service;
mod source;
mod spec;
mod status;
mod timer;
mod watch;

use std::sync::Arc;

use tokio::sync::watch::Receiver;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

use crate::pb::DESCRIPTORS;
use crate::pb::v1::control_plane_server::ControlPlaneServer;

pub use error::Error;
pub use service::Api;
pub use source::{
    ClusterView, ControllerInfo, JoinTerms, Leader, LeaderView, Leadership, ProposeError, Source,
};
pub use spec::SpecProblem;

/// Longest request that is read, in bytes.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Most watches of all kinds at one time.
pub const WATCHES_MAX: usize = 256;
/// Metadata in which a caller may name the control plane that it means. A wrong name is refused;
/// none is accepted, since people call by hand.
pub const CONTROL_PLANE_HEADER: &str = "quorate-control-plane";
/// Metadata of an error that names the leader's address.
pub const LEADER_HEADER: &str = "quorate-leader";

/// The reflection descriptors that are compiled in cannot be read: the build is broken.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the gRPC reflection service cannot be read: {0}")]
pub struct ReflectionError(String);

/// The services of the API: control, health (`grpc.health.v1`) and reflection
/// (`grpc.reflection.v1`, and `v1alpha`, which the clients of Python and older ones speak). Serve them where peers are served, or alone. Once `shutdown` is true,
/// watches end, waits answer with what they have, and health says NOT_SERVING.
///
/// Health of the service name "" is that of the process: SERVING while it answers. It does not say
/// whether there is a leader; `GetStatus` does.
pub fn routes(
    source: Arc<dyn Source>,
    shutdown: Receiver<bool>,
) -> Result<Routes, ReflectionError> {
    let admission = Admission { control_plane: source.control_plane().to_owned() };
    let api = ControlPlaneServer::new(Api::new(source, shutdown.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let unreadable = |e: tonic_reflection::server::Error| ReflectionError(e.to_string());
    let current = reflection().build_v1().map_err(unreadable)?;
    let alpha = reflection().build_v1alpha().map_err(unreadable)?;
    let health = tonic_health::pb::health_server::HealthServer::new(health::Health::new(shutdown));
    Ok(Routes::new(InterceptedService::new(api, admission))
        .add_service(health)
        .add_service(current)
        .add_service(alpha))
}

/// Refuses calls that are meant for another control plane.
#[derive(Debug, Clone)]
struct Admission {
    control_plane: String,
}

impl tonic::service::Interceptor for Admission {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        match request.metadata().get(CONTROL_PLANE_HEADER) {
            Some(meant) if meant.as_bytes() != self.control_plane.as_bytes() => {
                let meant = String::from_utf8_lossy(meant.as_bytes()).into_owned();
                Err(Error::OtherControlPlane { meant, this: self.control_plane.clone() }.into())
            }
            _ => Ok(request),
        }
    }
}
