//! How fast a quiet group of three controllers is simulated, without members: the floor of what
//! Raft costs. `cargo run --profile sim -p quorate-sim --example rate [SECONDS]`

use std::ops::ControlFlow;
use std::time::Instant;

use quorate_sim::node::nothing::NoDatabases;
use quorate_sim::world::Sim;
use quorate_world::schedule::{Profile, Topology, generate};

#[allow(clippy::disallowed_methods)] // it measures real time
fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(600_u64);
    let mut plan = generate(1, Profile::Calm);
    plan.topology = Topology::of(3);
    plan.topology.nodes.iter_mut().for_each(|node| node.member = None);
    (plan.faults, plan.operations) = (Vec::new(), Vec::new());
    let sim = Sim::build(&plan, NoDatabases);
    sim.start();
    let begun = Instant::now();
    let _ = sim.run_until(seconds * 1000, &mut |_| ControlFlow::Continue(()));
    let took = begun.elapsed().as_secs_f64();
    let rate = seconds as f64 / took;
    println!("{seconds} s in {took:.2} s: {rate:.0} simulated seconds a second");
    println!("{} polls, hash {:016x}", sim.world().polls(), sim.world().trace_hash());
}
