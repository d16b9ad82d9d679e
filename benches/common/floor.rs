//! The floor: a primary and two standbys set up by hand, and a takeover with nothing around it.
//!
//! No consensus, no lease, no fence, no agent: PostgreSQL's own time for the steps that cannot be
//! left out. What a cluster that is managed takes longer is the price of the management.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tokio_postgres::Config;

use super::settings::Settings;
use super::support::{Conn, Endpoint, HEAL, SOON, until};
use super::{PREPARE, machine, since_ms};

mod returns;

pub use returns::streaming_sql;

// The support keeps it to itself, and its clusters are not what is watched over here.
#[allow(clippy::duplicate_mod)]
#[path = "../../tests/it/support/reaper.rs"]
mod reaper;

const NAMES: [&str; 3] = ["f0", "f1", "f2"];

/// What the managed clusters of the tests have, where nothing is taken from one.
const AS_USUAL: &str = "shared_buffers = '16MB'\nmax_connections = 60\nwal_log_hints = on\n\
    wal_retrieve_retry_interval = '100ms'\nwal_keep_size = '1GB'\nhot_standby_feedback = on\n\
    restart_after_crash = off\n";

/// The slot of a standby, where slots are used.
fn slot(i: usize) -> String {
    format!("floor_{}", NAMES[i])
}

/// The servers. Dropping them ends their processes and removes their directory.
pub struct Floor {
    dir: PathBuf,
    ports: Vec<u16>,
    user: Option<User>,
    children: Vec<Option<Child>>,
    primary: usize,
    model: Option<Settings>,
    reaper: Option<reaper::Reaper>,
}

/// How long the parts of a takeover by hand took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    /// When it began.
    pub begun: Instant,
    /// From its beginning to the first commit that a standby has confirmed.
    pub to_write_ms: f64,
    /// From the call of `pg_promote()` to the end of recovery.
    pub promote_ms: f64,
}

impl Floor {
    /// Three servers: the first is primary, the others stream, one of them has to confirm. No slots,
    /// so that a takeover by hand need not make any.
    pub async fn start() -> Floor {
        Floor::set_up(None).await
    }

    /// The same with the settings of another primary, as far as they are not its own, with its
    /// encoding and locale, and with a slot for each standby.
    pub async fn start_like(model: Settings) -> Floor {
        Floor::set_up(Some(model)).await
    }

    async fn set_up(model: Option<Settings>) -> Floor {
        let dir = tempfile::Builder::new().prefix("quo-").tempdir_in("/tmp").expect("a directory");
        let dir = dir.keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        let reaper = Some(reaper::Reaper::watch(&dir));
        let user = nix::unistd::geteuid().is_root().then(|| {
            User::from_name("postgres").ok().flatten().expect("a user postgres: root starts none")
        });
        // All at once, so that they differ.
        let sockets = NAMES.map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let port = |s: &TcpListener| s.local_addr().expect("an address").port();
        let ports = sockets.iter().map(port).collect();
        drop(sockets);
        let children = NAMES.iter().map(|_| None).collect();
        let mut floor = Floor { dir, ports, user, children, primary: 0, model, reaper };
        for name in NAMES {
            let place = floor.dir.join(name);
            fs::create_dir(&place).expect("a directory");
            if let Some(user) = &floor.user {
                chown(&place, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
            }
        }
        let data = floor.data(0).display().to_string();
        let auth = ["--auth-local=trust", "--auth-host=scram-sha-256"];
        let mut arguments = vec!["-D", &data, "-U", "postgres", "-k", auth[0], auth[1]];
        let of_model = |name| floor.model.as_ref().and_then(|m| m.value(name)).map(str::to_owned);
        let (encoding, locale) = (of_model("server_encoding"), of_model("lc_collate"));
        for (option, value) in [("--encoding", &encoding), ("--locale", &locale)] {
            arguments.extend(value.iter().flat_map(|v| [option, v.as_str()]));
        }
        floor.run(0, "initdb", &arguments);
        let hba = "local all all trust\nhost replication repl 127.0.0.1/32 trust\n\
                   host all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(floor.data(0).join("pg_hba.conf"), hba).expect("pg_hba.conf");
        let include = "\ninclude = 'floor.conf'\n";
        let conf = floor.data(0).join("postgresql.conf");
        let text = fs::read_to_string(&conf).expect("postgresql.conf") + include;
        fs::write(&conf, text).expect("postgresql.conf");
        floor.configure(0, None);
        floor.launch(0);
        let conn = floor.conn(0).await;
        // Nobody is there yet who could confirm. A message of its own: the statements of one message
        // are one transaction.
        conn.must("SET synchronous_commit = local").await;
        conn.must("CREATE ROLE repl LOGIN REPLICATION").await;
        conn.must("CREATE TABLE own (id int)").await;
        conn.must(PREPARE).await;
        floor.make_slots(&conn, 0).await;
        for i in [1, 2] {
            floor.clone_to(i).await;
        }
        floor.streams().await;
        floor
    }

    /// Where they listen.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let host = || "127.0.0.1".to_owned();
        self.ports.iter().map(|port| Endpoint { host: host(), port: *port }).collect()
    }

