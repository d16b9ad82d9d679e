//! The way to being primary, and what a primary does.

use super::{QUICK, SLOW, Worker};
use crate::agent::driver::{Database, Error, RunRole};
use crate::clock::Clock;
use crate::domain::observation::Confirmed;
use crate::domain::reconcile::Process;
use crate::domain::state::ClusterState;
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch};
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    pub(super) async fn accept(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.record(|r| {
            r.held = r.held.max(epoch);
            r.promised = r.promised.max(epoch);
        })
        .await?;
        let Some(guard) = self.guard() else {
            return Err(Error::NotReady("PostgreSQL has ended".to_owned()));
        };
        self.shared.update(|inner| {
            inner.process =
                Process::Primary { epoch, promoted: false, confirmed: None, writes_open: false };
            inner.claim = Some((epoch, guard));
            inner.lineage = None;
            inner.seen = None;
            inner.crashed = false;
        });
        let role = RunRole::Primary { epoch, promoted: None, writes_open: false };
        if let Err(error) = self.remember(role).await {
            // What is not remembered could not be taken over: it is no primary yet.
            self.shared.update(|inner| {
                let promise = inner.record.promised;
                inner.process = Process::Sealed { promise, position: None };
                inner.claim = None;
            });
            return Err(error);
        }
        self.shared.claims.notify_one();
        Ok(())
    }

    pub(super) async fn promote(
        &mut self,
        epoch: Epoch,
        sync: &SyncConfig,
        state: &ClusterState,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        // Again, right before the act: time may have passed.
        let leased = self.shared.lock().lease;
        if !leased.is_some_and(|l| l.may_write(epoch, self.shared.clock.now())) {
            return Err(Error::Failed("the lease ran out before the promotion".to_owned()));
        }
        let work = database.promote(epoch, sync, &state.spec);
        let lineage = self.bounded("promotion", SLOW, work).await?;
        let role = RunRole::Primary { epoch, promoted: Some(lineage.clone()), writes_open: false };
        self.shared.update(|inner| {
            if let Process::Primary { promoted, .. } = &mut inner.process {
                *promoted = true;
            }
            inner.lineage = Some(lineage);
        });
        self.shared.problem("promotion", None);
        self.remember(role).await
    }

    pub(super) async fn confirm_sync(
        &mut self,
        syncs: Vec<SyncConfig>,
        state: &ClusterState,
    ) -> Result<(), Error> {
        let (epoch, writes_open) = match &self.shared.lock().process {
            Process::Primary { epoch, writes_open, .. } => (*epoch, *writes_open),
            _ => return Ok(()),
        };
        let Some(newest) = syncs.last().cloned() else { return Ok(()) };
        let database = self.shared.database.clone();
        let work = database.confirm_sync(epoch, &newest, writes_open, &state.spec);
        let postmaster_start_us = self.heeding("the barrier", QUICK, work).await?;
        self.shared.update(|inner| {
            if let Process::Primary { confirmed, .. } = &mut inner.process {
                *confirmed = Some(Confirmed { syncs, postmaster_start_us });
            }
        });
        Ok(())
    }

    pub(super) async fn open_writes(
        &mut self,
        epoch: Epoch,
        state: &ClusterState,
    ) -> Result<(), Error> {
        let Some(sync) = state.current_sync() else { return Ok(()) };
        let leased = self.shared.lock().lease;
        if !leased.is_some_and(|l| l.may_write(epoch, self.shared.clock.now())) {
            return Err(Error::Failed("the lease ran out before writes were opened".to_owned()));
        }
        let database = self.shared.database.clone();
        let work = database.open_writes(epoch, sync, &state.spec);
        self.heeding("opening for writes", QUICK, work).await?;
        let lineage = self.shared.update(|inner| {
            if let Process::Primary { writes_open, .. } = &mut inner.process {
                *writes_open = true;
            }
            inner.lineage.clone()
        });
        self.care_at = BootTime::default();
        self.remember(RunRole::Primary { epoch, promoted: lineage, writes_open: true }).await
    }
}
