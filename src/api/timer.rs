//! Waiting. The API is served by tonic, which runs on tokio and on nothing else, and nothing that
//! decides is in it: so it may use tokio's timers. They are here, and nowhere else in the API.

#![allow(clippy::disallowed_methods)]

use std::time::Duration;

/// Ends after `d`.
pub(super) async fn sleep(d: Duration) {
    tokio::time::sleep(d).await;
}

/// The result of `future`, or `None` where it takes longer than `limit`.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(limit, future).await.ok()
}