    /// The superuser on the primary.
    pub async fn superuser(&self) -> Conn {
        self.conn(self.primary).await
    }

    /// Hands the primary's role over: checkpoint, fast stop, promotion, the other standby turned
    /// round meanwhile, a commit that is confirmed.
    pub async fn switch_over(&mut self) -> Takeover {
        let (old, new, other) = self.roles();
        let (promoting, turning) = (self.conn(new).await, self.conn(other).await);
        self.superuser().await.must("CHECKPOINT").await;
        let begun = Instant::now();
        self.signal(old, Signal::SIGINT);
        self.ended(old).await;
        let turned = self.turn(&turning, other, Some(new));
        let (promote_ms, ()) = tokio::join!(promote(&promoting), turned);
        write(&promoting).await;
        let to_write_ms = since_ms(begun);
        self.primary = new;
        // The old one comes back as it is: its last record reached both.
        fs::write(self.data(old).join("standby.signal"), "").expect("standby.signal");
        self.own(&self.data(old).join("standby.signal"));
        self.configure(old, Some(new));
        (begun, to_write_ms, promote_ms).into()
    }

    /// Kills the primary and promotes the standby with more log, both sealed before. What the dead
    /// server leaves is removed.
    pub async fn crash(&mut self) -> Takeover {
        let old = self.primary;
        let takeover = self.take_over(|_| ()).await;
        fs::remove_dir_all(self.data(old)).expect("the data directory of the dead server");
        takeover
    }

    /// The same; `then` is done when the primary is dead, and its data stays.
    async fn take_over(&mut self, then: impl FnOnce(&Floor)) -> Takeover {
        let (old, first, second) = self.roles();
        let (a, b) = (self.conn(first).await, self.conn(second).await);
        let begun = Instant::now();
        self.kill(old);
        then(self);
        tokio::join!(self.turn(&a, first, None), self.turn(&b, second, None));
        let (at_a, at_b) = tokio::join!(sealed(&a), sealed(&b));
        let (new, other, promoting, turning) =
            if at_a >= at_b { (first, second, &a, &b) } else { (second, first, &b, &a) };
        let (promote_ms, ()) =
            tokio::join!(promote(promoting), self.turn(turning, other, Some(new)));
        self.make_slots(promoting, new).await;
        write(promoting).await;
        let to_write_ms = since_ms(begun);
        self.primary = new;
        (begun, to_write_ms, promote_ms).into()
    }

    /// Stops all in order, the primary first: what it still writes must reach the others.
    pub async fn stop(&mut self) {
        let (primary, first, second) = self.roles();
        for i in [primary, first, second] {
            self.signal(i, Signal::SIGINT);
            self.ended(i).await;
        }
    }

    /// Brings the old primary back as a standby; or all, with the roles that they had.
    pub async fn restore(&mut self) {
        for i in 0..NAMES.len() {
            if self.children[i].is_none() {
                if self.data(i).exists() {
                    self.launch(i);
                } else {
                    self.clone_to(i).await;
                }
            }
        }
        self.streams().await;
    }

    fn roles(&self) -> (usize, usize, usize) {
        (self.primary, (self.primary + 1) % 3, (self.primary + 2) % 3)
    }

    fn data(&self, i: usize) -> PathBuf {
        self.dir.join(NAMES[i]).join("data")
    }

