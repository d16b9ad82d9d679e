//! What the leader is told of PostgreSQL's settings, and the restart that they can need.

use super::{CARE_EVERY, Pause, QUICK, Worker};
use crate::agent::driver::Database;
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::specification::SettingsReport;
use crate::runtime::Runtime;
use crate::session::Transport;
use crate::session::wire::CatalogueRequest;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    pub(super) fn note_settings(&self, settings: SettingsReport) {
        let changed = self.shared.lock().settings != settings;
        if changed {
            self.shared.update(|inner| inner.settings = settings);
        }
    }

    /// Sends the catalogue, where the leader lacks it. It is asked again with the next report.
    pub(super) async fn tell_catalogue(&mut self) {
        if !std::mem::take(&mut self.shared.lock().catalogue_wanted) {
            return;
        }
        let work = self.shared.database.catalogue();
        let catalogue = match self.bounded("reading the catalogue", QUICK, work).await {
            Ok(catalogue) => catalogue,
            Err(error) => return tracing::debug!(%error, "the catalogue is not known yet"),
        };
        let request = CatalogueRequest {
            cluster: self.shared.member.cluster.clone(),
            member: self.shared.member.name.clone(),
            node: self.shared.options.node.clone(),
            catalogue,
        };
        if let Err(failure) = self.client.catalogue(&request, QUICK).await {
            tracing::debug!(%failure, "the catalogue was not delivered");
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
