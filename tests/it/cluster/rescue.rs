//! The majority of the controllers is lost for good, and the control plane is recovered by hand.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Cluster, HEAL, Hactl, Mode, Node, Options, until};

/// Runs `hactl`, which has to succeed.
async fn must(cluster: &Cluster, arguments: &[&str]) -> Hactl {
    let answer = cluster.hactl(arguments).await;
    assert_eq!(answer.code, 0, "hactl {arguments:?}: {answer:?}");
    answer
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("UTF-8")
}

/// The data_dir of a node.
fn data_dir(node: &Node) -> String {
    text(node.state_dir())
}

/// The finding of this rule, once it is there.
async fn finding(cluster: &Cluster, rule: &str) -> String {
    until(&format!("the rule {rule} is explained"), HEAL, || async {
        let answer = cluster.hactl(&["--timeout", "3s", "explain", "-o", "json"]).await.json()?;
        let findings = answer["findings"].as_array()?.clone();
        let found = findings.into_iter().find(|f| f["rule"] == rule)?;
        found["text"].as_str().map(str::to_owned)
    })
    .await
}

/// The events of a kind in the history.
async fn events(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let all = cluster.history().await;
    all.into_iter().filter_map(|e| e["kind"].get(kind).cloned()).collect()
}

fn logged(node: &Node, what: &str) -> bool {
    std::fs::read_to_string(node.log()).unwrap_or_default().contains(what)
}

async fn until_logged(node: &Node, what: &str) {
    let look = || async { logged(node, what).then_some(()) };
    until(&format!("{} says {what:?}", node.name), HEAL, look).await;
}

/// Two of three nodes burn down. The third goes on by the operator's word, with every row; and when
/// the two come back after all, with the stores of before, they decide nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_nodes_are_lost() {
    // Every acknowledged row is on all three, until two have been gone for a while.
    let lines = ["write_quorum = 2", "write_quorum_min = 0"].map(str::to_owned).to_vec();
    let options = Options { cluster: lines, ..Options::default() };
    let cluster = Cluster::start("two_of_three_nodes_are_lost", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let standbys = cluster.standbys().await;
    let (left, lost) = (standbys[0], [cluster.primary().await, standbys[1]]);

    eprintln!("-- two nodes are lost: what is left says so, and decides nothing");
    for node in lost {
        node.kill_everything().await;
    }
    let said = until("nobody leads", HEAL, || async {
        let answer = cluster.hactl(&["--timeout", "3s", "explain"]).await;
        answer.stdout.contains("1 of 3 answer here").then_some(answer)
    })
    .await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stdout.contains("hactl recover"), "{said:?}");
    let status = cluster.hactl(&["--timeout", "3s", "status"]).await;
    assert_eq!(status.code, 3, "{status:?}");
    assert!(status.stderr.contains("there is no leader"), "{status:?}");
    let reader = cluster.superuser(left.index).await;
    reader.must("SELECT count(*) FROM q_rows").await;

    eprintln!("-- a recovery is refused where anything is missing");
    let dir = data_dir(left);
    let names: Vec<&str> = lost.iter().map(|n| n.name.as_str()).collect();
    let all = ["recover", "--data-dir", &dir, "--lost", names[0], "--lost", names[1]];
    let refused = cluster.hactl(&[&all[..], &["--yes"]].concat()).await;
    assert!(refused.code == 1 && refused.stderr.contains("is locked"), "{refused:?}");
    left.terminate_daemon().await;
    let refused = cluster.hactl(&all).await;
    assert!(refused.code == 2 && refused.stderr.contains("give --yes"), "{refused:?}");
    let refused = cluster.hactl(&[&all[..5], &["--yes"]].concat()).await;
    assert!(refused.stderr.contains("rule recovery.all-controllers"), "{refused:?}");
    let dry = must(cluster, &[&all[..], &["--dry-run"]].concat()).await;
    assert!(dry.stdout.contains("may not be the newest"), "{dry:?}");

    eprintln!("-- it is recovered: nobody is promoted over what the lost members may hold");
    must(cluster, &[&all[..], &["--yes"]].concat()).await;
    left.start();
    let why = finding(cluster, "recovery.members-complete").await;
    assert!(lost.iter().all(|n| why.contains(&n.member)), "{why}");
    let status = cluster.leaders_status().await;
    assert_eq!(status.primary(), None);
    let events = events(cluster, "control_plane_recovered").await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["lost"].as_array().map(Vec::len), Some(2), "{events:?}");
    assert!(events[0]["by"].as_str().is_some_and(|by| by.contains('@')), "{events:?}");

    eprintln!("-- the operator accepts it");
    must(cluster, &["failover", "--accept-data-loss", "--yes"]).await;
    let after = cluster.new_epoch(before.epoch()).await;
    assert_eq!(after.primary().as_deref(), Some(left.member.as_str()));

    eprintln!(
        "-- the two come back with the stores of before: a majority of the old control plane"
    );
    for node in lost {
        node.start();
    }
    for node in lost {
        until_logged(node, "a higher generation of the control plane exists").await;
    }
    cluster.healed().await;
    cluster.rows_flow(50).await;
    let judged = cluster.leaders_status().await;
    assert_eq!(judged.primary(), after.primary(), "nobody else was promoted");
    cluster.judge(writers, since).await;

    eprintln!("-- they have ended for good, and say by which rule");
    for node in lost {
        node.terminate_daemon().await;
        node.start();
        until_logged(node, "which never votes or leads again").await;
    }
    cluster.healed().await;
    let file = text(cluster.dir().join("state.snapshot"));
    must(cluster, &["snapshot", "save", &file]).await;
    let shown = must(cluster, &["snapshot", "show", &file, "-o", "json"]).await.json();
    let controllers = shown.as_ref().and_then(|s| s["controllers"].as_array().cloned());
    assert_eq!(controllers.map(|c| c.len()), Some(1), "{shown:?}");
}

