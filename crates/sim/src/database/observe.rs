//! What PostgreSQL says of itself, and whether it does its work.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_world::pg::sender::SenderState;
use quorate_world::pg::{Refused, Server, Status};

use super::SimDatabase;
use super::machine::STATEMENT;
use super::remote::Remote;
use crate::Rt;
use crate::agent::driver::{Error, RunRole, Seen};
use crate::domain::health::{Activity, Answer, Question, Vitals};
use crate::domain::observation::StandbyProgress;
use crate::domain::types::{BootTime, Lsn, MemberName};
use crate::raft::AsyncRuntime as _;

/// How long a standby may wait for WAL without getting any before its primary is asked why.
const SILENT: Duration = Duration::from_secs(1);
/// How often in a row a standby must be seen to stream until it is believed.
const STREAMING_SEEN_MIN: u32 = 3;
/// How often the primary is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long the primary may take to answer.
const ASK: Duration = Duration::from_millis(600);

/// What the running standby follows, and how that goes: as in production's `observe.rs`.
#[derive(Debug, Clone)]
pub(super) struct Following {
    address: String,
    /// Since when it is followed.
    pub begun: BootTime,
    silent_since: BootTime,
    replay: Lsn,
    seen_streaming: u32,
    asked: Option<BootTime>,
    lacks: Option<String>,
}

impl Following {
    pub fn new(address: &str, now: BootTime) -> Self {
        Self {
            address: address.to_owned(),
            begun: now,
            silent_since: now,
            replay: Lsn(0),
            seen_streaming: 0,
            asked: None,
            lacks: None,
        }
    }

    pub fn of_run(role: &RunRole, now: BootTime) -> Option<Self> {
        match role {
            RunRole::Following { address, .. } => Some(Self::new(address, now)),
            _ => None,
        }
    }
}

impl SimDatabase {
    pub(super) async fn see(&self) -> Result<Seen, Error> {
        self.running()?;
        let status = self.machine.sql(|server, _| Ok(server.status())).await?;
        let status = match status {
            Ok(status) => status,
            Err(Refused::Starting | Refused::ShuttingDown) => return Ok(Seen::Starting),
            Err(why) => return Err(super::machine::refused(why)),
        };
        self.memory().known_primary = !status.in_recovery;
        if status.in_recovery {
            return Ok(self.seen_standby(&status).await);
        }
        let confirmed = self.memory().refreshed.as_ref().map(|(_, names)| names.clone());
        Ok(seen_primary(&status, confirmed.as_deref()))
    }

    async fn seen_standby(&self, status: &Status) -> Seen {
        let (replay, flushed, streaming) = (status.replay, status.flushed, status.streaming);
        let lacks_wal = match streaming {
            Some(_) => {
                let now = self.machine.now();
                if let Some(following) = &mut self.memory().following {
                    following.seen_streaming = following.seen_streaming.saturating_add(1);
                    if following.seen_streaming >= STREAMING_SEEN_MIN {
                        following.silent_since = now;
                        following.lacks = None;
                    }
                }
                None
            }
            None => self.lacks_wal(status.rests, replay, flushed).await,
        };
        Seen::Standby { replay, flushed, streaming, lacks_wal, primary_end: status.primary_end }
    }

    /// Asks the primary, from time to time, whether it can still serve a standby that has flushed
    /// to `flushed`.
    async fn lacks_wal(&self, awaits: bool, replay: Lsn, flushed: Lsn) -> Option<String> {
        let now = self.machine.now();
        let address = {
            let mut memory = self.memory();
            let following = memory.following.as_mut()?;
            following.seen_streaming = 0;
            if replay != following.replay {
                following.replay = replay;
                following.silent_since = now;
            }
            let due = following.asked.is_none_or(|at| now.since(at) >= ASK_EVERY);
            if now.since(following.silent_since) < SILENT || !due || !awaits {
                return following.lacks.clone();
            }
            following.asked = Some(now);
            following.address.clone()
        };
        let lacks = self.ask_for_wal(&address, flushed).await.ok().flatten();
        if let Some(following) = &mut self.memory().following
            && following.address == address
        {
            following.lacks.clone_from(&lacks);
        }
        lacks
    }

    async fn ask_for_wal(&self, address: &str, flushed: Lsn) -> Result<Option<String>, Error> {
        let remote = Remote::new(&self.machine, address);
        let Some((writes, end)) = remote.place(ASK).await?.writes else { return Ok(None) };
        let own = {
            let inner = self.machine.lock();
            inner.host.server.dir().and_then(|dir| dir.wal.newest_timeline_at(flushed))
        };
        if let Some(own) = own.filter(|own| *own > writes) {
            return Ok(Some(format!(
                "its log is of timeline {own}, and {address} writes {writes}"
            )));
        }
        let segment = quorate_world::pg::wal::SEGMENT;
        let segment_end = flushed.0 - flushed.0 % segment + segment;
        if end.0 >= segment_end && !remote.has_wal(flushed, ASK).await? {
            return Ok(Some(format!("{address} does not have WAL of {flushed} any more")));
        }
        Ok(None)
    }

