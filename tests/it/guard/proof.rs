//! What can be proven about the tree of a guard that is gone.

use std::time::Duration;

use quorate::guard::{Proof, ProofError, RECORD_FILE, prove_empty};

use super::harness::{Running, SOON, Scene, is_alive, process, send};

/// Long enough to look, too short to wait for anything.
const NOW: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_directory_without_a_record_never_ran_and_a_broken_record_is_no_proof() {
    let scene = Scene::new();
    let proof = prove_empty(&scene.run_dir(), true, NOW).await.expect("proof");
    assert_eq!(proof, Proof::NeverRan);
    for broken in ["", "{", "{}", "[1]"] {
        std::fs::write(scene.run_dir().join(RECORD_FILE), broken).expect("write");
        let proof = prove_empty(&scene.run_dir(), true, NOW).await;
        assert!(matches!(proof, Err(ProofError::Io { .. })), "{broken}: {proof:?}");
    }
}

#[tokio::test]
async fn an_idle_guard_could_still_start() {
    let scene = Scene::new();
    let client = scene.spawn().await;
    let pid = client.status().await.expect("status").guard_pid;
    let start = process(pid).expect("a guard").1;
    let proof = prove_empty(&scene.run_dir(), false, NOW).await;
    assert!(matches!(proof, Err(ProofError::GuardAlive { pid: p }) if p == pid), "{proof:?}");
    assert!(is_alive(pid, start));
    let proof = prove_empty(&scene.run_dir(), true, SOON).await.expect("proof");
    assert_eq!(proof, Proof::NeverRan);
    assert!(!is_alive(pid, start));
    assert!(scene.attach().await.is_none());
}

#[tokio::test]
async fn a_living_tree_is_not_empty_and_is_killed_only_on_demand() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    let proof = prove_empty(&scene.run_dir(), false, NOW).await;
    assert!(
        matches!(proof, Err(ProofError::TreeAlive { pid }) if pid == tree.init_pid),
        "{proof:?}"
    );
    assert!(is_alive(tree.guard_pid, tree.guard_start));
    let proof = prove_empty(&scene.run_dir(), true, SOON).await.expect("proof");
    assert_eq!(proof, Proof::Empty);
    assert!(!is_alive(tree.guard_pid, tree.guard_start));
    tree.assert_empties().await;
}

#[tokio::test]
async fn the_end_of_a_dying_tree_is_waited_for() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    send(tree.guard_pid, libc::SIGKILL);
    let proof = prove_empty(&scene.run_dir(), false, SOON).await.expect("proof");
    assert_eq!(proof, Proof::Empty);
    tree.assert_empties().await;
    // Then the directory serves again.
    let next = scene.spawn().await;
    assert_ne!(next.guard_id(), tree.client.guard_id());
}

#[tokio::test]
async fn an_ended_tree_is_empty_though_its_guard_lives() {
    let scene = Scene::new();
    let client = scene.spawn().await;
    client.start(&scene.sh("exit 0")).await.expect("start");
    client.empty(SOON).await.expect("empty");
    let proof = prove_empty(&scene.run_dir(), false, NOW).await.expect("proof");
    assert_eq!(proof, Proof::Empty);
    client.status().await.expect("the guard lives");
}

#[tokio::test]
async fn other_processes_with_the_recorded_numbers_are_left_alone() {
    let scene = Scene::new();
    let client = scene.spawn().await;
    client.start(&scene.sh("exit 0")).await.expect("start");
    client.empty(SOON).await.expect("empty");
    let guard_pid = client.status().await.expect("status").guard_pid;
    let guard_start = process(guard_pid).expect("a guard").1;
    let honest = scene.record().expect("a record");
    let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    let pid = i32::try_from(sleep.id()).expect("a pid");
    let start = process(pid).expect("sleep").1;

    // The numbers are in use again: by processes that started later.
    let mut record = honest.clone();
    for who in ["guard", "init"] {
        record[format!("{who}_pid")] = pid.into();
        record[format!("{who}_starttime")] = (start - 1).into();
    }
    scene.write_record(&record);
    let proof = prove_empty(&scene.run_dir(), true, NOW).await.expect("proof");
    assert_eq!(proof, Proof::Empty);

    // Numbers that no process can have prove nothing.
    for (field, value) in [
        ("init_pid", (-1).into()),
        ("guard_pid", 0.into()),
        ("init_starttime", serde_json::Value::Null),
    ] {
        let mut broken = record.clone();
        broken[field] = value;
        scene.write_record(&broken);
        let proof = prove_empty(&scene.run_dir(), true, NOW).await;
        assert!(matches!(proof, Err(ProofError::Io { .. })), "{field}: {proof:?}");
    }

    // The record is of another boot: all numbers mean nothing.
    for who in ["guard", "init"] {
        record[format!("{who}_starttime")] = start.into();
    }
    record["boot_id"] = "00000000-0000-0000-0000-000000000000".into();
    scene.write_record(&record);
    let proof = prove_empty(&scene.run_dir(), true, NOW).await.expect("proof");
    assert_eq!(proof, Proof::Empty);
    record["init_pid"] = serde_json::Value::Null;
    record["init_starttime"] = serde_json::Value::Null;
    scene.write_record(&record);
    let proof = prove_empty(&scene.run_dir(), true, NOW).await.expect("proof");
    assert_eq!(proof, Proof::NeverRan);

    // The record is of another PID namespace: only the lock can be asked.
    record = honest.clone();
    record["pid_namespace"] = "pid:[1]".into();
    scene.write_record(&record);
    let proof = prove_empty(&scene.run_dir(), true, NOW).await;
    assert!(matches!(proof, Err(ProofError::Locked { .. })), "{proof:?}");
    scene.write_record(&honest);
    prove_empty(&scene.run_dir(), true, SOON).await.expect("kills the guard");
    assert!(!is_alive(guard_pid, guard_start));
    scene.write_record(&record);
    let proof = prove_empty(&scene.run_dir(), true, NOW).await.expect("the lock is free");
    assert_eq!(proof, Proof::Assumed);

    assert!(is_alive(pid, start), "nothing of all that touched the other process");
    sleep.kill().expect("kill");
    sleep.wait().expect("wait");
}
