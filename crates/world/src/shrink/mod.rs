//! Makes a failing plan small.
//!
//! Owns the search: first fewer faults and operations (Zeller and Hildebrandt, "Simplifying and
//! isolating failure-inducing input", 2002), then simpler ones and a shorter run. A plan is tried by
//! running it, so the number of runs is bounded. Nothing is drawn: the same plan shrinks to the same
//! plan. Imports plans.

mod ddmin;
mod simpler;

use crate::schedule::{Fault, Operation, Plan};
use ddmin::ddmin;

/// What shrinking came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    /// The smallest plan found that fails in the same way.
    pub plan: Plan,
    /// How many plans were run.
    pub runs: u32,
    /// Whether nothing smaller was left to try; else the runs were used up.
    pub complete: bool,
}

/// A fault or an operation: they are left out alike.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Fault(Fault),
    Operation(Operation),
}

fn items(plan: &Plan) -> Vec<Item> {
    let faults = plan.faults.iter().cloned().map(Item::Fault);
    faults.chain(plan.operations.iter().cloned().map(Item::Operation)).collect()
}

fn with_items(plan: &Plan, items: &[Item]) -> Plan {
    let mut plan = Plan { faults: Vec::new(), operations: Vec::new(), ..plan.clone() };
    for item in items {
        match item {
            Item::Fault(fault) => plan.faults.push(fault.clone()),
            Item::Operation(operation) => plan.operations.push(operation.clone()),
        }
    }
    plan
}

/// Counts runs, and refuses more than are allowed.
struct Budget<'a> {
    fails: &'a mut dyn FnMut(&Plan) -> bool,
    runs: u32,
    runs_max: u32,
}

impl Budget<'_> {
    /// Whether a plan fails in the same way; `None` once no run is left.
    fn fails(&mut self, plan: &Plan) -> Option<bool> {
        if self.runs == self.runs_max {
            return None;
        }
        self.runs += 1;
        // A plan that makes no sense was not run, so it did not fail.
        Some(plan.problem().is_none() && (self.fails)(plan))
    }
}

/// Shrinks `plan`, which fails, as long as `fails` says that the smaller one fails in the same way.
pub fn shrink(plan: &Plan, runs_max: u32, mut fails: impl FnMut(&Plan) -> bool) -> Shrunk {
    let mut budget = Budget { fails: &mut fails, runs: 0, runs_max };
    let mut best = plan.clone();
    let complete = loop {
        let before = best.clone();
        let mut kept = items(&best);
        let complete = ddmin(&mut kept, |items| budget.fails(&with_items(&best, items)));
        best = with_items(&best, &kept);
        let complete = complete && simpler::simplify(&mut best, |plan| budget.fails(plan));
        // What is simpler may make more of it superfluous.
        if !complete || best == before {
            break complete;
        }
    };
    Shrunk { plan: best, runs: budget.runs, complete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Kind, Profile, Who, generate};

    fn crash(at_ms: u64, node: usize) -> Fault {
        Fault::at(at_ms, Kind::CrashMachine { node: Who::Node(node), torn: true }).lasting(5000)
    }

    /// A plan that is large, with two faults that matter.
    fn large() -> Plan {
        let mut plan = generate(5, Profile::All);
        plan.horizon_ms = 90_000;
        plan.faults.extend([crash(20_000, 0), crash(30_000, 1)]);
        plan.faults.sort_by_key(|f| f.at_ms);
        plan
    }

    fn crashes(plan: &Plan) -> Vec<(usize, u64)> {
        let crash = |f: &Fault| match f.what {
            Kind::CrashMachine { node: Who::Node(n), .. } => Some((n, f.at_ms)),
            _ => None,
        };
        plan.faults.iter().filter_map(crash).collect()
    }

    /// Fails where node 0 crashes before node 1 does.
    fn toy(plan: &Plan) -> bool {
        let all = crashes(plan);
        all.iter().any(|a| a.0 == 0 && all.iter().any(|b| b.0 == 1 && a.1 < b.1))
    }

    #[test]
    fn what_does_not_matter_is_left_out() {
        let plan = large();
        assert!(toy(&plan) && plan.faults.len() > 4);
        let small = shrink(&plan, 2000, toy);
        assert!(small.complete && toy(&small.plan));
        assert_eq!(small.plan.faults.len(), 2, "{:?}", small.plan.faults);
        assert!(small.plan.operations.is_empty());
        assert!(small.plan.horizon_ms < 60_000);
        // The same again.
        assert_eq!(shrink(&plan, 2000, toy), small);
    }

    #[test]
    fn parameters_get_milder_as_far_as_it_still_fails() {
        let fails = |plan: &Plan| {
            let long = |f: &Fault| {
                matches!(f.what, Kind::Pause { .. }) && f.for_ms.is_some_and(|ms| ms >= 3000)
            };
            plan.faults.iter().any(long)
        };
        let mut plan = generate(1, Profile::Calm);
        let kind = Kind::Pause { node: Who::Leader, processes: crate::schedule::Processes::Daemon };
        plan.faults.push(Fault::at(9000, kind).lasting(11_000));
        let small = shrink(&plan, 2000, fails);
        let length = small.plan.faults[0].for_ms.unwrap();
        assert!((3000..6000).contains(&length), "{length}");
    }

    #[test]
    fn runs_are_bounded_and_the_best_so_far_is_kept() {
        let plan = large();
        let mut asked = 0;
        let small = shrink(&plan, 7, |p| {
            asked += 1;
            toy(p)
        });
        assert_eq!((small.runs, small.complete), (7, false));
        assert!(asked <= 7 && toy(&small.plan));
    }

    #[test]
    fn a_failure_without_any_fault_shrinks_to_nothing() {
        let small = shrink(&large(), 2000, |_| true);
        assert!(small.plan.faults.is_empty() && small.plan.operations.is_empty());
    }
}