    // ---- health ----

    pub(super) async fn ask_question(&self, question: Question, patience: Duration) -> Answer {
        if let Err(e) = self.running() {
            return Answer::Refused(e.to_string());
        }
        match question {
            Question::Held => {
                let flushed = |server: &Server| {
                    server.status().ok().filter(|s| !s.in_recovery).map(|s| s.flushed)
                };
                self.probe(patience, |stopped| stopped.all, flushed).await
            }
            Question::New => {
                self.probe(patience, |stopped| stopped.all || stopped.postmaster, |_| None).await
            }
            Question::Write => self.ask_write(patience).await,
        }
    }

    async fn probe(
        &self,
        patience: Duration,
        silent: impl Fn(quorate_world::pg::Stopped) -> bool,
        flushed: impl Fn(&Server) -> Option<Lsn>,
    ) -> Answer {
        self.machine.lag((100, 1_000)).await;
        let answers = |server: &Server, _| (!silent(server.stopped())).then_some(());
        if self.machine.until(patience, answers).await.is_none() {
            return Answer::TimedOut;
        }
        let inner = self.machine.lock();
        match inner.host.server.status() {
            Ok(_) => Answer::Ok { flushed: flushed(&inner.host.server) },
            Err(why) => Answer::Refused(why.to_string()),
        }
    }

    async fn ask_write(&self, patience: Duration) -> Answer {
        match self.machine.status().await {
            // A standby cannot write: it is asked what was replayed.
            Ok(status) if status.in_recovery => return Answer::Ok { flushed: None },
            Ok(_) => {}
            Err(Error::TimedOut { .. }) => {
                Rt::sleep(patience.saturating_sub(STATEMENT)).await;
                return Answer::TimedOut;
            }
            Err(e) => return Answer::Refused(e.to_string()),
        }
        match self.write_locally(patience).await {
            Ok(()) => Answer::Ok { flushed: None },
            Err(Error::TimedOut { .. }) => Answer::TimedOut,
            Err(e) => Answer::Refused(e.to_string()),
        }
    }

    pub(super) async fn see_vitals(&self) -> Vitals {
        self.machine.lag((50, 500)).await;
        let mut inner = self.machine.lock();
        if inner.host.server.run().is_none() {
            return Vitals::UNKNOWN;
        }
        let (stopped, disk) = (inner.host.server.stopped(), inner.host.server.env().disk);
        // A process that gets to run does a little work from time to time.
        inner.work += 1;
        let work = inner.work;
        let seen = |stopped: bool| match stopped {
            true => Activity::Stopped,
            false => Activity::Waits { work, for_disk: false },
        };
        let writer = match (stopped.all, disk.hung) {
            (true, _) => Activity::Stopped,
            (false, true) => Activity::Waits { work: 0, for_disk: true },
            (false, false) => Activity::Waits { work, for_disk: false },
        };
        Vitals {
            postmaster: seen(stopped.all || stopped.postmaster),
            newborns: Vec::new(),
            held: seen(stopped.all),
            writer,
            disk_writes: Some(if disk.hung { 0 } else { work }),
        }
    }

    pub(super) fn see_checkpointer(&self) -> (Activity, bool) {
        let mut inner = self.machine.lock();
        if inner.host.server.run().is_none() {
            return (Activity::Unknown, false);
        }
        let (stopped, disk) = (inner.host.server.stopped(), inner.host.server.env().disk);
        inner.work += 1;
        let activity = match (stopped.all || stopped.checkpointer, disk.hung) {
            (true, _) => Activity::Stopped,
            (false, true) => Activity::Waits { work: 0, for_disk: true },
            (false, false) => Activity::Waits { work: inner.work, for_disk: false },
        };
        (activity, false)
    }
}

/// Standbys are found by the slots that they hold: what they call themselves proves nothing.
fn seen_primary(status: &Status, confirmed: Option<&str>) -> Seen {
    let mut standbys = BTreeMap::new();
    for walsender in &status.walsenders {
        let Ok(member) = MemberName::new(walsender.name.clone()) else { continue };
        if walsender.slot.as_deref() != Some(member.slot_name().as_str()) {
            continue;
        }
        let progress = StandbyProgress {
            streaming: walsender.state == SenderState::Streaming,
            flushed: walsender.flush,
            replayed: walsender.apply,
        };
        standbys.insert(member, progress);
    }
    let found = &status.synchronous;
    let drift = confirmed.filter(|names| names != found).map(|names| {
        format!("synchronous_standby_names is {found:?} and has to be {names:?}: it is put right")
    });
    Seen::Primary { flushed: status.flushed, standbys, drift }
}
