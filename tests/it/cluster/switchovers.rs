//! The primary's role is handed over in order, or that is refused.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cluster, Hactl, Mode, Options, until};

async fn switch(cluster: &Cluster, target: &str) -> Hactl {
    cluster.hactl(&["switchover", "--to", target, "--yes", "-o", "json"]).await
}

/// pgbench against the primary of the moment, run after run, until it is dropped.
struct Load(tokio::task::JoinHandle<()>);

impl Load {
    async fn start(cluster: &Cluster) -> Load {
        let hosts: Vec<String> = cluster.endpoints().iter().map(|e| e.host.clone()).collect();
        let ports: Vec<String> = cluster.endpoints().iter().map(|e| e.port.to_string()).collect();
        let dsn = format!(
            "host={} port={} user=app dbname=postgres connect_timeout=2 \
             target_session_attrs=read-write",
            hosts.join(","),
            ports.join(",")
        );
        let pgbench = move |arguments: &[&str]| {
            let mut command = tokio::process::Command::new("/usr/lib/postgresql/15/bin/pgbench");
            command.args(arguments).arg(&dsn).env("PGPASSWORD", "an-application-of-tests");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.kill_on_drop(true);
            command
        };
        let made = pgbench(&["-i", "-q", "-s", "2"]).status().await.expect("pgbench");
        assert!(made.success(), "pgbench -i: {made}");
        Load(tokio::spawn(async move {
            loop {
                // Its clients give up when their server goes: another run begins.
                let _ = pgbench(&["-n", "-c", "8", "-j", "2", "-T", "600"]).status().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// There and back under load. The old primary follows without a rewind, nothing is lost, and every
/// transaction of the load is there as a whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_under_load() {
    let cluster = Cluster::start("there_and_back_under_load", &Options::default()).await;
    let load = Load::start(&cluster).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    writers.extend(cluster.probes());
    cluster.rows_flow(50).await;
    let first = cluster.healed().await.primary().expect("a primary");
    let second = cluster.standbys().await[0].member.clone();
    for target in [second, first] {
        eprintln!("-- to {target}");
        let before = cluster.healed().await;
        let old = cluster.primary().await;
        let seen = std::fs::read_to_string(old.log()).expect("a log").len();
        let answer = switch(&cluster, &target).await;
        assert_eq!(answer.code, 0, "{answer:?}");
        let after = cluster.healed().await;
        assert_eq!(after.primary(), Some(target), "{after:?}");
        assert_eq!(after.epoch(), before.epoch() + 1, "one epoch is enough");
        let log = std::fs::read_to_string(old.log()).expect("a log");
        for word in ["action=Rewind", "action=Clone"] {
            assert!(!log[seen..].contains(word), "{}: {word}", old.name);
        }
        cluster.rows_flow(50).await;
    }
    drop(load);
    cluster.judge(writers, since).await;
    let conn = cluster.superuser(cluster.primary().await.index).await;
    let whole = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM \
                 pgbench_history) AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT \
                 sum(bbalance) FROM pgbench_branches) AND (SELECT sum(tbalance) FROM \
                 pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(conn.must(whole).await, "t", "a transaction of the load is there by half");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_refused_or_ends_with_one_primary() {
    let cluster = Cluster::start("switchover_refused", &Options::default()).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let primary = before.primary().expect("a primary");

    eprintln!("-- refusals that name their rule and change nothing");
    for (target, rule) in
        [("nobody", "member.exists"), (primary.as_str(), "switchover.target-is-standby")]
    {
        for dry in [true, false] {
            let more = if dry { "--dry-run" } else { "--yes" };
            let answer = cluster.hactl(&["switchover", "--to", target, more]).await;
            assert_eq!(answer.code, 1, "{answer:?}");
            let told = format!("{}{}", answer.stdout, answer.stderr);
            assert!(told.contains(rule), "{rule}: {answer:?}");
        }
    }
    let standby = cluster.standbys().await[0].member.clone();
    let dry = cluster.hactl(&["switchover", "--to", &standby, "--dry-run"]).await;
    assert_eq!(dry.code, 0, "{dry:?}");
    assert_eq!(cluster.healed().await.epoch(), before.epoch(), "a dry run changes nothing");
    let failover = cluster.hactl(&["failover", "--yes"]).await;
    assert_eq!(failover.code, 1, "{failover:?}");
    assert!(failover.stderr.contains("failover.primary-gone"), "{failover:?}");

    eprintln!("-- two at once");
    let targets: Vec<String> = cluster.standbys().await.iter().map(|n| n.member.clone()).collect();
    let (a, b) = tokio::join!(switch(&cluster, &targets[0]), switch(&cluster, &targets[1]));
    let after = cluster.healed().await;
    let done = [&a, &b].iter().filter(|h| h.code == 0).count() as u64;
    assert!(done >= 1, "{a:?} {b:?}");
    assert_eq!(after.epoch(), before.epoch() + done, "{a:?} {b:?}");
    for refused in [&a, &b].iter().filter(|h| h.code != 0) {
        assert_eq!(refused.code, 1, "{refused:?}");
    }

    eprintln!("-- the target's node is lost");
    let lost = cluster.standbys().await[0];
    lost.kill_everything().await;
    until("its silence is noticed", crate::support::SOON, || async {
        let status = cluster.leaders_status().await;
        let member = status.member(&lost.member)?;
        (member.reachability != "reporting").then_some(())
    })
    .await;
    let epoch = cluster.leaders_status().await.epoch();
    let answer = switch(&cluster, &lost.member).await;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("switchover.target"), "{answer:?}");
    assert_eq!(cluster.leaders_status().await.epoch(), epoch);
    lost.start();
    cluster.judge(writers, since).await;
}

/// A standby stands still during a switchover: another one, which must not hold it up, and the
/// target, with which it must end in exactly one primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_stands_still_meanwhile() {
    let cluster = Cluster::start("standby_stands_still", &Options::default()).await;
    for target_frozen in [false, true] {
        eprintln!("-- the target stands still: {target_frozen}");
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh)];
        writers.extend(cluster.probes());
        cluster.rows_flow(50).await;
        let before = cluster.healed().await;
        let standbys = cluster.standbys().await;
        let (target, other) = (standbys[0], standbys[1]);
        let frozen = if target_frozen { target } else { other };
        let tree = frozen.tree();
        tree.freeze().await;
        let answer = switch(&cluster, &target.member).await;
        if target_frozen {
            // Refused, failed, or done after the end of the freeze: all of them are right as long
            // as one primary results.
            assert_ne!(answer.code, 2, "{answer:?}");
            eprintln!("{}", answer.stderr.trim());
        } else {
            assert_eq!(answer.code, 0, "{answer:?}");
            let status = cluster.new_epoch(before.epoch()).await;
            assert_eq!(status.primary().as_ref(), Some(&target.member), "{status:?}");
        }
        cluster.rows_flow(30).await;
        tree.thaw();
        cluster.judge(writers, since).await;
    }
}
