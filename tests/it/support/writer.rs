//! Clients that write rows all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{Conn, Endpoint, application};
use super::journal::{Entry, Journal, Outcome};

/// How a writer connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A new connection for every row, to the first of all hosts that takes writes.
    Fresh,
    /// One connection for as long as it lasts, to the first of all hosts that takes writes.
    Held,
    /// One connection to one host for as long as it lasts, and rows only where that takes writes:
    /// it shows who would acknowledge a write, whatever clients are steered to.
    Probe,
}

/// How often a row is begun.
const EVERY: Duration = Duration::from_millis(20);
/// The same for probes, of which there is one for each server.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// How long a client waits for a connection, over all hosts, and for a row.
const CONNECT: Duration = Duration::from_secs(3);
const ROW: Duration = Duration::from_secs(5);

/// The table of all rows.
pub const TABLE: &str = "CREATE TABLE q_rows (id bigint, epoch bigint, server text)";

/// A client that writes rows until it is told to end.
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: Option<tokio::task::JoinHandle<()>>,
    journal: Arc<Journal>,
}

impl Writer {
    /// Starts to write to `endpoints`.
    pub fn start(mode: Mode, endpoints: Vec<Endpoint>, journal: Arc<Journal>) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        journal.writers.fetch_add(1, Ordering::SeqCst);
        let client = Session {
            mode,
            config: application(&endpoints, mode != Mode::Probe),
            journal: journal.clone(),
            held: None,
        };
        let task = Some(tokio::spawn(client.run(stop.clone())));
        Writer { stop, task, journal }
    }

    /// Ends after the row that is under way.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.take() {
            task.await.expect("the writer did not fail");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.journal.writers.fetch_sub(1, Ordering::SeqCst);
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Session {
    mode: Mode,
    config: tokio_postgres::Config,
    journal: Arc<Journal>,
    held: Option<Conn>,
}

impl Session {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let every = if self.mode == Mode::Probe { PROBE_EVERY } else { EVERY };
        while !stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            if let Some(outcome) = self.row_of(begun).await {
                self.journal.note(outcome);
            }
            tokio::time::sleep(every.saturating_sub(begun.elapsed())).await;
        }
    }

    /// Writes one row, if there is one to write.
    async fn row_of(&mut self, begun: Instant) -> Option<Entry> {
        let id = self.journal.next_id();
        let note = |outcome| Some(Entry { id, begun, ended: Instant::now(), outcome });
        let conn = match self.held.take().filter(|c| !c.is_closed()) {
            Some(conn) => conn,
            None => match tokio::time::timeout(CONNECT, Conn::open(&self.config)).await {
                Ok(Ok(conn)) => conn,
                // A server that is not there is no news to a probe.
                _ if self.mode == Mode::Probe => return None,
                Ok(Err(e)) => return note(Outcome::Refused(e.to_string())),
                Err(_) => return note(Outcome::Refused("no connection in time".to_owned())),
            },
        };
        if self.mode == Mode::Probe {
            let sql =
                "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool";
            match tokio::time::timeout(ROW, conn.rows(sql)).await {
                Ok(Ok(rows))
                    if rows.first().is_some_and(|r| r.first().is_some_and(|v| v == "f")) => {}
                Ok(Ok(_)) => {
                    self.held = Some(conn);
                    return None;
                }
                _ => return None,
            }
        }
        conn.take_notices();
        let sql = format!(
            "INSERT INTO q_rows SELECT {id}, \
             ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint, \
             current_setting('cluster_name') RETURNING epoch, server"
        );
        // From here on the time counts in which the row can reach the server.
        let begun = Instant::now();
        let note = |outcome| Some(Entry { id, begun, ended: Instant::now(), outcome });
        let answer = tokio::time::timeout(ROW, conn.rows(&sql)).await;
        let notices = conn.take_notices();
        match answer {
            Err(_) => note(Outcome::Unknown("no answer in time".to_owned())),
            Ok(Err(e)) => note(judge(&e)),
            Ok(Ok(_)) if !notices.is_empty() => note(Outcome::Unknown(notices.join("; "))),
            Ok(Ok(rows)) => match rows.first().map(Vec::as_slice) {
                Some([epoch, server]) => {
                    let epoch = epoch.parse().expect("a number");
                    let server = server.clone();
                    if self.mode != Mode::Fresh {
                        self.held = Some(conn);
                    }
                    note(Outcome::Acknowledged { epoch, server })
                }
                _ => note(Outcome::Unknown(format!("a strange answer: {rows:?}"))),
            },
        }
    }
}

/// An error of the statement alone says that it was not done. Everything that ends the connection
/// may have come after the commit.
fn judge(error: &tokio_postgres::Error) -> Outcome {
    match error.as_db_error() {
        Some(e) if e.severity() == "ERROR" => Outcome::Refused(e.to_string()),
        _ => Outcome::Unknown(error.to_string()),
    }
}
