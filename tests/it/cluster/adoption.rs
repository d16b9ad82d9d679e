//! An existing PostgreSQL comes under management, with its rows and its settings.

mod old;

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::config::{CLUSTER, put};
use crate::support::{Cluster, HEAL, Hactl, Mode, Node, Options, until};
use old::{Debian, Old, path, postgres};

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

/// One server of Debian's with rows and settings; the others are new and are copied from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_server() {
    let options = adopting(3);
    // Goes after the cluster, whose data it names.
    let debian = Debian::new();
    let cluster = Cluster::prepare("a_single_server", &options);
    let cluster = &cluster;
    let old = Old::make_debian(cluster, &cluster.nodes[1], &debian);
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
    until_found(cluster, "adopt.waits", "b", "turns off what would start this server").await;
    assert_eq!(debian.start_mode(), "auto", "nothing is changed before it is asked for");
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
    let step = format!("turned off on b: write `disabled` into {}", path(&debian.start_conf()));
    assert!(dry.stdout.contains(&step), "{dry:?}");
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

    eprintln!("-- Debian starts no second server on it, and can have it back");
    assert_eq!(debian.start_mode(), "disabled");
    let refused = debian.ctl("start");
    assert!(refused.contains("Cluster is disabled"), "{refused}");
    let notice = cluster.history().await.into_iter().map(|e| e.to_string());
    assert!(notice.into_iter().any(|e| e.contains("start-turned-off") && e.contains("undo.sh")));
    let undo = cluster.nodes[1].state_dir().join("member/main.b/adopted/undo.sh");
    let script = std::fs::read_to_string(&undo).expect("a way back");
    assert!(script.contains(path(&debian.start_conf())), "{script}");

    eprintln!("-- it is a cluster like any other");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    cluster.primary().await.kill_everything().await;
    cluster.new_epoch(before.epoch()).await;
    // Given back to Debian, which would start it at boot.
    let given_back = Command::new("sh").arg(&undo).status().expect("sh");
    assert!(given_back.success() && debian.start_mode() == "auto");
    // What it was adopted by is of no use any more.
    let config = cluster.node_of("b").config();
    let text = std::fs::read_to_string(&config).expect("a configuration");
    put(&config, &text.replace("adopt = true", ""), 0o644);
    cluster.node_of("b").start();
    cluster.judge(writers, since).await;
    until("it is an alarm that a second server would be started", HEAL, || async {
        let status = cluster.hactl(&["status", "-o", "json"]).await;
        status.stdout.contains("starts-by-itself").then_some(())
    })
    .await;
    for node in &cluster.nodes {
        assert_eq!(goods(cluster, node).await, "1000 1000");
    }

    eprintln!(
        "-- a server that is started by hand on a managed directory is left alone, and told of"
    );
    // One that never led: what it is started as is seen from its data then.
    let never_led = |n: &&Node| n.member != "b";
    let standby = cluster.standbys().await.into_iter().find(never_led).expect("a standby");
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

/// A copy of the primary, which streams from it.
fn copy<'a>(cluster: &Cluster, node: &'a Node, primary: &Old<'_>) -> Old<'a> {
    let standby = Old::place(cluster, node);
    let into = node.data_dir();
    let from = ["-h", &primary.socket, "-p", "5433", "-U", "postgres", "-R", "-D", path(&into)];
    postgres("pg_basebackup", &[&from[..], &["-N", "-c", "fast"]].concat());
    standby.start();
    standby
}

async fn dry_run(cluster: &Cluster, more: &[&str]) -> Hactl {
    cluster.hactl(&[&["cluster", "adopt", "--dry-run"], more].concat()).await
}

