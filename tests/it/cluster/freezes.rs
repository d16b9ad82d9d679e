//! Processes stand still, as under a debugger, a paused machine or a hung disk, and wake up later.

use std::time::{Duration, Instant};

use crate::support::{Cluster, Entry, Mode, Options, Outcome, SOON, Verdict, until};

/// What is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frozen {
    Daemon,
    Guard,
    DaemonAndGuard,
    Node,
    Postmaster,
}

/// Stops something of the primary's node until another is primary, lets it go on, and heals. The
/// old process tree has to be gone before the new primary acknowledges anything.
async fn freeze_and_take_over(cluster: &Cluster, what: Frozen) -> Verdict {
    eprintln!("-- {what:?} of the primary stands still");
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let node = cluster.primary().await;
    let (tree, daemon) = (node.tree(), node.daemon());
    let end = tree.watch_end();
    match what {
        Frozen::Daemon => daemon.freeze().await,
        Frozen::Guard => tree.guard.freeze().await,
        Frozen::DaemonAndGuard => {
            tree.guard.freeze().await;
            daemon.freeze().await;
        }
        Frozen::Node => node.freeze_everything().await,
        Frozen::Postmaster => tree.postmaster().freeze().await,
    }
    let after = cluster.new_epoch(before.epoch()).await;
    let gone_at = end.at().await;
    assert_ne!(after.primary().as_deref(), Some(node.member.as_str()), "another takes over");
    cluster.rows_flow(30).await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
    daemon.thaw();
    cluster.judge(writers, since).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_guards_the_primary_stands_still() {
    let cluster = Cluster::start("guards_stand_still", &Options::default()).await;
    for what in [Frozen::Daemon, Frozen::Guard, Frozen::DaemonAndGuard, Frozen::Node] {
        freeze_and_take_over(&cluster, what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_stands_still() {
    let cluster = Cluster::start("postgresql_stands_still", &Options::default()).await;

    eprintln!("-- one backend stands still: no reason to fail over");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    let before = cluster.healed().await;
    let node = cluster.primary().await;
    let conn = cluster.superuser(node.index).await;
    let inner = conn.must("SELECT pg_backend_pid()").await.parse().expect("a number");
    let backend = node.tree().inner(inner).expect("a backend");
    backend.freeze().await;
    // Longer than a hung PostgreSQL is put up with: that it does not happen has no other end.
    tokio::time::sleep(Duration::from_secs(13)).await;
    cluster.rows_flow(20).await;
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "one slow client fails nobody over");
    backend.thaw();
    cluster.judge(writers, since).await;

    eprintln!("-- a standby stands still: the primary goes on with the other");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    let standby = cluster.standbys().await[0];
    standby.freeze_everything().await;
    cluster.rows_flow(100).await;
    standby.thaw_everything();
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the loss of a standby fails nobody over");
    cluster.judge(writers, since).await;

    freeze_and_take_over(&cluster, Frozen::Postmaster).await;
}

/// Nobody is left to confirm commits: they wait, the primary stays, and it is said why. A wait that
/// is cancelled is an unknown write, not an acknowledged one.
#[tokio::test(flavor = "multi_thread")]
async fn all_standbys_stand_still() {
    let cluster = Cluster::start("all_standbys_stand_still", &Options::default()).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Held), cluster.writer(Mode::Held)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    let trees: Vec<_> = cluster.standbys().await.iter().map(|n| n.tree()).collect();
    for tree in &trees {
        tree.freeze_inside().await;
    }
    until("the wait is told", SOON, || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await;
        answer.stdout.contains("sync.write-quorum").then_some(())
    })
    .await;
    let waiting = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                   WHERE wait_event = 'SyncRep' AND usename = 'app'";
    until("a waiting commit is cancelled", SOON, || async {
        (conn.must(waiting).await != "0").then_some(())
    })
    .await;
    until("its client takes it for unknown", SOON, || async {
        let unknown =
            |e: &Entry| matches!(&e.outcome, Outcome::Unknown(w) if w.contains("WARNING"));
        cluster.journal.entries().iter().any(unknown).then_some(())
    })
    .await;
    let during = cluster.leaders_status().await;
    assert_eq!(during.epoch(), before.epoch(), "the primary stays: {during:?}");
    for tree in &trees {
        tree.thaw();
    }
    cluster.rows_flow(50).await;
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary stays");
    let verdict = cluster.judge(writers, since).await;
    assert!(verdict.unknown >= 1, "{verdict:?}");
}

/// A primary that is lost while a standby stands still: nobody can prove that the other standby
/// has everything, so there is no promotion, and it is said why. It heals once the standby goes on.
#[tokio::test(flavor = "multi_thread")]
async fn no_promotion_without_a_proof() {
    let cluster = Cluster::start("no_promotion_without_a_proof", &Options::default()).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    // The Raft leader must not be on the node that stands still: two of three controllers are left
    // only while that daemon runs. So PostgreSQL alone stands still there.
    let frozen = cluster.standbys().await[0];
    let tree = frozen.tree();
    tree.freeze_inside().await;
    primary.kill_everything().await;
    let rule = "quorum";
    until("the reason is told", SOON, || async {
        let answer = cluster.hactl(&["explain", "-o", "json"]).await;
        answer.stdout.to_lowercase().contains(rule).then_some(())
    })
    .await;
    let status = cluster.leaders_status().await;
    assert_eq!(status.epoch(), before.epoch(), "nobody was granted anything: {status:?}");
    tree.thaw();
    cluster.new_epoch(before.epoch()).await;
    primary.start();
    cluster.judge(writers, since).await;
}
