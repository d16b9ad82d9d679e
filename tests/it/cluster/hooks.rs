//! Programs of the operator, and what an operator sees of a cluster meanwhile: events that are
//! followed over the loss of nodes, and the doctor.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{CLUSTER, Cluster, HEAL, Node, Options, Proc, hactl_bin, until, until_seen};

/// The hooks of every member: one program that writes down what it is told.
struct Hooks {
    dir: tempfile::TempDir,
}

impl Hooks {
    fn new() -> Hooks {
        let dir =
            tempfile::Builder::new().prefix("quo-hooks-").tempdir_in("/tmp").expect("a place");
        let hooks = Hooks { dir };
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
        };
        mode(hooks.dir.path(), 0o755);
        for (name, bits) in [("log", 0o777), ("wish", 0o755)] {
            std::fs::create_dir(hooks.path(name)).expect("mkdir");
            mode(&hooks.path(name), bits);
        }
        let text = format!(
            r#"#!/bin/sh
echo "$QUORATE_HOOK $3 $4" >> {dir}/log/$2
case "$QUORATE_HOOK $3" in
before_promotion*)
    test ! -e {dir}/wish/refuse.$2 || exit 3 ;;
after_bootstrap*)
    exec /usr/lib/postgresql/15/bin/psql -qAt "$3" -c "CREATE TABLE hooked AS SELECT '$2' AS by" ;;
"on_role_change primary")
    if test -e {dir}/wish/sleep; then echo $$ > {dir}/log/sleeper; exec sleep 1000; fi ;;
esac
"#,
            dir = hooks.dir.path().display()
        );
        std::fs::write(hooks.program(), text).expect("the program");
        mode(&hooks.program(), 0o755);
        hooks
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self) -> PathBuf {
        self.path("hook")
    }

    fn options(&self) -> Options {
        let program = self.program();
        let program = program.display();
        let member = vec![
            "[member.hooks]".to_owned(),
            format!("on_role_change = \"{program}\""),
            format!("before_promotion = \"{program}\""),
            "before_promotion_required = true".to_owned(),
            "before_promotion_timeout_ms = 10000".to_owned(),
            format!("after_bootstrap = \"{program}\""),
            "timeout_ms = 30000".to_owned(),
        ];
        Options { member, ..Options::default() }
    }

    /// Makes the program do something else from now on.
    fn wish(&self, name: &str) {
        std::fs::write(self.path("wish").join(name), "").expect("a wish");
    }

    fn forget(&self, name: &str) {
        std::fs::remove_file(self.path("wish").join(name)).expect("a wish");
    }

    /// What the program of a member was told.
    fn told(&self, member: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log").join(member)).unwrap_or_default();
        text.lines().map(|l| l.trim().to_owned()).collect()
    }

    /// The program, once it sleeps.
    async fn sleeper(&self) -> Proc {
        let file = self.path("log").join("sleeper");
        let sleeper = until_seen("the hook sleeps", HEAL, || {
            let text = std::fs::read_to_string(&file).ok()?;
            Proc::find(text.trim().parse().ok()?)
        });
        let sleeper = sleeper.await;
        std::fs::remove_file(&file).expect("its number");
        sleeper
    }

    async fn until_told(&self, node: &Node, wanted: &str) {
        let what = format!(
            "{} is told {wanted:?}, and not only {:?}",
            node.member,
            self.told(&node.member)
        );
        let is_it = || self.told(&node.member).iter().any(|l| l == wanted).then_some(());
        until_seen(&what, HEAL, is_it).await;
    }
}

/// `hactl events --follow`, which runs until it is dropped.
struct Follower {
    child: Child,
    out: PathBuf,
}

impl Follower {
    fn start(cluster: &Cluster, dir: &Path) -> Follower {
        let endpoints: Vec<String> = cluster.nodes.iter().map(Node::api).collect();
        let (out, err) = (dir.join("events"), dir.join("events.err"));
        let child = Command::new(hactl_bin())
            .args(["events", "--follow", "-o", "json"])
            .env("HACTL_ENDPOINTS", endpoints.join(","))
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("a file"))
            .stderr(File::create(&err).expect("a file"))
            .spawn()
            .expect("hactl");
        Follower { child, out }
    }

    /// What it has printed: one object a line.
    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).expect("its output");
        let whole = text.lines().filter(|_| !text.is_empty());
        whole.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The notices of a kind in the history, with who said them.
