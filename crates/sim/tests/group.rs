//! Controllers alone in the simulated world: production's Raft part and planner, without members.

use std::ops::ControlFlow;
use std::process::Command as Process;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_sim::domain::command::{Change, Command};
use quorate_sim::domain::state::ClusterSpec;
use quorate_sim::domain::types::{ClusterName, MemberName, WallMillis};
use quorate_sim::node::nothing::NoDatabases;
use quorate_sim::world::Sim;
use quorate_world::exec;
use quorate_world::schedule::{
    self, Act, Controller, Fault, Kind, Operation, Plan, Profile, Topology, Who, Wipe,
};

type Group = Sim<NoDatabases>;

/// A plan of voters, and of spare controllers after them, without members and without faults.
fn plan(seed: u64, voters: usize, spares: usize) -> Plan {
    let mut plan = schedule::generate(seed, Profile::Calm);
    plan.topology = Topology::of(voters + spares);
    for (i, node) in plan.topology.nodes.iter_mut().enumerate() {
        node.member = None;
        if i >= voters {
            node.controller = Controller::Spare;
        }
    }
    (plan.faults, plan.operations) = (Vec::new(), Vec::new());
    plan
}

fn started(plan: &Plan) -> Group {
    let sim = Sim::build(plan, NoDatabases);
    sim.start();
    sim
}

fn run(sim: &Group, for_ms: u64) {
    let until = exec::now() / 1_000_000 + for_ms;
    let end = sim.run_until(until, &mut |_| ControlFlow::Continue(()));
    assert_eq!(end, ControlFlow::Continue(()));
    assert_eq!(sim.world().take_panics(), []);
    assert_eq!(sim.observer().seen().judge.violation(), None);
}

/// Runs until something holds.
fn until(sim: &Group, what: &str, limit_ms: u64, mut holds: impl FnMut(&Group) -> bool) {
    for _ in 0..limit_ms.div_ceil(10) {
        if holds(sim) {
            return;
        }
        run(sim, 10);
    }
    panic!("never: {what}");
}

fn leader(sim: &Group) -> usize {
    until(sim, "a leader", 60_000, |sim| sim.leader().is_some());
    sim.leader().unwrap()
}

fn command(name: &str) -> Command {
    let spec = ClusterSpec::of(vec![MemberName::new("m0").unwrap()]);
    let cluster = ClusterName::new(name).unwrap();
    Command { cluster, at: WallMillis(1), change: Change::CreateCluster { spec } }
}

/// Proposes a cluster of this name on a node, and tells whether that was answered.
fn propose(sim: &Group, node: usize, name: &str) -> Arc<Mutex<bool>> {
    let created = Arc::new(Mutex::new(false));
    if let (Some(part), Some(scope)) = (sim.nodes()[node].part(), sim.nodes()[node].daemon()) {
        let (done, command) = (created.clone(), command(name));
        drop(exec::spawn_on(scope, async move {
            let outcome = part.raft.propose(command, Duration::from_secs(2)).await;
            *done.lock().unwrap() |= outcome.is_ok();
        }));
    }
    created
}

/// Creates a cluster of this name through whoever leads.
fn create(sim: &Group, name: &str) {
    for _ in 0..30 {
        let created = propose(sim, leader(sim), name);
        for _ in 0..220 {
            if *created.lock().unwrap() {
                return;
            }
            run(sim, 10);
        }
    }
    panic!("{name} is never created");
}

fn clusters(sim: &Group, node: usize) -> usize {
    let seen = sim.observer().seen();
    seen.applied.get(&node).map_or(0, |applied| applied.state.clusters.len())
}

fn all_have(sim: &Group, nodes: &[usize], count: usize) {
    until(sim, "all have applied it", 60_000, |sim| {
        nodes.iter().all(|node| clusters(sim, *node) == count)
    });
}

/// A run with a bit of everything; returns its hash.
fn story(seed: u64) -> u64 {
    let sim = started(&plan(seed, 3, 0));
    create(&sim, "a");
    let node = leader(&sim);
    sim.nodes()[node].kill_daemon();
    create(&sim, "b");
    let other = leader(&sim);
    sim.nodes()[other].power_off(false);
    run(&sim, 3_000);
    sim.nodes()[other].power_on();
    create(&sim, "c");
    all_have(&sim, &[0, 1, 2], 3);
    sim.world().trace_hash()
}

