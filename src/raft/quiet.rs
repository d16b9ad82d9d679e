//! A leader that hears no majority goes quiet.
//!
//! Where followers hear the leader and it does not hear them, its heartbeats keep them from
//! electing another, and nothing is ever committed again. So a leader that had no acknowledgement
//! by a majority for long alternates between silence, in which the others can elect, and trying
//! again. openraft has something like it (`quorum_loss_probe_interval`), but that one begins as
//! soon as the leader's lease ends, so that a loss of little more than a second would cost an
//! election, and it goes on to replicate, which followers take for heartbeats.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, Instant};

use super::fitness;
use super::role::own_leadership;
use super::service::Core;

/// When a leader is quiet, counted from the last acknowledgement by a majority.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// How often it is looked at.
    pub(super) every: Duration,
    /// Silence begins after this.
    pub(super) after: Duration,
    /// Length of a silence: an election fits in.
    pub(super) silent: Duration,
    /// Length of the attempts between.
    pub(super) loud: Duration,
}

/// Watches until the core ends. While the node is quiet, nothing that followers could take for a
/// heartbeat may be sent.
pub(super) async fn watch<RT: AsyncRuntime>(
    core: Core<RT>,
    fitness: fitness::Shared,
    times: Times,
) {
    // The term that this node leads, and since when it is known.
    let mut leads: Option<(u64, RT::Instant)> = None;
    loop {
        RT::sleep(times.every).await;
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
                is_silent(now.saturating_duration_since(heard), times)
            })
        };
        if !fitness.change(|f| f.quiet = silent).quiet && silent {
            tracing::warn!(
                "no majority of controllers has answered this leader for long: it goes quiet, so \
                 that the others can elect another"
            );
        }
    }
}

fn is_silent(unheard: Duration, times: Times) -> bool {
    let Some(over) = unheard.checked_sub(times.after) else { return false };
    let cycle = (times.silent + times.loud).as_millis().max(1);
    over.as_millis() % cycle < times.silent.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_alternates() {
        let ms = Duration::from_millis;
        let times = Times { every: ms(1), after: ms(2000), silent: ms(3000), loud: ms(1000) };
        for (unheard, silent) in [
            (0, false),
            (1999, false),
            (2000, true),
            (4999, true),
            (5000, false),
            (5999, false),
            (6000, true),
        ] {
            assert_eq!(is_silent(ms(unheard), times), silent, "{unheard}");
        }
    }
}
