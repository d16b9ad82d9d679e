//! Many runs, on some threads.
//!
//! Owns who runs which seed, and that the figures do not depend on who was faster. A run lives on
//! one thread from its beginning to its end. Imports single runs.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use quorate_world::check::Rule;
use quorate_world::schedule::{self, Plan, Profile};

use super::outcome::{Figures, Found, Outcome};
use super::play::{Told, play};

/// Which runs.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub jobs: u64,
    /// What kind of plans.
    pub profile: Profile,
    /// Whether each is run a second time, in a process of its own, and the hashes are compared.
    pub verify: bool,
    /// No further seed is begun after so many violations.
    pub violations_max: u64,
}

/// Runs a plan. A panic of the simulation itself is a violation, too.
pub fn guarded(plan: &Plan) -> Outcome {
    let run = catch_unwind(AssertUnwindSafe(|| play(plan, Told::Nothing).outcome));
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let what = text.unwrap_or_else(|| "a panic without words".to_owned());
        let found = Found { rule: Rule::NoPanic.name().to_owned(), at_us: 0, what };
        Outcome { seed: plan.seed, found: Some(found), ..Outcome::default() }
    })
}

/// The same run in a fresh process: its hash.
fn hash_elsewhere(seed: u64, profile: Profile) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(program)
        .args(["outcome", "--seed", &seed.to_string(), "--profile", profile.name()])
        .output()
        .map_err(|e| e.to_string())?;
    let outcome: Outcome = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(outcome.hash)
}

fn one(campaign: &Campaign, seed: u64) -> Outcome {
    let plan = schedule::generate(seed, campaign.profile);
    let mut outcome = guarded(&plan);
    if campaign.verify && outcome.found.is_none() {
        let what = match hash_elsewhere(seed, campaign.profile) {
            Ok(hash) if hash == outcome.hash => None,
            Ok(hash) => Some(format!(
                "this process has hash {:016x} and another has {hash:016x}: the run is not repeatable",
                outcome.hash
            )),
            Err(why) => Some(format!("the run in another process failed: {why}")),
        };
        let rule = "repeatable".to_owned();
        outcome.found = what.map(|what| Found { rule, at_us: 0, what });
    }
    outcome
}

impl Campaign {
    /// Runs all seeds; `each` is told of every run as it ends. Returns the sums, and the runs in
    /// which something was found, by seed.
    pub fn run(&self, mut each: impl FnMut(&Outcome)) -> (Figures, Vec<Outcome>) {
        let next = AtomicU64::new(self.from);
        let end = self.from.saturating_add(self.seeds);
        let enough = AtomicBool::new(false);
        let (sender, outcomes) = mpsc::channel();
        let mut all: BTreeMap<u64, Outcome> = BTreeMap::new();
        thread::scope(|threads| {
            for _ in 0..self.jobs.max(1) {
                let sender = sender.clone();
                let (next, enough) = (&next, &enough);
                threads.spawn(move || {
                    while !enough.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end || sender.send(one(self, seed)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let mut violations = 0;
            for outcome in outcomes {
                each(&outcome);
                violations += u64::from(outcome.found.is_some());
                if violations >= self.violations_max {
                    enough.store(true, Ordering::Relaxed);
                }
                all.insert(outcome.seed, outcome);
            }
        });
        let mut figures = Figures::default();
        all.values().for_each(|outcome| figures.add(outcome));
        (figures, all.into_values().filter(|o| o.found.is_some()).collect())
    }
}
