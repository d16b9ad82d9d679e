//! What an operator does by hand, past the control plane, is noticed and mended.

use std::time::Instant;

use crate::support::{Cluster, HEAL, Mode, Options, until};

#[tokio::test(flavor = "multi_thread")]
async fn things_are_changed_by_hand() {
    let cluster = Cluster::start("things_are_changed_by_hand", &Options::default()).await;

    eprintln!("-- slots are dropped, and settings of ours overridden");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let standbys = cluster.standbys().await;
    let conn = cluster.superuser(standbys[0].index).await;
    conn.must("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
    until("the slots are made again", HEAL, || async {
        (conn.must("SELECT count(*) FROM pg_replication_slots").await == "2").then_some(())
    })
    .await;
    drop(conn);
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "nothing of that is an outage");
    cluster.judge(writers, since).await;

    eprintln!("-- a standby is promoted by hand: nothing that it takes is acknowledged");
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let standby = cluster.standbys().await[0];
    let conn = cluster.superuser(standby.index).await;
    conn.must("SELECT pg_promote(false)").await;
    drop(conn);
    until("it is noticed", HEAL, || async {
        let status = cluster.leaders_status().await;
        let member = status.member(&standby.member)?;
        (!member.streaming).then_some(())
    })
    .await;
    let after = cluster.healed().await;
    assert_eq!(after.primary(), before.primary(), "the primary goes on");
    cluster.judge(writers, since).await;

    eprintln!("-- a standby's and the primary's PostgreSQL are stopped by hand");
    for node in [cluster.standbys().await[0], primary] {
        let since = Instant::now();
        let writers = vec![cluster.writer(Mode::Fresh)];
        cluster.rows_flow(20).await;
        let before = cluster.healed().await;
        let was_primary = before.primary().as_ref() == Some(&node.member);
        let tree = node.tree();
        tree.postmaster().signal(libc::SIGINT);
        tree.gone(HEAL).await;
        if was_primary {
            cluster.new_epoch(before.epoch()).await;
        }
        cluster.rows_flow(20).await;
        let after = cluster.healed().await;
        assert!(was_primary || after.epoch() == before.epoch(), "a standby is no outage");
        cluster.judge(writers, since).await;
    }
}
