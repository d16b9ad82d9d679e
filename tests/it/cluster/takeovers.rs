//! Things go wrong in the middle of a takeover, or stand in its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Cluster, HEAL, Mode, Node, Options, SOON, until};

/// Waits, without losing a millisecond, until a daemon logs `words`, all in one line, and does
/// `act` with its node. Returns the node's number; `None` where it did not come to that in time.
pub(super) fn at_line(
    nodes: &[&Node],
    words: &[&str],
    limit: Duration,
    mut act: impl FnMut(&Node),
) -> Option<usize> {
    let size = |n: &Node| std::fs::metadata(n.log()).map_or(0, |m| m.len() as usize);
    let mut seen: Vec<usize> = nodes.iter().map(|n| size(n)).collect();
    let begun = Instant::now();
    while begun.elapsed() < limit {
        for (node, seen) in nodes.iter().zip(&mut seen) {
            let now = size(node);
            if now == *seen {
                continue;
            }
            let text = std::fs::read(node.log()).unwrap_or_default();
            let fresh = text.get(*seen..).unwrap_or_default();
            // Whole lines only: the rest is read with the next look.
            let whole = fresh.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            *seen += whole;
            let fresh = String::from_utf8_lossy(&fresh[..whole]);
            if fresh.lines().any(|l| words.iter().all(|w| l.contains(w))) {
                act(node);
                return Some(node.index);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// The candidate dies on its way: when it has accepted, while it is promoted, and when it is to
/// open. Its successor begins at the same position, and no two of them ever share a timeline.
#[tokio::test(flavor = "multi_thread")]
async fn the_candidate_dies_on_its_way() {
    let options =
        Options { cluster: vec!["crash_failovers_max = 100".into()], ..Options::default() };
    let cluster = Cluster::start("the_candidate_dies", &options).await;
    for (step, with_daemon) in [
        ("action=Accept", false),
        ("action=Promote", false),
        ("action=Promote", true),
        ("action=OpenWrites", false),
    ] {
        eprintln!("-- the candidate dies at {step}, with its daemon: {with_daemon}");
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh)];
        writers.extend(cluster.probes());
        cluster.rows_flow(30).await;
        let before = cluster.healed().await;
        let primary = cluster.primary().await;
        let others = cluster.standbys().await;
        let struck = tokio::task::block_in_place(|| {
            primary.tree().postmaster().signal(libc::SIGKILL);
            at_line(&others, &[step], SOON, |node| {
                if with_daemon {
                    node.daemon().signal(libc::SIGKILL);
                }
                let tree = node.tree();
                tree.guard.signal(libc::SIGKILL);
                tree.init.signal(libc::SIGKILL);
            })
        });
        let struck = &cluster.nodes[struck.expect("a candidate that comes so far")];
        if with_daemon {
            struck.wait_end(SOON).await;
            struck.start();
        }
        // Its epoch may have been active for a moment or not; the next one is another.
        cluster.new_epoch(before.epoch() + 1).await;
        cluster.rows_flow(30).await;
        cluster.judge(writers, since).await;
        lineage_is_unique(&cluster).await;
    }
}

/// Epochs grow, and each has a timeline of its own number on every member.
async fn lineage_is_unique(cluster: &Cluster) {
    let status = cluster.healed().await;
    let lineage = status.0["clusters"][0]["lineage"].as_array().cloned().expect("a lineage");
    let epochs: Vec<u64> = lineage.iter().filter_map(|e| e["epoch"].as_u64()).collect();
    assert!(epochs.windows(2).all(|w| w[0] < w[1]), "{lineage:?}");
    assert_eq!(epochs.last(), Some(&status.epoch()), "{lineage:?}");
    for node in &cluster.nodes {
        let conn = cluster.superuser(node.index).await;
        let sql = "SELECT coalesce((SELECT received_tli FROM pg_stat_wal_receiver), \
                   (SELECT timeline_id FROM pg_control_checkpoint()))";
        assert_eq!(conn.must(sql).await, status.epoch().to_string(), "{}", node.member);
    }
}

/// The Raft leader dies in the middle: when the epoch was closed, and when the next was granted.
#[tokio::test(flavor = "multi_thread")]
async fn the_raft_leader_changes_meanwhile() {
    let cluster = Cluster::start("the_raft_leader_changes", &Options::default()).await;
    for step in ["change=\"close epoch\"", "change=\"grant epoch\"", "change=\"record promotion\""]
    {
        eprintln!("-- the Raft leader dies at {step}");
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh)];
        writers.extend(cluster.probes());
        cluster.rows_flow(30).await;
        let before = cluster.healed().await;
        let primary = cluster.primary().await;
        let all: Vec<&Node> = cluster.nodes.iter().collect();
        let struck = tokio::task::block_in_place(|| {
            primary.tree().postmaster().signal(libc::SIGKILL);
            at_line(&all, &["decided", step], SOON, |leader| {
                leader.daemon().signal(libc::SIGKILL);
            })
        });
        let struck = &cluster.nodes[struck.expect("a leader that comes so far")];
        struck.wait_end(SOON).await;
        cluster.new_epoch(before.epoch()).await;
        struck.start();
        cluster.rows_flow(30).await;
        cluster.judge(writers, since).await;
    }
}

