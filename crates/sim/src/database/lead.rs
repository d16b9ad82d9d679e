//! Becoming and being a primary: promotion, the barrier, the hold on writes, and the orderly stop.
//!
//! Owns the order of the steps, which is production's.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_world::pg::sender::SenderState;
use quorate_world::pg::view::Walsender;
use quorate_world::pg::{DataDir, History, Mode, Outcome, Pid, Refused, Server, State};

use super::SimDatabase;
use super::machine::{Machine, timed_out};
use super::seal::lineage_of;
use super::settings::{Role, names};
use crate::Rt;
use crate::agent::driver::{Asked, Error};
use crate::domain::lineage::Lineage;
use crate::domain::mutant::{Mutant, without};
use crate::domain::sync::SyncConfig;
use crate::domain::types::{BootTime, Epoch, Lsn, MemberName, Timeline};
use crate::raft::AsyncRuntime as _;

/// How long a promotion may take.
const PROMOTE: Duration = Duration::from_secs(5);
/// How long walsenders of before may take to end.
const WALSENDERS: Duration = Duration::from_secs(1);
/// How long a barrier may take, each of its two steps.
const BARRIER: Duration = Duration::from_secs(2);
/// For how long an ended walsender's slot is awaited before the next one is ended.
const RETURN_WAIT: Duration = Duration::from_millis(400);
/// How long the checkpoint before an orderly stop may take.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// How long the target of a switchover may take to confirm a record before the stop.
const TARGET: Duration = Duration::from_secs(2);
/// How long the others may take to confirm it as well.
const OTHERS: Duration = Duration::from_millis(500);
/// How long the server may take to write its last checkpoint.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long it then waits for its standbys.
const STANDBYS: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);
/// Largest distance between two timelines that is filled with placeholders.
const PLACEHOLDERS_MAX: u32 = 10_000;

/// Makes sure that a standby of timeline `own` takes the number `wanted` when it is promoted
/// (`fill_below` of production's `postgres::history`).
fn fill_below(dir: &mut DataDir, own: Timeline, wanted: Timeline) -> Result<(), String> {
    if wanted <= own || wanted.0 - own.0 > PLACEHOLDERS_MAX {
        return Err(format!("timeline {wanted} cannot follow timeline {own}"));
    }
    if dir.histories.has(wanted) {
        return Err(format!("timeline {wanted} has a history file already"));
    }
    let known: Vec<History> =
        dir.histories.iter().filter(|h| !h.is_placeholder()).cloned().collect();
    let first = wanted.0.saturating_sub(PLACEHOLDERS_MAX).max(2);
    for timeline in (first..wanted.0).map(Timeline) {
        if timeline == own || dir.histories.has(timeline) {
            continue;
        }
        let of_ancestor = |history: &History| {
            let at = history.ancestors.iter().position(|a| a.timeline == timeline)?;
            Some(History { timeline, ancestors: history.ancestors[..at].to_vec() })
        };
        let content = known.iter().rev().find_map(of_ancestor);
        dir.histories.put(content.unwrap_or_else(|| History::placeholder(timeline)));
    }
    Ok(())
}

fn is_of(walsender: &Walsender, member: &MemberName) -> bool {
    walsender.slot.as_deref() == Some(member.slot_name().as_str())
        && walsender.name == member.as_str()
}

impl SimDatabase {
    // ---- promotion ----

    pub(super) async fn promote_standby(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
    ) -> Result<Lineage, Error> {
        let guard = self.running()?;
        self.check_sync(sync)?;
        let late = without(Mutant::NamesAfterPromotion);
        if late {
            let nobody = SyncConfig { w: 0, members: Default::default(), ..sync.clone() };
            self.hold_primary(epoch, &nobody, true).await?;
        } else {
            self.hold_primary(epoch, sync, true).await?;
        }
        self.end_walsenders().await?;
        for member in &sync.members {
            // Its walreceiver asks for it within milliseconds of the promotion.
            self.make_slot(&member.slot_name()).await?;
        }
        let lineage = match Rt::timeout(PROMOTE, self.turn_primary(epoch.timeline())).await {
            Ok(done) => done?,
            Err(_) => return Err(timed_out("the promotion", PROMOTE)),
        };
        if late {
            self.hold_primary(epoch, sync, true).await?;
        }
        self.machine.trace(|| format!("it is promoted in epoch {epoch}"));
        let mut memory = self.memory();
        // The postmaster had the names before the last walsender of before ended.
        memory.refreshed = Some((guard, sync.setting()));
        memory.following = None;
        memory.settled = None;
        memory.known_primary = true;
        Ok(lineage)
    }

