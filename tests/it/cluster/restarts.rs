//! Daemons and whole clusters stop and start again, in order and not.

use std::fs;
use std::time::Instant;

use super::takeovers::at_line;
use crate::support::{Cluster, HEAL, Mode, Options, SOON, until, until_seen};

/// A restart of every daemon, one after the other, is no outage: the same PostgreSQL go on.
#[tokio::test(flavor = "multi_thread")]
async fn every_daemon_is_restarted() {
    // However slow the machine is, a daemon is back before the lease of its member ends.
    let timing = vec!["ttl_ms = 60000".to_owned(), "suspect_ms = 50000".to_owned()];
    let options = Options { timing, ..Options::default() };
    let cluster = Cluster::start("every_daemon_is_restarted", &options).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let inits: Vec<_> = cluster.nodes.iter().map(|n| n.tree().init).collect();
    for node in &cluster.nodes {
        node.terminate_daemon().await;
        assert!(node.tree().init.is_alive(), "PostgreSQL goes on without the daemon");
        node.start();
        cluster.healed().await;
        cluster.rows_flow(20).await;
    }
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the same epoch goes on");
    let now: Vec<_> = cluster.nodes.iter().map(|n| n.tree().init).collect();
    assert_eq!(now, inits, "the same PostgreSQL go on");
    let verdict = cluster.judge(writers, since).await;
    assert_eq!((verdict.refused, verdict.unknown), (0, 0), "no client noticed");
}

/// Everything stops in order, all at once; nothing is left; everything starts with its data. Then
/// the same without any order, as in a loss of power.
#[tokio::test(flavor = "multi_thread")]
async fn everything_stops_and_starts() {
    let cluster = Cluster::start("everything_stops", &Options::default()).await;
    for in_order in [true, false] {
        eprintln!("-- everything stops, in order: {in_order}");
        let since = Instant::now();
        let writer = cluster.writer(Mode::Fresh);
        cluster.rows_flow(50).await;
        let before = cluster.healed().await;
        let trees: Vec<_> = cluster.nodes.iter().map(|n| n.tree()).collect();
        if in_order {
            let [a, b, c] = cluster.nodes.as_slice() else { panic!("three nodes") };
            tokio::join!(a.stop(), b.stop(), c.stop());
            for node in &cluster.nodes {
                assert!(node.find_tree().is_none(), "PostgreSQL of {} is left", node.name);
                assert!(!node.data_dir().join("postmaster.pid").exists(), "{}", node.name);
            }
        } else {
            for node in &cluster.nodes {
                node.daemon().signal(libc::SIGKILL);
            }
            for tree in &trees {
                tree.guard.signal(libc::SIGKILL);
            }
            for node in &cluster.nodes {
                node.wait_end(SOON).await;
            }
        }
        for tree in &trees {
            tree.gone(SOON).await;
        }
        for node in &cluster.nodes {
            node.start();
        }
        cluster.rows_flow(30).await;
        let after = cluster.healed().await;
        assert_eq!(after.system_id(), before.system_id(), "the same data");
        assert!(after.epoch() > before.epoch(), "another epoch");
        cluster.judge(vec![writer], since).await;
    }
}

/// What is taken away from a node, or put in its place, is noticed and never silently replaced.
#[tokio::test(flavor = "multi_thread")]
async fn data_is_lost_or_foreign() {
    let cluster = Cluster::start("data_is_lost_or_foreign", &Options::default()).await;
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;

    eprintln!("-- PGDATA of a standby is lost: it is copied anew");
    let standby = cluster.standbys().await[0];
    standby.stop().await;
    fs::remove_dir_all(standby.data_dir()).expect("it is removed");
    standby.start();
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the primary is not disturbed");

    eprintln!("-- PGDATA of a standby is another cluster's: it is left alone");
    standby.stop().await;
    let own = standby.state_dir().join("own");
    fs::rename(standby.data_dir(), &own).expect("it is moved away");
    let foreign = make_foreign(&standby.data_dir());
    standby.start();
    let problem = until("the foreign data is reported", SOON, || async {
        let status = cluster.leaders_status().await;
        let member = status.member(&standby.member)?;
        member.problems.into_iter().find(|p| p.contains("system identifier"))
    })
    .await;
    assert!(problem.contains(&before.system_id().expect("an identifier")), "{problem}");
    let identifier = foreign_identifier(&standby.data_dir());
    assert_eq!(identifier, foreign, "the foreign data is still there");
    assert!(standby.find_tree().is_none(), "it was not even started");
    standby.stop().await;
    fs::remove_dir_all(standby.data_dir()).expect("it is removed");
    fs::rename(&own, standby.data_dir()).expect("it is moved back");
    standby.start();
    cluster.healed().await;

    eprintln!("-- a whole node is wiped, its Raft store too: it must not vote again");
    let wiped = standby;
    wiped.stop().await;
    fs::remove_dir_all(wiped.state_dir()).expect("it is removed");
    wiped.start();
    let ended = until_seen("the wiped node is refused", HEAL, || wiped.ended()).await;
    assert!(!ended.success(), "{ended}");
    let log = fs::read_to_string(wiped.log()).expect("a log");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("wiped or replaced"), "{last}");
    assert!(last.contains("never used"), "what is to be done about it: {last}");
    cluster.rows_flow(50).await;
    let status = cluster.leaders_status().await;
    assert_eq!(status.primary(), before.primary(), "the others go on");
    writer.stop().await;
}

