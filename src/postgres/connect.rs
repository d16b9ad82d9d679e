//! One connection to the server of this machine.
//!
//! Owns how we connect: through the Unix socket, as our superuser, with settings pinned so that
//! nothing that an operator sets for databases or roles changes what our statements mean. Every
//! call has a deadline; a connection that missed one is dropped, since its answer may still come.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use super::credentials::Login;
use crate::domain::types::Lsn;

/// `application_name` of our own connections.
pub const APPLICATION_NAME: &str = "quorate";

/// Limit of a statement on the server. It ends statements whose caller is gone.
const STATEMENT_TIMEOUT_MS: u32 = 10_000;

/// How many notices are kept.
const NOTICES_MAX: usize = 64;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing came in time. Whether the server acted is unknown.
    #[error("PostgreSQL did not answer within {0:?}")]
    Deadline(Duration),
    /// The server could not be reached, or the connection broke. Whether it acted is unknown.
    #[error("no connection to PostgreSQL: {0}")]
    Lost(String),
    /// The server has no connection left for us.
    #[error("PostgreSQL has no free connection: {0}")]
    TooManyConnections(String),
    /// The postmaster takes no connections from its queue, and the queue is full.
    #[error("PostgreSQL does not take connections, and too many wait already")]
    QueueFull,
    /// The server is starting or stopping.
    #[error("PostgreSQL does not accept connections now: {0}")]
    CannotConnectNow(String),
    /// The server said no.
    #[error("PostgreSQL said: {message} (SQLSTATE {code})")]
    Server {
        /// SQLSTATE (PostgreSQL manual, appendix A).
        code: String,
        /// Its message.
        message: String,
    },
    /// The answer does not have the expected shape.
    #[error("PostgreSQL's answer has no usable column {0:?}")]
    Answer(String),
    /// A commit was reported, but with a warning: it may not have been confirmed by the standbys.
    #[error("PostgreSQL committed with a warning: {0}")]
    Warning(String),
}

impl Error {
    /// Whether the statement may have been carried out all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Deadline(_) | Self::Lost(_) | Self::Answer(_) | Self::Warning(_))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // The message of the cause is the useful one, such as "No such file or directory".
            let cause = std::error::Error::source(&error);
            let io = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
            // What connect(2) says of a Unix socket whose backlog is full.
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::WouldBlock) {
                return Self::QueueFull;
            }
            return Self::Lost(match cause.map(ToString::to_string) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            });
        };
        let message = db.message().to_owned();
        if *db.code() == SqlState::TOO_MANY_CONNECTIONS {
            Self::TooManyConnections(message)
        } else if *db.code() == SqlState::CANNOT_CONNECT_NOW {
            Self::CannotConnectNow(message)
        } else if *db.code() == SqlState::ADMIN_SHUTDOWN || *db.code() == SqlState::CRASH_SHUTDOWN {
            Self::Lost(message)
        } else {
            Self::Server { code: db.code().code().to_owned(), message }
        }
    }
}

/// Where the server is, and as whom to log in.
#[derive(Debug, Clone)]
pub struct Target {
    /// Directory of its socket.
    pub socket_dir: PathBuf,
    /// Its port.
    pub port: u16,
    /// Our superuser.
    pub login: Login,
    /// The database; `postgres` unless something of another one is asked.
    pub dbname: String,
}

impl Target {
    fn config(&self) -> Config {
        let options = [
            "search_path=pg_catalog".to_owned(),
            // Our own statements must not wait for standbys.
            "synchronous_commit=local".to_owned(),
            "default_transaction_read_only=off".to_owned(),
            "default_transaction_isolation=read\\ committed".to_owned(),
            "standard_conforming_strings=on".to_owned(),
            "client_min_messages=notice".to_owned(),
            format!("statement_timeout={STATEMENT_TIMEOUT_MS}"),
            "lock_timeout=2000".to_owned(),
            "idle_in_transaction_session_timeout=0".to_owned(),
            // Our questions come several times a second: they would drown the operator's log.
            "log_statement=none".to_owned(),
            "log_duration=off".to_owned(),
            "log_min_duration_statement=-1".to_owned(),
        ];
        let options: Vec<_> = options.iter().map(|o| format!("-c {o}")).collect();
        let mut config = Config::new();
        config
            .host_path(&self.socket_dir)
            .port(self.port)
            .user(self.login.user())
            .password(self.login.password().reveal())
            .dbname(&self.dbname)
            .application_name(APPLICATION_NAME)
            .options(options.join(" "));
        config
    }
}

