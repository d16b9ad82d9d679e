//! `hactl` as a process: usage, configuration, what it says when nobody answers, and what it makes
//! of the answers of a fake node.

#![allow(clippy::disallowed_methods)] // tests run on tokio, over real sockets

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::fake_node::{Fake, Served, member};
use quorate::domain::state::{FinishedOperation, Outcome};
use quorate::domain::types::WallMillis;

/// `hactl` with a clean environment; standard input is no terminal.
fn hactl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hactl"));
    command.args(args).stdin(Stdio::null()).env_clear().env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("hactl cannot be run");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

/// A port on which nobody listens.
fn silent_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn version_and_help() {
    let version = format!("hactl {}\n", env!("CARGO_PKG_VERSION"));
    for args in [["version"], ["--version"]] {
        assert_eq!(run(&mut hactl(&args)), (Some(0), version.clone(), String::new()));
    }
    let (code, out, _) = run(&mut hactl(&["--help"]));
    assert_eq!(code, Some(0));
    for part in ["Exit codes:", "switchover", "failover", "HACTL_ENDPOINTS", "NAME"] {
        assert!(out.contains(part), "{part} is not in:\n{out}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let cases: [(&[&str], &str); 7] = [
        (&["nonsense"], "unrecognized subcommand"),
        (&["status", "--timeout", "1h"], "ms, s or m"),
        (&["history", "-n", "0"], "1..=400"),
        (&["ps"], "--run-dir"),
        (&["status", "-e", "http://a:1"], "is not an endpoint"),
        (&["switchover", "--to", "b"], "give --yes"),
        (&["failover"], "give --yes"),
    ];
    for (args, part) in cases {
        let (code, _, err) = run(&mut hactl(args));
        assert_eq!(code, Some(2), "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}: {err}");
    }
}

#[test]
fn nobody_answers_is_exit_code_3() {
    let (a, b) = (silent_endpoint(), silent_endpoint());
    let both = format!("{a},{b}");
    let commands: [&[&str]; 7] = [
        &["status"],
        &["status", "--watch"],
        &["history"],
        &["explain"],
        &["dsn", "-o", "json"],
        &["switchover", "--yes", "-c", "main"],
        &["failover", "--dry-run", "-c", "main"],
    ];
    for args in commands {
        let (code, out, err) = run(hactl(args).env("HACTL_ENDPOINTS", &both));
        assert_eq!((code, out.as_str()), (Some(3), ""), "{args:?}: {err}");
        assert!(err.contains("none of these endpoints answered"), "{args:?}: {err}");
        assert!(err.contains(&a) && err.contains(&b) && err.contains("refused"), "{err}");
        assert!(err.contains("is hanode running?"), "{err}");
    }
}

#[test]
fn endpoints_come_from_the_file_unless_they_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("quorate/hactl.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let (in_file, given) = (silent_endpoint(), silent_endpoint());
    std::fs::write(&file, format!("endpoints = ['{in_file}']\n")).unwrap();
    let with_file = |args: &[&str]| run(hactl(args).env("XDG_CONFIG_HOME", dir.path()));
    let (code, _, err) = with_file(&["status"]);
    assert!(code == Some(3) && err.contains(&in_file), "{err}");
    let (code, _, err) = with_file(&["status", "-e", &given]);
    assert!(code == Some(3) && err.contains(&given) && !err.contains(&in_file), "{err}");
    std::fs::write(&file, "endpoint = 'a:1'\n").unwrap();
    let (code, _, err) = with_file(&["status"]);
    assert!(code == Some(2) && err.contains("hactl.toml"), "{err}");
}

#[test]
fn a_port_that_is_not_ours_is_no_control_plane() {
    // It takes connections and never says anything.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (code, _, err) = run(&mut hactl(&["status", "-e", &address, "--timeout", "500ms"]));
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains(&address), "{err}");
}

#[test]
fn ps_without_a_guard_lists_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let (code, out, _) = run(&mut hactl(&["ps", "--run-dir", path]));
    assert!(code == Some(0) && out.contains("no process"), "{out}");
    let (code, out, _) = run(&mut hactl(&["ps", "--run-dir", path, "-o", "json"]));
    assert_eq!((code, out.as_str()), (Some(0), "[]\n"));
    std::fs::write(dir.path().join("guard.json"), "{").unwrap();
    let (code, _, err) = run(&mut hactl(&["ps", "--run-dir", path]));
    assert!(code == Some(1) && err.contains("guard.json"), "{err}");
}

