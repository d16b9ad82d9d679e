//! How commits wait for standbys, as the operator chose: what is done when standbys go, and what
//! is promoted without whom.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Cluster, HEAL, Mode, Options, Status, until};

fn with(lines: &[&str]) -> Options {
    let cluster = lines.iter().map(|l| (*l).to_owned()).collect();
    Options { cluster, ..Options::default() }
}

/// The newest synchronous configuration: how many must confirm, and of whom.
fn sync(status: &Status) -> (u64, Vec<String>) {
    let newest = status.cluster()["syncs"].as_array().and_then(|s| s.last()).cloned();
    let newest = newest.unwrap_or(Value::Null);
    let members = newest["members"].as_array().cloned().unwrap_or_default();
    let names = members.iter().filter_map(|m| m.as_str().map(str::to_owned)).collect();
    (newest["w"].as_u64().unwrap_or_default(), names)
}

async fn until_sync(cluster: &Cluster, what: &str, wanted: impl Fn(u64, &[String]) -> bool) {
    until(what, HEAL, || async {
        let status = cluster.leaders_status().await;
        let settled = status.cluster()["syncs"].as_array().is_some_and(|s| s.len() == 1);
        let (w, members) = sync(&status);
        (settled && wanted(w, &members)).then_some(())
    })
    .await;
}

/// The events of a kind in the history.
async fn events(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let all = cluster.history().await;
    all.into_iter().filter_map(|e| e["kind"].get(kind).cloned()).collect()
}

/// Two members and a witness: nothing that was acknowledged is lost, whoever goes, and the other
/// goes on alone.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_and_a_witness() {
    let options = Options { nodes: 3, witnesses: 1, ..Options::default() };
    let cluster = Cluster::start("two_members_and_a_witness", &options).await;
    let cluster = &cluster;

    eprintln!("-- the primary's node is lost: the standby takes over, and writes alone");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    assert_eq!(sync(&before).0, 1, "commits wait for the other: {before:?}");
    let lost = cluster.primary().await;
    lost.kill_everything().await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    assert_eq!(sync(&cluster.leaders_status().await).0, 0, "it is alone");
    lost.start();
    until_sync(cluster, "the other counts again", |w, _| w == 1).await;
    cluster.judge(writers, since).await;

    eprintln!("-- the standby's node is lost: the primary goes on alone after a while");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let standby = cluster.standbys().await[0];
    standby.kill_everything().await;
    until_sync(cluster, "the primary goes on alone", |w, _| w == 0).await;
    cluster.rows_flow(50).await;

    eprintln!("-- then it is lost as well: the other is never promoted over what it lacks");
    primary.kill_everything().await;
    standby.start();
    let refused = until("it is said why nobody is promoted", HEAL, || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await.json()?;
        let findings = answer["findings"].as_array()?.clone();
        findings.into_iter().find(|f| f["rule"] == "takeover.likely-quorum")
    })
    .await;
    let text = refused["text"].as_str().expect("a text");
    assert!(text.contains("needs the member that held epoch"), "{text}");
    // That it does not happen has no other end.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(cluster.leaders_status().await.epoch(), before.epoch());
    primary.start();
    cluster.new_epoch(before.epoch()).await;
    assert_eq!(cluster.primary().await.member, primary.member, "it alone has everything");
    until_sync(cluster, "the other counts again", |w, _| w == 1).await;
    cluster.judge(writers, since).await;
}

/// The quorum shrinks to the floor and grows again; below the floor commits wait, and are not
/// lost; a cancelled wait is unknown, never acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn the_quorum_shrinks_and_grows() {
    // The control plane keeps its majority when both standbys are gone.
    let lines = with(&["write_quorum = 2", "shrink_after_ms = 3000"]);
    let options = Options { nodes: 5, witnesses: 2, ..lines };
    let cluster = Cluster::start("the_quorum_shrinks_and_grows", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(50).await;
    until_sync(cluster, "both standbys confirm", |w, m| w == 2 && m.len() == 2).await;
    let standbys = cluster.standbys().await;
    let (first, second) = (standbys[0], standbys[1]);

    eprintln!("-- one standby is gone: the other is enough");
    first.kill_everything().await;
    let left = second.member.clone();
    until_sync(cluster, "the other one is enough", |w, m| w == 1 && *m == [left.clone()]).await;
    cluster.rows_flow(50).await;

    eprintln!("-- both are gone: commits wait, and a cancelled wait is unknown");
    second.kill_everything().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    until("commits wait", HEAL, || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (conn.must(waiting).await != "0").then_some(())
    })
    .await;
    let alarms = until("it is an alarm", HEAL, || async {
        let raised = events(cluster, "alarm_raised").await;
        raised.into_iter().find(|e| e["alarm"]["code"] == "commits-wait")
    })
    .await;
    assert_eq!(alarms["member"], primary.member);
    let unknown = cluster.journal.unknown();
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("a cancelled wait is counted as unknown", HEAL, || async {
        let _ = conn.rows(cancel).await;
        (cluster.journal.unknown() > unknown).then_some(())
    })
    .await;
    let status = cluster.leaders_status().await;
    assert_eq!(sync(&status).0, 1, "never below the floor: {status:?}");

    eprintln!("-- both return: all is as it was");
    drop(conn);
    first.start();
    second.start();
    until_sync(cluster, "both standbys confirm", |w, m| w == 2 && m.len() == 2).await;
    cluster.rows_flow(50).await;
    let verdict = cluster.judge(writers, since).await;
    assert!(verdict.unknown > 0, "{verdict:?}");
    let cleared = events(cluster, "alarm_cleared").await;
    assert!(cleared.iter().any(|e| e["code"] == "commits-wait"), "{cleared:?}");
}

