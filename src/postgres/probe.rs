//! Whether the server works: three questions, each with its own deadline.
//!
//! Owns the questions and their outcomes; what follows from them is decided elsewhere. One alone
//! does not tell: a stopped postmaster answers on old connections and not on new ones, a frozen
//! file system answers SELECT on both and never commits.

use std::time::Duration;

use super::connect::{Connection, Error, Row, Target};
use super::sql::Session;
use crate::domain::types::Lsn;

/// How a question was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not within the deadline.
    TimedOut,
    /// The server has no connection left for ordinary clients, but it is alive.
    TooManyConnections,
    /// Refused, or the connection broke.
    Refused(String),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            // It would not have been taken in time.
            Error::Deadline(_) | Error::QueueFull => Self::TimedOut,
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

/// Asks on a connection that is open already; it is opened only where there is none. Returns how
/// far the WAL is flushed; `None` on a standby.
pub async fn held(session: &mut Session, deadline: Duration) -> Result<Option<Lsn>, Error> {
    let sql = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS lsn";
    row(session, sql, deadline).await?.parse_optional("lsn")
}

/// The process that answers on this connection, by its number in PostgreSQL's PID namespace.
pub async fn backend(session: &mut Session, deadline: Duration) -> Result<i32, Error> {
    row(session, "SELECT pg_backend_pid() AS pid", deadline).await?.parse("pid")
}

/// The checkpointer, by its number in PostgreSQL's PID namespace.
pub async fn checkpointer(session: &mut Session, deadline: Duration) -> Result<i32, Error> {
    let sql = "SELECT pid FROM pg_stat_get_activity(NULL) WHERE backend_type = 'checkpointer'";
    row(session, sql, deadline).await?.parse("pid")
}

/// Whether a primary should have done a checkpoint long ago. One begins a `checkpoint_timeout`
/// after the last, and is spread over at most as long (PostgreSQL manual, section 30.5).
pub async fn checkpoint_overdue(session: &mut Session, deadline: Duration) -> Result<bool, Error> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN false ELSE \
               clock_timestamp() - checkpoint_time > interval '1 min' \
               + 2 * current_setting('checkpoint_timeout')::interval \
               AND pg_current_wal_insert_lsn() > redo_lsn END AS overdue \
               FROM pg_control_checkpoint()";
    row(session, sql, deadline).await?.flag("overdue")
}

async fn row(session: &mut Session, sql: &str, deadline: Duration) -> Result<Row, Error> {
    let rows = session.query_within(sql, deadline).await?;
    rows.into_iter().next().ok_or_else(|| Error::Answer("a row".to_owned()))
}

/// Whether ordinary clients find no connection free, this one left out (PostgreSQL manual,
/// `superuser_reserved_connections`; `reserved_connections` is there from 16 on).
const EXHAUSTED: &str = "SELECT count(*) - 1 >= current_setting('max_connections')::int \
     - current_setting('superuser_reserved_connections')::int \
     - coalesce(current_setting('reserved_connections', true)::int, 0) AS exhausted \
     FROM pg_stat_get_activity(NULL) WHERE backend_type = 'client backend'";

/// Opens a connection, asks on it and closes it.
pub async fn fresh(target: &Target, deadline: Duration) -> Outcome {
    let ask = async {
        let connection = Connection::open(target, deadline).await?;
        let rows = connection.query(EXHAUSTED, deadline).await?;
        rows.first().map_or(Ok(false), |row| row.flag("exhausted"))
    };
    match tokio::time::timeout(deadline, ask).await {
        Ok(Ok(true)) => Outcome::TooManyConnections,
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
