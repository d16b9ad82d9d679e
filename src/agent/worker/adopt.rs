//! Data of a server that was not ours: it is looked at until the operator has it adopted, and made
//! ready then.

use std::time::Duration;

use tracing::{error, info};

use super::{BACKOFF_MAX, Pause, QUICK, SLOW, TICK, Worker};
use crate::agent::driver::{Database, Error};
use crate::clock::Clock;
use crate::domain::adoption::{Adoptable, Adopted};
use crate::domain::alarm::{Alarm, AlarmCode, NoticeCode};
use crate::domain::observation::{Condition, Data};
use crate::domain::reconcile::Process;
use crate::domain::record::DataMark;
use crate::domain::state::{ClusterState, Phase};
use crate::domain::types::{Epoch, SystemId};
use crate::runtime::Runtime;
use crate::session::Transport;

/// How often the data is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Nothing is done to a data directory that somebody else's server runs on, and it is said. That
    /// server is not killed.
    pub(super) async fn heed_stranger(&mut self) -> Option<Pause> {
        if self.shared.lock().process != Process::Down {
            return None;
        }
        let database = self.shared.database.clone();
        let found = self.bounded("looking for another server", QUICK, database.stranger()).await;
        let pid = match found {
            Ok(found) => found,
            Err(error) => return Some(self.after(Err(error))),
        };
        let alarm = pid.map(|pid| {
            let text = format!(
                "a PostgreSQL that Quorate did not start runs on this member's data directory \
                 (process {pid}): it is left alone, and the member waits until it is stopped, with \
                 pg_ctl stop or kill -INT {pid}"
            );
            Alarm::about(AlarmCode::ForeignServer, String::new(), text)
        });
        self.shared.set_alarms(&[AlarmCode::ForeignServer], alarm.into_iter().collect());
        pid.map(|_| Pause::For(LOOK))
    }

    /// Looks at data that waits for its adoption.
    pub(super) async fn look_at_adoptable(&mut self, state: &ClusterState) -> Option<Pause> {
        let waits = state.phase == Phase::AwaitingMembers
            && state.members.contains_key(&self.shared.member.name);
        if !self.shared.member.adopt || !waits {
            self.shared.update_if(|inner| {
                let stale = matches!(inner.busy, Some(Condition::Adoptable(_)))
                    && !matches!(state.phase, Phase::Adopting { .. });
                stale.then(|| inner.busy = None)
            });
            return None;
        }
        let database = self.shared.database.clone();
        let data = match self.bounded("looking at the data", QUICK, database.inspect()).await {
            Ok(data) => data,
            Err(error) => return Some(self.after(Err(error))),
        };
        self.shared.lock().data = data.clone();
        if !matches!(data, Data::Present { .. }) {
            self.shared.update_if(|inner| inner.busy.take());
            return Some(Pause::For(LOOK));
        }
        let looked = self.bounded("looking at the data", QUICK, database.adoptable()).await;
        let found = match looked {
            Ok(found) => found,
            Err(error) => return Some(self.after(Err(error))),
        };
        self.shared.problem("action", None);
        let found = {
            let record = &self.shared.lock().record;
            let known = record.promised.max(record.held).max(record.ended);
            Adoptable { known, life: record.life, ..found }
        };
        self.shared.update_if(|inner| {
            let busy = Some(Condition::Adoptable(found));
            (inner.busy != busy).then(|| inner.busy = busy)
        });
        Some(Pause::For(LOOK))
    }

    /// Begins anew in a cluster whose data was adopted, before anything else is done in it: what was
    /// promised and held before is of another life, whose epochs have the same numbers. The data that
    /// is here follows only where it is a part of what was adopted; else it is copied anew.
    pub(super) async fn enter_life(&mut self, state: &ClusterState) -> Option<Pause> {
        let adopted = state.adopted.as_ref()?;
        let chosen = adopted.member == self.shared.member.name;
        let known = self.shared.lock().record.life;
        if known >= adopted.life || (chosen && matches!(state.phase, Phase::Adopting { .. })) {
            return None;
        }
        if !state.members.contains_key(&self.shared.member.name) {
            return None;
        }
        if self.shared.lock().process != Process::Down {
            return Some(self.retire().await);
        }
        match self.begin_in(adopted).await {
            Ok(()) => None,
            Err(error) => Some(self.after(Err(error))),
        }
    }

    async fn begin_in(&mut self, adopted: &Adopted) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let data = self.bounded("looking at the data", QUICK, database.inspect()).await?;
        let system_id = match &data {
            Data::Present { system_id } => Some(*system_id),
            Data::Unknown => return Err(Error::Failed("the data cannot be read".to_owned())),
            Data::Empty | Data::Incomplete => None,
        };
        // Of another cluster it is left as it is, and said.
        if self.shared.member.adopt && system_id == Some(adopted.system_id) {
            let work = database.keep_configuration();
            self.bounded("keeping the configuration aside", QUICK, work).await?;
            self.turn_off_starters().await?;
        }
        let first = adopted.base.next();
        let unfinished = |mark| matches!(mark, DataMark::Replacing | DataMark::Initialising);
        let mark = match self.shared.lock().record.data {
            mark if unfinished(mark) => Some(mark),
            _ => None,
        };
        let mark = match (mark, system_id) {
            (Some(mark), _) => mark,
            (None, None) => DataMark::Intact,
            // Our users come to it with the log of the first epoch, so it can only be started as a
            // follower of that; and like a copy it counts nowhere before it has caught up.
            (None, Some(_)) if self.shared.member.adopt && self.is_part_of(adopted).await? => {
                DataMark::Copied { source: first, until: None }
            }
            (None, Some(_)) => DataMark::Copied { source: Epoch(0), until: None },
        };
        let life = adopted.life;
        self.record(|r| {
            r.begin_anew(system_id);
            (r.data, r.life) = (mark, life);
            if mark == (DataMark::Copied { source: first, until: None }) {
                r.users_from = first;
            }
        })
        .await?;
        info!(member = %self.shared.member.name, ?mark, "it begins anew in an adopted cluster");
        self.shared.lock().data = data;
        Ok(())
    }

    /// From here on nothing but Quorate starts a server on the data directory.
    async fn turn_off_starters(&mut self) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let work = database.turn_off_starters();
        let done = self.bounded("turning off what would start the server", SLOW, work).await?;
        if let Some(done) = done {
            self.shared.notice(NoticeCode::StartTurnedOff, done);
        }
        Ok(())
    }

    /// Whether the standby's data that is here is a part of the log that was adopted.
    async fn is_part_of(&mut self, adopted: &Adopted) -> Result<bool, Error> {
        let database = self.shared.database.clone();
        let own = self.bounded("looking at the data", QUICK, database.adoptable()).await?;
        let Some(until) = adopted.shared_until(own.epoch).filter(|_| adopted.contains(&own)) else {
            return Ok(false);
        };
        let work = database.holds_wal_from(own.epoch, until);
        Ok(!self.bounded("looking at the WAL", SLOW, work).await?)
    }

    /// Whether it was taken over before a restart, by the record and by what is there.
    async fn has_taken(&self, state: &ClusterState) -> bool {
        let Some(adopted) = &state.adopted else { return false };
        if !self.shared.lock().record.has_taken(adopted) {
            return false;
        }
        let database = self.shared.database.clone();
        let found = self.bounded("looking at the data", QUICK, database.inspect()).await;
        found.is_ok_and(|data| data == Data::Present { system_id: adopted.system_id })
    }

    async fn take_data(&mut self, system_id: SystemId, epoch: Epoch) -> Result<(), Error> {
        if !self.shared.member.adopt {
            let why = "its data is not to be taken over: set adopt = true in its [[member]] again, \
                       or remove the cluster";
            return Err(Error::Failed(why.to_owned()));
        }
        // Nothing is changed for data that is not taken over all the same.
        let database = self.shared.database.clone();
        let found = self.bounded("looking at the data", QUICK, database.adoptable()).await?;
        if let Some(why) = found.refusal(system_id, epoch) {
            return Err(Error::Failed(why));
        }
        self.turn_off_starters().await?;
        let work = database.adopt(system_id, epoch);
        self.bounded("taking over the data", SLOW.saturating_mul(6), work).await
    }

    pub(super) async fn adopt(
        &mut self,
        system_id: SystemId,
        epoch: Epoch,
        state: &ClusterState,
    ) -> Pause {
        if self.adopted == Some(system_id) {
            return Pause::For(TICK);
        }
        if self.has_taken(state).await {
            info!(member = %self.shared.member.name, %system_id, "the data was taken over before");
            self.adopted = Some(system_id);
            self.shared.update(|inner| {
                inner.data = Data::Present { system_id };
                inner.busy = None;
            });
            return Pause::None;
        }
        let (base, life) = state.adopted.as_ref().map_or((epoch, 0), |a| (a.base, a.life));
        self.shared.update(|inner| inner.busy = Some(Condition::Initialising));
        let taken = self.take_data(system_id, epoch).await;
        let recorded: Result<(), Error> = match taken {
            Ok(()) => {
                let done = self.record(|r| {
                    r.begin_anew(Some(system_id));
                    r.data = DataMark::Intact;
                    // Nobody led this timeline under this control plane, and all of it is here.
                    (r.held, r.ended) = (base, base);
                    r.life = life;
                });
                done.await
            }
            Err(error) => Err(error),
        };
        match recorded {
            Ok(()) => {
                info!(member = %self.shared.member.name, %system_id, "the data is taken over");
                self.adopted = Some(system_id);
                self.shared.update(|inner| {
                    inner.data = Data::Present { system_id };
                    inner.busy = None;
                });
                Pause::None
            }
            Err(error) => {
                error!(member = %self.shared.member.name, %error, "the data was not taken over");
                let why = error.to_string();
                self.shared.update(|inner| inner.busy = Some(Condition::BootstrapFailed { why }));
                Pause::Firmly(BACKOFF_MAX)
            }
        }
    }
}
