//! A cluster as a whole.

use std::collections::BTreeMap;

use super::{Diagnosis, Patient};
use crate::domain::alarm::bounded;
use crate::domain::candidate::crash_bound_exceeded;
use crate::domain::invariants;
use crate::domain::observation::Condition;
use crate::domain::space::Level;
use crate::domain::state::{Member, Phase, Stage, SynchronousMode};
use crate::domain::types::MemberName;

/// A takeover that waits longer than this for a lease to end is slower than most people want.
const TAKEOVER_MS_MAX: u128 = 15_000;

pub(super) fn invariants(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    for broken in invariants::check_cluster(p.name, p.state) {
        found.push(Diagnosis::problem(
            "cluster.invariants",
            format!("the agreed state breaks \"{}\": {}", broken.invariant, broken.found),
            "this is a bug: keep the logs of all controllers, and report it",
        ));
    }
}

pub(super) fn primary(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "cluster.primary";
    if p.state.phase != Phase::Running {
        found.push(Diagnosis::warning(
            check,
            "there is no data yet",
            "start hanode on the nodes of all members of the bootstrap; `hactl explain` says who is \
             waited for",
        ));
        return;
    }
    let what = match &p.state.tenure {
        None => "no epoch was granted yet".to_owned(),
        Some(t) if t.closed.is_some() => {
            format!("epoch {} of {} is closed, and the next is not granted", t.epoch, t.member)
        }
        Some(t) if !matches!(t.stage, Stage::Active { .. }) => {
            format!("{} is on its way to be primary of epoch {}", t.member, t.epoch)
        }
        Some(_) => return,
    };
    found.push(Diagnosis::problem(
        check,
        format!("no primary is open for writes: {what}"),
        "if this lasts for more than a few seconds: `hactl explain` says what is waited for",
    ));
}

pub(super) fn paused(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let Some(paused) = &p.state.paused else { return };
    let minutes = p.wall.0.saturating_sub(paused.at.0) / 60_000;
    let until = match paused.until {
        Some(until) => {
            format!(", for {} min more", until.0.saturating_sub(p.wall.0).div_ceil(60_000))
        }
        None => String::new(),
    };
    found.push(Diagnosis::warning(
        "cluster.paused",
        format!(
            "paused by {} {minutes} min ago{until}: nothing is failed over",
            bounded(&paused.by)
        ),
        "`hactl resume` as soon as the work that it was paused for is done",
    ));
}

pub(super) fn timing(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "cluster.timing";
    if let Some(why) = invariants::spec_problem(&p.state.spec) {
        found.push(Diagnosis::problem(
            check,
            format!("the agreed specification makes no sense: {why}"),
            "put it right in the cluster's specification",
        ));
    }
    let wait_ms = p.state.spec.timing.takeover_wait().as_millis();
    if wait_ms > TAKEOVER_MS_MAX {
        found.push(Diagnosis::warning(
            check,
            format!("after the loss of a node writes stop for {wait_ms} ms and more"),
            "choose a shorter lease (ttl_ms), if the network allows it",
        ));
    }
}

pub(super) fn synchronous(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "cluster.synchronous";
    let spec = &p.state.spec;
    if spec.synchronous == SynchronousMode::Async || p.primary().is_none() {
        return;
    }
    let Some(config) = p.state.current_sync() else { return };
    let todo = "bring standbys back, or take the tags nosync, nofailover, delay_ms or \
                replicatefrom away from some";
    if config.w < spec.write_quorum_min {
        found.push(Diagnosis::problem(
            check,
            format!(
                "commits are confirmed by {} standbys, and at least {} are to (write_quorum_min)",
                config.w, spec.write_quorum_min
            ),
            todo,
        ));
    } else if config.w < spec.write_quorum {
        found.push(Diagnosis::warning(
            check,
            format!(
                "commits are confirmed by {} standbys instead of {} (write_quorum)",
                config.w, spec.write_quorum
            ),
            todo,
        ));
    }
}

/// Whether it could take over now, as far as is known.
fn fit(p: &Patient<'_>, name: &MemberName, member: &Member) -> bool {
    let Some(observed) = p.report_of(name) else { return false };
    let streams = match &observed.report.condition {
        Condition::Standby(view) => view.counts && view.streaming == Some(p.state.epoch),
        _ => false,
    };
    member.may_lead() && streams && observed.report.disks.level() != Level::Critical
}

