//! What is explored, and what it has to show.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::told::Told;
use super::{Bounds, Lease, Rule, Start};
use crate::domain::mutant::{self, Mutant};
use crate::report::{self, Expected, Found, Outcome, Scale};

/// Most steps that one exploration looks at: several lead to each state.
const STEPS_MAX: usize = 400_000_000;

/// What is left out.
#[derive(Debug, Clone, Copy)]
enum Without {
    /// Nothing.
    Nothing,
    /// A rule outside of the domain code.
    Rule(Rule),
    /// A rule of the domain code.
    Mutant(Mutant),
}

/// One exploration.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Unique in the program.
    name: &'static str,
    bounds: Bounds,
    without: Without,
    expected: Expected,
    /// Of so many states one is checked for whether it heals; 0 for none.
    heal_every: u64,
}

impl Run {
    #[allow(clippy::disallowed_methods)] // how long the search took, for the one who waits for it
    fn explore(&self) -> Option<Outcome> {
        let Run { name, expected, bounds, without, heal_every } = *self;
        if !report::wanted(name) {
            return None;
        }
        let begun = Instant::now();
        let (rule, mutant) = match without {
            Without::Nothing => (None, None),
            Without::Rule(rule) => (Some(rule), None),
            Without::Mutant(mutant) => (None, Some(mutant)),
        };
        mutant::leave_out(mutant);
        // With one thread the counterexample is the shortest.
        let threads = if expected == Expected::Holds { 2 } else { 1 };
        let checker = Lease::new(bounds, rule, heal_every)
            .checker()
            .threads(threads)
            .finish_when(HasDiscoveries::AnyFailures)
            .target_state_count(STEPS_MAX)
            .spawn_bfs()
            .join();
        let discoveries = checker.discoveries().into_iter();
        let found = discoveries.min_by_key(|(name, _)| *name).map(|(property, path)| {
            let steps = path.into_vec();
            let told = |(state, action)| Some(Told(&state, action?).to_string());
            let trace: Vec<String> = steps.into_iter().filter_map(told).collect();
            Found { property: property.to_owned(), steps: trace.len(), trace }
        });
        mutant::leave_out(None);
        let outcome = Outcome {
            name: name.to_owned(),
            expected,
            states: checker.unique_state_count(),
            depth: checker.max_depth(),
            complete: found.is_none() && checker.state_count() < STEPS_MAX,
            found,
            seconds: begun.elapsed().as_secs_f64(),
        };
        outcome.print();
        Some(outcome)
    }
}

const SMALL: Bounds = Bounds {
    members: 2,
    terms: 1,
    epochs: 3,
    guards: 1,
    restarts: 0,
    ttl: 2,
    start: Start::Anywhere,
    late: false,
    deaths: true,
    stepwise: false,
};
const CLOSED: Bounds = Bounds { start: Start::Closed, terms: 2, deaths: false, ..SMALL };
const TWO_TERMS: Bounds = Bounds { terms: 2, ..SMALL };
const THREE_TERMS: Bounds = Bounds { terms: 3, ..SMALL };
const FOUR_TERMS: Bounds = Bounds { terms: 4, deaths: false, ..SMALL };
const NO_DEATHS: Bounds = Bounds { terms: 2, deaths: false, ..SMALL };
const TWO_LIVES: Bounds = Bounds { guards: 2, ..SMALL };

fn holds(name: &'static str, bounds: Bounds, heal_every: u64) -> Run {
    Run { name, bounds, without: Without::Nothing, expected: Expected::Holds, heal_every }
}

fn left_out(name: &'static str, bounds: Bounds, rule: Rule) -> Run {
    let without = Without::Rule(rule);
    Run { name, bounds, without, expected: Expected::Violated, heal_every: 0 }
}

fn mutant(name: &'static str, bounds: Bounds, mutant: Mutant) -> Run {
    let without = Without::Mutant(mutant);
    Run { name, bounds, without, expected: Expected::Violated, heal_every: 0 }
}

/// A rule whose absence another one makes up for.
fn made_up_for(name: &'static str, bounds: Bounds, without: Without) -> Run {
    Run { name, bounds, without, expected: Expected::Holds, heal_every: 0 }
}

fn explore(runs: &[Run]) -> Vec<Outcome> {
    runs.iter().filter_map(Run::explore).collect()
}

