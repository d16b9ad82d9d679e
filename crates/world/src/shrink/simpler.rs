//! Makes what is left of a plan simpler: a shorter run, shorter and milder faults, fewer clients.
//!
//! Owns what counts as simpler. Every change makes a number smaller or a choice plainer, so the
//! search ends. Imports plans.

use crate::schedule::{Fault, Kind, Plan};

/// Applies every change after which the plan still fails; each again as long as it helps. Returns
/// whether it came to its end; `fails` returns `None` where it may not be asked any more.
pub(super) fn simplify(plan: &mut Plan, mut fails: impl FnMut(&Plan) -> Option<bool>) -> bool {
    loop {
        let mut changed = false;
        for candidate in candidates(plan) {
            // An earlier change may have made this one senseless.
            let Some(next) = candidate(plan).filter(|next| next != plan) else { continue };
            match fails(&next) {
                None => return false,
                Some(true) => {
                    *plan = next;
                    changed = true;
                }
                Some(false) => {}
            }
        }
        if !changed {
            return true;
        }
    }
}

type Change = Box<dyn Fn(&Plan) -> Option<Plan>>;

fn change(edit: impl Fn(&mut Plan) -> Option<()> + 'static) -> Change {
    Box::new(move |plan| {
        let mut next = plan.clone();
        edit(&mut next)?;
        Some(next)
    })
}

/// The end of the last thing that a plan begins, with some room.
fn needed_ms(plan: &Plan) -> u64 {
    let ends = plan.faults.iter().map(|f| f.at_ms + f.for_ms.unwrap_or(0));
    ends.chain(plan.operations.iter().map(|o| o.at_ms)).max().unwrap_or(0) + 1000
}

fn candidates(plan: &Plan) -> Vec<Change> {
    let mut all: Vec<Change> = vec![
        change(|p| {
            p.horizon_ms = needed_ms(p).min(p.horizon_ms);
            Some(())
        }),
        change(|p| {
            let last = p.faults.iter().map(|f| f.at_ms).chain(p.operations.iter().map(|o| o.at_ms));
            p.horizon_ms = ((p.horizon_ms / 4) * 3).max(last.max().unwrap_or(0) + 1);
            Some(())
        }),
        // Everything earlier: the run gets shorter by what comes before the first fault.
        change(|p| {
            let first =
                p.faults.iter().map(|f| f.at_ms).chain(p.operations.iter().map(|o| o.at_ms));
            let earlier = first.min()?.saturating_sub(8000);
            p.faults.iter_mut().for_each(|f| f.at_ms -= earlier);
            p.operations.iter_mut().for_each(|o| o.at_ms -= earlier);
            p.horizon_ms -= earlier;
            Some(())
        }),
        change(|p| {
            p.topology.nodes.iter_mut().for_each(|n| n.clock_ppm = 0);
            Some(())
        }),
        change(|p| {
            for member in p.topology.nodes.iter_mut().filter_map(|n| n.member.as_mut()) {
                member.priority = 0;
                member.tags = Default::default();
            }
            Some(())
        }),
        change(|p| {
            p.settings.snapshot_entries = 2000;
            p.settings.keep_entries = 5000;
            Some(())
        }),
        change(|p| {
            p.settings.workload.held_writers = p.settings.workload.held_writers.min(1);
            p.settings.workload.fresh_writers = p.settings.workload.fresh_writers.min(1);
            Some(())
        }),
        change(|p| {
            p.settings.workload.probes = false;
            Some(())
        }),
    ];
    for i in 0..plan.faults.len() {
        all.push(fault_change(i, |f| {
            f.for_ms = Some(f.for_ms.filter(|ms| *ms > 100)? / 2);
            Some(())
        }));
        all.push(fault_change(i, |f| {
            f.on = None;
            Some(())
        }));
        all.push(fault_change(i, milder));
        // Round times are easier to talk about.
        all.push(fault_change(i, |f| {
            f.at_ms = f.at_ms / 500 * 500;
            Some(())
        }));
        all.push(fault_change(i, |f| {
            f.for_ms = Some(f.for_ms.filter(|ms| *ms > 500)? / 500 * 500);
            Some(())
        }));
    }
    all
}

fn fault_change(i: usize, edit: impl Fn(&mut Fault) -> Option<()> + 'static) -> Change {
    change(move |plan| edit(plan.faults.get_mut(i)?))
}

/// The same fault, milder; `None` where it cannot be.
fn milder(fault: &mut Fault) -> Option<()> {
    fn halved(number: &mut u64, least: u64) -> Option<()> {
        (*number / 2 >= least).then(|| *number /= 2)
    }
    match &mut fault.what {
        Kind::Loss { permille, .. } | Kind::Duplicate { permille, .. } => {
            (*permille > 1).then(|| *permille /= 2)
        }
        Kind::Reorder { permille, by_ms, .. } => {
            if *permille > 1 {
                *permille /= 2;
            }
            halved(by_ms, 1)
        }
        Kind::Delay { jitter_ms, .. } if *jitter_ms > 0 => {
            *jitter_ms /= 2;
            Some(())
        }
        Kind::Delay { add_ms, .. } => halved(add_ms, 1),
        Kind::CrashMachine { torn, .. } if *torn => {
            *torn = false;
            Some(())
        }
        Kind::Isolate { clients, .. } if *clients => {
            *clients = false;
            Some(())
        }
        Kind::KillPostmaster { orphans_ms, .. } => halved(orphans_ms, 10),
        Kind::SlowDisk { sync_ms, .. } => halved(sync_ms, 1),
        Kind::BootJump { by_ms, .. } => halved(by_ms, 1),
        Kind::ClockRate { ppm, .. } => (ppm.abs() > 1).then(|| *ppm /= 2),
        Kind::WallStep { by_ms, .. } => (by_ms.abs() > 1).then(|| *by_ms /= 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Links, Profile, generate};

    fn plan(kind: Kind) -> Plan {
        let mut plan = generate(3, Profile::Calm);
        plan.operations.clear();
        plan.horizon_ms = 60_000;
        plan.faults = vec![Fault::at(31_234, kind).lasting(7777)];
        plan
    }

    #[test]
    fn it_ends_and_every_number_gets_as_small_as_it_may() {
        let delay = Kind::Delay { links: Links::default(), add_ms: 640, jitter_ms: 500 };
        let mut plan = plan(delay);
        let needed = |p: &Plan| match p.faults[0].what {
            Kind::Delay { add_ms, .. } => add_ms >= 100,
            _ => false,
        };
        assert!(simplify(&mut plan, |p| Some(needed(p))));
        assert!(matches!(plan.faults[0].what, Kind::Delay { add_ms: 160, jitter_ms: 0, .. }));
        assert_eq!(plan.faults[0].at_ms, 8000);
        assert!(plan.horizon_ms < 10_000 && plan.problem().is_none());
        assert!(plan.topology.nodes.iter().all(|n| n.clock_ppm == 0));
    }

    #[test]
    fn what_may_not_be_asked_ends_it() {
        let mut plan = plan(Kind::Ring);
        let before = plan.clone();
        assert!(!simplify(&mut plan, |_| None));
        assert_eq!(plan, before);
    }

    #[test]
    fn nothing_changes_where_nothing_simpler_fails() {
        let mut plan = plan(Kind::Ring);
        let before = plan.clone();
        assert!(simplify(&mut plan, |p| Some(*p == before)));
        assert_eq!(plan, before);
    }
}