    async fn turn_primary(&self, wanted: Timeline) -> Result<Lineage, Error> {
        let status = self.machine.status().await?;
        if status.in_recovery {
            if status.has_receiver && !without(Mutant::NoSeal) {
                return Err(Error::Failed("the standby is not sealed".to_owned()));
            }
            self.machine.write_disk(true).await?;
            self.machine.with(|inner, _| {
                let Some(dir) = inner.host.server.dir_mut() else {
                    return Err(Error::Failed("there is no data directory".to_owned()));
                };
                let own = dir.control.newest_timeline();
                if without(Mutant::TimelineNotEpoch) {
                    return Ok(());
                }
                fill_below(dir, own, wanted).map_err(Error::Failed)
            })?;
            self.end_sessions(None).await?;
            self.machine.sql(|server, now| server.promote(now, None)).await?;
            let done = |server: &Server, _| match server.status() {
                Ok(status) => (!status.in_recovery).then_some(Ok(())),
                Err(Refused::NotRunning) => Some(Err("the connection is lost".to_owned())),
                Err(_) => None,
            };
            match self.machine.until(PROMOTE, done).await {
                Some(Ok(())) => {}
                Some(Err(why)) => return Err(timed_out(format!("the promotion ({why})"), PROMOTE)),
                None => return Err(timed_out("the promotion", PROMOTE)),
            }
        }
        let found = self.machine.status().await?.timeline;
        let wanted = if without(Mutant::TimelineNotEpoch) { found } else { wanted };
        if found != wanted {
            if status.in_recovery {
                // Two timelines could get this number: nobody may ever see it.
                self.kill_tree().await?;
            }
            return Err(Error::Failed(format!("it was promoted to {found} and not to {wanted}")));
        }
        if status.in_recovery {
            let now = self.machine.now();
            self.end_sessions(Some(now)).await?;
        }
        let inner = self.machine.lock();
        match inner.host.server.dir() {
            Some(dir) if dir.histories.has(wanted) => Ok(lineage_of(dir, wanted)),
            _ => Err(timed_out("the promotion (it has no history)", PROMOTE)),
        }
    }

    /// Ends client sessions, all or those begun before a time.
    async fn end_sessions(&self, before: Option<BootTime>) -> Result<(), Error> {
        self.machine
            .sql(|server, now| {
                let Some(run) = server.run() else { return Err(Refused::NotRunning) };
                let old = |begun: BootTime| before.is_none_or(|before| begun < before);
                let pids: Vec<Pid> =
                    run.sessions.iter().filter(|(_, s)| old(s.begun)).map(|(p, _)| *p).collect();
                for pid in pids {
                    server.terminate(now, pid);
                }
                Ok(())
            })
            .await
    }

    /// Writes the settings of a primary, and waits until every new process has them.
    async fn hold_primary(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        read_only: bool,
    ) -> Result<(), Error> {
        let settings = self.settings(&Role::Primary { epoch, sync, read_only });
        {
            // From the moment that another setting is written, walsenders can have it.
            let mut memory = self.memory();
            memory.refreshed = memory.refreshed.take().filter(|(_, n)| *n == sync.setting());
        }
        self.reconfigure(&settings).await?;
        self.await_in_force(&settings).await
    }

    fn check_sync(&self, sync: &SyncConfig) -> Result<(), Error> {
        let own = sync.members.contains(&self.member);
        let problem = sync.problem().or_else(|| own.then(|| "it names the primary".to_owned()));
        match problem {
            Some(why) => Err(Error::Failed(format!("the configuration {sync} is invalid: {why}"))),
            None => Ok(()),
        }
    }

    pub(super) async fn make_slot(&self, name: &str) -> Result<bool, Error> {
        let made = |server: &mut Server, _| match server.create_slot(name, true) {
            Ok(()) => Ok(true),
            Err(Refused::Exists) => Ok(false),
            Err(why) => Err(why),
        };
        self.machine.sql(made).await
    }

    async fn terminate(&self, pid: Pid) -> Result<(), Error> {
        self.machine
            .sql(|server, now| {
                server.status()?;
                server.terminate(now, pid);
                Ok(())
            })
            .await
    }

    /// Ends the walsenders of a standby, which count with the settings of before.
    async fn end_walsenders(&self) -> Result<(), Error> {
        let old: BTreeSet<Pid> =
            self.machine.status().await?.walsenders.iter().map(|w| w.pid).collect();
        for pid in &old {
            self.terminate(*pid).await?;
        }
        let gone = |server: &Server, _| {
            let status = server.status().ok()?;
            status.walsenders.iter().all(|w| !old.contains(&w.pid)).then_some(())
        };
        let ended = self.machine.until(WALSENDERS, gone).await;
        ended.ok_or_else(|| timed_out("the end of the walsenders of before", WALSENDERS))
    }

