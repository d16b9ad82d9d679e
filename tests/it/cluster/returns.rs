//! Every member finds its way back, and each is used as the operator has tagged it.

use std::fs;
use std::io::Write;
use std::time::Instant;

use super::takeovers::at_line;
use crate::support::{Cluster, HEAL, Mode, Node, Options, SOON, Status, until};

/// A cluster whose members have these tags, as lines of their configurations, by node.
async fn tagged(name: &str, options: &Options, tags: &[(usize, &str)]) -> Cluster {
    let cluster = Cluster::prepare(name, options);
    for (i, line) in tags {
        let path = cluster.nodes[*i].config();
        let mut file = fs::File::options().append(true).open(path).expect("a configuration");
        // `[[member]]` is its last section.
        writeln!(file, "{line}").expect("written");
    }
    cluster.bring_up(options).await;
    cluster
}

/// Makes this member the primary, if it is not.
async fn lead(cluster: &Cluster, member: &str) -> Status {
    let before = cluster.healed().await;
    if before.primary().as_deref() == Some(member) {
        return before;
    }
    let answer = cluster.switchover(member).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let after = cluster.healed().await;
    assert_eq!(after.primary().as_deref(), Some(member));
    after
}

/// Whom a member streams from beside the primary; `None` where it does not stream.
async fn upstream(cluster: &Cluster, member: &str) -> Option<String> {
    let status = cluster.leaders_status().await;
    let members = status.0["clusters"][0]["members"].as_array().cloned()?;
    let found = members.into_iter().find(|m| m["name"] == member)?;
    let streams = found["streaming"] == true && found["role"] == "standby";
    streams.then(|| found["upstream"].as_str().unwrap_or_default().to_owned())
}

async fn streams_from(cluster: &Cluster, member: &str, from: &str) {
    let what = format!("{member} streams from {from:?}");
    until(&what, HEAL, || async {
        (upstream(cluster, member).await.as_deref() == Some(from)).then_some(())
    })
    .await;
}

/// Waits until something of this kind was noticed of a member, with these words.
async fn noticed(cluster: &Cluster, member: &str, words: &[&str]) {
    let what = format!("{words:?} of {member} in the history");
    until(&what, SOON, || async {
        // A daemon that was just started may know nothing yet.
        let answer = cluster.hactl(&["history", "-n", "400", "-o", "json"]).await.json()?;
        let events = answer.as_array().or(answer["events"].as_array())?.clone();
        let found = events.iter().map(ToString::to_string);
        found
            .filter(|e| e.contains(&format!("\"{member}\"")))
            .any(|e| words.iter().all(|w| e.contains(w)))
            .then_some(())
    })
    .await;
}

fn log_since(node: &Node, seen: usize) -> String {
    let log = fs::read(node.log()).expect("a log");
    String::from_utf8_lossy(&log[seen.min(log.len())..]).into_owned()
}

fn log_size(node: &Node) -> usize {
    fs::metadata(node.log()).map_or(0, |m| m.len() as usize)
}

