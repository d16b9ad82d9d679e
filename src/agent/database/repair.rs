//! Settings that somebody changed by hand are put right.
//!
//! Owns when that is done here, and when it is left to others: who confirms commits is never put
//! right in passing, since walsenders that have seen another setting must be begun anew, and a
//! barrier has to follow. That is what confirming a configuration does.

use tracing::info;

use super::error::{self, Result};
use super::{PgDatabase, blocking, lock};
use crate::agent::driver::{Care, Error};
use crate::domain::alarm::{Alarm, AlarmCode};
use crate::postgres::hands;
use crate::postgres::sql::Session;
use crate::postgres::status::PrimaryStatus;

/// What is said where somebody else changed who confirms commits.
pub(super) const NAMES_CHANGED: &str =
    "synchronous_standby_names was changed by hand: it is put right";

impl PgDatabase {
    /// Makes the files of the running server what they have to be. Returns what could not be done.
    pub(super) async fn put_right(
        &self,
        session: &mut Session,
        status: &PrimaryStatus,
        care: &Care,
    ) -> Result<Option<Alarm>> {
        match self.repair(session, status, care).await {
            Ok(()) => Ok(None),
            Err(Error::Failed(why) | Error::Machine(why)) => Ok(Some(Alarm::new(
                AlarmCode::SettingsChanged,
                format!("settings differ from what they have to be, and are not put right: {why}"),
            ))),
            Err(e) => Err(e),
        }
    }

    async fn repair(
        &self,
        session: &mut Session,
        status: &PrimaryStatus,
        care: &Care,
    ) -> Result<()> {
        let (installed, taken_over) = {
            let memory = lock(&self.memory);
            (memory.installed.clone(), memory.taken_over.clone())
        };
        let known = installed.is_some();
        let last = match installed {
            Some(files) => files,
            None => {
                let role = taken_over.and_then(|run| self.taken_over_role(&run));
                // A primary is confirmed after it was taken over.
                let Some(role) = role else { return Ok(()) };
                self.files(role, self.standby_sync(), &care.spec).await?
            }
        };
        let layout = self.settings.layout.clone();
        let (settings, rules) = (last.settings.clone(), last.rules.clone());
        let changed = blocking(move || hands::changed(&layout, &settings, &rules))
            .await?
            .map_err(error::start)?;
        if !status.in_recovery {
            // What is in force is not what was written: it is confirmed anew, or was just written.
            if status.synchronous_standby_names != last.settings.synchronous.render() {
                return Ok(());
            }
            if changed.synchronous {
                lock(&self.memory).doubt(NAMES_CHANGED);
                return Ok(());
            }
        }
        if !changed.is_nothing() || lock(&self.memory).reload_due {
            self.reconfigure(session, &last).await?;
        }
        // What the operator asks for may have changed in the right way.
        let role = last.settings.role.clone();
        let wanted = self.files(role, last.settings.synchronous.clone(), &care.spec).await?;
        if wanted != last || !known {
            if known {
                info!("what the operator asks of the settings has changed");
            }
            self.note_remarks(session).await?;
            self.reconfigure(session, &wanted).await?;
        }
        Ok(())
    }
}
