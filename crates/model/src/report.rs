//! What one exploration of a model found, in the form that `main` prints and judges.

use std::sync::OnceLock;

/// How much to explore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Small bounds, for every change: everything together within a minute.
    Quick,
    /// The largest bounds that are worth their time.
    Full,
}

/// What an exploration has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every property holds in every state.
    Holds,
    /// A rule is left out, and some property has a counterexample.
    Violated,
}

/// A property that does not hold, with the shortest way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name of the property.
    pub property: String,
    /// Number of steps from the start.
    pub steps: usize,
    /// The steps, for a reader.
    pub trace: Vec<String>,
}

/// Result of one exploration.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the exploration, unique in the program.
    pub name: String,
    /// What it has to show.
    pub expected: Expected,
    /// The counterexample, if there is one.
    pub found: Option<Found>,
    /// Number of distinct states seen.
    pub states: usize,
    /// Length of the longest shortest path seen, in steps.
    pub depth: usize,
    /// Whether every state within the bounds was seen. False where the search ended at a
    /// counterexample or at a limit of states.
    pub complete: bool,
    /// Time that the search took, in seconds.
    pub seconds: f64,
}

impl Outcome {
    /// Whether the exploration showed what it has to. One that must hold shows nothing unless it
    /// is complete.
    pub fn as_expected(&self) -> bool {
        match self.expected {
            Expected::Holds => self.found.is_none() && self.complete,
            Expected::Violated => self.found.is_some(),
        }
    }

    /// Prints its line, and the counterexample where that was asked for. Called once for each
    /// exploration, as soon as it has ended.
    pub fn print(&self) {
        let verdict = if self.as_expected() { "ok  " } else { "FAIL" };
        let expected = match self.expected {
            Expected::Holds => "holds",
            Expected::Violated => "violated",
        };
        let found = match &self.found {
            Some(found) => format!("{} in {} steps", found.property, found.steps),
            None => "nothing".to_owned(),
        };
        let extent = if self.complete { "complete" } else { "cut" };
        println!(
            "{verdict} {:<44} expected {expected:<8} found {found}; {} states, depth {}, {extent}, {:.1} s",
            self.name, self.states, self.depth, self.seconds
        );
        if let (true, Some(found)) = (selection().trace, &self.found) {
            for (number, step) in found.trace.iter().enumerate() {
                println!("     {:>3}  {step}", number + 1);
            }
        }
    }
}

/// What of it all was asked for.
#[derive(Debug, Default)]
pub struct Selection {
    /// Only explorations whose name begins so.
    pub only: Option<String>,
    /// Whether counterexamples are printed.
    pub trace: bool,
}

static SELECTION: OnceLock<Selection> = OnceLock::new();

/// Sets what is asked for. The first call counts.
pub fn select(selection: Selection) {
    let _ = SELECTION.set(selection);
}

/// What is asked for: everything, without counterexamples, where nothing was set.
pub fn selection() -> &'static Selection {
    SELECTION.get_or_init(Selection::default)
}

/// Whether an exploration of this name is asked for.
pub fn wanted(name: &str) -> bool {
    selection().only.as_ref().is_none_or(|only| name.starts_with(only.as_str()))
}