/// Three of five controllers are lost, and both members live: a primary is there again without a
/// word of the operator. Then all controllers are lost, and the state comes back from an old file.
#[tokio::test(flavor = "multi_thread")]
async fn all_members_live() {
    let options = Options { nodes: 5, witnesses: 3, ..Options::default() };
    let cluster = Cluster::start("all_members_live", &options).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh)];
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    let [n1, n2, rest @ ..] = &cluster.nodes[..] else { panic!("five nodes") };
    let file = text(cluster.dir().join("old.snapshot"));
    must(cluster, &["snapshot", "save", &file]).await;

    eprintln!("-- the witnesses are lost; one of two that are left is retired");
    for node in rest {
        node.kill_everything().await;
    }
    n2.terminate_daemon().await;
    let receipt = text(cluster.dir().join("n2.receipt"));
    let dir = data_dir(n2);
    must(cluster, &["retire", "--data-dir", &dir, "--for", "n1", "--out", &receipt, "--yes"]).await;
    n2.start();
    until_logged(n2, "this controller's store was retired").await;
    n1.terminate_daemon().await;
    let dir = data_dir(n1);
    let mut arguments =
        vec!["recover", "--data-dir", &dir, "--receipt", &receipt, "--yes", "--members-complete"];
    for node in rest {
        arguments.extend(["--lost", &node.name]);
    }
    let refused = cluster.hactl(&arguments).await;
    if refused.stderr.contains("recovery.longest-log") {
        // The one that was retired had more: it is the one to go on from.
        panic!("n1 has to be retired instead: {refused:?}");
    }
    assert_eq!(refused.code, 0, "{refused:?}");
    n1.start();
    cluster.new_epoch(before.epoch()).await;
    cluster.healed().await;
    cluster.rows_flow(50).await;
    let raised = events(cluster, "epoch_raised").await;
    assert_eq!(raised.len(), 1, "{raised:?}");
    let lost = events(cluster, "granted").await;
    assert!(lost.iter().all(|g| g["data_loss_accepted"] != true), "nothing was given up: {lost:?}");

    eprintln!("-- the last controller is lost, and the file is of the time before all that");
    let recovered = cluster.healed().await;
    n1.terminate_daemon().await;
    std::fs::rename(n1.state_dir().join("raft"), n1.state_dir().join("raft.broken"))
        .expect("moved");
    let mut arguments = vec!["snapshot", "restore", &file, "--data-dir", &dir, "--node", "n1"];
    let refused = cluster.hactl(&[&arguments[..], &["--yes"]].concat()).await;
    assert!(refused.stderr.contains("rule recovery.all-controllers"), "{refused:?}");
    arguments.extend(["--members-complete", "--receipt", &receipt]);
    for node in rest {
        arguments.extend(["--lost", &node.name]);
    }
    must(cluster, &[&arguments[..], &["--yes"]].concat()).await;
    let again = cluster.hactl(&[&arguments[..], &["--yes"]].concat()).await;
    assert!(again.stderr.contains("holds a Raft store already"), "{again:?}");
    n1.start();
    let restored = cluster.new_epoch(recovered.epoch()).await;
    assert!(restored.epoch() > recovered.epoch(), "no epoch is granted twice");
    cluster.healed().await;
    cluster.rows_flow(50).await;
    cluster.judge(writers, since).await;
}