    // ---- barrier ----

    pub(super) async fn confirm(
        &self,
        epoch: Epoch,
        sync: &SyncConfig,
        writes_open: bool,
    ) -> Result<i64, Error> {
        let guard = self.running()?;
        self.check_sync(sync)?;
        let status = self.machine.status().await?;
        let nobody_looks = without(Mutant::TimelineNotEpoch);
        if status.in_recovery || (status.timeline != epoch.timeline() && !nobody_looks) {
            let found = status.timeline;
            return Err(Error::Failed(format!("the server writes timeline {found}, not {epoch}")));
        }
        let refreshed = (guard, sync.setting());
        let known = self.memory().refreshed.as_ref() == Some(&refreshed);
        if !known || status.synchronous != refreshed.1 {
            self.hold_primary(epoch, sync, !writes_open).await?;
            for member in &sync.members {
                self.make_slot(&member.slot_name()).await?;
            }
            self.refresh_walsenders(sync).await?;
            // Once for a setting: a retry of the barrier must not cut the standbys off again.
            self.memory().refreshed = Some(refreshed);
        }
        let lsn = self.emit_local().await?;
        let confirmed = |server: &Server, _| {
            let status = server.status().ok()?;
            let confirms = |member: &&MemberName| {
                status.walsenders.iter().any(|w| {
                    // A standby tells the end of its own WAL at once: only one that was sent the
                    // position itself confirms it.
                    let streams = w.state == SenderState::Streaming && w.sent >= lsn;
                    is_of(w, member) && streams && w.flush >= lsn
                })
            };
            let count = sync.members.iter().filter(confirms).count();
            (count >= sync.w as usize).then_some(())
        };
        if self.machine.until(BARRIER, confirmed).await.is_none() {
            // Perhaps the one that is waited for has to be rewound first.
            self.checkpoint_once();
            return Err(timed_out(format!("too few confirmed {lsn}"), BARRIER));
        }
        let status = self.machine.status().await?;
        if status.in_recovery || (status.timeline != epoch.timeline() && !nobody_looks) {
            return Err(Error::Failed("the server is not the primary of this epoch".to_owned()));
        }
        Ok(status.started_us)
    }

    /// Ends every walsender that began before the setting was in force, one by one.
    async fn refresh_walsenders(&self, sync: &SyncConfig) -> Result<(), Error> {
        let wanted = names(sync).map(|n| n.render()).unwrap_or_default();
        let in_force = |server: &Server, now: BootTime| {
            let status = server.status().ok()?;
            (status.synchronous == wanted).then_some(now)
        };
        let end = self.machine.now().plus(BARRIER);
        let Some(loaded) = self.machine.until(BARRIER, in_force).await else {
            return Err(timed_out(format!("{wanted:?} did not come into force"), BARRIER));
        };
        if without(Mutant::WalsendersNotRefreshed) {
            return Ok(());
        }
        let mut ended = BTreeSet::new();
        loop {
            let status = self.machine.status().await?;
            let old: Vec<_> = status.walsenders.into_iter().filter(|w| w.begun <= loaded).collect();
            if old.is_empty() {
                return Ok(());
            }
            if self.machine.now() >= end {
                return Err(timed_out("walsenders with the old setting did not end", BARRIER));
            }
            let Some(next) = old.iter().find(|w| !ended.contains(&w.pid)) else {
                // Until one that was told to end is gone it can release a commit.
                Rt::sleep(POLL).await;
                continue;
            };
            self.terminate(next.pid).await?;
            ended.insert(next.pid);
            let back = |server: &Server, _| {
                let walsenders = server.status().ok()?.walsenders;
                let gone = walsenders.iter().all(|w| w.pid != next.pid);
                let again = walsenders.iter().any(|w| {
                    w.pid != next.pid && w.slot == next.slot && w.state == SenderState::Streaming
                });
                (gone && (next.slot.is_none() || again)).then_some(())
            };
            self.machine.until(RETURN_WAIT, back).await;
        }
    }

    /// Writes one WAL record and flushes it here; returns the position behind it.
    pub(super) async fn emit_local(&self) -> Result<Lsn, Error> {
        self.write_locally(super::machine::STATEMENT).await?;
        Ok(self.machine.status().await?.flushed)
    }

