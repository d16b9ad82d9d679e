//! The executor: what happens at the edges of a life, of a clock, and of an instant.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant as _, Mpsc as _, MpscReceiver as _, MpscSender as _};
use quorate_world::exec::{self, JoinError, MachineId, Options, ScopeId, SimRuntime, World};

const SECOND: u64 = 1_000_000_000;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn run(world: &World, until: u64) {
    assert!(world.run_until(until, &mut || true));
}

/// Tells what it sees when it is dropped, and tries to start something.
struct LastWords(Rc<RefCell<Vec<(ScopeId, u64)>>>);

impl Drop for LastWords {
    fn drop(&mut self) {
        let now = SimRuntime::sleep(seconds(0));
        drop(now);
        let machine = exec::machine_of(exec::current_scope());
        self.0.borrow_mut().push((exec::current_scope(), exec::boot_time(machine)));
        let words = self.0.clone();
        drop(exec::spawn_on(exec::current_scope(), async move {
            words.borrow_mut().push((ScopeId::WORLD, 0));
        }));
    }
}

#[test]
fn what_is_dropped_is_code_of_its_scope_and_starts_nothing() {
    let world = World::new(1);
    let (a, b) = (world.machine("a", 100 * SECOND), world.machine("b", 0));
    let (victim, killer) = (world.scope(a, "victim"), world.scope(b, "killer"));
    let words = Rc::new(RefCell::new(Vec::new()));
    // One that waits, one that was never polled, one that ends by itself, one that is aborted.
    for n in 0..4 {
        let held = LastWords(words.clone());
        let task = world.spawn(victim, async move {
            let _held = held;
            if n == 2 {
                return;
            }
            pending::<()>().await;
        });
        if n == 3 {
            run(&world, SECOND);
            task.abort();
            assert_eq!(world.block_on(task), Err(JoinError::Killed));
            let held = LastWords(words.clone());
            let _never_polled = world.spawn(victim, async move {
                let _held = held;
            });
        }
    }
    let _killer = world.spawn(killer, async move { exec::kill(victim) });
    exec::pause(victim);
    run(&world, 2 * SECOND);
    let mut words = words.borrow().clone();
    words.sort_unstable();
    // The one that ended and the one that was aborted did so while the scope lived, and started
    // something each. The others did not.
    let started = words.iter().filter(|w| w.0 == ScopeId::WORLD).count();
    assert_eq!(started, 2);
    words.retain(|w| w.0 != ScopeId::WORLD);
    let at = |s: u64| (victim, (100 + s) * SECOND);
    assert_eq!(words, [at(0), at(1), at(1), at(1), at(1)]);
}

#[test]
fn a_scope_that_is_killed_in_its_own_poll_is_dropped_at_its_wait() {
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let words = Rc::new(RefCell::new(Vec::new()));
    let (held, seen) = (LastWords(words.clone()), words.clone());
    let after = Rc::new(Cell::new(0));
    let passed = after.clone();
    let task = world.spawn(scope, async move {
        let _held = held;
        exec::kill(exec::current_scope());
        assert!(seen.borrow().is_empty());
        passed.set(1);
        std::future::ready(()).await;
        passed.set(2);
        SimRuntime::sleep(seconds(0)).await;
        passed.set(3);
        pending::<()>().await;
    });
    assert_eq!(world.block_on(task), Err(JoinError::Killed));
    // Nothing waited before the last line: a sleep of nothing is over.
    assert_eq!(after.get(), 3);
    assert_eq!(words.borrow().len(), 1);
    assert_eq!(world.tasks(), 0);
}