/// A primary with standbys; which is which is proven by what they hold, or the operator's word. Then
/// the same data comes into another life of the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_a_standby() {
    let options = adopting(3);
    let cluster = Cluster::prepare("a_primary_with_a_standby", &options);
    let cluster = &cluster;
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let primary = Old::make(cluster, c);
    primary.start();
    primary.fill();
    let standby = copy(cluster, a, &primary);
    let crashed = copy(cluster, b, &primary);
    primary.sql("INSERT INTO goods VALUES (1001, 'later')");
    until("it is on the standbys", HEAL, || async {
        let there = |old: &Old<'_>| old.sql("SELECT count(*) FROM goods") == "1001";
        (there(&standby) && there(&crashed)).then_some(())
    })
    .await;
    crashed.end("immediate");
    // The primary first, so that the standby has its last record.
    primary.stop();
    standby.stop();
    for node in [a, b] {
        put(&node.data_dir().join("a-file-of-the-standby"), "kept", 0o644);
    }
    for node in &cluster.nodes {
        node.start();
    }
    until_found(cluster, "adopt.waits", "a", "was stopped in order as a standby").await;
    until_found(cluster, "adopt.waits", "b", "was not stopped in order").await;
    until_found(cluster, "adopt.waits", "c", "was stopped in order as a primary").await;

    eprintln!("-- what one of them holds is not known, so the primary is named");
    until("it is refused for that alone", HEAL, || async {
        let said = dry_run(cluster, &[]).await.stdout;
        (said.contains("adopt.newest") && !said.contains("adopt.all-members")).then_some(())
    })
    .await;
    for member in ["a", "b"] {
        let answer = cluster.hactl(&["cluster", "adopt", "-y", "--primary", member]).await;
        assert!(answer.code == 1 && answer.stderr.contains("adopt.standby"), "{answer:?}");
    }
    let answer = cluster.hactl(&["cluster", "adopt", "-y", "--primary", "c"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let status = cluster.healed().await;
    assert_eq!((status.epoch(), status.primary().as_deref()), (2, Some("c")));
    for node in &cluster.nodes {
        assert_eq!(goods(cluster, node).await, "1001 1001");
    }
    let kept = |node: &Node| node.data_dir().join("a-file-of-the-standby").exists();
    assert!(kept(a), "the standby was not copied anew");
    assert!(!kept(b), "the one that crashed was");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf"] {
        let kept = a.state_dir().join("member/main.a/adopted").join(name);
        assert!(kept.exists(), "{name} of the standby is kept");
    }

    cluster.prepare_database().await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let answer = cluster.switchover("a").await;
    assert_eq!(answer.code, 0, "{answer:?}");
    cluster.judge(writers, since).await;

    eprintln!("-- the cluster is removed, and its data adopted by one of the same name");
    let before = cluster.healed().await;
    let conn = cluster.superuser(a.index).await;
    conn.must("INSERT INTO goods VALUES (1002, 'of the first life')").await;
    let rules = conn.must("SELECT count(*) FROM pg_hba_file_rules").await;
    drop(conn);
    let answer = cluster.hactl(&["cluster", "remove", "-y", "--force", CLUSTER]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    until("all PostgreSQL is stopped", HEAL, || async {
        cluster.nodes.iter().all(|n| n.find_tree().is_none()).then_some(())
    })
    .await;
    let spec = cluster.dir().join("again.toml");
    put(&spec, "bootstrap_members = [\"a\", \"b\", \"c\"]\n", 0o644);
    let answer = cluster.hactl(&["cluster", "create", CLUSTER, "-f", path(&spec)]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let dry = until("all members have reported", HEAL, || async {
        let dry = dry_run(cluster, &[]).await;
        (dry.code == 0).then_some(dry)
    })
    .await;
    assert!(dry.stdout.contains("work_mem = 7MB"), "{dry:?}");
    let first = format!("the first epoch is {}", before.epoch() + 1);
    assert!(dry.stdout.contains(&first), "{first}: {dry:?}");
    assert!(!dry.stdout.contains("rule host replication"), "{dry:?}");
    let answer = cluster.hactl(&["cluster", "adopt", "-y"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let status = cluster.healed().await;
    assert_eq!(status.primary().as_deref(), Some("a"));
    assert!(status.epoch() > before.epoch(), "{} > {}", status.epoch(), before.epoch());
    assert_eq!(status.cluster()["system_id"], before.cluster()["system_id"]);
    for node in &cluster.nodes {
        assert_eq!(goods(cluster, node).await, "1002 1002");
    }
    let conn = cluster.superuser(a.index).await;
    assert_eq!(conn.must("SHOW work_mem").await, "7MB");
    assert_eq!(conn.must("SELECT count(*) FROM pg_hba_file_rules").await, rules);
}