    /// Commits a small record and has it flushed here; it waits for no standby.
    pub(super) async fn write_locally(&self, patience: Duration) -> Result<(), Error> {
        let asked = self.machine.sql(|server, now| {
            let session = server.connect(now, "quorate")?;
            server.set_level(session, quorate_world::pg::Level::Local)?;
            Ok(session)
        });
        let session = asked.await?;
        let machine = self.machine.clone();
        let _end = Ended(machine.clone(), session);
        let done = machine.with(|inner, now| {
            let (ticket, done) = Machine::ticket(inner);
            inner.host.server.emit(now, session, ticket).map(|_| done)
        });
        let done = done.map_err(super::machine::refused)?;
        match Rt::timeout(patience, done).await {
            Ok(Ok(Outcome::Acknowledged)) => Ok(()),
            Ok(_) => Err(Error::NotReady("the connection is lost".to_owned())),
            Err(_) => Err(timed_out("a statement", patience)),
        }
    }

    pub(super) async fn lift_hold(&self, epoch: Epoch, sync: &SyncConfig) -> Result<(), Error> {
        self.running()?;
        self.check_sync(sync)?;
        self.hold_primary(epoch, sync, false).await?;
        self.checkpoint_once();
        Ok(())
    }

    /// The first checkpoint of a primary: a diverged member can judge by `pg_rewind` only after
    /// it. Nobody waits for it.
    fn checkpoint_once(&self) {
        if std::mem::replace(&mut self.memory().checkpointed, true) {
            return;
        }
        let (machine, memory) = (self.machine.clone(), self.shared_memory());
        drop(Rt::spawn(async move {
            if checkpoint(&machine).await.is_err() {
                super::lock(&memory).checkpointed = false;
            }
        }));
    }

    // ---- the orderly stop ----

    pub(super) async fn stop_for(&self, target: &MemberName, asked: &Asked) -> Result<(), Error> {
        self.running()?;
        match Rt::timeout(CHECKPOINT, checkpoint(&self.machine)).await {
            Ok(done) => done?,
            Err(_) => return Err(timed_out("a statement", CHECKPOINT)),
        }
        self.await_standbys(target).await?;
        if !asked() {
            return Err(Error::NotReady("the primary is to go on".to_owned()));
        }
        self.machine.trace(|| format!("it stops in order, for {target}"));
        self.machine.with(|inner, now| inner.host.server.stop(now, Mode::Fast));
        self.await_stop().await
    }

    /// Waits until the target has confirmed a record of now. Standbys that do not answer are cut
    /// off: the stop would wait for them.
    async fn await_standbys(&self, target: &MemberName) -> Result<(), Error> {
        let lsn = self.emit_local().await?;
        let begun = self.machine.now();
        loop {
            let status = self.machine.status().await?;
            let behind: Vec<Pid> =
                status.walsenders.iter().filter(|w| w.flush < lsn).map(|w| w.pid).collect();
            let itself = *target == self.member;
            let reached =
                itself || status.walsenders.iter().any(|w| is_of(w, target) && w.flush >= lsn);
            let waited = self.machine.now().since(begun);
            if reached && (behind.is_empty() || waited >= OTHERS) {
                for pid in behind {
                    self.terminate(pid).await?;
                }
                return Ok(());
            }
            if waited >= TARGET {
                // Nothing has been stopped.
                return Err(Error::Failed(format!("{target} did not confirm {lsn}")));
            }
            Rt::sleep(POLL).await;
        }
    }

    async fn await_stop(&self) -> Result<(), Error> {
        let begun = self.machine.now();
        let mut shut_down_at = None;
        loop {
            if self.ends_within(2 * POLL).await {
                return Ok(());
            }
            let now = self.machine.now();
            if shut_down_at.is_none() {
                let inner = self.machine.lock();
                let done =
                    inner.host.server.dir().is_some_and(|d| d.control.state == State::ShutDown);
                shut_down_at = done.then_some(now);
            }
            let stuck = match shut_down_at {
                Some(at) => now.since(at) >= STANDBYS,
                None => now.since(begun) >= SHUTDOWN,
            };
            if stuck {
                self.machine.trace(|| "the stop is held up: the tree is killed".to_owned());
                return self.kill_and_wait().await;
            }
        }
    }
}

/// `CHECKPOINT`, however long it takes.
pub(super) async fn checkpoint(machine: &Machine) -> Result<(), Error> {
    let asked = machine.with(|inner, now| {
        let (ticket, done) = Machine::ticket(inner);
        inner.host.server.checkpoint(now, ticket).map(|()| done)
    });
    let done = asked.map_err(super::machine::refused)?;
    match done.await {
        Ok(Outcome::Acknowledged) => Ok(()),
        _ => Err(Error::NotReady("the connection is lost".to_owned())),
    }
}

/// Ends a session of our own, also where its task is dropped.
struct Ended(Machine, Pid);

impl Drop for Ended {
    fn drop(&mut self) {
        if quorate_world::exec::is_there() {
            self.0.with(|inner, now| inner.host.server.disconnect(now, self.1));
        }
    }
}
