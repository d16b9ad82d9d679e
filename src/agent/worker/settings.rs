//! What the leader is told of PostgreSQL's settings, and the restart that they can need.

use super::{CARE_EVERY, Pause, Worker};
use crate::agent::driver::Database;
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::specification::SettingsReport;
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    pub(super) fn note_settings(&self, settings: SettingsReport) {
        let changed = self.shared.lock().settings != settings;
        if changed {
            self.shared.update(|inner| inner.settings = settings);
        }
    }

    /// Starts a standby anew: it is stopped here, and then found to be down.
    pub(super) async fn restart_standby(&mut self, why: String) -> Pause {
        // Once for a look: a restart that does not help is not to become a loop without a pause.
        self.care_at = self.shared.clock.now().plus(CARE_EVERY);
        self.shared.notice(NoticeCode::SettingsRepaired, format!("restarted: {why}"));
        let outcome = self.stop_standby().await;
        self.after(outcome)
    }
}