#[test]
fn ends_are_heard_and_wakers_of_the_dead_do_nothing() {
    let world = World::new(1);
    let machine = world.machine("a", 0);
    let (victim, other) = (world.scope(machine, "victim"), world.scope(machine, "other"));
    let (tx, mut rx) = <SimRuntime as AsyncRuntime>::Mpsc::channel::<u32>(1);
    let (tx2, mut rx2) = <SimRuntime as AsyncRuntime>::Mpsc::channel::<u32>(1);
    let _sender = world.spawn(victim, async move {
        tx.send(1).await.unwrap();
        let _ = rx2.recv().await;
        unreachable!("nothing of a killed scope runs");
    });
    let other = world.spawn(other, async move {
        assert_eq!(rx.recv().await, Some(1));
        let ended = rx.recv().await;
        // Its waker is that of a dead task, whose place somebody else has by now.
        let refused = tx2.send(2).await;
        (ended, refused.is_err(), exec::now())
    });
    let exits = Rc::new(RefCell::new(Vec::new()));
    for n in 0..2 {
        let exits = exits.clone();
        exec::on_exit(victim, move || exits.borrow_mut().push((n, exec::current_scope())));
    }
    exec::at(SECOND, move || exec::kill(victim));
    assert_eq!(world.block_on(other), Ok((None, true, SECOND)));
    assert_eq!(*exits.borrow(), [(0, victim), (1, victim)]);
    let late = Rc::new(Cell::new(false));
    let flag = late.clone();
    exec::on_exit(victim, move || flag.set(true));
    assert!(late.get());
}

#[test]
fn a_panic_on_the_way_out_is_noted_too() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let holder = world.spawn(scope, async {
        let _bad = Bad;
        pending::<()>().await;
    });
    let other = world.spawn(scope, async {
        exec::sleep(seconds(1)).await;
        panic!("number {}", 7);
    });
    let bystander = world.spawn(world.scope(MachineId::WORLD, "bystander"), async {
        exec::sleep(seconds(2)).await;
    });
    let other: Result<(), _> = world.block_on(other);
    assert_eq!(other, Err(JoinError::Panicked("number 7".into())));
    assert!(world.block_on(holder).is_err());
    assert_eq!(world.block_on(bystander), Ok(()));
    let panics = world.take_panics();
    let texts: Vec<_> = panics.iter().map(|p| (p.at, p.text.as_str())).collect();
    assert_eq!(texts, [(SECOND, "number 7"), (SECOND, "in drop")]);
    assert!(panics.iter().all(|p| p.scope == "a/daemon" && p.place.contains("exec_edges.rs:")));
}

#[test]
fn a_loop_that_never_waits_is_found_and_ended() {
    let options = Options { polls_per_instant_max: 10_000, ..Options::default() };
    let world = World::with_options(1, options);
    let scope = world.scope(world.machine("a", 0), "spinner");
    let spin = world.spawn(scope, async {
        exec::sleep(seconds(1)).await;
        loop {
            tokio::task::yield_now().await;
        }
    });
    let other = world.spawn(world.scope(MachineId::WORLD, "other"), exec::sleep(seconds(2)));
    assert_eq!(world.block_on(other), Ok(()));
    let panics = world.take_panics();
    assert_eq!(panics.len(), 1, "{panics:?}");
    assert_eq!((panics[0].at, panics[0].scope.as_str()), (SECOND, "a/spinner"));
    assert!(panics[0].text.contains("never waits"));
    let spin: Result<(), _> = world.block_on(spin);
    assert_eq!(spin, Err(JoinError::Killed));
}

#[test]
fn timers_follow_their_clock_when_it_changes_under_them() {
    let world = World::new(1);
    let machine = world.machine("a", 0);
    let scope = world.scope(machine, "daemon");
    let woken = Rc::new(RefCell::new(Vec::new()));
    for n in [10, 20, 30] {
        let woken = woken.clone();
        let _task = world.spawn(scope, async move {
            SimRuntime::sleep(seconds(n)).await;
            woken.borrow_mut().push((n, exec::now() / 1_000_000));
        });
    }
    run(&world, 5 * SECOND);
    exec::set_rate(machine, 1_000_000);
    run(&world, 10 * SECOND);
    exec::set_rate(machine, -500_000);
    run(&world, 15 * SECOND);
    exec::jump_boot(machine, seconds(60));
    run(&world, 16 * SECOND);
    // The jump wakes two at once, in any order.
    let mut woken = woken.take();
    woken.sort_unstable();
    assert_eq!(woken, [(10, 7_500), (20, 15_000), (30, 15_000)]);
}

