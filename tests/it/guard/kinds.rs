//! The fence on systems that permit less: user namespaces, cgroups, nothing at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate::clock::boot_now;
use quorate::guard::{
    Error, Exit, FencingKind, GuardClient, Proof, Refusal, StartSpec, TreeState, prove_empty,
};

use super::harness::{
    Running, SOON, Scene, is_alive, left_of, pids, process, send, stop, tree_is, until,
};

fn user_namespace(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/user")).expect("a process")
}

#[tokio::test]
async fn an_ordinary_user_is_fenced_by_a_user_namespace() {
    for both_stopped in [false, true] {
        let scene = Scene::new();
        let postgres = scene.give_to("postgres");
        let wrapper = scene.wrapper(
            "exec /usr/bin/setpriv --reuid=postgres --regid=postgres --init-groups HANODE",
        );
        let client = scene.spawn_by(&wrapper).await;
        let mut spec = scene.stubborn();
        // Asking for the user that one is already is no offence.
        spec.credentials = Some(postgres.clone());
        let tree = Running::with(client, &spec, 6).await;
        let status = tree.client.status().await.expect("status");
        assert_eq!(status.fencing, Some(FencingKind::PidNamespace));
        assert_ne!(user_namespace(tree.init_pid), user_namespace(tree.guard_pid));
        let facts = fs::read_to_string(format!("/proc/{}/status", tree.init_pid)).expect("status");
        let uid = format!("Uid:\t{0}\t{0}\t{0}\t{0}", postgres.uid);
        assert!(facts.contains(&uid), "same user inside: {facts}");
        let own_ipc = fs::read_link("/proc/self/ns/ipc").expect("own namespace");
        let ipc = fs::read_link(format!("/proc/{}/ns/ipc", tree.init_pid)).expect("namespace");
        assert_eq!(ipc, own_ipc, "the interlock needs a shared IPC namespace");
        if both_stopped {
            tree.client.arm(boot_now().plus(Duration::from_millis(700))).await.expect("arm");
            stop(tree.guard_pid).await;
            stop(tree.init_pid).await;
        } else {
            send(tree.guard_pid, libc::SIGKILL);
        }
        tree.assert_empties().await;
    }
}

#[tokio::test]
async fn root_without_sys_admin_changes_user_in_a_user_namespace() {
    let scene = Scene::new();
    let postgres = scene.give_to("postgres");
    let wrapper = scene.wrapper("exec /usr/bin/setpriv --bounding-set=-sys_admin HANODE");
    let mut spec = scene.stubborn();
    spec.credentials = Some(postgres.clone());
    let tree = Running::with(scene.spawn_by(&wrapper).await, &spec, 6).await;
    assert_ne!(user_namespace(tree.init_pid), user_namespace(tree.guard_pid));
    let postmaster = tree.client.status().await.expect("status").postmaster_pid.expect("pid");
    let facts = fs::read_to_string(format!("/proc/{postmaster}/status")).expect("status");
    assert!(facts.contains(&format!("Uid:\t{}\t", postgres.uid)), "{facts}");
    send(tree.guard_pid, libc::SIGKILL);
    tree.assert_empties().await;
}

/// A guard where no PID namespace can be made, and all else as usual.
async fn spawn_without_namespaces(scene: &Scene) -> GuardClient {
    let limit = "echo 0 > /proc/sys/user/max_pid_namespaces";
    let wrapper = scene.wrapper(&format!(
        "[ -n \"$INSIDE\" ] || INSIDE=1 exec /usr/bin/unshare --user --map-root-user \"$0\" \"$@\"\n\
         {limit}\nexec HANODE"
    ));
    scene.spawn_by(&wrapper).await
}

#[tokio::test]
async fn without_a_fence_a_start_is_refused_unless_accepted() {
    let scene = Scene::new();
    let client = spawn_without_namespaces(&scene).await;
    let no_fencing =
        Refusal::NoFencing { pid_namespace: libc::ENOSPC, user_namespace: libc::ENOSPC, cgroup: 0 };
    let spec = scene.sh("exit 4");
    match client.start(&spec).await {
        Err(Error::Refused(refusal)) => assert_eq!(refusal, no_fencing),
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(client.status().await.expect("status").tree, TreeState::Idle);
    let spec = StartSpec { best_effort: true, ..spec };
    let status = client.start(&spec).await.expect("start");
    assert_eq!(status.fencing, Some(FencingKind::BestEffort));
    client.empty(SOON).await.expect("the guard lives and knows");
    tree_is(&client, |tree| *tree == TreeState::Empty(Some(Exit::Code(4)))).await;
}

/// Starts a tree outside of any namespace; returns its processes, found by a mark.
async fn start_marked(client: &GuardClient, spec: &StartSpec, count: usize) -> BTreeMap<i32, u64> {
    let mut spec = spec.clone();
    let mark = format!("MARK={}", client.guard_id());
    let (name, value) = mark.split_once('=').expect("a mark");
    spec.env.push((name.into(), value.into()));
    client.start(&spec).await.expect("start");
    let is_marked = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|b| *b == 0).any(|entry| entry == mark.as_bytes())
    };
    until("the whole tree is there", || {
        let found = pids().filter(is_marked);
        let found: BTreeMap<i32, u64> =
            found.filter_map(|pid| Some((pid, process(pid)?.1))).collect();
        (found.len() >= count).then_some(found)
    })
    .await
}

