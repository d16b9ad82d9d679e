//! Whether the server works: three questions, each with its own deadline.
//!
//! Owns the questions and their outcomes; what follows from them is decided elsewhere. One alone
//! does not tell: a stopped postmaster answers on old connections and not on new ones, a frozen
//! file system answers SELECT on both and never commits.

use std::time::Duration;

use super::connect::{Connection, Error, Target};
use super::sql::Session;

/// How a question was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not within the deadline.
    TimedOut,
    /// The server has no connection left, but it is alive.
    TooManyConnections,
    /// Refused, or the connection broke.
    Refused(String),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Deadline(_) => Self::TimedOut,
            Error::TooManyConnections(_) => Self::TooManyConnections,
            other => Self::Refused(other.to_string()),
        }
    }
}

impl<T> From<Result<T, Error>> for Outcome {
    fn from(result: Result<T, Error>) -> Self {
        result.map_or_else(Self::from, |_| Self::Ok)
    }
}

/// Asks on a connection that is open already; it is opened only where there is none.
pub async fn held(session: &mut Session, deadline: Duration) -> Outcome {
    session.query_within("SELECT 1", deadline).await.into()
}

/// Opens a connection, asks on it and closes it.
pub async fn fresh(target: &Target, deadline: Duration) -> Outcome {
    let ask = async {
        let connection = Connection::open(target, deadline).await?;
        connection.query("SELECT 1", deadline).await
    };
    match tokio::time::timeout(deadline, ask).await {
        Ok(answer) => answer.into(),
        Err(_) => Outcome::TimedOut,
    }
}

/// Commits a small record and has it flushed here; it waits for no standby. On a standby, which
/// cannot write, it asks what was replayed.
pub async fn write(session: &mut Session, deadline: Duration) -> Outcome {
    // Transactional: a commit without a transaction id is not flushed.
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
               ELSE pg_logical_emit_message(true, 'quorate', 'probe') END";
    session.query_within(sql, deadline).await.into()
}
