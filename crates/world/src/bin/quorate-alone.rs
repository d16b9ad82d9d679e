//! Runs the simulation of the domain alone.
//!
//! ```text
//! quorate-alone run --seeds N [--from S] [--jobs J] [--hours-each H] [--verify]
//! quorate-alone --seed X [--only 1,2,3] [--trace] [--shrink] [--without RULE] [--hours-each H]
//! quorate-alone teeth [--seeds N] [--from S] [--jobs J] [--rule RULE] [--hours-each H]
//! ```
//!
//! `run` prints each seed that breaks a promise, and the sums. `--seed` runs one again, with its
//! timeline where `--trace` is given, and with as few faults as break the same promise where
//! `--shrink` is. `teeth` leaves out one rule of the protocol after the other, and prints how many
//! seeds it took to find that out by what clients see; a seed that breaks a promise with all rules
//! in force is counted as tainted, and finds nothing. `--hours-each` is how long faults go on in each seed, a sixth of
//! an hour by default. The status is 1 where a promise was broken, or a rule that can be found out
//! was not.

use std::process::ExitCode;
use std::time::Duration;

use quorate_world::alone::{
    Campaign, Failure, Found, Job, MUTANTS, Tally, campaign, describe, run, schedule, search,
    shrink,
};
use quorate_world::domain::mutant::leave_out;

const USAGE: &str = "usage: quorate-alone run|teeth|--seed X, see the head of its source";

/// Most runs of one shrinking.
const SHRINK_RUNS: usize = 600;

/// The arguments: flags, and names with a value.
struct Arguments(Vec<String>);

impl Arguments {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number<N: std::str::FromStr>(&self, name: &str, default: N) -> N {
        self.text(name).and_then(|v| v.parse().ok()).unwrap_or(default)
    }
}

fn main() -> ExitCode {
    let args = Arguments(std::env::args().skip(1).collect());
    let seconds = (args.number("--hours-each", 1.0 / 6.0) * 3600.0) as u64;
    if args.has("--seed") {
        return replay(&args, seconds.max(1));
    }
    let plan = Campaign {
        from: args.number("--from", 1),
        seeds: args.number("--seeds", 100),
        fault_seconds: seconds.max(1),
        jobs: args.number("--jobs", 2),
        verify: args.has("--verify"),
        stop_at_first: false,
        black_box: false,
    };
    match args.0.first().map(String::as_str) {
        Some("run") => run_all(&plan),
        Some("teeth") => teeth(&plan, args.text("--rule")),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// How long something took, for the one who waits for it: nothing simulated sees it.
#[allow(clippy::disallowed_methods)]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = std::time::Instant::now();
    let result = work();
    (result, begun.elapsed())
}

fn print_failure(seed: u64, Failure { class, broken }: &Failure) {
    let at = broken.at as f64 / 1e6;
    println!("seed {seed} ({class:?}) at {at:.3} s: {}: {}", broken.promise, broken.found);
}

fn run_all(plan: &Campaign) -> ExitCode {
    let (tally, wall) = timed(|| campaign(plan, print_failure));
    let Tally { seeds, simulated, counts, hash, failures } = tally;
    let hours = simulated as f64 / 3.6e9;
    let minutes = wall.as_secs_f64() / 60.0;
    println!("seeds                   {seeds}{}", if plan.verify { ", each twice" } else { "" });
    println!("simulated hours         {hours:.2}");
    println!("failovers               {}", counts.failovers);
    println!("switchovers             {}", counts.switchovers);
    println!("openings for writes     {}", counts.openings);
    println!("acknowledged writes     {}", counts.acknowledged);
    println!("leaders of controllers  {}", counts.leaders);
    println!("commands agreed on      {}", counts.commands);
    println!("losses accepted         {}", counts.losses_accepted);
    println!("rewinds and copies      {}", counts.replaced);
    println!("helped by the operator  {}", counts.helped);
    println!("events                  {}", counts.events);
    println!("violations              {}", failures.len());
    println!("wall time               {:.1} s", wall.as_secs_f64());
    println!("cluster-hours a minute  {:.1}", hours / minutes);
    println!("trace hash              {hash:016x}");
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(args: &Arguments, fault_seconds: u64) -> ExitCode {
    let Some(seed) = args.text("--seed").and_then(|v| v.parse().ok()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let rule = args.text("--without");
    let mutant = MUTANTS.iter().find(|m| Some(m.1) == rule).map(|m| m.0);
    if mutant.is_none() && rule.is_some() {
        eprintln!("no rule has such a name");
        return ExitCode::from(2);
    }
    leave_out(mutant);
    let only = args.text("--only").map(|v| v.split(',').filter_map(|n| n.parse().ok()).collect());
    let (setup, faults) = schedule(seed, fault_seconds);
    let black_box = mutant.is_some();
    let mut job = Job { seed, fault_seconds, only, told: args.has("--trace"), black_box };
    let mut outcome = run(&job);
    if let (Some(broken), true) = (&outcome.broken, args.has("--shrink")) {
        let (kept, runs) = shrink(&job, faults.len(), broken.promise, SHRINK_RUNS);
        println!("{} of {} faults are left after {runs} runs", kept.len(), faults.len());
        job.only = Some(kept);
        outcome = run(&job);
    }
    let kept = job.only.clone().unwrap_or_else(|| (0..faults.len() as u32).collect());
    println!("{setup:#?}");
    print!("{}", describe(&setup, &faults, &kept));
    for line in &outcome.story {
        println!("{line}");
    }
    let Some(broken) = outcome.broken else {
        println!("nothing is broken; trace hash {:016x}", outcome.hash);
        return ExitCode::SUCCESS;
    };
    print_failure(seed, &Failure { class: outcome.class, broken });
    let list: Vec<String> = kept.iter().map(ToString::to_string).collect();
    println!(
        "trace hash {:016x}; again with --seed {seed} --only {}",
        outcome.hash,
        list.join(",")
    );
    ExitCode::FAILURE
}

fn teeth(plan: &Campaign, only: Option<&str>) -> ExitCode {
    let mut missed = 0;
    println!(
        "{:<22} {:>6} {:>7} {:>7} {:>7}  found by",
        "left out", "seeds", "tainted", "hours", "wall s"
    );
    for (mutant, name, why_not) in MUTANTS {
        if only.is_some_and(|only| only != *name) {
            continue;
        }
        let (Found { failure, seeds, tainted, simulated }, wall) = timed(|| search(*mutant, plan));
        let hours = simulated as f64 / 3.6e9;
        let how = match (&failure, why_not) {
            (Some((seed, failure)), _) => {
                format!("{} (seed {seed}, {:?})", failure.broken.promise, failure.class)
            }
            (None, Some(why)) => format!("not found: {why}"),
            (None, None) => {
                missed += 1;
                "NOT FOUND".to_owned()
            }
        };
        let wall = wall.as_secs_f64();
        println!("{name:<22} {seeds:>6} {tainted:>7} {hours:>7.1} {wall:>7.1}  {how}");
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