#[test]
fn a_group_survives_crashes_and_a_seed_is_one_run() {
    let hashes: Vec<u64> = (0..4).map(story).collect();
    assert_eq!(hashes, (0..4).map(story).collect::<Vec<_>>());
    assert!(hashes.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn print_hash() {
    println!("hash of 7: {:016x}", story(7));
}

#[test]
fn fresh_processes_give_the_same_run() {
    let hash = || {
        let exe = std::env::current_exe().unwrap();
        let output = Process::new(exe).args(["--exact", "print_hash", "--nocapture"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let at = text.find("hash of 7: ").unwrap() + 11;
        text[at..at + 16].to_owned()
    };
    assert_eq!(hash(), hash());
}

#[test]
fn a_wiped_store_is_refused() {
    let sim = started(&plan(11, 3, 0));
    create(&sim, "a");
    all_have(&sim, &[0, 1, 2], 1);
    let node = &sim.nodes()[(leader(&sim) + 1) % 3];
    node.power_off(false);
    node.disk().wipe();
    node.power_on();
    sim.world().keep_trace(true);
    run(&sim, 20_000);
    assert!(node.part().is_none(), "it takes no part");
    let trace = sim.world().take_trace();
    assert!(trace.iter().any(|line| line.contains("its disk was wiped")));
    create(&sim, "b");
}

#[test]
fn one_that_was_away_for_long_gets_a_snapshot() {
    let mut plan = plan(12, 3, 0);
    (plan.settings.snapshot_entries, plan.settings.keep_entries) = (20, 5);
    let sim = started(&plan);
    create(&sim, "a");
    let node = (leader(&sim) + 1) % 3;
    sim.nodes()[node].power_off(false);
    // Purging begins with 256 entries that a snapshot covers.
    for _ in 0..300 {
        create(&sim, "b");
    }
    // The leader keeps what one that it does not reach may need; the other follower does not.
    sim.nodes()[leader(&sim)].power_off(false);
    sim.world().keep_trace(true);
    sim.nodes()[node].power_on();
    create(&sim, "c");
    let trace = sim.world().take_trace();
    assert!(trace.iter().any(|line| line.contains(" snapshot ")), "it was sent one");
    sim.nodes().iter().for_each(quorate_sim::node::Node::power_on);
    all_have(&sim, &[0, 1, 2], 3);
}

#[test]
fn a_store_that_fails_is_opened_anew_in_the_same_process() {
    let sim = started(&plan(13, 3, 0));
    create(&sim, "a");
    let node = leader(&sim);
    let daemon = sim.nodes()[node].daemon();
    sim.nodes()[node].disk().fail(true);
    propose(&sim, node, "b");
    until(&sim, "it takes no part", 10_000, |sim| sim.nodes()[node].part().is_none());
    create(&sim, "b");
    sim.nodes()[node].disk().fail(false);
    all_have(&sim, &[0, 1, 2], 2);
    assert_eq!(sim.nodes()[node].daemon(), daemon);
    // A disk that does nothing at all: the leader gives up, and comes back.
    let node = leader(&sim);
    sim.nodes()[node].disk().stick(true);
    propose(&sim, node, "c");
    until(&sim, "another leads", 20_000, |sim| sim.leader().is_some_and(|l| l != node));
    create(&sim, "c");
    sim.nodes()[node].disk().stick(false);
    all_have(&sim, &[0, 1, 2], 3);
}

/// Controllers under the faults of a plan, with a command every 300 ms; returns the hash.
fn storm(seed: u64) -> u64 {
    let mut plan = schedule::generate(seed, Profile::All);
    plan.topology.nodes.iter_mut().for_each(|node| node.member = None);
    let sim = started(&plan);
    let end = plan.horizon_ms + 40_000;
    let mut asked = 0;
    while exec::now() / 1_000_000 < end {
        run(&sim, 300);
        if let Some(leader) = sim.leader() {
            asked += 1;
            drop(propose(&sim, leader, &format!("c{}", asked % 7)));
        }
    }
    assert!(sim.leader().is_some(), "seed {seed}: nobody leads");
    create(&sim, "last");
    sim.world().trace_hash()
}

#[test]
fn faults_do_not_make_controllers_disagree() {
    for seed in 0..5 {
        storm(seed);
    }
    assert_eq!(storm(3), storm(3));
}

#[test]
fn controllers_come_and_go() {
    let mut plan = plan(21, 3, 1);
    plan.horizon_ms = 60_000;
    let node = Who::Node(1);
    plan.faults = vec![Fault::at(25_000, Kind::WipeDisk { node, what: Wipe::Raft }).lasting(2_000)];
    let act = |at_ms, what| Operation { at_ms, on: None, what };
    plan.operations = vec![
        act(5_000, Act::AddController { node: 3 }),
        act(15_000, Act::TransferLeadership { to: Who::Node(3) }),
        act(30_000, Act::ReplaceController { node }),
        act(45_000, Act::RemoveController { node: Who::Node(0) }),
    ];
    let sim = started(&plan);
    let voters = |sim: &Group| -> Vec<u64> {
        let part = sim.nodes()[leader(sim)].part().unwrap();
        part.raft.metrics().voters.keys().copied().collect()
    };
    run(&sim, 12_000);
    assert_eq!(voters(&sim), [1, 2, 3, 4]);
    run(&sim, 8_000);
    assert_eq!(leader(&sim), 3);
    create(&sim, "a");
    run(&sim, 20_000);
    assert_eq!(voters(&sim), [1, 3, 4, 102]);
    until(&sim, "all but the first", 40_000, |sim| voters(sim) == [3, 4, 102]);
    create(&sim, "b");
    all_have(&sim, &[1, 2, 3], 2);
}
