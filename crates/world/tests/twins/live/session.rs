//! Sessions with real servers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::{AsyncMessage, CancelToken, Client, NoTls, SimpleQueryMessage};

use crate::servers::Outcome;

/// Longest time for a connection, and for a statement that is no write.
const SOON: Duration = Duration::from_secs(5);

/// A session whose statements are answered at once.
pub struct Session {
    client: Client,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Session {
    /// Connects to the server at a port.
    pub fn open(runtime: &Runtime, port: u16) -> Result<Self, String> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
        config.application_name("twins");
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&warnings);
        let client = runtime.block_on(async {
            let connect = tokio::time::timeout(SOON, config.connect(NoTls));
            let (client, mut connection) =
                connect.await.map_err(|_| "no answer".to_owned())?.map_err(|e| full(&e))?;
            tokio::spawn(async move {
                while let Some(Ok(message)) =
                    std::future::poll_fn(|cx| connection.poll_message(cx)).await
                {
                    if let AsyncMessage::Notice(notice) = message
                        && notice.severity() == "WARNING"
                    {
                        heard.lock().unwrap().push(notice.message().to_owned());
                    }
                }
            });
            Ok::<_, String>(client)
        })?;
        Ok(Self { client, warnings })
    }

    /// Runs a statement and gives the rows as text, an absent value as nothing.
    pub fn query(&self, runtime: &Runtime, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let answer = runtime.block_on(async {
            let query = self.client.simple_query(sql);
            tokio::time::timeout(SOON, query).await.map_err(|_| format!("no answer to {sql}"))
        })?;
        let messages = answer.map_err(|e| full(&e))?;
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Keeps the session for one statement that may wait.
    pub fn keep_for(self, runtime: &Runtime, sql: String) -> Statement {
        let pid = self.query(runtime, "SELECT pg_backend_pid()").unwrap()[0][0].parse().unwrap();
        let cancel = self.client.cancel_token();
        Statement { pid, cancel, sql, session: Some(self), outcome: Arc::default() }
    }
}

/// A statement that may wait, with its session.
pub struct Statement {
    /// The backend that executes it.
    pub pid: i32,
    sql: String,
    cancel: CancelToken,
    /// Until it is sent.
    session: Option<Session>,
    outcome: Arc<Mutex<Option<Outcome>>>,
}

impl Statement {
    /// The session, as long as the statement is not sent.
    pub fn session(&self) -> &Session {
        self.session.as_ref().expect("the statement is not sent yet")
    }

    /// Sends the statement.
    pub fn send(&mut self, runtime: &Runtime) {
        let session = self.session.take().expect("a statement is sent once");
        let (sql, answer) = (self.sql.clone(), Arc::clone(&self.outcome));
        runtime.spawn(async move {
            let ended = match session.client.batch_execute(&sql).await {
                Ok(()) if session.warnings.lock().unwrap().is_empty() => Outcome::Acknowledged,
                Ok(()) => Outcome::Warned,
                Err(e) if is_error(&e) => Outcome::Refused,
                Err(_) => Outcome::Lost,
            };
            *answer.lock().unwrap() = Some(ended);
        });
    }

    /// How it ended.
    pub fn outcome(&self) -> Option<Outcome> {
        *self.outcome.lock().unwrap()
    }

    /// Asks for its cancellation.
    pub fn cancel(&self, runtime: &Runtime) {
        runtime.block_on(self.cancel.cancel_query(NoTls)).unwrap();
    }
}

/// Whether the server said ERROR: the statement failed and the session lives.
fn is_error(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|e| e.severity() == "ERROR")
}

/// An error with its cause.
fn full(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(cause) => format!("{}: {}", cause.severity(), cause.message()),
        None => error.to_string(),
    }
}