/// The whole control plane forgets everything: nothing is made beside the data that survives.
#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_wiped() {
    let cluster = Cluster::start("the_control_plane_is_wiped", &Options::default()).await;
    let before = cluster.healed().await.system_id().expect("an identifier");
    let [a, b, c] = cluster.nodes.as_slice() else { panic!("three nodes") };
    tokio::join!(a.stop(), b.stop(), c.stop());
    for node in &cluster.nodes {
        fs::remove_dir_all(node.state_dir().join("raft")).expect("it is removed");
        node.start();
    }
    for node in &cluster.nodes {
        let what = format!("{} says what stands against a bootstrap", node.name);
        until_seen(&what, HEAL, || {
            fs::read_to_string(node.log()).ok()?.contains("data.no-bootstrap-beside").then_some(())
        })
        .await;
    }
    let status = cluster.leaders_status().await;
    assert_eq!((status.epoch(), status.system_id()), (0, None), "{status:?}");
    for node in &cluster.nodes {
        assert_eq!(foreign_identifier(&node.data_dir()), before, "{}", node.name);
        assert!(node.find_tree().is_none(), "nothing runs that nobody granted");
    }
}

/// The source of a copy is lost in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_of_a_copy_is_lost() {
    let cluster = Cluster::start("the_source_of_a_copy_is_lost", &Options::default()).await;
    let since = Instant::now();
    let writer = cluster.writer(Mode::Fresh);
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let conn = cluster.superuser(primary.index).await;
    conn.must("CREATE TABLE bulk AS SELECT generate_series(1, 1000000) AS n").await;
    cluster.healed().await;
    let standby = cluster.standbys().await[0];
    standby.stop().await;
    fs::remove_dir_all(standby.data_dir()).expect("it is removed");
    standby.start();
    let seen = tokio::task::block_in_place(|| {
        at_line(&[standby], &["action=Clone"], SOON, |_| {
            primary.tree().postmaster().signal(libc::SIGKILL);
        })
    });
    assert!(seen.is_some(), "a copy begins");
    cluster.new_epoch(before.epoch()).await;
    cluster.judge(vec![writer], since).await;
}

/// Runs `initdb` for another cluster at this place; returns its identifier.
fn make_foreign(pgdata: &std::path::Path) -> String {
    let bin = std::path::Path::new("/usr/lib/postgresql/15/bin");
    fs::create_dir(pgdata).expect("a directory");
    let user = passwd("postgres");
    std::os::unix::fs::chown(pgdata, Some(user.0), Some(user.1)).expect("chown");
    use std::os::unix::process::CommandExt;
    let made = std::process::Command::new(bin.join("initdb"))
        .args(["-D"])
        .arg(pgdata)
        .args(["-N", "-A", "scram-sha-256", "--pwfile=/dev/stdin"])
        .stdin(std::process::Stdio::from(password_file()))
        .stdout(std::process::Stdio::null())
        .current_dir("/")
        .gid(user.1)
        .uid(user.0)
        .status()
        .expect("initdb");
    assert!(made.success(), "initdb: {made}");
    foreign_identifier(pgdata)
}

/// A file with a password that nobody needs.
fn password_file() -> fs::File {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"another password\n").and_then(|()| file.rewind()).expect("it is written");
    // The program opens it by a name below /dev, as another user.
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644)).expect("chmod");
    file
}

fn foreign_identifier(pgdata: &std::path::Path) -> String {
    let output = std::process::Command::new("/usr/lib/postgresql/15/bin/pg_controldata")
        .arg(pgdata)
        .env("LC_ALL", "C")
        .output()
        .expect("pg_controldata");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix("Database system identifier:"));
    line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

/// User and group of a name, from /etc/passwd.
fn passwd(name: &str) -> (u32, u32) {
    let text = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = text.lines().find(|l| l.split(':').next() == Some(name)).expect("the user");
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().expect("a number"), fields[3].parse().expect("a number"))
}
