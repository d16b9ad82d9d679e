//! A whole cluster: nodes, clients, and what an operator sees of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::{Loopback, Turn};
use super::client::{self, APP_PASSWORD, APP_USER, Conn, Endpoint};
use super::config::{self, CLUSTER, Options};
use super::journal::Journal;
use super::net::PrivateNetwork;
use super::node::Node;
use super::oracle::{self, Verdict};
use super::reaper::Reaper;
use super::status::Status;
use super::writer::{Mode, TABLE, Writer};
use super::{HEAL, SOON, hactl_bin, process, until};

/// Where the nodes are.
enum Network {
    Loopback(Loopback),
    Private(PrivateNetwork),
}

/// A running cluster. Dropping it ends every process and removes its directory.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// What clients were told.
    pub journal: Arc<Journal>,
    name: String,
    dir: PathBuf,
    network: Network,
    reaper: Option<Reaper>,
    members: usize,
    apart: bool,
    _turn: Turn,
}

/// What `hactl` answered.
#[derive(Debug, Clone)]
pub struct Hactl {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Hactl {
    /// The answer as JSON.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.stdout).ok()
    }
}

impl Cluster {
    /// A healthy cluster of nodes on loopback, each with an address of its own.
    pub async fn start(name: &str, options: &Options) -> Cluster {
        let cluster = Cluster::prepare(name, options);
        cluster.bring_up(options).await;
        cluster
    }

    /// The same on networks that can be cut.
    pub async fn start_on(name: &str, network: PrivateNetwork, options: &Options) -> Cluster {
        let options = Options { nodes: network.count(), ..options.clone() };
        let cluster = Cluster::lay_out(name, Network::Private(network), &options);
        cluster.bring_up(&options).await;
        cluster
    }

    /// Directories and configurations; no process runs yet.
    pub fn prepare(name: &str, options: &Options) -> Cluster {
        Cluster::lay_out(name, Network::Loopback(Loopback::take()), options)
    }

    fn lay_out(name: &str, network: Network, options: &Options) -> Cluster {
        let turn = Turn::take();
        // Short, since paths of Unix sockets are; open, since the user postgres has to get through.
        let dir = tempfile::Builder::new().prefix("quo-").tempdir_in("/tmp").expect("a directory");
        let dir = dir.keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let reaper = Some(Reaper::watch(&dir));
        let place = |i| match &network {
            Network::Loopback(l) => (l.host(i + 1), None),
            Network::Private(n) => (PrivateNetwork::host(i), Some(n.namespace(i))),
        };
        let places: Vec<_> = (0..options.nodes).map(place).collect();
        let hosts: Vec<String> = places.iter().map(|p| p.0.clone()).collect();
        config::write(&dir, &hosts, options);
        let nodes = places.into_iter().enumerate();
        let nodes =
            nodes.map(|(i, (host, ns))| Node::new(i, &dir, host, ns, options.data_dir)).collect();
        let (name, journal) = (name.to_owned(), Arc::new(Journal::default()));
        let members = options.nodes - options.witnesses;
        let apart = options.apart;
        Cluster { nodes, journal, name, dir, network, reaper, members, apart, _turn: turn }
    }

    /// Starts every node and waits until the cluster is healthy.
    pub async fn bring_up(&self, options: &Options) {
        for node in &self.nodes {
            node.start();
        }
        self.healed().await;
        if options.prepared {
            self.prepare_database().await;
        }
    }