/// As tokio's timers, which run on CLOCK_MONOTONIC.
#[test]
fn timers_may_stop_in_suspend() {
    let options = Options { timers_stop_in_suspend: true, ..Options::default() };
    let world = World::with_options(1, options);
    let machine = world.machine("a", 0);
    let scope = world.scope(machine, "daemon");
    let task = world.spawn(scope, async move {
        let begun = <SimRuntime as AsyncRuntime>::Instant::now();
        SimRuntime::sleep(seconds(2)).await;
        (exec::now(), begun.elapsed())
    });
    let kernel = world.spawn(scope, async move {
        exec::sleep_until_boot(machine, 2 * SECOND).await;
        exec::now()
    });
    run(&world, SECOND);
    exec::suspend(machine, true);
    run(&world, 50 * SECOND);
    exec::suspend(machine, false);
    assert_eq!(world.block_on(kernel), Ok(50 * SECOND));
    assert_eq!(world.block_on(task), Ok((51 * SECOND, seconds(51))));
}

#[test]
fn timers_may_be_late_and_tasks_may_stall() {
    let delays = |options: Options| {
        let world = World::with_options(3, options);
        let scope = world.scope(world.machine("a", 0), "daemon");
        let task = world.spawn(scope, async {
            let mut late = Vec::new();
            for _ in 0..200 {
                let begun = exec::now();
                SimRuntime::sleep(seconds(1)).await;
                late.push(exec::now() - begun - SECOND);
            }
            late
        });
        world.block_on(task).unwrap()
    };
    assert!(delays(Options::default()).iter().all(|late| *late == 0));
    let slack = Options { timer_slack: Duration::from_millis(1), ..Options::default() };
    let late = delays(slack);
    assert!(late.iter().all(|late| *late < 1_000_000) && late.iter().any(|late| *late > 500_000));
    let stalls = Options { stall_one_in: 10, ..Options::default() };
    let late = delays(stalls);
    let stalled = late.iter().filter(|late| **late > 0).count();
    assert!((5..50).contains(&stalled), "{stalled}");
}

/// The order in which five tasks take their turns.
fn turns(seed: u64, options: Options) -> Vec<u32> {
    let world = World::with_options(seed, options);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let turns = Rc::new(RefCell::new(Vec::new()));
    for n in 0..5 {
        let turns = turns.clone();
        let _task = world.spawn(scope, async move {
            for _ in 0..3 {
                turns.borrow_mut().push(n);
                exec::sleep(seconds(1)).await;
            }
        });
    }
    run(&world, 10 * SECOND);
    turns.take()
}

#[test]
fn a_seed_is_an_interleaving() {
    let orders: BTreeSet<_> = (0..50).map(|seed| turns(seed, Options::default())).collect();
    assert!(orders.len() > 45);
    let fifo = Options { fifo: true, ..Options::default() };
    assert_eq!(turns(1, fifo.clone()), [0, 1, 2, 3, 4].repeat(3));
    let yields = Options { yield_one_in: 4, ..fifo };
    let orders: BTreeSet<_> = (0..50).map(|seed| turns(seed, yields.clone())).collect();
    assert!(orders.len() > 25);
}

#[test]
fn one_more_machine_does_not_shift_the_others() {
    let draws = |names: &[&str]| {
        let world = World::new(5);
        let mut drawn = Vec::new();
        for name in names {
            let machine = world.machine(name, 0);
            drawn.push((name.to_string(), exec::with_rng(machine, |rng| rng.draw())));
        }
        drawn
    };
    let few = draws(&["a", "c"]);
    let many = draws(&["z", "a", "b", "c"]);
    assert!(few.iter().all(|one| many.contains(one)));
}

#[test]
fn worlds_on_threads_do_not_meet() {
    let runs: Vec<_> = (0..4_u64)
        .map(|seed| std::thread::spawn(move || (turns(seed, Options::default()), seed)))
        .collect();
    for run in runs {
        let (order, seed) = run.join().unwrap();
        assert_eq!(order, turns(seed, Options::default()));
    }
}

