//! The walks of an operator through changes of the control plane's nodes, while clients write.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Cluster, HEAL, Hactl, Mode, Node, Options, SOON, until};

/// The nodes, once the leader answers.
async fn nodes(cluster: &Cluster) -> Vec<Value> {
    until("the nodes are listed", HEAL, || async {
        let answer = cluster.hactl(&["--timeout", "3s", "node", "list", "-o", "json"]).await;
        answer.json()?["nodes"].as_array().cloned()
    })
    .await
}

fn voters(nodes: &[Value]) -> Vec<(u64, String)> {
    let votes = |n: &&Value| n["roles"].as_array().is_some_and(|r| r.iter().any(|r| r == "voter"));
    let of = |n: &Value| (n["id"].as_u64().unwrap(), n["name"].as_str().unwrap().to_owned());
    nodes.iter().filter(votes).map(of).collect()
}

async fn until_voters(cluster: &Cluster, what: &str, wanted: &[(u64, &str)]) {
    until(what, HEAL, || async {
        let listed = nodes(cluster).await;
        let now = voters(&listed);
        let same = now.iter().map(|(id, name)| (*id, name.as_str())).eq(wanted.iter().copied());
        let idle = listed.iter().all(|n| n["change"] == "");
        (same && idle).then_some(())
    })
    .await;
}

fn must(answer: &Hactl) {
    assert_eq!(answer.code, 0, "{answer:?}");
}

fn refused(answer: &Hactl, rule: &str) {
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains(&format!("rule: {rule}")), "{answer:?}");
}

/// `hactl node add` for this node: the join file.
async fn add(cluster: &Cluster, node: &Node, roles: &str) -> PathBuf {
    let secret = cluster.dir().join("secret");
    let out = cluster.dir().join(format!("{}-{roles}.join", node.name));
    let (address, out_text) = (node.api(), out.to_str().unwrap().to_owned());
    let arguments = [
        "node",
        "add",
        &node.name,
        "--address",
        &address,
        "--roles",
        roles,
        "--out",
        &out_text,
        "--secret-file",
        secret.to_str().unwrap(),
    ];
    let answer = cluster.hactl(&arguments).await;
    must(&answer);
    assert!(answer.stdout.contains("holds the secret"), "{answer:?}");
    let mode = std::fs::metadata(&out).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    out
}

