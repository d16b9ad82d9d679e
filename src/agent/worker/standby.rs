//! Beginnings: `initdb`, starts, seals, and following.

use tracing::{error, warn};

use super::{
    BACKOFF_MAX, FIRST_EPOCH, Pause, QUICK, SEAL, SEAL_MAX, SLOW, Sealing, UPSTREAM, Worker,
};
use crate::agent::driver::{Database, Error, RunRole, Seen, StartMode, Started};
use crate::agent::hooks::Hook;
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::desired::FollowDuty;
use crate::domain::observation::{Condition, Data, Sealed};
use crate::domain::reconcile::Process;
use crate::domain::record::DataMark;
use crate::domain::state::ClusterState;
use crate::domain::types::{BootTime, Epoch, Lsn};
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    pub(super) async fn initialise(&mut self, state: &ClusterState) -> Pause {
        let begun = self.record(|r| r.data = DataMark::Initialising).await;
        self.shared.update(|inner| inner.busy = Some(Condition::Initialising));
        let database = self.shared.database.clone();
        let made = match begun {
            Ok(()) => {
                self.bounded("initdb", SLOW.saturating_mul(5), database.initialise(&state.spec))
                    .await
            }
            Err(error) => Err(error),
        };
        let recorded = match made {
            Ok(system_id) => {
                let hooked = self.shared.database.hooks().has(Hook::AfterBootstrap);
                let done = self.record(|r| {
                    r.begin_anew(Some(system_id));
                    r.bootstrap_hook = hooked;
                    // Nobody led the first epoch, and all that there is of it is here.
                    r.held = FIRST_EPOCH;
                    r.ended = FIRST_EPOCH;
                });
                done.await.map(|()| system_id)
            }
            Err(error) => Err(error),
        };
        match recorded {
            Ok(system_id) => {
                self.shared.update(|inner| {
                    inner.data = Data::Present { system_id };
                    inner.busy = None;
                });
                Pause::None
            }
            Err(error) => {
                error!(member = %self.shared.member.name, %error, "initdb failed");
                let why = error.to_string();
                self.shared.update(|inner| inner.busy = Some(Condition::BootstrapFailed { why }));
                Pause::Firmly(BACKOFF_MAX)
            }
        }
    }

    pub(super) async fn start(
        &mut self,
        mode: StartMode,
        promise: Epoch,
        state: &ClusterState,
    ) -> Result<(), Error> {
        if let StartMode::Sealed { .. } = &mode
            && let Some(epoch) = self.led_by_nobodys_leave().await?
        {
            let why = format!("it was made the primary of epoch {epoch} by hand");
            self.shared.notice(NoticeCode::PromotedByHand, why.clone());
            return self.disown_data(&why).await;
        }
        if let StartMode::Following(duty) = &mode
            && !self.upstream_serves(duty, state).await
        {
            return Ok(());
        }
        self.record(|r| r.promised = r.promised.max(promise)).await?;
        let database = self.shared.database.clone();
        let started =
            self.bounded("starting PostgreSQL", SLOW, database.start(&mode, &state.spec)).await;
        let Started { guard, fencing } = match started {
            Ok(started) => started,
            Err(error) => {
                // What is left of the attempt, if anything, has to go before the next.
                self.shared.lock().process = Process::Ending;
                return Err(error);
            }
        };
        let (process, role) = match mode {
            StartMode::Sealed { promise } => {
                (Process::Sealed { promise, position: None }, RunRole::Sealed { promise })
            }
            StartMode::Following(duty) => {
                let (epoch, address) = (duty.epoch, duty.streams_from().1.to_owned());
                self.delay_ms = Some(duty.delay_ms);
                let process = Process::Following { epoch, address: address.clone() };
                (process, RunRole::Following { epoch, address })
            }
        };
        // On disk before anybody hears of this life of the guard: no epoch can be granted to it
        // whose end could not be proven.
        let running = Some(guard.clone());
        if let Err(error) = self.record(|r| r.running = running).await {
            self.shared.lock().process = Process::Ending;
            return Err(error);
        }
        self.shared.update(|inner| {
            inner.guard = Some(guard);
            inner.was_ready = false;
            inner.fencing = fencing;
            inner.process = process;
            inner.seen = None;
            inner.lineage = None;
        });
        self.care_at = BootTime::default();
        self.remember(role).await
    }

    pub(super) async fn seal(&mut self, promise: Epoch, state: &ClusterState) -> Result<(), Error> {
        self.record(|r| r.promised = r.promised.max(promise)).await?;
        // From here on it is no follower any more, whatever becomes of the attempt.
        let changed = {
            let mut inner = self.shared.lock();
            let sealed = Process::Sealed { promise, position: None };
            let changed = inner.process != sealed;
            inner.process = sealed;
            changed
        };
        if changed {
            self.remember(RunRole::Sealed { promise }).await?;
        }
        let now = self.shared.clock.now();
        let replay = match &self.shared.lock().seen {
            Some((Seen::Standby { replay, .. }, _)) => *replay,
            _ => Lsn(0),
        };
        // A standby that still replays what it has is not stuck.
        let since = match self.sealing {
            Some(s) if s.promise == promise && s.replay >= replay => s.since,
            _ => now,
        };
        self.sealing = Some(Sealing { promise, since, replay });
        let database = self.shared.database.clone();
        let work = database.seal(promise, &state.spec);
        let position = match self.heeding("sealing", SEAL, work).await {
            Ok(position) => position,
            Err(Error::NotReady(why)) => return Err(Error::NotReady(why)),
            Err(error) => {
                if self.shared.clock.now().since(since) >= SEAL_MAX {
                    // It may be hung. Started anew it is sealed from its first moment.
                    warn!(member = %self.shared.member.name, %error, "it cannot be sealed: killed");
                    self.sealing = None;
                    let mut inner = self.shared.lock();
                    // Where its log ends is not found out: it is not worth more than another copy.
                    inner.unstartable |= matches!(inner.record.data, DataMark::Copied { .. });
                    inner.process = Process::Ending;
                }
                return Err(error);
            }
        };
        self.sealing = None;
        self.startup_deaths = 0;
        {
            let mut inner = self.shared.lock();
            (inner.was_ready, inner.consistent) = (true, true);
        }
        // It may be a candidate from here on: how much room there is should be known.
        self.shared.survey.notify_one();
        if position.wal_epoch > self.shared.lock().record.promised {
            return self.disown_data("it holds WAL of an epoch that it never promised").await;
        }
        let Some(guard) = self.guard() else {
            return Err(Error::NotReady("PostgreSQL has ended".to_owned()));
        };
        self.shared.update(|inner| {
            let sealed = Sealed {
                member: self.shared.member.name.clone(),
                guard,
                promised: inner.record.promised,
                wal_epoch: position.wal_epoch,
                lsn: position.lsn,
                held: inner.record.held,
                lineage: position.lineage,
                no_room: false,
            };
            inner.process = Process::Sealed { promise, position: Some(sealed) };
        });
        Ok(())
    }

    pub(super) async fn follow(
        &mut self,
        duty: &FollowDuty,
        state: &ClusterState,
    ) -> Result<(), Error> {
        if !self.upstream_serves(duty, state).await {
            return Ok(());
        }
        let database = self.shared.database.clone();
        // What was known of a copy was known of another primary's log.
        self.record(|r| {
            if let DataMark::Copied { source, until } = &mut r.data
                && *source != duty.epoch
            {
                (*source, *until) = (duty.epoch, None);
            }
        })
        .await?;
        // It may take WAL from here on: what was reported of its position is final no more. It is
        // called a follower only once it is one, so that an attempt that failed is made again.
        self.shared.update(|inner| {
            let promise = inner.record.promised;
            inner.process = Process::Sealed { promise, position: None };
            inner.seen = None;
        });
        let work = database.follow(duty, &state.spec);
        match self.heeding("following the primary", QUICK, work).await {
            Err(error @ Error::Astray(_)) => {
                warn!(member = %self.shared.member.name, %error, "the standby is stopped");
                self.astray += 1;
                if self.astray > 1 {
                    // A start did not help: a copy does.
                    self.shared.lock().source_lacks_wal = true;
                }
                return self.stop_standby().await;
            }
            outcome => outcome?,
        }
        self.astray = 0;
        let (epoch, address) = (duty.epoch, duty.streams_from().1.to_owned());
        self.delay_ms = Some(duty.delay_ms);
        self.shared.update(|inner| {
            let address = address.clone();
            // Another server may have what the last one lacked.
            inner.source_lacks_wal = false;
            inner.process = Process::Following { epoch, address };
        });
        self.care_at = BootTime::default();
        self.remember(RunRole::Following { epoch, address }).await
    }

    /// Whether the duty's upstream, if it has one, may be followed: asked of it right before. WAL is
    /// only ever taken from a standby that has itself promised the epoch.
    async fn upstream_serves(&self, duty: &FollowDuty, state: &ClusterState) -> bool {
        let Some(upstream) = &duty.upstream else { return true };
        let work = self.shared.database.check_standby(duty, upstream, &state.spec);
        let Err(error) = self.heeding("asking the upstream", UPSTREAM, work).await else {
            return true;
        };
        if self.is_overtaken() {
            // That says nothing of the upstream.
            return false;
        }
        warn!(upstream = %upstream.member, %error, "the upstream is not followed");
        let now = self.shared.clock.now();
        self.shared.lock().upstream.lose(now);
        false
    }

    /// The epoch of the primary that this directory last ran as, where it never held that: somebody
    /// else promoted it while no agent looked.
    async fn led_by_nobodys_leave(&self) -> Result<Option<Epoch>, Error> {
        let (mark, held) = {
            let inner = self.shared.lock();
            (inner.record.data, inner.record.held)
        };
        if mark != DataMark::Intact {
            return Ok(None);
        }
        let work = self.shared.database.examine();
        let examined = self.bounded("looking into the data directory", QUICK, work).await?;
        Ok(examined.led.filter(|led| *led > held))
    }

    /// Somebody else made a primary of the member, or its data is not what its record says. Nothing
    /// of it may count or be followed: it is ended, and turned back once there is a primary.
    pub(super) async fn disown_data(&mut self, why: &str) -> Result<(), Error> {
        let member = &self.shared.member.name;
        error!(%member, why, "its data is not trusted any more");
        let text = format!("{why}: its data will be rewound, or replaced by a copy");
        self.shared.problem("data", Some(text));
        {
            let mut inner = self.shared.lock();
            if inner.process != Process::Down {
                inner.process = Process::Ending;
            }
        }
        self.record(|r| {
            r.data = DataMark::Foreign;
            r.held = Epoch(0);
        })
        .await
    }
}
