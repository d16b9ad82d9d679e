//! What a running cluster looks after by itself: slots, settings, commits that are weakened.

use std::fs;
use std::time::Instant;

use crate::support::{Cluster, HEAL, Mode, Options, SOON, until};

/// Waits until the history has a notice of this kind whose text has `part`.
async fn noticed(cluster: &Cluster, code: &str, part: &str) {
    until(&format!("a notice of {code} with {part:?}"), HEAL, || async {
        let events = cluster.history().await;
        let found = events.iter().any(|e| {
            let text = e.to_string();
            text.contains(code) && text.contains(part)
        });
        found.then_some(())
    })
    .await;
}

/// Waits until the leader's status has an alarm of this kind that has `part`; or, without `part`,
/// until it has none of this kind.
async fn alarm(cluster: &Cluster, code: &str, part: Option<&str>) {
    until(&format!("the alarm {code} about {part:?}"), HEAL, || async {
        let status = cluster.leaders_status().await;
        let members = status.0["clusters"][0]["members"].as_array().cloned().unwrap_or_default();
        let alarms = members.iter().filter_map(|m| m["alarms"].as_array()).flatten();
        let mut of_kind = alarms.map(ToString::to_string).filter(|a| a.contains(code));
        let fits = match part {
            Some(part) => of_kind.any(|a| a.contains(part)),
            None => of_kind.next().is_none(),
        };
        fits.then_some(())
    })
    .await;
}

/// Nothing of what an operator does past the control plane is an outage, a loss, or overlooked.
#[tokio::test(flavor = "multi_thread")]
async fn hands_are_noticed_and_put_right() {
    let cluster = Cluster::start("hands_are_noticed", &Options::default()).await;
    let before = cluster.healed().await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    let (primary, standbys) = (cluster.primary().await, cluster.standbys().await);
    let on_primary = cluster.superuser(primary.index).await;

    eprintln!("-- a slot is dropped");
    let standby = standbys[0];
    let conn = cluster.superuser(standby.index).await;
    let name = format!("quorate_{}", primary.member);
    // Once its agent has seen it there.
    let look = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'");
    until("the slot is there", HEAL, || async { (conn.must(&look).await == "1").then_some(()) })
        .await;
    conn.must("SELECT pg_sleep(6)").await;
    conn.must(&format!("SELECT pg_drop_replication_slot('{name}')")).await;
    until("the slot is made again", SOON, || async {
        (conn.must(&look).await == "1").then_some(())
    })
    .await;
    noticed(&cluster, "slot", &primary.member).await;

    eprintln!("-- who confirms commits is changed");
    let names = on_primary.must("SHOW synchronous_standby_names").await;
    assert!(names.starts_with("ANY 1"), "{names}");
    for reload in [false, true] {
        on_primary.must("ALTER SYSTEM SET synchronous_standby_names = ''").await;
        if reload {
            on_primary.must("SELECT pg_reload_conf()").await;
        }
        until("it is put right", HEAL, || async {
            let conn = cluster.superuser(primary.index).await;
            let overridden = "SELECT count(*) FROM pg_file_settings \
                 WHERE name = 'synchronous_standby_names' AND sourcefile LIKE '%auto.conf'";
            let right = conn.must("SHOW synchronous_standby_names").await == names;
            (right && conn.must(overridden).await == "0").then_some(())
        })
        .await;
    }
    noticed(&cluster, "settings", "synchronous_standby_names").await;

    eprintln!("-- files are edited, on the primary and on a standby");
    let files = [primary, standby].map(|node| {
        let hba = node.data_dir().join("pg_hba.conf");
        let good = fs::read_to_string(&hba).expect("the rules");
        // Rules under which no standby would get in again.
        fs::write(&hba, "local all all scram-sha-256\n").expect("written");
        (node, hba, good)
    });
    for (node, hba, good) in files {
        until("the rules are written again", HEAL, || async {
            (fs::read_to_string(&hba).ok()? == good).then_some(())
        })
        .await;
        assert!(node.data_dir().join("pg_hba.conf.edited").exists());
    }
    noticed(&cluster, "settings", "pg_hba.conf").await;

    eprintln!("-- a role and the server give the promise up");
    on_primary.must("CREATE ROLE lax").await;
    on_primary.must("ALTER ROLE lax IN DATABASE postgres SET synchronous_commit = off").await;
    alarm(&cluster, "weakened", Some("role lax in database postgres")).await;
    on_primary.must("ALTER ROLE lax IN DATABASE postgres RESET synchronous_commit").await;
    alarm(&cluster, "weakened", None).await;

    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "nothing of that is an outage");
    cluster.judge(writers, since).await;
}

/// A member that is away holds neither dead rows nor, for long, WAL; and it comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_away_for_long() {
    let options = Options {
        cluster: vec!["slot_ttl_ms = 50000".to_owned()],
        parameters: vec!["wal_keep_size = 0".to_owned(), "max_wal_size = \"64MB\"".to_owned()],
        ..Options::default()
    };
    let cluster = Cluster::start("a_member_is_away", &options).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let (primary, away) = (cluster.primary().await, cluster.standbys().await[0]);
    let conn = cluster.superuser(primary.index).await;
    let slot = |column: &str| {
        format!(
            "SELECT coalesce(({column})::text, '-') FROM pg_replication_slots \
             WHERE slot_name = 'quorate_{}'",
            away.member
        )
    };
    until("its slot holds what its queries need", HEAL, || async {
        (conn.must(&slot("xmin")).await != "-").then_some(())
    })
    .await;
    away.stop().await;
    let kept = conn.must(&slot("restart_lsn")).await;
    until("dead rows are not held back", HEAL, || async {
        (conn.must(&slot("xmin")).await == "-").then_some(())
    })
    .await;
    assert_eq!(conn.must(&slot("restart_lsn")).await, kept, "its WAL is still kept");
    noticed(&cluster, "released", &away.member).await;
    until("its slot is dropped", HEAL, || async {
        conn.must(&slot("slot_name")).await.is_empty().then_some(())
    })
    .await;
    noticed(&cluster, "dropped", &away.member).await;
    // The WAL that it needs goes.
    for _ in 0..3 {
        cluster.rows_flow(5).await;
        conn.must("SELECT pg_switch_wal()").await;
        conn.must("CHECKPOINT").await;
    }
    away.start();
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary is not disturbed");
    noticed(&cluster, "does not have WAL", &away.member).await;
    noticed(&cluster, "is heard of again", &away.member).await;
    until("its slot is used again", HEAL, || async {
        (conn.must(&slot("active")).await == "true").then_some(())
    })
    .await;
    cluster.judge(writers, since).await;
}