/// The third member streams from the second: while that is there, and from the primary while it is
/// not; and when it is made primary itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_behind_a_standby() {
    // Two members may confirm, as in a cluster of two: alone each goes on.
    let options = Options {
        cluster: vec!["write_quorum_min = 0".into(), "shrink_after_ms = 2000".into()],
        ..Options::default()
    };
    let cluster = tagged("a_standby_behind_a_standby", &options, &[(2, "replicatefrom = \"b\"")]);
    let cluster = cluster.await;
    lead(&cluster, "a").await;
    let [a, b, c] = cluster.nodes.as_slice() else { panic!("three nodes") };
    streams_from(&cluster, "c", "b").await;

    eprintln!("-- its upstream dies, and comes back");
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(30).await;
    b.kill_everything().await;
    streams_from(&cluster, "c", "").await;
    until("that is an alarm", HEAL, || async {
        let status = cluster.leaders_status().await.0.to_string();
        status.contains("upstream-lost").then_some(())
    })
    .await;
    cluster.rows_flow(30).await;
    b.start();
    streams_from(&cluster, "c", "b").await;
    let before = cluster.healed().await;
    cluster.rows_flow(30).await;

    eprintln!("-- its upstream becomes the primary");
    let seen = log_size(c);
    a.kill_everything().await;
    let after = cluster.new_epoch(before.epoch()).await;
    assert_eq!(after.primary().as_deref(), Some("b"));
    streams_from(&cluster, "c", "").await;
    cluster.rows_flow(30).await;
    a.start();
    cluster.healed().await;

    eprintln!("-- and is its upstream again afterwards");
    lead(&cluster, "a").await;
    streams_from(&cluster, "c", "b").await;
    cluster.judge(vec![writer], since).await;
    let log = log_since(c, seen);
    assert!(!log.contains("action=Clone") && !log.contains("action=Rewind"), "{log}");

    eprintln!("-- its upstream is promoted by hand: what that writes goes nowhere");
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    let before = cluster.healed().await;
    cluster.superuser(b.index).await.must("SELECT pg_promote(false)").await;
    noticed(&cluster, "b", &["promoted"]).await;
    streams_from(&cluster, "c", "b").await;
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary goes on");
    cluster.judge(writers, since).await;
}

/// A member is copied from a standby that is there for it; where that dies midway, from the primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_taken_from_a_standby() {
    let options = Options::default();
    let tags = [(1, "clonefrom = true")];
    let cluster = tagged("a_copy_is_taken_from_a_standby", &options, &tags).await;
    lead(&cluster, "a").await;
    let [a, b, c] = cluster.nodes.as_slice() else { panic!("three nodes") };
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(30).await;
    let conn = cluster.superuser(a.index).await;
    conn.must("CREATE TABLE bulk AS SELECT generate_series(1, 1000000) AS n").await;
    let before = cluster.healed().await;
    let wipe = || async {
        c.stop().await;
        fs::remove_dir_all(c.data_dir()).expect("it is removed");
        c.start();
    };

    eprintln!("-- the standby serves");
    wipe().await;
    cluster.healed().await;
    noticed(&cluster, "c", &["copied from b"]).await;

    eprintln!("-- the standby dies in the middle");
    wipe().await;
    let struck = tokio::task::block_in_place(|| {
        at_line(&[c], &["a copy is begun", "source=b"], SOON, |_| {
            let tree = b.tree();
            tree.guard.signal(libc::SIGKILL);
            tree.init.signal(libc::SIGKILL);
        })
    });
    assert!(struck.is_some(), "a copy begins");
    cluster.healed().await;
    noticed(&cluster, "c", &["copied from a"]).await;

    eprintln!("-- the daemon is killed in the middle");
    wipe().await;
    let struck = tokio::task::block_in_place(|| {
        at_line(&[c], &["a copy is begun"], SOON, |node| node.daemon().signal(libc::SIGKILL))
    });
    assert!(struck.is_some(), "a copy begins");
    c.wait_end(SOON).await;
    c.start();
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary is not disturbed");
    cluster.judge(vec![writer], since).await;
}

