//! Stopping a primary so that another member has everything.
//!
//! Owns the order: nothing is stopped before the target has confirmed a fresh record; what can be
//! slow is done before the stop; a standby that is stuck holds it up for about a second, no more.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::error::{self, Result, timed_out};
use super::{PgDatabase, blocking};
use crate::agent::driver::{Asked, Error, Tree};
use crate::domain::types::{Lsn, MemberName};
use crate::postgres::controldata;
use crate::postgres::sql::Session;
use crate::postgres::status::PrimaryStatus;

/// How long the checkpoint before the stop may take. Clients do not notice it.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// A checkpoint that took longer than this leaves much to write for the next.
const CHECKPOINT_SLOW: Duration = Duration::from_secs(1);
/// How long the target may take to confirm a record before the stop.
const TARGET: Duration = Duration::from_secs(2);
/// How long the others may take to confirm it as well.
const OTHERS: Duration = Duration::from_millis(500);
/// How long the server may take to write its last checkpoint. Measured: 70 to 650 ms.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long it then waits for its standbys.
const STANDBYS: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(2);

impl PgDatabase {
    pub(super) async fn stop_for(&self, target: &MemberName, asked: &Asked) -> Result<()> {
        let client = self.running()?;
        let mut session = self.take_worker();
        let begun = Instant::now();
        session.checkpoint(CHECKPOINT).await.map_err(error::sql)?;
        if begun.elapsed() > CHECKPOINT_SLOW {
            session.checkpoint(CHECKPOINT).await.map_err(error::sql)?;
        }
        self.await_standbys(&mut session, target).await?;
        if !asked() {
            // All this took long: the operation has ended meanwhile, and so the primary goes on.
            self.worker.put(session);
            return Err(Error::NotReady("the primary is to go on".to_owned()));
        }
        // Our own sessions would only be ended by the stop.
        drop(session);
        client.signal(libc::SIGINT).await.map_err(error::guard)?;
        info!(%target, "PostgreSQL stops in order");
        self.await_stop().await
    }

    /// Waits until the target has confirmed a record of now. Standbys that do not answer are cut
    /// off: the stop would wait for them.
    async fn await_standbys(&self, session: &mut Session, target: &MemberName) -> Result<()> {
        let lsn = session.emit_local().await.map_err(error::sql)?;
        let slot = target.slot_name();
        let begun = Instant::now();
        loop {
            let status = session.primary_status().await.map_err(error::sql)?;
            let behind = behind(&status, lsn);
            // One that restarts has everything itself; the others get what they can.
            let itself = *target == self.settings.member;
            let reached = itself
                || status.walsenders.iter().any(|w| {
                    w.slot.as_deref() == Some(slot.as_str())
                        && w.application_name == target.as_str()
                        && w.flush.is_some_and(|f| f >= lsn)
                });
            if reached && (behind.is_empty() || begun.elapsed() >= OTHERS) {
                for pid in behind {
                    warn!(pid, "a standby does not answer: its walsender is ended");
                    session.terminate_walsender(pid).await.map_err(error::sql)?;
                }
                return Ok(());
            }
            if begun.elapsed() >= TARGET {
                // Nothing has been stopped.
                return Err(Error::Failed(format!(
                    "{target} did not confirm {lsn} within {} s, so nothing was stopped",
                    TARGET.as_secs()
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn await_stop(&self) -> Result<()> {
        let begun = Instant::now();
        let mut shut_down_at = None;
        let mut tree = self.tree.subscribe();
        loop {
            let ended = tree.wait_for(|t| *t != Tree::Running);
            if tokio::time::timeout(POLL * 2, ended).await.is_ok() {
                return Ok(());
            }
            if shut_down_at.is_none() {
                let pgdata = self.settings.layout.pgdata.clone();
                let done = blocking(move || controldata::is_shut_down(&pgdata)).await?;
                // Unreadable is not "done": then the longer bound counts.
                shut_down_at = done.unwrap_or(false).then(Instant::now);
            }
            let stuck = match shut_down_at {
                Some(at) => at.elapsed() >= STANDBYS,
                None => begun.elapsed() >= SHUTDOWN,
            };
            if stuck {
                warn!("a standby or the disk holds the stop up: the process tree is killed");
                return self.kill_and_wait().await.map_err(|e| match e {
                    Error::TimedOut { .. } => timed_out("the stop", SHUTDOWN),
                    other => other,
                });
            }
        }
    }
}

/// The walsenders whose other side has not confirmed `lsn`.
fn behind(status: &PrimaryStatus, lsn: Lsn) -> Vec<i32> {
    let standby = |state: &str| state != "backup";
    status
        .walsenders
        .iter()
        .filter(|w| standby(&w.state) && w.flush.is_none_or(|f| f < lsn))
        .map(|w| w.pid)
        .collect()
}
