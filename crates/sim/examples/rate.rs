//! How fast a quiet cluster of three is simulated, with databases that cost nothing: the floor of
//! what Raft, controllers and agents cost.
//! `cargo run --profile sim -p quorate-sim --example rate [SECONDS [alone]]`

#[allow(dead_code)]
#[path = "../tests/toy/mod.rs"]
mod toy;

use std::ops::ControlFlow;

use quorate_sim::world::Sim;
use quorate_world::schedule::{Profile, Topology, generate};

/// Seconds of processor time that this process has used.
fn used() -> f64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut ts) };
    assert_eq!(rc, 0);
    ts.tv_sec as f64 + ts.tv_nsec as f64 / 1e9
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(600_u64);
    let alone = std::env::args().nth(2).is_some_and(|arg| arg == "alone");
    let mut plan = generate(1, Profile::Calm);
    plan.topology = Topology::of(3);
    plan.settings.spec.bootstrap_members = (0..3).map(Topology::member_name).collect();
    if alone {
        plan.topology.nodes.iter_mut().for_each(|node| node.member = None);
    }
    (plan.faults, plan.operations) = (Vec::new(), Vec::new());
    let sim = Sim::build(&plan, toy::Toys::default());
    sim.start();
    let begun = used();
    let _ = sim.run_until(seconds * 1000, &mut |_| ControlFlow::Continue(()));
    let took = used() - begun;
    let rate = seconds as f64 / took;
    println!("{seconds} s in {took:.2} s: {rate:.0} simulated seconds a second of one processor");
    println!("{} polls, hash {:016x}", sim.world().polls(), sim.world().trace_hash());
}