/// `strict`: without the quorum commits wait for ever, and a takeover waits for it too.
#[tokio::test(flavor = "multi_thread")]
async fn strict_waits() {
    let options = with(&["write_quorum = 2", "strict = true", "shrink_after_ms = 1000"]);
    let cluster = Cluster::start("strict_waits", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    let standby = cluster.standbys().await[0];
    standby.kill_everything().await;
    let conn = cluster.superuser(cluster.primary().await.index).await;
    until("commits wait", HEAL, || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (conn.must(waiting).await != "0").then_some(())
    })
    .await;
    drop(conn);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = cluster.leaders_status().await;
    assert_eq!((sync(&status).0, sync(&status).1.len()), (2, 2), "{status:?}");
    standby.start();
    cluster.rows_flow(20).await;
    cluster.judge(writers, since).await;
}

/// `priority`: the first of the list that is there confirms; then the next.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_list_confirms() {
    let options = with(&["synchronous = \"priority\""]);
    let cluster = Cluster::start("the_first_of_a_list_confirms", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    let names = conn.must("SHOW synchronous_standby_names").await;
    assert!(names.starts_with("FIRST 1 ("), "{names}");
    let first = || async {
        conn.must("SELECT min(application_name) FROM pg_stat_replication WHERE sync_state = 'sync'")
            .await
    };
    let before = first().await;
    cluster.node_of(&before).kill_everything().await;
    until("the next one confirms", HEAL, || async {
        let now = first().await;
        (!now.is_empty() && now != before).then_some(())
    })
    .await;
    cluster.rows_flow(50).await;
    drop(conn);
    cluster.node_of(&before).start();
    cluster.healed().await;

    eprintln!("-- the primary is lost: any of the list may have confirmed");
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    primary.kill_everything().await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    primary.start();
    cluster.judge(writers, since).await;
}

/// Asynchronous: a failover happens by itself only within what may be lost, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_takeovers_are_bounded() {
    let options = with(&["synchronous = \"async\"", "max_lag_bytes = 1048576"]);
    let cluster = Cluster::start("asynchronous_takeovers_are_bounded", &options).await;
    let cluster = &cluster;
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    assert_eq!(sync(&before).0, 0);
    let primary = cluster.primary().await;
    primary.kill_everything().await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    let granted = events(cluster, "granted").await;
    let last = granted.last().expect("a grant");
    assert_eq!(last["data_loss_accepted"], true, "{last}");
    assert_eq!(last["at_stake"]["by"], "max_lag_bytes", "{last}");
    primary.start();
    cluster.healed().await;
    for writer in writers {
        writer.stop().await;
    }
}

/// Without a bound nothing asynchronous is given up by itself: an operator says so, and it is
/// recorded who did and what was at stake.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_accepts_a_loss() {
    let options = with(&["synchronous = \"async\""]);
    let cluster = Cluster::start("an_operator_accepts_a_loss", &options).await;
    let cluster = &cluster;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    primary.kill_everything().await;
    until("it is said why nobody is promoted", HEAL, || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await.json()?;
        let findings = answer["findings"].as_array()?.clone();
        findings.into_iter().find(|f| f["rule"] == "takeover.likely-quorum")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.leaders_status().await.epoch(), before.epoch());
    let refused = cluster.hactl(&["failover", "--dry-run"]).await;
    eprintln!("{refused:?}");
    let done = cluster.hactl(&["failover", "--accept-data-loss", "--yes"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let granted = events(cluster, "granted").await;
    let stake = &granted.last().expect("a grant")["at_stake"];
    assert!(stake["by"].as_str().is_some_and(|by| !by.is_empty()), "{stake}");
    assert_eq!(stake["uncovered"].as_array().map(Vec::len), Some(1), "{stake}");
    primary.start();
    cluster.healed().await;
}
