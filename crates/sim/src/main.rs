//! Runs simulations.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};

use quorate_sim::run::campaign::{Campaign, guarded};
use quorate_sim::run::failure::{keep, kept, smaller, told};
use quorate_sim::run::outcome::Found;
use quorate_sim::run::play::{Told, play};
use quorate_sim::run::{bite, outcome::Outcome};
use quorate_world::schedule::{self, Plan, Profile};

// Simulated code that asks for real time or real randomness ends the process.
quorate_world::tripwire!();

/// Runs Quorate's production code in a simulated world, from one seed.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProfileName(Profile);

impl ValueEnum for ProfileName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[ProfileName] = &{
            let mut all = [ProfileName(Profile::All); Profile::ALL.len()];
            let mut i = 0;
            while i < all.len() {
                all[i] = ProfileName(Profile::ALL[i].1);
                i += 1;
            }
            all
        };
        ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run many seeds.
    Run {
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// On how many threads.
        #[arg(long, default_value_t = 2)]
        jobs: u64,
        /// Run each a second time in a process of its own, and compare the hashes.
        #[arg(long)]
        verify: bool,
        /// What kind of plans.
        #[arg(long, default_value = "all")]
        profile: ProfileName,
        /// Begin no further seed after so many violations.
        #[arg(long, default_value_t = 3)]
        violations_max: u64,
        /// Most runs to make the first failing plan smaller; 0 not to try.
        #[arg(long, default_value_t = 150)]
        shrink_runs: u32,
        /// Where failing plans are written to.
        #[arg(long, default_value = "target/sim")]
        out: PathBuf,
    },
    /// Run one seed, or the plan of a file, and tell what happened.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Print every line of the trace.
        #[arg(long)]
        trace: bool,
    },
    /// Make a failing plan smaller, and tell what is left.
    Shrink {
        #[command(flatten)]
        which: Which,
        /// Most runs.
        #[arg(long, default_value_t = 500)]
        runs: u32,
        /// Where the smaller plan is written to.
        #[arg(long, default_value = "target/sim")]
        out: PathBuf,
    },
    /// Print the plan of a seed.
    Plan {
        #[command(flatten)]
        which: Which,
    },
    /// Run all plans of a directory, each twice, and compare the hashes.
    Regressions {
        /// Of `.json` files.
        dir: PathBuf,
    },
    /// Leave out one rule after the other, and see how soon that is found.
    Teeth {
        /// Only these, divided by commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Most seeds for each.
        #[arg(long, default_value_t = 300)]
        seeds_max: u64,
        /// Longest search for each, in seconds of real time.
        #[arg(long, default_value_t = 600)]
        wall_s_max: u64,
        /// How many processes.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Run one seed, and print what it came to as JSON.
    #[command(hide = true)]
    Outcome {
        #[command(flatten)]
        which: Which,
    },
    /// Search for one rule that is left out, and print what it took as JSON.
    #[command(hide = true)]
    Bite {
        #[arg(long)]
        tooth: String,
        #[arg(long)]
        from: u64,
        #[arg(long)]
        seeds_max: u64,
        #[arg(long)]
        wall_s_max: u64,
    },
}

/// Which plan.
#[derive(Debug, clap::Args)]
struct Which {
    /// That of this seed.
    #[arg(long, required_unless_present = "plan")]
    seed: Option<u64>,
    /// What kind of plan the seed gives.
    #[arg(long, default_value = "all")]
    profile: ProfileName,
    /// That of this file.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// Leave this rule out.
    #[arg(long)]
    without: Option<String>,
}