/// A crashed primary has WAL that nobody else has: it is turned back.
#[tokio::test(flavor = "multi_thread")]
async fn a_diverged_primary_is_rewound() {
    let cluster = Cluster::start("a_diverged_primary_is_rewound", &Options::default()).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    conn.must("CREATE TABLE alone (n int); INSERT INTO alone VALUES (0)").await;
    cluster.healed().await;
    let mut receivers = Vec::new();
    for standby in cluster.standbys().await {
        let own = cluster.superuser(standby.index).await;
        let pid = own.must("SELECT pid FROM pg_stat_wal_receiver").await;
        let receiver = standby.tree().inner(pid.parse().expect("a number")).expect("a receiver");
        receiver.freeze().await;
        receivers.push(receiver);
    }
    // More than the sockets on the way can hold.
    conn.must(
        "SET synchronous_commit = local; \
         INSERT INTO alone SELECT generate_series(1, 500000)",
    )
    .await;
    let seen = std::fs::read(primary.log()).expect("a log").len();
    primary.kill_everything().await;
    for receiver in receivers {
        receiver.thaw();
    }
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(30).await;
    primary.start();
    cluster.judge(vec![writer], since).await;
    let log = std::fs::read(primary.log()).expect("a log");
    let log = String::from_utf8_lossy(&log[seen..]).into_owned();
    assert!(log.contains("action=Rewind"), "it was turned back, not copied:\n{log}");
    assert!(!log.contains("action=Clone"), "{log}");
    for node in &cluster.nodes {
        let own = cluster.superuser(node.index).await;
        assert_eq!(own.must("SELECT count(*) FROM alone").await, "1", "{}", node.member);
    }
}

/// Queries on the standbys hold up replay, and would do so for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_on_the_candidate_holds_up_replay() {
    let parameters = vec![
        "max_standby_streaming_delay = -1".to_owned(),
        "max_standby_archive_delay = -1".to_owned(),
    ];
    let options = Options { parameters, ..Options::default() };
    let cluster = Cluster::start("a_query_holds_up_replay", &options).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    conn.must("CREATE TABLE disputed AS SELECT generate_series(1, 1000) AS n").await;
    let mut readers = Vec::new();
    for standby in cluster.standbys().await {
        let reader = cluster.superuser(standby.index).await;
        let look = "SELECT to_regclass('disputed') IS NOT NULL";
        until("the table is there", SOON, || async {
            (reader.must(look).await == "t").then_some(())
        })
        .await;
        reader.must("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM disputed").await;
        readers.push((standby, reader));
    }
    conn.must("ALTER TABLE disputed ADD COLUMN m int; INSERT INTO disputed VALUES (0, 0)").await;
    for (standby, _) in &readers {
        let own = cluster.superuser(standby.index).await;
        until("replay waits", SOON, || async {
            let waits = "SELECT pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn()";
            (own.must(waits).await == "t").then_some(())
        })
        .await;
    }
    primary.tree().postmaster().signal(libc::SIGKILL);
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(30).await;
    // A reader on the standby that was not promoted may still hold up its replay; that is its right.
    drop(readers);
    cluster.judge(vec![writer], since).await;
}