pub(super) fn candidates(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "cluster.candidates";
    let Some(primary) = p.primary() else { return };
    let others = p.state.members.iter().filter(|(name, _)| *name != primary);
    let all = others.clone().count();
    let fit: Vec<&MemberName> =
        others.filter(|(n, m)| fit(p, n, m)).map(|(name, _)| name).collect();
    let todo = "bring another standby back, give it room, or take its tags nofailover and delay_ms \
                away";
    match (all, fit.as_slice()) {
        (0, _) => found.push(Diagnosis::warning(
            check,
            format!("{primary} is the only member: nothing takes over from it"),
            "add a member on another node",
        )),
        (_, []) => found.push(Diagnosis::problem(
            check,
            format!("no standby could take over from {primary} now"),
            todo,
        )),
        (2.., [one]) => found.push(Diagnosis::warning(
            check,
            format!("only {one} could take over from {primary} now"),
            todo,
        )),
        _ => {}
    }
}

pub(super) fn tags(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "cluster.tags";
    let able = p.state.members.values().filter(|m| m.may_lead()).count();
    if able <= 1 && p.state.members.len() > 1 {
        found.push(Diagnosis::problem(
            check,
            format!("by their tags {able} members may be primary: no failover is possible"),
            "take nofailover or delay_ms away from one that may take over",
        ));
    }
    for (name, member) in &p.state.members {
        if let Some(from) = &member.tags.replicatefrom
            && !p.state.members.contains_key(from)
        {
            let what = format!("{name} is to stream from {from}, which is no member");
            let todo = "name another member as replicatefrom, or remove the tag";
            found.push(Diagnosis::warning(check, what, todo).of(name, p.state));
        }
        if !member.may_lead() && member.priority > 0 {
            let what = format!(
                "{name} has failover_priority {}, and its tags never let it lead",
                member.priority
            );
            let todo = "remove the priority, or the tags nofailover and delay_ms";
            found.push(Diagnosis::warning(check, what, todo).of(name, p.state));
        }
    }
}

pub(super) fn crashes(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let check = "cluster.crashes";
    let spec = &p.state.spec;
    let since = p.wall.0.saturating_sub(spec.crash_window_ms);
    let recent = p.state.crashes.iter().filter(|at| at.0 >= since).count();
    let todo = "look into PostgreSQL's log of the members that led; a query may kill the server";
    if crash_bound_exceeded(p.state, p.wall) {
        let what = format!(
            "PostgreSQL crashed {recent} times in {} min: after the next crash the crashed primary \
             itself is waited for",
            spec.crash_window_ms / 60_000
        );
        found.push(Diagnosis::problem(check, what, todo));
    } else if recent > 0 {
        let what = format!(
            "PostgreSQL crashed {recent} times as primary in the last {} min",
            spec.crash_window_ms / 60_000
        );
        found.push(Diagnosis::warning(check, what, todo));
    }
}

pub(super) fn versions(p: &Patient<'_>, found: &mut Vec<Diagnosis>) {
    let mut hanode: BTreeMap<String, Vec<&MemberName>> = BTreeMap::new();
    let mut server: BTreeMap<String, Vec<&MemberName>> = BTreeMap::new();
    for name in p.state.members.keys() {
        let Some(observed) = p.report_of(name) else { continue };
        let about = &observed.report.about;
        for (versions, version) in [(&mut hanode, &about.hanode), (&mut server, &about.postgresql)]
        {
            if !version.is_empty() {
                versions.entry(bounded(version)).or_default().push(name);
            }
        }
    }
    let list = |versions: &BTreeMap<String, Vec<&MemberName>>| {
        let each = |(version, names): (&String, &Vec<&MemberName>)| {
            let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
            format!("{version} ({})", names.join(", "))
        };
        versions.iter().map(each).collect::<Vec<_>>().join(", ")
    };
    let check = "cluster.versions";
    if hanode.len() > 1 {
        found.push(Diagnosis::warning(
            check,
            format!("nodes run different versions of hanode: {}", list(&hanode)),
            "finish the upgrade: install the newest version everywhere, and restart hanode",
        ));
    }
    let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
    let majors: std::collections::BTreeSet<String> = server.keys().map(|v| major(v)).collect();
    if majors.len() > 1 {
        found.push(Diagnosis::problem(
            check,
            format!("members have different major versions of PostgreSQL: {}", list(&server)),
            "physical replication works within one major version: install the same one everywhere",
        ));
    } else if server.len() > 1 {
        found.push(Diagnosis::warning(
            check,
            format!("members have different versions of PostgreSQL: {}", list(&server)),
            "finish the update: standbys first, then a switchover, then the old primary",
        ));
    }
}
