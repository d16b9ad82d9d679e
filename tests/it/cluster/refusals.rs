//! What a daemon refuses before it touches anything.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::support::{Cluster, Node, Options, until_seen};

/// Runs the daemon of a node that must not start; returns what it said.
async fn refused(node: &Node) -> String {
    let before = fs::read(node.log()).unwrap_or_default().len();
    node.start();
    let what = format!("{} refuses to start", node.name);
    let status = until_seen(&what, Duration::from_secs(20), || node.ended()).await;
    let log = fs::read(node.log()).unwrap_or_default();
    let said = String::from_utf8_lossy(&log[before..]).into_owned();
    assert!(!status.success(), "{status}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_does_not_start() {
    let options = Options { prepared: false, ..Options::default() };
    let cluster = Cluster::prepare("a_daemon_does_not_start", &options);
    let node = &cluster.nodes[0];
    let good = fs::read_to_string(node.config()).expect("a configuration");

    // From, to, and what has to be said.
    let table: &[(&str, &str, &[&str])] = &[
        (
            "control_plane = \"test\"",
            "control_plan = \"test\"",
            &["control_plan:", "not a known key"],
        ),
        ("[raft]", "[raftt]", &["raftt"]),
        ("name = \"n2\"", "name = \"n1\"", &["controller[#2].name"]),
        ("id = 2", "id = 1", &["controller[#2].id"]),
        ("node_id = 1", "node_id = 9", &["raft.node_id"]),
        ("name = \"a\"\naddress", "name = \"a b\"\naddress", &["name"]),
        ("shared_buffers = \"16MB\"", "restart_after_crash = \"on\"", &["restart_after_crash"]),
        ("data_dir = \"n1/main\"", "data_dir = \"n1\"", &["member[#1].data_dir"]),
        ("secret_file = \"secret\"", "secret_file = \"none\"", &["secret_file", "opened"]),
        ("[[cluster]]", "[[cluster]\n", &["line"]),
        (":17400\"\ndata_dir", ":17400x\"\ndata_dir", &["node.listen"]),
        ("[raft]\n", "[timing]\nttl_ms = 100\n[raft]\n", &["ttl_ms"]),
    ];
    let mut wrong = Vec::new();
    for (from, to, said) in table {
        assert!(good.contains(from), "{from}");
        fs::write(node.config(), good.replacen(from, to, 1)).expect("written");
        let answer = refused(node).await;
        let missing: Vec<&&str> = said.iter().filter(|word| !answer.contains(**word)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{from} -> {to}: {missing:?} is missing in {answer}"));
        }
        let config = node.config();
        let mut check = node.hanode(&["check", "--config", config.to_str().expect("UTF-8")]);
        let output = check.output().expect("hanode check");
        assert!(!output.status.success(), "hanode check accepts {to}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fs::write(node.config(), &good).expect("written");

    let secret = cluster.dir().join("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("chmod");
    let answer = refused(node).await;
    assert!(answer.contains("0644") && answer.contains("chmod 0600"), "{answer}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");

    let taken = TcpListener::bind(node.api()).expect("the port is free");
    let answer = refused(node).await;
    assert!(answer.contains(&node.api()) && answer.contains("in use"), "{answer}");
    drop(taken);

    // A second daemon on the directory of the first, with another port: the lock says who runs.
    node.start();
    let lock = node.state_dir().join("hanode.pid");
    let pid = node.daemon().pid().to_string();
    until_seen("the first one runs", Duration::from_secs(20), || {
        fs::read_to_string(&lock).ok().filter(|text| text.trim() == pid)
    })
    .await;
    let second = &cluster.nodes[1];
    fs::write(second.config(), &good).expect("written");
    let answer = refused(second).await;
    assert!(
        answer.contains("another hanode, or a tool, works") && answer.contains(&pid),
        "{answer}"
    );
    assert!(node.daemon().is_alive());
}

/// A member of another name in the same place, and two nodes that claim one member.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_not_two() {
    let cluster = Cluster::start("a_member_is_not_two", &Options::default()).await;
    let before = cluster.healed().await;
    let third = cluster.standbys().await[1];
    let other = cluster.standbys().await[0];
    let good = fs::read_to_string(third.config()).expect("a configuration");
    third.stop().await;

    eprintln!("-- a member that is another node's");
    let claim = format!("cluster = \"main\"\nname = \"{}\"", third.member);
    assert!(good.contains(&claim));
    let text = good
        .replace(&claim, &format!("cluster = \"main\"\nname = \"{}\"", other.member))
        .replace(&format!("\"{}/main\"", third.name), &format!("\"{}/other\"", third.name));
    fs::write(third.config(), text).expect("written");
    third.start();
    crate::support::until("the refusal is logged", crate::support::SOON, || async {
        let log = fs::read_to_string(third.log()).ok()?;
        log.contains("registration refused").then_some(())
    })
    .await;
    let status = cluster.leaders_status().await;
    let member = status.member(&other.member).expect("it is listed");
    assert!(member.streaming && member.role == "standby", "the true one goes on: {member:?}");
    third.stop().await;
    fs::write(third.config(), good).expect("written");
    third.start();
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch());
}
