//! What is done while nothing is asked for: slots, and the proof of a copy.

use std::time::Duration;

use super::{CARE_EVERY, Pause, QUICK, TICK, Worker};
use crate::agent::driver::{Care, Database, Error, Other, Seen, UPKEEP_ALARMS, Upkeep};
use crate::agent::poll::Snapshot;
use crate::clock::Clock;
use crate::domain::alarm::{AlarmCode, NoticeCode};
use crate::domain::desired::{Desired, FollowDuty, desired_on};
use crate::domain::observation::Reloaded;
use crate::domain::reconcile::Process;
use crate::domain::record::DataMark;
use crate::domain::space::Level;
use crate::domain::state::ClusterState;
use crate::domain::types::{Epoch, Lsn, MemberName};
use crate::runtime::Runtime;
use crate::session::Transport;

/// The kinds of alarms that only a primary has.
const PRIMARY_ALARMS: &[AlarmCode] = &[
    AlarmCode::WeakenedCommits,
    AlarmCode::LogicalSlots,
    AlarmCode::Impostor,
    AlarmCode::SlotHoldsWal,
    AlarmCode::ArchiveFailing,
    AlarmCode::ObjectsMissing,
];

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// What is done while nothing is asked for.
    pub(super) async fn care(&mut self, state: &ClusterState, snapshot: &Snapshot) -> Pause {
        self.reload(state).await;
        let wanted = desired_on(state, &self.shared.member.name, &self.shared.options.node);
        let (process, mark, seen) = {
            let inner = self.shared.lock();
            (inner.process.clone(), inner.record.data, inner.seen.clone())
        };
        if let (Desired::Follow(duty), Process::Following { .. }) = (&wanted, &process)
            && let DataMark::Copied { source, until } = mark
            && let Err(error) =
                self.prove_copy(duty, source, until, seen.as_ref().map(|(s, _)| s)).await
        {
            tracing::debug!(%error, "the copy is not proven yet");
        }
        if let (Desired::Follow(duty), Process::Following { .. }) = (&wanted, &process) {
            self.keep_delay(duty, state).await;
        }
        let (primary, others) = match (&wanted, &process) {
            (Desired::Primary(duty), Process::Primary { promoted: true, .. }) => {
                (true, duty.others.clone())
            }
            (Desired::Follow(duty), Process::Following { .. }) => (false, duty.others.clone()),
            _ => {
                // What was wrong with a primary is not wrong with what it is now.
                self.shared.set_alarms(PRIMARY_ALARMS, Vec::new());
                return Pause::For(TICK);
            }
        };
        // Whatever it needed room for, it runs as it should.
        self.shared.set_alarms(&[AlarmCode::NoRoomForCopy], Vec::new());
        let now = self.shared.clock.now();
        let presence = snapshot.presence.get(&self.shared.member.cluster);
        let other = |member: &MemberName| {
            let known = presence.and_then(|p| p.get(member));
            Other {
                member: member.clone(),
                position: known.and_then(|p| p.position),
                heard: known.is_some_and(|p| p.heard),
                silent: known.map_or(Duration::ZERO, |p| Duration::from_millis(p.silent_ms)),
                preloaded: known.map(|p| p.preloaded.clone()).unwrap_or_default(),
            }
        };
        let others: Vec<Other> = others.iter().map(other).collect();
        // Who comes back finds its slot without waiting for a round.
        let heard = |o: &Other| (o.member.clone(), o.heard && o.silent < CARE_EVERY);
        let revision = state.spec_revision;
        let cared_as = (primary, revision, others.iter().map(heard).collect());
        if now < self.care_at && self.cared_as.as_ref() == Some(&cared_as) {
            return Pause::For(TICK);
        }
        let care = Care {
            others,
            sync: state.current_sync().filter(|_| primary).cloned(),
            spec: state.spec.clone(),
            revision,
            active: primary && state.active_primary() == Some(&self.shared.member.name),
            out_of_room: self.shared.lock().disks.level() == Level::Critical,
        };
        let database = self.shared.database.clone();
        if primary {
            let cascaded = cascaded(state, &care.others);
            let work = database.advance_slots(&cascaded);
            if !cascaded.is_empty()
                && let Err(error) = self.heeding("moving slots forward", QUICK, work).await
            {
                tracing::debug!(%error, "slots of cascaded members were not moved");
            }
        }
        match self.heeding("looking after slots", QUICK, database.maintain(&care)).await {
            Ok(Upkeep { problems, alarms, notices, settings, restart }) => {
                self.care_at = now.plus(CARE_EVERY);
                self.cared_as = Some(cared_as);
                let text = (!problems.is_empty()).then(|| problems.join("; "));
                self.shared.problem("maintenance", text);
                self.shared.set_alarms(UPKEEP_ALARMS, alarms);
                for (code, text) in notices {
                    self.shared.notice(code, text);
                }
                self.note_settings(settings);
                if let Some(why) = restart.filter(|_| !primary) {
                    return self.restart_standby(why).await;
                }
            }
            Err(Error::NotReady(_)) if self.is_overtaken() => return Pause::None,
            Err(Error::NotReady(_)) => self.care_at = now.plus(TICK),
            Err(error) => {
                self.care_at = now.plus(CARE_EVERY);
                self.shared.problem("maintenance", Some(error.to_string()));
            }
        }
        Pause::For(TICK)
    }

    /// A copy counts once it has flushed past a position that the primary had after it ended.
    pub(super) async fn prove_copy(
        &mut self,
        duty: &FollowDuty,
        source: Epoch,
        until: Option<Lsn>,
        seen: Option<&Seen>,
    ) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let Some(Seen::Standby { flushed, replay, streaming: Some(timeline), .. }) = seen else {
            return Ok(());
        };
        match until {
            // A position of an older epoch says nothing of this one.
            Some(lsn) if source == duty.epoch => {
                if timeline.epoch() == duty.epoch && *flushed >= lsn && *replay >= lsn {
                    self.record(|r| r.data = DataMark::Intact).await?;
                    self.spent_sources.clear();
                    let text = format!("it has all of {} up to {lsn}: it counts again", duty.epoch);
                    self.shared.notice(NoticeCode::CopyProven, text);
                }
                Ok(())
            }
            _ => {
                let work = database.primary_position(duty);
                let (source, lsn) = self.heeding("asking the primary", QUICK, work).await?;
                self.record(|r| r.data = DataMark::Copied { source, until: Some(lsn) }).await?;
                self.shared.wake.notify_one();
                Ok(())
            }
        }
    }

    /// Has PostgreSQL read its configuration again where the operator asked for it: once for each
    /// time of asking in each run of the agent, which does no harm.
    pub(super) async fn reload(&self, state: &ClusterState) {
        let Some(operation) = state.reload_of(&self.shared.member.name) else { return };
        let runs = {
            let inner = self.shared.lock();
            let done = inner.reloaded.as_ref().is_some_and(|r| r.operation >= operation);
            let opened = match &inner.process {
                Process::Primary { writes_open, .. } => *writes_open,
                Process::Following { .. } => true,
                _ => false,
            };
            !done && opened
        };
        if !runs {
            return;
        }
        let work = self.shared.database.reload(&state.spec);
        let problem = match self.heeding("reading the configuration again", QUICK, work).await {
            Ok(problem) => problem.unwrap_or_default(),
            // Not there now: asked again at the next look.
            Err(Error::NotReady(_)) => return,
            Err(error) => error.to_string(),
        };
        self.shared.update(|inner| inner.reloaded = Some(Reloaded { operation, problem }));
    }

    /// A change of the delay alone changes nothing of whom it follows.
    async fn keep_delay(&mut self, duty: &FollowDuty, state: &ClusterState) {
        if self.delay_ms == Some(duty.delay_ms) {
            return;
        }
        let stream = match self.shared.lock().is_cascaded() {
            true => duty.clone(),
            false => duty.from_primary(),
        };
        let database = self.shared.database.clone();
        let work = database.follow(&stream, &state.spec);
        match self.heeding("setting the delay", QUICK, work).await {
            Ok(()) => self.delay_ms = Some(duty.delay_ms),
            Err(error) => tracing::debug!(%error, "the delay is not set yet"),
        }
    }
}

/// Members that stream from another standby, and where they said to be.
fn cascaded(state: &ClusterState, others: &[Other]) -> Vec<(MemberName, Lsn)> {
    let of = |other: &Other| {
        let member = state.members.get(&other.member)?;
        let behind = member.tags.replicatefrom.is_some();
        Some((other.member.clone(), other.position.filter(|_| behind)?))
    };
    others.iter().filter_map(of).collect()
}
