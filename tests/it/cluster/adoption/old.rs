//! Servers that were made before anybody managed them: by `initdb`, and by Debian.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Cluster, Node};

const INSTALL: &str = "pg_createcluster, of the package postgresql-common";
/// How names of test clusters begin.
const PREFIX: &str = "quoratetest";

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Runs a program of PostgreSQL as its user, who gets to Debian's TLS key by a group.
pub fn postgres(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    command.arg(format!("{BIN}/{program}")).args(arguments).current_dir("/tmp");
    command.env("LC_ALL", "C.UTF-8");
    let output = command.output().expect("a program of PostgreSQL");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{said}");
    text
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// A server of somebody else, in a data directory that a node is to adopt.
pub struct Old<'a> {
    node: &'a Node,
    /// Directory of its socket, and of its log.
    pub socket: String,
    debian: Option<&'a Debian>,
}

impl<'a> Old<'a> {
    pub fn place(cluster: &Cluster, node: &'a Node) -> Self {
        let socket = cluster.dir().join(format!("old-{}", node.name));
        for dir in [&node.state_dir(), &socket] {
            std::fs::create_dir_all(dir).expect("a directory");
            let chown = Command::new("chown").arg("postgres:postgres").arg(dir).status();
            assert!(chown.expect("chown").success());
        }
        Old { node, socket: path(&socket).to_owned(), debian: None }
    }

    /// Made by `initdb`, with settings and rules of its own.
    pub fn make(cluster: &Cluster, node: &'a Node) -> Self {
        let old = Self::place(cluster, node);
        let dir = node.data_dir();
        postgres("initdb", &["-A", "trust", "-U", "postgres", "-kN", "-D", path(&dir)]);
        configure(&dir);
        old
    }

    /// Made by `pg_createcluster`, with its configuration where Debian keeps it.
    pub fn make_debian(cluster: &Cluster, node: &'a Node, debian: &'a Debian) -> Self {
        let old = Self { debian: Some(debian), ..Self::place(cluster, node) };
        let (data, log) = (node.data_dir(), format!("{}/log", old.socket));
        let places = ["-d", path(&data), "-s", &old.socket, "-l", &log, "-p", "5433"];
        let mut command = Command::new("pg_createcluster");
        command.args(["-u", "postgres", "--start-conf=auto"]);
        command.args(places).args([
            "15",
            &debian.name,
            "--",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-kN",
        ]);
        let output = command.env("LC_ALL", "C.UTF-8").current_dir("/").output().expect(INSTALL);
        assert!(output.status.success(), "pg_createcluster: {output:?}");
        configure(&debian.dir());
        let quiet = debian.dir().join("conf.d/quiet.conf");
        std::fs::write(quiet, "listen_addresses = ''\n").expect("a file");
        assert!(!data.join("postgresql.conf").exists(), "its configuration is elsewhere");
        old
    }

    pub fn start(&self) {
        if let Some(debian) = self.debian {
            let said = debian.ctl("start");
            return assert!(said.is_empty(), "{said}");
        }
        let options = format!("-c listen_addresses= -c unix_socket_directories={}", self.socket);
        let dir = self.node.data_dir();
        let log = format!("{}/log", self.socket);
        postgres("pg_ctl", &["start", "-w", "-s", "-D", path(&dir), "-l", &log, "-o", &options]);
    }

    pub fn stop(&self) {
        if let Some(debian) = self.debian {
            let said = debian.ctl("stop");
            return assert!(said.is_empty(), "{said}");
        }
        self.end("fast");
    }

    /// Ends it as `pg_ctl stop -m` does.
    pub fn end(&self, mode: &str) {
        postgres("pg_ctl", &["stop", "-w", "-s", "-m", mode, "-D", path(&self.node.data_dir())]);
    }

    pub fn sql(&self, sql: &str) -> String {
        let arguments = ["-h", &self.socket, "-p", "5433", "-U", "postgres", "-qAtc", sql];
        postgres("psql", &arguments).trim().to_owned()
    }

    pub fn fill(&self) {
        self.sql("CREATE TABLE goods (id int PRIMARY KEY, name text)");
        self.sql("INSERT INTO goods SELECT i, 'thing ' || i FROM generate_series(1, 1000) i");
        self.sql("ALTER SYSTEM SET random_page_cost = 1.5");
        self.sql("CREATE ROLE shop LOGIN");
    }
}

/// Settings and rules of its own, in `dir`.
fn configure(dir: &Path) {
    let append = |name: &str, more: &str| {
        let file = dir.join(name);
        let before = std::fs::read_to_string(&file).expect("a configuration");
        std::fs::write(&file, format!("{before}\n{more}")).expect("a configuration");
    };
    let main = "work_mem = '7MB'\nmax_connections = 77\nport = 5433\nfsync = on\n\
                include_dir = 'more'\nsynchronous_commit = off\n";
    append("postgresql.conf", main);
    std::fs::create_dir(dir.join("more")).expect("a directory");
    std::fs::write(dir.join("more/a.conf"), "statement_timeout = '77s'\n").expect("a file");
    append("pg_hba.conf", "host shop all 192.0.2.0/24 scram-sha-256\n");
}

/// A name among the clusters of Debian's `pg_createcluster` on this machine. Dropping it removes
/// that cluster.
pub struct Debian {
    name: String,
}

impl Debian {
    /// A name that nobody has. What tests that were killed have left is removed.
    pub fn new() -> Debian {
        for entry in std::fs::read_dir("/etc/postgresql/15").into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(Debian { name });
            }
        }
        Debian { name: format!("{PREFIX}{}", std::process::id()) }
    }

    /// Directory of its configuration.
    pub fn dir(&self) -> PathBuf {
        Path::new("/etc/postgresql/15").join(&self.name)
    }

    /// What says whether it may be started.
    pub fn start_conf(&self) -> PathBuf {
        self.dir().join("start.conf")
    }

    /// What that says.
    pub fn start_mode(&self) -> String {
        let text = std::fs::read_to_string(self.start_conf()).expect("start.conf");
        let said: Vec<&str> =
            text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        said.join(" ")
    }

    /// Runs `pg_ctlcluster`. What it says where it fails; empty where it does not.
    pub fn ctl(&self, action: &str) -> String {
        let mut command = Command::new("pg_ctlcluster");
        command.args(["--skip-systemctl-redirect", "15", &self.name, action]);
        let output = command.env("LC_ALL", "C.UTF-8").current_dir("/").output().expect(INSTALL);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { String::new() } else { format!("{}: {said}", output.status) }
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if self.dir().exists() {
            let _ = Command::new("pg_dropcluster").args(["--stop", "15", &self.name]).output();
            // It leaves what it has not made.
            let _ = std::fs::remove_dir_all(self.dir());
        }
    }
}