/// `hanode join` for this node, which is then started as usual.
async fn join(cluster: &Cluster, node: &Node, file: &Path, more: &[&str]) -> Output {
    let (config, data_dir) = (node.config(), node.state_dir());
    let secret = cluster.dir().join(format!("{}.secret", node.name));
    let mut arguments = vec!["join", "--no-start", "--file", file.to_str().unwrap()];
    arguments.extend(["--config", config.to_str().unwrap()]);
    arguments.extend(["--data-dir", data_dir.to_str().unwrap()]);
    arguments.extend(["--secret-file", secret.to_str().unwrap()]);
    arguments.extend(more);
    let mut command = node.hanode(&arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn must_join(cluster: &Cluster, node: &Node, file: &Path, more: &[&str]) {
    let joined = join(cluster, node, file, more).await;
    assert!(joined.status.success(), "{joined:?}");
    let secret = cluster.dir().join(format!("{}.secret", node.name));
    let mode = std::fs::metadata(secret).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    node.start();
}

/// What the daemon of this node has logged.
fn log(node: &Node) -> String {
    String::from_utf8_lossy(&std::fs::read(node.log()).unwrap_or_default()).into_owned()
}

/// From the one node that everything began on to three, and back to the one that came last.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_grows_to_three_and_back_to_one() {
    let options = Options { nodes: 3, witnesses: 2, ..Options::default() };
    let cluster = Cluster::prepare("one_node_grows_to_three_and_back_to_one", &options);
    let cluster = &cluster;
    // The first node knows of itself only, and its file stays like that.
    let alone = Options { nodes: 1, ..options.clone() };
    let host = cluster.nodes[0].host.clone();
    let text = crate::support::text(0, &[host], &Options { witnesses: 0, ..alone });
    crate::support::put(&cluster.nodes[0].config(), &text, 0o644);
    for node in &cluster.nodes[1..] {
        std::fs::remove_file(node.config()).unwrap();
    }
    let (n1, n2, n3) = (&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]);
    n1.start();
    cluster.healed().await;
    cluster.prepare_database().await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(30).await;
    until_voters(cluster, "there is one voter", &[(1, "n1")]).await;
    refused(&cluster.hactl(&["node", "remove", "n1", "--yes"]).await, "node.no-members");
    refused(&cluster.hactl(&["node", "remove", "n9", "--yes"]).await, "node.exists");

    eprintln!("-- the second: one change at a time, and nothing is lost when it is cut short");
    let file = add(cluster, n2, "controller").await;
    let other = ["node", "add", "n3", "--address", "127.0.0.1:1", "--out", "/dev/null/x"];
    let secret = cluster.dir().join("secret");
    let other = [&other[..], &["--secret-file", secret.to_str().unwrap()]].concat();
    refused(&cluster.hactl(&other).await, "node.one-change");
    must_join(cluster, n2, &file, &[]).await;
    // The daemon that leads is gone in the middle of it; the change goes on after its restart.
    n1.kill_daemon().await;
    n1.start();
    until_voters(cluster, "the second votes", &[(1, "n1"), (2, "n2")]).await;
    cluster.rows_flow(30).await;

    eprintln!("-- the third");
    let file = add(cluster, n3, "controller").await;
    must_join(cluster, n3, &file, &[]).await;
    until_voters(cluster, "the third votes", &[(1, "n1"), (2, "n2"), (3, "n3")]).await;
    let versions = nodes(cluster).await;
    assert!(versions.iter().all(|n| n["version"] == env!("CARGO_PKG_VERSION")), "{versions:?}");
    cluster.rows_flow(30).await;

    eprintln!("-- all daemons restart: the first finds the others, though its file names none");
    for node in &cluster.nodes {
        node.kill_daemon().await;
    }
    for node in &cluster.nodes {
        node.start();
    }
    until_voters(cluster, "they are three", &[(1, "n1"), (2, "n2"), (3, "n3")]).await;
    cluster.rows_flow(30).await;

    eprintln!("-- a wiped store does not vote again, whatever the file says");
    n2.kill_daemon().await;
    std::fs::rename(n2.state_dir().join("raft"), n2.state_dir().join("raft.gone")).unwrap();
    n2.start();
    until("it is refused", HEAL, || async {
        log(n2).contains("its disk was wiped or replaced").then_some(())
    })
    .await;
    n2.wait_end(HEAL).await;
    // The third is alive, the second is not: without the third there would be no majority.
    until("the dead one is noticed", HEAL, || async {
        let answer = cluster.hactl(&["node", "remove", "n3", "--yes"]).await;
        answer.stderr.contains("node.majority").then_some(())
    })
    .await;
    must(&cluster.hactl(&["node", "remove", "n2", "--yes"]).await);
    until_voters(cluster, "two are left", &[(1, "n1"), (3, "n3")]).await;
    cluster.rows_flow(30).await;

    eprintln!("-- the leader goes: it hands over first, and ends for good");
    let leader = cluster.raft_leader().await;
    eprintln!("   {} leads", leader.name);
    must(&cluster.hactl(&["node", "remove", "n3", "--yes"]).await);
    until_voters(cluster, "one is left", &[(1, "n1")]).await;
    let said = "was removed from the control plane";
    until("it says so", HEAL, || async { log(n3).contains(said).then_some(()) }).await;
    n3.wait_end(HEAL).await;
    let before = log(n3).len();
    n3.start();
    n3.wait_end(HEAL).await;
    assert!(log(n3)[before..].contains(said), "{}", &log(n3)[before..]);
    cluster.rows_flow(30).await;
    // Nor does the host come back by its old join file, as long as its store is there.
    std::fs::remove_file(n3.config()).unwrap();
    let again = join(cluster, n3, &file, &[]).await;
    let errors = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && errors.contains("holds a Raft store"), "{errors}");
    cluster.judge(writers, since).await;
}

