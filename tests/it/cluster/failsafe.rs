//! Controllers that live apart from the database nodes are lost, all of them.

use std::time::Instant;

use crate::support::{
    Cluster, Entry, HEAL, Mode, Options, Outcome, PrivateNetwork, SOON, Status, until,
};

/// Three database nodes, and three controllers apart from them.
fn apart(lines: &[&str]) -> Options {
    let cluster = lines.iter().map(|l| (*l).to_owned()).collect();
    Options { nodes: 6, witnesses: 3, apart: true, cluster, ..Options::default() }
}

fn failsafe(status: &Status) -> String {
    status.cluster()["failsafe"].as_str().unwrap_or_default().to_owned()
}

/// Whether the history tells of a notice of this kind.
async fn told(cluster: &Cluster, code: &str) {
    until(code, HEAL, || async {
        let events = cluster.history().await;
        events.iter().any(|e| e.to_string().contains(code)).then_some(())
    })
    .await;
}

async fn kill_controllers(cluster: &Cluster) {
    for node in cluster.controllers() {
        node.kill_daemon().await;
    }
}

fn start_controllers(cluster: &Cluster) {
    for node in cluster.controllers() {
        node.start();
    }
}

/// While every other member answers, the primary outlives its controllers by far; and it goes on in
/// the same epoch when they come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_outlives_all_controllers() {
    let options = apart(&["failsafe = true"]);
    let cluster = Cluster::start("a_primary_outlives_all_controllers", &options).await;
    let before = cluster.healed().await;
    assert_eq!(failsafe(&before), "armed");
    let primary = cluster.primary().await;
    let init = primary.tree().init;

    eprintln!("-- all controllers are killed");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(50).await;
    kill_controllers(&cluster).await;
    let lost = Instant::now();
    // Much longer than any lease: rows are acknowledged that were begun after several of them.
    until("rows are acknowledged 12 s later", HEAL, || async {
        let late = |e: &Entry| {
            e.begun.duration_since(lost).as_secs() >= 12
                && matches!(e.outcome, Outcome::Acknowledged { .. })
        };
        cluster.journal.entries().iter().any(late).then_some(())
    })
    .await;
    assert_eq!(primary.tree().init, init, "the same PostgreSQL goes on");
    // The nodes that are left say what they were told last, and that nobody leads.
    let answer = cluster.hactl(&["--timeout", "3s", "status", "-o", "json"]).await;
    let told_last = answer.json().map(Status).unwrap_or_else(|| panic!("{answer:?}"));
    assert!(!told_last.is_leaders() && answer.code != 0, "{answer:?}");
    assert_eq!((told_last.epoch(), failsafe(&told_last)), (before.epoch(), "armed".to_owned()));

    eprintln!("-- they come back");
    start_controllers(&cluster);
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "the same epoch goes on");
    assert_eq!(after.primary(), before.primary());
    assert_eq!(primary.tree().init, init);
    told(&cluster, "failsafe-began").await;
    told(&cluster, "failsafe-ended").await;
    cluster.rows_flow(50).await;
    cluster.judge(writers, since).await;
    assert_eq!(failsafe(&cluster.leaders_status().await), "armed");

    eprintln!("-- all controllers are killed, and then a standby");
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh)];
    writers.extend(cluster.probes());
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let primary = cluster.primary().await;
    let tree = primary.tree();
    let standby = cluster.standbys().await[0];
    kill_controllers(&cluster).await;
    let log = |text: &'static str| {
        let path = primary.log();
        move || std::fs::read_to_string(&path).unwrap_or_default().matches(text).count()
    };
    let began = log("failsafe-began");
    until("its peers keep the lease", SOON, || async { (began() >= 2).then_some(()) }).await;
    let end = tree.watch_end();
    let stopped = Instant::now();
    standby.kill_daemon().await;
    let gone = end.at().await;
    // The last round may have been completed just before.
    eprintln!("the primary was gone {:?} after its peer", gone.duration_since(stopped));

    eprintln!("-- they come back");
    start_controllers(&cluster);
    standby.start();
    let after = cluster.new_epoch(before.epoch()).await;
    assert!(after.primary().is_some());
    cluster.rows_flow(50).await;
    cluster.judge(writers, since).await;
}

