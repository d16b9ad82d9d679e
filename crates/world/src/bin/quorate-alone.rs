//! Runs the simulation of the domain alone.
//!
//! ```text
//! quorate-alone run --seeds N [--from S] [--jobs 2] [--seconds F] [--verify]
//! quorate-alone seed X [--only 1,2,3] [--trace] [--shrink] [--seconds F]
//! ```

use std::process::ExitCode;

use quorate_world::alone::{Job, describe, run, schedule, shrink};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1).cloned()
    };
    let number =
        |name: &str, default: u64| value(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    let seconds = number("--seconds", 600);
    if let Some(seed) = value("seed").and_then(|v| v.parse().ok()) {
        let only: Option<Vec<u32>> =
            value("--only").map(|v| v.split(',').filter_map(|n| n.parse().ok()).collect());
        let mut job = Job { seed, fault_seconds: seconds, only, told: false };
        let (setup, faults) = schedule(seed, seconds);
        let outcome = run(&job);
        if let (Some(broken), true) = (&outcome.broken, args.iter().any(|a| a == "--shrink")) {
            let (kept, runs) = shrink(&job, faults.len(), broken.promise, 400);
            println!("{} of {} faults are left after {runs} runs", kept.len(), faults.len());
            job.only = Some(kept);
        }
        job.told = args.iter().any(|a| a == "--trace");
        let outcome = run(&job);
        let kept = job.only.clone().unwrap_or_else(|| (0..faults.len() as u32).collect());
        println!("{:?}", setup);
        print!("{}", describe(&setup, &faults, &kept));
        for line in &outcome.story {
            println!("{line}");
        }
        println!("{:?}\n{:?}\nhash {:016x}", outcome.counts, outcome.broken, outcome.hash);
        return ExitCode::SUCCESS;
    }
    let (from, seeds) = (number("--from", 1), number("--seeds", 10));
    #[allow(clippy::disallowed_methods)]
    let begun = std::time::Instant::now();
    let mut total = quorate_world::alone::Counts::default();
    let mut simulated = 0;
    let mut violations = 0;
    for seed in from..from + seeds {
        let job = Job { seed, fault_seconds: seconds, only: None, told: false };
        let outcome = run(&job);
        simulated += outcome.simulated;
        total.add(&outcome.counts);
        if let Some(broken) = outcome.broken {
            violations += 1;
            println!(
                "seed {seed} {:?} at {:.3} s: {}: {}",
                outcome.class,
                broken.at as f64 / 1e6,
                broken.promise,
                broken.found
            );
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    let hours = simulated as f64 / 3.6e9;
    println!("{total:?}");
    println!(
        "{violations} violations, {hours:.2} hours in {wall:.1} s: {:.1} hours a minute, {:.0} x",
        hours / wall * 60.0,
        hours * 3600.0 / wall
    );
    ExitCode::SUCCESS
}
