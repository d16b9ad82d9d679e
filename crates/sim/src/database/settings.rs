//! PostgreSQL's settings for what the member has to be, as production's `postgres::conf` makes them.

use std::time::Duration;

use quorate_world::pg::{Server, Settings, SyncNames, Upstream};

use super::SimDatabase;
use super::machine::timed_out;
use crate::agent::driver::Error;
use crate::domain::desired::FollowDuty;
use crate::domain::mutant::{Mutant, without};
use crate::domain::sync::SyncConfig;
use crate::domain::types::Epoch;

/// How long a reload may take to be seen by new sessions.
const RELOAD: Duration = Duration::from_secs(2);
/// `wal_retrieve_retry_interval` of a server that is sealed, or looks for its primary.
pub(super) const SEALED_RETRY: Duration = Duration::from_millis(20);
const FOLLOWING_RETRY: Duration = Duration::from_millis(100);

/// What a server is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role<'a> {
    /// A standby that takes WAL from nobody.
    Sealed(Epoch),
    /// A standby that follows; eager while it looks for its primary.
    Standby(&'a FollowDuty, bool),
    /// The primary, also just before its promotion.
    Primary { epoch: Epoch, sync: &'a SyncConfig, read_only: bool },
}

/// The setting of a synchronous configuration.
pub(super) fn names(sync: &SyncConfig) -> Option<SyncNames> {
    let members = sync.in_order().map(|m| m.as_str().to_owned());
    let (count, first) = (sync.w as usize, !sync.order.is_empty());
    (sync.w > 0).then(|| SyncNames { first, ..SyncNames::any(count, members) })
}

impl SimDatabase {
    pub(super) fn settings(&self, role: &Role<'_>) -> Settings {
        // A server that is no primary waits for itself: promoted by hand it acknowledges nothing.
        let own = Some(SyncNames::any(1, [self.member.as_str()]));
        let mut settings = Settings { read_only: true, synchronous: own, ..Settings::default() };
        settings.restart_after_crash = without(Mutant::ReopensAfterCrash);
        match role {
            Role::Sealed(promised) => {
                settings.role = "sealed".to_owned();
                settings.epoch = promised.0;
                settings.retry = SEALED_RETRY;
                if without(Mutant::NoSeal) {
                    let inner = self.machine.lock();
                    settings.primary = inner.host.server.dir().and_then(|d| d.conf.primary.clone());
                }
            }
            Role::Standby(duty, eager) => {
                settings.role = "standby".to_owned();
                settings.epoch = duty.epoch.0;
                settings.retry = if *eager { SEALED_RETRY } else { FOLLOWING_RETRY };
                settings.apply_delay = Duration::from_millis(duty.delay_ms);
                settings.primary = Some(Upstream {
                    address: duty.streams_from().1.to_owned(),
                    name: self.member.as_str().to_owned(),
                    slot: Some(self.member.slot_name()),
                });
            }
            Role::Primary { epoch, sync, read_only } => {
                settings.role = "primary".to_owned();
                settings.epoch = epoch.0;
                settings.read_only = *read_only;
                settings.synchronous = names(sync);
            }
        }
        settings
    }

    /// Writes the settings of the running server and reloads it. Returns before every process has
    /// read them.
    pub(super) async fn reconfigure(&self, settings: &Settings) -> Result<(), Error> {
        self.machine.write_disk(true).await?;
        self.machine.with(|inner, _| inner.host.server.write_conf(settings.clone()));
        self.memory().installed = Some(settings.clone());
        self.machine
            .sql(|server, now| {
                server.status()?;
                server.reload(now);
                Ok(())
            })
            .await
    }

    /// Waits until a *new* session has the settings: then the postmaster has them, and whatever it
    /// starts from now on.
    pub(super) async fn await_in_force(&self, wanted: &Settings) -> Result<(), Error> {
        let in_force = |server: &Server, _| {
            let stopped = server.stopped();
            let run = server.run()?;
            (!stopped.all && !stopped.postmaster && *run.postmaster.conf == *wanted).then_some(())
        };
        let seen = self.machine.until(RELOAD, in_force).await;
        seen.ok_or_else(|| timed_out("the reload of the settings", RELOAD))
    }

    /// Waits until the settings of a role have reached the sessions.
    pub(super) async fn await_role(&self, settings: &Settings) -> Result<(), Error> {
        let there = |server: &Server, _| {
            let status = server.status().ok()?;
            (status.role == settings.role && status.epoch == settings.epoch).then_some(())
        };
        let seen = self.machine.until(RELOAD, there).await;
        seen.ok_or_else(|| timed_out("the reload of the settings", RELOAD))
    }
}