/// Controllers that keep their majority, and reach the standbys but not the primary, replace it: its
/// peers promise until they are sealed, and the next primary waits for their promises to lapse.
#[test]
fn a_primary_that_only_its_peers_reach_is_replaced() {
    PrivateNetwork::run(6, |network| async {
        let options = apart(&["failsafe = true"]);
        let cluster =
            Cluster::start_on("a_primary_that_only_its_peers_reach", network, &options).await;
        let since = Instant::now();
        let mut writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
        writers.extend(cluster.probes());
        cluster.rows_flow(50).await;
        let before = cluster.healed().await;
        let primary = cluster.primary().await;
        let end = primary.tree().watch_end();
        let cut = Instant::now();
        for controller in cluster.controllers() {
            cluster.network().cut(primary.index, controller.index);
        }
        let after = cluster.new_epoch(before.epoch()).await;
        let gone_at = end.at().await;
        assert_ne!(after.primary(), before.primary());
        cluster.rows_flow(50).await;
        let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
        eprintln!("gone {:?}, taken over {:?} after the cut", gone_at - cut, taken_at - cut);
        assert!(gone_at < taken_at, "the old tree ran when the new primary acknowledged a row");
        cluster.network().heal(primary.index);
        cluster.judge(writers, since).await;
    });
}

/// Off by default: without controllers the primary stops with its lease.
#[tokio::test(flavor = "multi_thread")]
async fn without_failsafe_the_primary_stops() {
    let cluster = Cluster::start("without_failsafe_the_primary_stops", &apart(&[])).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    assert_eq!(failsafe(&before), "off");
    let end = cluster.primary().await.tree().watch_end();
    kill_controllers(&cluster).await;
    end.at().await;
    start_controllers(&cluster);
    cluster.new_epoch(before.epoch()).await;
    cluster.rows_flow(50).await;
    cluster.judge(writers, since).await;

    eprintln!("-- it is switched on, and holds from the next epoch on");
    let set = cluster.hactl(&["config", "set", "failsafe=true", "--yes"]).await;
    assert_eq!(set.code, 0, "{set:?}");
    let pending = cluster.healed().await;
    assert_eq!(failsafe(&pending), "pending");
    let doctor = cluster.hactl(&["doctor", "-o", "json"]).await;
    assert!(doctor.stdout.contains("was granted without"), "{doctor:?}");
    let target = cluster.standbys().await[0].member.clone();
    let moved = cluster.switchover(&target).await;
    assert_eq!(moved.code, 0, "{moved:?}");
    let armed = cluster.healed().await;
    assert_eq!((failsafe(&armed), armed.primary()), ("armed".to_owned(), Some(target)));
    assert!(armed.epoch() > pending.epoch());

    eprintln!("-- and does hold: all controllers are killed once more");
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(20).await;
    let primary = cluster.primary().await;
    let init = primary.tree().init;
    kill_controllers(&cluster).await;
    let lost = Instant::now();
    // Longer than any lease that a controller gave.
    until("rows are acknowledged 5 s later", HEAL, || async {
        let late = |e: &Entry| {
            e.begun.duration_since(lost).as_secs() >= 5
                && matches!(e.outcome, Outcome::Acknowledged { .. })
        };
        cluster.journal.entries().iter().any(late).then_some(())
    })
    .await;
    assert_eq!(primary.tree().init, init, "the same PostgreSQL goes on");
    start_controllers(&cluster);
    let after = cluster.healed().await;
    assert_eq!((after.epoch(), after.primary()), (armed.epoch(), armed.primary()));
    cluster.judge(writers, since).await;
}
