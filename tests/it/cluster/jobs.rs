//! Operations that an operator asks for: restarts, reloads, copies, pauses, and what is scheduled.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Cluster, HEAL, Hactl, Mode, Options, until};

/// The start of each member's PostgreSQL.
async fn starts(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut starts = BTreeMap::new();
    for node in cluster.member_nodes() {
        let conn = cluster.superuser(node.index).await;
        let at = conn.must("SELECT pg_postmaster_start_time()::text").await;
        starts.insert(node.member.clone(), at);
    }
    starts
}

/// Runs `hactl` for an operation that has to succeed: the operation.
async fn done(cluster: &Cluster, arguments: &[&str]) -> Value {
    let answer = cluster.hactl(&[arguments, &["-o", "json"]].concat()).await;
    assert_eq!(answer.code, 0, "{arguments:?}: {answer:?}");
    let operation = answer.json().expect("JSON");
    assert_eq!(operation["state"], "done", "{arguments:?}: {operation}");
    operation
}

/// Runs `hactl` for what has to be refused by this rule.
async fn refused(cluster: &Cluster, arguments: &[&str], rule: &str) -> Hactl {
    let answer = cluster.hactl(arguments).await;
    assert_eq!(answer.code, 1, "{arguments:?}: {answer:?}");
    assert!(answer.stderr.contains(rule), "{arguments:?}: {answer:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_restarted_reloaded_and_copied_anew() {
    let cluster = Cluster::start("members_are_restarted", &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await.member.clone();
    let standby = cluster.standbys().await[0].member.clone();

    eprintln!("-- a standby is restarted, and nothing else");
    let old = starts(cluster).await;
    done(cluster, &["restart", &standby, "--yes", "--timeout", "2m"]).await;
    let new = starts(cluster).await;
    for (member, at) in &new {
        assert_eq!(*at != old[member], *member == standby, "{member}");
    }
    assert_eq!(cluster.healed().await.epoch(), before.epoch());

    eprintln!("-- what cannot be is refused, and says the way out");
    let answer = refused(cluster, &["restart", &primary, "--yes"], "operation.standby-only").await;
    assert!(answer.stderr.contains("--in-place"), "{answer:?}");
    refused(cluster, &["reinit", &primary, "--yes"], "operation.standby-only").await;
    refused(cluster, &["restart", "nobody", "--yes"], "member.exists").await;
    refused(cluster, &["restart", "--rolling", "--pending", "--yes"], "restart.pending").await;
    refused(cluster, &["operation", "show", "9999"], "operation.exists").await;
    refused(cluster, &["operation", "cancel", "1"], "operation.exists").await;
    let nobody = cluster.hactl(&["restart", &standby]).await;
    assert_eq!(nobody.code, 2, "nobody can be asked: {nobody:?}");
    let late = cluster.hactl(&["switchover", "--at", "1999-01-01T00:00Z", "--yes"]).await;
    assert_eq!(late.code, 2, "{late:?}");
    assert!(late.stderr.contains("past"), "{late:?}");

    eprintln!("-- the primary is restarted where it is");
    let old = starts(cluster).await;
    let restarted = done(cluster, &["restart", &primary, "--in-place", "--yes"]).await;
    assert_eq!(restarted["primary"], Value::String(primary.clone()), "{restarted}");
    let after = cluster.healed().await;
    assert_eq!(after.primary().as_ref(), Some(&primary));
    assert!(after.epoch() > before.epoch());
    assert_ne!(starts(cluster).await[&primary], old[&primary]);

    eprintln!("-- all are restarted, the primary by a switchover");
    let old = starts(cluster).await;
    let rolled = done(cluster, &["restart", "--rolling", "--yes", "--timeout", "5m"]).await;
    assert_ne!(rolled["primary"], Value::String(primary.clone()), "{rolled}");
    let rolled = cluster.healed().await;
    assert_eq!(rolled.epoch(), after.epoch() + 1, "one switchover");
    let new = starts(cluster).await;
    assert!(new.iter().all(|(member, at)| *at != old[member]), "{old:?} {new:?}");

    eprintln!("-- the configuration is read again, and what is wrong in it is said");
    let answer = cluster.hactl(&["reload"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    assert_eq!(answer.stdout.lines().count(), 3, "{answer:?}");
    let node = cluster.node_of(&standby);
    let auto = node.data_dir().join("postgresql.auto.conf");
    let good = std::fs::read_to_string(&auto).expect("postgresql.auto.conf");
    std::fs::write(&auto, format!("{good}work_mem = 'nonsense'\n")).expect("a bad line");
    refused(cluster, &["reload", &standby], "work_mem").await;
    std::fs::write(&auto, good).expect("the good lines");
    assert_eq!(cluster.hactl(&["reload", &standby]).await.code, 0);

    eprintln!("-- a standby is copied anew, and its data kept");
    let victim = cluster.standbys().await[0].member.clone();
    let copied = done(cluster, &["reinit", &victim, "--yes", "--timeout", "5m"]).await;
    assert_eq!(copied["member"], Value::String(victim.clone()));
    cluster.healed().await;
    let status = until("what is kept aside is shown", HEAL, || async {
        let status = cluster.leaders_status().await;
        let members = status.cluster()["members"].as_array()?;
        let shown = members.iter().find(|m| m["name"] == victim.as_str())?;
        (shown["aside"].as_array()?.len() == 1).then_some(status)
    })
    .await;

    eprintln!("-- a switchover is scheduled, listed, and happens; another is called off");
    let epoch = status.epoch();
    let soon = ["switchover", "--at", "+3s", "--yes", "-o", "json"];
    let scheduled = cluster.hactl(&soon).await.json().expect("an operation");
    assert_eq!(scheduled["state"], "scheduled", "{scheduled}");
    let id = scheduled["id"].to_string();
    let listed = cluster.hactl(&["operation", "list", "-o", "json"]).await.json().expect("a list");
    assert_eq!(listed["operations"][0]["id"], scheduled["id"], "{listed}");
    until("it has begun and ended", HEAL, || async {
        let shown = cluster.hactl(&["operation", "show", &id, "-o", "json"]).await.json()?;
        (shown["state"] == "done").then_some(())
    })
    .await;
    assert_eq!(cluster.healed().await.epoch(), epoch + 1);
    let far = ["restart", "--rolling", "--at", "+1h", "--yes", "-o", "json"];
    let id = cluster.hactl(&far).await.json().expect("an operation")["id"].to_string();
    assert_eq!(cluster.hactl(&["operation", "cancel", &id]).await.code, 0);
    let shown = cluster.hactl(&["operation", "show", &id, "-o", "json"]).await.json().unwrap();
    assert_eq!(shown["state"], "cancelled", "{shown}");
    let status = cluster.healed().await;
    assert_eq!(status.cluster()["scheduled"], Value::Array(Vec::new()));
    cluster.judge(writers, since).await;
}

/// Under a pause leases go on being renewed, and whatever ends stays ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_promotes_nobody() {
    // However slow the machine is, a daemon is back before the lease of its member ends.
    let timing = vec!["ttl_ms = 60000".to_owned(), "suspect_ms = 50000".to_owned()];
    let options = Options { timing, ..Options::default() };
    let cluster = Cluster::start("a_paused_cluster", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let paused = cluster.hactl(&["pause", "--yes"]).await;
    assert_eq!(paused.code, 0, "{paused:?}");
    refused(cluster, &["switchover", "--yes"], "cluster.paused").await;
    refused(cluster, &["failover", "--accept-data-loss", "--yes"], "cluster.paused").await;
    refused(cluster, &["restart", "--rolling", "--yes"], "cluster.paused").await;

    eprintln!("-- the whole control plane is restarted: the primary goes on");
    for node in &cluster.nodes {
        node.terminate_daemon().await;
        node.start();
        cluster.healed().await;
    }
    cluster.rows_flow(20).await;
    let status = cluster.healed().await;
    assert_eq!(status.epoch(), before.epoch());
    let by = status.cluster()["paused"]["by"].as_str().expect("it is paused still").to_owned();
    assert!(by.contains('@'), "{by}");
    let shown = cluster.hactl(&["status"]).await;
    assert!(shown.stdout.contains("PAUSED by"), "{shown:?}");

    eprintln!("-- the primary's PostgreSQL is killed: nobody takes over");
    let tree = primary.tree();
    tree.init.signal(libc::SIGKILL);
    tree.gone(HEAL).await;
    until("its end is known", HEAL, || async {
        let status = cluster.leaders_status().await;
        (status.member(&primary.member)?.role == "down").then_some(())
    })
    .await;
    let explained = until("it is said why nothing happens", HEAL, || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await.json()?;
        let findings = answer["findings"].as_array()?.clone();
        let paused = findings.iter().any(|f| f["rule"] == "cluster.paused");
        let stopped = findings.iter().any(|f| f["rule"] == "takeover.proven-stop");
        (paused && stopped).then_some(findings)
    })
    .await;
    let status = cluster.leaders_status().await;
    assert!(!status.is_closed() && status.epoch() == before.epoch(), "{explained:?}");

    eprintln!("-- the pause ends, and somebody does");
    assert_eq!(cluster.hactl(&["resume"]).await.code, 0);
    refused(cluster, &["resume"], "cluster.is-paused").await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(20).await;
    cluster.healed().await;

    eprintln!("-- a pause with an end ends by itself");
    assert_eq!(cluster.hactl(&["pause", "--for", "2s", "--yes"]).await.code, 0);
    until("it is resumed", HEAL, || async {
        let status = cluster.leaders_status().await;
        status.cluster()["paused"].is_null().then_some(())
    })
    .await;
    cluster.judge(writers, since).await;
}
