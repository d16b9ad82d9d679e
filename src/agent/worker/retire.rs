//! The end of a member that was removed, or whose cluster was: PostgreSQL is stopped in order, and
//! the data kept.

use tracing::warn;

use super::{Pause, SLOW, TICK, Worker};
use crate::agent::driver::Database;
use crate::clock::Clock;
use crate::domain::desired::Desired;
use crate::domain::reconcile::{Action, Process, reconcile};
use crate::domain::state::ClusterState;
use crate::domain::types::BootTime;
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// One step towards being stopped, and staying so.
    pub(super) async fn leave(&mut self, why: String, now: BootTime) -> Pause {
        let known = self.shared.lock().problems.get("membership") == Some(&why);
        if !known {
            // No controller takes the reports of a member that is none, so it is said here as well.
            warn!(member = %self.shared.member.name, %why, "this member is not to run");
        }
        self.shared.problem("membership", Some(why));
        // What was registered before does not count when the name is permitted again.
        self.registered = None;
        let name = self.shared.member.name.clone();
        match reconcile(&name, &Desired::Removed, &self.shared.local(), now) {
            Action::ProveEnd => self.prove_end().await,
            Action::EndEpoch { epoch, why } => self.end_epoch(epoch, why).await,
            Action::Retire => self.retire().await,
            _ => Pause::For(TICK),
        }
    }

    /// A cluster that was removed and created again has nothing to do with what was promised to the
    /// one before, once the data of that is gone.
    pub(super) async fn forget_another_life(&mut self, state: &ClusterState) {
        let stale = {
            let inner = self.shared.lock();
            let down = inner.process == Process::Down;
            down && inner.record.is_of_another(&inner.data, state.system_id)
        };
        if stale && let Err(error) = self.record(|r| r.begin_anew(None)).await {
            warn!(%error, "the record of another life of the cluster is not replaced yet");
        }
    }

    pub(super) async fn retire(&mut self) -> Pause {
        let process = self.shared.lock().process.clone();
        match process {
            Process::Primary { epoch, .. } => {
                let work = self.shared.database.stop();
                if let Err(error) = self.bounded("stopping PostgreSQL", SLOW, work).await {
                    warn!(%error, "the ordered stop failed: PostgreSQL is killed");
                }
                self.begin_end(epoch, false);
                self.prove_end().await
            }
            _ => {
                let outcome = self.stop_standby().await;
                self.after(outcome)
            }
        }
    }
}