/// Somebody promotes a standby past the control plane, while the daemon runs and while it does not.
/// It acknowledges nothing, is turned back without a copy, and may be made primary in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_promoted_by_hand() {
    let cluster = Cluster::start("a_standby_is_promoted_by_hand", &Options::default()).await;
    for daemon_is_there in [true, false] {
        eprintln!("-- the daemon is there: {daemon_is_there}");
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh)];
        writers.extend(cluster.probes());
        cluster.rows_flow(30).await;
        let before = cluster.healed().await;
        let standby = cluster.standbys().await[0];
        let seen = log_size(standby);
        let conn = cluster.superuser(standby.index).await;
        if !daemon_is_there {
            standby.terminate_daemon().await;
        }
        conn.must("SELECT pg_promote(true)").await;
        // What somebody forces upon it goes, and is acknowledged to nobody who asks for that.
        let forced = "SET default_transaction_read_only = off; SET synchronous_commit = local; \
                      CREATE TABLE forced (n int)";
        let _ = conn.rows(forced).await;
        if !daemon_is_there {
            // Nothing of it runs any more when the daemon is back.
            let tree = standby.tree();
            tree.postmaster().signal(libc::SIGKILL);
            tree.guard.signal(libc::SIGKILL);
            tree.gone(SOON).await;
            standby.start();
        }
        noticed(&cluster, &standby.member, &["promoted"]).await;
        noticed(&cluster, &standby.member, &["rewound"]).await;
        let after = cluster.healed().await;
        assert_eq!(after.epoch(), before.epoch(), "the primary goes on");
        cluster.rows_flow(30).await;
        cluster.judge(writers, since).await;
        let log = log_since(standby, seen);
        assert!(log.contains("action=Rewind") && !log.contains("action=Clone"), "{log}");

        // The number that it took is the one of the next epoch.
        let writer = cluster.writer(Mode::Fresh);
        lead(&cluster, &standby.member).await;
        cluster.judge(vec![writer], since).await;
        let conn = cluster.superuser(standby.index).await;
        assert_eq!(conn.must("SELECT to_regclass('forced') IS NULL").await, "t");
    }
}

/// The daemon is killed in the middle of a rewind, and the cluster fails over in the middle of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_is_cut_off() {
    let options =
        Options { cluster: vec!["crash_failovers_max = 100".into()], ..Options::default() };
    let cluster = Cluster::start("a_rewind_is_cut_off", &options).await;
    for with_failover in [false, true] {
        eprintln!("-- with a failover: {with_failover}");
        let since = Instant::now();
        let writer = cluster.writer(Mode::Fresh);
        cluster.rows_flow(30).await;
        let before = cluster.healed().await;
        let primary = cluster.primary().await;
        let standby = cluster.standbys().await[0];
        let conn = cluster.superuser(standby.index).await;
        // Its own timeline has to be turned back.
        let promote = tokio::spawn(async move { conn.must("SELECT pg_promote(false)").await });
        let struck = tokio::task::block_in_place(|| {
            at_line(&[standby], &["action=Rewind"], SOON, |node| {
                if with_failover {
                    primary.tree().postmaster().signal(libc::SIGKILL);
                } else {
                    node.daemon().signal(libc::SIGKILL);
                }
            })
        });
        assert!(struck.is_some(), "a rewind begins");
        promote.await.expect("no panic");
        if with_failover {
            cluster.new_epoch(before.epoch()).await;
        } else {
            standby.wait_end(SOON).await;
            standby.start();
        }
        cluster.rows_flow(30).await;
        cluster.judge(vec![writer], since).await;
    }
}

/// A standby that applies WAL late shows it, and is never made primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_late() {
    let options = Options {
        cluster: vec!["crash_failovers_max = 100".into(), "write_quorum_min = 0".into()],
        ..Options::default()
    };
    let cluster = tagged("a_standby_is_late", &options, &[(2, "delay_ms = 1500")]).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    let c = &cluster.nodes[2];
    for _ in 0..3 {
        cluster.rows_flow(30).await;
        let before = cluster.healed().await;
        assert_ne!(before.primary().as_deref(), Some("c"));
        assert!(!before.synchronous().contains(&"c".to_owned()));
        let conn = cluster.superuser(c.index).await;
        let sql = "SELECT current_setting('recovery_min_apply_delay')";
        assert_eq!(conn.must(sql).await, "1500ms");
        cluster.primary().await.tree().postmaster().signal(libc::SIGKILL);
        cluster.new_epoch(before.epoch()).await;
    }
    cluster.judge(vec![writer], since).await;
}
