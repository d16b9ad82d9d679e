//! Processes are killed: each alone, together, and with the whole node.

use std::time::Instant;

use crate::support::{Cluster, HEAL, Mode, Options, SOON, until_seen};

/// PostgreSQL itself: a crash of it ends the epoch, and the old primary comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_killed() {
    let cluster = Cluster::start("postgresql_is_killed", &Options::default()).await;

    for scenario in ["postmaster", "backend", "init"] {
        eprintln!("-- the {scenario} of the primary is killed");
        let since = Instant::now();
        let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
        cluster.rows_flow(50).await;
        let before = cluster.healed().await;
        let old = cluster.primary().await;
        let tree = old.tree();
        let daemon = old.daemon();
        match scenario {
            "postmaster" => tree.postmaster().signal(libc::SIGKILL),
            "backend" => {
                let conn = cluster.superuser(old.index).await;
                let pid = conn.must("SELECT pg_backend_pid()").await.parse().expect("a number");
                tree.inner(pid).expect("a backend").signal(libc::SIGKILL);
            }
            _ => tree.init.signal(libc::SIGKILL),
        }
        let after = cluster.new_epoch(before.epoch()).await;
        tree.gone(SOON).await;
        assert_ne!(after.primary(), before.primary(), "another member takes over");
        cluster.rows_flow(50).await;
        let verdict = cluster.judge(writers, since).await;
        assert!(verdict.acknowledged > 100);
        assert!(daemon.is_alive(), "the daemon outlives its PostgreSQL");
    }
}

/// The daemon alone: a restart within the lease is no outage; without one the kernel fences.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_killed() {
    let cluster = Cluster::start("the_daemon_is_killed", &Options::default()).await;

    eprintln!("-- the daemon of the primary is killed and started again");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let node = cluster.primary().await;
    let tree = node.tree();
    node.kill_daemon().await;
    node.start();
    let after = cluster.healed().await;
    cluster.rows_flow(50).await;
    assert_eq!(after.epoch(), before.epoch(), "the same epoch goes on");
    assert_eq!(node.tree().init, tree.init, "the same PostgreSQL goes on");
    cluster.judge(writers, since).await;

    eprintln!("-- the daemon of the primary is killed and stays away");
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let busy = tree.processes().len();
    assert!(busy > 5, "a whole tree is fenced: {busy} processes");
    let end = tree.watch_end();
    node.kill_daemon().await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    let gone_at = end.at().await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
    node.start();
    cluster.judge(writers, since).await;
}

/// The guard, and the guard with the daemon: nothing of PostgreSQL is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_guard_is_killed() {
    let cluster = Cluster::start("the_guard_is_killed", &Options::default()).await;
    for with_daemon in [false, true] {
        eprintln!("-- the guard of the primary is killed, with the daemon: {with_daemon}");
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh)];
        writers.extend(cluster.probes());
        cluster.rows_flow(50).await;
        let before = cluster.healed().await;
        let node = cluster.primary().await;
        let tree = node.tree();
        if with_daemon {
            node.daemon().signal(libc::SIGKILL);
        }
        tree.guard.signal(libc::SIGKILL);
        tree.gone(SOON).await;
        if with_daemon {
            node.wait_end(SOON).await;
        }
        cluster.new_epoch(before.epoch()).await;
        cluster.rows_flow(50).await;
        if with_daemon {
            node.start();
        }
        cluster.judge(writers, since).await;
    }

    eprintln!("-- the guard of a standby is killed");
    let since = Instant::now();
    let writer = cluster.writer(Mode::Held);
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let node = cluster.standbys().await[0];
    let tree = node.tree();
    tree.guard.kill().await;
    tree.gone(SOON).await;
    until_seen("the standby runs again", HEAL, || node.find_tree()).await;
    cluster.rows_flow(20).await;
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary is not disturbed");
    cluster.judge(vec![writer], since).await;
}

/// Whole nodes: of the primary, of the Raft leader, and of both at once where they are one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_lost() {
    let cluster = Cluster::start("a_node_is_lost", &Options::default()).await;

    eprintln!("-- the node of the primary");
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let node = cluster.primary().await;
    node.kill_everything().await;
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    node.start();
    cluster.judge(writers, since).await;

    eprintln!("-- the daemon that leads the control plane");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let leader = cluster.raft_leader().await;
    let was_primary = before.primary().as_ref() == Some(&leader.member);
    leader.kill_daemon().await;
    cluster.leaders_status().await;
    leader.start();
    cluster.rows_flow(50).await;
    let after = cluster.healed().await;
    if !was_primary {
        assert_eq!(after.epoch(), before.epoch(), "an election is no outage");
    }
    cluster.judge(writers, since).await;

    eprintln!(
        "-- both other nodes: without a majority the primary ends itself, and has a way back"
    );
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let tree = cluster.primary().await.tree();
    let others = cluster.standbys().await;
    for node in &others {
        node.kill_everything().await;
    }
    tree.gone(SOON).await;
    for node in &others {
        node.start();
    }
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    cluster.judge(writers, since).await;

    eprintln!("-- the nodes of the primary and of the Raft leader, one after the other");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let (first, second) = (cluster.raft_leader().await, cluster.primary().await);
    first.kill_everything().await;
    if first.index != second.index {
        second.kill_everything().await;
        second.start();
    }
    first.start();
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    cluster.judge(writers, since).await;
}
