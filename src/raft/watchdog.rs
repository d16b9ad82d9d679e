//! A leader with a stuck disk gives up.
//!
//! Heartbeats need no disk, so a leader whose own log is not written any more would lead for ever
//! while it can neither vote nor restart safely. Once an append takes longer than an election
//! timeout, barriers and proposals are refused and the leadership is handed to the follower that
//! has the most; openraft stops heartbeats with it, so that an election follows in any case.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, Instant};

use super::append_monitor::AppendMonitor;
use super::fitness;
use super::role::own_leadership;
use super::service::Core;

/// Times of the watchdog.
pub(super) struct Times {
    /// How often it looks.
    pub(super) every: Duration,
    /// How long an append may take.
    pub(super) append_max: Duration,
}

/// Watches until the core ends. The disk counts as stalled while an append takes too long.
pub(super) async fn watch<RT: AsyncRuntime>(
    core: Core<RT>,
    monitor: Arc<AppendMonitor<RT>>,
    fitness: fitness::Shared,
    times: Times,
) {
    let mut tried: Option<(RT::Instant, usize)> = None;
    loop {
        RT::sleep(times.every).await;
        let now = RT::Instant::now();
        let stuck = monitor
            .append_in_flight_since()
            .is_some_and(|since| now.saturating_duration_since(since) > times.append_max);
        fitness.change(|f| f.disk_stalled = stuck);
        let candidates = {
            let metrics = core.metrics();
            let m = metrics.borrow_watched();
            if m.running_state.is_err() {
                return;
            }
            if !stuck || own_leadership(&m).is_none() {
                tried = None;
                continue;
            }
            let mut others: Vec<_> = m.replication.iter().flatten().collect();
            others.retain(|(id, _)| **id != m.id);
            others.sort_by_key(|(_, matched)| std::cmp::Reverse(**matched));
            others.iter().map(|(id, _)| **id).collect::<Vec<_>>()
        };
        let due = match tried {
            None => Some(0),
            Some((at, n)) => {
                (now.saturating_duration_since(at) > 2 * times.append_max).then_some(n + 1)
            }
        };
        let Some(n) = due else { continue };
        let Some(target) = candidates.get(n % candidates.len().max(1)).copied() else { continue };
        tried = Some((now, n));
        tracing::warn!(
            target,
            "the own log has not been written for longer than an election timeout: giving the \
             leadership of the control plane up"
        );
        // A core that is stuck itself sends no heartbeats, and needs no push.
        let _ = RT::timeout(times.every, core.trigger().transfer_leader(target)).await;
    }
}