async fn notices(cluster: &Cluster, code: &str) -> Vec<(String, String)> {
    let noticed = cluster.history().await.into_iter().map(|e| e["kind"]["noticed"].clone());
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let ours = noticed.filter(|n| n["code"] == code);
    ours.map(|n| (text(&n["member"]), text(&n["text"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_the_operator_and_what_an_operator_sees() {
    let hooks = Hooks::new();
    let options = hooks.options();
    let cluster = Cluster::start("programs_of_the_operator", &options).await;
    let cluster = &cluster;
    let before = cluster.healed().await;
    let first = cluster.primary().await;

    eprintln!("-- after the bootstrap, once, with a connection that works");
    until("the hook's table is there", HEAL, || async {
        let conn = cluster.superuser(first.index).await;
        let by = conn.rows("SELECT by FROM hooked").await.ok()?;
        (format!("{by:?}").contains(&first.member)).then_some(())
    })
    .await;
    let bootstraps =
        |m: &Node| hooks.told(&m.member).iter().filter(|l| l.starts_with("after_b")).count();
    let runs: usize = cluster.nodes.iter().map(bootstraps).sum();
    assert_eq!(runs, 1);
    hooks.until_told(first, &format!("on_role_change primary {}", before.epoch())).await;
    for standby in cluster.standbys().await {
        hooks.until_told(standby, &format!("on_role_change standby {}", before.epoch())).await;
    }

    eprintln!("-- the doctor has nothing to say");
    until("all is well", HEAL, || async {
        let answer = cluster.hactl(&["doctor"]).await;
        eprintln!("{}", answer.stdout);
        (answer.code == 0 && answer.stdout.contains("all is well")).then_some(())
    })
    .await;
    let follower = Follower::start(cluster, hooks.dir.path());

    eprintln!("-- a switchover: both are told, and the history says who asked for each step");
    let second = cluster.standbys().await[0];
    let answer = cluster.switchover(&second.member).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let epoch = cluster.healed().await.epoch();
    hooks.until_told(second, &format!("before_promotion {epoch}")).await;
    hooks.until_told(second, &format!("on_role_change primary {epoch}")).await;
    hooks.until_told(first, &format!("on_role_change stopped {}", before.epoch())).await;
    hooks.until_told(first, &format!("on_role_change standby {epoch}")).await;
    let steps = cluster.hactl(&["events", CLUSTER, "--kind", "granted", "-o", "json"]).await;
    let steps = steps.json().expect("JSON");
    let granted = steps["events"].as_array().and_then(|e| e.last()).expect("a grant").clone();
    assert_eq!((&granted["operation"], &granted["cluster"]), (&1.into(), &CLUSTER.into()));
    assert!(granted["requested_by"].as_str().is_some_and(|by| !by.is_empty()), "{granted}");

    eprintln!("-- a required hook that fails lets another member be promoted");
    let third = cluster.standbys().await.into_iter().find(|n| n.member != first.member);
    let third = third.expect("a third member");
    hooks.wish(&format!("refuse.{}", third.member));
    let answer = cluster.switchover(&third.member).await;
    assert_ne!(answer.code, 0, "{answer:?}");
    let after = cluster.new_epoch(epoch).await;
    assert_ne!(after.primary().as_deref(), Some(third.member.as_str()));
    let failed = notices(cluster, "hook-failed").await;
    assert!(
        failed.iter().any(|(m, t)| *m == third.member && t.contains("exit status: 3")),
        "{failed:?}"
    );
    hooks.forget(&format!("refuse.{}", third.member));
    cluster.healed().await;

    eprintln!("-- a hook that never ends does not hold up a fence");
    hooks.wish("sleep");
    let answer = cluster.switchover(&third.member).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let epoch = cluster.healed().await.epoch();
    let sleeper = hooks.sleeper().await;
    let end = third.tree().watch_end();
    for node in cluster.nodes.iter().filter(|n| n.index != third.index) {
        node.kill_daemon().await;
    }
    end.at().await;
    assert!(sleeper.is_alive(), "the fence did not wait for it");
    until("the doctor says that there is no leader", HEAL, || async {
        let answer = cluster.hactl(&["doctor", "--timeout", "3s", "-o", "json"]).await;
        let checks = answer.json()?["findings"][0]["check"].clone();
        (answer.code == 2 && checks == "control-plane.leader").then_some(())
    })
    .await;
    until_seen("its time is over", HEAL, || (!sleeper.is_alive()).then_some(())).await;
    hooks.forget("sleep");
    hooks.until_told(third, &format!("on_role_change fenced {epoch}")).await;
    for node in cluster.nodes.iter().filter(|n| n.index != third.index) {
        node.start();
    }
    cluster.healed().await;
    until("its failure is an event", HEAL, || async {
        let failed = notices(cluster, "hook-failed").await;
        failed.iter().any(|(m, t)| *m == third.member && t.contains("did not end")).then_some(())
    })
    .await;

    eprintln!("-- a hook that never ends does not hold up the end of the daemon, and ends with it");
    hooks.wish("sleep");
    let last = cluster.standbys().await[0];
    let answer = cluster.switchover(&last.member).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    let sleeper = hooks.sleeper().await;
    last.daemon().signal(libc::SIGTERM);
    // Before the time of the hook would be over.
    let status = last.wait_end(Duration::from_secs(20)).await;
    assert!(status.success(), "{status:?}");
    until_seen("it has ended", HEAL, || (!sleeper.is_alive()).then_some(())).await;
    hooks.forget("sleep");
    last.start();
    cluster.healed().await;

    eprintln!("-- events were followed over all of that, none twice and none left out");
    let newest = cluster.history().await.last().expect("an event")["id"].as_u64();
    until_seen("the newest event is seen", HEAL, || {
        let ids = follower.events().iter().map(|e| e["id"].as_u64()).max().flatten();
        (ids >= newest).then_some(())
    })
    .await;
    let ids: Vec<u64> = follower.events().iter().filter_map(|e| e["id"].as_u64()).collect();
    let all: Vec<u64> = (1..=*ids.last().expect("an event")).collect();
    assert_eq!(ids, all);
}
