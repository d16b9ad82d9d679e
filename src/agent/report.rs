//! Tells the leader what the member is: at once when it changes, and from time to time.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::driver::Database;
use super::shared::Shared;
use crate::clock::Clock;
use crate::runtime::{self, Runtime};
use crate::session::wire::ReportRequest;
use crate::session::{Client, Transport};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: Arc<Shared<D, C>>,
    client: Client<T>,
) {
    loop {
        let delivered = match shared.report() {
            None => true,
            Some((report, generation)) => {
                let request = ReportRequest {
                    cluster: shared.member.cluster.clone(),
                    member: shared.member.name.clone(),
                    node: shared.options.node.clone(),
                    report,
                    generation,
                };
                match client.report(&request, ATTEMPT).await {
                    Ok(reply) => {
                        if reply.wants_catalogue {
                            shared.catalogue_wanted.notify_one();
                        }
                        true
                    }
                    Err(failure) => {
                        debug!(%failure, "a report was not delivered");
                        false
                    }
                }
            }
        };
        let wait = if delivered { shared.options.report_every } else { PAUSE };
        // What a promise keeps it from saying is said as soon as that has lapsed.
        let wait = shared.silent_for().map_or(wait, |silent| wait.min(silent));
        if delivered {
            runtime::first_of(vec![Box::pin(shared.news.notified()), Box::pin(RT::sleep(wait))])
                .await;
        } else {
            RT::sleep(wait).await;
        }
    }
}
