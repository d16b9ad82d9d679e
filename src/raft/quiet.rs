//! A leader that hears no majority goes quiet.
//!
//! Where followers hear the leader and it does not hear them, its heartbeats keep them from
//! electing another, and nothing is ever committed again. So a leader that had no acknowledgement
//! by a majority for long alternates between silence, in which the others can elect, and trying
//! again. openraft has the same (`quorum_loss_probe_interval`), but begins with silence as soon as
//! the leader's lease ends: a loss of little more than a second would then cost an election.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, Instant};

use super::role::own_leadership;
use super::service::Core;

/// Watches until the core ends. `quiet` is true in the times of silence; nobody may ask for a
/// barrier then, since that sends heartbeats too. Silence begins `phase` after the last
/// acknowledgement, and is as long; so are the times between.
pub(super) async fn watch<RT: AsyncRuntime>(
    core: Core<RT>,
    quiet: Arc<AtomicBool>,
    every: Duration,
    phase: Duration,
) {
    // The term that this node leads, and since when it is known.
    let mut leads: Option<(u64, RT::Instant)> = None;
    loop {
        RT::sleep(every).await;
        let now = RT::Instant::now();
        let silent = {
            let metrics = core.metrics();
            let m = metrics.borrow_watched();
            if m.running_state.is_err() {
                return;
            }
            let term = own_leadership(&m);
            if term != leads.map(|(term, _)| term) {
                leads = term.map(|term| (term, now));
            }
            // A single voter is its own majority and has no acknowledgements.
            let alone = m.membership_config.voter_ids().count() < 2;
            leads.filter(|_| !alone).is_some_and(|(_, since)| {
                let heard = m.last_quorum_acked.as_deref().copied().unwrap_or(since).max(since);
                is_silent(now.saturating_duration_since(heard), phase)
            })
        };
        if quiet.swap(silent, Ordering::AcqRel) != silent {
            core.runtime_config().heartbeat(!silent);
            if silent {
                tracing::warn!(
                    "no majority of controllers has answered this leader for long: it goes quiet, \
                     so that the others can elect another"
                );
            }
        }
    }
}

fn is_silent(unheard: Duration, phase: Duration) -> bool {
    let phases = unheard.as_millis() / phase.as_millis().max(1);
    phases % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_alternates() {
        let phase = Duration::from_secs(2);
        let silent = |ms| is_silent(Duration::from_millis(ms), phase);
        assert!(!silent(0) && !silent(1999));
        assert!(silent(2000) && silent(3999));
        assert!(!silent(4000) && !silent(5999));
        assert!(silent(6000));
    }
}
