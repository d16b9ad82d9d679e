//! Sends the catalogue of settings to a leader that lacks it, beside everything else: neither the
//! worker nor the reporter waits for a database or a leader that does not answer.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::driver::Database;
use super::shared::Shared;
use crate::clock::Clock;
use crate::runtime::Runtime;
use crate::session::wire::CatalogueRequest;
use crate::session::{Client, Transport};

/// How long reading it may take, and sending it.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pause after each attempt. The leader asks again with the answer to a report.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn run<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: Arc<Shared<D, C>>,
    client: Client<T>,
) {
    loop {
        shared.catalogue_wanted.notified().await;
        send::<RT, T, D, C>(&shared, &client).await;
        RT::sleep(PAUSE).await;
    }
}

async fn send<RT: Runtime, T: Transport, D: Database, C: Clock>(
    shared: &Shared<D, C>,
    client: &Client<T>,
) {
    let catalogue = match RT::timeout(ATTEMPT, shared.database.catalogue()).await {
        Ok(Ok(catalogue)) => catalogue,
        Ok(Err(error)) => return debug!(%error, "the catalogue is not known yet"),
        Err(_) => return debug!("the catalogue is not known yet: PostgreSQL does not answer"),
    };
    let request = CatalogueRequest {
        cluster: shared.member.cluster.clone(),
        member: shared.member.name.clone(),
        node: shared.options.node.clone(),
        catalogue,
    };
    if let Err(failure) = client.catalogue(&request, ATTEMPT).await {
        debug!(%failure, "the catalogue was not delivered");
    }
}
