//! Becoming and being a primary: promotion, the barrier, and the hold on writes.
//!
//! Owns the order of the steps. A step is only ever reported as done after a look at its effect.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::conf::{InForce, Role, synchronous};
use super::error::{self, Result, timed_out};
use super::repair::NAMES_CHANGED;
use super::seal::lineage;
use super::{Memory, PgDatabase, STATEMENT, lock};
use crate::agent::driver::Error;
use crate::domain::lineage::Lineage;
use crate::domain::state::ClusterSpec;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{Epoch, GuardId};
use crate::postgres::barrier::{self, Confirmer};
use crate::postgres::promote;
use crate::postgres::sql::Session;

/// How long a promotion may take. Measured: 40 to 120 ms.
const PROMOTE: Duration = Duration::from_secs(5);
/// How long walsenders of before may take to end.
const WALSENDERS: Duration = Duration::from_secs(1);
/// How long a barrier may take, each of its two steps.
const BARRIER: Duration = Duration::from_secs(2);
/// How long the checkpoint after an activation may take.
const CHECKPOINT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(2);

/// A setting with which every walsender of a life of the guard runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refreshed {
    guard: GuardId,
    pub(super) names: String,
}

/// The walsenders that are being begun anew. What is known of them is kept also where that is left
/// midway: else those that are new already would be ended once more.
struct Refreshing<'a> {
    memory: &'a Mutex<Memory>,
    refreshed: Refreshed,
    old: barrier::Old,
}

impl<'a> Refreshing<'a> {
    fn resume(memory: &'a Mutex<Memory>, refreshed: &Refreshed) -> Self {
        let kept = lock(memory).refreshing.take().filter(|(r, _)| r == refreshed);
        let old = kept.map(|(_, old)| old).unwrap_or_default();
        Self { memory, refreshed: refreshed.clone(), old }
    }
}

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        let old = std::mem::take(&mut self.old);
        lock(self.memory).refreshing = Some((self.refreshed.clone(), old));
    }
}

impl PgDatabase {
    pub(super) async fn promote_standby(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        spec: &ClusterSpec,
    ) -> Result<Lineage> {
        self.running()?;
        self.check_sync(sync)?;
        let mut session = self.take_worker();
        let lineage = self.promote_with(&mut session, epoch, sync, spec).await?;
        self.worker.put(session);
        Ok(lineage)
    }

    async fn promote_with(
        &self,
        session: &mut Session,
        epoch: Epoch,
        sync: &SyncConfig,
        spec: &ClusterSpec,
    ) -> Result<Lineage> {
        let guard = self.running()?.guard_id().clone();
        self.hold_primary(session, epoch, sync, true, spec).await?;
        self.end_walsenders(session).await?;
        for member in &sync.members {
            // Its walreceiver asks for it within milliseconds of the promotion.
            session.create_slot(&member.slot_name(), true).await.map_err(error::sql)?;
        }
        let (layout, user) = (&self.settings.layout, &self.user);
        let promoted = match promote::promote(session, layout, user, epoch, PROMOTE).await {
            Ok(promoted) => promoted,
            Err(e @ promote::Error::WrongTimeline { .. }) => {
                // Two timelines could get this number: nobody may ever see it.
                error!(error = %e, "PostgreSQL took another timeline: it is killed");
                self.kill_tree().await?;
                return Err(Error::Failed(e.to_string()));
            }
            Err(e) => return Err(error::promote(e, PROMOTE)),
        };
        info!(%epoch, start = %promoted.start, "promoted");
        {
            let mut memory = lock(&self.memory);
            // The postmaster had the names before the last walsender of before ended.
            memory.refreshed = Some(Refreshed { guard, names: sync.setting() });
            memory.doubted = None;
            memory.following = None;
            memory.settled = None;
            memory.known.primary = true;
        }
        Ok(lineage(promoted.timeline, Some(&promoted.history)))
    }

    /// Writes the settings of a primary, and waits until every new process has them.
    async fn hold_primary(
        &self,
        session: &mut Session,
        epoch: Epoch,
        sync: &SyncConfig,
        read_only: bool,
        spec: &ClusterSpec,
    ) -> Result<()> {
        let role = Role::Primary { epoch, read_only };
        let files = self.files_in_force(role, synchronous(sync), spec).await?;
        let wanted = InForce { names: sync.setting(), read_only, epoch: epoch.0 };
        {
            // From the moment that another setting is written, walsenders can have it.
            let mut memory = lock(&self.memory);
            memory.refreshed = memory.refreshed.take().filter(|r| r.names == wanted.names);
            memory.refreshing = memory.refreshing.take().filter(|(r, _)| r.names == wanted.names);
        }
        self.reconfigure(session, &files).await?;
        self.await_in_force(&wanted).await
    }

    fn check_sync(&self, sync: &SyncConfig) -> Result<()> {
        let problem = sync.problem().or_else(|| {
            let own = sync.members.contains(&self.settings.member);
            own.then(|| "the primary itself is one of its standbys".to_owned())
        });
        match problem {
            Some(why) => Err(Error::Failed(format!("the configuration {sync} is invalid: {why}"))),
            None => Ok(()),
        }
    }