fn alive_of(members: &BTreeMap<i32, u64>) -> Vec<i32> {
    let mut left = left_of(members);
    left.retain(|pid| is_alive(*pid, members[pid]));
    left
}

#[tokio::test]
async fn best_effort_kills_all_on_request_and_the_postmaster_when_the_guard_dies() {
    let only = Some(FencingKind::BestEffort);
    let scene = Scene::new();
    let spec = StartSpec { only, best_effort: true, ..scene.stubborn() };
    let client = scene.spawn().await;
    let members = start_marked(&client, &spec, 5).await;
    client.kill().await.expect("kill");
    client.empty(SOON).await.expect("the guard lives and knows");
    assert_eq!(alive_of(&members), Vec::<i32>::new());

    let scene = Scene::new();
    let spec = StartSpec { only, best_effort: true, ..scene.stubborn() };
    let client = scene.spawn().await;
    let members = start_marked(&client, &spec, 5).await;
    let status = client.status().await.expect("status");
    let postmaster = status.postmaster_pid.expect("pid");
    send(status.guard_pid, libc::SIGKILL);
    until("the postmaster dies", || (!is_alive(postmaster, members[&postmaster])).then_some(()))
        .await;
    assert!(matches!(client.empty(SOON).await, Err(Error::NoProof)));
    let proof = prove_empty(&scene.run_dir(), false, SOON).await.expect("those on record ended");
    assert_eq!(proof, Proof::Assumed);
    // That is what best effort means: others went on. They are ours to end.
    for pid in alive_of(&members) {
        send(pid, libc::SIGKILL);
    }
}

/// A fresh cgroup v2, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// `None` where this machine has no cgroup v2 that this user may use.
    fn new(name: &str) -> Option<Group> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
        let dir = Path::new(mount.split(' ').nth(1)?);
        let dir = dir.join(format!("quorate-test-{name}-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        dir.join("cgroup.kill").exists().then_some(Group(dir))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn in_cgroup(scene: &Scene, group: &Group) -> StartSpec {
    let only = Some(FencingKind::Cgroup);
    StartSpec { only, cgroup: Some(group.0.clone()), ..scene.stubborn() }
}

#[tokio::test]
async fn a_cgroup_is_killed_when_the_guard_dies() {
    let Some(group) = Group::new("death") else {
        return eprintln!("skipped: no usable cgroup v2");
    };
    for by_deadline in [false, true] {
        let scene = Scene::new();
        let client = scene.spawn().await;
        let members = start_marked(&client, &in_cgroup(&scene, &group), 5).await;
        let guard_pid = client.status().await.expect("status").guard_pid;
        if by_deadline {
            client.arm(boot_now().plus(Duration::from_millis(500))).await.expect("arm");
            stop(guard_pid).await;
        } else {
            send(guard_pid, libc::SIGKILL);
        }
        client.empty(SOON).await.expect("proof of emptiness");
        assert_eq!(alive_of(&members), Vec::<i32>::new());
        let proof = prove_empty(&scene.run_dir(), false, SOON).await.expect("proof");
        assert_eq!(proof, Proof::Empty);
    }
}

#[tokio::test]
async fn a_cgroup_is_killed_with_its_postmaster_its_watcher_or_on_request() {
    let Some(group) = Group::new("end") else {
        return eprintln!("skipped: no usable cgroup v2");
    };
    for end in ["postmaster", "watcher", "request"] {
        let scene = Scene::new();
        let client = scene.spawn().await;
        let members = start_marked(&client, &in_cgroup(&scene, &group), 5).await;
        let status = client.status().await.expect("status");
        match end {
            "postmaster" => client.signal(libc::SIGKILL).await.expect("signal"),
            "watcher" => {
                let is_watcher = |pid: &i32| {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    stat.contains("(quorate-watch)")
                        && stat.split(' ').nth(3) == Some(&status.guard_pid.to_string())
                };
                send(pids().find(is_watcher).expect("a watcher"), libc::SIGKILL);
            }
            _ => client.kill().await.expect("kill"),
        }
        client.empty(SOON).await.expect("empty");
        assert_eq!(alive_of(&members), Vec::<i32>::new(), "{end}");
        tree_is(&client, |tree| matches!(tree, TreeState::Empty(_))).await;
        client.exit().await.expect("exit");
    }
}

#[tokio::test]
async fn a_cgroup_with_somebody_elses_processes_is_refused() {
    let Some(group) = Group::new("busy") else {
        return eprintln!("skipped: no usable cgroup v2");
    };
    let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    fs::write(group.0.join("cgroup.procs"), sleep.id().to_string()).expect("enter");
    let scene = Scene::new();
    let client = scene.spawn().await;
    let answer = client.start(&in_cgroup(&scene, &group)).await;
    sleep.kill().expect("kill");
    sleep.wait().expect("wait");
    let busy = Refusal::NoFencing { pid_namespace: 0, user_namespace: 0, cgroup: libc::EBUSY };
    assert!(matches!(answer, Err(Error::Refused(refusal)) if refusal == busy), "{answer:?}");
}