impl Which {
    fn plan(&self) -> Result<Plan, String> {
        if let Some(name) = &self.without {
            let tooth = bite::tooth(name).ok_or_else(|| format!("there is no tooth {name}"))?;
            quorate_sim::domain::mutant::leave_out(Some(tooth.mutant));
        }
        match (&self.plan, self.seed) {
            (Some(path), _) => kept(path),
            (None, Some(seed)) => Ok(schedule::generate(seed, self.profile.0)),
            (None, None) => Err("name a seed or a plan".to_owned()),
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("quorate-sim: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Sub) -> Result<bool, String> {
    match command {
        Sub::Run { seeds, from, jobs, verify, profile, violations_max, shrink_runs, out } => {
            let campaign =
                Campaign { from, seeds, jobs, profile: profile.0, verify, violations_max };
            many(&campaign, shrink_runs, &out)
        }
        Sub::Replay { which, trace } => {
            let plan = which.plan()?;
            if trace {
                play(&plan, Told::Printed);
            }
            print!("{}", told(&plan));
            Ok(guarded(&plan).found.is_none())
        }
        Sub::Shrink { which, runs, out } => {
            let plan = which.plan()?;
            match guarded(&plan).found {
                None => Err("nothing is wrong with this plan".to_owned()),
                Some(found) => made_small(&plan, &found, runs, &out).map(|()| false),
            }
        }
        Sub::Plan { which } => {
            print!("{}", schedule::write(&which.plan()?));
            Ok(true)
        }
        Sub::Regressions { dir } => regressions(&dir),
        Sub::Teeth { only, from, seeds_max, wall_s_max, jobs } => {
            println!("{}", bite::HEAD);
            let bounds = bite::Bounds { from, seeds_max, wall_s_max };
            bite::all(&only, bounds, jobs, |tooth, result| {
                println!("{}", bite::line(tooth, result));
            })
        }
        Sub::Outcome { which } => {
            let outcome = guarded(&which.plan()?);
            println!("{}", json(&outcome)?);
            Ok(true)
        }
        Sub::Bite { tooth, from, seeds_max, wall_s_max } => {
            let tooth = bite::tooth(&tooth).ok_or("there is no such tooth")?;
            println!(
                "{}",
                json(&bite::search(tooth, bite::Bounds { from, seeds_max, wall_s_max }))?
            );
            Ok(true)
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| e.to_string())
}

fn report(outcome: &Outcome, profile: Profile) {
    if let Some(Found { rule, at_us, what }) = &outcome.found {
        let (seed, seconds) = (outcome.seed, *at_us as f64 / 1e6);
        println!("seed {seed}: {rule} is broken at {seconds:.3} s: {what}");
        println!("  again: make sim SEED={seed} PROFILE={}", profile.name());
    }
}

#[allow(clippy::disallowed_methods)] // how long it takes is measured in real time
fn many(campaign: &Campaign, shrink_runs: u32, out: &Path) -> Result<bool, String> {
    let begun = Instant::now();
    let (figures, failed) = campaign.run(|outcome| report(outcome, campaign.profile));
    println!("{}", figures.text(begun.elapsed().as_secs_f64()));
    let Some(first) = failed.first() else { return Ok(true) };
    let plan = schedule::generate(first.seed, campaign.profile);
    keep_plan(&plan, out, &format!("seed-{}", plan.seed))?;
    if let Some(found) = first.found.as_ref().filter(|f| f.rule().is_some() && shrink_runs > 0) {
        made_small(&plan, found, shrink_runs, out)?;
    }
    Ok(false)
}

fn keep_plan(plan: &Plan, out: &Path, name: &str) -> Result<(), String> {
    let path = keep(plan, out, name).map_err(|e| format!("{}: {e}", out.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

fn made_small(plan: &Plan, found: &Found, runs: u32, out: &Path) -> Result<(), String> {
    let small = smaller(plan, found, runs);
    println!(
        "{} faults and {} operations are left of {} and {}, after {} runs{}",
        small.plan.faults.len(),
        small.plan.operations.len(),
        plan.faults.len(),
        plan.operations.len(),
        small.runs,
        if small.complete { "" } else { ", which were used up" }
    );
    keep_plan(&small.plan, out, &format!("seed-{}-small", plan.seed))?;
    print!("{}", told(&small.plan));
    Ok(())
}

fn regressions(dir: &Path) -> Result<bool, String> {
    let unreadable = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        paths.extend(path.extension().is_some_and(|e| e == "json").then_some(path));
    }
    paths.sort();
    let mut right = true;
    for path in &paths {
        let plan = kept(path)?;
        let (first, second) = (guarded(&plan), guarded(&plan));
        let name = path.display();
        match &first.found {
            Some(found) => println!("{name}: {} is broken: {}", found.rule, found.what),
            None if first != second => println!("{name}: two runs of it differ"),
            None => continue,
        }
        right = false;
    }
    println!(
        "{} plans that once failed: {}",
        paths.len(),
        if right { "all right" } else { "WRONG" }
    );
    Ok(right)
}
