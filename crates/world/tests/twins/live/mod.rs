//! Real servers: each has a data directory and a port, and all of them end with the test.

// Real servers live in real time.
#![allow(clippy::disallowed_methods)]

mod conf;
mod disk;
mod operations;
mod place;
mod process;
mod session;
mod throttle;

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::servers::{Lsn, Name, Play, Process};
use conf::Conf;
use place::Place;
use process::Proc;
use session::{Session, Statement};

/// Between two looks at something.
fn moment() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Real servers.
pub struct Live {
    began: Instant,
    place: Place,
    runtime: Runtime,
    servers: BTreeMap<Name, Server>,
    writes: Vec<(Name, Statement)>,
    /// Processes that were stopped: what `pg_stat_activity` says of them may be gone.
    frozen: Vec<(Name, Process, Proc)>,
}

/// One server.
struct Server {
    port: u16,
    conf: Conf,
    postmaster: Option<Child>,
    /// A session that is held, and that never waits for standbys.
    admin: Option<Session>,
}

impl Live {
    /// No server yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            place: Place::new(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            servers: BTreeMap::new(),
            writes: Vec::new(),
            frozen: Vec::new(),
        }
    }

    fn server(&mut self, name: Name) -> &mut Server {
        self.servers.get_mut(name).unwrap_or_else(|| panic!("there is no server {name}"))
    }

    /// Registers a server whose data directory is there.
    fn add(&mut self, name: Name) {
        let server = Server {
            port: place::free_port(),
            conf: Conf::default(),
            postmaster: None,
            admin: None,
        };
        assert!(self.servers.insert(name, server).is_none(), "{name} is there already");
    }

    /// Sends a signal to the postmaster.
    fn signal_postmaster(&mut self, name: Name, signal: Signal) {
        let postmaster = self.server(name).postmaster.as_ref().expect("a running server").id();
        Proc::find(postmaster as i32).expect("a postmaster").signal(signal);
    }

    /// Writes the settings and waits until a session has them, and the checkpointer, if the server
    /// runs. Whether commits wait at all is what the checkpointer has read.
    fn reload(&mut self, name: Name) {
        let size = self.write_conf(name);
        if self.ended(name) {
            return;
        }
        let generation = self.server(name).conf.generation.to_string();
        let checkpointer = self.process(name, Process::Checkpointer);
        let before = checkpointer.has_read();
        self.signal_postmaster(name, Signal::SIGHUP);
        if checkpointer.state() != Some('T') {
            // Nobody shows what it has read, but the kernel counts.
            self.await_that("the checkpointer has read the settings", |_| {
                checkpointer.has_read() >= before + size && checkpointer.state() == Some('S')
            });
        }
        self.await_that("the session has the settings", |s| {
            s.one(name, "SELECT current_setting('twins.generation')") == generation
        });
    }

    /// The rows of a query in the held session.
    fn query(&mut self, name: Name, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let server = self.servers.get_mut(name).expect("a server");
        if let Some(session) = &server.admin {
            let rows = session.query(&self.runtime, sql);
            if rows.is_ok() {
                return rows;
            }
        }
        server.admin = None;
        let session = Session::open(&self.runtime, server.port)?;
        session.query(&self.runtime, "SET synchronous_commit = local")?;
        let rows = session.query(&self.runtime, sql)?;
        server.admin = Some(session);
        Ok(rows)
    }

    /// The only value of a query.
    fn one(&mut self, name: Name, sql: &str) -> String {
        let rows = self.query(name, sql).unwrap_or_else(|e| panic!("{name}: {sql}: {e}"));
        assert!(rows.len() == 1 && rows[0].len() == 1, "{name}: {sql}: {rows:?}");
        rows[0][0].clone()
    }

    /// The only value of a query, a position.
    fn position(&mut self, name: Name, what: &str) -> Option<Lsn> {
        self.one(name, &format!("SELECT {what} - '0/0'")).parse().ok()
    }

    /// The process of a server.
    fn process(&mut self, name: Name, process: Process) -> Proc {
        if let Some((.., found)) = self.frozen.iter().find(|f| f.0 == name && f.1 == process) {
            return *found;
        }
        let kind =
            |kind: &str| format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'");
        let pid = match process {
            Process::Sender(id) => id as i32,
            Process::Postmaster => {
                self.server(name).postmaster.as_ref().expect("a running server").id() as i32
            }
            Process::Backend(write) => self.writes[write.0].1.pid,
            Process::Receiver => self.one(name, &kind("walreceiver")).parse().unwrap(),
            Process::Flusher => self.one(name, &kind("walwriter")).parse().unwrap(),
            Process::Checkpointer => self.one(name, &kind("checkpointer")).parse().unwrap(),
        };
        Proc::find(pid).expect("a process")
    }

    /// The last lines that a server has logged.
    fn log(&self, name: Name) -> String {
        let path = self.place.root().join(format!("{name}.log"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let starting = "FATAL:  the database system is starting up";
        let lines: Vec<&str> = text.lines().filter(|l| !l.ends_with(starting)).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The postmaster's end, if it has come.
    fn ended(&mut self, name: Name) -> bool {
        let server = self.server(name);
        let running = server.postmaster.as_mut().is_some_and(|p| p.try_wait().unwrap().is_none());
        if !running {
            server.postmaster = None;
            server.admin = None;
        }
        !running
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.servers.keys() {
                eprintln!("--- the log of {name}\n{}", self.log(name));
            }
        }
        process::kill_directory(self.place.root());
        for server in self.servers.values_mut() {
            if let Some(mut postmaster) = server.postmaster.take() {
                let _ = postmaster.wait();
            }
        }
        for name in self.servers.keys() {
            self.place.remove_shared_memory(&self.place.data(name));
        }
    }
}
