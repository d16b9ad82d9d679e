//! The tripwire catches what it is for, and lets everything else pass.
//!
//! Each leak happens in a process of its own, which is this binary again.

// Here the real clocks are read on purpose.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use quorate_world::exec::{self, World, tripwire};

quorate_world::tripwire!();

const LEAK: &str = "QUORATE_WORLD_LEAK";

/// Runs a leak as simulated code.
fn simulate(leak: fn()) -> World {
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let _task = world.spawn(scope, async move {
        exec::sleep(Duration::from_secs(3)).await;
        leak();
    });
    assert!(world.run_until(10_000_000_000, &mut || true));
    world
}

/// By name: what is called, and the function of the C library that it has to be caught in.
const LEAKS: [(&str, &str, fn()); 8] = [
    ("instant", "clock_gettime", || {
        let _ = Instant::now();
    }),
    ("system_time", "clock_gettime", || {
        let _ = SystemTime::now();
    }),
    ("getrandom", "getrandom", || {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
    }),
    ("libc_getrandom", "getrandom", || {
        let mut bytes = [0_u8; 8];
        // SAFETY: the buffer is as long as it is said to be.
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    }),
    ("gettimeofday", "gettimeofday", || {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: a valid timeval, and no time zone.
        unsafe { libc::gettimeofday(&mut time, std::ptr::null_mut()) };
    }),
    // SAFETY: null is allowed.
    ("time", "time", || unsafe {
        libc::time(std::ptr::null_mut());
    }),
    ("sleep", "nanosleep", || std::thread::sleep(Duration::from_nanos(1))),
    ("product_clock", "clock_gettime", || {
        quorate_world::clock::boot_now();
    }),
];

fn child(test: &str, leak: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(LEAK, leak)
        .output()
        .unwrap()
}

#[test]
fn every_leak_is_caught() {
    if let Ok(name) = std::env::var(LEAK) {
        let (_, _, leak) = LEAKS.iter().find(|(n, _, _)| *n == name).unwrap();
        simulate(*leak);
        return;
    }
    for (name, function, _) in LEAKS {
        let output = child("every_leak_is_caught", name);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{name}: {text}");
        let said = "tripwire: simulated code of a/daemon at 3000000000 ns calls ";
        let line = text.lines().find(|line| line.starts_with(said)).unwrap_or_default();
        assert!(line.contains(function), "{name}: {text}");
    }
}

#[test]
fn what_is_not_simulated_may_ask() {
    let before = Instant::now();
    let world = World::new(1);
    let scope = world.scope(world.machine("a", 0), "daemon");
    let _task = world.spawn(scope, async {
        for _ in 0..100 {
            exec::sleep(Duration::from_secs(3600)).await;
        }
    });
    // Whoever runs the world measures how long that takes.
    let mut steps = 0;
    let mut elapsed = Duration::ZERO;
    world.run_until(400 * 3_600_000_000_000, &mut || {
        steps += 1;
        elapsed = before.elapsed();
        true
    });
    assert_eq!(steps, 101);
    assert!(elapsed > Duration::ZERO && elapsed < Duration::from_secs(60));
    assert!(!tripwire::is_armed());
    // Clocks and sleeps still work.
    std::thread::sleep(Duration::from_millis(5));
    assert!(before.elapsed() >= Duration::from_millis(5));
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // SAFETY: null is allowed.
    let time = unsafe { libc::time(std::ptr::null_mut()) };
    assert!(today.as_secs().abs_diff(time as u64) <= 1 && time > 1_700_000_000);
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    assert_ne!(bytes, [0; 32]);
    // Another thread is not simulated while this one is.
    let other = simulate(|| {
        std::thread::scope(|scope| {
            scope.spawn(Instant::now);
        });
    });
    drop(other);
}

/// The order of a hash map that simulated code made first on its thread.
fn order() -> Vec<u32> {
    static ORDER: std::sync::Mutex<Vec<u32>> = std::sync::Mutex::new(Vec::new());
    std::thread::spawn(|| {
        drop(simulate(|| {
            let map: HashMap<u32, ()> = (0..100).map(|n| (n, ())).collect();
            *ORDER.lock().unwrap() = map.into_keys().collect();
        }));
    })
    .join()
    .unwrap();
    ORDER.lock().unwrap().clone()
}

#[test]
fn hash_maps_have_one_order_and_are_counted() {
    if std::env::var_os(LEAK).is_some() {
        println!("order={:?}", order());
        return;
    }
    let before = tripwire::hash_keys();
    let expected = format!("order={:?}", order());
    assert!(tripwire::hash_keys() > before);
    let output = child("hash_maps_have_one_order_and_are_counted", "none");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&expected), "{text}");
}
