//! What is done with a plan that fails: it is made small, told, and kept as a file.
//!
//! Owns the order of these, and the text. Imports single runs, the search for smaller plans, and
//! timelines.

use std::fs;
use std::path::{Path, PathBuf};

use quorate_world::schedule::{self, Plan};
use quorate_world::shrink::{Shrunk, shrink};

use super::campaign::guarded;
use super::outcome::Found;
use super::play::{Played, Told, play};

/// Most lines of a timeline.
pub const LINES_MAX: usize = 90;

/// Makes a failing plan small: what is left breaks the same rule.
pub fn smaller(plan: &Plan, found: &Found, runs_max: u32) -> Shrunk {
    shrink(plan, runs_max, |candidate| {
        guarded(candidate).found.is_some_and(|again| again.rule == found.rule)
    })
}

/// Plays a plan and tells it.
pub fn told(plan: &Plan) -> String {
    let Played { outcome, story, .. } = play(plan, Told::Story);
    let (faults, operations) = (plan.faults.len(), plan.operations.len());
    let nodes = plan.topology.nodes.len();
    let head = format!(
        "seed {}: {nodes} nodes, {faults} faults, {operations} operations, {} s and then {} s to heal\n",
        plan.seed,
        plan.horizon_ms / 1000,
        plan.heal_ms / 1000
    );
    let end = match &outcome.found {
        Some(found) => format!("\n{} is broken.\n", found.rule),
        None => "\nNothing is wrong.\n".to_owned(),
    };
    let hash = format!("hash {:016x}\n", outcome.hash);
    [head, story, end, hash].concat()
}

/// Writes a plan into a directory, which is made where it is missing.
///
/// # Errors
/// It cannot be written.
pub fn keep(plan: &Plan, dir: &Path, name: &str) -> std::io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, schedule::write(plan))?;
    Ok(path)
}

/// Reads a plan of a file.
///
/// # Errors
/// It cannot be read, or is no plan.
pub fn kept(path: &Path) -> Result<Plan, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    schedule::read(&text).map_err(|e| format!("{}: {e}", path.display()))
}
