//! Explores the protocol exhaustively within small bounds, with the domain code that production
//! runs.
//!
//! ```text
//! quorate-model quick|full [--only NAME] [--trace]
//! ```
//!
//! Every exploration prints one line. The status is 1 where one did not show what it has to: the
//! protocol as it stands has no counterexample, and every rule that is left out has one. `--only`
//! runs those whose name begins with NAME, `--trace` prints the counterexamples.

#![forbid(unsafe_code)]

// The domain is production code: here only part of it is called.
#[allow(dead_code)]
#[path = "../../../src/domain/mod.rs"]
pub mod domain;

mod data;
mod lease;
mod report;

use std::process::ExitCode;

use report::{Expected, Outcome, Scale, Selection};

fn main() -> ExitCode {
    let mut scale = None;
    let mut only = None;
    let mut trace = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "quick" => scale = Some(Scale::Quick),
            "full" => scale = Some(Scale::Full),
            "--trace" => trace = true,
            "--only" => only = args.next(),
            _ => scale = None,
        }
    }
    let Some(scale) = scale else {
        eprintln!("usage: quorate-model quick|full [--only NAME] [--trace]");
        return ExitCode::from(2);
    };
    report::select(Selection { only, trace });
    let parts: [fn(Scale) -> Vec<Outcome>; 4] =
        [lease::run, data::run, lease::mutations, data::mutations];
    let outcomes: Vec<Outcome> = parts.iter().flat_map(|part| part(scale)).collect();
    let wrong: Vec<&Outcome> = outcomes.iter().filter(|o| !o.as_expected()).collect();
    let states: usize = outcomes.iter().map(|o| o.states).sum();
    let seconds: f64 = outcomes.iter().map(|o| o.seconds).sum();
    println!("{} explorations, {states} states, {seconds:.1} s", outcomes.len());
    for outcome in &wrong {
        match outcome.expected {
            Expected::Holds => println!("NOT SHOWN: {} holds", outcome.name),
            Expected::Violated => println!("NOT SHOWN: {} has a counterexample", outcome.name),
        }
    }
    if outcomes.is_empty() {
        eprintln!("no exploration has such a name");
        return ExitCode::from(2);
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