    /// Makes an ordinary user and the table of the writers.
    pub async fn prepare_database(&self) {
        let conn = self.superuser(self.primary().await.index).await;
        let sql = format!(
            "CREATE ROLE {APP_USER} LOGIN PASSWORD '{APP_PASSWORD}';
             GRANT CREATE ON SCHEMA public TO {APP_USER};
             {TABLE};
             GRANT ALL ON q_rows TO {APP_USER}"
        );
        conn.must(&sql).await;
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its networks, where it has some that can be cut.
    pub fn network(&self) -> &PrivateNetwork {
        match &self.network {
            Network::Private(network) => network,
            Network::Loopback(_) => panic!("this cluster is on loopback"),
        }
    }

    // ---- what an operator sees ----

    fn hactl_command(&self, arguments: &[&str]) -> Command {
        let endpoints: Vec<String> = self.nodes.iter().map(Node::api).collect();
        let mut command = Command::new(hactl_bin());
        command.args(["-c", CLUSTER]).args(arguments);
        command.env("HACTL_ENDPOINTS", endpoints.join(",")).env("XDG_CONFIG_HOME", "/nonexistent");
        command.stdin(Stdio::null());
        command
    }

    /// Runs `hactl` against all nodes.
    pub async fn hactl(&self, arguments: &[&str]) -> Hactl {
        self.hactl_with(arguments, &[]).await
    }

    /// The same with more in its environment.
    pub async fn hactl_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Hactl {
        let mut command = self.hactl_command(arguments);
        command.envs(environment.iter().copied());
        let run = tokio::task::spawn_blocking(move || command.output().expect("hactl"));
        let output = run.await.expect("no panic");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Hactl {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Runs a switchover once it would be begun: a leader that was just elected has not heard of
    /// everybody, and a standby that has just come back may have to catch up.
    pub async fn switchover(&self, to: &str) -> Hactl {
        until(&format!("a switchover to {to} would be begun"), HEAL, || async {
            let checked = self.hactl(&["switchover", "--to", to, "--dry-run"]).await;
            (checked.code == 0).then_some(())
        })
        .await;
        self.hactl(&["switchover", "--to", to, "--yes"]).await
    }

    /// The status, if anybody answers.
    pub async fn status(&self) -> Option<Status> {
        self.hactl(&["--timeout", "3s", "status", "-o", "json"]).await.json().map(Status)
    }

    /// The leader's status.
    pub async fn leaders_status(&self) -> Status {
        let look = || async { self.status().await.filter(Status::is_leaders) };
        until("the leader answers", SOON, look).await
    }

    /// Waits until there is one open primary and every other member streams from it, proven and
    /// counted. Returns the status that says so.
    pub async fn healed(&self) -> Status {
        let begun = Instant::now();
        let mut why = String::from("nobody answers");
        loop {
            if let Some(status) = self.status().await {
                match status.unhealthy(self.members) {
                    None => return status,
                    Some(now) => why = now,
                }
            }
            assert!(begun.elapsed() < HEAL, "{} did not heal within {HEAL:?}: {why}", self.name);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until another epoch than `epoch` is active.
    pub async fn new_epoch(&self, epoch: u64) -> Status {
        until("a newer epoch is active", HEAL, || async {
            let status = self.status().await.filter(Status::is_leaders)?;
            (status.epoch() > epoch && status.primary().is_some()).then_some(status)
        })
        .await
    }

    /// The nodes that have a member.
    pub fn member_nodes(&self) -> &[Node] {
        &self.nodes[..self.members]
    }

    /// The nodes that have a controller.
    pub fn controllers(&self) -> &[Node] {
        if self.apart { &self.nodes[self.members..] } else { &self.nodes }
    }

    /// The node of this member.
    pub fn node_of(&self, member: &str) -> &Node {
        self.member_nodes().iter().find(|n| n.member == member).expect("a member of this cluster")
    }

    /// The node of the open primary.
    pub async fn primary(&self) -> &Node {
        let look = || async { self.status().await.filter(Status::is_leaders)?.primary() };
        let member = until("there is a primary", HEAL, look).await;
        self.node_of(&member)
    }

    /// The nodes of the others.
    pub async fn standbys(&self) -> Vec<&Node> {
        let primary = self.primary().await.index;
        self.member_nodes().iter().filter(|n| n.index != primary).collect()
    }

    /// The node that leads the control plane.
    pub async fn raft_leader(&self) -> &Node {
        let name = self.leaders_status().await.raft_leader().expect("a leader");
        self.nodes.iter().find(|n| n.name == name).expect("a node of this cluster")
    }

    /// The sentences of the history, oldest first.
    pub async fn history(&self) -> Vec<serde_json::Value> {
        let answer = self.hactl(&["history", "-n", "400", "-o", "json"]).await;
        let value = answer.json().unwrap_or_else(|| panic!("{answer:?}"));
        match &value {
            serde_json::Value::Array(events) => events.clone(),
            _ => value["events"].as_array().cloned().unwrap_or_default(),
        }
    }

    // ---- clients ----

    /// The superuser on node `i`, through its socket.
    pub async fn superuser(&self, i: usize) -> Conn {
        let config = client::superuser(&self.nodes[i]);
        let what = format!("a connection to {}", self.nodes[i].member);
        let open = || async { Conn::open(&config).await.ok() };
        until(&what, HEAL, open).await
    }

    /// Where all members listen.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.member_nodes().iter().map(Node::sql).collect()
    }

    /// A client that writes all the time.
    pub fn writer(&self, mode: Mode) -> Writer {
        Writer::start(mode, self.endpoints(), self.journal.clone())
    }

    /// One client of each server, which writes whenever that takes writes.
    pub fn probes(&self) -> Vec<Writer> {
        let probe = |n: &Node| Writer::start(Mode::Probe, vec![n.sql()], self.journal.clone());
        self.member_nodes().iter().map(probe).collect()
    }

    /// Waits until so many more rows were acknowledged.
    pub async fn rows_flow(&self, more: usize) {
        let before = self.journal.acknowledged();
        until("rows are acknowledged", HEAL, || async {
            (self.journal.acknowledged() >= before + more).then_some(())
        })
        .await;
    }

    /// Heals, stops the writers, and judges every row.
    pub async fn judge(&self, writers: Vec<Writer>, since: Instant) -> Verdict {
        self.healed().await;
        for writer in writers {
            writer.stop().await;
        }
        // The answer that ended a writer may have come from a primary that is gone since.
        self.healed().await;
        let verdict = oracle::judge(self, since).await;
        eprintln!("{}: {verdict:?}", self.name);
        verdict
    }

    // ---- the end ----

    fn tell_all(&self) {
        eprintln!("==== {} failed; its directory was {} ====", self.name, self.dir.display());
        for arguments in [
            &["--timeout", "3s", "status"][..],
            &["--timeout", "3s", "explain"],
            &["--timeout", "3s", "history", "-n", "60"],
        ] {
            if let Ok(output) = self.hactl_command(arguments).output() {
                eprintln!("$ hactl {}", arguments.join(" "));
                eprintln!("{}", String::from_utf8_lossy(&output.stdout));
                eprintln!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        for node in &self.nodes {
            let daemon = std::fs::read(node.log()).unwrap_or_default();
            eprintln!("---- {} ----\n{}", node.name, tail(&String::from_utf8_lossy(&daemon), 60));
            if node.index < self.members {
                let log = node.postgres_log();
                eprintln!("---- PostgreSQL {} ----\n{}", node.member, tail(&log, 25));
            }
        }
    }
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            self.tell_all();
        }
        let left = process::kill_directory(&self.dir);
        for node in &self.nodes {
            // Collects the exit status.
            let _ = node.ended();
        }
        if !left.is_empty() {
            let titles: Vec<String> = left.iter().map(|p| p.title()).collect();
            eprintln!("{}: these processes do not end: {titles:#?}", self.name);
            assert!(failed, "processes are left");
        }
        if std::env::var_os("QUORATE_TEST_KEEP").is_some() {
            // Under another name, so that the reaper does not find it.
            let _ = std::fs::rename(&self.dir, self.dir.with_extension("kept"));
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        drop(self.reaper.take());
    }
}
