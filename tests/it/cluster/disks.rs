//! The disk of a node is full.

use std::time::Instant;

use crate::support::{Cluster, HEAL, Mode, Options, SOON, SmallDisk, until_seen};

/// The primary's disk fills up: it is replaced once, the others do not follow it into the same
/// disaster, and it comes back by itself when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn the_primarys_disk_is_full() {
    let options = Options::default();
    let cluster = Cluster::prepare("the_primarys_disk_is_full", &options);
    // The member that comes first makes the data, and is the first primary.
    let node = &cluster.nodes[0];
    let Some(disk) = SmallDisk::mount(&node.state_dir(), 500) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    cluster.bring_up(&options).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    assert_eq!(before.primary().as_ref(), Some(&node.member));
    let conn = cluster.superuser(node.index).await;
    conn.must("CREATE TABLE bulk (text text)").await;
    let end = node.tree().watch_end();
    disk.fill_to(0);
    let bulk = "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
    while let Ok(Ok(_)) = tokio::time::timeout(SOON, conn.rows(bulk)).await {}
    drop(conn);
    if cluster.leaders_status().await.epoch() == before.epoch() {
        // A table that cannot grow is an error and no more; the log is what has to grow.
        let conn = cluster.superuser(node.index).await;
        for _ in 0..200 {
            let write = "SELECT pg_switch_wal(), pg_logical_emit_message(false, 'fill', repeat('x', 4000000))";
            if !matches!(tokio::time::timeout(SOON, conn.rows(write)).await, Ok(Ok(_))) {
                break;
            }
        }
    }
    let after = cluster.new_epoch(before.epoch()).await;
    assert_ne!(after.primary(), before.primary());
    let gone_at = end.at().await;
    cluster.rows_flow(50).await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
    let epoch = cluster.leaders_status().await.epoch();
    assert!(epoch <= before.epoch() + 2, "no loop of failovers: epoch {epoch}");
    disk.empty();
    until_seen("PostgreSQL runs there again", HEAL, || node.find_tree()).await;
    assert!(node.ended().is_none(), "the daemon goes on, whatever became of its store");
    cluster.judge(writers, since).await;
}
