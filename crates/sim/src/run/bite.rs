//! Teeth: how many seeds it takes to find each rule that is left out.
//!
//! Owns the search and its table. A mutant is left out in a whole process, so each has one of its
//! own. What is found counts only where the same plan is clean with the rule in place.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use quorate_world::schedule::{self, Profile};

use super::campaign::guarded;
use super::outcome::Found;
use crate::domain::mutant::leave_out;
use crate::teeth::{Needs, TEETH, Tooth};

/// What a search came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bite {
    /// How many plans were run without the rule.
    pub seeds: u64,
    /// The seed that found it.
    pub seed: Option<u64>,
    /// Its profile.
    pub profile: String,
    /// What was found.
    pub found: Option<Found>,
    /// Seeds, with their profiles, that fail with the rule in place, too: they find something else.
    pub unclean: Vec<(u64, String)>,
    /// Simulated time without the rule, in milliseconds.
    pub simulated_ms: u64,
    /// Real time of all of it, in milliseconds.
    pub wall_ms: u64,
    /// Whether a run did not end.
    pub endless: bool,
}

/// How much longer than its bound a search may take, since a run is not broken off.
const GRACE: Duration = Duration::from_secs(60);
/// How often it is looked whether a search has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How long is searched at most for one tooth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first seed.
    pub from: u64,
    /// Most runs without the rule.
    pub seeds_max: u64,
    /// No run is begun after so long, in seconds of real time.
    pub wall_s_max: u64,
}

/// The profiles in which a tooth can bite. Their plans take turns.
pub fn profiles(tooth: &Tooth) -> &'static [Profile] {
    match tooth.needs {
        Needs::Nothing => &[Profile::All],
        Needs::RudeClients => &[Profile::Rude],
        Needs::WideClocks => &[Profile::WideClocks],
        Needs::BadClocks => &[Profile::Clocks],
        Needs::TwoConfirm => &[Profile::TwoConfirm],
        Needs::CloneFrom => &[Profile::CloneFrom],
        Needs::Five => &[Profile::Five],
        Needs::Elections => &[Profile::Control],
        Needs::OneFollower => &[Profile::Follower],
        Needs::Losses => &[Profile::Data, Profile::Data, Profile::All],
        Needs::Leavers => &[Profile::Members],
        Needs::Hands => &[Profile::Rude, Profile::Control],
        Needs::Failsafe => &[Profile::Failsafe],
    }
}

/// Runs seeds without a rule until something is found that is right with it. Of this process. What
/// is found counts only where the same plan ends well with the rule in place.
#[allow(clippy::disallowed_methods)] // how long it takes is measured in real time
pub fn search(tooth: &Tooth, bounds: Bounds) -> Bite {
    let begun = Instant::now();
    let mut bite = Bite::default();
    let profiles = profiles(tooth);
    for run in 0..bounds.seeds_max {
        if begun.elapsed().as_secs() >= bounds.wall_s_max {
            break;
        }
        let seed = bounds.from + run;
        let profile = profiles[(run % profiles.len() as u64) as usize];
        let plan = schedule::generate(seed, profile);
        leave_out(Some(tooth.mutant));
        let outcome = guarded(&plan);
        leave_out(None);
        bite.seeds += 1;
        bite.simulated_ms += outcome.simulated_ms;
        let Some(found) = outcome.found else { continue };
        if guarded(&plan).found.is_some() {
            bite.unclean.push((seed, profile.name().to_owned()));
            continue;
        }
        bite.seed = Some(seed);
        bite.profile = profile.name().to_owned();
        bite.found = Some(found);
        break;
    }
    bite.wall_ms = begun.elapsed().as_millis() as u64;
    bite
}

/// The tooth of a name.
pub fn tooth(name: &str) -> Option<&'static Tooth> {
    TEETH.iter().find(|tooth| tooth.name() == name)
}

/// Searches for all of them, or for the named ones, each in a process of its own. `each` is told of
/// every one as it ends. Returns whether all were found.
///
/// # Errors
/// There is no such tooth, or no process could be started.
pub fn all(
    only: &[String],
    bounds: Bounds,
    jobs: usize,
    each: impl Fn(&Tooth, &Bite) + Sync,
) -> Result<bool, String> {
    let mut chosen = Vec::new();
    for name in only {
        chosen.push(tooth(name).ok_or_else(|| format!("there is no tooth named {name}"))?);
    }
    if only.is_empty() {
        chosen.extend(TEETH);
    }
    let next = AtomicUsize::new(0);
    let verdict = Mutex::new(Ok(true));
    thread::scope(|threads| {
        for _ in 0..jobs.max(1) {
            threads.spawn(|| {
                while let Some(tooth) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = elsewhere(tooth, bounds);
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

#[allow(clippy::disallowed_methods)] // another process is waited for in real time
fn elsewhere(tooth: &Tooth, bounds: Bounds) -> Result<Bite, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .args(["bite", "--tooth", &tooth.name(), "--from", &bounds.from.to_string()])
        .args(["--seeds-max", &bounds.seeds_max.to_string()])
        .args(["--wall-s-max", &bounds.wall_s_max.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| e.to_string())?;
    // A run that never ends would keep the search from its own end.
    let begun = Instant::now();
    let patience = Duration::from_secs(bounds.wall_s_max).saturating_add(GRACE);
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        if begun.elapsed() >= patience {
            child.kill().map_err(|e| e.to_string())?;
            child.wait().map_err(|e| e.to_string())?;
            return Ok(Bite { endless: true, ..Bite::default() });
        }
        thread::sleep(LOOK);
    }
    let mut text = String::new();
    let mut stdout = child.stdout.take().ok_or("there is no answer")?;
    stdout.read_to_string(&mut text).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

/// A line of the table.
pub fn line(tooth: &Tooth, bite: &Bite) -> String {
    let (result, profile) = match (&bite.found, bite.seed) {
        (Some(found), Some(seed)) => {
            (format!("{} (seed {seed})", found.rule), bite.profile.clone())
        }
        _ => {
            let mut names: Vec<_> = profiles(tooth).iter().map(|p| p.name()).collect();
            names.dedup();
            let words = if bite.endless { "NOT FOUND: a run does not end" } else { "NOT FOUND" };
            (words.to_owned(), names.join(", "))
        }
    };
    let unclean: Vec<String> =
        bite.unclean.iter().map(|(seed, profile)| format!("{profile} {seed}")).collect();
    let unclean = match unclean.is_empty() {
        true => String::new(),
        false => format!("; fail with the rule in place: {}", unclean.join(", ")),
    };
    format!(
        "| `{}` | {result}{unclean} | {} | {profile} | {:.2} | {:.1} s |",
        tooth.name(),
        bite.seeds,
        bite.simulated_ms as f64 / 3_600_000.0,
        bite.wall_ms as f64 / 1000.0,
    )
}

/// The head of the table.
pub const HEAD: &str = "| rule left out | found by | seeds | profile | simulated hours | time |\n\
                        |---|---|---|---|---|---|";
