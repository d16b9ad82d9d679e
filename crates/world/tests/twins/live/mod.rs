//! Real servers: each has a data directory and a port, and all of them end with the test.

// Real servers live in real time.
#![allow(clippy::disallowed_methods)]

mod conf;
mod place;
mod process;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use crate::servers::{Commit, Lsn, Name, Process, Sender, Servers, Write};
use crate::servers::{Outcome, Play};
use conf::Conf;
use place::Place;
use process::Proc;
use session::{Session, Submitted};

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
    writes: Vec<(Name, Submitted)>,
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
        let server =
            Server { port: place::free_port(), conf: Conf::default(), postmaster: None, admin: None };
        assert!(self.servers.insert(name, server).is_none(), "{name} is there already");
    }

    /// Writes the settings of a server.
    fn write_conf(&mut self, name: Name) {
        let follows = self.server(name).conf.follows.map(|of| (of, self.server(of).port));
        let server = self.server(name);
        let text = server.conf.text(name, server.port, follows);
        self.place.write(&self.place.data(name).join("postgresql.conf"), &text);
    }

    /// Writes the settings and waits until a session has them, if the server runs.
    fn reload(&mut self, name: Name) {
        self.write_conf(name);
        let Some(postmaster) = self.server(name).postmaster.as_ref().map(Child::id) else { return };
        let generation = self.server(name).conf.generation.to_string();
        Proc::find(postmaster as i32).expect("a postmaster").signal(Signal::SIGHUP);
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
        let kind = |kind: &str| {
            format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'")
        };
        let pid = match process {
            Process::Sender(id) => id as i32,
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
        let lines: Vec<&str> = text.lines().collect();
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

impl Servers for Live {
    fn primary(&mut self, name: Name) {
        self.place.from_template(&self.place.data(name));
        self.add(name);
        self.start(name).unwrap();
    }

    fn standby(&mut self, name: Name, of: Name) {
        self.place.from_template(&self.place.data(name));
        self.add(name);
        self.follow(name, Some(of));
        self.start(name).unwrap();
    }

    fn start(&mut self, name: Name) -> Result<(), String> {
        self.launch(name);
        self.until("the server starts or ends", |s| {
            if s.ended(name) {
                return Some(Err(s.log(name)));
            }
            s.accepts(name).then_some(Ok(()))
        })
    }

    fn launch(&mut self, name: Name) {
        assert!(self.ended(name), "{name} runs already");
        self.write_conf(name);
        let log = File::create(self.place.root().join(format!("{name}.log"))).unwrap();
        let mut command = self.place.program("postgres");
        command.arg("-D").arg(self.place.data(name));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        // SAFETY: prctl is async-signal-safe. It lets the server end with us, if we are killed.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGQUIT)?));
        }
        self.server(name).postmaster = Some(command.spawn().unwrap());
    }

    fn accepts(&mut self, name: Name) -> bool {
        self.query(name, "SELECT 1").is_ok()
    }

    fn has_processes(&mut self, name: Name) -> bool {
        !process::of_directory(&self.place.data(name)).is_empty()
    }

    fn stop(&mut self, name: Name) {
        let postmaster = self.server(name).postmaster.as_ref().expect("a running server").id();
        Proc::find(postmaster as i32).expect("a postmaster").signal(Signal::SIGINT);
    }

    fn kill(&mut self, name: Name) {
        process::kill_directory(&self.place.data(name));
        if let Some(mut postmaster) = self.server(name).postmaster.take() {
            postmaster.wait().unwrap();
        }
        self.server(name).admin = None;
        self.frozen.retain(|f| f.0 != name);
    }

    fn behead(&mut self, name: Name) {
        let mut postmaster = self.server(name).postmaster.take().expect("a running server");
        postmaster.kill().unwrap();
        postmaster.wait().unwrap();
        self.server(name).admin = None;
    }

    fn freeze(&mut self, name: Name, process: Process) {
        let found = self.process(name, process);
        // One that sleeps in the kernel waits for something; asleep for a while, it holds no lock.
        self.await_that("the process sleeps", |_| found.state() == Some('S'));
        found.signal(Signal::SIGSTOP);
        self.await_that("the process is stopped", |_| found.state() == Some('T'));
        self.frozen.push((name, process, found));
    }

    fn thaw(&mut self, name: Name, process: Process) {
        self.process(name, process).signal(Signal::SIGCONT);
        self.frozen.retain(|f| (f.0, f.1) != (name, process));
    }

    fn end(&mut self, name: Name, process: Process) {
        self.process(name, process).signal(Signal::SIGTERM);
    }

    fn follow(&mut self, name: Name, of: Option<Name>) {
        let running = !self.ended(name);
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.follows = of;
        if running {
            assert!(self.in_recovery(name), "{name} is a primary");
        } else {
            self.place.write(&self.place.data(name).join("standby.signal"), "");
        }
        self.reload(name);
    }

    fn promote(&mut self, name: Name) -> u32 {
        self.one(name, "SELECT pg_promote(false)");
        self.await_that("the standby is a primary", |s| !s.in_recovery(name));
        let file = self.one(name, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
        u32::from_str_radix(&file[..8], 16).unwrap()
    }

    fn set_names(&mut self, name: Name, names: &str) {
        let conf = &mut self.server(name).conf;
        conf.generation += 1;
        conf.names = names.to_owned();
        self.reload(name);
    }

    fn senders(&mut self, name: Name) -> Vec<Sender> {
        let sql = "SELECT pid, application_name, flush_lsn - '0/0', replay_lsn - '0/0', \
                   sent_lsn - '0/0', sync_priority > 0, state = 'streaming' \
                   FROM pg_stat_replication WHERE application_name <> 'pg_basebackup' ORDER BY pid";
        let rows = self.query(name, sql).unwrap();
        rows.iter()
            .map(|row| Sender {
                id: row[0].parse().unwrap(),
                standby: row[1].clone(),
                flushed: row[2].parse().ok(),
                replayed: row[3].parse().ok(),
                sent: row[4].parse().ok(),
                listed: row[5] == "t",
                streaming: row[6] == "t",
            })
            .collect()
    }

    fn receives(&mut self, name: Name) -> bool {
        self.one(
            name,
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'",
        ) != "0"
    }

    fn flushed(&mut self, name: Name) -> Option<Lsn> {
        let primary = "pg_current_wal_flush_lsn()";
        let standby = "pg_last_wal_receive_lsn()";
        if self.in_recovery(name) {
            self.position(name, standby)
        } else {
            self.position(name, primary)
        }
    }

    fn inserted(&mut self, name: Name) -> Lsn {
        self.position(name, "pg_current_wal_insert_lsn()").expect("a position")
    }

    fn replayed(&mut self, name: Name) -> Lsn {
        self.position(name, "pg_last_wal_replay_lsn()").unwrap_or(0)
    }

    fn in_recovery(&mut self, name: Name) -> bool {
        self.one(name, "SELECT pg_is_in_recovery()") == "t"
    }

    fn insert(&mut self, name: Name, row: i64, commit: Commit) -> Write {
        let port = self.server(name).port;
        let session = Session::open(&self.runtime, port).unwrap();
        let level = match commit {
            Commit::On => "on",
            Commit::Local => "local",
            Commit::Off => "off",
        };
        session.query(&self.runtime, &format!("SET synchronous_commit = {level}")).unwrap();
        let submitted = session.submit(&self.runtime, format!("INSERT INTO t VALUES ({row})"));
        self.writes.push((name, submitted));
        Write(self.writes.len() - 1)
    }

    fn outcome(&mut self, write: Write) -> Option<Outcome> {
        self.writes[write.0].1.outcome()
    }

    fn waits(&mut self, write: Write) -> bool {
        let (name, pid) = (self.writes[write.0].0, self.writes[write.0].1.pid);
        self.outcome(write).is_none()
            && self.one(
                name,
                &format!(
                    "SELECT count(*) FROM pg_stat_activity \
                     WHERE pid = {pid} AND wait_event = 'SyncRep'"
                ),
            ) == "1"
    }

    fn cancel(&mut self, write: Write) {
        self.writes[write.0].1.cancel(&self.runtime);
    }

    fn rows(&mut self, name: Name) -> BTreeSet<i64> {
        let port = self.server(name).port;
        let session = Session::open(&self.runtime, port).unwrap();
        let rows = session.query(&self.runtime, "SELECT row FROM t").unwrap();
        rows.iter().map(|row| row[0].parse().unwrap()).collect()
    }

    fn nudge(&mut self, name: Name) {
        self.one(name, "SELECT pg_logical_emit_message(true, 'twins', '')");
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn pass(&mut self) {
        moment();
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
    }
}
