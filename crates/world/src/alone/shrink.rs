//! Fewer faults that break the same promise: delta debugging over the schedule (Zeller and
//! Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).

use super::run::{Job, Outcome, run, schedule};

/// The smallest list of faults found, and how many runs it took. `promise` has to be broken by
/// every list that is taken for as good.
pub fn shrink(job: &Job, all: usize, promise: &str, runs_max: usize) -> (Vec<u32>, usize) {
    let mut kept: Vec<u32> = job.only.clone().unwrap_or_else(|| (0..all as u32).collect());
    let mut runs = 1;
    // What comes after it is no part of it.
    let (_, faults) = schedule(job.seed, job.fault_seconds);
    if let Some(broken) = run(&Job { told: false, ..job.clone() }).broken {
        kept.retain(|n| faults.get(*n as usize).is_some_and(|f| f.at <= broken.at));
    }
    let breaks = |only: &[u32], runs: &mut usize| {
        *runs += 1;
        let job = Job { only: Some(only.to_vec()), told: false, ..job.clone() };
        let Outcome { broken, .. } = run(&job);
        broken.is_some_and(|b| b.promise == promise)
    };
    let mut parts = 2;
    while kept.len() >= 2 && runs < runs_max {
        let size = kept.len().div_ceil(parts);
        let mut smaller = None;
        for begin in (0..kept.len()).step_by(size) {
            let rest: Vec<u32> = kept
                .iter()
                .enumerate()
                .filter(|(i, _)| *i < begin || *i >= begin + size)
                .map(|(_, n)| *n)
                .collect();
            if runs < runs_max && breaks(&rest, &mut runs) {
                smaller = Some(rest);
                break;
            }
        }
        match smaller {
            Some(rest) => {
                kept = rest;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(kept.len()),
        }
    }
    (kept, runs)
}