/// The log of a quiet cluster ends where a segment ends, behind padding: that is a position too.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_primary_dies_after_a_switch_of_segments() {
    let cluster = Cluster::start("a_switch_of_segments", &Options::default()).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    // What the server writes by itself now and then would begin the next segment.
    conn.must("CHECKPOINT").await;
    let end = conn.must("SELECT pg_switch_wal()").await;
    for standby in cluster.standbys().await {
        let own = cluster.superuser(standby.index).await;
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        until("the switch is replayed", SOON, || async {
            (own.must(&sql).await == "t").then_some(())
        })
        .await;
    }
    primary.tree().postmaster().signal(libc::SIGKILL);
    cluster.new_epoch(before.epoch()).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(30).await;
    cluster.judge(vec![writer], since).await;
}

/// A crash that follows the primary must not walk through the cluster: past the bound, the crashed
/// member itself is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_do_not_walk_through_the_cluster() {
    let options = Options { cluster: vec!["crash_failovers_max = 1".into()], ..Options::default() };
    let cluster = Cluster::start("crashes_do_not_walk", &options).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    for round in 0..3 {
        cluster.rows_flow(20).await;
        let before = cluster.healed().await;
        let primary = cluster.primary().await;
        primary.tree().postmaster().signal(libc::SIGKILL);
        let after = cluster.new_epoch(before.epoch()).await;
        if round == 0 {
            assert_ne!(after.primary(), before.primary(), "the first crash fails over");
        } else {
            assert_eq!(after.primary(), before.primary(), "crash {round} stays where it is");
        }
    }
    cluster.judge(vec![writer], since).await;
}

/// A busy server is fenced as a whole: not one of its processes outlives the lease, however it
/// writes.
#[tokio::test(flavor = "multi_thread")]
async fn busy_backends_do_not_outlive_the_lease() {
    let cluster = Cluster::start("busy_backends", &Options::default()).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    conn.must("CREATE TABLE busy (n int)").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    for i in 0..4 {
        let conn = cluster.superuser(primary.index).await;
        let stop = stop.clone();
        busy.push(tokio::spawn(async move {
            // One of them does not even wait for standbys, as an orphan would not.
            let level = if i == 0 { "local" } else { "on" };
            let sql = format!(
                "SET synchronous_commit = {level}; \
                 DO $$ BEGIN LOOP INSERT INTO busy VALUES ({i}); COMMIT; END LOOP; END $$"
            );
            while !stop.load(Ordering::SeqCst) && !conn.is_closed() {
                let _ = conn.rows(&sql).await;
            }
        }));
    }
    cluster.rows_flow(50).await;
    let tree = primary.tree();
    let all = tree.processes();
    let end = tree.watch_end();
    // The postmaster's death leaves its busy children behind; the daemon's death leaves nobody who
    // would see to them.
    primary.daemon().signal(libc::SIGKILL);
    tree.postmaster().signal(libc::SIGKILL);
    primary.wait_end(SOON).await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(30).await;
    let gone_at = end.at().await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
    assert!(all.iter().all(|p| !p.is_alive()), "{all:?}");
    stop.store(true, Ordering::SeqCst);
    for task in busy {
        tokio::time::timeout(HEAL, task).await.expect("it ended").expect("no panic");
    }
    primary.start();
    cluster.judge(writers, since).await;
}