    fn own(&self, path: &Path) {
        if let Some(user) = &self.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
        }
    }

    fn configure(&self, i: usize, primary: Option<usize>) {
        let others: Vec<&str> = NAMES.iter().copied().filter(|n| *n != NAMES[i]).collect();
        let conninfo = primary.map_or_else(String::new, |p| {
            format!("host=127.0.0.1 port={} user=repl application_name={}", self.ports[p], NAMES[i])
        });
        let like = match &self.model {
            // Theirs is beside each data directory, so that no copy takes it along.
            Some(model) => {
                let log = self.dir.join(NAMES[i]).join("log");
                let slot = primary.map_or_else(String::new, |_| slot(i));
                let own = format!("log_directory = '{}'\n", log.display());
                format!("{}{own}primary_slot_name = '{slot}'\n", model.lines())
            }
            None => AS_USUAL.to_owned(),
        };
        let text = format!(
            "{like}listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             cluster_name = '{}'\nsynchronous_standby_names = 'ANY 1 ({})'\n\
             primary_conninfo = '{conninfo}'\n",
            self.ports[i],
            self.dir.join(NAMES[i]).display(),
            NAMES[i],
            others.join(", ")
        );
        let file = self.data(i).join("floor.conf");
        fs::write(&file, text).expect("floor.conf");
        self.own(&file);
    }

    /// Makes a slot for each of the other servers.
    async fn make_slots(&self, conn: &Conn, i: usize) {
        for other in (0..NAMES.len()).filter(|o| *o != i && self.model.is_some()) {
            let slot = slot(other);
            conn.must(&format!(
                "SELECT pg_create_physical_replication_slot('{slot}') \
                 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
            ))
            .await;
        }
    }

    async fn turn(&self, conn: &Conn, i: usize, primary: Option<usize>) {
        self.configure(i, primary);
        conn.must("SELECT pg_reload_conf()").await;
    }

    fn command(&self, i: usize, program: &str) -> Command {
        let mut command = Command::new(machine::postgres_bin().join(program));
        command.current_dir(self.dir.join(NAMES[i])).stdin(Stdio::null());
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn run(&self, i: usize, program: &str, arguments: &[&str]) {
        let output = self.command(i, program).args(arguments).output().expect(program);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    }

    /// Starts server `i`.
    fn launch(&mut self, i: usize) {
        let log = self.dir.join(format!("{}.log", NAMES[i]));
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = self.command(i, "postgres");
        command.arg("-D").arg(self.data(i));
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log).process_group(0);
        self.children[i] = Some(command.spawn().expect("postgres"));
    }

    /// Starts server `i` as a standby of the primary.
    fn begin_to_follow(&mut self, i: usize) {
        fs::write(self.data(i).join("standby.signal"), "").expect("standby.signal");
        self.own(&self.data(i).join("standby.signal"));
        self.configure(i, Some(self.primary));
        self.launch(i);
    }

    async fn clone_to(&mut self, i: usize) {
        let (data, port) = (self.data(i).display().to_string(), self.ports[self.primary]);
        let source = format!("host=127.0.0.1 port={port} user=repl");
        let (slot, mut arguments) = (slot(i), vec!["-d", &source, "-D", &data, "-c", "fast"]);
        // As the managed clusters copy.
        arguments.extend(["-X", "stream", "--no-manifest"]);
        if self.model.is_some() {
            arguments.extend(["-S", &slot]);
        }
        self.run(i, "pg_basebackup", &arguments);
        self.begin_to_follow(i);
    }

    async fn conn(&self, i: usize) -> Conn {
        let mut config = Config::new();
        config.host_path(self.dir.join(NAMES[i])).port(self.ports[i]).user("postgres");
        config.dbname("postgres").connect_timeout(Duration::from_secs(5));
        let open = || async { Conn::open(&config).await.ok() };
        until(&format!("a connection to {}", NAMES[i]), SOON, open).await
    }

    async fn streams(&self) {
        let conn = self.superuser().await;
        let sql = "SELECT count(*) FROM pg_stat_replication \
                   WHERE state = 'streaming' AND sync_state = 'quorum'";
        until("both stream", HEAL, || async { (conn.must(sql).await == "2").then_some(()) }).await;
    }

    fn pid(&self, i: usize) -> Pid {
        let child = self.children[i].as_ref().expect("it runs");
        Pid::from_raw(child.id() as i32)
    }

    fn signal(&self, i: usize, signal: Signal) {
        kill(self.pid(i), signal).expect("a signal to an own child");
    }

    async fn ended(&mut self, i: usize) {
        let child = self.children[i].as_mut().expect("it runs");
        loop {
            if child.try_wait().expect("a child").is_some() {
                self.children[i] = None;
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Kills server `i` with all its processes.
    fn kill(&mut self, i: usize) {
        let Some(mut child) = self.children[i].take() else { return };
        let postmaster = Pid::from_raw(child.id() as i32);
        // Stopped, it starts no process that would be missed.
        let _ = kill(postmaster, Signal::SIGSTOP);
        let list = format!("/proc/{postmaster}/task/{postmaster}/children");
        let list = fs::read_to_string(list).unwrap_or_default();
        let _ = kill(postmaster, Signal::SIGKILL);
        for pid in list.split_ascii_whitespace().filter_map(|p| p.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = child.wait();
    }
}

impl From<(Instant, f64, f64)> for Takeover {
    fn from((begun, to_write_ms, promote_ms): (Instant, f64, f64)) -> Self {
        Takeover { begun, to_write_ms, promote_ms }
    }
}

/// Promotes, and returns after how many milliseconds recovery had ended.
async fn promote(conn: &Conn) -> f64 {
    let begun = Instant::now();
    conn.must("SELECT pg_promote(false)").await;
    while conn.must("SELECT pg_is_in_recovery()").await == "t" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    since_ms(begun)
}

/// A commit that a standby confirms.
async fn write(conn: &Conn) {
    conn.must("INSERT INTO own VALUES (1)").await;
    let notices = conn.take_notices();
    assert!(notices.is_empty(), "{notices:?}");
}

/// Waits until a standby without a source has replayed all that it has; returns where that ends.
async fn sealed(conn: &Conn) -> u64 {
    let sql = "SELECT wait_event = 'RecoveryRetrieveRetryInterval' \
               AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver) \
               FROM pg_stat_activity WHERE backend_type = 'startup'";
    while conn.must(sql).await != "t" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let position = conn.must("SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn").await;
    position.parse().expect("a position")
}

impl Drop for Floor {
    fn drop(&mut self) {
        for i in 0..NAMES.len() {
            self.kill(i);
        }
        let _ = fs::remove_dir_all(&self.dir);
        drop(self.reaper.take());
    }
}
