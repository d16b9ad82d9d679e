//! Replacing data: rewind and copy.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::warn;

use super::{QUICK, SLOW, Worker};
use crate::agent::driver::{Database, Error, Rewound};
use crate::agent::poll::Snapshot;
use crate::clock::Clock;
use crate::domain::alarm::AlarmCode;
use crate::domain::desired::{Desired, FollowDuty, desired};
use crate::domain::observation::{Condition, Data};
use crate::domain::record::DataMark;
use crate::domain::state::ClusterSpec;
use crate::domain::types::Epoch;
use crate::runtime::{self, Runtime};
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Ends when the state no longer asks for `duty`.
    pub(super) async fn overtaken(
        mut news: watch::Receiver<Arc<Snapshot>>,
        member: crate::agent::Member,
        duty: FollowDuty,
    ) {
        loop {
            let snapshot = news.borrow_and_update().clone();
            let wanted = snapshot.clusters.get(&member.cluster).map(|s| desired(s, &member.name));
            let same = matches!(
                &wanted,
                Some(Desired::Follow(now)) if now.epoch == duty.epoch && now.address == duty.address
            );
            if (wanted.is_some() && !same) || news.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn unless_overtaken<V: Send>(
        &self,
        duty: &FollowDuty,
        work: impl Future<Output = Result<V, Error>> + Send,
    ) -> Result<V, Error> {
        let overtaken =
            Self::overtaken(self.news.clone(), self.shared.member.clone(), duty.clone());
        runtime::first_of(vec![
            Box::pin(work),
            Box::pin(async {
                overtaken.await;
                Err(Error::NotReady("the primary has changed".to_owned()))
            }),
        ])
        .await
    }

    pub(super) async fn rewind(
        &mut self,
        duty: &FollowDuty,
        spec: &ClusterSpec,
    ) -> Result<(), Error> {
        self.room_for_rewind()?;
        let database = self.shared.database.clone();
        // A source that is not fit is found out before anything is touched.
        let work = self.unless_overtaken(duty, database.may_rewind(duty));
        if let Err(error) = self.bounded("asking the primary", SLOW, work).await {
            return Err(patient(error));
        }
        self.shared.update(|inner| inner.busy = Some(Condition::Rewinding));
        self.stop_standby().await?;
        let held = self.shared.lock().record.held;
        self.record(|r| {
            r.data = DataMark::Replacing;
            r.held = Epoch(0);
            r.promised = r.promised.max(duty.epoch);
        })
        .await?;
        match self.unless_overtaken(duty, database.rewind(duty, spec)).await? {
            Rewound::Done => {
                self.shared.set_alarms(&[AlarmCode::NoRoomForCopy], Vec::new());
                let source = duty.epoch;
                self.record(|r| r.data = DataMark::Copied { source, until: None }).await
            }
            Rewound::Untouched { why } => {
                self.record(|r| {
                    r.data = DataMark::Intact;
                    r.held = held;
                })
                .await?;
                Err(patient(Error::NotReady(why)))
            }
            Rewound::Impossible { why } => {
                warn!(member = %self.shared.member.name, %why, "rewind is impossible: copying instead");
                self.shared.lock().rewind_failed = true;
                Ok(())
            }
        }
    }

    pub(super) async fn clone_from(
        &mut self,
        duty: &FollowDuty,
        spec: &ClusterSpec,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let work = database.primary_position(duty);
        if let Err(error) = self.bounded("asking the primary", QUICK, work).await {
            return Err(patient(error));
        }
        self.room_for_copy(duty).await.map_err(patient)?;
        let source = duty.primary.clone();
        let cloning = move |done_bytes, total_bytes| Condition::Cloning {
            source: source.clone(),
            done_bytes,
            total_bytes,
        };
        self.shared.update(|inner| inner.busy = Some(cloning(0, 0)));
        self.stop_standby().await?;
        self.record(|r| {
            r.data = DataMark::Replacing;
            r.held = Epoch(0);
            r.promised = r.promised.max(duty.epoch);
        })
        .await?;
        let shared = self.shared.clone();
        let progress = Arc::new(move |done, total| {
            shared.update(|inner| inner.busy = Some(cloning(done, total)));
        });
        let copied =
            self.unless_overtaken(duty, D::clone_from(&database, duty, spec, progress)).await;
        let data = database.inspect().await.unwrap_or(Data::Unknown);
        self.shared.lock().data = data;
        let system_id = copied?;
        self.record(|r| {
            r.data = DataMark::Copied { source: duty.epoch, until: None };
            r.system_id = Some(system_id);
        })
        .await?;
        self.startup_deaths = 0;
        self.shared.update(|inner| {
            inner.unstartable = false;
            inner.rewind_failed = false;
            inner.source_lacks_wal = false;
        });
        Ok(())
    }
}

/// What is not ready elsewhere is asked again after a pause, not at once.
fn patient(error: Error) -> Error {
    match error {
        Error::NotReady(why) => Error::Failed(why),
        other => other,
    }
}
