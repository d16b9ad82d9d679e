//! Teeth: how many seeds it takes to find each rule that is left out.
//!
//! Owns the search and its table. A mutant is left out in a whole process, so each has one of its
//! own. What is found counts only where the same plan is clean with the rule in place.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use quorate_world::schedule::{self, Profile};

use super::campaign::guarded;
use super::outcome::Found;
use crate::domain::mutant::leave_out;
use crate::teeth::{Needs, TEETH, Tooth};

/// What a search came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bite {
    /// How many seeds were run.
    pub seeds: u64,
    /// The seed that found it.
    pub seed: Option<u64>,
    /// What was found.
    pub found: Option<Found>,
    /// Seeds that fail with the rule in place, too: they find something else.
    pub unclean: Vec<u64>,
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
}

/// The profile in which a tooth can bite.
pub fn profile(tooth: &Tooth) -> Profile {
    match tooth.needs {
        Needs::Nothing => Profile::All,
        Needs::RudeClients => Profile::Rude,
        Needs::WideClocks => Profile::WideClocks,
        Needs::BadClocks => Profile::Clocks,
        Needs::TwoConfirm => Profile::TwoConfirm,
        Needs::CloneFrom => Profile::CloneFrom,
        Needs::Five => Profile::Five,
    }
}

/// Runs seeds without a rule until something is found that is right with it. Of this process.
pub fn search(tooth: &Tooth, from: u64, seeds_max: u64) -> Bite {
    let mut bite = Bite::default();
    let profile = profile(tooth);
    for seed in from..from.saturating_add(seeds_max) {
        let plan = schedule::generate(seed, profile);
        leave_out(Some(tooth.mutant));
        let outcome = guarded(&plan);
        leave_out(None);
        bite.seeds += 1;
        bite.simulated_ms += outcome.simulated_ms;
        let Some(found) = outcome.found else { continue };
        if guarded(&plan).found.is_some() {
            bite.unclean.push(seed);
            continue;
        }
        bite.seed = Some(seed);
        bite.found = Some(found);
        break;
    }
    bite
}

/// The tooth of a name.
pub fn tooth(name: &str) -> Option<&'static Tooth> {
    TEETH.iter().find(|tooth| tooth.name() == name)
}

/// Searches for all of them, or for the named one, each in a process of its own. `each` is told of
/// every one as it ends. Returns whether all were found.
///
/// # Errors
/// There is no such tooth, or no process could be started.
pub fn all(
    only: Option<&str>,
    from: u64,
    seeds_max: u64,
    jobs: usize,
    each: impl Fn(&Tooth, &Bite) + Sync,
) -> Result<bool, String> {
    let chosen: Vec<&Tooth> = match only {
        Some(name) => vec![tooth(name).ok_or_else(|| format!("there is no tooth named {name}"))?],
        None => TEETH.iter().collect(),
    };
    let next = AtomicUsize::new(0);
    let verdict = Mutex::new(Ok(true));
    thread::scope(|threads| {
        for _ in 0..jobs.max(1) {
            threads.spawn(|| {
                while let Some(tooth) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = elsewhere(tooth, from, seeds_max);
                    let mut verdict = verdict.lock().unwrap_or_else(|e| e.into_inner());
                    match result {
                        Ok(bite) => {
                            each(tooth, &bite);
                            if bite.found.is_none()
                                && let Ok(all_found) = &mut *verdict
                            {
                                *all_found = false;
                            }
                        }
                        Err(why) => *verdict = Err(format!("{}: {why}", tooth.name())),
                    }
                }
            });
        }
    });
    verdict.into_inner().unwrap_or_else(|e| e.into_inner())
}

fn elsewhere(tooth: &Tooth, from: u64, seeds_max: u64) -> Result<Bite, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(program)
        .args(["bite", "--tooth", &tooth.name(), "--from", &from.to_string()])
        .args(["--seeds-max", &seeds_max.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
}

/// A line of the table.
pub fn line(tooth: &Tooth, bite: &Bite) -> String {
    let hours = bite.simulated_ms as f64 / 3_600_000.0;
    let result = match (&bite.found, bite.seed) {
        (Some(found), Some(seed)) => format!("{} (seed {seed})", found.rule),
        _ => "NOT FOUND".to_owned(),
    };
    let unclean = match bite.unclean.len() {
        0 => String::new(),
        n => format!(", {n} seeds fail with the rule in place"),
    };
    format!(
        "| `{}` | {} | {hours:.2} | {} | {result}{unclean} |",
        tooth.name(),
        bite.seeds,
        profile(tooth).name()
    )
}

/// The head of the table.
pub const HEAD: &str = "| rule left out | seeds | simulated hours | profile | found by |\n\
                        |---|---|---|---|---|";
