//! Many seeds on a few threads.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::clock::Micros;
use super::rng::mix;
use super::run::{Job, Outcome, run};
use super::setup::Class;
use super::world::{Broken, Counts};

/// Which seeds, and how.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// How long faults go on in each, in seconds.
    pub fault_seconds: u64,
    /// Threads.
    pub jobs: usize,
    /// Whether each seed runs twice, and has to do the same.
    pub verify: bool,
    /// Whether the first seed that breaks a promise ends it.
    pub stop_at_first: bool,
    /// Whether only what clients and an operator see is judged.
    pub black_box: bool,
}

/// A seed that broke a promise, or was not the same twice.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What it may do.
    pub class: Class,
    /// What was broken.
    pub broken: Broken,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Seeds run.
    pub seeds: u64,
    /// Simulated time, in microseconds.
    pub simulated: Micros,
    /// Numbers.
    pub counts: Counts,
    /// Of all runs together, whatever thread ran them.
    pub hash: u64,
    /// Seeds that failed.
    pub failures: BTreeMap<u64, Failure>,
}

impl Tally {
    fn take(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.counts.add(&outcome.counts);
        self.hash = self.hash.wrapping_add(mix(outcome.seed ^ outcome.hash));
        if let Some(broken) = &outcome.broken {
            let failure = Failure { class: outcome.class, broken: broken.clone() };
            self.failures.insert(outcome.seed, failure);
        }
    }
}

/// Runs every seed; `seen` hears of each that fails.
pub fn campaign(plan: &Campaign, seen: impl Fn(u64, &Failure) + Sync) -> Tally {
    let next = AtomicU64::new(plan.from);
    let ended = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    let work = || {
        while !ended.load(Ordering::SeqCst) {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= plan.from + plan.seeds {
                return;
            }
            let (fault_seconds, black_box) = (plan.fault_seconds, plan.black_box);
            let job = Job { seed, fault_seconds, only: None, told: false, black_box };
            let mut outcome = run(&job);
            if plan.verify && outcome.broken.is_none() {
                let again = run(&job).hash;
                if again != outcome.hash {
                    let found = format!("{:016x}, and then {again:016x}", outcome.hash);
                    let promise = "one seed gives one run";
                    outcome.broken = Some(Broken { at: outcome.simulated, promise, found });
                }
            }
            let Ok(mut tally) = tally.lock() else { return };
            tally.take(&outcome);
            if let Some(failure) = tally.failures.get(&seed) {
                seen(seed, failure);
                if plan.stop_at_first {
                    ended.store(true, Ordering::SeqCst);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..plan.jobs {
            scope.spawn(work);
        }
        work();
    });
    tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
