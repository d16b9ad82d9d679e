//! The fence: kills the process tree at the end of the lease, whatever else the agent is doing.
//!
//! It is the first of two. The second is the kernel's timer in the guard, a little later, which
//! needs no agent at all.

use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::driver::Database;
use super::shared::Shared;
use crate::clock::Clock;
use crate::runtime::Runtime;

/// How often is looked whether there is a lease. Less than any lease lasts.
const NO_LEASE: Duration = Duration::from_millis(1000);
/// How often the lease is looked at where nothing is due.
const IDLE: Duration = Duration::from_millis(500);
/// How long the guard may take to be told.
const KILL: Duration = Duration::from_millis(500);

pub(super) async fn run<RT: Runtime, D: Database, C: Clock>(shared: Arc<Shared<D, C>>) {
    loop {
        let now = shared.clock.now();
        let lease = {
            let inner = shared.lock();
            inner.lease.filter(|lease| inner.primary_epoch() == Some(lease.epoch))
        };
        let Some(lease) = lease else {
            RT::sleep(NO_LEASE).await;
            continue;
        };
        if lease.may_write(lease.epoch, now) {
            RT::sleep(lease.stop_at.since(now).min(IDLE)).await;
            continue;
        }
        error!(
            cluster = %shared.member.cluster,
            member = %shared.member.name,
            epoch = %lease.epoch,
            "the lease has run out: PostgreSQL is killed"
        );
        shared.update(|inner| inner.claim = None);
        if let Ok(Err(error)) = RT::timeout(KILL, shared.database.kill()).await {
            error!(%error, "the guard was not reached: the kernel's timer ends the process tree");
        }
        shared.wake.notify_one();
        RT::sleep(IDLE).await;
    }
}
