//! An existing PostgreSQL comes under management, with its rows and its settings.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::config::put;
use crate::support::{Cluster, HEAL, Mode, Node, Options, until};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Runs a program of PostgreSQL as its user.
fn postgres(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(format!("{BIN}/{program}")).args(arguments).current_dir("/tmp");
    command.env("LC_ALL", "C.UTF-8");
    let output = command.output().expect("a program of PostgreSQL");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{said}");
    text
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// A server of somebody else, in a data directory that a node is to adopt.
struct Old<'a> {
    node: &'a Node,
    socket: String,
}

impl<'a> Old<'a> {
    fn place(cluster: &Cluster, node: &'a Node) -> Self {
        let socket = cluster.dir().join(format!("old-{}", node.name));
        for dir in [&node.state_dir(), &socket] {
            std::fs::create_dir_all(dir).expect("a directory");
            let chown = Command::new("chown").arg("postgres:postgres").arg(dir).status();
            assert!(chown.expect("chown").success());
        }
        Old { node, socket: path(&socket).to_owned() }
    }

    /// Made by `initdb`, with settings and rules of its own.
    fn make(cluster: &Cluster, node: &'a Node) -> Self {
        let old = Self::place(cluster, node);
        let dir = node.data_dir();
        postgres("initdb", &["-A", "trust", "-U", "postgres", "-k", "-D", path(&dir)]);
        let conf = dir.join("postgresql.conf");
        let before = std::fs::read_to_string(&conf).expect("postgresql.conf");
        let more = "work_mem = '7MB'\nmax_connections = 77\nport = 5433\nfsync = on\n\
                    include_dir = 'more'\nsynchronous_commit = off\n";
        std::fs::write(&conf, format!("{before}\n{more}")).expect("postgresql.conf");
        std::fs::create_dir(dir.join("more")).expect("a directory");
        std::fs::write(dir.join("more/a.conf"), "statement_timeout = '77s'\n").expect("a file");
        let hba = dir.join("pg_hba.conf");
        let before = std::fs::read_to_string(&hba).expect("pg_hba.conf");
        let more = "host shop all 192.0.2.0/24 scram-sha-256\n";
        std::fs::write(&hba, format!("{before}\n{more}")).expect("pg_hba.conf");
        old
    }

    fn start(&self) {
        let options = format!("-c listen_addresses= -c unix_socket_directories={}", self.socket);
        let dir = self.node.data_dir();
        let log = format!("{}/log", self.socket);
        postgres("pg_ctl", &["start", "-w", "-s", "-D", path(&dir), "-l", &log, "-o", &options]);
    }

    fn stop(&self) {
        postgres("pg_ctl", &["stop", "-w", "-s", "-m", "fast", "-D", path(&self.node.data_dir())]);
    }

    fn sql(&self, sql: &str) -> String {
        let arguments = ["-h", &self.socket, "-p", "5433", "-U", "postgres", "-qAtc", sql];
        postgres("psql", &arguments).trim().to_owned()
    }

    fn fill(&self) {
        self.sql("CREATE TABLE goods (id int PRIMARY KEY, name text)");
        self.sql("INSERT INTO goods SELECT i, 'thing ' || i FROM generate_series(1, 1000) i");
        self.sql("ALTER SYSTEM SET random_page_cost = 1.5");
        self.sql("CREATE ROLE shop LOGIN");
    }
}

fn adopting(nodes: usize) -> Options {
    let member = vec!["adopt = true".to_owned()];
    Options { nodes, member, prepared: false, ..Options::default() }
}

async fn findings(cluster: &Cluster) -> Vec<Value> {
    let answer = cluster.hactl(&["explain", "-o", "json"]).await.json();
    answer.and_then(|a| a["findings"].as_array().cloned()).unwrap_or_default()
}

async fn until_found(cluster: &Cluster, rule: &str, member: &str, words: &str) {
    until(&format!("{rule} of {member}: {words}"), HEAL, || async {
        let all = findings(cluster).await;
        let fits = |f: &&Value| {
            f["rule"] == rule && f["member"] == member && f["text"].to_string().contains(words)
        };
        all.iter().find(fits).map(drop)
    })
    .await;
}

async fn goods(cluster: &Cluster, node: &Node) -> String {
    cluster.superuser(node.index).await.must("SELECT count(*) || ' ' || max(id) FROM goods").await
}