/// Runs `hactl` beside the servers, which live in this process.
async fn beside(endpoint: impl ToString, args: &str) -> (Option<i32>, String, String) {
    let endpoint = endpoint.to_string();
    let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    let task = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(hactl(&args).env("HACTL_ENDPOINTS", endpoint))
    });
    task.await.unwrap()
}

#[tokio::test]
async fn exit_codes_say_what_became_of_it() {
    let leader = Served::new(Fake::leader()).await;
    let follower = Served::new(Fake::follower_of(Some(leader.address))).await;
    let cases = [
        ("status", 0, "primary a, lease renewed 0.2 s ago"),
        ("status -c nope", 1, "rule: cluster.exists"),
        ("status -c NOPE", 2, "a letter first"),
        ("explain", 0, "a is primary in epoch 3"),
        ("history -n 2", 0, "a is open for writes"),
        ("dsn", 0, "postgresql://10.0.0.1:5432,10.0.0.2:5432,10.0.0.3:5432/postgres?"),
        ("switchover --dry-run --to b", 0, "b would be promoted"),
        ("switchover --dry-run --to a", 1, "a is the primary already"),
        ("switchover --yes --to a", 1, "rule: switchover.target-is-standby"),
        ("switchover --yes --to A", 2, "rule: request.valid"),
        ("failover --yes", 1, "rule: failover.primary-gone"),
        // It begins, and nobody ends it.
        ("switchover --yes --to b --timeout 2s", 4, "operation 1 has not ended in time"),
        ("switchover --yes --to b", 1, "rule: operation.one-at-a-time"),
    ];
    for (args, code, part) in cases {
        let (got, out, err) = beside(follower.address, args).await;
        assert_eq!(got, Some(code), "{args}: {out}{err}");
        assert!(out.contains(part) || err.contains(part), "{args}: {out}{err}");
    }
    assert_eq!(leader.fake.cluster().next_operation, 2, "it was started once");
}

#[tokio::test]
async fn without_a_leader_what_is_agreed_on_is_shown() {
    let lone = Served::new(Fake::follower_of(None)).await;
    let (code, out, err) = beside(lone.address, "status --timeout 2s").await;
    assert_eq!(code, Some(3), "{err}");
    assert!(out.contains("epoch 3, primary a") && err.contains("there is no leader"), "{out}{err}");
    let (code, _, err) = beside(lone.address, "switchover -c main --yes --timeout 2s").await;
    assert!(code == Some(3) && err.contains("no leader answered in time"), "{err}");
}

#[tokio::test]
async fn a_switchover_is_followed_to_its_end() {
    let leader = Served::new(Fake::leader()).await;
    let fake = leader.fake.clone();
    let mut applied = quorate::api::Source::applied_watch(fake.as_ref());
    let ending = tokio::spawn(async move {
        let begun = applied.wait_for(|s| s.1.clusters.values().any(|c| c.operation.is_some()));
        drop(begun.await.unwrap());
        fake.change(|cluster| {
            let operation = cluster.operation.take().unwrap();
            let at = WallMillis(operation.at.0 + 412);
            let outcome = Outcome::Done { primary: member("b") };
            cluster.finished.push_back(FinishedOperation { operation, outcome, at });
        });
    });
    let (code, out, err) = beside(leader.address, "switchover --yes --to b").await;
    ending.await.unwrap();
    assert_eq!((code, out.as_str()), (Some(0), "done: b is primary, after 412 ms\n"), "{err}");
}

#[tokio::test]
async fn output_for_programs_can_be_read_by_programs() {
    let leader = Served::new(Fake::leader()).await;
    let (code, out, err) = beside(leader.address, "status -o json").await;
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let cluster = &status["clusters"][0];
    assert_eq!((&cluster["primary"], &cluster["phase"]), (&"a".into(), &"running".into()));
    assert_eq!(cluster["members"][1]["role"], "standby");
    assert_eq!(cluster["system_id"], "7300000000000000001");
    let (_, out, _) = beside(leader.address, "status -o yaml").await;
    let same: serde_json::Value = serde_yaml_ng::from_str(&out).unwrap();
    assert_eq!(same["clusters"], status["clusters"]);
    let (code, out, _) = beside(leader.address, "switchover --yes --to a -o json").await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
}