/// Ends the task that drives a connection.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An open connection.
pub struct Connection {
    client: Client,
    notices: Arc<Mutex<VecDeque<String>>>,
    _driver: Driver,
}

impl Connection {
    /// Opens a connection within `deadline`.
    pub async fn open(target: &Target, deadline: Duration) -> Result<Self, Error> {
        Self::dial(&target.config(), deadline).await
    }

    /// Opens the connection that `config` describes.
    pub(super) async fn dial(config: &Config, deadline: Duration) -> Result<Self, Error> {
        let opening = config.connect(NoTls);
        let (client, mut connection) = match tokio::time::timeout(deadline, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Error::Deadline(deadline)),
        };
        let notices = Arc::new(Mutex::new(VecDeque::new()));
        let sink = Arc::clone(&notices);
        // The task ends when the connection does, or when `Driver` is dropped.
        let task = tokio::spawn(async move {
            // Notices are taken here, before the answer that follows them is handed on.
            while let Some(Ok(message)) =
                std::future::poll_fn(|cx| connection.poll_message(cx)).await
            {
                if let AsyncMessage::Notice(notice) = message {
                    let mut kept = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == NOTICES_MAX {
                        kept.pop_front();
                    }
                    kept.push_back(format!("{}: {}", notice.severity(), notice.message()));
                }
            }
        });
        Ok(Self { client, notices, _driver: Driver(task) })
    }

    /// Whether the connection is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements and returns all their rows, in order. After an error other than
    /// [`Error::Server`] the connection must not be used again.
    pub async fn query(&self, sql: &str, deadline: Duration) -> Result<Vec<Row>, Error> {
        let messages = match tokio::time::timeout(deadline, self.client.simple_query(sql)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Error::Deadline(deadline)),
        };
        let row = |m| match m {
            SimpleQueryMessage::Row(row) => Some(Row(row)),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Takes the notices that came since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// One row of an answer. All values come as text.
#[derive(Debug)]
pub struct Row(SimpleQueryRow);

impl Row {
    /// A column's text; `None` for NULL.
    pub fn optional(&self, column: &str) -> Result<Option<&str>, Error> {
        self.0.try_get(column).map_err(|_| Error::Answer(column.to_owned()))
    }

    /// A column's text; NULL is an error.
    pub fn text(&self, column: &str) -> Result<&str, Error> {
        self.optional(column)?.ok_or_else(|| Error::Answer(column.to_owned()))
    }

    /// A column parsed; NULL is an error.
    pub fn parse<T: FromStr>(&self, column: &str) -> Result<T, Error> {
        self.text(column)?.parse().map_err(|_| Error::Answer(column.to_owned()))
    }

    /// A column parsed; `None` for NULL.
    pub fn parse_optional<T: FromStr>(&self, column: &str) -> Result<Option<T>, Error> {
        let parse = |t: &str| t.parse().map_err(|_| Error::Answer(column.to_owned()));
        self.optional(column)?.map(parse).transpose()
    }

    /// A boolean; NULL is an error.
    pub fn flag(&self, column: &str) -> Result<bool, Error> {
        match self.text(column)? {
            "t" => Ok(true),
            "f" => Ok(false),
            _ => Err(Error::Answer(column.to_owned())),
        }
    }

    /// A position; NULL is an error.
    pub fn lsn(&self, column: &str) -> Result<Lsn, Error> {
        self.parse(column)
    }
}

/// Quotes a string for a statement, whatever `standard_conforming_strings` is. Total, except that
/// PostgreSQL has no NUL in strings: it is left out.
pub fn literal(value: &str) -> String {
    let escaped = value.replace('\0', "").replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_closed() {
        assert_eq!(literal("a'b\\c"), "E'a''b\\\\c'");
        assert_eq!(literal("\\'; DROP"), "E'\\\\''; DROP'");
    }

    #[tokio::test]
    async fn a_missing_server_is_lost_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        let password = super::super::credentials::Password::new("x").unwrap();
        let target = Target {
            socket_dir: dir.path().to_owned(),
            port: 1,
            login: Login::new("admin", password).unwrap(),
            dbname: "postgres".into(),
        };
        let opened = Connection::open(&target, Duration::from_secs(5)).await;
        let Err(error) = opened else { panic!("connected to nothing") };
        assert!(matches!(&error, Error::Lost(why) if why.contains("No such file")), "{error}");
    }
}
