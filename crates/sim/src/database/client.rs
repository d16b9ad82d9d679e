//! Sessions of clients, over the network.
//!
//! Owns [`Client`], with which a simulated application writes and reads. It sees what an
//! application sees: answers, refusals, and connections that end; an answer that does not come in
//! time is unknown.

use std::sync::Arc;
use std::time::Duration;

use quorate_world::check::Rows;
use quorate_world::exec::{self, ScopeId};
use quorate_world::net::{self, Connection, Incoming};
use quorate_world::pg::{Outcome, Pid, Refused};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::machine::{Machine, port};
use super::registry::Registry;
use crate::raft::AsyncRuntime as _;
use crate::{Rt, runtime};

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Ask {
    /// `INSERT`, committed at once.
    Write(u64),
    /// `SELECT` of all rows.
    Read,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Answer {
    /// The connection was taken.
    Welcome,
    /// It was not.
    Sorry(String),
    Acknowledged {
        timeline: u32,
    },
    Warned,
    Refused(String),
    Rows {
        number: u64,
        open: Option<u64>,
        timeline: u32,
    },
}

/// How a write ended, as its client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Acknowledged without a word beside it.
    Acknowledged {
        /// The timeline of the server that answered.
        timeline: u32,
    },
    /// Acknowledged with a warning: no standby may have it.
    Warned,
    /// Not done.
    Refused(String),
    /// No answer: it may have been done.
    Unknown,
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// All rows.
    pub rows: Rows,
    /// The timeline of a primary that holds no writes back, as the session shows it; `None` for a
    /// standby, or while writes are held back.
    pub open: Option<u64>,
    /// The timeline that the server writes, or replays.
    pub timeline: u32,
}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// Nothing listens, or it takes no connections.
    #[error("{0}")]
    Refused(String),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection has ended.
    #[error("the connection is closed")]
    Closed,
}

/// A session of an application. It runs in the scope that opened it.
pub struct Client {
    connection: Connection,
    registry: Registry,
}

impl Client {
    /// Connects to the server at an address.
    pub(super) async fn open(
        registry: Registry,
        address: &str,
        patience: Duration,
    ) -> Result<Self, Gone> {
        let Some(to) = registry.find(address) else {
            return Err(Gone::Refused("no such host".to_owned()));
        };
        let connect = async {
            let connection = net::connect(to, port(2), patience).await.map_err(|e| match e {
                net::Refused::Nobody => Gone::Refused(e.to_string()),
                net::Refused::TimedOut => Gone::TimedOut,
            })?;
            let client = Self { connection, registry };
            match client.hear().await? {
                Answer::Welcome => Ok(client),
                Answer::Sorry(why) => Err(Gone::Refused(why)),
                _ => Err(Gone::Closed),
            }
        };
        Rt::timeout(patience, connect).await.unwrap_or(Err(Gone::TimedOut))
    }

    async fn hear(&self) -> Result<Answer, Gone> {
        let bytes = self.connection.receive().await.map_err(|_| Gone::Closed)?;
        serde_json::from_slice(&bytes).map_err(|_| Gone::Closed)
    }

    async fn ask(&self, ask: &Ask, patience: Duration) -> Result<Answer, Gone> {
        let bytes = serde_json::to_vec(ask).map_err(|_| Gone::Closed)?;
        self.connection.send(bytes).map_err(|_| Gone::Closed)?;
        Rt::timeout(patience, self.hear()).await.unwrap_or(Err(Gone::TimedOut))
    }

    /// Inserts a row and commits. After [`Written::Unknown`] the session is of no use any more.
    pub async fn write(&self, value: u64, patience: Duration) -> Written {
        match self.ask(&Ask::Write(value), patience).await {
            Ok(Answer::Acknowledged { timeline }) => Written::Acknowledged { timeline },
            Ok(Answer::Warned) => Written::Warned,
            Ok(Answer::Refused(why)) => Written::Refused(why),
            _ => Written::Unknown,
        }
    }

