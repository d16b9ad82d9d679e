//! What a server shows of itself: its views and functions, in one value.

use crate::domain::types::{BootTime, Lsn, Timeline};

use super::base::{Pid, Refused};
use super::receiver::ReceiverState;
use super::sender::SenderState;
use super::server::{Phase, Run, Server};
use super::startup::Source;

/// A row of `pg_stat_replication`, with the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walsender {
    /// Its process.
    pub pid: Pid,
    /// What the other side calls itself.
    pub name: String,
    /// The slot that it holds.
    pub slot: Option<String>,
    /// What it does.
    pub state: SenderState,
    /// Its priority as a synchronous standby, as it computed it.
    pub priority: u32,
    /// Sent to here.
    pub sent: Lsn,
    /// Written there.
    pub write: Lsn,
    /// Flushed there.
    pub flush: Lsn,
    /// Applied there.
    pub apply: Lsn,
    /// When it was begun.
    pub begun: BootTime,
}

/// What a server shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// The timeline that it writes, or replays.
    pub timeline: Timeline,
    /// Flushed to here: what a primary wrote, what a standby received or had.
    pub flushed: Lsn,
    /// `pg_last_wal_replay_lsn()`; on a primary where its log ends.
    pub replay: Lsn,
    /// `pg_last_wal_receive_lsn()`.
    pub receive: Option<Lsn>,
    /// Whether there is a walreceiver.
    pub has_receiver: bool,
    /// The timeline that it streams, while it is connected.
    pub streaming: Option<Timeline>,
    /// How far what it streams from was when it last said so.
    pub primary_end: Option<Lsn>,
    /// Whether the startup process has found no more WAL, and waits to look again.
    pub rests: bool,
    /// Whether replay is paused.
    pub paused: bool,
    /// `synchronous_standby_names` as the postmaster has it.
    pub synchronous: String,
    /// `default_transaction_read_only` as the postmaster has it.
    pub read_only: bool,
    /// What the product says that it is for.
    pub role: String,
    /// And in which epoch.
    pub epoch: u64,
    /// Start of the postmaster, in microseconds since 1970.
    pub started_us: i64,
    /// When the postmaster read its settings last.
    pub loaded_at: BootTime,
    /// The commits that wait for standbys.
    pub waiting: Vec<Lsn>,
    /// Its walsenders.
    pub walsenders: Vec<Walsender>,
}

fn walsenders(run: &Run) -> Vec<Walsender> {
    let shown = |(pid, s): (&Pid, &super::sender::Sender)| Walsender {
        pid: *pid,
        name: s.name.clone(),
        slot: s.slot.clone(),
        state: s.state,
        priority: s.priority,
        sent: s.sent,
        write: s.write,
        flush: s.flush,
        apply: s.apply,
        begun: s.begun,
    };
    run.senders.iter().map(shown).collect()
}

impl Server {
    /// What it shows to whoever asks.
    ///
    /// # Errors
    /// It does not run, or takes no statements now.
    pub fn status(&self) -> Result<Status, Refused> {
        let run = self.run().ok_or(Refused::NotRunning)?;
        if self.stopped().all {
            return Err(Refused::Silent);
        }
        match run.phase {
            Phase::Starting { .. } | Phase::Recovering => return Err(Refused::Starting),
            Phase::Stopping(_) => return Err(Refused::ShuttingDown),
            Phase::Standby | Phase::Primary => {}
        }
        let conf = &run.postmaster.conf;
        let receive = run.received.map(|(_, lsn)| lsn);
        let startup = run.startup.as_ref();
        let connected = run.receiver.as_ref().filter(|r| r.state == ReceiverState::Connected);
        let replay = startup.map_or(run.log.flushed, |s| s.replay);
        Ok(Status {
            in_recovery: startup.is_some(),
            timeline: startup.map_or(run.log.timeline, |s| s.replay_timeline),
            flushed: match startup {
                Some(_) => receive.map_or(replay, |r| r.max(replay)),
                None => run.log.flushed,
            },
            replay,
            receive,
            has_receiver: run.receiver.is_some(),
            streaming: connected.map(|r| r.timeline),
            primary_end: connected.and_then(|r| r.primary_end),
            rests: startup
                .is_some_and(|s| matches!(s.source, Source::Sleeping { .. }) && !s.paused),
            paused: startup.is_some_and(|s| s.paused),
            synchronous: conf.synchronous.as_ref().map(|s| s.render()).unwrap_or_default(),
            read_only: conf.read_only,
            role: conf.role.clone(),
            epoch: conf.epoch,
            started_us: run.postmaster.started_us,
            loaded_at: run.postmaster.loaded_at,
            waiting: run.sync.waiting().map(|(lsn, _)| lsn).collect(),
            walsenders: walsenders(run),
        })
    }
}
