//! `hactl events` and `hactl doctor` as processes, beside fake nodes.

#![allow(clippy::disallowed_methods)] // tests run on tokio, over real sockets

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::fake_node::{Fake, Served, main_cluster, member};
use quorate::domain::event::{Event, EventKind};
use quorate::domain::observation::Fencing;
use quorate::domain::types::{Epoch, WallMillis};

/// Longest wait for a line.
const LIMIT: Duration = Duration::from_secs(20);

fn hactl(args: &str, endpoints: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hactl"));
    command.args(args.split(' ')).stdin(Stdio::null()).env_clear();
    command.env("XDG_CONFIG_HOME", "/nonexistent").env("HACTL_ENDPOINTS", endpoints);
    command
}

async fn run(args: &'static str, endpoint: String) -> (Option<i32>, String, String) {
    let task = tokio::task::spawn_blocking(move || hactl(args, &endpoint).output().expect("hactl"));
    let output = task.await.unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn happens(fake: &Fake, id: u64) {
    fake.change(|c| {
        let kind = EventKind::MemberChanged { member: member("b") };
        c.history.push_back(Event::new(id, WallMillis(id), Epoch(3), kind));
        c.next_event = id + 1;
    });
}

/// `hactl events --follow`, line by line.
struct Follower {
    child: Child,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

impl Follower {
    fn start(endpoints: &str) -> Follower {
        let mut command = hactl("events main --follow --since 4 -o json", endpoints);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = |pipe: Box<dyn std::io::Read + Send>| {
            let (tell, told) = channel();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if tell.send(line).is_err() {
                        return;
                    }
                }
            });
            told
        };
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Follower { child, lines: lines(Box::new(out)), notes: lines(Box::new(err)) }
    }

    fn next_id(&self) -> u64 {
        let line = self.lines.recv_timeout(LIMIT).expect("another event");
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["cluster"], "main");
        event["id"].as_u64().unwrap()
    }

    /// Waits until it has noted something.
    fn note(&self, part: &str) {
        while !self.notes.recv_timeout(LIMIT).expect(part).contains(part) {}
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_from_node_to_node() {
    let first = Served::new(Fake::leader()).await;
    let second = Served::new(Fake::leader()).await;
    let both = format!("{},{}", first.address, second.address);
    let follower = Follower::start(&both);
    assert_eq!(follower.next_id(), 5);
    for node in [&first, &second] {
        happens(&node.fake, 6);
    }
    assert_eq!(follower.next_id(), 6);

    // The node that serves the watch is gone; the other knows what happened meanwhile.
    drop(first);
    happens(&second.fake, 7);
    assert_eq!(follower.next_id(), 7);

    // Events that nobody has any more are not passed over in silence.
    happens(&second.fake, 10);
    assert_eq!(follower.next_id(), 10);
    follower.note("2 events, 8 to 9, are not kept any more");
    assert!(follower.lines.try_recv().is_err(), "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_chosen_and_shown() {
    let leader = Served::new(Fake::leader()).await;
    let at = || leader.address.to_string();
    let (code, out, err) = run("events", at()).await;
    assert!(code == Some(0) && out.contains("OPERATION"), "{out}{err}");
    let (_, out, _) = run("events main --since 4 -o json", at()).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["events"].as_array().map(Vec::len), Some(1), "{out}");
    assert_eq!(
        (&json["events"][0]["cluster"], &json["events"][0]["id"]),
        (&"main".into(), &5.into())
    );
    let (_, out, _) = run("events main --kind cluster-created -o json", at()).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert!(
        json["events"].as_array().unwrap().iter().all(|e| e["kind"]["cluster_created"].is_object())
    );
    let (code, _, err) = run("events --kind nonsense", at()).await;
    assert!(code == Some(2) && err.contains("there is no such kind"), "{err}");
    let (code, _, err) = run("events --after yesterday", at()).await;
    assert!(code == Some(2) && err.contains("15m"), "{err}");
    let (code, _, err) = run("events nope", at()).await;
    assert!(code == Some(1) && err.contains("rule: cluster.exists"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_exits_with_the_worst() {
    let leader = Served::new(Fake::leader()).await;
    let at = || leader.address.to_string();
    // The fake has two controllers, and c reports a problem.
    let (code, out, err) = run("doctor", at()).await;
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(out.contains("PROBLEM  member.problem  main  c"), "{out}");
    assert!(out.contains("WARNING  control-plane.voters") && out.contains("to do: "), "{out}");
    let view = |change: &dyn Fn(&mut quorate::api::ClusterView)| {
        let mut view = leader.fake.view.lock().unwrap();
        let mut new = quorate::api::LeaderView::clone(&view);
        change(new.clusters.get_mut(&main_cluster()).unwrap());
        *view = std::sync::Arc::new(new);
    };
    view(&|c| {
        let c = &mut c.observations.members.get_mut(&member("c")).unwrap().report;
        (c.problems, c.fencing) = (Vec::new(), Fencing::BestEffort);
    });
    let (code, out, err) = run("doctor main -o json", at()).await;
    assert_eq!(code, Some(1), "{out}{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let checks: Vec<_> = json["findings"].as_array().unwrap().iter().map(|f| &f["check"]).collect();
    assert_eq!(checks, ["control-plane.voters", "member.fencing"], "{out}");
    assert_eq!(json["findings"][1]["severity"], "warning");

    let (code, _, err) = run("doctor nope", at()).await;
    assert!(code == Some(1) && err.contains("rule: cluster.exists"), "{err}");
    let lone = Served::new(Fake::follower_of(None)).await;
    let (code, out, err) = run("doctor --timeout 1s", lone.address.to_string()).await;
    assert!(code == Some(2) && out.contains("control-plane.leader"), "{out}{err}");
    drop(leader);
    drop(lone);
    let (code, _, err) = run("doctor", "127.0.0.1:1".to_owned()).await;
    assert!(code == Some(3) && err.contains("none of these endpoints"), "{err}");
}