/// The protocol as it stands.
pub fn run(scale: Scale) -> Vec<Outcome> {
    let mut runs = vec![
        holds("lease-holds", TWO_TERMS, 64),
        holds("lease-holds-lives", Bounds { restarts: 1, ..TWO_LIVES }, 64),
    ];
    if scale == Scale::Full {
        runs.extend([
            holds("lease-holds-stepwise", Bounds { stepwise: true, ..SMALL }, 0),
            holds("lease-holds-heal", Bounds { restarts: 1, ..TWO_LIVES }, 1),
            holds("lease-holds-terms", THREE_TERMS, 256),
            holds("lease-holds-both", Bounds { terms: 2, restarts: 1, ..TWO_LIVES }, 256),
            holds("lease-holds-epochs", Bounds { epochs: 4, guards: 3, ..SMALL }, 256),
            holds("lease-holds-members", Bounds { members: 3, ..TWO_TERMS }, 256),
            holds("lease-holds-ttl", Bounds { ttl: 3, ..TWO_TERMS }, 256),
        ]);
    }
    explore(&runs)
}

/// The protocol without one of its rules at a time.
pub fn mutations(scale: Scale) -> Vec<Outcome> {
    let mut runs = vec![
        mutant("lease-without-full-window", TWO_TERMS, Mutant::NoFullWindow),
        mutant("lease-without-pending-counted", SMALL, Mutant::PendingNotCounted),
        mutant("lease-without-clock-factor", SMALL, Mutant::NoClockFactor),
        mutant("lease-without-lease-to-promote", SMALL, Mutant::NoLease),
        mutant("lease-without-proof-of-the-guard", SMALL, Mutant::ProofOfAnyGuard),
        left_out("lease-without-stop-final", TWO_LIVES, Rule::StopFinal),
        left_out("lease-without-proof-before-report", SMALL, Rule::ProofBeforeReport),
        left_out("lease-without-own-term-before-answer", CLOSED, Rule::OwnTermBeforeAnswer),
        left_out("lease-without-own-term-commit", FOUR_TERMS, Rule::OwnTermCommit),
        left_out("lease-without-first-entry", TWO_TERMS, Rule::FirstEntry),
        left_out("lease-without-check-after-barrier", CLOSED, Rule::CheckAfterBarrier),
        left_out("lease-without-barrier-after-arrival", NO_DEATHS, Rule::BarrierAfterArrival),
        left_out("lease-without-wait-for-barrier", NO_DEATHS, Rule::WaitForBarrier),
        left_out("lease-without-counting-from-sending", SMALL, Rule::LeaseFromSending),
        left_out("lease-without-first-renewal", SMALL, Rule::LeaseByRenewal),
        left_out("lease-without-close-committed", SMALL, Rule::CloseCommitted),
        left_out("lease-without-kernel-timer", SMALL, Rule::GuardTimer),
        left_out("lease-without-arming-first", SMALL, Rule::ArmBeforeLease),
    ];
    for run in &mut runs {
        // The one rule without which nobody ever leads.
        if let Without::Rule(Rule::FirstEntry) = run.without {
            run.heal_every = 1;
        }
    }
    if scale == Scale::Full {
        let late = Bounds { terms: 3, late: true, deaths: false, ..SMALL };
        let one_term = Bounds { restarts: 1, ..TWO_LIVES };
        let mutant = Without::Mutant;
        runs.extend([
            // A close is committed before anything is judged, and no later leader renews it.
            made_up_for("lease-spare-expiry-of-the-term", late, mutant(Mutant::ExpiryOfAnyTerm)),
            // The kernel's timer.
            made_up_for("lease-spare-clock-of-the-agent", one_term, mutant(Mutant::LeaseNeverEnds)),
            // The life of the guard: the epoch belongs to the one that is proven dead.
            made_up_for("lease-spare-ended", one_term, mutant(Mutant::StopNotFinal)),
            // The agent compares it as well.
            made_up_for(
                "lease-spare-guard-in-renewal",
                one_term,
                Without::Rule(Rule::GuardInRenewal),
            ),
            // The end of the epoch is recorded.
            made_up_for("lease-spare-guard-of-grant", one_term, mutant(Mutant::GuardNotCompared)),
        ]);
    }
    explore(&runs)
}
