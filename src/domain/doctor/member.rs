//! Each member of a cluster.

use super::{CONFIGURATION_DIFFERS, Diagnosis, Patient};
use crate::domain::alarm::bounded;
use crate::domain::observation::{Condition, Fencing};
use crate::domain::space::{Level, Space};
use crate::domain::state::Phase;

/// Clocks may be so far apart, in milliseconds: histories are written with them.
const CLOCK_MS_MAX: u64 = 2_000;

pub(super) fn reports(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for (name, member) in &p.state.members {
        if p.report_of(name).is_some() {
            continue;
        }
        let what = match p.observations.members.get(name) {
            None => format!("{name} has not been heard of since the leader's election"),
            Some(observed) => {
                format!("{name} has been silent for {} s", p.now.since(observed.at).as_secs())
            }
        };
        let todo = format!(
            "see that hanode runs on node {}, and that it reaches the controllers",
            member.node
        );
        found.push(Diagnosis::problem("member.reports", what, todo).of(name, p.state));
    }
}

pub(super) fn follows(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "member.follows";
    // Without a primary there is nobody to follow, which is another finding.
    let Some(primary) = p.primary() else { return };
    for name in p.state.members.keys().filter(|n| *n != primary) {
        let Some(observed) = p.report_of(name) else { continue };
        let log = "see PostgreSQL's log and hanode's there";
        let (what, todo) = match &observed.report.condition {
            Condition::Standby(view) if view.streaming == Some(p.state.epoch) => continue,
            Condition::Standby(_) => (format!("{name} does not stream from {primary}"), log),
            Condition::Cloning { source, done_bytes, total_bytes } => {
                let what = format!(
                    "{name} is copied from {source}: {} of {} MiB",
                    done_bytes >> 20,
                    total_bytes >> 20
                );
                let todo = "wait for the copy to end";
                found.push(Diagnosis::warning(check, what, todo).of(name, p.state));
                continue;
            }
            Condition::Rewinding => {
                let todo = "wait for the rewind to end";
                let what = format!("{name} is rewound");
                found.push(Diagnosis::warning(check, what, todo).of(name, p.state));
                continue;
            }
            Condition::Primary(view) => (
                format!("{name} still runs as primary of epoch {}", view.epoch),
                "it is being ended; see hanode's log there if that lasts",
            ),
            Condition::Down => (format!("PostgreSQL of {name} does not run"), log),
            Condition::Starting => (
                format!("PostgreSQL of {name} starts or recovers"),
                "wait; a long recovery is shown in PostgreSQL's log",
            ),
            Condition::Unknown | Condition::Initialising | Condition::BootstrapFailed { .. } => {
                (format!("it is not known what {name} is doing"), log)
            }
        };
        found.push(Diagnosis::problem(check, what, todo).of(name, p.state));
    }
}

pub(super) fn counts(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        if let Condition::Standby(view) = &observed.report.condition
            && !view.counts
        {
            let what = format!("the data of {name} does not count for a takeover yet");
            let todo = "a copy or a rewind counts once it has caught up: wait, or see why it does \
                        not stream";
            found.push(Diagnosis::warning("member.counts", what, todo).of(name, p.state));
        }
    }
}

pub(super) fn fencing(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        if observed.report.fencing == Fencing::BestEffort {
            let what = format!(
                "nothing in the kernel ends the processes of {name} for certain: two primaries are \
                 possible for a time"
            );
            let todo = "permit PID namespaces or delegate a control group (cgroup v2) to hanode, \
                        and remove fencing = \"best-effort\"";
            found.push(Diagnosis::warning("member.fencing", what, todo).of(name, p.state));
        }
    }
}

/// Nothing is decided by wall clocks; only histories are written with them.
pub(super) fn clock(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        let theirs = observed.report.about.wall.0;
        let age_ms = u64::try_from(p.now.since(observed.at).as_millis()).unwrap_or(u64::MAX);
        let ours = p.wall.0.saturating_sub(age_ms);
        let apart = theirs.abs_diff(ours);
        if theirs > 0 && apart > CLOCK_MS_MAX {
            let direction = if theirs > ours { "ahead of" } else { "behind" };
            let what = format!(
                "the clock of the node of {name} is {}.{} s {direction} the leader's: histories and \
                 logs do not fit together; leases do not depend on it",
                apart / 1000,
                apart % 1000 / 100
            );
            let todo = "synchronise the clocks of all nodes, with chrony or another client of NTP";
            found.push(Diagnosis::warning("member.clock", what, todo).of(name, p.state));
        }
    }
}

pub(super) fn space(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        let disks = &observed.report.disks;
        for (of, space) in [("the data directory", disks.data), ("pg_wal", disks.wal)] {
            let Some(space) = space else { continue };
            let Space { free_bytes, total_bytes } = space;
            let what = format!(
                "{} MiB of {} MiB are free on the file system of {of} of {name}",
                free_bytes >> 20,
                total_bytes >> 20
            );
            let todo = "make room: `hactl aside` lists replaced data directories, and slots of \
                        members that are away keep WAL";
            let one = match space.level() {
                Level::Enough => continue,
                Level::Low => Diagnosis::warning("member.space", what, todo),
                Level::Critical => Diagnosis::problem("member.space", what, todo),
            };
            found.push(one.of(name, p.state));
        }
    }
}

pub(super) fn configuration(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        let differs = |text: &&String| text.starts_with(CONFIGURATION_DIFFERS);
        for text in observed.report.problems.iter().filter(differs) {
            let todo = "make the file of that node say what was agreed on, or change the \
                        specification of the cluster; files are read for new clusters only";
            let one = Diagnosis::warning("member.configuration", bounded(text), todo);
            found.push(one.of(name, p.state));
        }
    }
}

pub(super) fn problems(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        let other = |text: &&String| !text.starts_with(CONFIGURATION_DIFFERS);
        for text in observed.report.problems.iter().filter(other) {
            let todo = "it is tried again by itself; see hanode's log on that node if it stays";
            let one = Diagnosis::problem("member.problem", bounded(text), todo);
            found.push(one.of(name, p.state));
        }
        if let (Condition::BootstrapFailed { why }, false) =
            (&observed.report.condition, p.state.phase == Phase::Running)
        {
            let what = format!("{name} could not make the first data directory: {}", bounded(why));
            let todo = "mend the cause; it is tried again by itself";
            found.push(Diagnosis::problem("member.problem", what, todo).of(name, p.state));
        }
    }
}
