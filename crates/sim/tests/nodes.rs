//! Whole nodes in the simulated world: controllers, agents, and databases that are the least that
//! agents take for some.

mod toy;

use std::ops::ControlFlow;

use quorate_sim::world::Sim;
use quorate_world::exec;
use quorate_world::schedule::{self, Act, Fault, Kind, Operation, Plan, Profile, Topology, Who};
use toy::Toys;

fn plan(seed: u64, nodes: usize) -> Plan {
    let mut plan = schedule::generate(seed, Profile::Calm);
    plan.topology = Topology::of(nodes);
    let members = plan.topology.members();
    plan.settings.spec.bootstrap_members =
        members.iter().map(|n| Topology::member_name(*n)).collect();
    (plan.faults, plan.operations) = (Vec::new(), Vec::new());
    plan.horizon_ms = 60_000;
    plan
}

fn run(sim: &Sim<Toys>, until_ms: u64) {
    let end = sim.run_until(until_ms, &mut |_| ControlFlow::Continue(()));
    assert_eq!(end, ControlFlow::Continue(()));
    assert_eq!(sim.world().take_panics(), []);
    assert_eq!(sim.observer().seen().judge.violation(), None);
}

fn until(sim: &Sim<Toys>, toys: &Toys, what: &str, holds: impl Fn(&Toys) -> bool) {
    let limit = exec::now() / 1_000_000 + 60_000;
    while !holds(toys) {
        let now = exec::now() / 1_000_000;
        if now >= limit {
            for line in sim.world().take_trace().iter().filter(|l| l.contains(" log ")) {
                eprintln!("{line}");
            }
            panic!("never: {what}");
        }
        run(sim, now + 20);
    }
}

fn whole(toys: &Toys, count: usize) -> bool {
    toys.primaries().len() == 1 && toys.streaming() == count - 1
}

#[test]
fn a_cluster_comes_up_and_fails_over() {
    for seed in 0..2 {
        let toys = Toys::default();
        let sim = Sim::build(&plan(seed, 3), toys.clone());
        sim.world().keep_trace(true);
        sim.start();
        until(&sim, &toys, "it comes up", |toys| whole(toys, 3));
        let (first, epoch) = toys.primaries()[0].clone();
        toys.crash(first.as_str());
        until(&sim, &toys, "it fails over", |toys| whole(toys, 3) && toys.primaries()[0].1 > epoch);
        // Without a standby that confirms commits nobody could take over.
        run(&sim, exec::now() / 1_000_000 + 12_000);
        let (second, epoch) = toys.primaries()[0].clone();
        let node = Topology::node_of(&second).unwrap();
        sim.nodes()[node].power_off(false);
        until(&sim, &toys, "another leads", |toys| {
            toys.primaries().iter().any(|(_, e)| *e > epoch)
        });
        sim.nodes()[node].power_on();
        until(&sim, &toys, "it comes back", |toys| whole(toys, 3));
    }
}

#[test]
fn faults_and_operators_of_a_plan_are_carried_out() {
    let mut plan = plan(5, 3);
    let leader = Who::Leader;
    plan.faults = vec![
        Fault::at(12_000, Kind::CrashDaemon { node: Who::Holder }).lasting(2_000),
        Fault::at(20_000, Kind::Isolate { node: leader, clients: false }).lasting(4_000),
        Fault::at(40_000, Kind::CrashMachine { node: Who::Holder, torn: true }).lasting(3_000),
    ];
    let target = Who::Standby(0);
    plan.operations = vec![Operation { at_ms: 30_000, on: None, what: Act::Switchover { target } }];
    let hash = || {
        let toys = Toys::default();
        let sim = Sim::build(&plan, toys.clone());
        sim.start();
        run(&sim, 60_000);
        until(&sim, &toys, "it heals", |toys| whole(toys, 3));
        let epochs = toys.primaries()[0].1;
        assert!(epochs.0 >= 4, "{epochs}");
        let seen = sim.observer().seen();
        let texts: Vec<String> =
            seen.timeline.entries().iter().map(|entry| entry.text.clone()).collect();
        assert!(texts.iter().any(|t| t.contains("operation")), "{texts:#?}");
        sim.world().trace_hash()
    };
    assert_eq!(hash(), hash());
}