    /// Reads all rows in one snapshot.
    ///
    /// # Errors
    /// See [`Gone`]; the session is of no use any more.
    pub async fn read(&self, patience: Duration) -> Result<Seen, Gone> {
        match self.ask(&Ask::Read, patience).await? {
            Answer::Rows { number, open, timeline } => {
                let rows = self.registry.take(number).ok_or(Gone::Closed)?;
                Ok(Seen { rows, open, timeline })
            }
            Answer::Refused(why) => Err(Gone::Refused(why)),
            _ => Err(Gone::Closed),
        }
    }
}

/// The clients' port of a machine.
pub(super) fn serve(machine: &Machine, scope: ScopeId) {
    let mut incoming = net::listen(scope, port(2));
    let machine = machine.clone();
    drop(exec::spawn_on(scope, async move {
        while let Some(Incoming { connection, .. }) = incoming.recv().await {
            drop(exec::spawn_on(scope, backend(machine.clone(), connection)));
        }
    }));
}

fn say(connection: &Connection, answer: &Answer) -> bool {
    serde_json::to_vec(answer).is_ok_and(|bytes| connection.send(bytes).is_ok())
}

/// Ends a session with its connection, also where its task is dropped.
struct Session {
    machine: Machine,
    pid: Pid,
}

impl Drop for Session {
    fn drop(&mut self) {
        if exec::is_there() {
            self.machine.with(|inner, now| inner.host.server.disconnect(now, self.pid));
        }
    }
}

async fn backend(machine: Machine, connection: Connection) {
    // A fork, and the session's start.
    machine.lag((300, 3_000)).await;
    let ended = Arc::new(Notify::new());
    let opened = machine.with(|inner, now| {
        let pid = inner.host.server.connect(now, "client")?;
        inner.sessions.insert(pid, ended.clone());
        Ok(pid)
    });
    let pid = match opened {
        Ok(pid) => pid,
        Err(Refused::Silent) => {
            // The kernel has taken the connection, and nobody reads it.
            drop(connection.receive().await);
            return std::future::pending().await;
        }
        Err(why) => {
            say(&connection, &Answer::Sorry(why.to_string()));
            return;
        }
    };
    let session = Session { machine: machine.clone(), pid };
    if !say(&connection, &Answer::Welcome) {
        return;
    }
    loop {
        let heard = runtime::first_of(vec![
            Box::pin(async { connection.receive().await.ok() })
                as runtime::Boxed<'_, Option<Vec<u8>>>,
            Box::pin(async {
                ended.notified().await;
                None
            }),
        ]);
        let Some(ask) = heard.await else { return };
        let Ok(ask) = serde_json::from_slice(&ask) else { return };
        machine.lag((80, 700)).await;
        // A process that is stopped does it when it goes on.
        machine.awake().await;
        let answer = match ask {
            Ask::Write(value) => write(&machine, pid, value).await,
            Ask::Read => read(&machine, pid),
        };
        let Some(answer) = answer else {
            drop(session);
            return;
        };
        if !say(&connection, &answer) {
            return;
        }
    }
}

async fn write(machine: &Machine, pid: Pid, value: u64) -> Option<Answer> {
    let (done, timeline) = machine.with(|inner, now| {
        let (ticket, done) = Machine::ticket(inner);
        let timeline = inner.host.server.run().map_or(0, |run| run.log.timeline.0);
        inner.host.server.write(now, pid, value, ticket);
        (done, timeline)
    });
    Some(match done.await.ok()? {
        Outcome::Acknowledged => Answer::Acknowledged { timeline },
        Outcome::AckedWithWarning => Answer::Warned,
        Outcome::Refused(why) => Answer::Refused(why.to_string()),
        Outcome::Lost => return None,
    })
}

fn read(machine: &Machine, pid: Pid) -> Option<Answer> {
    let inner = machine.lock();
    let server = &inner.host.server;
    let session = server.run()?.sessions.get(&pid)?;
    let status = server.status();
    let rows = server.rows();
    let (Ok(rows), Ok(status)) = (rows, status) else {
        return Some(Answer::Refused("the server does not answer".to_owned()));
    };
    let read_only = session.read_only.unwrap_or(session.conf.read_only);
    let open = (!status.in_recovery && !read_only).then_some(u64::from(status.timeline.0));
    drop(inner);
    let number = machine.registry().put(rows);
    Some(Answer::Rows { number, open, timeline: status.timeline.0 })
}