/// One server with rows and settings; the others are new and are copied from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_server() {
    let options = adopting(3);
    let cluster = Cluster::prepare("a_single_server", &options);
    let cluster = &cluster;
    let old = Old::make(cluster, &cluster.nodes[1]);
    old.start();
    old.fill();
    let id = old.sql("SELECT system_identifier FROM pg_control_system()");
    for node in &cluster.nodes {
        node.start();
    }

    eprintln!("-- it still runs: that is said, and nothing is done to it");
    until_found(cluster, "adopt.waits", "b", "PostgreSQL runs on").await;
    let dry = cluster.hactl(&["cluster", "adopt", "--dry-run"]).await;
    assert!(dry.code == 1 && dry.stdout.contains("adopt.ready"), "{dry:?}");
    let answer = cluster.hactl(&["cluster", "adopt", "-y"]).await;
    assert!(answer.code == 1 && answer.stderr.contains("stop it"), "{answer:?}");
    assert_eq!(old.sql("SELECT count(*) FROM goods"), "1000");

    eprintln!("-- it is stopped, and adopted");
    old.stop();
    until_found(cluster, "adopt.waits", "b", "was stopped in order as a primary").await;
    let dry = until("all members have reported", HEAL, || async {
        let dry = cluster.hactl(&["cluster", "adopt", "--dry-run"]).await;
        (dry.code == 0).then_some(dry)
    })
    .await;
    for text in ["work_mem = 7MB", "statement_timeout = 77s", "random_page_cost = 1.5", "192.0.2.0"]
    {
        assert!(dry.stdout.contains(text), "{text}: {dry:?}");
    }
    assert!(dry.stdout.contains("not taken over: port"), "{dry:?}");
    let answer = cluster.hactl(&["cluster", "adopt", "-y"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let status = cluster.healed().await;
    assert_eq!(status.cluster()["system_id"], id.as_str());
    assert_eq!((status.epoch(), status.primary().as_deref()), (2, Some("b")));

    eprintln!("-- its rows, roles and settings are there, on all members");
    cluster.prepare_database().await;
    for node in &cluster.nodes {
        assert_eq!(goods(cluster, node).await, "1000 1000");
        let conn = cluster.superuser(node.index).await;
        for (name, value) in [
            ("work_mem", "7MB"),
            ("statement_timeout", "77s"),
            ("random_page_cost", "1.5"),
            ("synchronous_commit", "on"),
        ] {
            assert_eq!(
                conn.must(&format!("SHOW {name}")).await,
                value,
                "{name} of {}",
                node.member
            );
        }
        let rules = "SELECT count(*) FROM pg_hba_file_rules WHERE 'shop' = ANY (database)";
        assert_eq!(conn.must(rules).await, "1");
    }
    let kept = cluster.nodes[1].state_dir().join("member/main.b/adopted/postgresql.conf");
    assert!(std::fs::read_to_string(kept).expect("it is kept").contains("7MB"));

    eprintln!("-- it is a cluster like any other");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    cluster.primary().await.kill_everything().await;
    cluster.new_epoch(before.epoch()).await;
    cluster.node_of("b").start();
    cluster.judge(writers, since).await;
    for node in &cluster.nodes {
        assert_eq!(goods(cluster, node).await, "1000 1000");
    }

    eprintln!(
        "-- a server that is started by hand on a managed directory is left alone, and told of"
    );
    let standby = cluster.standbys().await[0];
    standby.kill_everything().await;
    let by_hand = Old::place(cluster, standby);
    for file in ["standby.signal", "postmaster.pid"] {
        let _ = std::fs::remove_file(standby.data_dir().join(file));
    }
    let quiet = "-c synchronous_standby_names= -c port=5433";
    let options =
        format!("{quiet} -c listen_addresses= -c unix_socket_directories={}", by_hand.socket);
    let log = format!("{}/log", by_hand.socket);
    let dir = standby.data_dir();
    postgres("pg_ctl", &["start", "-w", "-s", "-D", path(&dir), "-l", &log, "-o", &options]);
    standby.start();
    until("it is an alarm", HEAL, || async {
        let status = cluster.hactl(&["status", "-o", "json"]).await;
        status.stdout.contains("foreign-server").then_some(())
    })
    .await;
    assert!(standby.data_dir().join("postmaster.pid").exists(), "it runs on");
    by_hand.stop();
    cluster.healed().await;
}

/// A primary with a standby; which is which is proven by what they hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_a_standby() {
    let options = adopting(3);
    let cluster = Cluster::prepare("a_primary_with_a_standby", &options);
    let cluster = &cluster;
    let primary = Old::make(cluster, &cluster.nodes[2]);
    primary.start();
    primary.fill();
    let standby = Old::place(cluster, &cluster.nodes[0]);
    let into = cluster.nodes[0].data_dir();
    let from = ["-h", &primary.socket, "-p", "5433", "-U", "postgres", "-R", "-D", path(&into)];
    postgres("pg_basebackup", &from);
    standby.start();
    primary.sql("INSERT INTO goods VALUES (1001, 'later')");
    until("it is on the standby", HEAL, || async {
        (standby.sql("SELECT count(*) FROM goods") == "1001").then_some(())
    })
    .await;
    // The primary first, so that the standby has its last record.
    primary.stop();
    standby.stop();
    put(&into.join("a-file-of-the-standby"), "kept", 0o644);
    for node in &cluster.nodes {
        node.start();
    }
    until_found(cluster, "adopt.waits", "a", "was stopped in order as a standby").await;
    until_found(cluster, "adopt.waits", "c", "was stopped in order as a primary").await;
    until("all members have reported", HEAL, || async {
        let dry = cluster.hactl(&["cluster", "adopt", "--dry-run"]).await;
        (dry.code == 0).then_some(())
    })
    .await;
    let answer = cluster.hactl(&["cluster", "adopt", "-y"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let status = cluster.healed().await;
    assert_eq!((status.epoch(), status.primary().as_deref()), (2, Some("c")));
    for node in &cluster.nodes {
        assert_eq!(goods(cluster, node).await, "1001 1001");
    }
    assert!(into.join("a-file-of-the-standby").exists(), "the standby was not copied anew");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"] {
        let kept = cluster.nodes[0].state_dir().join("member/main.a/adopted").join(name);
        assert!(kept.exists(), "{name} of the standby is kept");
    }

    cluster.prepare_database().await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let answer = cluster.hactl(&["switchover", "-y", "--to", "a"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    cluster.judge(writers, since).await;
}
