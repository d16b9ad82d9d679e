//! The seal: after it a standby takes no WAL of an older epoch, and its position is final.
//!
//! Owns the procedure on a running standby. The promise of the epoch was made durable before, by
//! the caller. The position is what was *replayed*: what was received can stay ahead of it for
//! ever, when the sender was cut off inside a record. Where the deadline passes, the caller kills
//! the process tree and starts the server sealed.

use std::time::{Duration, Instant};

use super::conf::{Role, SEALED_RETRY_MS, Settings};
use super::connect;
use super::hba::Rules;
use super::layout::Layout;
use super::os_user::OsUser;
use super::sql::Session;
use super::start::{self, ServerIs};
use super::status::StandbyStatus;
use super::wal;
use crate::domain::types::{Lsn, Timeline};

/// How often the standby is looked at.
const POLL: Duration = Duration::from_millis(2);

/// For how long replay must rest: two of the startup process's looks for more.
const REST: Duration = Duration::from_millis(2 * SEALED_RETRY_MS as u64);

/// Least number of times that the startup process must have been seen waiting meanwhile.
const WAITS_SEEN_MIN: u32 = 4;

/// Why a standby is not sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was not a standby.
    #[error("the server is a primary and cannot be sealed while it runs")]
    Primary,
    /// The settings given were not those of a sealed server.
    #[error("the settings given are not those of a sealed server")]
    NotSealed,
    /// It did not come to rest.
    #[error("the standby did not come to rest within {deadline:?}: {state}")]
    Deadline {
        /// The time it had.
        deadline: Duration,
        /// What it was seen to do last.
        state: String,
    },
    /// The settings could not be written.
    #[error(transparent)]
    Start(#[from] start::Error),
    /// The server did not answer as needed.
    #[error(transparent)]
    Sql(#[from] connect::Error),
    /// The timeline of its position is not known.
    #[error(transparent)]
    Wal(#[from] wal::Error),
}

/// A sealed standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// All WAL that it has ends here.
    pub replay: Lsn,
    /// The timeline that wrote the last byte before that: its number is the last WAL epoch.
    pub timeline: Timeline,
}

/// Seals the running standby, or confirms that it is sealed. `settings` have [`Role::Sealed`]. May
/// be called again at any time.
pub async fn seal(
    session: &mut Session,
    layout: &Layout,
    user: &OsUser,
    settings: &Settings,
    rules: &Rules,
    segment_bytes: u64,
    deadline: Duration,
) -> Result<Sealed, Error> {
    let Role::Sealed { promised } = settings.role else { return Err(Error::NotSealed) };
    let installed = start::install(layout, user, settings, rules, ServerIs::Running)?;
    let mut last = None;
    let work = async {
        for name in &installed.overridden {
            // ALTER SYSTEM has precedence over our file: it would defeat the seal.
            session.reset_system_setting(name).await?;
        }
        session.reload().await?;
        settle(session, promised.0, &mut last).await
    };
    let replay = match tokio::time::timeout(deadline, work).await {
        Ok(settled) => settled?,
        Err(_) => {
            // The connection may be in the middle of a statement.
            session.close();
            let state = last.map_or("no answer".to_owned(), |s: StandbyStatus| describe(&s));
            return Err(Error::Deadline { deadline, state });
        }
    };
    let timeline = wal::newest_timeline_at(&layout.wal_dir(), replay, segment_bytes)?;
    Ok(Sealed { replay, timeline })
}

/// Waits until the standby rests. Dropped at the deadline.
async fn settle(
    session: &mut Session,
    promised: u64,
    last: &mut Option<StandbyStatus>,
) -> Result<Lsn, Error> {
    // The position, since when it stands, and how often the startup process was seen waiting.
    let mut rest: Option<(Lsn, Instant, u32)> = None;
    loop {
        let status = session.standby_status().await?;
        if !status.in_recovery {
            return Err(Error::Primary);
        }
        // The postmaster signals the startup process with the same reload as our own backend.
        let reloaded = status.role.as_deref() == Some("sealed") && status.epoch == Some(promised);
        if reloaded && status.replay_paused {
            session.resume_replay().await?;
        }
        if reloaded && holds_replay_up(&status) {
            session.terminate_transactions().await?;
        }
        let waits = status.startup_wait.as_deref() == Some("RecoveryRetrieveRetryInterval");
        rest = match (status.replay, rest) {
            (Some(replay), Some((at, since, seen)))
                if reloaded && !status.has_receiver && replay == at =>
            {
                Some((at, since, seen + u32::from(waits)))
            }
            (Some(replay), _) if reloaded && !status.has_receiver && waits => {
                Some((replay, Instant::now(), 1))
            }
            _ => None,
        };
        *last = Some(status);
        match rest {
            Some((at, since, seen))
                if waits && seen >= WAITS_SEEN_MIN && since.elapsed() >= REST =>
            {
                return Ok(at);
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Whether the startup process waits for a session: for a lock, a snapshot, a pinned buffer or a
/// tablespace in use (PostgreSQL manual, section 27.4.2).
fn holds_replay_up(status: &StandbyStatus) -> bool {
    let event = status.startup_wait.as_deref().unwrap_or_default();
    matches!(status.startup_wait_type.as_deref(), Some("Lock" | "BufferPin"))
        || event.starts_with("RecoveryConflict")
}

fn describe(status: &StandbyStatus) -> String {
    format!(
        "replayed to {}, walreceiver {}, startup process waits for {}, settings of {} {}",
        status.replay.map_or("nothing".to_owned(), |l| l.to_string()),
        if status.has_receiver { "present" } else { "gone" },
        status.startup_wait.as_deref().unwrap_or("nothing"),
        status.role.as_deref().unwrap_or("nobody"),
        status.epoch.map_or("-".to_owned(), |e| e.to_string()),
    )
}
