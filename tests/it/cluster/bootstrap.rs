//! A cluster comes to life: what is made, with which rights, and what PostgreSQL runs with.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::{Cluster, Mode, Options, SOON, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_complete() {
    let cluster = Cluster::start("bootstrap", &Options::default()).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);

    // One life of data: made once, by one member, and the others are copies of it.
    let history = cluster.history().await;
    let count = |kind: &str| history.iter().filter(|e| !e["kind"][kind].is_null()).count();
    assert_eq!(count("bootstrap_started"), 1, "{history:#?}");
    assert_eq!(count("bootstrap_finished"), 1, "{history:#?}");
    let status = cluster.leaders_status().await;
    let system_id = status.system_id().expect("a system identifier");

    let names: Vec<&str> = cluster.nodes.iter().map(|n| n.member.as_str()).collect();
    for node in &cluster.nodes {
        let conn = cluster.superuser(node.index).await;
        assert_eq!(
            conn.must("SELECT system_identifier FROM pg_control_system()").await,
            system_id,
            "{}",
            node.member
        );
        for (setting, value) in [
            ("data_checksums", "on"),
            ("hot_standby_feedback", "on"),
            ("restart_after_crash", "off"),
            ("wal_log_hints", "on"),
            ("password_encryption", "scram-sha-256"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
        ] {
            assert_eq!(conn.must(&format!("SHOW {setting}")).await, value, "{setting}");
        }
        // The default of 5 s is what a promotion can sleep for.
        let retry = "SELECT setting::int <= 100 FROM pg_settings \
                     WHERE name = 'wal_retrieve_retry_interval'";
        assert_eq!(conn.must(retry).await, "t", "{}", node.member);
        let names_setting = conn.must("SHOW synchronous_standby_names").await;
        assert!(!names_setting.is_empty() && !names_setting.contains('*'), "{names_setting}");
        // A slot for every other member on every member, and none for itself.
        let mut others: Vec<&str> = names.clone();
        others.retain(|n| *n != node.member);
        let what = format!("slots of {others:?} on {}", node.member);
        until(&what, SOON, || async {
            let sql = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' \
                       ORDER BY 1";
            let rows = conn.rows(sql).await.ok()?;
            let slots: Vec<String> = rows.into_iter().flatten().collect();
            let has = |name: &&str| slots.iter().any(|s| s.contains(*name));
            (slots.len() == others.len() && others.iter().all(has)).then_some(())
        })
        .await;
        // An inactive slot must not hold back cleaning for ever.
        let pinned = "SELECT count(*) FROM pg_replication_slots WHERE NOT active \
                      AND xmin IS NOT NULL";
        assert_eq!(conn.must(pinned).await, "0", "{}", node.member);
    }

    // Timelines are epochs; the first is never led.
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    let timeline = conn.must("SELECT timeline_id FROM pg_control_checkpoint()").await;
    assert_eq!(timeline, status.epoch().to_string());
    assert!(status.epoch() >= 2);
    let clear = "SELECT count(*) FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256$%'";
    assert_eq!(conn.must(clear).await, "0");
    let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
    assert_eq!(conn.must(sync).await, "2");

    for node in &cluster.nodes {
        let hba = fs::read_to_string(node.data_dir().join("pg_hba.conf")).expect("pg_hba.conf");
        let rules: Vec<&str> = hba.lines().filter(|l| !l.starts_with('#')).collect();
        assert!(rules.iter().all(|r| r.ends_with("scram-sha-256")), "{rules:?}");
        assert_eq!(mode(&node.data_dir()), 0o700);
        assert!(node.postgres_log().contains("database system is ready to accept"), "no log");
        no_secret_is_open(&node.state_dir(), &secrets(cluster.dir()));
        let log = fs::read_to_string(node.log()).expect("a log");
        for secret in secrets(cluster.dir()) {
            assert!(!log.contains(&secret), "a secret in the log of {}", node.name);
            assert!(!node.postgres_log().contains(&secret), "a secret in a log of PostgreSQL");
        }
        for process in node.tree().processes().into_iter().chain([node.daemon()]) {
            for secret in secrets(cluster.dir()) {
                assert!(!process.title().contains(&secret), "{}", process.title());
            }
        }
    }
    cluster.rows_flow(50).await;
    cluster.judge(vec![writer], since).await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// What nobody but its owner may read.
fn secrets(dir: &Path) -> Vec<String> {
    ["secret", "superuser"].map(|f| fs::read_to_string(dir.join(f)).expect("a secret")).to_vec()
}

/// No file below `dir` that others can read holds a password: neither ours nor the derived ones,
/// which stand in password files in the form `host:port:database:user:password`.
fn no_secret_is_open(dir: &Path, secrets: &[String]) {
    let mut password_files = 0;
    for path in files(dir) {
        let Ok(meta) = fs::metadata(&path) else { continue };
        // The data files are PostgreSQL's own; its directory is closed as a whole.
        if path.components().any(|c| c.as_os_str() == "main") || meta.size() > 1 << 20 {
            continue;
        }
        let Ok(content) = fs::read(&path) else { continue };
        let content = String::from_utf8_lossy(&content);
        let is_password_file = content.lines().any(|l| {
            let fields: Vec<&str> = l.split(':').collect();
            fields.len() == 5 && fields[3].starts_with("quorate_")
        });
        if is_password_file || secrets.iter().any(|s| content.contains(s)) {
            password_files += 1;
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
    assert!(password_files > 0, "no password file below {}", dir.display());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            _ => {}
        }
    }
    all
}
