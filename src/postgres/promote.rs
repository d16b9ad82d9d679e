//! The promotion of a sealed standby to the timeline whose number is its epoch.
//!
//! Owns the sequence inside PostgreSQL. Before it the caller has, in this order: the grant, the
//! first renewal in the new epoch, and the settings of [`super::conf::Role::Primary`] with
//! `read_only` written and reloaded. After it: the barrier.

use std::path::PathBuf;
use std::time::Duration;

use super::connect;
use super::files;
use super::history::{self, History};
use super::layout::Layout;
use super::os_user::OsUser;
use super::sql::Session;
use crate::domain::types::{Epoch, Lsn, Timeline};

/// How often the server is asked whether recovery has ended.
const POLL: Duration = Duration::from_millis(1);

/// Why there was no promotion, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is a primary already, of another timeline.
    #[error("the server is a primary already, on timeline {found}")]
    AlreadyPrimary {
        /// Its timeline.
        found: Timeline,
    },
    /// It still takes WAL.
    #[error("the standby is not sealed: its walreceiver is there")]
    NotSealed,
    /// PostgreSQL took another number. The server must be killed: two timelines could get the
    /// same number.
    #[error("the server was promoted to timeline {found} and not to {wanted}")]
    WrongTimeline {
        /// The number that it took.
        found: Timeline,
        /// The number of the epoch.
        wanted: Timeline,
    },
    /// There is no history file of the new timeline.
    #[error("timeline {timeline} has no history file {}", path.display())]
    NoHistory {
        /// The new timeline.
        timeline: Timeline,
        /// The file.
        path: PathBuf,
    },
    /// It took too long. Whether the server is a primary now is unknown.
    #[error("the promotion did not end within {0:?}")]
    Deadline(Duration),
    /// The history files could not be prepared.
    #[error(transparent)]
    History(#[from] history::Error),
    /// The server did not answer as needed.
    #[error(transparent)]
    Sql(#[from] connect::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The postmaster could not be signalled.
    #[error("the postmaster {pid} cannot be signalled: {source}")]
    Signal {
        /// Its process id.
        pid: i32,
        /// The system's answer.
        source: nix::Error,
    },
}

impl Error {
    /// Whether the server may be a primary now.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Deadline(_) | Self::WrongTimeline { .. } | Self::NoHistory { .. } => true,
            Self::Sql(error) => error.is_unknown(),
            _ => false,
        }
    }
}

/// A promoted server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline: the epoch's number, verified.
    pub timeline: Timeline,
    /// Where it begins.
    pub start: Lsn,
    /// Its ancestors.
    pub history: History,
    /// The history files that were written for it, true ones and placeholders. Where archiving is
    /// on, see [`history::mark_for_archive`].
    pub placeholders: Vec<Timeline>,
}

/// Promotes the sealed standby to the timeline of `epoch`. Called again after it has succeeded it
/// only reports. Sessions older than the promotion are ended, except our own.
pub async fn promote(
    session: &mut Session,
    layout: &Layout,
    user: &OsUser,
    epoch: Epoch,
    deadline: Duration,
) -> Result<Promoted, Error> {
    let work = run(session, layout, user, epoch.timeline());
    match tokio::time::timeout(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            session.close();
            Err(Error::Deadline(deadline))
        }
    }
}

async fn run(
    session: &mut Session,
    layout: &Layout,
    user: &OsUser,
    wanted: Timeline,
) -> Result<Promoted, Error> {
    let wal = layout.wal_dir();
    let status = session.standby_status().await?;
    let mut placeholders = Vec::new();
    if status.in_recovery {
        if status.has_receiver {
            return Err(Error::NotSealed);
        }
        placeholders = history::fill_below(&wal, status.control_timeline, wanted, user)?;
        session.terminate_clients(None).await?;
        session.request_promotion().await?;
        while session.is_in_recovery().await? {
            tokio::time::sleep(POLL).await;
        }
    }
    let found = session.current_timeline().await?;
    if found != wanted {
        return Err(if status.in_recovery {
            Error::WrongTimeline { found, wanted }
        } else {
            Error::AlreadyPrimary { found }
        });
    }
    if status.in_recovery {
        // Those that came between the first look and the end of recovery.
        let now = session.server_time_us().await?;
        while session.terminate_clients(Some(now)).await? > 0 {
            tokio::time::sleep(POLL).await;
        }
    }
    let Some(history) = history::read(&wal, wanted)? else {
        let path = wal.join(history::file_name(wanted));
        return Err(Error::NoHistory { timeline: wanted, path });
    };
    Ok(Promoted { timeline: wanted, start: history.start(), history, placeholders })
}

/// Asks for a promotion without SQL, for when sessions hang: the file that the postmaster looks
/// for at SIGUSR1 (PostgreSQL's `PROMOTE_SIGNAL_FILE`). `postmaster` is its process id as seen
/// from here. The placeholders must have been written.
pub fn promote_by_signal(layout: &Layout, user: &OsUser, postmaster: i32) -> Result<(), Error> {
    files::write_atomic(&layout.pgdata.join("promote"), b"", 0o600, user)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(postmaster), nix::sys::signal::SIGUSR1)
        .map_err(|source| Error::Signal { pid: postmaster, source })
}
