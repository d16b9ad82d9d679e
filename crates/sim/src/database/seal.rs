//! Sealing the running standby, and reading where its log ends.

use std::time::Duration;

use quorate_world::pg::{DataDir, History, Server, Status};

use super::SimDatabase;
use super::machine::{refused, timed_out};
use super::settings::{Role, SEALED_RETRY};
use crate::Rt;
use crate::agent::driver::{Error, Position};
use crate::domain::lineage::{Entry, Lineage};
use crate::domain::mutant::{Mutant, without};
use crate::domain::types::{Epoch, Lsn, Timeline};
use crate::raft::AsyncRuntime as _;

/// How long a server that does not take connections yet is waited for.
const READY: Duration = Duration::from_secs(2);
/// How long a standby may take to come to rest.
const SEAL: Duration = Duration::from_secs(3);

/// The lineage of a timeline, from its history.
pub(super) fn lineage(history: &History) -> Lineage {
    let mut bound = Lsn(u64::MAX);
    let mut kept: Vec<Entry> = Vec::new();
    for (timeline, start) in history.newest_first() {
        // An ancestor that was followed but never reached begins behind its own end.
        if start <= bound {
            bound = start;
            kept.push(Entry { epoch: timeline.epoch(), start });
        }
    }
    kept.reverse();
    Lineage(kept)
}

/// Where each epoch of a data directory's `timeline` begins.
pub(super) fn lineage_of(dir: &DataDir, timeline: Timeline) -> Lineage {
    lineage(&dir.history(timeline))
}

impl SimDatabase {
    pub(super) async fn seal_standby(&self, promise: Epoch) -> Result<Position, Error> {
        self.running()?;
        self.memory().settled = None;
        let settings = self.settings(&Role::Sealed(promise));
        self.await_ready(READY).await?;
        self.machine.write_disk(true).await?;
        self.machine.with(|inner, _| inner.host.server.write_conf(settings.clone()));
        self.machine
            .sql(|server, now| {
                server.reload(now);
                Ok(())
            })
            .await?;
        let replay = self.settle(promise).await?;
        {
            let mut memory = self.memory();
            memory.following = None;
            memory.installed = Some(settings);
        }
        let inner = self.machine.lock();
        let Some(dir) = inner.host.server.dir() else {
            return Err(Error::Failed("there is no data directory".to_owned()));
        };
        let Some(timeline) = dir.wal.newest_timeline_at(replay) else {
            return Err(Error::Failed(format!("no WAL segment holds the bytes before {replay}")));
        };
        let lineage = lineage_of(dir, timeline);
        let wal_epoch = match without(Mutant::FollowedEpochCounts) {
            true => timeline.epoch().max(inner.files.followed),
            false => timeline.epoch(),
        };
        drop(inner);
        self.machine.trace(|| format!("it is sealed for epoch {promise} at {replay}"));
        Ok(Position { wal_epoch, lsn: replay, lineage })
    }

    /// Waits until the standby rests: it has no receiver, and its startup process has looked for
    /// more WAL twice, in vain.
    async fn settle(&self, promise: Epoch) -> Result<Lsn, Error> {
        let end = self.machine.now().plus(SEAL);
        loop {
            let left = end.since(self.machine.now());
            let seen = self.machine.until(left, |server, _| rests(server, promise));
            let Some(seen) = seen.await else { return Err(timed_out("the seal", SEAL)) };
            match seen? {
                Rest::Held => {
                    // Replay is paused, or a session holds it up: it is ended.
                    self.machine.with(|inner, now| inner.host.server.pause_replay(now, false));
                }
                Rest::At(before) => {
                    Rt::sleep(2 * SEALED_RETRY + Duration::from_millis(4)).await;
                    let again = rests(&self.machine.lock().host.server, promise);
                    if let Some(Ok(Rest::At(now))) = again
                        && (now == before || without(Mutant::NoSeal))
                    {
                        return Ok(now);
                    }
                }
            }
        }
    }

    /// Waits until the server takes connections.
    async fn await_ready(&self, wait: Duration) -> Result<(), Error> {
        let ready = |server: &Server, _| match server.status() {
            Ok(_) => Some(Ok(())),
            // Nobody answers a new connection.
            Err(_) if server.stopped().postmaster => Some(Err(quorate_world::pg::Refused::Silent)),
            Err(
                quorate_world::pg::Refused::Starting
                | quorate_world::pg::Refused::ShuttingDown
                | quorate_world::pg::Refused::NotRunning,
            ) => None,
            Err(why) => Some(Err(why)),
        };
        match self.machine.until(wait, ready).await {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => {
                Rt::sleep(super::machine::STATEMENT).await;
                Err(refused(why))
            }
            None => Err(Error::NotReady("the database system is starting up".to_owned())),
        }
    }
}

enum Rest {
    Held,
    At(Lsn),
}

/// What a standby that is to be sealed is seen to do; `None` where it does not rest yet.
fn rests(server: &Server, promise: Epoch) -> Option<Result<Rest, Error>> {
    let Status { in_recovery, role, epoch, has_receiver, rests, paused, replay, .. } =
        server.status().ok()?;
    if !in_recovery {
        let why = "the server is a primary and cannot be sealed while it runs";
        return Some(Err(Error::Failed(why.to_owned())));
    }
    if role != "sealed" || epoch != promise.0 {
        return None;
    }
    if paused {
        return Some(Ok(Rest::Held));
    }
    let unsealed = without(Mutant::NoSeal);
    (unsealed || (!has_receiver && rests)).then_some(Ok(Rest::At(replay)))
}
