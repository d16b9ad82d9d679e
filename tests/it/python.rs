//! Clients in another language: the examples in examples/python against real nodes.

#![allow(clippy::disallowed_methods)] // tests run on tokio, over real sockets

use std::path::Path;
use std::process::Command;

use crate::support::{Cluster, Options};

/// Runs an example against a node: exit code, standard output, standard error.
async fn example(endpoint: &str, args: &str) -> (Option<i32>, String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (script, args) = args.split_once(' ').expect("a verb");
    let mut command = Command::new(root.join("scripts/python.sh"));
    command.arg(root.join("examples/python").join(script));
    command.args(["--endpoint", endpoint]).args(args.split(' '));
    // The checkout is not written to.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let run = tokio::task::spawn_blocking(move || command.output().expect("python.sh"));
    let output = run.await.expect("no panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_examples_show_watch_and_switch_over() {
    let cluster = Cluster::start("python", &Options::default()).await;
    let primary = cluster.primary().await.member.clone();
    let leader = cluster.raft_leader().await.name.clone();
    // One that has to send them on.
    let follower = cluster.nodes.iter().find(|n| n.name != leader).expect("a follower").api();

    eprintln!("-- stubs that are generated from proto/");
    let (code, out, err) = example(&follower, "stubs.py status").await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains(&format!("primary {primary}")), "{out}");
    assert_eq!(out.matches(" standby ").count(), 2, "{out}");
    let (code, out, err) = example(&follower, "stubs.py watch --count 2").await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.starts_with("change\nmain: epoch"), "{out}");
    let (code, out, err) = example(&follower, "stubs.py switchover main").await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("nothing stands against it"), "{out}");
    let (code, out, _) =
        example(&follower, &format!("stubs.py switchover main --to {primary}")).await;
    assert!(code == Some(1) && out.contains("rule switchover."), "{out}");
    let (code, _, err) = example(&follower, "stubs.py switchover nope").await;
    assert!(code == Some(1) && err.contains("NOT_FOUND"), "{err}");

    eprintln!("-- reflection alone");
    let (code, out, err) = example(&follower, "reflection.py services").await;
    assert_eq!(code, Some(0), "{out}{err}");
    for part in ["quorate.v1.ControlPlane", "Switchover(SwitchoverRequest)", "-> stream of "] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out, err) = example(&follower, "reflection.py status").await;
    assert_eq!(code, Some(0), "{out}{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answer["status"]["clusters"][0]["primary"], primary.as_str(), "{out}");
    let (code, out, err) = example(&follower, "reflection.py watch --count 1").await;
    assert!(code == Some(0) && out.contains("\"from_leader\": true"), "{out}{err}");
    let (code, out, err) = example(&follower, "reflection.py switchover main").await;
    assert!(code == Some(0) && out.contains("\"target\""), "{out}{err}");
    assert_eq!(cluster.primary().await.member, primary, "until here nothing was changed");

    eprintln!("-- and one that is done");
    let (code, out, err) = example(&follower, "stubs.py switchover main --really").await;
    assert!(code == Some(0) && out.contains("is primary"), "{out}{err}");
    assert_ne!(cluster.primary().await.member, primary);
}
