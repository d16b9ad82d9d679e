//! A tree dies with its guard, and the guard with its deadline, whoever is stopped or dead.

use std::time::Duration;

use quorate::clock::boot_now;
use quorate::guard::{Error, Refusal, TreeState};

use super::harness::{Running, SOON, Scene, is_alive, send, stop, tree_is, until};

#[tokio::test]
async fn death_of_the_guard_ends_every_process() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    send(tree.guard_pid, libc::SIGKILL);
    tree.assert_empties().await;
    tree_is(&tree.client, |tree| *tree == TreeState::Lost).await;
    assert!(matches!(tree.client.status().await, Err(Error::Lost)));
}

#[tokio::test]
async fn the_deadline_ends_every_process_whoever_is_stopped() {
    for (stop_guard, stop_init) in [(false, false), (true, false), (false, true), (true, true)] {
        let scene = Scene::new();
        let tree = Running::new(&scene).await;
        let deadline = boot_now().plus(Duration::from_secs(1));
        assert_eq!(tree.client.arm(deadline).await.expect("arm"), deadline);
        if stop_guard {
            stop(tree.guard_pid).await;
        }
        if stop_init {
            stop(tree.init_pid).await;
        }
        tree.assert_empties().await;
        assert!(boot_now() >= deadline, "it died before its deadline");
        assert!(!is_alive(tree.guard_pid, tree.guard_start));
    }
}

#[tokio::test]
async fn a_client_that_left_changes_nothing_about_the_deadline() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    tree.client.arm(boot_now().plus(Duration::from_millis(500))).await.expect("arm");
    let (init_pid, members) = (tree.init_pid, tree.members.clone());
    drop(tree);
    until("the tree dies", || {
        let left = super::harness::left_of(&members);
        left.iter().all(|pid| *pid == init_pid).then_some(())
    })
    .await;
    until("the init dies", || (!is_alive(init_pid, members[&init_pid])).then_some(())).await;
}

#[tokio::test]
async fn renewals_keep_the_tree_alive() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    let ttl = Duration::from_millis(1500);
    let first = tree.client.arm(boot_now().plus(ttl)).await.expect("arm");
    while boot_now() < first.plus(Duration::from_millis(500)) {
        let deadline = boot_now().plus(ttl);
        assert_eq!(tree.client.arm(deadline).await.expect("renewal"), deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = tree.client.status().await.expect("status");
    assert_eq!(status.tree, TreeState::Running);
    assert!(status.deadline.expect("armed") > first);
    tree.assert_empties().await;
}

#[tokio::test]
async fn a_deadline_moves_forward_only() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    let now = boot_now();
    let far = now.plus(Duration::from_secs(600));
    let refused = |answer| match answer {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(tree.client.arm(now).await), Refusal::DeadlinePassed);
    let too_far = now.plus(Duration::from_secs(4000));
    assert_eq!(refused(tree.client.arm(too_far).await), Refusal::DeadlineTooFar);
    assert_eq!(tree.client.status().await.expect("status").deadline, None);
    tree.client.arm(far).await.expect("arm");
    let earlier = now.plus(Duration::from_secs(300));
    let backwards = Refusal::DeadlineBackwards { in_force: far };
    assert_eq!(refused(tree.client.arm(earlier).await), backwards);
    assert_eq!(tree.client.status().await.expect("status").deadline, Some(far));
    // Only the end of the tree disarms, and nothing is armed after it.
    tree.client.kill().await.expect("kill");
    tree.assert_empties().await;
    tree_is(&tree.client, |tree| matches!(tree, TreeState::Empty(_))).await;
    assert_eq!(tree.client.status().await.expect("status").deadline, None);
    let later = now.plus(Duration::from_secs(900));
    assert_eq!(refused(tree.client.arm(later).await), Refusal::TreeEnded);
}

#[tokio::test]
async fn an_ended_tree_disarms_so_that_its_exit_status_stays() {
    let scene = Scene::new();
    let client = scene.spawn().await;
    client.start(&scene.sh("sleep 0.1; exit 3")).await.expect("start");
    let deadline = client.arm(boot_now().plus(Duration::from_millis(700))).await.expect("arm");
    client.empty(SOON).await.expect("empty");
    until("the deadline passes", || {
        (boot_now() > deadline.plus(Duration::from_millis(100))).then_some(())
    })
    .await;
    let tree = client.status().await.expect("the guard lives").tree;
    assert_eq!(tree, TreeState::Empty(Some(quorate::guard::Exit::Code(3))));
}

/// Prints how long the kernel takes from the guard's death to the empty namespace.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_time_to_empty() {
    let mut micros = Vec::new();
    let mut arm_micros = Vec::new();
    for _ in 0..20 {
        let scene = Scene::new();
        let script = "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait";
        let tree = Running::with(scene.spawn().await, &scene.sh(script), 102).await;
        for _ in 0..50 {
            let start = boot_now();
            tree.client.arm(start.plus(Duration::from_secs(60))).await.expect("arm");
            arm_micros.push(boot_now().since(start).as_micros());
        }
        let start = boot_now();
        send(tree.guard_pid, libc::SIGKILL);
        tree.client.empty(SOON).await.expect("empty");
        micros.push(boot_now().since(start).as_micros());
        tree.assert_empties().await;
    }
    micros.sort_unstable();
    arm_micros.sort_unstable();
    let at = |v: &[u128], percent: usize| v[(v.len() - 1) * percent / 100];
    println!(
        "102 processes, SIGKILL of the guard to empty, us: p50 {} max {}; arm round trip, us: \
         p50 {} p99 {} max {}",
        at(&micros, 50),
        at(&micros, 100),
        at(&arm_micros, 50),
        at(&arm_micros, 99),
        at(&arm_micros, 100)
    );
}
