//! Sealing the running standby, and reading where its log ends.

use std::time::{Duration, Instant};

use super::conf::Role;
use super::error::{self, Result};
use super::{PgDatabase, blocking, lock};
use crate::agent::driver::{Error, Position};
use crate::domain::lineage::{Entry, Lineage};
use crate::domain::state::ClusterSpec;
use crate::domain::types::{Epoch, Lsn, Timeline};
use crate::postgres::connect;
use crate::postgres::history::{self, History};
use crate::postgres::seal;

/// How long a server that does not take connections yet is waited for: a start after a crash takes
/// about that long, and the next look should not come later than needed.
const READY: Duration = Duration::from_secs(2);
/// The first and the longest pause between two looks.
const READY_POLL: Duration = Duration::from_millis(5);
const READY_POLL_MAX: Duration = Duration::from_millis(40);
/// How long a standby may take to come to rest. Measured: 23 to 37 ms.
const SEAL: Duration = Duration::from_secs(3);

/// The lineage of a timeline, from its history; `None` is the history of a first timeline.
pub(super) fn lineage(timeline: Timeline, history: Option<&History>) -> Lineage {
    let mut entries = Vec::new();
    let mut start = Lsn(0);
    for ancestor in history.map(|h| h.entries.as_slice()).unwrap_or_default() {
        entries.push(Entry { epoch: ancestor.timeline.epoch(), start });
        start = ancestor.end;
    }
    entries.push(Entry { epoch: timeline.epoch(), start });
    // An ancestor that was followed but never reached begins behind its own end, and owns nothing.
    let mut bound = Lsn(u64::MAX);
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries.into_iter().rev() {
        if entry.start <= bound {
            bound = entry.start;
            kept.push(entry);
        }
    }
    kept.reverse();
    Lineage(kept)
}

impl PgDatabase {
    pub(super) async fn seal_standby(
        &self,
        promise: Epoch,
        spec: &ClusterSpec,
    ) -> Result<Position> {
        self.running()?;
        // Settings of a follower that are still being written must not land after the seal's.
        lock(&self.memory).settled = None;
        self.settings_turn.write(|| ()).await?;
        let role = Role::Sealed { promised: promise };
        let files = self.files_in_force(role, self.standby_sync(), spec).await?;
        let segment_bytes = self.segment_bytes().await?;
        let mut session = self.take_worker();
        await_ready(&mut session, READY).await?;
        let sealed = seal::seal(
            &mut session,
            &self.settings.layout,
            &self.user,
            &files.settings,
            &files.rules,
            segment_bytes,
            SEAL,
        )
        .await;
        self.worker.put(session);
        let sealed = sealed.map_err(error::seal)?;
        {
            let mut memory = lock(&self.memory);
            memory.following = None;
            memory.installed = Some(files);
        }
        let lineage = self.lineage_of(sealed.timeline).await?;
        Ok(Position { wal_epoch: sealed.timeline.epoch(), lsn: sealed.replay, lineage })
    }

    /// Where each epoch of the data directory's `timeline` begins.
    async fn lineage_of(&self, timeline: Timeline) -> Result<Lineage> {
        let wal = self.settings.layout.wal_dir();
        let history = blocking(move || history::read(&wal, timeline))
            .await?
            .map_err(|e| Error::Failed(e.to_string()))?;
        Ok(lineage(timeline, history.as_ref()))
    }
}

/// Waits until the server takes connections.
async fn await_ready(session: &mut crate::postgres::sql::Session, wait: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut pause = READY_POLL;
    loop {
        match session.query("SELECT 1").await {
            Ok(_) => return Ok(()),
            Err(e @ (connect::Error::CannotConnectNow(_) | connect::Error::Lost(_))) => {
                if begun.elapsed() >= wait {
                    return Err(Error::NotReady(e.to_string()));
                }
            }
            Err(e) => return Err(error::sql(e)),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(READY_POLL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(timeline: u32, text: &str) -> Vec<(u64, u64)> {
        let history = History::parse(Timeline(timeline), text).unwrap();
        let lineage = lineage(Timeline(timeline), Some(&history));
        assert_eq!(lineage.problem(), None);
        lineage.0.iter().map(|e| (e.epoch.0, e.start.0)).collect()
    }

    #[test]
    fn histories_become_lineages() {
        assert_eq!(lineage(Timeline(4), None), Lineage::root(Epoch(4)));
        assert_eq!(parse(5, "1\t0/100\tx\n3\t0/200\tx\n"), [(1, 0), (3, 0x100), (5, 0x200)]);
        // Timeline 3 began at 0x300 and was left at 0x200: it owns nothing.
        assert_eq!(parse(5, "1\t0/300\tx\n3\t0/200\tx\n"), [(1, 0), (5, 0x200)]);
    }
}
