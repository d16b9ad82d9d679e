//! Replacing data: rewind and copy.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{QUICK, SLOW, Worker};
use crate::agent::driver::{Database, Error, Rewound};
use crate::agent::poll::Snapshot;
use crate::clock::Clock;
use crate::domain::alarm::{AlarmCode, NoticeCode};
use crate::domain::desired::{Desired, FollowDuty, Upstream, desired_on};
use crate::domain::mutant::{Mutant, without};
use crate::domain::observation::{Condition, Data};
use crate::domain::record::{DataMark, MemberRecord};
use crate::domain::state::ClusterSpec;
use crate::domain::types::{Epoch, NodeName};
use crate::runtime::{self, Runtime};
use crate::session::Transport;
use crate::watch;

/// How long a standby may take to answer before it is copied.
const QUESTION: Duration = Duration::from_secs(4);
/// For how long no second copy is begun from a standby.
const SPENT: Duration = Duration::from_secs(600);

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Ends when the state no longer asks for `duty`.
    pub(super) async fn overtaken(
        mut news: watch::Receiver<Arc<Snapshot>>,
        (member, node): (crate::agent::Member, NodeName),
        duty: FollowDuty,
    ) {
        loop {
            let snapshot = news.borrow_and_update().clone();
            let state = snapshot.clusters.get(&member.cluster);
            let wanted = state.map(|s| desired_on(s, &member.name, &node));
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
        let own = (self.shared.member.clone(), self.shared.options.node.clone());
        let overtaken = Self::overtaken(self.news.clone(), own, duty.clone());
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
            return Err(self.patient(error));
        }
        self.shared.update(|inner| inner.busy = Some(Condition::Rewinding));
        self.stop_standby().await?;
        let (mark, held) = {
            let inner = self.shared.lock();
            (inner.record.data, inner.record.held)
        };
        self.begin_replacing(duty).await?;
        let restore = |r: &mut MemberRecord| (r.data, r.held) = (mark, held);
        match self.unless_overtaken(duty, database.rewind(duty, spec)).await {
            Ok(Rewound::Done) => {
                self.shared.set_alarms(&[AlarmCode::NoRoomForCopy], Vec::new());
                let source = duty.epoch;
                self.record(|r| r.data = DataMark::Copied { source, until: None }).await?;
                self.shared.problem("data", None);
                let text = format!("it was rewound to epoch {source} of {}", duty.primary);
                self.shared.notice(NoticeCode::Rewound, text);
                Ok(())
            }
            Ok(Rewound::Untouched { why }) => {
                self.record(restore).await?;
                Err(self.patient(Error::NotReady(why)))
            }
            Ok(Rewound::Impossible { why }) => {
                warn!(member = %self.shared.member.name, %why, "rewind is impossible: copying instead");
                self.shared.lock().rewind_failed = true;
                Ok(())
            }
            Err(error @ Error::NotReady(_)) => {
                // Another primary. What was begun for the last one is marked beside the directory;
                // where nothing was, it is what it has been, and can be judged anew.
                let data = database.inspect().await?;
                let untouched = matches!(data, Data::Present { .. });
                self.shared.lock().data = data;
                if untouched {
                    self.record(restore).await?;
                }
                Err(error)
            }
            Err(error) => {
                // It was not done to its end, nor refused: what is there is not known.
                self.shared.lock().rewind_failed = true;
                Err(error)
            }
        }
    }

    /// From here on the data directory is worth nothing until what is begun is finished.
    async fn begin_replacing(&mut self, duty: &FollowDuty) -> Result<(), Error> {
        self.record(|r| {
            if !without(Mutant::ReplacingNotMarked) {
                (r.data, r.held) = (DataMark::Replacing, Epoch(0));
            }
            r.promised = r.promised.max(duty.epoch);
        })
        .await?;
        self.shared.lock().consistent = false;
        Ok(())
    }

    /// A standby that may be copied, and that no copy was begun from of late.
    async fn copy_source(&mut self, duty: &FollowDuty, spec: &ClusterSpec) -> Option<Upstream> {
        let now = self.shared.clock.now();
        self.spent_sources.retain(|_, at| now.since(*at) < SPENT);
        for source in &duty.sources {
            if self.spent_sources.contains_key(&source.member) {
                continue;
            }
            let work = self.shared.database.check_standby(duty, source, spec);
            match self.heeding("asking a standby", QUESTION, work).await {
                Ok(()) => return Some(source.clone()),
                Err(error) => {
                    info!(source = %source.member, %error, "it is not copied from this standby");
                }
            }
        }
        None
    }

    pub(super) async fn clone_from(
        &mut self,
        duty: &FollowDuty,
        spec: &ClusterSpec,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        // Also where a standby is copied: what the copy lacks, and when it counts, is for the
        // primary to say.
        let work = database.primary_position(duty);
        if let Err(error) = self.heeding("asking the primary", QUICK, work).await {
            return Err(self.patient(error));
        }
        self.room_for_copy(duty).await.map_err(|error| self.patient(error))?;
        let standby = self.copy_source(duty, spec).await;
        if self.is_overtaken() {
            // Nothing was touched yet.
            return Err(Error::NotReady("the copy is not asked for any more".to_owned()));
        }
        let source = standby.as_ref().map_or(&duty.primary, |s| &s.member).clone();
        if let Some(standby) = &standby {
            self.spent_sources.insert(standby.member.clone(), self.shared.clock.now());
        }
        let duty = &FollowDuty { sources: standby.into_iter().collect(), ..duty.clone() };
        let from = source.clone();
        let cloning = move |done_bytes, total_bytes| Condition::Cloning {
            source: source.clone(),
            done_bytes,
            total_bytes,
        };
        self.shared.update(|inner| inner.busy = Some(cloning(0, 0)));
        self.stop_standby().await?;
        self.begin_replacing(duty).await?;
        info!(member = %self.shared.member.name, source = %from, "a copy is begun");
        let shared = self.shared.clone();
        let progress = Arc::new(move |done, total| {
            shared.update(|inner| inner.busy = Some(cloning(done, total)));
        });
        let copying = self.unless_overtaken(duty, D::clone_from(&database, duty, spec, progress));
        // It can take hours, and is begun anew anyway after a stop.
        let copied = self.unless_ended(copying).await;
        let copied = copied.unwrap_or_else(|| Err(Error::NotReady("the agent stops".to_owned())));
        let data = database.inspect().await.unwrap_or(Data::Unknown);
        self.shared.lock().data = data;
        let system_id = copied?;
        // Whatever it was made for, it is a copy made since the operator asked for one; or the
        // operator asked while it was made.
        let asked = {
            let member = &self.shared.member;
            let state = self.news.borrow().clusters.get(&member.cluster).cloned();
            state.and_then(|s| s.reinitialisation_of(&member.name)).max(duty.copy_anew)
        };
        self.record(|r| {
            r.data = match without(Mutant::CopyCountsAtOnce) {
                true => DataMark::Intact,
                false => DataMark::Copied { source: duty.epoch, until: None },
            };
            r.system_id = Some(system_id);
            r.copied_for = asked.map_or(r.copied_for, |id| id.max(r.copied_for));
        })
        .await?;
        self.startup_deaths = 0;
        self.shared.update(|inner| {
            inner.unstartable = false;
            inner.rewind_failed = false;
            inner.source_lacks_wal = false;
        });
        self.shared.problem("data", None);
        let text = format!("it was copied from {from}, in epoch {}", duty.epoch);
        self.shared.notice(NoticeCode::Copied, text);
        Ok(())
    }

    /// What is not ready elsewhere is asked again after a pause, not at once. What was left for
    /// something else has not failed.
    fn patient(&self, error: Error) -> Error {
        match error {
            Error::NotReady(why) if !self.is_overtaken() => Error::Failed(why),
            other => other,
        }
    }
}