/// A waker of one world that is woken in another of the same thread.
#[test]
fn worlds_on_one_thread_do_not_meet_either() {
    let outer = World::new(1);
    let (tx, rx) = tokio::sync::oneshot::channel();
    let waits = outer.spawn(ScopeId::WORLD, async move { rx.await.ok() });
    run(&outer, SECOND);
    {
        let inner = World::new(2);
        let _task = inner.spawn(ScopeId::WORLD, async move {
            exec::sleep(seconds(5)).await;
            tx.send(7).unwrap();
        });
        run(&inner, 10 * SECOND);
        assert_eq!(exec::now(), 10 * SECOND);
    }
    assert_eq!(exec::now(), SECOND);
    assert_eq!(outer.block_on(waits), Ok(Some(7)));
}

#[test]
fn hooks_see_each_step_or_each_instant_and_may_end_the_run() {
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    for n in 0..4 {
        let _task = world.spawn(scope, async move {
            for _ in 0..3 {
                exec::sleep(seconds(1 + n % 2)).await;
            }
        });
    }
    let mut instants = Vec::new();
    assert!(world.run_instants(4 * SECOND, &mut || {
        instants.push(exec::now() / SECOND);
        true
    }));
    assert_eq!(instants, [0, 1, 2, 3, 4]);
    let before = world.polls();
    let mut steps = 0;
    assert!(!world.run_until(60 * SECOND, &mut || {
        steps += 1;
        steps < 1
    }));
    assert_eq!((steps, world.polls() - before), (1, 1));
    // What a hook changes at an instant happens at that instant.
    let done = Rc::new(Cell::new(0));
    let mut once = Some(done.clone());
    assert!(world.run_instants(7 * SECOND, &mut || {
        if let Some(done) = once.take() {
            let _task = exec::spawn_on(scope, async move { done.set(exec::now()) });
        }
        true
    }));
    assert_eq!(done.get(), 6 * SECOND);
}

#[test]
fn a_world_that_ends_drops_everything() {
    let held = Arc::new(());
    {
        let world = World::new(1);
        let scope = world.scope(world.machine("a", 0), "daemon");
        let (one, two, three, four) = (held.clone(), held.clone(), held.clone(), held.clone());
        let _task = world.spawn(scope, async move {
            let _one = one;
            pending::<()>().await;
        });
        exec::at(SECOND, move || drop(two));
        exec::on_exit(scope, move || drop(three));
        let kept = exec::local(|| RefCell::new(Vec::new()));
        kept.borrow_mut().push(four);
        assert!(Rc::ptr_eq(&kept, &exec::local(|| RefCell::new(vec![Arc::new(())]))));
        assert_eq!(Arc::strong_count(&held), 5);
    }
    assert_eq!(Arc::strong_count(&held), 1);
    assert!(!exec::is_there());
}

#[test]
fn the_trace_is_kept_or_hashed_and_the_run_too() {
    let traced = |text: &str, keep: bool, extra: bool| {
        let world = World::new(1);
        world.keep_trace(keep);
        let scope = world.scope(world.machine("a", 0), "daemon");
        let text = text.to_owned();
        let _task = world.spawn(scope, async move {
            exec::sleep(Duration::from_micros(1_500_000)).await;
            exec::trace(&text);
        });
        if extra {
            let _silent = world.spawn(scope, exec::sleep(seconds(1)));
        }
        run(&world, 2 * SECOND);
        (world.trace_hash(), world.run_hash(), world.take_trace())
    };
    let one = traced("hello", true, false);
    assert_eq!(one.2, ["    1.500000 a/daemon     hello"]);
    let (trace, run, lines) = traced("hello", false, false);
    assert_eq!((trace, run), (one.0, one.1));
    assert!(lines.is_empty());
    assert_ne!(traced("hallo", false, false).0, one.0);
    let silent = traced("hello", false, true);
    assert_eq!(silent.0, one.0);
    assert_ne!(silent.1, one.1);
}
