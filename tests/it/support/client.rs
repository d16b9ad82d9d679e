//! Connections to PostgreSQL as clients make them.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use super::SOON;
use super::address::SQL_PORT;
use super::config::SUPERUSER_PASSWORD;
use super::node::Node;

/// An ordinary user.
pub const APP_USER: &str = "app";
/// Its password.
pub const APP_PASSWORD: &str = "an-application-of-tests";

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// How an application connects: all hosts, and the first that takes writes, as libpq would with
/// `target_session_attrs=read-write`.
pub fn application(endpoints: &[Endpoint], read_write: bool) -> Config {
    let mut config = Config::new();
    for endpoint in endpoints {
        config.host(&endpoint.host).port(endpoint.port);
    }
    config.user(APP_USER).password(APP_PASSWORD).dbname("postgres");
    config.application_name("test").connect_timeout(Duration::from_secs(1));
    if read_write {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    config
}

/// How the superuser connects: through the socket of the node.
pub fn superuser(node: &Node) -> Config {
    let mut config = Config::new();
    config.host_path(node.socket_dir()).port(SQL_PORT).user("postgres");
    config.password(SUPERUSER_PASSWORD).dbname("postgres").application_name("test superuser");
    config.connect_timeout(Duration::from_secs(5));
    config
}

/// An open connection, with what the server said beside its answers.
pub struct Conn {
    client: Client,
    notices: Arc<Mutex<Vec<String>>>,
}

impl Conn {
    /// Connects.
    pub async fn open(config: &Config) -> Result<Conn, tokio_postgres::Error> {
        let (client, mut connection) = config.connect(NoTls).await?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = notices.clone();
        // Ends with the client.
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    let text = format!("{}: {}", notice.severity(), notice.message());
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                }
            }
        });
        Ok(Conn { client, notices })
    }

    /// Whether it is known to be broken.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// What the server said since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs statements and returns all rows as text.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        Ok(self.client.simple_query(sql).await?.into_iter().filter_map(row).collect())
    }

    /// Runs statements that have to succeed soon; returns the first column of the first row, empty
    /// where there is none.
    pub async fn must(&self, sql: &str) -> String {
        let rows = match tokio::time::timeout(SOON, self.rows(sql)).await {
            Ok(rows) => rows.unwrap_or_else(|e| panic!("{sql}: {e:?}")),
            Err(_) => panic!("{sql}: no answer within {SOON:?}"),
        };
        rows.into_iter().next().and_then(|r| r.into_iter().next()).unwrap_or_default()
    }
}
