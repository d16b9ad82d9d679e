//! The API without its transport: the service, the checks of requests, and what is done with them.

#[path = "../../../src/api/error.rs"]
mod error;
#[path = "../../../src/api/jobs.rs"]
mod jobs;
#[path = "../../../src/api/nodes.rs"]
mod nodes;
#[path = "../../../src/api/operate.rs"]
mod operate;
#[path = "../../../src/api/request.rs"]
mod request;
#[path = "../../../src/api/service.rs"]
mod service;
#[path = "../../../src/api/source.rs"]
mod source;
#[path = "../../../src/api/spec.rs"]
mod spec;
#[path = "../../../src/api/status.rs"]
mod status;
#[path = "../../../src/api/timer.rs"]
mod timer;
#[path = "../../../src/api/watch.rs"]
mod watch;

pub use service::Api;
pub use source::{ClusterView, ControllerInfo, LeaderView, Leadership, ProposeError, Source};

/// As in the product.
pub const WATCHES_MAX: usize = 256;
/// As in the product.
pub const LEADER_HEADER: &str = "quorate-leader";