/// A node dies for good; another machine takes its name, under a new identity.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced() {
    let cluster = Cluster::start("a_dead_node_is_replaced", &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(30).await;
    let lost = cluster.standbys().await[0];
    let id = lost.index as u64 + 1;
    let refusal = cluster.hactl(&["node", "remove", &lost.name, "--yes"]).await;
    refused(&refusal, "node.no-members");
    assert!(refusal.stderr.contains(&format!("main/{}", lost.member)), "{refusal:?}");
    let refusal = cluster.hactl(&["node", "remove", &lost.name, "--yes", "--force"]).await;
    refused(&refusal, "node.force-dead-only");

    lost.kill_everything().await;
    let old = std::fs::read_to_string(lost.config()).unwrap();
    std::fs::remove_file(lost.config()).unwrap();
    std::fs::remove_dir_all(lost.state_dir()).unwrap();
    let remove = ["node", "remove", &lost.name, "--yes", "--force"];
    until("it counts as dead", HEAL, || async {
        let answer = cluster.hactl(&remove).await;
        (answer.code == 0).then_some(())
    })
    .await;
    cluster.rows_flow(30).await;

    let file = add(cluster, lost, "controller,agent").await;
    let sections = cluster.dir().join("sections.toml");
    let from = old.find("[[cluster]]").unwrap();
    // The section of times is the control plane's, and comes with the join file.
    std::fs::write(&sections, &old[from..]).unwrap();
    must_join(cluster, lost, &file, &["--with", sections.to_str().unwrap()]).await;
    let mut wanted: Vec<(u64, &str)> = cluster
        .nodes
        .iter()
        .filter(|n| n.index != lost.index)
        .map(|n| (n.index as u64 + 1, n.name.as_str()))
        .collect();
    wanted.push((4, &lost.name));
    until_voters(cluster, "the new one votes", &wanted).await;
    assert!(wanted.iter().all(|(i, _)| *i != id), "the old identity is gone");
    cluster.rows_flow(30).await;

    eprintln!("-- it counts: the control plane survives the loss of another");
    cluster.healed().await;
    let leader = cluster.raft_leader().await;
    leader.terminate_daemon().await;
    until("another leads", SOON, || async {
        let leader_now = cluster.status().await.filter(|s| s.is_leaders())?.raft_leader()?;
        (leader_now != leader.name).then_some(())
    })
    .await;
    leader.start();
    let told = lost.state_dir().join("controllers.toml");
    until("it has heard of all", HEAL, || async {
        let text = std::fs::read_to_string(&told).ok()?;
        (text.matches("[[controller]]").count() == 3 && text.contains("id = 4")).then_some(())
    })
    .await;
    cluster.judge(writers, since).await;
    let happened = cluster.hactl(&["node", "history"]).await;
    assert!(happened.stdout.contains("votes from now on"), "{happened:?}");
}

/// A controller is removed whose file has a member: its hanode goes on for the member, also after a
/// restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_controller_goes_on_for_its_members() {
    let name = "a_removed_controller_goes_on_for_its_members";
    let cluster = Cluster::start(name, &Options::default()).await;
    let cluster = &cluster;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    cluster.rows_flow(30).await;
    cluster.healed().await;
    let node = cluster.standbys().await[0];
    must(&cluster.hactl(&["member", "remove", "-y", &node.member]).await);
    must(&cluster.hactl(&["node", "remove", &node.name, "--yes"]).await);
    let said = "this node's controller never takes part again";
    until("it says so", HEAL, || async { log(node).contains(said).then_some(()) }).await;
    let before = log(node).len();
    node.kill_everything().await;
    node.start();
    until("it says so again", HEAL, || async { log(node)[before..].contains(said).then_some(()) })
        .await;
    must(&cluster.hactl(&["member", "add", "main", &node.member]).await);
    cluster.healed().await;
    cluster.rows_flow(30).await;
    cluster.judge(writers, since).await;
}
