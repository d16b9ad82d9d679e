//! The executor: what production code may rely on in a simulated world.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use openraft_rt::testing::Suite;
use quorate_world::clock::Clock;
use quorate_world::exec::{self, JoinError, MachineClock, SimRuntime, World};

const SECOND: u64 = 1_000_000_000;

#[test]
fn openrafts_suite_passes() {
    Suite::<SimRuntime>::test_all();
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Counts seconds of its machine's clock for ever.
async fn count(to: Arc<AtomicU32>) {
    loop {
        SimRuntime::sleep(seconds(1)).await;
        to.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nothing_of_a_killed_scope_runs() {
    let world = World::new(1);
    let machine = world.machine("a", 0);
    let scope = world.scope(machine, "daemon");
    let ticks = Arc::new(AtomicU32::new(0));
    let task = world.spawn(scope, count(ticks.clone()));
    let nested = ticks.clone();
    let outer = world.spawn(scope, async move { SimRuntime::spawn(count(nested)).await });
    assert!(world.run_until(5 * SECOND + 1, &mut || true));
    assert_eq!(ticks.load(Ordering::Relaxed), 10);
    exec::kill(scope);
    assert_eq!(world.block_on(task), Err(JoinError::Killed));
    assert_eq!(world.block_on(outer), Err(JoinError::Killed));
    world.run_until(20 * SECOND, &mut || true);
    assert_eq!(ticks.load(Ordering::Relaxed), 10);
    let late = world.spawn(scope, async {});
    assert_eq!(world.block_on(late), Err(JoinError::Killed));
}

#[test]
fn a_task_may_kill_its_own_scope() {
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let after = Arc::new(AtomicU32::new(0));
    let seen = after.clone();
    let task = world.spawn(scope, async move {
        exec::kill(exec::current_scope());
        SimRuntime::sleep(seconds(1)).await;
        seen.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(world.block_on(task), Err(JoinError::Killed));
    world.run_until(5 * SECOND, &mut || true);
    assert_eq!(after.load(Ordering::Relaxed), 0);
}

#[test]
fn a_stopped_scope_goes_on_where_it_was() {
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let ticks = Arc::new(AtomicU32::new(0));
    let _task = world.spawn(scope, count(ticks.clone()));
    world.run_until(2 * SECOND + 1, &mut || true);
    exec::pause(scope);
    world.run_until(10 * SECOND + 1, &mut || true);
    assert_eq!(ticks.load(Ordering::Relaxed), 2);
    exec::resume(scope);
    world.run_until(12 * SECOND, &mut || true);
    // The one that was due fires late; the next is a second after it.
    assert_eq!(ticks.load(Ordering::Relaxed), 4);
}

#[test]
fn a_panic_ends_the_process() {
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let ticks = Arc::new(AtomicU32::new(0));
    let _other = world.spawn(scope, count(ticks.clone()));
    let task = world.spawn(scope, async {
        SimRuntime::sleep(seconds(3)).await;
        panic!("a defect");
    });
    let outcome: Result<(), JoinError> = world.block_on(task);
    assert_eq!(outcome, Err(JoinError::Panicked("a defect".into())));
    world.run_until(10 * SECOND, &mut || true);
    assert!(ticks.load(Ordering::Relaxed) <= 3);
    let panics = world.take_panics();
    assert_eq!(panics.len(), 1);
    assert_eq!((panics[0].scope.as_str(), panics[0].text.as_str()), ("a/daemon", "a defect"));
    assert!(!exec::is_alive(scope));
}

#[test]
fn each_machine_has_its_own_time() {
    let world = World::new(1);
    let (fast, slow) = (world.machine("fast", 0), world.machine("slow", 1_000 * SECOND));
    exec::set_rate(fast, 500_000);
    exec::set_rate(slow, -500_000);
    let order = Arc::new(Mutex::new(Vec::new()));
    for (name, machine) in [("slow", slow), ("fast", fast)] {
        let (scope, order) = (world.scope(machine, "daemon"), order.clone());
        let _task = world.spawn(scope, async move {
            SimRuntime::sleep(seconds(3)).await;
            order.lock().unwrap().push((name, exec::now()));
        });
    }
    world.run_until(10 * SECOND, &mut || true);
    assert_eq!(*order.lock().unwrap(), [("fast", 2 * SECOND), ("slow", 6 * SECOND)]);
    assert_eq!(MachineClock(fast).now().as_nanos(), 15 * SECOND);
    assert_eq!(MachineClock(slow).now().as_nanos(), 1_005 * SECOND);
}

#[test]
fn a_jump_of_boot_time_fires_what_it_passes() {
    let world = World::new(1);
    let machine = world.machine("a", 0);
    let scope = world.scope(machine, "daemon");
    let task = world.spawn(scope, async {
        SimRuntime::sleep(seconds(60)).await;
        exec::now()
    });
    world.run_until(SECOND, &mut || true);
    exec::jump_boot(machine, seconds(100));
    assert_eq!(world.block_on(task), Ok(SECOND));
    assert_eq!(exec::monotonic(machine), SECOND);
}

#[test]
fn a_suspended_machine_does_nothing_and_its_timers_are_late() {
    let world = World::new(1);
    let machine = world.machine("a", 0);
    let scope = world.scope(machine, "daemon");
    let task = world.spawn(scope, async {
        SimRuntime::sleep(seconds(2)).await;
        exec::now()
    });
    world.run_until(SECOND, &mut || true);
    exec::suspend(machine, true);
    world.run_until(50 * SECOND, &mut || true);
    exec::suspend(machine, false);
    assert_eq!(world.block_on(task), Ok(50 * SECOND));
    assert_eq!(exec::boot_time(machine), 50 * SECOND);
    assert_eq!(exec::monotonic(machine), SECOND);
}

#[test]
fn a_crash_ends_all_processes_and_begins_boot_time_anew() {
    let world = World::new(1);
    let machine = world.machine("a", 500 * SECOND);
    let ticks = Arc::new(AtomicU32::new(0));
    for name in ["daemon", "guard"] {
        let _task = world.spawn(world.scope(machine, name), count(ticks.clone()));
    }
    world.run_until(SECOND + 1, &mut || true);
    exec::crash(machine);
    assert!(exec::boot_time(machine) < 500 * SECOND);
    assert_eq!(exec::boots(machine), 2);
    world.run_until(9 * SECOND, &mut || true);
    assert_eq!(ticks.load(Ordering::Relaxed), 2);
}

/// Tasks on two machines that draw, wait, and talk over a channel.
fn run(seed: u64) -> u64 {
    let world = World::new(seed);
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    for name in ["a", "b", "c"] {
        let scope = world.scope(world.machine(name, 7), "daemon");
        for n in 0..5 {
            let tx = tx.clone();
            let _task = world.spawn(scope, async move {
                for _ in 0..50 {
                    let machine = exec::machine_of(exec::current_scope());
                    let wait = exec::with_rng(machine, |rng| rng.below(3_000));
                    SimRuntime::sleep(Duration::from_micros(wait)).await;
                    exec::trace(&format!("{name}{n} {wait}"));
                    let _ = tx.send(n);
                }
            });
        }
    }
    let scope = world.scope(world.machine("d", 0), "daemon");
    let _task = world.spawn(scope, async move {
        while let Some(n) = rx.recv().await {
            exec::trace(&format!("got {n}"));
        }
    });
    world.run_until(10 * SECOND, &mut || true);
    world.trace_hash()
}

#[test]
fn a_seed_is_one_run() {
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// The same in a fresh process: nothing of this one is in it.
#[test]
fn a_seed_is_one_run_in_every_process() {
    const CHILD: &str = "QUORATE_WORLD_HASH";
    if std::env::var_os(CHILD).is_some() {
        println!("hash={:016x}", run(42));
        return;
    }
    let expected = format!("hash={:016x}", run(42));
    for _ in 0..3 {
        let me = std::env::current_exe().unwrap();
        let output = std::process::Command::new(me)
            .args(["--exact", "a_seed_is_one_run_in_every_process", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&expected), "{text}");
    }
}