    /// Ends the walsenders of a standby, which count with the settings of before.
    async fn end_walsenders(&self, session: &mut Session) -> Result<()> {
        let begun = Instant::now();
        let old = session.primary_status().await.map_err(error::sql)?.walsenders;
        for walsender in &old {
            session.terminate_walsender(walsender.pid).await.map_err(error::sql)?;
        }
        if old.is_empty() {
            return Ok(());
        }
        loop {
            let now = session.primary_status().await.map_err(error::sql)?.walsenders;
            if !now.iter().any(|n| old.iter().any(|o| o.pid == n.pid)) {
                return Ok(());
            }
            if begun.elapsed() >= WALSENDERS {
                return Err(timed_out("the end of the walsenders of before", WALSENDERS));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn confirm(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        writes_open: bool,
        spec: &ClusterSpec,
    ) -> Result<i64> {
        let guard = self.running()?.guard_id().clone();
        self.check_sync(sync)?;
        let mut session = self.take_worker();
        let found = session.current_timeline().await.map_err(error::sql)?;
        if found != epoch.timeline() {
            return Err(Error::Failed(format!("the server writes timeline {found}, not {epoch}")));
        }
        let refreshed = Refreshed { guard, names: sync.setting() };
        let known = lock(&self.memory).refreshed.as_ref() == Some(&refreshed);
        let in_force = session.primary_status().await.map_err(error::sql)?;
        let names_in_force = in_force.synchronous_standby_names == refreshed.names;
        if !known || !names_in_force {
            if !names_in_force {
                // Nobody is known to run with it any more, and stays unknown where this is left.
                let mut memory = lock(&self.memory);
                (memory.refreshed, memory.refreshing) = (None, None);
            }
            self.hold_primary(&mut session, epoch, sync, !writes_open, spec).await?;
            for member in &sync.members {
                session.create_slot(&member.slot_name(), true).await.map_err(error::sql)?;
            }
            let ended = {
                let mut refreshing = Refreshing::resume(&self.memory, &refreshed);
                let (names, old) = (&refreshed.names, &mut refreshing.old);
                barrier::refresh_walsenders(&mut session, names, old, BARRIER).await
            };
            let ended = ended.map_err(error::barrier)?;
            info!(%sync, ended = ended.len(), "every walsender runs with the configuration");
            // Once for a setting: a retry of the barrier must not cut the standbys off again.
            let mut memory = lock(&self.memory);
            (memory.refreshed, memory.refreshing) = (Some(refreshed), None);
            memory.doubted = None;
        }
        // Waiters of before are looked at again when the standbys report a record behind theirs.
        let lsn = session.emit_local().await.map_err(error::sql)?;
        let confirmers: Vec<_> = sync
            .members
            .iter()
            .map(|m| Confirmer { member: m.clone(), slot: m.slot_name() })
            .collect();
        let wanted = sync.w as usize;
        if let Err(e) =
            barrier::confirm_flush(&mut session, lsn, wanted, &confirmers, BARRIER).await
        {
            // Perhaps the one that is waited for has to be rewound first.
            self.checkpoint_once();
            return Err(error::barrier(e));
        }
        let status = session.primary_status().await.map_err(error::sql)?;
        if status.in_recovery || status.timeline != Some(epoch.timeline()) {
            return Err(Error::Failed("the server is not the primary of this epoch".to_owned()));
        }
        if status.synchronous_standby_names != sync.setting() {
            lock(&self.memory).doubt(NAMES_CHANGED);
            return Err(Error::NotReady(NAMES_CHANGED.to_owned()));
        }
        self.worker.put(session);
        Ok(status.postmaster_start_us)
    }

    pub(super) async fn lift_hold(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        spec: &ClusterSpec,
    ) -> Result<()> {
        let guard = self.running()?.guard_id().clone();
        self.check_sync(sync)?;
        let refreshed = Refreshed { guard, names: sync.setting() };
        let mut session = self.take_worker();
        let in_force = session.primary_status().await.map_err(error::sql)?;
        if in_force.synchronous_standby_names != refreshed.names {
            lock(&self.memory).doubt(NAMES_CHANGED);
        }
        self.still_refreshed(&refreshed)?;
        self.hold_primary(&mut session, epoch, sync, false, spec).await?;
        self.still_refreshed(&refreshed)?;
        self.worker.put(session);
        self.checkpoint_once();
        Ok(())
    }

    /// Who confirms commits is not put right here: a barrier has to follow.
    fn still_refreshed(&self, wanted: &Refreshed) -> Result<()> {
        match lock(&self.memory).refreshed.as_ref() == Some(wanted) {
            true => Ok(()),
            false => Err(Error::NotReady("the configuration has to be confirmed first".to_owned())),
        }
    }

    /// The first checkpoint of a primary: a diverged member can judge by `pg_rewind` only after
    /// it. Nobody waits for it, and it ends with the server.
    fn checkpoint_once(&self) {
        if std::mem::replace(&mut lock(&self.memory).checkpointed, true) {
            return;
        }
        let mut session = Session::new(self.target(), STATEMENT);
        let memory = self.memory.clone();
        tokio::spawn(async move {
            if let Err(e) = session.checkpoint(CHECKPOINT).await {
                warn!(error = %e, "the checkpoint after the promotion was not done");
                lock(&memory).checkpointed = false;
            }
        });
    }
}
